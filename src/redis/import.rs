//! Taking in a session that was a file on a disk.

use std::time::Duration;

use bytes::Bytes;
use redis::FromRedisValue as _;

use super::envelope::{class_text, form_text, mode_text, text, uid_text};
use super::link::Need;
use super::{Inner, RedisStore};
use crate::session::content::Content;
use crate::session::name::{Alias, Form};
use crate::store::{Stamp, StoreError};

/// A session file.
#[derive(Clone, Debug)]
pub struct Import {
    /// Id and first attempt.
    pub stamp: Stamp,
    /// Whose session.
    pub alias: Alias,
    /// Under which name the file stood.
    pub form: Form,
    /// Class and identity, read from the plain content.
    pub content: Content,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// The sealed content.
    pub sealed: Bytes,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Permission bits.
    pub mode: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Imported {
    /// It is a session from now on.
    Taken,
    /// Redis knew the name already: a session, or one that has ended since. Nothing changed.
    Kept,
    /// Its absolute lifetime was over before.
    Over,
}

/// How long it may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// One try on a link that is well, as a look-up has.
    OneTry,
    /// As long as a change is tried.
    Insisting,
}

impl RedisStore {
    /// Makes a file a session, unless its name is known. Its login is its mtime, its activity now.
    pub async fn import(
        &self,
        import: &Import,
        patience: Patience,
    ) -> Result<Imported, StoreError> {
        self.inner.import(import, patience).await
    }

    /// Whether Redis knows this name, alive or ended. Changes nothing.
    pub async fn knows(&self, alias: &Alias) -> Result<bool, StoreError> {
        let reply =
            self.inner.ask(redis::cmd("STRLEN").arg(self.inner.keys.session(alias))).await?;
        let length = u64::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("a length of another shape".into()))?;
        Ok(length > 0)
    }
}

impl Inner {
    async fn import(&self, import: &Import, patience: Patience) -> Result<Imported, StoreError> {
        const NS_PER_MS: i64 = 1_000_000;
        let content = &import.content;
        let build = |retry| {
            let mut call = self.changing(&self.scripts.import, &import.alias, &import.stamp, retry);
            call.argument(class_text(content.class))
                .argument(uid_text(content.uid))
                .argument(text(content.db.as_deref()))
                .argument(text(content.login.as_deref()))
                .argument(import.size_bytes.to_string())
                .argument(form_text(import.form))
                .argument(import.mtime_ns.to_string())
                .argument((import.mtime_ns / NS_PER_MS).to_string())
                .argument(mode_text(import.mode))
                .bytes(&import.sealed);
            call
        };
        let answer = match patience {
            Patience::Insisting => self.insist(false, build).await?,
            Patience::OneTry => {
                let bound = Duration::from_millis(self.settings.overdue_ms);
                self.call(&build(false), Need::Well, bound).await?
            }
        };
        match answer.status.as_str() {
            "taken" => Ok(Imported::Taken),
            "kept" => Ok(Imported::Kept),
            "over" => Ok(Imported::Over),
            _ => Err(answer.strange()),
        }
    }
}

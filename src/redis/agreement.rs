//! What the servers on one Redis agree on: the secret that contents are sealed with, whose
//! fingerprint is in Redis, and the format of headers, which is the newest that all of them read.
//!
//! Both are read before a new connection is used, and once in [`FOLLOW_EVERY`] after that. A
//! connection to a Redis that is written with a secret that this server does not hold is not used:
//! nothing is read and nothing is written there, as in an outage.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use redis::{Cmd, FromRedisValue as _, Value};

use super::envelope::FORMAT;
use super::keys::Keys;
use super::link::Need;
use super::scripts::Formats;
use super::servers::{self, Living};
use super::{Inner, RedisStore};
use crate::session::secret::{Fingerprint, Keyring};
use crate::store::{Health, StoreError};
use crate::sync::lock;

/// Twice in the second within which every server follows.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Longer than any fingerprint.
const FINGERPRINT_MAX_BYTES: usize = 64;

/// What this server holds and reads, and what was agreed on last.
pub(super) struct Agreement {
    /// Nothing for commands that open and seal nothing: they do not care.
    keyring: Option<Keyring>,
    newest_format: u32,
    written_format: AtomicU32,
    /// The secret that Redis is written with, and that is not held.
    missing: Mutex<Option<Fingerprint>>,
}

impl Agreement {
    pub(super) fn new(keyring: Option<Keyring>, newest_format: u32) -> Self {
        Self {
            keyring,
            newest_format,
            written_format: AtomicU32::new(newest_format),
            missing: Mutex::default(),
        }
    }

    /// What is written now, and what is read.
    pub(super) fn formats(&self) -> Formats {
        let written = self.written_format.load(Ordering::Relaxed);
        Formats { written, newest: self.newest_format }
    }

    /// What is asked, on a new connection too.
    pub(super) fn requests(keys: &Keys) -> [Cmd; 2] {
        [fingerprint_command(keys), servers::members(keys)]
    }

    /// Follows the answers to these, at this time of Redis. Says whether no server has said yet
    /// with which secret it is written; fails, with the reason, if this Redis must not be used.
    pub(super) fn follow(&self, answers: [Value; 2], now_ms: u64) -> Result<bool, String> {
        let [secret, members] = answers;
        let written = self.keyring.as_ref().map_or(Ok(None), |_| fingerprint(secret))?;
        if let (Some(keyring), Some(written)) = (&self.keyring, written) {
            self.follow_secret(keyring, written)?;
        }
        *lock(&self.missing) = None;
        self.follow_format(&Living::read(members, now_ms).map_err(|e| e.to_string())?);
        Ok(written.is_none())
    }

    fn follow_secret(&self, keyring: &Keyring, written: Fingerprint) -> Result<(), String> {
        let before = keyring.writing().fingerprint();
        if !keyring.write_with(written) {
            *lock(&self.missing) = Some(written);
            return Err(not_held(written));
        }
        if before != written {
            let (secret, former) = (written, before);
            tracing::info!(%secret, %former, "sessions are written with another secret");
        }
        Ok(())
    }

    fn follow_format(&self, living: &Living) {
        let agreed = living.format().unwrap_or(self.newest_format);
        let agreed = agreed.clamp(FORMAT, self.newest_format);
        let before = self.written_format.swap(agreed, Ordering::Relaxed);
        if before != agreed {
            tracing::info!(
                format = agreed,
                former = before,
                "sessions are written in another format: the newest that all servers read"
            );
        }
    }
}

/// Why a Redis is not used.
fn not_held(written: Fingerprint) -> String {
    format!(
        "it is written with the secret {written}, which this server does not hold; copy it from a \
         server that does (sessionfs secret import)"
    )
}

/// Asks for what the key of the secret holds.
pub(super) fn fingerprint_command(keys: &Keys) -> Cmd {
    let mut command = redis::cmd("GETRANGE");
    command.arg(keys.secret()).arg(0).arg(FINGERPRINT_MAX_BYTES - 1);
    command
}

/// What it holds, by the answer.
pub(super) fn fingerprint(answer: Value) -> Result<Option<Fingerprint>, String> {
    let text = String::from_redis_value(answer).map_err(|_| invalid())?;
    if text.is_empty() {
        return Ok(None);
    }
    Fingerprint::parse(&text).map(Some).ok_or_else(invalid)
}

fn invalid() -> String {
    "the key of its secret holds no fingerprint; delete that key (see docs/redis.md)".to_owned()
}

impl Inner {
    /// Asks, and follows. Puts the fingerprint there if there is none.
    async fn agree(&self) -> Result<(), StoreError> {
        let bound = Duration::from_millis(self.settings.down_after_ms);
        let mut commands = redis::pipe();
        for request in Agreement::requests(&self.keys) {
            commands.add_command(request);
        }
        let reply = self.link.request_all(&commands, Need::Up, bound).await?;
        let generation = reply.generation;
        let answers = Vec::<Value>::from_redis_value(reply.value)
            .ok()
            .and_then(|answers| <[Value; 2]>::try_from(answers).ok())
            .ok_or_else(|| StoreError::Unreadable("answers of an unexpected format".into()))?;
        match self.agreement.follow(answers, self.time.now_ms()) {
            Ok(false) => Ok(()),
            Ok(true) => self.claim().await,
            Err(reason) => {
                self.link.lost(generation, &reason);
                Err(StoreError::Unavailable(reason))
            }
        }
    }

    /// Says with which secret this Redis is written, unless somebody else just has.
    async fn claim(&self) -> Result<(), StoreError> {
        let Some(keyring) = &self.agreement.keyring else { return Ok(()) };
        let mut command = redis::cmd("SET");
        command.arg(self.keys.secret()).arg(keyring.writing().fingerprint().to_string()).arg("NX");
        self.ask(&command).await.map(|_| ())
    }
}

impl RedisStore {
    /// Asks what is agreed on, and follows; says with which secret Redis is written if nobody has.
    pub async fn agree(&self) -> Result<(), StoreError> {
        self.inner.agree().await
    }

    /// The fingerprint of the secret that Redis is written with, if there is one.
    pub async fn written_secret(&self) -> Result<Option<Fingerprint>, StoreError> {
        let answer = self.inner.ask(&fingerprint_command(&self.inner.keys)).await?;
        fingerprint(answer).map_err(StoreError::Unreadable)
    }

    /// Has all servers write with another secret.
    pub async fn write_with(&self, secret: Fingerprint) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(self.inner.keys.secret()).arg(secret.to_string());
        self.inner.ask(&command).await.map(|_| ())
    }

    /// What this server holds.
    pub fn held_secrets(&self) -> Vec<Fingerprint> {
        let keyring = self.inner.agreement.keyring.as_ref();
        keyring.map(Keyring::fingerprints).unwrap_or_default()
    }

    /// What this server writes with.
    pub fn writing_secret(&self) -> Option<Fingerprint> {
        self.inner.agreement.keyring.as_ref().map(|keyring| keyring.writing().fingerprint())
    }

    /// The secret that Redis is written with, and that this server lacks, as far as is known.
    pub fn missing_secret(&self) -> Option<Fingerprint> {
        *lock(&self.inner.agreement.missing)
    }

    /// The format in which headers are written now.
    pub fn written_format(&self) -> u32 {
        self.inner.agreement.formats().written
    }

    /// The newest format of headers that this server reads.
    pub fn newest_format(&self) -> u32 {
        self.inner.agreement.formats().newest
    }
}

/// Follows while the link is up. Ends with the store.
pub(super) async fn follow(store: Weak<Inner>) {
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        let Some(store) = store.upgrade() else { return };
        if store.link.health() == Health::Up
            && let Err(error) = store.agree().await
        {
            tracing::debug!(%error, "cannot read what the servers agree on");
        }
    }
}

/// The task that follows, where contents are opened or sealed.
pub(super) fn task(store: &Arc<Inner>) -> Option<tokio::task::AbortHandle> {
    store.agreement.keyring.as_ref()?;
    Some(tokio::spawn(follow(Arc::downgrade(store))).abort_handle())
}

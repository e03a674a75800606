//! What the servers on one Redis agree on: the secret that contents are sealed with, whose
//! fingerprint is in Redis, and the format of headers, which is the newest that all of them read.
//!
//! Both are read before a new connection is used, and once in [`FOLLOW_EVERY`] after that. A
//! connection to a Redis that is written with a secret that this server does not hold is not used:
//! nothing is read and nothing is written there, as in an outage.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use redis::cluster_routing::Slot;
use redis::{Cmd, FromRedisValue as _, Value};

use super::envelope::{COMPACT_FORMAT, OLDEST_FORMAT};
use super::keys::Keys;
use super::link::Need;
use super::scripts::Formats;
use super::servers::{self, Living};
use super::{Inner, RedisStore, Settings};
use crate::session::secret::{Fingerprint, Keyring};
use crate::store::StoreError;
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
    /// The newest that is written, if all servers read it.
    newest_written: u32,
    written_format: AtomicU32,
    /// Whether both were read once.
    known: [AtomicBool; 2],
    /// The secret that Redis is written with, and that is not held.
    missing: Mutex<Option<Fingerprint>>,
}

impl Agreement {
    pub(super) fn new(settings: &Settings) -> Self {
        let &Settings { newest_format, newest_written, .. } = settings;
        Self {
            keyring: settings.keyring.clone(),
            newest_format,
            newest_written,
            written_format: AtomicU32::new(newest_written),
            known: Default::default(),
            missing: Mutex::default(),
        }
    }

    /// What is written now, and what is read.
    pub(super) fn formats(&self) -> Formats {
        let written = self.written_format.load(Ordering::Relaxed);
        Formats { written, newest: self.newest_format }
    }

    /// Whether every server is known to unpack contents. Those that are not known may not.
    pub(super) fn takes_packed(&self) -> bool {
        let [_, members] = &self.known;
        members.load(Ordering::Relaxed) && self.formats().written >= COMPACT_FORMAT
    }

    /// Follows the answer to [`fingerprint_command`]. Says whether no server has said yet with which
    /// secret Redis is written; fails, with the reason, if this Redis must not be used.
    pub(super) fn follow_secret(&self, answer: Value) -> Result<bool, String> {
        let written = self.keyring.as_ref().map_or(Ok(None), |_| fingerprint(answer))?;
        if let (Some(keyring), Some(written)) = (&self.keyring, written) {
            self.write_with(keyring, written)?;
        }
        *lock(&self.missing) = None;
        self.known[0].store(true, Ordering::Relaxed);
        Ok(written.is_none())
    }

    /// Follows the answer to [`servers::members`], at this time of the server that gave it.
    pub(super) fn follow_members(&self, answer: Value, now_ms: u64) -> Result<(), String> {
        self.follow_format(&Living::read(answer, now_ms).map_err(|error| error.to_string())?);
        self.known[1].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a server that does not have these keys may be used; if not, why.
    pub(super) fn is_usable(&self) -> Result<(), String> {
        if let Some(missing) = *lock(&self.missing) {
            return Err(not_held(missing));
        }
        if self.known.iter().all(|known| known.load(Ordering::Relaxed)) {
            return Ok(());
        }
        Err("the server that has what all agree on has not answered yet".to_owned())
    }

    fn write_with(&self, keyring: &Keyring, written: Fingerprint) -> Result<(), String> {
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
        let agreed = agreed.clamp(OLDEST_FORMAT, self.newest_written);
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
        let used = self.primaries.connections();
        let [of_secret, of_members] = self.agreed_slots();
        let commands = vec![
            (of_secret, fingerprint_command(&self.keys)),
            (of_members, servers::members(&self.keys)),
        ];
        let [secret, members] = <[Value; 2]>::try_from(self.ask_all(commands, Need::Up).await?)
            .map_err(|_| StoreError::Unreadable("answers of an unexpected format".into()))?;
        let now_ms = self.primaries.of(of_members).time.now_ms();
        let followed = self.agreement.follow_secret(secret).and_then(|is_unclaimed| {
            self.agreement.follow_members(members, now_ms)?;
            Ok(is_unclaimed)
        });
        match followed {
            Ok(false) => Ok(()),
            Ok(true) => self.claim().await,
            Err(reason) => {
                for (primary, generation) in used {
                    primary.link.lost(generation, &reason);
                }
                Err(StoreError::Unavailable(reason))
            }
        }
    }

    /// The slots of what is agreed on: the secret, and the servers.
    fn agreed_slots(&self) -> [Slot; 2] {
        [Slot::for_key(self.keys.secret()), Slot::for_key(self.keys.servers())]
    }

    /// Whether both can be asked for.
    fn can_agree(&self) -> bool {
        let is_readable = |slot| self.primaries.of(slot).link.health().is_readable();
        self.agreed_slots().into_iter().all(is_readable)
    }

    /// Says with which secret this Redis is written, unless somebody else just has.
    async fn claim(&self) -> Result<(), StoreError> {
        let Some(keyring) = &self.agreement.keyring else { return Ok(()) };
        let mut command = redis::cmd("SET");
        command.arg(self.keys.secret()).arg(keyring.writing().fingerprint().to_string()).arg("NX");
        self.ask(self.agreed_slots()[0], &command).await.map(|_| ())
    }
}

impl RedisStore {
    /// Asks what is agreed on, and follows; says with which secret Redis is written if nobody has.
    pub async fn agree(&self) -> Result<(), StoreError> {
        self.inner.agree().await
    }

    /// The fingerprint of the secret that Redis is written with, if there is one.
    pub async fn written_secret(&self) -> Result<Option<Fingerprint>, StoreError> {
        let [slot, _] = self.inner.agreed_slots();
        let answer = self.inner.ask(slot, &fingerprint_command(&self.inner.keys)).await?;
        fingerprint(answer).map_err(StoreError::Unreadable)
    }

    /// Has all servers write with another secret.
    pub async fn write_with(&self, secret: Fingerprint) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(self.inner.keys.secret()).arg(secret.to_string());
        let [slot, _] = self.inner.agreed_slots();
        self.inner.ask(slot, &command).await.map(|_| ())
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
        if store.can_agree()
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

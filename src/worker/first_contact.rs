//! The first words with Redis: is it there, is it Redis, is it new enough, does it let us in, and
//! may we do all that we shall have to do.
//!
//! What may pass (nobody listens yet, the server reads its file) is waited for within a bound; the
//! rest fails at once, because each has another remedy.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::redis::Settings;
use crate::redis::probe::{ProbeError, ServerInfo, probe};

/// How a first contact went that is no failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contact {
    /// Redis is there, and can serve.
    Made,
    /// It is not there yet, and is waited for while the mount serves. Until [`admit`] has looked at it,
    /// it is not used.
    Late,
}

/// How often it is tried.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Waits until connected to Redis, within the configured bound. After that it is late, if that is
/// allowed.
pub(crate) async fn wait(
    config: &Config,
    settings: &Settings,
    may_be_late: bool,
) -> Result<Contact, Failure> {
    let bound = Duration::from_millis(config.redis.start_wait_ms);
    let until = Instant::now() + bound;
    let mut reminder = Reminder::new();
    loop {
        let error = match probe(settings).await {
            Ok(found) => {
                tell(&found);
                return Ok(Contact::Made);
            }
            Err(error) => error,
        };
        let left = until.saturating_duration_since(Instant::now());
        if !error.may_pass() {
            return Err(Failure::new(code(&error), error.to_string()));
        }
        if left.is_zero() && may_be_late {
            let reason = error.to_string();
            tracing::warn!(reason, "the mount serves without Redis, and requests wait for it");
            settings.admission.refuse(reason);
            return Ok(Contact::Late);
        }
        if left.is_zero() {
            let tried = humantime::format_duration(bound);
            return Err(Failure::new(code(&error), format!("{error} (tried for {tried})")));
        }
        if reminder.is_due() {
            tracing::warn!(reason = %error, "waiting for Redis at {}", &config.redis.url);
        }
        tokio::time::sleep(RETRY_EVERY.min(left)).await;
    }
}

/// Looks at a Redis that was late as soon as it is there, and has it used. One that cannot serve is an
/// error of the log, with its remedy, and counts as down until it can.
pub(crate) async fn admit(settings: Settings) {
    const MISFIT_EVERY: Duration = Duration::from_millis(800);
    let mut told = None;
    loop {
        let error = match probe(&settings).await {
            Ok(found) => {
                tell(&found);
                break;
            }
            // It can be read, and the link looks at the rest.
            Err(ProbeError::NoWrites(..)) => break,
            Err(error) => error,
        };
        let reason = error.to_string();
        if !error.may_pass() && told.as_ref() != Some(&reason) {
            tracing::error!(
                reason,
                "this Redis is not used, and requests wait for one that can be"
            );
            told = Some(reason.clone());
        }
        settings.admission.refuse(reason);
        tokio::time::sleep(if error.may_pass() { RETRY_EVERY } else { MISFIT_EVERY }).await;
    }
    settings.admission.open();
}

fn tell(found: &ServerInfo) {
    tracing::info!(server = found.server, version = found.version, "connected to Redis");
}

/// The class of failure.
pub(crate) fn code(error: &ProbeError) -> ExitCode {
    match error {
        ProbeError::BadUrl(_) => ExitCode::BadUrl,
        ProbeError::Unreachable(..)
        | ProbeError::Tls { .. }
        | ProbeError::NotReady(..)
        | ProbeError::NotMaster(..) => ExitCode::RedisUnreachable,
        ProbeError::NoSocketRight(_) => ExitCode::WorkerRights,
        ProbeError::AuthFailed(_) | ProbeError::SentinelAuth(_) => ExitCode::RedisPassword,
        ProbeError::NotRedis(_) => ExitCode::NotRedis,
        ProbeError::TooOld(..) => ExitCode::RedisTooOld,
        ProbeError::OtherSecret(..) => ExitCode::Secret,
        ProbeError::NoDatabase(_)
        | ProbeError::NoPermission(..)
        | ProbeError::Mode { .. }
        | ProbeError::NoMaster(..)
        | ProbeError::NoWrites(..)
        | ProbeError::Strange(..) => ExitCode::RedisRefuses,
    }
}

/// Says something at most every few seconds.
struct Reminder {
    next: Instant,
}

impl Reminder {
    const EVERY: Duration = Duration::from_secs(3);

    /// Says it for the first time now.
    fn new() -> Self {
        Self { next: Instant::now() }
    }

    /// Whether it is time to say it (again).
    fn is_due(&mut self) -> bool {
        let due = Instant::now() >= self.next;
        if due {
            self.next = Instant::now() + Self::EVERY;
        }
        due
    }
}

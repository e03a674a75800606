//! The first words with Redis: is it there, is it Redis, is it new enough, does it let us in, and
//! may we do all that we shall have to do.
//!
//! What may pass (nobody listens yet, the server reads its file) is waited for within a bound; the
//! rest fails at once, because each has another remedy.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::redis::Settings;
use crate::redis::probe::{ProbeError, probe};

/// Waits until connected to Redis, within the configured bound.
pub(crate) async fn wait(config: &Config, settings: &Settings) -> Result<(), Failure> {
    const RETRY_EVERY: Duration = Duration::from_millis(200);
    let bound = Duration::from_millis(config.redis.start_wait_ms);
    let until = Instant::now() + bound;
    let mut reminder = Reminder::new();
    loop {
        let error = match probe(settings).await {
            Ok(found) => {
                tracing::info!(
                    server = found.server,
                    version = found.version,
                    "connected to Redis"
                );
                return Ok(());
            }
            Err(error) => error,
        };
        let left = until.saturating_duration_since(Instant::now());
        if !error.may_pass() {
            return Err(Failure::new(code(&error), error.to_string()));
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

/// The class of failure.
pub(crate) fn code(error: &ProbeError) -> ExitCode {
    match error {
        ProbeError::BadUrl(_) => ExitCode::BadUrl,
        ProbeError::Unreachable(..) | ProbeError::Tls(..) | ProbeError::NotReady(..) => {
            ExitCode::RedisUnreachable
        }
        ProbeError::NoSocketRight(_) => ExitCode::WorkerRights,
        ProbeError::AuthFailed(_) => ExitCode::RedisPassword,
        ProbeError::NotRedis(_) => ExitCode::NotRedis,
        ProbeError::TooOld(..) => ExitCode::RedisTooOld,
        ProbeError::OtherSecret(..) => ExitCode::Secret,
        ProbeError::NoDatabase(_)
        | ProbeError::NoPermission(..)
        | ProbeError::Mode(..)
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

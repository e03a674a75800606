//! The first words with Redis: is it there, is it Redis, is it new enough, does it let us in.
//!
//! At a first start each of these is told apart, because each has another remedy. What may pass
//! (nobody listens yet, the server reads its file) is waited for within a bound; the rest fails at
//! once.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    ServerErrorKind, Value,
};

use super::{Reminder, place};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};

/// Streams, ACLs and client tracking, all of which are relied on, came with it.
const OLDEST: (u32, u32) = (6, 0);

/// What one try came to.
enum Outcome {
    /// All is well.
    Well,
    /// It may pass.
    Wait(String),
    /// It will not.
    Failed(Failure),
}

/// Waits until Redis can be used, within the configured bound.
pub async fn wait(config: &Config) -> Result<(), Failure> {
    const RETRY_EVERY: Duration = Duration::from_millis(200);
    let client = client(config)?;
    let bound = Duration::from_millis(config.redis.start_wait_ms);
    let until = Instant::now() + bound;
    let mut reminder = Reminder::new();
    loop {
        let reason = match attempt(&client, config).await {
            Outcome::Well => return Ok(()),
            Outcome::Failed(failure) => return Err(failure),
            Outcome::Wait(reason) => reason,
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(
                ExitCode::RedisUnreachable,
                format!(
                    "Redis at {} cannot be used: {reason} (tried for {}); start it, or correct \
                     redis.url",
                    place(config),
                    humantime::format_duration(bound)
                ),
            ));
        }
        if reminder.is_due() {
            tracing::warn!(reason, "waiting for Redis at {}", place(config));
        }
        tokio::time::sleep(RETRY_EVERY.min(left)).await;
    }
}

fn client(config: &Config) -> Result<Client, Failure> {
    let redis = &config.redis;
    let info = redis.url.as_str().into_connection_info().and_then(|info: ConnectionInfo| {
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &redis.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &redis.password {
            settings = settings.set_password(password);
        }
        Client::open(info.set_redis_settings(settings))
    });
    info.map_err(|e| Failure::new(ExitCode::BadUrl, format!("Redis URL {}: {e}", redis.url)))
}

async fn attempt(client: &Client, config: &Config) -> Outcome {
    let connect = Duration::from_millis(config.redis.connect_timeout_ms);
    let request = Duration::from_millis(config.redis.request_timeout_ms);
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect))
        .set_response_timeout(Some(request));
    let asked = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        // Names the version without INFO, which an ACL rightly may forbid.
        redis::cmd("HELLO").query_async::<Value>(&mut connection).await
    };
    // The crate's own bounds hold for each step; this one for all of them.
    match tokio::time::timeout(connect + request, asked).await {
        Err(_) => Outcome::Wait("no answer in time".into()),
        Ok(Ok(hello)) => judge_version(&hello, config),
        Ok(Err(error)) => classify(&error, config),
    }
}

fn classify(error: &RedisError, config: &Config) -> Outcome {
    let failed = |code, reason: &str| {
        Outcome::Failed(Failure::new(code, format!("Redis at {}: {reason}", place(config))))
    };
    if lacks_permission(error) {
        return Outcome::Failed(Failure::new(
            ExitCode::WorkerRights,
            format!(
                "user {} has no right to use the socket of Redis at {}; allow it (unixsocketperm \
                 in redis.conf, and the directories above), or name another worker.user",
                config.worker.user,
                place(config)
            ),
        ));
    }
    let said = error.to_string();
    match error.kind() {
        ErrorKind::AuthenticationFailed => failed(
            ExitCode::RedisPassword,
            "refuses the user or the password; correct redis.username and redis.password_file",
        ),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => failed(
            ExitCode::NotRedis,
            "what answers there does not speak Redis's protocol; correct redis.url",
        ),
        ErrorKind::Server(ServerErrorKind::NoPerm) => failed(
            ExitCode::RedisRefuses,
            &format!("{said}; give the user the rights listed in docs/redis.md"),
        ),
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => failed(
                ExitCode::RedisPassword,
                "wants a user and a password; set redis.username and redis.password_file",
            ),
            Some("ERR") if said.contains("unknown command") => too_old("answers no HELLO", config),
            Some("NOPERM") => failed(
                ExitCode::RedisRefuses,
                &format!("{said}; give the user the rights listed in docs/redis.md"),
            ),
            Some("ERR") => failed(ExitCode::RedisRefuses, &format!("{said}; correct redis.url")),
            _ => Outcome::Wait(said),
        },
    }
}

/// Whether the system refused what was behind this error, which no waiting mends.
fn lacks_permission(error: &RedisError) -> bool {
    // The crate shares its cause, so it is not the `io::Error` itself that is found first.
    type Shared = Arc<dyn Error + Send + Sync>;
    let cause = error.source().map(|cause| match cause.downcast_ref::<Shared>() {
        Some(shared) => &**shared as &(dyn Error + 'static),
        None => cause,
    });
    cause
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied)
}

fn judge_version(hello: &Value, config: &Config) -> Outcome {
    match version(hello) {
        Some(found) if found >= OLDEST => Outcome::Well,
        Some((major, minor)) => too_old(&format!("is version {major}.{minor}"), config),
        None => Outcome::Failed(Failure::new(
            ExitCode::NotRedis,
            format!(
                "Redis at {}: what answers there names no version of Redis; correct redis.url",
                place(config)
            ),
        )),
    }
}

fn too_old(what: &str, config: &Config) -> Outcome {
    Outcome::Failed(Failure::new(
        ExitCode::RedisTooOld,
        format!(
            "Redis at {}: {what}, and 6.0 or newer is needed; upgrade it, or use the private Redis",
            place(config)
        ),
    ))
}

/// The version in the answer to HELLO: a flat list of names and values, or a map.
fn version(hello: &Value) -> Option<(u32, u32)> {
    let pairs: Vec<(String, Value)> = redis::from_redis_value_ref(hello).ok()?;
    let version = pairs.into_iter().find(|(name, _)| name == "version")?.1;
    let version: String = redis::from_redis_value(version).ok()?;
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_both_protocols() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let flat = Value::Array(vec![
            bulk("server"),
            bulk("redis"),
            bulk("version"),
            bulk("6.0.16"),
            bulk("proto"),
            Value::Int(2),
        ]);
        assert_eq!(version(&flat), Some((6, 0)));
        let map = Value::Map(vec![
            (bulk("version"), bulk("8.1.1")),
            (bulk("modules"), Value::Array(vec![])),
        ]);
        assert_eq!(version(&map), Some((8, 1)));
        assert_eq!(version(&Value::Okay), None);
    }
}

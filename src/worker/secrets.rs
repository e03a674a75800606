//! The secrets that contents are sealed with, as the keeper hands them over.

use std::time::Duration;

use tokio::runtime::Runtime;

use super::first_contact;
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::redis::{RedisStore, Settings};
use crate::session::secret::{Keyring, Secret};
use crate::supervision::{Channel, Order, Received, Report};

/// How often the keeper is asked for others.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often while the one is missing that Redis is written with.
const ASK_MISSING_EVERY: Duration = Duration::from_secs(1);

/// The keyring of a worker that was handed `secrets`, for a store with these settings. Where there are none, and Redis is not written
/// with one either, the keeper is asked to make one.
pub(super) fn keyring(
    channel: &Channel,
    config: &Config,
    store: &Settings,
    secrets: Vec<Secret>,
    runtime: &Runtime,
) -> Result<Keyring, Failure> {
    let secrets = if secrets.is_empty() {
        runtime.block_on(refuse_written(config, store))?;
        ask_to_make(channel)?
    } else {
        secrets
    };
    Keyring::new(secrets).ok_or_else(|| none(config))
}

/// Refuses a Redis that others have written with a secret.
async fn refuse_written(config: &Config, store: &Settings) -> Result<(), Failure> {
    first_contact::wait(config, store, false).await?;
    match written(config, store.clone()).await? {
        None => Ok(()),
        Some(_) => Err(none(config)),
    }
}

async fn written(config: &Config, settings: Settings) -> Result<Option<String>, Failure> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::new(ExitCode::RedisUnreachable, e.to_string());
    let store = RedisStore::start(settings).map_err(|e| failed(&e))?;
    super::connected(&store, config).await?;
    let written = store.written_secret().await.map_err(|e| failed(&e))?;
    Ok(written.map(|fingerprint| fingerprint.to_string()))
}

fn none(config: &Config) -> Failure {
    Failure::new(
        ExitCode::Secret,
        format!(
            "Redis at {} is written with a secret, and there is no file {}; copy it from a server \
             that has it (ssh SERVER sudo sessionfs secret export | sudo sessionfs secret import), \
             or from the backup",
            config.redis.url,
            config.secret_file.display()
        ),
    )
}

fn ask_to_make(channel: &Channel) -> Result<Vec<Secret>, Failure> {
    super::send(channel, &Report::Secrets { make: true })?;
    loop {
        match channel.receive() {
            Received::Message(Order::Secrets(secrets)) => return Ok(secrets),
            Received::Message(_) | Received::Empty => {}
            Received::Closed => return Err(Failure::internal("start", "the keeper has exited")),
        }
    }
}

/// Asks the keeper again and again, which answers with [`Order::Secrets`]. Never ends.
pub(super) async fn ask(channel: &Channel, store: &RedisStore) {
    loop {
        let missing = store.missing_secret().is_some();
        tokio::time::sleep(if missing { ASK_MISSING_EVERY } else { ASK_EVERY }).await;
        // A keeper that does not listen now is asked again.
        let _ = channel.send(&Report::Secrets { make: false });
    }
}

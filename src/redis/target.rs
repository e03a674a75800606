//! The server that one link leads to: always the same, or the one that has its part now, as
//! somebody who looks for it says ([`super::sentinel`], [`super::cluster`]).

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, PushInfo, RedisError, RedisResult};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::access::Access;
use super::endpoint::Address;

/// Where the server is, or why that is not known.
pub(super) type Found = Result<Address, String>;

#[derive(Clone)]
pub(crate) struct Target {
    access: Access,
    at: At,
}

#[derive(Clone)]
enum At {
    /// With the URL that leads there, for messages.
    Fixed(Address, String),
    Followed(Followed),
}

/// What somebody finds.
#[derive(Clone)]
pub(super) struct Followed {
    pub found: watch::Receiver<Found>,
    /// Notified when it should be looked for again.
    pub ask: Arc<Notify>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Fixed(_, url) => f.write_str(url),
            At::Followed(followed) => match &*followed.found.borrow() {
                Ok(at) => at.fmt(f),
                Err(why) => f.write_str(why),
            },
        }
    }
}

impl Target {
    pub(super) fn fixed(access: Access, at: Address, url: String) -> Self {
        Self { access, at: At::Fixed(at, url) }
    }

    pub(super) fn followed(access: Access, followed: Followed) -> Self {
        Self { access, at: At::Followed(followed) }
    }

    /// The server, without credentials, if it is known.
    pub(super) fn server(&self) -> Option<String> {
        match &self.at {
            At::Fixed(_, url) => Some(url.clone()),
            At::Followed(followed) => Some(followed.found.borrow().as_ref().ok()?.to_string()),
        }
    }

    /// Connects to the server of now, within `bound`: see [`Access::connect`]. When another one is
    /// found meanwhile, to that.
    pub(super) async fn connect(
        &self,
        bound: Duration,
        pushed: impl Fn(PushInfo) + Clone + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let followed = match &self.at {
            At::Fixed(at, _) => return self.access.connect(at, bound, pushed).await,
            At::Followed(followed) => followed,
        };
        let mut found = followed.found.clone();
        loop {
            let now = found.borrow_and_update().clone();
            followed.ask.notify_one();
            let connected = async {
                match &now {
                    Ok(at) => self.access.connect(at, bound, pushed.clone()).await,
                    Err(why) => {
                        sleep(bound / 2).await;
                        Err(RedisError::from((ErrorKind::Io, "not found", why.clone())))
                    }
                }
            };
            tokio::select! {
                connected = connected => return connected,
                Ok(()) = found.changed() => {}
            }
        }
    }

    /// Says when another server is found than there was.
    pub(super) fn news(&self) -> News {
        match &self.at {
            At::Fixed(..) => News(None),
            At::Followed(followed) => News(Some(followed.found.clone())),
        }
    }
}

/// See [`Target::news`].
pub(super) struct News(Option<watch::Receiver<Found>>);

impl News {
    /// What there is now is no news any more.
    pub(super) fn seen(&mut self) {
        if let Some(found) = &mut self.0 {
            found.mark_unchanged();
        }
    }

    /// Waits for the next one; for ever, if the server is always the same.
    pub(super) async fn next(&mut self) {
        if let Some(found) = &mut self.0
            && found.changed().await.is_ok()
        {
            return;
        }
        pending::<()>().await;
    }
}

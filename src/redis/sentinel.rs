//! Which server is the master, as the sentinels say.
//!
//! One sentinel at a time is asked, again and again, and tells a switch by itself
//! (`+switch-master`). When it does not answer, or when what it says leads nowhere, the next one is
//! asked. That the server it names is a master is verified on each connection
//! ([`super::greeting`]).

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue as _, PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::access::Access;
use super::credentials::Credentials;
use super::endpoint::{Address, Endpoint, Place};
use super::link::{Backoff, error_text};
use super::target::Found;

/// A sentinel that takes longer is passed over.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const ASK_EVERY: Duration = Duration::from_secs(1);
/// So often the same sentinel is asked for another master in vain, before another one is asked.
const ASKED_IN_VAIN: u32 = 3;
/// How many messages may wait. One that is lost is made up for by the next question.
const MESSAGES: usize = 16;
const SWITCHED: &str = "+switch-master";

/// The sentinels of one master.
#[derive(Clone)]
pub(crate) struct Sentinels {
    pub access: Access,
    pub at: Vec<Address>,
    /// The name by which they know it.
    pub master: String,
}

/// One of them, connected and subscribed.
struct Sentinel {
    connection: MultiplexedConnection,
    messages: mpsc::Receiver<PushInfo>,
}

impl Sentinels {
    /// Those of a deployment that has some.
    pub(super) fn of(endpoint: &Endpoint, credentials: &Credentials) -> Option<Self> {
        let Place::Sentinel { sentinels, master } = &endpoint.place else { return None };
        let access = Access::to_sentinels(endpoint, credentials);
        Some(Self { access, at: sentinels.clone(), master: master.clone() })
    }

    /// The master, as this sentinel says; or why it does not.
    pub(crate) async fn asked(&self, at: &Address) -> Found {
        let mut sentinel = self.open(at).await?;
        self.ask(&mut sentinel.connection).await
    }

    /// Whether this one answers.
    pub(super) async fn answers(&self, at: &Address) -> bool {
        self.open(at).await.is_ok()
    }

    async fn open(&self, at: &Address) -> Result<Sentinel, String> {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let pushed = move |push| drop(sender.try_send(push));
        let open = async {
            let mut connection = self.access.connect(at, ANSWER_WITHIN, pushed).await?;
            connection.subscribe(SWITCHED).await?;
            Ok(connection)
        };
        match timeout(ANSWER_WITHIN, open).await {
            Ok(Ok(connection)) => Ok(Sentinel { connection, messages }),
            Ok(Err(error)) => Err(error_text(&error)),
            Err(_) => Err(silent()),
        }
    }

    async fn ask(&self, connection: &mut MultiplexedConnection) -> Found {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let answer = timeout(ANSWER_WITHIN, connection.send_packed_command(&command)).await;
        let answer = answer.map_err(|_| silent())?;
        match answer.and_then(Value::extract_error).map_err(|error| error_text(&error))? {
            Value::Nil => Err("it knows no master of this name".to_owned()),
            answer => address(&answer).ok_or_else(|| "it gave an invalid answer".to_owned()),
        }
    }

    /// Says where the master is, from now on. `ask` makes it look again.
    pub(super) async fn follow(self, found: watch::Sender<Found>, ask: Arc<Notify>) {
        let mut backoff = Backoff::default();
        loop {
            let mut seen = Vec::new();
            for at in &self.at {
                let why = match self.open(at).await {
                    Ok(mut sentinel) => self.listen(&mut sentinel, &found, &ask).await,
                    Err(why) => why,
                };
                tracing::debug!(sentinel = %at, why, "another sentinel is asked");
                seen.push(format!("{at}: {why}"));
            }
            // What was known is still the best guess.
            if found.borrow().is_err() {
                let why = format!("no sentinel names the master ({})", seen.join("; "));
                found.send_if_modified(|found| replace(found, Err(why)));
            }
            sleep(backoff.next()).await;
        }
    }

    /// Follows what one sentinel says; returns why no longer.
    async fn listen(
        &self,
        sentinel: &mut Sentinel,
        found: &watch::Sender<Found>,
        ask: &Notify,
    ) -> String {
        let Sentinel { connection, messages } = sentinel;
        let mut in_vain = 0;
        loop {
            match self.ask(connection).await {
                Ok(master) => {
                    if found.send_if_modified(|found| replace(found, Ok(master))) {
                        in_vain = 0;
                    }
                }
                Err(why) => return why,
            }
            tokio::select! {
                message = messages.recv() => match message {
                    Some(push) if push.kind == PushKind::Disconnection => {
                        return "the sentinel closed the connection".to_owned();
                    }
                    Some(push) => {
                        if let Some(master) = self.switched(&push) {
                            found.send_if_modified(|found| replace(found, Ok(master)));
                        }
                    }
                    None => return "the sentinel closed the connection".to_owned(),
                },
                () = ask.notified() => {
                    in_vain += 1;
                    if in_vain > ASKED_IN_VAIN && self.at.len() > 1 {
                        return "what it names cannot be used".to_owned();
                    }
                }
                () = sleep(ASK_EVERY) => in_vain = 0,
            }
        }
    }

    /// The new master in a message `NAME OLD-HOST OLD-PORT HOST PORT`.
    fn switched(&self, push: &PushInfo) -> Option<Address> {
        if push.kind != PushKind::Message {
            return None;
        }
        let text = String::from_redis_value_ref(push.data.last()?).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            [name, _, _, host, port] if name == self.master => {
                Some(Address::Tcp(host.to_owned(), port.parse().ok()?))
            }
            _ => None,
        }
    }
}

fn silent() -> String {
    format!("no answer within {} ms", ANSWER_WITHIN.as_millis())
}

/// Host and port, both as text.
fn address(answer: &Value) -> Option<Address> {
    let (host, port) = <(String, String)>::from_redis_value_ref(answer).ok()?;
    Some(Address::Tcp(host, port.parse().ok()?))
}

fn replace(found: &mut Found, now: Found) -> bool {
    let changes = *found != now;
    if changes {
        *found = now;
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_switch_of_this_master_is_followed() {
        let endpoint = Endpoint::parse("redis-sentinel://a/shop").expect("a good URL");
        let access = Access::to_sentinels(&endpoint, &Credentials::default());
        let sentinels = Sentinels { access, at: Vec::new(), master: "shop".into() };
        let switched = |kind, text: &str| {
            let data = [SWITCHED, text].map(|text| Value::BulkString(text.into())).to_vec();
            sentinels.switched(&PushInfo { kind, data })
        };
        let message = || PushKind::Message;
        let new = Some(Address::Tcp("10.0.0.2".into(), 6380));
        assert_eq!(switched(message(), "shop 10.0.0.1 6379 10.0.0.2 6380"), new);
        assert_eq!(switched(message(), "other 10.0.0.1 6379 10.0.0.2 6380"), None);
        assert_eq!(switched(message(), "shop 10.0.0.1 6379 10.0.0.2 x"), None);
        assert_eq!(switched(PushKind::Subscribe, "shop 10.0.0.1 6379 10.0.0.2 6380"), None);
    }
}

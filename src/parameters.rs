//! The lifetimes that Odoo's system parameters ask for, database by database (docs/odoo-parameters.md).
//!
//! A process of its own asks PostgreSQL, as Odoo's user, and tells the worker what it has read; it knows nothing of
//! sessions. It looks how Odoo was started, gives up whatever it needed for that, and asks; when Odoo is started anew it
//! ends, and another one looks. The worker judges the values, and writes them to the live settings, which all servers
//! follow.
//!
//! - [`instance`]: the Odoo, how it was started, and what it reads
//! - [`access`]: how it reaches PostgreSQL: [`passfile`], [`tls`]; and [`databases`], which it serves
//! - [`postgres`]: what that is asked
//! - [`follow`]: the worker's part

mod access;
mod databases;
pub(crate) mod follow;
mod instance;
mod passfile;
mod postgres;
mod tls;

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use self::access::Access;
use self::instance::{Instance, Started};
use self::postgres::Questions;
use crate::exit::Failure;
use crate::host::confine::{Files, Right};
use crate::odoo::root::Root;
use crate::supervision::Channel;

/// The system parameters, in seconds.
pub(crate) const IDLE: &str = "session.timeout";
pub(crate) const ABSOLUTE: &str = "session.absolute_timeout";

/// More databases are not asked: then the rules that there can be (`RULES_MAX`) are used up.
const DATABASES_MAX: usize = 100;
/// Half of the time within which a change is followed.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// After a round that has read nothing. Twice as long each time.
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long one that reads nothing, or sees no Odoo, goes on before it is looked anew how Odoo was started.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What one round of questions has found.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Round {
    /// Why it is not known which databases there are, if so.
    pub failure: Option<String>,
    /// What else is wrong.
    pub problem: Option<String>,
    pub databases: Vec<Database>,
}

impl Round {
    fn failed(why: String) -> Self {
        Self { failure: Some(why), ..Self::default() }
    }

    /// Whether there were questions, and no answer.
    fn is_vain(&self) -> bool {
        let unread = |database: &Database| database.values.is_err();
        self.failure.is_some() || !self.databases.is_empty() && self.databases.iter().all(unread)
    }
}

/// A database of Odoo.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Database {
    pub name: String,
    /// Its values, or why they could not be read.
    pub values: Result<Values, String>,
}

/// The texts of the parameters; none where there is none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Values {
    pub idle: Option<String>,
    pub absolute: Option<String>,
}

/// How PostgreSQL is reached, as far as that can be known now.
pub(crate) struct Found {
    access: Result<Access, String>,
    odoo: Option<Started>,
}

impl Found {
    /// Looks at the Odoo of this user that keeps its sessions there, or that reads this file.
    pub(crate) fn look(uid: u32, sessions: &Path, config: Option<&Path>) -> Self {
        match Instance::find(&Root::host(), uid, sessions, config) {
            Ok(odoo) => Self { access: Ok(Access::of(&odoo)), odoo: odoo.process },
            Err(why) => Self { access: Err(why), odoo: None },
        }
    }

    /// What may be opened from now on: to see whether Odoo runs still, and to find the address of a name.
    pub(crate) fn files(&self) -> Files {
        let files = Files::default().path("/proc", Right::Read);
        let needs_names = self.access.as_ref().is_ok_and(Access::needs_names);
        if needs_names { files.with_names() } else { files }
    }
}

/// Asks again and again, until Odoo is started anew, or nobody listens.
pub(crate) fn run(socket: OwnedFd, found: Found) -> Result<(), Failure> {
    let channel = Channel::new(socket);
    let failed = |e: std::io::Error| Failure::internal("ask PostgreSQL", e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut questions = found.access.map(Questions::new);
    runtime.map_err(failed)?.block_on(async {
        let (began, mut pause) = (Instant::now(), POLL_EVERY);
        loop {
            let round = match &mut questions {
                Ok(questions) => questions.ask().await,
                Err(why) => Round::failed(why.clone()),
            };
            if !tell(&channel, &round) {
                return Ok(());
            }
            pause = if round.is_vain() { (pause * 2).min(AGAIN_MAX) } else { POLL_EVERY };
            sleep(pause).await;
            let may_be_outdated = round.is_vain() || found.odoo.is_none();
            if may_be_outdated && began.elapsed() >= LOOK_EVERY
                || found.odoo.is_some_and(|odoo| !odoo.runs())
            {
                return Ok(());
            }
        }
    })
}

/// Tells the worker; false if there is none any more.
fn tell(channel: &Channel, round: &Round) -> bool {
    let sent = channel.send(round).or_else(|error| match error.kind() {
        ErrorKind::InvalidInput => {
            channel.send(&Round::failed("what was read is too long to be told".into()))
        }
        _ => Err(error),
    });
    // A worker that has not read the rounds before is given the next one.
    sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

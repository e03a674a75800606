//! What PostgreSQL is asked: which databases there are, and two system parameters of each. One connection at a time, and
//! none stays open: Odoo copies and drops databases, which it can do only while nobody is connected.
//!
//! Each question is one text without parameters, so it goes through a pooler that shares its connections, too.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::access::Access;
use super::tls::{self, Mode};
use super::{ABSOLUTE, DATABASES_MAX, Database, IDLE, Round, Values};
use crate::foreign::escaped;

/// To connect to a database and to ask it.
const WITHIN: Duration = Duration::from_secs(3);
/// To ask all of them.
const ALL_WITHIN: Duration = Duration::from_secs(15);
/// The database that Odoo asks for the others.
const MAINTENANCE: &str = "postgres";

/// As Odoo has it (`odoo/service/db.py`, `list_dbs`).
const OWN_DATABASES: &str = "SELECT datname FROM pg_catalog.pg_database WHERE datdba = \
     (SELECT usesysid FROM pg_catalog.pg_user WHERE usename = current_user) \
     AND NOT datistemplate AND datallowconn AND datname <> 'postgres' ORDER BY datname LIMIT 5000";
/// Every database of Odoo has the third one; where it is missing, the others may be missing, too: the database is just being
/// restored. No value that is longer can be used.
const PARAMETERS: &str = "SELECT key, left(value, 32) FROM ir_config_parameter \
     WHERE key IN ('session.timeout', 'session.absolute_timeout', 'database.uuid') LIMIT 3";
const UUID: &str = "database.uuid";
/// Goes before each question, in one text, for which it holds alone: a server that is not asked any more would go on waiting
/// for a lock, and each further question would take one connection more.
const NO_LONGER: &str = "SET LOCAL statement_timeout = 2500; SET LOCAL lock_timeout = 2500; ";

/// Who asks, again and again.
pub(super) struct Questions {
    access: Access,
    /// The databases that did not answer in time: they are asked last, so that they hold up no other.
    slow: BTreeSet<String>,
}

impl Questions {
    pub(super) fn new(access: Access) -> Self {
        Self { access, slow: BTreeSet::new() }
    }

    /// One round.
    pub(super) async fn ask(&mut self) -> Round {
        let until = Instant::now() + ALL_WITHIN;
        let (mut names, kept_out) = match self.names(until).await {
            Ok(found) => found,
            Err(failed) => return Round::failed(self.told(&failed)),
        };
        let mut problem = self.access.problem.clone();
        if names.is_empty() && kept_out > 0 {
            problem = Some(format!("dbfilter lets none of {kept_out} databases through"));
        }
        if names.len() > DATABASES_MAX {
            let left_out = names.len() - DATABASES_MAX;
            problem = Some(format!("{left_out} of {} databases are not asked", names.len()));
            names.truncate(DATABASES_MAX);
        }
        names.sort_by_key(|name| self.slow.contains(name));
        self.slow.retain(|name| names.contains(name));
        let mut databases = Vec::new();
        for name in names {
            let answered = within(until, values(&self.access, &name)).await;
            if matches!(answered, Err(Failed::Late)) {
                self.slow.insert(name.clone());
            } else {
                self.slow.remove(&name);
            }
            match answered {
                // Not one of Odoo's.
                Ok(None) => {}
                Ok(Some(values)) => databases.push(Database { name, values: Ok(values) }),
                Err(failed) => {
                    let values = Err(self.told(&failed));
                    databases.push(Database { name, values });
                }
            }
        }
        Round { failure: None, problem, databases }
    }

    /// Why there is no answer, and who was asked.
    fn told(&self, failed: &Failed) -> String {
        let Access { user, hosts, port, .. } = &self.access;
        let asked = format!("as {user} at {}, port {port}", hosts.join(", "));
        format!("{} ({})", failed.text(), escaped(&asked))
    }

    /// The databases that Odoo serves, and how many others `dbfilter` keeps out.
    async fn names(&self, until: Instant) -> Result<(Vec<String>, usize), Failed> {
        let Access { named, filter, template, .. } = &self.access;
        if !named.is_empty() {
            return Ok((named.clone(), 0));
        }
        let rows = within(until, rows(&self.access, MAINTENANCE, OWN_DATABASES)).await?;
        let names = rows.iter().map(|row| Ok(row.try_get(0)?.unwrap_or_default().to_owned()));
        let names = names.collect::<Result<Vec<_>, Failed>>()?;
        let (served, kept_out): (Vec<_>, Vec<_>) = names
            .into_iter()
            .filter(|name| Some(name) != template.as_ref())
            .partition(|name| filter.lets_through(name));
        Ok((served, kept_out.len()))
    }
}

/// Why there is no answer.
enum Failed {
    /// It did not come in time.
    Late,
    /// A database has no parameters at all.
    Empty,
    /// A connection cannot be encrypted as it is to be.
    Tls(String),
    Postgres(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        let late = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE];
        match error.code() {
            Some(code) if late.contains(code) => Self::Late,
            _ => Self::Postgres(error),
        }
    }
}

impl Failed {
    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) => error.code(),
            Self::Late | Self::Empty | Self::Tls(_) => None,
        }
    }

    /// In words. A server may say anything, and people read it on a terminal.
    fn text(&self) -> String {
        const TEXT_MAX_CHARS: usize = 200;
        let why = match self {
            Self::Late => format!("no answer within {} s", WITHIN.as_secs()),
            Self::Empty => "it has no system parameters; it may be just being restored".to_owned(),
            Self::Tls(why) => format!("no encrypted connection: {why}"),
            Self::Postgres(error) => match error.as_db_error() {
                Some(said) => said.message().to_owned(),
                None => std::error::Error::source(error)
                    .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
            },
        };
        escaped(&why.chars().take(TEXT_MAX_CHARS).collect::<String>())
    }
}

/// Asks, and waits no longer than one question or the whole round may take.
async fn within<T>(
    until: Instant,
    asked: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let until = until.min(Instant::now() + WITHIN);
    timeout_at(until, asked).await.unwrap_or(Err(Failed::Late))
}

/// The parameters of a database; none, if it is not one of Odoo's.
async fn values(access: &Access, database: &str) -> Result<Option<Values>, Failed> {
    let rows = match rows(access, database, PARAMETERS).await {
        Err(failed) if failed.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
        rows => rows?,
    };
    let (mut values, mut is_whole) = (Values::default(), false);
    for row in &rows {
        let value = row.try_get(1)?.map(ToOwned::to_owned);
        match row.try_get(0)? {
            Some(IDLE) => values.idle = value,
            Some(ABSOLUTE) => values.absolute = value,
            Some(UUID) => is_whole = true,
            _ => {}
        }
    }
    if is_whole { Ok(Some(values)) } else { Err(Failed::Empty) }
}

async fn rows(
    access: &Access,
    database: &str,
    question: &str,
) -> Result<Vec<SimpleQueryRow>, Failed> {
    let client = connect(access, database).await?;
    let messages = client.simple_query(&format!("{NO_LONGER}{question}")).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// Connects to the first host that answers.
async fn connect(access: &Access, database: &str) -> Result<Client, Failed> {
    let tls = tls::client(access.tls, &access.roots).map_err(Failed::Tls)?;
    let mut last = Failed::Late;
    for host in &access.hosts {
        let mut config = Config::new();
        config
            .host(host)
            .port(access.port)
            .user(&access.user)
            .dbname(database)
            .application_name("sessionfs")
            .connect_timeout(WITHIN / u32::try_from(access.hosts.len()).unwrap_or(1).max(1));
        if let Some(password) = access.password(host, database) {
            config.password(password);
        }
        for ssl in attempts(access.tls, host) {
            match connect_once(config.ssl_mode(*ssl), &tls).await {
                Ok(client) => return Ok(client),
                Err(error) => {
                    // A server may take one of them alone.
                    let said = error.code().cloned();
                    last = error.into();
                    let refused = Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
                    if said.is_some() && said != refused {
                        break;
                    }
                }
            }
        }
    }
    Err(last)
}

/// How it is tried to connect, in turn, as libpq does. A socket of this host is never encrypted.
fn attempts(mode: Mode, host: &str) -> &'static [SslMode] {
    match mode {
        _ if host.starts_with('/') => &[SslMode::Disable],
        Mode::Disable => &[SslMode::Disable],
        Mode::Allow => &[SslMode::Disable, SslMode::Require],
        Mode::Prefer => &[SslMode::Prefer, SslMode::Disable],
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[SslMode::Require],
    }
}

async fn connect_once(
    config: &Config,
    tls: &ClientConfig,
) -> Result<Client, tokio_postgres::Error> {
    if config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = config.connect(NoTls).await?;
        // It ends with the client; an error of it is seen in the answer.
        drop(tokio::spawn(connection));
        return Ok(client);
    }
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls.clone())).await?;
    drop(tokio::spawn(connection));
    Ok(client)
}

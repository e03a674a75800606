//! What PostgreSQL is asked: which databases there are, and two system parameters of each. One connection at a time, and
//! none stays open: Odoo copies and drops databases, which it can do only while nobody is connected.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::access::{Access, Ssl};
use super::{ABSOLUTE, Database, IDLE, Round, Values};

/// To connect to a database and to ask it.
const WITHIN: Duration = Duration::from_secs(3);
/// More are not asked.
const DATABASES_MAX: usize = 100;
/// The database that every server has (initdb in PostgreSQL's manual).
const MAINTENANCE: &str = "postgres";

const ALL_DATABASES: &str = "SELECT datname::text FROM pg_database \
     WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' \
     AND has_database_privilege(datname, 'CONNECT') ORDER BY datname LIMIT 101";
/// No value that is longer can be used.
const PARAMETERS: &str = "SELECT key::text, left(value::text, 64) FROM ir_config_parameter \
     WHERE key IN ('session.timeout', 'session.absolute_timeout')";

/// One round of questions.
pub(super) async fn ask(access: &Access) -> Round {
    let mut names = if access.databases.is_empty() {
        match bounded(all_databases(access)).await {
            Ok(names) => names,
            Err(why) => return Round { failure: Some(why), databases: Vec::new() },
        }
    } else {
        access.databases.clone()
    };
    let failure = (names.len() > DATABASES_MAX)
        .then(|| format!("more than {DATABASES_MAX} databases; the others are not asked"));
    names.truncate(DATABASES_MAX);
    let mut databases = Vec::new();
    for name in names {
        match bounded(values(access, &name)).await {
            // Not one of Odoo's.
            Ok(None) => {}
            Ok(Some(values)) => databases.push(Database { name, values: Ok(values) }),
            Err(why) => databases.push(Database { name, values: Err(why) }),
        }
    }
    Round { failure, databases }
}

async fn bounded<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    const TEXT_MAX_CHARS: usize = 200;
    let answered = timeout(WITHIN, asked).await;
    let answered = answered.map_err(|_| format!("no answer within {} s", WITHIN.as_secs()))?;
    // A server may say anything; people read it on a terminal.
    let shown =
        |why: String| why.chars().take(TEXT_MAX_CHARS).flat_map(char::escape_debug).collect();
    answered.map_err(|Error(why)| shown(why))
}

struct Error(String);

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let cause = error.as_db_error().map(|error| error.message().to_owned());
        Self(cause.unwrap_or_else(|| {
            let source = std::error::Error::source(&error);
            source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
        }))
    }
}

async fn all_databases(access: &Access) -> Result<Vec<String>, Error> {
    let client = connect(access, MAINTENANCE).await?;
    let rows = client.query(ALL_DATABASES, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn values(access: &Access, database: &str) -> Result<Option<Values>, Error> {
    let client = connect(access, database).await?;
    let rows = match client.query(PARAMETERS, &[]).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
        rows => rows?,
    };
    let mut values = Values::default();
    for row in &rows {
        let (key, value): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        match key.as_str() {
            IDLE => values.idle = value,
            ABSOLUTE => values.absolute = value,
            _ => {}
        }
    }
    Ok(Some(values))
}

async fn connect(access: &Access, database: &str) -> Result<Client, Error> {
    let mut config = Config::new();
    config
        .host(&access.host)
        .port(access.port)
        .user(&access.user)
        .dbname(database)
        .application_name("sessionfs")
        .connect_timeout(WITHIN)
        .ssl_mode(match access.ssl {
            Ssl::Disable => SslMode::Disable,
            Ssl::Prefer => SslMode::Prefer,
            Ssl::Require | Ssl::Verify => SslMode::Require,
        });
    if let Some(password) = &access.password {
        config.password(password);
    }
    if access.host.starts_with('/') {
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await?;
        // It ends with the client; an error of it is seen in the answer.
        drop(tokio::spawn(connection));
        return Ok(client);
    }
    let tls = tls(access.ssl).map_err(|error| Error(format!("TLS: {error}")))?;
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    drop(tokio::spawn(connection));
    Ok(client)
}

fn tls(ssl: Ssl) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    if ssl == Ssl::Verify {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(config.with_root_certificates(roots).with_no_client_auth());
    }
    let anybody = Arc::new(Anybody(provider));
    Ok(config.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth())
}

/// Takes every certificate, as libpq does with `prefer` and `require`, which Odoo uses.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! How a connection is encrypted, and who the server must be, as libpq has it (PostgreSQL's manual, "SSL Support").

use std::path::Path;
use std::sync::Arc;

use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::odoo::root::Root;
use crate::tls::{self, Judge, Presented};

/// `db_sslmode`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Mode {
    Disable,
    /// Encrypted if the server takes no other connection.
    Allow,
    /// Encrypted if the server can.
    #[default]
    Prefer,
    /// Encrypted, whoever the server is; unless there is a file of authorities.
    Require,
    /// Encrypted, and an authority vouches for the server.
    VerifyCa,
    /// And the server has the name under which it is reached.
    VerifyFull,
}

impl Mode {
    /// By its name. One that nobody knows Odoo does not take; what it has by default is `prefer`.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => Self::Prefer,
        }
    }
}

/// The authorities that vouch for a server.
#[derive(Clone, Debug, Default)]
pub(super) enum Roots {
    /// Nobody names any.
    #[default]
    None,
    /// Those of a file or of the system.
    Known(Vec<CertificateDer<'static>>),
    /// The file cannot be used, and why.
    Unusable(String),
}

/// The word in the place of a file that means the authorities of the system (since libpq 16).
const SYSTEM: &str = "system";

impl Roots {
    /// Those of a file. Without that file there are none.
    pub(super) fn read(root: &Root, path: &Path) -> Self {
        if path == Path::new(SYSTEM) {
            return Self::Known(rustls_native_certs::load_native_certs().certs);
        }
        let pem = match root.read(path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::None,
            Err(error) => return Self::Unusable(format!("{}: {error}", path.display())),
        };
        tls::read(&pem).map_or_else(
            || Self::Unusable(format!("{} holds no certificates", path.display())),
            Self::Known,
        )
    }
}

/// The settings of an encrypted connection.
pub(super) fn client(mode: Mode, roots: &Roots) -> Result<ClientConfig, String> {
    let trusted = match (mode, roots) {
        // Such a connection may be an open one as well.
        (Mode::Disable | Mode::Allow | Mode::Prefer, _) | (Mode::Require, Roots::None) => None,
        (_, Roots::None) => {
            return Err(
                "there is no file of authorities (~/.postgresql/root.crt or PGSSLROOTCERT)".into(),
            );
        }
        (_, Roots::Unusable(why)) => return Err(why.clone()),
        (_, Roots::Known(roots)) => Some(Trusted::new(roots)?),
    };
    let verifier = Verifier { trusted, by_name: mode == Mode::VerifyFull };
    tls::client(verifier).map_err(|error| error.to_string())
}

#[derive(Debug)]
struct Trusted {
    chains: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn new(roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let chains = tls::chains(store).map_err(|error| error.to_string())?;
        Ok(Self { chains, roots: roots.to_vec() })
    }
}

/// Verifies as much as the mode asks for: with `prefer`, and with `require` and no file, nothing.
#[derive(Debug)]
struct Verifier {
    trusted: Option<Trusted>,
    by_name: bool,
}

impl Judge for Verifier {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let Some(trusted) = &self.trusted else { return Ok(()) };
        let Presented { end_entity, server_name, .. } = presented;
        // A server that has signed its certificate itself: the file of authorities holds that one.
        if trusted.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if self.by_name {
                verify_server_name(&ParsedCertificate::try_from(*end_entity)?, server_name)?;
            }
            return Ok(());
        }
        match presented.is_vouched_for(&trusted.chains) {
            // The name is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.by_name => Ok(()),
            verified => verified,
        }
    }
}

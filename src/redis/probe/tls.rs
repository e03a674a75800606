//! What to do when TLS fails.

use std::io;

use redis::{ErrorKind, RedisError};
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::cause;
use crate::redis::credentials::{Credential, Credentials};

/// The remedy for this failure, by what is configured.
pub(super) fn remedy(error: &RedisError, credentials: &Credentials) -> String {
    if error.kind() == ErrorKind::InvalidClientConfig {
        return "correct that file".to_owned();
    }
    let io = cause::<io::Error>(error).and_then(io::Error::get_ref);
    let typed = cause::<Error>(error).or_else(|| io?.downcast_ref());
    match typed {
        Some(Error::InvalidCertificate(why)) => of_theirs(why, credentials),
        Some(Error::AlertReceived(alert)) => of_ours(*alert, credentials),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "nothing there uses TLS: connect to the tls-port of Redis, or without TLS".to_owned()
        }
        _ => "the log of Redis may say why".to_owned(),
    }
}

/// A certificate of a server that is not trusted.
fn of_theirs(why: &CertificateError, credentials: &Credentials) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the certificate of that server, or of its CA".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "synchronise the clocks of both hosts by NTP".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "connect by a name of its certificate: write that in redis.url (servers that sentinels \
             or a Cluster name must announce it), or issue another certificate"
                .to_owned()
        }
        _ => match credentials.file(Credential::RedisCa) {
            Some(file) => format!(
                "redis.ca_file ({}) must hold the certificate of the CA that signed that of the \
                 server",
                file.display()
            ),
            None => "set redis.ca_file to the certificate of the CA that signed that of the \
                     server, or add this CA to those of this system"
                .to_owned(),
        },
    }
}

/// The server does not trust us.
fn of_ours(alert: AlertDescription, credentials: &Credentials) -> String {
    let Some(file) = credentials.file(Credential::RedisCertificate) else {
        return "Redis wants a certificate of its clients (tls-auth-clients): set \
                redis.cert_file and redis.key_file"
            .to_owned();
    };
    let file = file.display();
    match alert {
        AlertDescription::CertificateExpired => {
            format!("renew the certificate in redis.cert_file ({file})")
        }
        AlertDescription::ProtocolVersion => {
            "let Redis use TLS 1.2 or 1.3 (tls-protocols)".to_owned()
        }
        _ => format!(
            "Redis refuses the certificate in redis.cert_file ({file}): it must be valid, and \
             signed by a CA that Redis knows (tls-ca-cert-file)"
        ),
    }
}

//! The certificate authorities that the system trusts.
//!
//! Debian has them in some three hundred files. To read them at each connection would hold up, for
//! tens of milliseconds, the one thread that all requests to Redis share.

use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::sync::lock;

/// A certificate that has come is trusted after this time at the latest.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);

static READ: Mutex<Option<Read>> = Mutex::new(None);

struct Read {
    at: Instant,
    /// What the environment named in their place.
    named: [Option<OsString>; 2],
    pem: Arc<Vec<u8>>,
}

impl Read {
    fn is_current(&self) -> bool {
        self.named == named() && self.at.elapsed() < READ_AGAIN_AFTER
    }
}

/// The variables that rustls-native-certs reads.
fn named() -> [Option<OsString>; 2] {
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(std::env::var_os)
}

/// Their certificates in PEM format, not older than a minute. An error says which file cannot be read.
pub(super) async fn pem() -> Result<Arc<Vec<u8>>, String> {
    if let Some(read) = lock(&READ).as_ref().filter(|read| read.is_current()) {
        return Ok(Arc::clone(&read.pem));
    }
    let pem = Arc::new(tokio::task::spawn_blocking(read).await.map_err(|e| e.to_string())??);
    *lock(&READ) = Some(Read { at: Instant::now(), named: named(), pem: Arc::clone(&pem) });
    Ok(pem)
}

fn read() -> Result<Vec<u8>, String> {
    let found = rustls_native_certs::load_native_certs();
    // One bad file among many is no reason to trust none of the others.
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
        return Err(error.to_string());
    }
    let mut pem = Vec::new();
    let is_usable = |one: &CertificateDer<'static>| RootCertStore::empty().add(one.clone()).is_ok();
    for certificate in found.certs.into_iter().filter(is_usable) {
        pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
        pem.extend_from_slice(BASE64_STANDARD.encode(&certificate).as_bytes());
        pem.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    #[tokio::test]
    async fn they_are_read_once_and_can_be_parsed() {
        let pem = super::pem().await.unwrap();
        let known = rustls_native_certs::load_native_certs().certs;
        let parsed = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().unwrap();
        assert!(!known.is_empty(), "this system trusts nobody");
        assert!(parsed.iter().all(|one| known.contains(one)));
        assert_eq!(RootCertStore::empty().add_parsable_certificates(known).0, parsed.len());
        assert!(std::sync::Arc::ptr_eq(&pem, &super::pem().await.unwrap()));
    }
}

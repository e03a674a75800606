//! TLS as a browser speaks it, and as an old one would.
//!
//! A certificate that cannot be verified is a finding, and no reason to see nothing of the site: it is
//! judged as a browser would, and the judgement is kept. What must not be told to a stranger (a
//! password) is sent only where that is well, or where the address is this host's own.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, Error, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exit::{ExitCode, Failure};
use crate::sync::lock;
use crate::tls::{self, Presented};

/// What a browser thinks of the certificate: `None` before the first connection.
type Verdict = Arc<Mutex<Option<Result<(), String>>>>;

/// How connections are made, and what was learnt of the certificate.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub config: Arc<ClientConfig>,
    verdict: Verdict,
}

impl Tls {
    /// Trusts what this system trusts, and the certificates in a file.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            roots.add_parsable_certificates(certificates(path)?);
        }
        let verdict = Verdict::default();
        let inner = tls::chains(roots).ok();
        let judge = Judge { inner, verdict: Arc::clone(&verdict) };
        let config = tls::client(judge).map_err(|error| Failure::internal("set up TLS", error))?;
        Ok(Self { config: Arc::new(config), verdict })
    }

    /// What a browser would say of the certificate; `None` before the first connection.
    pub(crate) fn verdict(&self) -> Option<Result<(), String>> {
        lock(&self.verdict).clone()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |why: String| {
        Failure::new(ExitCode::UnreadableFile, format!("--ca-file: {}: {why}", path.display()))
    };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    tls::read(&pem).ok_or_else(|| unusable("it holds no certificate in PEM format".to_owned()))
}

/// Judges a certificate as a browser would, and goes on whatever comes of it.
#[derive(Debug)]
struct Judge {
    /// `None`: nobody is trusted here.
    inner: Option<Arc<WebPkiServerVerifier>>,
    verdict: Verdict,
}

impl tls::Judge for Judge {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let judged = match &self.inner {
            Some(inner) => presented.is_vouched_for(inner).map_err(|error| match error {
                Error::InvalidCertificate(why) => why.to_string(),
                other => other.to_string(),
            }),
            None => Err("this host trusts no certificate authority".to_owned()),
        };
        let mut verdict = lock(&self.verdict);
        // After one that is well the site is told a password, so whoever answers then has to have one, too.
        if let (Some(Ok(())), Err(why)) = (&*verdict, &judged) {
            return Err(Error::General(format!("another certificate than before: {why}")));
        }
        *verdict = Some(judged);
        Ok(())
    }
}

/// The versions that no browser speaks any more (RFC 8996), by their numbers in a record.
pub(crate) const OLD: [(u8, &str); 2] = [(1, "TLS 1.0"), (2, "TLS 1.1")];

/// Whether a server takes up this old version. Only the first message of a handshake is sent, and the
/// first of the answer read: no library of ours speaks these versions.
pub(crate) async fn takes_old(
    at: (IpAddr, u16),
    host: &str,
    minor: u8,
    within: Duration,
) -> Result<bool, String> {
    let asked = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(&client_hello(host, minor)).await?;
        let mut answer = [0; 11];
        let mut length = 0;
        while length < answer.len() {
            match stream.read(&mut answer[length..]).await? {
                0 => break,
                more => length += more,
            }
        }
        Ok::<_, std::io::Error>(is_server_hello(&answer[..length], minor))
    };
    match timeout(within, asked).await {
        Ok(Ok(taken)) => Ok(taken),
        // A server may end the connection instead of answering.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// A record of a handshake (22), a `ServerHello` (2) in it, and the version that it chose.
fn is_server_hello(answer: &[u8], minor: u8) -> bool {
    matches!(answer, [22, 3, _, _, _, 2, _, _, _, 3, chosen] if *chosen == minor)
}

/// RFC 2246, 7.4.1.2, with the extensions that servers of today ask for (RFC 6066, 3; RFC 8422, 5.1;
/// RFC 5746, 3.4).
fn client_hello(host: &str, minor: u8) -> Vec<u8> {
    /// Those of the old versions: ECDHE, DHE and RSA with AES, and the last resort of them all.
    const SUITES: [u16; 9] =
        [0xc013, 0xc014, 0xc009, 0xc00a, 0x0033, 0x0039, 0x002f, 0x0035, 0x000a];
    let mut body = vec![3, minor];
    body.extend(rand::random::<[u8; 32]>());
    body.push(0);
    let suites: Vec<u8> = SUITES.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    body.extend(counted16(&suites));
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    if host.parse::<IpAddr>().is_err() {
        let name = [vec![0], counted16(host.as_bytes())].concat();
        extensions.extend(extension(0, &counted16(&name)));
    }
    // x25519, secp256r1, secp384r1.
    extensions.extend(extension(10, &counted16(&[0, 29, 0, 23, 0, 24])));
    extensions.extend(extension(11, &[1, 0]));
    extensions.extend(extension(0xff01, &[0]));
    body.extend(counted16(&extensions));
    let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [vec![22, 3, 1], counted16(&message)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), counted16(content)].concat()
}

/// With its length in two bytes in front. A name is at most 253 bytes long, the rest is ours.
fn counted16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_in_the_first_message_are_right() {
        for host in ["shop.example.com", "127.0.0.1"] {
            let hello = client_hello(host, 1);
            let record = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
            assert_eq!(record, hello.len() - 5);
            let body = u32::from_be_bytes([0, hello[6], hello[7], hello[8]]);
            assert_eq!(usize::try_from(body).unwrap(), hello.len() - 9);
            assert_eq!((hello[0], hello[5], &hello[9..11]), (22, 1, &[3, 1][..]));
            assert_eq!(
                hello.windows(16).any(|found| found == b"shop.example.com"),
                host != "127.0.0.1"
            );
        }
    }

    #[test]
    fn only_a_hello_of_that_version_counts() {
        assert!(is_server_hello(&[22, 3, 1, 0, 99, 2, 0, 0, 70, 3, 1], 1));
        for other in [
            &[21, 3, 1, 0, 2, 2, 70][..],
            &[22, 3, 1, 0, 99, 2, 0, 0, 70, 3, 3],
            &[],
            b"HTTP/1.1 40",
        ] {
            assert!(!is_server_hello(other, 1), "{other:?}");
        }
    }
}

//! A store over TLS. A program of its own: the CA of the system is named by an environment variable.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sessionfs::redis::probe::{ProbeError, probe};
use sessionfs::redis::{Credential, Credentials, RedisStore, Settings};
use sessionfs::store::{Link as _, Wait, Waited};
use support::redis::{Redis, free_port};
use support::store::*;

/// A directory of keys and certificates.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().expect("a temporary directory"));
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout ca.key -out ca.pem -subj /CN=test",
        );
        authority
    }

    /// Makes NAME.key and NAME.pem.
    fn certify(&self, name: &str, subject: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={name}"
        ));
        std::fs::write(self.path("names"), format!("subjectAltName={subject}\n")).expect("written");
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out {name}.pem"
        ));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A server that listens at `localhost` and wants a certificate of its clients, or not.
    fn server(&self, clients: &str) -> (Redis, Settings) {
        let port = free_port().to_string();
        let file = |name: &str| self.path(name).display().to_string();
        let (certificate, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
        let mut arguments = vec!["--tls-port", &port, "--tls-auth-clients", clients];
        arguments.extend(["--tls-cert-file", &certificate, "--tls-key-file", &key]);
        arguments.extend(["--tls-ca-cert-file", &ca]);
        let redis = Redis::start_with(&arguments);
        let url = format!("rediss://localhost:{port}");
        let settings = Settings { url, ..settings(&redis) };
        (redis, settings)
    }
}

fn with_files(settings: &Settings, files: &[(Credential, &Path)]) -> Settings {
    let files: BTreeMap<_, _> =
        files.iter().map(|(name, path)| (*name, (*path).to_owned())).collect();
    Settings { credentials: Credentials::of(files), ..settings.clone() }
}

async fn tls_refusal(settings: &Settings) -> String {
    match probe(settings).await {
        Err(error @ ProbeError::Tls(..)) => error.to_string(),
        other => panic!("no fault of TLS: {other:?}"),
    }
}

#[test]
fn a_store_works_over_tls_and_refuses_a_certificate_it_does_not_know() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let authority = Authority::new();
    authority.certify("server", "DNS:localhost");
    let (redis, settings) = authority.server("no");
    runtime().block_on(tls_refusal(&settings));
    runtime().block_on(files_are_read_again_at_each_connection());
    // SAFETY: no other thread of this program runs now.
    unsafe { std::env::set_var("SSL_CERT_FILE", authority.path("ca.pem")) };
    runtime().block_on(async {
        probe(&settings).await.expect("the CA is known");
        let store = connected(RedisStore::start(settings).expect("a good URL")).await;
        let sid = alias("ab", 1);
        taken(&store, &login(&store, &sid)).await;
        look(&store, &sid).await.expect("alive");
    });
    assert_eq!(redis.run::<u64>("DBSIZE"), 2);
}

async fn files_are_read_again_at_each_connection() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.certify("server", "DNS:localhost");
    authority.certify("client", "DNS:here");
    let (redis, settings) = authority.server("yes");
    let (ca, certificate, key) =
        (authority.path("ca.pem"), authority.path("client.pem"), authority.path("client.key"));
    let all = [
        (Credential::RedisCa, ca.as_path()),
        (Credential::RedisCertificate, certificate.as_path()),
        (Credential::RedisKey, key.as_path()),
    ];
    // Without its own certificate, with another CA, with a file that holds none, without a file.
    assert!(probe(&with_files(&settings, &all[..1])).await.is_err());
    let other = stranger.path("ca.pem");
    tls_refusal(&with_files(
        &settings,
        &[&[(Credential::RedisCa, other.as_path())], &all[1..]].concat(),
    ))
    .await;
    let nothing = authority.path("names");
    for path in [&nothing, &authority.path("none")] {
        let files = [&[(Credential::RedisCa, path.as_path())], &all[1..]].concat();
        let error = tls_refusal(&with_files(&settings, &files)).await;
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
    let settings = with_files(&settings, &all);
    probe(&settings).await.expect("all is as it must be");
    let store = connected(RedisStore::start(settings).expect("a good URL")).await;
    // The next connection uses what is there then.
    std::fs::rename(&key, authority.path("former.key")).expect("renamed");
    let _: i64 = redis.run("CLIENT KILL TYPE normal");
    until("the cause is known", || store.link_cause().contains("client.key")).await;
    authority.certify("client", "DNS:here");
    assert_eq!(store.wait_up(Wait::default()).await, Waited::Up);
    taken(&store, &login(&store, &alias("ab", 1))).await;
}

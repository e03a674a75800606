//! A store over TLS. A program of its own: the CA of the system is named by an environment variable.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sessionfs::redis::probe::{ProbeError, probe};
use sessionfs::redis::{Credential, Credentials, RedisStore, Settings};
use sessionfs::store::{Link as _, Wait, Waited};
use support::authority::Authority;
use support::redis::{Redis, free_port};
use support::store::*;

/// A server that listens at `localhost` and wants a certificate of its clients, or not.
fn server(authority: &Authority, clients: &str) -> (Redis, Settings) {
    let port = free_port().to_string();
    let file = |name: &str| authority.path(name).display().to_string();
    let (certificate, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let mut arguments = vec!["--tls-port", &port, "--tls-auth-clients", clients];
    arguments.extend(["--tls-cert-file", &certificate, "--tls-key-file", &key]);
    arguments.extend(["--tls-ca-cert-file", &ca]);
    let redis = Redis::start_with(&arguments);
    let url = format!("rediss://localhost:{port}");
    let settings = Settings { url, ..settings(&redis) };
    (redis, settings)
}

fn with_files(settings: &Settings, files: &[(Credential, &Path)]) -> Settings {
    let files: BTreeMap<_, _> =
        files.iter().map(|(name, path)| (*name, (*path).to_owned())).collect();
    Settings { credentials: Credentials::of(files), ..settings.clone() }
}

async fn tls_refusal(settings: &Settings) -> String {
    match probe(settings).await {
        Err(error @ ProbeError::Tls { .. }) => error.to_string(),
        other => panic!("no fault of TLS: {other:?}"),
    }
}

#[test]
fn a_store_works_over_tls_and_refuses_a_certificate_it_does_not_know() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let authority = Authority::new();
    authority.certify("server", "DNS:localhost");
    let (redis, settings) = server(&authority, "no");
    runtime().block_on(tls_refusal(&settings));
    runtime().block_on(files_are_read_again_at_each_connection());
    runtime().block_on(each_fault_has_its_own_remedy());
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
    let authority = Authority::new();
    authority.certify("server", "DNS:localhost");
    authority.certify("client", "DNS:here");
    let (redis, settings) = server(&authority, "yes");
    let (ca, certificate, key) =
        (authority.path("ca.pem"), authority.path("client.pem"), authority.path("client.key"));
    let all = [
        (Credential::RedisCa, ca.as_path()),
        (Credential::RedisCertificate, certificate.as_path()),
        (Credential::RedisKey, key.as_path()),
    ];
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

async fn each_fault_has_its_own_remedy() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.certify("server", "DNS:localhost");
    authority.certify("client", "DNS:here");
    authority.certify_expired("old", "DNS:here");
    authority.certify("other", "DNS:here");
    stranger.certify("client", "DNS:here");
    let (_redis, settings) = server(&authority, "yes");
    let (_open, of_open) = server(&authority, "no");
    let path = |name: &str| authority.path(name);
    let none = None;
    // CA, certificate and key, and what is said.
    let with = |settings: &Settings, files: [Option<PathBuf>; 3]| {
        let names = [Credential::RedisCa, Credential::RedisCertificate, Credential::RedisKey];
        let files = names.into_iter().zip(files).filter_map(|(name, path)| Some((name, path?)));
        let files: BTreeMap<_, _> = files.collect();
        Settings { credentials: Credentials::of(files), ..settings.clone() }
    };
    let (ca, pem, key) = (Some(path("ca.pem")), Some(path("client.pem")), Some(path("client.key")));
    let fine = [ca.clone(), pem.clone(), key.clone()];
    probe(&with(&settings, fine.clone())).await.expect("all is as it must be");
    let by_address =
        Settings { url: settings.url.replace("localhost", "127.0.0.1"), ..settings.clone() };
    for (settings, files, remedy) in [
        (&of_open, [none.clone(), none.clone(), none.clone()], "set redis.ca_file to"),
        (
            &of_open,
            [Some(stranger.path("ca.pem")), none.clone(), none.clone()],
            "ca.pem) must hold the certificate of the CA",
        ),
        (
            &of_open,
            [Some(path("names")), none.clone(), none.clone()],
            "names: it holds no certificate in PEM format",
        ),
        (&of_open, [Some(path("none")), none.clone(), none.clone()], "redis.ca_file: "),
        (&by_address, fine.clone(), "connect by a name of its certificate"),
        (
            &settings,
            [ca.clone(), none.clone(), none.clone()],
            "set redis.cert_file and redis.key_file",
        ),
        (
            &settings,
            [ca.clone(), Some(stranger.path("client.pem")), Some(stranger.path("client.key"))],
            "signed by a CA that Redis knows",
        ),
        (
            &settings,
            [ca.clone(), Some(path("old.pem")), Some(path("old.key"))],
            "renew the certificate in redis.cert_file",
        ),
        (
            &settings,
            [ca.clone(), pem.clone(), Some(path("other.key"))],
            "other.key: it does not hold the key of the certificate",
        ),
        (
            &settings,
            [ca.clone(), pem.clone(), Some(path("names"))],
            "names: it holds no private key",
        ),
        (&settings, [ca.clone(), Some(path("names")), key.clone()], "redis.cert_file: "),
    ] {
        let error = tls_refusal(&with(settings, files)).await;
        assert!(error.contains(remedy), "{remedy}: {error}");
    }
    // The server's own has expired.
    authority.certify_expired("server", "DNS:localhost");
    let (_old, of_old) = server(&authority, "no");
    let error = tls_refusal(&with(&of_old, fine)).await;
    assert!(error.contains("renew the certificate of that server"), "{error}");
}

//! A store over TLS. A program of its own: the CA is named by an environment variable.

mod support;

use std::process::Command;

use sessionfs::redis::probe::{ProbeError, probe};
use sessionfs::redis::{RedisStore, Settings};
use support::redis::{Redis, free_port};
use support::store::*;

fn openssl(directory: &std::path::Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_store_works_over_tls_and_refuses_a_certificate_it_does_not_know() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    openssl(
        directory.path(),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout ca.key \
         -out ca.pem -subj /CN=test",
    );
    openssl(
        directory.path(),
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key \
         -out server.csr -subj /CN=localhost",
    );
    std::fs::write(path("names"), "subjectAltName=DNS:localhost\n").expect("written");
    openssl(
        directory.path(),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names \
         -out server.pem",
    );
    let port = free_port().to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{port}");
    let settings = Settings { url, ..settings(&redis) };
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let unknown = runtime().block_on(probe(&settings));
    assert!(matches!(unknown, Err(ProbeError::Tls(..))), "{unknown:?}");
    // SAFETY: this program has one test, and no thread of it reads the environment now.
    unsafe { std::env::set_var("SSL_CERT_FILE", path("ca.pem")) };
    runtime().block_on(async {
        probe(&settings).await.expect("the CA is known");
        let store = connected(RedisStore::start(settings).expect("a good URL")).await;
        let sid = alias("ab", 1);
        taken(&store, &login(&store, &sid)).await;
        look(&store, &sid).await.expect("alive");
    });
    assert_eq!(redis.run::<u64>("DBSIZE"), 2);
}

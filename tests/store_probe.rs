//! What is wrong with a Redis is said at the start, in one line, without the password.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use sessionfs::redis::Settings;
use sessionfs::redis::probe::{ProbeError, ServerInfo, probe};
use support::redis::Redis;

async fn outcome(url: &str) -> Result<ServerInfo, ProbeError> {
    let settings = Settings { url: url.to_owned(), connect_timeout_ms: 500, ..Settings::default() };
    let outcome = probe(&settings).await;
    if let Err(error) = &outcome {
        let text = error.to_string();
        assert!(!text.contains("geheim") && !text.contains('\n'), "{text}");
        assert!(text.contains(';'), "no remedy: {text}");
    }
    assert!(!format!("{settings:?}").contains("geheim"));
    outcome
}

/// Something that is not Redis: answers whatever comes with `answer`.
fn stranger(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten().take(1) {
            let mut heard = [0; 1024];
            while stream.read(&mut heard).is_ok_and(|n| n > 0) {
                if answer.is_empty() || stream.write_all(answer).is_err() {
                    break;
                }
            }
            if answer.is_empty() {
                std::thread::sleep(std::time::Duration::from_secs(2));
            }
        }
    });
    address.to_string()
}

#[tokio::test]
async fn a_good_server_is_named_with_its_version_and_left_as_it_was() {
    let redis = Redis::start();
    let info = outcome(&redis.url()).await.expect("a good server");
    assert!(["redis", "valkey"].contains(&info.server.as_str()), "{info:?}");
    assert!(info.version.contains('.'));
    assert!(info.address.starts_with("unix:"));
    assert_eq!(redis.run::<u64>("DBSIZE"), 0);
}

#[tokio::test]
async fn bad_urls() {
    for url in ["", "http://user:geheim@cache", "redis://user:geheim@cache/x"] {
        assert!(matches!(outcome(url).await, Err(ProbeError::BadUrl(_))), "{url}");
    }
}

#[tokio::test]
async fn nobody_there() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    for url in [
        format!("redis://user:geheim@{port}"),
        "unix:///nowhere/redis.sock?pass=geheim".to_owned(),
        "redis://user:geheim@host.invalid".to_owned(),
        format!("redis://user:geheim@{}", stranger(b"")),
    ] {
        let outcome = outcome(&url).await;
        assert!(matches!(outcome, Err(ProbeError::Unreachable(..))), "{outcome:?}");
    }
}

#[tokio::test]
async fn not_redis_or_too_old() {
    let web = format!("redis://user:geheim@{}", stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let outcome_of_web = outcome(&web).await;
    assert!(matches!(outcome_of_web, Err(ProbeError::NotRedis(_))), "{outcome_of_web:?}");
    let old = stranger(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n");
    let outcome_of_old = outcome(&format!("redis://user:geheim@{old}")).await;
    assert!(matches!(outcome_of_old, Err(ProbeError::TooOld(..))), "{outcome_of_old:?}");
    let starting = stranger(b"-LOADING Redis is loading the dataset in memory\r\n");
    let outcome_of_starting = outcome(&format!("redis://{starting}")).await;
    assert!(
        matches!(&outcome_of_starting, Err(e @ ProbeError::NotReady(..)) if e.may_pass()),
        "{outcome_of_starting:?}"
    );
    let plain = stranger(b"-ERR Protocol error\r\n");
    let outcome_of_plain = outcome(&format!("rediss://user:geheim@{plain}")).await;
    assert!(matches!(outcome_of_plain, Err(ProbeError::Tls { .. })), "{outcome_of_plain:?}");
}

#[tokio::test]
async fn passwords_and_databases() {
    let redis = Redis::start_with(&["--requirepass", "richtig"]);
    for url in [redis.url(), redis.url_as("default", "geheim"), redis.url_as("nobody", "geheim")] {
        let outcome = outcome(&url).await;
        assert!(matches!(outcome, Err(ProbeError::AuthFailed(_))), "{outcome:?}");
    }
    let url = redis.url_as("default", "richtig");
    outcome(&url).await.expect("the right password");
    let url = format!("unix://{}?pass=richtig", redis.socket().display());
    outcome(&url).await.expect("a password alone");
    outcome(&format!("{url}&db=3")).await.expect("another database");
    let outcome = outcome(&format!("{url}&db=99")).await;
    assert!(matches!(outcome, Err(ProbeError::NoDatabase(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_cluster_node_and_a_replica_are_named_as_such() {
    let port = support::redis::free_port().to_string();
    let cluster = Redis::start_with(&["--cluster-enabled", "yes", "--port", &port]);
    let outcome_of_cluster = outcome(&cluster.url()).await;
    assert!(matches!(outcome_of_cluster, Err(ProbeError::Mode { .. })), "{outcome_of_cluster:?}");
    let replica = Redis::start();
    let _: redis::Value = replica.run("REPLICAOF 127.0.0.1 1");
    let outcome_of_replica = outcome(&replica.url()).await;
    assert!(matches!(outcome_of_replica, Err(ProbeError::NoWrites(..))), "{outcome_of_replica:?}");
}

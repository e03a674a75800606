//! What the log says of expiries. A program of its own: the log's filter is one for all threads.

mod support;

use std::sync::{Arc, Mutex};

use sessionfs::session::policy::Lifetimes;
use sessionfs::store::Sessions as _;
use support::redis::Redis;
use support::store::*;

/// Collects the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_expiry_is_logged_once_whoever_finds_it() {
    let log = Log::default();
    let writer = log.clone();
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish(),
    );
    let redis = Redis::start();
    let limits = Lifetimes { absolute_ms: Some(16 * MINUTE), ..Lifetimes::default() };
    let (one, two) = (node_with(&redis, limits).await, node_with(&redis, limits).await);
    let [by_look, by_save, by_unlink, by_list, by_alias, bot] =
        std::array::from_fn(|n| alias("ab", n.try_into().expect("small")));
    let mut births = Vec::new();
    for sid in [&by_look, &by_save, &by_unlink, &by_list, &by_alias] {
        births.push(taken(&one, &login(&one, sid)).await.birth);
    }
    taken(&one, &visit(&one, &bot)).await;
    pass(&redis, 10 * MINUTE);
    use_it(&one, &by_look).await;
    pass(&redis, 6 * MINUTE);
    assert_eq!(look(&one, &by_look).await, None);
    hear(&two).await;
    refused(&two, &page(&two, &by_save, births[1])).await;
    two.unlink(&removal(&two, &by_unlink)).await.expect("answered");
    one.fetch(&alias("ab", 99), Some(&by_alias)).await.expect("answered");
    pass(&redis, HOUR);
    one.list(bot.shard()).await.expect("a listing");
    for node in [&one, &two] {
        for sid in [&by_look, &by_save, &by_unlink, &by_list, &by_alias, &bot] {
            assert_eq!(look(node, sid).await, None);
        }
        node.list(bot.shard()).await.expect("a listing");
    }
    let text = String::from_utf8(log.0.lock().expect("the log").clone()).expect("text");
    let events: Vec<_> = text.lines().filter(|line| line.contains("session_expired")).collect();
    assert_eq!(events.len(), 6, "{text}");
    let event = |sid| *events.iter().find(|e| e.contains(&format!("alias={sid}"))).expect("logged");
    assert!(event(&by_look).contains("limit=\"absolute\""), "{}", event(&by_look));
    assert!(event(&by_look).contains("db=\"shop\" uid=7"), "{}", event(&by_look));
    assert!(event(&by_save).contains("limit=\"idle\""), "{}", event(&by_save));
    assert!(event(&bot).contains("limit=\"unopened\""), "{}", event(&bot));
}

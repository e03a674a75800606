//! Large contents: they travel beside the link, and share the fate of nobody.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::name::Alias;
use sessionfs::store::{Health, Link as _, Lookup, Publish, Sessions as _};
use support::line::Line;
use support::redis::Redis;
use support::store::*;

const LARGE: usize = 4 << 20;
const READERS: usize = 16;
/// 100 Mbit a second.
const SLOW: u32 = 12_000_000;

fn sized(publish: Publish, bytes: usize) -> Publish {
    let sealed: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
    Publish { size_bytes: bytes as u64, sealed: sealed.into(), ..publish }
}

/// What an `open` does.
async fn read(store: &RedisStore, alias: &Alias) -> Option<Bytes> {
    for _ in 0..10 {
        match store.fetch(alias, None).await.expect("an answer") {
            Lookup::Session { sealed, .. } => return Some(sealed),
            Lookup::Large { bound, .. } => {
                if let Some(content) = store.content(alias, bound.save).await.expect("a content") {
                    return Some(content);
                }
            }
            Lookup::Alias { .. } | Lookup::Absent => return None,
        }
    }
    panic!("it is replaced faster than it is read");
}

#[tokio::test]
async fn a_content_of_any_size_is_read_as_it_was_saved() {
    let redis = Redis::start();
    let node = node(&redis).await;
    for bytes in [0, 1, 60_000, 65_000, 65_536, 66_000, 131_072, 1_000_003, LARGE] {
        let sid = alias("ab", u32::try_from(bytes).expect("a number"));
        let publish = sized(login(&node, &sid), bytes);
        let meta = taken(&node, &publish).await;
        let found = node.fetch(&sid, None).await.expect("an answer");
        assert_eq!(matches!(found, Lookup::Large { .. }), bytes > 65_200, "{bytes}: {found:?}");
        assert_eq!(read(&node, &sid).await.as_ref(), Some(&publish.sealed), "{bytes}");
        assert_eq!(meta.size_bytes, bytes as u64);
    }
}

#[tokio::test]
async fn a_content_that_is_replaced_or_ended_while_it_is_read_is_not_mixed() {
    let redis = Redis::start();
    let line = Line::to(&redis, SLOW);
    let near = node(&redis).await;
    let far = connected(
        RedisStore::start(Settings { url: line.url(), ..settings(&redis) }).expect("a good URL"),
    )
    .await;
    let sid = alias("ab", 1);
    let born = taken(&near, &sized(login(&near, &sid), LARGE)).await;
    let replace = async {
        // The first pieces are on their way by now; whichever they are, no mixture is read.
        tokio::time::sleep(Duration::from_millis(100)).await;
        taken(&near, &sized(page(&near, &sid, born.birth), LARGE - 1)).await
    };
    let (content, replaced) = tokio::join!(far.content(&sid, born.version), replace);
    assert_eq!(content, Ok(None));
    let content = far.content(&sid, replaced.version).await.expect("a content");
    assert_eq!(content.map(|content| content.len()), Some(LARGE - 1));
    gone(&near, &removal(&near, &sid)).await;
    assert_eq!(far.content(&sid, replaced.version).await, Ok(None));
}

/// Prints what a second person waits for: `cargo test --test store_large -- --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_large_session_on_a_slow_line_keep_nobody_waiting() {
    const OPERATIONS: usize = 100;
    let redis = Redis::start();
    let line = Line::to(&redis, SLOW);
    let far = connected(
        RedisStore::start(Settings { url: line.url(), ..settings(&redis) }).expect("a good URL"),
    )
    .await;
    let (large, other) = (alias("ab", 1), alias("cd", 2));
    let publish = sized(login(&far, &large), LARGE);
    taken(&far, &publish).await;
    let born = taken(&far, &login(&far, &other)).await;
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (far, large, expected) = (far.clone(), large.clone(), publish.sealed.clone());
            tokio::spawn(async move { assert_eq!(read(&far, &large).await, Some(expected)) })
        })
        .collect();
    let mut waits = Vec::with_capacity(2 * OPERATIONS);
    for _ in 0..OPERATIONS {
        let began = Instant::now();
        assert!(read(&far, &other).await.is_some());
        waits.push(began.elapsed());
        let began = Instant::now();
        taken(&far, &page(&far, &other, born.birth)).await;
        waits.push(began.elapsed());
        assert_eq!(far.health(None), Health::Up, "{}", far.link_cause());
    }
    let still = readers.iter().filter(|reader| !reader.is_finished()).count();
    for reader in readers {
        reader.await.expect("read");
    }
    assert_eq!(far.health(None), Health::Up);
    waits.sort_unstable();
    let at = |percent: usize| waits[waits.len() * percent / 100].as_micros();
    println!("| {READERS} readers of {LARGE} bytes at {SLOW} bytes/s, {still} at the end | us |");
    println!("|---|---:|");
    println!("| a second person's read or save, p50 | {} |", at(50));
    println!("| a second person's read or save, p99 | {} |", at(99));
}

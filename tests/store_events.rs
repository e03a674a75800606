//! What is told of expiries.

mod support;

use sessionfs::session::name::Alias;
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::Sessions as _;
use support::redis::Redis;
use support::store::*;

#[tokio::test]
async fn every_expiry_of_somebodys_session_is_told_once_whoever_finds_it() {
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
    let told: Vec<String> = redis.run("ZRANGE sessionfs:trail 0 -1");
    let ends: Vec<_> = told.iter().filter(|event| event.starts_with("ended ")).collect();
    assert_eq!(ends.len(), 5, "{told:#?}");
    let end = |sid: &Alias| *ends.iter().find(|end| end.contains(sid.as_str())).expect("told");
    assert!(end(&by_look).starts_with("ended absolute "), "{}", end(&by_look));
    assert!(end(&by_look).contains(" 7 shop admin "), "{}", end(&by_look));
    assert!(end(&by_save).starts_with("ended idle "), "{}", end(&by_save));
}

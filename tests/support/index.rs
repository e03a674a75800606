//! The indexes of a shard, in whichever of them a session is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sessionfs::session::name::Alias;

use super::redis::Redis;

/// The keys of a shard's indexes.
pub fn keys(shard: &str) -> Vec<String> {
    let long = format!("sessionfs:a:{{{shard}}}");
    let short = (0..4).map(|quarter| format!("{long}:{quarter}"));
    [long.clone()].into_iter().chain(short).collect()
}

/// How many entries a shard has.
pub fn size(redis: &Redis, shard: &str) -> u64 {
    keys(shard).iter().map(|key| redis.run::<u64>(&format!("ZCARD {key}"))).sum()
}

/// For how long the index lives that lives longest, ms.
pub fn ttl(redis: &Redis, shard: &str) -> i64 {
    keys(shard).iter().map(|key| redis.run::<i64>(&format!("PTTL {key}"))).max().unwrap_or(-2)
}

/// Where a session is: the key of the index, the member and the score.
pub fn entry(redis: &Redis, alias: &Alias) -> Option<(String, Vec<u8>, f64)> {
    let long = URL_SAFE_NO_PAD.decode(alias.as_str()).ok();
    // 40 digits are no whole number of bytes in base64.
    let hex = || {
        let text = alias.as_str();
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
        (0..text.len()).step_by(2).map(byte).collect::<Vec<_>>()
    };
    let tail = if alias.family().is_some() { long.expect("base64") } else { hex() }.split_off(1);
    let mut found = None;
    for key in keys(alias.shard().as_str()) {
        let members: Vec<(Vec<u8>, f64)> = redis.run(&format!("ZRANGE {key} 0 -1 WITHSCORES"));
        for (member, score) in members {
            let is_its = member == alias.as_str().as_bytes()
                || (member.len() == tail.len() + 2 && member.ends_with(&tail));
            if is_its {
                assert!(found.is_none(), "{alias} is in two indexes");
                found = Some((key.clone(), member, score));
            }
        }
    }
    found
}

pub fn score(redis: &Redis, alias: &Alias) -> Option<f64> {
    entry(redis, alias).map(|(_, _, score)| score)
}

/// Gives a session another score; one that is in no index gets into the long one.
pub fn set_score(redis: &Redis, alias: &Alias, score: &str) {
    let long = || (keys(alias.shard().as_str()).remove(0), alias.as_str().into());
    let (key, member) = entry(redis, alias)
        .map_or_else(long, |(key, member, _): (String, Vec<u8>, f64)| (key, member));
    let mut command = redis::cmd("ZADD");
    command.arg(key).arg(score).arg(member);
    command.exec(&mut redis.connection()).expect("added");
}

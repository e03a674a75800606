//! The indexes of a shard, in whichever of them a session is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::Connection;
use sessionfs::session::name::Alias;

use super::redis::Redis;

/// The keys of a shard's indexes: of the long one, and of the short ones.
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

/// What an entry of a short index ends with.
fn tail(alias: &Alias) -> Vec<u8> {
    let text = alias.as_str();
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    if alias.family().is_some() {
        URL_SAFE_NO_PAD.decode(text).expect("base64").split_off(1)
    } else {
        (2..text.len()).step_by(2).map(digits).collect()
    }
}

/// Where a session is: the key of the index, the member and the score.
pub fn of(connection: &mut Connection, alias: &Alias) -> Option<(String, Vec<u8>, f64)> {
    let tail = tail(alias);
    let mut found = None;
    for key in keys(alias.shard().as_str()) {
        let mut command = redis::cmd("ZRANGE");
        command.arg(&key).arg(0).arg(-1).arg("WITHSCORES");
        let members: Vec<(Vec<u8>, f64)> = command.query(connection).expect("an index");
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

/// The index and the member of a session of the same user, whose member this is.
pub fn like(alias: &Alias, member: &[u8]) -> (String, Vec<u8>) {
    let mut keys = keys(alias.shard().as_str());
    if Alias::parse(&String::from_utf8_lossy(member)).is_some() {
        return (keys.remove(0), alias.as_str().into());
    }
    let tail = tail(alias);
    (keys.remove(1 + usize::from(tail[1] / 64)), [&member[..2], &tail].concat())
}

pub fn entry(redis: &Redis, alias: &Alias) -> Option<(String, Vec<u8>, f64)> {
    of(&mut redis.connection(), alias)
}

pub fn score(redis: &Redis, alias: &Alias) -> Option<f64> {
    entry(redis, alias).map(|(_, _, score)| score)
}

/// Gives a session another score.
pub fn set_score(redis: &Redis, alias: &Alias, score: &str) {
    let (key, member, _) = entry(redis, alias).expect("an entry");
    let mut command = redis::cmd("ZADD");
    command.arg(key).arg(score).arg(member);
    command.exec(&mut redis.connection()).expect("added");
}

//! The rights that a Redis user needs, as Redis writes them.

/// Every command that a mount, or a command of ours, ever sends.
const COMMANDS: &str = "+hello +auth +select +script|load +eval +evalsha +time +get +set +del \
                        +getrange +strlen +zadd +zrem +zscore +zcard +zrangebyscore +zrevrangebyscore +pexpire +pttl \
                        +hmget +hset +hdel +hincrby";

/// What `sessionfs check` would like to see besides.
const SEEN_BY_CHECK: &str = "+ping +info +config|get";

/// The rights for a prefix: keys and commands, to follow `ACL SETUSER NAME on >PASSWORD`.
pub(crate) fn rights(prefix: &str) -> String {
    format!("~{prefix}:* {COMMANDS}")
}

/// The same, and what `sessionfs check` would like to see.
pub(crate) fn rights_with_check(prefix: &str) -> String {
    format!("{} {SEEN_BY_CHECK}", rights(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_line_is_this_one() {
        let documented = include_str!("../../docs/redis.md");
        let line = documented.lines().map(str::trim).find(|line| line.starts_with("ACL SETUSER"));
        let ours = format!("ACL SETUSER sessionfs reset on >PASSWORD {}", rights("sessionfs"));
        assert_eq!(line, Some(ours.as_str()));
    }
}

//! The rights that a Redis user needs, as Redis writes them.

/// Every command that a mount, or a command of ours, ever sends.
const COMMANDS: &str = "+hello +auth +select +script|load +eval +evalsha +time +get +set +del \
                        +getrange +strlen +zadd +zrem +zscore +zcard +zrangebyscore +zrevrangebyscore +pexpire +pttl \
                        +hmget +hset +hdel +hincrby";

/// Those that reading a session takes.
const FOR_READS: &[&str] = &[
    "script",
    "script|load",
    "eval",
    "evalsha",
    "time",
    "getrange",
    "strlen",
    "zscore",
    "pttl",
    "hmget",
];

/// Those that a change of a session takes besides.
const FOR_WRITES: &[&str] = &["set", "del", "zadd", "zrem", "pexpire"];

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

/// Whether a session cannot be read without this command.
pub(super) fn is_for_reads(command: &str) -> bool {
    FOR_READS.contains(&command)
}

/// Whether a session can be read without this command, and not changed.
pub(super) fn is_for_writes(command: &str) -> bool {
    FOR_WRITES.contains(&command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_a_session_is_allowed() {
        for command in FOR_READS.iter().chain(FOR_WRITES).filter(|command| **command != "script") {
            let right = format!("+{command}");
            assert!(COMMANDS.split_whitespace().any(|allowed| allowed == right), "{command}");
        }
    }

    #[test]
    fn the_documented_line_is_this_one() {
        let documented = include_str!("../../docs/redis.md");
        let line = documented.lines().map(str::trim).find(|line| line.starts_with("ACL SETUSER"));
        let ours = format!("ACL SETUSER sessionfs reset on >PASSWORD {}", rights("sessionfs"));
        assert_eq!(line, Some(ours.as_str()));
    }
}

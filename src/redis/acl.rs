//! The rights that a Redis user needs, as Redis writes them.

use super::deployment::Mode;

/// Every command that a mount, or a command of ours, ever sends.
const COMMANDS: &str = "+hello +auth +select +script|load +eval +evalsha +time +get +set +del +exists \
                        +getrange +strlen +zadd +zrem +zscore +zcard +zrangebyscore +zrevrangebyscore +pexpire +pttl \
                        +hmget +hlen +hgetall +hset +hdel +hincrby +client|tracking";

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

/// What the servers of a Cluster are asked besides.
const FOR_CLUSTER: &str = "+cluster|slots +asking";

/// All that sentinels are asked. They have no keys.
const OF_SENTINELS: &str = "resetchannels &+switch-master +hello +auth +subscribe \
                            +sentinel|get-master-addr-by-name";

/// What `sessionfs check` would like to see besides.
const SEEN_BY_CHECK: &str = "+ping +info +config|get";

/// The rights for a prefix in such a deployment: keys and commands, to follow
/// `ACL SETUSER NAME on >PASSWORD`.
pub(crate) fn rights(prefix: &str, mode: Mode) -> String {
    match mode {
        Mode::Standalone | Mode::Sentinel => format!("~{prefix}:* {COMMANDS}"),
        Mode::Cluster => format!("~{prefix}:* {COMMANDS} {FOR_CLUSTER}"),
    }
}

/// The same, and what `sessionfs check` would like to see.
pub(crate) fn rights_with_check(prefix: &str, mode: Mode) -> String {
    format!("{} {SEEN_BY_CHECK}", rights(prefix, mode))
}

/// The rights of a user of the sentinels.
pub(crate) fn rights_of_sentinels() -> &'static str {
    OF_SENTINELS
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
    fn the_documented_lines_are_these() {
        let documented = include_str!("../../docs/redis.md");
        let line = |begin: &str| {
            documented.lines().find_map(|line| line.trim().strip_prefix(begin)).expect(begin)
        };
        let rights = rights("sessionfs", Mode::Standalone);
        assert_eq!(line("ACL SETUSER sessionfs reset on >PASSWORD "), rights);
        assert_eq!(line("ACL SETUSER sessionfs +cluster"), &FOR_CLUSTER["+cluster".len()..]);
        assert_eq!(line("user sessionfs on >PASSWORD "), OF_SENTINELS);
    }
}

//! The names of Redis keys. The keys of a session share its shard as their hash tag, so every
//! script stays within one slot of a cluster.

use redis::cluster_routing::Slot;

use super::index::{INDEXES, QUARTERS};
use crate::session::name::{Alias, Shard};

/// The configured prefix of all keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys under `prefix`.
    pub(crate) fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The beginning of every key, without its colon.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The slot of a Cluster that has the sessions of a shard, and their index.
    pub(crate) fn slot(shard: Shard) -> Slot {
        Slot::for_key(shard.as_str())
    }

    /// The string that holds a session: its header line and its sealed content.
    pub(crate) fn session(&self, alias: &Alias) -> String {
        format!("{}:s:{{{}}}:{}", self.prefix, alias.shard().as_str(), alias)
    }

    /// The session whose key this is.
    pub(crate) fn alias_of(&self, key: &[u8]) -> Option<Alias> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(self.prefix.as_str())?;
        let (shard, alias) = key.strip_prefix(":s:{")?.split_once("}:")?;
        Alias::parse(alias).filter(|alias| alias.shard().as_str() == shard)
    }

    /// The sorted set of a shard's sessions by last activity: the long one, see [`super::index`].
    pub(crate) fn index(&self, shard: Shard) -> String {
        format!("{}:a:{{{}}}", self.prefix, shard.as_str())
    }

    /// The short ones.
    pub(crate) fn quarters(&self, shard: Shard) -> [String; QUARTERS] {
        std::array::from_fn(|quarter| format!("{}:{quarter}", self.index(shard)))
    }

    /// All of them, the long one first.
    pub(crate) fn indexes(&self, shard: Shard) -> [String; INDEXES] {
        let [q0, q1, q2, q3] = self.quarters(shard);
        [self.index(shard), q0, q1, q2, q3]
    }

    /// The hash of live settings.
    pub(crate) fn config(&self) -> String {
        format!("{}:config", self.prefix)
    }

    /// A key that nobody makes: by asking to replace it, it is seen whether writes are taken.
    pub(crate) fn write_probe(&self, shard: Shard) -> String {
        format!("{}:write-probe:{{{}}}", self.prefix, shard.as_str())
    }

    /// The fingerprint of the secret that sessions are written with.
    pub(crate) fn secret(&self) -> String {
        format!("{}:secret", self.prefix)
    }

    /// The status of one server.
    pub(crate) fn server(&self, id: &str) -> String {
        format!("{}:server:{id}", self.prefix)
    }

    /// The sorted set of all servers by when they registered last.
    pub(crate) fn servers(&self) -> String {
        format!("{}:servers", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_of_a_session_have_the_same_hash_tag() {
        let keys = Keys::new("p");
        let alias = Alias::parse(&"a".repeat(40)).expect("an alias");
        assert_eq!(keys.session(&alias), format!("p:s:{{aa}}:{}", "a".repeat(40)));
        assert_eq!(keys.index(alias.shard()), "p:a:{aa}");
        let slot = Keys::slot(alias.shard());
        assert_eq!(Slot::for_key(keys.session(&alias)), slot);
        for index in keys.indexes(alias.shard()) {
            assert_eq!(Slot::for_key(index), slot);
        }
    }
}

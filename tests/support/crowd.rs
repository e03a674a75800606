//! Many sessions at once: copies of some that were saved, put into Redis by pipelines.

use redis::Connection;
use sessionfs::session::name::Alias;

use super::index;

/// How many are sent together.
const TOGETHER: usize = 1000;
const TTL_MS: u64 = 86_400_000;

/// Copies what is kept of `saved`, in turn, to each of these names, used at that time (ms of Redis's clock).
pub fn copy(connection: &mut Connection, saved: &[Alias], copies: &[(Alias, u64)]) {
    let key = |alias: &Alias| format!("sessionfs:s:{{{}}}:{alias}", alias.shard());
    let kept: Vec<Vec<u8>> = saved
        .iter()
        .map(|alias| redis::cmd("GET").arg(key(alias)).query(connection).expect("a session"))
        .collect();
    let entries = saved.iter().map(|alias| index::of(connection, alias).expect("an entry").1);
    let entries: Vec<_> = entries.collect();
    let mut kept = kept.iter().zip(&entries).cycle();
    for some in copies.chunks(TOGETHER) {
        let mut pipeline = redis::pipe();
        for (alias, used_ms) in some {
            let (bytes, entry) = kept.next().expect("one at least");
            let (index, member) = index::like(alias, entry);
            pipeline.cmd("SET").arg(key(alias)).arg(bytes).arg("PX").arg(TTL_MS).ignore();
            pipeline.cmd("ZADD").arg(index).arg(used_ms).arg(member).ignore();
        }
        let () = pipeline.query(connection).expect("written");
    }
}

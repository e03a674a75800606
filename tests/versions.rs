//! An inode is a version: on two nodes, under savers and readers of the same few sessions, no read
//! fails, none is torn, and none is behind a save that was acknowledged before it began.
//!
//! 100,000 reads in all with `SESSIONFS_TEST_ALL=1`; else a fifth of it.

mod support;

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use support::mount::{Mount, sid};
use support::redis::Redis;

const SHARD: &str = "ab";
const SESSIONS: u64 = 5;
const READERS_PER_NODE: usize = 3;
const SAVERS_PER_NODE: usize = 2;
/// Enough to see a pattern; a broken build must not fill the memory.
const MAX_FAILURES: usize = 20;

#[test]
fn no_read_fails_is_torn_or_is_behind_an_acknowledged_save() {
    let _alone = alone();
    Storm::new(Order::Known, Freshness::Strict).run(reads(70_000));
}

#[test]
fn no_read_fails_or_is_torn_when_both_nodes_save_at_once() {
    let _alone = alone();
    Storm::new(Order::Free, Freshness::Strict).run(reads(30_000));
}

/// With sessions kept in memory a read may be behind another server by the time that its news takes, and no longer.
#[test]
fn no_read_fails_is_torn_or_is_far_behind_with_a_near_cache() {
    let _alone = alone();
    Storm::new(Order::Known, Freshness::Near).run(reads(50_000));
}

#[test]
fn no_read_fails_or_is_torn_with_near_caches_when_both_nodes_save_at_once() {
    let _alone = alone();
    Storm::new(Order::Free, Freshness::Near).run(reads(50_000));
}

/// One storm at a time: side by side they only keep each other's requests waiting.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reads(full: u64) -> u64 {
    if std::env::var_os("SESSIONFS_TEST_ALL").is_some() { full } else { full / 5 }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Order {
    /// Savers of one session take turns, so that the order of its saves is known.
    Known,
    /// They race.
    Free,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Freshness {
    Strict,
    Near,
}

/// How far a read may be behind with near caches. Nearly always it is less than a millisecond; this machine may stand
/// still at times.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// One session as the test knows it.
struct Session {
    sid: String,
    number: u64,
    /// The number of the last save that was begun; the lock is the savers' turn.
    begun: Mutex<u64>,
    /// The number of the last save that was acknowledged.
    acknowledged: AtomicU64,
    /// When the last ones were, and one from before that time.
    past: Mutex<VecDeque<(u64, Instant)>>,
}

impl Session {
    fn acknowledge(&self, number: u64) {
        let (was, now) = (self.acknowledged.fetch_max(number, Ordering::SeqCst), Instant::now());
        if number > was {
            let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.push_back((number, now));
            while past.get(1).is_some_and(|(_, at)| now - *at > BEHIND_MAX) {
                past.pop_front();
            }
        }
    }

    /// The save that a read of now must not be behind.
    fn known(&self, freshness: Freshness) -> u64 {
        match freshness {
            Freshness::Strict => self.acknowledged.load(Ordering::SeqCst),
            Freshness::Near => {
                let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
                let old = past.iter().rev().find(|(_, at)| at.elapsed() > BEHIND_MAX);
                old.map_or(0, |(number, _)| *number)
            }
        }
    }
}

struct Storm {
    order: Order,
    freshness: Freshness,
    /// Reads that were behind a save that was acknowledged before they began.
    behind: AtomicU64,
    nodes: [Mount; 2],
    sessions: Vec<Session>,
    /// Reads still to be begun.
    to_do: AtomicU64,
    done: AtomicBool,
    saves: AtomicU64,
    /// Sizes told by `stat` that no save had, or another one than was read. Allowed only where a
    /// node could not ask Redis in time, which makes it tell a size that it does not know.
    odd_sizes: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    // Last: the nodes end before their server does.
    redis: Redis,
}

impl Storm {
    fn new(order: Order, freshness: Freshness) -> Self {
        let redis = Redis::start();
        let near = match freshness {
            Freshness::Strict => "",
            Freshness::Near => "[near_cache]\nfreshness = \"near\"\n",
        };
        let nodes = [(); 2].map(|()| Mount::start(&redis, &format!("{PATIENT}{near}")));
        let sessions: Vec<Session> = (0..SESSIONS)
            .map(|number| Session {
                sid: sid(SHARD, number),
                number,
                begun: Mutex::new(0),
                acknowledged: AtomicU64::new(0),
                past: Mutex::default(),
            })
            .collect();
        for session in &sessions {
            nodes[0].save(&session.sid, &content(session.number, 0)).expect("the first save");
        }
        let [to_do, saves, behind] = [(); 3].map(|()| AtomicU64::new(0));
        let (done, odd_sizes, failures) =
            (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self {
            order,
            freshness,
            behind,
            nodes,
            sessions,
            to_do,
            done,
            saves,
            odd_sizes,
            failures,
            redis,
        }
    }

    fn run(self, reads: u64) {
        self.to_do.store(reads, Ordering::Relaxed);
        let open_before = self.nodes.each_ref().map(open_files);
        thread::scope(|scope| {
            for node in &self.nodes {
                for _ in 0..SAVERS_PER_NODE {
                    scope.spawn(|| self.until_done(|rng| self.save_one(node, rng)));
                }
            }
            let readers: Vec<_> = (self.nodes.iter().cycle().take(2 * READERS_PER_NODE))
                .map(|node| scope.spawn(|| self.read_until_done(node)))
                .collect();
            for reader in readers {
                let _ = reader.join();
            }
            self.done.store(true, Ordering::Relaxed);
        });
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
        assert!(failures.is_empty(), "{failures}\n{}", self.warnings());
        let saves = self.saves.load(Ordering::Relaxed);
        let odd_sizes = self.odd_sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = self.behind.load(Ordering::Relaxed);
        eprintln!("{reads} reads, {saves} saves, {behind} behind, {} odd sizes", odd_sizes.len());
        assert!(saves > reads / 200, "only {saves} saves: the readers were not disturbed");
        let degraded = self.nodes.iter().any(|node| node.log().contains("degraded"));
        let odd_sizes = odd_sizes.join("\n");
        assert!(odd_sizes.is_empty() || degraded, "on a link that was well:\n{odd_sizes}");
        self.both_nodes_agree();
        self.nothing_is_left(open_before);
    }

    fn until_done(&self, mut step: impl FnMut(&mut SmallRng)) {
        let mut rng = SmallRng::from_os_rng();
        while !self.done.load(Ordering::Relaxed) {
            step(&mut rng);
        }
    }

    fn read_until_done(&self, node: &Mount) {
        let mut rng = SmallRng::from_os_rng();
        let one_less = |left: u64| left.checked_sub(1);
        while self.to_do.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            self.read_one(node, &mut rng);
            match rng.random_range(0..100) {
                0..10 => self.stat(node, &mut rng),
                10..12 => self.list(node),
                _ => {}
            }
            if self.failures.lock().is_ok_and(|failures| failures.len() >= MAX_FAILURES) {
                return;
            }
        }
    }

    fn read_one(&self, node: &Mount, rng: &mut SmallRng) {
        let session = self.pick(rng);
        let path = node.sharded(&session.sid);
        let way = [Way::Whole, Way::AsPython, Way::ByDescriptor][rng.random_range(0..3)];
        let known = session.known(self.freshness);
        let last = session.acknowledged.load(Ordering::SeqCst);
        let read = way.read(&path);
        if let Ok((bytes, Some(told))) = &read
            && *told != bytes.len()
        {
            note(
                &self.odd_sizes,
                format!("{way:?} of session {}: {told}, {} read", session.number, bytes.len()),
            );
        }
        match read
            .map_err(|error| error.to_string())
            .and_then(|(bytes, _)| number_in(session, &bytes))
        {
            Ok(number) if self.order == Order::Known && number < known => {
                self.fail(format!(
                    "{way:?} of session {}: {number}, behind {known}",
                    session.number
                ));
            }
            Ok(number) => {
                self.behind.fetch_add(u64::from(number < last), Ordering::Relaxed);
            }
            Err(error) => self.fail(format!("{way:?} of session {}: {error}", session.number)),
        }
    }

    fn save_one(&self, node: &Mount, rng: &mut SmallRng) {
        let session = self.pick(rng);
        let mut turn = session.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        let number = *turn;
        // Without an order the turn ends before the save begins.
        let turn = (self.order == Order::Known).then_some(turn);
        let target = node.sharded(&session.sid);
        let saved = node
            .stage(&content(session.number, number))
            .and_then(|temp| std::fs::rename(temp, &target))
            .map(|()| session.acknowledge(number))
            .and_then(|()| {
                std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644))
            });
        drop(turn);
        self.saves.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = saved {
            self.fail(format!("save {number} of session {}: {error}", session.number));
        }
    }

    fn stat(&self, node: &Mount, rng: &mut SmallRng) {
        let session = self.pick(rng);
        match std::fs::metadata(node.sharded(&session.sid)) {
            Ok(metadata) if metadata.len() >= MIN_BYTES as u64 => {}
            Ok(metadata) => note(
                &self.odd_sizes,
                format!("stat of session {}: {}", session.number, metadata.len()),
            ),
            other => self.fail(format!("stat of session {}: {other:?}", session.number)),
        }
    }

    /// Every session is there all the time, under the same alias.
    fn list(&self, node: &Mount) {
        let listed: io::Result<BTreeSet<String>> = std::fs::read_dir(node.path().join(SHARD))
            .and_then(|entries| {
                entries
                    .map(|entry| {
                        let entry = entry?;
                        entry.metadata()?;
                        Ok(entry.file_name().to_string_lossy().into_owned())
                    })
                    .collect()
            });
        match listed {
            Ok(names) if names.len() as u64 == SESSIONS => {}
            other => self.fail(format!("a listing: {other:?}")),
        }
    }

    fn pick(&self, rng: &mut SmallRng) -> &Session {
        &self.sessions[rng.random_range(0..self.sessions.len())]
    }

    fn fail(&self, what: String) {
        note(&self.failures, what);
    }

    /// What the nodes have said of their failures.
    fn warnings(&self) -> String {
        let logs = self.nodes.each_ref().map(Mount::log);
        let mut lines: Vec<_> = logs
            .iter()
            .flat_map(|log| log.lines())
            .filter(|line| line.contains(" WARN "))
            .collect();
        lines.sort_unstable();
        lines.truncate(2 * MAX_FAILURES);
        lines.join("\n")
    }

    /// Once what a node may have kept for Redis is sent.
    fn both_nodes_agree(&self) {
        let holds_none = |node: &Mount| {
            let log = node.log();
            let count = |event: &str| log.matches(&format!(r#"event="change_{event}""#)).count();
            count("kept") == count("sent") + count("dropped")
        };
        eventually("what was kept is sent", || self.nodes.iter().all(holds_none));
        for session in &self.sessions {
            let read = || self.nodes.each_ref().map(|node| node.read(&session.sid).expect("read"));
            let number = |bytes: &[u8]| number_in(session, bytes).expect("a save");
            eventually("the nodes agree", || {
                let [one, two] = read();
                self.freshness == Freshness::Strict || number(&one) == number(&two)
            });
            let [one, two] = read();
            assert_eq!(number_in(session, &one), number_in(session, &two));
            let last = session.acknowledged.load(Ordering::SeqCst);
            if self.order == Order::Known {
                assert_eq!(number_in(session, &one), Ok(last));
            }
        }
    }

    /// No staging file (the root would list it), no open file of one, and only the sessions' keys.
    fn nothing_is_left(&self, open_before: [usize; 2]) {
        for (node, before) in self.nodes.iter().zip(open_before) {
            assert_eq!(node.list(&node.path()), [SHARD]);
            // Links to Redis may come and go; files of saves would be thousands. The kernel tells of
            // the last `close` of a file later.
            eventually("no file is left open", || open_files(node) <= before + 4);
        }
        // The others are their indexes.
        let keys = self.redis.session_keys();
        let sessions = keys.iter().filter(|key| key.starts_with("sessionfs:s:"));
        assert_eq!(sessions.count() as u64, SESSIONS);
    }
}

/// A shared test machine stands still at times; that is no outage. A request is overdue as soon as ever,
/// so what a node does then is tested here, too.
const PATIENT: &str = "
[redis]
connect_timeout = \"30s\"
request_timeout = \"30s\"

[outage]
wait_total = \"5min\"
";

/// Notes one more, as far as a pattern needs it.
fn note(notes: &Mutex<Vec<String>>, what: String) {
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    if notes.len() < MAX_FAILURES {
        notes.push(what);
    }
}

/// Waits for what the nodes do by themselves.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The ways in which bytes of a session are got at.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// As coreutils do.
    Whole,
    /// As Python's `f.read()` does: one byte more than `fstat` tells, then until nothing comes.
    AsPython,
    /// The name is resolved first, and its inode opened later.
    ByDescriptor,
}

impl Way {
    /// The bytes, and how many `fstat` told if it was asked.
    fn read(self, path: &Path) -> io::Result<(Vec<u8>, Option<usize>)> {
        let mut bytes = Vec::new();
        let mut size = None;
        match self {
            Self::Whole => {
                File::open(path)?.read_to_end(&mut bytes)?;
            }
            Self::AsPython => {
                let mut file = File::open(path)?;
                let told = usize::try_from(file.metadata()?.size()).expect("a length");
                bytes.resize(told + 1, 0);
                let mut read = 0;
                loop {
                    let more = file.read(&mut bytes[read..])?;
                    read += more;
                    if more == 0 {
                        break;
                    }
                    bytes.resize(bytes.len().max(read + 4096), 0);
                }
                bytes.truncate(read);
                size = Some(told);
            }
            Self::ByDescriptor => {
                let name = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
                File::open(format!("/proc/self/fd/{}", name.as_raw_fd()))?
                    .read_to_end(&mut bytes)?;
            }
        }
        Ok((bytes, size))
    }
}

const MIN_BYTES: usize = 100;

/// The content of one save, told by its number to the last byte: most of them small, some up to
/// 300 KB, each of its own length, and bytes that occur in no other save.
fn content(session: u64, number: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(session << 32 | number);
    let most = match rng.random_range(0..200) {
        0..150 => 1_000,
        150..197 => 8_000,
        197..199 => 70_000,
        _ => 300_000,
    };
    let length = rng.random_range(MIN_BYTES..=most);
    let filling = format!("{:016x}", rng.random::<u64>());
    let mut bytes = begin(session);
    bytes.extend(format!(r#"{number:010}", "x": ""#).into_bytes());
    let begun = bytes.len();
    bytes.extend(filling.as_bytes().repeat(length / filling.len()));
    bytes.truncate(begun.max(length - 2));
    bytes.extend(br#""}"#);
    bytes
}

/// What stands before the number.
fn begin(session: u64) -> Vec<u8> {
    format!(r#"{{"uid": 2, "session": "{session:02}", "number": ""#).into_bytes()
}

/// Which save of `session` these bytes are; an error if they are no save's.
fn number_in(session: &Session, bytes: &[u8]) -> Result<u64, String> {
    let torn = |why: &str| {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
        format!("torn, {why}: {} bytes, {begin}", bytes.len())
    };
    let begun = begin(session.number).len();
    let number = bytes
        .get(begun..begun + 10)
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| torn("no number"))?;
    let saved = content(session.number, number);
    if bytes.len() != saved.len() {
        return Err(torn("another length"));
    }
    if bytes == saved { Ok(number) } else { Err(torn("other bytes")) }
}

/// The descriptors that a node's worker holds.
fn open_files(node: &Mount) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.worker())).expect("the worker").count()
}

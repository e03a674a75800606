//! An inode is a version: on two nodes, under savers and readers of the same few sessions, no read
//! fails, none is torn, and none is behind a save that was acknowledged before it began.
//!
//! 100,000 reads in all with `SESSIONFS_TEST_ALL=1`; else a fifth of it.

mod support;

use std::collections::BTreeSet;
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
    Storm::new(Order::Known).run(reads(70_000));
}

#[test]
fn no_read_fails_or_is_torn_when_both_nodes_save_at_once() {
    let _alone = alone();
    Storm::new(Order::Free).run(reads(30_000));
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

/// One session as the test knows it.
struct Session {
    sid: String,
    number: u64,
    /// The number of the last save that was begun; the lock is the savers' turn.
    begun: Mutex<u64>,
    /// The number of the last save that was acknowledged.
    acknowledged: AtomicU64,
}

struct Storm {
    order: Order,
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
    fn new(order: Order) -> Self {
        let redis = Redis::start();
        let nodes = [Mount::start(&redis, PATIENT), Mount::start(&redis, PATIENT)];
        let sessions: Vec<Session> = (0..SESSIONS)
            .map(|number| Session {
                sid: sid(SHARD, number),
                number,
                begun: Mutex::new(0),
                acknowledged: AtomicU64::new(0),
            })
            .collect();
        for session in &sessions {
            nodes[0].save(&session.sid, &content(session.number, 0)).expect("the first save");
        }
        let [to_do, saves] = [(); 2].map(|()| AtomicU64::new(0));
        let (done, odd_sizes, failures) =
            (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self { order, nodes, sessions, to_do, done, saves, odd_sizes, failures, redis }
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
        eprintln!("{reads} reads, {saves} saves, {} odd sizes", odd_sizes.len());
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
        let known = session.acknowledged.load(Ordering::SeqCst);
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
            Ok(_) => {}
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
            .map(|()| session.acknowledged.fetch_max(number, Ordering::SeqCst))
            .and_then(|_| {
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
            let [one, two] =
                self.nodes.each_ref().map(|node| node.read(&session.sid).expect("read"));
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
        // And their index.
        assert_eq!(self.redis.session_keys().len() as u64, SESSIONS + 1);
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

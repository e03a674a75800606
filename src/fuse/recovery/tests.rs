//! Recoveries of a connection whose kernel is played.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use fuser::{INodeNo, OpenFlags, ReplyOpen, Request};

use super::super::wire::tests::request;
use super::*;
use crate::handoff;
use crate::sync::lock;

const OPEN: u32 = 14;
const INIT: u32 = 26;
const SENT_AGAIN: u64 = 1 << 63;

/// The kernel: who waits, and what was answered.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: BTreeSet<u64>,
    /// Each answer: the unique, and the error number.
    answers: Vec<(u64, i32)>,
    /// What the core was told of, in the same way.
    died_of: Vec<u64>,
    /// What was kept when it was asked to send requests again.
    kept_at_resend: Option<Vec<u64>>,
    resend_fails: bool,
    /// What can be read.
    sent: VecDeque<Vec<u8>>,
    kept: Kept,
}

impl Kernel for Played {
    fn write(&self, message: &[u8]) -> nix::Result<()> {
        let state = &mut *lock(&self.0);
        let word = i32::from_ne_bytes(message[4..8].try_into().unwrap());
        let Some(Unique(unique)) = wire::answered(message) else {
            if state.resend_fails {
                return Err(Errno::EINVAL);
            }
            state.kept_at_resend = Some(state.kept.numbers(Kind::Request));
            let again = |number: &u64| request(OPEN, number | SENT_AGAIN, &[0; 8]);
            state.sent = state.waiting.iter().map(again).collect();
            return Ok(());
        };
        let number = unique & !1 & !SENT_AGAIN;
        if !state.waiting.contains(&number) {
            return Err(Errno::ENOENT);
        }
        if unique & 1 == 0 {
            state.waiting.remove(&number);
            state.answers.push((number, -word));
        }
        Ok(())
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.0).sent.pop_front())
    }
}

/// Opens nothing: a request waits, but for one, whose handling does not end before the test.
struct Filesystem {
    seen: Sender<u64>,
    poison: u64,
    test: Arc<Mutex<()>>,
    waiting: Mutex<Vec<ReplyOpen>>,
}

impl fuser::Filesystem for Filesystem {
    fn open(&self, request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let number = Unique(request.unique().0).of_request();
        // The test may be over.
        let _ = self.seen.send(number);
        if number == self.poison {
            drop(lock(&self.test));
        }
        lock(&self.waiting).push(reply);
    }

    fn fsyncdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: fuser::FileHandle,
        _: bool,
        reply: fuser::ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// A connection that workers take over one after the other.
struct Connection {
    memory: OwnedFd,
    kernel: Played,
    init: Init,
    /// Locked as long as the test runs.
    test: Arc<Mutex<()>>,
}

impl Connection {
    /// Whose worker has left these unanswered.
    fn left(numbers: &[u64]) -> Self {
        let memory = handoff::create().unwrap();
        let kept = Kept::open(&memory).unwrap();
        for number in numbers {
            let bytes = request(OPEN, *number, &[0; 8]);
            assert!(in_flight::put(&kept, Unique(*number), &bytes));
        }
        let kernel = Played::default();
        lock(&kernel.0).waiting.extend(numbers);
        let mut body = [0; 64];
        for (at, word) in [7, 40, 1 << 17, 1 << 30, 1 << 7].into_iter().enumerate() {
            body[at * 4..][..4].copy_from_slice(&u32::to_ne_bytes(word));
        }
        let init = Init::parse(&request(INIT, 1000, &body)).unwrap();
        assert!(init.has_resend());
        Self { memory, kernel, init, test: Arc::default() }
    }

    /// The next worker, on a thread of its own. Gives what it sees.
    fn recover(&self, after: Ended, poison: u64, may_resend: bool) -> Receiver<u64> {
        let kept = Kept::open(&self.memory).unwrap();
        lock(&self.kernel.0).kept = kept.clone();
        let (seen, requests) = channel();
        let test = Arc::clone(&self.test);
        let filesystem = Filesystem { seen, poison, test, waiting: Mutex::default() };
        let (kernel, init) = (self.kernel.clone(), self.init.clone());
        std::thread::spawn(move || {
            let (alias, await_store) = (|_: &Subject<'_>| None, || ());
            let died_of = |subject: &Subject<'_>| {
                let number = subject.caller.request.unwrap().number;
                lock(&kernel.0).died_of.push(number);
            };
            let recovery = Recovery {
                kernel: kernel.clone(),
                init: &init,
                kept: &kept,
                after,
                may_resend,
                alias: &alias,
                died_of: &died_of,
                await_store: &await_store,
            };
            recovery.run(filesystem, super::super::config(1)).unwrap();
        });
        requests
    }
}

/// What waits has nothing to do with the worker's death, whether it is older or not.
#[test]
fn a_request_that_kills_fails_alone_also_if_others_were_let_go_before() {
    for may_resend in [true, false] {
        let connection = Connection::left(&[2, 4, 6]);
        let test = Arc::clone(&connection.test);
        let _running = lock(&test);
        // All at once; the second one kills.
        let sees = connection.recover(Ended::Crashed, 4, false);
        assert_eq!([sees.recv(), sees.recv()], [Ok(2), Ok(4)]);
        // Two are running at its death, so it is not decided.
        let sees = connection.recover(Ended::Crashed, 4, may_resend);
        assert_eq!([sees.recv(), sees.recv()], [Ok(2), Ok(4)]);
        // The last one is the first now, and alone.
        let sees = connection.recover(Ended::Crashed, 4, may_resend);
        assert_eq!(sees.recv(), Ok(4));
        let sees = connection.recover(Ended::Stuck, 0, may_resend);
        assert_eq!([sees.recv(), sees.recv()], [Ok(2), Ok(6)]);
        // It ends with its last trial.
        assert!(sees.recv().is_err());
        let state = lock(&connection.kernel.0);
        assert_eq!(state.answers.first(), Some(&(4, libc::EIO)));
        assert_eq!(state.died_of, [4]);
    }
}

/// One that had no room, or was taken out of the record by a worker that died before it asked.
#[test]
fn what_was_not_recorded_is_sent_again_before_a_trial() {
    let connection = Connection::left(&[2]);
    lock(&connection.kernel.0).waiting.extend([4, 6]);
    for _ in 0..2 {
        let kept = Kept::open(&connection.memory).unwrap();
        Suspects::new(&kept).worker_died(Ended::Crashed, &[2]);
    }
    // What its end leaves unanswered fails, so it does not end before the test.
    let test = Arc::clone(&connection.test);
    let _running = lock(&test);
    let sees = connection.recover(Ended::Planned, 2, true);
    assert_eq!([sees.recv(), sees.recv(), sees.recv()], [Ok(4), Ok(6), Ok(2)]);
    let state = lock(&connection.kernel.0);
    assert_eq!(state.kept.numbers(Kind::Request), [2, 4, 6]);
}

#[test]
fn nothing_is_kept_of_what_the_kernel_sends_again() {
    let connection = Connection::left(&[2]);
    let sees = connection.recover(Ended::Killed, 0, true);
    assert!(sees.recv().is_err());
    assert_eq!(lock(&connection.kernel.0).kept_at_resend, Some(vec![]));
}

#[test]
fn what_the_kernel_does_not_send_again_is_replayed() {
    let connection = Connection::left(&[2]);
    lock(&connection.kernel.0).resend_fails = true;
    let sees = connection.recover(Ended::Killed, 0, true);
    assert_eq!(sees.recv(), Ok(2));
}

/// The kernel says so of one that it is about to send again, too.
#[test]
fn the_change_of_a_request_that_nobody_seems_to_wait_for_is_kept() {
    let connection = Connection::left(&[2]);
    let kept = Kept::open(&connection.memory).unwrap();
    assert!(kept.put(Kind::Change, 2, &[b"change"]));
    lock(&connection.kernel.0).waiting.clear();
    let sees = connection.recover(Ended::Killed, 0, false);
    assert!(sees.recv().is_err());
    let kept = &lock(&connection.kernel.0).kept;
    assert_eq!((kept.numbers(Kind::Request), kept.numbers(Kind::Change)), (vec![], vec![2]));
}

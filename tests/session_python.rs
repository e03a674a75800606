//! No content looks anonymous to us and logged in to the Python that reads it.
//!
//! Real sessions are changed at random (bytes, cuts, pieces of other sessions) and read by both.
//! Needs `python3`, 3.8 or later.
// The lint knows only the test functions themselves as tests.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use sessionfs::session::content::{Class, read};

const ROUNDS: usize = 30_000;
/// The large ones would only slow it down.
const LARGEST: usize = 8192;
const PIECES: [&[u8]; 16] = [
    b"N",
    b"s",
    b"u",
    b"(",
    b"0",
    b"2",
    b"}",
    b"\x94",
    b"h\x00",
    b"q\x00",
    b"\x8c\x0dsession_token",
    b"\x8c\x0dsession_tokenN",
    b"\x8c\x0dsession_token\x94\x8c\x01x",
    b"\"session_token\": \"x\", ",
    b", \"session\\u005ftoken\": null",
    b"cbuiltins\nstr\n",
];

struct Python {
    child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

impl Python {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/session_oracle.py");
        let mut child = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Python reports there what some of the damaged bytearrays do to it.
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs python3");
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, questions, answers }
    }

    fn verdict(&mut self, content: &[u8]) -> char {
        let len = u32::try_from(content.len()).unwrap().to_le_bytes();
        self.questions.write_all(&[&len, content].concat()).unwrap();
        let mut answer = [0];
        if self.answers.read_exact(&mut answer).is_err() {
            // A content that kills Python logs nobody in.
            *self = Self::start();
            return 'u';
        }
        answer[0].into()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["tests/fixtures/sessions", "fuzz/seeds/content"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .filter(|bytes| bytes.len() <= LARGEST)
        .collect()
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let end = random.random_range(at..=bytes.len().min(at + 12));
    match random.random_range(0..5) {
        0 if at < bytes.len() => bytes[at] = random.random(),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let other = seeds.choose(random).unwrap();
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len().min(from + 40));
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        _ => drop(bytes.splice(at..at, PIECES.choose(random).unwrap().iter().copied())),
    }
}

#[test]
fn nothing_looks_anonymous_that_python_takes_for_logged_in() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut python = Python::start();
    let seeds = seeds();
    assert_eq!(python.verdict(b"{}"), 'a', "the oracle does not answer");
    let mut readable_by_both = 0;
    for _ in 0..ROUNDS {
        let mut bytes = seeds.choose(&mut random).unwrap().clone();
        for _ in 0..random.random_range(0..4) {
            change(&mut bytes, &seeds, &mut random);
        }
        let ours = read(&bytes).class;
        match python.verdict(&bytes) {
            'l' => {
                let shown = bytes.escape_ascii();
                assert_eq!(ours, Class::Authenticated, "seed {seed}: b\"{shown}\"");
            }
            'a' if ours == Class::Anonymous => readable_by_both += 1,
            _ => {}
        }
    }
    assert!(readable_by_both > ROUNDS / 20, "only {readable_by_both} were readable");
}

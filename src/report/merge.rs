//! The entries of several files as one trail, by time.
//!
//! Each server has a file of its own, and now and then another one of them writes the trail. In a file entries are nearly in
//! order: those that waited in Redis, or that a server says itself, come a little late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufRead};
use std::path::PathBuf;

use crate::trail::entry::Entry;

/// A longer line is not one of the trail.
pub(super) const LINE_MAX_BYTES: usize = 64 * 1024;
/// By how many entries one may be late in its file.
const LATE_MAX: usize = 2000;

/// A file of the trail.
pub(crate) struct Source<R> {
    path: PathBuf,
    lines: R,
    /// The time of its first entry, as far as that is known before it is read.
    begins_ms: u64,
    /// The next ones.
    next: BinaryHeap<Reverse<Next>>,
    /// How many were read.
    number: u64,
    has_more: bool,
}

impl<R: BufRead> Source<R> {
    /// Looks at the beginning of it.
    pub(crate) fn new(path: PathBuf, mut lines: R) -> io::Result<Self> {
        let first = lines.fill_buf()?.split(|byte| *byte == b'\n').find_map(Entry::parse);
        Ok(Self {
            path,
            lines,
            begins_ms: first.map_or(0, |entry| entry.at_ms),
            next: BinaryHeap::new(),
            number: 0,
            has_more: true,
        })
    }

    /// The time of its next entry.
    fn next_ms(&self) -> u64 {
        self.next.peek().map_or(self.begins_ms, |Reverse(next)| next.at_ms)
    }

    /// Reads as many entries as may be late. Returns how many lines were none.
    fn read_ahead(&mut self) -> io::Result<u64> {
        let (mut line, mut unreadable) = (Vec::new(), 0);
        while self.has_more && self.next.len() < LATE_MAX {
            let Some(is_whole) = next_line(&mut self.lines, &mut line)? else {
                self.has_more = false;
                break;
            };
            match Entry::parse_any(&line).filter(|_| is_whole) {
                Some(entry) => {
                    self.number += 1;
                    let (at_ms, number) = (entry.at_ms, self.number);
                    self.next.push(Reverse(Next { at_ms, number, entry }));
                }
                None if line.iter().all(u8::is_ascii_whitespace) && is_whole => {}
                None => unreadable += 1,
            }
        }
        Ok(unreadable)
    }
}

/// An entry, ordered by its time, and then by its line.
struct Next {
    at_ms: u64,
    number: u64,
    entry: Entry,
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Next {}

/// A file that could not be read to its end.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub path: PathBuf,
    pub error: io::Error,
}

/// The trail of all files.
pub(super) struct Merged<R> {
    sources: Vec<Source<R>>,
    /// Lines that are no entries.
    pub unreadable: u64,
}

impl<R: BufRead> Merged<R> {
    pub(super) fn of(sources: Vec<Source<R>>) -> Self {
        Self { sources, unreadable: 0 }
    }

    /// The next entry of them all. A file is read ahead from its own time on: of files that follow each other one at a time.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Unreadable> {
        loop {
            let numbers = 0..self.sources.len();
            let Some(first) = numbers.min_by_key(|number| self.sources[*number].next_ms()) else {
                return Ok(None);
            };
            let source = &mut self.sources[first];
            let is_known = !source.next.is_empty();
            if is_known && (!source.has_more || source.next.len() >= LATE_MAX) {
                return Ok(source.next.pop().map(|Reverse(next)| next.entry));
            }
            if !is_known && !source.has_more {
                self.sources.swap_remove(first);
                continue;
            }
            let read = source.read_ahead();
            let path = &source.path;
            self.unreadable += read.map_err(|error| Unreadable { path: path.clone(), error })?;
        }
    }
}

/// Reads one line, without its line feed. Of a line that is too long its beginning, and `false`; `None` at the end.
fn next_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let (mut is_whole, mut any) = (true, false);
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(any.then_some(is_whole));
        }
        any = true;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if line.len() + part.len() > LINE_MAX_BYTES {
            is_whole = false;
        } else {
            line.extend_from_slice(part);
        }
        let read = end.map_or(bytes.len(), |end| end + 1);
        file.consume(read);
        if end.is_some() {
            return Ok(Some(is_whole));
        }
    }
}

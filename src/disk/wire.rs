//! What is asked of the disk server, and what it answers. Each message is a frame: the lengths of
//! its two parts, a head in JSON, and bytes that nobody on the way looks into.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::directory::Others;
use super::opened::NotServed;

/// No head is longer.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// No content is longer: more than the largest value of `limits.session`.
const BODY_MAX_BYTES: usize = 80 << 20;

/// From the client.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Request {
    /// Nothing: whether everything is opened.
    Look,
    /// All session files; answered by as many [`Answer::Names`] as it takes.
    List,
    /// One file's content.
    Read {
        /// Which ([`super::Place::path`]).
        path: String,
    },
    /// Moves one file to the import directory, if it still is that one.
    Take { path: String, inode: u64 },
    /// Takes one file away: moves it to the archive or deletes it, as the server was started.
    Retire { path: String },
    /// Writes one file anew; its content is the body.
    Write {
        path: String,
        /// Its mtime, nanoseconds since the epoch.
        mtime_ns: i64,
        /// Its permission bits.
        mode: u32,
    },
    /// Removes shard directories that are empty.
    Tidy,
}

/// From the disk server.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Answer {
    /// Some names, one a line in the body.
    Names {
        /// What else lies there; with the last names only.
        last: Option<Others>,
    },
    /// The file's content is the body.
    File {
        /// Its mtime, nanoseconds since the epoch.
        mtime_ns: i64,
        /// Its permission bits.
        mode: u32,
        inode: u64,
    },
    /// There is no such file.
    Absent,
    /// The file was gone, or it was another one.
    Changed,
    /// It is longer than a session may be.
    TooLong,
    Done,
    /// To each request: nothing is touched.
    NotServed(NotServed),
    /// It could not be done. The reason holds no name.
    Failed {
        /// The system's words.
        why: String,
    },
}

/// The lengths that precede each frame.
pub(crate) const PREFIX_BYTES: usize = 8;

/// One frame, packed.
pub(crate) fn pack(head: &impl Serialize, body: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut frame = Vec::with_capacity(PREFIX_BYTES + head.len() + body.len());
    for part in [&head[..], body] {
        frame
            .extend_from_slice(&u32::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes());
    }
    frame.extend_from_slice(&head);
    frame.extend_from_slice(body);
    Ok(frame)
}

/// The lengths of head and body, if they are within their bounds.
pub(crate) fn lengths(prefix: [u8; PREFIX_BYTES]) -> io::Result<(usize, usize)> {
    let (head, body) = prefix.split_at(PREFIX_BYTES / 2);
    let [head, body] = [head, body].map(|length| {
        length.iter().fold(0, |length: usize, byte| length << 8 | usize::from(*byte))
    });
    if head > HEAD_MAX_BYTES || body > BODY_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too large"));
    }
    Ok((head, body))
}

/// Reads a frame's head.
pub(crate) fn unpack<M: DeserializeOwned>(head: &[u8]) -> io::Result<M> {
    // A parser's error may repeat what it read, and that is a name.
    serde_json::from_slice(head)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a message"))
}

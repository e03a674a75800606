//! How many session files there are, how large and how old. Of their names only the shape is looked at.

use std::fs::{DirEntry, Metadata};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// The most files that are looked at.
const FILES_MAX: usize = 1_000_000;
/// How long it may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Odoo 14 and 15 keep all files in one directory, under such names.
const FLAT: (&str, &str) = ("werkzeug_", ".sess");
/// Later ones have a directory for each beginning of so many characters.
const SHARD_CHARS: usize = 2;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The ages by which files are counted, in seconds.
const AGES: [(&str, u64); 5] = [
    ("15 min", 15 * MINUTE),
    ("1 h", HOUR),
    ("1 day", DAY),
    ("7 days", 7 * DAY),
    ("longer ago", u64::MAX),
];

/// The session files of a directory.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Files {
    pub count: usize,
    pub bytes: u64,
    /// Half of them are no larger.
    pub median_bytes: u64,
    pub largest_bytes: u64,
    /// How many were saved last so long ago at most, and longer ago than the entry before.
    pub ages: Vec<Age>,
    /// There were too many, or it took too long.
    pub partly: bool,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Age {
    pub up_to: String,
    pub count: usize,
}

/// Counts them.
pub(crate) fn look(directory: &Path) -> Files {
    let mut look =
        Look { end: Instant::now() + TIME_MAX, sizes: Vec::new(), ages: [0; 5], partly: false };
    look.entries(directory, &mut |look, entry, found| {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        if found.is_dir() && name.chars().count() == SHARD_CHARS {
            look.entries(&entry.path(), &mut |look, _, found| look.count(&found));
        } else if name.starts_with(FLAT.0) && name.ends_with(FLAT.1) {
            look.count(&found);
        }
    });
    look.found()
}

struct Look {
    end: Instant,
    sizes: Vec<u64>,
    ages: [usize; AGES.len()],
    partly: bool,
}

impl Look {
    fn entries(&mut self, directory: &Path, each: &mut dyn FnMut(&mut Self, &DirEntry, Metadata)) {
        // A directory or file may go away at any time.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if self.sizes.len() >= FILES_MAX || Instant::now() >= self.end {
                self.partly = true;
                return;
            }
            if let Ok(found) = entry.metadata() {
                each(self, &entry, found);
            }
        }
    }

    fn count(&mut self, found: &Metadata) {
        if !found.is_file() {
            return;
        }
        self.sizes.push(found.len());
        let saved = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        // A clock that was set back makes no file old.
        let age = SystemTime::now().duration_since(saved).unwrap_or_default().as_secs();
        if let Some(at) = AGES.iter().position(|(_, up_to)| age <= *up_to) {
            self.ages[at] += 1;
        }
    }

    fn found(mut self) -> Files {
        self.sizes.sort_unstable();
        let ages = AGES.iter().zip(self.ages);
        Files {
            count: self.sizes.len(),
            bytes: self.sizes.iter().sum(),
            median_bytes: self
                .sizes
                .get(self.sizes.len().saturating_sub(1) / 2)
                .copied()
                .unwrap_or(0),
            largest_bytes: self.sizes.last().copied().unwrap_or(0),
            ages: ages
                .map(|((up_to, _), count)| Age { up_to: (*up_to).to_owned(), count })
                .collect(),
            partly: self.partly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_files_are_counted_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: usize| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, vec![0; bytes]).unwrap();
            path
        };
        write("ab/one", 10);
        write("ab/two", 30);
        let old = write("werkzeug_three.sess", 20);
        write("tmpabcdefgh.__wz_sess", 5);
        write("abc/four", 5);
        let day = Duration::from_secs(2 * DAY);
        let time = SystemTime::now() - day;
        std::fs::File::options().write(true).open(old).unwrap().set_modified(time).unwrap();
        let found = look(directory.path());
        assert_eq!(
            (found.count, found.bytes, found.median_bytes, found.largest_bytes),
            (3, 60, 20, 30)
        );
        let ages: Vec<usize> = found.ages.iter().map(|age| age.count).collect();
        assert_eq!(ages, [2, 0, 0, 1, 0]);
        assert!(!found.partly);
    }
}

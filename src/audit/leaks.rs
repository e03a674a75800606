//! Where a session id must not be: in logs, in the listing of the session directory, in Redis.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::{UnlinkatFlags, unlinkat};

use super::finding::{Finding, Grade, Question};
use crate::host::ask::{Unanswered, hear};
use crate::host::{bounded, directory};
use crate::redis::search::Searched;
use crate::session::name::{Form, Sid};

/// How much of one log is searched: what was written while the audit ran is less.
const LOG_MAX_BYTES: u64 = 256 << 20;
/// Pieces of a log that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// The journal, or one directory.
const WITHIN: Duration = Duration::from_secs(10);
/// Entries of one directory that are looked at.
const ENTRIES_MAX: usize = 200_000;
/// Where logs usually are, besides those that configurations name.
pub(crate) const USUAL_LOGS: [&str; 5] = [
    "/var/log/nginx/access.log",
    "/var/log/nginx/error.log",
    "/var/log/odoo/odoo-server.log",
    "/var/log/odoo/odoo.log",
    "/var/log/syslog",
];

/// A log as it was before the audit began: what stands in it already is not searched.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// What was there, and its length: it is searched also after it was rotated.
    before: Option<(Arc<File>, u64)>,
    /// Whether it was named by the person, and so has to be there.
    is_asked: bool,
    /// Whether nginx writes it by a buffer, so that not all may be in it yet.
    is_buffered: bool,
}

impl Log {
    pub(crate) fn mark(path: PathBuf, is_asked: bool, is_buffered: bool) -> Self {
        let before = open(&path).and_then(|file| Ok((file.metadata()?, file))).ok();
        let before = before.map(|(found, file)| (Arc::new(file), found.len()));
        Self { path, before, is_asked, is_buffered }
    }

    /// Whether one of these ids was written to it since. `None` if there is no such file. An error says why it is not
    /// known that there is none.
    fn has(&self, sids: &[Sid]) -> Option<Result<bool, String>> {
        let file = match open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.is_asked => return None,
            Err(error) => return Some(Err(error.to_string())),
        };
        Some(self.search(&file, sids).map_err(|error| error.to_string()))
    }

    fn search(&self, file: &File, sids: &[Sid]) -> std::io::Result<bool> {
        let found = file.metadata()?;
        let Some((before, length)) = &self.before else {
            return search(file, 0, LOG_MAX_BYTES, sids);
        };
        let was = before.metadata()?;
        let is_it = (was.dev(), was.ino()) == (found.dev(), found.ino());
        let is_emptied = was.len() < *length;
        let from = if is_emptied { 0 } else { *length };
        if search(before, from, LOG_MAX_BYTES, sids)?
            || !is_it && search(file, 0, LOG_MAX_BYTES, sids)?
        {
            return Ok(true);
        }
        let unread = |why: &str| Err(std::io::Error::other(why.to_owned()));
        if is_emptied {
            return unread("was emptied while the audit ran");
        }
        if self.is_buffered {
            return unread(
                "is written by a buffer (access_log ... buffer=), which may have the rest",
            );
        }
        Ok(false)
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

/// Whether one of these ids stands behind that place of a file, within so many bytes.
fn search(mut file: &File, from: u64, most_bytes: u64, sids: &[Sid]) -> std::io::Result<bool> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(std::io::Error::other("is not a regular file"));
    }
    file.seek(SeekFrom::Start(from))?;
    let mut looking = Looking::new(sids);
    let mut rest = file.take(most_bytes);
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    while !looking.has_found && rest.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)? > 0
    {
        looking.at(&piece);
        piece.clear();
    }
    if !looking.has_found && rest.limit() == 0 {
        let why = format!("got more than {} MiB while the audit ran", most_bytes >> 20);
        return Err(std::io::Error::other(why));
    }
    Ok(looking.has_found)
}

/// A search in a text that comes piece by piece.
struct Looking<'a> {
    sids: &'a [Sid],
    /// The end of what came: an id may lie across the border of two pieces.
    end: Vec<u8>,
    has_found: bool,
}

impl<'a> Looking<'a> {
    fn new(sids: &'a [Sid]) -> Self {
        Self { sids, end: Vec::new(), has_found: false }
    }

    fn at(&mut self, piece: &[u8]) {
        if self.has_found {
            return;
        }
        self.end.extend_from_slice(piece);
        self.has_found = self.sids.iter().any(|sid| contains(&self.end, sid.expose()));
        let longest = self.sids.iter().map(|sid| sid.expose().len()).max().unwrap_or_default();
        self.end.drain(..self.end.len().saturating_sub(longest));
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|found| found == text.as_bytes())
}

/// Searches the logs, and the journal from a time on.
pub(crate) fn logs(logs: &[Log], since: SystemTime, sids: &[Sid]) -> Finding {
    let question = Question::Logs;
    let (mut searched, mut leaking, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for log in logs {
        let name = log.path.display().to_string();
        match log.has(sids) {
            None => {}
            Some(Ok(false)) => searched.push(name),
            Some(Ok(true)) => leaking.push(name),
            Some(Err(why)) => unread.push(format!("{name}: {why}")),
        }
    }
    match journal(since, sids) {
        Ok(Some(true)) => leaking.push("the journal".to_owned()),
        Ok(Some(false)) => searched.push("the journal".to_owned()),
        Ok(None) => {}
        Err(why) => unread.push(format!("the journal: {why}")),
    }
    if !leaking.is_empty() {
        return question.finding(
            Grade::Fail,
            format!("a session id of the audit stands in {}", leaking.join(", ")),
            "take the cookie out of the log's format ($http_cookie, $cookie_session_id, a debug level), delete what was \
             written, and end the sessions whose ids may be in it (sessionfs kill)",
        );
    }
    if !unread.is_empty() {
        let remedy = "run the audit as root, and name files that exist with --log";
        return question.unknown(unread.join("; "), remedy);
    }
    if searched.is_empty() {
        return question
            .unknown("no log was found", "name the logs of the proxy and of Odoo with --log");
    }
    question.pass(format!("none in {}", searched.join(", ")))
}

/// Whether the journal got one of them since; `None` if there is none, or it got nothing.
fn journal(since: SystemTime, sids: &[Sid]) -> Result<Option<bool>, String> {
    let seconds = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=cat", &format!("--since=@{seconds}")]);
    let (mut looking, mut is_empty) = (Looking::new(sids), true);
    let heard = hear(&mut command, WITHIN, LOG_MAX_BYTES, |piece| {
        is_empty = false;
        looking.at(piece);
    });
    match heard {
        _ if looking.has_found => Ok(Some(true)),
        Ok(()) => Ok((!is_empty).then_some(false)),
        Err(Unanswered::NotStarted) => Ok(None),
        Err(why) => Err(format!("journalctl: {why}")),
    }
}

/// Looks for an id that lives among the names in these session directories.
pub(crate) fn listings(directories: &[PathBuf], sid: &Sid) -> Finding {
    let question = Question::Listing;
    if directories.is_empty() {
        let remedy =
            "run the audit where Odoo runs, as root, or name the directory with --sessions";
        return question.unknown("no session directory is known here", remedy);
    }
    let (mut showing, mut unlisted, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for directory in directories {
        let name = directory.display().to_string();
        match listed(directory, sid) {
            Ok(Listed::Id) => showing.push(name),
            Ok(Listed::Alias) => shown.push(format!("{name} shows its alias")),
            Ok(Listed::Neither) => shown.push(format!("{name} does not show it")),
            Err(why) => unlisted.push(format!("{name}: {why}")),
        }
    }
    if !showing.is_empty() {
        return question.finding(
            Grade::Fail,
            format!("the names of the files in {} are the cookies", showing.join(", ")),
            "mount sessionfs on it: a listing then shows aliases (docs/getting-started.md)",
        );
    }
    if !unlisted.is_empty() {
        return question.unknown(unlisted.join("; "), "run the audit as root");
    }
    question.pass(shown.join("; "))
}

#[derive(Debug, Eq, PartialEq)]
enum Listed {
    /// By the cookie's own value.
    Id,
    Alias,
    Neither,
}

/// By which name a session stands in the directory. What is mounted there may not answer.
fn listed(directory: &Path, sid: &Sid) -> Result<Listed, String> {
    let (directory, sid) = (directory.to_owned(), sid.clone());
    let work = move || -> std::io::Result<Listed> {
        let alias = sid.alias();
        let is = |name: &str, id: &str| name == id || name == format!("werkzeug_{id}.sess");
        let mut found = Listed::Neither;
        for place in [directory.join(sid.shard().as_str()), directory] {
            let entries = match std::fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries.take(ENTRIES_MAX) {
                let name = entry?.file_name();
                let name = name.to_string_lossy();
                if is(&name, sid.expose()) {
                    return Ok(Listed::Id);
                }
                if is(&name, alias.as_str()) {
                    found = Listed::Alias;
                }
            }
        }
        Ok(found)
    };
    match bounded::within("audit-listing", WITHIN, work) {
        Ok(Some(found)) => found.map_err(|error| error.to_string()),
        Ok(None) => Err("no answer in time".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Ends sessions as Odoo ends them, by the removal of their files: on a mount as on a disk. The site
/// has drawn these names, and Odoo's user may have put a link into the way: none is followed.
pub(crate) fn remove(directories: &[PathBuf], sids: Vec<Sid>) {
    let directories = directories.to_vec();
    let work = move || {
        for directory in &directories {
            for sid in &sids {
                for (form, place) in [
                    (Form::Sharded, directory.join(sid.shard().as_str())),
                    (Form::Flat, directory.clone()),
                ] {
                    let Ok(place) = directory::open_resolved(&place) else { continue };
                    let name = sid.entry(form);
                    // Most have none; that one is left is seen by who is still logged in.
                    let _ = unlinkat(&place, name.as_str(), UnlinkatFlags::NoRemoveDir);
                }
            }
        }
    };
    let _ = bounded::within("audit-removal", WITHIN, work);
}

/// What was found of the id in Redis.
pub(crate) fn in_redis(searched: Result<Searched, String>) -> Finding {
    let question = Question::InRedis;
    let remedy = "name the Redis of the sessions, with a user that may list keys: --redis URL, or --config FILE";
    let searched = match searched {
        Ok(searched) => searched,
        Err(why) => return question.unknown(why, remedy),
    };
    if !searched.found.is_empty() {
        return question.finding(
            Grade::Fail,
            format!("the id stands in {}", searched.found.join(", ")),
            "use sessionfs for all sessions (sessionfs check); another program writes them there",
        );
    }
    let of = format!("{} names of keys and {} contents", searched.keys, searched.contents);
    if searched.contents == 0 {
        return question.unknown(format!("the session is not in this Redis ({of})"), remedy);
    }
    match searched.partly {
        Some(why) => question.pass(format!("not in {of} ({why})")),
        None => question.pass(format!("not in {of}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn sid() -> Sid {
        Sid::parse(&"ab".repeat(20)).unwrap()
    }

    #[test]
    fn only_what_was_written_since_is_searched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let line = format!("GET / session_id={}\n", sid().expose());
        std::fs::write(&path, &line).unwrap();
        let log = Log::mark(path.clone(), true, false);
        assert_eq!(log.has(&[sid()]), Some(Ok(false)));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"GET / -\n").unwrap();
        assert_eq!(log.has(&[sid()]), Some(Ok(false)));
        file.write_all(line.as_bytes()).unwrap();
        assert_eq!(log.has(&[sid()]), Some(Ok(true)));
        // Rotated: it stands in the one of before, and then in both.
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(log.has(&[sid()]), Some(Err(_))));
        std::fs::write(&path, "").unwrap();
        assert_eq!(log.has(&[sid()]), Some(Ok(true)));
        let emptied = Log::mark(path.clone(), true, false);
        std::fs::rename(&path, dir.path().join("access.log.1")).unwrap();
        std::fs::write(&path, &line).unwrap();
        assert_eq!(emptied.has(&[sid()]), Some(Ok(true)));
        let none = dir.path().join("none");
        assert_eq!(Log::mark(none, false, false).has(&[sid()]), None);
    }

    #[test]
    fn a_log_that_cannot_be_searched_to_its_end_is_not_passed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "GET /\n").unwrap();
        let grade = |log: &Log| logs(std::slice::from_ref(log), SystemTime::now(), &[sid()]).grade;
        let log = Log::mark(path.clone(), true, false);
        assert_eq!(grade(&log), Grade::Pass);
        assert_eq!(grade(&Log::mark(path.clone(), true, true)), Grade::Unknown);
        std::fs::write(&path, "").unwrap();
        assert_eq!(grade(&log), Grade::Unknown);
        std::fs::write(&path, "GET /\nGET /\n").unwrap();
        let file = File::open(&path).unwrap();
        assert!(search(&file, 0, 8, &[sid()]).is_err() && search(&file, 0, 64, &[sid()]).is_ok());
    }

    #[test]
    fn an_id_across_two_pieces_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::mark(path.clone(), true, false);
        for before in [PIECE_BYTES - 20, 2 * PIECE_BYTES - 1, 2 * PIECE_BYTES - 39, 7] {
            let text = format!("{}{} ", " ".repeat(before), sid().expose());
            std::fs::write(&path, text).unwrap();
            assert_eq!(log.has(&[sid()]), Some(Ok(true)), "{before}");
        }
    }

    #[test]
    fn a_listing_shows_the_cookie_or_the_alias() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("ab");
        std::fs::create_dir(&shard).unwrap();
        let found = || listed(dir.path(), &sid());
        assert_eq!(found(), Ok(Listed::Neither));
        std::fs::write(shard.join(sid().alias().as_str()), "").unwrap();
        assert_eq!(found(), Ok(Listed::Alias));
        let flat = dir.path().join(format!("werkzeug_{}.sess", sid().expose()));
        std::fs::write(&flat, "").unwrap();
        assert_eq!(found(), Ok(Listed::Id));
        let finding = listings(&[dir.path().to_owned()], &sid());
        assert!(finding.grade == Grade::Fail && !finding.seen.contains(sid().expose()));
        remove(&[dir.path().to_owned()], vec![sid()]);
        assert_eq!(found(), Ok(Listed::Alias));
        assert_eq!(listings(&[], &sid()).grade, Grade::Unknown);
        // A link in the way of a removal leads nowhere.
        let other = tempfile::tempdir().unwrap();
        let kept = other.path().join(sid().expose());
        std::fs::write(&kept, "").unwrap();
        std::fs::remove_dir_all(&shard).unwrap();
        std::os::unix::fs::symlink(other.path(), &shard).unwrap();
        remove(&[dir.path().to_owned()], vec![sid()]);
        assert!(kept.exists());
    }
}

//! Code in Odoo's addons that lists sessions, or loads those that it has listed. On a mount it meets
//! aliases, which open no session.
//!
//! Text is searched, no Python is parsed: what is found is a place to look at. Everything is bounded,
//! since Odoo's user may put anything there, and no symbolic link is followed.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::root::Root;

/// Entries of all directories that are looked at. Odoo's own addons have about a fifth.
const ENTRIES_MAX: usize = 250_000;
/// What is read of all files.
const BYTES_MAX: u64 = 256 << 20;
/// What is read of one file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Directories below each other.
const DEPTH_MAX: usize = 8;
/// How long it may take.
const TIME_MAX: Duration = Duration::from_secs(5);
/// How many places are told.
const USES_MAX: usize = 20;
/// Directories without code that Odoo runs.
const PASSED_OVER: [&str; 5] = ["static", "i18n", "tests", "node_modules", "__pycache__"];

/// What the code does with sessions that are not its own.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Access {
    /// It lists their names.
    List,
    /// It loads them by names that it has listed.
    Load,
}

/// A place in the code.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Use {
    /// As Odoo names the file.
    pub file: PathBuf,
    pub line: usize,
    pub access: Access,
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Found {
    pub uses: Vec<Use>,
    /// A bound was met before all was searched.
    pub partly: bool,
}

/// Searches directories of addons, as an Odoo whose `/` is `root` names them.
pub(crate) fn search(root: &Root, directories: &[PathBuf]) -> Found {
    let mut search = Search {
        root,
        found: Found::default(),
        entries: 0,
        bytes: 0,
        until: Instant::now() + TIME_MAX,
    };
    for directory in directories.iter().filter(|directory| directory.is_absolute()) {
        search.directory(directory, DEPTH_MAX);
    }
    let mut found = search.found;
    found.uses.sort_unstable();
    found.uses.dedup();
    found
}

struct Search<'a> {
    root: &'a Root,
    found: Found,
    entries: usize,
    bytes: u64,
    until: Instant,
}

impl Search<'_> {
    fn is_over(&mut self) -> bool {
        let over = self.entries > ENTRIES_MAX
            || self.bytes > BYTES_MAX
            || self.found.uses.len() >= USES_MAX
            || Instant::now() > self.until;
        self.found.partly |= over;
        over
    }

    fn directory(&mut self, directory: &Path, depth: usize) {
        let Ok(entries) = std::fs::read_dir(self.root.join(directory)) else { return };
        for entry in entries.flatten() {
            self.entries += 1;
            if self.is_over() {
                return;
            }
            // Of the entry itself: a link could lead anywhere.
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let path = directory.join(&name);
            let is_python = path.extension().is_some_and(|extension| extension == "py");
            let is_passed_over = name
                .to_str()
                .is_none_or(|name| name.starts_with('.') || PASSED_OVER.contains(&name));
            if kind.is_dir() && !is_passed_over {
                match depth.checked_sub(1) {
                    Some(depth) => self.directory(&path, depth),
                    None => self.found.partly = true,
                }
            } else if kind.is_file() && is_python {
                self.file(&path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.root.join(path));
        let Some(content) = opened.ok().and_then(read) else { return };
        self.bytes += content.len() as u64;
        let uses = uses(&String::from_utf8_lossy(&content));
        let room = USES_MAX.saturating_sub(self.found.uses.len());
        self.found.partly |= uses.len() > room;
        self.found.uses.extend(uses.into_iter().take(room).map(|(line, access)| Use {
            file: path.to_owned(),
            line,
            access,
        }));
    }
}

fn read(file: File) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    file.metadata().ok()?.is_file().then_some(())?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Calls that give the names in a directory.
const LISTINGS: [&str; 7] = ["listdir", "scandir", "glob", "iglob", "rglob", "iterdir", "walk"];
/// What stands for the directory of the sessions.
const DIRECTORIES: [&str; 4] = ["session_dir", "session_store.path", "'sessions'", "\"sessions\""];

/// The lines on which a file lists or loads sessions.
fn uses(text: &str) -> Vec<(usize, Access)> {
    // Most files are no concern.
    if !text.contains("session") {
        return Vec::new();
    }
    let mut directories: Vec<String> = Vec::new();
    let mut stores = vec!["session_store".to_owned()];
    let (mut listed, mut loaded) = (Vec::new(), Vec::new());
    for (line, statement) in statements(text) {
        let statement = statement.replace("session_store()", "session_store");
        let is_directory = DIRECTORIES.iter().any(|sign| statement.contains(sign))
            || directories.iter().any(|name| has_word(&statement, name))
            || stores.iter().any(|store| calls(&statement, store, ".path", ""));
        let lists = LISTINGS.iter().any(|call| calls(&statement, call, "(", ""));
        if lists && is_directory
            || stores.iter().any(|store| calls(&statement, store, ".list", "("))
        {
            listed.push((line, Access::List));
        }
        if stores.iter().any(|store| calls(&statement, store, ".get", "(")) {
            loaded.push((line, Access::Load));
        }
        // Other names for them, as far as they are given by `name = ...`.
        if let Some((name, value)) = assigned(&statement) {
            let is_store = stores.iter().any(|store| value.ends_with(store.as_str()));
            if is_store {
                stores.push(name.to_owned());
            } else if is_directory && !lists {
                directories.push(name.to_owned());
            }
        }
    }
    // A session that is loaded by its own id is found.
    if !listed.is_empty() {
        listed.append(&mut loaded);
    }
    listed.sort_unstable();
    listed
}

/// The statements of a text with the number of their first line: lines until all parentheses are
/// closed, without comments.
fn statements(text: &str) -> Vec<(usize, String)> {
    const LINES_MAX: usize = 20;
    let mut statements: Vec<(usize, String)> = Vec::new();
    let (mut open, mut joined) = (0_i32, 0);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let unfinished = statements.last_mut().filter(|_| open > 0 && joined < LINES_MAX);
        if let Some((_, statement)) = unfinished {
            statement.push_str(line);
            joined += 1;
        } else {
            statements.push((number + 1, line.to_owned()));
            (open, joined) = (0, 1);
        }
        let count = |these: [char; 3]| {
            i32::try_from(line.chars().filter(|c| these.contains(c)).count()).unwrap_or(i32::MAX)
        };
        open = open.saturating_add(count(['(', '[', '{'])).saturating_sub(count([')', ']', '}']));
    }
    statements
}

/// `name = value`, where the name may be that of an attribute.
fn assigned(statement: &str) -> Option<(&str, &str)> {
    let (target, value) = statement.split_once('=')?;
    let name = target.trim().rsplit('.').next()?;
    let is_name = !name.is_empty() && name.chars().all(is_of_word);
    // No comparison, no argument of a call.
    (is_name && !value.starts_with('=') && !target.contains('(')).then_some((name, value.trim()))
}

/// Whether `name`, a whole word, is followed by `then` and `last`, with blanks before the last.
fn calls(statement: &str, name: &str, then: &str, last: &str) -> bool {
    statement.match_indices(name).any(|(at, _)| {
        let is_whole = !statement[..at].chars().next_back().is_some_and(is_of_word);
        let rest = statement[at + name.len()..].strip_prefix(then);
        is_whole && rest.is_some_and(|rest| rest.trim_start().starts_with(last))
    })
}

fn has_word(statement: &str, word: &str) -> bool {
    statement.match_indices(word).any(|(at, _)| {
        !statement[..at].chars().next_back().is_some_and(is_of_word)
            && !statement[at + word.len()..].chars().next().is_some_and(is_of_word)
    })
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: [&str; 10] = [
        "for sid in root.session_store.list():\n",
        "sids = http.root.session_store.list( )\n",
        "store = request.session_store\nfor sid in store.list():\n",
        "self.store = odoo.http.root.session_store()\nself.store.list()\n",
        "for name in os.listdir(config.session_dir):\n",
        "path = odoo.tools.config.session_dir\nnames = os.scandir(path)\n",
        "glob.iglob(os.path.join(\n    http.root.session_store.path, '*', '*'))\n",
        "here = os.path.join(config['data_dir'], 'sessions')\nfor _r, _d, f in os.walk(here):\n",
        "pathlib.Path(config.session_dir).rglob('*')\n",
        "store = root.session_store\nnames = listdir(store.path)\n",
    ];

    #[test]
    fn every_way_to_list_sessions_is_found() {
        for text in LISTS {
            let found = uses(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(found[0].1, Access::List, "{text}");
        }
        let both =
            "store = root.session_store\nfor sid in store.list():\n    one = store.get(sid)\n";
        assert_eq!(uses(both), [(2, Access::List), (3, Access::Load)]);
    }

    #[test]
    fn what_works_on_a_mount_is_not_complained_of() {
        for text in [
            "session = root.session_store.get(sid)\n",
            "root.session_store.vacuum(max_lifetime=1)\nroot.session_store.delete(session)\n",
            "# root.session_store.list()\n",
            "names = os.listdir(path)\nsession = request.session\n",
            "sessions = self.env['pos.session'].search([])\nfor f in glob.glob('/tmp/*'):\n",
            "my_session_store.list()\n",
        ] {
            assert_eq!(uses(text), [], "{text}");
        }
    }

    #[test]
    fn addons_are_searched_as_odoo_sees_them_and_no_link_is_followed() {
        let top = tempfile::tempdir().unwrap();
        let (root, addons) = (Root::at(top.path()), PathBuf::from("/opt/addons"));
        let write = |path: &str, text: &str| {
            let path = top.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("opt/addons/who/models/who.py", "\nroot.session_store.list()\n");
        write("opt/addons/who/tests/test.py", LISTS[0]);
        write("opt/addons/who/readme.md", LISTS[0]);
        write("etc/other/other.py", LISTS[0]);
        std::os::unix::fs::symlink("../../etc/other", top.path().join("opt/addons/link")).unwrap();
        std::os::unix::fs::symlink("/etc/x", top.path().join("opt/addons/x.py")).unwrap();
        nix::unistd::mkfifo(&top.path().join("opt/addons/p.py"), nix::sys::stat::Mode::S_IRWXU)
            .unwrap();
        let found = search(&root, &[addons.clone(), "/missing".into(), "relative".into()]);
        let expected =
            Use { file: addons.join("who/models/who.py"), line: 2, access: Access::List };
        assert_eq!(found, Found { uses: vec![expected], partly: false });
        write("opt/addons/many.py", &LISTS[0].repeat(1000));
        let found = search(&root, &[addons]);
        assert_eq!((found.uses.len(), found.partly), (USES_MAX, true));
    }
}

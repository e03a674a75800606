//! Conditions and assertions of a unit that name the mount (systemd.unit(5)).
//!
//! systemd looks at such a path itself, in its only thread. While nobody serves the mount it would wait for whoever it
//! has to start.

use std::path::{Path, PathBuf};

use crate::check::{Finding, Id};

/// What may come before the path of a condition: "one of these", and "not".
const MARKS: [char; 2] = ['|', '!'];
/// What follows `Condition` or `Assert` in the names of those that look at a path.
const LOOK_AT_A_PATH: [&str; 10] = [
    "PathExists",
    "PathExistsGlob",
    "PathIsDirectory",
    "PathIsSymbolicLink",
    "PathIsMountPoint",
    "PathIsReadWrite",
    "PathIsEncrypted",
    "DirectoryNotEmpty",
    "FileNotEmpty",
    "FileIsExecutable",
];

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Condition {
    pub unit: String,
    /// The unit's file, or the drop-in.
    pub file: PathBuf,
    /// `NAME=VALUE`.
    pub line: String,
}

impl Condition {
    /// Those that name the mountpoint, or something below, in what `systemctl cat` prints of a unit: each file after a
    /// line with its name.
    pub(super) fn all(unit: &str, text: &str, mountpoint: &Path) -> Vec<Self> {
        let (mut file, mut section) = (PathBuf::new(), "");
        let (mut conditions, mut assertions) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim) {
            if let Some(path) = line.strip_prefix("# ").filter(|path| is_unit_file(path)) {
                (file, section) = (path.into(), "");
            } else if line.starts_with('[') {
                section = line;
            }
            let Some((name, value)) = line.split_once('=').filter(|_| section == "[Unit]") else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            let (found, kind) = match (name.strip_prefix("Condition"), name.strip_prefix("Assert"))
            {
                (Some(kind), _) => (&mut conditions, kind),
                (None, Some(kind)) => (&mut assertions, kind),
                (None, None) => continue,
            };
            if value.is_empty() {
                // Takes back all that were before it, of whichever kind.
                found.clear();
            } else if LOOK_AT_A_PATH.contains(&kind)
                && Path::new(value.trim_start_matches(MARKS)).starts_with(mountpoint)
            {
                let line = format!("{name}={value}");
                found.push(Self { unit: unit.to_owned(), file: file.clone(), line });
            }
        }
        conditions.append(&mut assertions);
        conditions
    }

    pub(super) fn finding(&self) -> Finding {
        let Self { unit, file, line } = self;
        let name = line.split('=').next().unwrap_or_default();
        let file = file.display();
        Finding::new(
            Id::Condition,
            format!(
                "{unit} has '{line}' in {file}: systemd itself asks the mount for that, and the whole server waits if \
                 nobody serves it just then"
            ),
            format!(
                "delete the line, or take it back with an empty '{name}=' in a drop-in (systemctl edit {unit}); \
                 docs/systemd.md has an ExecStartPre= for its place"
            ),
        )
    }

    /// One, for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            unit: "odoo.service".into(),
            file: "/etc/systemd/system/odoo.service.d/mount.conf".into(),
            line: "AssertPathIsMountPoint=/srv/odoo/sessions".into(),
        }
    }
}

/// Whether this is the name of a file before its text, and no comment in one.
fn is_unit_file(path: &str) -> bool {
    path.starts_with('/') && path.contains("/systemd/") && !path.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(PathBuf, String)> {
        let all = Condition::all("odoo.service", text, Path::new("/srv/sessions"));
        all.into_iter().map(|found| (found.file, found.line)).collect()
    }

    #[test]
    fn those_that_name_the_mount_are_found_with_their_files() {
        let text = "# /usr/lib/systemd/system/odoo.service\n[Unit]\nDescription=Odoo\n\
                    ConditionPathExists=/srv\nConditionPathExists=/srv/sessions.old\n\
                    ConditionPathExists = |!/srv/sessions/ab\n[Service]\n\
                    ConditionPathExists=/srv/sessions\nExecStart=/usr/bin/odoo\n\n\
                    # /etc/systemd/system/odoo.service.d/a.conf\n# Condition of the shop\n[Unit]\n\
                    AssertPathIsMountPoint=/srv/sessions\nAssertUser=/srv/sessions\n";
        let expected = [
            ("/usr/lib/systemd/system/odoo.service", "ConditionPathExists=|!/srv/sessions/ab"),
            ("/etc/systemd/system/odoo.service.d/a.conf", "AssertPathIsMountPoint=/srv/sessions"),
        ];
        assert_eq!(lines(text), expected.map(|(file, line)| (file.into(), line.into())));
    }

    #[test]
    fn an_empty_one_takes_back_those_before_it() {
        let text = "# /etc/systemd/system/odoo.service\n[Unit]\n\
                    AssertPathIsMountPoint=/srv/sessions\nConditionPathExistsGlob=/srv/sessions/*\n\
                    # /etc/systemd/system/odoo.service.d/a.conf\n[Unit]\nAssertPathExists=\n";
        let left = lines(text);
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].1, "ConditionPathExistsGlob=/srv/sessions/*");
    }
}

//! systemd's units that start an Odoo, as their files say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::launch::Launch;
use super::root::Root;

/// Where unit files lie; an earlier one hides a later one of the same name.
const DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Service {
    /// Its name, with `.service`.
    pub name: String,
    /// What `ExecStart=` says.
    pub launch: Launch,
    /// `User=`, else root.
    pub user: String,
    /// `Group=`.
    pub group: Option<String>,
    /// `WorkingDirectory=`.
    pub working_dir: Option<PathBuf>,
    /// `Environment=`.
    pub environment: Vec<(String, String)>,
}

impl Service {
    /// All that start an Odoo.
    pub(crate) fn all(root: &Root) -> Vec<Self> {
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for directory in DIRECTORIES.map(Path::new) {
            for name in root.list(directory) {
                let path = directory.join(&name);
                if name.ends_with(".service") && !name.contains('@') {
                    files.entry(name).or_insert(path);
                }
            }
        }
        files.into_iter().filter_map(|(name, path)| Self::read(root, name, &path)).collect()
    }

    fn read(root: &Root, name: String, path: &Path) -> Option<Self> {
        let mut text = root.read_text(path).ok()?;
        for directory in DIRECTORIES.iter().rev().map(Path::new) {
            let drop_ins = directory.join(format!("{name}.d"));
            for file in root.list(&drop_ins).iter().filter(|file| is_drop_in(file)) {
                text.push('\n');
                text.push_str(&root.read_text(&drop_ins.join(file)).unwrap_or_default());
            }
        }
        Self::parse(name, &text)
    }

    /// The unit's files one after another, as systemd reads them: a later value wins. Not by the
    /// reader of Odoo's own file: here a line may go on in the next, and keys are repeated.
    fn parse(name: String, text: &str) -> Option<Self> {
        let joined = text.replace("\\\n", " ");
        let mut section = "";
        let mut service = Self { name, user: "root".into(), ..Self::default() };
        let mut command: Option<Vec<String>> = None;
        for line in joined.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else {
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "ExecStart" if !value.is_empty() => command = Some(words(value)),
                "User" if !value.is_empty() => value.clone_into(&mut service.user),
                "Group" if !value.is_empty() => service.group = Some(value.to_owned()),
                "WorkingDirectory" => {
                    service.working_dir = Some(PathBuf::from(value.trim_start_matches('-')));
                }
                "Environment" => service.environment.extend(pairs(value)),
                _ => {}
            }
        }
        let mut command = command?;
        let first = command.first_mut()?;
        *first = first.trim_start_matches(['@', '-', ':', '+', '!']).to_owned();
        service.launch = Launch::parse(&command)?;
        Some(service)
    }

    /// The value of a variable that the unit sets.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn is_drop_in(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "conf")
}

/// `NAME=VALUE`, as many as there are.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |word: &String| {
        word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    words(text).iter().filter_map(pair).collect()
}

/// Words separated by blanks, with quotes as systemd allows them around a word or in it.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(mark) if c == mark => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_with_its_drop_in_is_read() {
        let text = "[Unit]\nAfter=network.target\n[Service]\nUser=odoo\n\
                    Environment=\"ODOO_RC=/etc/a b.conf\" HOME=/srv/o\n\
                    ExecStart=-/usr/bin/odoo \\\n  --config /etc/odoo/odoo.conf\n\
                    [Service]\nUser=shop\nExecStart=\nExecStart=/opt/odoo/odoo-bin -D '/srv/my data'\n";
        let found = Service::parse("odoo.service".into(), text).unwrap();
        assert_eq!(found.user, "shop");
        assert_eq!(found.launch.data_dir.as_deref(), Some(Path::new("/srv/my data")));
        assert_eq!(found.launch.config, None);
        assert_eq!(found.variable("ODOO_RC"), Some("/etc/a b.conf"));
    }

    #[test]
    fn other_units_are_none() {
        for text in [
            "",
            "[Service]\nExecStart=\n",
            "[Service]\nExecStart=/bin/cat odoo\n",
            "[Unit]\nExecStart=odoo\n",
        ] {
            assert_eq!(Service::parse("x.service".into(), text), None, "{text}");
        }
    }
}

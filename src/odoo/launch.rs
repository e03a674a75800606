//! How an Odoo was started: what its command line says.

use std::path::{Path, PathBuf};

/// The names under which Odoo's server is started.
const PROGRAMS: [&str; 7] = [
    "odoo",
    "odoo-bin",
    "odoo.py",
    "odoo-server",
    "openerp-server",
    "openerp-gevent",
    "odoo-gevent",
];

/// The titles that Odoo's workers give themselves (with python3-setproctitle), in place of their
/// arguments.
const TITLE: &str = "odoo: Worker";

/// Python's own options whose value is a word of its own.
const PYTHON_VALUED: [&str; 3] = ["-W", "-X", "--check-hash-based-pycs"];

/// What a command line says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Launch {
    /// `-c`, `--config`.
    pub config: Option<PathBuf>,
    /// `-D`, `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--workers`.
    pub workers: Option<String>,
    /// `-p`, `--http-port`, and as it was called before, `--xmlrpc-port`.
    pub http_port: Option<u16>,
    /// `--gevent-port`, and as it was called before, `--longpolling-port`.
    pub gevent_port: Option<u16>,
    /// `--proxy-mode`.
    pub proxy_mode: bool,
    /// `--no-database-list`.
    pub hides_databases: bool,
    /// `--db-filter`.
    pub db_filter: Option<String>,
    /// `-d`, `--database`.
    pub databases: Option<String>,
    /// `--logfile`.
    pub log_file: Option<PathBuf>,
    /// `--addons-path`.
    pub addons: Option<String>,
    /// `--load`: server-wide modules.
    pub modules: Option<String>,
    /// A worker with a title: its arguments are its parent's.
    pub titled: bool,
}

impl Launch {
    /// Reads a command line; `None` if it does not start an Odoo.
    pub(crate) fn parse(argv: &[impl AsRef<str>]) -> Option<Self> {
        let argv: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
        let first = *argv.first()?;
        if first.starts_with(TITLE) {
            return Some(Self { titled: true, ..Self::default() });
        }
        let arguments = arguments(&argv)?;
        let mut launch = Self {
            proxy_mode: arguments.contains(&"--proxy-mode"),
            hides_databases: arguments.contains(&"--no-database-list"),
            ..Self::default()
        };
        let value = |short: Option<&str>, long: &str| option(arguments, short, long);
        launch.config = value(Some("-c"), "--config").map(PathBuf::from);
        launch.data_dir = value(Some("-D"), "--data-dir").map(PathBuf::from);
        launch.workers = value(None, "--workers");
        let port = value(Some("-p"), "--http-port").or_else(|| value(None, "--xmlrpc-port"));
        launch.http_port = port.and_then(|port| port.parse().ok());
        let port = value(None, "--gevent-port").or_else(|| value(None, "--longpolling-port"));
        launch.gevent_port = port.and_then(|port| port.parse().ok());
        launch.db_filter = value(None, "--db-filter");
        launch.databases = value(Some("-d"), "--database");
        launch.log_file = value(None, "--logfile").map(PathBuf::from);
        launch.addons = value(None, "--addons-path");
        launch.modules = value(None, "--load");
        Some(launch)
    }
}

/// The value of an option of an Odoo that this command line starts.
pub(crate) fn option_of(argv: &[&str], short: Option<&str>, long: &str) -> Option<String> {
    option(arguments(argv)?, short, long)
}

/// Whether a command line starts Odoo's evented process, which serves many requests in one thread.
#[cfg_attr(not(feature = "bpf"), expect(dead_code, reason = "only for what BPF observes"))]
pub(crate) fn is_evented(argv: &[&str]) -> bool {
    let by_name = argv.iter().take(2).any(|word| base(word).ends_with("-gevent"));
    arguments(argv).is_some_and(|arguments| by_name || arguments.first() == Some(&"gevent"))
}

/// What follows the program's name, if it is Odoo.
fn arguments<'a>(argv: &'a [&'a str]) -> Option<&'a [&'a str]> {
    let is_odoo = |word: &str| PROGRAMS.contains(&base(word));
    let (first, rest) = argv.split_first()?;
    if is_odoo(first) {
        return Some(rest);
    }
    if !base(first).starts_with("python") {
        return None;
    }
    // python3 [its own options] /usr/bin/odoo ..., or python3 -m odoo ...
    let takes_value = |word: &str| PYTHON_VALUED.contains(&word);
    let position = (0..rest.len()).find(|&at| {
        !rest[at].starts_with('-')
            && at.checked_sub(1).is_none_or(|before| !takes_value(rest[before]))
    })?;
    let by_module = position.checked_sub(1).is_some_and(|before| rest[before] == "-m");
    let program = rest[position];
    (is_odoo(program) || by_module && program.split('.').next() == Some("odoo"))
        .then(|| &rest[position + 1..])
}

fn base(word: &str) -> &str {
    Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The last value of an option: `-c X`, `-cX`, `--config X`, `--config=X`.
fn option(arguments: &[&str], short: Option<&str>, long: &str) -> Option<String> {
    let mut found = None;
    for (position, word) in arguments.iter().enumerate() {
        let joined = word
            .strip_prefix(long)
            .and_then(|rest| rest.strip_prefix('='))
            .or_else(|| word.strip_prefix(short?).filter(|rest| !rest.is_empty()));
        let value = match joined {
            Some(value) => Some(value),
            None if *word == long || Some(*word) == short => arguments.get(position + 1).copied(),
            None => None,
        };
        found = value.map(ToOwned::to_owned).or(found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Launch> {
        Launch::parse(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn odoo_is_told_from_what_only_mentions_it() {
        for line in [
            "/usr/bin/odoo --config /etc/odoo/odoo.conf",
            "/usr/bin/python3 /usr/bin/odoo",
            "python3.11 -u /opt/odoo/odoo-bin -c x",
            "python3 -m odoo -c x",
            "/usr/bin/python3 /usr/bin/odoo gevent -c x",
            "python3 -X dev -W ignore -W error::UserWarning /opt/odoo/odoo-bin -c x",
        ] {
            assert!(parse(line).is_some(), "{line}");
        }
        assert!(Launch::parse(&["odoo: WorkerHTTP 17 "]).unwrap().titled);
        for line in [
            "vim /etc/odoo/odoo-bin",
            "tail -f /var/log/odoo",
            "su odoo",
            "python3 manage.py odoo",
            "python3 -W odoo manage.py",
            "bash /usr/bin/odoo",
            "",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn options_are_read_in_every_form() {
        for line in
            ["odoo -c /a", "odoo -c/a", "odoo --config /a", "odoo --config=/a", "odoo -c /b -c /a"]
        {
            assert_eq!(parse(line).unwrap().config.as_deref(), Some(Path::new("/a")), "{line}");
        }
        let launch = parse("odoo -D /data --workers=4 --proxy-mode --load base,web").unwrap();
        assert_eq!(launch.data_dir.as_deref(), Some(Path::new("/data")));
        assert_eq!(launch.workers.as_deref(), Some("4"));
        assert_eq!(launch.modules.as_deref(), Some("base,web"));
        assert!(launch.proxy_mode && !launch.hides_databases);
        let launch =
            parse("odoo -d a,b --no-database-list --db-filter=^a$ --gevent-port 9").unwrap();
        assert!(launch.hides_databases);
        assert_eq!((launch.databases.as_deref(), launch.gevent_port), (Some("a,b"), Some(9)));
        assert_eq!(launch.db_filter.as_deref(), Some("^a$"));
        assert_eq!(parse("odoo -c").unwrap().config, None);
    }
}

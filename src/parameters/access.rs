//! How Odoo reaches PostgreSQL: by its command line, its configuration file and its environment; what none of them says is as
//! libpq has it. Odoo 19 looks at its environment before its file (`configmanager.options`); an earlier one leaves the
//! environment to libpq, which fills in what the file does not say.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::odoo::configuration::{USUAL_PLACES, values};
use crate::odoo::launch::option_of;
use crate::odoo::process::Process;
use crate::odoo::root::Root;
use crate::odoo::{account, configuration_of};

/// Each key of the file, with its options on the command line and its variable. (`odoo/tools/config.py`; libpq's
/// environment, PostgreSQL's manual, 34.15.)
const KEYS: [(&str, Option<&str>, &str, &str); 6] = [
    ("db_host", None, "--db_host", "PGHOST"),
    ("db_port", None, "--db_port", "PGPORT"),
    ("db_user", Some("-r"), "--db_user", "PGUSER"),
    ("db_password", Some("-w"), "--db_password", "PGPASSWORD"),
    ("db_sslmode", None, "--db_sslmode", "PGSSLMODE"),
    ("db_name", Some("-d"), "--database", "PGDATABASE"),
];

/// Where Debian's PostgreSQL and its libpq have their socket.
const SOCKET_DIR: &str = "/var/run/postgresql";
const PORT: u16 = 5432;

/// Where Debian's package has Odoo's modules.
const PACKAGED: &str = "/usr/lib/python3/dist-packages";
/// The first version that looks at the environment before its file.
const ENVIRONMENT_FIRST: u32 = 19;

/// Whether and how a connection is encrypted, as libpq has it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Ssl {
    Disable,
    /// Encrypted if the server can.
    #[default]
    Prefer,
    /// Encrypted, whoever the server is.
    Require,
    /// Encrypted, and the server has a certificate for its name.
    Verify,
}

/// How to connect.
#[derive(Clone, Default, Eq, PartialEq)]
pub(super) struct Access {
    /// A name, an address, or the directory of a socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub ssl: Ssl,
    /// The databases that are named; none: all.
    pub databases: Vec<String>,
}

impl fmt::Debug for Access {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{} {:?} {:?}", self.user, self.host, self.port, self.ssl, self.databases)
    }
}

impl Access {
    /// Of the Odoo of this user, with this file, or with that which it reads itself.
    pub(super) fn find(root: &Root, uid: u32, config: Option<&Path>) -> Self {
        let process = Process::all(root)
            .into_iter()
            .find(|process| process.uid == uid && !process.launch.titled);
        let words = |process: &Process, file: &str| {
            let bytes = root.read(Path::new(&format!("/proc/{}/{file}", process.pid)));
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
            text.split('\0').map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let argv = process.as_ref().map(|process| words(process, "cmdline")).unwrap_or_default();
        let environ = process.as_ref().map(|process| words(process, "environ")).unwrap_or_default();
        let own = root.account(&uid.to_string());
        let user = own.map_or_else(|| "odoo".to_owned(), |account| account.name);
        let text = match (config, &process) {
            (Some(path), _) => root.read_text(path).ok(),
            (None, Some(process)) => {
                let of_process = process.root(root);
                let account = account(&of_process, process.uid, process.gid);
                let variable = |name: &str| process.variable(name);
                let directory = process.working_dir.as_deref();
                let file =
                    configuration_of(&of_process, &process.launch, variable, directory, &account);
                file.and_then(|file| of_process.read_text(&file.path).ok())
            }
            (None, None) => None,
        };
        let text = text.or_else(|| {
            USUAL_PLACES.iter().find_map(|place| root.read_text(Path::new(place)).ok())
        });
        let version = process.as_ref().and_then(|process| version(&process.root(root), &argv));
        Self::read(&argv, text.as_deref().unwrap_or_default(), &environ, &user, version)
    }

    fn read(
        argv: &[String],
        file: &str,
        environ: &[String],
        user: &str,
        version: Option<u32>,
    ) -> Self {
        let environment_first = version.is_some_and(|version| version >= ENVIRONMENT_FIRST);
        // A file that cannot be read says nothing.
        let file = values(file, &KEYS.map(|key| key.0)).unwrap_or_default();
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let said: BTreeMap<&str, String> = KEYS
            .iter()
            .filter_map(|&(key, short, long, variable)| {
                let of_environment = || {
                    // For libpq that is a default of the name, and Odoo always gives one.
                    if key == "db_name" && !environment_first {
                        return None;
                    }
                    let of = |pair: &String| {
                        Some(pair.strip_prefix(variable)?.strip_prefix('=')?.to_owned())
                    };
                    environ.iter().find_map(of)
                };
                let of_file = || file.get(key).cloned();
                let value = option_of(&argv, short, long).or_else(|| {
                    if environment_first {
                        of_environment().or_else(of_file)
                    } else {
                        of_file().or_else(of_environment)
                    }
                });
                Some((key, value.filter(|value| !value.is_empty())?))
            })
            .collect();
        let text = |key: &str| said.get(key).cloned();
        let names = text("db_name").unwrap_or_default();
        Self {
            host: text("db_host").unwrap_or_else(|| SOCKET_DIR.to_owned()),
            port: text("db_port").and_then(|port| port.parse().ok()).unwrap_or(PORT),
            user: text("db_user").unwrap_or_else(|| user.to_owned()),
            password: text("db_password"),
            ssl: match text("db_sslmode").as_deref() {
                Some("disable" | "allow") => Ssl::Disable,
                Some("require") => Ssl::Require,
                Some("verify-ca" | "verify-full") => Ssl::Verify,
                _ => Ssl::Prefer,
            },
            databases: names
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }
}

/// The version of the Odoo that this command line starts, as its `odoo/release.py` says.
fn version(root: &Root, argv: &[String]) -> Option<u32> {
    let beside = argv.iter().take(4).filter_map(|word| Path::new(word).parent());
    let places = beside.filter(|place| place.is_absolute()).chain([Path::new(PACKAGED)]);
    let text = places
        .map(|place| place.join("odoo/release.py"))
        .find_map(|release| root.read_text(&release).ok())?;
    // version_info = (19, 0, 0, FINAL, 0, ''), or ('saas~18', 2, ...)
    let info = text.lines().find_map(|line| line.strip_prefix("version_info"))?;
    let digits = info.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argv: &[&str], file: &str, environ: &[&str]) -> Access {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        Access::read(&owned(argv), file, &owned(environ), "odoo", Some(18))
    }

    #[test]
    fn without_a_word_it_is_the_socket_and_the_users_own_role() {
        for file in
            ["", "[options]\ndb_host = False\ndb_name = False\ndb_port = False\n", "nonsense"]
        {
            let access = read(&[], file, &[]);
            assert_eq!((access.host.as_str(), access.port), (SOCKET_DIR, 5432), "{file}");
            assert_eq!((access.user.as_str(), access.password), ("odoo", None));
            assert_eq!((access.ssl, access.databases), (Ssl::Prefer, vec![]));
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_that_before_the_environment() {
        let file = "[options]\ndb_host = of-file\ndb_port = 6000\ndb_sslmode = verify-full\n\
                    db_name = shop, other\n";
        let environ = ["PGHOST=of-environment", "PGUSER=someone", "PGPASSWORD=a=b", "PGPORT=7000"];
        let access = read(&["odoo", "--db_host=of-line", "-d", "one"], file, &environ);
        assert_eq!((access.host.as_str(), access.port), ("of-line", 6000));
        assert_eq!((access.user.as_str(), access.password.as_deref()), ("someone", Some("a=b")));
        assert_eq!((access.ssl, access.databases), (Ssl::Verify, vec!["one".to_owned()]));
        let access = read(&[], file, &environ);
        assert_eq!((access.host.as_str(), access.databases.len()), ("of-file", 2));
        assert!(!format!("{access:?}").contains("a=b"), "{access:?}");
    }

    #[test]
    fn odoo_19_looks_at_its_environment_before_its_file() {
        let file = "[options]\ndb_host = of-file\ndb_user = of-file\ndb_port = 6000\n";
        let argv = ["odoo", "-r", "of-line"].map(ToOwned::to_owned);
        let environ = ["PGHOST=", "PGUSER=x", "PGDATABASE=shop"].map(ToOwned::to_owned);
        let access = Access::read(&argv, file, &environ, "odoo", Some(19));
        assert_eq!((access.host.as_str(), access.port), (SOCKET_DIR, 6000));
        assert_eq!((access.user.as_str(), access.databases), ("of-line", vec!["shop".to_owned()]));
        for version in [Some(18), None] {
            let access = Access::read(&argv, file, &environ, "odoo", version);
            assert_eq!((access.host.as_str(), access.databases.len()), ("of-file", 0));
        }
    }

    #[test]
    fn the_version_is_that_of_the_program_or_of_the_package() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let argv = ["/usr/bin/python3", "/opt/odoo/odoo-bin"].map(ToOwned::to_owned);
        assert_eq!(version(&root, &argv), None);
        let release = [
            ("usr/lib/python3/dist-packages", "version_info = (19, 0, 0, FINAL, 0, '')\n", 19),
            ("opt/odoo", "x = 7\nversion_info = ('saas~18', 2, 0, FINAL, 0, '')\n", 18),
        ];
        for (place, text, expected) in release {
            let place = dir.path().join(place).join("odoo");
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("release.py"), text).unwrap();
            assert_eq!(version(&root, &argv), Some(expected));
        }
    }

    #[test]
    fn it_is_found_by_the_process_of_that_user() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/passwd", "odoo:x:5:5::/srv:/bin/sh\n");
        write("etc/odoo/odoo.conf", "[options]\ndb_user = of_usual_place\n");
        let root = Root::at(dir.path());
        assert_eq!(Access::find(&root, 5, None).user, "of_usual_place");
        write("srv/named.conf", "[options]\ndb_host = db.internal\n");
        let access = Access::find(&root, 5, Some(Path::new("/srv/named.conf")));
        assert_eq!((access.host.as_str(), access.user.as_str()), ("db.internal", "odoo"));
        for (pid, uid) in [(10, 6), (11, 5)] {
            write(&format!("proc/{pid}/cmdline"), &format!("odoo\0-r\0user{uid}\0"));
            write(&format!("proc/{pid}/environ"), &format!("PGPASSWORD=secret{uid}\0"));
            let status = format!("PPid:\t1\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t5\t5\t5\t5\n");
            write(&format!("proc/{pid}/status"), &status);
        }
        let access = Access::find(&root, 5, None);
        assert_eq!(access.user, "user5");
        assert_eq!(access.password.as_deref(), Some("secret5"));
    }
}

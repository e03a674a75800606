//! How Odoo reaches PostgreSQL, and which databases it serves: by its command line, its configuration file and its
//! environment; what none of them says is as libpq has it. Odoo 19 looks at its environment before its file
//! (`configmanager.options`); an earlier one leaves the environment to libpq, which fills in what the file does not say.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::databases::Filter;
use super::instance::Instance;
use super::passfile::Passfile;
use super::tls::{Mode, Roots};
use crate::odoo::configuration::values;
use crate::odoo::launch::option_of;

/// Something that Odoo can be told: `odoo/tools/config.py`.
struct Key {
    /// In its file.
    name: &'static str,
    /// Its options on the command line.
    short: Option<&'static str>,
    long: &'static str,
    /// Its variable, of Odoo 19 and newer.
    variable: &'static str,
    /// Whether an earlier Odoo leaves that to libpq. It does not where it always gives a value itself.
    is_of_libpq: bool,
}

const fn key(
    name: &'static str,
    short: Option<&'static str>,
    long: &'static str,
    variable: &'static str,
    is_of_libpq: bool,
) -> Key {
    Key { name, short, long, variable, is_of_libpq }
}

const KEYS: [Key; 8] = [
    key("db_host", None, "--db_host", "PGHOST", true),
    key("db_port", None, "--db_port", "PGPORT", true),
    key("db_user", Some("-r"), "--db_user", "PGUSER", true),
    key("db_password", Some("-w"), "--db_password", "PGPASSWORD", true),
    key("db_sslmode", None, "--db_sslmode", "PGSSLMODE", false),
    key("db_name", Some("-d"), "--database", "PGDATABASE", false),
    key("db_template", None, "--db-template", "PGDATABASE_TEMPLATE", false),
    key("dbfilter", None, "--db-filter", "ODOO_DBFILTER", false),
];

/// Where Debian's PostgreSQL and its libpq have their socket; so has that of psycopg2's wheels.
pub(super) const SOCKET_DIR: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
/// A name that is a whole connection string; it may hold a password.
const URI: &str = "://";

/// The first version that looks at the environment before its file.
const ENVIRONMENT_FIRST: u32 = 19;

/// How to connect, and to which databases.
#[derive(Clone, Default)]
pub(super) struct Access {
    /// Names, addresses, or the directory of a socket; the first that answers.
    pub hosts: Vec<String>,
    pub port: u16,
    pub user: String,
    password: Option<String>,
    passfile: Passfile,
    pub tls: Mode,
    pub roots: Roots,
    /// The databases that are named; none: those that belong to the user.
    pub named: Vec<String>,
    /// Of those, the ones that are served.
    pub filter: Filter,
    /// The one that new ones are copied from.
    pub template: Option<String>,
    /// What of it cannot be used.
    pub problem: Option<String>,
}

impl fmt::Debug for Access {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}:{} {:?} {:?}", self.user, self.hosts, self.port, self.tls, self.named)
    }
}

impl Access {
    /// Of this Odoo.
    pub(super) fn of(odoo: &Instance) -> Self {
        let mut access = Self::read(odoo);
        let variable = |name: &str| odoo.variable(name).filter(|value| !value.is_empty());
        let in_home = |name: &str| Some(odoo.home.as_ref()?.join(name));
        let passfile = variable("PGPASSFILE").map(PathBuf::from).or_else(|| in_home(".pgpass"));
        if access.password.is_none()
            && let Some(text) = passfile.and_then(|path| private(&odoo.root.join(&path)).ok())
        {
            access.passfile = Passfile::parse(&text);
        }
        let roots = variable("PGSSLROOTCERT").map(PathBuf::from);
        let roots = roots.or_else(|| in_home(".postgresql/root.crt"));
        access.roots = roots.map_or_else(Roots::default, |path| Roots::read(&odoo.root, &path));
        access
    }

    fn read(odoo: &Instance) -> Self {
        let environment_first = odoo.version.is_some_and(|version| version >= ENVIRONMENT_FIRST);
        let argv: Vec<&str> = odoo.argv.iter().map(String::as_str).collect();
        // A file that cannot be read says nothing.
        let file = values(&odoo.file, &KEYS.map(|key| key.name)).unwrap_or_default();
        let said: BTreeMap<&str, String> = KEYS
            .iter()
            .filter_map(|key| {
                let of_file = || file.get(key.name).cloned();
                let of_environment = || odoo.variable(key.variable).map(ToOwned::to_owned);
                let value = option_of(&argv, key.short, key.long).or_else(|| {
                    match (environment_first, key.is_of_libpq) {
                        (true, _) => of_environment().or_else(of_file),
                        (false, true) => of_file().or_else(of_environment),
                        (false, false) => of_file(),
                    }
                });
                Some((key.name, value.filter(|value| !value.is_empty())?))
            })
            .collect();
        let text = |key: &str| said.get(key).cloned();
        let filter = text("dbfilter");
        // With a filter Odoo serves what that lets through (`list_dbs`).
        let all = text("db_name").filter(|_| filter.is_none()).unwrap_or_default();
        let all = all.split(',').map(str::trim).filter(|name| !name.is_empty());
        let (uris, named): (Vec<&str>, Vec<&str>) = all.partition(|name| name.contains(URI));
        let problem = (!uris.is_empty())
            .then(|| "a database that is named by a connection string is not asked".to_owned());
        let hosts = text("db_host").unwrap_or_else(|| SOCKET_DIR.to_owned());
        Self {
            hosts: hosts.split(',').map(|host| host.trim().to_owned()).collect(),
            port: text("db_port").and_then(|port| port.parse().ok()).unwrap_or(PORT),
            user: text("db_user").unwrap_or_else(|| odoo.user.clone()),
            password: text("db_password"),
            tls: Mode::of(&text("db_sslmode").unwrap_or_default()),
            named: named.into_iter().map(ToOwned::to_owned).collect(),
            filter: Filter::of(filter.as_deref()),
            template: text("db_template"),
            problem,
            ..Self::default()
        }
    }

    /// Whether a host has a name, whose address must be found.
    pub(super) fn needs_names(&self) -> bool {
        let has_name = |host: &String| !host.starts_with('/') && host.parse::<IpAddr>().is_err();
        self.hosts.iter().any(has_name)
    }

    /// What to say to this host for this database, if anything.
    pub(super) fn password(&self, host: &str, database: &str) -> Option<&str> {
        self.password
            .as_deref()
            .or_else(|| self.passfile.password(host, self.port, database, &self.user))
    }
}

/// A file that only its owner may read; libpq takes no other one for a file of passwords.
fn private(path: &Path) -> io::Result<String> {
    const LENGTH_MAX_BYTES: u64 = 1 << 16;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.mode() & 0o077 != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = String::new();
    file.take(LENGTH_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::odoo::root::Root;
    use std::os::unix::fs::PermissionsExt as _;

    fn odoo(argv: &[&str], file: &str, environ: &[&str], version: Option<u32>) -> Instance {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        Instance {
            argv: owned(argv),
            environ: owned(environ),
            file: file.to_owned(),
            user: "odoo".to_owned(),
            version,
            home: None,
            root: Root::host(),
            process: None,
        }
    }

    fn read(argv: &[&str], file: &str, environ: &[&str]) -> Access {
        Access::of(&odoo(argv, file, environ, Some(18)))
    }

    #[test]
    fn without_a_word_it_is_the_socket_and_the_users_own_role() {
        for file in
            ["", "[options]\ndb_host = False\ndb_name = False\ndb_port = False\n", "nonsense"]
        {
            let access = read(&[], file, &[]);
            assert_eq!((&access.hosts[..], access.port), (&[SOCKET_DIR.to_owned()][..], 5432));
            assert_eq!((access.user.as_str(), access.password("x", "y")), ("odoo", None));
            assert_eq!((access.tls, access.named.len()), (Mode::Prefer, 0));
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_that_before_the_environment() {
        let file = "[options]\ndb_host = of-file\ndb_port = 6000\ndb_sslmode = verify-full\n\
                    db_name = shop, other\n";
        let environ = ["PGHOST=of-environment", "PGUSER=someone", "PGPASSWORD=a=b", "PGPORT=7000"];
        let access = read(&["odoo", "--db_host=of-line,b", "-d", "one"], file, &environ);
        assert_eq!((access.hosts.join(" "), access.port), ("of-line b".to_owned(), 6000));
        assert_eq!((access.user.as_str(), access.password("x", "y")), ("someone", Some("a=b")));
        assert_eq!((access.tls, &access.named[..]), (Mode::VerifyFull, &["one".to_owned()][..]));
        let access = read(&[], file, &environ);
        assert_eq!((access.hosts.join(" "), access.named.len()), ("of-file".to_owned(), 2));
        assert!(!format!("{access:?}").contains("a=b"), "{access:?}");
    }

    #[test]
    fn odoo_19_looks_at_its_environment_before_its_file() {
        let file = "[options]\ndb_host = of-file\ndb_user = of-file\ndb_port = 6000\n";
        let argv = ["odoo", "-r", "of-line"];
        let environ = ["PGHOST=", "PGUSER=x", "PGDATABASE=shop", "PGSSLMODE=require"];
        let access = Access::of(&odoo(&argv, file, &environ, Some(19)));
        assert_eq!((access.hosts.join(" ").as_str(), access.port), (SOCKET_DIR, 6000));
        assert_eq!((access.user.as_str(), access.named.join(" ")), ("of-line", "shop".to_owned()));
        assert_eq!(access.tls, Mode::Require);
        for version in [Some(18), None] {
            let access = Access::of(&odoo(&argv, file, &environ, version));
            assert_eq!((access.hosts.join(" ").as_str(), access.named.len()), ("of-file", 0));
            // Odoo itself says "prefer" there.
            assert_eq!(access.tls, Mode::Prefer);
        }
    }

    #[test]
    fn a_filter_goes_before_names_and_a_connection_string_is_never_shown() {
        let access = read(&["odoo", "--db-filter=^shop"], "[options]\ndb_name = x\n", &[]);
        assert_eq!(access.named.len(), 0);
        assert!(access.filter.lets_through("shop2") && !access.filter.lets_through("x"));
        let access = read(&["odoo", "-d", "postgres://u:secret@h/d,shop"], "", &[]);
        assert_eq!(access.named, ["shop"]);
        assert!(!access.problem.unwrap().contains("secret"));
    }

    #[test]
    fn a_file_of_passwords_is_read_if_it_is_private() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".pgpass");
        std::fs::write(&path, "*:*:*:odoo:secret\n").unwrap();
        let mut instance = odoo(&[], "[options]\ndb_host = db\n", &[], None);
        instance.home = Some(home.path().to_owned());
        for (mode, expected) in [(0o600, Some("secret")), (0o640, None)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Access::of(&instance).password("db", "shop"), expected, "{mode:o}");
        }
        instance.environ = vec!["PGPASSWORD=other".to_owned()];
        assert_eq!(Access::of(&instance).password("db", "shop"), Some("other"));
    }
}

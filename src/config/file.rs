//! The configuration file as written: every key optional, every value still text.
//!
//! [`KEYS`] is the list that the documentation is held against and from which a misspelt key's
//! right form is found; a test holds it against the types.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use crate::exit::{ExitCode, Failure};

/// The file that is read when none is named, if it exists.
pub(crate) const DEFAULT_PATH: &str = "/etc/sessionfs/sessionfs.toml";

/// Nobody writes a longer one by hand.
const LENGTH_MAX_BYTES: u64 = 1 << 20;

/// Declares a table of the file and the list of its keys at once.
macro_rules! table {
    ($(#[doc = $doc:literal])+ $name:ident($prefix:literal): $keys:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)*
    } $({ $($(#[doc = $sub_doc:literal])+ $sub:ident: $sub_type:ty,)* })?) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[allow(clippy::struct_field_names, reason = "they are the keys of the file")]
        pub(crate) struct $name {
            $($(#[doc = $field_doc])+ pub $field: Option<$type>,)*
            $($($(#[doc = $sub_doc])+ pub $sub: $sub_type,)*)?
        }

        /// Its keys, in full.
        pub(crate) const $keys: &[&str] = &[$(concat!($prefix, stringify!($field)),)*];
    };
}

table! {
    /// The whole file.
    File(""): TOP_KEYS {
        /// Where to mount, where the command line names no directory.
        mountpoint: PathBuf,
        /// Owner of the tree.
        owner: String,
        /// Group of the tree.
        group: String,
        /// Permission bits of the root directory.
        mode: String,
        /// What is logged.
        log: String,
        /// Where staging files lie.
        staging_dir: PathBuf,
        /// Where sessions are also written to.
        mirror: PathBuf,
    } {
        /// `[redis]`
        redis: Redis,
        /// `[private_redis]`
        private_redis: PrivateRedis,
        /// `[secret]`
        secret: Secret,
        /// `[worker]`
        worker: Worker,
        /// `[lifetime]`
        lifetime: Lifetime,
        /// `[limits]`
        limits: Limits,
        /// `[import]`
        import: Import,
        /// `[outage]`
        outage: Outage,
        /// `[near_cache]`
        near_cache: NearCache,
        /// `[activity]`
        activity: Activity,
        /// `[metrics]`
        metrics: Metrics,
        /// `[audit]`
        audit: Audit,
        /// `[odoo]`
        odoo: Odoo,
    }
}

table! {
    /// The Redis that is already there.
    Redis("redis."): REDIS_KEYS {
        /// Its address.
        url: String,
        /// Who to log in as.
        username: String,
        /// A file that holds the password.
        password_file: PathBuf,
        /// Who to log in to the sentinels as.
        sentinel_username: String,
        /// A file that holds the sentinels' password.
        sentinel_password_file: PathBuf,
        /// A file of the authorities that sign its certificates.
        ca_file: PathBuf,
        /// A file with the certificate that this host shows.
        cert_file: PathBuf,
        /// A file with the key of that.
        key_file: PathBuf,
        /// The beginning of every key.
        prefix: String,
        /// Bound of one attempt to connect.
        connect_timeout: String,
        /// Bound of one request.
        request_timeout: String,
        /// How long a start waits for it.
        start_wait: String,
        /// Whether contents are packed.
        packing: String,
    }
}

table! {
    /// The Redis that is started when no other is named.
    PrivateRedis("private_redis."): PRIVATE_REDIS_KEYS {
        /// Its state directory.
        dir: PathBuf,
        /// The program.
        server: PathBuf,
        /// The most memory it may use.
        memory: String,
    }
}

table! {
    /// What contents are sealed with.
    Secret("secret."): SECRET_KEYS {
        /// The file of secrets.
        file: PathBuf,
    }
}

table! {
    /// The process that serves.
    Worker("worker."): WORKER_KEYS {
        /// The user it runs as.
        user: String,
        /// How long it may leave the kernel without an answer.
        answer_within: String,
    }
}

table! {
    /// When a session ends.
    Lifetime("lifetime."): LIFETIME_KEYS {
        /// Authenticated: after its last activity.
        idle: String,
        /// Anonymous: after its last activity.
        anonymous_idle: String,
        /// Anonymous: if it was never opened.
        anonymous_unopened: String,
        /// Authenticated: after its login.
        absolute: String,
        /// How long a dead session is recognised.
        grace: String,
        /// How long the mark of an ended session stays.
        tombstone: String,
        /// What asks for the lifetimes that are not written.
        preset: String,
        /// The shortest that a system parameter of Odoo can set.
        idle_min: String,
        /// The longest idle time that one can set.
        idle_max: String,
        /// The same for the absolute lifetime.
        absolute_max: String,
    } {
        /// `[[lifetime.rules]]`
        rules: Vec<LifetimeRule>,
    }
}

table! {
    /// Other lifetimes for some sessions.
    LifetimeRule("lifetime.rules."): LIFETIME_RULE_KEYS {
        /// Those of a database.
        database: String,
        /// Those of a login, or of a pattern of logins.
        login: String,
        /// Those of a user.
        user_id: i64,
        /// Authenticated: after its last activity.
        idle: String,
        /// Authenticated: after its login.
        absolute: String,
        /// Anonymous: after its last activity.
        anonymous_idle: String,
        /// Anonymous: if it was never opened.
        anonymous_unopened: String,
    }
}

table! {
    /// Bounds.
    Limits("limits."): LIMITS_KEYS {
        /// One session.
        session: String,
        /// One session of a visitor.
        anonymous: String,
        /// All staging files.
        staging: String,
        /// The number of staging files.
        staging_files: u64,
        /// Inodes that the kernel may hold.
        inodes: u64,
        /// What is kept of sessions in memory.
        memory: String,
    }
}

table! {
    /// Which session files become sessions.
    Import("import."): IMPORT_KEYS {
        /// Up to which age.
        max_age: String,
    }
}

table! {
    /// What callers see of an outage.
    Outage("outage."): OUTAGE_KEYS {
        /// One step of waiting.
        wait_step: String,
        /// All of it.
        wait_total: String,
        /// All of it, for background processes.
        wait_background: String,
        /// How much is kept that Redis does not take.
        spool_max: String,
    }
}

table! {
    /// What is answered without asking Redis.
    NearCache("near_cache."): NEAR_CACHE_KEYS {
        /// How current an open is.
        freshness: String,
        /// How long known sessions are served in an outage.
        grace: String,
        /// How much memory it may use.
        memory: String,
    }
}

table! {
    /// Who acts for no person.
    Activity("activity."): ACTIVITY_KEYS {
        /// Arguments of a background process.
        background_argv: Vec<String>,
        /// The beginnings of a background process's title.
        background_title: Vec<String>,
        /// Whether requests that a browser sends by itself are told from those of a person.
        requests: String,
        /// Odoo's HTTP ports.
        ports: Vec<u16>,
        /// Paths of requests that a browser sends by itself.
        passive: Vec<String>,
        /// Paths of requests that a person sends.
        active: Vec<String>,
    }
}

table! {
    /// What is counted.
    Metrics("metrics."): METRICS_KEYS {
        /// Where it is served.
        listen: String,
    }
}

table! {
    /// The audit trail.
    Audit("audit."): AUDIT_KEYS {
        /// Which file or socket takes it.
        trail: String,
        /// How large the file may become.
        trail_max: String,
    }
}

table! {
    /// What Odoo itself may ask for.
    Odoo("odoo."): ODOO_KEYS {
        /// Where its user lists and ends the sessions of a user.
        socket: String,
        /// Whether its system parameters set lifetimes.
        follow_parameters: bool,
        /// Its configuration file.
        config: PathBuf,
    }
}

/// Keys of development versions, and what they are called since 0.1.0.
const RENAMED: &[(&str, &str)] = &[
    ("activity.passive_argv", "activity.background_argv"),
    ("activity.passive_title", "activity.background_title"),
    ("limits.nodes", "limits.inodes"),
];

/// Every accepted key, in full.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> {
    [
        TOP_KEYS,
        REDIS_KEYS,
        PRIVATE_REDIS_KEYS,
        SECRET_KEYS,
        WORKER_KEYS,
        LIFETIME_KEYS,
        LIFETIME_RULE_KEYS,
        LIMITS_KEYS,
        IMPORT_KEYS,
        OUTAGE_KEYS,
        NEAR_CACHE_KEYS,
        ACTIVITY_KEYS,
        METRICS_KEYS,
        AUDIT_KEYS,
        ODOO_KEYS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

impl File {
    /// Reads the named file, or the default one if it exists.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self, Failure> {
        let (text, path) = read(named)?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let table = table(text, path)?;
        refuse_unknown_keys(&table, path)?;
        toml::from_str(text).map_err(|e| describe(&e, text, path))
    }
}

/// A key that the file has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Written {
    /// In full, such as `redis.url`.
    pub key: String,
    /// As text; a list as TOML writes it.
    pub value: String,
}

/// The keys that the named file has, or the default one if it exists.
pub(crate) fn written(named: Option<&Path>) -> Result<Vec<Written>, Failure> {
    let (text, path) = read(named)?;
    let mut written = Vec::new();
    for (name, value) in table(&text, path)? {
        match value {
            toml::Value::Table(inner) => written.extend(
                inner.into_iter().map(|(key, value)| line(format!("{name}.{key}"), &value)),
            ),
            value => written.push(line(name, &value)),
        }
    }
    Ok(written)
}

/// The `mountpoint` that the named file has, or the default one if it exists. A mistake elsewhere in the file keeps nobody
/// from finding a mount.
pub(crate) fn mountpoint(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let of_mount = |line: Written| (line.key == "mountpoint").then(|| line.value.into());
    Ok(written(named)?.into_iter().find_map(of_mount))
}

fn line(key: String, value: &toml::Value) -> Written {
    let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    Written { key, value }
}

fn read(named: Option<&Path>) -> Result<(String, &Path), Failure> {
    let path = named.unwrap_or(Path::new(DEFAULT_PATH));
    match read_bounded(path, LENGTH_MAX_BYTES) {
        Ok(text) => Ok((text, path)),
        Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
            Ok((String::new(), path))
        }
        Err(e) => {
            let is_roots = e.kind() == std::io::ErrorKind::PermissionDenied
                && !nix::unistd::geteuid().is_root();
            let remedy =
                if is_roots { "run it with sudo" } else { "name a readable file with --config" };
            Err(Failure::new(
                ExitCode::UnreadableFile,
                format!("configuration file {}: {e}; {remedy}", path.display()),
            ))
        }
    }
}

fn table(text: &str, path: &Path) -> Result<Table, Failure> {
    text.parse().map_err(|e| describe(&e, text, path))
}

/// Reads a small text file, refusing what is too long to be one.
pub(crate) fn read_bounded(path: &Path, length_max_bytes: u64) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "is not a regular file"));
    }
    let mut text = String::new();
    file.take(length_max_bytes + 1).read_to_string(&mut text)?;
    if text.len() as u64 > length_max_bytes {
        return Err(Error::new(ErrorKind::InvalidData, "is too long"));
    }
    Ok(text)
}

/// A parser's error with file, line and key, without its picture of the text.
fn describe(error: &toml::de::Error, text: &str, path: &Path) -> Failure {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line =
        before.map(|before| format!(":{}", before.matches('\n').count() + 1)).unwrap_or_default();
    let key = before
        .and_then(|before| before.rsplit('\n').next()?.split_once('='))
        .map(|(key, _)| format!("{}: ", key.trim().escape_debug()));
    // The header of a table.
    let key = key.or_else(|| {
        let header = error.span().and_then(|span| text.get(span.start..)?.lines().next())?.trim();
        header.starts_with('[').then(|| format!("{}: ", header.escape_debug()))
    });
    let key = key.unwrap_or_default();
    let message = error.message();
    let remedy = match message.strip_prefix("invalid type: ") {
        Some(found) if found.ends_with("expected a string") => "; write it in quotes",
        Some(found) if found.ends_with("expected a boolean") => {
            "; write true or false, without quotes"
        }
        Some("map, expected a sequence") => {
            "; write its header in two brackets, as [[lifetime.rules]]"
        }
        _ => "",
    };
    let shown = path.display();
    Failure::new(ExitCode::BadValue, format!("{shown}{line}: {key}{message}{remedy}"))
}

fn refuse_unknown_keys(table: &Table, path: &Path) -> Result<(), Failure> {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => {
                let prefix = format!("{name}.");
                if !keys().any(|key| key.starts_with(&prefix)) {
                    return Err(unknown(name, path));
                }
                for (inner_name, value) in inner {
                    let key = format!("{prefix}{inner_name}");
                    match value {
                        toml::Value::Array(items) if is_table(&key) => {
                            refuse_unknown_keys_of_items(&key, items, path)?;
                        }
                        // A wrong value, which the types will say.
                        _ if is_table(&key) => {}
                        _ => known(&key, path)?,
                    }
                }
            }
            // A table's name with a plain value is a wrong value, which the types will say.
            _ if is_table(name) => {}
            _ => known(name, path)?,
        }
    }
    Ok(())
}

/// Whether keys stand under that name.
fn is_table(name: &str) -> bool {
    keys().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The same of an array of tables, such as `[[lifetime.rules]]`.
fn refuse_unknown_keys_of_items(
    name: &str,
    items: &[toml::Value],
    path: &Path,
) -> Result<(), Failure> {
    for key in items.iter().filter_map(toml::Value::as_table).flat_map(Table::keys) {
        known(&format!("{name}.{key}"), path)?;
    }
    Ok(())
}

fn known(key: &str, path: &Path) -> Result<(), Failure> {
    if keys().any(|known| known == key) { Ok(()) } else { Err(unknown(key, path)) }
}

fn unknown(key: &str, path: &Path) -> Failure {
    let Failure { code, message } = unknown_key(key);
    Failure::new(code, format!("{}: {message}", path.display()))
}

/// There is no such key; perhaps another one was meant.
pub(crate) fn unknown_key(key: &str) -> Failure {
    if let Some((_, name)) = RENAMED.iter().find(|(former, _)| *former == key) {
        return Failure::new(
            ExitCode::UnknownKey,
            format!("unknown key '{key}'; it was renamed to '{name}'"),
        );
    }
    let remedy = nearest(key).map_or_else(
        || "man sessionfs.toml has all keys".to_owned(),
        |near| format!("did you mean '{near}'?"),
    );
    Failure::new(ExitCode::UnknownKey, format!("unknown key '{key}'; {remedy}"))
}

/// The key or table that was probably meant: a few letters away, or the same word in another
/// table.
fn nearest(wrong: &str) -> Option<&'static str> {
    const LENGTH_MAX_CHARS: usize = 64;
    const DISTANCE_MAX: usize = 3;
    if wrong.len() > LENGTH_MAX_CHARS {
        return None;
    }
    let wrong_word = wrong.rsplit('.').next().unwrap_or(wrong);
    let tables = keys().filter_map(|key| key.split_once('.').map(|(table, _)| table));
    let near = keys()
        .chain(tables)
        .map(|key| (distance(wrong, key), key))
        .min()
        .filter(|(distance, key)| *distance <= DISTANCE_MAX.min(key.len() / 2));
    let elsewhere = || keys().find(|key| key.rsplit('.').next() == Some(wrong_word));
    near.map(|(_, key)| key).or_else(elsewhere)
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, Failure> {
        File::parse(text, Path::new("test.toml"))
    }

    #[test]
    fn every_listed_key_is_accepted() {
        for key in keys() {
            let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
            let value = match key {
                "limits.inodes" | "limits.staging_files" | "lifetime.rules.user_id" => "7",
                "activity.background_argv"
                | "activity.background_title"
                | "activity.passive"
                | "activity.active" => "[\"x\"]",
                "activity.ports" => "[7]",
                "odoo.follow_parameters" => "true",
                _ => "\"x\"",
            };
            let header = match table {
                "" => String::new(),
                "lifetime.rules" => format!("[[{table}]]\n"),
                table => format!("[{table}]\n"),
            };
            parse(&format!("{header}{name} = {value}\n")).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_told_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sessionfs.toml");
        let text = "\"mountpoint\" = '/srv/a b'\nredis.url = \"unix:/r\"\n[limits]\ninodes = 7\n\
                    [activity]\nbackground_argv = [\"x\"]\n";
        std::fs::write(&path, text).unwrap();
        let mut found: Vec<String> = written(Some(&path))
            .unwrap()
            .into_iter()
            .map(|Written { key, value }| format!("{key}={value}"))
            .collect();
        found.sort();
        let expected = [
            "activity.background_argv=[\"x\"]",
            "limits.inodes=7",
            "mountpoint=/srv/a b",
            "redis.url=unix:/r",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_unknown_key_names_file_key_and_remedy() {
        let cases = [
            ("ownr = 'x'", "test.toml: unknown key 'ownr'; did you mean 'owner'?"),
            (
                "[lifetime]\nidel = '1h'",
                "test.toml: unknown key 'lifetime.idel'; did you mean 'lifetime.idle'?",
            ),
            (
                "[[lifetime.rules]]\nlogn = 'a'",
                "unknown key 'lifetime.rules.logn'; did you mean 'lifetime.rules.login'?",
            ),
            ("[lifetimes]\nidle = '1h'", "unknown key 'lifetimes'; did you mean 'lifetime'?"),
            ("idle = '1h'", "unknown key 'idle'; did you mean 'lifetime.idle'?"),
            ("[redis]\nmemory = '1MiB'", "'redis.memory'; did you mean 'private_redis.memory'?"),
            ("quux = 1", "unknown key 'quux'; man sessionfs.toml has all keys"),
            (
                "[limits]\nnodes = 5000",
                "unknown key 'limits.nodes'; it was renamed to 'limits.inodes'",
            ),
        ];
        for (text, expected) in cases {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, ExitCode::UnknownKey, "{text}");
            assert!(failure.to_string().contains(expected), "{failure}");
        }
    }

    #[test]
    fn a_wrong_type_names_file_and_line() {
        for (text, line) in [("owner = 5", 1), ("\nredis = 5", 2), ("[limits]\ninodes = -1", 2)] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, ExitCode::BadValue);
            assert!(failure.to_string().starts_with(&format!("test.toml:{line}: ")), "{failure}");
        }
        assert_eq!(parse("owner = ").unwrap_err().code, ExitCode::BadValue);
    }

    #[test]
    fn a_missing_default_file_is_no_error_and_a_named_one_is() {
        let missing = Path::new("/nonexistent/sessionfs.toml");
        let failure = File::load(Some(missing)).unwrap_err();
        assert_eq!(failure.code, ExitCode::UnreadableFile);
        assert!(failure.to_string().contains("/nonexistent/sessionfs.toml"));
    }
}

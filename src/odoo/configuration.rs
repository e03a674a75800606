//! Odoo's configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption, Properties};

use super::root::Root;

/// Where Odoo, its packages and the usual guides put it.
pub(crate) const USUAL_PLACES: [&str; 5] = [
    "/etc/odoo/odoo.conf",
    "/etc/odoo.conf",
    "/etc/odoo/odoo-server.conf",
    "/etc/odoo-server.conf",
    "/etc/odoo/openerp-server.conf",
];

/// What matters of it here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Configuration {
    pub path: PathBuf,
    /// Why it could not be read, if so; then nothing else is known.
    pub unreadable: Option<String>,
    /// `data_dir`, if it is set.
    pub data_dir: Option<PathBuf>,
    /// `http_port`, and as it was called before, `xmlrpc_port`.
    pub http_port: Option<u16>,
    /// `proxy_mode`.
    pub proxy_mode: bool,
    /// `workers`, if it is set and a number.
    pub workers: Option<u32>,
    /// `gevent_port`, and as it was called before, `longpolling_port`.
    pub gevent_port: Option<u16>,
    /// `list_db`; Odoo's default is to list databases.
    pub list_db: Option<bool>,
    /// `dbfilter`.
    pub db_filter: Option<String>,
    /// `db_name`: the databases that it serves, if it does not serve all.
    pub databases: Vec<String>,
    /// `logfile`.
    pub log_file: Option<PathBuf>,
    /// `server_wide_modules`.
    pub modules: Vec<String>,
    /// `addons_path`.
    pub addons: Vec<PathBuf>,
}

impl Configuration {
    /// Reads a file; `None` if there is none.
    pub(crate) fn read(root: &Root, path: &Path) -> Option<Self> {
        let unreadable =
            |why: String| Self { path: path.to_owned(), unreadable: Some(why), ..Self::default() };
        match root.read_text(path) {
            Ok(text) => Some(Self::parse(path, &text).unwrap_or_else(unreadable)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(unreadable(error.to_string())),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let options = options(text)?;
        let get = |key: &str| get(&options, key);
        Ok(Self {
            path: path.to_owned(),
            unreadable: None,
            data_dir: get("data_dir").map(PathBuf::from),
            http_port: get("http_port")
                .or_else(|| get("xmlrpc_port"))
                .and_then(|value| value.parse().ok()),
            proxy_mode: get("proxy_mode").is_some_and(is_true),
            workers: get("workers").and_then(|value| value.parse().ok()),
            gevent_port: get("gevent_port")
                .or_else(|| get("longpolling_port"))
                .and_then(|value| value.parse().ok()),
            // `False` is a value here, and `get` takes it for none.
            list_db: options.get("list_db").map(|value| is_true(value.trim())),
            db_filter: get("dbfilter").map(ToOwned::to_owned),
            databases: get("db_name").map(names).unwrap_or_default(),
            log_file: get("logfile").map(PathBuf::from),
            modules: get("server_wide_modules").map(names).unwrap_or_default(),
            addons: get("addons_path").map(paths).unwrap_or_default(),
        })
    }
}

fn options(text: &str) -> Result<Properties, String> {
    // As Python's RawConfigParser: no escapes, and quotes belong to the value.
    let how = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        enabled_indented_mutiline_value: true,
        ..ParseOption::default()
    };
    let mut file = Ini::load_from_str_opt(text, how).map_err(|error| error.to_string())?;
    file.delete(Some("options")).ok_or_else(|| "it has no section [options]".to_owned())
}

fn get<'a>(options: &'a Properties, key: &str) -> Option<&'a str> {
    options
        .get_all(key)
        .next_back()
        .map(str::trim)
        // Odoo's own way to write "not set".
        .filter(|value| !value.is_empty() && !["False", "None"].contains(value))
}

/// These keys of a file, as far as they are set.
pub(crate) fn values(text: &str, keys: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let options = options(text)?;
    let found =
        keys.iter().filter_map(|key| Some(((*key).to_owned(), get(&options, key)?.to_owned())));
    Ok(found.collect())
}

/// A list of directories, as a file or a command line gives it.
pub(crate) fn paths(text: &str) -> Vec<PathBuf> {
    names(text).into_iter().map(PathBuf::from).collect()
}

/// A list of module names, as a file or a command line gives it.
pub(crate) fn names(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

fn is_true(value: &str) -> bool {
    ["true", "1", "yes", "on"].contains(&value.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Configuration, String> {
        Configuration::parse(Path::new("/etc/odoo.conf"), text)
    }

    #[test]
    fn what_odoo_writes_itself_is_read() {
        let text = "[options]\n; a comment\naddons_path = /a,\n    /b\nadmin_passwd = p%a\"s\\s\n\
                    data_dir = /srv/odoo data\nproxy_mode = True\nworkers = 4\n\
                    server_wide_modules = base,web, session_redis\ndb_host = False\n\
                    list_db = False\ndbfilter = ^%d$\ndb_name = a,b\nlongpolling_port = 8073\n\
                    logfile = /var/log/odoo.log\n";
        let found = parse(text).unwrap();
        assert_eq!(found.data_dir.as_deref(), Some(Path::new("/srv/odoo data")));
        assert!(found.proxy_mode);
        assert_eq!(found.workers, Some(4));
        assert_eq!(found.modules, ["base", "web", "session_redis"]);
        assert_eq!(found.addons, ["/a", "/b"].map(PathBuf::from));
        assert_eq!((found.list_db, found.db_filter.as_deref()), (Some(false), Some("^%d$")));
        assert_eq!((found.databases, found.gevent_port), (names("a,b"), Some(8073)));
        assert_eq!(found.log_file.as_deref(), Some(Path::new("/var/log/odoo.log")));
    }

    #[test]
    fn what_is_not_set_is_not_known() {
        let found =
            parse("[options]\ndata_dir = False\nworkers = many\nproxy_mode = False\n").unwrap();
        assert_eq!((found.data_dir, found.workers, found.proxy_mode), (None, None, false));
        assert_eq!((found.list_db, found.db_filter, found.databases.len()), (None, None, 0));
    }

    #[test]
    fn an_odd_file_is_told_without_its_content() {
        for text in ["", "data_dir = /x\n", "[options\nadmin_passwd = geheim", "\0\u{fffd}\n=\n"] {
            let why = parse(text).unwrap_err();
            assert!(!why.contains("geheim") && !why.is_empty(), "{why}");
        }
    }
}

//! Where Redis is: the one place that reads and writes its URL.
//!
//! A URL names one server, the sentinels that know the master, or some servers of a Cluster.

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use redis::{ConnectionAddr, IntoConnectionInfo};

/// The port of a server, and of a sentinel, whose URL names none.
const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Nobody has more sentinels, or names more servers of a Cluster.
const HOSTS_MAX: usize = 64;

/// No parameter has a longer name.
const PARAMETER_MAX_BYTES: usize = 40;

/// The URL cannot be used. Never holds the URL itself: there may be a password in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadUrl(pub String);

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Redis URL: {}; write redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:/PATH, \
             redis-sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis-cluster://HOST:PORT,HOST:PORT",
            self.0
        )
    }
}

impl std::error::Error for BadUrl {}

/// What a host must have, to connect from it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Needs {
    /// Addresses of names.
    pub names: bool,
    /// Certificates of authorities.
    pub certificates: bool,
}

/// Where one server listens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => f.write_str(&unix_url(path)),
        }
    }
}

/// As whom to log in.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct Login {
    pub username: Option<String>,
    pub password: Option<String>,
}

/// How Redis is deployed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// One server, or a name that leads to the current master.
    Single(Address),
    /// Sentinels that know the master of this name.
    Sentinel { sentinels: Vec<Address>, master: String },
    /// Some servers of a Cluster, which know the others.
    Cluster(Vec<Address>),
}

/// One Redis deployment.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub place: Place,
    /// Connections are encrypted, those to sentinels too.
    pub tls: bool,
    pub db: i64,
    /// Of the servers.
    pub login: Login,
    /// Of the sentinels.
    pub sentinel_login: Login,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl fmt::Display for Endpoint {
    /// Its URL without users and passwords: for messages, and [`Endpoint::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let db = self.db;
        match &self.place {
            Place::Single(Address::Unix(path)) => write!(f, "{}?db={db}", unix_url(path)),
            Place::Single(at) => write!(f, "{scheme}://{at}/{db}"),
            Place::Sentinel { sentinels, master } => {
                write!(f, "{scheme}-sentinel://{}/{master}/{db}", list(sentinels))
            }
            Place::Cluster(servers) => write!(f, "{scheme}-cluster://{}", list(servers)),
        }
    }
}

fn list(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl Endpoint {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, BadUrl> {
        match Scheme::of(url) {
            Some((scheme, rest)) => several(scheme, rest),
            None => single(url),
        }
    }

    /// What the host must have for it. The servers of a Cluster, and a master, may announce names.
    pub(crate) fn needs(&self) -> Needs {
        let is_name = |at: &Address| match at {
            Address::Tcp(host, _) => host.parse::<IpAddr>().is_err(),
            Address::Unix(_) => false,
        };
        let names = match &self.place {
            Place::Single(at) => is_name(at),
            Place::Sentinel { .. } | Place::Cluster(_) => true,
        };
        Needs { names, certificates: self.tls }
    }

    /// The same deployment, as these users.
    pub(crate) fn with_logins(mut self, login: Login, sentinel_login: Login) -> Self {
        self.login = login.or(self.login);
        self.sentinel_login = sentinel_login.or(self.sentinel_login);
        self
    }
}

impl Login {
    fn or(self, other: Self) -> Self {
        Self {
            username: self.username.or(other.username),
            password: self.password.or(other.password),
        }
    }
}

/// What a URL of several hosts begins with.
#[derive(Clone, Copy)]
struct Scheme {
    tls: bool,
    is_cluster: bool,
}

impl Scheme {
    /// The scheme, and what follows it; `None` if the URL is one of a single server.
    fn of(url: &str) -> Option<(Self, &str)> {
        let (scheme, rest) = url.split_once("://")?;
        let (server, kind) = scheme.split_once(['-', '+'])?;
        let tls = match server {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return None,
        };
        let is_cluster = match kind {
            "sentinel" => false,
            "cluster" => true,
            _ => return None,
        };
        Some((Self { tls, is_cluster }, rest))
    }
}

fn bad<T>(why: &str) -> Result<T, BadUrl> {
    Err(BadUrl(why.to_owned()))
}

/// Users, passwords and hosts of what follows `://`, and the rest. An `@` in the rest belongs to a
/// password that is written in a way that would show a part of it elsewhere.
fn authority_of(rest: &str) -> Result<(&str, &str), BadUrl> {
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if tail.contains('@') {
        return bad(
            "there is an @ after the host; percent-encode /, ?, # and @ in the user and the \
             password (%2F, %3F, %23, %40)",
        );
    }
    Ok((authority, tail))
}

/// A URL of sentinels or of servers of a Cluster. What one host has is read by the crate.
fn several(scheme: Scheme, rest: &str) -> Result<Endpoint, BadUrl> {
    let (authority, tail) = authority_of(rest)?;
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let default_port = if scheme.is_cluster { SERVER_PORT } else { SENTINEL_PORT };
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let Some(url) = redis::parse_redis_url(&format!("redis://{host}")) else {
            return bad("a host in it is malformed");
        };
        let Some(name) = url.host_str().filter(|name| !name.is_empty()) else {
            return bad("a host in it is empty");
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        addresses.push(Address::Tcp(name, url.port().unwrap_or(default_port)));
    }
    if addresses.len() > HOSTS_MAX {
        return bad("it names too many hosts");
    }
    let user = if user.is_empty() { String::new() } else { format!("{user}@") };
    let malformed = || BadUrl("it is malformed".to_owned());
    let login = format!("redis://{user}host").into_connection_info().map_err(|_| malformed())?;
    let login = login_of(&login);
    let url = redis::parse_redis_url(&format!("redis://host{tail}")).ok_or_else(malformed)?;
    let mut named = Named { login, ..Named::default() };
    let segments: Vec<&str> =
        url.path_segments().into_iter().flatten().filter(|text| !text.is_empty()).collect();
    for (key, value) in url.query_pairs() {
        named.parameter(!scheme.is_cluster, &key, value.into_owned())?;
    }
    match url.fragment() {
        Some(_) if scheme.is_cluster => return bad("it has a part after #"),
        Some(master) => named.master = Some(master.to_owned()),
        None => {}
    }
    named.path(&segments)?;
    named.endpoint(scheme, addresses)
}

/// What a URL of several hosts says besides them.
#[derive(Default)]
struct Named {
    login: Login,
    sentinel_login: Login,
    master: Option<String>,
    db: Option<i64>,
}

impl Named {
    /// By the names that other clients give them.
    fn parameter(&mut self, has_sentinels: bool, key: &str, value: String) -> Result<(), BadUrl> {
        match key {
            "username" | "user" => self.login.username = Some(value),
            "password" | "pass" => self.login.password = Some(value),
            "db" | "database" => self.db = Some(database(&value)?),
            "protocol" if matches!(value.as_str(), "3" | "resp3") => {}
            "protocol" => {
                return bad("sessionfs uses version 3 of the protocol; remove `protocol`");
            }
            "sentinel_username" if has_sentinels => self.sentinel_login.username = Some(value),
            "sentinel_password" if has_sentinels => self.sentinel_login.password = Some(value),
            "master" | "master_name" | "sentinelMasterId" | "service_name" if has_sentinels => {
                self.master = Some(value);
            }
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// The master's name and the database, in this order; either may be elsewhere.
    fn path(&mut self, segments: &[&str]) -> Result<(), BadUrl> {
        let (master, db) = match segments {
            [] => return Ok(()),
            [db] if self.master.is_some() || db.bytes().all(|b| b.is_ascii_digit()) => {
                (None, Some(*db))
            }
            [master] => (Some(*master), None),
            [master, db] => (Some(*master), Some(*db)),
            _ => return bad("its path has too many parts"),
        };
        if let Some(master) = master {
            self.master = Some(master.to_owned());
        }
        if let Some(db) = db {
            self.db = Some(database(db)?);
        }
        Ok(())
    }

    fn endpoint(self, scheme: Scheme, addresses: Vec<Address>) -> Result<Endpoint, BadUrl> {
        let db = self.db.unwrap_or(0);
        let place = if scheme.is_cluster {
            if db != 0 || self.master.is_some() {
                return bad("a Cluster has no database but 0");
            }
            Place::Cluster(addresses)
        } else {
            let Some(master) = self.master else {
                return bad("it does not name the master that the sentinels watch");
            };
            // What sentinel.conf takes.
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if master.is_empty() || !master.bytes().all(is_plain) {
                return bad("the master's name has other characters than letters, digits and ._-");
            }
            Place::Sentinel { sentinels: addresses, master }
        };
        let Self { login, sentinel_login, .. } = self;
        Ok(Endpoint { place, tls: scheme.tls, db, login, sentinel_login })
    }
}

/// A parameter of another client. What does not look like a name may be a part of a password.
fn unknown(key: &str) -> BadUrl {
    let is_name = key.len() <= PARAMETER_MAX_BYTES
        && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let named = if is_name { format!("the parameter `{key}`") } else { "a parameter".to_owned() };
    let instead = if key.starts_with("ssl") || key.starts_with("tls") {
        " (certificates are set by redis.ca_file, redis.cert_file and redis.key_file)"
    } else {
        ""
    };
    BadUrl(format!("sessionfs does not know {named}; remove it{instead}"))
}

fn database(text: &str) -> Result<i64, BadUrl> {
    match text.parse::<u32>() {
        Ok(db) => Ok(db.into()),
        Err(_) => bad("the database is not a number"),
    }
}

fn login_of(info: &redis::ConnectionInfo) -> Login {
    let redis = info.redis_settings();
    let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
    Login { username: owned(redis.username()), password: owned(redis.password()) }
}

/// A URL of one server, as the crate reads it, less the parameters.
fn single(url: &str) -> Result<Endpoint, BadUrl> {
    let mut parsed = redis::parse_redis_url(url).ok_or_else(|| {
        BadUrl("it does not begin with redis://, rediss:// or unix:, or is malformed".into())
    })?;
    if parsed.has_host() {
        authority_of(url.split_once("://").map_or(url, |(_, rest)| rest))?;
    }
    if parsed.fragment().is_some() {
        return bad("it has a part after #; TLS without verification is not supported");
    }
    let mut named = Named::default();
    for (key, value) in parsed.query_pairs() {
        named.parameter(false, &key, value.into_owned())?;
    }
    parsed.set_query(None);
    let info = parsed.into_connection_info().map_err(|error| {
        let detail = error.detail().unwrap_or("").to_owned();
        BadUrl(if detail.is_empty() { plain_words(&error.to_string()) } else { detail })
    })?;
    let db = named.db.unwrap_or(info.redis_settings().db());
    if db < 0 {
        return bad("the database number is negative");
    }
    let (at, tls) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (Address::Tcp(host.clone(), *port), false),
        ConnectionAddr::TcpTls { host, port, .. } => (Address::Tcp(host.clone(), *port), true),
        ConnectionAddr::Unix(path) => (Address::Unix(path.clone()), false),
        _ => return bad("this kind of address is not supported"),
    };
    let (login, sentinel_login) = (named.login.or(login_of(&info)), Login::default());
    Ok(Endpoint { place: Place::Single(at), tls, db, login, sentinel_login })
}

/// The URL of a unix socket: what means something else in a URL is escaped.
pub(crate) fn unix_url(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().fold("unix:".to_owned(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            url.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

/// The crate appends its own kind of error; the words before it are enough.
fn plain_words(text: &str) -> String {
    text.split(" - ").next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_is_read_and_shown_without_password() {
        for (url, shown) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://:geheim@cache:7000/3", "redis://cache:7000/3"),
            ("rediss://shop:geheim@[::1]:7000/3", "rediss://[::1]:7000/3"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock?db=0"),
            ("unix:///run/redis.sock?user=u&pass=geheim&db=2", "unix:/run/redis.sock?db=2"),
            ("redis+unix:///run/redis.sock", "unix:/run/redis.sock?db=0"),
            ("valkeys://u:geheim@cache/1", "rediss://cache:6379/1"),
            ("redis://cache?username=u&password=geheim&db=3", "redis://cache:6379/3"),
            ("rediss://cache/1?protocol=3", "rediss://cache:6379/1"),
            ("unix:/run/a%20b%25c%3F/redis.sock", "unix:/run/a%20b%25c%3F/redis.sock?db=0"),
            ("redis-sentinel://a,b:7000/shop/2", "redis-sentinel://a:26379,b:7000/shop/2"),
            ("redis+sentinel://u:geheim@a/shop", "redis-sentinel://a:26379/shop/0"),
            ("rediss-sentinel://[::1],b/shop", "rediss-sentinel://[::1]:26379,b:26379/shop/0"),
            ("redis-sentinel://a/3#shop", "redis-sentinel://a:26379/shop/3"),
            (
                "redis-sentinel://:geheim@a/3?sentinelMasterId=shop",
                "redis-sentinel://a:26379/shop/3",
            ),
            ("valkey-sentinel://a?master=my-shop.1&db=1", "redis-sentinel://a:26379/my-shop.1/1"),
            ("redis-sentinel://a/1?master=2", "redis-sentinel://a:26379/2/1"),
            ("redis-cluster://u:geheim@a:7000,b", "redis-cluster://a:7000,b:6379"),
            ("valkeys+cluster://a/0?pass=geheim", "rediss-cluster://a:6379"),
        ] {
            let endpoint = Endpoint::parse(url).expect(url);
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(Endpoint::parse(shown).expect(shown).to_string(), shown, "the same again");
            assert!(!format!("{endpoint:?}").contains("geheim"));
        }
    }

    #[test]
    fn users_and_passwords_are_read_from_the_url() {
        let login = |name: &str, password: &str| Login {
            username: Some(name.to_owned()),
            password: Some(password.to_owned()),
        };
        let endpoint = Endpoint::parse("redis://shop:ge%40heim@cache").expect("a good URL");
        assert!(endpoint.login == login("shop", "ge@heim"));
        let endpoint = Endpoint::parse("redis://cache?user=shop&pass=a%26b").expect("a good URL");
        assert!(endpoint.login == login("shop", "a&b"));
        let endpoint = Endpoint::parse("unix:/run/redis.sock").expect("a good URL");
        assert!(endpoint.login == Login::default());
        let url =
            "redis-sentinel://shop:a%2Cb,@h1,h2/m?sentinel_username=s&sentinel_password=p%26q";
        let endpoint = Endpoint::parse(url).expect("a good URL");
        assert!(endpoint.login == login("shop", "a,b,"));
        assert!(endpoint.sentinel_login == login("s", "p&q"));
    }

    #[test]
    fn only_a_name_needs_a_resolver_and_only_tls_needs_certificates() {
        for (url, names, certificates) in [
            ("redis://cache", true, false),
            ("redis://10.0.0.1:7000", false, false),
            ("redis://[::1]", false, false),
            ("rediss://cache", true, true),
            ("rediss://10.0.0.1", false, true),
            ("unix:/run/redis.sock", false, false),
            // They may announce names.
            ("redis-sentinel://10.0.0.1/shop", true, false),
            ("rediss-cluster://10.0.0.1", true, true),
        ] {
            let needs = Endpoint::parse(url).expect(url).needs();
            assert_eq!(needs, Needs { names, certificates }, "{url}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for url in [
            "http://user:geheim@cache",
            "redis://user:geheim@cache/zero",
            "redis://user:geheim@",
            "redis://user:geheim@cache/-1",
            "rediss://user:geheim@cache#geheim",
            "rediss://user:geheim@cache#insecure",
            "unix:geheim",
            "/run/geheim.sock",
            "",
            "redis://u:geheim@a:1,b:2",
            "redis-sentinel://u:geheim@a",
            "redis-sentinel://u:geheim@a/0",
            "redis-sentinel://u:geheim@a/shop/x",
            "redis-sentinel://u:geheim@a/shop/-1",
            "redis-sentinel://u:geheim@a/sh%20op",
            "redis-sentinel://u:geheim@a/shop/1/2",
            "redis-sentinel://u:geheim@/shop",
            "redis-sentinel://u:geheim@a,,b/shop",
            "redis-sentinel://u:geheim@a:x/shop",
            "redis-sentinel://a/shop?geheim%21=1",
            "redis-cluster://u:geheim@a/1",
            "redis-cluster://u:geheim@a/shop",
            "redis-cluster://a?sentinel_password=geheim",
            "redis-cluster://",
            "redis-replica://u:geheim@a",
            "redis-cluster://u:geheim#34@a",
            "redis-cluster://u:12#geheim@a",
            "redis-cluster://u:12/geheim@a",
            "redis-cluster://u:12?geheim@a",
            "redis-cluster://u:1@2?geheim@a",
            "redis-sentinel://u:12#geheim@a/shop",
            "redis-sentinel://u:12?geheim@a/shop",
            "redis-sentinel://u:12/geheim@a/shop",
            "redis://u:12?geheim@a",
            "redis://u:12?q=geheim@a",
            "redis://u:12/geheim@a",
            "rediss://u:12#geheim@a",
            "redis://a?Geheim1=2",
        ] {
            let error = Endpoint::parse(url).expect_err(url);
            assert!(!error.to_string().to_lowercase().contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_parameter_that_is_not_known_is_named() {
        for (url, words) in [
            ("redis://a?protocol=9", "remove `protocol`"),
            ("unix:/run/redis.sock?protocol=2", "remove `protocol`"),
            ("redis://a?decode_responses=true", "the parameter `decode_responses`; remove it;"),
            ("rediss://a?ssl_cert_reqs=none", "`ssl_cert_reqs`; remove it (certificates"),
            ("redis://a?sentinel_username=u", "`sentinel_username`"),
            ("redis-cluster://a?sentinel_username=u", "`sentinel_username`"),
            ("redis-sentinel://a/shop?socket_timeout=1", "`socket_timeout`"),
            ("redis-cluster://a#b", "after #"),
        ] {
            let error = Endpoint::parse(url).expect_err(url).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

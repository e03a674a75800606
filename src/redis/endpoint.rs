//! Where Redis is: the one place that reads and writes its URL. Sentinel and Cluster will be further
//! variants.

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisError, RedisResult,
};

use super::settings::PasswordSource;

/// After this long without traffic the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Sent bytes that stay unacknowledged for this long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many requests may wait for the connection's driver before a sender waits too.
const PIPELINE: usize = 1024;

/// The URL cannot be used. Never holds the URL itself: there may be a password in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadUrl(pub String);

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Redis URL: {}; write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:/PATH",
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

/// One Redis deployment.
#[derive(Clone)]
pub(crate) enum Endpoint {
    /// One server, or a name that leads to the current master.
    Single {
        /// The crate's client: address, credentials and socket options.
        client: Client,
        /// Its URL without user and password: for messages, and [`Endpoint::parse`] reads it.
        shown: String,
        /// Where the password of now is asked for at each connection.
        password: Option<PasswordSource>,
    },
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single { shown, .. } => f.write_str(shown),
        }
    }
}

impl Endpoint {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, BadUrl> {
        let parsed = redis::parse_redis_url(url).ok_or_else(|| {
            BadUrl("it does not begin with redis://, rediss:// or unix:, or is malformed".into())
        })?;
        if parsed.fragment().is_some() {
            return Err(BadUrl(
                "it has a part after #; TLS without verification is not supported".into(),
            ));
        }
        let info = parsed.into_connection_info().map_err(|error| {
            let detail = error.detail().unwrap_or("").to_owned();
            BadUrl(if detail.is_empty() { plain_words(&error.to_string()) } else { detail })
        })?;
        let redis = info.redis_settings().clone();
        if redis.db() < 0 {
            return Err(BadUrl("the database number is negative".into()));
        }
        let shown = match info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                format!("redis://{}:{port}/{}", bracketed(host), redis.db())
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                format!("rediss://{}:{port}/{}", bracketed(host), redis.db())
            }
            ConnectionAddr::Unix(path) => format!("{}?db={}", unix_url(path), redis.db()),
            _ => return Err(BadUrl("this kind of address is not supported".into())),
        };
        // RESP3: the driver reports at once that the connection is lost, and tracking needs it.
        // No CLIENT SETINFO: an ACL user need not be allowed CLIENT.
        let redis = redis.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        let info: ConnectionInfo = info.set_redis_settings(redis).set_tcp_settings(
            TcpSettings::default()
                .set_nodelay(true)
                .set_keepalive(
                    TcpKeepalive::new()
                        .with_time(KEEPALIVE)
                        .with_interval(Duration::from_secs(1))
                        .with_retries(3),
                )
                .set_user_timeout(USER_TIMEOUT),
        );
        let client = Client::open(info).map_err(|error| BadUrl(plain_words(&error.to_string())))?;
        Ok(Self::Single { client, shown, password: None })
    }

    /// What the host must have for it.
    pub(crate) fn needs(&self) -> Needs {
        let Self::Single { client, .. } = self;
        let is_name = |host: &str| host.parse::<IpAddr>().is_err();
        match client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, _) => Needs { names: is_name(host), certificates: false },
            ConnectionAddr::TcpTls { host, .. } => {
                Needs { names: is_name(host), certificates: true }
            }
            _ => Needs::default(),
        }
    }

    /// The user that the URL names.
    pub(crate) fn username(&self) -> Option<&str> {
        let Self::Single { client, .. } = self;
        client.get_connection_info().redis_settings().username()
    }

    /// The password that the URL holds.
    pub(crate) fn password(&self) -> Option<&str> {
        let Self::Single { client, .. } = self;
        client.get_connection_info().redis_settings().password()
    }

    /// The same server, as this user.
    pub(crate) fn with_credentials(
        self,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, BadUrl> {
        let Self::Single { client, shown, password: source } = self;
        let info = client.get_connection_info().clone();
        let mut redis = info.redis_settings().clone();
        if let Some(username) = username {
            redis = redis.set_username(username);
        }
        if let Some(password) = password {
            redis = redis.set_password(password);
        }
        let client = Client::open(info.set_redis_settings(redis))
            .map_err(|error| BadUrl(plain_words(&error.to_string())))?;
        Ok(Self::Single { client, shown, password: source })
    }

    /// The same server, whose password is asked for at each connection.
    pub(crate) fn asking(self, password: Option<PasswordSource>) -> Self {
        let Self::Single { client, shown, .. } = self;
        Self::Single { client, shown, password }
    }

    /// The client with the password of now. Where that cannot be had, the former one is tried.
    async fn client(&self) -> Result<Client, BadUrl> {
        let Self::Single { client, password, .. } = self;
        let Some(source) = password else { return Ok(client.clone()) };
        match source.ask().await {
            Ok(password) => {
                let Self::Single { client, .. } =
                    self.clone().with_credentials(None, Some(&password))?;
                Ok(client)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the password of Redis; trying the former one");
                Ok(client.clone())
            }
        }
    }

    /// Connects, authenticates and selects the database within `bound`. `pushed` is called with
    /// what the server sends unasked, and when the connection ends.
    pub(crate) async fn connect(
        &self,
        bound: Duration,
        pushed: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(bound))
            .set_response_timeout(None) // each request brings its own bound (link.rs)
            .set_pipeline_buffer_size(PIPELINE)
            .set_push_sender(move |push: PushInfo| -> Result<(), redis::aio::SendError> {
                pushed(push);
                Ok(())
            });
        let client = self.client().await.map_err(|bad| {
            RedisError::from((ErrorKind::InvalidClientConfig, "bad password", bad.0))
        })?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
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
            ("unix:/run/a%20b%25c%3F/redis.sock", "unix:/run/a%20b%25c%3F/redis.sock?db=0"),
        ] {
            let endpoint = Endpoint::parse(url).expect(url);
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(Endpoint::parse(shown).expect(shown).to_string(), shown, "the same again");
            assert!(!format!("{endpoint:?}").contains("geheim"));
        }
    }

    #[test]
    fn user_and_password_are_read_from_the_url() {
        let endpoint = Endpoint::parse("redis://shop:ge%40heim@cache").expect("a good URL");
        assert_eq!((endpoint.username(), endpoint.password()), (Some("shop"), Some("ge@heim")));
        let endpoint = Endpoint::parse("unix:/run/redis.sock").expect("a good URL");
        assert_eq!((endpoint.username(), endpoint.password()), (None, None));
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
        ] {
            let error = Endpoint::parse(url).expect_err(url);
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}

//! How a server is connected to: as whom, with which certificates, and with which socket options.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisError, RedisResult, TlsCertificates,
};

use super::credentials::{Credential, Credentials, password_in};
use super::endpoint::{Address, Endpoint, Login};

/// After this long without traffic the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Sent bytes that stay unacknowledged for this long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many requests may wait for the connection's driver before a sender waits too.
const PIPELINE: usize = 1024;

/// As whom, and with which certificates. What is in files is read at each connection.
#[derive(Clone)]
pub(crate) struct Access {
    tls: bool,
    db: i64,
    login: Login,
    password: Credential,
    credentials: Credentials,
}

impl Access {
    /// To the servers of a deployment.
    pub(crate) fn to_servers(endpoint: &Endpoint, credentials: &Credentials) -> Self {
        Self {
            tls: endpoint.tls,
            db: endpoint.db,
            login: endpoint.login.clone(),
            password: Credential::RedisPassword,
            credentials: credentials.clone(),
        }
    }

    /// To its sentinels.
    pub(crate) fn to_sentinels(endpoint: &Endpoint, credentials: &Credentials) -> Self {
        Self {
            db: 0,
            login: endpoint.sentinel_login.clone(),
            password: Credential::SentinelPassword,
            ..Self::to_servers(endpoint, credentials)
        }
    }

    /// Connects, authenticates and selects the database within `bound`. `pushed` is called with
    /// what the server sends unasked, and when the connection ends.
    pub(crate) async fn connect(
        &self,
        at: &Address,
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
        self.client(at).await?.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn client(&self, at: &Address) -> RedisResult<Client> {
        let address = match at {
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Address::Tcp(host, port) if self.tls => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            Address::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
        };
        let info = address.into_connection_info()?;
        // RESP3: the driver reports at once that the connection is lost, and tracking needs it.
        // No CLIENT SETINFO: an ACL user need not be allowed CLIENT.
        let mut redis = info
            .redis_settings()
            .clone()
            .set_db(self.db)
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(username) = &self.login.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = self.password().await {
            redis = redis.set_password(password);
        }
        let info = info.set_redis_settings(redis).set_tcp_settings(
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
        if self.tls {
            Client::build_with_tls(info, self.certificates().await?)
        } else {
            Client::open(info)
        }
    }

    /// The password of now. Where that cannot be had, the former one is tried.
    async fn password(&self) -> Option<String> {
        let Some(read) = self.credentials.read(self.password).await else {
            return self.login.password.clone();
        };
        let text = read.and_then(|text| String::from_utf8(text).map_err(|e| e.to_string()));
        match text {
            Ok(text) => Some(password_in(&text).to_owned()),
            Err(error) => {
                tracing::warn!(error, "cannot read the password of Redis; trying the former one");
                self.login.password.clone()
            }
        }
    }

    /// The certificates of now.
    async fn certificates(&self) -> RedisResult<TlsCertificates> {
        let root_cert = self.pem(Credential::RedisCa).await?;
        let client_tls = match self.pem(Credential::RedisCertificate).await? {
            Some(client_cert) => {
                let key = self.pem(Credential::RedisKey).await?;
                Some(ClientTlsConfig { client_cert, client_key: key.unwrap_or_default() })
            }
            None => None,
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }

    /// What a file of keys or certificates holds, if it is one.
    async fn pem(&self, name: Credential) -> RedisResult<Option<Vec<u8>>> {
        let Some(read) = self.credentials.read(name).await else { return Ok(None) };
        let content = read.map_err(unusable)?;
        let is_pem = content.windows(11).any(|part| part == b"-----BEGIN ");
        if !is_pem {
            let file = self.credentials.file(name).unwrap_or("a file".as_ref()).display();
            return Err(unusable(format!("{file}: holds nothing in PEM format")));
        }
        Ok(Some(content))
    }
}

fn unusable(why: String) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, "unusable file", why))
}

//! How a server is connected to: as whom, with which certificates, and with which socket options.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisError, RedisResult, TlsCertificates,
};
use rustls::Error;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::credentials::{Credential, Credentials, password_in};
use super::endpoint::{Address, Endpoint, Login};
use super::system_certificates;

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
                let setting = self.password.key();
                tracing::warn!(setting, error, "cannot read a password; trying the former one");
                self.login.password.clone()
            }
        }
    }

    /// The certificates of now.
    async fn certificates(&self) -> RedisResult<TlsCertificates> {
        let root_cert = if let Some(pem) = self.file(Credential::RedisCa).await? {
            self.chain(Credential::RedisCa, &pem)?;
            pem
        } else {
            let system = system_certificates::pem().await;
            system.map_err(|why| unusable(format!("certificates of this system: {why}")))?.to_vec()
        };
        let client_tls = match self.file(Credential::RedisCertificate).await? {
            Some(client_cert) => Some(self.own(client_cert).await?),
            None => None,
        };
        Ok(TlsCertificates { client_tls, root_cert: Some(root_cert) })
    }

    /// Our own certificate, with its key.
    async fn own(&self, client_cert: Vec<u8>) -> RedisResult<ClientTlsConfig> {
        let name = Credential::RedisKey;
        let client_key = self.file(name).await?.unwrap_or_default();
        let chain = self.chain(Credential::RedisCertificate, &client_cert)?;
        let key = PrivateKeyDer::from_pem_slice(&client_key).map_err(|_| {
            self.unusable(name, "it holds no private key in PEM format that needs no passphrase")
        })?;
        match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
            Ok(_) => Ok(ClientTlsConfig { client_cert, client_key }),
            Err(Error::InconsistentKeys(_)) => {
                let why = "it does not hold the key of the certificate in redis.cert_file";
                Err(self.unusable(name, why))
            }
            Err(error) => Err(self.unusable(name, &error.to_string())),
        }
    }

    async fn file(&self, name: Credential) -> RedisResult<Option<Vec<u8>>> {
        let read = self.credentials.read(name).await.transpose();
        // The error names the file.
        read.map_err(|why| unusable(format!("{}: {why}", name.key())))
    }

    /// The certificates in such a file.
    fn chain(&self, name: Credential, pem: &[u8]) -> RedisResult<Vec<CertificateDer<'static>>> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        chain.ok_or_else(|| self.unusable(name, "it holds no certificate in PEM format"))
    }

    fn unusable(&self, name: Credential, why: &str) -> RedisError {
        let file = self.credentials.file(name).unwrap_or("".as_ref()).display();
        unusable(format!("{}: {file}: {why}", name.key()))
    }
}

fn unusable(why: String) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, "unusable file", why))
}

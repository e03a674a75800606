//! What Redis lets us in by, in files that may change: each is read at each connection.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longer than a password, a key, or the certificates of a few authorities.
pub(crate) const LENGTH_MAX_BYTES: u64 = 32 * 1024;

/// What a file holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Credential {
    /// The file of `redis.password_file`.
    RedisPassword,
    /// The file of `redis.sentinel_password_file`.
    SentinelPassword,
    /// The file of `redis.ca_file`.
    RedisCa,
    /// The file of `redis.cert_file`.
    RedisCertificate,
    /// The file of `redis.key_file`.
    RedisKey,
}

impl Credential {
    /// The setting that names its file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::RedisPassword => "redis.password_file",
            Self::SentinelPassword => "redis.sentinel_password_file",
            Self::RedisCa => "redis.ca_file",
            Self::RedisCertificate => "redis.cert_file",
            Self::RedisKey => "redis.key_file",
        }
    }
}

/// Those that are configured, and who reads them. Reading may wait, so it is done on a thread of
/// its own.
#[derive(Clone, Default)]
pub struct Credentials {
    files: BTreeMap<Credential, PathBuf>,
    ask: Option<Arc<Ask>>,
}

type Ask = dyn Fn(Credential) -> io::Result<Vec<u8>> + Send + Sync;

impl Credentials {
    /// Files that this process reads itself.
    pub fn of(files: BTreeMap<Credential, PathBuf>) -> Self {
        Self { files, ask: None }
    }

    /// Files that somebody else reads for this process. An error names the file.
    #[must_use]
    pub fn asking(
        self,
        ask: impl Fn(Credential) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Some(Arc::new(ask)), ..self }
    }

    /// The file of a credential, if one is configured.
    pub(super) fn file(&self, name: Credential) -> Option<&Path> {
        self.files.get(&name).map(PathBuf::as_path)
    }

    /// The content of now; `None` if no file is configured. An error names the file.
    pub(super) async fn read(&self, name: Credential) -> Option<Result<Vec<u8>, String>> {
        let path = self.files.get(&name)?.clone();
        let ask = self.ask.clone();
        let read = move || match ask {
            Some(ask) => ask(name).map_err(|error| error.to_string()),
            None => read_bounded(&path).map_err(|error| format!("{}: {error}", path.display())),
        };
        let read = tokio::task::spawn_blocking(read).await;
        Some(read.unwrap_or_else(|error| Err(error.to_string())))
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LENGTH_MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LENGTH_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is too long"));
    }
    Ok(content)
}

/// The password in the text of its file.
pub(crate) fn password_in(text: &str) -> &str {
    text.trim_end_matches(['\n', '\r'])
}

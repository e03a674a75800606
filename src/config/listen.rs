//! Where metrics are served: nowhere, on a unix socket, or on a port that this host alone can
//! reach.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest path that a socket's address has room for (unix(7)).
pub(super) const PATH_MAX_BYTES: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Listen {
    Unix(PathBuf),
    /// A port of the loopback interface.
    Loopback(SocketAddr),
}

impl Listen {
    /// From `off`, `unix:/PATH`, `127.0.0.1:PORT` or `[::1]:PORT`; the error is a half sentence.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        const REMEDY: &str = "write \"off\", \"unix:/run/sessionfs/metrics.sock\", \"127.0.0.1:9401\" or \"[::1]:9401\"";
        let text = text.trim();
        if text == "off" {
            return Ok(None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match PathBuf::from(path) {
                path if !path.is_absolute() => Err(format!("has no absolute path; {REMEDY}")),
                path if path.as_os_str().len() > PATH_MAX_BYTES => Err(format!(
                    "has a path of more than {PATH_MAX_BYTES} bytes; name a shorter one"
                )),
                path => Ok(Some(Self::Unix(path))),
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Some(Self::Loopback(address))),
            Ok(_) => Err(format!(
                "can be reached from other hosts, but metrics are only for this host; {REMEDY}"
            )),
            Err(_) => Err(format!("is not an address to listen on; {REMEDY}")),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_alone() {
        assert_eq!(Listen::parse("off"), Ok(None));
        for good in ["unix:/run/sessionfs/metrics.sock", "127.0.0.1:9401", "[::1]:9401"] {
            assert_eq!(Listen::parse(good).unwrap().unwrap().to_string(), good);
        }
        for bad in ["", "on", "9401", "localhost:9401", "0.0.0.0:9401", "[::]:9401", "unix:x"] {
            assert!(Listen::parse(bad).unwrap_err().contains("write \"off\""), "{bad}");
        }
        assert!(Listen::parse(&format!("unix:/{}", "x".repeat(200))).is_err());
    }
}

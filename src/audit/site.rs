//! Which site is looked at, and whether it may be: only an address of this host, unless the person
//! says that the site is theirs.
//!
//! A name is resolved once, and every later connection goes to the address that was judged: a name
//! that leads elsewhere a moment later (DNS rebinding) leads nobody there.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hyper::Uri;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::exit::{ExitCode, Failure};

/// Looking up a name, and connecting to one of its addresses.
const WITHIN: Duration = Duration::from_secs(5);
/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 8;

/// What the person says of the site.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// `https://NAME[:PORT]`.
    pub url: String,
    /// Connect here, whatever the name says.
    pub address: Option<IpAddr>,
    /// The port of plain HTTP beside HTTPS.
    pub plain_port: u16,
    /// The name of the site, from somebody who answers for it.
    pub is_mine: Option<String>,
}

/// A site that may be looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Site {
    /// Its name, or its address as the URL has it, without brackets.
    pub host: String,
    /// Whether the URL says `https`.
    pub is_tls: bool,
    pub port: u16,
    /// Where plain HTTP is asked; `port` itself if the URL says `http`.
    pub plain_port: u16,
    /// The one that every connection goes to.
    pub address: IpAddr,
    /// Whether that is one of this host.
    pub is_own: bool,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority(self.is_tls))
    }
}

impl Site {
    /// Takes the URL as it is meant, resolves its name, and judges the address that answers.
    pub(crate) async fn find(asked: &Asked) -> Result<Self, Failure> {
        let (is_tls, host, port) = parse(&asked.url)?;
        let plain_port = if is_tls { asked.plain_port } else { port };
        let addresses = match asked.address {
            Some(address) => vec![address],
            None => resolve(&host).await?,
        };
        let claimed = match &asked.is_mine {
            Some(name) if name.eq_ignore_ascii_case(&host) => true,
            Some(name) => {
                return Err(refused(format!(
                    "--yes-this-is-mine names '{name}', and the URL '{host}'; write the same name"
                )));
            }
            None => false,
        };
        if let Some(foreign) = addresses.iter().find(|address| !claimed && !is_own(**address)) {
            return Err(refused(format!(
                "{host} is at {foreign}, which is no address of this host; run the audit there, or, if the site is \
                 yours, with --yes-this-is-mine {host} (or --address 127.0.0.1 if it is served here behind another \
                 address)"
            )));
        }
        let mut seen = Vec::new();
        for address in addresses {
            match connects(SocketAddr::new(address, port)).await {
                Ok(()) => {
                    let is_own = is_own(address);
                    return Ok(Self { host, is_tls, port, plain_port, address, is_own });
                }
                Err(why) => seen.push(format!("{address}: {why}")),
            }
        }
        Err(Failure::new(
            ExitCode::AuditUnanswered,
            format!(
                "nobody answers at {host}, port {port} ({}); start the site, or name another address with --address",
                seen.join("; ")
            ),
        ))
    }

    /// Name and port as a browser writes them into `Host`.
    pub(crate) fn authority(&self, over_tls: bool) -> String {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("[{}]", self.host),
            _ => self.host.clone(),
        };
        let (port, usual) = if over_tls { (self.port, 443) } else { (self.plain_port, 80) };
        if port == usual { host } else { format!("{host}:{port}") }
    }

    /// Where a redirect leads, if it stays on this site: whether by TLS, and its path. `over_tls`: how it came, which a
    /// path alone leaves as it is.
    pub(crate) fn own_path(&self, location: &str, over_tls: bool) -> Option<(bool, String)> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some((over_tls, location.to_owned()));
        }
        let uri: Uri = location.parse().ok()?;
        let over_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if over_tls { 443 } else { 80 });
        let wanted = if over_tls { self.port } else { self.plain_port };
        let is_it = unbracketed(uri.host()?).eq_ignore_ascii_case(&self.host);
        // nginx redirects to the usual port where it listens on another one for a test.
        (is_it && (port == wanted || port == 443))
            .then(|| (over_tls, uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
    }
}

fn refused(message: String) -> Failure {
    Failure::new(ExitCode::AuditRefused, message)
}

fn parse(url: &str) -> Result<(bool, String, u16), Failure> {
    let wrong = || {
        Failure::new(
            ExitCode::Usage,
            "URL: write scheme, name and port alone, such as https://shop.example.com",
        )
    };
    let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    let has_more = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
    if has_more || authority.as_str().contains('@') {
        return Err(wrong());
    }
    let host = unbracketed(authority.host()).to_ascii_lowercase();
    if host.is_empty() {
        return Err(wrong());
    }
    let port = match authority.port_u16() {
        Some(port) => port,
        // What stands behind the name is no port.
        None if authority.as_str() != authority.host() => return Err(wrong()),
        None => {
            if is_tls {
                443
            } else {
                80
            }
        }
    };
    Ok((is_tls, host, port))
}

fn unbracketed(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn resolve(host: &str) -> Result<Vec<IpAddr>, Failure> {
    let unresolved = |why: String| {
        Failure::new(
            ExitCode::AuditUnanswered,
            format!("{host}: {why}; correct the name, or name its address with --address"),
        )
    };
    let looked_up = timeout(WITHIN, lookup_host((host, 0))).await;
    let found = looked_up
        .map_err(|_| unresolved("its name is not resolved in time".to_owned()))?
        .map_err(|error| unresolved(error.to_string()))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|found| found.ip().to_canonical()) {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        Err(unresolved("it has no address".to_owned()))
    } else {
        Ok(addresses)
    }
}

/// Whether packets to it stay on this host: then the kernel sends them from that very address.
/// Binding to it would say less: where `ip_nonlocal_bind` is set, any address can be bound.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if address.is_loopback() {
        return true;
    }
    if address.is_unspecified() || address.is_multicast() {
        return false;
    }
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asked = UdpSocket::bind(any).and_then(|socket| {
        // Nothing is sent: only the route is looked up.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    asked.is_ok_and(|from| from.ip().to_canonical() == address)
}

async fn connects(at: SocketAddr) -> Result<(), String> {
    match timeout(WITHIN, TcpStream::connect(at)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            host: "shop.example.com".to_owned(),
            is_tls: true,
            port: 443,
            plain_port: 80,
            address: [127, 0, 0, 1].into(),
            is_own: true,
        }
    }

    #[test]
    fn urls_are_taken_as_they_are_meant() {
        let is =
            |url: &str| parse(url).ok().map(|(tls, host, port)| format!("{tls} {host} {port}"));
        assert_eq!(is("https://Shop.example.com/").as_deref(), Some("true shop.example.com 443"));
        assert_eq!(is("http://[::1]:8069").as_deref(), Some("false ::1 8069"));
        assert_eq!(is("http://10.0.0.1").as_deref(), Some("false 10.0.0.1 80"));
        for wrong in [
            "shop.example.com",
            "ftp://a",
            "https://",
            "https://a/web?db=x",
            "https://u:p@a",
            "https://a:99999",
            "",
            "/",
            "https://a b",
            "javascript:alert(1)",
        ] {
            assert_eq!(is(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn only_this_host_is_looked_at_unless_the_site_is_named() {
        // TEST-NET-1 is nobody's.
        let foreign = Asked { url: "http://192.0.2.1:9".to_owned(), ..Asked::default() };
        let refused = Site::find(&foreign).await.unwrap_err();
        assert_eq!(refused.code, ExitCode::AuditRefused);
        assert!(refused.message.contains("--yes-this-is-mine 192.0.2.1"), "{refused}");
        let other = Asked { is_mine: Some("192.0.2.2".to_owned()), ..foreign.clone() };
        assert_eq!(Site::find(&other).await.unwrap_err().code, ExitCode::AuditRefused);
        assert!(!is_own([0, 0, 0, 0].into()) && !is_own([8, 8, 8, 8].into()));
        assert!(is_own([127, 9, 9, 9].into()) && is_own("::ffff:127.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn the_address_that_answers_is_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked =
            Asked { url: format!("https://localhost:{port}"), plain_port: 80, ..Asked::default() };
        let site = Site::find(&asked).await.unwrap();
        assert!(site.is_own && site.address == IpAddr::from([127, 0, 0, 1]), "{site:?}");
        assert_eq!(site.to_string(), format!("https://localhost:{port}"));
        drop(listener);
        assert_eq!(Site::find(&asked).await.unwrap_err().code, ExitCode::AuditUnanswered);
    }

    #[test]
    fn redirects_stay_on_the_site() {
        let site = site();
        let path = |location: &str| site.own_path(location, true);
        assert_eq!(path("/web/login?x=1"), Some((true, "/web/login?x=1".to_owned())));
        let plain = site.own_path("/web/database/selector", false);
        assert_eq!(plain, Some((false, "/web/database/selector".to_owned())));
        assert_eq!(path("http://shop.example.com"), Some((false, "/".to_owned())));
        assert_eq!(path("https://SHOP.example.com/a"), Some((true, "/a".to_owned())));
        for other in [
            "//evil.example",
            "https://evil.example/",
            "https://shop.example.com:8443/",
            "ftp://shop.example.com/",
            "web",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }
}

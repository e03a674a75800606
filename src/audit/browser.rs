//! A browser as far as sessions are concerned: one site, cookies, an address that it comes from.
//!
//! Each request has a connection of its own and a bound for its time and for the length of its answer.
//! Redirects are not followed: where one leads is a finding.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, COOKIE, HOST, HeaderMap, SET_COOKIE, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::site::Site;
use super::tls::Tls;
use crate::session::name::Sid;
use crate::sync::lock;

/// The cookie that is the login.
pub(crate) const SESSION: &str = "session_id";
/// The names that the audit gives itself: of the person, and of the thief.
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) sessionfs-audit";
const THIEF_AGENT: &str = "Mozilla/5.0 (Windows NT 10.0; Win64) sessionfs-audit-thief";
/// Where a thief comes from, if the site is at a loopback address or at another one of this host.
const THIEF: Ipv4Addr = Ipv4Addr::new(127, 66, 66, 66);
/// A request with its connection. Odoo may start a worker first.
const WITHIN: Duration = Duration::from_secs(30);
/// Its connection: a port that is blocked answers nothing.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// No page that is asked for here is longer.
const LENGTH_MAX_BYTES: usize = 8 << 20;
const ONE_OF_MANY_MAX_BYTES: usize = 1 << 20;
/// More than a site sets; the rest is not kept.
const COOKIES_MAX: usize = 64;
const COOKIE_MAX_BYTES: usize = 4096;

/// Every session id that the site gave to a browser of a run, which are kept: at the end none of them may live, and none
/// may be found in a log.
#[derive(Clone, Default)]
pub(crate) struct Issued(Arc<Mutex<IssuedIds>>);

/// In the order in which they came.
#[derive(Default)]
struct IssuedIds {
    living: Vec<String>,
    others: Vec<String>,
}

impl Issued {
    /// More than a run makes: a site that draws new ids all the time fills nothing, as Odoo does for a visitor in whose
    /// session there is nothing. There is always room for what a login or a logout has left, which lives.
    const OTHERS_MAX: usize = 200;

    fn note(&self, value: &str) {
        let IssuedIds { living, others } = &mut *lock(&self.0);
        let is_known = living.iter().chain(&*others).any(|known| known == value);
        if Sid::parse(value).is_some() && !is_known && others.len() < Self::OTHERS_MAX {
            others.push(value.to_owned());
        }
    }

    fn note_living(&self, value: &str) {
        let IssuedIds { living, others } = &mut *lock(&self.0);
        others.retain(|known| known != value);
        if Sid::parse(value).is_some() && !living.iter().any(|known| known == value) {
            living.push(value.to_owned());
        }
    }

    /// All of them: those that live come first.
    pub(crate) fn all(&self) -> Vec<Sid> {
        let IssuedIds { living, others } = &*lock(&self.0);
        living.iter().chain(others).filter_map(|value| Sid::parse(value)).collect()
    }
}

/// One browser.
#[derive(Clone)]
pub(crate) struct Browser {
    site: Arc<Site>,
    tls: Tls,
    issued: Issued,
    source: Option<IpAddr>,
    agent: &'static str,
    answer_max_bytes: usize,
    cookies: BTreeMap<String, String>,
}

/// What a site answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Each `Set-Cookie`, in its order.
    pub set_cookies: Vec<SetCookie>,
    /// By which version of TLS it came.
    pub tls_version: Option<rustls::ProtocolVersion>,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

impl Answer {
    /// A header as text, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Where it leads, if it is a redirect.
    pub(crate) fn location(&self) -> Option<&str> {
        (300..400).contains(&self.status).then(|| self.header("location"))?
    }

    /// The session cookie that it sets, if it does.
    pub(crate) fn session(&self) -> Option<&SetCookie> {
        self.set_cookies.iter().rev().find(|cookie| cookie.name == SESSION)
    }
}

/// A cookie that a site sets (RFC 6265, 5.2). Its value is as secret as a password.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct SetCookie {
    pub name: String,
    value: String,
    /// In lower case, each with its value.
    attributes: Vec<(String, String)>,
}

impl std::fmt::Debug for SetCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetCookie({}, {:?})", self.name, self.attributes)
    }
}

impl SetCookie {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let (name, value) = parts.next()?.split_once('=')?;
        let attributes = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.trim().to_ascii_lowercase(), value.trim().to_ascii_lowercase())
        });
        Some(Self {
            name: name.trim().to_owned(),
            value: value.trim().trim_matches('"').to_owned(),
            attributes: attributes.collect(),
        })
    }

    /// The value of an attribute, if it is there: empty for one that has none.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Why no answer came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Silence {
    /// Nobody takes a connection there.
    Closed(String),
    /// Somebody took one, and no answer came that can be read.
    Broken(String),
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Closed(why) | Self::Broken(why)) = self;
        f.write_str(why)
    }
}

impl Silence {
    fn broken(why: impl std::fmt::Display) -> Self {
        Self::Broken(why.to_string())
    }
}

/// By which of its two doors a site is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Door {
    /// As its URL says.
    Front,
    /// Plain HTTP.
    Plain,
}

impl Browser {
    /// One without cookies.
    pub(crate) fn new(site: Arc<Site>, tls: Tls, issued: Issued) -> Self {
        let (agent, answer_max_bytes) = (AGENT, LENGTH_MAX_BYTES);
        Self { site, tls, issued, source: None, agent, answer_max_bytes, cookies: BTreeMap::new() }
    }

    /// Another one of this site, without cookies.
    pub(crate) fn fresh(&self) -> Self {
        Self::new(Arc::clone(&self.site), self.tls.clone(), self.issued.clone())
    }

    /// The same for many at once: an answer is a mebibyte at most.
    pub(crate) fn one_of_many(&self) -> Self {
        Self { answer_max_bytes: ONE_OF_MANY_MAX_BYTES, ..self.clone() }
    }

    /// Another person's browser, elsewhere, with one cookie of this one; and where it comes from, if
    /// that is another address.
    pub(crate) fn thief(&self, session: &str) -> Self {
        let mut thief = self.fresh();
        thief.agent = THIEF_AGENT;
        let is_reachable = self.site.is_own && self.site.address.is_ipv4();
        thief.source = is_reachable.then_some(IpAddr::V4(THIEF));
        thief.cookies.insert(SESSION.to_owned(), session.to_owned());
        thief
    }

    /// The address that it comes from, if that is not the usual one.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The site.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// What was learnt of its certificate.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The ids that were given to it and to others of the run.
    pub(crate) fn issued(&self) -> &Issued {
        &self.issued
    }

    /// Somebody has logged in with it, or the logout has left its session.
    pub(crate) fn note_living(&self) {
        if let Some(session) = self.session() {
            self.issued.note_living(session);
        }
    }

    /// Its session id. Secret.
    pub(crate) fn session(&self) -> Option<&str> {
        self.cookies.get(SESSION).map(String::as_str)
    }

    /// Another one with this session.
    pub(crate) fn holding(&self, sid: &Sid) -> Self {
        let mut browser = self.fresh();
        browser.take(sid.expose());
        browser
    }

    /// Takes this for its session id, as if a site had set it.
    pub(crate) fn take(&mut self, session: &str) {
        self.cookies.insert(SESSION.to_owned(), session.to_owned());
    }

    /// `GET`.
    pub(crate) async fn get(&mut self, door: Door, path: &str) -> Result<Answer, Silence> {
        self.send(door, Method::GET, path, Bytes::new(), None).await
    }

    /// `POST` of JSON.
    pub(crate) async fn post_json(
        &mut self,
        door: Door,
        path: &str,
        value: &serde_json::Value,
    ) -> Result<Answer, Silence> {
        let body = Bytes::from(value.to_string());
        self.send(door, Method::POST, path, body, Some("application/json")).await
    }

    async fn send(
        &mut self,
        door: Door,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: Option<&str>,
    ) -> Result<Answer, Silence> {
        let over_tls = self.site.is_tls && door == Door::Front;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.site.authority(over_tls))
            .header(USER_AGENT, self.agent)
            .header(ACCEPT, "*/*");
        if !self.cookies.is_empty() {
            let all = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
            request = request.header(COOKIE, all.collect::<Vec<_>>().join("; "));
        }
        if let Some(kind) = content_type {
            request = request.header(CONTENT_TYPE, kind);
        }
        let request = request.body(Full::new(body)).map_err(Silence::broken)?;
        let answer = timeout(WITHIN, self.exchange(over_tls, request));
        let late = || Err(Silence::Broken(format!("no answer within {} s", WITHIN.as_secs())));
        let answer = answer.await.unwrap_or_else(|_| late())?;
        self.keep(&answer);
        Ok(answer)
    }

    async fn exchange(
        &self,
        over_tls: bool,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, Silence> {
        let began = Instant::now();
        let port = if over_tls { self.site.port } else { self.site.plain_port };
        let stream = self.connect(port).await?;
        if !over_tls {
            return self.converse(stream, request, began, None).await;
        }
        let name = ServerName::try_from(self.site.host.clone()).map_err(Silence::broken)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls.config))
            .connect(name, stream)
            .await
            .map_err(|error| Silence::Broken(format!("TLS: {error}")))?;
        let version = stream.get_ref().1.protocol_version();
        self.converse(stream, request, began, version).await
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, Silence> {
        let at = SocketAddr::new(self.site.address, port);
        let connect = async {
            let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(source) = self.source {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            socket.connect(at).await
        };
        let closed =
            |why: &dyn std::fmt::Display| Silence::Closed(format!("connect to {at}: {why}"));
        match timeout(CONNECT_WITHIN, connect).await {
            Ok(connected) => connected.map_err(|error| closed(&error)),
            Err(_) => Err(closed(&"no answer in time")),
        }
    }

    /// Cookies that it set, as a browser keeps them.
    fn keep(&mut self, answer: &Answer) {
        for cookie in &answer.set_cookies {
            let is_over =
                cookie.attribute("max-age").is_some_and(|age| age == "0" || age.starts_with('-'));
            if is_over || cookie.value.is_empty() {
                self.cookies.remove(&cookie.name);
            } else if self.cookies.len() < COOKIES_MAX && cookie.value.len() <= COOKIE_MAX_BYTES {
                self.cookies.insert(cookie.name.clone(), cookie.value.clone());
            }
        }
        // A browser keeps one of an answer, however many are in it.
        if answer.session().is_some()
            && let Some(session) = self.session()
        {
            self.issued.note(session);
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
        began: Instant,
        tls_version: Option<rustls::ProtocolVersion>,
    ) -> Result<Answer, Silence> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Silence::broken)?;
        // It ends with the connection; an error of it is seen in the answer.
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(Silence::broken)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, self.answer_max_bytes).collect().await;
        let body = body.map_err(Silence::broken)?.to_bytes();
        driver.abort();
        let set = parts.headers.get_all(SET_COOKIE).iter();
        let set = set.filter_map(|value| SetCookie::parse(value.to_str().ok()?));
        Ok(Answer {
            status: parts.status.as_u16(),
            set_cookies: set.take(COOKIES_MAX).collect(),
            headers: parts.headers,
            body,
            tls_version,
            took: began.elapsed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_read_with_their_attributes_and_never_shown() {
        let cookie = SetCookie::parse(
            "session_id=\"geheim\"; Path=/; HttpOnly; samesite=Lax;Max-Age=604800",
        );
        let cookie = cookie.unwrap();
        assert_eq!((cookie.name.as_str(), cookie.value.as_str()), ("session_id", "geheim"));
        assert_eq!(cookie.attribute("httponly"), Some(""));
        assert_eq!(cookie.attribute("samesite"), Some("lax"));
        assert_eq!(cookie.attribute("secure"), None);
        assert!(!format!("{cookie:?}").contains("geheim"));
        assert_eq!(SetCookie::parse("nonsense"), None);
    }

    #[test]
    fn only_what_may_be_a_session_id_is_remembered() {
        let issued = Issued::default();
        for value in ["x", &"a".repeat(40), &"a".repeat(40), &"-".repeat(84)] {
            issued.note(value);
        }
        assert_eq!(issued.all().len(), 2);
    }

    #[test]
    fn of_many_ids_those_that_live_are_remembered_and_come_first() {
        let issued = Issued::default();
        let ids: Vec<String> = (0..500).map(|number| format!("{number:040x}")).collect();
        for id in &ids {
            issued.note(id);
        }
        issued.note_living(&ids[3]);
        issued.note_living(&ids[499]);
        let all = issued.all();
        assert_eq!(all.len(), Issued::OTHERS_MAX + 1);
        assert_eq!((all[0].expose(), all[1].expose()), (ids[3].as_str(), ids[499].as_str()));
    }

    #[test]
    fn of_an_answer_with_many_ids_one_is_kept() {
        let site = Site {
            host: "shop.example.com".to_owned(),
            is_tls: false,
            port: 80,
            plain_port: 80,
            address: [127, 0, 0, 1].into(),
            is_own: true,
        };
        let tls = Tls::new(None).unwrap();
        let mut browser = Browser::new(Arc::new(site), tls, Issued::default());
        let set = (0..COOKIES_MAX).map(|number| format!("session_id={number:040x}; Path=/"));
        let answer = Answer {
            status: 200,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            set_cookies: set.filter_map(|text| SetCookie::parse(&text)).collect(),
            tls_version: None,
            took: Duration::ZERO,
        };
        browser.keep(&answer);
        let kept: Vec<String> =
            browser.issued().all().iter().map(|sid| sid.expose().to_owned()).collect();
        assert_eq!(kept, [browser.session().unwrap()]);
    }
}

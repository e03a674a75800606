//! What nginx passes on to Odoo, and what it adds for the browser: judged from its effective
//! configuration, file by file as `nginx -T` prints it.

pub(crate) mod effective;
pub(crate) mod syntax;

use std::path::PathBuf;

use super::finding::{Finding, Grade, Question};
use effective::NoConfiguration;
use syntax::Directive;

/// Half a year: less is forgotten between two visits (the HSTS preload list asks for a year).
const HSTS_MIN_SECONDS: u64 = 15_552_000;
/// How many places a line names.
const NAMED_MAX: usize = 4;
/// The session cookie's name.
const COOKIE: &str = "session_id";

/// Conditions that hold for every request over plain HTTP.
const ALL_OF_PLAIN_HTTP: [&str; 7] = [
    "$scheme = http",
    "$scheme != https",
    "$https =",
    "$https = off",
    "$https != on",
    "$server_port = 80",
    "$server_port != 443",
];

/// What is known besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// The site's name, if it is known.
    pub host: Option<String>,
    /// Ports on which an Odoo of this host answers HTTP.
    pub http_ports: Vec<u16>,
    /// Ports of evented processes.
    pub gevent_ports: Vec<u16>,
    /// Whether an Odoo has workers, and so an evented process.
    pub has_workers: bool,
}

/// What is found in the output of `nginx -T`.
pub(crate) fn findings(
    text: &Result<String, NoConfiguration>,
    around: &Surroundings,
) -> Vec<Finding> {
    let question = Question::NginxConfiguration;
    let remedy = "run the audit as root on the host of nginx, or save the output of 'nginx -T' there \
                  and name that file with --nginx";
    let text = match text {
        Ok(text) => text,
        Err(NoConfiguration::None) => return vec![question.unknown("no nginx runs here", remedy)],
        Err(NoConfiguration::Unreadable(why)) => return vec![question.unknown(why, remedy)],
    };
    let directives = match syntax::parse(text) {
        Ok(directives) => directives,
        Err(why) => {
            let why = format!("the output of nginx -T cannot be read: {why}");
            return vec![question.unknown(why, "run nginx -t")];
        }
    };
    let Some(http) = directives.iter().find(|one| one.name == "http") else {
        return vec![question.unknown("it has no http block", remedy)];
    };
    let servers = Server::all(http, around);
    if servers.is_empty() {
        let seen = match &around.host {
            Some(host) => {
                format!("no server of nginx has the name {host}, or leads to an Odoo of this host")
            }
            None => "no server of nginx leads to an Odoo of this host".to_owned(),
        };
        return vec![question.unknown(seen, remedy)];
    }
    let names: Vec<String> = servers.iter().map(Server::name).collect();
    let mut found = vec![question.pass(format!("servers that lead to Odoo: {}", listed(&names)))];
    let proxied: Vec<&Proxied<'_>> = servers.iter().flat_map(|server| &server.proxied).collect();
    found.push(forwarded_proto(&proxied));
    found.push(forwarded_host(&proxied));
    found.push(websocket(&servers, around));
    found.push(redirect(&servers));
    found.push(hsts(&servers));
    found.push(cookie_flags(&proxied));
    found.extend(protocols(&servers));
    found
}

/// The output's log files that requests are written to, and whether by a buffer.
pub(crate) fn logs(text: &str) -> Vec<(PathBuf, bool)> {
    fn collect(directives: &[Directive], found: &mut Vec<(PathBuf, bool)>) {
        for one in directives {
            let is_log = matches!(one.name.as_str(), "access_log" | "error_log");
            let path = one.argument(0);
            if is_log && path.starts_with('/') && !path.contains('$') {
                // `gzip` has a buffer of its own.
                let is_buffer =
                    |word: &String| word.starts_with("buffer=") || word.starts_with("gzip");
                let is_buffered = one.arguments.iter().any(is_buffer);
                let path = PathBuf::from(path);
                match found.iter_mut().find(|(known, _)| *known == path) {
                    Some((_, known)) => *known |= is_buffered,
                    None => found.push((path, is_buffered)),
                }
            }
            collect(one.inside(), found);
        }
    }
    let mut found = Vec::new();
    collect(&syntax::parse(text).unwrap_or_default(), &mut found);
    found
}

/// The blocks around a directive, the outermost first. Most directives are inherited from the next
/// outer level that has them, and only if the inner one has none of that name.
type Levels<'a> = Vec<&'a [Directive]>;

fn nearest<'a>(levels: &Levels<'a>, name: &str) -> Vec<&'a Directive> {
    let of = |level: &&'a [Directive]| -> Vec<&'a Directive> {
        level.iter().filter(|one| one.name == name).collect()
    };
    levels.iter().rev().map(of).find(|found| !found.is_empty()).unwrap_or_default()
}

/// A place from which requests go on to Odoo.
struct Proxied<'a> {
    /// As the configuration writes it: `/`, `= /websocket`.
    location: String,
    /// The ports that it leads to.
    ports: Vec<u16>,
    levels: Levels<'a>,
}

impl Proxied<'_> {
    fn header(&self, name: &str) -> Option<String> {
        let set = nearest(&self.levels, "proxy_set_header");
        let found = set.iter().rev().find(|one| one.argument(0).eq_ignore_ascii_case(name))?;
        Some(found.argument(1).to_owned()).filter(|value| !value.is_empty())
    }

    /// Whether it takes requests for that path before a place of a shorter path does.
    fn is_for(&self, path: &str) -> bool {
        let own = self.location.rsplit(' ').next().unwrap_or_default().trim_start_matches('^');
        own.trim_end_matches('/') == path || self.location.starts_with('~') && own.contains(path)
    }
}

struct Server<'a> {
    directive: &'a Directive,
    levels: Levels<'a>,
    is_tls: bool,
    proxied: Vec<Proxied<'a>>,
}

impl<'a> Server<'a> {
    /// Those of the site, if its name is known and one has it; else all that lead to an Odoo.
    fn all(http: &'a Directive, around: &Surroundings) -> Vec<Self> {
        let blocks = http.inside().iter().filter(|one| one.name == "server" && one.block.is_some());
        let all: Vec<Self> = blocks.map(|one| Self::new(http, one)).collect();
        let odoo: Vec<u16> =
            around.http_ports.iter().chain(&around.gevent_ports).copied().collect();
        let leads = |server: &Self| {
            server.proxied.iter().any(|place| place.ports.iter().any(|port| odoo.contains(port)))
        };
        let is_sites =
            |server: &Self| around.host.as_deref().is_some_and(|host| server.has_name(host));
        // A name that only redirects may lead to another program.
        let has_name = all.iter().any(|server| is_sites(server) && !server.proxied.is_empty());
        let names: Vec<String> = all
            .iter()
            .filter(|server| if has_name { is_sites(server) } else { leads(server) })
            .flat_map(Self::names)
            .collect();
        // The one that redirects to it has its name and leads nowhere.
        let shares = |server: &Self| server.names().iter().any(|name| names.contains(name));
        all.into_iter().filter(|server| !names.is_empty() && shares(server)).collect()
    }

    fn new(http: &'a Directive, directive: &'a Directive) -> Self {
        let levels = vec![http.inside(), directive.inside()];
        let mut proxied = Vec::new();
        collect(http, &levels, "/", &mut proxied);
        let has_ssl = |one: &Directive| {
            one.name == "listen" && one.arguments.iter().any(|word| word == "ssl" || word == "quic")
                || one.name == "ssl" && one.argument(0) == "on"
        };
        let is_tls = directive.inside().iter().any(has_ssl);
        Self { directive, levels, is_tls, proxied }
    }

    /// Its names; one without any is known by the empty name, as in nginx.
    fn names(&self) -> Vec<String> {
        let set = self.directive.inside().iter().filter(|one| one.name == "server_name");
        let names: Vec<String> = set.flat_map(|one| one.arguments.clone()).collect();
        if names.is_empty() { vec![String::new()] } else { names }
    }

    fn name(&self) -> String {
        let first = self.names().swap_remove(0);
        let first = if first.is_empty() { "without a name".to_owned() } else { first };
        if self.is_tls { first } else { format!("{first} (without TLS)") }
    }

    fn has_name(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.names().iter().any(|name| {
            let name = name.to_ascii_lowercase();
            match (name.strip_prefix("*."), name.strip_prefix('.')) {
                (Some(rest), _) => host.strip_suffix(rest).is_some_and(|left| left.ends_with('.')),
                (_, Some(rest)) => {
                    host == rest || host.strip_suffix(rest).is_some_and(|left| left.ends_with('.'))
                }
                _ => name == host,
            }
        })
    }

    /// Which requests that come to it over plain HTTP are sent to HTTPS.
    fn redirects(&self) -> Redirected {
        let own = self.directive.inside();
        let found = Redirected::by(own, &self.names());
        let root = |one: &&Directive| one.name == "location" && one.arguments == ["/"];
        match (found, own.iter().find(root)) {
            (Redirected::None, Some(root)) if self.proxied.is_empty() => {
                Redirected::by(root.inside(), &self.names())
            }
            (found, _) => found,
        }
    }
}

/// Which requests are sent to HTTPS.
#[derive(Debug, Eq, PartialEq)]
enum Redirected {
    All,
    /// Those of which this holds.
    Some(String),
    None,
}

impl Redirected {
    /// By these directives of a server that has these names.
    fn by(directives: &[Directive], names: &[String]) -> Self {
        let mut partly = Self::None;
        // Each name may have an `if` of its own.
        let mut unnamed: Vec<&String> = names.iter().collect();
        for one in directives {
            let found = match one.name.as_str() {
                "return" => {
                    let position = usize::from(one.arguments.len() > 1);
                    if one.argument(position).starts_with("https://") {
                        Self::All
                    } else {
                        Self::None
                    }
                }
                "rewrite" if one.argument(1).starts_with("https://") => {
                    let pattern = one.argument(0);
                    if ["^", "^/", "^.*$", "^(.*)$", "^(.*)", "^/(.*)$", "^/.*$", "(.*)", ".*"]
                        .contains(&pattern)
                    {
                        Self::All
                    } else {
                        Self::Some(format!("rewrite {pattern}"))
                    }
                }
                "if" => match Self::by(one.inside(), names) {
                    Self::All => {
                        let condition = one.arguments.join(" ").replace(['(', ')', '"', '\''], "");
                        let condition = condition.trim();
                        if let Some(host) = condition.strip_prefix("$host = ") {
                            unnamed.retain(|name| !name.eq_ignore_ascii_case(host));
                        }
                        if unnamed.is_empty() || ALL_OF_PLAIN_HTTP.contains(&condition) {
                            Self::All
                        } else {
                            Self::Some(format!("if ({condition})"))
                        }
                    }
                    found => found,
                },
                _ => Self::None,
            };
            match found {
                Self::All => return Self::All,
                Self::Some(_) => partly = found,
                Self::None => {}
            }
        }
        partly
    }
}

/// Every `proxy_pass` below a level.
fn collect<'a>(
    http: &'a Directive,
    levels: &Levels<'a>,
    location: &str,
    found: &mut Vec<Proxied<'a>>,
) {
    let Some(level) = levels.last() else { return };
    for one in *level {
        if one.name == "proxy_pass" {
            found.push(Proxied {
                location: location.to_owned(),
                ports: ports(http, one.argument(0)),
                levels: levels.clone(),
            });
        }
        if matches!(one.name.as_str(), "location" | "if" | "limit_except") {
            let path = one.arguments.join(" ");
            let location = if one.name == "location" { path.as_str() } else { location };
            let mut inner = levels.clone();
            inner.push(one.inside());
            collect(http, &inner, location, found);
        }
    }
}

/// The ports that a target leads to: its own, or those of the upstream of that name.
fn ports(http: &Directive, target: &str) -> Vec<u16> {
    let target = target.split_once("://").map_or(target, |(_, rest)| rest);
    let address = target.split('/').next().unwrap_or_default();
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let is_it = |one: &&Directive| one.name == "upstream" && one.argument(0) == address;
    match http.inside().iter().find(is_it) {
        Some(upstream) => {
            let servers = upstream.inside().iter().filter(|one| one.name == "server");
            servers.filter_map(|one| port(one.argument(0))).collect()
        }
        None => port(address).into_iter().collect(),
    }
}

/// A few of many, in words.
fn listed(names: &[String]) -> String {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.dedup();
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The locations of which something holds.
fn locations(proxied: &[&Proxied<'_>], holds: impl Fn(&Proxied<'_>) -> bool) -> Vec<String> {
    proxied.iter().filter(|place| holds(place)).map(|place| place.location.clone()).collect()
}

fn forwarded_proto(proxied: &[&Proxied<'_>]) -> Finding {
    let question = Question::ForwardedProto;
    let remedy = "proxy_set_header X-Forwarded-Proto $scheme; (a location that has a proxy_set_header \
                  of its own inherits none, so write all of them there)";
    let missing = locations(proxied, |place| place.header("X-Forwarded-Proto").is_none());
    if !missing.is_empty() {
        let seen = format!("not set for location {}", listed(&missing));
        return question.finding(Grade::Fail, seen, remedy);
    }
    let is_plain =
        |place: &Proxied<'_>| place.header("X-Forwarded-Proto").as_deref() == Some("http");
    let plain = locations(proxied, is_plain);
    if !plain.is_empty() {
        let seen =
            format!("says 'http', whatever the browser used, for location {}", listed(&plain));
        return question.finding(Grade::Fail, seen, remedy);
    }
    question.pass("set wherever requests go on to Odoo")
}

fn forwarded_host(proxied: &[&Proxied<'_>]) -> Finding {
    let missing = locations(proxied, |place| place.header("X-Forwarded-Host").is_none());
    if missing.is_empty() {
        return Question::ForwardedHost.pass("set wherever requests go on to Odoo");
    }
    let seen = format!("not set for location {}", listed(&missing));
    Question::ForwardedHost.finding(Grade::Fail, seen, "proxy_set_header X-Forwarded-Host $host;")
}

fn websocket(servers: &[Server<'_>], around: &Surroundings) -> Finding {
    let question = Question::Websocket;
    let remedy = "location /websocket { proxy_pass http://127.0.0.1:8072; }, with proxy_http_version \
                  1.1 and the headers Upgrade and Connection (docs/several-servers.md has a whole \
                  configuration; Odoo 14 and 15: /longpolling)";
    let proxied = servers.iter().flat_map(|server| &server.proxied);
    let routes: Vec<&Proxied<'_>> = proxied
        .filter(|place| place.is_for("/websocket") || place.is_for("/longpolling"))
        .collect();
    if routes.is_empty() {
        let grade = if around.has_workers { Grade::Fail } else { Grade::Note };
        let why = if around.has_workers {
            "no location /websocket, and Odoo has workers: its evented process gets no request"
        } else {
            "no location /websocket; without workers Odoo has no evented process"
        };
        return question.finding(grade, why, if around.has_workers { remedy } else { "" });
    }
    let known = &around.gevent_ports;
    let astray: Vec<String> = routes
        .iter()
        .filter(|_| !known.is_empty() && around.has_workers)
        .filter(|place| !place.ports.is_empty())
        .filter(|place| place.ports.iter().all(|port| !known.contains(port)))
        .map(|place| place.location.clone())
        .collect();
    if !astray.is_empty() {
        let ports: Vec<String> = known.iter().map(ToString::to_string).collect();
        let seen = format!(
            "location {} does not lead to the evented process (port {})",
            listed(&astray),
            ports.join(", ")
        );
        return question.finding(Grade::Fail, seen, remedy);
    }
    let sockets: Vec<&&Proxied<'_>> =
        routes.iter().filter(|place| place.is_for("/websocket")).collect();
    let is_upgraded = |place: &Proxied<'_>| {
        let version = nearest(&place.levels, "proxy_http_version");
        place.header("Upgrade").is_some()
            && place.header("Connection").is_some()
            && version.iter().any(|one| one.argument(0) == "1.1")
    };
    if sockets.is_empty() {
        return question.pass("location /longpolling alone: right for Odoo 14 and 15");
    }
    if sockets.iter().all(|place| is_upgraded(place)) {
        return question.pass("location /websocket, with Upgrade and HTTP/1.1");
    }
    let seen = "location /websocket lacks Upgrade, Connection or proxy_http_version 1.1: no websocket \
                can be opened";
    question.finding(Grade::Fail, seen, remedy)
}

fn redirect(servers: &[Server<'_>]) -> Finding {
    let question = Question::NginxRedirect;
    let remedy = "server { listen 80; server_name NAME; return 301 https://$host$request_uri; }";
    let open: Vec<String> = servers
        .iter()
        .filter(|server| !server.is_tls && server.redirects() == Redirected::None)
        .map(Server::name)
        .collect();
    if !open.is_empty() {
        let seen = format!("served over plain HTTP: {}", listed(&open));
        return question.finding(Grade::Fail, seen, remedy);
    }
    // One server may listen on both ports.
    let has_plain_port = |server: &&Server<'_>| {
        let listens = server.directive.inside().iter().filter(|one| one.name == "listen");
        server.is_tls
            && listens
                .clone()
                .any(|one| !one.arguments.iter().any(|word| word == "ssl" || word == "quic"))
    };
    let both: Vec<String> = servers
        .iter()
        .filter(has_plain_port)
        .filter(|server| server.redirects() == Redirected::None)
        .map(Server::name)
        .collect();
    if !both.is_empty() {
        let seen = format!("listens on a port without TLS, too, and serves it: {}", listed(&both));
        return question.finding(Grade::Fail, seen, remedy);
    }
    let partly = servers.iter().filter(|server| !server.is_tls || has_plain_port(server)).find_map(
        |server| match server.redirects() {
            Redirected::Some(of) => Some(format!("{}: {of}", server.name())),
            _ => None,
        },
    );
    if let Some(partly) = partly {
        let seen = format!("plain HTTP is sent to HTTPS where a condition holds: {partly}");
        return question.unknown(seen, remedy);
    }
    if servers.iter().any(|server| !server.is_tls) {
        return question.pass("plain HTTP is sent to HTTPS");
    }
    question.pass("no server of that name listens without TLS")
}

/// The seconds of a Strict-Transport-Security header.
pub(super) fn max_age(value: &str) -> Option<u64> {
    value.split(';').find_map(|word| {
        let (name, seconds) = word.trim().split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("max-age")
            .then(|| seconds.trim().trim_matches('"').parse().ok())?
    })
}

/// What is to be said of the seconds of HSTS, if they are too few.
pub(super) fn too_short(seconds: u64) -> Option<String> {
    (seconds < HSTS_MIN_SECONDS)
        .then(|| format!("max-age={seconds} is {} days, less than half a year", seconds / 86_400))
}

fn hsts(servers: &[Server<'_>]) -> Finding {
    let question = Question::NginxHsts;
    let remedy = "add_header Strict-Transport-Security \"max-age=31536000\" always; (a location that has \
                  an add_header of its own inherits none)";
    let places: Vec<&Proxied<'_>> =
        servers.iter().filter(|server| server.is_tls).flat_map(|server| &server.proxied).collect();
    if places.is_empty() {
        return question.finding(
            Grade::Fail,
            "no server of that name has TLS",
            "serve it over TLS",
        );
    }
    let value = |place: &Proxied<'_>| {
        let added = nearest(&place.levels, "add_header");
        let found = added
            .iter()
            .find(|one| one.argument(0).eq_ignore_ascii_case("Strict-Transport-Security"))?;
        max_age(found.argument(1))
    };
    let missing = locations(&places, |place| value(place).is_none());
    if missing.len() == places.len() {
        return question.finding(Grade::Warn, "not set", remedy);
    }
    if !missing.is_empty() {
        let seen = format!("not set for location {}", listed(&missing));
        return question.finding(Grade::Warn, seen, remedy);
    }
    let shortest = places.iter().filter_map(|place| value(place)).min().unwrap_or_default();
    match too_short(shortest) {
        Some(seen) => question.finding(Grade::Warn, seen, remedy),
        None => question.pass(format!("max-age={shortest}")),
    }
}

/// Whether a place adds a flag to the session cookie, by `proxy_cookie_flags` or by the old trick with
/// `proxy_cookie_path`.
fn adds_flag(place: &Proxied<'_>, flag: &str) -> bool {
    let is_for_session = |one: &&Directive| {
        let name = one.argument(0);
        match name.strip_prefix('~') {
            Some(pattern) => {
                let pattern = pattern.trim_start_matches('*');
                pattern.contains(COOKIE) || matches!(pattern, "." | ".*" | ".+" | "^")
            }
            None => name == COOKIE,
        }
    };
    let has_it = |word: &str| {
        let word = word.trim().to_ascii_lowercase();
        word == flag || word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
    };
    let flags = nearest(&place.levels, "proxy_cookie_flags");
    // The first that matches a cookie applies.
    let by_flags = flags
        .iter()
        .find(|one| is_for_session(one))
        .is_some_and(|one| one.arguments.iter().skip(1).any(|word| has_it(word)));
    let paths = nearest(&place.levels, "proxy_cookie_path");
    by_flags || paths.iter().any(|one| one.argument(1).split(';').skip(1).any(has_it))
}

fn cookie_flags(proxied: &[&Proxied<'_>]) -> Finding {
    let remedy = "proxy_cookie_flags session_id secure samesite=lax; (nginx before 1.19.3: \
                  proxy_cookie_path / \"/; Secure; SameSite=Lax\";)";
    let mut lacking = Vec::new();
    for (flag, shown) in [("secure", "Secure"), ("samesite", "SameSite")] {
        let missing = locations(proxied, |place| !adds_flag(place, flag));
        if !missing.is_empty() {
            lacking.push(format!("{shown} is not added for location {}", listed(&missing)));
        }
    }
    if lacking.is_empty() {
        return Question::CookieFlags.pass("Secure and SameSite are added to session_id");
    }
    Question::CookieFlags.finding(Grade::Fail, lacking.join("; "), remedy)
}

fn protocols(servers: &[Server<'_>]) -> Option<Finding> {
    let question = Question::Protocols;
    let with_tls: Vec<&Server<'_>> = servers.iter().filter(|server| server.is_tls).collect();
    let set: Vec<String> = with_tls
        .iter()
        .flat_map(|server| nearest(&server.levels, "ssl_protocols"))
        .flat_map(|one| one.arguments.clone())
        .collect();
    if with_tls.is_empty() {
        return None;
    }
    let old: Vec<String> = set
        .iter()
        .filter(|name| ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1"].contains(&name.as_str()))
        .cloned()
        .collect();
    Some(match (set.is_empty(), old.is_empty()) {
        (true, _) => question.finding(
            Grade::Note,
            "not set: nginx before 1.23.4 allows TLSv1 and TLSv1.1 then; site.tls says what it accepts",
            "",
        ),
        (_, true) => question.pass(listed(&set)),
        _ => question.finding(
            Grade::Fail,
            format!("{} allowed", listed(&old)),
            "ssl_protocols TLSv1.2 TLSv1.3;",
        ),
    })
}

#[cfg(test)]
mod tests;

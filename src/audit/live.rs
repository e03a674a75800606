//! The site as a browser meets it: certificate, TLS, redirect, HSTS, and the session cookie's flags.

use std::time::Duration;

use super::account::databases;
use super::browser::{Answer, Browser, Door, SetCookie, Silence};
use super::finding::{Finding, Grade, Question};
use super::{nginx, tls};

/// An old version of TLS is refused at once, or not at all.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// The page that every Odoo has, and that gives a visitor a session.
const PAGE: &str = "/web/login";
const FLAGS_REMEDY: &str = "in nginx: proxy_cookie_flags session_id secure samesite=lax; (before 1.19.3: \
                            proxy_cookie_path / \"/; Secure; SameSite=Lax\";)";

/// Looks at the site, without logging in.
pub(crate) async fn findings(browser: &Browser) -> Vec<Finding> {
    let mut visitor = browser.fresh();
    let answer = match visitor.get(Door::Front, PAGE).await {
        Ok(answer) => answer,
        Err(why) => {
            let remedy = "start Odoo and its proxy, and look into their logs";
            let seen = format!("{PAGE}: {why}");
            return vec![Question::Reach.finding(Grade::Fail, seen, remedy)];
        }
    };
    let mut found = vec![reach(&answer)];
    if browser.site().is_tls {
        found.push(certificate(browser));
        found.push(versions(browser, &answer).await);
        found.push(redirect(browser).await);
        found.push(hsts(&answer));
    } else {
        let remedy = "serve the site over HTTPS, and audit that";
        let seen = "the site is served over plain HTTP";
        found.push(Question::Tls.finding(Grade::Fail, seen, remedy));
    }
    found.extend(cookie(&answer));
    found.push(database_list(&mut visitor).await);
    found
}

fn reach(answer: &Answer) -> Finding {
    let seen = format!("{PAGE}: HTTP {} in {} ms", answer.status, answer.took.as_millis());
    if (200..400).contains(&answer.status) {
        return Question::Reach.pass(seen);
    }
    let remedy = "look into the logs of the proxy and of Odoo; --address leads to another server";
    Question::Reach.finding(Grade::Fail, seen, remedy)
}

fn certificate(browser: &Browser) -> Finding {
    let question = Question::Certificate;
    match browser.tls().verdict() {
        Some(Ok(())) => question.pass("a browser trusts it"),
        Some(Err(why)) => question.finding(
            Grade::Fail,
            format!("a browser refuses it: {why}"),
            "get one from an authority that browsers trust; if yours is trusted by a CA of your own, name that \
             with --ca-file",
        ),
        None => question.unknown("no connection was made", "run the audit again"),
    }
}

async fn versions(browser: &Browser, answer: &Answer) -> Finding {
    let site = browser.site();
    let mut old = Vec::new();
    for (minor, name) in tls::OLD {
        match tls::takes_old((site.address, site.port), &site.host, minor, HELLO_WITHIN).await {
            Ok(true) => old.push(name),
            Ok(false) => {}
            Err(why) => {
                let seen = format!("{name} could not be tried: {why}");
                return Question::Tls.unknown(seen, "run the audit again");
            }
        }
    }
    let used = match answer.tls_version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "another version",
    };
    if old.is_empty() {
        return Question::Tls.pass(format!("{used}; TLS 1.0 and 1.1 are refused"));
    }
    let seen = format!("{} accepted", old.join(" and "));
    Question::Tls.finding(Grade::Fail, seen, "in nginx: ssl_protocols TLSv1.2 TLSv1.3;")
}

async fn redirect(browser: &Browser) -> Finding {
    let question = Question::Redirect;
    let remedy =
        "in nginx: server { listen 80; server_name NAME; return 301 https://$host$request_uri; }";
    let port = browser.site().plain_port;
    let answer = match browser.fresh().get(Door::Plain, PAGE).await {
        Ok(answer) => answer,
        // Who types the name gets nothing, and gives nothing away.
        Err(Silence::Closed(_)) => {
            return question.pass(format!("nothing answers plain HTTP on port {port}"));
        }
        Err(Silence::Broken(why)) => {
            return question.unknown(format!("port {port}: {why}"), "run the audit again");
        }
    };
    let leads = answer.location().and_then(|place| browser.site().own_path(place, false));
    match (leads, answer.status) {
        (Some((true, _)), status) => question.pass(format!("HTTP {status} leads to https://")),
        (Some((false, _)), status) => {
            let seen = format!("HTTP {status} leads to plain HTTP again");
            question.finding(Grade::Fail, seen, remedy)
        }
        (None, 500..) => {
            question.unknown(format!("port {port}: HTTP {}", answer.status), "run the audit again")
        }
        (None, 400..) => question
            .pass(format!("plain HTTP on port {port} is answered with HTTP {}", answer.status)),
        (None, 300..400) => {
            question.finding(Grade::Warn, "plain HTTP leads to another site", remedy)
        }
        (None, status) => {
            let seen = format!("plain HTTP on port {port} is served (HTTP {status})");
            question.finding(Grade::Fail, seen, remedy)
        }
    }
}

fn hsts(answer: &Answer) -> Finding {
    let question = Question::Hsts;
    let remedy = "in nginx: add_header Strict-Transport-Security \"max-age=31536000\" always;";
    let Some(value) = answer.header("strict-transport-security") else {
        return question.finding(Grade::Warn, "not sent", remedy);
    };
    match nginx::max_age(value) {
        None => question.finding(Grade::Warn, "sent without a max-age", remedy),
        Some(seconds) => match nginx::too_short(seconds) {
            Some(seen) => question.finding(Grade::Warn, seen, remedy),
            None => question.pass(format!("max-age={seconds}")),
        },
    }
}

fn cookie(answer: &Answer) -> Vec<Finding> {
    let Some(cookie) = answer.session() else {
        let remedy =
            "name the address of Odoo itself with --address, if a cache answers in its place";
        let seen = format!("{PAGE} sets no session cookie");
        return vec![Question::CookieSecure.unknown(seen, remedy)];
    };
    let is_there = |name: &str| cookie.attribute(name).is_some();
    let flag = |question: Question, name: &str, shown: &str, remedy: &str| {
        if is_there(name) {
            question.pass(format!("the cookie has {shown}"))
        } else {
            question.finding(Grade::Fail, format!("the cookie lacks {shown}"), remedy)
        }
    };
    vec![
        flag(Question::CookieSecure, "secure", "Secure", FLAGS_REMEDY),
        flag(
            Question::CookieHttpOnly,
            "httponly",
            "HttpOnly",
            "Odoo sets it: find what takes it away (proxy_cookie_flags session_id nohttponly, a module)",
        ),
        same_site(cookie),
    ]
}

fn same_site(cookie: &SetCookie) -> Finding {
    let question = Question::CookieSameSite;
    match cookie.attribute("samesite") {
        Some(value @ ("lax" | "strict")) => question.pass(format!("SameSite={value}")),
        Some("none") => question.finding(
            Grade::Warn,
            "SameSite=None: requests that pages of other sites send carry the cookie",
            FLAGS_REMEDY,
        ),
        _ => question.finding(Grade::Warn, "the cookie lacks SameSite", FLAGS_REMEDY),
    }
}

async fn database_list(visitor: &mut Browser) -> Finding {
    let question = Question::Databases;
    let remedy =
        "list_db = False in odoo.conf; and in nginx: location /web/database { return 404; }";
    let listed = match databases(visitor).await {
        Ok(listed) => listed,
        Err(trouble) => return question.unknown(trouble.to_string(), "run the audit again"),
    };
    if !listed.is_empty() {
        let what = if listed.len() == 1 { "database" } else { "databases" };
        let seen = format!("everybody sees the name of {} {what}", listed.len());
        return question.finding(Grade::Fail, seen, remedy);
    }
    match visitor.get(Door::Front, "/web/database/manager").await {
        Ok(answer) if answer.status == 200 && is_manager(&answer.body) => {
            question.finding(Grade::Warn, "everybody reaches the database manager", remedy)
        }
        Ok(_) => question.pass("not shown"),
        Err(why) => question.unknown(why.to_string(), "run the audit again"),
    }
}

/// With `list_db = False` the page says so; its forms are in it all the same
/// (`web/static/src/public/database_manager.qweb.html`).
fn is_manager(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("/web/database/create")
        && !text.contains("has been disabled by the administrator")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::audit::browser::Issued;
    use crate::audit::site::Site;
    use crate::audit::tls::Tls;

    /// What is said of a port for plain HTTP that answers so.
    async fn of_plain_http(answer: &'static str) -> Finding {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain_port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A request is shorter than that.
            let _ = stream.read(&mut [0; 8192]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let finding = redirect(&browser(plain_port)).await;
        serving.join().unwrap();
        finding
    }

    fn browser(plain_port: u16) -> Browser {
        let site = Site {
            host: "shop.example.com".to_owned(),
            is_tls: true,
            port: 443,
            plain_port,
            address: [127, 0, 0, 1].into(),
            is_own: true,
        };
        Browser::new(Arc::new(site), Tls::new(None).unwrap(), Issued::default())
    }

    #[tokio::test]
    async fn plain_http_passes_only_if_it_leads_to_https_or_nobody_serves_it() {
        for (answer, grade) in [
            ("HTTP/1.1 301 x\r\nLocation: https://shop.example.com/web/login\r\n\r\n", Grade::Pass),
            ("HTTP/1.1 303 x\r\nLocation: /web/database/selector\r\n\r\n", Grade::Fail),
            ("HTTP/1.1 303 x\r\nLocation: https://other.example.com/\r\n\r\n", Grade::Warn),
            ("HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", Grade::Fail),
            ("HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", Grade::Pass),
            ("HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n", Grade::Unknown),
            ("nonsense", Grade::Unknown),
            ("", Grade::Unknown),
        ] {
            let finding = of_plain_http(answer).await;
            assert_eq!(finding.grade, grade, "{answer}: {finding:?}");
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        assert_eq!(redirect(&browser(port)).await.grade, Grade::Pass);
    }
}

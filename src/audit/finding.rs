//! One finding: what was looked at, what was seen, what it means, and what to do about it.

use serde::Serialize;

/// How well something is, the worst first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// Sessions can be taken or lost, or are not where they should be.
    Fail,
    /// It works, and something should be mended.
    Warn,
    /// It was asked for, and could not be looked at.
    Unknown,
    /// Good to know; nothing is to be mended here.
    Note,
    /// As it should be.
    Pass,
}

impl Grade {
    /// Every grade, the worst first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Fail, Self::Warn, Self::Unknown, Self::Note, Self::Pass];

    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::Unknown => "not known",
            Self::Note => "note",
            Self::Pass => "pass",
        }
    }
}

/// A link of the chain from a browser to the disk, in the order of the report.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// What a browser meets.
    Site,
    /// nginx's configuration.
    Nginx,
    /// Odoo's configuration.
    Odoo,
    /// Mount, Redis and lifetimes.
    Storage,
    /// What a thief would try.
    Hijack,
    /// A bounded load.
    Stress,
}

impl Part {
    /// Every part, in the order of the report.
    pub(crate) const ALL: [Self; 6] =
        [Self::Site, Self::Nginx, Self::Odoo, Self::Storage, Self::Hijack, Self::Stress];

    /// Its heading.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Site => "The site, as a browser meets it",
            Self::Nginx => "nginx",
            Self::Odoo => "Odoo's configuration",
            Self::Storage => "Where sessions are kept",
            Self::Hijack => "What a thief would try",
            Self::Stress => "Under load",
        }
    }
}

/// Declares every question once: its name, its part, what is looked at, and why that matters.
macro_rules! questions {
    ($($name:ident: $part:ident $id:literal, $subject:literal, $meaning:literal;)+) => {
        /// What is looked at, in the order of the report.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub(crate) enum Question {
            $($name,)+
        }

        impl Question {
            /// Every one, with its stable name, its part, what is looked at, and why that matters.
            pub(crate) const ALL: &[(Self, &str, Part, &str, &str)] = &[
                $((Self::$name, $id, Part::$part, $subject, $meaning),)+
            ];
        }
    };
}

questions! {
    Reach: Site "site.reach", "answer",
        "Nothing can be said of a site that does not answer.";
    Certificate: Site "site.certificate", "certificate",
        "A browser that cannot verify the certificate cannot tell the site from a thief in between.";
    Tls: Site "site.tls", "TLS version",
        "Old versions of TLS can be broken by who sees the traffic, and the cookie is in it.";
    Redirect: Site "site.redirect", "plain HTTP leads to HTTPS",
        "Who types the name without https:// begins on plain HTTP, where everybody on the way can read the cookie.";
    Hsts: Site "site.hsts", "HSTS",
        "Without Strict-Transport-Security a browser tries plain HTTP again at each visit, and a thief on the way can \
         answer in the site's place.";
    CookieSecure: Site "site.cookie-secure", "Secure on the session cookie",
        "Without Secure a browser sends the cookie over plain HTTP, too, where everybody on the way can read it.";
    CookieHttpOnly: Site "site.cookie-httponly", "HttpOnly on the session cookie",
        "Without HttpOnly a script that somebody smuggles into a page can read the cookie.";
    CookieSameSite: Site "site.cookie-samesite", "SameSite on the session cookie",
        "Without SameSite it is left to the browser whether pages of other sites send requests with this cookie.";
    Databases: Site "site.databases", "list of databases",
        "Who sees the names of the databases knows what to attack, and the manager beside the list can copy or drop them.";
    NginxConfiguration: Nginx "nginx.configuration", "configuration",
        "What nginx passes on decides what Odoo believes of a visitor, and what the browser is told of the cookie.";
    ForwardedProto: Nginx "nginx.forwarded-proto", "X-Forwarded-Proto",
        "Without it Odoo takes https for http, and redirects the browser to plain HTTP.";
    ForwardedHost: Nginx "nginx.forwarded-host", "X-Forwarded-Host",
        "Odoo's proxy_mode does nothing for a request without it: every visitor then has the address of the proxy.";
    Websocket: Nginx "nginx.websocket", "route of the websocket",
        "Without a route to the evented process, messages do not arrive, and each open tab holds a worker.";
    NginxRedirect: Nginx "nginx.redirect", "redirect to HTTPS",
        "A name that is served over plain HTTP shows the cookie to everybody on the way.";
    NginxHsts: Nginx "nginx.hsts", "HSTS",
        "Without it a browser tries plain HTTP again at each visit.";
    CookieFlags: Nginx "nginx.cookie-flags", "flags of the session cookie",
        "Odoo sets HttpOnly, and neither Secure nor SameSite: the proxy has to add them.";
    Protocols: Nginx "nginx.protocols", "TLS versions",
        "Old versions of TLS can be broken by who sees the traffic.";
    OdooFound: Odoo "odoo.found", "configuration",
        "Nothing can be said of an Odoo that is not on this host.";
    ProxyMode: Odoo "odoo.proxy-mode", "proxy_mode",
        "Behind a proxy and without it, Odoo takes every visitor for the proxy, and https for http: logs, device lists and \
         limits by address show the wrong one, and redirects lead to plain HTTP.";
    ListDb: Odoo "odoo.list-db", "list_db",
        "With it everybody sees the names of the databases, and reaches the manager that can copy or drop them.";
    DbFilter: Odoo "odoo.dbfilter", "dbfilter",
        "Without it the visitor chooses the database: one site's login page serves the databases of all.";
    Workers: Odoo "odoo.workers", "workers",
        "Without workers, one process serves everything, and a long request of one user delays all others.";
    Storage: Storage "storage.check", "mount and Redis",
        "Sessions that are not where they are thought to be are neither sealed nor ended in time.";
    Lifetimes: Storage "storage.lifetimes", "lifetimes",
        "The longer an unused session lives, the longer a stolen cookie works.";
    Login: Hijack "hijack.login", "login",
        "Without a login of its own, the audit can try nothing of what a thief would.";
    Elsewhere: Hijack "hijack.elsewhere", "the cookie from another address and browser",
        "Odoo binds a session to neither: the cookie alone is the login. So it must not be read on the way (Secure, HTTPS) \
         or by scripts (HttpOnly), and must not live longer than needed.";
    PlainHttp: Hijack "hijack.plain-http", "the cookie over plain HTTP",
        "What is served over plain HTTP can be read on the way, the cookie with it.";
    Fixation: Hijack "hijack.fixation", "an id chosen before the login",
        "If the id of before stayed valid, who slips somebody a cookie would be logged in as soon as that person is.";
    Alias: Hijack "hijack.alias", "an alias taken for a cookie",
        "Listings, logs and Redis have aliases; whoever reads them must not be able to log in with one.";
    Listing: Hijack "hijack.listing", "ids in the listing of the session directory",
        "Who may list the directory could take over every session in it.";
    InRedis: Hijack "hijack.redis", "ids in Redis",
        "Who may read Redis, or a backup of it, could take over every session.";
    Logs: Hijack "hijack.logs", "ids in logs",
        "Logs are read by many, copied and kept for long; a cookie in one is a login for all of them.";
    Password: Hijack "hijack.password", "the cookie after a change of the password",
        "Who changes the password because of a theft must be rid of the thief.";
    Logout: Hijack "hijack.logout", "the cookie after the logout",
        "A logout that leaves the session alive on the server is none.";
    Idle: Hijack "hijack.idle", "the cookie after the idle time",
        "A session that nobody uses is one that nobody would miss.";
    LeftBehind: Hijack "hijack.left-behind", "what the audit leaves behind",
        "The audit's own logins must not become what a thief looks for.";
    Errors: Stress "stress.errors", "errors",
        "A request that fails under a load like this one fails for users, too.";
    Logouts: Stress "stress.logouts", "logouts",
        "Nobody may be logged out because others are busy.";
}

impl Question {
    fn entry(self) -> &'static (Self, &'static str, Part, &'static str, &'static str) {
        Self::ALL.iter().find(|(question, ..)| *question == self).unwrap_or(&Self::ALL[0])
    }

    /// Its stable name.
    pub(crate) fn id(self) -> &'static str {
        self.entry().1
    }

    /// With what was seen, and what to do about it.
    pub(crate) fn finding(
        self,
        grade: Grade,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let (_, id, part, subject, meaning) = *self.entry();
        Finding { id, part, subject, grade, seen: seen.into(), meaning, remedy: remedy.into() }
    }

    /// As it should be.
    pub(crate) fn pass(self, seen: impl Into<String>) -> Finding {
        self.finding(Grade::Pass, seen, "")
    }

    /// It could not be looked at.
    pub(crate) fn unknown(self, seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Grade::Unknown, seen, remedy)
    }
}

/// One thing that was looked at. Fields of the JSON are never removed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// Its stable name.
    pub id: &'static str,
    pub part: Part,
    /// What was looked at.
    pub subject: &'static str,
    pub grade: Grade,
    /// What was seen, in one line. Without a session id or a password.
    pub seen: String,
    /// Why it matters.
    pub meaning: &'static str,
    /// What to do about it, in one line; empty if nothing is to be done.
    pub remedy: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_a_name_of_its_own_and_says_why_it_matters() {
        let mut names: Vec<&str> = Question::ALL.iter().map(|(_, id, ..)| *id).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for (question, id, part, subject, meaning) in Question::ALL {
            let word = serde_json::to_value(part).unwrap();
            assert!(id.starts_with(&format!("{}.", word.as_str().unwrap())), "{id}");
            assert!(meaning.ends_with('.') && !subject.is_empty(), "{id}");
            assert_eq!(question.pass("").id, *id);
        }
    }

    #[test]
    fn every_question_is_documented_with_its_meaning() {
        let text = include_str!("../../docs/audit.md");
        for (_, id, _, subject, meaning) in Question::ALL {
            let row = format!("| `{id}` | {subject} | {meaning} |");
            assert!(text.lines().any(|line| line == row), "docs/audit.md lacks the line\n{row}");
        }
        let rows =
            text.lines().filter(|line| line.starts_with("| `") && line.contains('.')).count();
        assert!(rows >= Question::ALL.len());
    }
}

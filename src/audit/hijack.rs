//! The simulation: what somebody would try who has got hold of a cookie, or wants one.
//!
//! It logs in by itself, with an account that it is given, and steals from nobody else. At its end all
//! that it has begun is ended, also when it is interrupted: from the first login on, every way out goes
//! through [`Simulation::leave`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout_at;

use super::account::{Account, Trouble, log_out, who};
use super::browser::{Browser, Door, Silence};
use super::finding::{Finding, Grade, Question};
use super::leaks::{self, Log};
use crate::config::units::duration_text;
use crate::host::signals::Interrupts;
use crate::redis::Settings;
use crate::redis::search::search;
use crate::session::name::Sid;

/// An idle time that is not longer is waited for without being asked to.
const WAITED_FOR_MS: u64 = 90_000;
/// The longest that is waited for at all.
const WAIT_MAX_MS: u64 = 2 * 3600 * 1000;
/// A session ends by Redis's clock, and this one runs beside it.
const MARGIN: Duration = Duration::from_secs(2);
/// What the audit has begun is ended within this time, and then looked at within as much.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);
/// How often an interruption is looked for while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the simulation may do, and where it looks.
pub(crate) struct Asked {
    pub account: Account,
    pub change_password: bool,
    pub wait_idle: bool,
    /// The idle time in force, if it is known.
    pub idle_ms: Option<u64>,
    /// Session directories of this host.
    pub directories: Vec<PathBuf>,
    /// Where sessions are in Redis, if that is known.
    pub redis: Option<Settings>,
    pub logs: Vec<Log>,
}

/// Tries everything, and tells of each.
pub(crate) async fn simulate(browser: &Browser, asked: &Asked) -> Vec<Finding> {
    let is_trusted = !browser.site().is_tls || matches!(browser.tls().verdict(), Some(Ok(())));
    let may_be_told = browser.site().is_own || browser.site().is_tls && is_trusted;
    if !may_be_told {
        return vec![Question::Login.unknown(
            "the site is on another host and its certificate cannot be verified: the password is not sent there",
            "mend site.certificate first, or run the audit on the site's own host",
        )];
    }
    let mut simulation = Simulation {
        asked,
        began: SystemTime::now(),
        owner: browser.fresh(),
        resting: None,
        uid: 0,
        found: Vec::new(),
    };
    let has_begun = simulation.begin().await;
    if has_begun {
        simulation.run().await;
    }
    simulation.leave().await;
    // Last, so that the ids of all parts are looked for.
    if has_begun && !Interrupts::noted() {
        let issued = browser.issued().all();
        simulation.found.push(leaks::logs(&asked.logs, simulation.began, &issued));
    }
    simulation.found
}

struct Simulation<'a> {
    asked: &'a Asked,
    began: SystemTime,
    /// The browser of the account's owner.
    owner: Browser,
    /// One that nobody touches until the idle time is over, and since when.
    resting: Option<(Browser, Instant)>,
    uid: i64,
    found: Vec<Finding>,
}

impl Simulation<'_> {
    /// Logs in: whether there is something to steal.
    async fn begin(&mut self) -> bool {
        let question = Question::Login;
        match self.asked.account.log_in(&mut self.owner).await {
            Ok(uid) => self.uid = uid,
            Err(trouble) => {
                let remedy = "give --login, --password-file and --database of an account without a second factor; it may \
                              be one that has no rights (a portal user)";
                self.found.push(question.unknown(trouble.to_string(), remedy));
                return false;
            }
        }
        let (id, session) = (self.uid, self.owner.session().and_then(Sid::parse));
        match (session, who(&mut self.owner, Door::Front).await) {
            (Some(_), Ok(Some(uid))) if uid == id => {
                self.found.push(question.pass(format!("logged in as user {id}")));
                true
            }
            (None, _) => {
                let seen = "the login sets no cookie with the form of an Odoo session id";
                self.found.push(question.unknown(seen, "see site.answer"));
                false
            }
            (_, answer) => {
                let seen =
                    format!("logged in as user {id}, and the next request is not ({answer:?})");
                let remedy = "find out why sessions are lost: sessionfs check";
                self.found.push(question.finding(Grade::Fail, seen, remedy));
                false
            }
        }
    }

    async fn run(&mut self) {
        for step in 0.. {
            // Each has a few requests, and each of them a bound.
            if Interrupts::noted() {
                return;
            }
            match step {
                0 => self.elsewhere().await,
                1 => self.plain_http().await,
                2 => self.fixation().await,
                3 => self.alias().await,
                4 => self.leaks().await,
                5 => self.password().await,
                6 => self.rest().await,
                7 => self.logout().await,
                8 => self.idle().await,
                _ => return,
            }
        }
    }

    /// Begins a session that nobody touches. Not before the password was changed: that ends all others, as if their idle
    /// time were over.
    async fn rest(&mut self) {
        let mut resting = self.owner.fresh();
        if self.may_wait() && self.asked.account.log_in(&mut resting).await.is_ok() {
            self.resting = Some((resting, Instant::now()));
        }
    }

    /// Whether the cookie of the owner's works for a thief.
    async fn stolen(&self, session: &str, door: Door) -> Result<bool, Trouble> {
        let mut thief = self.owner.thief(session);
        Ok(who(&mut thief, door).await? == Some(self.uid))
    }

    fn session(&self) -> String {
        self.owner.session().unwrap_or_default().to_owned()
    }

    async fn elsewhere(&mut self) {
        let question = Question::Elsewhere;
        let from = self.owner.thief("").source().map_or_else(
            || "another browser".to_owned(),
            |address: IpAddr| format!("another browser at {address}"),
        );
        let found = match self.stolen(&self.session(), Door::Front).await {
            Ok(true) => {
                question.finding(Grade::Note, format!("it works for {from}, as with any Odoo"), "")
            }
            Ok(false) => question.pass(format!("it does not work for {from}")),
            Err(trouble) => question.unknown(trouble.to_string(), "run the audit again"),
        };
        self.found.push(found);
    }

    async fn plain_http(&mut self) {
        let question = Question::PlainHttp;
        let remedy = "redirect plain HTTP to HTTPS, and add Secure to the cookie: site.redirect, site.cookie-secure";
        let found = match self.stolen(&self.session(), Door::Plain).await {
            Ok(true) => question.finding(Grade::Fail, "it is served over plain HTTP", remedy),
            Ok(false) => {
                let seen = "plain HTTP is served, though not with this session";
                question.finding(Grade::Fail, seen, remedy)
            }
            Err(trouble) => over_plain_http(&trouble, remedy),
        };
        self.found.push(found);
    }

    /// A cookie that the thief has chosen is in the browser before the login: of a session that lives, since Odoo takes
    /// no other, and one that nobody has drawn.
    async fn fixation(&mut self) {
        let found = match self.visitors().await {
            Ok(living) => {
                let found = self.fix(&living).await;
                if found.grade == Grade::Pass {
                    self.fix(&like(&self.session())).await
                } else {
                    found
                }
            }
            Err(trouble) => Question::Fixation.unknown(trouble.to_string(), "run the audit again"),
        };
        self.found.push(found);
    }

    /// The id of a session that lives and in which nobody is logged in. Odoo 16 and later keep that of a visitor when
    /// there is something in it, and each keeps the one that a logout leaves.
    async fn visitors(&self) -> Result<String, Trouble> {
        let mut visitor = self.owner.fresh();
        self.asked.account.log_in(&mut visitor).await?;
        log_out(&mut visitor).await;
        let living = visitor.session().map(ToOwned::to_owned);
        visitor.get(Door::Front, "/web/login").await.map_err(Trouble::Unanswered)?;
        let is_kept = living.is_some() && visitor.session() == living.as_deref();
        let gone = || Trouble::Strange("the session that a logout leaves does not live".to_owned());
        living.filter(|_| is_kept).ok_or_else(gone)
    }

    async fn fix(&self, chosen: &str) -> Finding {
        let question = Question::Fixation;
        let mut victim = self.owner.fresh();
        victim.take(chosen);
        let logged_in = match victim.get(Door::Front, "/web/login").await {
            Ok(_) => self.asked.account.log_in(&mut victim).await,
            Err(why) => Err(Trouble::Unanswered(why)),
        };
        if let Err(trouble) = logged_in {
            return question.unknown(trouble.to_string(), "run the audit again");
        }
        let is_kept = victim.session() == Some(chosen);
        let found = match self.stolen(chosen, Door::Front).await {
            Ok(true) => question.finding(
                Grade::Fail,
                "the chosen id is the logged-in one after the login",
                "find the module that keeps the session at the login; Odoo draws a new id",
            ),
            Ok(false) if is_kept => {
                question.unknown("the login set no new cookie", "run the audit again")
            }
            Ok(false) => question.pass("the login draws a new id, and the chosen one is nobody's"),
            Err(trouble) => question.unknown(trouble.to_string(), "run the audit again"),
        };
        log_out(&mut victim).await;
        found
    }

    async fn alias(&mut self) {
        let question = Question::Alias;
        let Some(sid) = Sid::parse(&self.session()) else { return };
        let found = match self.stolen(sid.alias().as_str(), Door::Front).await {
            Ok(true) => question.finding(
                Grade::Fail,
                "the alias of the session logs in",
                "tell the makers of sessionfs, and end all sessions (sessionfs kill --all --yes)",
            ),
            Ok(false) => question.pass("it is nobody's"),
            Err(trouble) => question.unknown(trouble.to_string(), "run the audit again"),
        };
        self.found.push(found);
    }

    /// Where the id of the owner, who is logged in, may be read.
    async fn leaks(&mut self) {
        let Some(sid) = Sid::parse(&self.session()) else { return };
        self.found.push(leaks::listings(&self.asked.directories, &sid));
        let found = match &self.asked.redis {
            Some(settings) => leaks::in_redis(search(settings, &sid).await),
            None => leaks::in_redis(Err("no Redis of the sessions can be reached".to_owned())),
        };
        self.found.push(found);
    }

    /// Another browser of the account, and a copy of the cookie: neither may outlive the password.
    async fn password(&mut self) {
        if !self.asked.change_password {
            return;
        }
        let question = Question::Password;
        let mut other = self.owner.fresh();
        if let Err(trouble) = self.asked.account.log_in(&mut other).await {
            self.found.push(question.unknown(trouble.to_string(), "run the audit again"));
            return;
        }
        let stolen = other.session().unwrap_or_default().to_owned();
        if let Err(trouble) = self.asked.account.change_password(&mut self.owner).await {
            let found = self.not_changed(question, &trouble).await;
            self.found.push(found);
            return;
        }
        let seen = self.stolen(&stolen, Door::Front).await;
        let back = self.asked.account.change_password_back(&mut self.owner).await;
        let found = match (back, seen) {
            (Err(trouble), _) => question.finding(
                Grade::Fail,
                format!("the password could not be changed back: {trouble}"),
                "log in with the password followed by '-audit', and set the former one",
            ),
            (Ok(()), Ok(true)) => question.finding(
                Grade::Fail,
                "a cookie of before the change still works",
                "find the module that overrides the session token (_compute_session_token)",
            ),
            (Ok(()), Ok(false)) => {
                let seen =
                    "a cookie of before it is nobody's; the password is the former one again";
                question.pass(seen)
            }
            (Ok(()), Err(trouble)) => question.unknown(trouble.to_string(), "run the audit again"),
        };
        self.found.push(found);
        // The owner's own browser may have been logged out by the change, too.
        if who(&mut self.owner, Door::Front).await != Ok(Some(self.uid)) {
            self.owner = self.owner.fresh();
            let _ = self.asked.account.log_in(&mut self.owner).await;
        }
    }

    /// A change of the password that has failed. Where Odoo has not refused it, it may have carried it out all the same.
    async fn not_changed(&mut self, question: Question, trouble: &Trouble) -> Finding {
        let seen = format!("the password could not be changed: {trouble}");
        let is_refused =
            |trouble: &Trouble| matches!(trouble, Trouble::Refused(_) | Trouble::Expired);
        if !is_refused(trouble) {
            match self.asked.account.change_password_back(&mut self.owner).await {
                Ok(()) => {
                    let seen =
                        format!("{seen}; it was changed all the same, and is the former one again");
                    return question.unknown(
                        seen,
                        "find out why Odoo's answer was lost, and run the audit again",
                    );
                }
                // The other one is wrong.
                Err(trouble) if is_refused(&trouble) => {}
                Err(_) => {
                    return question.finding(
                        Grade::Fail,
                        format!("{seen}; it is not known which one holds"),
                        "log in with the password, or with the password followed by '-audit', and set the former one",
                    );
                }
            }
        }
        question.unknown(seen, "use an account that may change its own password")
    }

    async fn logout(&mut self) {
        let question = Question::Logout;
        let session = self.session();
        if self.stolen(&session, Door::Front).await != Ok(true) {
            let seen = "the session was over before the logout";
            self.found.push(question.unknown(seen, "run the audit again"));
            return;
        }
        log_out(&mut self.owner).await;
        let found = match self.stolen(&session, Door::Front).await {
            Ok(true) => question.finding(
                Grade::Fail,
                "the cookie of before the logout still works",
                "sessionfs check; on a disk, look for errors of unlink in Odoo's log",
            ),
            Ok(false) => question.pass("it is nobody's"),
            Err(trouble) => question.unknown(trouble.to_string(), "run the audit again"),
        };
        self.found.push(found);
    }

    /// Whether the idle time is to be waited for.
    fn may_wait(&self) -> bool {
        let longest = if self.asked.wait_idle { WAIT_MAX_MS } else { WAITED_FOR_MS };
        self.asked.idle_ms.is_some_and(|idle_ms| idle_ms <= longest)
    }

    async fn idle(&mut self) {
        let question = Question::Idle;
        let Some(idle_ms) = self.asked.idle_ms else {
            let remedy = "name the Redis of the sessions with --redis or --config; Odoo itself has no idle time";
            self.found.push(question.unknown("no idle time is known", remedy));
            return;
        };
        let shown = duration_text(idle_ms);
        let Some((resting, since)) = self.resting.take() else {
            let remedy = if idle_ms > WAIT_MAX_MS {
                "set a shorter one (sessionfs config set lifetime.idle 15min)"
            } else {
                "use --wait-idle, which waits for it"
            };
            self.found.push(question.finding(
                Grade::Note,
                format!("not tried: it is {shown}; {remedy}"),
                "",
            ));
            return;
        };
        let session = resting.session().unwrap_or_default().to_owned();
        let over = since + Duration::from_millis(idle_ms) + MARGIN;
        while Instant::now() < over {
            if Interrupts::noted() {
                self.found.push(question.unknown("interrupted", "run the audit again"));
                return;
            }
            tokio::time::sleep(LOOK_EVERY.min(over.saturating_duration_since(Instant::now())))
                .await;
        }
        let found = match self.stolen(&session, Door::Front).await {
            Ok(true) => question.finding(
                Grade::Fail,
                format!("it works after {shown} without use"),
                "sessionfs check: Odoo may not use the mount, or something opens the session meanwhile",
            ),
            Ok(false) => question.pass(format!("after {shown} without use it is nobody's")),
            Err(trouble) => question.unknown(trouble.to_string(), "run the audit again"),
        };
        self.found.push(found);
    }

    /// Ends every session that a browser of the run was given, and says whether one is left. Within a bound: a site that
    /// does not answer keeps nobody.
    async fn leave(&mut self) {
        let question = Question::LeftBehind;
        self.resting = None;
        let issued = self.owner.issued().all();
        let until = tokio::time::Instant::now() + LEAVE_WITHIN;
        let logged_out = timeout_at(until, async {
            for sid in &issued {
                let mut browser = self.owner.holding(sid);
                if matches!(who(&mut browser, Door::Front).await, Ok(Some(_))) {
                    log_out(&mut browser).await;
                }
            }
        });
        // What was not reached is seen below.
        let _ = logged_out.await;
        // Visitors' sessions have no login, and no logout that would end them.
        leaks::remove(&self.asked.directories, self.owner.issued().all());
        let (mut living, mut asked, mut unasked) = (0_usize, 0_usize, None);
        for sid in &issued {
            let mut browser = self.owner.holding(sid);
            let Ok(answer) = timeout_at(until + LEAVE_WITHIN, who(&mut browser, Door::Front)).await
            else {
                break;
            };
            asked += 1;
            match answer {
                Ok(Some(_)) => living += 1,
                Ok(None) => {}
                Err(trouble) => unasked = Some(trouble.to_string()),
            }
        }
        let count = issued.len();
        if asked < count {
            unasked = Some(format!("of {count} sessions {asked} were looked at in time"));
        }
        let visitors = if self.asked.directories.is_empty() {
            "; sessions of visitors end by themselves"
        } else {
            "; those of visitors are removed"
        };
        let remedy = "sessionfs kill --login LOGIN";
        self.found.push(match (living, unasked) {
            (0, None) => {
                question.pass(format!("of {count} sessions none is logged in any more{visitors}"))
            }
            (0, Some(why)) => question.unknown(why, remedy),
            (living, _) => {
                let seen = format!("{living} of {count} sessions are still logged in");
                question.finding(Grade::Fail, seen, remedy)
            }
        });
    }
}

/// What a cookie that was sent over plain HTTP, and not taken, says of the site.
fn over_plain_http(trouble: &Trouble, remedy: &str) -> Finding {
    let question = Question::PlainHttp;
    match trouble {
        Trouble::Redirected(place) if place.starts_with("https://") => {
            question.pass(format!("redirected to {place}"))
        }
        // Or to a path of its own, which is plain HTTP again.
        Trouble::Redirected(place) => {
            question.finding(Grade::Fail, format!("redirected to {place}, not to HTTPS"), remedy)
        }
        Trouble::Refused(_) | Trouble::Expired => {
            question.finding(Grade::Fail, format!("Odoo answers: {trouble}"), remedy)
        }
        Trouble::Status(400..500) => question.pass(format!("not served: {trouble}")),
        Trouble::Unanswered(Silence::Closed(_)) => question.pass("nothing answers plain HTTP"),
        Trouble::Status(_) | Trouble::Strange(_) | Trouble::Unanswered(Silence::Broken(_)) => {
            question.unknown(trouble.to_string(), "run the audit again")
        }
    }
}

/// An id of the same form as this one, that nobody has drawn.
fn like(session: &str) -> String {
    const HEX: &[u8] = b"0123456789abcdef";
    const BASE64URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letters = if session.len() == 40 { HEX } else { BASE64URL };
    let drawn = (0..session.len()).map(|_| {
        let at = usize::from(rand::random::<u8>()) % letters.len();
        char::from(letters[at])
    });
    drawn.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_sent_to_https_or_turned_away_is_not_served_over_plain_http() {
        let to = |place: &str| Trouble::Redirected(place.to_owned());
        let silent = |silence: fn(String) -> Silence| Trouble::Unanswered(silence(String::new()));
        for (trouble, grade) in [
            (to("https://shop.example.com/"), Grade::Pass),
            (to("http://shop.example.com/other"), Grade::Fail),
            (to("/web/login"), Grade::Fail),
            (Trouble::Refused("Access Denied".to_owned()), Grade::Fail),
            (Trouble::Expired, Grade::Fail),
            (Trouble::Status(403), Grade::Pass),
            (Trouble::Status(502), Grade::Unknown),
            (Trouble::Strange(String::new()), Grade::Unknown),
            (silent(Silence::Closed), Grade::Pass),
            (silent(Silence::Broken), Grade::Unknown),
        ] {
            assert_eq!(over_plain_http(&trouble, "x").grade, grade, "{trouble:?}");
        }
    }

    #[test]
    fn a_chosen_id_has_the_form_of_one_and_is_another() {
        for length in [40, 84, 86] {
            let session = "a".repeat(length);
            let chosen = like(&session);
            assert!(Sid::parse(&chosen).is_some() && chosen != session, "{length}");
        }
    }
}

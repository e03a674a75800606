//! An Odoo account as a browser uses it: calls of the web client that Odoo 14 to 19 have in common.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::browser::{Answer, Browser, Door, Silence};
use crate::foreign::escaped;
use crate::session::name::Sid;

/// How much of an error of Odoo's is shown.
const ERROR_CHARS: usize = 160;

/// Whose password the audit was given.
pub(crate) struct Account {
    pub database: String,
    pub login: String,
    pub password: Zeroizing<String>,
}

/// Why a call has no result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// Odoo says that nobody is logged in with this cookie.
    Expired,
    /// Odoo refuses for another reason.
    Refused(String),
    /// It is sent elsewhere.
    Redirected(String),
    /// An HTTP error.
    Status(u16),
    /// What is no answer of Odoo's.
    Strange(String),
    /// Nothing came.
    Unanswered(Silence),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired => f.write_str("Odoo says that the session has expired"),
            Self::Refused(why) => write!(f, "Odoo refuses: {why}"),
            Self::Redirected(place) => write!(f, "it is redirected to {place}"),
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::Strange(what) => f.write_str(what),
            Self::Unanswered(why) => write!(f, "{why}"),
        }
    }
}

/// A JSON-RPC call as Odoo's web client makes it.
pub(crate) async fn call(
    browser: &mut Browser,
    door: Door,
    path: &str,
    params: Value,
) -> Result<Value, Trouble> {
    let body = json!({ "jsonrpc": "2.0", "method": "call", "id": 1, "params": params });
    let answer = browser.post_json(door, path, &body).await.map_err(Trouble::Unanswered)?;
    result(&answer)
}

/// What such an answer says.
pub(crate) fn result(answer: &Answer) -> Result<Value, Trouble> {
    if let Some(location) = answer.location() {
        // Without its query, which may hold anything.
        let place = location.split(['?', '#']).next().unwrap_or_default();
        return Err(Trouble::Redirected(shortened(place)));
    }
    if answer.status != 200 {
        return Err(Trouble::Status(answer.status));
    }
    let Ok(Value::Object(mut said)) = serde_json::from_slice::<Value>(&answer.body) else {
        return Err(Trouble::Strange("it answers with no JSON".to_owned()));
    };
    let Some(error) = said.get("error") else {
        return Ok(said.remove("result").unwrap_or(Value::Null));
    };
    // Code 100 is `SessionExpiredException`'s, by which the web client opens its login.
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if error["code"] == 100 || text(&error["data"]["name"]).ends_with("SessionExpiredException") {
        return Err(Trouble::Expired);
    }
    let message = text(&error["data"]["message"]);
    let message = if message.is_empty() { text(&error["message"]) } else { message };
    Err(Trouble::Refused(shortened(&message)))
}

/// The beginning of what a site says, unless it repeats a session id.
fn shortened(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.split(|c| !is_part(c)).any(|word| Sid::parse(word).is_some()) {
        return "(hidden: it repeats a session id)".to_owned();
    }
    escaped(&text.chars().take(ERROR_CHARS).collect::<String>())
}

/// The id of the user who is logged in with the browser's cookie; `None` if nobody is.
pub(crate) async fn who(browser: &mut Browser, door: Door) -> Result<Option<i64>, Trouble> {
    match call(browser, door, "/web/session/get_session_info", json!({})).await {
        // An empty uid is a visitor's.
        Ok(said) => Ok(said["uid"].as_i64().filter(|uid| *uid > 0)),
        Err(Trouble::Expired) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

impl Account {
    /// Logs in; the user's id.
    pub(crate) async fn log_in(&self, browser: &mut Browser) -> Result<i64, Trouble> {
        self.log_in_with(browser, &self.password).await
    }

    async fn log_in_with(&self, browser: &mut Browser, password: &str) -> Result<i64, Trouble> {
        let params = json!({ "db": self.database, "login": self.login, "password": password });
        let said = call(browser, Door::Front, "/web/session/authenticate", params).await?;
        // Also without a uid: it may be a login that waits for its second factor.
        browser.note_living();
        said["uid"].as_i64().filter(|uid| *uid > 0).ok_or_else(|| {
            Trouble::Refused("it wants a second factor, or the password is wrong".to_owned())
        })
    }

    /// A password that is as good as the account's own. It follows from it, so that whoever knows the
    /// one can get in should the audit be killed before it has changed it back.
    fn other_password(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}-audit", self.password.as_str()))
    }

    /// Changes the password to [`Self::other_password`].
    pub(crate) async fn change_password(&self, browser: &mut Browser) -> Result<(), Trouble> {
        change(browser, &self.password, &self.other_password()).await
    }

    /// Changes it back, from whatever browser still may, or from a new one.
    pub(crate) async fn change_password_back(&self, browser: &mut Browser) -> Result<(), Trouble> {
        let other = self.other_password();
        if change(browser, &other, &self.password).await.is_ok() {
            return Ok(());
        }
        let mut fresh = browser.fresh();
        self.log_in_with(&mut fresh, &other).await?;
        let changed = change(&mut fresh, &other, &self.password).await;
        log_out(&mut fresh).await;
        changed
    }
}

async fn change(browser: &mut Browser, from: &str, to: &str) -> Result<(), Trouble> {
    let params = json!({
        "model": "res.users", "method": "change_password", "args": [from, to], "kwargs": {},
    });
    let path = "/web/dataset/call_kw/res.users/change_password";
    call(browser, Door::Front, path, params).await.map(drop)
}

/// Logs out. That it worked is seen by who is logged in then. Odoo leaves a session in which nobody is.
pub(crate) async fn log_out(browser: &mut Browser) {
    let _ = call(browser, Door::Front, "/web/session/destroy", json!({})).await;
    browser.note_living();
}

/// The databases that the site shows to everybody. An error says why that is not known.
pub(crate) async fn databases(browser: &mut Browser) -> Result<Vec<String>, Trouble> {
    let said = match call(browser, Door::Front, "/web/database/list", json!({})).await {
        Ok(said) => said,
        // With `list_db = False`, or where the proxy has no such page.
        Err(
            Trouble::Refused(_)
            | Trouble::Expired
            | Trouble::Redirected(_)
            | Trouble::Status(400..500),
        ) => Value::Null,
        Err(trouble) => return Err(trouble),
    };
    let names = said.as_array().into_iter().flatten();
    Ok(names.filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::body::Bytes;
    use hyper::header::{HeaderMap, HeaderValue, LOCATION};

    use super::*;

    fn answer(status: u16, location: &str, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
        Answer {
            status,
            headers,
            body: Bytes::from(body.to_owned()),
            set_cookies: Vec::new(),
            tls_version: None,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn answers_of_every_odoo_are_understood() {
        let of = |body: &str| result(&answer(200, "", body));
        assert_eq!(of(r#"{"result": {"uid": 7}}"#), Ok(json!({ "uid": 7 })));
        assert_eq!(of(r#"{"id": 1}"#), Ok(Value::Null));
        // By its number, and by its name alone where another number is sent.
        for body in [
            r#"{"error": {"code": 100, "message": "Odoo Session Expired"}}"#,
            r#"{"error": {"code": 0, "data": {"name": "odoo.http.SessionExpiredException"}}}"#,
        ] {
            assert_eq!(of(body), Err(Trouble::Expired));
        }
        let refused = of(
            r#"{"error": {"code": 200, "message": "Server Error", "data": {"message": "Access\u001b Denied"}}}"#,
        );
        assert_eq!(refused, Err(Trouble::Refused("Access\\u{1b} Denied".to_owned())));
        for strange in ["", "[]", "<html>", "7"] {
            assert!(matches!(of(strange), Err(Trouble::Strange(_))), "{strange}");
        }
        let moved = result(&answer(303, "https://shop.example.com/odoo?debug=1", ""));
        assert_eq!(moved, Err(Trouble::Redirected("https://shop.example.com/odoo".to_owned())));
        assert_eq!(result(&answer(502, "", "")), Err(Trouble::Status(502)));
    }

    #[test]
    fn a_site_that_repeats_a_session_id_is_not_repeated() {
        let sid = "ab".repeat(42);
        let moved = result(&answer(302, &format!("/x/{sid}/y"), "")).unwrap_err().to_string();
        assert!(moved.contains("hidden") && !moved.contains(&sid), "{moved}");
    }
}

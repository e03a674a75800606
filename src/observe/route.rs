//! Paths of requests, without what belongs to one record or one person.
//!
//! A path may have a token in it (a link to a document, an invitation, a reset of a password) and numbers of records. Only
//! what has the shape of Odoo's own routes is kept: words in lower case. So requests of one kind are one line, and no secret
//! is printed.

/// What a word is replaced by.
const NUMBER: &str = "0";
const WORD: &str = "*";
/// The longest word that is kept. Names of models and methods are longer, and have dots and underscores between their parts.
const WORD_CHARS_MAX: usize = 16;
/// The most parts of a path that are kept.
const PARTS_MAX: usize = 6;
/// Behind these parts Odoo has tokens that are too short to be told from a word: of channels (`mail`), gift cards
/// (`website_sale_loyalty`), ratings (`rating`), counted links (`link_tracker`), surveys and mass mailings by SMS.
const BEFORE_TOKENS: [&str; 7] = ["chat", "meet", "coupon", "rate", "r", "s", "sms"];

/// The route of a path that may have been cut off (`is_cut`).
pub(crate) fn route(path: &str, is_cut: bool) -> String {
    let all: Vec<&str> = path.split('/').skip(1).take(PARTS_MAX + 1).collect();
    let first_token = all.iter().position(|part| BEFORE_TOKENS.contains(part));
    let is_token = |at: usize| first_token.is_some_and(|before| at > before);
    let shown = |(at, text): (usize, &&str)| part(text, is_token(at));
    let mut parts: Vec<String> = all.iter().enumerate().map(shown).collect();
    if parts.len() > PARTS_MAX || is_cut {
        // The last is perhaps not whole: neither a number nor a token is then known as one.
        parts.truncate(PARTS_MAX.min(parts.len() - usize::from(is_cut)));
        parts.push(WORD.to_owned());
    }
    format!("/{}", parts.join("/"))
}

/// A part between two slashes. What is between dots, underscores and hyphens is a word.
fn part(text: &str, is_token: bool) -> String {
    if is_number(text) {
        return NUMBER.to_owned();
    }
    let is_mark = |c: char| matches!(c, '.' | '_' | '-');
    let is_route = |word: &str| is_number(word) || is_word(word);
    if (is_token && !text.is_empty()) || !text.split(is_mark).all(is_route) {
        return WORD.to_owned();
    }
    let marks = text.chars().filter(|c| is_mark(*c));
    let mut shown = String::new();
    for (word, mark) in text.split(is_mark).zip(marks.map(Some).chain([None])) {
        shown.push_str(if is_number(word) { NUMBER } else { word });
        shown.extend(mark);
    }
    shown
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// A word as in Odoo's routes: lower case, no digit, and not long.
fn is_word(word: &str) -> bool {
    word.len() <= WORD_CHARS_MAX && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_kept_and_what_is_one_persons_is_not() {
        for (path, shown) in [
            ("/", "/"),
            ("/web", "/web"),
            ("/websocket/peek_notifications", "/websocket/peek_notifications"),
            (
                "/web/dataset/call_kw/res.partner/web_search_read",
                "/web/dataset/call_kw/res.partner/web_search_read",
            ),
            ("/web/content/1234-5/x.png", "/web/content/0-0/x.png"),
            (
                "/web/assets/1/f3a9c01/web.assets_web.min.js",
                "/web/assets/0/*/web.assets_web.min.js",
            ),
            (
                "/web/dataset/call_kw/res.users/context_get",
                "/web/dataset/call_kw/res.users/context_get",
            ),
            ("/web/static/img/favicon.ico", "/web/static/img/favicon.ico"),
            ("/web/static/lib/odoo_ui_icons/style.css", "/web/static/lib/odoo_ui_icons/style.css"),
            ("/web/image/res.partner/7/avatar_128", "/web/image/res.partner/0/avatar_0"),
            ("/fr_BE/shop", "/*/shop"),
            ("/survey/start/AbCd", "/survey/start/*"),
            ("/chat", "/chat"),
            ("/chat/", "/chat/"),
            ("/chat/5/abcdefghij", "/chat/0/*"),
            ("/chat/abcdefghij/general", "/chat/*/*"),
            ("/fr/coupon/0449-abcd-efab", "/fr/coupon/*"),
            ("/r/abc/m/12", "/r/*/*/0"),
            ("/odoo/action-123", "/odoo/action-0"),
            ("/shop/chair-with-arms-42", "/shop/chair-with-arms-0"),
            ("/my/orders/7/0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c", "/my/orders/0/*"),
            ("/calendar/meeting/accept/AbCdEfGhIjKlMnOpQrStUvWx", "/calendar/meeting/accept/*"),
            ("/e/6ba7b810-9dad-11d1-80b4-00c04fd430c8", "/e/*"),
            ("/a\u{1b}[2J", "/*"),
            ("/a%2Fb", "/*"),
            ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/*"),
        ] {
            assert_eq!(route(path, false), shown, "{path}");
        }
        assert_eq!(route("/a/bcd", true), "/a/*");
        assert_eq!(route("/abcd", true), "/*");
    }

    /// One of so many characters, as Odoo draws it.
    fn drawn(of: &[u8], length: usize) -> String {
        let one = |_| char::from(of[usize::from(rand::random::<u16>()) % of.len()]);
        (0..length).map(one).collect()
    }

    /// `discuss.channel`: 10 characters, none of which is taken for another. `loyalty.card`: `044` and a part of a UUID.
    /// `link.tracker.code` and `mailing.trace`: from 3 letters and digits on.
    #[test]
    fn no_token_is_shown_however_short_it_is() {
        const INVITATION: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHIJKLMNPQRSTUVWXYZ23456789";
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        const HEX: &[u8] = b"0123456789abcdef";
        for _ in 0..1000 {
            let invitation = drawn(INVITATION, 10);
            assert_eq!(route(&format!("/chat/5/{invitation}"), false), "/chat/0/*");
            let card = format!("044{}-{}-4{}", drawn(HEX, 1), drawn(HEX, 4), drawn(HEX, 3));
            assert_eq!(route(&format!("/coupon/{card}"), false), "/coupon/*", "{card}");
            let code = drawn(LETTERS, 3);
            assert_eq!(route(&format!("/r/{code}"), false), "/r/*", "{code}");
            assert_eq!(route(&format!("/sms/7/{code}"), false), "/sms/0/*", "{code}");
            assert_eq!(route(&format!("/rate/{code}/5"), false), "/rate/*/0", "{code}");
        }
    }

    #[test]
    fn no_session_id_is_shown() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        let long =
            "pPcmk8dfiOlfcr8ZkRDn_bN4j7mzzWKhPrlKbcSTYhULQYTfNI9axSrFeSpWqF7dW9yMtSYhb-yVNEcfAN4W";
        for sid in [hex, long] {
            for path in [format!("/{sid}"), format!("/web/{sid}/x"), format!("/x.{sid}.y")] {
                let shown = route(&path, false);
                for start in 0..sid.len() - 12 {
                    assert!(!shown.contains(&sid[start..start + 12]), "{path}: {shown}");
                }
            }
        }
    }
}

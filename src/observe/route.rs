//! Paths of requests, without what belongs to one record or one person.
//!
//! A path may have a token in it (a link to a document, an invitation, a reset of a password) and numbers of records. What
//! looks like either is replaced, so that requests of one kind are one line, and no secret is printed.

/// What a word is replaced by.
const NUMBER: &str = "0";
const WORD: &str = "*";
/// The longest word that is kept. Names of models and methods are longer, and have dots and underscores between their parts.
const WORD_CHARS_MAX: usize = 16;
/// The most parts of a path that are kept.
const PARTS_MAX: usize = 6;

/// The route of a path that may have been cut off (`is_cut`).
pub(crate) fn route(path: &str, is_cut: bool) -> String {
    let mut parts: Vec<String> = path.split('/').skip(1).take(PARTS_MAX + 1).map(part).collect();
    if parts.len() > PARTS_MAX || is_cut {
        // The last is perhaps not whole: neither a number nor a token is then known as one.
        parts.truncate(PARTS_MAX.min(parts.len() - usize::from(is_cut)));
        parts.push(WORD.to_owned());
    }
    format!("/{}", parts.join("/"))
}

/// A part between two slashes. What is between dots, underscores and hyphens is a word.
fn part(text: &str) -> String {
    let is_mark = |c: char| matches!(c, '.' | '_' | '-');
    if text.split(is_mark).any(is_secret) {
        return WORD.to_owned();
    }
    let words: Vec<&str> = text.split(is_mark).collect();
    let marks = text.chars().filter(|c| is_mark(*c));
    let mut shown = String::new();
    for (word, mark) in words.iter().zip(marks.map(Some).chain([None])) {
        shown.push_str(if is_number(word) { NUMBER } else { word });
        shown.extend(mark);
    }
    shown
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// A long word, one that mixes letters and several digits, or one that is no plain text.
fn is_secret(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let is_mixed = digits > 2 && digits < word.len();
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric());
    !is_number(word) && (word.len() > WORD_CHARS_MAX || is_mixed || !is_plain)
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

//! The value of a session's key: one readable header line, then the sealed bytes.
//!
//! `scripts/session.lua` reads and writes the same line; the order of the fields is fixed, so that
//! it is one match there. Unknown fields may follow the known ones. Times are milliseconds of
//! Redis's clock.
//!
//! There are two forms of it. Each field has its name, a single letter, in the first; the second is
//! short: no names, no field that says what another one says, and times as distances.

use crate::session::content::{Class, Content};
use crate::session::name::{Alias, Form};
use crate::session::packing;
use crate::session::word;
use crate::store::{Bound, ChangeId, Meta};

/// Longer than any header line can be (`session.lua` holds the same number).
pub const MAX_HEADER_BYTES: usize = 1536;

/// The newest format that this version writes and reads.
pub const FORMAT: u32 = 3;
/// The oldest one that there is.
pub const OLDEST_FORMAT: u32 = 2;
/// From this one on the header line and the entry in the index are short, and a content may be packed.
pub const COMPACT_FORMAT: u32 = 3;

const NAME: &str = "sessionfs ";
const NS_PER_MS: i64 = 1_000_000;
/// A count is below this: as many digits as a number of Lua holds exactly.
const COUNTS: u64 = 1_000_000_000_000_000;

/// Whether the key holds a session or what is left of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// A session, alive unless its time is over.
    Alive,
    /// A tombstone: ended by an unlink or an expiry.
    Gone,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// Session or tombstone.
    pub state: State,
    /// The version; of a tombstone the unlink that made it, or zero for an expiry.
    pub version: ChangeId,
    /// The save that brought the content. A change of mode or mtime makes another version of it.
    pub save: ChangeId,
    /// The life it belongs to.
    pub birth: ChangeId,
    /// When that life began.
    pub born_ms: u64,
    /// What the lives of this name before were, as far as they are remembered: authenticated if
    /// one of them was. `None` if there was none.
    pub before: Option<Class>,
    /// The last removal that was held: it is held now if there is an end, otherwise a save has
    /// taken it back.
    pub removal: Option<ChangeId>,
    /// When this life ends by the removal that is held; 0: none is.
    pub end_ms: u64,
    /// When this header was written.
    pub saved_ms: u64,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// When its owner logged in (anonymous: its first save).
    pub login_ms: u64,
    /// The last activity known when this was written.
    pub activity_ms: u64,
    /// Whether a person had opened it by then after its first save.
    pub opened: bool,
    /// Whether a life of this name came from a session file. A copy of that file may lie anywhere,
    /// so its end is remembered for as long as files are imported.
    pub from_file: bool,
    /// Class and identity.
    pub content: Content,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// How the content is packed: see [`Bound::packing`].
    pub packing: u16,
    pub mode: u32,
    /// Under which name it was saved.
    pub form: Form,
}

/// The value has no header that this version can read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable(pub String);

impl Header {
    /// Reads the header line at the start of `value`; also says where the content begins.
    pub fn parse(value: &[u8]) -> Result<(Self, usize), Unreadable> {
        Self::parse_up_to(FORMAT, value)
    }

    /// The same of what a script has read, and so of no format that is too new.
    pub(super) fn parse_read(value: &[u8]) -> Result<(Self, usize), Unreadable> {
        Self::parse_up_to(u32::MAX, value)
    }

    fn parse_up_to(newest: u32, value: &[u8]) -> Result<(Self, usize), Unreadable> {
        let window = &value[..value.len().min(MAX_HEADER_BYTES)];
        let end = window
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| Unreadable("no header line".into()))?;
        let line = std::str::from_utf8(&window[..end])
            .ok()
            .filter(|line| line.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
            .ok_or_else(|| Unreadable("the header line is not text".into()))?;
        let (format, fields) = line
            .strip_prefix(NAME)
            .map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
            .filter(|(format, _)| !format.is_empty() && digits(format))
            .ok_or_else(|| Unreadable("not a session of sessionfs".into()))?;
        let number = format
            .parse()
            .ok()
            .filter(|n: &u32| (OLDEST_FORMAT..=newest).contains(n) && n.to_string() == format);
        let header = match number {
            Some(COMPACT_FORMAT..) => Self::compact_fields(fields)?,
            Some(_) => Self::fields(fields)?,
            None => {
                return Err(Unreadable(format!(
                    "format {format} is not supported by this version, which reads formats \
                     {OLDEST_FORMAT} to {newest}"
                )));
            }
        };
        Ok((header, end + 1))
    }

    fn fields(text: &str) -> Result<Self, Unreadable> {
        let mut fields = Fields::named(text);
        let state = fields.next("s", parse_state)?;
        let version = fields.next("v", parse_id)?;
        Ok(Self {
            state,
            version,
            save: fields.next("w", |v| optional(v, parse_id))?.unwrap_or(version),
            birth: fields.next("b", parse_id)?,
            born_ms: fields.next("n", parse_count)?,
            before: fields.next("p", |v| optional(v, parse_class))?,
            removal: fields.next("r", |v| optional(v, parse_id))?,
            end_ms: fields.next("e", parse_count)?,
            saved_ms: fields.next("t", parse_count)?,
            mtime_ns: fields.next("m", parse_signed)?,
            login_ms: fields.next("l", parse_count)?,
            activity_ms: fields.next("a", parse_count)?,
            opened: fields.next("o", parse_flag)?,
            from_file: fields.next("f", parse_flag)?,
            content: Content {
                class: fields.next("c", parse_class)?,
                uid: fields.next("i", |v| optional(v, parse_signed))?,
                db: fields.next("d", decode_text)?,
                login: fields.next("u", decode_text)?,
            },
            size_bytes: fields.next("z", parse_count)?,
            packing: fields.next("k", parse_packing)?,
            mode: fields.next("x", parse_mode)?,
            form: fields.next("y", parse_form)?,
        })
    }

    fn compact_fields(text: &str) -> Result<Self, Unreadable> {
        let mut fields = Fields::without_names(text);
        let state = fields.next("s", parse_state)?;
        let version = fields.next("v", parse_short_id)?;
        let save = fields.next("w", |v| optional(v, parse_short_id))?.unwrap_or(version);
        let birth = fields.next("b", |v| optional(v, parse_short_id))?.unwrap_or(version);
        let born_ms = fields.next("n", parse_count)?;
        let before = fields.next("p", |v| optional(v, parse_short_class))?;
        let removal = fields.next("r", |v| optional(v, parse_short_id))?;
        let end_ms = fields.next("e", parse_count)?;
        let saved_ms = fields.next("t", |v| since(born_ms, v))?;
        Ok(Self {
            state,
            version,
            save,
            birth,
            born_ms,
            before,
            removal,
            end_ms,
            saved_ms,
            mtime_ns: fields.next("m", |v| parse_short_mtime(saved_ms, v))?,
            login_ms: fields.next("l", |v| since(born_ms, v))?,
            activity_ms: fields.next("a", |v| since(saved_ms, v))?,
            opened: fields.next("o", parse_flag)?,
            from_file: fields.next("f", parse_flag)?,
            content: Content {
                class: fields.next("c", parse_short_class)?,
                uid: fields.next("i", |v| optional(v, parse_signed))?,
                db: fields.next("d", decode_text)?,
                login: fields.next("u", decode_text)?,
            },
            size_bytes: fields.next("z", parse_count)?,
            packing: fields.next("k", parse_packing)?,
            mode: fields.next("x", parse_mode)?,
            form: fields.next("y", parse_form)?,
        })
    }

    /// The header line, with its line feed: in the oldest format that tells all.
    pub fn line(&self) -> String {
        let is_plain = self.packing == packing::PLAIN;
        self.line_in(if is_plain { OLDEST_FORMAT } else { COMPACT_FORMAT })
    }

    /// The same in this format.
    pub fn line_in(&self, format: u32) -> String {
        if format < COMPACT_FORMAT { self.named_line() } else { self.compact_line() }
    }

    fn named_line(&self) -> String {
        let state = state_text(self.state);
        format!(
            "{NAME}{OLDEST_FORMAT} s={state} v={} w={} b={} n={} p={} r={} e={} t={} m={} l={} a={} \
             o={} f={} c={} i={} d={} u={} z={} k={} x={} y={}\n",
            id_text(self.version),
            or_none((self.save != self.version).then(|| id_text(self.save))),
            id_text(self.birth),
            self.born_ms,
            self.before.map_or("-", class_text),
            or_none(self.removal.map(id_text)),
            self.end_ms,
            self.saved_ms,
            self.mtime_ns,
            self.login_ms,
            self.activity_ms,
            u8::from(self.opened),
            u8::from(self.from_file),
            class_text(self.content.class),
            uid_text(self.content.uid),
            text(self.content.db.as_deref()),
            text(self.content.login.as_deref()),
            self.size_bytes,
            self.packing,
            mode_text(self.mode),
            form_text(self.form),
        )
    }

    fn compact_line(&self) -> String {
        let since = |from_ms: u64, ms: u64| i128::from(ms) - i128::from(from_ms);
        format!(
            "{NAME}{COMPACT_FORMAT} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}\n",
            state_text(self.state),
            short_id_text(self.version),
            or_none((self.save != self.version).then(|| short_id_text(self.save))),
            or_none((self.birth != self.version).then(|| short_id_text(self.birth))),
            self.born_ms,
            self.before.map_or("-", short_class_text),
            or_none(self.removal.map(short_id_text)),
            self.end_ms,
            since(self.born_ms, self.saved_ms),
            short_mtime_text(self.saved_ms, self.mtime_ns),
            since(self.born_ms, self.login_ms),
            since(self.saved_ms, self.activity_ms),
            u8::from(self.opened),
            u8::from(self.from_file),
            short_class_text(self.content.class),
            uid_text(self.content.uid),
            text(self.content.db.as_deref()),
            text(self.content.login.as_deref()),
            self.size_bytes,
            self.packing,
            mode_text(self.mode),
            form_text(self.form),
        )
    }

    /// Whether a header that begins so is a short one.
    pub(super) fn is_short(stored: &[u8]) -> bool {
        let long = format!("{NAME}{OLDEST_FORMAT} ");
        !stored.starts_with(long.as_bytes())
    }

    /// What the filesystem wants to know of it. When it was read, its last use was at
    /// `activity_ms`, and `left_ms` were left of its life.
    pub fn meta(&self, activity_ms: u64, left_ms: u64) -> Meta {
        Meta {
            version: self.version,
            birth: self.birth,
            mtime_ns: self.mtime_ns,
            mode: self.mode,
            size_bytes: self.size_bytes,
            class: self.content.class,
            form: self.form,
            activity_ms,
            left_ms,
        }
    }

    /// What is bound to its content, as the session of that alias.
    pub fn bound(&self, alias: &Alias) -> Bound {
        Bound {
            alias: alias.clone(),
            content: self.content.clone(),
            birth: self.birth,
            save: self.save,
            packing: self.packing,
        }
    }
}

/// A time of a file, by the save of it: '-' is the same time, '+' and six digits are nanoseconds more.
fn short_mtime_text(saved_ms: u64, mtime_ns: i64) -> String {
    let since = i64::try_from(saved_ms)
        .ok()
        .and_then(|ms| ms.checked_mul(NS_PER_MS))
        .map(|saved_ns| mtime_ns.wrapping_sub(saved_ns));
    match since {
        Some(0) => "-".to_owned(),
        Some(ns @ 1..NS_PER_MS) => format!("+{ns:06}"),
        _ => mtime_ns.to_string(),
    }
}

fn parse_short_mtime(saved_ms: u64, text: &str) -> Option<i64> {
    let of_save = || i64::try_from(saved_ms).ok()?.checked_mul(NS_PER_MS);
    if text == "-" {
        return of_save();
    }
    let Some(more) = text.strip_prefix('+') else { return parse_signed(text) };
    let is_part = more.len() == 6 && more.bytes().all(|digit| digit.is_ascii_digit());
    of_save()?.checked_add(more.parse().ok().filter(|_| is_part)?)
}

struct Fields<'a> {
    words: std::str::Split<'a, char>,
    /// Each word begins with its field's name.
    are_named: bool,
}

impl<'a> Fields<'a> {
    fn named(text: &'a str) -> Self {
        Self { words: text.split(' '), are_named: true }
    }

    fn without_names(text: &'a str) -> Self {
        Self { words: text.split(' '), are_named: false }
    }

    fn next<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, Unreadable> {
        let word = self.words.next();
        let value = if self.are_named {
            word.and_then(|word| word.strip_prefix(name)?.strip_prefix('='))
        } else {
            word
        };
        value
            .and_then(read)
            .ok_or_else(|| Unreadable(format!("the header has no valid field \"{name}\"")))
    }
}

/// An id as the scripts see it: 32 hex digits.
pub fn id_text(id: ChangeId) -> String {
    format!("{:032x}", id.0)
}

/// Reads [`id_text`].
pub fn parse_id(text: &str) -> Option<ChangeId> {
    // The standard library would take a sign for a digit.
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| u128::from_str_radix(text, 16).ok().map(ChangeId)).flatten()
}

/// An id in a short header: without the zeros that fill it up, which all but those of earlier versions have.
fn short_id_text(id: ChangeId) -> String {
    u64::try_from(id.0).map_or_else(|_| id_text(id), |id| format!("{id:016x}"))
}

fn parse_short_id(text: &str) -> Option<ChangeId> {
    let is_short = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_short {
        return parse_id(text);
    }
    u64::from_str_radix(text, 16).ok().map(|id| ChangeId(id.into()))
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A time or a size: as many digits as a number of Lua holds exactly.
fn parse_count(text: &str) -> Option<u64> {
    (text.len() <= 15 && digits(text)).then(|| text.parse().ok()).flatten()
}

/// A time by its distance from an earlier one, or a later one.
fn since(from_ms: u64, text: &str) -> Option<u64> {
    let distance = match text.strip_prefix('-') {
        Some(rest) => -i64::try_from(parse_count(rest)?).ok()?,
        None => i64::try_from(parse_count(text)?).ok()?,
    };
    from_ms.checked_add_signed(distance).filter(|ms| *ms < COUNTS)
}

fn parse_signed(text: &str) -> Option<i64> {
    digits(text.strip_prefix('-').unwrap_or(text)).then(|| text.parse().ok()).flatten()
}

#[allow(clippy::option_option)] // the outer one: not readable; the inner one: none
fn optional<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "-" { Some(None) } else { read(text).map(Some) }
}

fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn parse_state(text: &str) -> Option<State> {
    match text {
        "a" => Some(State::Alive),
        "g" => Some(State::Gone),
        _ => None,
    }
}

fn state_text(state: State) -> &'static str {
    match state {
        State::Alive => "a",
        State::Gone => "g",
    }
}

fn parse_packing(text: &str) -> Option<u16> {
    digits(text).then(|| text.parse().ok()).flatten()
}

fn parse_mode(text: &str) -> Option<u32> {
    digits(text).then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|mode| *mode <= 0o7777)
}

fn parse_form(text: &str) -> Option<Form> {
    match text {
        "s" => Some(Form::Sharded),
        "f" => Some(Form::Flat),
        _ => None,
    }
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// A class in a short header: a user or a visitor.
fn short_class_text(class: Class) -> &'static str {
    match class {
        Class::Authenticated => "u",
        Class::Anonymous => "v",
    }
}

fn parse_short_class(text: &str) -> Option<Class> {
    match text {
        "u" => Some(Class::Authenticated),
        "v" => Some(Class::Anonymous),
        _ => None,
    }
}

fn parse_class(text: &str) -> Option<Class> {
    match text {
        "auth" => Some(Class::Authenticated),
        "anon" => Some(Class::Anonymous),
        _ => None,
    }
}

/// A class as the scripts see it.
pub fn class_text(class: Class) -> &'static str {
    match class {
        Class::Authenticated => "auth",
        Class::Anonymous => "anon",
    }
}

/// A user id as the scripts see it.
pub fn uid_text(uid: Option<i64>) -> String {
    uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string())
}

/// A form of name as the scripts see it.
pub fn form_text(form: Form) -> &'static str {
    match form {
        Form::Sharded => "s",
        Form::Flat => "f",
    }
}

/// Permission bits as the scripts see them: octal.
pub fn mode_text(mode: u32) -> String {
    format!("{:o}", mode & 0o7777)
}

/// Text of the content as one word; `-` for none.
pub fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "-".to_owned(), word::encode)
}

#[allow(clippy::option_option)] // the outer one: not readable; the inner one: no text
pub(super) fn decode_text(text: &str) -> Option<Option<String>> {
    if text == "-" {
        return Some(None);
    }
    // The scripts do not look into it, so what is no text is no reason to refuse the header.
    let bytes = word::decode(text)?;
    Some(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            state: State::Alive,
            version: ChangeId(7),
            save: ChangeId(7),
            birth: ChangeId(u128::MAX),
            born_ms: 3,
            before: Some(Class::Anonymous),
            removal: None,
            end_ms: 0,
            saved_ms: 1_700_000_000_000,
            mtime_ns: -1,
            login_ms: 1,
            activity_ms: 2,
            opened: true,
            from_file: false,
            content: Content {
                class: Class::Authenticated,
                uid: Some(-3),
                db: Some("my shop".into()),
                login: None,
            },
            size_bytes: 740,
            packing: 0,
            mode: 0o644,
            form: Form::Flat,
        }
    }

    #[test]
    fn a_line_reads_back_and_tells_where_the_content_begins() {
        for format in [OLDEST_FORMAT, COMPACT_FORMAT] {
            let mut value = header().line_in(format).into_bytes();
            let length = value.len();
            value.extend_from_slice(b"sealed\nbytes");
            assert_eq!(Header::parse(&value), Ok((header(), length)));
        }
    }

    /// As most are: of a user who goes on.
    #[test]
    fn a_short_header_is_short() {
        let id = |id: u64| ChangeId(id.into());
        let header = Header {
            version: id(u64::MAX),
            save: id(u64::MAX),
            birth: id(u64::MAX - 1),
            born_ms: 1_700_000_000_000,
            before: None,
            saved_ms: 1_700_000_900_000,
            mtime_ns: 1_700_000_900_000_000_000,
            login_ms: 1_700_000_000_000,
            activity_ms: 1_700_000_900_000,
            packing: 1,
            form: Form::Sharded,
            content: Content {
                class: Class::Authenticated,
                uid: Some(1234),
                db: Some("shop".into()),
                login: Some("somebody@example.com".into()),
            },
            ..header()
        };
        assert_eq!(
            header.line(),
            "sessionfs 3 a ffffffffffffffff - fffffffffffffffe 1700000000000 - - 0 900000 - 0 0 1 0 u 1234 \
             shop somebody@example.com 740 1 644 s\n"
        );
        assert_eq!(Header::parse(header.line().as_bytes()).map(|(h, _)| h), Ok(header));
    }

    #[test]
    fn a_files_time_is_short_beside_the_time_of_its_save() {
        for (saved_ms, mtime_ns, text) in [
            (5, 5_000_000, "-"),
            (5, 5_000_031, "+000031"),
            (5, 5_999_999, "+999999"),
            (5, 6_000_000, "6000000"),
            (5, 4_999_999, "4999999"),
            (5, -1, "-1"),
            (0, 31, "+000031"),
            (999_999_999_999_999, i64::MAX, "9223372036854775807"),
            (0, i64::MIN, "-9223372036854775808"),
        ] {
            assert_eq!(short_mtime_text(saved_ms, mtime_ns), text);
            assert_eq!(parse_short_mtime(saved_ms, text), Some(mtime_ns), "{text}");
        }
        for (saved_ms, text) in [(5, "+31"), (5, "+0000031"), (5, "+00003a"), (u64::MAX, "+000031")]
        {
            assert_eq!(parse_short_mtime(saved_ms, text), None, "{text}");
        }
    }

    #[test]
    fn the_longest_header_is_within_its_bound() {
        const COUNT_MAX: u64 = 999_999_999_999_999;
        let longest = "\u{1F600}".repeat(crate::session::content::MAX_TEXT_BYTES / 4);
        let header = Header {
            save: ChangeId(8),
            born_ms: COUNT_MAX,
            removal: Some(ChangeId(9)),
            end_ms: COUNT_MAX,
            saved_ms: COUNT_MAX,
            mtime_ns: i64::MIN,
            login_ms: COUNT_MAX,
            activity_ms: COUNT_MAX,
            size_bytes: COUNT_MAX,
            packing: u16::MAX,
            mode: 0o7777,
            form: Form::Sharded,
            content: Content {
                class: Class::Authenticated,
                uid: Some(i64::MIN),
                db: Some(longest.clone()),
                login: Some(longest),
            },
            ..header()
        };
        for format in [OLDEST_FORMAT, COMPACT_FORMAT] {
            let line = header.line_in(format);
            assert!(line.len() <= MAX_HEADER_BYTES);
            assert_eq!(Header::parse(line.as_bytes()).map(|(h, _)| h), Ok(header.clone()));
        }
    }

    #[test]
    fn an_unknown_format_is_named() {
        for (format, line) in [("4", "sessionfs 4 s=a\n"), ("1", "sessionfs 1 state=alive\n")] {
            let Unreadable(why) = Header::parse(line.as_bytes()).expect_err("unknown");
            assert!(why.starts_with(&format!("format {format} is not supported")), "{why}");
        }
    }

    #[test]
    fn fields_of_a_later_version_may_follow() {
        let line = header().line();
        let longer = format!("{} color=blue\n", line.trim_end());
        assert_eq!(Header::parse(longer.as_bytes()).map(|(h, _)| h), Ok(header()));
    }

    proptest! {
        #[test]
        fn any_text_survives(db in proptest::option::of(".{0,40}")) {
            let word = text(db.as_deref());
            prop_assert!(word.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(decode_text(&word), Some(db));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Header::parse(&bytes);
            for begins in ["sessionfs 2 ", "sessionfs 3 "] {
                let _ = Header::parse(&[begins.as_bytes(), &bytes].concat());
            }
        }
    }
}

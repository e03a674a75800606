use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::pickle::op;
use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sessions");

/// Name and bytes of the sessions that `tests/fixtures/make_sessions.py` made.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(Path::new(FIXTURES)).expect("the fixtures are checked in");
    entries
        .map(|entry| entry.expect("a fixture"))
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn class(bytes: impl AsRef<[u8]>) -> Class {
    read(bytes.as_ref()).class
}

/// A pickle of protocol 4: an empty dict, then `rest`, then the end.
fn pickle_of(rest: &[u8]) -> Vec<u8> {
    [b"\x80\x04}", rest, b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&[op::SHORT_BINUNICODE, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn token_and(rest: &[u8]) -> Vec<u8> {
    [&text("session_token")[..], rest].concat()
}

#[test]
fn what_python_writes() {
    let mut seen = 0;
    for (name, bytes) in fixtures() {
        let content = read(&bytes);
        if name.starts_with("anonymous") {
            assert_eq!(content.class, Class::Anonymous, "{name}");
            let db = (!name.contains("empty")).then_some("shop");
            assert_eq!((content.uid, content.db.as_deref()), (None, db), "{name}");
        } else if name.contains("ordered") {
            assert_eq!(content, UNREADABLE, "{name}");
        } else {
            assert_eq!(content.class, Class::Authenticated, "{name}");
            assert_eq!((content.uid, content.db.as_deref()), (Some(7), Some("shop")), "{name}");
            assert_eq!(content.login.as_deref(), Some("mitchell@example.com"), "{name}");
        }
        seen += 1;
    }
    assert!(seen > 30, "only {seen} fixtures");
}

#[test]
fn the_observed_bytes_of_odoo_14() {
    let head = b"\x80\x05\x95\x58\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x02db\x94\x8c\x03t14\x94\
                 \x8c\x03uid\x94N\x8c\x05login\x94N\x8c\x0dsession_token\x94";
    let anonymous =
        [&head[..], b"N\x8c\x07context\x94}\x94\x8c\x05debug\x94\x8c\x00\x94u."].concat();
    let expected =
        Content { class: Class::Anonymous, uid: None, db: Some("t14".into()), login: None };
    assert_eq!(read(&anonymous), expected);
    let logged = [&head[..], &text("7beab0")[..], b"\x94u."].concat();
    assert_eq!(class(logged), Class::Authenticated);
}

#[test]
fn a_cut_session_is_authenticated() {
    for (name, bytes) in fixtures() {
        let step = 1 + bytes.len() / 100;
        for len in (0..bytes.len()).step_by(step) {
            assert_eq!(read(&bytes[..len]), UNREADABLE, "{name} cut at {len}");
        }
    }
}

#[test]
fn json_tokens() {
    let of = |token: &str| class(format!(r#"{{"session_token": {token}}}"#));
    assert_eq!(of("null"), Class::Anonymous);
    for other in [r#""7beab0""#, r#""""#, "0", "false", "true", "1e3", "-1", "[]", "[null]", "{}"] {
        assert_eq!(of(other), Class::Authenticated, "{other}");
    }
}

#[test]
fn json_uids() {
    let uid = |uid: &str| read(format!(r#"{{"uid": {uid}}}"#).as_bytes()).uid;
    assert_eq!(uid("7"), Some(7));
    assert_eq!(uid("-7"), Some(-7));
    assert_eq!(uid("9223372036854775807"), Some(i64::MAX));
    for other in ["null", "true", "7.0", "9223372036854775808", r#""7""#, "[7]", r#"{"a": 7}"#] {
        assert_eq!(uid(other), None, "{other}");
    }
}

#[test]
fn of_a_repeated_key_the_last_counts() {
    let logged = r#""session_token": "7beab0""#;
    let null = r#""session_token": null"#;
    let escaped = "\"session\\u005ftoken\": \"7beab0\"";
    assert_eq!(class(format!("{{{null}, {logged}}}")), Class::Authenticated);
    assert_eq!(class(format!("{{{null}, {escaped}}}")), Class::Authenticated);
    assert_eq!(class(format!("{{{logged}, {null}}}")), Class::Anonymous);

    let null = token_and(&[op::NONE]);
    let logged = token_and(&text("7beab0"));
    let one = |item: &[u8]| [item, &[op::SETITEM]].concat();
    let both = |a: &[u8], b: &[u8]| [&[op::MARK], a, b, &[op::SETITEMS]].concat();
    for (first, second, expected) in
        [(&null, &logged, Class::Authenticated), (&logged, &null, Class::Anonymous)]
    {
        assert_eq!(class(pickle_of(&both(first, second))), expected);
        assert_eq!(class(pickle_of(&[one(first), one(second)].concat())), expected);
    }
}

#[test]
fn nested_tokens_do_not_count() {
    assert_eq!(class(r#"{"a": {"session_token": "x", "uid": 1}}"#), Class::Anonymous);
    assert_eq!(
        class(r#"{"a": [{"session_token": "x"}], "session_token": null}"#),
        Class::Anonymous
    );
    let nested = [&text("a")[..], b"}", &token_and(b"K\x01"), b"ss"].concat();
    assert_eq!(class(pickle_of(&nested)), Class::Anonymous);
}

#[test]
fn what_is_no_session_is_authenticated() {
    for other in ["", " ", "null", "[]", "1", r#""{}""#, "{", "{} {}", "{\"a\": NaN}", "\u{feff}{}"]
    {
        assert_eq!(read(other.as_bytes()), UNREADABLE, "{other:?}");
    }
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for other in [&utf16[..], b"\x80", b"\x80\x04", b"\x80\x01}.", b"\x80\x06}.", b"}.", b"(dp0\n."]
    {
        assert_eq!(read(other), UNREADABLE, "{other:?}");
    }
}

#[test]
fn depth_costs_nothing() {
    const DEPTH: usize = 1 << 18;
    let deep = |open: &str, close: &str| open.repeat(DEPTH) + &close.repeat(DEPTH);
    for key in ["context", "session_token", "db"] {
        for nested in [deep("[", "]"), deep("{\"a\":[", "]}"), "[".repeat(DEPTH)] {
            let json = format!(r#"{{"session_token": "x", "{key}": {nested}}}"#);
            assert_eq!(class(json), Class::Authenticated);
        }
    }
    assert_eq!(class(format!(r#"{{"context": {}}}"#, deep("[", "]"))), Class::Anonymous);
    let nested =
        [&text("a")[..], &b"]".repeat(1 << 16), &b"a".repeat((1 << 16) - 1), b"s"].concat();
    assert_eq!(class(pickle_of(&nested)), Class::Anonymous);
}

#[test]
fn texts_are_cut_on_a_character() {
    let long = "x".to_owned() + &"\u{20ac}".repeat(100_000);
    let cut = &long[..127];
    let json = read(format!(r#"{{"db": "{long}", "login": "{long}"}}"#).as_bytes());
    assert_eq!((json.db.as_deref(), json.login.as_deref()), (Some(cut), Some(cut)));
    let len = u32::try_from(long.len()).unwrap().to_le_bytes();
    let value = [&[op::BINUNICODE], &len[..], long.as_bytes()].concat();
    let db = pickle_of(&[&text("db")[..], &value, b"s"].concat());
    assert_eq!(read(&db).db.as_deref(), Some(cut));
    let surrogate = pickle_of(&[&text("db")[..], b"\x8c\x03\xed\xb2\x80s"].concat());
    assert_eq!(read(&surrogate).db, None);
    let exact = "x".repeat(MAX_TEXT_BYTES);
    let db = pickle_of(&[&text("db")[..], &text(&exact), b"s"].concat());
    assert_eq!(read(&db).db, Some(exact));
}

#[test]
fn a_login_is_the_same_however_it_is_typed() {
    for typed in ["till3", "TILL3", " till3", "\u{a0}Till3\t\u{1f}"] {
        assert_eq!(login(typed), "till3");
        let padded = format!("{}{typed}", " ".repeat(200));
        let json = serde_json::json!({ "login": padded, "session_token": "t" }).to_string();
        assert_eq!(read(json.as_bytes()).login.as_deref(), Some("till3"));
        let pickled = [&[op::BINUNICODE], &u32::try_from(padded.len()).unwrap().to_le_bytes()[..]];
        let value = [&pickled.concat()[..], padded.as_bytes()].concat();
        let session = pickle_of(&[&text("login")[..], &value, b"s"].concat());
        assert_eq!(read(&session).login.as_deref(), Some("till3"));
    }
    assert_eq!(login("\u{c9}MILE"), "\u{e9}mile");
    assert!(login(&"\u{130}".repeat(100)).len() <= MAX_TEXT_BYTES);
}

#[test]
fn pickled_uids() {
    let uid = |value: &[u8]| read(&pickle_of(&[&text("uid")[..], value, b"s"].concat())).uid;
    for (value, expected) in [
        (&b"K\xff"[..], Some(255)),
        (b"M\xff\xff", Some(65535)),
        (b"J\xff\xff\xff\xff", Some(-1)),
        (b"\x8a\x00", Some(0)),
        (b"\x8a\x05\x00\x00\x00\x00\x01", Some(1 << 32)),
        (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80", Some(i64::MIN)),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00", None),
        (b"\x8b\x01\x00\x00\x00\x07", Some(7)),
        (b"\x88", None),
        (b"N", None),
        (b"G\x00\x00\x00\x00\x00\x00\x00\x00", None),
        (b"I7\n", None),
    ] {
        assert_eq!(uid(value), expected, "{value:?}");
    }
}

/// Values that are not `None`; with [`NONES`], every opcode that there is.
const SOMETHINGS: &[&[u8]] = &[
    b"I7\n",
    b"L7L\n",
    b"F7.5\n",
    b"S'text'\n",
    b"Vtext\n",
    b"T\x01\x00\x00\x00x",
    b"U\x01x",
    b"X\x01\x00\x00\x00x",
    b"\x8c\x01x",
    b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00x",
    b"B\x01\x00\x00\x00x",
    b"C\x01x",
    b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00x",
    b"\x96\x01\x00\x00\x00\x00\x00\x00\x00x",
    b"\x97",
    b"\x97\x98",
    b"K\x07",
    b"M\x07\x00",
    b"J\x07\x00\x00\x00",
    b"\x8a\x01\x07",
    b"\x8b\x01\x00\x00\x00\x07",
    b"G\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x88",
    b"\x89",
    b")",
    b"]",
    b"}",
    b"\x8f",
    b"Pid\n",
    b"NQ",
    b"cmodule\nname\n",
    b"NN\x93",
    b"(Nimodule\nname\n",
    b"(NNo",
    b"NNR",
    b"NN\x81",
    b"NNN\x92",
    b"]Nb",
    b"\x82\x01",
    b"\x83\x01\x00",
    b"\x84\x01\x00\x00\x00",
    b"(NNt",
    b"(NNl",
    b"(NNd",
    b"(NN\x91",
    b"\x8f(N\x90",
    b"](Ne",
    b"]Na",
    b"}NNs",
    b"}(NNu",
    b"N\x85",
    b"NN\x86",
    b"NNN\x87",
    b"NN2\x87",
];

/// Ways to `None`.
const NONES: &[&[u8]] = &[
    b"N",
    b"NN0",
    b"N(0",
    b"N(NN1",
    b"Np7\n0g7\n",
    b"Nq\x070h\x07",
    b"Nr\x07\x00\x01\x000j\x07\x00\x01\x00",
    b"N\x940h\x00",
    b"\x95\x01\x00\x00\x00\x00\x00\x00\x00N",
    b"\x80\x04N",
];

#[test]
fn every_opcode_is_walked_over() {
    for (values, expected) in [(SOMETHINGS, Class::Authenticated), (NONES, Class::Anonymous)] {
        for value in values {
            let beside = [&text("x")[..], value, b"s", &token_and(b"Ns")].concat();
            assert_eq!(class(pickle_of(&beside)), Class::Anonymous, "{value:?}");
            let as_token = [&token_and(value)[..], b"s"].concat();
            assert_eq!(class(pickle_of(&as_token)), expected, "{value:?}");
        }
    }
    let used = [SOMETHINGS, NONES].concat().concat();
    let in_frame = [op::SETITEM, op::STOP];
    for opcode in op::ALL {
        assert!(used.contains(&opcode) || in_frame.contains(&opcode), "{opcode:#x}");
    }
}

/// An opcode that lacks its operands, or that is none, ends the walk.
#[test]
fn an_opcode_without_its_operands_is_not_read() {
    for opcode in 0..=u8::MAX {
        let walked = op::ALL.contains(&opcode);
        for rest in [&b"N"[..], b"(N", b"("] {
            let bytes = [b"\x80\x04", rest, &[opcode]].concat();
            assert_eq!(read(&bytes), UNREADABLE, "{bytes:?}");
        }
        if !walked {
            let unknown = pickle_of(&[&token_and(b"Ns")[..], &[opcode], &[b'0'; 9]].concat());
            assert_eq!(read(&unknown), UNREADABLE, "{opcode:#x}");
        }
    }
}

#[test]
fn tricks_with_a_pickle_do_not_hide_a_login() {
    let null = token_and(b"Ns");
    let logged = token_and(b"\x8c\x01xs");
    for (why, rest) in [
        (
            "the dict is changed through the memo",
            [b"\x94", &null[..], b"h\x00", &logged, b"0"].concat(),
        ),
        ("the dict is changed through a copy", [&null[..], b"2", &logged, b"0"].concat()),
        ("a key of a class", [&null[..], b"cbuiltins\nstr\n\x8c\x01x\x85R\x8c\x01xs"].concat()),
        ("a key with escapes", [&null[..], b"Vsession\\u005ftoken\n\x8c\x01xs"].concat()),
        ("a quoted key", [&null[..], b"S'session_token'\n\x8c\x01xs"].concat()),
        ("a short key of Python 2", [&null[..], b"U\x0dsession_token\x8c\x01xs"].concat()),
        (
            "a long key of Python 2",
            [&null[..], b"T\x0d\x00\x00\x00session_token\x8c\x01xs"].concat(),
        ),
        ("another dict in the end", [&null[..], b"0}", &logged].concat()),
        ("another dict in the end, below", [&null[..], b"}", &logged].concat()),
        ("another dict out of the memo", [&logged[..], b"\x940}", &null, b"0h\x00"].concat()),
        ("a dict made of a list", [b"0]", &logged[..]].concat()),
        ("a call in the end", [b"0cbuiltins\ndict\n}", &logged[..], b"\x85R"].concat()),
        ("an odd item", [b"(", &text("session_token")[..], b"u"].concat()),
        ("an item under the mark", [&text("session_token")[..], b"(Ns"].concat()),
    ] {
        assert_eq!(class(pickle_of(&rest)), Class::Authenticated, "{why}");
    }
}

/// What would be quadratic in time, or hundreds of bytes a byte in memory, if it were not bounded.
#[test]
fn four_mebibytes_of_anything_are_soon_read() {
    const SIZE: usize = 4 << 20;
    let long =
        [&[op::BINUNICODE][..], &(1_u32 << 21).to_le_bytes(), &b"x".repeat(1 << 21)].concat();
    let set_long = [text("db"), b"\x94".to_vec(), long, b"\x94s".to_vec()].concat();
    let mut json = String::from("{");
    while json.len() < SIZE {
        json += r#""db":"x","a":[{}],"#;
    }
    write!(json, r#""b":1}}"#).unwrap();
    assert_eq!(class(json), Class::Anonymous);
    assert_eq!(
        class(pickle_of(&[set_long, b"h\x00h\x01s".repeat(SIZE / 10)].concat())),
        Class::Anonymous
    );
    for filler in ["(", "}", "N", "N\x7f", "(0", "N0", "](e0", "(N", "(((t", "Np7\n", "p7", "N2"] {
        class(pickle_of(&filler.as_bytes().repeat(SIZE / filler.len())));
    }
    class(pickle_of(&[op::MEMOIZE].repeat(SIZE)));
}

/// What a generated session holds for a key.
#[derive(Clone, Debug)]
enum Model {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Model>),
    Dict(Vec<(String, Model)>),
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["session_token", "uid", "db", "login"]).prop_map(String::from),
        1 => "[a-z_]{0,3}",
        1 => any::<String>(),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        3 => Just(Model::Null),
        1 => any::<bool>().prop_map(Model::Bool),
        2 => any::<i64>().prop_map(Model::Int),
        2 => (0..300_i64).prop_map(Model::Int),
        3 => any::<String>().prop_map(Model::Text),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Model::List),
            vec((key(), inner), 0..4).prop_map(Model::Dict),
        ]
    })
}

impl Model {
    fn to_json(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Text(value) => serde_json::to_string(value).unwrap(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::to_json).collect::<Vec<_>>().join(", "))
            }
            Self::Dict(items) => {
                let items: Vec<_> = items
                    .iter()
                    .map(|(key, value)| {
                        format!("{}: {}", serde_json::to_string(key).unwrap(), value.to_json())
                    })
                    .collect();
                format!("{{{}}}", items.join(", "))
            }
        }
    }
}

/// Writes a model as a pickle, taking one of the possible opcodes by the next of `choices`.
struct Pickler<'a> {
    out: Vec<u8>,
    memo: BTreeMap<String, u8>,
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl Pickler<'_> {
    fn choose(&mut self, among: u8) -> u8 {
        self.choices.next().map_or(0, |choice| choice % among)
    }

    fn text(&mut self, text: &str) {
        if let Some(&index) = self.memo.get(text)
            && self.choose(2) == 0
        {
            self.out.extend([op::BINGET, index]);
            return;
        }
        let bytes = text.as_bytes();
        let len = u32::try_from(bytes.len()).unwrap();
        match (self.choose(3), u8::try_from(len)) {
            (0, Ok(len)) => self.out.extend([op::SHORT_BINUNICODE, len]),
            (1, _) => {
                self.out.push(op::BINUNICODE8);
                self.out.extend(u64::from(len).to_le_bytes());
            }
            _ => {
                self.out.push(op::BINUNICODE);
                self.out.extend(len.to_le_bytes());
            }
        }
        self.out.extend(bytes);
        if self.choose(2) == 0 && !self.memo.contains_key(text) && self.memo.len() < 256 {
            let index = u8::try_from(self.memo.len()).unwrap();
            self.memo.insert(text.to_owned(), index);
            match self.choose(2) {
                0 => self.out.push(op::MEMOIZE),
                _ => self.out.extend([op::BINPUT, index]),
            }
        }
    }

    fn value(&mut self, value: &Model) {
        match value {
            Model::Null => self.out.push(op::NONE),
            Model::Bool(value) => self.out.push(if *value { op::NEWTRUE } else { op::NEWFALSE }),
            Model::Int(value) => match (u8::try_from(*value), i32::try_from(*value)) {
                (Ok(value), _) => self.out.extend([op::BININT1, value]),
                (_, Ok(value)) => {
                    self.out.push(op::BININT);
                    self.out.extend(value.to_le_bytes());
                }
                _ => {
                    self.out.extend([op::LONG1, 8]);
                    self.out.extend(value.to_le_bytes());
                }
            },
            Model::Text(value) => self.text(value),
            Model::List(items) => {
                self.out.extend([op::EMPTY_LIST, op::MARK]);
                for item in items {
                    self.value(item);
                }
                self.out.push(op::APPENDS);
            }
            Model::Dict(items) => self.dict(items),
        }
    }

    fn dict(&mut self, items: &[(String, Model)]) {
        self.out.push(op::EMPTY_DICT);
        let mut rest = items;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(usize::from(1 + self.choose(3))));
            rest = later;
            let single = batch.len() == 1 && self.choose(2) == 0;
            if !single {
                self.out.push(op::MARK);
            }
            for (key, value) in batch {
                self.text(key);
                self.value(value);
            }
            self.out.push(if single { op::SETITEM } else { op::SETITEMS });
        }
    }
}

/// What must be read from a dict of these items, by the last of each key.
fn expected(items: &[(String, Model)]) -> Content {
    let last: BTreeMap<&str, &Model> =
        items.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let text = |key| match last.get(key) {
        Some(Model::Text(text)) => {
            let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= MAX_TEXT_BYTES;
            let text = text.trim_start_matches(is_blank);
            Some(text.char_indices().take_while(fits).map(|(_, c)| c).collect::<String>())
        }
        _ => None,
    };
    let class = match last.get("session_token") {
        None | Some(Model::Null) => Class::Anonymous,
        Some(_) => Class::Authenticated,
    };
    let uid = match last.get("uid") {
        Some(Model::Int(uid)) => Some(*uid),
        _ => None,
    };
    Content { class, uid, db: text("db"), login: text("login").map(|typed| login(&typed)) }
}

proptest! {
    #[test]
    fn json_is_read_as_it_was_meant(items in vec((key(), model()), 0..12)) {
        prop_assert_eq!(read(Model::Dict(items.clone()).to_json().as_bytes()), expected(&items));
    }

    #[test]
    fn pickles_are_read_as_they_were_meant(
        items in vec((key(), model()), 0..12),
        choices in vec(any::<u8>(), 1..40),
    ) {
        let choices = choices.iter().cycle();
        let mut pickler = Pickler { out: vec![op::PROTO, 4], memo: BTreeMap::new(), choices };
        pickler.dict(&items);
        pickler.out.push(op::STOP);
        prop_assert_eq!(read(&pickler.out), expected(&items));
    }

    #[test]
    fn any_bytes_are_read(
        head in prop::sample::select(vec![&b""[..], b"{\"uid\":", b"\x80\x04}", b"\x80\x02}("]),
        bytes in vec(any::<u8>(), 0..400),
    ) {
        check(&[head, &bytes].concat())?;
    }

    #[test]
    fn any_opcodes_are_read(
        bytes in vec(prop_oneof![
            4 => prop::sample::select(op::ALL.to_vec()),
            1 => 0..4_u8,
        ], 0..200),
    ) {
        check(&pickle_of(&bytes))?;
    }

    #[test]
    fn any_change_of_a_real_session_is_read(
        which in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (_, mut bytes) = which.get(&fixtures()).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check(&bytes)?;
    }
}

/// What holds for whatever was read.
fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let content = read(bytes);
    for text in [content.db, content.login].into_iter().flatten() {
        prop_assert!(text.len() <= MAX_TEXT_BYTES);
    }
    Ok(())
}

#[test]
fn only_json_of_an_object_and_pickles_may_be_sessions() {
    for session in [&b"{}"[..], b"{\"uid\": 1", b"\x80\x05\x95", b"\x80"] {
        assert!(may_be_session(session));
    }
    for other in [&b""[..], b"\0\0\0", b"root:x:0:0", b"[]", b" {}"] {
        assert!(!may_be_session(other));
    }
}

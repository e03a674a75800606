//! Which paths are of which class: the rules that sessionfs has, and those of the configuration.
//!
//! A rule is a path, or the beginning of one with `*` behind it. Of all rules that match, the longest counts, and an exact
//! one before a beginning of the same length. A path that no rule matches is active. Neither the query nor the method
//! counts. Odoo's calls of a model carry model and method in the path: `/web/dataset/call_kw/MODEL/METHOD`.

use super::Class;

/// A path in the array of rules; one byte is for its end. The number is that of `bpf/requests.bpf.c`.
pub(crate) const PATH_BYTES: usize = 96;
/// The most that a list of the configuration may have.
pub(crate) const RULES_MAX: usize = 256;

/// A rule that sessionfs has by itself.
pub(crate) struct Builtin {
    pub path: &'static str,
    pub class: Class,
    /// The versions of Odoo that have it, and where in their source the browser sends it; shown in `docs/ebpf.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares the documentation"))]
    pub source: &'static str,
}

const fn passive(path: &'static str, source: &'static str) -> Builtin {
    Builtin { path, class: Class::Passive, source }
}

/// Requests that a browser sends by itself, for as long as its tab is open. Short on purpose: who works only by requests
/// that are listed here is logged out. Whatever a click can cause is not listed.
pub(crate) const BUILTIN: [Builtin; 16] = [
    Builtin {
        path: "/websocket",
        class: Class::Held,
        source: "16 to 19: addons/bus/controllers; with workers=0 its thread stays with it",
    },
    passive("/longpolling/poll", "14, 15: addons/bus/static/src/js, the bus"),
    passive(
        "/longpolling/im_status",
        "14, 15: mail/static/src/models/partner/partner.js, every 50 s",
    ),
    passive("/websocket/peek_notifications", "16 to 19: addons/bus/controllers"),
    passive("/websocket/update_bus_presence", "16 to 19: addons/bus/controllers"),
    passive("/websocket/on_closed", "18, 19: addons/bus/controllers"),
    passive("/calendar/notify", "14 to 19: calendar/static/src, calendar notification service"),
    passive(
        "/web/dataset/call_kw/mail.channel/channel_fetched",
        "14 to 16: mail/static/src/models/thread/thread.js, when somebody else writes",
    ),
    passive(
        "/web/dataset/call_kw/discuss.channel/channel_fetched",
        "17 to 19: mail/static/src/core/common, markAsFetched, when somebody else writes",
    ),
    passive("/mail/channel/ping", "15, 16: mail/static/src, _pingServer, every 30 s in a call"),
    passive(
        "/discuss/channel/ping",
        "17 to 19: mail/static/src/discuss/call, ping, every 30 s in a call",
    ),
    passive(
        "/web/dataset/call_kw/pos.config/get_tables_order_count",
        "14 to 16: pos_restaurant/static/src/js, floor screen, every 5 s",
    ),
    passive("/pos/ping", "17 to 19: point_of_sale/static/src, whether the server is there"),
    passive("/payment/process/poll", "14: payment/static/src/js/payment_processing.js"),
    passive("/payment/status/poll", "15 to 19: payment/static/src, post_processing.js"),
    passive(
        "/web/webclient/version_info",
        "14 to 19: web/static/src, checkConnection, while offline",
    ),
];

/// A rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rule {
    path: String,
    is_beginning: bool,
    pub class: Class,
}

impl Rule {
    /// Reads a path as the configuration has it; else what is wrong with it.
    pub(crate) fn parse(text: &str, class: Class) -> Result<Self, &'static str> {
        let (path, is_beginning) = match text.strip_suffix('*') {
            Some(path) => (path, true),
            None => (text, false),
        };
        if !path.starts_with('/') {
            return Err("does not begin with '/'");
        }
        if path.len() >= PATH_BYTES {
            return Err("is longer than 95 bytes");
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#*".contains(&byte)) {
            return Err("is not a path: only ASCII, no '?' or '#', and '*' only at its end");
        }
        Ok(Self { path: path.to_owned(), is_beginning, class })
    }

    /// As the array of rules has it: the path with zeros behind it, and how many bits of that a path must share. An exact
    /// one shares a zero, too.
    #[cfg_attr(not(any(test, feature = "bpf")), expect(dead_code, reason = "nothing is loaded"))]
    pub(crate) fn key(&self) -> (u32, [u8; PATH_BYTES]) {
        let mut bytes = [0; PATH_BYTES];
        bytes[..self.path.len()].copy_from_slice(self.path.as_bytes());
        let shared = self.path.len() + usize::from(!self.is_beginning);
        // At most 96 bytes.
        (u32::try_from(8 * shared).unwrap_or(u32::MAX), bytes)
    }

    /// Whether it matches this path.
    fn matches(&self, path: &str) -> bool {
        if self.is_beginning { path.starts_with(&self.path) } else { path == self.path }
    }

    /// Whether it is of the same path.
    fn is_of(&self, other: &Self) -> bool {
        (&self.path, self.is_beginning) == (&other.path, other.is_beginning)
    }
}

/// The rules of the configuration, and those of sessionfs, but for paths that the configuration has as active, itself or
/// below a beginning. Else the first path that is not one or is twice there, and what is wrong with it.
pub(crate) fn rules(
    passive: &[String],
    active: &[String],
) -> Result<Vec<Rule>, (String, &'static str)> {
    let listed = passive
        .iter()
        .map(|path| (path.as_str(), Class::Passive))
        .chain(active.iter().map(|path| (path.as_str(), Class::Active)));
    let mut rules: Vec<Rule> = Vec::new();
    for (path, class) in listed {
        let rule = Rule::parse(path, class).map_err(|why| (path.to_owned(), why))?;
        if rules.iter().any(|known| known.is_of(&rule)) {
            return Err((path.to_owned(), "is listed twice"));
        }
        rules.push(rule);
    }
    let configured = rules.len();
    for builtin in &BUILTIN {
        let rule =
            Rule { path: builtin.path.to_owned(), is_beginning: false, class: builtin.class };
        let matching = rules[..configured].iter_mut().filter(|known| known.matches(builtin.path));
        match matching.max_by_key(|known| (known.path.len(), !known.is_beginning)) {
            Some(known) if known.class == Class::Active => {}
            // It becomes a websocket, whoever says that it is passive.
            Some(known) if known.is_of(&rule) => known.class = rule.class,
            _ => rules.push(rule),
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// What the kernel's longest match comes to.
    fn class(rules: &[Rule], path: &str) -> Class {
        let mut bytes = [0; PATH_BYTES];
        let path = &path.as_bytes()[..path.len().min(PATH_BYTES)];
        bytes[..path.len()].copy_from_slice(path);
        let matching = rules.iter().filter(|rule| {
            let (bits, wanted) = rule.key();
            let shared = (bits / 8) as usize;
            bytes[..shared] == wanted[..shared]
        });
        matching.max_by_key(|rule| rule.key().0).map_or(Class::Active, |rule| rule.class)
    }

    #[test]
    fn the_longest_rule_counts_and_an_exact_one_before_a_beginning() {
        let rules = rules(
            &strings(&["/shop/*", "/a", "/web*"]),
            &strings(&["/shop/cart*", "/a*", "/longpolling/poll"]),
        )
        .unwrap();
        for (path, expected) in [
            ("/shop/1", Class::Passive),
            ("/shop", Class::Active),
            ("/shop/cart", Class::Active),
            ("/shop/cart/2", Class::Active),
            ("/a", Class::Passive),
            ("/ab", Class::Active),
            ("/webx", Class::Passive),
            ("/websocket", Class::Held),
            ("/websocket/x", Class::Passive),
            ("/longpolling/poll", Class::Active),
            ("/longpolling/im_status", Class::Passive),
            ("/longpolling/im_statusx", Class::Active),
            ("/odoo", Class::Active),
        ] {
            assert_eq!(class(&rules, path), expected, "{path}");
        }
        let long = format!("/shop/{}", "x".repeat(300));
        assert_eq!(class(&rules, &long), Class::Passive);
    }

    #[test]
    fn a_beginning_that_is_active_takes_away_the_own_rules_below_it() {
        let active = strings(&["/discuss/*", "/web/dataset/call_kw/discuss.channel/*"]);
        let rules = rules(&strings(&["/discuss/channel/other"]), &active).unwrap();
        for (path, expected) in [
            ("/discuss/channel/ping", Class::Active),
            ("/discuss/channel/other", Class::Passive),
            ("/web/dataset/call_kw/discuss.channel/channel_fetched", Class::Active),
            ("/web/dataset/call_kw/mail.channel/channel_fetched", Class::Passive),
            ("/mail/channel/ping", Class::Passive),
        ] {
            assert_eq!(class(&rules, path), expected, "{path}");
        }
        // A longer one says otherwise.
        let passive = strings(&["/discuss/channel/*"]);
        let rules = super::rules(&passive, &active).unwrap();
        assert_eq!(class(&rules, "/discuss/channel/ping"), Class::Passive);
        let rules = super::rules(&[], &strings(&["/*"])).unwrap();
        assert_eq!((rules.len(), class(&rules, "/websocket")), (1, Class::Active));
    }

    #[test]
    fn a_websocket_that_is_listed_as_passive_stays_one() {
        let rules = rules(&strings(&["/websocket"]), &[]).unwrap();
        assert_eq!(class(&rules, "/websocket"), Class::Held);
        let rules = super::rules(&[], &strings(&["/websocket"])).unwrap();
        assert_eq!(class(&rules, "/websocket"), Class::Active);
    }

    #[test]
    fn the_own_rules_are_rules_and_each_names_its_source() {
        for builtin in &BUILTIN {
            let rule = Rule::parse(builtin.path, builtin.class).unwrap();
            assert!(!rule.is_beginning && builtin.class.is_passive(), "{}", builtin.path);
            assert!(builtin.source.starts_with('1') && builtin.source.contains(':'));
        }
        assert_eq!(rules(&[], &[]).unwrap().len(), BUILTIN.len());
    }

    #[test]
    fn the_own_rules_are_documented_with_their_sources() {
        let text = include_str!("../../docs/ebpf.md");
        for Builtin { path, source, .. } in &BUILTIN {
            let (versions, place) = source.split_once(": ").unwrap();
            let line = format!("| `{path}` | {versions} | {place} |");
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        let rows = text.lines().filter(|line| line.starts_with("| `/")).count();
        assert_eq!(rows, BUILTIN.len());
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("/{}", "x".repeat(95));
        for path in ["", "web", "*", "/a?b", "/a#b", "/a*b", "/a b", "/\u{e9}", "/a\0", &long] {
            assert!(Rule::parse(path, Class::Passive).is_err(), "{path:?}");
        }
        assert!(Rule::parse(&long[..95], Class::Passive).is_ok());
        assert!(Rule::parse("/*", Class::Passive).is_ok());
        let twice = rules(&strings(&["/a"]), &strings(&["/a"]));
        assert_eq!(twice, Err(("/a".to_owned(), "is listed twice")));
    }
}

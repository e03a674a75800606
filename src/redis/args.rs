//! What each script is called with: its KEYS and ARGV, once, by name.
//!
//! A list here is a struct to Rust, which must fill each field, and to Lua the tables `keys` and
//! `args`, which [`prologue`] writes before the script's own text. So an argument that is added,
//! moved or renamed cannot be read as another one.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::envelope::{class_text, form_text, id_text};
use super::index;
use super::scripts::{Script, Scripts};
use crate::session::content::Class;
use crate::session::name::{Alias, Form};
use crate::store::ChangeId;

/// One argument as it is sent. Numbers and flags are text there; '' is none.
pub(super) type Argument<'a> = Cow<'a, [u8]>;

/// The arguments of one script.
pub(super) trait Arguments<'a> {
    /// The names of the keys that are always there, in their order.
    fn key_names() -> Vec<&'static str>;
    /// The names of the arguments that are always there, in their order.
    fn argument_names() -> Vec<&'static str>;
    /// Writes them in that order.
    fn write(self, keys: &mut Vec<String>, arguments: &mut Vec<Argument<'a>>);
}

/// Arguments that belong to a script of their own.
pub(super) trait OfScript<'a>: Arguments<'a> {
    /// The script that takes them.
    fn script(scripts: &Scripts) -> &Script;
}

/// Makes a struct of a list of names. `with HEAD: STRUCT` puts the names of another list before
/// its own.
macro_rules! arguments {
    ($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? {
        $(with $head:ident: $Head:ty;)?
        keys: $($key:ident),*;
        arguments: $($argument:ident),*;
    }) => {
        $(#[$doc])*
        pub(super) struct $name $(<$life>)? {
            $(pub $head: $Head,)?
            $(pub $key: String,)*
            $(pub $argument: Argument<'a>,)*
        }

        impl<'a> Arguments<'a> for $name $(<$life>)? {
            fn key_names() -> Vec<&'static str> {
                [$(<$Head>::key_names(),)? vec![$(stringify!($key)),*]].concat()
            }

            fn argument_names() -> Vec<&'static str> {
                [$(<$Head>::argument_names(),)? vec![$(stringify!($argument)),*]].concat()
            }

            fn write(self, keys: &mut Vec<String>, arguments: &mut Vec<Argument<'a>>) {
                $(self.$head.write(keys, arguments);)?
                keys.extend([$(self.$key),*]);
                arguments.extend([$(self.$argument),*]);
            }
        }
    };
}

arguments! {
    /// By what every script judges; before all others. Times are milliseconds.
    PolicyArgs<'a> {
        keys: ;
        // absolute_ms: negative for none. clock: '' (unknown), 'lenient', 'jumped' and how many ms ago, or what Redis's clock is
        // expected to show at least. ahead_ms: by how much it has jumped forward of late.
        // unwritten_ms: for how long no use could be written down.
        // waited_ms: for how long callers have waited in the last outage.
        // rules: by which some sessions have other lifetimes, as rules.rs writes them; '' for none.
        // outbox: of the audit trail; one that ends with a colon is followed by the shard; '-': what there is to tell is in
        // the answer; '' is none.
        // origin: which server asks, and for whom, as two words.
        arguments: idle_ms, anonymous_idle_ms, anonymous_unopened_ms, absolute_ms, grace_ms,
            tombstone_ms, import_max_age_ms, written_format, newest_format, clock, ahead_ms, unwritten_ms,
            waited_ms, rules, outbox, origin;
    }
}

arguments! {
    /// The indexes of a shard: the long one, and the short ones. Where a slot of a Cluster is being
    /// moved, a script is run only if all its keys are there, so that those of one kind alone are
    /// named; in the place of others stands one that is.
    IndexArgs<'a> {
        keys: index, quarter_0, quarter_1, quarter_2, quarter_3;
        // indexes: which of them are named: 'long', 'short' or 'all'.
        arguments: indexes;
    }
}

arguments! {
    /// What every change of one session begins with.
    ChangeArgs<'a> {
        with indexes: IndexArgs<'a>;
        keys: session;
        // tail: what its entry in a short index ends with. waits_ms: how long the sender of a first
        // attempt waits; 'again' for a retry.
        arguments: alias, tail, id, first_ms, waits_ms;
    }
}

arguments! {
    /// See `fetch.lua`.
    FetchArgs<'a> {
        with indexes: IndexArgs<'a>;
        // listed_session: the session again where there is none.
        keys: session, listed_session;
        // most: bytes of a value in the answer.
        arguments: alias, tail, listed, listed_tail, most;
    }
}

arguments! {
    /// See `piece.lua`.
    PieceArgs<'a> {
        keys: session;
        // from, most: bytes of the content.
        arguments: save, from, most;
    }
}

arguments! {
    /// What every change that brings a content begins with.
    ContentArgs<'a> {
        with change: ChangeArgs<'a>;
        keys: ;
        // size: the content's before it was sealed.
        arguments: class, uid, db, user, size, packing, form, sealed;
    }
}

arguments! {
    /// See `publish.lua`.
    PublishArgs<'a> {
        with content: ContentArgs<'a>;
        // sibling_session: the session again where there is none.
        keys: sibling_session;
        // birth: the content is sealed for it.
        arguments: birth, opened, held_removal, sibling, sibling_tail, background, is_activity,
            after_failed_read;
    }
}

arguments! {
    /// See `unlink.lua`.
    UnlinkArgs<'a> {
        with change: ChangeArgs<'a>;
        // listed_session: the session again where there is none.
        keys: listed_session;
        // held: the birth that the caller opened, where the removal of the listed one may be held.
        arguments: listed, listed_tail, held, hold_ms;
    }
}

arguments! {
    /// See `amend.lua`.
    AmendArgs<'a> {
        with change: ChangeArgs<'a>;
        keys: ;
        // '' keeps; mtime: nanoseconds, or 'now'.
        arguments: mode, mtime;
    }
}

arguments! {
    /// See `import.lua`.
    ImportArgs<'a> {
        with content: ContentArgs<'a>;
        keys: ;
        arguments: mtime, mtime_ms, mode;
    }
}

arguments! {
    /// Followed by each session's key, and its alias, its tail and the time of its last use.
    TouchArgs<'a> {
        with indexes: IndexArgs<'a>;
        keys: ;
        arguments: ;
    }
}

arguments! {
    /// Followed by each session's key, and its alias, the marks of its entry and its tail.
    ListArgs<'a> {
        with indexes: IndexArgs<'a>;
        keys: ;
        // tidies: whether an entry of what is not there any more leaves its index.
        arguments: tidies;
    }
}

arguments! {
    /// Followed by each session's key.
    HeadersArgs {
        keys: ;
        arguments: ;
    }
}

arguments! {
    /// See `find.lua`.
    FindArgs<'a> {
        with indexes: IndexArgs<'a>;
        keys: ;
        // most: entries of all indexes. user, login: marks; '' for any. long: the length of a name
        // that cannot be flat.
        arguments: most, user, login, flat, long;
    }
}

arguments! {
    /// Followed by each session's key, and its alias, its tail and its version.
    RoomArgs<'a> {
        with indexes: IndexArgs<'a>;
        keys: ;
        arguments: ;
    }
}

arguments! {
    /// Followed by the names of the settings.
    SettingsArgs {
        keys: settings;
        arguments: ;
    }
}

arguments! {
    /// See `set.lua`.
    SetArgs<'a> {
        keys: settings;
        // text: '' takes the setting away.
        arguments: name, text;
    }
}

arguments! {
    /// See `lease.lua`.
    LeaseArgs<'a> {
        keys: lease;
        // rank: a digit; 0 gives it up.
        arguments: holder, rank, lease_ms;
    }
}

arguments! {
    /// See `probe.lua`.
    ProbeArgs {
        keys: probe;
        arguments: ;
    }
}

macro_rules! of_scripts {
    ($($arguments:ty: $script:ident,)*) => {
        $(impl<'a> OfScript<'a> for $arguments {
            fn script(scripts: &Scripts) -> &Script {
                &scripts.$script
            }
        })*
    };
}

of_scripts! {
    FetchArgs<'a>: fetch,
    PieceArgs<'a>: piece,
    PublishArgs<'a>: publish,
    UnlinkArgs<'a>: unlink,
    AmendArgs<'a>: amend,
    ImportArgs<'a>: import,
    TouchArgs<'a>: touch,
    ListArgs<'a>: list,
    HeadersArgs: headers,
    FindArgs<'a>: find,
    RoomArgs<'a>: room,
    SettingsArgs: settings,
    SetArgs<'a>: set,
    LeaseArgs<'a>: lease,
    ProbeArgs: probe,
}

/// The Lua that gives a script its arguments by name. KEYS and ARGV may go on after the named ones.
pub(super) fn prologue<'a, A: Arguments<'a>>() -> String {
    let mut lua = String::new();
    let arguments = [PolicyArgs::argument_names(), A::argument_names()].concat();
    for (table, from, names) in [("keys", "KEYS", A::key_names()), ("args", "ARGV", arguments)] {
        let fields: Vec<_> = names
            .iter()
            .zip(1..)
            .map(|(name, number)| format!("{name}={from}[{number}]"))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(lua, "local {table}={{{}}}", fields.join(","));
        let _ = writeln!(lua, "local {from}_NAMED={}", names.len());
    }
    lua
}

pub(super) fn text<'a>(text: impl Into<Cow<'a, str>>) -> Argument<'a> {
    match text.into() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

pub(super) fn number<'a>(number: impl ToString + Copy) -> Argument<'a> {
    text(number.to_string())
}

pub(super) fn flag<'a>(value: bool) -> Argument<'a> {
    text(if value { "1" } else { "0" })
}

pub(super) fn id<'a>(id: Option<ChangeId>) -> Argument<'a> {
    text(id.map(id_text).unwrap_or_default())
}

pub(super) fn alias(alias: Option<&Alias>) -> Argument<'_> {
    text(alias.map_or("", Alias::as_str))
}

pub(super) fn tail<'a>(alias: Option<&Alias>) -> Argument<'a> {
    alias.map(index::tail).unwrap_or_default().into()
}

pub(super) fn class<'a>(class: Class) -> Argument<'a> {
    text(class_text(class))
}

pub(super) fn form<'a>(form: Form) -> Argument<'a> {
    text(form_text(form))
}

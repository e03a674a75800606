//! Sessions that live by what their headers say. A script that judges each takes more than half of the time of a listing, and
//! Redis serves nobody meanwhile; one that only hands out the headers is eight times as quick. What may be over, and
//! whatever else is not plain, is left to the script that judges.

use super::Inner;
use super::envelope::{Header, State};
use super::index::Entry;
use super::requests::Requests;
use super::scan::LiveSession;
use super::scripts::{Answer, Way};
use crate::session::name::Shard;
use crate::session::policy::rules::Rules;
use crate::store::StoreError;

/// An entry of an index, with its score: the time of the last use.
pub(super) type Scored = (Entry, f64);

/// What was found of some entries.
#[derive(Default)]
pub(super) struct Plain {
    /// They live.
    pub living: Vec<LiveSession>,
    /// They have to be judged.
    pub others: Vec<Entry>,
}

impl Inner {
    /// Reads the headers of these entries, all of one shard. Where they cannot be had all are among the others.
    pub(super) async fn read_headers<'a>(&'a self, shard: Shard, entries: &'a [Scored]) -> Plain {
        let build = |requests: Requests<'a>, entries: &'a [Scored]| requests.headers(entries);
        let rules = self.live.judged().rules;
        let mut plain = Plain::default();
        for part in self.call_for(shard, entries, self.patience(), Way::BulkRead, build).await {
            let headers = part.answer.and_then(|answer| answer.map(read).transpose());
            let Ok(Some((now_ms, headers))) = headers else {
                plain.others.extend(part.items.iter().map(|(entry, _)| entry.clone()));
                continue;
            };
            for (scored, header) in part.items.iter().zip(headers) {
                match living(scored, &header, &rules, now_ms) {
                    Some(living) => plain.living.push(living),
                    None => plain.others.push(scored.0.clone()),
                }
            }
        }
        plain
    }
}

/// Reads an answer of `headers.lua`: the time, and each header.
fn read(mut answer: Answer) -> Result<(u64, Vec<Vec<u8>>), StoreError> {
    if answer.status != "headers" {
        return Err(answer.strange());
    }
    let mut nested = answer.nested()?;
    let mut headers = Vec::new();
    while nested.more() {
        headers.push(nested.bytes()?);
    }
    Ok((answer.now_ms, headers))
}

/// The session of an entry, if by its header it lives beyond doubt, and the entry is its own.
fn living(
    (entry, score): &Scored,
    stored: &[u8],
    rules: &Rules,
    now_ms: u64,
) -> Option<LiveSession> {
    let (header, _) = Header::parse(stored).ok()?;
    if header.state != State::Alive || header.end_ms > 0 || !entry.is_own(stored, &header) {
        return None;
    }
    let activity_ms = time(*score)?.max(header.activity_ms);
    let alias = entry.alias.clone();
    let living = LiveSession { alias, header, activity_ms, left_ms: 0, now_ms };
    let content = &living.header.content;
    let end_ms = rules.of(content).end_ms(content.class, living.times());
    let left_ms = end_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
    Some(LiveSession { left_ms, ..living })
}

/// A score as a time; one with more digits than a time has is none, as in `session.lua`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is between zero and a number that both types hold"
)]
fn time(score: f64) -> Option<u64> {
    (0.0..1e15).contains(&score).then_some(score as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::index::{LONG, mark, tail, user_mark};
    use crate::session::name::Alias;
    use crate::session::policy::Lifetimes;

    const LIFETIMES: Lifetimes = Lifetimes {
        idle_ms: 100,
        anonymous_idle_ms: 1000,
        anonymous_unopened_ms: 50,
        absolute_ms: None,
        grace_ms: 0,
        tombstone_ms: 0,
    };
    /// Saved and used at 1,000.
    const STORED: &str =
        "sessionfs 3 a 0123456789abcdef - - 1000 - - 0 0 - 0 0 1 0 u 5 shop anna 740 0 644 s\n";

    fn entry() -> Entry {
        let alias = Alias::parse(&"ab".repeat(20)).unwrap();
        Entry { alias, marks: Some([user_mark("5") * 2, mark("anna")]) }
    }

    fn left_ms(entry: Entry, score: f64, stored: &str, now_ms: u64) -> Option<u64> {
        living(&(entry, score), stored.as_bytes(), &LIFETIMES.into(), now_ms)
            .map(|living| living.left_ms)
    }

    #[test]
    fn a_session_lives_until_the_end_of_its_idle_time() {
        let left = |score, now_ms| left_ms(entry(), score, STORED, now_ms);
        assert_eq!(
            (left(1000.0, 1000), left(1000.0, 1099), left(1000.0, 1100)),
            (Some(100), Some(1), None)
        );
        // It was used since, or its entry is behind its header.
        assert_eq!((left(1050.0, 1100), left(0.0, 1000)), (Some(50), Some(100)));
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_script() {
        assert_eq!(left_ms(entry(), 1000.0, STORED, 1000), Some(100));
        for stored in [
            "",
            "hello",
            &STORED.replace(" a ", " g "),
            &STORED.replace("sessionfs 3", "sessionfs 99"),
            // A removal is held until 1,500.
            &STORED.replace("- - 0 0 -", "- fedcba9876543210 1500 0 -"),
            // The entry is not its own: another user, a flat name.
            &STORED.replace(" 5 shop anna", " 5 shop bert"),
            &STORED.replace("644 s", "644 f"),
        ] {
            assert_eq!(left_ms(entry(), 1000.0, stored, 1000), None, "{stored}");
        }
        let long = Entry { marks: None, ..entry() };
        assert_eq!(left_ms(long, 1000.0, STORED, 1000), None);
    }

    #[test]
    fn an_entry_of_each_kind_is_its_sessions_own() {
        let Entry { alias, marks: Some(marks) } = entry() else { unreachable!() };
        let member = [&marks[..], &tail(&alias)].concat();
        let short = Entry::read_short(alias.shard(), &member).unwrap();
        let long = Entry::read(alias.shard(), LONG, alias.as_str().as_bytes()).unwrap();
        let (header, _) = Header::parse(STORED.as_bytes()).unwrap();
        let named = header.line_in(2);
        for (stored, own, other) in [(STORED, &short, &long), (&named, &long, &short)] {
            let is_own = |entry: &Entry| entry.is_own(stored.as_bytes(), &header);
            assert_eq!((is_own(own), is_own(other)), (true, false), "{stored}");
        }
    }

    #[test]
    fn only_times_are_times() {
        assert_eq!(time(0.0), Some(0));
        assert_eq!(time(1_700_000_000_000.0), Some(1_700_000_000_000));
        for score in [-1.0, 1e15, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(time(score), None, "{score}");
        }
    }
}

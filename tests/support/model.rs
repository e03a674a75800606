//! What a store of sessions does, as a plain map with expiry. `tests/model.rs` holds the scripts on
//! Redis against it, and [`super::memory`] serves it to the core.

use std::collections::BTreeMap;

use bytes::Bytes;
use sessionfs::session::content::{Class, Content};
use sessionfs::session::name::{Alias, Form};
use sessionfs::session::policy::rules::Rules;
use sessionfs::session::policy::{Lifetimes, Times};
use sessionfs::store::{
    Amend, Attempt, Bound, ChangeId, HELD_IN_STORE_MS, Listed, Meta, Mtime, Publish, Stamp, Unlink,
    Unlinked,
};

/// The step of the model's clock. Keys' own TTLs run in real time, which must be nothing beside it.
pub const UNIT: u64 = 60_000;

/// What became of a save; why one is refused is not modelled.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Taken(Meta),
    Superseded(Option<ChangeId>),
    Refused,
    Rebind(ChangeId),
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Lifetime,
    Removal(ChangeId),
}

/// One session, alive or remembered.
#[derive(Clone)]
struct Session {
    /// What ended it, if it is gone.
    gone: Option<End>,
    version: ChangeId,
    save: ChangeId,
    birth: ChangeId,
    born: u64,
    /// The class of the lives before.
    before: Option<Class>,
    /// The last removal that was held, and when it ends the session; `None`: it was taken back.
    removal: Option<(ChangeId, Option<u64>)>,
    saved: u64,
    content: Content,
    times: Times,
    mtime_ns: i64,
    mode: u32,
    size_bytes: u64,
    form: Form,
    sealed: Bytes,
    /// When nothing will be remembered of it.
    kept_until: u64,
}

pub struct Model {
    pub limits: Lifetimes,
    /// By which some sessions have others.
    pub rules: Rules,
    pub now: u64,
    sessions: BTreeMap<Alias, Session>,
}

impl Model {
    pub fn new(limits: Lifetimes, now: u64) -> Self {
        Self { limits, rules: Rules::default(), now, sessions: BTreeMap::new() }
    }

    /// The limits of the sessions of this owner.
    fn limits_of(&self, owner: &Content) -> Lifetimes {
        self.rules.with_general(self.limits).of(owner)
    }

    /// Those of the session of that name.
    fn limits_at(&self, alias: &Alias) -> Lifetimes {
        let owner = self.sessions.get(alias).map(|session| &session.content);
        owner.map_or(self.limits, |owner| self.limits_of(owner))
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        self.sessions.retain(|_, session| now < session.kept_until);
    }

    /// The living session of that name; one whose lifetime is over ends here.
    fn living(&mut self, alias: &Alias) -> Option<&mut Session> {
        let (limits, now) = (self.limits_at(alias), self.now);
        let session = self.sessions.get_mut(alias)?;
        if let (None, Some((id, Some(end)))) = (session.gone, session.removal)
            && now >= end
        {
            session.end(End::Removal(id), &limits, now);
            session.saved = end;
        }
        if session.gone.is_none()
            && limits.ended(session.content.class, session.times, now).is_some()
        {
            session.end(End::Lifetime, &limits, now);
        }
        session.gone.is_none().then_some(session)
    }

    fn meta(&self, session: &Session) -> Meta {
        Meta {
            version: session.version,
            birth: session.birth,
            mtime_ns: session.mtime_ns,
            mode: session.mode,
            size_bytes: session.size_bytes,
            class: session.content.class,
            form: session.form,
            activity_ms: session.times.activity_ms,
            left_ms: self.left_ms(session),
        }
    }

    /// What it has to live if nobody uses it, nor takes back the removal that is held.
    fn left_ms(&self, session: &Session) -> u64 {
        let limits = self.limits_of(&session.content);
        let end_ms = limits.end_ms(session.content.class, session.times);
        let ending_ms = session.removal.and_then(|(_, end_ms)| end_ms);
        ending_ms.map_or(end_ms, |ending_ms| ending_ms.min(end_ms)).saturating_sub(self.now)
    }

    pub fn fetch(&mut self, alias: &Alias) -> Option<(Meta, Bound, Bytes)> {
        let session = self.living(alias)?.clone();
        Some((self.meta(&session), session.bound(alias), session.sealed))
    }

    /// Somebody with access to the store copies what is stored of one session to another.
    pub fn copy(&mut self, from: &Alias, to: &Alias) {
        let session = self.sessions[from].clone();
        self.sessions.insert(to.clone(), session);
    }

    /// Without those whose removal is held: they are served, and not listed.
    pub fn list(&mut self) -> Vec<Listed> {
        let aliases: Vec<_> = self.sessions.keys().cloned().collect();
        let listed = |alias: Alias| {
            let (meta, ..) = self.fetch(&alias)?;
            (!self.sessions[&alias].is_ending()).then_some(Listed { alias, meta })
        };
        aliases.into_iter().filter_map(listed).collect()
    }

    pub fn touch(&mut self, alias: &Alias) {
        let (limits, now) = (self.limits_at(alias), self.now);
        let Some(session) = self.living(alias) else { return };
        // A first opening counts as later than the save, if only by a millisecond.
        let least = session.times.activity_ms + u64::from(!session.times.opened);
        session.times.activity_ms = least.max(now);
        session.times.opened = true;
        let end_ms = limits.end_ms(session.content.class, session.times);
        if !session.is_ending() && session.kept_until < end_ms + limits.grace_ms {
            session.keep(&limits);
        }
    }

    pub fn take_back(&mut self, alias: &Alias, removal: ChangeId) {
        let limits = self.limits_at(alias);
        if let Some(session) = self.living(alias)
            && let Some((id, Some(_))) = session.removal
            && id == removal
        {
            session.removal = Some((id, None));
            session.keep(&limits);
        }
    }

    pub fn amend(&mut self, amend: &Amend) -> Option<Meta> {
        let made = self.made(amend.stamp);
        let session = self.living(&amend.alias)?;
        session.version = amend.stamp.id;
        session.saved = made;
        session.mode = amend.mode.unwrap_or(session.mode);
        if let Some(Mtime::Ns(ns)) = amend.mtime {
            session.mtime_ns = ns;
        }
        let session = session.clone();
        Some(self.meta(&session))
    }

    /// When a change was made: sent once more it is no newer than at first.
    fn made(&self, stamp: Stamp) -> u64 {
        match stamp.attempt {
            Attempt::First => self.now,
            Attempt::Again => stamp.first_ms.min(self.now),
        }
    }

    pub fn unlink(&mut self, unlink: &Unlink) -> Unlinked {
        let again = unlink.stamp.attempt == Attempt::Again;
        for alias in std::iter::once(&unlink.alias).chain(&unlink.listed) {
            let Some(session) = self.sessions.get(alias) else { continue };
            let (birth, id) = (session.birth, unlink.stamp.id);
            let (limits, now, made) = (self.limits_at(alias), self.now, self.made(unlink.stamp));
            let may_hold = Some(alias) == unlink.listed.as_ref() && unlink.held == Some(birth);
            if let Some(session) = self.living(alias) {
                if again && session.born > unlink.stamp.first_ms {
                    return Unlinked::Superseded;
                }
                if may_hold {
                    if session.removal.map(|(noted, _)| noted) != Some(id) {
                        session.removal = Some((id, Some(now + HELD_IN_STORE_MS)));
                        session.keep(&limits);
                    }
                    return Unlinked::Held { alias: alias.clone(), birth };
                }
                session.end(End::Removal(id), &limits, now);
                session.saved = made;
            } else if self.sessions[alias].gone != Some(End::Removal(id)) {
                continue;
            }
            return Unlinked::Gone { alias: alias.clone(), birth };
        }
        Unlinked::Absent
    }

    pub fn publish(&mut self, publish: &Publish) -> Outcome {
        let again = publish.stamp.attempt == Attempt::Again;
        let id = publish.stamp.id;
        if let Some(old) = self.sessions.get(&publish.alias)
            && old.gone.is_none()
            && old.save == id
        {
            let old = old.clone();
            // A reply that was lost is given again, also when the life is over since.
            return Outcome::Taken(Meta { left_ms: self.left_ms(&old), ..self.meta_at_end(&old) });
        }
        let last_save = self.sessions.get(&publish.alias).map(|old| old.saved);
        let old_alive = self.living(&publish.alias).is_some();
        let old = self.sessions.get(&publish.alias).cloned();
        // A removal counts from its end, an expiry only once somebody has noticed it.
        let saved = match &old {
            Some(Session { gone: Some(End::Removal(_)), saved, .. }) => Some(*saved),
            _ => last_save,
        };
        let is_own =
            !old_alive && old.as_ref().is_some_and(|old| old.is_taken_back(publish, self.now));
        if again && saved.is_some_and(|saved| saved > publish.stamp.first_ms) && !is_own {
            let belongs = old.filter(|old| {
                let is_alike = old.content.class == publish.content.class;
                old_alive && is_alike && publish.claim.opened.is_none()
            });
            return Outcome::Superseded(belongs.map(|old| old.birth));
        }
        let Some(goes_on) = goes_on(publish, old.as_ref(), old_alive, is_own) else {
            return Outcome::Refused;
        };
        let sibling = publish
            .claim
            .sibling
            .clone()
            .filter(|_| !goes_on && publish.content.class == Class::Authenticated);
        let rotates = sibling.and_then(|alias| {
            let fits = |sibling: &Session| {
                sibling.content.uid == publish.content.uid
                    && sibling.content.class == Class::Authenticated
            };
            let lives =
                self.sessions.get(&alias).is_some_and(fits) && self.living(&alias).is_some();
            self.sessions.get(&alias).filter(|sibling| fits(sibling)).map(|s| (s.times, lives))
        });
        let is_new_login = !goes_on && publish.content.class == Class::Authenticated;
        if publish.background && is_new_login && rotates.is_none_or(|(_, lives)| !lives) {
            return Outcome::Refused;
        }
        let made = self.made(publish.stamp);
        let mut new = Session {
            gone: None,
            version: id,
            save: id,
            birth: id,
            born: made,
            before: None,
            removal: None,
            saved: made,
            content: publish.content.clone(),
            times: Times { login_ms: self.now, activity_ms: self.now, opened: false },
            mtime_ns: i64::try_from(made).expect("of this century") * 1_000_000,
            mode: old.as_ref().filter(|_| old_alive).map_or(0o644, |old| old.mode),
            size_bytes: publish.size_bytes,
            form: publish.form,
            sealed: publish.sealed.clone(),
            kept_until: 0,
        };
        new.before = old.as_ref().map(|old| match old.before {
            Some(Class::Authenticated) => Class::Authenticated,
            _ => old.content.class,
        });
        if let Some(old) = old.filter(|_| goes_on) {
            (new.birth, new.born, new.before) = (old.birth, old.born, old.before);
            new.removal = match publish.claim.held_removal {
                Some(id) if !old.is_ending() || old.removal.map(|(id, _)| id) == Some(id) => {
                    Some((id, None))
                }
                _ => old.removal,
            };
            new.times.opened = old.times.opened || publish.claim.opened == Some(old.birth);
            if old.content.class == new.content.class {
                new.times.login_ms = old.times.login_ms;
            }
            if !publish.is_activity {
                new.times.activity_ms = old.times.activity_ms;
            }
        } else if let Some((times, _)) = rotates {
            new.times.login_ms = times.login_ms;
            if !publish.is_activity {
                new.times.activity_ms = times.activity_ms;
            }
        }
        let limits = self.limits_of(&new.content);
        if limits.ended(new.content.class, new.times, self.now).is_some() {
            return Outcome::Refused;
        }
        if publish.birth != new.birth {
            return Outcome::Rebind(new.birth);
        }
        new.keep(&limits);
        let meta = self.meta(&new);
        self.sessions.insert(publish.alias.clone(), new);
        Outcome::Taken(meta)
    }

    /// The meta of one that may have ended.
    fn meta_at_end(&self, session: &Session) -> Meta {
        let limits = self.limits_of(&session.content);
        let now = self.now.min(limits.end_ms(session.content.class, session.times));
        Self::new(limits, now).meta(session)
    }
}

/// Whether the life of `old` goes on with this save; `None` if it may not be made.
fn goes_on(publish: &Publish, old: Option<&Session>, alive: bool, is_own: bool) -> Option<bool> {
    let opened_another =
        |old: &Session| publish.claim.opened.is_some_and(|birth| birth != old.birth);
    let logs_in = |old: &Session| {
        let may = !publish.background && old.before != Some(Class::Authenticated);
        old.content.class == Class::Authenticated || may
    };
    match (publish.content.class, old) {
        (Class::Anonymous, Some(old)) if alive => {
            let over_authenticated = old.content.class == Class::Authenticated;
            let may_log_out = !publish.claim.after_failed_read && !publish.background;
            (!over_authenticated || may_log_out).then_some(!over_authenticated)
        }
        (Class::Anonymous, _) => Some(false),
        (Class::Authenticated, Some(old)) => {
            let may = alive || is_own;
            (may && !opened_another(old) && logs_in(old)).then_some(true)
        }
        (Class::Authenticated, None) => publish.claim.opened.is_none().then_some(false),
    }
}

impl Session {
    fn bound(&self, alias: &Alias) -> Bound {
        Bound {
            alias: alias.clone(),
            content: self.content.clone(),
            birth: self.birth,
            save: self.save,
            packing: 0,
        }
    }

    /// Whether a removal of it is held.
    fn is_ending(&self) -> bool {
        matches!(self.removal, Some((_, Some(_))))
    }

    /// Whether it ended by a removal that this save may take back.
    fn is_taken_back(&self, publish: &Publish, now: u64) -> bool {
        const WITHIN_MS: u64 = 9000;
        let Some((id, Some(end))) = self.removal else { return false };
        self.gone == Some(End::Removal(id))
            && publish.claim.held_removal == Some(id)
            && now - end < WITHIN_MS
    }

    fn end(&mut self, by: End, limits: &Lifetimes, now: u64) {
        self.gone = Some(by);
        self.saved = now;
        self.size_bytes = 0;
        self.kept_until = now + limits.tombstone_ms;
    }

    /// Kept for its life, half an idle time more, and the grace.
    fn keep(&mut self, limits: &Lifetimes) {
        let idle_ms = match self.content.class {
            Class::Authenticated => limits.idle_ms,
            Class::Anonymous if self.times.opened => limits.anonymous_idle_ms,
            Class::Anonymous => limits.anonymous_idle_ms.min(limits.anonymous_unopened_ms),
        };
        let later = Times { activity_ms: self.times.activity_ms + idle_ms / 2, ..self.times };
        // As the clock of keys goes: see `PASS`.
        let until = match self.removal {
            Some((_, Some(end))) => end.next_multiple_of(UNIT / 2) + limits.tombstone_ms,
            _ => limits.end_ms(self.content.class, later) + limits.grace_ms,
        };
        self.kept_until = until / (UNIT / 2) * (UNIT / 2);
    }
}

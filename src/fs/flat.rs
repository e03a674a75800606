//! The flat name of a session (`werkzeug_<sid>.sess`), as a thread uses it.
//!
//! Odoo 16 to 19.0 ask for it before each read, and right after that for the same session in its
//! shard. Either answer is right then, since both are names of one session, and ENOENT costs no
//! round trip. For everybody else a flat name is what it is.

use crate::session::name::{Alias, Form};

/// What one thread does with flat names.
#[derive(Debug, Default)]
pub(crate) struct FlatNames {
    /// The session whose flat name it looked up last, if it has asked for no session since.
    asked: Option<Alias>,
    /// The same when its `open` under way began.
    asked_for_open: Option<Alias>,
    /// Its last look-up of a flat name was a probe.
    probes: bool,
    /// It has opened a session by its flat name, or saved one: an Odoo of 14 or 15.
    uses: bool,
}

impl FlatNames {
    /// It looks up a flat name. Whether that is a probe: those before were, and it uses no such name.
    pub(crate) fn is_probe(&mut self, alias: &Alias) -> bool {
        // The kernel asks twice where it knew a session by that name.
        if self.asked.replace(alias.clone()).is_some_and(|asked| asked != *alias) {
            self.probes = false;
        }
        self.probes && !self.uses
    }

    /// It looks a session up in its shard: if it asked for the flat name just before, that was a probe.
    pub(crate) fn in_shard(&mut self, alias: &Alias) {
        if let Some(asked) = self.asked.take() {
            self.probes = asked == *alias;
        }
    }

    /// It opens a session.
    pub(crate) fn opens(&mut self) {
        self.asked_for_open = self.asked.take();
    }

    /// It opened this one, which was saved under a name of that form. The kernel may know the name in the shard.
    pub(crate) fn opened(&mut self, alias: &Alias, form: Form) {
        if self.asked_for_open.take().is_some_and(|asked| asked == *alias) && form == Form::Flat {
            self.uses = true;
        }
    }

    /// It saves a session under its flat name.
    pub(crate) fn saves(&mut self) {
        self.uses = true;
    }
}

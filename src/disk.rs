//! Session files on a disk, touched by a small process of their own.
//!
//! Who parses sessions has no right to read these files: they are Odoo's, and the directory below a
//! mount is root's alone. So `sessionfs disk` does it for them: root's own process with the three
//! capabilities it needs, which knows names but never looks into a file, and acts only inside the
//! directory whose descriptor it was given. One such process serves one directory.
//! - [`directory`]: what it does there, relative to that descriptor
//! - [`archive`]: where files go once they are imported
//! - [`wire`]: what is asked and answered
//! - [`server`]: the process; [`launch`]: how it is started
//! - [`client`]: how the others ask

use std::fmt;

use crate::session::name::{Form, RootName, SessionName, Shard, Sid};

pub(crate) mod archive;
pub(crate) mod client;
pub(crate) mod directory;
pub(crate) mod launch;
pub(crate) mod server;
pub(crate) mod wire;

/// A session's file: whose it is, and under which of the two names.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    pub sid: Sid,
    /// In its shard, or in the root.
    pub form: Form,
}

impl Place {
    /// Reads `ab/<sid>` or `werkzeug_<sid>.sess`; `None` for everything else.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let name = match path.split_once('/') {
            Some((shard, name)) => SessionName::in_shard(Shard::parse(shard)?, name)?,
            None => match RootName::parse(path) {
                RootName::Session(name) => name,
                _ => return None,
            },
        };
        Some(Self { sid: name.sid, form: name.form })
    }

    /// Where it is below the root. As secret as the session id.
    pub(crate) fn path(&self) -> String {
        match self.form {
            Form::Sharded => format!("{}/{}", self.sid.shard(), self.sid.entry(self.form)),
            Form::Flat => self.sid.entry(self.form),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({:?}, {:?})", self.form, self.sid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sessions_own_two_names_are_places() {
        let hex = "ab0123456789012345678901234567890123456f";
        for path in [format!("ab/{hex}"), format!("werkzeug_{hex}.sess")] {
            let place = Place::parse(&path).expect("a place");
            assert_eq!(place.path(), path);
            assert!(!format!("{place:?}").contains(hex));
        }
        for path in [
            hex.to_owned(),
            format!("cd/{hex}"),
            format!("../{hex}"),
            format!("ab/../ab/{hex}"),
            format!("/ab/{hex}"),
            format!("ab/{hex}/"),
            "tmpabcdefgh.__wz_sess".to_owned(),
            "ab".to_owned(),
            String::new(),
        ] {
            assert_eq!(Place::parse(&path), None, "{path}");
        }
    }
}

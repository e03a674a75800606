//! Session files on a disk, touched by a small process of their own.
//!
//! Who parses sessions has no right to read these files: they are Odoo's, and the directory below a
//! mount is root's alone. So `sessionfs disk` does it for them: root's own process with the three
//! capabilities it needs, which knows names but never looks into a file, and acts only inside the
//! directory that it has opened or was given. One such process serves one directory.
//! - [`directory`]: what it does there, relative to that descriptor
//! - [`names`]: what may lie there beside session files
//! - [`archive`]: where files go once they are imported
//! - [`mirror`]: the directory that sessions are exported to
//! - [`opened`]: what is opened before the first request
//! - [`wire`]: what is asked and answered
//! - [`server`]: the process; [`launch`]: how it is started
//! - [`client`]: how the others ask

use std::fmt;

use crate::session::name::{Form, RootName, SessionName, Shard, Sid};

pub(crate) mod archive;
pub(crate) mod client;
pub(crate) mod directory;
pub(crate) mod launch;
pub(crate) mod mirror;
pub(crate) mod names;
pub(crate) mod opened;
pub(crate) mod server;
pub(crate) mod wire;

/// The directory, inside a directory of session files, to which a file is moved before its import.
/// A file that is in it is on its way: whoever finds it there completes the import.
pub(crate) const IMPORT_DIRECTORY: &str = ".sessionfs-import";

/// A session's file: whose it is, under which of the two names, and how far its import has got.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    pub sid: Sid,
    /// In its shard, or in the root.
    pub form: Form,
    pub stage: Stage,
}

/// How far the import of a file has got.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Stage {
    /// It is where Odoo has put it.
    Waiting,
    /// It is in [`IMPORT_DIRECTORY`].
    Taken,
}

impl Place {
    /// Where Odoo puts it.
    pub(crate) fn of(sid: Sid, form: Form) -> Self {
        Self { sid, form, stage: Stage::Waiting }
    }

    /// The same file at that stage.
    pub(crate) fn at(&self, stage: Stage) -> Self {
        Self { stage, ..self.clone() }
    }

    /// Reads `ab/<sid>` or `werkzeug_<sid>.sess`, in the import directory or not; `None` for
    /// everything else.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (stage, path) =
            match path.strip_prefix(IMPORT_DIRECTORY).and_then(|rest| rest.strip_prefix('/')) {
                Some(path) => (Stage::Taken, path),
                None => (Stage::Waiting, path),
            };
        let name = match path.split_once('/') {
            Some((shard, name)) => SessionName::in_shard(Shard::parse(shard)?, name)?,
            None => match RootName::parse(path) {
                RootName::Session(name) => name,
                _ => return None,
            },
        };
        Some(Self { sid: name.sid, form: name.form, stage })
    }

    /// Where it is in the directory. As secret as the session id.
    pub(crate) fn path(&self) -> String {
        let name = self.sid.entry(self.form);
        let path = match self.form {
            Form::Sharded => format!("{}/{name}", self.sid.shard()),
            Form::Flat => name,
        };
        match self.stage {
            Stage::Waiting => path,
            Stage::Taken => format!("{IMPORT_DIRECTORY}/{path}"),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({:?}, {:?}, {:?})", self.stage, self.form, self.sid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sessions_own_two_names_are_places() {
        let hex = "ab0123456789012345678901234567890123456f";
        let names = [format!("ab/{hex}"), format!("werkzeug_{hex}.sess")];
        let taken = names.clone().map(|name| format!("{IMPORT_DIRECTORY}/{name}"));
        for path in names.into_iter().chain(taken) {
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
            format!("{IMPORT_DIRECTORY}/{IMPORT_DIRECTORY}/ab/{hex}"),
            format!("{IMPORT_DIRECTORY}ab/{hex}"),
            "tmpabcdefgh.__wz_sess".to_owned(),
            "ab".to_owned(),
            String::new(),
        ] {
            assert_eq!(Place::parse(&path), None, "{path}");
        }
    }
}

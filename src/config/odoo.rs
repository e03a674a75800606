//! What Odoo itself may ask for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listen::PATH_MAX_BYTES;
use super::{bad, file, paths};
use crate::exit::Failure;

/// What Odoo itself may ask for.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Odoo {
    /// Where its user lists and ends the sessions of a user; `None`: nowhere.
    pub socket: Option<PathBuf>,
}

impl Odoo {
    /// Of a mount at this place. A socket is made unless the file says `off`: the owner of the tree can read and delete
    /// every session file anyway, so it gives no right that its user does not have.
    pub(super) fn resolve(file: &file::Odoo, mountpoint: &Path) -> Result<Self, Failure> {
        const KEY: &str = "odoo.socket";
        let socket = match file.socket.as_deref().unwrap_or("on").trim() {
            "on" => Some(paths::odoo_socket(mountpoint)),
            "off" => None,
            path if !path.starts_with('/') => {
                return Err(bad(KEY, path, "is neither \"on\", \"off\" nor an absolute path"));
            }
            path if path.len() > PATH_MAX_BYTES => {
                return Err(bad(KEY, path, "has more than 107 bytes; name a shorter path"));
            }
            path => Some(path.into()),
        };
        Ok(Self { socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(socket: Option<&str>) -> Result<Option<PathBuf>, Failure> {
        let file = file::Odoo { socket: socket.map(ToOwned::to_owned) };
        Odoo::resolve(&file, Path::new("/srv/sessions")).map(|odoo| odoo.socket)
    }

    #[test]
    fn a_socket_is_made_unless_it_is_off() {
        let made = resolve(None).unwrap().unwrap();
        assert!(made.starts_with(paths::RUNTIME_DIR), "{}", made.display());
        assert_eq!(resolve(Some("on")).unwrap(), Some(made));
        assert_eq!(resolve(Some("off")).unwrap(), None);
        assert_eq!(resolve(Some("/run/odoo/s.sock")).unwrap(), Some("/run/odoo/s.sock".into()));
        for wrong in ["", "yes", "run/x", &format!("/{}", "x".repeat(107))] {
            let failure = resolve(Some(wrong)).unwrap_err();
            assert!(failure.to_string().contains("odoo.socket"), "{failure}");
        }
    }
}

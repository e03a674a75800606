//! What Odoo itself may ask for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listen::PATH_MAX_BYTES;
use super::units::duration_text;
use super::{SECOND_MS, YEAR_MS, bad, duration, file, paths};
use crate::exit::Failure;
use crate::session::policy::Bounds;

/// What Odoo itself may ask for.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Odoo {
    /// Where its user lists and ends the sessions of a user; `None`: nowhere.
    pub socket: Option<PathBuf>,
    /// What the values of its system parameters are held to; `None`: they are not followed.
    #[serde(default)]
    pub parameters: Option<Bounds>,
    /// Its configuration file; `None`: it is looked for.
    #[serde(default)]
    pub config: Option<PathBuf>,
}

impl Odoo {
    /// Of a mount at this place. A socket is made unless the file says `off`: the owner of the tree can read and delete
    /// every session file anyway, so it gives no right that its user does not have.
    pub(super) fn resolve(
        file: &file::Odoo,
        lifetime: &file::Lifetime,
        mountpoint: &Path,
        owner_uid: u32,
    ) -> Result<Self, Failure> {
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
        let bounds = bounds(lifetime)?;
        let parameters = file.follow_parameters.unwrap_or(false).then_some(bounds);
        if parameters.is_some() && owner_uid == 0 {
            return Err(bad(
                "odoo.follow_parameters",
                "true",
                "asks PostgreSQL as the owner of the session directory, and that is root; name Odoo's user as owner",
            ));
        }
        let config = file.config.clone();
        if let Some(config) = config.as_ref().filter(|config| !config.is_absolute()) {
            return Err(bad("odoo.config", &config.to_string_lossy(), "is not an absolute path"));
        }
        Ok(Self { socket, parameters, config })
    }
}

/// What a system parameter is held to.
fn bounds(file: &file::Lifetime) -> Result<Bounds, Failure> {
    const RANGE: std::ops::RangeInclusive<u64> = SECOND_MS..=10 * YEAR_MS;
    const OFF: &str = "off";
    let max = |key: &str, text: Option<&str>| match text {
        None | Some(OFF) => Ok(None),
        text => duration(key, text, 0, RANGE).map(Some),
    };
    let min_ms = duration("lifetime.idle_min", file.idle_min.as_deref(), 60 * SECOND_MS, RANGE)?;
    let idle_max_ms = max("lifetime.idle_max", file.idle_max.as_deref())?;
    let absolute_max_ms = max("lifetime.absolute_max", file.absolute_max.as_deref())?;
    for (key, max_ms) in
        [("lifetime.idle_max", idle_max_ms), ("lifetime.absolute_max", absolute_max_ms)]
    {
        if let Some(max_ms) = max_ms.filter(|max_ms| *max_ms < min_ms) {
            return Err(bad(key, &duration_text(max_ms), "is less than lifetime.idle_min"));
        }
    }
    Ok(Bounds { min_ms, idle_max_ms, absolute_max_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(socket: Option<&str>) -> Result<Option<PathBuf>, Failure> {
        let file = file::Odoo { socket: socket.map(ToOwned::to_owned), ..Default::default() };
        let lifetime = file::Lifetime::default();
        Odoo::resolve(&file, &lifetime, Path::new("/srv/sessions"), 0).map(|odoo| odoo.socket)
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

    #[test]
    fn parameters_are_followed_within_bounds_and_never_as_root() {
        let text = |text: &str| Some(text.to_owned());
        let file = file::Odoo { follow_parameters: Some(true), ..Default::default() };
        let resolve = |lifetime: &file::Lifetime, owner_uid| {
            Odoo::resolve(&file, lifetime, Path::new("/srv/sessions"), owner_uid)
        };
        let plain = file::Lifetime::default();
        let bounds = Bounds { min_ms: 60_000, idle_max_ms: None, absolute_max_ms: None };
        assert_eq!(resolve(&plain, 1000).unwrap().parameters, Some(bounds));
        let failure = resolve(&plain, 0).unwrap_err().to_string();
        assert!(failure.contains("name Odoo's user as owner"), "{failure}");
        let crossed = file::Lifetime { idle_max: text("30s"), ..Default::default() };
        let failure = resolve(&crossed, 1000).unwrap_err().to_string();
        assert!(failure.contains("less than lifetime.idle_min"), "{failure}");
    }
}

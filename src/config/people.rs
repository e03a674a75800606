//! Users and groups by name or number.

use nix::errno::Errno;
use nix::unistd::{Group, Uid, User};

use crate::exit::{ExitCode, Failure};

/// A user, and the group it belongs to first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Person {
    pub name: String,
    pub uid: u32,
    /// First group; unknown for a bare number that no account has.
    pub gid: Option<u32>,
}

impl From<User> for Person {
    fn from(user: User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: Some(user.gid.as_raw()) }
    }
}

/// The user of this name or number, if there is one. Fails if the directory service cannot say.
pub(crate) fn find(name: &str, key: &str) -> Result<Option<Person>, Failure> {
    if let Some(user) = known(User::from_name(name), name, key)? {
        return Ok(Some(user.into()));
    }
    let Ok(uid) = name.parse() else { return Ok(None) };
    let user = known(User::from_uid(Uid::from_raw(uid)), name, key)?;
    // A container's user often has no name here.
    Ok(Some(user.map_or_else(|| Person { name: name.to_owned(), uid, gid: None }, Person::from)))
}

/// What was found of a name. An error is no proof that there is none: who takes it for that gives the tree to somebody
/// else while a directory service is away.
fn known<T>(found: nix::Result<Option<T>>, name: &str, key: &str) -> Result<Option<T>, Failure> {
    match found {
        // What getpwnam(3) may also return where there is none.
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        found => {
            found.map_err(|error| Failure::internal(format!("look up '{name}' ({key})"), error))
        }
    }
}

/// The name of a user, or its number where no account has it.
pub(crate) fn name_of(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// The user that a key names.
pub(crate) fn user(name: &str, key: &str) -> Result<Person, Failure> {
    find(name, key)?.ok_or_else(|| {
        Failure::new(
            ExitCode::UnknownUser,
            format!("{key}: there is no user '{name}'; create it or name another"),
        )
    })
}

/// The group that a key names.
pub(crate) fn group(name: &str, key: &str) -> Result<u32, Failure> {
    if let Some(group) = known(Group::from_name(name), name, key)? {
        return Ok(group.gid.as_raw());
    }
    name.parse::<u32>().map_err(|_| {
        Failure::new(
            ExitCode::UnknownUser,
            format!("{key}: there is no group '{name}'; create it or name another"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_and_by_number() {
        assert_eq!(user("root", "owner").unwrap().uid, 0);
        assert_eq!(user("0", "owner").unwrap(), user("root", "owner").unwrap());
        let stranger = user("3999999", "owner").unwrap();
        assert_eq!((stranger.uid, stranger.gid), (3_999_999, None));
        assert_eq!(group("root", "group").unwrap(), 0);
        assert_eq!(group("77", "group").unwrap(), 77);
    }

    #[test]
    fn a_stranger_is_told_with_key_and_name() {
        let failure = user("no-such-user", "worker.user").unwrap_err();
        assert_eq!(failure.code, ExitCode::UnknownUser);
        assert!(failure.to_string().contains("worker.user: there is no user 'no-such-user'"));
        assert_eq!(group("no-such-group", "group").unwrap_err().code, ExitCode::UnknownUser);
    }
    #[test]
    fn an_error_is_not_taken_for_a_stranger() {
        for none in [Ok(None), Err(Errno::ENOENT), Err(Errno::ESRCH)] {
            assert_eq!(known::<Person>(none, "odoo", "owner").unwrap(), None);
        }
        let failure = known::<Person>(Err(Errno::EIO), "odoo", "owner").unwrap_err();
        // Not one after which systemd does not try again.
        assert_eq!(failure.code, ExitCode::Internal);
        assert!(failure.to_string().contains("'odoo' (owner)"), "{failure}");
    }
}

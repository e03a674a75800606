//! The file of secrets: one a line, in base64.
//!
//! One file for all of them, so that a server is given all by one copy, and a rotation replaces all
//! at once. Which of them is written with does not stand in it: Redis says so, to all servers.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::exit::{ExitCode, Failure};
use crate::session::secret::{SECRETS_MAX, Secret};

/// Longer than any file of [`SECRETS_MAX`] secrets with a few lines of comment.
const LENGTH_MAX_BYTES: usize = 16 * 1024;
const COMMENT: &str = "# Secrets of sessionfs, one a line: see sessionfs-secret(8). Who has this file and Redis can\n\
                       # make sessions. Who loses it logs everybody out.\n";

/// The secrets in the file; none if there is no file.
pub(crate) fn read(path: &Path) -> Result<Vec<Secret>, Failure> {
    let file = match File::options()
        .read(true)
        // A pipe that somebody else has put there would block.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
    {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return Err(unusable(path, "only root can read it; run it with sudo"));
        }
        Err(e) => return Err(unusable(path, &format!("{e}; name another with secret.file"))),
    };
    let failed = |e: io::Error| unusable(path, &format!("{e}; name another with secret.file"));
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(unusable(path, "is not a regular file; name one with secret.file"));
    }
    if found.uid() != 0 {
        let owner = found.uid();
        return Err(unusable(
            path,
            &format!("belongs to uid {owner}; give it to root (chown root)"),
        ));
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(unusable(
            path,
            &format!(
                "others than root can read or write it (mode {mode:04o}); allow only root to \
                 (chmod 0600; in Kubernetes defaultMode: 0400)"
            ),
        ));
    }
    let text = read_bounded(file).map_err(failed)?;
    parse(&text).map_err(|reason| unusable(path, &reason))
}

/// The secrets in a text like that of the file.
pub(crate) fn parse(text: &str) -> Result<Vec<Secret>, String> {
    let mut secrets = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // Without the line itself: it may be a secret with one letter missing.
        let secret = Secret::parse(line).ok_or_else(|| {
            format!(
                "line {number} is no secret (32 bytes in base64: 44 characters); copy the file \
                 again from another server, or from the backup"
            )
        })?;
        if !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }
    if secrets.is_empty() {
        return Err(
            "there is no secret in it; copy it again from another server, or remove it".into()
        );
    }
    if secrets.len() > SECRETS_MAX {
        return Err(format!(
            "it has {} secrets, and {SECRETS_MAX} are allowed; remove those that are not needed \
             any more",
            secrets.len()
        ));
    }
    Ok(secrets)
}

/// Reads a text of at most [`LENGTH_MAX_BYTES`], from the file or standard input.
pub(crate) fn read_bounded(from: impl Read) -> io::Result<Zeroizing<String>> {
    // With its whole room from the beginning, so that no copy is left when it grows.
    let mut text = Zeroizing::new(String::with_capacity(LENGTH_MAX_BYTES + 1));
    from.take(LENGTH_MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    if text.len() > LENGTH_MAX_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidData, "is too long"));
    }
    Ok(text)
}

/// The text of a file with these secrets.
pub(crate) fn text(secrets: &[Secret]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(LENGTH_MAX_BYTES));
    text.push_str(COMMENT);
    for secret in secrets {
        text.push_str(&secret.text());
        text.push('\n');
    }
    text
}

/// Makes the file, with one new secret. `None` if there is a file by now.
pub(crate) fn create(path: &Path) -> Result<Option<Secret>, Failure> {
    let secret = Secret::generate();
    let mut is_there = false;
    put(path, std::slice::from_ref(&secret), |new| {
        // A link never replaces what is there.
        let linked = match fs::hard_link(new, path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                is_there = true;
                Ok(())
            }
            linked => linked,
        };
        fs::remove_file(new).and(linked)
    })?;
    Ok((!is_there).then_some(secret))
}

/// Writes the file as a whole: whoever reads it meanwhile gets the former secrets or these.
pub(crate) fn write(path: &Path, secrets: &[Secret]) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        let remedy = "is a symbolic link, and so managed by something else; change it there";
        return Err(unusable(path, remedy));
    }
    put(path, secrets, |new| fs::rename(new, path))
}

fn put(
    path: &Path,
    secrets: &[Secret],
    take_place: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        unusable(path, &format!("cannot be written: {e}; name another place with secret.file"))
    };
    let Some(dir) = path.parent() else { return Err(failed(ErrorKind::InvalidInput.into())) };
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    // The directory may be that of the private Redis, and so the worker's: a name that cannot be
    // foreseen, and that is made anew, leads root nowhere else.
    let new = dir.join(format!(".secret-{:016x}", rand::random::<u64>()));
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(text(secrets).as_bytes()).and_then(|()| file.sync_all())
        })
        .and_then(|()| take_place(&new))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(failed)
}

fn unusable(path: &Path, reason: &str) -> Failure {
    Failure::new(ExitCode::Secret, format!("secret file {}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn refusal(path: &Path) -> String {
        let failure = read(path).unwrap_err();
        assert_eq!(failure.code, ExitCode::Secret);
        failure.to_string()
    }

    #[test]
    fn what_is_made_reads_back_and_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/secret");
        assert_eq!(read(&path).unwrap(), []);
        let made = create(&path).unwrap().unwrap();
        assert_eq!(read(&path).unwrap(), std::slice::from_ref(&made));
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        // Nothing takes the place of a file that is there.
        assert_eq!(create(&path).unwrap(), None);
        assert_eq!(read(&path).unwrap(), std::slice::from_ref(&made));
        let both = [Secret::generate(), made];
        write(&path, &both).unwrap();
        assert_eq!(read(&path).unwrap(), both);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_file_that_others_can_read_or_own_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&path).contains("chmod 0600"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        read(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
        assert!(refusal(&path).contains("belongs to uid 1234"));
        assert!(refusal(dir.path()).contains("not a regular file"));
    }

    #[test]
    fn a_text_that_is_none_is_refused_without_being_repeated() {
        let good = Secret::generate();
        let short = &good.text()[1..];
        for text in ["", "# nothing\n", short, &format!("{}\n{short}\n", *good.text())] {
            let reason = parse(text).unwrap_err();
            assert!(!reason.contains(short), "{reason}");
        }
        let text = format!("# a note\n\n  {}  \n{}", *good.text(), *good.text());
        assert_eq!(parse(&text).unwrap(), [good]);
        let many: Vec<_> = (0..=SECRETS_MAX).map(|_| Secret::generate()).collect();
        assert!(parse(&super::text(&many)).unwrap_err().contains("8 are allowed"));
        assert_eq!(parse(&super::text(&many[1..])).unwrap(), many[1..]);
        assert!(read_bounded(&vec![b'x'; 1 << 20][..]).is_err());
    }

    /// Kubernetes gives a secret as a link to a file that it exchanges.
    #[test]
    fn a_link_is_read_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("data"), dir.path().join("secret"));
        let made = create(&file).unwrap().unwrap();
        symlink("data", &link).unwrap();
        assert_eq!(read(&link).unwrap(), std::slice::from_ref(&made));
        let failure = write(&link, &[Secret::generate()]).unwrap_err();
        assert!(failure.to_string().contains("symbolic link"), "{failure}");
        assert_eq!(read(&link).unwrap(), [made]);
    }
}

//! What may lie in a directory of session files beside them, and is nobody's mistake: marks of an
//! empty directory in a repository or an image, and what filesystems put there themselves.

use nix::dir::Type;

use super::IMPORT_DIRECTORY;

/// Files that only say that the directory is to be kept, or how it is shown.
const MARKS: &[&str] =
    &[".gitkeep", ".keep", ".gitignore", ".placeholder", ".empty", ".directory", ".DS_Store"];
/// Directories of filesystems: of the repair (ext4), and of snapshots.
const SYSTEM_DIRECTORIES: &[&str] = &["lost+found", ".snapshot", ".snapshots", ".zfs"];
/// The beginnings of the names by which a filesystem keeps a removed file that is still open.
const REMOVED_WHILE_OPEN: &[&str] = &[".nfs", ".fuse_hidden", ".smbdelete", ".cifs"];

/// Whether an entry is to be overlooked, in the directory and in its shards. It is neither a session
/// nor a reason to refuse the directory.
pub(super) fn is_tolerated(name: &str, kind: Type) -> bool {
    match kind {
        Type::Directory => SYSTEM_DIRECTORIES.contains(&name) || name == IMPORT_DIRECTORY,
        Type::File => {
            MARKS.contains(&name) || REMOVED_WHILE_OPEN.iter().any(|start| name.starts_with(start))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_what_filesystems_keep_are_tolerated_as_what_they_are() {
        for (name, kind) in [
            (".gitkeep", Type::File),
            (".nfs000000000123abcd00000001", Type::File),
            (".fuse_hidden0000000200000001", Type::File),
            ("lost+found", Type::Directory),
            (IMPORT_DIRECTORY, Type::Directory),
        ] {
            assert!(is_tolerated(name, kind), "{name}");
            assert!(!is_tolerated(name, Type::Symlink), "{name}");
        }
        for (name, kind) in [
            (".ssh", Type::Directory),
            (".local", Type::Directory),
            (".bashrc", Type::File),
            ("lost+found", Type::File),
            (".gitkeep", Type::Directory),
            ("filestore", Type::Directory),
        ] {
            assert!(!is_tolerated(name, kind), "{name}");
        }
    }
}

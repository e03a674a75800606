//! `sessionfs man`: the manual pages. Nothing in them is written twice: options come from the
//! command line's own table, exit codes and the configuration's keys from where they are defined.

mod command;
mod configuration;
mod examples;
mod mount_helper;
mod page;

use std::io;
use std::path::{Path, PathBuf};

use crate::exit::{ExitCode, Failure};
use page::Page;

/// Write the manual pages of all commands, of the configuration file and of the mount helper into a
/// directory
#[derive(clap::Args, Debug)]
pub(super) struct Man {
    /// A directory that exists
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

impl Man {
    /// Writes them.
    pub(super) fn run(&self) -> Result<(), Failure> {
        for page in pages()? {
            let path = self.dir.join(&page.file);
            std::fs::write(&path, page.text).map_err(|e| unwritable(&path, &e))?;
        }
        Ok(())
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    Failure::new(
        ExitCode::UnreadableFile,
        format!("{shown}: {error}; name a directory that exists and can be written to"),
    )
}

fn pages() -> Result<Vec<Page>, Failure> {
    let mut pages = command::pages().map_err(|e| Failure::internal("make the manual", e))?;
    pages.push(configuration::page()?);
    pages.extend(mount_helper::pages());
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(file: &str) -> String {
        pages().unwrap().into_iter().find(|page| page.file == file).unwrap().text
    }

    #[test]
    fn there_is_a_page_for_each_public_command_the_file_and_the_helper() {
        let mut files: Vec<_> = pages().unwrap().into_iter().map(|page| page.file).collect();
        for file in ["sessionfs.8", "sessionfs-mount.8", "sessionfs-bench.1", "sessionfs.toml.5"] {
            assert!(files.iter().any(|name| name == file), "{file} in {files:?}");
        }
        assert!(!files.iter().any(|name| name.contains("worker")), "{files:?}");
        let count = files.len();
        files.sort_unstable();
        files.dedup();
        assert_eq!(files.len(), count);
    }

    #[test]
    fn every_page_has_files_examples_and_exit_status() {
        for Page { file, text } in pages().unwrap() {
            if text.starts_with(".so ") {
                continue;
            }
            for heading in ["NAME", "DESCRIPTION", "FILES", "EXAMPLES", "\"SEE ALSO\""] {
                assert!(text.contains(&format!("\n.SH {heading}\n")), "{file}: {heading}");
            }
            let has_exit_status = text.contains("\n.SH \"EXIT STATUS\"\n");
            assert_eq!(has_exit_status, file != "sessionfs.toml.5", "{file}");
            assert!(!text.contains('`'), "{file}");
        }
    }

    #[test]
    fn the_first_page_has_every_exit_code_and_a_commands_page_its_own() {
        let all = page("sessionfs.8");
        for (code, meaning) in ExitCode::ALL {
            let line = format!("\n{}\n", u8::from(*code));
            assert!(all.contains(&line), "{code:?}");
            let of_unmount = meaning.contains("`unmount`");
            if of_unmount || !meaning.contains("`: ") {
                assert!(page("sessionfs-unmount.8").contains(&line), "{code:?}");
            }
            assert!(!of_unmount || !page("sessionfs-check.8").contains(&line), "{code:?}");
        }
    }

    #[test]
    fn every_key_of_the_configuration_is_explained() {
        let text = page("sessionfs.toml.5");
        for key in crate::config::file::keys() {
            let line = format!("\n.TP\n\\fB{key}\\fR\n");
            assert!(text.contains(&line), "{key}");
        }
        assert!(text.contains("\\fB\"15min\"\\fR"), "{text}");
        assert!(!text.contains("](") && !text.contains("**"), "{text}");
    }
}

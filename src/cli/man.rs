//! `sessionfs man`: the manual pages, from the command line's own table.

use std::io;
use std::path::{Path, PathBuf};

use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};

use crate::config::file::DEFAULT_PATH;
use crate::exit::{ExitCode, Failure};

/// Write the manual pages into a directory: sessionfs.1, and one for each command
#[derive(clap::Args, Debug)]
pub struct Man {
    /// A directory that exists
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

impl Man {
    /// Writes them.
    pub fn run(&self) -> Result<(), Failure> {
        for (name, page) in pages().map_err(|e| Failure::internal("make the manual", e))? {
            let path = self.dir.join(name);
            std::fs::write(&path, page).map_err(|e| unwritable(&path, &e))?;
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

/// Every page with the name of its file.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut table = super::table().disable_help_subcommand(true);
    table.build();
    let commands: Vec<_> =
        table.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    std::iter::once(table).chain(commands).map(page).collect()
}

fn page(command: clap::Command) -> io::Result<(String, Vec<u8>)> {
    let page = Page::new(command).manual("sessionfs");
    let mut text = Vec::new();
    page.render(&mut text)?;
    closing().to_writer(&mut text)?;
    Ok((page.get_filename(), text))
}

/// What is the same for all commands.
fn closing() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let done = ("0".to_owned(), "It did what was asked.");
    let failed = ExitCode::ALL.iter().map(|(code, words)| (u8::from(*code).to_string(), *words));
    for (code, words) in std::iter::once(done).chain(failed) {
        roff.control("TP", ["5"]);
        roff.text([roman(code)]);
        // Doc comments, from which the words come, mark names with backquotes.
        roff.text([roman(words.trim().replace('`', "'"))]);
    }
    roff.control("SH", ["FILES"]);
    roff.control("TP", []);
    roff.text([roman(DEFAULT_PATH)]);
    roff.text([roman(
        "The configuration. Its keys are described in configuration.md of the documentation.",
    )]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_public_command_has_a_page_that_explains_its_exit_codes() {
        let pages = pages().unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"sessionfs.1"), "{names:?}");
        assert!(names.contains(&"sessionfs-mount.1"), "{names:?}");
        assert!(!names.contains(&"sessionfs-worker.1"), "{names:?}");
        for (name, page) in &pages {
            let page = String::from_utf8_lossy(page);
            for (code, _) in ExitCode::ALL {
                let line = format!("\n{}\n", u8::from(*code));
                assert!(page.contains(&line), "{name} lacks {code:?}");
            }
        }
    }
}

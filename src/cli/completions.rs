//! `sessionfs completions`.

use clap_complete::Shell;

use super::output;
use crate::exit::Failure;

/// Print the completions of a shell
///
/// Where they go: bash `/usr/share/bash-completion/completions/sessionfs`, zsh
/// `/usr/share/zsh/vendor-completions/_sessionfs`, fish
/// `/usr/share/fish/vendor_completions.d/sessionfs.fish`.
#[derive(clap::Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(&self) -> Result<(), Failure> {
        let mut table = super::table();
        let name = table.get_name().to_owned();
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut table, name, &mut text);
        output::say(String::from_utf8_lossy(&text).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed_and_no_hidden_one_offered_in_bash() {
        let mut table = super::super::table();
        let mut text = Vec::new();
        clap_complete::generate(Shell::Bash, &mut table, "sessionfs", &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("sessionfs__subcmd__unmount"), "{text}");
        assert!(text.contains("--redis"), "{text}");
    }
}

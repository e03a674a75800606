//! `sessionfs completions`.

use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use super::output;
use crate::config::lifetime::LIVE_KEYS;
use crate::exit::Failure;

/// Print the completion script of a shell
///
/// Where to put it: bash `/usr/share/bash-completion/completions/sessionfs`, zsh
/// `/usr/share/zsh/vendor-completions/_sessionfs`, fish
/// `/usr/share/fish/vendor_completions.d/sessionfs.fish`.
#[derive(clap::Args, Debug)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub(super) fn run(&self) -> Result<(), Failure> {
        output::say(script(self.shell).trim_end())
    }
}

fn script(shell: Shell) -> String {
    let mut table = super::public_table().mut_subcommand("config", |config| {
        config.mut_subcommands(|command| command.mut_args(with_keys))
    });
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut table, "sessionfs", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The keys that can be changed live. (The command itself refuses a wrong one and names the right one.)
fn with_keys(argument: clap::Arg) -> clap::Arg {
    if argument.get_id() == "key" {
        argument.value_parser(PossibleValuesParser::new(LIVE_KEYS))
    } else {
        argument
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also those that no administrator of a server uses.
    fn scripts() -> impl Iterator<Item = (Shell, String)> {
        use clap::ValueEnum;
        Shell::value_variants().iter().map(|shell| (*shell, script(*shell)))
    }

    #[test]
    fn every_command_and_its_options_are_completed() {
        for (shell, script) in scripts() {
            for word in ["unmount", "redis", "after-import"] {
                assert!(script.contains(word), "{shell} lacks {word}");
            }
        }
    }

    #[test]
    fn no_internal_command_is_offered() {
        let all = super::super::table();
        let hidden: Vec<_> = all.get_subcommands().filter(|found| found.is_hide_set()).collect();
        assert!(!hidden.is_empty());
        for (shell, script) in scripts() {
            for command in &hidden {
                let name = command.get_name();
                // Between two signs of the shell's own: it may also be a part of a sentence.
                let offered = [format!(" {name} "), format!(",{name})"), format!("'{name}'")];
                let found = offered.iter().find(|offer| script.contains(offer.as_str()));
                assert_eq!(found, None, "{shell}");
            }
        }
    }

    #[test]
    fn the_keys_of_config_are_completed() {
        // The generator gives the others no values of what has no name.
        for shell in [Shell::Bash, Shell::Zsh] {
            for key in LIVE_KEYS {
                assert!(script(shell).contains(key), "{shell} lacks {key}");
            }
        }
    }
}

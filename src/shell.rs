//! Words for a shell: facts for a script, in lines `name='value'` that are safe for `eval`, and words
//! of commands that somebody pastes.

use std::io::{self, Write as _};
use std::path::Path;

use crate::exit::Failure;

/// A set of assignments, in their order.
#[derive(Debug, Default)]
pub(crate) struct Assignments(String);

impl Assignments {
    /// Adds one. `name` is made of our own words; `value` may be anything.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        debug_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&quoted(value));
        self.0.push('\n');
    }

    /// Prints them as they are: without the care for terminals that would change a value.
    pub(crate) fn print(&self) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(self.0.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::internal("write to standard output", error))
            }
            _ => Ok(()),
        }
    }
}

/// A value that a POSIX shell takes for itself and for one word, whatever is in it.
fn quoted(value: &str) -> String {
    // No shell has a variable with a NUL in it.
    format!("'{}'", value.replace('\0', "").replace('\'', r"'\''"))
}

/// One word of a command that somebody pastes: quoted if a shell would read it otherwise.
pub(crate) fn word(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) { value.to_owned() } else { quoted(value) }
}

/// The same of a path.
pub(crate) fn path(path: &Path) -> String {
    word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_word_is_quoted_where_it_has_to_be() {
        assert_eq!(word("/var/lib/odoo/.local/sessions"), "/var/lib/odoo/.local/sessions");
        assert_eq!(word("/srv/odoo 17/it's"), r"'/srv/odoo 17/it'\''s'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn a_shell_takes_every_value_for_itself() {
        let hostile = [
            "",
            "/opt/odoo 17/data/sessions",
            "'; touch /tmp/owned; '",
            "$(id) `id` ${HOME} \\ \" * ? ~ ! # & | ; < > ( )",
            "two\nlines=\n'",
            "\u{1b}[2J\u{202e}\u{eb}\t\r",
            "-n",
            "'''",
        ];
        for value in hostile {
            let mut facts = Assignments::default();
            facts.set("fact", value);
            facts.set("other", "kept");
            let script = format!("{}printf '%s.%s' \"$fact\" \"$other\"", facts.0);
            for shell in ["sh", "bash"] {
                let said = Command::new(shell).arg("-euc").arg(&script).output().expect("a shell");
                assert!(said.status.success(), "{value:?}");
                assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{value}.kept"));
            }
        }
    }
}

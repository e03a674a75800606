//! What is typed most often, for each command's page.

/// Command (empty: the program itself), lines, and what they do. Each line is one of `sessionfs`, or goes to it by a pipe.
const EXAMPLES: &[(&str, &str, &str)] = &[
    (
        "",
        "sessionfs check",
        "Is everything in order? What is not is told with its remedy, the most important first:",
    ),
    ("", "sessionfs status\nsessionfs list", "What is mounted, and who is logged in:"),
    (
        "bench",
        "sessionfs bench /var/lib/odoo/sessions /tmp/plain",
        "How much slower or faster is a plain directory than the mount?",
    ),
    ("check", "sessionfs check", "Look at everything on this server:"),
    (
        "check",
        "sessionfs check --json",
        "The same for a program; the exit status says the worst that was found:",
    ),
    (
        "completions",
        "sessionfs completions fish > ~/.config/fish/completions/sessionfs.fish",
        "For one user's own shell:",
    ),
    ("config", "sessionfs config get", "What holds, and where each value comes from:"),
    (
        "config",
        "sessionfs config set lifetime.idle 8h",
        "From now on, who does nothing for eight hours logs in again; on all servers:",
    ),
    ("config", "sessionfs config unset lifetime.idle", "What the file says holds again:"),
    (
        "demo",
        "sessionfs demo",
        "See in ten seconds what Odoo does, what Redis holds of it, and how a session ends:",
    ),
    ("discover", "sessionfs discover", "Before the installation:"),
    (
        "import",
        "sessionfs import --dry-run\nsessionfs import",
        "Look first; then import the files that lie in the session directory:",
    ),
    (
        "import",
        "sessionfs import --from /srv/backup/sessions",
        "Import the files of another directory:",
    ),
    (
        "kill",
        "sessionfs kill --login anna\nsessionfs kill --login anna --yes",
        "Log a person out everywhere: look first, then do it:",
    ),
    ("kill", "sessionfs kill --all --yes", "Log everybody out:"),
    ("list", "sessionfs list --class authenticated", "Who is logged in:"),
    ("list", "sessionfs list --login anna --json", "The sessions of one person, for a program:"),
    ("man", "sessionfs man /tmp", "Write all pages into a directory:"),
    (
        "mount",
        "sessionfs mount /srv/sessions --owner odoo",
        "In the foreground, with a Redis of its own, until Ctrl-C:",
    ),
    (
        "mount",
        "sessionfs mount --config /etc/sessionfs/shop.toml",
        "What the unit `sessionfs@shop` does:",
    ),
    (
        "mount",
        "sessionfs mount --dry-run /var/lib/odoo/sessions",
        "Could it be mounted on, and how many session files are in it?",
    ),
    (
        "redis-acl",
        "sessionfs redis-acl --prefix sessionfs-shop",
        "What the user of a second shop may do in a shared Redis:",
    ),
    (
        "release",
        "sessionfs release /var/lib/odoo/sessions",
        "Give the directory back to Odoo, before or after it is unmounted:",
    ),
    ("reload", "sessionfs reload", "Take up a changed configuration file:"),
    ("show", "sessionfs show 3fa1", "One session, by the beginning of its alias:"),
    ("status", "sessionfs status --json", "For a program:"),
    (
        "unmount",
        "sessionfs unmount /srv/sessions",
        "End the one that was started by hand (a unit is ended by systemctl(1)):",
    ),
];

/// Those of a command; of the program, with an empty name.
pub fn of(command: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    EXAMPLES.iter().filter(move |(of, ..)| *of == command).map(|(_, lines, words)| (*lines, *words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::public_table;

    #[test]
    fn every_example_is_understood_by_the_program() {
        for (command, lines, _) in EXAMPLES {
            for line in lines.lines() {
                let (words, _) = line.split_once(" > ").unwrap_or((line, ""));
                let words: Vec<_> = words.split(' ').collect();
                assert!(command.is_empty() || words[1] == *command, "{line}");
                let understood = public_table().try_get_matches_from(&words);
                assert!(understood.is_ok(), "{line}: {}", understood.unwrap_err());
            }
        }
    }

    #[test]
    fn every_command_has_one() {
        for command in public_table().get_subcommands() {
            assert!(of(command.get_name()).next().is_some(), "{}", command.get_name());
        }
    }
}

//! What is typed most often, for each command's page.

/// Command (empty: the program itself), lines, and what they do. Each line is one of `sessionfs`, or goes to it by a pipe.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("", "sessionfs check", "Report problems with their remedies, the most important first:"),
    ("", "sessionfs status\nsessionfs list", "Show the mounts and the sessions:"),
    (
        "audit",
        "sessionfs audit https://shop.example.com --html audit.html",
        "Look at the site, nginx, Odoo and the storage, and keep the report as a page:",
    ),
    (
        "audit",
        "sessionfs audit https://shop.example.com --login audit --password-file /root/audit.password",
        "Also try what a thief would, with an account for that:",
    ),
    (
        "bench",
        "sessionfs bench /var/lib/odoo/sessions /tmp/plain",
        "Compare the mount with a plain directory:",
    ),
    ("check", "sessionfs check", "Check everything on this server:"),
    (
        "check",
        "sessionfs check --json",
        "The same for a program; the exit status is that of the worst finding:",
    ),
    (
        "completions",
        "sessionfs completions fish > ~/.config/fish/completions/sessionfs.fish",
        "Install the completions for one user:",
    ),
    ("config", "sessionfs config get", "Show the values in effect, and where each comes from:"),
    (
        "config",
        "sessionfs config set lifetime.idle 8h",
        "Set the idle time to eight hours on all servers:",
    ),
    ("config", "sessionfs config unset lifetime.idle", "Use the value of the file again:"),
    (
        "demo",
        "sessionfs demo",
        "Show in ten seconds what Odoo does, what Redis stores, and how a session ends:",
    ),
    ("discover", "sessionfs discover", "Before the installation:"),
    (
        "import",
        "sessionfs import --dry-run\nsessionfs import",
        "Make a dry run; then import the files in the session directory:",
    ),
    (
        "import",
        "sessionfs import --from /srv/backup/sessions",
        "Import the files of another directory:",
    ),
    (
        "kill",
        "sessionfs kill --login anna\nsessionfs kill --login anna --yes",
        "Log a user out everywhere: first show the sessions, then end them:",
    ),
    ("kill", "sessionfs kill --all --yes", "Log everybody out:"),
    ("list", "sessionfs list --class authenticated", "List the sessions of logged-in users:"),
    ("list", "sessionfs list --login anna --json", "Print the sessions of one user for a program:"),
    ("man", "sessionfs man /tmp", "Write all pages into a directory:"),
    (
        "mount",
        "sessionfs mount /srv/sessions --owner odoo",
        "Serve in the foreground, with a private Redis, until Ctrl-C:",
    ),
    (
        "mount",
        "sessionfs mount --config /etc/sessionfs/shop.toml",
        "Run what the unit `sessionfs@shop` runs:",
    ),
    (
        "mount",
        "sessionfs mount --dry-run /var/lib/odoo/sessions",
        "Check whether the directory can be mounted on, and count its session files:",
    ),
    (
        "observe",
        "sessionfs observe /var/lib/odoo/sessions",
        "Measure for a minute how long Odoo waits for its session files:",
    ),
    (
        "observe",
        "sessionfs observe --json /var/lib/odoo/sessions > before.json\nsessionfs observe --compare before.json /var/lib/odoo/sessions",
        "Before an installation, and after it:",
    ),
    (
        "redis-acl",
        "sessionfs redis-acl --prefix sessionfs-shop",
        "Print the rights for the user of a second shop in a shared Redis:",
    ),
    (
        "release",
        "sessionfs release /var/lib/odoo/sessions",
        "Give the directory back to Odoo, before or after it is unmounted:",
    ),
    ("reload", "sessionfs reload", "Apply a changed configuration file:"),
    (
        "report",
        "sessionfs report --from 2026-11-01 --to 2026-12-01 --format html > november.html",
        "A month, for an auditor:",
    ),
    ("secret", "sessionfs secret show", "Show which secrets this server holds:"),
    ("secret", "sessionfs secret export > secret.backup", "Keep a copy of them in a safe place:"),
    ("show", "sessionfs show 3fa1", "Show a session by the beginning of its alias:"),
    ("status", "sessionfs status --json", "For a program:"),
    (
        "unmount",
        "sessionfs unmount /srv/sessions",
        "Stop a mount that was started by hand (use systemctl(1) for a unit):",
    ),
];

/// Those of a command; of the program, with an empty name.
pub(super) fn of(command: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
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

//! The page of each command, from the command line's own table.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{bold, italic, roman};

use super::examples;
use super::page::{Draft, Page};
use crate::cli::public_table;
use crate::exit::ExitCode;

/// What everybody can do. All else is the administrator's.
const FOR_USERS: [&str; 3] = ["bench", "completions", "man"];

const FILES: [(&str, &str); 4] = [
    ("/etc/sessionfs/sessionfs.toml", "The configuration; see `sessionfs.toml(5)`."),
    ("/etc/sessionfs/NAME.toml", "That of `sessionfs@NAME.service`, one of several mounts."),
    ("/var/lib/sessionfs", "The data of the private Redis, if no other Redis is configured."),
    (
        "/run/sessionfs",
        "For each mount: its lock, its control socket, and, if it is on a tmpfs, the saves in \
         progress.",
    ),
];

/// The page of the program, and those of its commands.
pub(super) fn pages() -> io::Result<Vec<Page>> {
    let mut table = public_table().disable_help_subcommand(true);
    table.build();
    let commands: Vec<_> = table.get_subcommands().cloned().collect();
    let overview = overview(table, &commands)?;
    let pages = commands.into_iter().map(page);
    std::iter::once(Ok(overview)).chain(pages).collect()
}

fn section(command: &str) -> &'static str {
    if FOR_USERS.contains(&command) { "1" } else { "8" }
}

/// Such as `sessionfs-mount(8)`.
fn reference(command: &Command) -> String {
    format!("sessionfs-{}({})", command.get_name(), section(command.get_name()))
}

fn overview(table: Command, commands: &[Command]) -> io::Result<Page> {
    let mut draft = Draft::new("sessionfs", "8");
    begin(&mut draft, table)?;
    draft.heading("COMMANDS");
    for command in commands {
        draft.item([bold(reference(command))], &about(command));
    }
    exit_status(&mut draft, None);
    draft.files(&FILES);
    examples(&mut draft, "");
    let commands: Vec<_> = commands.iter().map(reference).collect();
    let others = ["sessionfs.toml(5)", "mount.sessionfs(8)", "sessionfs-setup(8)"];
    draft.see_also(commands.iter().map(String::as_str).chain(others));
    Ok(draft.finish())
}

fn page(command: Command) -> io::Result<Page> {
    let name = command.get_name().to_owned();
    let parts: Vec<_> = command.get_subcommands().cloned().collect();
    let mut draft = Draft::new(&format!("sessionfs-{name}"), section(&name));
    begin(&mut draft, command)?;
    if !parts.is_empty() {
        draft.heading("COMMANDS");
    }
    for part in parts {
        describe(&mut draft, part)?;
    }
    exit_status(&mut draft, Some(&name));
    draft.files(&FILES);
    examples(&mut draft, &name);
    draft.see_also(["sessionfs(8)", "sessionfs.toml(5)"]);
    Ok(draft.finish())
}

/// All up to the options.
fn begin(draft: &mut Draft, command: Command) -> io::Result<()> {
    let man = Man::new(command);
    draft.part(|out| man.render_name_section(out))?;
    draft.part(|out| man.render_synopsis_section(out))?;
    draft.part(|out| man.render_description_section(out))?;
    draft.part(|out| man.render_options_section(out))
}

/// A command within a command, as `set` of `config`.
fn describe(draft: &mut Draft, command: Command) -> io::Result<()> {
    let mut title = vec![bold(command.get_name())];
    for argument in command.get_positionals() {
        let value = argument.get_value_names().unwrap_or_default().join(" ");
        title.extend([roman(" "), italic(value)]);
    }
    draft.item(title, &about(&command));
    let command = command.mut_arg("help", |help| help.hide(true));
    draft.part(|out| {
        let mut options = Vec::new();
        Man::new(command).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "");
        write!(out, ".RS\n{options}.RE\n")
    })
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// The codes that this command can end with, or all.
fn exit_status(draft: &mut Draft, command: Option<&str>) {
    draft.heading("EXIT STATUS");
    draft.item([roman("0")], "Success.");
    for (code, meaning) in ExitCode::ALL {
        let meaning = meaning.trim();
        if command.is_none_or(|command| concerns(meaning, command)) {
            draft.item([roman(u8::from(*code).to_string())], meaning);
        }
    }
}

/// Whether a code with this meaning can come from a command. Those of a few begin with their names:
/// `` `show`, `kill`: there is no such session ``.
fn concerns(meaning: &str, command: &str) -> bool {
    let Some((commands, _)) = meaning.split_once("`: ") else { return true };
    commands.split("`, `").any(|named| {
        named.trim_start_matches('`').split(' ').next().is_some_and(|word| word == command)
    })
}

fn examples(draft: &mut Draft, command: &str) {
    draft.heading("EXAMPLES");
    for (lines, words) in examples::of(command) {
        draft.paragraph(words);
        draft.verbatim(lines);
    }
}

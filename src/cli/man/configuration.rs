//! `sessionfs.toml(5)`, from `docs/configuration.md`.

use clap_mangen::roff::bold;

use super::page::{Draft, Page};
use crate::config::file::DEFAULT_PATH;
use crate::config::reference::{Key, paragraph, sections};
use crate::exit::Failure;

const FILES: [(&str, &str); 3] = [
    (DEFAULT_PATH, "Read if no other file is named."),
    (
        "/etc/sessionfs/NAME.toml",
        "Read by `sessionfs@NAME.service`, one of several mounts on a server.",
    ),
    (
        "/etc/sessionfs/redis.password",
        "The password for Redis, written by `sessionfs-setup(8)`. Only root can read it.",
    ),
];

/// One server of several, which share a Redis.
const EXAMPLE: &str = r#"mountpoint = "/var/lib/odoo/sessions"
owner = "odoo"

[redis]
url = "rediss://redis.example.com:6379/0"
username = "sessionfs"
password_file = "/etc/sessionfs/redis.password"

[lifetime]
idle = "8h"
"#;

/// The page.
pub(super) fn page() -> Result<Page, Failure> {
    let mut draft = Draft::new("sessionfs.toml", "5");
    draft.name("sessionfs.toml", "the configuration of sessionfs");
    draft.heading("DESCRIPTION");
    draft.paragraph(paragraph("Without any configuration")?);
    draft.paragraph(paragraph("The configuration is a TOML file")?);
    draft.paragraph("Apply a change with `systemctl reload sessionfs`.");
    draft.heading("KEYS");
    for section in sections() {
        draft.subheading(section.title);
        section.introduction.iter().for_each(|words| draft.paragraph(words));
        section.keys.iter().for_each(|key| explain(&mut draft, key));
        section.closing.iter().for_each(|words| draft.paragraph(words));
    }
    draft.files(&FILES);
    draft.heading("EXAMPLES");
    draft.paragraph("One of several servers; users log in again after eight hours without use:");
    draft.verbatim(EXAMPLE);
    draft.see_also(["sessionfs(8)", "sessionfs-config(8)", "sessionfs-reload(8)"]);
    Ok(draft.finish())
}

fn explain(draft: &mut Draft, key: &Key) {
    let Key { name, default, range, meaning } = key;
    let stop = if meaning.ends_with('.') { "" } else { "." };
    let (first, rest) = meaning.split_at_checked(1).unwrap_or_default();
    let words =
        format!("{}{rest}{stop} Default: {default}. Values: {range}.", first.to_uppercase());
    draft.item([bold(*name)], &words);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::flags::{Flags, Place};

    #[test]
    fn the_example_is_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (path, password) = (dir.path().join("a.toml"), dir.path().join("password"));
        std::fs::write(&password, "secret").unwrap();
        let text = EXAMPLE.replace("/etc/sessionfs/redis.password", &password.to_string_lossy());
        // There need be no Odoo here.
        std::fs::write(&path, text.replace("\"odoo\"", "\"root\"")).unwrap();
        let place = Place { config: Some(path), ..Place::default() };
        let flags = Flags { place, ..Flags::default() };
        let config = Config::resolve(std::path::Path::new("/mnt"), &flags).unwrap();
        assert_eq!(config.lifetimes.idle_ms, 8 * 3600 * 1000);
    }
}

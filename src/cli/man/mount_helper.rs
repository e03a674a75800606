//! `mount.sessionfs(8)`.

use clap_mangen::roff::{bold, italic, roman};

use super::page::{Draft, Page};
use crate::cli::mount_helper::{ACCEPTED, MOUNT_FAILED, OPTIONS, WRONG_CALL};

const FILES: [(&str, &str); 2] = [
    ("/etc/fstab", "Mounts at boot; see `fstab(5)`."),
    ("/etc/sessionfs/sessionfs.toml", "The configuration; see `sessionfs.toml(5)`."),
];

const DESCRIPTION: &str = "`mount(8)` calls it for a filesystem of the type `sessionfs`. It \
                           returns when a session can be served, or prints the reason why not. The \
                           daemon runs in the background; `umount DIR` stops it. SOURCE is \
                           ignored: the mount table always shows `sessionfs`, so use that word in \
                           fstab.";
const ADVICE: &str =
    "There is no watchdog and no restart this way; prefer the unit `sessionfs.service`.";

/// The page, and the same by the helper's other name.
pub(super) fn pages() -> [Page; 2] {
    let page = page();
    let link = Page::link("mount.fuse.sessionfs.8", &page);
    [page, link]
}

fn page() -> Page {
    let mut draft = Draft::new("mount.sessionfs", "8");
    draft.name("mount.sessionfs", "mount Odoo's session directory with mount(8) and fstab(5)");
    draft.heading("SYNOPSIS");
    draft.paragraph("`mount -t sessionfs` SOURCE DIR [`-o` OPTIONS]");
    draft.heading("DESCRIPTION");
    draft.paragraph(DESCRIPTION);
    draft.paragraph(ADVICE);
    draft.heading("OPTIONS");
    for (name, value, meaning) in OPTIONS {
        draft.item([bold(name), roman("="), italic(value)], meaning);
    }
    let accepted = ACCEPTED.map(|name| format!("`{name}`")).join(", ");
    draft.paragraph(&format!(
        "Accepted, and of no effect here, because they are for `mount(8)` or `systemd(1)`, are always \
         true or mean nothing for sessions: {accepted}, `comment=`, and options that begin with \
         `x-`. `ro` is refused: a login is a write. `remount` is refused: see `sessionfs-reload(8)`."
    ));
    draft.heading("EXIT STATUS");
    for (code, meaning) in [
        (0, "A session can be served."),
        (WRONG_CALL, "Wrong usage."),
        (MOUNT_FAILED, "The mount failed; the reason is printed and logged."),
    ] {
        draft.item([roman(code.to_string())], meaning);
    }
    draft.files(&FILES);
    draft.heading("EXAMPLES");
    draft.paragraph("A line of `/etc/fstab`:");
    draft.verbatim(
        "sessionfs /var/lib/odoo/sessions sessionfs config=/etc/sessionfs/shop.toml,_netdev,nofail 0 0",
    );
    draft.paragraph("By hand, with an existing Redis:");
    draft.verbatim(
        "mount -t sessionfs sessionfs /var/lib/odoo/sessions -o owner=odoo,redis=unix:/run/redis/redis.sock",
    );
    draft.see_also(["sessionfs(8)", "sessionfs-mount(8)", "sessionfs.toml(5)", "mount(8)"]);
    draft.finish()
}

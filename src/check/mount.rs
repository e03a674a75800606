//! The mount: whether it is there, ours, looked after, and serves.

use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Finding, Id, counted, what_and_remedy};
use crate::exit::ExitCode;
use crate::host::ask::ask;
use crate::host::mount_table::{FSTYPE, MountTable, Mounted};
use crate::keeper::mount::{FOREIGN_REMEDY, Mountpoint};
use crate::shell;

/// Longer than Redis may be away in an ordinary moment, shorter than a person waits.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub directory: PathBuf,
    /// What is mounted there: the kinds of filesystem, the uppermost last.
    pub layers: Vec<String>,
    /// The process that looks after it.
    pub keeper: Option<i32>,
    /// Whether it can be seen if there is one: its lock is root's.
    pub may_see_keeper: bool,
    /// What it says itself.
    pub answer: Option<Answer>,
    pub owner: Option<u32>,
    /// Whether there is such a directory.
    pub exists: bool,
    /// Why nothing can be mounted there, and what to do, if it contains files that are not Odoo's.
    pub occupied: Option<(String, String)>,
    /// The unit that serves it, or would.
    pub unit: String,
    /// Whether somebody has set that up, or serves it.
    pub is_set_up: bool,
}

/// How a mount answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Answer {
    Silent,
    /// The process that served it has gone.
    Dead,
    /// Something could not be done: what, and why.
    Failed(String, String),
    /// It lets nobody in but its owner and root.
    NotLetIn,
    /// A session was saved, read and ended.
    Served {
        /// The owner of the tree.
        uid: u32,
        took_ms: u64,
    },
}

impl Facts {
    pub(crate) fn gather(
        directory: &Path,
        mounts: &MountTable,
        keeper: Option<i32>,
        unit: &str,
        is_set_up: bool,
    ) -> Self {
        let layers: Vec<String> =
            mounts.layers(directory).map(|layer| layer.fstype.clone()).collect();
        let ours = mounts.at(directory).is_some_and(Mounted::is_ours);
        let answer = ours.then(|| {
            let said = std::env::current_exe().ok().and_then(|program| {
                ask(Command::new(program).arg("probe").arg(directory), ANSWER_WITHIN)
            });
            said.and_then(|said| serde_json::from_str(&said).ok()).unwrap_or(Answer::Silent)
        });
        let owner = match &answer {
            Some(Answer::Served { uid, .. }) => Some(*uid),
            _ => None,
        };
        let may_see_keeper = nix::unistd::geteuid().is_root();
        Self {
            directory: directory.to_owned(),
            // What is mounted there may not answer.
            exists: !layers.is_empty() || directory.is_dir(),
            occupied: layers.is_empty().then(|| occupied(directory)).flatten(),
            layers,
            keeper,
            may_see_keeper,
            answer,
            owner,
            unit: unit.to_owned(),
            is_set_up,
        }
    }

    fn layers_of_ours(&self) -> usize {
        self.layers.iter().filter(|kind| *kind == FSTYPE).count()
    }

    /// What is wrong if sessionfs is not what one sees there. `before` begins the remedy.
    fn not_mounted(&self, cause: Option<Id>, before: &str) -> Option<Finding> {
        let dir = shell::path(&self.directory);
        let unit = &self.unit;
        Some(match self.layers.last() {
            None if !self.exists => Finding::new(
                Id::NotMounted,
                format!("the directory {dir} does not exist"),
                "name the session directory: sessionfs discover shows which one Odoo uses",
            ),
            None => {
                let set_up = format!("sessionfs-setup (without systemd: sessionfs mount {dir})");
                if let Some((what, remedy)) = &self.occupied {
                    let start = format!("{before}systemctl start {unit}");
                    let then = if self.is_set_up { start } else { set_up };
                    return Some(Finding::new(
                        Id::NotMounted,
                        what,
                        format!("{remedy}, then {then}"),
                    ));
                }
                if !self.is_set_up {
                    return Some(Finding::new(
                        Id::NotMounted,
                        format!("nothing is mounted on {dir}, and no configuration names it"),
                        format!("set it up: {set_up}"),
                    ));
                }
                let first =
                    cause.map_or(String::new(), |cause| format!("correct {}, then ", cause.name()));
                Finding::new(
                    Id::NotMounted,
                    format!(
                        "nothing is mounted on {dir}: Odoo gets errors or writes sessions to this \
                         disk"
                    ),
                    format!(
                        "{first}{before}systemctl start {unit} (without systemd: sessionfs mount {dir}); if that \
                         fails, journalctl -u {unit} says why"
                    ),
                )
            }
            Some(kind) if *kind != FSTYPE => {
                let (id, what) = if self.layers_of_ours() > 0 {
                    (
                        Id::Covered,
                        format!("a {kind} filesystem is mounted over the sessionfs on {dir}"),
                    )
                } else {
                    (Id::Foreign, format!("a {kind} filesystem is mounted on {dir}, not sessionfs"))
                };
                // To unmount what Odoo keeps its sessions on would log everybody out.
                Finding::new(id, what, FOREIGN_REMEDY)
            }
            Some(_) => return None,
        })
    }

    /// Judges. Where Redis is the cause (its finding), what is seen of the mount is the consequence:
    /// the mount waits, and comes back by itself. To restart it would take it away from Odoo. `before_start`
    /// is what has to be done before its unit can be started.
    pub(crate) fn findings(&self, cause: Option<Id>, before_start: Option<&str>) -> Vec<Finding> {
        let dir = shell::path(&self.directory);
        let unit = &self.unit;
        let before = before_start.map_or(String::new(), |command| format!("{command}, then "));
        let ours = self.layers_of_ours();
        let restart = format!(
            "{before}systemctl restart {unit} (or: sessionfs unmount {dir}, and mount again)"
        );
        let look = format!("see the log of the service (journalctl -u {unit})");
        let wait = cause.map(|cause| {
            format!(
                "the cause is Redis: see {}. Do not restart sessionfs: Odoo continues by itself \
                 when Redis does",
                cause.name()
            )
        });
        let mut found = Vec::new();
        if let Some(finding) = self.not_mounted(cause, &before) {
            return vec![finding];
        }
        match &self.answer {
            None | Some(Answer::NotLetIn) => {}
            Some(Answer::Silent) => found.push(Finding::new(
                Id::Silent,
                format!("{dir} does not answer within {} s", ANSWER_WITHIN.as_secs()),
                wait.unwrap_or_else(|| format!("{look}, then {restart}")),
            )),
            Some(Answer::Dead) => found.push(Finding::new(
                Id::Dead,
                format!(
                    "the mount on {dir} is dead: the process that served it does not exist any more"
                ),
                restart,
            )),
            Some(Answer::Failed(what, why)) => found.push(Finding::new(
                Id::Unserved,
                format!("in {dir} a session cannot be {what}: {why}"),
                wait.unwrap_or(look),
            )),
            Some(Answer::Served { took_ms, .. }) => found.push(Finding::ok(
                Id::MountOk,
                format!("{dir} serves: a session was saved, read and ended in {took_ms} ms"),
            )),
        }
        if ours > 1 {
            found.push(Finding::new(
                Id::Layers,
                format!(
                    "{} are mounted on {dir}, one over the other",
                    counted(ours as u64, "sessionfs mount")
                ),
                format!(
                    "stop the one that systemd did not start; sessionfs unmount {dir} stops one"
                ),
            ));
        }
        if self.keeper.is_none() && self.may_see_keeper {
            found.push(Finding::new(
                Id::NoKeeper,
                format!("{dir} has no keeper on this host, and without one no worker serves it"),
                format!(
                    "no action needed if systemd is about to start one; else {before}systemctl restart {unit}; if it \
                     was mounted in a container, run the check there"
                ),
            ));
        }
        found
    }
}

/// Why nothing can be mounted on a directory, and what to do, if its files are the reason.
fn occupied(directory: &Path) -> Option<(String, String)> {
    let failure = Mountpoint::take(directory).err()?;
    if failure.code != ExitCode::NotEmpty {
        return None;
    }
    let text = failure.to_string();
    let (what, remedy) = what_and_remedy(&text, "move them away");
    Some((what.to_owned(), remedy.to_owned()))
}

/// A visitor's session, saved, read and ended as Odoo does it. What it leaves is the mark of an
/// ended session, for an hour.
pub(crate) fn probe(directory: &Path) -> Answer {
    let begun = Instant::now();
    match life(directory) {
        Ok(uid) => {
            let took_ms = begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            Answer::Served { uid, took_ms }
        }
        Err((_, error)) if crate::host::mount::is_dead(&error) => Answer::Dead,
        Err((_, error))
            if error.kind() == io::ErrorKind::PermissionDenied
                && !nix::unistd::geteuid().is_root() =>
        {
            Answer::NotLetIn
        }
        Err((what, error)) => Answer::Failed(what.to_owned(), error.to_string()),
    }
}

fn life(directory: &Path) -> Result<u32, (&'static str, io::Error)> {
    const CONTENT: &[u8] = br#"{"context": {}, "db": null, "debug": "", "login": null, "uid": null, "session_token": null}"#;
    let bytes: [u8; 63] = std::array::from_fn(|_| rand::random());
    let sid = URL_SAFE_NO_PAD.encode(bytes);
    let temp = directory.join(format!("tmp{:08x}.__wz_sess", rand::random::<u32>()));
    let session = directory.join(&sid[..2]).join(&sid);
    let step = |what: &'static str| move |error| (what, error);

    let uid = directory.metadata().map_err(step("looked for"))?.uid();
    let saved = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| file.write_all(CONTENT))
        .and_then(|()| std::fs::rename(&temp, &session));
    if saved.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    saved.map_err(step("saved"))?;
    let read = std::fs::read(&session);
    let ended = std::fs::remove_file(&session);
    if read.map_err(step("read"))? != CONTENT {
        return Err(("read", io::Error::other("it differs from what was saved")));
    }
    ended.map_err(step("ended"))?;
    Ok(uid)
}

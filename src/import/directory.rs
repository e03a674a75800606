//! `sessionfs import`: a whole directory of session files.
//!
//! The part that runs as root finds the directory, which may be under a mount that is served, and
//! starts the disk server. The part that parses sessions is unprivileged, as the worker is.

use std::collections::{BTreeMap, HashMap};
use std::iter::repeat_n;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;
use tokio::task::JoinSet;

use super::retirement::{Unsettled, Waiting};
use super::{Importer, Outcome, Reason};
use crate::config::Config;
use crate::disk::Place;
use crate::disk::archive;
use crate::disk::client::{Disk, DiskError, PATIENT_WITHIN};
use crate::disk::directory::Directory;
use crate::disk::launch::{self, Archive, Root, Served};
use crate::exit::{ExitCode, Failure};
use crate::host::directory;
use crate::host::mount::{detach, is_ours};
use crate::host::process::Process;
use crate::redis::RedisStore;
use crate::session::content::Class;
use crate::session::name::Alias;
use crate::session::secret::Keyring;
use crate::store::{Link as _, StoreError, Wait, Waited};

/// How many sessions are imported at once.
const AT_ONCE: usize = 64;
/// How many disk servers read and move their files: each does one thing after the other, and most disks do several at once.
const DISK_SERVERS: usize = 4;
/// So many sessions, which lie near each other on the disk, are one disk server's before the next one has its turn.
const SESSIONS_A_TURN: usize = 16;
/// How many of the sessions that were left are named.
const MAX_LEFT_NAMED: usize = 10;

/// What becomes of the file of an imported session.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Then {
    /// Move them to `DIR.imported`, which only root can read
    #[default]
    Move,
    /// Delete them, and those that were moved there before
    Delete,
}

#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// The directory. If it is a mount of sessionfs, the directory under it.
    pub dir: PathBuf,
    /// What becomes of the files.
    pub then: Then,
    /// A file whose last save is longer ago is left.
    pub max_age: Duration,
    pub dry_run: bool,
}

/// The disk servers of an import, before the first request to them.
#[derive(Debug)]
pub(crate) struct Prepared {
    files: Vec<(Process, OwnedFd)>,
    moved_before: Option<(Process, OwnedFd)>,
    archived_before: bool,
}

/// The result of an import.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Nothing was changed: this is what an import would do.
    pub dry_run: bool,
    /// Imported, of a person who is logged in.
    pub authenticated: u64,
    /// Imported, of a visitor.
    pub anonymous: u64,
    /// Known to Redis before, as a live session or an ended one.
    pub kept: u64,
    /// Not imported: their absolute lifetime was over.
    pub over: u64,
    /// Imported meanwhile by a mount or another import.
    pub vanished: u64,
    /// Left: their last save is longer ago than `import.max_age`.
    pub too_old: u64,
    /// Named like a session, with a content that cannot be one.
    pub no_session: u64,
    /// Sessions that could not be imported.
    pub failed: u64,
    /// Temp files of saves and upload spools: left, and of no use.
    pub temporary: u64,
    /// Files with a name that Odoo never gives: left.
    pub foreign: u64,
    /// The names of the first foreign files.
    pub foreign_names: Vec<String>,
    /// The aliases of the first sessions that were left, and why.
    pub left: BTreeMap<String, String>,
    /// Archived files of an earlier import that are deleted now.
    pub deleted_archived: u64,
    /// The archive, if it holds files of this import, of an earlier one or of a mount.
    pub moved_to: Option<PathBuf>,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl Task {
    /// Finds the directory and starts the disk servers. Must be called as root, while there is one
    /// thread: it unmounts what is mounted over the directory, for this process alone.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Prepared, Failure> {
        if is_ours(&self.dir) {
            uncover(&self.dir)?;
        }
        let root = directory::open(&self.dir).map_err(|e| {
            let code = match e.kind() {
                std::io::ErrorKind::NotADirectory => ExitCode::NotADirectory,
                _ => ExitCode::MountpointMissing,
            };
            let dir = self.dir.display();
            Failure::new(code, format!("directory {dir}: {e}; name the directory of sessions"))
        })?;
        Directory::check_movable(root.as_fd()).map_err(|error| cannot_move(&self.dir, &error))?;
        let owner = Some((config.tree.owner_uid, config.tree.owner_gid));
        let start = |root: &dyn AsFd, archived: Option<&OwnedFd>, owner: Option<(u32, u32)>| {
            let served = Served {
                root: Root::Opened(root.as_fd()),
                archive: archived.map_or(Archive::None, |it| Archive::Opened(it.as_fd())),
                owner,
                session_max_bytes: config.limits.session_bytes,
            };
            launch::start(Path::new("/proc/self/exe"), served)
                .map_err(|e| Failure::internal("start the process that reads session files", e))
        };
        let start_all = |archived: Option<&OwnedFd>| {
            (0..DISK_SERVERS).map(|_| start(&root, archived, owner)).collect::<Result<_, _>>()
        };
        if self.dry_run {
            return Ok(Prepared {
                files: start_all(None)?,
                moved_before: None,
                archived_before: false,
            });
        }
        match self.then {
            Then::Move => {
                let archived = archive::make_beside(&self.dir)?;
                Ok(Prepared {
                    files: start_all(Some(&archived))?,
                    moved_before: None,
                    archived_before: archive::holds_any(&self.dir),
                })
            }
            Then::Delete => {
                let archived = archive::open_beside(&self.dir)?;
                Ok(Prepared {
                    files: start_all(None)?,
                    // Nobody but root can have put a file there.
                    moved_before: archived
                        .map(|archived| start(&archived, None, None))
                        .transpose()?,
                    archived_before: false,
                })
            }
        }
    }

    /// Imports everything, sealed with `keyring`. Calls `progress` with the number of sessions and how many are done.
    pub(crate) async fn run(
        &self,
        prepared: Prepared,
        redis: RedisStore,
        keyring: Keyring,
        progress: impl Fn(u64, u64),
    ) -> Result<Summary, Failure> {
        let began = Instant::now();
        let Prepared { mut files, mut moved_before, archived_before } = prepared;
        // The disk servers end when their sockets are closed, or with this process. They are root's, so it could not end
        // them, and would wait for that in vain.
        for (process, _) in files.iter_mut().chain(&mut moved_before) {
            process.let_go();
        }
        let (_processes, sockets): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let disks = sockets.into_iter().map(connect).collect::<Result<Vec<_>, _>>()?;
        let disk = disks.first().ok_or_else(|| cannot_list(&DiskError::Gone))?;
        let listing = disk.list().await.map_err(|e| cannot_list(&e))?;
        let mut summary = Summary {
            dry_run: self.dry_run,
            temporary: listing.others.temporary,
            foreign: listing.others.foreign,
            foreign_names: listing.others.foreign_names,
            ..Summary::default()
        };
        let sessions = by_session(listing.places);
        let total = sessions.len() as u64;
        let importer =
            |disk: &Disk| Importer::new(disk.clone(), redis.clone(), keyring.clone(), self.max_age);
        let importers: Vec<_> = disks.iter().map(importer).collect();
        let mut turns = importers.iter().cycle().flat_map(|each| repeat_n(each, SESSIONS_A_TURN));
        let mut steps =
            Steps { redis: &redis, running: JoinSet::new(), waiting: Waiting::default(), done: 0 };
        progress(total, 0);
        for ((alias, places), importer) in sessions.into_iter().zip(&mut turns) {
            while let Some(unsettled) = steps.waiting.due() {
                steps.begin(settle(importer.clone(), unsettled, false), &mut summary).await?;
            }
            if self.dry_run {
                steps.begin(look(importer.clone(), alias, places), &mut summary).await?;
            } else {
                steps.begin(import(importer.clone(), alias, places), &mut summary).await?;
            }
            progress(total, steps.done);
        }
        // What is archived is not lost with Redis.
        let at_once = self.then == Then::Move;
        while steps.is_any_left() {
            match steps.waiting.next() {
                Some(unsettled) => {
                    let importer =
                        importers.first().ok_or_else(|| cannot_list(&DiskError::Gone))?;
                    steps.begin(settle(importer.clone(), unsettled, at_once), &mut summary).await?;
                }
                None => steps.join(&mut summary).await?,
            }
            progress(total, steps.done);
        }
        if !self.dry_run {
            disk.tidy().await.map_err(|e| Failure::internal("remove empty directories", e))?;
            if self.then == Then::Move && (archived_before || !summary.is_empty()) {
                summary.moved_to = Some(archive::path_beside(&self.dir));
            }
        }
        if let Some((_process, socket)) = moved_before {
            summary.deleted_archived = delete_all(&connect(socket)?).await?;
        }
        summary.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(summary)
    }
}

impl Summary {
    /// Whether no session was found that could be imported.
    pub(crate) fn is_empty(&self) -> bool {
        self.authenticated + self.anonymous + self.kept + self.over + self.vanished == 0
    }

    /// Whether every session found was imported (or had ended).
    pub(crate) fn is_complete(&self) -> bool {
        self.failed == 0
    }

    fn note(
        &mut self,
        alias: &Alias,
        outcome: Result<Outcome, StoreError>,
        redis: &RedisStore,
    ) -> Result<(), Failure> {
        match outcome {
            Ok(Outcome::Imported(Class::Authenticated)) => self.authenticated += 1,
            Ok(Outcome::Imported(Class::Anonymous)) => self.anonymous += 1,
            Ok(Outcome::Kept) => self.kept += 1,
            Ok(Outcome::Over) => self.over += 1,
            Ok(Outcome::Vanished) => self.vanished += 1,
            Ok(Outcome::Left(reason)) => {
                match reason {
                    // There may be very many, and each for the same reason.
                    Reason::TooOld => {
                        self.too_old += 1;
                        return Ok(());
                    }
                    Reason::NoSession => self.no_session += 1,
                    Reason::TooLong
                    | Reason::Unread(_)
                    | Reason::NotTaken(_)
                    | Reason::NotArchived(_) => self.failed += 1,
                }
                self.note_left(alias, reason.to_string());
            }
            Err(StoreError::Unreadable(why)) => {
                self.failed += 1;
                self.note_left(alias, why);
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::Refused(_))) => {
                return Err(Failure::new(
                    ExitCode::RedisUnreachable,
                    format!(
                        "the import stopped: {error} ({}); what was imported stays, so start it again \
                         when Redis is available",
                        redis.link_cause()
                    ),
                ));
            }
        }
        Ok(())
    }

    fn note_left(&mut self, alias: &Alias, why: String) {
        if self.left.len() < MAX_LEFT_NAMED {
            self.left.insert(alias.to_string(), why);
        }
    }
}

/// What a step of an import comes to.
enum Step {
    /// The file waits.
    Unsettled(Unsettled),
    Done(Alias, Result<Outcome, StoreError>),
}

/// The steps that are under way.
struct Steps<'a> {
    redis: &'a RedisStore,
    running: JoinSet<Step>,
    waiting: Waiting,
    /// How many sessions are done.
    done: u64,
}

impl Steps<'_> {
    /// Begins one, once there is room for it.
    async fn begin(
        &mut self,
        step: impl Future<Output = Step> + Send + 'static,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        while self.running.len() >= AT_ONCE {
            self.join(summary).await?;
        }
        self.running.spawn(step);
        Ok(())
    }

    /// Waits for the end of one.
    async fn join(&mut self, summary: &mut Summary) -> Result<(), Failure> {
        let Some(step) = self.running.join_next().await else { return Ok(()) };
        match step.map_err(|e| Failure::internal("import a session", e))? {
            Step::Unsettled(unsettled) => self.waiting.put(unsettled),
            Step::Done(alias, outcome) => {
                summary.note(&alias, outcome, self.redis)?;
                self.done += 1;
            }
        }
        Ok(())
    }

    fn is_any_left(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }
}

async fn look(importer: Importer<RedisStore>, alias: Alias, places: Vec<Place>) -> Step {
    loop {
        let outcome = importer.dry_run(&places).await;
        if !is_to_be_repeated(&importer, &outcome).await {
            return Step::Done(alias, outcome);
        }
    }
}

async fn import(importer: Importer<RedisStore>, alias: Alias, places: Vec<Place>) -> Step {
    loop {
        let outcome = importer.import(&alias, &places).await;
        if !is_to_be_repeated(&importer, &outcome).await {
            return match outcome {
                Ok(Ok(unsettled)) => Step::Unsettled(unsettled),
                Ok(Err(outcome)) => Step::Done(alias, Ok(outcome)),
                Err(error) => Step::Done(alias, Err(error)),
            };
        }
    }
}

async fn settle(importer: Importer<RedisStore>, mut unsettled: Unsettled, at_once: bool) -> Step {
    loop {
        let outcome = importer.settle(&mut unsettled, at_once).await;
        if !is_to_be_repeated(&importer, &outcome).await {
            return Step::Done(unsettled.alias, outcome);
        }
    }
}

/// Waits for Redis in an outage, within the budget.
async fn is_to_be_repeated<T>(
    importer: &Importer<RedisStore>,
    outcome: &Result<T, StoreError>,
) -> bool {
    matches!(outcome, Err(StoreError::Unavailable(_)))
        && importer.intake.wait_up(Wait::default()).await != Waited::BudgetSpent
}

fn connect(socket: OwnedFd) -> Result<Disk, Failure> {
    // The next request sees its end.
    Disk::connect(socket, PATIENT_WITHIN, AT_ONCE, || ())
        .map_err(|e| Failure::internal("ask for session files", e))
}

/// Nothing is imported from there: a file that stays would bring its session back once Redis has
/// forgotten that it ended.
fn cannot_move(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        ExitCode::ImportIncomplete,
        format!(
            "directory {}: its files cannot be moved ({error}), so nothing was imported; make it \
             writable, or copy it and import the copy (--from)",
            dir.display()
        ),
    )
}

fn cannot_list(error: &DiskError) -> Failure {
    Failure::internal("list the session files", error)
}

/// The files of each session, in the order of the listing: files of one directory lie near each other on the disk.
fn by_session(places: Vec<Place>) -> Vec<(Alias, Vec<Place>)> {
    let mut sessions: Vec<(Alias, Vec<Place>)> = Vec::with_capacity(places.len());
    let mut known: HashMap<Alias, usize> = HashMap::with_capacity(places.len());
    for place in places {
        let alias = place.sid.alias();
        let number = *known.entry(alias.clone()).or_insert(sessions.len());
        match sessions.get_mut(number) {
            Some((_, places)) => places.push(place),
            None => sessions.push((alias, vec![place])),
        }
    }
    sessions
}

/// Deletes every session file, and no other.
async fn delete_all(disk: &Disk) -> Result<u64, Failure> {
    let listing = disk.list().await.map_err(|e| cannot_list(&e))?;
    let mut deleted = 0;
    for place in &listing.places {
        disk.retire(place).await.map_err(|e| Failure::internal("delete a moved file", e))?;
        deleted += 1;
    }
    disk.tidy().await.map_err(|e| Failure::internal("remove empty directories", e))?;
    Ok(deleted)
}

/// Unmounts sessionfs from a directory, in a mount namespace of this process and its children.
fn uncover(dir: &Path) -> Result<(), Failure> {
    const NONE: Option<&str> = None;
    /// A bound for the loop: more than one mount of sessionfs over another does not occur.
    const MAX_LAYERS: usize = 4;
    let failed = |e: nix::errno::Errno| {
        Failure::new(
            ExitCode::MountRefused,
            format!(
                "directory {}: cannot read the underlying directory: {e}; run as root, in a \
                 container with --cap-add SYS_ADMIN",
                dir.display()
            ),
        )
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(failed)?;
    for _ in 0..MAX_LAYERS {
        if !is_ours(dir) {
            break;
        }
        detach(dir)?;
    }
    Ok(())
}

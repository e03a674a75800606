//! `sessionfs import`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Builder;

use super::output::{self, Format};
use super::redis::tell;
use super::secret;
use super::system_log;
use crate::config::file::DEFAULT_PATH;
use crate::config::flags::{Flags, Place};
use crate::config::{self, Config};
use crate::exit::{ExitCode, Failure};
use crate::host::confine;
use crate::host::mount::is_ours;
use crate::import::directory::{Summary, Task, Then};
use crate::keeper::mount;
use crate::odoo::Odoo;
use crate::odoo::root::Root;
use crate::redis::RedisStore;
use crate::shell;
use crate::trail::entry::Event;
use crate::worker::{files, first_contact};

/// Import the session files of a directory into Redis, so that nobody is logged out
#[derive(clap::Args, Debug)]
pub(super) struct Import {
    /// Odoo's session directory (default: the configuration's `mountpoint`); if sessionfs is
    /// mounted on it, its underlying directory
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Another directory to import from: a copy, a backup, a mirror
    #[arg(long, value_name = "OTHER_DIR", conflicts_with = "dir")]
    from: Option<PathBuf>,
    /// Change nothing, and print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Import no file whose last save is longer ago, such as `30days` (default: the configuration's
    /// `import.max_age`)
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// What to do with the files of imported sessions
    #[arg(long = "after-import", value_enum, value_name = "WHAT", default_value_t)]
    then: Then,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

impl Import {
    /// Imports, and prints what became of each kind.
    pub(super) fn run(&self) -> Result<(), Failure> {
        Failure::unless_root("only root can read the files; run it with sudo")?;
        let named = self.from.as_deref().or(self.dir.as_deref());
        let dir =
            mount::resolve_trusted(&config::mountpoint(named, self.place.config.as_deref())?)?;
        let flags = Flags {
            place: self.place.clone(),
            import_max_age: self.max_age.clone(),
            ..Flags::default()
        };
        let config = Config::resolve(&dir, &flags)?;
        if config.mirror.as_ref() == Some(&dir) {
            return Err(Failure::new(
                ExitCode::BadValue,
                format!(
                    "{} is the mirror of a mount; remove 'mirror' from the configuration and \
                     reload first, or name a copy of it",
                    dir.display()
                ),
            ));
        }
        refuse_in_use(&dir)?;
        crate::telemetry::log::init("error")?;
        let task = Task {
            dir,
            then: self.then,
            max_age: Duration::from_millis(config.import.max_age_ms),
            dry_run: self.dry_run,
        };
        let keyring = secret::keyring(&self.place)?;
        let prepared = task.prepare(&config)?;
        // The user is another one soon.
        let by = system_log::who();
        confine::become_unprivileged(&config.worker.account(), || Ok(files::of_redis(&config)))?
            .tell();

        // Redis and the disk server work beside it; to hand each step to another thread costs more than it gives.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::internal("start threads", e))?;
        let bar = bar();
        let summary = runtime.block_on(async {
            let mut settings = config.store_settings(Some(keyring.clone()));
            settings.origin.by = Some(by);
            first_contact::wait(&config, &settings, false).await?;
            let redis = RedisStore::start(settings)
                .map_err(|e| Failure::new(ExitCode::BadUrl, e.to_string()))?;
            let trail = redis.clone();
            let summary = task
                .run(prepared, redis, keyring, |total, done| {
                    bar.set_length(total);
                    bar.set_position(done);
                })
                .await?;
            if !summary.dry_run {
                let imported = summary.authenticated + summary.anonymous;
                let deed = format!(
                    "import: {} sessions of logged-in users, {} of visitors",
                    summary.authenticated, summary.anonymous
                );
                tell(&trail, Event::Command, &deed, Some(imported)).await;
            }
            Ok::<_, Failure>(summary)
        });
        bar.finish_and_clear();
        let summary = summary?;
        if self.format.json {
            output::json(&summary)?;
        } else {
            output::say(words(&summary, &self.deletion()))?;
        }
        if summary.is_complete() {
            return Ok(());
        }
        Err(Failure::new(
            ExitCode::ImportIncomplete,
            format!(
                "{} sessions could not be imported and were left; see the aliases above, correct \
                 the cause and run it again",
                summary.failed
            ),
        ))
    }
}

impl Import {
    /// The command that deletes what was moved: the same directory, in the same Redis.
    fn deletion(&self) -> String {
        let mut command = "sessionfs import".to_owned();
        let mut add = |flag: &str, value: Option<&Path>| {
            if let Some(value) = value {
                command.push_str(flag);
                command.push(' ');
                command.push_str(&shell::word(&value.to_string_lossy()));
            }
        };
        add("", self.dir.as_deref());
        add(" --from", self.from.as_deref());
        let is_named = |path: &&Path| *path != Path::new(DEFAULT_PATH);
        add(" --config", self.place.config.as_deref().filter(is_named));
        if self.place.redis.is_some() {
            // There may be a password in it.
            command.push_str(" --redis URL");
        }
        command + " --after-import delete"
    }
}

/// An Odoo that still uses its files would miss those that are taken away: all its people would be
/// logged out.
fn refuse_in_use(dir: &Path) -> Result<(), Failure> {
    if is_ours(dir) {
        return Ok(());
    }
    let odoo = Odoo::look(&Root::host(), None);
    let Some(process) = odoo.running_in(dir) else { return Ok(()) };
    Err(Failure::new(
        ExitCode::InUse,
        format!(
            "{}: Odoo (pid {}) uses it and no sessionfs is mounted there, so an import would log \
             its users out; nothing was changed; stop that Odoo first, or set it up: \
             sessionfs-setup --instance NAME --sessions {}",
            dir.display(),
            process.pid,
            shell::word(&dir.to_string_lossy())
        ),
    ))
}

/// Shown on a terminal alone.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    // A template of our own that is known to be one.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} sessions, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn words(summary: &Summary, deletion: &str) -> String {
    let imported = if summary.dry_run { "would be imported" } else { "imported" };
    let lines = [
        (summary.authenticated, format!("{imported}: sessions of logged-in users")),
        (summary.anonymous, format!("{imported}: sessions of visitors")),
        (summary.kept, "kept: Redis already knows them, alive or ended".into()),
        (summary.over, "ended: absolute lifetime exceeded".into()),
        (summary.vanished, "imported at the same time, by a mount or another import".into()),
        (summary.too_old, "left: older than import.max_age".into()),
        (summary.no_session, "left: the content is not a session".into()),
        (summary.failed, "left: could not be imported".into()),
        (summary.temporary, "left: temp files and upload spools".into()),
        (summary.foreign, "left: not Odoo's".into()),
        (summary.deleted_archived, "deleted: archived earlier".into()),
    ];
    let rows = lines
        .into_iter()
        .enumerate()
        .filter(|(position, (count, _))| *count > 0 || *position < 2)
        .map(|(_, (count, what))| [count.to_string(), what]);
    let mut text = output::table(["files", "result"], &[0], rows);
    let mut add = |line: String| {
        text.push('\n');
        text.push_str(&line);
    };
    for (alias, why) in &summary.left {
        add(format!("left {alias}: {why}"));
    }
    let unlisted = |count: u64, listed: usize| count.saturating_sub(listed as u64);
    match unlisted(summary.no_session + summary.failed, summary.left.len()) {
        0 => {}
        more => add(format!("left: {more} more")),
    }
    for name in &summary.foreign_names {
        add(format!("not Odoo's: {name}"));
    }
    match unlisted(summary.foreign, summary.foreign_names.len()) {
        0 => {}
        more => add(format!("not Odoo's: {more} more")),
    }
    let elapsed = Duration::from_millis(summary.elapsed_ms);
    if summary.dry_run {
        add(format!("dry run: nothing was changed ({})", humantime::format_duration(elapsed)));
    } else {
        add(format!("done in {}", humantime::format_duration(elapsed)));
    }
    if let Some(dir) = &summary.moved_to {
        if summary.is_empty() {
            add("There was no session to import: all were imported on access, or earlier.".into());
        }
        add(format!(
            "The files are now in {}: they are sessions in plain text. Delete them when you no \
             longer need them:\n    {deletion}",
            dir.display()
        ));
    }
    text
}

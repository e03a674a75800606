//! `sessionfs secret`: what contents are sealed with, on this server and in Redis.

mod show;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use super::output::say;
use super::redis::{Reached, failed, reach, runtime};
use crate::config::flags::Place;
use crate::config::{Config, secret_file};
use crate::control::status::{Report, cluster};
use crate::exit::{ExitCode, Failure};
use crate::redis::probe::{ProbeError, probe};
use crate::session::secret::{Fingerprint, Keyring, SECRETS_MAX, Secret};

/// Manage the secrets that sessions are sealed with: all servers of one Redis hold the same
#[derive(clap::Args, Debug)]
pub(super) struct SecretCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the fingerprints of the secrets of this server, and which one sessions are written with
    Show(show::Show),
    /// Make a new secret, and add it to the file; it is written with after `use`
    Create {
        /// Even if Redis is written with a secret that this server does not hold
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Print the secrets of this server, for `import` on another one and for a backup
    Export {
        /// Print them on a terminal, too
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Read secrets from standard input, and add them to the file
    Import {
        #[command(flatten)]
        place: Place,
    },
    /// Have all servers write with this secret from now on
    Use {
        /// Fingerprint as `show` shows it, or the beginning of one
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: String,
        /// Even if a server that runs does not hold it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a secret from the file: what is still sealed with it can be read no more
    Remove {
        /// Fingerprint as `show` shows it, or the beginning of one
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: String,
        /// Even if Redis cannot be asked whether it is written with
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
}

impl SecretCommand {
    /// Shows or changes.
    pub(super) fn run(&self) -> Result<(), Failure> {
        Failure::unless_root("only root can read the secrets; run it with sudo")?;
        match &self.what {
            What::Show(show) => show.run(),
            What::Create { force, place } => create(&Held::read(place)?, place, *force),
            What::Export { force, place } => export(&Held::read(place)?, *force),
            What::Import { place } => import(&Held::read(place)?),
            What::Use { fingerprint, force, place } => {
                Held::read(place)?.write_with(fingerprint, place, *force)
            }
            What::Remove { fingerprint, force, place } => {
                Held::read(place)?.remove(fingerprint, place, *force)
            }
        }
    }
}

/// The secrets of this server.
struct Held {
    file: PathBuf,
    secrets: Vec<Secret>,
}

impl Held {
    fn read(place: &Place) -> Result<Self, Failure> {
        let file = Config::resolve_secret_file(place)?;
        let secrets = secret_file::read(&file)?;
        Ok(Self { file, secrets })
    }

    /// The one whose fingerprint begins like this.
    fn find(&self, beginning: &str) -> Result<Fingerprint, Failure> {
        const BEGINNING_CHARS: usize = 4;
        let found: Vec<Fingerprint> = self
            .secrets
            .iter()
            .map(Secret::fingerprint)
            .filter(|print| print.to_string().starts_with(beginning))
            .collect();
        match *found {
            [one] if beginning.len() >= BEGINNING_CHARS => Ok(one),
            [] => Err(refused(format!(
                "{} holds no secret {}; see sessionfs secret show",
                self.file.display(),
                beginning.escape_debug()
            ))),
            _ => Err(Failure::new(
                ExitCode::Usage,
                format!(
                    "more than one secret could be meant; name at least {BEGINNING_CHARS} digits"
                ),
            )),
        }
    }

    /// Adds what is not there yet. Says how many that were.
    fn add(&self, more: Vec<Secret>) -> Result<usize, Failure> {
        let mut secrets = self.secrets.clone();
        secrets.extend(more.into_iter().filter(|one| !self.secrets.contains(one)));
        if secrets.len() > SECRETS_MAX {
            return Err(refused(format!(
                "{} would hold {} secrets, and {SECRETS_MAX} are allowed; remove one that is not \
                 needed any more (sessionfs secret remove)",
                self.file.display(),
                secrets.len()
            )));
        }
        let added = secrets.len() - self.secrets.len();
        if added > 0 {
            secret_file::write(&self.file, &secrets)?;
        }
        Ok(added)
    }

    fn write_with(&self, beginning: &str, place: &Place, force: bool) -> Result<(), Failure> {
        let secret = self.find(beginning)?;
        let Reached { runtime, store } = reach(place)?;
        let (before, lacking) = runtime.block_on(async {
            let before = store.written_secret().await.map_err(|error| failed(&error))?;
            let servers = store.servers().await.map_err(|error| failed(&error))?;
            Ok::<_, Failure>((before, lacking(&cluster(&servers, None), secret)))
        })?;
        if before == Some(secret) {
            return say(format!("Redis at {} is written with {secret} already", store.address()));
        }
        if !force && !lacking.is_empty() {
            return Err(refused(format!(
                "{} does not hold {secret} yet, and nothing was changed; import it there (sessionfs \
                 secret import; a server that runs has read its file after 5 seconds), or use \
                 --force",
                lacking.join(", ")
            )));
        }
        runtime.block_on(store.write_with(secret)).map_err(|error| failed(&error))?;
        say(format!(
            "Redis at {} is written with {secret} from now on; all servers follow within a second",
            store.address()
        ))
    }

    fn remove(&self, beginning: &str, place: &Place, force: bool) -> Result<(), Failure> {
        let secret = self.find(beginning)?;
        if !force {
            let Reached { runtime, store } = reach(place)?;
            let written =
                runtime.block_on(store.written_secret()).map_err(|error| failed(&error))?;
            if written.is_none_or(|written| written == secret) {
                return Err(refused(format!(
                    "Redis at {} is written with {secret}, and nothing was changed; have another \
                     one written with first (sessionfs secret use)",
                    store.address()
                )));
            }
        }
        let kept: Vec<Secret> =
            self.secrets.iter().filter(|one| one.fingerprint() != secret).cloned().collect();
        if kept.is_empty() {
            return Err(refused(format!(
                "{secret} is the only secret of this server, and nothing was changed; remove the \
                 file {} itself if that is meant",
                self.file.display()
            )));
        }
        secret_file::write(&self.file, &kept)?;
        say(format!("removed {secret} from {}", self.file.display()))
    }
}

/// How to get what is missing.
const COPY: &str = "copy it from a server that has it (ssh SERVER sudo sessionfs secret export | \
                    sudo sessionfs secret import), or from the backup";

/// The servers that run and do not say that they hold it, in words.
fn lacking(servers: &[Report], secret: Fingerprint) -> Vec<String> {
    const SHOWN_MAX: usize = 5;
    servers
        .iter()
        .filter(|server| !server.secrets.contains(&secret))
        .take(SHOWN_MAX)
        .map(|server| super::output::visible(&server.host.to_string(), 64))
        .collect()
}

fn create(held: &Held, place: &Place, force: bool) -> Result<(), Failure> {
    let file = held.file.display();
    if held.secrets.is_empty() {
        if !force && let Some(written) = written_by_others(place)? {
            let file = &held.file;
            return Err(lacks(file, written, "; if it is lost everywhere, use --force"));
        }
        let made = secret_file::create(&held.file)?
            .ok_or_else(|| refused(format!("{file} was made meanwhile; nothing was changed")))?
            .fingerprint();
        return say(format!(
            "made {file} with the secret {made}\nCopy it to every server of this Redis, and to a \
             backup: sessionfs secret export"
        ));
    }
    let made = Secret::generate();
    let fingerprint = made.fingerprint();
    held.add(vec![made])?;
    say(format!(
        "added the secret {fingerprint} to {file}\nCopy it to every other server (export here, import \
         there), and then write with it: sessionfs secret use {fingerprint}"
    ))
}

/// The secret that Redis is written with, if it is there and can be asked.
fn written_by_others(place: &Place) -> Result<Option<Fingerprint>, Failure> {
    let mut settings = Config::resolve_redis(place)?;
    // One that nobody else holds.
    settings.keyring = Keyring::new(vec![Secret::generate()]);
    Ok(match runtime()?.block_on(probe(&settings)) {
        Err(ProbeError::OtherSecret(_, written)) => Some(written),
        _ => None,
    })
}

fn export(held: &Held, force: bool) -> Result<(), Failure> {
    if held.secrets.is_empty() {
        return Err(none(&held.file));
    }
    let mut out = std::io::stdout().lock();
    if out.is_terminal() && !force {
        return Err(Failure::new(
            ExitCode::Usage,
            "the secrets would be shown on this terminal; redirect the output, or use --force",
        ));
    }
    out.write_all(secret_file::text(&held.secrets).as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failure::internal("write to standard output", e))
}

fn import(held: &Held) -> Result<(), Failure> {
    let text = secret_file::read_bounded(std::io::stdin().lock())
        .map_err(|e| refused(format!("standard input: {e}; give it what 'export' has printed")))?;
    let secrets = secret_file::parse(&text)
        .map_err(|reason| refused(format!("standard input: {reason}; nothing was changed")))?;
    let fingerprints: Vec<String> =
        secrets.iter().map(|one| one.fingerprint().to_string()).collect();
    let added = held.add(secrets)?;
    say(format!("{} holds {} ({added} new)", held.file.display(), fingerprints.join(", ")))
}

/// The keyring of a command that opens or seals contents, as a mount with the same configuration
/// would have it. The file is made if neither it nor a secret in Redis is there, as a mount would.
pub(super) fn keyring(place: &Place) -> Result<Keyring, Failure> {
    let held = Held::read(place)?;
    let mut secrets = held.secrets;
    if secrets.is_empty() {
        let Reached { runtime, store } = reach(place)?;
        if runtime.block_on(store.written_secret()).map_err(|error| failed(&error))?.is_some() {
            return Err(none(&held.file));
        }
        secret_file::create(&held.file)?;
        secrets = secret_file::read(&held.file)?;
    }
    Keyring::new(secrets).ok_or_else(|| none(&held.file))
}

fn none(file: &Path) -> Failure {
    refused(format!("there is no file {}; {COPY}", file.display()))
}

/// The file is there, or not, and does not have the one that matters. `more` is said at the end.
fn lacks(file: &Path, written: Fingerprint, more: &str) -> Failure {
    refused(format!(
        "Redis is written with the secret {written}, which is not in {}; {COPY}{more}",
        file.display()
    ))
}

fn refused(message: String) -> Failure {
    Failure::new(ExitCode::Secret, message)
}

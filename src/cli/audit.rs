//! `sessionfs audit`.

mod text;

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::output::{self, Format};
use super::redis::{reach, runtime};
use crate::audit::account::{Account, databases};
use crate::audit::browser::{Browser, Issued};
use crate::audit::finding::{Part, Question};
use crate::audit::leaks::{self, Log, USUAL_LOGS};
use crate::audit::nginx::effective;
use crate::audit::report::Report;
use crate::audit::site::{self, Site};
use crate::audit::stress::{self, Load};
use crate::audit::tls::Tls;
use crate::audit::{hijack, live, nginx, odoo_conf, storage};
use crate::check;
use crate::config::Config;
use crate::config::flags::Place;
use crate::exit::{ExitCode, Failure};
use crate::host::signals::Interrupts;
use crate::host::terminal::ask_secret;
use crate::odoo::root::Root;
use crate::odoo::{Instance, Odoo, Sign};
use crate::redis::Settings;
use crate::session::content::{self, Class, Content};
use crate::session::policy::preset::{PRESETS, Preset};
use crate::session::policy::rules::Rules;

/// Look at the whole chain from browser to disk, and try what a thief would
///
/// Looks at Odoo's and nginx's configuration and at where sessions are kept; with URL also at the site
/// as a browser meets it; with --login at what somebody could do with a stolen cookie. Each finding says
/// what was seen, what it means, and what to do. Run it as root on the server of Odoo and nginx.
/// Exit code 0: all is well; 80: something should be mended or could not be looked at; 81: something
/// is wrong.
#[derive(clap::Args, Debug)]
pub(super) struct Audit {
    /// The site: scheme, name and port, such as `https://shop.example.com`
    #[arg(value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    reaching: Reaching,
    #[command(flatten)]
    theft: Theft,
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    looking: Looking,
    #[command(flatten)]
    place: Place,
    /// Write the report to FILE, as one HTML page that can be printed
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

/// How the site is reached.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "The site")]
struct Reaching {
    /// Connect to this address, whatever the name of the site leads to
    #[arg(long, value_name = "IP", requires = "url")]
    address: Option<IpAddr>,
    /// The port of plain HTTP beside HTTPS
    #[arg(long, value_name = "N", default_value_t = 80, requires = "url")]
    http_port: u16,
    /// Trust the certificates in this file (PEM), besides those that the system trusts
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,
    /// The site is on another host, and I answer for it; NAME is its name in URL
    #[arg(long, value_name = "NAME", requires = "url")]
    yes_this_is_mine: Option<String>,
}

/// What a thief may try.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "The simulation of a theft")]
struct Theft {
    /// Log in as this user, and steal that session
    #[arg(long, value_name = "NAME", requires = "url")]
    login: Option<String>,
    /// The user's password (default: ask at the terminal)
    #[arg(long, value_name = "FILE", requires = "login")]
    password_file: Option<PathBuf>,
    /// The user's database (default: the only one)
    #[arg(long, value_name = "NAME", requires = "login")]
    database: Option<String>,
    /// Change the user's password, and change it back
    #[arg(long, requires = "login")]
    change_password: bool,
    /// Wait until the idle time is over, for up to 2 hours
    #[arg(long, requires = "login")]
    wait_idle: bool,
    /// Look for session ids in this log, besides those that configurations name; may be repeated
    #[arg(long, value_name = "FILE", requires = "login")]
    log: Vec<PathBuf>,
}

/// How much load there is.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Load")]
struct LoadFlags {
    /// Also send requests for the login page, a call and the cart
    #[arg(long, requires = "url")]
    stress: bool,
    /// For how long, at most 10min
    #[arg(
        long = "for",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration,
        requires = "stress"
    )]
    time: Duration,
    /// Requests a second, at most 200
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(stress::RATE_MAX)),
        requires = "stress"
    )]
    rate: u32,
}

/// What is looked at on this host.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Configuration and storage")]
struct Looking {
    /// Odoo's session directory (default: as for `sessionfs check`)
    #[arg(long, value_name = "DIR")]
    sessions: Option<PathBuf>,
    /// Odoo's configuration file, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    odoo_conf: Option<PathBuf>,
    /// The saved output of `nginx -T` (default: of the nginx that runs here)
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
    /// Compare the lifetimes with what an authority asks for: pci-dss-8.2.8, owasp-low, owasp-high,
    /// nist-aal2, nist-aal3
    #[arg(long, value_name = "NAME", value_parser = preset)]
    preset: Option<&'static Preset>,
}

/// Each is held open.
const LOGS_MAX: usize = 100;

fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text.trim())
        .map_err(|error| format!("{error}; write for example 30s or 5min"))?;
    if time < Duration::from_secs(1) || time > stress::LONGEST {
        return Err("use 1s to 10min".to_owned());
    }
    Ok(time)
}

/// By its name; the error lists all.
fn preset(name: &str) -> Result<&'static Preset, String> {
    Preset::named(name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("use one of {}", names.join(", "))
    })
}

/// What is known of this host before the site is asked.
struct Known<'a> {
    instances: Vec<&'a Instance>,
    /// Session directories.
    directories: Vec<PathBuf>,
    /// Where the sessions are, and the lifetimes in force.
    redis: Option<(Settings, Arc<Rules>)>,
    logs: Vec<Log>,
}

impl Audit {
    /// Looks, tries, and prints.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let began = SystemTime::now();
        // Opened first: what was found must not be lost because it cannot be written.
        let html = self.html.as_deref().map(Page::create).transpose()?;
        let password = self.password()?;
        // Whatever is pressed, what was begun is ended: that has a bound.
        let _interrupts = Interrupts::note_all();
        let runtime = runtime()?;
        let browser = match &self.url {
            Some(url) => Some(runtime.block_on(self.browser(url))?),
            None => None,
        };
        let mut report = Report::new(began);
        report.site = browser.as_ref().map(|browser| browser.site().to_string());
        report.address = browser.as_ref().map(|browser| browser.site().address.to_string());
        report.preset = self.looking.preset.map(|preset| preset.name);
        let odoo = Odoo::look(&Root::host(), self.looking.odoo_conf.as_deref());
        let known = self.look(&odoo, browser.as_ref().map(Browser::site), &mut report);
        if let Some(browser) = &browser {
            runtime.block_on(self.try_out(browser, password, &known, &mut report));
        }
        report.interrupted = Interrupts::noted();
        if let Some(html) = html {
            html.finish(&report.page())?;
        }
        if self.format.json {
            output::json(&report)?;
        } else {
            text::say(&report)?;
        }
        report.outcome()
    }

    /// Of the account, from its file or from the terminal.
    fn password(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let Some(login) = &self.theft.login else { return Ok(None) };
        if let Some(path) = &self.theft.password_file {
            return read_password(path).map(Some);
        }
        let question = format!("Password of {}: ", output::visible(login, 64));
        ask_secret(&question).map(Some).map_err(|error| {
            let why = if error.kind() == ErrorKind::Interrupted {
                "given up".to_owned()
            } else {
                error.to_string()
            };
            Failure::new(
                ExitCode::Usage,
                format!(
                    "the password cannot be asked for at the terminal ({why}); use --password-file"
                ),
            )
        })
    }

    async fn browser(&self, url: &str) -> Result<Browser, Failure> {
        let Reaching { address, http_port, ca_file, yes_this_is_mine } = &self.reaching;
        let tls = Tls::new(ca_file.as_deref())?;
        let asked = site::Asked {
            url: url.to_owned(),
            address: *address,
            plain_port: *http_port,
            is_mine: yes_this_is_mine.clone(),
        };
        let site = Site::find(&asked).await?;
        Ok(Browser::new(Arc::new(site), tls, Issued::default()))
    }

    /// At what needs no request: configurations and storage.
    fn look<'a>(&self, odoo: &'a Odoo, site: Option<&Site>, report: &mut Report) -> Known<'a> {
        let named = self.looking.sessions.as_deref();
        let instances = odoo_conf::instances(&odoo.instances, named);
        let text = effective::text(self.looking.nginx.as_deref(), &Root::host());
        let is_name = |host: &&str| *host != "localhost" && host.parse::<IpAddr>().is_err();
        let has_workers = instances.iter().any(|one| one.workers().is_some_and(|count| count > 0));
        let around = nginx::Surroundings {
            host: site.map(|site| site.host.as_str()).filter(is_name).map(ToOwned::to_owned),
            http_ports: instances.iter().filter_map(|one| one.http_port()).collect(),
            gevent_ports: instances.iter().map(|one| one.gevent_port()).collect(),
            has_workers,
        };
        report.add(nginx::findings(&text, &around));
        let has_proxy = text.is_ok() || site.is_some_and(|site| site.is_tls);
        report.add(odoo_conf::findings(&instances, has_proxy));
        let looked = storage::look(&check::Asked {
            directory: self.looking.sessions.clone(),
            place: self.place.clone(),
            odoo_conf: self.looking.odoo_conf.clone(),
        });
        report.add(looked.findings);
        let reached = reach(&looked.place)
            .and_then(|reached| Ok((Config::resolve_redis(&looked.place)?, reached.store.rules())));
        let in_force = reached.as_ref().map(|(_, rules)| &**rules);
        let in_force = in_force.map_err(|failure| failure.message.as_str());
        report.add(storage::lifetimes(in_force, self.looking.preset).into_iter().collect());
        let mut directories = looked.directories;
        for here in instances.iter().filter_map(|one| one.sessions_here.clone()) {
            if !directories.contains(&here) {
                directories.push(here);
            }
        }
        let named = text.as_deref().map(nginx::logs).unwrap_or_default();
        let logs = self.logs(&named, &instances);
        Known { instances, directories, redis: reached.ok(), logs }
    }

    /// As they are now: only what is written from here on is searched.
    fn logs(&self, named: &[(PathBuf, bool)], instances: &[&Instance]) -> Vec<Log> {
        // What a container calls so is another file here.
        let is_here = |one: &&&Instance| !matches!(&one.sign, Sign::Process(of) if of.contained);
        let own = instances.iter().filter(is_here).filter_map(|one| one.log_file());
        let usual = USUAL_LOGS.iter().map(PathBuf::from);
        let of_nginx = named.iter().map(|(path, _)| path.clone());
        let mut paths: Vec<PathBuf> = Vec::new();
        for path in self.theft.log.iter().cloned().chain(of_nginx).chain(own).chain(usual) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        let is_asked = |path: &PathBuf| self.theft.log.contains(path);
        let is_buffered = |path: &PathBuf| named.contains(&(path.clone(), true));
        let marked = paths.into_iter().take(LOGS_MAX);
        marked.map(|path| Log::mark(path.clone(), is_asked(&path), is_buffered(&path))).collect()
    }

    /// At the site.
    async fn try_out(
        &self,
        browser: &Browser,
        password: Option<Zeroizing<String>>,
        known: &Known<'_>,
        report: &mut Report,
    ) {
        report.add(live::findings(browser).await);
        let mut hijack = None;
        let database = self.database(browser, known).await;
        if self.theft.login.is_some() && database.is_none() {
            let seen = "it is not known which database the user is in";
            report.add(vec![Question::Login.unknown(seen, "name it with --database")]);
        }
        if let (Some(login), Some(password), Some(database)) =
            (&self.theft.login, password, database)
        {
            let owner = Content {
                class: Class::Authenticated,
                uid: None,
                db: Some(database.clone()),
                login: Some(content::login(login)),
            };
            hijack = Some(hijack::Asked {
                account: Account { database, login: login.clone(), password },
                change_password: self.theft.change_password,
                wait_idle: self.theft.wait_idle,
                idle_ms: known.redis.as_ref().map(|(_, rules)| rules.idle_ms(&owner)),
                directories: known.directories.clone(),
                redis: known.redis.as_ref().map(|(settings, _)| settings.clone()),
                logs: known.logs.clone(),
            });
        }
        if let Some(asked) = &hijack {
            report.add(Box::pin(hijack::simulate(browser, asked)).await);
        }
        // Nobody who could not log in above can log in now.
        let account = hijack.as_ref().map(|asked| &asked.account);
        let is_refused = report
            .of(Part::Hijack)
            .iter()
            .any(|found| found.id == Question::Login.id() && !found.remedy.is_empty());
        if self.load.stress && !Interrupts::noted() {
            let load = Load { time: self.load.time, rate: self.load.rate };
            let account = account.filter(|_| !is_refused);
            let (measured, findings) = Box::pin(stress::run(browser, account, load)).await;
            report.add(findings);
            report.stress = Some(measured);
        }
        leaks::remove(&known.directories, browser.issued().all());
    }

    /// The one that is named, else the only one that Odoo serves, for who logs in.
    async fn database(&self, browser: &Browser, known: &Known<'_>) -> Option<String> {
        self.theft.login.as_ref()?;
        if let Some(named) = &self.theft.database {
            return Some(named.clone());
        }
        let mut all: Vec<String> =
            known.instances.iter().flat_map(|instance| instance.databases()).collect();
        all.sort_unstable();
        all.dedup();
        if all.len() != 1 {
            all = databases(&mut browser.fresh()).await.unwrap_or_default();
        }
        match all.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        }
    }
}

/// A page that takes its place when it is whole: until then the one of before stays. What it says helps whoever attacks
/// this host, so it is for its owner alone.
struct Page {
    path: PathBuf,
    /// Beside it.
    unfinished: PathBuf,
    file: File,
}

impl Page {
    fn create(path: &Path) -> Result<Self, Failure> {
        let wrong = |error: &std::io::Error| unwritten(path, error);
        // It would be replaced, and not written to: a link, a device, a pipe.
        let is_other = path.symlink_metadata().is_ok_and(|found| !found.is_file());
        let name = path.file_name().filter(|_| !is_other);
        let name = name.ok_or_else(|| wrong(&std::io::Error::other("is not a regular file")))?;
        let mut hidden = OsString::from(format!(".{:016x}.", rand::random::<u64>()));
        hidden.push(name);
        let unfinished = path.with_file_name(hidden);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(|error| wrong(&error))?;
        Ok(Self { path: path.to_owned(), unfinished, file })
    }

    fn finish(mut self, text: &str) -> Result<(), Failure> {
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| std::fs::rename(&self.unfinished, &self.path))
            .map_err(|error| unwritten(&self.path, &error))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // There is none any more once it has taken its place.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("--html: {}: {error}; name another file", path.display());
    Failure::new(ExitCode::AuditOutput, message)
}

fn read_password(path: &Path) -> Result<Zeroizing<String>, Failure> {
    const LENGTH_MAX_BYTES: u64 = 1024;
    let unusable = |why: String| {
        Failure::new(
            ExitCode::UnreadableFile,
            format!("--password-file: {}: {why}", path.display()),
        )
    };
    let file = File::options()
        .read(true)
        // A pipe that nobody writes to would block.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| unusable(error.to_string()))?;
    let found = file.metadata().map_err(|error| unusable(error.to_string()))?;
    if !found.is_file() {
        return Err(unusable("is not a regular file".to_owned()));
    }
    if ![0, geteuid().as_raw()].contains(&found.uid()) {
        return Err(unusable("belongs to somebody else; chown it".to_owned()));
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(unusable(format!("others can read it (mode {mode:04o}); chmod 0600 it")));
    }
    if found.len() > LENGTH_MAX_BYTES {
        return Err(unusable(format!("has more than {LENGTH_MAX_BYTES} bytes")));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LENGTH_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| unusable(error.to_string()))?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(unusable("is empty; write the password into it".to_owned()));
    }
    Ok(Zeroizing::new(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_page_takes_the_place_of_the_former_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.html");
        std::fs::write(&path, "former").unwrap();
        let is = || std::fs::read_to_string(&path).unwrap();
        let page = Page::create(&path).unwrap();
        assert_eq!(is(), "former");
        drop(page);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        Page::create(&path).unwrap().finish("new").unwrap();
        assert_eq!((is().as_str(), path.metadata().unwrap().mode() & 0o777), ("new", 0o600));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let link = dir.path().join("link.html");
        symlink(&path, &link).unwrap();
        for wrong in [link.as_path(), dir.path(), Path::new("/dev/null"), Path::new("/none/x")] {
            assert!(Page::create(wrong).is_err(), "{}", wrong.display());
        }
        assert_eq!(is(), "new");
    }

    #[test]
    fn a_password_is_read_whole_and_from_a_file_of_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let read = |text: &str, owner: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
            read_password(&path).map(|password| password.len()).map_err(|error| error.message)
        };
        let own = geteuid().as_raw();
        assert_eq!(read("geheim\n", own), Ok(6));
        assert_eq!(read(&"x".repeat(1024), own), Ok(1024));
        assert!(read(&"x".repeat(1025), own).unwrap_err().contains("1024 bytes"));
        assert!(read("geheim\n", 12_345).unwrap_err().contains("somebody else"));
    }
}

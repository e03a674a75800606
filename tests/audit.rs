//! `sessionfs audit` on a whole chain: a real nginx with TLS, a process that answers as Odoo does, a real
//! mount and a real Redis. Everything is as it should be, or one thing is not.
//!
//! Needs the Debian packages `nginx-light` and `openssl`.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::authority::Authority;
use support::http::until;
use support::mount::Mount;
use support::redis::{Redis, free_port};

const NAME: &str = "shop.example.com";
const PASSWORD: &str = "geheim-1";

/// Every Odoo and every nginx of this host is looked at.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What of the chain is not as it should be: nothing by default.
#[derive(Default)]
struct Faults {
    /// What the process in Odoo's place does wrong.
    odoo: &'static str,
    /// Words of nginx's configuration, and what stands in their place.
    nginx: Vec<(&'static str, &'static str)>,
    /// The same of odoo.conf.
    conf: Vec<(&'static str, &'static str)>,
    /// An idle time that is worth waiting for.
    is_short: bool,
    /// Sessions lie on a disk.
    on_disk: bool,
    /// A certificate of another name.
    other_name: bool,
}

/// Browser to disk.
struct Chain {
    directory: tempfile::TempDir,
    authority: Authority,
    redis: Redis,
    mount: Option<Mount>,
    sessions: PathBuf,
    https: u16,
    http: u16,
    _odoo: Running,
    _nginx: Running,
}

impl Chain {
    fn start(faults: &Faults) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let redis = Redis::start_with(&["--appendonly", "yes", "--maxmemory", "64mb"]);
        let mount = (!faults.on_disk).then(|| {
            let idle = if faults.is_short { "3s" } else { "15min" };
            Mount::start(&redis, &format!("[lifetime]\nidle = \"{idle}\"\n"))
        });
        let sessions = match &mount {
            Some(mount) => mount.path(),
            None => directory.path().join("sessions"),
        };
        std::fs::create_dir_all(&sessions).unwrap();
        let authority = Authority::new();
        let subject =
            if faults.other_name { "DNS:other.example.com" } else { "DNS:shop.example.com" };
        authority.certify("server", subject);
        let (https, http, port, evented) = (free_port(), free_port(), free_port(), free_port());
        let mut conf = format!(
            "[options]\nproxy_mode = True\nlist_db = False\ndbfilter = ^shop$\nworkers = 2\n\
             gevent_port = {evented}\n"
        );
        let mut nginx = nginx(&authority, directory.path(), [https, http, port, evented]);
        for (text, replaced) in [(&mut conf, &faults.conf), (&mut nginx, &faults.nginx)] {
            for (from, to) in replaced {
                assert!(text.contains(from), "{from}");
                *text = text.replace(from, &to.replace("PORT", &port.to_string()));
            }
        }
        let odoo = odoo(directory.path(), &conf, sessions.parent().unwrap(), port, faults.odoo);
        let nginx = start_nginx(directory.path(), &nginx);
        for port in [https, http] {
            until("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        let password = directory.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        std::fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).unwrap();
        Self {
            directory,
            authority,
            redis,
            mount,
            sessions,
            https,
            http,
            _odoo: odoo,
            _nginx: nginx,
        }
    }

    fn url(&self) -> String {
        format!("https://{NAME}:{}", self.https)
    }

    /// The command, with what leads it to this chain.
    fn command(&self, more: &[&str]) -> Command {
        // Whoever runs the tests may ignore hangups (`nohup`), and so would it.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_sessionfs"), "audit"]);
        command.arg(self.url()).args(["--address", "127.0.0.1"]);
        command.arg("--http-port").arg(self.http.to_string());
        command.arg("--ca-file").arg(self.authority.path("ca.pem"));
        command.arg("--sessions").arg(&self.sessions);
        // That of a mount is known by its keeper.
        if self.mount.is_none() {
            command.arg("--redis").arg(self.redis.url());
        }
        command.args(more);
        command
    }

    fn with_login(&self, more: &[&str]) -> Command {
        let mut command = self.command(&["--login", "audit", "--database", "shop"]);
        command.arg("--password-file").arg(self.directory.path().join("password"));
        command.arg("--log").arg(self.directory.path().join("access.log"));
        command.args(more);
        command
    }

    /// Files of sessions, by their names in the listing.
    fn left(&self) -> usize {
        let shards = std::fs::read_dir(&self.sessions).unwrap().flatten();
        shards.map(|shard| std::fs::read_dir(shard.path()).map_or(0, Iterator::count)).sum()
    }
}

fn nginx(authority: &Authority, place: &Path, [https, http, odoo, evented]: [u16; 4]) -> String {
    let (certificate, key) = (authority.path("server.pem"), authority.path("server.key"));
    let (certificate, key, place) = (certificate.display(), key.display(), place.display());
    format!(
        "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/error.log;\nevents {{}}\n\
         http {{\n\
         log_format short '$remote_addr $request_uri $status';\n\
         access_log {place}/access.log short;\n\
         client_body_temp_path {place}/body;\nproxy_temp_path {place}/proxy;\n\
         fastcgi_temp_path {place}/f;\nuwsgi_temp_path {place}/u;\nscgi_temp_path {place}/s;\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n\
         server {{\n  listen 127.0.0.1:{http};\n  server_name {NAME};\n  return 301 https://$host$request_uri;\n}}\n\
         server {{\n  listen 127.0.0.1:{https} ssl;\n  server_name {NAME};\n\
           ssl_certificate {certificate};\n  ssl_certificate_key {key};\n  ssl_protocols TLSv1.2 TLSv1.3;\n\
           add_header Strict-Transport-Security \"max-age=31536000\" always;\n\
           proxy_http_version 1.1;\n  proxy_set_header Host $host;\n\
           proxy_set_header X-Forwarded-Host $host;\n\
           proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
           proxy_set_header X-Forwarded-Proto $scheme;\n\
           proxy_set_header Upgrade $http_upgrade;\n  proxy_set_header Connection $connection_upgrade;\n\
           proxy_cookie_flags session_id secure samesite=lax;\n\
           location /websocket {{ proxy_pass http://127.0.0.1:{evented}; }}\n\
           location / {{ proxy_pass http://127.0.0.1:{odoo}; }}\n}}\n}}\n"
    )
}

/// One process, so that it ends when it is ended.
fn start_nginx(directory: &Path, text: &str) -> Running {
    let file = directory.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let nginx = || {
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(&file);
        command
    };
    let tested = nginx().arg("-t").output().expect("nginx, of the package nginx-light");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    Running(nginx().stderr(Stdio::null()).spawn().unwrap())
}

fn odoo(directory: &Path, conf: &str, data_dir: &Path, port: u16, faults: &str) -> Running {
    let file = directory.join("odoo.conf");
    std::fs::write(&file, conf).unwrap();
    let mut child = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audit/odoo-bin"))
        .arg("-c")
        .arg(&file)
        .arg("-D")
        .arg(data_dir)
        .args(["-p", &port.to_string()])
        .env("FAULTS", faults)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    Running(child)
}

/// What an audit said.
struct Audited {
    code: i32,
    report: Value,
    /// The worst grade of each name, and what was seen.
    findings: HashMap<String, (String, String)>,
}

impl Audited {
    fn of(mut command: Command) -> Self {
        let output = command.arg("--json").output().expect("sessionfs runs");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains(PASSWORD) && !errors.contains(PASSWORD), "{said}{errors}");
        let report: Value =
            serde_json::from_str(&said).unwrap_or_else(|_| panic!("no JSON: {said}{errors}"));
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let mut findings = HashMap::new();
        // Within a part the worst comes first.
        for finding in report["findings"].as_array().unwrap() {
            let seen = (text(finding, "grade"), text(finding, "seen"));
            findings.entry(text(finding, "id")).or_insert(seen);
        }
        Self { code: output.status.code().expect("an exit code"), report, findings }
    }

    #[track_caller]
    fn grade(&self, id: &str) -> &str {
        let found =
            self.findings.get(id).unwrap_or_else(|| panic!("no {id} in {:#?}", self.findings));
        &found.0
    }

    #[track_caller]
    fn has(&self, id: &str, grade: &str, words: &str) {
        let (found, seen) =
            &self.findings.get(id).unwrap_or_else(|| panic!("no {id} in {:#?}", self.findings));
        assert!(found == grade && seen.contains(words), "{id}: {found}: {seen}");
    }

    /// The names of what is neither as it should be nor only good to know; of the storage what
    /// depends on the machine is left out.
    fn wrong(&self) -> Vec<&str> {
        let is_machines = |id: &str| {
            id.starts_with("host.")
                || id.starts_with("service.")
                || id.starts_with("redis.")
                || id.starts_with("files.")
                || id.starts_with("activity.")
        };
        let mut wrong: Vec<&str> = self
            .findings
            .iter()
            .filter(|(id, (grade, _))| {
                !["pass", "note"].contains(&grade.as_str()) && !is_machines(id)
            })
            .map(|(id, _)| id.as_str())
            .collect();
        wrong.sort_unstable();
        wrong
    }
}

#[test]
fn a_chain_that_is_as_it_should_be_passes_and_nothing_is_left_behind() {
    let _alone = alone();
    let chain = Chain::start(&Faults { is_short: true, ..Faults::default() });
    let html = chain.directory.path().join("audit.html");
    let mut command = chain.with_login(&["--change-password", "--preset", "pci-dss-8.2.8"]);
    command.arg("--html").arg(&html);
    let audited = Audited::of(command);
    assert_eq!(audited.wrong(), [""; 0], "{:#?}", audited.findings);
    for (id, words) in [
        ("site.reach", "HTTP 200"),
        ("site.certificate", "trusts"),
        ("site.tls", "TLS 1.3"),
        ("site.redirect", "leads to https://"),
        ("site.hsts", "31536000"),
        ("site.cookie-secure", "Secure"),
        ("site.cookie-samesite", "lax"),
        ("site.databases", "not shown"),
        ("nginx.configuration", NAME),
        ("nginx.websocket", "/websocket"),
        ("nginx.cookie-flags", "Secure"),
        ("odoo.proxy-mode", "True"),
        ("odoo.list-db", "False"),
        ("mount.ok", "serves"),
        ("storage.lifetimes", "idle 3s"),
        ("hijack.login", "user 7"),
        ("hijack.plain-http", "redirected"),
        ("hijack.fixation", "draws a new id"),
        ("hijack.alias", "nobody's"),
        ("hijack.listing", "shows its alias"),
        ("hijack.redis", "not in"),
        ("hijack.logs", "access.log"),
        ("hijack.password", "the former one again"),
        ("hijack.logout", "nobody's"),
        ("hijack.idle", "after 3s without use"),
        ("hijack.left-behind", "none is logged in"),
    ] {
        audited.has(id, "pass", words);
    }
    audited.has("hijack.elsewhere", "note", "127.66.66.66");
    assert_eq!(chain.left(), 0);
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("What a thief would try") && !page.contains("<script"), "{page}");
    // The password is the former one: it logs in again. The user of Redis is one for sessions alone.
    let documented = std::fs::read_to_string("docs/redis.md").expect("the documentation");
    let line = documented.lines().find(|line| line.contains("ACL SETUSER")).expect("the ACL line");
    let _: String = chain.redis.run(&line.trim().replace("PASSWORD", "geheim"));
    let url = chain.redis.url_as("sessionfs", "geheim");
    let again = Audited::of(chain.with_login(&["--redis", &url]));
    again.has("hijack.login", "pass", "user 7");
    again.has("hijack.redis", "pass", "this user of Redis may not list keys");
    // As text, for a person.
    let output = chain.command(&[]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\npass       HSTS: max-age=31536000\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert_eq!(output.status.code(), Some(again.code));
}

#[test]
fn each_fault_of_the_proxy_is_found() {
    let _alone = alone();
    for (nginx, wanted) in [
        (
            ("proxy_cookie_flags session_id secure samesite=lax;", ""),
            &[
                ("nginx.cookie-flags", "fail"),
                ("site.cookie-samesite", "warn"),
                ("site.cookie-secure", "fail"),
            ][..],
        ),
        (
            (
                "return 301 https://$host$request_uri;",
                "location / { proxy_pass http://127.0.0.1:PORT; }",
            ),
            &[
                ("hijack.plain-http", "fail"),
                ("nginx.cookie-flags", "fail"),
                ("nginx.forwarded-host", "fail"),
                ("nginx.forwarded-proto", "fail"),
                ("nginx.redirect", "fail"),
                ("site.redirect", "fail"),
            ],
        ),
        (
            ("add_header Strict-Transport-Security \"max-age=31536000\" always;", ""),
            &[("nginx.hsts", "warn"), ("site.hsts", "warn")],
        ),
        (("proxy_set_header X-Forwarded-Host $host;", ""), &[("nginx.forwarded-host", "fail")]),
        (
            (
                "ssl_protocols TLSv1.2 TLSv1.3;",
                "ssl_protocols TLSv1 TLSv1.2; ssl_ciphers ALL:@SECLEVEL=0;",
            ),
            &[("nginx.protocols", "fail"), ("site.tls", "fail")],
        ),
        (("log_format short '", "log_format short '$http_cookie "), &[("hijack.logs", "fail")]),
    ] {
        let chain = Chain::start(&Faults { nginx: vec![nginx], ..Faults::default() });
        let audited = Audited::of(chain.with_login(&[]));
        let found: Vec<(&str, &str)> =
            audited.wrong().into_iter().map(|id| (id, audited.grade(id))).collect();
        assert_eq!(found, wanted, "{nginx:?}: {:#?}", audited.findings);
        assert_eq!(
            audited.code,
            if wanted.iter().any(|(_, grade)| *grade == "fail") { 81 } else { 80 }
        );
        assert_eq!(chain.left(), 0);
    }
}

#[test]
fn each_fault_of_odoo_and_of_its_configuration_is_found() {
    let _alone = alone();
    let conf = |from, to| Faults { conf: vec![(from, to)], ..Faults::default() };
    let odoo = |odoo| Faults { odoo, ..Faults::default() };
    for (faults, id, grade) in [
        (conf("proxy_mode = True", "proxy_mode = False"), "odoo.proxy-mode", "fail"),
        (conf("list_db = False\n", ""), "odoo.list-db", "fail"),
        (conf("dbfilter = ^shop$\n", ""), "odoo.dbfilter", "warn"),
        (conf("workers = 2\n", ""), "odoo.workers", "warn"),
        (odoo("fixation"), "hijack.fixation", "fail"),
        (odoo("undead"), "hijack.logout", "fail"),
        (odoo("careless"), "hijack.password", "fail"),
        (odoo("script"), "site.cookie-httponly", "fail"),
        (Faults { other_name: true, ..Faults::default() }, "site.certificate", "fail"),
    ] {
        let chain = Chain::start(&faults);
        let audited = Audited::of(chain.with_login(&["--change-password"]));
        assert_eq!(audited.wrong(), [id], "{:#?}", audited.findings);
        assert_eq!(audited.grade(id), grade);
        // Also where Odoo does not end what it should.
        audited.has("hijack.left-behind", "pass", "none is logged in");
        assert_eq!(chain.left(), 0, "{id}");
    }
}

#[test]
fn sessions_on_a_disk_are_found() {
    let _alone = alone();
    let chain = Chain::start(&Faults { on_disk: true, ..Faults::default() });
    let audited = Audited::of(chain.with_login(&[]));
    audited.has("mount.missing", "fail", "");
    audited.has("hijack.listing", "fail", "are the cookies");
    audited.has("hijack.redis", "unknown", "not in this Redis");
    audited.has("hijack.left-behind", "pass", "none is logged in");
    assert_eq!((audited.code, chain.left()), (81, 0));
}

#[test]
fn an_idle_time_that_nobody_enforces_is_found_also_where_the_password_is_changed() {
    let _alone = alone();
    let chain = Chain::start(&Faults { on_disk: true, ..Faults::default() });
    let live = chain.directory.path().join("sessionfs.toml");
    let text = format!("[redis]\nurl = \"{}\"\n[lifetime]\nidle = \"3s\"\n", chain.redis.url());
    std::fs::write(&live, text).unwrap();
    let config = live.to_str().unwrap();
    let audited = Audited::of(chain.with_login(&["--change-password", "--config", config]));
    audited.has("hijack.password", "pass", "the former one again");
    audited.has("hijack.idle", "fail", "after 3s without use");
    assert_eq!(chain.left(), 0);
}

#[test]
fn a_load_is_measured_by_the_second_and_logouts_are_seen() {
    let _alone = alone();
    let chain = Chain::start(&Faults::default());
    let arguments = ["--stress", "--for", "3s", "--rate", "40"];
    let audited = Audited::of(chain.with_login(&arguments));
    audited.has("stress.errors", "pass", "none in 1");
    audited.has("stress.logouts", "pass", "none");
    let stress = &audited.report["stress"];
    let names: Vec<&str> = stress["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["login page", "call of a user", "cart"]);
    let seconds = stress["by_second"].as_array().unwrap();
    assert_eq!(seconds.len(), 3, "{seconds:?}");
    let requests: u64 = seconds.iter().map(|second| second["requests"].as_u64().unwrap()).sum();
    assert!((100..=121).contains(&requests), "{requests}");
    assert!(seconds[0]["p99_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(chain.left(), 0);
    drop(chain);
    let chain = Chain::start(&Faults { odoo: "forgetful", ..Faults::default() });
    let audited = Audited::of(chain.with_login(&arguments));
    audited.has("stress.logouts", "fail", "as if nobody were logged in");
    // More new ids than are remembered: what lives is removed all the same.
    let many = ["--stress", "--for", "4s", "--rate", "120"];
    let _ = Audited::of(chain.with_login(&many));
    assert_eq!(chain.left(), 0);
    // Without an account only what a visitor may ask is asked.
    let audited = Audited::of(chain.command(&["--stress", "--for", "1s"]));
    audited.has("stress.logouts", "note", "");
    assert_eq!(audited.report["stress"]["operations"][1]["name"], "call of a visitor");
}

#[test]
fn an_interrupted_audit_logs_out_before_it_ends() {
    let _alone = alone();
    // The terminal is gone; and somebody who is impatient.
    for (signal, times) in [(Signal::SIGHUP, 1), (Signal::SIGINT, 50), (Signal::SIGTERM, 1)] {
        interrupt(signal, times);
    }
}

fn interrupt(signal: Signal, times: usize) {
    let chain = Chain::start(&Faults::default());
    let mut command = chain.with_login(&["--stress", "--for", "10min", "--rate", "20"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = chain.directory.path().join("access.log");
    until("the load is under way", || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("context_get")
    });
    assert!(chain.left() > 0);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    for _ in 0..times {
        // It is not waited for yet, so the number is still its own.
        nix::sys::signal::kill(pid, signal).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(52), "{signal}");
    assert_eq!(chain.left(), 0);
}

#[test]
fn what_is_not_of_this_host_is_refused_before_anything_is_sent() {
    let _alone = alone();
    let audit = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .arg("audit")
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // TEST-NET-1 is nobody's.
    let (code, said) = audit(&["https://192.0.2.1"]);
    assert!(code == 82 && said.contains("--yes-this-is-mine 192.0.2.1"), "{code} {said}");
    let (code, said) = audit(&["https://192.0.2.1", "--yes-this-is-mine", "shop.example.com"]);
    assert!(code == 82 && said.contains("write the same name"), "{code} {said}");
    let (code, said) = audit(&["http://127.0.0.1:1"]);
    assert!(code == 83 && said.contains("nobody answers"), "{code} {said}");
    for wrong in [
        &["shop.example.com"][..],
        &["https://a", "--rate", "20"],
        &["https://a", "--stress", "--rate", "201"],
        &["https://a", "--stress", "--for", "11min"],
        &["--login", "x"],
        &["https://a", "--preset", "none"],
    ] {
        assert_eq!(audit(wrong).0, 2, "{wrong:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, PermissionsExt::from_mode(0o644)).unwrap();
    let path = password.to_str().unwrap();
    let (code, said) = audit(&["http://127.0.0.1:1", "--login", "x", "--password-file", path]);
    assert!(code == 10 && said.contains("chmod 0600") && !said.contains(PASSWORD), "{code} {said}");
    let (code, said) = audit(&["--html", "/none/x.html"]);
    assert!(code == 84 && said.contains("/none/x.html"), "{code} {said}");
}

#[test]
fn hostile_words_of_a_site_command_no_terminal() {
    let _alone = alone();
    let hostile = "X-Forwarded-Host \"\x1b[2J\"";
    let chain = Chain::start(&Faults {
        nginx: vec![
            ("location /websocket", "location /websocket\x1b[2J"),
            ("X-Forwarded-Host $host", hostile),
        ],
        ..Faults::default()
    });
    let output = chain.command(&[]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b') && text.contains("X-Forwarded"), "{text}");
}

#[test]
fn a_signal_while_the_password_is_asked_for_leaves_the_terminal_as_it_was() {
    const SCRIPT: &str = "
import fcntl, os, pty, signal, sys, termios
fd, terminal = pty.openpty()
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for standard in range(3):
        os.dup2(terminal, standard)
    os.execvp(sys.argv[1], sys.argv[1:])
said = b''
while b'Password of audit: ' not in said:
    said += os.read(fd, 65536)
echoes = lambda: bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
before = echoes()
os.kill(pid, getattr(signal, os.environ['SIGNAL']))
signal.alarm(60)
os.waitpid(pid, 0)
print(before, echoes())
";
    let _alone = alone();
    let chain = Chain::start(&Faults::default());
    for signal in ["SIGTERM", "SIGHUP"] {
        let audit = chain.command(&["--login", "audit", "--database", "shop"]);
        let output = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(audit.get_program())
            .args(audit.get_args())
            .env("SIGNAL", signal)
            .output()
            .expect("python3 runs");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "False True\n", "{signal}");
    }
}

#[test]
fn the_password_is_asked_for_at_the_terminal_and_not_shown() {
    /// Types the password as soon as it is asked for.
    const SCRIPT: &str = "
import os, pty, sys
typed = []
def read(fd):
    said = os.read(fd, 65536)
    if b'Password of audit: ' in said and not typed:
        typed.append(os.write(fd, b'geheim-2\\x7f1\\r'))
    return said
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], read, lambda fd: b'')))
";
    let _alone = alone();
    let chain = Chain::start(&Faults::default());
    let audit = chain.command(&["--login", "audit", "--database", "shop"]);
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(audit.get_program())
        .args(audit.get_args())
        .output()
        .expect("python3 runs");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("Password of audit: ") && said.contains("logged in as user 7"), "{said}");
    assert!(!said.contains("geheim"), "{said}");
}

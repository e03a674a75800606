//! A private PostgreSQL in its own temporary directory, ended on drop. A test without one fails.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};

use super::authority::Authority;
use super::http::until;
use super::redis::free_port;

/// Whose it is, and its superuser.
const SUPERUSER: &str = "postgres";

/// A process that ends with the test, by this signal.
pub struct Running(Child, Signal);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), self.1);
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"), Signal::SIGKILL)
    }
}

/// A program, as another user, with an empty environment.
pub fn command_as(user: &str, program: impl AsRef<Path>) -> Command {
    let user = User::from_name(user).unwrap().unwrap_or_else(|| panic!("no user {user}"));
    let mut command = Command::new(program.as_ref());
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").env_clear();
    command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

pub struct Postgres {
    server: Option<Running>,
    programs: PathBuf,
    directory: tempfile::TempDir,
    pub port: u16,
    arguments: Vec<String>,
}

impl Postgres {
    /// With peer authentication on a socket, and these lines of `pg_hba.conf` for connections over TCP. With an authority
    /// it has a certificate of it for the name `localhost`.
    pub fn start(hba: &str, authority: Option<&Authority>) -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
        let newest = versions.map(|version| version.unwrap().path()).max().expect("a version");
        let programs = newest.join("bin");
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        own(directory.path());
        let data = directory.path().join("data");
        let made = command_as(SUPERUSER, programs.join("initdb"))
            .args(["--auth=peer", "--no-sync", "-U", SUPERUSER, "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(data.join("pg_hba.conf"), format!("local all all peer\n{hba}\n")).unwrap();
        let mut arguments = vec!["fsync=off".to_owned()];
        if let Some(authority) = authority {
            authority.certify("postgres", "DNS:localhost");
            for (name, option) in
                [("postgres.pem", "ssl_cert_file"), ("postgres.key", "ssl_key_file")]
            {
                let copy = directory.path().join(name);
                std::fs::copy(authority.path(name), &copy).unwrap();
                std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o600)).unwrap();
                own(&copy);
                arguments.push(format!("{option}={}", copy.display()));
            }
            arguments.push("ssl=on".to_owned());
        }
        let port = free_port();
        let mut postgres = Self { server: None, programs, directory, port, arguments };
        postgres.start_again();
        postgres
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it, as it was before.
    pub fn start_again(&mut self) {
        let mut command = command_as(SUPERUSER, self.programs.join("postgres"));
        command.args(["-c", "listen_addresses=127.0.0.1", "-k"]).arg(self.directory.path());
        command.arg("-p").arg(self.port.to_string());
        command.arg("-D").arg(self.directory.path().join("data")).stderr(Stdio::null());
        for argument in &self.arguments {
            command.args(["-c", argument]);
        }
        let server = command.spawn().expect("PostgreSQL starts");
        // It ends its own processes on this, and waits for nobody.
        self.server = Some(Running(server, Signal::SIGINT));
        until("PostgreSQL answers", || self.try_sql("postgres", "SELECT 1"));
    }

    /// Where its socket is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn try_sql(&self, database: &str, sql: &str) -> bool {
        let mut psql = command_as(SUPERUSER, self.programs.join("psql"));
        psql.args(["-v", "ON_ERROR_STOP=1", "-q", "-d", database, "-c", sql, "-h"]);
        psql.arg(self.directory.path()).arg("-p").arg(self.port.to_string());
        psql.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) {
        assert!(self.try_sql(database, sql), "{database}: {sql}");
    }

    /// A database as Odoo has it, with the table of its system parameters.
    #[track_caller]
    pub fn create(&self, database: &str, owner: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {database} OWNER {owner}"));
        self.sql(database, "CREATE TABLE ir_config_parameter (key varchar UNIQUE, value text)");
        self.set(database, "database.uuid", "as every database of Odoo has it");
        self.sql(database, &format!("GRANT SELECT ON ir_config_parameter TO {owner}"));
    }

    #[track_caller]
    pub fn set(&self, database: &str, key: &str, value: &str) {
        self.unset(database, key);
        let sql = format!("INSERT INTO ir_config_parameter VALUES ('{key}', '{value}')");
        self.sql(database, &sql);
    }

    #[track_caller]
    pub fn unset(&self, database: &str, key: &str) {
        self.sql(database, &format!("DELETE FROM ir_config_parameter WHERE key = '{key}'"));
    }
}

fn own(path: &Path) {
    let user = User::from_name(SUPERUSER).unwrap().expect("the user postgres");
    chown(path, Some(user.uid), Some(user.gid)).unwrap();
}

//! The ports on which Odoo answers HTTP, as far as this host tells.
//!
//! Files are read that units and command lines name: whoever waits for this needs a bound.

use std::path::Path;

use super::configuration::{Configuration, USUAL_PLACES};
use super::launch::Launch;
use super::process::Process;
use super::root::Root;
use super::service::Service;
use super::{account, configuration_of};

/// Odoo's own choice.
pub(crate) const DEFAULT: u16 = 8069;
/// The same for its evented process.
pub(crate) const GEVENT_DEFAULT: u16 = 8072;
/// More than anybody has; every user of this host can start a process that looks like an Odoo.
const PORTS_MAX: usize = 64;

/// Of all that units and configuration files would start, and then of all that run here; sorted, and Odoo's default if
/// there is nothing. The evented process has a port of its own, which does not matter: it is known by its command line.
pub(crate) fn http_ports(host: &Root) -> Vec<u16> {
    let processes = Process::all(host);
    let is_odoo = |pid: i32| processes.iter().any(|process| process.pid == pid);
    let running = processes.iter().filter(|process| !is_odoo(process.parent)).map(|process| {
        let root = process.root(host);
        let account = account(&root, process.uid, process.gid);
        let variable = |name: &str| process.variable(name);
        let working_dir = process.working_dir.as_deref();
        let file = configuration_of(&root, &process.launch, variable, working_dir, &account);
        of(&process.launch, file.as_ref())
    });
    let services = Service::all(host).into_iter().map(|service| {
        let account = host.account(&service.user).unwrap_or_else(|| account(host, 0, 0));
        let variable = |name: &str| service.variable(name);
        let working_dir = service.working_dir.as_deref();
        let file = configuration_of(host, &service.launch, variable, working_dir, &account);
        of(&service.launch, file.as_ref())
    });
    let files = USUAL_PLACES
        .iter()
        .filter_map(|place| Configuration::read(host, Path::new(place)))
        .map(|file| of(&Launch::default(), Some(&file)));
    let mut found: Vec<u16> = Vec::new();
    for port in services.chain(files).chain(running).flatten() {
        if !found.contains(&port) {
            found.push(port);
        }
        if found.len() == PORTS_MAX {
            break;
        }
    }
    if found.is_empty() {
        found.push(DEFAULT);
    }
    found.sort_unstable();
    found
}

/// What an Odoo with this command line and this file listens on. The command line wins. `None` for 0: that is no port, and
/// what the kernel has of each socket that is not bound to one.
pub(super) fn of(launch: &Launch, file: Option<&Configuration>) -> Option<u16> {
    let port = launch.http_port.or_else(|| file?.http_port).unwrap_or(DEFAULT);
    (port != 0).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, path: &str, text: &str) {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn processes_that_anybody_may_start_leave_room_for_the_ports_of_units() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        for number in 0..2 * PORTS_MAX {
            let path = |name: &str| format!("proc/{}/{name}", number + 10);
            write(dir.path(), &path("cmdline"), &format!("odoo\0-p\0{number}\0"));
            let status = "PPid:\t1\nUid:\t5\t5\t5\t5\nGid:\t5\t5\t5\t5\n";
            write(dir.path(), &path("status"), status);
        }
        let ports = http_ports(&root);
        assert!(ports.len() == PORTS_MAX && !ports.contains(&0), "{ports:?}");
        let unit = "[Service]\nExecStart=/usr/bin/odoo -p 8099\n";
        write(dir.path(), "etc/systemd/system/a.service", unit);
        write(dir.path(), "etc/odoo/odoo.conf", "[options]\nhttp_port = 8079\n");
        let ports = http_ports(&root);
        assert!(ports.len() == PORTS_MAX && !ports.contains(&0), "{ports:?}");
        assert!(ports.contains(&8099) && ports.contains(&8079), "{ports:?}");
        assert!(ports.is_sorted());
    }

    #[test]
    fn ports_are_those_of_units_and_files_else_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        assert_eq!(http_ports(&root), [8069]);
        let write = |path: &str, text: &str| write(dir.path(), path, text);
        write("etc/odoo/odoo.conf", "[options]\nxmlrpc_port = 8079\n");
        assert_eq!(http_ports(&root), [8079]);
        write("srv/a.conf", "[options]\nhttp_port = 8089\n");
        let unit = |arguments: &str| format!("[Service]\nExecStart=/usr/bin/odoo {arguments}\n");
        write("etc/systemd/system/a.service", &unit("-c /srv/a.conf"));
        write("etc/systemd/system/b.service", &unit("--http-port=8099 -c /srv/a.conf"));
        write("etc/systemd/system/c.service", &unit("-c /srv/none.conf -p 8100"));
        assert_eq!(http_ports(&root), [8079, 8089, 8099, 8100]);
        write("etc/odoo/odoo.conf", "[options]\nhttp_port = many\n");
        assert_eq!(http_ports(&root), [8069, 8089, 8099, 8100]);
        write("etc/odoo/odoo.conf", "[options]\nhttp_port = 0\n");
        assert_eq!(http_ports(&root), [8089, 8099, 8100]);
    }
}

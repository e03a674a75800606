//! The ports on which Odoo answers HTTP, as far as this host tells.
//!
//! No directory is looked at: this is asked before the mount is served, and whoever looked at it would wait.

use std::collections::BTreeSet;
use std::path::Path;

use super::configuration::{Configuration, USUAL_PLACES};
use super::launch::Launch;
use super::process::Process;
use super::root::Root;
use super::service::Service;
use super::{account, configuration_of};

/// Odoo's own choice.
pub(crate) const DEFAULT: u16 = 8069;
/// More than anybody has.
const PORTS_MAX: usize = 64;

/// Of all that run here, and of all that units and configuration files would start, in order; Odoo's default if there is
/// nothing. The evented process has a port of its own, which does not matter: it is known by its command line.
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
    let found: BTreeSet<u16> = running.chain(services).chain(files).collect();
    if found.is_empty() {
        return vec![DEFAULT];
    }
    found.into_iter().take(PORTS_MAX).collect()
}

/// The command line wins over the file.
fn of(launch: &Launch, file: Option<&Configuration>) -> u16 {
    launch.http_port.or_else(|| file?.http_port).unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_of_units_and_files_else_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        assert_eq!(http_ports(&root), [8069]);
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
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
    }
}

//! Made-up hosts.

use std::os::unix::fs::symlink;

use super::*;

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        host.write(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nodoo:x:110:120::/var/lib/odoo:/bin/sh\n",
        )
        .write("/etc/group", "root:x:0:\nodoo:x:120:\n")
        .write("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        .dir("/var/lib/odoo")
    }

    fn root(&self) -> Root {
        Root::at(self.dir.path().canonicalize().unwrap())
    }

    fn write(self, path: &str, text: &str) -> Self {
        let file = self.root().join(Path::new(path));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
        self
    }

    fn dir(self, path: &str) -> Self {
        std::fs::create_dir_all(self.root().join(Path::new(path))).unwrap();
        self
    }

    fn process(self, pid: i32, parent: i32, line: &str, environment: &str) -> Self {
        // A title is one word, whatever it holds.
        let blank = if line.starts_with("odoo:") { " " } else { "\0" };
        self.write(&format!("/proc/{pid}/cmdline"), &format!("{}\0", line.replace(' ', blank)))
            .write(
                &format!("/proc/{pid}/status"),
                &format!(
                    "Name:\todoo\nPPid:\t{parent}\nUid:\t0\t110\t110\t110\nGid:\t0\t120\t120\t120\n"
                ),
            )
            .write(&format!("/proc/{pid}/environ"), &environment.replace(' ', "\0"))
            .write(&format!("/proc/{pid}/cgroup"), "0::/system.slice/odoo.service\n")
    }

    fn look(&self) -> Odoo {
        Odoo::look(&self.root(), None)
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.look().candidates(&self.root())
    }

    #[track_caller]
    fn paths(&self) -> Vec<String> {
        self.candidates().iter().map(|found| found.path.display().to_string()).collect()
    }
}

const OF_HOME: &str = "/var/lib/odoo/.local/share/Odoo/sessions";
const DEBIAN: &str = "[options]\naddons_path = /usr/lib/python3/dist-packages/odoo/addons\n";
const UNIT: &str = "[Service]\nUser=odoo\nExecStart=/usr/bin/odoo --config /etc/odoo/odoo.conf\n";

#[test]
fn nothing_is_found_where_there_is_nothing() {
    assert_eq!(Host::new().candidates(), []);
}

#[test]
fn debians_package_is_found_before_its_first_start() {
    let host = Host::new()
        .write("/etc/odoo/odoo.conf", DEBIAN)
        .write("/usr/lib/systemd/system/odoo.service", UNIT);
    let found = host.candidates();
    let expected = Candidate {
        path: OF_HOME.into(),
        owner: "odoo".into(),
        group: "odoo".into(),
        source: "unit odoo.service starts Odoo (/etc/odoo/odoo.conf)".into(),
        exists: false,
        mounted: false,
        units: vec!["odoo.service".into()],
        sees_mount: Sees::Yes,
    };
    assert_eq!(found, [expected]);
}

#[test]
fn a_unit_belongs_to_the_directory_that_its_odoo_uses() {
    let unit = |data: &str| format!("[Service]\nUser=odoo\nExecStart=/usr/bin/odoo -D {data}\n");
    let host = Host::new()
        .write("/etc/systemd/system/odoo-cron.service", &unit("/srv/shop"))
        .write("/etc/systemd/system/odoo.service", &unit("/srv/shop"))
        .write("/etc/systemd/system/odoo14.service", &unit("/srv/old"));
    let found = host.candidates();
    let units: Vec<_> =
        found.iter().map(|found| (found.path.to_str().unwrap(), found.units.join(" "))).collect();
    let expected = [
        ("/srv/shop/sessions", "odoo-cron.service odoo.service".to_owned()),
        ("/srv/old/sessions", "odoo14.service".to_owned()),
    ];
    assert_eq!(units, expected);
    assert_eq!(host.look().all_units().join(" "), "odoo-cron.service odoo.service odoo14.service");
}

#[test]
fn a_process_is_followed_through_arguments_environment_and_home() {
    for (line, environment, expected) in [
        ("/usr/bin/python3 /usr/bin/odoo", "HOME=/var/lib/odoo", OF_HOME),
        ("/usr/bin/odoo", "", OF_HOME),
        ("/usr/bin/odoo -D /srv/data", "", "/srv/data/sessions"),
        ("/usr/bin/odoo -c /etc/shop.conf", "", "/srv/shop/sessions"),
        ("/usr/bin/odoo", "ODOO_RC=/etc/shop.conf", "/srv/shop/sessions"),
        ("/usr/bin/odoo -D /srv/data -c /etc/shop.conf", "", "/srv/data/sessions"),
        ("/usr/bin/odoo", "HOME=/nowhere", "/var/lib/odoo/sessions"),
        ("/usr/bin/odoo", "XDG_DATA_HOME=/srv/xdg", "/srv/xdg/Odoo/sessions"),
        ("/usr/bin/odoo -D ~/data", "", "/var/lib/odoo/data/sessions"),
    ] {
        let host = Host::new()
            .write("/etc/shop.conf", "[options]\ndata_dir = /srv/shop\n")
            .process(10, 1, line, environment);
        assert_eq!(host.paths(), [expected], "{line} {environment}");
    }
}

#[test]
fn workers_are_their_parents_and_a_second_sign_of_one_directory_is_no_second_candidate() {
    let host = Host::new()
        .write("/etc/odoo/odoo.conf", "[options]\ndata_dir = /srv/link\n")
        .write("/etc/systemd/system/odoo.service", UNIT)
        .dir("/srv/data/sessions")
        .process(10, 1, "/usr/bin/odoo -D /srv/data", "")
        .process(11, 10, "odoo: WorkerHTTP 11", "");
    symlink("data", host.root().join(Path::new("/srv/link"))).unwrap();
    assert_eq!(host.paths(), ["/srv/data/sessions"]);
    assert!(host.candidates()[0].exists);
    assert_eq!(host.candidates()[0].source, "Odoo runs (pid 10, its defaults)");
    let odoo = host.look();
    assert_eq!(odoo.processes.len(), 2);
    assert_eq!(odoo.processes[0].unit.as_deref(), Some("odoo.service"));
    // Its unit is known by the process: one Odoo is listed once.
    assert!(!odoo.instances.iter().any(|known| matches!(known.sign, Sign::Service(_))));
}

#[test]
fn what_was_left_behind_does_not_count_beside_what_runs() {
    let left =
        Host::new().dir("/var/lib/odoo/sessions").dir("/opt/odoo14/.local/share/Odoo/sessions");
    assert_eq!(left.paths(), ["/opt/odoo14/.local/share/Odoo/sessions", "/var/lib/odoo/sessions"]);
    let with_file = left.write("/etc/odoo.conf", "[options]\ndata_dir = /srv/file\n");
    assert_eq!(with_file.paths(), ["/srv/file/sessions"]);
    let running = with_file.process(10, 1, "/opt/odoo/odoo-bin -D /srv/data", "");
    assert_eq!(running.paths(), ["/srv/data/sessions"]);
    let mounted = running.write(
        "/proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
         23 22 0:50 / /var/lib/odoo/sessions rw - fuse.sessionfs sessionfs rw,user_id=0\n",
    );
    assert_eq!(mounted.paths(), ["/srv/data/sessions", "/var/lib/odoo/sessions"]);
    assert!(mounted.candidates()[1].mounted);
}

#[test]
fn two_that_run_are_two() {
    let host = Host::new().process(10, 1, "/usr/bin/odoo -D /srv/one", "").process(
        20,
        1,
        "/usr/bin/odoo -D /srv/two",
        "",
    );
    assert_eq!(host.paths(), ["/srv/one/sessions", "/srv/two/sessions"]);
}

#[test]
fn a_container_is_looked_into_and_its_volume_found_here() {
    let host = Host::new()
        .write("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        .process(10, 1, "/usr/bin/python3 /usr/bin/odoo", "ODOO_RC=/etc/odoo/odoo.conf")
        .write(
            "/proc/10/mountinfo",
            "90 1 0:60 / / rw - overlay overlay rw\n\
             91 90 8:1 /var/lib/docker/volumes/odoo/_data /var/lib/odoo rw - ext4 /dev/sda1 rw\n",
        )
        .write("/container/etc/odoo/odoo.conf", "[options]\ndata_dir = /var/lib/odoo\n");
    symlink("../../container", host.root().join(Path::new("/proc/10/root"))).unwrap();
    let found = host.candidates();
    assert_eq!(found[0].path, Path::new("/var/lib/docker/volumes/odoo/_data/sessions"));
    assert_eq!(found[0].source, "Odoo runs in a container (pid 10, /etc/odoo/odoo.conf in it)");
    // Whoever has the same number here is somebody else.
    assert_eq!((found[0].owner.as_str(), found[0].group.as_str()), ("110", "120"));
    assert_eq!(found[0].sees_mount, Sees::No);
}

#[test]
fn a_directory_is_seen_by_all_that_use_it_or_not_at_all() {
    let line = "/usr/bin/odoo -D /srv/one";
    let mounts = |id: u32, group: &str| format!("{id} 1 8:1 / / rw {group} - ext4 /dev/sda1 rw\n");
    let host = Host::new()
        .write("/proc/self/mountinfo", &mounts(22, "shared:1"))
        .process(10, 1, line, "")
        .write("/proc/10/mountinfo", &mounts(60, "master:1"));
    assert_eq!(host.candidates()[0].sees_mount, Sees::Yes);
    // Of this one nothing can be read.
    let host = host.process(20, 1, line, "");
    assert_eq!(host.candidates()[0].sees_mount, Sees::Unknown);
    let host = host.write("/proc/20/mountinfo", &mounts(70, ""));
    assert_eq!(host.candidates().len(), 1);
    assert_eq!(host.candidates()[0].sees_mount, Sees::No);
}

#[test]
fn odd_files_do_no_harm() {
    let host = Host::new()
        .write("/etc/odoo/odoo.conf", "\0\0[[[")
        .write("/etc/systemd/system/odoo.service", "ExecStart=\n[Service\n=\n")
        .write("/proc/7/cmdline", "/usr/bin/odoo\0")
        .write("/proc/self/mountinfo", "x y z\n");
    std::fs::write(host.root().join(Path::new("/etc/passwd")), b"\xff\xfe:\n:::\n").unwrap();
    nix::unistd::mkfifo(
        &host.root().join(Path::new("/etc/odoo.conf")),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .unwrap();
    let odoo = host.look();
    let unreadable =
        odoo.instances.iter().filter_map(|found| found.configuration.as_ref()?.unreadable.clone());
    assert_eq!(unreadable.count(), 2);
}

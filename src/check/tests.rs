//! Every finding is provoked once, by facts that are made up.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::files::{Below, Plain};
use super::mount::Answer;
use super::redis::{Kind, Open, Says, Server};
use super::*;
use crate::control::status::{Trail, UnidentifiedCallers};
use crate::host::mount_table::MountTable;
use crate::odoo::addons;
use crate::odoo::configuration::Configuration;
use crate::odoo::launch::Launch;
use crate::odoo::process::Process;
use crate::odoo::root::Account;
use crate::odoo::{Instance, Sign};
use crate::parameters::follow::State as Parameters;
use crate::redis::deployment::{Deployment, Mode, Watcher};
use crate::redis::probe::{ProbeError, ServerInfo};
use crate::request::{Hook, Running, State};
use crate::session::secret::Secret;
use crate::store::Kept;
use crate::telemetry::now_ms;
use crate::telemetry::unidentified::Unidentified;

const DIR: &str = "/srv/odoo/sessions";
const HERE: &str = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:40 / /srv/odoo/sessions rw - fuse.sessionfs s rw,user_id=0\n\
                    3 1 0:41 / /srv/second/sessions rw - fuse.sessionfs s rw,user_id=0\n";

fn requests(state: State) -> requests::Facts {
    requests::Facts::Mounted(state)
}

fn seen(hook: Hook) -> State {
    State::Running(Running { hook, ports: vec![8069, 8079], rules: 16 })
}

fn parameters(mounted: parameters::Mounted) -> Vec<Finding> {
    parameters::Facts { mounted: Some(mounted), ..parameters::Facts::default() }.findings()
}

fn followed(state: Parameters) -> Vec<Finding> {
    parameters(parameters::Mounted { state: Some(state), ..parameters::Mounted::default() })
}

fn mount() -> mount::Facts {
    mount::Facts {
        directory: DIR.into(),
        layers: vec!["fuse.sessionfs".into()],
        keeper: Some(7),
        may_see_keeper: true,
        answer: Some(Answer::Served { uid: 110, took_ms: 3 }),
        owner: Some(110),
        exists: true,
        occupied: None,
        unit: "sessionfs".into(),
        is_set_up: true,
    }
}

fn mounted(layers: &[&str]) -> mount::Facts {
    mount::Facts {
        layers: layers.iter().map(ToString::to_string).collect(),
        answer: None,
        ..mount()
    }
}

fn answered(answer: Answer) -> mount::Facts {
    mount::Facts { answer: Some(answer), ..mount() }
}

fn files(change: impl FnOnce(&mut Below, &mut Vec<Plain>)) -> files::Facts {
    let (mut below, mut others) = (Below::default(), Vec::new());
    change(&mut below, &mut others);
    files::Facts { directory: DIR.into(), below: Some(Ok(below)), others, unit: "sessionfs".into() }
}

fn kept(change: impl FnOnce(&mut Kept)) -> Vec<Finding> {
    let mut kept = Kept::default();
    change(&mut kept);
    kept::Facts { kept: Some(kept), ..kept::Facts::default() }.findings(None)
}

fn trail(change: impl FnOnce(&mut Trail)) -> Vec<Finding> {
    let mut trail = Trail {
        place: Some("/var/log/trail.jsonl".into()),
        is_taken: true,
        writer: Some("web1".into()),
        writer_has_file: true,
        waiting: Some(0),
        left_out: 0,
    };
    change(&mut trail);
    trail::Facts(Some(trail)).findings()
}

fn plain(count: u64, fresh: u64) -> Plain {
    let newest = Some(SystemTime::now() - Duration::from_secs(12));
    Plain { directory: "/old/sessions".into(), count, fresh, newest, ..Plain::default() }
}

fn process(mounts: &str) -> Process {
    Process {
        pid: 10,
        readable: true,
        uid: 110,
        gid: 120,
        unit: Some("odoo.service".into()),
        mounts: Some(MountTable::parse(mounts.as_bytes())),
        launch: Launch { workers: Some("4".into()), ..Launch::default() },
        ..Process::default()
    }
}

fn instance(sign: Sign, sessions: &str) -> Instance {
    Instance {
        sign,
        account: Account { name: "odoo".into(), uid: 110, gid: 120, home: None },
        configuration: None,
        sessions: sessions.into(),
        named: sessions.into(),
        sessions_here: Some(sessions.into()),
    }
}

fn running(change: impl FnOnce(&mut Process)) -> Instance {
    let mut process = process(HERE);
    change(&mut process);
    instance(Sign::Process(Box::new(process)), DIR)
}

fn odoo(instance: Instance) -> odoo::Facts {
    odoo::Facts {
        directory: DIR.into(),
        owner: Some(110),
        owner_name: "odoo".into(),
        instances: vec![instance],
        // One of them is another Odoo's.
        processes: vec![(10, 1), (11, 10), (12, 10), (13, 10), (14, 12), (20, 1), (21, 20)],
        mounts: MountTable::parse(HERE.as_bytes()),
        proxy: None,
        addons: Vec::new(),
        unidentified: Vec::new(),
    }
}

fn searched() -> Vec<(String, addons::Found)> {
    let found = |line, access| addons::Use { file: "/opt/addons/who.py".into(), line, access };
    let uses = vec![found(6, addons::Access::List), found(7, addons::Access::Load)];
    vec![("Odoo (pid 10)".into(), addons::Found { uses, partly: true })]
}

fn unidentified(last_ms: u64) -> UnidentifiedCallers {
    UnidentifiedCallers { reason: Unidentified::PidNamespace, count: 3, last_ms }
}

#[test]
fn a_port_is_missed_only_where_it_is_known_and_of_this_mount() {
    let seen = requests(seen(Hook::Calls));
    let missed = |instance: Instance| seen.unwatched(&odoo(instance).http_ports()).is_some();
    assert!(!missed(running(|_| {})), "Odoo's default");
    assert!(!missed(running(|it| it.launch.http_port = Some(8079))));
    assert!(missed(running(|it| it.launch.http_port = Some(8070))));
    assert!(!missed(running(|it| it.launch.http_port = Some(0))));
    let with_file = |http_port, unreadable: Option<&str>| {
        let unreadable = unreadable.map(Into::into);
        let file = Configuration { unreadable, http_port, ..Configuration::default() };
        Instance { configuration: Some(file), ..running(|_| {}) }
    };
    assert!(missed(with_file(Some(8070), None)));
    // Seen of them all: nothing is known of its file.
    let none = requests::Facts::Mounted(State::Running(Running {
        hook: Hook::Calls,
        ports: Vec::new(),
        rules: 16,
    }));
    let ports = |instance| none.unwatched(&odoo(instance).http_ports());
    assert!(ports(running(|_| {})).is_some());
    assert!(ports(with_file(None, Some("no"))).is_none());
    assert!(ports(running(|it| it.readable = false)).is_none());
    assert!(ports(running(|it| it.launch.titled = true)).is_none());
    let other = instance(Sign::Process(Box::new(process(HERE))), "/srv/second/sessions");
    assert!(ports(other).is_none(), "another mount's");
    // Where nothing is seen, that is said.
    assert!(requests(State::Off).unwatched(&[("it".into(), 1)]).is_none());
}

#[test]
fn callers_that_could_not_be_identified_long_ago_are_no_error_now() {
    let facts = odoo::Facts {
        unidentified: vec![unidentified(now_ms() - 2 * 60 * 60 * 1000)],
        ..odoo(running(|_| {}))
    };
    assert!(facts.findings().iter().all(|finding| finding.id != Id::Callers));
}

fn configured(configuration: Configuration) -> Instance {
    Instance {
        configuration: Some(Configuration { path: "/etc/odoo.conf".into(), ..configuration }),
        ..running(|_| {})
    }
}

fn redis() -> redis::Facts {
    let mut says = Says::parse(
        "# Memory\r\nused_memory:10\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n\
         aof_enabled:1\r\naof_last_write_status:ok\r\nconnected_slaves:0\r\n",
    );
    says.config.insert("save".into(), String::new());
    says.config.insert("appendfsync".into(), "everysec".into());
    says.config.insert("min-replicas-to-write".into(), "0".into());
    redis::Facts {
        probe: Ok(ServerInfo {
            server: "redis".into(),
            version: "7.0.15".into(),
            address: "unix:/run/redis.sock?db=0".into(),
        }),
        servers: vec![Server {
            at: "unix:/run/redis.sock?db=0".into(),
            kind: Kind::of("unix:/run/redis.sock?db=0", false),
            says,
            round_trip: Some((Duration::from_micros(120), Duration::from_millis(1))),
            ahead_ms: Some(3),
        }],
        open: None,
        kind: Kind::of("unix:/run/redis.sock?db=0", false),
        deployment: None,
    }
}

/// With another server.
fn on(change: impl FnOnce(&mut Server)) -> redis::Facts {
    let mut facts = redis();
    change(&mut facts.servers[0]);
    facts
}

/// One of two sentinels does not answer.
fn half_watched() -> Deployment {
    let watcher = |address: &str, answers| Watcher { address: address.to_owned().into(), answers };
    Deployment {
        mode: Mode::Sentinel,
        primaries: Vec::new(),
        uncovered_slots: 0,
        sentinels: vec![watcher("a:1", true), watcher("b:1", false)],
    }
}

fn says(pairs: &[(&str, &str)]) -> redis::Facts {
    on(|server| {
        for (key, value) in pairs {
            let Says { info, config } = &mut server.says;
            let into = if config.contains_key(*key) { config } else { info };
            into.insert((*key).into(), (*value).into());
        }
    })
}

fn refused(error: ProbeError) -> redis::Facts {
    redis::Facts { probe: Err(error), ..redis() }
}

fn host() -> host::Facts {
    host::Facts {
        root: true,
        fuse: true,
        kernel: "6.1.0-28-amd64".into(),
        memory_bytes: Some(1 << 30),
        landlock: true,
        synchronised: Some(true),
        staging: Some(("/run/sessionfs".into(), 1 << 30, 1 << 28)),
        pruned: Some(true),
        configuration: None,
    }
}

fn masked(until_boot: bool) -> service::Masked {
    service::Masked { unit: "sessionfs.service".into(), until_boot }
}

fn service() -> service::Facts {
    service::Facts {
        systemd: true,
        served: true,
        unit: Some("sessionfs.service".into()),
        enabled: true,
        masked: None,
        early: Vec::new(),
        conditions: Vec::new(),
    }
}

/// What provokes each, and how its statement begins.
#[expect(clippy::too_many_lines, reason = "a table, a finding a line")]
fn cases() -> Vec<(Id, Vec<Finding>, &'static str)> {
    let at = || "redis://cache:6379/0".to_owned();
    let blind = "1 0 8:1 / / rw - ext4 a rw\n";
    let stale = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:39 / /srv/odoo/sessions rw - fuse.sessionfs s rw,user_id=0\n";
    let elsewhere = || instance(Sign::Process(Box::new(process(HERE))), "/old/sessions");
    vec![
        (
            Id::NotMounted,
            mounted(&[]).findings(None, None),
            "nothing is mounted on /srv/odoo/sessions",
        ),
        (
            Id::Foreign,
            mounted(&["tmpfs"]).findings(None, None),
            "a tmpfs filesystem is mounted on /srv/odoo/sessions, not sessionfs",
        ),
        (
            Id::Covered,
            mounted(&["fuse.sessionfs", "tmpfs"]).findings(None, None),
            "a tmpfs filesystem is mounted over the sessionfs",
        ),
        (
            Id::Dead,
            answered(Answer::Dead).findings(None, None),
            "the mount on /srv/odoo/sessions is dead",
        ),
        (
            Id::Silent,
            answered(Answer::Silent).findings(None, None),
            "/srv/odoo/sessions does not answer within 5 s",
        ),
        (
            Id::Unserved,
            answered(Answer::Failed("saved".into(), "EIO".into())).findings(None, None),
            "in /srv/odoo/sessions a session cannot be saved: EIO",
        ),
        (
            Id::NotMounted,
            mount::Facts { is_set_up: false, ..mounted(&[]) }.findings(None, None),
            "nothing is mounted on /srv/odoo/sessions, and no configuration names it",
        ),
        (
            Id::NotMounted,
            mount::Facts { occupied: Some(("it has notes".into(), String::new())), ..mounted(&[]) }
                .findings(None, None),
            "it has notes",
        ),
        (
            Id::Layers,
            mounted(&["fuse.sessionfs", "fuse.sessionfs"]).findings(None, None),
            "2 sessionfs mounts are mounted on",
        ),
        (
            Id::NoKeeper,
            mount::Facts { keeper: None, ..mount() }.findings(None, None),
            "/srv/odoo/sessions has no keeper",
        ),
        (
            Id::MountOk,
            mount().findings(None, None),
            "/srv/odoo/sessions serves: a session was saved, read and ended in 3 ms",
        ),
        (
            Id::Blind,
            odoo(running(|it| it.mounts = Some(MountTable::parse(blind.as_bytes())))).findings(),
            "Odoo (pid 10) does not see the mount: in its mount namespace, /srv/odoo/sessions is on ext4",
        ),
        (
            Id::Stale,
            odoo(running(|it| it.mounts = Some(MountTable::parse(stale.as_bytes())))).findings(),
            "Odoo (pid 10) uses a sessionfs mount that has ended",
        ),
        (
            Id::Elsewhere,
            odoo(elsewhere()).findings(),
            "Odoo (pid 10) keeps its sessions in /old/sessions, not in /srv/odoo/sessions",
        ),
        (
            Id::Requests,
            requests(State::Failed { why: "cannot make the BPF map: EPERM".into() }).findings(),
            "requests that a browser sends by itself are not told from a person's: cannot make the BPF map: EPERM; polling",
        ),
        (
            Id::RequestsOff,
            requests(State::Off).findings(),
            "requests that a browser sends by itself are not told from a person's: polling",
        ),
        (
            Id::RequestsOk,
            requests(seen(Hook::Segments)).findings(),
            "requests that a browser sends by itself are told from a person's: port 8069, 8079, by tcp_rcv_space_adjust; a",
        ),
        (
            Id::Ports,
            requests(seen(Hook::Calls))
                .unwatched(&odoo(running(|it| it.launch.http_port = Some(8070))).http_ports())
                .into_iter()
                .collect(),
            "requests are seen on port 8069, 8079 alone, and not those to Odoo (pid 10) on port 8070: polling",
        ),
        (
            Id::OtherOdoo,
            odoo::Facts { instances: vec![running(|_| {}), elsewhere()], ..odoo(running(|_| {})) }
                .findings(),
            "Odoo (pid 10) keeps its sessions in /old/sessions, not in /srv/odoo/sessions as another",
        ),
        (
            Id::Module,
            odoo(running(|it| it.launch.modules = Some("web,session_redis".into()))).findings(),
            "Odoo (pid 10) loads session_redis",
        ),
        (
            Id::Owner,
            odoo::Facts { owner: Some(5), owner_name: "shop".into(), ..odoo(running(|_| {})) }
                .findings(),
            "Odoo (pid 10) runs as odoo, but /srv/odoo/sessions belongs to shop (5)",
        ),
        (
            Id::Loads,
            odoo::Facts { addons: searched(), ..odoo(running(|_| {})) }.findings(),
            "/opt/addons/who.py:7 may load the sessions that it has listed",
        ),
        (
            Id::Lists,
            odoo::Facts { addons: searched(), ..odoo(running(|_| {})) }.findings(),
            "/opt/addons/who.py:6 lists sessions: it finds their aliases",
        ),
        (
            Id::AddonsPartly,
            odoo::Facts { addons: searched(), ..odoo(running(|_| {})) }.findings(),
            "only a part of the addons of Odoo (pid 10) was searched",
        ),
        (
            Id::Callers,
            odoo::Facts {
                unidentified: vec![unidentified(now_ms() - 12_000)],
                ..odoo(running(|_| {}))
            }
            .findings(),
            "device logout and background detection do not work: Odoo is in another PID namespace (seen 3 times, 12 s ago)",
        ),
        (
            Id::Volume,
            odoo(running(|it| {
                it.contained = true;
                // The same filesystem by a mount of its own, of no peer group.
                let theirs = HERE.replace("1 0 8:1", "91 0 8:1").replace(" 1 0:4", " 91 0:4");
                it.mounts = Some(MountTable::parse(theirs.as_bytes()));
            }))
            .findings(),
            "Odoo in a container (pid 10) loses the mount when sessionfs is stopped",
        ),
        (
            Id::Workers,
            odoo(running(|it| it.launch.workers = None)).findings(),
            "Odoo (pid 10) has no workers",
        ),
        (
            Id::Proxy,
            odoo::Facts { proxy: Some("nginx".into()), ..odoo(running(|_| {})) }.findings(),
            "nginx runs here, but Odoo (pid 10) has no proxy_mode",
        ),
        (
            Id::OdooConfiguration,
            odoo(configured(Configuration {
                unreadable: Some("no".into()),
                ..Configuration::default()
            }))
            .findings(),
            "Odoo's configuration /etc/odoo.conf cannot be read: no",
        ),
        (
            Id::NoOdoo,
            odoo(instance(Sign::Service(Box::default()), DIR)).findings(),
            "no Odoo runs here",
        ),
        (
            Id::Unused,
            odoo(instance(Sign::Process(Box::new(process(HERE))), "/srv/second/sessions"))
                .findings(),
            "no running Odoo uses /srv/odoo/sessions; Odoo (pid 10) uses /srv/second/sessions",
        ),
        (
            Id::Unseen,
            odoo(running(|it| it.mounts = None)).findings(),
            "the mount namespace of Odoo (pid 10) cannot be checked",
        ),
        (
            Id::OtherFile,
            odoo(Instance {
                configuration: Some(Configuration {
                    path: "/etc/odoo.conf".into(),
                    ..Configuration::default()
                }),
                ..instance(Sign::File, "/old/sessions")
            })
            .findings(),
            "/etc/odoo.conf, which no known Odoo uses, has its sessions in /old/sessions",
        ),
        (
            Id::OdooOk,
            odoo(running(|_| {})).findings(),
            "Odoo (pid 10, 5 processes in all, user odoo) sees the mount",
        ),
        (
            Id::BelowFresh,
            files(|below, _| below.plain = plain(3, 2)).findings(false),
            "2 session files were written to the underlying directory of /srv/odoo/sessions since it was mounted, the newest 12 s ago",
        ),
        (
            Id::Below,
            files(|below, _| below.plain = plain(1, 0)).findings(false),
            "1 session file lies in plain text in the underlying directory",
        ),
        (
            Id::Below,
            files(|below, _| below.plain = Plain { too_old: 2, ..plain(2, 0) }).findings(false),
            "2 session files lie in plain text in the underlying directory of /srv/odoo/sessions, all older than import.max_age",
        ),
        (
            Id::Below,
            files(|below, _| {
                below.plain = Plain { too_old: 1, ..plain(2, 0) };
                below.unmovable = Some("no".into());
            })
            .findings(false),
            "2 session files lie in plain text in the underlying directory of /srv/odoo/sessions and cannot be moved (no), so none is imported",
        ),
        (
            Id::BelowUsable,
            files(|below, _| (below.uid, below.mode) = (110, 0o40_700)).findings(false),
            "the underlying directory of /srv/odoo/sessions belongs to user 110 with mode 0700",
        ),
        (
            Id::BelowUnseen,
            files::Facts { below: Some(Err(std::io::Error::other("no"))), ..files(|_, _| {}) }
                .findings(false),
            "the underlying directory of /srv/odoo/sessions cannot be read: no",
        ),
        (
            Id::Fresh,
            files(|_, others| others.push(plain(9, 1))).findings(false),
            "1 session file was written in /old/sessions since the mount on",
        ),
        (
            Id::Left,
            files(|_, others| others.push(plain(9, 0))).findings(true),
            "9 session files lie in plain text in /old/sessions",
        ),
        (
            Id::Configuration,
            host::Facts {
                configuration: Some(Failure::new(
                    ExitCode::UnknownUser,
                    "worker.user: there is no user 'x'; create it",
                )),
                ..host()
            }
            .findings(),
            "worker.user: there is no user 'x'",
        ),
        (
            Id::Unreachable,
            refused(ProbeError::Unreachable(at(), "refused".into())).findings(),
            "cannot reach Redis at redis://cache:6379/0: refused",
        ),
        (
            Id::Password,
            refused(ProbeError::AuthFailed(at())).findings(),
            "Redis at redis://cache:6379/0 refuses the user or the password",
        ),
        (
            Id::Rights,
            refused(ProbeError::NoPermission(at(), "NOPERM".into())).findings(),
            "Redis at redis://cache:6379/0 does not allow this user what sessionfs needs: NOPERM",
        ),
        (
            Id::Secret,
            refused(ProbeError::OtherSecret(at(), Secret::generate().fingerprint())).findings(),
            "Redis at redis://cache:6379/0 is written with the secret",
        ),
        (
            Id::Sentinels,
            redis::Facts { deployment: Some(half_watched()), ..redis() }.findings(),
            "of the sentinels in unix:/run/redis.sock?db=0, 1 of 2 do not answer: b:1",
        ),
        (
            Id::Unusable,
            refused(ProbeError::TooOld(at(), "5.0".into())).findings(),
            "Redis at redis://cache:6379/0 is version 5.0",
        ),
        (
            Id::Evicts,
            says(&[("maxmemory_policy", "allkeys-lru")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 has maxmemory-policy allkeys-lru",
        ),
        (
            Id::Full,
            says(&[("used_memory", "99")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 has used 99 % of its maxmemory: saves fail",
        ),
        (
            Id::Filling,
            says(&[("used_memory", "80")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 has used 80 % of its maxmemory",
        ),
        (
            Id::NoBound,
            says(&[("maxmemory", "0"), ("used_memory", "1")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 has no maxmemory",
        ),
        (
            Id::Failing,
            says(&[("aof_last_write_status", "err")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 cannot write to its disk (aof_last_write_status is err)",
        ),
        (
            Id::Volatile,
            says(&[("aof_enabled", "0")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 stores nothing on disk",
        ),
        (
            Id::Snapshots,
            says(&[("aof_enabled", "0"), ("save", "3600 1")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 stores only snapshots",
        ),
        (
            Id::Fsync,
            says(&[("appendfsync", "no")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 has appendfsync no",
        ),
        (
            Id::Replicas,
            says(&[("connected_slaves", "1")]).findings(),
            "Redis at unix:/run/redis.sock?db=0 has 1 replica and does not require any",
        ),
        (
            Id::Slow,
            on(|server| {
                server.round_trip = Some((Duration::from_millis(8), Duration::from_millis(90)));
            })
            .findings(),
            "a round trip to Redis at unix:/run/redis.sock?db=0 takes 8.00 ms, at most 90.00 ms",
        ),
        (
            Id::Open,
            redis::Facts { open: Some(Open::Everywhere("10.0.0.5:6379".into())), ..redis() }
                .findings(),
            "Redis at 10.0.0.5:6379 answers every client",
        ),
        (
            Id::OpenHere,
            redis::Facts { open: Some(Open::Here("127.0.0.1:6379".into())), ..redis() }.findings(),
            "every user of this host can use Redis at 127.0.0.1:6379",
        ),
        (
            Id::RedisUnseen,
            on(|server| server.says = Says::default()).findings(),
            "Redis at unix:/run/redis.sock?db=0 does not show this user",
        ),
        (
            Id::Clock,
            on(|server| server.ahead_ms = Some(-5000)).findings(),
            "the clock of Redis at unix:/run/redis.sock?db=0 is 5 s behind this host's",
        ),
        (
            Id::RedisOk,
            redis().findings(),
            "redis 7.0.15 at unix:/run/redis.sock?db=0 serves, round trip 0.12 ms (at most 1.00 ms)",
        ),
        (Id::NoFuse, host::Facts { fuse: false, ..host() }.findings(), "/dev/fuse is missing"),
        (
            Id::OldKernel,
            host::Facts { kernel: "5.10.0-1".into(), ..host() }.findings(),
            "kernel 5.10.0-1 is older than 5.15",
        ),
        (
            Id::Kernel,
            host::Facts { kernel: "5.15.0-130-generic".into(), ..host() }.findings(),
            "kernel 5.15.0-130-generic sends one more request",
        ),
        (
            Id::Memory,
            host::Facts { memory_bytes: Some(9 << 20), ..host() }.findings(),
            "only 9 MiB of memory are available",
        ),
        (
            Id::Staging,
            host::Facts { staging: Some(("/run/sessionfs".into(), 1 << 20, 1 << 28)), ..host() }
                .findings(),
            "/run/sessionfs has 1 MiB free, but saves in progress may need 256 MiB",
        ),
        (
            Id::NoLandlock,
            host::Facts { landlock: false, ..host() }.findings(),
            "the kernel has no Landlock, or it is switched off",
        ),
        (
            Id::Updatedb,
            host::Facts { pruned: Some(false), ..host() }.findings(),
            "updatedb lists every session each night: fuse.sessionfs is not in PRUNEFS",
        ),
        (
            Id::Unsynchronised,
            host::Facts { synchronised: Some(false), ..host() }.findings(),
            "the clock of this host is not synchronised by NTP",
        ),
        (
            Id::NotRoot,
            host::Facts { root: false, ..host() }.findings(),
            "without root, other users' processes",
        ),
        (Id::HostOk, host().findings(), "kernel 6.1.0-28-amd64, /dev/fuse, memory"),
        (Id::NoSystemd, service::Facts::default().findings(), "systemd does not run here"),
        (
            Id::ByHand,
            service::Facts { unit: None, ..service() }.findings(),
            "sessionfs was started by hand",
        ),
        (
            Id::Disabled,
            service::Facts { enabled: false, ..service() }.findings(),
            "sessionfs.service is not enabled",
        ),
        (
            Id::Disabled,
            service::Facts { unit: None, masked: Some(masked(false)), ..service() }.findings(),
            "sessionfs.service is masked",
        ),
        (
            Id::Order,
            service::Facts { early: vec!["odoo.service".into()], ..service() }.findings(),
            "odoo.service does not wait for sessionfs.service",
        ),
        (
            Id::Condition,
            service::Facts { conditions: vec![service::Condition::example()], ..service() }
                .findings(),
            "odoo.service has 'AssertPathIsMountPoint=/srv/odoo/sessions' in \
             /etc/systemd/system/odoo.service.d/mount.conf",
        ),
        (
            Id::Kept,
            kept(|kept| kept.changes = 2),
            "Redis has not taken 2 changes, the oldest for 0 s",
        ),
        (Id::KeptFull, kept(|kept| kept.is_full = true), "no more changes can be kept"),
        (
            Id::KeptUnsendable,
            kept(|kept| {
                kept.unsendable = 1;
                kept.why_unsendable = Some("their files are damaged".into());
            }),
            "1 change is kept on this host and cannot be sent: their files are damaged",
        ),
        (
            Id::KeptLeft,
            kept::Facts { left: 2, ..kept::Facts::default() }.findings(None),
            "2 changes are kept on this host for a mount that is not served",
        ),
        (
            Id::Parameters,
            followed(Parameters { problem: Some("no answer".into()), ..Parameters::default() }),
            "Odoo's system parameters: no answer",
        ),
        (
            Id::ParametersOk,
            followed(Parameters::default()),
            "Odoo's system parameters are followed",
        ),
        (
            Id::ParametersLeft,
            parameters(parameters::Mounted {
                left: vec!["lifetime.idle database=shop".into()],
                state: None,
            }),
            "this server does not follow Odoo's system parameters, and 1 lifetime",
        ),
        (Id::ServiceOk, service().findings(), "sessionfs.service starts at boot, before Odoo"),
        (
            Id::TrailRefused,
            trail(|trail| trail.is_taken = false),
            "/var/log/trail.jsonl takes no entries of the audit trail",
        ),
        (
            Id::TrailParted,
            trail(|trail| trail.writer_has_file = false),
            "web1 writes the audit trail of all servers to its log alone",
        ),
        (
            Id::TrailLeftOut,
            trail(|trail| trail.left_out = 2),
            "2 events of the audit trail could not be kept",
        ),
        (
            Id::TrailOk,
            trail(|_| {}),
            "the audit trail is in /var/log/trail.jsonl, written by web1; 0 entries wait in Redis",
        ),
    ]
}

#[test]
fn every_finding_is_provoked_and_says_what_is_so_and_what_to_do() {
    let mut provoked = BTreeSet::new();
    for (id, findings, beginning) in cases() {
        let Some(found) = findings.iter().find(|finding| finding.id == id) else {
            panic!("{}: {findings:#?}", id.name());
        };
        assert!(found.what.starts_with(beginning), "{}: {}", id.name(), found.what);
        assert!(!found.what.contains('\n') && !found.remedy.contains('\n'));
        assert_eq!(found.remedy.is_empty(), found.severity == Severity::Ok, "{}", id.name());
        provoked.insert(id);
    }
    let all: BTreeSet<Id> = Id::ALL.iter().map(|(id, ..)| *id).collect();
    assert_eq!(provoked, all);
}

#[test]
fn what_is_as_it_should_be_is_not_complained_of() {
    let all = [
        mount().findings(None, None),
        files(|_, _| {}).findings(false),
        odoo(running(|_| {})).findings(),
        redis().findings(),
        host().findings(),
        service().findings(),
        kept(|_| {}),
        requests(seen(Hook::Calls)).findings(),
    ];
    for finding in all.iter().flatten() {
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
    }
}

#[test]
fn another_mounts_odoo_is_another_checks() {
    let second = instance(Sign::Process(Box::new(process(HERE))), "/srv/second/sessions");
    let unit = instance(Sign::Service(Box::default()), "/srv/second/sessions");
    for (other, id) in [(second, Id::Unused), (unit, Id::NoOdoo)] {
        let facts = odoo(other);
        let found = facts.findings();
        assert!(found.iter().all(|finding| finding.id == id), "{found:?}");
        assert_eq!(facts.units(), Vec::<String>::new());
    }
    assert_eq!(odoo(running(|_| {})).units(), ["odoo.service"]);
}

#[test]
fn what_another_odoo_uses_is_not_to_be_imported() {
    let used = files(|_, others| others.push(Plain { in_use: true, ..plain(9, 0) }));
    assert_eq!(used.findings(true), []);
}

#[test]
fn a_cause_comes_before_what_it_causes_and_nothing_is_to_be_restarted() {
    let away = refused(ProbeError::Unreachable("redis://c".into(), "refused".into()));
    let away = away.findings();
    let cause = away.iter().map(|found| found.id).find(|id| id.is_fault_of_redis());
    assert_eq!(cause, Some(Id::Unreachable));
    for answer in [Answer::Silent, Answer::Failed("saved".into(), "EIO".into())] {
        let found = answered(answer).findings(cause, None);
        assert!(found[0].remedy.contains("see redis.unreachable"), "{found:?}");
        assert!(!found[0].remedy.contains("systemctl restart"), "{found:?}");
        assert!(away[0].id < found[0].id);
    }
    assert!(answered(Answer::Silent).findings(None, None)[0].remedy.contains("systemctl restart"));
    // A unit that is masked cannot be started.
    let unmask = |until_boot| {
        let service = service::Facts { unit: None, masked: Some(masked(until_boot)), ..service() };
        service.before_start().unwrap()
    };
    let dead = answered(Answer::Dead).findings(None, Some(&unmask(true)));
    let remedy = "systemctl unmask --runtime sessionfs.service, then systemctl restart sessionfs ";
    assert!(dead[0].remedy.starts_with(remedy), "{}", dead[0].remedy);
    assert_eq!(unmask(false), "systemctl unmask sessionfs.service");
}

#[test]
fn remedies_name_the_unit_of_the_mount() {
    let second = mount::Facts { unit: "sessionfs@two".into(), ..answered(Answer::Dead) };
    assert!(second.findings(None, None)[0].remedy.starts_with("systemctl restart sessionfs@two "));
    let missing = mount::Facts { exists: false, layers: Vec::new(), ..mount() };
    assert_eq!(
        missing.findings(None, None)[0].what,
        "the directory /srv/odoo/sessions does not exist"
    );
}

#[test]
fn each_mounts_configuration_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("etc/sessionfs");
    std::fs::create_dir_all(&below).unwrap();
    for (name, text) in [
        ("two.toml", "mountpoint = '/srv/two'"),
        ("sessionfs.toml", "mountpoint = '/srv/one'"),
        ("two.installed", "mountpoint=/srv/two\nredis=instance"),
        ("removed.toml", "mountpoint = '/srv/three'"),
        ("removed.installed", "redis=instance"),
        ("bad.toml", "mountpoint"),
        ("redis.password", "x"),
    ] {
        std::fs::write(below.join(name), text).unwrap();
    }
    let host = Root::at(directory.path().to_owned());
    let found = Configured::all(&host);
    let units: Vec<_> = found
        .iter()
        .map(|one| (one.unit.as_str(), one.mountpoint.to_str().unwrap(), one.is_removed))
        .collect();
    assert_eq!(
        units,
        [
            ("sessionfs", "/srv/one", false),
            ("sessionfs@removed", "/srv/three", true),
            ("sessionfs@two", "/srv/two", false),
        ]
    );
    assert_eq!(service::unit_for(None, found.get(2), &host), "sessionfs@two");
    assert_eq!(service::unit_for(None, None, &host), "sessionfs");
}

#[test]
fn a_container_that_has_the_mount_as_a_volume_sees_it() {
    let theirs = "1 0 0:60 / / rw - overlay o rw\n2 1 0:40 / /var/lib/odoo/sessions rw - fuse.sessionfs s rw,user_id=0\n";
    let mut process = process(theirs);
    process.contained = true;
    let inside = Instance {
        sessions_here: Some(DIR.into()),
        ..instance(Sign::Process(Box::new(process)), "/var/lib/odoo/sessions")
    };
    let found = odoo(inside).findings();
    assert_eq!(found.iter().map(|finding| finding.id).collect::<Vec<_>>(), [Id::OdooOk]);
}

#[test]
fn the_worst_decides_and_names_are_unique() {
    let report = |ids: &[Id]| Report {
        directory: DIR.into(),
        place: Place::default(),
        findings: ids.iter().map(|id| Finding::ok(*id, "x")).collect(),
    };
    let code = |ids: &[Id]| {
        let reports = [report(&[Id::MountOk]), report(ids)];
        outcome(&reports).err().map(|failure| failure.code)
    };
    assert_eq!(code(&[Id::MountOk, Id::NoOdoo]), None);
    assert_eq!(code(&[Id::NoOdoo, Id::Slow]), Some(ExitCode::CheckWarning));
    assert_eq!(code(&[Id::Slow, Id::Dead]), Some(ExitCode::CheckFailed));
    let names: BTreeSet<&str> = Id::ALL.iter().map(|(_, name, ..)| *name).collect();
    assert_eq!(names.len(), Id::ALL.len());
}

#[test]
fn every_finding_is_documented_in_the_same_words() {
    let documentation = include_str!("../../docs/commands.md");
    for (id, name, severity, meaning) in Id::ALL {
        let severity = format!("{severity:?}").to_lowercase();
        let line = format!("| `{name}` | {severity} | {} |", meaning.trim());
        assert!(documentation.lines().any(|found| found == line), "{id:?}: {line}");
    }
}

/// A restart would take the mount away from Odoo for a moment.
#[test]
fn another_owner_needs_a_reload_and_no_restart() {
    let other = odoo::Facts { owner: Some(5), owner_name: "shop".into(), ..odoo(running(|_| {})) };
    let findings = other.findings();
    let found = findings.iter().find(|found| found.id == Id::Owner).unwrap();
    assert!(found.remedy.ends_with("(sessionfs reload /srv/odoo/sessions)"), "{}", found.remedy);
    assert!(!found.remedy.contains("restart"), "{}", found.remedy);
}

#[test]
fn all_servers_of_a_cluster_are_looked_at() {
    const URL: &str = "redis-cluster://a:1,b:2";
    let mut facts = redis();
    facts.kind = Kind::of(URL, false);
    let server = |at: &str| {
        let mut server = facts.servers[0].clone();
        server.at = at.to_owned();
        server.kind = Kind::of(at, false);
        server
    };
    let [well, mut evicts, mut full, mut more] =
        ["redis://a:1", "redis://b:2", "redis://[::1]:3", "redis://d:4"].map(server);
    evicts.says.info.insert("maxmemory_policy".into(), "allkeys-lru".into());
    full.says.info.insert("used_memory".into(), "99".into());
    more.says.info.insert("maxmemory_policy".into(), "allkeys-lru".into());
    facts.servers = vec![well, evicts, full, more];
    let found = facts.findings();
    let find = |id| found.iter().filter(|found| found.id == id).collect::<Vec<_>>();
    let [evicts] = find(Id::Evicts)[..] else { panic!("{found:?}") };
    assert!(evicts.what.starts_with("Redis at redis://b:2 and redis://d:4 has"), "{evicts:?}");
    assert!(evicts.remedy.starts_with("redis-cli -h b -p 2 CONFIG SET"), "{evicts:?}");
    let [full] = find(Id::Full)[..] else { panic!("{found:?}") };
    assert!(full.what.starts_with("Redis at redis://[::1]:3 has used 99 %"), "{full:?}");
    assert!(full.remedy.starts_with("redis-cli -h ::1 -p 3 CONFIG SET"), "{full:?}");
    // No redis-cli leads to several hosts at once.
    let error = ProbeError::NoWrites("rediss://c:3".into(), "OOM command not allowed".into());
    let refused = redis::Facts { probe: Err(error), ..facts }.findings();
    assert!(refused[0].remedy.starts_with("redis-cli -h c -p 3 --tls CONFIG"), "{refused:?}");
    assert_eq!(Kind::of(URL, false), Kind::Other("redis-cli -h HOST -p PORT".into()));
}

#[test]
fn a_redis_that_takes_no_writes_is_told_with_its_cause_and_the_remedy_for_that_redis() {
    const OWN: &str = "unix:/run/redis-sessionfs/redis-server.sock?db=0";
    let found = |why: &str, at: &str, is_private| {
        let error = ProbeError::NoWrites(at.to_owned(), why.into());
        let facts = redis::Facts { kind: Kind::of(at, is_private), ..refused(error) };
        let [finding] = facts.findings().try_into().expect("one finding");
        assert!(finding.what.contains(at) && finding.what.contains(why), "{finding:?}");
        (finding.id, finding.remedy)
    };
    let (full, failing) = ("OOM command not allowed", "MISCONF Errors writing to the AOF file");
    let (id, remedy) = found(full, OWN, false);
    assert_eq!(
        (id, remedy.as_str()),
        (Id::Full, "sessionfs-setup --redis-memory SIZE (for example 2gb)")
    );
    let (id, remedy) = found(failing, OWN, false);
    assert_eq!(id, Id::Failing);
    assert!(remedy.contains("/var/log/redis/redis-server-sessionfs.log"), "{remedy}");
    let private = "unix:/var/lib/sessionfs/redis.sock?db=0";
    assert!(found(full, private, true).1.contains("private_redis.memory"));
    let there = "rediss://cache.example.com:6380/0";
    let (id, remedy) = found(full, there, false);
    assert_eq!(id, Id::Full);
    assert!(
        remedy.starts_with("redis-cli -h cache.example.com -p 6380 --tls CONFIG SET maxmemory")
    );
    for (why, part) in
        [("READONLY You can't write", "name the master"), ("NOREPLICAS x", "replicas back")]
    {
        let (id, remedy) = found(why, there, false);
        assert_eq!(id, Id::Unusable);
        assert!(remedy.contains(part), "{remedy}");
    }
    // Never a redis-cli that would lead to the distribution's own instance.
    let mut own = says(&[("aof_enabled", "0"), ("maxmemory", "0")]);
    own.servers[0].kind = Kind::of(OWN, false);
    let gone = ProbeError::Unreachable(OWN.into(), "no such file".into());
    let gone = redis::Facts { kind: Kind::of(OWN, false), ..refused(gone) };
    for finding in own.findings().iter().chain(&gone.findings()) {
        assert!(!finding.remedy.contains("redis-cli"), "{finding:?}");
    }
    assert!(gone.findings()[0].remedy.starts_with("systemctl start redis-server@sessionfs "));
}

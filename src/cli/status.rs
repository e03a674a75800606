//! `sessionfs status`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::output::{self, BAD, Format, GOOD, HEADING, WARNING, styled};
use super::sessions::span;
use crate::check::service::Configured;
use crate::config::Config;
use crate::config::flags::Place;
use crate::config::paths::control_socket;
use crate::control::client;
use crate::control::status::{Report, Status as ServerStatus, Traffic, Trail, cluster};
use crate::exit::{ExitCode, Failure};
use crate::foreign::{Foreign, escaped};
use crate::host::mount::is_ours;
use crate::host::mount_table::MountTable;
use crate::host::prober::Prober;
use crate::keeper::mount;
use crate::odoo::root::Root;
use crate::parameters::follow::State as Parameters;
use crate::redis::RedisStore;
use crate::redis::memory::Memory;
use crate::request::State;
use crate::store::{Kept, Link as _, Wait, Waited};
use crate::telemetry::now_ms;

/// How long a mount may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Show the mounts of this host, and the cluster they belong to
#[derive(clap::Args, Debug)]
pub(super) struct Status {
    /// Show only this mount (default: all mounts of this host)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the cluster is looked for; without these, each mount is asked
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// What is found out.
#[derive(Debug, Serialize)]
struct Found {
    mounts: Vec<Mount>,
    clusters: Vec<Cluster>,
}

/// One mount of this host.
#[derive(Debug, Serialize)]
struct Mount {
    mountpoint: PathBuf,
    /// Sessions can be opened and saved.
    serves: bool,
    /// Why not.
    problem: Option<String>,
    /// Its answer.
    status: Option<ServerStatus>,
}

/// The servers on one Redis.
#[derive(Debug, Serialize)]
struct Cluster {
    redis: Foreign,
    /// Nothing if it could not be asked.
    servers: Option<Vec<Report>>,
    problem: Option<String>,
}

impl Status {
    /// Asks and shows.
    pub(super) fn run(&self) -> Result<(), Failure> {
        Failure::unless_root("only root can use the control sockets; run it with sudo")?;
        let named = match &self.dir {
            Some(dir) => vec![mount::resolve(dir)?],
            None => mountpoints()?,
        };
        let mut mounts: Vec<Mount> = named.into_iter().map(look).collect();
        let clusters = if self.place.redis.is_some() || self.place.config.is_some() {
            vec![ask_redis(&self.place)?]
        } else {
            clusters_of(&mut mounts)
        };
        let found = Found { mounts, clusters };
        if self.format.json {
            output::json(&found)?;
        } else if !found.text().is_empty() {
            output::say(found.text().trim_end())?;
        }
        found.verdict()
    }
}

/// Where this host's sessionfs are mounted, or should be. A mount that is bound to a second place (a container's
/// volume) is one mount, and known by the place that its keeper made.
fn mountpoints() -> Result<Vec<PathBuf>, Failure> {
    let table = MountTable::own().map_err(|e| Failure::internal("read the mount table", e))?;
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for mounted in table.ours().into_iter().filter_map(|path| table.at(path)) {
        let known = found.entry(mounted.device.clone()).or_insert(mounted.mountpoint.clone());
        if !control_socket(known).exists() {
            known.clone_from(&mounted.mountpoint);
        }
    }
    let mut mountpoints: Vec<PathBuf> = found.into_values().collect();
    // What is set up and not mounted is of this host, too.
    let set_up = Configured::all(&Root::host()).into_iter().filter(|one| !one.is_removed);
    mountpoints.extend(set_up.filter_map(|one| mount::resolve(&one.mountpoint).ok()));
    mountpoints.sort_unstable();
    mountpoints.dedup();
    Ok(mountpoints)
}

/// How long something took: `140 us`, `2.1 ms`, `1.3 s`, `-` where nothing was measured.
fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// `1 save`, `2 saves`, `no saves`.
/// What Redis has not taken yet.
fn kept(kept: &Kept) -> String {
    let mut text = format!(
        "{} on this host until Redis takes them ({}), the oldest for {} s",
        some(kept.changes, "change"),
        HumanBytes(kept.bytes),
        kept.oldest_seconds
    );
    if let Some(why) = &kept.why_unsendable {
        let _ = write!(text, "; {} cannot be sent: {why}", some(kept.unsendable, "change"));
    }
    text
}

fn some(number: u64, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", HumanCount(number)),
    }
}

/// How many servers of a Cluster are away, if others are not.
fn partly_away(status: &ServerStatus) -> Option<(usize, usize)> {
    status.redis.deployment.as_ref()?.partly_away()
}

/// Asks one mount.
fn look(mountpoint: PathBuf) -> Mount {
    let mounted = is_ours(&mountpoint);
    let status = client::status(&control_socket(&mountpoint));
    let problem = match &status {
        _ if !mounted => Some("no sessionfs is mounted there".to_owned()),
        Err(error) => Some(error.to_string()),
        Ok(_) if !Prober::default().answers(&mountpoint, ANSWER_WITHIN) => {
            Some(format!("the mount does not answer within {} s", ANSWER_WITHIN.as_secs()))
        }
        Ok(status) if status.server.link == *"down" => Some(match partly_away(status) {
            Some((away, all)) => {
                format!("{away} of {all} servers of Redis are down: {}", status.redis.cause)
            }
            None => format!("Redis is down: {}", status.redis.cause),
        }),
        Ok(status) => status
            .redis
            .writes_refused
            .as_ref()
            .map(|why| format!("Redis accepts no writes: {why}")),
    };
    Mount { mountpoint, serves: problem.is_none(), problem, status: status.ok() }
}

/// The clusters that the mounts status of, each once.
fn clusters_of(mounts: &mut [Mount]) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for status in mounts.iter_mut().filter_map(|mount| mount.status.as_mut()) {
        let (redis, nodes) = (status.redis.address.clone(), status.cluster.take());
        match clusters.iter_mut().find(|known| known.redis == redis) {
            Some(known) if known.servers.is_some() => {}
            Some(known) => known.servers = nodes,
            None => clusters.push(Cluster { redis, servers: nodes, problem: None }),
        }
    }
    for cluster in &mut clusters {
        if cluster.servers.is_none() {
            cluster.problem = Some("unknown while Redis is down".into());
        }
    }
    clusters
}

/// The cluster on the Redis that is named.
fn ask_redis(place: &Place) -> Result<Cluster, Failure> {
    let settings = Config::resolve_redis(place)?;
    super::redis::runtime()?.block_on(async {
        let store = RedisStore::start(settings)
            .map_err(|e| Failure::new(ExitCode::BadUrl, e.to_string()))?;
        let redis = Foreign::from(store.address());
        let nodes = match store.wait_up(Wait::default()).await {
            Waited::Up => store.servers().await.map_err(|error| error.to_string()),
            Waited::StepOver | Waited::BudgetSpent => Err(store.link_cause()),
        };
        Ok(match nodes {
            Ok(nodes) => Cluster { redis, servers: Some(cluster(&nodes, None)), problem: None },
            Err(problem) => Cluster { redis, servers: None, problem: Some(problem) },
        })
    })
}

impl Found {
    fn verdict(&self) -> Result<(), Failure> {
        let not_served = |message| Err(Failure::new(ExitCode::NotServed, message));
        if self.mounts.is_empty() {
            return not_served(
                "no sessionfs is mounted on this host; start one with 'sessionfs mount DIR' or \
                 its service"
                    .to_owned(),
            );
        }
        let bad: Vec<_> = self.mounts.iter().filter(|mount| !mount.serves).collect();
        match bad.first() {
            None => Ok(()),
            Some(first) => not_served(format!(
                "{}{}: {}; run 'sessionfs check' for the cause",
                if bad.len() == 1 {
                    String::new()
                } else {
                    format!("{} mounts are not served; ", bad.len())
                },
                first.mountpoint.display(),
                first.problem.as_deref().unwrap_or("no reason is known")
            )),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for mount in &self.mounts {
            mount.write(&mut text);
            text.push('\n');
        }
        for cluster in &self.clusters {
            cluster.write(&mut text);
            text.push('\n');
        }
        text
    }
}

/// Writing to a String cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)+) => { let _ = writeln!($text, $($format)+); };
}

impl Mount {
    fn write(&self, text: &mut String) {
        let state = match (&self.problem, &self.status) {
            (Some(problem), Some(status))
                if status.server.link != *"down" && status.redis.takes_writes == Some(false) =>
            {
                styled(BAD, format_args!("sessions can be read but not saved: {problem}"))
            }
            (Some(problem), Some(status)) if partly_away(status).is_some() => {
                styled(BAD, format_args!("serving a part of the sessions: {problem}"))
            }
            (Some(problem), _) => styled(BAD, format_args!("not served: {problem}")),
            (None, Some(status)) if status.server.link != *"up" => {
                styled(WARNING, format_args!("serving; Redis is {}", status.server.link))
            }
            (None, _) => styled(GOOD, "serving"),
        };
        line!(text, "{}  {state}", styled(HEADING, self.mountpoint.display()));
        if let Some(status) = &self.status {
            let callers = status.unidentified_callers.iter().filter(|callers| callers.is_current());
            for callers in callers {
                line!(text, "  {}  {}", styled(BAD, "error:"), callers.reason.text());
                line!(text, "  ->      {}", callers.reason.remedy());
            }
            write_server(text, status);
        }
    }
}

fn write_server(text: &mut String, status: &ServerStatus) {
    let now_ms = now_ms();
    let since = |then_ms: u64| span(now_ms.saturating_sub(then_ms));
    let (node, traffic, redis) = (&status.server, &status.server.traffic, &status.redis);
    line!(text, "  server    {} ({}), sessionfs {}", node.host, node.id, node.version);
    let restarts = match status.worker_restarts {
        0 => String::new(),
        n => format!(", {} after a failure", some(n, "restart")),
    };
    line!(
        text,
        "  running   {} (keeper {}), its worker {} (pid {}){restarts}",
        since(status.keeper.since_ms),
        status.keeper.pid,
        since(status.worker.process.since_ms),
        status.worker.process.pid
    );
    let server = match (&redis.server, &redis.version) {
        (Some(server), Some(version)) => format!(", {server} {version}"),
        _ => String::new(),
    };
    line!(text, "  redis     {}{server}", redis.address);
    let away = span(Duration::from_secs_f64(redis.outage_seconds.clamp(0.0, 1e9)).as_secs() * 1000);
    let outages = match redis.outages {
        0 if node.link == *"down" => "not reached since the start".to_owned(),
        0 => "never lost".to_owned(),
        1 => format!("down once, for {away}"),
        n => format!("down {} times, for {away} in all", HumanCount(n)),
    };
    line!(
        text,
        "            {}: {outages}; round trip p50 {}, p99 {}",
        node.link,
        latency(traffic.redis.p50_seconds),
        latency(traffic.redis.p99_seconds)
    );
    if let Some(deployment) = &redis.deployment {
        line!(text, "            {}", deployment.words());
    }
    if let Some(memory) = &redis.memory {
        line!(text, "            {}", fill(memory));
    }
    line!(text, "  sessions  {}", sessions(status));
    line!(
        text,
        "  expired   {} in the last minute, {} in the last hour, by this server",
        HumanCount(traffic.expired_last_minute),
        HumanCount(traffic.expired_last_hour)
    );
    write_in_use(text, status);
    write_activity(text, &status.requests);
    if let Some(trail) = &status.trail {
        write_trail(text, trail);
    }
    if let Some(parameters) = &status.parameters {
        write_parameters(text, parameters);
    }
    if !status.parameters_left.is_empty() {
        let left = some(status.parameters_left.len() as u64, "lifetime");
        line!(
            text,
            "  odoo      parameters are not followed; {left} of theirs: sessionfs config get"
        );
    }
    if status.kept.changes > 0 || status.kept.unsendable > 0 {
        line!(text, "  kept      {}", kept(&status.kept));
    }
    line!(
        text,
        "  requests  {:.1} a second; in the last minute {} failed, {} waited for Redis",
        traffic.requests_per_second,
        HumanCount(traffic.failed_last_minute),
        HumanCount(traffic.waited_last_minute)
    );
    text.push('\n');
    write_speeds(text, traffic);
    text.push('\n');
    if status.recent.is_empty() {
        line!(text, "  no warnings");
        return;
    }
    line!(text, "  last warnings");
    for one in status.recent.iter().rev().take(WARNINGS_SHOWN) {
        let times = if one.count > 1 {
            format!(" ({} times)", HumanCount(one.count))
        } else {
            String::new()
        };
        let style = if one.level == "error" { BAD } else { WARNING };
        let ago = format!("{:>10} ago", since(one.at_ms));
        let room = WIDTH.saturating_sub(ago.len() + times.len() + 4);
        line!(text, "  {ago}  {}{times}", styled(style, cut(&one.text, room)));
    }
}

/// How the audit trail fares.
fn write_trail(text: &mut String, trail: &Trail) {
    line!(text, "  trail     in {}", trail.words());
    for (what, remedy) in trail.refused().into_iter().chain(trail.parted()) {
        line!(text, "            {} {what}; {remedy}", styled(WARNING, "warning:"));
    }
}

/// What the kernel holds, and what is being saved.
fn write_in_use(text: &mut String, status: &ServerStatus) {
    let room = match status.staging_max_bytes {
        0 => String::new(),
        bytes => format!(" of {}", HumanBytes(bytes)),
    };
    line!(
        text,
        "  in use    {} held by the kernel, {} open, {} in progress ({}{room})",
        some(status.in_use.inodes, "inode"),
        HumanCount(status.in_use.handles),
        some(status.in_use.staging_files, "save"),
        HumanBytes(status.in_use.staging_bytes)
    );
    if status.memory_max_bytes > 0 {
        let [used, max] = [status.in_use.memory_bytes, status.memory_max_bytes].map(HumanBytes);
        line!(text, "  memory    {used} of {max} for known sessions");
    }
}

/// Whether requests are told apart, on which ports.
fn write_activity(text: &mut String, requests: &State) {
    match requests {
        State::Off => {
            line!(text, "  activity  every request counts (activity.requests is off)");
        }
        State::Failed { why } => {
            line!(text, "  activity  every request counts: {why}");
        }
        State::Running(running) => {
            line!(
                text,
                "  activity  of requests to port {}, by {} rules ({})",
                running.port_list(),
                running.rules,
                running.hook.name()
            );
        }
    }
}

/// What holds by Odoo's system parameters, and what is wrong with them.
fn write_parameters(text: &mut String, parameters: &Parameters) {
    const SHOWN: usize = 20;
    let silent =
        if parameters.is_silent(now_ms()) { "; nobody asks PostgreSQL any more" } else { "" };
    let databases = some(parameters.databases.len() as u64, "database");
    line!(text, "  odoo      parameters of {databases}{}", styled(WARNING, silent));
    for (name, followed) in parameters.databases.iter().take(SHOWN) {
        let said = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), escaped);
        let (idle, absolute) = (said(&followed.idle), said(&followed.absolute));
        line!(text, "            {}: idle {idle}, absolute {absolute}", escaped(name));
    }
    for (database, why) in parameters.problems().take(SHOWN) {
        let whose = database.map_or_else(String::new, |name| format!("{}: ", escaped(name)));
        line!(text, "            {}", styled(WARNING, format!("{whose}{}", escaped(why))));
    }
    let unshown = parameters.databases.len().max(parameters.problems().count()) > SHOWN;
    if unshown {
        line!(text, "            not all are shown; --json has them");
    }
}

/// How often each operation was done lately, and how long it took.
fn write_speeds(text: &mut String, traffic: &Traffic) {
    let window = format!("last {:.0} s", traffic.window_seconds);
    let named =
        [("look-up", "lookup"), ("open", "open"), ("save", "rename"), ("removal", "unlink")];
    let lines = named.iter().filter_map(|(name, operation)| {
        let speed = traffic.operations.get(*operation)?;
        Some([
            (*name).to_owned(),
            format!("{:.1}", speed.per_second),
            latency(speed.p50_seconds),
            latency(speed.p99_seconds),
        ])
    });
    let table = output::table([window.as_str(), "a second", "p50", "p99"], &[1, 2, 3], lines);
    for row in table.lines() {
        line!(text, "  {row}");
    }
}

/// How full Redis is.
fn fill(memory: &Memory) -> String {
    let used = HumanBytes(memory.used_bytes);
    match memory.percent() {
        Some(percent) => format!("{used} of {} used, {percent} %", HumanBytes(memory.max_bytes)),
        None => format!("{used} used, no limit"),
    }
}

/// How many sessions there are.
fn sessions(status: &ServerStatus) -> String {
    let Some(all) = status.sessions else { return "unknown while Redis is down".to_owned() };
    let all = format!("{} in Redis, of all servers", HumanCount(all));
    match &status.living {
        Some(living) => format!(
            "{all}: {}{} of users, {} of visitors",
            if living.exact { "" } else { "about " },
            HumanCount(living.authenticated),
            HumanCount(living.anonymous)
        ),
        None => all,
    }
}

/// As many as leave room for the rest of the screen; all of them are in the JSON.
const WARNINGS_SHOWN: usize = 8;
/// What a terminal is wide at least.
const WIDTH: usize = 100;

fn cut(text: &str, most_chars: usize) -> String {
    if text.chars().count() <= most_chars {
        return text.to_owned();
    }
    text.chars().take(most_chars.saturating_sub(3)).chain("...".chars()).collect()
}

impl Cluster {
    fn write(&self, text: &mut String) {
        let title = styled(HEADING, format_args!("cluster on {}", self.redis));
        let Some(nodes) = &self.servers else {
            let problem = self.problem.as_deref().unwrap_or("not known");
            line!(text, "{title}  {}", styled(BAD, problem));
            return;
        };
        line!(text, "{title}  {}", some(nodes.len() as u64, "server"));
        let now_ms = now_ms();
        let lines = nodes.iter().map(|node| {
            let traffic = &node.traffic;
            let p99 = |operation: &str| {
                traffic.operations.get(operation).and_then(|speed| speed.p99_seconds)
            };
            [
                cut(&node.host.to_string(), 16),
                // The end of a path tells more than its beginning.
                tail(&node.mountpoint.to_string(), 22),
                node.link.to_string(),
                span(now_ms.saturating_sub(node.since_ms)),
                node.seen_seconds_ago.map_or("now".to_owned(), |ago| format!("{ago}s ago")),
                format!("{:.1}", traffic.requests_per_second),
                latency(p99("lookup")),
                latency(p99("rename")),
                HumanCount(traffic.failed_last_minute).to_string(),
            ]
        });
        let heading =
            ["host", "mountpoint", "redis", "up", "seen", "req/s", "look-up", "save", "failed"];
        if !nodes.is_empty() {
            for row in output::table(heading, &[5, 6, 7, 8], lines).lines() {
                line!(text, "  {row}");
            }
        }
        write_missing_rules(text, nodes);
    }
}

/// The servers that follow fewer rules than another one: they judge some sessions by other lifetimes.
fn write_missing_rules(text: &mut String, nodes: &[Report]) {
    let most = nodes.iter().filter_map(|node| node.rules).max().unwrap_or_default();
    for node in nodes {
        let (followed, remedy) = match node.rules {
            Some(followed) => (followed, "give all servers the same [[lifetime.rules]]"),
            None => (0, "its version knows none: update it"),
        };
        if followed < most {
            line!(
                text,
                "  {}  {} follows {followed} of {most} rules of lifetimes; {remedy}",
                styled(WARNING, "warning:"),
                cut(&node.host.to_string(), 16)
            );
        }
    }
}

fn tail(text: &str, most_chars: usize) -> String {
    let length = text.chars().count();
    if length <= most_chars {
        return text.to_owned();
    }
    "...".chars().chain(text.chars().skip(length - most_chars + 3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn report(host: &str) -> Report {
        let text = format!(
            r#"{{"id":"1","host":"{host}","mountpoint":"/srv/{}/sessions","version":"0.1.0",
                "since_ms":{},"link":"degraded","traffic":{}}}"#,
            "x".repeat(60),
            now_ms() - 300 * 86_400_000,
            serde_json::to_string(&crate::control::status::Traffic::default()).unwrap()
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_cluster_fits_on_a_terminal() {
        let nodes = Some(vec![report("a"), report(&"long-name".repeat(9))]);
        let cluster = Cluster { redis: "redis://h:6379/0".into(), servers: nodes, problem: None };
        let mut text = String::new();
        cluster.write(&mut text);
        assert!(text.contains("2 servers"), "{text}");
        for line in text.lines().skip(1) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn a_server_that_follows_fewer_rules_is_named() {
        let with = |host, rules| Report { rules, ..report(host) };
        let said = |nodes: &[Report]| {
            let mut text = String::new();
            write_missing_rules(&mut text, nodes);
            text
        };
        assert_eq!(said(&[with("a", Some(0)), with("b", None)]), "");
        let text = said(&[with("a", Some(3)), with("b", None), with("c", Some(1))]);
        assert!(!text.contains("  a follows"), "{text}");
        assert!(
            text.contains("b follows 0 of 3 rules of lifetimes; its version knows none"),
            "{text}"
        );
        assert!(text.contains("c follows 1 of 3 rules of lifetimes; give all servers"), "{text}");
    }

    #[test]
    fn nothing_mounted_and_a_silent_mount_are_no_success() {
        let none = Found { mounts: vec![], clusters: vec![] };
        assert_eq!(none.verdict().unwrap_err().code, ExitCode::NotServed);
        let mount = |problem: Option<&str>| Mount {
            mountpoint: Path::new("/srv/a").to_owned(),
            serves: problem.is_none(),
            problem: problem.map(ToOwned::to_owned),
            status: None,
        };
        let one = Found { mounts: vec![mount(None), mount(Some("silent"))], clusters: vec![] };
        let failure = one.verdict().unwrap_err();
        assert_eq!(failure.code, ExitCode::NotServed);
        assert_eq!(failure.to_string(), "/srv/a: silent; run 'sessionfs check' for the cause");
        assert!(Found { mounts: vec![mount(None)], clusters: vec![] }.verdict().is_ok());
    }

    #[test]
    fn the_trail_is_told_with_what_is_wrong_with_it() {
        let said = |trail: &Trail| {
            let mut text = String::new();
            write_trail(&mut text, trail);
            text
        };
        let well = Trail {
            place: Some("/var/log/trail.jsonl".into()),
            is_taken: true,
            writer: Some("web1".into()),
            writer_has_file: true,
            waiting: Some(3),
            left_out: 0,
        };
        let line =
            "  trail     in /var/log/trail.jsonl, written by web1; 3 entries wait in Redis\n";
        assert_eq!(said(&well), line);
        let refused = said(&Trail { is_taken: false, left_out: 7, ..well.clone() });
        assert!(refused.contains("; 7 could not be kept"), "{refused}");
        assert!(refused.contains("takes no entries of the audit trail"), "{refused}");
        let elsewhere = said(&Trail { writer_has_file: false, ..well.clone() });
        assert!(elsewhere.contains("web1 writes the audit trail of all servers to its log alone"));
        let here = said(&Trail { place: None, ..well });
        assert!(here.contains("in the log alone, written by web1"), "{here}");
        assert!(here.contains("this server has none"), "{here}");
        let alone =
            Trail { place: None, writer_has_file: false, is_taken: true, ..Trail::default() };
        assert_eq!(said(&alone), "  trail     in the log alone, nobody writes it now\n");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(latency(Some(0.000_14)), "140 us");
        assert_eq!(latency(Some(0.0021)), "2.1 ms");
        assert_eq!(latency(Some(1.25)), "1.2 s");
        assert_eq!(latency(None), "-");
        assert_eq!([0, 1, 1200].map(|n| some(n, "save")), ["no saves", "1 save", "1,200 saves"]);
    }

    #[test]
    fn long_texts_are_cut_where_it_hurts_least() {
        assert_eq!(cut("abcdefgh", 6), "abc...");
        assert_eq!(tail("/srv/sessions", 9), "...ssions");
        assert_eq!(cut("abc", 3), "abc");
    }
}

//! The BPF program that looks at the system calls (`bpf/observe.bpf.c`).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use nix::unistd::{Whence, lseek};

use super::calls;
use super::snapshot::{
    OPERATION_WORDS, Operations, PATH_BYTES, ROUTE_WORDS, SLOWEST_WORDS, Served, Slow, Snapshot,
    Sums,
};
use super::watched::{Kind, Name};
use crate::bpf::load::{Object, failed};
use crate::bpf::{Error, Step};

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/observe.x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/observe.aarch64.o");

const PROGRAMS: [(&str, &str); 4] = [
    ("entered", "sys_enter"),
    ("left", "sys_exit"),
    ("forked", "sched_process_fork"),
    ("exited", "sched_process_exit"),
];
/// `enum served`, and whom those are for that have no path.
const SERVED: [(u32, Option<Served>); 3] =
    [(0, None), (1, Some(Served::Nobody)), (2, Some(Served::Evented))];

/// Bytes of a name, and of the number of the place where it begins.
const NAME_BYTES: usize = 256;
/// The longest path that may lead to the directory: a slash or a zero follows it.
pub(crate) const PATH_BYTES_MAX: usize = NAME_BYTES - 2;
/// `PROCESS` of the program: what is shown from here on are processes.
const PROCESS: i64 = 64;
/// Entries of the map of routes, twice: while it is read, others come.
const ROUTES_MAX: usize = 2 * 8192;

/// The program, loaded or running. It is detached when this is dropped, and when this process ends in whatever way: nothing of
/// it is pinned.
pub(crate) struct Program {
    object: Object,
    maps: Maps,
    /// What keeps it attached.
    links: Vec<OwnedFd>,
    /// To seek to it shows the program what is open.
    cookie: i64,
}

/// What it is told, and what it tells.
struct Maps {
    calls: Array<MapData, u32>,
    deadline: Array<MapData, u64>,
    ports: Array<MapData, u64>,
    places: Array<MapData, [u64; 2]>,
    names: LpmTrie<MapData, [u8; NAME_BYTES], u32>,
    operations: PerCpuArray<MapData, [u64; OPERATION_WORDS]>,
    routes: HashMap<MapData, [u8; PATH_BYTES], [u64; ROUTE_WORDS]>,
    totals: PerCpuArray<MapData, [u64; ROUTE_WORDS]>,
    slowest: PerCpuArray<MapData, [u64; SLOWEST_WORDS]>,
}

impl Maps {
    fn take(object: &mut Object) -> Result<Self, Error> {
        Ok(Self {
            calls: take(object, "calls")?,
            deadline: take(object, "deadline")?,
            ports: take(object, "ports")?,
            places: take(object, "places")?,
            names: take(object, "names")?,
            operations: take(object, "operations")?,
            routes: take(object, "routes")?,
            totals: take(object, "totals")?,
            slowest: take(object, "slowest")?,
        })
    }
}

fn take<M: TryFrom<Map, Error = MapError>>(object: &mut Object, name: &str) -> Result<M, Error> {
    M::try_from(object.take_map(name)?).map_err(|error| map_failed(name, &error))
}

impl Program {
    /// Loads it. Nothing runs yet.
    pub(crate) fn load() -> Result<Self, Error> {
        // An offset, and so not negative.
        let cookie = rand::random::<u64>() >> 2;
        let lseek = u64::try_from(libc::SYS_lseek).unwrap_or_default();
        let mut object = Object::load(OBJECT, &[("cookie", cookie), ("lseek", lseek)])?;
        let mut maps = Maps::take(&mut object)?;
        for (number, word) in calls::table() {
            maps.calls.set(number, word, 0).map_err(|error| map_failed("calls", &error))?;
        }
        for (name, tracepoint) in PROGRAMS {
            object.load_program(name, tracepoint)?;
        }
        Ok(Self { object, maps, links: Vec::new(), cookie: cookie.cast_signed() })
    }

    /// Attaches it to look at this directory, until a time of the monotonic clock. Nobody is observed yet.
    pub(crate) fn attach(&mut self, directory: &File, end: Duration) -> Result<(), Error> {
        let end_ns = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        let set = self.maps.deadline.set(0, end_ns, 0);
        set.map_err(|error| map_failed("deadline", &error))?;
        for (name, _) in PROGRAMS {
            self.links.push(self.object.attach_loaded(name)?);
        }
        self.show(directory, 0);
        let learnt = self.maps.places.get(&0, 0);
        if learnt.map_err(|error| map_failed("places", &error))?[0] == 0 {
            let detail = "it does not see the calls of this process";
            return Err(Error::new(Step::Attach, "entered", detail));
        }
        Ok(())
    }

    /// Tells it the paths that lead to the directory, and the ports of which requests are read.
    pub(crate) fn tell<'a>(
        &mut self,
        names: &[Name],
        ports: impl IntoIterator<Item = &'a u16>,
    ) -> Result<(), Error> {
        let failed = |error| map_failed("ports", &error);
        let bits = &mut self.maps.ports;
        for port in ports {
            let at = u32::from(port >> 6);
            let others = bits.get(&at, 0).map_err(failed)?;
            bits.set(at, others | 1 << (port & 63), 0).map_err(failed)?;
        }
        let mut places = 1..;
        for name in names {
            let place = name.start.as_ref().and_then(|_| places.next()).unwrap_or(0_u8);
            for key in keys(place, name.path.as_os_str().as_bytes()) {
                let added = self.maps.names.insert(&key, 1, 0);
                added.map_err(|error| map_failed("names", &error))?;
            }
            // Where it is gone, no path begins.
            if let Some(start) = &name.start
                && let Ok(start) = File::open(start)
            {
                self.show(start, place.into());
            }
        }
        Ok(())
    }

    /// Observes a process from now on, if it still runs, and what it will start.
    pub(crate) fn watch(&self, pid: i32, kind: Kind) {
        if let Ok(process) = File::open(format!("/proc/{pid}")) {
            self.show(process, PROCESS + kind as i64);
        }
    }

    /// Lets the program see what is open.
    fn show(&self, opened: impl AsFd, what: i64) {
        // Whether there is anything at the offset does not matter: the call is seen when it begins.
        let _ = lseek(opened, self.cookie + what, Whence::SeekSet);
    }

    /// Detaches it. What it has counted stays.
    pub(crate) fn stop(&mut self) {
        self.links.clear();
    }

    /// What was counted so far.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let Maps { operations, routes, totals, slowest, .. } = &self.maps;
        let mut snapshot = Snapshot::default();
        for operation in 0..operations.len() {
            let mut sum = Operations::default();
            let cpus = operations.get(&operation, 0);
            let cpus = cpus.map_err(|error| map_failed("operations", &error))?;
            cpus.iter().for_each(|cpu| sum.add(cpu));
            snapshot.operations.push(sum);
        }
        for (served, alone) in SERVED {
            let mut sum = Sums::default();
            let cpus = totals.get(&served, 0).map_err(|error| map_failed("totals", &error))?;
            cpus.iter().for_each(|cpu| sum.add(Sums::from_words(cpu)));
            snapshot.total.add(sum);
            snapshot.routes.extend(alone.filter(|_| sum != Sums::default()).map(|who| (who, sum)));
        }
        for cpu in slowest.get(&0, 0).map_err(|error| map_failed("slowest", &error))?.iter() {
            snapshot.slowest.extend(Slow::all(cpu));
        }
        // One that has just made room for another is no error.
        let kept = routes.iter().take(ROUTES_MAX).flatten();
        let routes = kept.map(|(path, sums)| (Served::from_bytes(&path), Sums::from_words(&sums)));
        snapshot.routes.extend(routes);
        Ok(snapshot)
    }
}

fn map_failed(name: &str, error: &MapError) -> Error {
    failed(Step::Map, name, error)
}

/// The directory of this path itself, and what is below it. A path that is too long has none.
fn keys(place: u8, path: &[u8]) -> impl Iterator<Item = Key<[u8; NAME_BYTES]>> {
    [0, b'/'].into_iter().filter_map(move |end| {
        let mut data = [0; NAME_BYTES];
        data[0] = place;
        let room = data[1..].get_mut(..=path.len())?;
        room[..path.len()].copy_from_slice(path);
        room[path.len()] = end;
        Some(Key::new(u32::try_from(8 * (path.len() + 2)).ok()?, data))
    })
}

//! The BPF program that reads request lines (`bpf/requests.bpf.c`): its maps are filled, and then it is attached.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData};

use crate::bpf::load::{Object, failed};
use crate::bpf::{Error, Step};
use crate::host;
use crate::request::Hook;
use crate::request::rules::{PATH_BYTES, Rule};

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/requests.x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/requests.aarch64.o");

/// The first PID namespace (`PROC_PID_INIT_INO` in the kernel's `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The programs of a hook, each with the tracepoint that it is for. The one that relies on the other comes last.
const fn programs(hook: Hook) -> [(&'static str, &'static str); 2] {
    match hook {
        Hook::Calls => [("sent", "sock_send_length"), ("received", "sock_recv_length")],
        Hook::Segments => {
            [("connected", "inet_sock_set_state"), ("copied", "tcp_rcv_space_adjust")]
        }
    }
}

/// A program that runs. It ends when the last of these is closed.
#[derive(Debug)]
pub(super) struct Program {
    pub hook: Hook,
    /// The array of threads.
    pub marks: OwnedFd,
    pub links: [OwnedFd; 2],
}

impl Program {
    /// Runs it with the newest of these hooks that this kernel has.
    pub(super) fn run(hooks: &[Hook], rules: &[Rule], ports: &[u16]) -> Result<Self, Error> {
        let mut missing = Error::new(Step::Tracepoint, "", "none is allowed");
        for hook in hooks {
            match Self::run_with(*hook, rules, ports) {
                Err(error) if error.step == Step::Tracepoint => missing = error,
                outcome => return outcome,
            }
        }
        Err(missing)
    }

    fn run_with(hook: Hook, rules: &[Rule], ports: &[u16]) -> Result<Self, Error> {
        let namespace = PidNamespace::own()?;
        let mut object = Object::load(
            OBJECT,
            &[
                ("pid_namespace_device", namespace.device),
                ("pid_namespace_inode", namespace.inode),
                ("sees_sending", u64::from(hook == Hook::Calls)),
            ],
        )?;
        // Programs are loaded with the numbers of their maps, so these live until then.
        let _rules = filled_rules(object.take_map("rules")?, rules)?;
        let _ports = filled_ports(object.take_map("ports")?, ports)?;
        let array = object.take_map("marks")?;
        let marks = marks(&array)?;
        let [first, second] = programs(hook);
        let links = [object.attach(first.0, first.1)?, object.attach(second.0, second.1)?];
        Ok(Self { hook, marks, links })
    }
}

type Rules = LpmTrie<MapData, [u8; PATH_BYTES], u32>;

fn filled_rules(map: Map, rules: &[Rule]) -> Result<Rules, Error> {
    let not_filled = |error| failed(Step::Map, "rules", &error);
    let mut trie = Rules::try_from(map).map_err(not_filled)?;
    for rule in rules {
        let (bits, path) = rule.key();
        trie.insert(&Key::new(bits, path), rule.class as u32, 0).map_err(not_filled)?;
    }
    Ok(trie)
}

fn filled_ports(map: Map, ports: &[u16]) -> Result<Array<MapData, u64>, Error> {
    let not_filled = |error| failed(Step::Map, "ports", &error);
    let mut array = Array::<_, u64>::try_from(map).map_err(not_filled)?;
    for port in ports {
        let place = u32::from(port / 64);
        let bits = array.get(&place, 0).map_err(not_filled)?;
        array.set(place, bits | 1 << (port % 64), 0).map_err(not_filled)?;
    }
    Ok(array)
}

/// The array of threads, which only programs write from now on.
fn marks(map: &Map) -> Result<OwnedFd, Error> {
    let not_taken = |error| failed(Step::Map, "marks", &error);
    let Map::Array(data) = map else {
        return Err(Error::new(Step::Object, "marks", "it is not an array"));
    };
    let marks = data.fd().as_fd().try_clone_to_owned().map_err(not_taken)?;
    host::bpf::freeze(marks.as_fd()).map_err(not_taken)?;
    Ok(marks)
}

/// The PID namespace by which threads are numbered here; zeros for the first one.
#[derive(Default)]
struct PidNamespace {
    device: u64,
    inode: u64,
}

impl PidNamespace {
    /// An error where it cannot be known: numbers of one namespace would be taken for those of another.
    fn own() -> Result<Self, Error> {
        const FILE: &str = "/proc/self/ns/pid";
        let found =
            std::fs::metadata(FILE).map_err(|error| Error::of_io(Step::Namespace, FILE, &error))?;
        if found.ino() == FIRST_PID_NAMESPACE {
            return Ok(Self::default());
        }
        // As the kernel counts it inside (`MKDEV` in `include/linux/kdev_t.h`).
        let (major, minor) = (libc::major(found.dev()), libc::minor(found.dev()));
        Ok(Self { device: u64::from(major) << 20 | u64::from(minor), inode: found.ino() })
    }
}

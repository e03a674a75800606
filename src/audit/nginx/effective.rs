//! The configuration that nginx on this host uses, by its own word: `nginx -T`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::host::ask::ask;
use crate::odoo::root::Root;

/// nginx may look up names while it reads its configuration.
const WITHIN: Duration = Duration::from_secs(10);
/// A saved configuration is not longer.
const LENGTH_MAX_BYTES: u64 = 8 << 20;
/// The title of nginx's first process, in front of its command line.
const MASTER: &str = "nginx: master process ";

/// Why there is no configuration to look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum NoConfiguration {
    /// No nginx runs here.
    None,
    /// It cannot be had.
    Unreadable(String),
}

/// The text of `nginx -T`: from a file in which it was saved, else from the nginx that runs here.
pub(crate) fn text(saved: Option<&Path>, host: &Root) -> Result<String, NoConfiguration> {
    if let Some(path) = saved {
        return read(path)
            .map_err(|error| NoConfiguration::Unreadable(format!("{}: {error}", path.display())));
    }
    let master = master(host).ok_or(NoConfiguration::None)?;
    if master.is_elsewhere {
        let why = format!("nginx (pid {}) runs in a container", master.pid);
        return Err(NoConfiguration::Unreadable(why));
    }
    let mut command = Command::new("nginx");
    // A relative prefix is one of the directory in which that nginx was started, not of ours: anybody may have a
    // configuration in the directory in which this is typed.
    command.arg("-T").args(&master.arguments).current_dir(format!("/proc/{}/cwd", master.pid));
    ask(&mut command, WITHIN).filter(|text| text.contains("# configuration file ")).ok_or_else(
        || {
            let arguments = master.arguments.join(" ");
            NoConfiguration::Unreadable(format!("'nginx -T {arguments}' shows no configuration"))
        },
    )
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(LENGTH_MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The nginx that runs.
#[derive(Debug, Eq, PartialEq)]
struct Master {
    pid: i32,
    /// Those of its arguments that name its configuration.
    arguments: Vec<String>,
    /// Whether it sees other files than we do.
    is_elsewhere: bool,
}

/// The first process of the nginx that root has started. Any user may start a process of that name
/// with a configuration of its own, whose modules would run with our rights.
fn master(host: &Root) -> Option<Master> {
    let pids =
        host.list(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let file = |name: &str| format!("/proc/{pid}/{name}");
        let line = host.read_text(Path::new(&file("cmdline"))).ok()?;
        let words = words(&line)?;
        let status = host.read_text(Path::new(&file("status"))).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let is_roots = ids.split_whitespace().all(|id| id == "0");
        let namespace = |name: &str| std::fs::read_link(host.join(Path::new(name))).ok();
        let theirs = namespace(&file("ns/mnt"));
        let is_elsewhere = theirs != namespace("/proc/self/ns/mnt");
        is_roots.then(|| Master { pid, arguments: naming(&words), is_elsewhere })
    })
    .min_by_key(|master| (master.is_elsewhere, master.pid))
}

/// The words of a command line that starts nginx, without the program.
fn words(line: &str) -> Option<Vec<&str>> {
    if let Some(rest) = line.trim_end_matches('\0').strip_prefix(MASTER) {
        return Some(rest.split([' ', '\0']).skip(1).collect());
    }
    let mut words = line.split('\0');
    let program = Path::new(words.next()?).file_name()?;
    (program == "nginx").then(|| words.collect())
}

/// `-c FILE` and `-p PREFIX`, in either form.
fn naming(words: &[&str]) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        for option in ["-c", "-p"] {
            match word.strip_prefix(option) {
                Some("") => {
                    arguments.extend([Some(option), words.next().copied()].into_iter().flatten());
                }
                Some(value) => arguments.extend([option, value]),
                None => {}
            }
        }
    }
    arguments.into_iter().map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_that_name_a_configuration_are_found() {
        let of = |line: &str| words(line).map(|words| naming(&words).join(" "));
        for (line, wanted) in [
            ("nginx: master process /usr/sbin/nginx -g daemon on; master_process on;", ""),
            ("nginx: master process nginx -c /a b.conf -p /p\0\0", "-c /a -p /p"),
            ("/usr/sbin/nginx\0-c/a b.conf\0-g\0daemon off;\0", "-c /a b.conf"),
            ("nginx\0-c\0/x\0-c", "-c /x -c"),
        ] {
            assert_eq!(of(line).as_deref(), Some(wanted), "{line}");
        }
        for line in ["nginx: worker process", "vim\0nginx", "", "\0"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn a_process_of_another_user_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, uids) in [(7, "1000\t0\t0\t0"), (8, "0\t0\t0\t0")] {
            let own = dir.path().join(format!("proc/{pid}"));
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("cmdline"), format!("nginx\0-c\0/{pid}\0")).unwrap();
            std::fs::write(own.join("status"), format!("Name:\tnginx\nUid:\t{uids}\n")).unwrap();
        }
        let found = master(&Root::at(dir.path())).unwrap();
        assert_eq!((found.pid, found.arguments), (8, vec!["-c".to_owned(), "/8".to_owned()]));
    }
}

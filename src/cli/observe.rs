//! `sessionfs observe`.

#[cfg(feature = "bpf")]
mod measure;
#[cfg(feature = "bpf")]
mod text;

use std::path::PathBuf;
use std::time::Duration;

use super::output::Format;
use crate::bpf;
use crate::exit::{ExitCode, Failure};

/// The longest observation: it costs every system call of the machine.
const LONGEST: Duration = Duration::from_secs(3600);

/// Measure how long Odoo waits for its session files
///
/// On any session directory: a disk, NFS, or a mount of sessionfs. Odoo is not touched and need not be
/// restarted. It is done by BPF programs that see every system call of the machine, and each of these
/// takes a little longer meanwhile, so it ends after a time (--for). Needs root.
#[derive(clap::Args, Debug)]
pub(super) struct Observe {
    /// The session directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Observe the processes that listen on this port, and read the requests that come there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// Observe this process and what it has started; may be repeated
    ///
    /// Without this and --port, the Odoo that keeps its sessions in DIR is looked for.
    #[arg(long, value_name = "N", conflicts_with = "port", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Vec<i32>,

    /// How long, at most 1 hour
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    time: Duration,

    /// Print this earlier result (a file with the output of --json) beside the new one
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    #[command(flatten)]
    format: Format,
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text.trim())
        .map_err(|error| format!("{error}; write for example 60s or 5min"))?;
    if time < Duration::from_secs(1) || time > LONGEST {
        return Err("use 1s to 1h".to_owned());
    }
    Ok(time)
}

impl Observe {
    /// Measures, and prints what was found.
    #[cfg_attr(not(feature = "bpf"), expect(clippy::unused_self, reason = "it measures with BPF"))]
    pub(super) fn run(&self) -> Result<(), Failure> {
        #[cfg(feature = "bpf")]
        return measure::run(self);
        #[cfg(not(feature = "bpf"))]
        Err(bpf::Error::new(bpf::Step::Build, "", "").into())
    }
}

impl From<bpf::Error> for Failure {
    fn from(error: bpf::Error) -> Self {
        let refused =
            matches!(error.errno, Some(libc::EPERM | libc::EACCES)) && !error.is_by_verifier();
        let code = if refused { ExitCode::BpfRefused } else { ExitCode::NoBpf };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_bounds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(LONGEST));
        for text in ["", "5", "0s", "61min", "100ms", "x"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_missing_for_bpf_has_an_exit_code() {
        let failed = |errno| {
            let error = bpf::Error { errno, ..bpf::Error::new(bpf::Step::Map, "calls", "") };
            Failure::from(error).code
        };
        assert_eq!(failed(Some(libc::EPERM)), ExitCode::BpfRefused);
        assert_eq!(failed(Some(libc::EINVAL)), ExitCode::NoBpf);
        assert_eq!(failed(None), ExitCode::NoBpf);
        let program = bpf::Error::new(bpf::Step::Program, "left", "");
        let by_verifier = bpf::Error { errno: Some(libc::EACCES), ..program };
        assert_eq!(Failure::from(by_verifier).code, ExitCode::NoBpf);
    }

    #[cfg(not(feature = "bpf"))]
    #[test]
    fn without_bpf_it_says_what_it_was_built_without() {
        let observe = Observe {
            directory: "/".into(),
            port: None,
            pid: Vec::new(),
            time: LONGEST,
            compare: None,
            format: Format::default(),
        };
        let failure = observe.run().unwrap_err();
        assert_eq!(failure.code, ExitCode::NoBpf);
        assert!(failure.message.contains("cargo feature bpf"), "{failure}");
    }
}

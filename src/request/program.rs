//! The BPF program that reads request lines (`bpf/requests.bpf.c`).

use std::os::fd::OwnedFd;

use crate::bpf::load::Object;
use crate::bpf::{Error, Step};

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/requests.x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/requests.aarch64.o");

/// The tracepoints by which received bytes are seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hook {
    /// `sock_recv_length` and `sock_send_length`, since Linux 6.3.
    Calls,
    /// `tcp_rcv_space_adjust`: a request line in several segments is not known.
    Segments,
}

/// Attaches the programs of a hook.
fn attach(object: &mut Object, hook: Hook) -> Result<Vec<OwnedFd>, Error> {
    let programs = match hook {
        Hook::Calls => [("received", "sock_recv_length"), ("sent", "sock_send_length")],
        Hook::Segments => {
            [("copied", "tcp_rcv_space_adjust"), ("connected", "inet_sock_set_state")]
        }
    };
    programs.into_iter().map(|(program, tracepoint)| object.attach(program, tracepoint)).collect()
}

/// Loads and attaches: by the newest tracepoints that this kernel has.
pub(crate) fn run() -> Result<(Object, Hook, Vec<OwnedFd>), Error> {
    let mut object = Object::load(OBJECT, &[("sees_sending", 1)])?;
    match attach(&mut object, Hook::Calls) {
        Ok(links) => Ok((object, Hook::Calls, links)),
        Err(Error { step: Step::Tracepoint, .. }) => {
            let mut object = Object::load(OBJECT, &[])?;
            let links = attach(&mut object, Hook::Segments)?;
            Ok((object, Hook::Segments, links))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_loads_and_attaches() {
        for hook in [Hook::Calls, Hook::Segments] {
            let mut object = Object::load(OBJECT, &[]).unwrap();
            let links = attach(&mut object, hook).unwrap();
            assert_eq!(links.len(), 2);
        }
    }
}

//! Asks a node on its control socket.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::status::Status;

/// The longest that an answer is waited for: Redis may be asked for a part of it.
const WITHIN: Duration = Duration::from_secs(3);
/// No answer is longer.
const LENGTH_MAX_BYTES: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// There is no such socket, or nobody listens on it.
    Nobody(io::Error),
    /// This user may not ask.
    NotAllowed,
    /// Nothing came in time.
    Silent,
    /// What came is no answer.
    Strange(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(error) if error.kind() == io::ErrorKind::NotFound => {
                f.write_str("its keeper is dead, or runs in a container (run the command there)")
            }
            Self::Nobody(error) => write!(f, "its keeper is dead, or of another version: {error}"),
            Self::NotAllowed => f.write_str("only root has access"),
            Self::Silent => write!(f, "no answer within {} s", WITHIN.as_secs()),
            Self::Strange(what) => write!(f, "it gave an invalid answer: {what}"),
        }
    }
}

/// What the node behind this socket tells of itself. Waits a few seconds at most; not to be called
/// from within a runtime.
pub(crate) fn status(socket: &Path) -> Result<Status, NoAnswer> {
    let text = get(socket, "/status")?;
    serde_json::from_slice(&text).map_err(|error| NoAnswer::Strange(error.to_string()))
}

/// The body of the answer to `GET path`.
pub fn get(socket: &Path, path: &str) -> Result<Bytes, NoAnswer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NoAnswer::Strange(error.to_string()))?;
    runtime.block_on(async {
        timeout(WITHIN, ask(socket, path)).await.unwrap_or(Err(NoAnswer::Silent))
    })
}

async fn ask(socket: &Path, path: &str) -> Result<Bytes, NoAnswer> {
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => NoAnswer::NotAllowed,
        _ => NoAnswer::Nobody(error),
    })?;
    let strange = |error: &dyn fmt::Display| NoAnswer::Strange(error.to_string());
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| strange(&error))?;
    // It ends with the connection; an error of it is seen in the answer.
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, "localhost")
        .body(Empty::new())
        .map_err(|error| strange(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| strange(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(strange(&answer.status()));
    }
    let body = Limited::new(answer.into_body(), LENGTH_MAX_BYTES).collect().await;
    let body = body.map_err(|error| strange(&error))?.to_bytes();
    driver.abort();
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_does_not_answer_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        assert!(matches!(status(&path), Err(NoAnswer::Nobody(_))));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(status(&path), Err(NoAnswer::Silent)));
        let stranger = std::thread::spawn(move || {
            // The first is the one above, which was never taken.
            let _ = listener.accept().unwrap();
            let _ = listener.accept().unwrap().0.write_all(b"SSH-2.0-x\r\n");
        });
        assert!(matches!(status(&path), Err(NoAnswer::Strange(_))));
        stranger.join().unwrap();
        assert!(matches!(status(&path), Err(NoAnswer::Nobody(_))));
    }
}

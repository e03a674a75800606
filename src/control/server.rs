//! HTTP on the sockets of a server: `GET /metrics` and `GET /health`, on the control socket
//! `GET /status`, and on that of Odoo [`odoo`].

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::StatusService;
use super::odoo::{self, Desk};
use crate::config::listen::Listen;
use crate::sync::optional;
use crate::telemetry::metrics;

/// Connections at once on one socket; more wait in its backlog.
const CONNECTIONS: usize = 16;
/// From its first byte until a request's header is there.
const HEADER_WITHIN: Duration = Duration::from_secs(2);
/// One connection, which carries one request, in all.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// The longest header.
const BUFFER_BYTES: usize = 16 * 1024;

/// A socket, and what is served there.
pub(super) struct Endpoint {
    listener: Listener,
    served: Served,
}

#[derive(Clone)]
enum Served {
    /// Everything about this server.
    Status,
    /// What everybody may know.
    Metrics,
    /// The sessions of users, to root and to this user.
    Odoo { uid: u32, desk: Arc<Desk> },
}

enum Listener {
    Unix(UnixListener),
    Loopback(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Endpoint {
    /// For `sessionfs status`: everything is served.
    pub(super) fn control(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { listener: Listener::unix(socket)?, served: Served::Status })
    }

    /// For Prometheus, on a socket of the kind that is configured.
    pub(super) fn metrics(socket: OwnedFd, at: Option<&Listen>) -> io::Result<Self> {
        let listener = match at {
            Some(Listen::Loopback(_)) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Listener::Loopback(TcpListener::from_std(listener)?)
            }
            _ => Listener::unix(socket)?,
        };
        Ok(Self { listener, served: Served::Metrics })
    }

    /// For the owner of the tree.
    pub(super) fn odoo(socket: OwnedFd, service: &StatusService) -> io::Result<Self> {
        let uid = service.config.tree.owner_uid;
        let served = Served::Odoo { uid, desk: Arc::new(Desk::new()) };
        Ok(Self { listener: Listener::unix(socket)?, served })
    }
}

impl Listener {
    fn unix(socket: OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(UnixListener::from_std(listener)?))
    }

    /// The next connection, and the user at its other end, if that is known.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<u32>)> {
        Ok(match self {
            Self::Unix(listener) => {
                let stream = listener.accept().await?.0;
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                (Box::new(stream), uid)
            }
            Self::Loopback(listener) => (Box::new(listener.accept().await?.0), None),
        })
    }
}

/// Serves without end.
pub(super) async fn serve(endpoint: Endpoint, service: Arc<StatusService>) {
    const AFTER_AN_ERROR: Duration = Duration::from_millis(100);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let (stream, peer) = match endpoint.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                sleep(AFTER_AN_ERROR).await;
                continue;
            }
        };
        let (service, served) = (Arc::clone(&service), endpoint.served.clone());
        let answer = service_fn(move |request| {
            let (service, served) = (Arc::clone(&service), served.clone());
            async move {
                Ok::<_, Infallible>(match served {
                    Served::Odoo { uid, desk } => {
                        let is_allowed = peer.is_some_and(|peer| peer == 0 || peer == uid);
                        answer_odoo(&service, &desk, is_allowed, &request).await
                    }
                    Served::Status => answer(&service, true, &request).await,
                    Served::Metrics => answer(&service, false, &request).await,
                })
            }
        });
        tokio::spawn(optional(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_WITHIN)
                .max_buf_size(BUFFER_BYTES)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that disconnects or is too slow gets no answer.
            let _ = timeout(REQUEST_WITHIN, connection).await;
            drop(place);
        }));
    }
}

async fn answer(
    service: &StatusService,
    has_status: bool,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let is_there = ["/metrics", "/health"].contains(&path) || (path == "/status" && has_status);
    if !is_there {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refusal =
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let body = match path {
        "/metrics" => {
            let text = service.metrics_text().await.map_err(|error| error.to_string());
            text.map(|text| with_type(metrics::CONTENT_TYPE, Response::new(Full::from(text))))
        }
        "/health" => {
            let health = service.health().await;
            let strict = request.uri().query().is_some_and(asks_strictly);
            json(&health).map(|mut response| {
                *response.status_mut() = health.code(strict);
                response
            })
        }
        _ => json(&service.status().await),
    };
    body.unwrap_or_else(|error| {
        tracing::warn!(path, error, "cannot answer a request");
        plain(StatusCode::INTERNAL_SERVER_ERROR, "see the log\n")
    })
}

async fn answer_odoo(
    service: &StatusService,
    desk: &Desk,
    is_allowed: bool,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !is_allowed {
        let why = "only the owner of the session directory and root are answered";
        return refusal(StatusCode::FORBIDDEN, why);
    }
    if request.uri().path() != "/sessions" {
        return refusal(StatusCode::NOT_FOUND, "there is only /sessions");
    }
    if ![Method::GET, Method::DELETE].contains(request.method()) {
        let mut response =
            refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and DELETE are supported");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, DELETE"));
        return response;
    }
    let query = request.uri().query().unwrap_or_default();
    match desk.answer(&service.store, request.method(), query, request.headers()).await {
        Ok(answer) => json(&answer).unwrap_or_else(|error| {
            tracing::warn!(error, "cannot answer a request");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "see the log\n")
        }),
        Err(odoo::Refused { code, why }) => {
            let mut response = refusal(code, &why);
            if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&code) {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

/// An error for a program.
fn refusal(code: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = json(&serde_json::json!({ "error": why }))
        .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "see the log\n"));
    *response.status_mut() = code;
    response
}

/// `strict`, with whatever value (balancers write `strict=1`) and beside whatever else.
fn asks_strictly(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some("strict"))
}

/// A response that no proxy may keep.
fn json(body: &impl Serialize) -> Result<Response<Full<Bytes>>, String> {
    let text = serde_json::to_string(body).map_err(|error| error.to_string())?;
    let mut response = with_type("application/json", Response::new(Full::from(text)));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = with_type("text/plain; charset=utf-8", Response::new(Full::from(text)));
    *response.status_mut() = status;
    response
}

fn with_type(kind: &'static str, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_is_recognised_in_every_spelling() {
        for query in ["strict", "strict=1", "strict=", "a=b&strict", "strict&a"] {
            assert!(asks_strictly(query), "{query}");
        }
        for query in ["", "stricter", "a=strict", "x-strict"] {
            assert!(!asks_strictly(query), "{query}");
        }
    }
}

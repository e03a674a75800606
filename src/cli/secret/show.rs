//! `sessionfs secret show`.

use serde::Serialize;

use super::{Held, lacks};
use crate::cli::output::{self, Format, visible};
use crate::cli::redis::{Reached, failed, reach};
use crate::config::flags::Place;
use crate::control::status::cluster;
use crate::exit::Failure;
use crate::foreign::Foreign;
use crate::session::secret::{Fingerprint, Secret};

/// Show the fingerprints of the secrets of this server, and which one sessions are written with
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// What is found out.
#[derive(Serialize)]
struct Found {
    file: String,
    held: Vec<Fingerprint>,
    redis: Redis,
}

#[derive(Serialize)]
struct Redis {
    /// Why it could not be asked.
    problem: Option<String>,
    written_with: Option<Fingerprint>,
    servers: Vec<Server>,
}

/// A server that runs.
#[derive(Serialize)]
struct Server {
    host: Foreign,
    mountpoint: Foreign,
    held: Vec<Fingerprint>,
}

impl Show {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let held = Held::read(&self.place)?;
        let redis = ask(&self.place).unwrap_or_else(|failure| Redis {
            problem: Some(failure.to_string()),
            written_with: None,
            servers: Vec::new(),
        });
        let found = Found {
            file: held.file.to_string_lossy().into_owned(),
            held: held.secrets.iter().map(Secret::fingerprint).collect(),
            redis,
        };
        if self.format.json {
            output::json(&found)?;
        } else {
            output::say(found.text())?;
        }
        match found.redis.written_with {
            Some(written) if !found.held.contains(&written) => Err(lacks(&held.file, written, "")),
            _ => Ok(()),
        }
    }
}

fn ask(place: &Place) -> Result<Redis, Failure> {
    let Reached { runtime, store } = reach(place)?;
    runtime.block_on(async {
        let written_with = store.written_secret().await.map_err(|error| failed(&error))?;
        let servers = store.servers().await.map_err(|error| failed(&error))?;
        let servers = cluster(&servers, None)
            .into_iter()
            .map(|server| Server {
                host: server.host,
                mountpoint: server.mountpoint,
                held: server.secrets,
            })
            .collect();
        Ok(Redis { problem: None, written_with, servers })
    })
}

impl Found {
    fn text(&self) -> String {
        let Redis { problem, written_with, servers } = &self.redis;
        let lines = self.held.iter().map(|print| {
            let state = match written_with {
                Some(written) if written == print => "written with",
                Some(_) => "read",
                None => "",
            };
            [print.to_string(), state.to_owned()]
        });
        let mut parts = vec![if self.held.is_empty() {
            format!("{}: there is no such file", self.file)
        } else {
            format!("{}\n{}", self.file, output::table(["secret", "use"], &[], lines))
        }];
        match (problem, written_with) {
            (Some(problem), _) => parts.push(format!("Redis cannot be asked: {problem}")),
            (None, None) => parts.push("Redis is not written with any secret yet".to_owned()),
            (None, Some(_)) => {}
        }
        if !servers.is_empty() {
            const TEXT_CHARS: usize = 64;
            let lines = servers.iter().map(|server| {
                let held: Vec<String> = server.held.iter().map(ToString::to_string).collect();
                [
                    visible(&server.host.to_string(), TEXT_CHARS),
                    visible(&server.mountpoint.to_string(), TEXT_CHARS),
                    held.join(", "),
                ]
            });
            parts.push(output::table(["server", "mountpoint", "holds"], &[], lines));
        }
        parts.join("\n\n")
    }
}

//! `sessionfs redis-acl`.

use super::output;
use crate::config::file::File;
use crate::config::flags::Place;
use crate::config::{self, DEFAULT_PREFIX};
use crate::exit::{ExitCode, Failure};
use crate::redis::acl;
use crate::redis::deployment::Mode;
use crate::redis::endpoint::Endpoint;

/// Print the rights that sessionfs needs in Redis, to append to `ACL SETUSER NAME on >PASSWORD`
#[derive(clap::Args, Debug)]
pub(super) struct RedisAcl {
    /// Prefix of every key (default: the configuration's `redis.prefix`)
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Also the commands that `sessionfs check` uses: PING, INFO and CONFIG GET
    #[arg(long)]
    with_check: bool,
    /// The rights of a user of the sentinels instead
    #[arg(long, conflicts_with_all = ["prefix", "with_check"])]
    sentinel: bool,
    /// Redis, whose servers need other rights in a Cluster, and configuration
    #[command(flatten)]
    place: Place,
}

impl RedisAcl {
    /// Prints them.
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.sentinel {
            return output::say(acl::rights_of_sentinels());
        }
        let Place { redis, config } = &self.place;
        // What is said on the command line needs no file.
        let is_said = self.prefix.is_some() && (redis.is_some() || config.is_none());
        let file = if is_said { File::default() } else { File::load(config.as_deref())? };
        let named = self.prefix.as_ref().or(file.redis.prefix.as_ref());
        let prefix = config::prefix(named.map_or(DEFAULT_PREFIX, String::as_str))?;
        let mode = match redis.as_ref().or(file.redis.url.as_ref()) {
            Some(url) => Mode::of(&endpoint(url)?),
            None => Mode::Standalone,
        };
        let rights = if self.with_check { acl::rights_with_check } else { acl::rights };
        output::say(rights(&prefix, mode))
    }
}

fn endpoint(url: &str) -> Result<Endpoint, Failure> {
    Endpoint::parse(url).map_err(|bad| Failure::new(ExitCode::BadUrl, bad.to_string()))
}

//! `sessionfs redis-acl`.

use std::path::PathBuf;

use super::output;
use crate::config;
use crate::config::file::File;
use crate::exit::Failure;
use crate::redis::acl;

/// Print the rights that sessionfs needs in Redis, to append to `ACL SETUSER NAME on >PASSWORD`
#[derive(clap::Args, Debug)]
pub(super) struct RedisAcl {
    /// Prefix of every key (default: the configuration's `redis.prefix`)
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Also the commands that `sessionfs check` uses: PING, INFO and CONFIG GET
    #[arg(long)]
    with_check: bool,
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl RedisAcl {
    /// Prints them.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let configured = match &self.prefix {
            Some(_) => None,
            None => File::load(self.config.as_deref())?.redis.prefix,
        };
        let named = self.prefix.as_ref().or(configured.as_ref());
        let prefix = config::prefix(named.map_or(config::DEFAULT_PREFIX, String::as_str))?;
        let rights = if self.with_check { acl::rights_with_check } else { acl::rights };
        output::say(rights(&prefix))
    }
}

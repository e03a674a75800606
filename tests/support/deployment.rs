//! Redis with sentinels, and as a Cluster, on ports of this host. Killed on drop.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::redis::{Redis, free_port};

/// A server that others reach by a port.
pub struct Server {
    pub redis: Redis,
    pub port: u16,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let text = port.to_string();
        let redis = Redis::start_with(
            &[
                &["--port", &text, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"],
                arguments,
            ]
            .concat(),
        );
        Self { redis, port }
    }

    pub fn at(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn is_master(&self) -> bool {
        self.info("replication", "role:master")
    }

    /// Whether it has all that its master has.
    pub fn follows(&self) -> bool {
        self.info("replication", "master_link_status:up")
    }

    /// The commands that were refused to its users.
    pub fn refused_commands(&self) -> Vec<String> {
        let log: Vec<HashMap<String, redis::Value>> = self.redis.run("ACL LOG");
        let object = |entry: &HashMap<String, redis::Value>| {
            redis::from_redis_value(entry["object"].clone()).expect("text")
        };
        log.iter().map(object).collect()
    }

    fn info(&self, section: &str, line: &str) -> bool {
        self.redis
            .try_run::<String>(&format!("INFO {section}"))
            .is_ok_and(|info| info.contains(line))
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// A master, a replica, and sentinels.
pub struct Watched {
    pub servers: Vec<Server>,
    pub sentinels: Vec<Sentinel>,
}

pub struct Sentinel {
    pub port: u16,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Sentinel {
    /// Watches the server of that port as the master `shop`.
    pub fn start(master: u16, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor shop 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 3000\n{more}",
            directory.path().display()
        );
        std::fs::write(&file, text).expect("written");
        let child = spawn(&file);
        Self { port, child, _directory: directory }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn run(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        self.run_as(":", words)
    }

    /// As a user with a password.
    pub fn run_as(&self, login: &str, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let login = if login == ":" { String::new() } else { format!("{login}@") };
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port))?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut client.get_connection()?)
    }
}

fn spawn(file: &Path) -> Child {
    let command = std::env::var("SESSIONFS_TEST_REDIS").unwrap_or_else(|_| "redis-server".into());
    let mut words = command.split_whitespace();
    Command::new(words.next().expect("SESSIONFS_TEST_REDIS names a command"))
        .args(words)
        .arg(file)
        .arg("--sentinel")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command}: {error}; install redis-server"))
}

impl Watched {
    /// With three sentinels, and these lines in the configuration of each.
    pub fn start(more: &str) -> Self {
        let master = Server::start(&[]);
        let port = master.port.to_string();
        let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
        eventually("the replica follows", || replica.follows());
        let sentinels = (0..3).map(|_| Sentinel::start(master.port, more)).collect();
        let watched = Self { servers: vec![master, replica], sentinels };
        for sentinel in &watched.sentinels {
            eventually("the sentinels know all", || {
                let asked = sentinel.run(&["SENTINEL", "CKQUORUM", "shop"]).is_ok();
                let replicas = sentinel.run(&["SENTINEL", "REPLICAS", "shop"]);
                asked && matches!(replicas, Ok(redis::Value::Array(all)) if all.len() == 1)
            });
        }
        watched
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis-sentinel://{}/shop/0", hosts.join(","))
    }
}

/// Three primaries, each with a replica.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    pub fn start(arguments: &[&str]) -> Self {
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        all.extend(["--cluster-require-full-coverage", "no"]);
        all.extend(["--cluster-replica-validity-factor", "0"]);
        all.extend(arguments);
        let cluster = Self { servers: (0..6).map(|_| Server::start(&all)).collect() };
        for (number, server) in cluster.servers.iter().take(3).enumerate() {
            let first = 16_384 * number / 3;
            let slots: Vec<_> =
                (first..16_384 * (number + 1) / 3).map(|slot| slot.to_string()).collect();
            let _: String = server.redis.run(&format!("CLUSTER ADDSLOTS {}", slots.join(" ")));
            let _: String = server.redis.run(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1));
        }
        for server in &cluster.servers[1..] {
            let meet = format!("CLUSTER MEET 127.0.0.1 {}", server.port);
            let _: String = cluster.servers[0].redis.run(&meet);
        }
        for server in &cluster.servers {
            eventually("all know all", || {
                server.redis.run::<String>("CLUSTER INFO").contains("cluster_known_nodes:6")
            });
        }
        for number in 3..6 {
            let id: String = cluster.servers[number - 3].redis.run("CLUSTER MYID");
            let replica = &cluster.servers[number];
            eventually("it replicates", || {
                replica.redis.try_run::<String>(&format!("CLUSTER REPLICATE {id}")).is_ok()
            });
        }
        for server in &cluster.servers {
            eventually("the cluster is well", || {
                server.redis.run::<String>("CLUSTER INFO").contains("cluster_state:ok")
            });
        }
        for server in &cluster.servers[3..] {
            eventually("the replicas follow", || server.follows());
        }
        // Each has told that it is a replica.
        for server in &cluster.servers {
            eventually("all know the replicas", || {
                server.redis.run::<String>("CLUSTER NODES").matches("slave").count() == 3
            });
        }
        cluster
    }

    pub fn url(&self) -> String {
        format!("redis-cluster://{},{}", self.servers[0].at(), self.servers[4].at())
    }

    /// The server that has this key.
    pub fn primary_of(&self, key: &str) -> usize {
        let has = |server: &Server| {
            server.is_master()
                && server.redis.try_run::<redis::Value>(&format!("EXISTS {key}")).is_ok()
        };
        self.servers.iter().position(has).expect("somebody has it")
    }

    /// Moves a slot with all its keys.
    pub fn move_slot(&self, slot: u64, from: usize, to: usize, during: impl FnOnce()) {
        self.move_slot_in_part(slot, from, to, |_| true, during);
    }

    /// The same, `during` while only those keys are moved that `goes` says.
    pub fn move_slot_in_part(
        &self,
        slot: u64,
        from: usize,
        to: usize,
        goes: impl Fn(&str) -> bool,
        during: impl FnOnce(),
    ) {
        let id = |server: usize| self.servers[server].redis.run::<String>("CLUSTER MYID");
        let (source, target) = (id(from), id(to));
        let run = |server: usize, words: String| {
            let _: redis::Value = self.servers[server].redis.run(&words);
        };
        run(to, format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
        run(from, format!("CLUSTER SETSLOT {slot} MIGRATING {target}"));
        let migrate = |goes: &dyn Fn(&str) -> bool| {
            let keys: Vec<String> =
                self.servers[from].redis.run(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
            for key in keys.iter().filter(|key| goes(key)) {
                run(from, format!("MIGRATE 127.0.0.1 {} {key} 0 5000", self.servers[to].port));
            }
        };
        migrate(&goes);
        during();
        migrate(&|_| true);
        run(to, format!("CLUSTER SETSLOT {slot} NODE {target}"));
        run(from, format!("CLUSTER SETSLOT {slot} NODE {target}"));
    }
}

"""The deployments of Redis that a fault happens to: one server, Sentinel, Cluster. All of them real."""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

from network import REDIS
from processes import Process, poll
from redis_wire import Redis

PORT, SENTINEL_PORT, CLUSTER_PORT, LINE_PORT = 6379, 26379, 7000, 8379
MASTER = "sessions"
USER, PASSWORD = "app", "right"
START_S = 30


def program():
    """The command of the server, as tests/support/redis.rs takes it."""
    return os.environ.get("SESSIONFS_TEST_REDIS", "redis-server").split()


class Server:
    """One redis-server, with a socket of its own for what only we do to it."""

    def __init__(self, cell, port, *settings, hour_ahead=False):
        self.port = port
        self.name = f"redis-{port}"
        self.directory = os.path.join(cell.directory, self.name)
        os.mkdir(self.directory)
        self.socket = os.path.join(self.directory, "admin.sock")
        self.settings = [
            "--bind", REDIS, "--port", str(port), "--protected-mode", "no", "--unixsocket", self.socket, "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--dir", self.directory, *settings]
        self.cell = cell
        self.environment = hour_ahead_environment() if hour_ahead else dict(os.environ)
        self.process = self.admin = None
        self.start()

    def start(self, *settings, ready=True):
        self.process = Process(self.name, [*program(), *self.settings, *settings], self.cell.logs, env=self.environment)
        self.cell.started.append(self.process)
        if ready:
            self.process.await_line("eady to accept connections", START_S)
            self.admin = Redis(self.socket)
        else:
            poll(self.listens, f"{self.name} listens", START_S)

    def listens(self):
        with contextlib.suppress(OSError):
            self.admin = Redis(self.socket)
            return True
        return False

    def call(self, *words):
        return self.admin.call(*words)

    def set(self, name, value):
        self.call("CONFIG", "SET", name, value)

    def info(self, name):
        found = re.search(rf"^{name}:(.*?)\r?$", self.call("INFO", "everything").decode(), re.M)
        return found and found.group(1)

    def kill(self):
        os.kill(self.process.child.pid, signal.SIGKILL)
        self.process.child.wait(10)

    def freeze(self):
        os.kill(self.process.child.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.child.pid, signal.SIGCONT)

    def kick(self):
        """Closes all connections but our own."""
        self.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class Standalone:
    kind = "standalone"

    def __init__(self, cell, *settings):
        # What it may do changes in some faults. The rights are those that docs/redis.md lists, and no more.
        self.master = Server(cell, PORT, *settings, "--user", USER, "on", ">" + PASSWORD, *rights(cell.binary))
        self.url = f"redis://{REDIS}:{PORT}"


class Sentinel:
    kind = "sentinel"

    def __init__(self, cell, hour_ahead=False):
        self.servers = [Server(cell, PORT)]
        self.servers += [Server(cell, PORT + number, "--replicaof", f"{REDIS} {PORT}", hour_ahead=hour_ahead)
                         for number in (1, 2)]
        for replica in self.servers[1:]:
            poll(lambda replica=replica: replica.info("master_link_status") == "up", f"{replica.name} follows", START_S)
        ports = range(SENTINEL_PORT, SENTINEL_PORT + 3)
        for port in ports:
            self._start_sentinel(cell, port)
        self.sentinels = [Redis((REDIS, port)) for port in ports]
        for sentinel in self.sentinels:
            poll(lambda sentinel=sentinel: self._knows_all(sentinel), "a sentinel that knows all", START_S)
        self.url = "redis-sentinel://" + ",".join(f"{REDIS}:{port}" for port in ports) + f"/{MASTER}/0"

    def _start_sentinel(self, cell, port):
        directory = os.path.join(cell.directory, f"sentinel-{port}")
        os.mkdir(directory)
        path = os.path.join(directory, "sentinel.conf")
        with open(path, "w") as out:
            out.write(f"""port {port}
bind {REDIS}
protected-mode no
dir {directory}
sentinel monitor {MASTER} {REDIS} {PORT} 2
sentinel down-after-milliseconds {MASTER} 1000
sentinel failover-timeout {MASTER} 5000
""")
        process = Process(f"sentinel-{port}", [*program(), path, "--sentinel"], cell.logs)
        cell.started.append(process)
        process.await_line(r"\+monitor", START_S)

    @staticmethod
    def _state(sentinel, what):
        """The answers of a sentinel about the replicas, or about the other sentinels."""
        return [dict(zip(found[::2], found[1::2])) for found in sentinel.call("SENTINEL", what, MASTER)]

    def _knows_all(self, sentinel):
        replicas = self._state(sentinel, "REPLICAS")
        return (len(replicas) == 2 and all(replica[b"flags"] == b"slave" for replica in replicas)
                and len(self._state(sentinel, "SENTINELS")) == 2)

    def master_port(self):
        return int(self.sentinels[0].call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def await_other_master(self, port, timeout_s=30):
        """Until all sentinels name another master, and it is one."""
        def is_over():
            named = {int(s.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1]) for s in self.sentinels}
            if len(named) != 1 or port in named:
                return False
            new = next(server for server in self.servers if server.port in named)
            return new.info("role") == "master"

        poll(is_over, "another master", timeout_s)


class Cluster:
    kind = "cluster"

    def __init__(self, cell):
        self.ports = range(CLUSTER_PORT, CLUSTER_PORT + 6)
        self.servers = {port: Server(
            cell, port, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-config-file", "nodes.conf",
            "--cluster-announce-ip", REDIS) for port in self.ports}
        client = shutil.which("redis-cli") or shutil.which("valkey-cli")
        done = subprocess.run([client, "-h", REDIS, "-p", str(CLUSTER_PORT), "--cluster", "create",
                               *[f"{REDIS}:{port}" for port in self.ports], "--cluster-replicas", "1", "--cluster-yes"],
                              check=False, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError("cluster create: " + done.stdout[-2000:] + done.stderr)
        poll(self.is_well, "a cluster that is well", START_S)
        self.url = "redis-cluster://" + ",".join(f"{REDIS}:{port}" for port in self.ports)

    def alive(self):
        return [server for server in self.servers.values() if server.process.child.poll() is None]

    def is_well(self):
        """All slots are served, as all servers see it, and each replica follows its primary."""
        return all(b"cluster_state:ok" in server.call("CLUSTER", "INFO")
                   and (server.info("role") == "master" or server.info("master_link_status") == "up")
                   for server in self.alive())

    def slot(self, shard):
        return self.alive()[0].call("CLUSTER", "KEYSLOT", "{" + shard + "}")

    def primary(self, slot):
        for first, last, owner, *_ in self.alive()[0].call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.servers[owner[1]]
        return None


class Line:
    """The way to the server of a deployment, with a delay and a rate."""

    def __init__(self, cell, port=PORT):
        here = os.path.dirname(os.path.abspath(__file__))
        self.process = Process("line", ["/usr/bin/python3", "-B", os.path.join(here, "line.py"), f"{REDIS}:{LINE_PORT}",
                                        f"{REDIS}:{port}"], cell.logs, stdin=subprocess.PIPE)
        cell.started.append(self.process)
        self.process.await_line("listening", 20)
        self.url = f"redis://{REDIS}:{LINE_PORT}"
        self.orders = 0

    def order(self, words):
        self.process.child.stdin.write(words.encode() + b"\n")
        self.process.child.stdin.flush()
        self.orders += 1
        poll(lambda: self.process.lines.count("done\n") >= self.orders, f"the line takes '{words}'", 10)


def rights(binary):
    """The rules of the user, as the program prints them."""
    said = subprocess.run([binary, "redis-acl"], check=True, capture_output=True, text=True, timeout=20).stdout
    return said.split()


def hour_ahead_environment():
    """The environment of a process whose wall clock is an hour ahead. `faketime` itself would be its parent."""
    asked = subprocess.run(["faketime", "-f", "+1h", "printenv", "LD_PRELOAD"], check=True, capture_output=True, text=True,
                           timeout=20)
    return {**os.environ, "LD_PRELOAD": asked.stdout.strip(), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def hold(seconds):
    """How long a fault lasts is a length of time, and nothing to wait for."""
    time.sleep(seconds)

"""Redis servers and Sentinel, as processes of a run. All of them real."""
import contextlib
import os
import re
import signal
import subprocess

from processes import Process, poll
from redis_wire import Redis

PORT, SENTINEL_PORT = 6379, 26379
MASTER = "sessions"
START_S = 30


def program():
    """The command of the server, as tests/support/redis.rs takes it."""
    return os.environ.get("SESSIONFS_TEST_REDIS", "redis-server").split()


class Server:
    """One redis-server, with a socket of its own for what only we do to it.

    `place` has `host` (the address that it listens on), `directory`, `logs`, and `started` for those who stop it.
    """

    def __init__(self, place, port, *settings, hour_ahead=False):
        self.port = port
        self.name = f"redis-{port}"
        self.directory = os.path.join(place.directory, self.name)
        os.mkdir(self.directory)
        self.socket = os.path.join(self.directory, "admin.sock")
        self.settings = [
            "--bind", place.host, "--port", str(port), "--protected-mode", "no", "--unixsocket", self.socket, "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--dir", self.directory, *settings]
        self.place = place
        self.environment = {**os.environ, "LD_PRELOAD": hour_ahead_library(place.directory)} if hour_ahead else None
        self.process = self.admin = None
        self.start()

    def start(self, *settings, ready=True):
        self.process = Process(self.name, [*program(), *self.settings, *settings], self.place.logs, env=self.environment)
        self.place.started.append(self.process)
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
        try:
            return self.admin.call(*words)
        except (ConnectionError, BrokenPipeError):
            # Sentinel closes the connections of a server that it makes master or replica.
            self.admin = Redis(self.socket)
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


class Sentinel:
    kind = "sentinel"

    def __init__(self, place, hour_ahead=False, down_after_ms=3000):
        self.down_after_ms = down_after_ms
        self.servers = [Server(place, PORT)]
        self.servers += [Server(place, PORT + number, "--replicaof", f"{place.host} {PORT}", hour_ahead=hour_ahead)
                         for number in (1, 2)]
        for replica in self.servers[1:]:
            poll(lambda replica=replica: replica.info("master_link_status") == "up", f"{replica.name} follows", START_S)
        ports = range(SENTINEL_PORT, SENTINEL_PORT + 3)
        for port in ports:
            self._start_sentinel(place, port)
        self.sentinels = [Redis((place.host, port)) for port in ports]
        for sentinel in self.sentinels:
            poll(lambda sentinel=sentinel: self._knows_all(sentinel), "a sentinel that knows all", START_S)
        self.url = "redis-sentinel://" + ",".join(f"{place.host}:{port}" for port in ports) + f"/{MASTER}/0"

    def _start_sentinel(self, place, port):
        directory = os.path.join(place.directory, f"sentinel-{port}")
        os.mkdir(directory)
        path = os.path.join(directory, "sentinel.conf")
        with open(path, "w") as out:
            out.write(f"""port {port}
bind {place.host}
protected-mode no
dir {directory}
sentinel monitor {MASTER} {place.host} {PORT} 2
sentinel down-after-milliseconds {MASTER} {self.down_after_ms}
sentinel failover-timeout {MASTER} 5000
""")
        process = Process(f"sentinel-{port}", [*program(), path, "--sentinel"], place.logs)
        place.started.append(process)
        process.await_line(r"\+monitor", START_S)

    @staticmethod
    def _state(sentinel, what):
        """The answers of a sentinel about the replicas, or about the other sentinels."""
        return [dict(zip(found[::2], found[1::2])) for found in sentinel.call("SENTINEL", what, MASTER)]

    def _knows_all(self, sentinel):
        replicas = self._state(sentinel, "REPLICAS")
        return (len(replicas) == 2 and all(replica[b"flags"] == b"slave" for replica in replicas)
                and len(self._state(sentinel, "SENTINELS")) == 2)

    def _named(self, sentinel):
        """The port of the master, as that sentinel knows it."""
        return int(sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def master(self):
        port = self._named(self.sentinels[0])
        return next(server for server in self.servers if server.port == port)

    def notice_after_ms(self, milliseconds):
        """How long the master may be silent before the sentinels make another one master."""
        for sentinel in self.sentinels:
            sentinel.call("SENTINEL", "SET", MASTER, "down-after-milliseconds", milliseconds)

    def await_other_master(self, than, timeout_s=30):
        """Until all sentinels name another master, and it is one."""
        def is_over():
            named = {self._named(sentinel) for sentinel in self.sentinels}
            return len(named) == 1 and than.port not in named and self.master().info("role") == "master"

        poll(is_over, "another master", timeout_s)


def hour_ahead_library(directory):
    """Compiled once for each directory; its path."""
    library = os.path.join(directory, "hour_ahead.so")
    if not os.path.exists(library):
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hour_ahead.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library

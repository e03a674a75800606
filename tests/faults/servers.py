"""The deployments of Redis that a fault happens to, besides Sentinel, and the way to them."""
import os
import shutil
import subprocess
import time

from network import REDIS
from processes import Process, poll
from redis_servers import PORT, START_S, Server

CLUSTER_PORT, LINE_PORT = 7000, 8379
USER, PASSWORD = "app", "right"


class Standalone:
    kind = "standalone"

    def __init__(self, cell, *settings):
        # What it may do changes in some faults. The rights are those that docs/redis.md lists, and no more.
        self.master = Server(cell, PORT, *settings, "--user", USER, "on", ">" + PASSWORD, *rights(cell.binary))
        self.url = f"redis://{REDIS}:{PORT}"


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
    """The environment of a process whose wall clock is an hour ahead: the library of the package `faketime`, by the name
    that the loader completes. Its program would be the parent, and it refuses a pid whose semaphore a killed one left."""
    return {**os.environ, "LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1", "FAKETIME": "+1h",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def hold(seconds):
    """How long a fault lasts is a length of time, and nothing to wait for."""
    time.sleep(seconds)

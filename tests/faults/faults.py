"""What happens to Redis, and to the way there. Each function begins a fault, holds it, and ends it.

It returns when the cause was over, where that was before it returns itself.
"""
import contextlib
import os
import time

from caller import SHARDS
from namespaces import mount
from network import REDIS
from processes import poll
from redis_servers import MASTER, START_S
from servers import PASSWORD, USER, Standalone, hold


def killed(cell):
    cell.deployment.master.kill()
    hold(1)
    cell.deployment.master.start()


def frozen(seconds):
    def happen(cell):
        cell.deployment.master.freeze()
        hold(seconds)
        cell.deployment.master.thaw()

    return happen


def frozen_often(cell):
    master = cell.deployment.master
    for _ in range(6):
        master.freeze()
        hold(3)
        master.thaw()
        hold(1)


def reloaded(cell):
    """sessionfs itself is replaced on both servers while Redis stands still."""
    master = cell.deployment.master
    master.freeze()
    hold(0.5)
    reloads = [node.reload() for node in cell.nodes]
    hold(3)
    master.thaw()
    ended = time.monotonic()
    for reload in reloads:
        reload.wait(60)
    return ended


def reset(cell):
    cell.network.reset("a", "b")
    hold(2)
    cell.network.heal()


def kicked(cell):
    """The connections of all clients are closed, thirty times in three seconds."""
    for _ in range(30):
        cell.deployment.master.kick()
        hold(0.1)


def dropped(*names):
    def happen(cell):
        cell.network.drop(*names)
        hold(3)
        cell.network.heal()

    return happen


def half_open(cell):
    """Redis is restarted behind a line that is dead: no end of a connection ever arrives."""
    cell.network.drop("a", "b")
    cell.deployment.master.kill()
    cell.deployment.master.start()
    hold(2)
    cell.network.heal()


def slow(cell):
    cell.line.order("delay_ms 100")
    hold(8)
    cell.line.order("delay_ms 0")


def narrow(cell):
    cell.line.order(f"rate {100_000_000 // 8}")
    hold(8)
    cell.line.order("rate 0")


def wrong_password(cell):
    master = cell.deployment.master
    master.call("ACL", "SETUSER", USER, "resetpass", ">wrong")
    master.kick()
    hold(2)
    master.call("ACL", "SETUSER", USER, "resetpass", ">" + PASSWORD)


def without(command):
    def happen(cell):
        cell.deployment.master.call("ACL", "SETUSER", USER, "-" + command)
        hold(2)
        cell.deployment.master.call("ACL", "SETUSER", USER, "+" + command)

    return happen


def read_only(cell):
    """It becomes a replica of nobody that answers, and goes on serving what it has."""
    cell.deployment.master.call("REPLICAOF", REDIS, "1")
    hold(2)
    cell.deployment.master.call("REPLICAOF", "NO", "ONE")


def master_down(cell):
    """The same, of a replica that may not serve what may be old."""
    cell.deployment.master.set("replica-serve-stale-data", "no")
    read_only(cell)


def no_replicas(cell):
    cell.deployment.master.set("min-replicas-to-write", "1")
    hold(2)
    cell.deployment.master.set("min-replicas-to-write", "0")


def loading(cell):
    """It is restarted with so much to load, at such a pace, that it takes some two seconds, and answers meanwhile."""
    master = cell.deployment.master
    for number in range(2000):
        master.call("SET", f"filler:{number}", "x" * 100)
    master.kill()
    master.start("--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024", ready=False)
    master.process.await_line("eady to accept connections", START_S)
    ended = time.monotonic()
    master.admin.close()
    master.listens()
    return ended


def busy(cell):
    master = cell.deployment.master
    master.set("lua-time-limit", "100")
    looping = type(master.admin)(master.socket)
    looping.send("EVAL", "while true do end", 0)
    hold(2)
    master.call("SCRIPT", "KILL")
    ended = time.monotonic()
    with contextlib.suppress(RuntimeError):
        looping.read()
    looping.close()
    return ended


def full(cell):
    cell.deployment.master.set("maxmemory", "1")
    hold(3)
    cell.deployment.master.set("maxmemory", "0")


def on_a_small_disk(cell):
    """A server that saves snapshots. (With an append-only file that is always synced, Redis ends itself when its disk is
    full.)"""
    disk = os.path.join(cell.directory, "disk")
    os.mkdir(disk)
    mount("tmpfs", disk, "tmpfs", data="size=4m,mode=0777")
    # Only with times for snapshots does it mind one that failed.
    return Standalone(cell, "--appendonly", "no", "--save", "3600", "1000000", "--dir", disk)


def full_disk(cell):
    """Its snapshot fails, since its disk is full; so it refuses changes. Then there is room again."""
    master = cell.deployment.master
    filler = os.path.join(cell.directory, "disk", "filler")
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    _snapshot(master, "err")
    hold(2)
    os.unlink(filler)
    _snapshot(master, "ok")


def _snapshot(master, outcome):
    master.call("BGSAVE")
    poll(lambda: master.info("rdb_bgsave_in_progress") == "0" and master.info("rdb_last_bgsave_status") == outcome,
         f"a snapshot that ends with '{outcome}'", 20)


def no_clients(cell):
    """Others have taken all connections, and nobody gets a new one."""
    master = cell.deployment.master
    master.set("maxclients", "1")
    master.kick()
    hold(2)
    master.set("maxclients", "10000")


def scripts_lost(cell):
    for _ in range(20):
        cell.deployment.master.call("SCRIPT", "FLUSH")
        hold(0.1)


def flushed(cell):
    cell.deployment.master.call("FLUSHALL")


def index_deleted(cell):
    for _ in range(10):
        cell.deployment.master.call("DEL", *[f"sessionfs:a:{{{shard}}}{quarter}" for shard in SHARDS
                                          for quarter in ("", ":0", ":1", ":2", ":3")])
        hold(0.2)


def nothing(seconds):
    """What is wrong here has been so from the beginning."""
    def happen(_cell):
        hold(seconds)

    return happen


# --- Sentinel -----------------------------------------------------------------------------------------------------

def failed_over(cell):
    """An administrator asks for it; the master lives on as a replica."""
    sentinel = cell.deployment
    was = sentinel.master()
    sentinel.sentinels[0].call("SENTINEL", "FAILOVER", MASTER)
    sentinel.await_other_master(was)


def master_killed(cell):
    was = cell.deployment.master()
    was.kill()
    cell.deployment.await_other_master(was)


# --- Cluster ------------------------------------------------------------------------------------------------------

def primary_killed(cell):
    """That of a shard in use. Its replica takes its place."""
    cluster = cell.deployment
    slot = cluster.slot(SHARDS[0])
    was = cluster.primary(slot)
    was.kill()
    poll(lambda: cluster.primary(slot) not in (was, None)
         and all(b"cluster_state:ok" in server.call("CLUSTER", "INFO") for server in cluster.alive()),
         "a replica in its place", 30)


def slots_moved(cell):
    """The slot of each shard in use goes to another primary, key by key, while people work."""
    cluster = cell.deployment
    ids = {port: server.call("CLUSTER", "MYID").decode() for port, server in cluster.servers.items()}
    for shard in SHARDS:
        slot = cluster.slot(shard)
        here = cluster.primary(slot)
        there = next(server for server in cluster.servers.values() if server.info("role") == "master" and server is not here)
        there.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[here.port])
        here.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[there.port])
        while keys := here.call("CLUSTER", "GETKEYSINSLOT", slot, 5):
            here.call("MIGRATE", REDIS, there.port, "", 0, 2000, "KEYS", *keys)
            hold(0.1)
        primaries = [server for server in cluster.servers.values() if server.info("role") == "master"]
        for server in (there, here, *(one for one in primaries if one not in (there, here))):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", ids[there.port])



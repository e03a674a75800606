"""What is tried, and what is expected of it: a row for each fault, an expectation for each operation.

Whatever the fault, no save that was acknowledged is lost, no session that was removed lives again, and nobody is logged
out. The rows where Redis itself forgets what it has acknowledged say so (`forgets`): there this holds for everything else.
"""
import dataclasses
import typing

import faults
from redis_servers import Sentinel
from servers import Cluster, Line, Standalone

# Redis is back: so long it may take until each operation has succeeded on each server. A second is promised; the rest is
# for machines that are busy.
RECOVERS_S = 2.0
# No call for which the kernel keeps a directory locked takes longer than one short try.
LOCKED_S = 1.5
# What two servers saved during an outage has been put into Redis so long after it.
SETTLES_S = 3.0


@dataclasses.dataclass(frozen=True)
class Errors:
    """What callers may see of an operation, and which of that they must have seen."""
    must: frozenset = frozenset()
    may: frozenset = frozenset()

    def differs(self, seen):
        missing = self.must - set(seen)
        more = set(seen) - self.must - self.may
        return [f"{error}: not seen" for error in sorted(missing)] + [f"{error}: {seen[error]} times" for error in sorted(more)]

    def __str__(self):
        return ", ".join(sorted(self.must)) if self.must else "no error"


NO_ERROR = Errors()


def errors(*must, may=()):
    return Errors(frozenset(must), frozenset(may))


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    # The row's first column.
    title: str
    happen: typing.Callable
    # By operation; all others: no error.
    expected: dict = dataclasses.field(default_factory=dict)
    # The longest that any operation may take.
    waits_s: float = 8.0
    recovers_s: float = RECOVERS_S
    locked_s: float = LOCKED_S
    settles_s: float = SETTLES_S
    # Redis keeps no promise for what it acknowledged "before" the end of the fault, "during" it, or also while its clients
    # are "following" it to another server: the former one takes changes for some seconds, and forgets them.
    forgets: str = ""
    # Sessions of visitors that nobody has opened may end, to make room for logins.
    ends_visitors: bool = False
    deployment: typing.Callable = Standalone
    # The URL of each server, where they are not that of the deployment.
    urls: typing.Callable = lambda cell: (cell.deployment.url, cell.deployment.url)
    # Lines for the configuration of both servers.
    settings: str = ""
    # Servers whose clock is an hour ahead.
    hour_ahead: tuple = ()
    more_callers: tuple = ()
    times: int = 1
    # Part of the usual run.
    usual: bool = True

    def expects(self, operation):
        return self.expected.get(operation, NO_ERROR)


def over_the_line(*names):
    """These servers reach Redis over a line of its own; the others directly."""
    def urls(cell):
        cell.line = Line(cell)
        return tuple(cell.line.url if name in names else cell.deployment.url for name in ("a", "b"))

    return urls


# After the budget calls fail at once. A thread whose open failed owes an error at its next create.
SPENT = {
    "read": errors("open EIO"),
    "save": errors("open EIO", "write EIO", may=["create EIO"]),
    "rotate": errors("open EIO", may=["create EIO", "write EIO"]),
    "logout": errors("open EIO", may=["create EIO", "write EIO"]),
    "resave": errors("open EIO", may=["listdir EIO", "create EIO", "write EIO"]),
    "list": errors("listdir EIO"),
}
# Sessions that Redis has forgotten are gone; nobody brings one back with what he had read of it.
_GONE = errors(may=["open ENOENT", "unlink ENOENT", "rename EACCES"])
FORGOTTEN = {**dict.fromkeys(("read", "save", "rotate", "logout", "resave"), _GONE),
             "list": errors(may=["listdir without all"])}
# A session that is missing there is put back when it is used.
UNLISTED = {"list": errors(may=["listdir without all"])}
# Long enough that Redis itself keeps the keys when its clock jumps by an hour, and that only sessionfs could end sessions.
HOUR = '[lifetime]\nidle = "50min"\ngrace = "2h"\n'

FAULTS = (
    # --- the server
    Fault("killed", "killed with SIGKILL, started again after 1 s", faults.killed, times=2),
    Fault("frozen-1", "stands still for 1 s, three times (SIGSTOP)", faults.frozen(1), times=3),
    Fault("frozen-10", "stands still for 10 s", faults.frozen(10), waits_s=14),
    Fault("frozen-60", "stands still for 60 s, `wait_total` 90 s", faults.frozen(60), waits_s=66, usual=False,
          settings='[outage]\nwait_total = "90s"\n'),
    Fault("spent", "stands still for 6 s, `wait_total` 3 s", faults.frozen(6), SPENT, settings='[outage]\nwait_total = "3s"\n'),
    Fault("spent-20", "stands still for 30 s, `wait_total` 20 s (the default)", faults.frozen(30), SPENT, waits_s=26,
          usual=False),
    Fault("frozen-often", "stands still for 3 s of every 4 s, six times", faults.frozen_often, waits_s=14, usual=False),
    Fault("reloaded", "stands still for 3 s, and both sessionfs are reloaded meanwhile", faults.reloaded, usual=False),
    # --- the way there
    Fault("reset", "connections are reset (RST) for 2 s", faults.reset),
    Fault("kicked", "`CLIENT KILL` thirty times in 3 s", faults.kicked),
    Fault("dropped", "packets of both servers are dropped for 3 s", faults.dropped("a", "b")),
    Fault("dropped-one", "packets of one server are dropped for 3 s", faults.dropped("a")),
    Fault("half-open", "restarted while packets are dropped for 2 s", faults.half_open),
    # Of all operations a login makes the most round trips, some ten.
    # The kernel lets one save after the other be renamed.
    Fault("slow", "answers take 200 ms for 8 s", faults.slow, waits_s=4, locked_s=3, urls=over_the_line("a", "b")),
    Fault("narrow", "sessions of 4 MB of one server on 100 Mbit/s", faults.narrow, urls=over_the_line("a"),
          more_callers=("large",), usual=False),
    # --- what the server answers
    Fault("password", "another password for 2 s, then the right one", faults.wrong_password),
    Fault("acl-evalsha", "the user may not `EVALSHA` for 2 s", faults.without("evalsha")),
    Fault("acl-set", "the user may not `SET` for 2 s", faults.without("set")),
    Fault("readonly", "a replica for 2 s (READONLY)", faults.read_only),
    Fault("masterdown", "a replica without a master for 2 s (MASTERDOWN)", faults.master_down),
    Fault("noreplicas", "too few replicas for 2 s (NOREPLICAS)", faults.no_replicas),
    Fault("loading", "restarted, and loads for some seconds (LOADING)", faults.loading),
    Fault("busy", "a script runs for 2 s (BUSY)", faults.busy),
    Fault("full", "out of memory for 3 s, `noeviction` (OOM)", faults.full, ends_visitors=True),
    Fault("disk", "its disk is full for 2 s (MISCONF)", faults.full_disk, deployment=faults.on_a_small_disk),
    Fault("maxclients", "no connection is left for 2 s (`maxclients`)", faults.no_clients),
    Fault("noscript", "`SCRIPT FLUSH` twenty times in 2 s", faults.scripts_lost),
    # --- the data
    Fault("flushed", "`FLUSHALL`", faults.flushed, FORGOTTEN, forgets="before"),
    Fault("index", "the index of each shard deleted, ten times", faults.index_deleted, UNLISTED),
    # --- Sentinel
    Fault("failover", "Sentinel: `SENTINEL FAILOVER`", faults.failed_over, FORGOTTEN, forgets="following", waits_s=20,
          deployment=Sentinel, usual=False),
    Fault("master-killed", "Sentinel: master killed with SIGKILL", faults.master_killed, forgets="during", waits_s=20,
          deployment=Sentinel),
    Fault("failover-clock", "Sentinel: master killed, the clock of the replicas an hour ahead", faults.master_killed,
          forgets="during", waits_s=20, deployment=lambda cell: Sentinel(cell, hour_ahead=True), settings=HOUR, usual=False),
    # --- Cluster
    Fault("primary-killed", "Cluster: a primary killed with SIGKILL", faults.primary_killed, forgets="during", waits_s=20,
          deployment=Cluster),
    Fault("slots", "Cluster: the slots in use moved to other primaries", faults.slots_moved, deployment=Cluster, usual=False),
    # --- this side
    Fault("clock", "the clock of one sessionfs an hour ahead", faults.nothing(3), hour_ahead=("b",)),
)

"""What happens to a server while callers work, and what they may see of it."""
import collections
import random
import signal

from node import hold

Row = collections.namedtuple("Row", "name title happen whole short settings volume stored may_see")


def row(name, title, happen, whole, short=0, settings="", volume=None, stored=False, may_see=()):
    """How often it happens in the whole form, and in the short one (0: not at all).

    `volume`: callers are in a container, whose volume has this propagation. `stored`: a service manager keeps the
    connection. `may_see`: the errors that callers may see.
    """
    return Row(name, title, happen, whole, short, settings, volume, stored, frozenset(may_see))


def killed(node, times):
    for _ in range(times):
        served = node.times_ready()
        hold(random.uniform(0, 0.4))
        node.signal_worker(signal.SIGKILL)
        node.await_ready(served)


def killed_in_recovery(node, times):
    """Every other one is killed before it serves, or has just begun to."""
    for number in range(times):
        served = node.times_ready()
        hold(random.uniform(0.02, 0.15) if number % 2 else random.uniform(0, 0.4))
        if node.signal_worker(signal.SIGKILL) and number % 2:
            node.await_ready(served)


def stopped(node, times):
    for _ in range(times):
        served = node.times_ready()
        node.signal_worker(signal.SIGSTOP)
        node.await_ready(served)
        hold(0.5)


def crashed(node, times):
    for _ in range(times):
        served = node.times_ready()
        if node.signal_worker(signal.SIGABRT):
            node.await_ready(served)
        # What was under way is over: a request that three workers died of would fail.
        hold(1)


def reloaded(node, times):
    for _ in range(times):
        hold(0.3)
        node.command("reload")


def upgraded(node, times):
    for _ in range(times):
        hold(0.3)
        node.install()
        node.command("reload")


def killed_with_redis(node, times):
    for _ in range(times):
        served = node.times_ready()
        hold(0.5)
        node.signal_worker(signal.SIGKILL)
        node.redis.kill()
        hold(0.5)
        node.redis.start()
        node.await_ready(served)


def keeper_killed(node, times):
    for _ in range(times):
        hold(0.5)
        node.kill_keeper()
        node.start()


def keeper_restarted(node, times):
    for _ in range(times):
        hold(0.5)
        node.end()
        node.start()


WATCHDOG = '[worker]\nanswer_within = "1s"\n'
# Without a service manager the keeper's end is the end of the connection; then its directory is closed to them, too.
ENDED = ("ENOTCONN", "ECONNABORTED", "EACCES")

ROWS = (
    row("killed", "worker killed (SIGKILL)", killed, 50, 6),
    row("recovery", "worker killed, also during its recovery", killed_in_recovery, 50, 10),
    row("stopped", "worker stopped (SIGSTOP) until the watchdog acts", stopped, 3, 1, settings=WATCHDOG),
    row("crashed", "worker crashed (SIGABRT)", crashed, 8),
    row("reloaded", "`sessionfs reload`", reloaded, 20, 4),
    row("upgraded", "`sessionfs reload`, another build installed", upgraded, 10, 2),
    row("redis", "worker and Redis killed at the same moment", killed_with_redis, 5, 1),
    row("keeper", "keeper killed, the service manager has the connection", keeper_killed, 10, 2, stored=True),
    row("volume-killed", "worker killed, also during its recovery", killed_in_recovery, 50, 6, volume="rprivate"),
    row("volume-killed-rslave", "the same", killed_in_recovery, 50, volume="rslave"),
    row("volume-upgraded", "another build installed", upgraded, 10, 2, volume="rprivate"),
    row("volume-upgraded-rslave", "the same", upgraded, 10, volume="rslave"),
    row("volume-keeper", "keeper killed, the service manager has the connection", keeper_killed, 5, volume="rprivate",
        stored=True),
    row("keeper-alone", "keeper killed without a service manager, started again", keeper_killed, 1, 1, may_see=ENDED),
    row("restarted", "`sessionfs unmount`, started again", keeper_restarted, 1, 1, may_see=ENDED),
)

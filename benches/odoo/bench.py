"""Asks Odoos that differ in where their sessions are, in random turn, and compares how long they take.

Not called by hand: `run` makes what it needs and starts this.
"""
import random
import statistics
import time

import document
from browser import Browser
from lab import User
from places import filesystem_of, machine
from shops import IDLE, Place, Shops, parser, run
from tables import table as text_table

WHOLE_RUN_S = 3600
WARM_UP = 20
RESAMPLES = 1000


def places(disk, modules):
    made = [
        Place("disk", 0, directory=disk),
        Place("sessionfs strict", 1, freshness="strict"),
        Place("sessionfs near", 2, freshness="near"),
        Place("redis-py", 3, addon="sessionfs_test,sessionfs_bench_redis"),
    ]
    if modules:
        made += [Place("session_db", 4, addon="sessionfs_test,session_db"),
                 Place("redis_session_store", 5, addon="sessionfs_test,redis_session_store")]
    return made


def places_that_see_requests():
    return [Place("no program", 0, freshness="near", requests="off"), Place("the program", 1, freshness="near")]


# Each kind of request, by what it asks of a session.
def call(place):
    return place.browser.whoami(place)


def save(place):
    reply = place.browser.get(place, f"/sessionfs_test/count?number={random.randrange(10**9)}")
    return reply.status == 200


def static(place):
    return place.browser.get(place, "/web/static/img/favicon.ico").status == 200


def shop(place):
    return place.browser.get(place, "/shop").status == 200


KINDS = {"a call": call, "a call that saves": save, "a static file": static, "a shop page": shop}
# These take so long that they are asked for once in so many turns.
SELDOM = {"a shop page": 10}


def prepare(lab):
    lab.make_root()
    lab.start_postgres()
    lab.start_redis()
    lab.mount_sessions(IDLE)
    # One after another: the first one makes what all need.
    for place in lab.servers:
        lab.start_odoo(place)
        place.browser = Browser().log_in(place, User("admin", "admin"))
        place.must_use_addon()


def measure(lab, requests):
    times = {(place.title, kind): [] for place in lab.servers for kind in KINDS}
    steps = [(place, kind, ask) for place in lab.servers for kind, ask in KINDS.items()]
    for turn in range(-WARM_UP, requests):
        random.shuffle(steps)
        for place, kind, ask in steps:
            if turn % SELDOM.get(kind, 1):
                continue
            began = time.perf_counter_ns()
            right = ask(place)
            took = time.perf_counter_ns() - began
            if not right:
                raise RuntimeError(f"{kind} on {place.title} is not answered as it should be")
            if turn >= 0:
                times[place.title, kind].append(took / 1e6)
    return times


def ratio(times, base):
    """Of the medians, with the interval in which it lies with 95 %."""
    drawn = sorted(statistics.median(random.choices(times, k=len(times))) / statistics.median(random.choices(base, k=len(base)))
                   for _ in range(RESAMPLES))
    return (statistics.median(times) / statistics.median(base), drawn[int(RESAMPLES * 0.025)], drawn[int(RESAMPLES * 0.975)])


def table(lab, times, what):
    lines = [["request", what, "median ms", "p99 ms", "ratio", "95 %"]]
    for kind in KINDS:
        base = times[lab.a.title, kind]
        for place in lab.servers:
            these = sorted(times[place.title, kind])
            middle, low, high = ratio(these, base)
            lines.append([kind, place.title, f"{statistics.median(these):.2f}", f"{these[int(len(these) * 0.99)]:.2f}",
                          f"{middle:.3f}", f"{low:.3f} to {high:.3f}" if place is not lab.a else "-"])
    return text_table(lines, words={0, 1})


def drive(arguments, run_dir, logs, disk):
    made = places_that_see_requests() if arguments.ebpf else places(disk, arguments.modules)
    lab = Shops(arguments, run_dir, logs, made)
    try:
        prepare(lab)
        times = measure(lab, arguments.requests)
    finally:
        lab.stop()
    text = (f"Odoo 19, one worker a server, in random turn {arguments.requests:,} requests of each kind to each server\n"
            f"(of shop pages a tenth); disk: {filesystem_of(disk)}; Redis on a unix socket;\n"
            f"{machine()}\n\n{table(lab, times, 'in the kernel' if arguments.ebpf else 'sessions on')}")
    print(text, end="", flush=True)
    if arguments.update:
        document.update(arguments.update, {"odoo-ebpf" if arguments.ebpf else "odoo": document.fenced(text)})
    return 0


def main():
    made = parser()
    made.add_argument("--requests", type=int, default=1000)
    made.add_argument("--modules", action="store_true")
    made.add_argument("--ebpf", action="store_true")
    arguments = made.parse_args()
    if not 10 <= arguments.requests <= 100_000:
        made.error(f"--requests {arguments.requests}: give 10 to 100000")
    run("bench-odoo", WHOLE_RUN_S, arguments, drive)


if __name__ == "__main__":
    main()

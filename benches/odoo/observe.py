"""Lets `sessionfs observe` look at two Odoos, one with its sessions on a disk and one on a mount, and compares what it finds.

Not called by hand: `run --observe N` makes what it needs and starts this.
"""
import os
import random
import signal
import subprocess

import document
from bench import KINDS, SELDOM
from browser import Browser
from lab import User
from places import filesystem_of, machine
from shops import IDLE, Place, Shops, parser, run

WHOLE_RUN_S = 3600
OBSERVE_S = 1800
START_S = 30
# It was asked to end, and has printed what it found.
INTERRUPTED = 52


def prepare(lab):
    lab.make_root()
    lab.start_postgres()
    lab.start_redis()
    lab.mount_sessions(IDLE)
    for place in lab.servers:
        lab.start_odoo(place)
        place.browser = Browser().log_in(place, User("admin", "admin"))
        place.must_use_addon()


def ask(place, requests):
    for turn in range(requests):
        for kind, request in random.sample(sorted(KINDS.items()), len(KINDS)):
            if turn % SELDOM.get(kind, 1) == 0 and not request(place):
                raise RuntimeError(f"{kind} on {place.title} is not answered as it should be")


def observe(lab, place, requests, *options):
    """What it prints of an Odoo that is asked meanwhile. It finds the processes of that by itself."""
    observer = subprocess.Popen([lab.binary, "observe", "--for", f"{OBSERVE_S}s", *options, place.sessions],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in observer.stderr:
            said.append(line)
            if line.startswith("until it ends"):
                break
        else:
            raise RuntimeError(f"observe of {place.title} does not begin: {''.join(said)}")
        ask(place, requests)
        observer.send_signal(signal.SIGINT)
        text, _ = observer.communicate(timeout=START_S)
    finally:
        observer.kill()
        observer.wait()
    if observer.returncode != INTERRUPTED:
        raise RuntimeError(f"observe of {place.title} ended with {observer.returncode}")
    # Where the folder of Odoo lies does not matter.
    return text.replace(lab.root, "")


def drive(arguments, run_dir, logs, disk):
    places = [Place("disk", 0, directory=disk), Place("sessionfs", 1, freshness="near")]
    lab = Shops(arguments, run_dir, logs, places)
    try:
        prepare(lab)
        for place in places:
            ask(place, 20)
        of_disk = observe(lab, places[0], arguments.observe)
        before = os.path.join(run_dir, "before.json")
        with open(before, "w") as file:
            file.write(observe(lab, places[0], arguments.observe, "--json"))
        compared = observe(lab, places[1], arguments.observe, "--compare", before)
    finally:
        lab.stop()
    about = (f"Odoo 19, one worker, {arguments.observe:,} requests of each kind (of shop pages a tenth); "
             f"disk: {filesystem_of(disk)}; {machine()}")
    for text in (of_disk, compared):
        print(f"{about}\n\n{text}", flush=True)
    if arguments.update:
        document.update(arguments.update, {"observe": document.fenced(f"{about}\n\n{of_disk}"),
                                           "compare": document.fenced(f"{about}\n\n{compared}")})
    return 0


def main():
    made = parser()
    made.add_argument("--observe", type=int, required=True)
    arguments = made.parse_args()
    if not 10 <= arguments.observe <= 10_000:
        made.error(f"--observe {arguments.observe}: give 10 to 10000")
    run("bench-observe", WHOLE_RUN_S, arguments, drive)


if __name__ == "__main__":
    main()

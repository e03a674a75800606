"""Logs people out on one of two Odoos while a page is under way on the other, and counts whose cookie works again.

Not called by hand: `run --logouts N` makes what it needs and starts this.
"""
import random
import threading
import time

import document
from browser import Browser
from lab import User
from places import filesystem_of, machine
from shops import IDLE, Place, Shops, parser, run
from tables import table

WHOLE_RUN_S = 3600
# The moment of the logout within the page is what is tried.
LATEST_S = 0.06
ADMIN = User("admin", "admin")
# Odoo's web client without its assets: it reads the session, and saves it.
PAGE = "/web"


class Pair:
    """Two servers that share their sessions."""

    def __init__(self, title, number, disk, **how):
        self.title = title
        if "directory" in how:
            how["directory"] = disk
        self.places = [Place(f"{title} {side}", 2 * number + turn, prefix=f"pair{number}", **how)
                       for turn, side in enumerate("ab")]
        # Cookies that worked after a logout with nothing under way, and after one with a page; and errors of those pages.
        self.alive, self.undone, self.errors = 0, 0, 0

    def a_logout(self, here, there):
        """Nothing under way: is the cookie dead on the other server at once?"""
        one = Browser().log_in(here, ADMIN)
        old = one.clone()
        old.whoami(there)
        one.log_out(here)
        self.alive += not old.is_dead(there)

    def with_a_page(self, here, there):
        one = Browser().log_in(here, ADMIN)
        old, tab = one.clone(), one.clone()
        page = threading.Thread(target=self.load, args=(tab, there))
        page.start()
        time.sleep(random.uniform(0, LATEST_S))
        one.log_out(here)
        page.join()
        self.undone += not all(old.is_dead(place) for place in self.places)

    def load(self, tab, there):
        self.errors += tab.get(there, PAGE).status >= 500


def pairs(disk, modules):
    kinds = [("disk", {"directory": True}), ("sessionfs strict", {"freshness": "strict"}),
             ("sessionfs near", {"freshness": "near"}), ("redis-py", {"addon": "sessionfs_test,sessionfs_bench_redis"})]
    if modules:
        kinds += [(addon, {"addon": f"sessionfs_test,{addon}"}) for addon in ("session_db", "redis_session_store")]
    return [Pair(title, number, disk, **how) for number, (title, how) in enumerate(kinds)]


def prepare(lab):
    lab.make_root()
    lab.start_postgres()
    lab.start_redis()
    lab.mount_sessions(IDLE)
    for place in lab.servers:
        lab.start_odoo(place)
        # The first page takes long.
        Browser().log_in(place, ADMIN).get(place, PAGE)
        place.must_use_addon()


def drive(arguments, run_dir, logs, disk):
    made = pairs(disk, arguments.modules)
    lab = Shops(arguments, run_dir, logs, [place for pair in made for place in pair.places])
    try:
        prepare(lab)
        for number in range(arguments.logouts):
            random.shuffle(made)
            for pair in made:
                here, there = pair.places if number % 2 else reversed(pair.places)
                pair.a_logout(here, there)
                pair.with_a_page(here, there)
    finally:
        lab.stop()
    lines = [["sessions on", "logouts", "cookie works on the other server", "with a page under way there", "cookie works again",
              "pages with an error"]]
    lines += [[pair.title, str(arguments.logouts), str(pair.alive), str(arguments.logouts), str(pair.undone), str(pair.errors)]
              for pair in sorted(made, key=lambda pair: pair.places[0].http_port)]
    text = (f"two Odoo 19 of each kind, each kind in random turn; disk: {filesystem_of(disk)}, shared by both; {machine()}\n\n"
            f"{table(lines, words={0})}")
    print(text, end="", flush=True)
    if arguments.update:
        document.update(arguments.update, {"logouts": document.fenced(text)})
    return 0


def main():
    made = parser()
    made.add_argument("--logouts", type=int, required=True)
    made.add_argument("--modules", action="store_true")
    arguments = made.parse_args()
    if not 1 <= arguments.logouts <= 10_000:
        made.error(f"--logouts {arguments.logouts}: give 1 to 10000")
    run("logouts", WHOLE_RUN_S, arguments, drive)


if __name__ == "__main__":
    main()

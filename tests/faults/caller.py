"""One worker of Odoo, on sessionfs: makes the same system calls, in a loop, and says what came of each.

  caller.py KIND HERE:DIR THERE:DIR BOARD    until SIGTERM
  caller.py judge                            reads the sessions of standard input once, see `judge`

It is not Odoo's user for nothing: below the mount it can see nothing. Each line of standard output is JSON: an operation
that has ended (`op`), a session that is known to be saved or removed from here on (`saved`, `removed`), or of which that
is not known after an error (`unsure`), and what must not be: a session that is gone though nobody removed it (`missing`),
that lives though it was removed (`revived`), or that is older than what was saved (`behind`).
"""
import contextlib
import errno
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time

FAMILY = 42  # characters of a session id that a listing shows
SHARDS = ("ab", "Cd", "9_", "-x")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
HELD = 6  # sessions of a caller that are saved again and again
POOL = 16  # sessions that wait for their logout
LARGE_BYTES = 3_900_000
# Between two operations: people, not a benchmark.
PAUSE_S = 0.05
WARM = 3  # operations without an error before the caller counts as ready
NO_DISK = 0o644
TOKEN = "5f" * 32
# What the kernel keeps a directory locked for: nothing of it may wait.
LOCKING = ("probe", "isdir", "create", "rename", "unlink")

SLOT = struct.Struct("84sQ")
# Who saves sessions that others read, and where on the board they stand.
WRITERS = ("save:a", "save:b", "resave:a", "resave:b", "roam:a", "large:a")


class Failed(Exception):
    """A system call that failed as Odoo sees it."""

    def __init__(self, call, error):
        super().__init__(f"{call} {errno.errorcode.get(error.errno, error.errno)}")


class Board:
    """What was saved last, for readers on both nodes: session ids and counters in memory that all callers share."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    @staticmethod
    def size():
        return SLOT.size * HELD * len(WRITERS)

    def get(self, slot):
        sid, count = SLOT.unpack_from(self.memory, slot * SLOT.size)
        return sid.decode(), count

    def put(self, slot, sid, count):
        SLOT.pack_into(self.memory, slot * SLOT.size, sid.encode(), count)

    def known(self, *kinds):
        """The slots of sessions that were saved, with the node of the writer."""
        for number, writer in enumerate(WRITERS):
            kind, node = writer.split(":")
            if not kinds or kind in kinds:
                for slot in range(number * HELD, (number + 1) * HELD):
                    if self.get(slot)[1]:
                        yield slot, node


class Caller:
    def __init__(self, kind, here, there, board):
        self.kind = kind
        self.name, self.root = here.split(":", 1)
        self.other_name, self.other = there.split(":", 1)
        self.board = Board(board)
        self.chance = random.Random(f"{kind}{self.name}")
        self.over = False
        self.steps = {}
        writer = f"{kind}:{self.name}"
        self.first_slot = WRITERS.index(writer) * HELD if writer in WRITERS else None
        # Of its own sessions: the id, how often a save was tried, and which save was the last to succeed.
        self.sids, self.tried, self.saved = [], [], []

    # --- what Odoo does, call by call ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def call(self, name):
        begun = time.monotonic()
        try:
            yield
        except OSError as error:
            raise Failed(name, error) from error
        finally:
            self.steps[name] = max(self.steps.get(name, 0), time.monotonic() - begun)

    def path(self, root, sid):
        return os.path.join(root, sid[:2], sid)

    def read(self, sid, root=None):
        """The session's counter, or None if there is none."""
        root = root or self.root
        with self.call("probe"):
            os.path.isfile(os.path.join(root, f"werkzeug_{sid}.sess"))
        try:
            with self.call("open"):
                # Closed in the order of Odoo's calls.
                file = open(self.path(root, sid), "rb")  # noqa: SIM115
        except Failed as failed:
            if isinstance(failed.__cause__, FileNotFoundError):
                return None
            raise
        with file, self.call("read"):
            content = file.read()
        try:
            return json.loads(content)["n"]
        except (ValueError, KeyError) as error:
            raise Failed("read", OSError(errno.EBADMSG, f"{len(content)} bytes")) from error

    def save(self, sid, count, root=None, anonymous=False, size=0):
        root = root or self.root
        path = self.path(root, sid)
        begun = time.monotonic()
        try:
            with self.call("isdir"):
                if not os.path.isdir(os.path.dirname(path)):
                    with contextlib.suppress(OSError):
                        os.mkdir(os.path.dirname(path), 0o755)
            with self.call("create"):
                descriptor, temp = tempfile.mkstemp(suffix=".__wz_sess", dir=root)
            self.write(descriptor, content(count, anonymous, size))
            with self.call("rename"):
                os.rename(temp, path)
        except Failed:
            self.say("unsure", sid=sid, removed=False)
            raise
        self.say("saved", sid=sid, n=count, begun=begun, visitor=anonymous)
        with self.call("chmod"):
            os.chmod(path, NO_DISK)

    def write(self, descriptor, session):
        file = os.fdopen(descriptor, "w", encoding="utf-8")
        try:
            with self.call("write"):
                json.dump(session, file)
                file.flush()
        except Failed:
            # It tries once more to write what it holds.
            with contextlib.suppress(OSError):
                file.close()
            raise
        with self.call("close"):
            file.close()

    def unlink(self, sid, root=None):
        begun = time.monotonic()
        try:
            with self.call("unlink"):
                os.unlink(self.path(root or self.root, sid))
        except Failed:
            self.say("unsure", sid=sid, removed=True)
            raise
        self.say("removed", sid=sid, begun=begun)

    def list(self, directory):
        with self.call("listdir"):
            return os.listdir(os.path.join(self.root, directory))

    # --- what it says --------------------------------------------------------------------------------------------

    def say(self, what, **rest):
        print(json.dumps({"what": what, "at": time.monotonic(), **rest}), flush=True)

    def expect(self, sid, count, least, own=True):
        """What was read of a session that nobody removed."""
        if count is None:
            self.say("missing", sid=sid)
            raise Failed("open", OSError(errno.ENOENT, ""))
        if count < least:
            self.say("behind", sid=sid, n=count, least=least, own=own)

    def expect_gone(self, sid, root=None):
        if self.read(sid, root) is not None:
            self.say("revived", sid=sid)

    def new_sid(self):
        return self.chance.choice(SHARDS) + "".join(random.SystemRandom().choices(ALPHABET, k=82))

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self):
        work = getattr(self, "do_" + self.kind)
        warm = 0
        prepare = getattr(self, "prepare_" + self.kind, None)
        if prepare:
            prepare()
        while not self.over:
            self.steps = {}
            begun = time.monotonic()
            try:
                result = work() or "ok"
            except Failed as failed:
                result = str(failed)
            self.ended(result, begun)
            warm = warm + 1 if result == "ok" else 0
            if warm == WARM:
                self.say("warm")
            # Not a wait for an event: it is how often people click.
            time.sleep(PAUSE_S * self.chance.uniform(0.5, 1.5))

    def ended(self, result, begun):
        self.say("op", kind=self.kind, node=self.name, begun=begun, result=result, wait=time.monotonic() - begun,
                 locked=max((self.steps.get(step, 0) for step in LOCKING), default=0))

    # --- kinds ---------------------------------------------------------------------------------------------------

    def begin_sessions(self, size=0):
        for number in range(HELD):
            self.sids.append(None)
            self.tried.append(0)
            self.saved.append(0)
            self.log_in_as(number, size=size)

    def log_in_as(self, number, root=None, size=0):
        self.sids[number] = SHARDS[number % len(SHARDS)] + self.new_sid()[2:]
        self.tried[number] = self.saved[number] = 0
        self.save_own(number, root, size)

    def save_own(self, number, root, size):
        sid = self.sids[number]
        # What failed may have been taken: its number is never used again.
        self.tried[number] += 1
        count = self.tried[number]
        self.save(sid, count, root, size=size)
        self.saved[number] = count
        self.board.put(self.first_slot + number, sid, count)

    def next_save(self, number, root=None, reads=True, before=lambda _sid: None, size=0):
        """A request that saves: reads the session, then saves it with the next counter."""
        sid, saved = self.sids[number], self.saved[number]
        if not saved:
            self.log_in_as(number, root, size)
            return
        if reads:
            found = self.read(sid, root)
            if found is None:
                self.saved[number] = 0
            # What is saved on both nodes may be behind on this one during an outage.
            self.expect(sid, found, saved, own=self.kind != "roam")
        before(sid)
        self.save_own(number, root, size)

    prepare_save = prepare_resave = prepare_roam = begin_sessions

    def prepare_large(self):
        self.begin_sessions(LARGE_BYTES)

    def do_save(self):
        # Some requests save what they have not read a moment ago: websockets, say.
        self.next_save(self.chance.randrange(HELD), reads=self.chance.random() < 0.5)

    def do_roam(self):
        """A browser that the balancer sends to one server and then to the other."""
        number = self.chance.randrange(HELD)
        self.next_save(number, self.chance.choice((None, self.other)), reads=self.chance.random() < 0.5)
        # The next click, perhaps on the other server, is a person's.
        time.sleep(0.1)

    def do_large(self):
        self.next_save(self.chance.randrange(HELD), size=LARGE_BYTES)

    def do_resave(self):
        """Odoo 19, two minutes after a rotation: removes all of the family by its listed names, and saves its own again."""
        self.next_save(self.chance.randrange(HELD), before=self.remove_family)

    def remove_family(self, sid):
        """Odoo takes a listing that failed for an empty one, and does not look at what a removal says."""
        try:
            for name in self.list(sid[:2]):
                if name.startswith(sid[:FAMILY]):
                    with self.call("unlink"):
                        os.unlink(os.path.join(self.root, sid[:2], name))
        except Failed as failed:
            self.ended(str(failed), time.monotonic())

    def do_read(self):
        slot, node = self.chance.choice(list(self.board.known("save", "resave", "roam")))
        sid, least = self.board.get(slot)
        found = self.read(sid)
        if found is None and self.board.get(slot)[0] != sid:
            return
        # A session that is saved on both nodes is nobody's own.
        roams = WRITERS[slot // HELD].startswith("roam")
        self.expect(sid, found, least, own=node == self.name and not roams)

    def do_list(self):
        shard = self.chance.choice(SHARDS)
        due = [self.board.get(slot)[0] for slot, _ in self.board.known("save", "roam")]
        families = {name[:FAMILY] for name in self.list(shard)}
        if any(sid[:FAMILY] not in families for sid in due if sid[:2] == shard):
            return "listdir without all"
        if not set(SHARDS) <= set(self.list("")):
            return "listdir without all"
        return None

    def prepare_rotate(self):
        # Several, so that there are always some that this server does not hold itself.
        self.current = [None] * HELD
        for number in range(HELD):
            self.log_in_anew(number)

    def log_in_anew(self, number):
        sid, self.current[number] = self.new_sid(), None
        self.save(sid, 1)
        self.current[number] = sid
        return sid

    def do_rotate(self):
        """A login, or any other request after which Odoo changes the cookie."""
        number = self.chance.randrange(HELD)
        old = self.current[number]
        if not old:
            self.log_in_anew(number)
            return
        found = self.read(old)
        try:
            self.expect(old, found, 1)
            self.unlink(old)
        finally:
            # Odoo goes on, whatever became of the unlink.
            new = self.log_in_anew(number)
        self.expect_gone(old)
        self.expect(new, self.read(new), 1)

    def prepare_logout(self):
        self.waiting = []
        for _ in range(POOL):
            self.log_in()

    def log_in(self):
        sid = self.new_sid()
        self.save(sid, 1)
        self.waiting.append(sid)

    def do_logout(self):
        """People who logged in a while ago; every other one is sent to the other server for it."""
        root = self.chance.choice((None, self.other))
        if not self.waiting:
            self.log_in()
        sid = self.waiting.pop(0)
        self.expect(sid, self.read(sid, root), 1)
        self.unlink(sid, root)
        self.save(self.new_sid(), 1, root, anonymous=True)
        self.expect_gone(sid, root)
        self.log_in()


def content(count, anonymous, size):
    person = None if anonymous else "admin"
    return {"context": {"lang": "en_US", "tz": "Europe/Vienna", "uid": None if anonymous else 2}, "db": "shop", "debug": "",
            "login": person, "uid": None if anonymous else 2, "session_token": None if anonymous else TOKEN, "n": count,
            "geoip": {}, "page": "x" * size}


def judge():
    """What each session of standard input is, on each node: {"roots": [...], "sids": [...]} to a list for each node."""
    asked = json.load(sys.stdin)
    found = []
    for root in asked["roots"]:
        here = []
        for sid in asked["sids"]:
            try:
                with open(os.path.join(root, sid[:2], sid), "rb") as file:
                    here.append(json.loads(file.read())["n"])
            except OSError as error:
                here.append(errno.errorcode.get(error.errno))
            except ValueError:
                here.append("EBADMSG")
        found.append(here)
    json.dump(found, sys.stdout)


def main():
    if sys.argv[1] == "judge":
        judge()
        return
    kind, here, there, board = sys.argv[1:]
    caller = Caller(kind, here, there, board)

    def end(_number, _frame):
        caller.over = True

    signal.signal(signal.SIGTERM, end)
    caller.run()


if __name__ == "__main__":
    main()

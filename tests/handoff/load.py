"""Reads, saves, rotations and listings as Odoo makes them, by processes of their own, until standard input ends.

Arguments: the directory, and how many processes there are of each kind. Prints "running", and at the end JSON: how many
operations there were, the longest in milliseconds, each kind of error with its count, how many processes hang, and how
many saves and removals are lost: what was acknowledged, and is not what is read, then or at the end.
"""

import collections
import errno
import json
import mmap
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Characters of a session id that a listing shows.
FAMILY = 42
# That readers read and listings show.
SESSIONS = 8
# More than one request carries, and more than one page.
SIZES = [0, 100, 700, 5000, 40_000, 300_000]
# As many of its last changes a process looks at once more in the end.
REMEMBERED = 50
# However many workers die, no system call takes so long.
HUNG_AFTER_S = 30
# Odoo does not ask again at once, either.
PAUSE_AFTER_ERROR_S = 0.05

root = sys.argv[1]
each = int(sys.argv[2])
end = mmap.mmap(-1, 1)


class Caller:
    def __init__(self, seed):
        self.choose = random.Random(seed)
        self.counts = collections.Counter()
        self.worst = (0, "")
        # Counts its system calls, where others see it.
        self.progress = [0]
        # By path: what may be read of it, None for nothing. More than one thing while a change is not acknowledged.
        self.expected = {}

    def sid(self, shard=None):
        sid = "".join(self.choose.choice(ALPHABET) for _ in range(84))
        return shard + sid[2:] if shard else sid

    def path(self, sid):
        return os.path.join(root, sid[:2], sid)

    def content(self, number, largest=None):
        size = self.choose.choice(SIZES[:largest])
        session = {"db": "shop", "login": "a", "uid": 2, "session_token": "5f" * 32, "n": number, "x": "y" * size}
        return json.dumps(session).encode()

    def timed(self, what, call, may_fail=()):
        began = time.monotonic()
        try:
            return call()
        except OSError as error:
            if isinstance(error, may_fail):
                raise
            self.wrong(f"{what} {errno.errorcode.get(error.errno, error.errno)}")
            raise
        finally:
            self.worst = max(self.worst, (time.monotonic() - began, what))
            self.counts["operations"] += 1
            self.progress[0] += 1

    def wrong(self, what):
        self.counts[f"error: {what}"] += 1

    def begins(self, path, content):
        """A change that may be carried out from now on, and is not acknowledged."""
        self.expected[path] = [*self.expected.pop(path, [None]), content]
        if len(self.expected) > REMEMBERED:
            del self.expected[next(iter(self.expected))]

    def is_acknowledged(self, path, content):
        self.expected[path] = [content]

    def look(self, path, what="lost"):
        """Reads what this process alone has changed."""
        try:
            with self.timed("open", lambda: open(path, "rb"), FileNotFoundError) as file:
                content = self.timed("read", file.read)
        except FileNotFoundError:
            content = None
        if content not in self.expected[path]:
            self.counts["lost"] += 1
            self.wrong(f"{what}: {self.words(content)} instead of {' or '.join(map(self.words, self.expected[path]))}")

    @staticmethod
    def words(content):
        return "nothing" if content is None else f"{len(content)} bytes"

    def look_at_all(self):
        for path in self.expected:
            self.look(path, "lost in the end")

    def save(self, path, content):
        descriptor, temp = self.timed("create", lambda: tempfile.mkstemp(suffix=".__wz_sess", dir=root))
        with os.fdopen(descriptor, "wb") as file:
            self.timed("write", lambda: (file.write(content), file.flush()))
            if self.timed("fstat", lambda: os.fstat(descriptor)).st_size != len(content):
                self.wrong("another size of a temp file")
        self.timed("rename", lambda: os.rename(temp, path))
        self.timed("chmod", lambda: os.chmod(path, 0o644))

    def read(self, path, what="open"):
        with self.timed(what, lambda: open(path, "rb")) as file:
            size = self.timed("fstat", lambda: os.fstat(file.fileno())).st_size
            content = self.timed("read", file.read)
            if size != len(content):
                self.wrong("another size than was read")
            return content

    def save_own(self, path, content):
        self.begins(path, content)
        self.save(path, content)
        self.is_acknowledged(path, content)

    def unlink_own(self, path):
        self.begins(path, None)
        self.timed("unlink", lambda: os.unlink(path))
        self.is_acknowledged(path, None)


def saves(caller):
    path = caller.path(caller.sid())
    number = 0
    while True:
        number += 1
        caller.save_own(path, caller.content(number))
        caller.look(path)
        yield
        caller.look(path)


def reads(caller):
    while True:
        number = caller.choose.randrange(SESSIONS)
        path = caller.path(shown[number])
        content = json.loads(caller.read(path))
        if content["n"] != number:
            caller.wrong("another content")
        caller.timed("stat", lambda path=path: os.stat(path))
        yield


def rotates(caller):
    old = caller.path(caller.sid())
    caller.save_own(old, caller.content(0, 4))
    number = 0
    while True:
        number += 1
        caller.look(old)
        new = caller.path(caller.sid())
        caller.save_own(new, caller.content(number, 4))
        caller.unlink_own(old)
        caller.look(old)
        caller.look(new)
        old = new
        yield


def lists(caller):
    while True:
        names = caller.timed("listdir", lambda: os.listdir(os.path.join(root, SHARD)))
        listed = [name[:FAMILY] for name in names]
        if any(listed.count(sid[:FAMILY]) != 1 for sid in shown):
            caller.wrong("not each session is listed once")
        with os.scandir(os.path.join(root, SHARD)) as entries:
            # Half of it only, and with attributes.
            for _, entry in zip(range(SESSIONS // 2), entries):
                caller.timed("stat of a listed", entry.stat)
        if SHARD not in caller.timed("listdir of the root", lambda: os.listdir(root)):
            caller.wrong("a shard is not listed")
        yield


def shares(caller):
    """Two or more save one session, each after a read."""
    path = caller.path(SHARED)
    number = 0
    while True:
        number += 1
        content = json.loads(caller.read(path))
        content["n"] = number
        caller.save(path, json.dumps(content).encode())
        yield


def dies(caller):
    """A client that is killed while it waits."""
    while True:
        child = os.fork()
        if child == 0:
            other = Caller(caller.choose.random())
            try:
                for _ in reads(other):
                    if other.counts["error: another content"]:
                        os._exit(errno.EBADMSG)
            except OSError as error:
                os._exit(error.errno)
            finally:
                os._exit(255)
        time.sleep(caller.choose.random() / 20)
        os.kill(child, signal.SIGKILL)
        began = time.monotonic()
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            code = os.waitstatus_to_exitcode(status)
            caller.wrong(f"of a client that is killed {errno.errorcode.get(code, code)}")
        caller.worst = max(caller.worst, (time.monotonic() - began, "end of a killed client"))
        caller.counts["operations"] += 1
        caller.progress[0] += 1
        yield


KINDS = [saves, reads, rotates, lists, shares, dies]


def run(kind, seed, progress, answer):
    caller = Caller(seed)
    caller.progress = progress
    steps = kind(caller)
    while end[0] == 0:
        try:
            next(steps)
        except OSError:
            # Counted. A kind begins anew.
            steps = kind(caller)
            time.sleep(PAUSE_AFTER_ERROR_S)
        except Exception:
            caller.wrong(traceback.format_exc())
            steps = kind(caller)
    try:
        caller.look_at_all()
    except OSError:
        caller.wrong("the end is not known")
    answer.write(json.dumps([caller.counts, caller.worst]))
    answer.close()


# Other sessions than those of a run before: one that was removed is not saved again.
chance = random.SystemRandom().random()
setup = Caller(f"{chance}")
SHARD = setup.sid()[:2]
shown = [setup.sid(SHARD) for _ in range(SESSIONS)]
SHARED = setup.sid()
for number, sid in enumerate(shown):
    setup.save(setup.path(sid), setup.content(number, 4))
setup.save(setup.path(SHARED), setup.content(0, 4))

def answer_of(one):
    """What a process has seen; None if it makes no system call for too long."""
    counted, deadline = None, 0
    while not select.select([one.answer], [], [], 0.2)[0]:
        if one.progress[0] != counted:
            counted, deadline = one.progress[0], time.monotonic() + HUNG_AFTER_S
        elif time.monotonic() > deadline:
            print(f"{KINDS[one.seed % len(KINDS)].__name__} hangs: {where(one.pid)}", file=sys.stderr)
            return None
    return json.loads(one.answer.read())


def where(pid):
    """What the kernel says a process waits for."""
    said = []
    for name in ("wchan", "syscall"):
        with open(f"/proc/{pid}/{name}") as file:
            said.append(file.read().strip())
    return " ".join(said)


Process = collections.namedtuple("Process", "seed pid progress answer")
processes = []
for seed in range(each * len(KINDS)):
    ours, theirs = os.pipe()
    progress = memoryview(mmap.mmap(-1, 8)).cast("Q")
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        run(KINDS[seed % len(KINDS)], f"{chance} {seed}", progress, os.fdopen(theirs, "w"))
        os._exit(0)
    os.close(theirs)
    processes.append(Process(seed, pid, progress, os.fdopen(ours)))
print("running", flush=True)
sys.stdin.read()
end[0] = 1
total, worst, hung = collections.Counter(), (0, ""), 0
for process in processes:
    seen = answer_of(process)
    if seen is None:
        hung += 1
        continue
    total.update(seen[0])
    worst = max(worst, tuple(seen[1]))
operations, lost = total.pop("operations", 0), total.pop("lost", 0)
errors = {what.removeprefix("error: "): number for what, number in total.items()}
if hung:
    errors["hung"] = hung
print(json.dumps({"operations": operations, "worst_ms": round(worst[0] * 1000), "worst": worst[1], "errors": errors, "lost": lost,
                  "hung": hung}), flush=True)

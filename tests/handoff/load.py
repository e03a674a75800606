"""Reads, saves, rotations and listings as Odoo makes them, by processes of their own, until standard input ends.

Arguments: the directory, and how many processes there are of each kind. Prints "running", and at the end JSON: how many
operations there were, the longest in milliseconds, and each kind of error with its count. A save that is not read back is
an error, as is a removed session that is.
"""

import collections
import errno
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Of the sessions that readers read and listings show.
SHARD = "zz"
SESSIONS = 8
# More than one request carries, and more than one page.
SIZES = [0, 100, 700, 5000, 40_000, 300_000]

root = sys.argv[1]
each = int(sys.argv[2])
end = mmap.mmap(-1, 1)


class Caller:
    def __init__(self, seed):
        self.choose = random.Random(seed)
        self.counts = collections.Counter()
        self.worst = (0, "")

    def sid(self, shard=None):
        sid = "".join(self.choose.choice(ALPHABET) for _ in range(84))
        return shard + sid[2:] if shard else sid

    def path(self, sid):
        return os.path.join(root, sid[:2], sid)

    def content(self, number, largest=len(SIZES)):
        size = self.choose.choice(SIZES[:largest])
        session = {"db": "shop", "login": "a", "uid": 2, "session_token": "5f" * 32, "n": number, "x": "y" * size}
        return json.dumps(session).encode()

    def timed(self, what, call):
        began = time.monotonic()
        try:
            return call()
        except OSError as error:
            self.wrong(f"{what} {errno.errorcode.get(error.errno, error.errno)}")
            raise
        finally:
            self.worst = max(self.worst, (time.monotonic() - began, what))
            self.counts["operations"] += 1

    def wrong(self, what):
        self.counts[f"error: {what}"] += 1

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

    def is_gone(self, path):
        began = time.monotonic()
        try:
            open(path, "rb").close()
        except FileNotFoundError:
            return True
        finally:
            self.worst = max(self.worst, (time.monotonic() - began, "open of none"))
        return False


def saves(caller):
    sid = caller.sid()
    number = 0
    while True:
        number += 1
        content = caller.content(number)
        caller.save(caller.path(sid), content)
        if caller.read(caller.path(sid)) != content:
            caller.wrong("lost save")
        yield


def reads(caller):
    while True:
        number = caller.choose.randrange(SESSIONS)
        content = json.loads(caller.read(caller.path(shown[number])))
        if content["n"] != number:
            caller.wrong("another content")
        caller.timed("stat", lambda: os.stat(caller.path(shown[number])))
        yield


def rotates(caller):
    old = caller.sid()
    caller.save(caller.path(old), caller.content(0, 4))
    number = 0
    while True:
        number += 1
        caller.read(caller.path(old))
        new, content = caller.sid(), caller.content(number, 4)
        caller.save(caller.path(new), content)
        caller.timed("unlink", lambda: os.unlink(caller.path(old)))
        if not caller.is_gone(caller.path(old)):
            caller.wrong("lost removal")
        if caller.read(caller.path(new)) != content:
            caller.wrong("lost rotation")
        old = new
        yield


def lists(caller):
    while True:
        names = caller.timed("listdir", lambda: os.listdir(os.path.join(root, SHARD)))
        if len(names) != SESSIONS:
            caller.wrong(f"{len(names)} names")
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
            for _ in reads(Caller(caller.choose.random())):
                pass
        time.sleep(caller.choose.random() / 20)
        os.kill(child, signal.SIGKILL)
        began = time.monotonic()
        os.waitpid(child, 0)
        caller.worst = max(caller.worst, (time.monotonic() - began, "end of a killed client"))
        caller.counts["operations"] += 1
        yield


KINDS = [saves, reads, rotates, lists, shares, dies]


def run(kind, seed, answer):
    caller = Caller(seed)
    steps = kind(caller)
    while end[0] == 0:
        try:
            next(steps)
        except OSError:
            # Counted. A kind begins anew.
            steps = kind(caller)
        except Exception:
            caller.wrong(traceback.format_exc())
            steps = kind(caller)
    answer.write(json.dumps([caller.counts, caller.worst]))
    answer.close()


setup = Caller(1)
shown = [setup.sid(SHARD) for _ in range(SESSIONS)]
SHARED = setup.sid("yy")
for number, sid in enumerate(shown):
    setup.save(setup.path(sid), setup.content(number, 4))
setup.save(setup.path(SHARED), setup.content(0, 4))

answers = []
for seed in range(each * len(KINDS)):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.close(ours)
        run(KINDS[seed % len(KINDS)], seed + 100, os.fdopen(theirs, "w"))
        os._exit(0)
    os.close(theirs)
    answers.append(os.fdopen(ours))
print("running", flush=True)
sys.stdin.read()
end[0] = 1
total, worst = collections.Counter(), (0, "")
for answer in answers:
    counts, one = json.loads(answer.read())
    total.update(counts)
    worst = max(worst, tuple(one))
print(json.dumps({"operations": total.pop("operations", 0), "worst_ms": round(worst[0] * 1000), "worst": worst[1], "errors": total}))

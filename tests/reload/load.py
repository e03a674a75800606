"""Reads and saves as Odoo makes them, of four threads, until standard input ends.

Prints JSON: how many operations there were, and each kind of error with its count.
"""

import collections
import errno
import json
import os
import random
import sys
import tempfile
import threading

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
THREADS = 4

root = sys.argv[1]
end = threading.Event()
counts = collections.Counter()
lock = threading.Lock()


def save(path, content):
    descriptor, temp = tempfile.mkstemp(suffix=".__wz_sess", dir=root)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.rename(temp, path)
    os.chmod(path, 0o644)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def serve(seed):
    choose = random.Random(seed)
    sid = "".join(choose.choice(ALPHABET) for _ in range(84))
    path = os.path.join(root, sid[:2], sid)
    number = 0
    while not end.is_set():
        number += 1
        session = {"db": "shop", "login": "a", "uid": 2, "session_token": "5f" * 32, "n": number}
        content = json.dumps(session).encode()
        seen = []
        try:
            save(path, content)
            seen.append("operations")
            if read(path) != content:
                seen.append("another content")
            seen.append("operations")
        except OSError as error:
            what = "read" if seen else "save"
            seen.append(f"{what} {errno.errorcode[error.errno]}")
        with lock:
            counts.update(seen)


threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(THREADS)]
for thread in threads:
    thread.start()
print("running", flush=True)
sys.stdin.read()
end.set()
for thread in threads:
    thread.join()
print(json.dumps(counts))

"""Reads and saves sessions as Odoo's FilesystemSessionStore does: mkstemp, write, rename, chmod.

odoo.py --dir SESSIONS login NAME...     a new session for each; its sid is kept in ~/sids.json
odoo.py --dir SESSIONS check [NAME...]   each must be there and be that person's; saves it once more
odoo.py --dir SESSIONS logout NAME...    takes it away
odoo.py --dir SESSIONS sid NAME          the cookie
odoo.py --dir SESSIONS serve             checks all for ever; every error is a line on standard output
odoo.py --data-dir DIR ...               the same for DIR/sessions
"""

import argparse
import json
import os
import pathlib
import secrets
import signal
import sys
import tempfile
import time

BOOK = pathlib.Path.home() / "sids.json"


class Store:
    def __init__(self, path):
        self.path = path

    def filename(self, sid):
        return os.path.join(self.path, sid[:2], sid)

    def save(self, sid, session):
        target = self.filename(sid)
        if not os.path.isdir(os.path.dirname(target)):
            os.mkdir(os.path.dirname(target), 0o755)
        fd, temporary = tempfile.mkstemp(suffix=".__wz_sess", dir=self.path)
        made_on = os.fstat(fd).st_dev
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(session, file)
        try:
            os.rename(temporary, target)
        except (FileNotFoundError, PermissionError):
            # Made in the moment before a mount came or went, so no rename can find it now; or the rename had found it, and
            # the directory was taken away before it was carried out. Odoo loses that one save (docs/install.md, "What it
            # does"); any other error of this kind is one.
            if os.stat(self.path).st_dev == made_on:
                raise
            return self.save(sid, session)
        os.chmod(target, 0o644)

    def get(self, sid):
        # The place of Odoo 15 is looked at first.
        os.path.isfile(os.path.join(self.path, f"werkzeug_{sid}.sess"))
        with open(self.filename(sid), encoding="utf-8") as file:
            return json.load(file)

    def delete(self, sid):
        os.unlink(self.filename(sid))


def check(store, name, sid):
    """One page of this person: read, and saved with one more click."""
    session = store.get(sid)
    if session["login"] != name:
        raise ValueError(f"{name} got the session of {session['login']}")
    session["clicks"] += 1
    store.save(sid, session)


def write(path, text):
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def serve(store):
    ends = []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    counted = BOOK.with_suffix(".pages")
    # Goes on after a restart: whoever waits for more may have read it before.
    pages = int(counted.read_text()) if counted.exists() else 0
    print("serving", flush=True)
    while not ends:
        book = json.loads(BOOK.read_text())
        for name, sid in book.items():
            try:
                check(store, name, sid)
                pages += 1
            except (OSError, ValueError) as error:
                # The name of the file is a secret.
                words = os.strerror(error.errno) if isinstance(error, OSError) else error
                print(f"error {name}: {type(error).__name__}: {words}", flush=True)
                time.sleep(0.1)
        write(counted, f"{pages}\n")
        time.sleep(0.01)


def main():
    parser = argparse.ArgumentParser()
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--dir", help="of the sessions")
    place.add_argument("--data-dir", help="the one above, as Odoo's own option")
    parser.add_argument("what", choices=["login", "check", "logout", "sid", "serve"])
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    store = Store(arguments.dir or os.path.join(arguments.data_dir, "sessions"))
    book = json.loads(BOOK.read_text()) if BOOK.exists() else {}
    names = arguments.names or list(book)
    if arguments.what == "serve":
        return serve(store)
    for uid, name in enumerate(names, 2):
        if arguments.what == "login":
            book[name] = secrets.token_urlsafe(63)
            session = {"uid": uid, "login": name, "db": "shop", "session_token": secrets.token_hex(32)}
            store.save(book[name], session | {"context": {"lang": "en_US", "tz": "UTC", "uid": uid}, "clicks": 0})
        elif arguments.what == "check":
            check(store, name, book[name])
        elif arguments.what == "sid":
            print(book[name])
        else:
            store.delete(book.pop(name))
    write(BOOK, json.dumps(book))


if __name__ == "__main__":
    sys.exit(main())

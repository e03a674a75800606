"""A session in Python: read and saved as Odoo does, and as a module for Odoo does that keeps sessions in Redis."""
import contextlib
import json
import os
import secrets
import tempfile

from terminal import fail

# A session of a benchmark lives no longer, also in Redis, should the cleaning fail.
LIFETIME_SECONDS = 3600


def new_sid():
    """84 characters, as Odoo 18 makes them."""
    return secrets.token_urlsafe(63)


def new_content(size):
    """The session of a logged-in user with some devices; json.dumps gives `size` bytes."""
    content = {
        "context": {"lang": "en_US", "tz": "Europe/Brussels", "uid": 2},
        "create_time": 1764000000.25, "db": "shop", "debug": "", "login": "admin", "uid": 2,
        "session_token": "0" * 64, "_trace": [], "benchmark_padding": "",
    }
    least = len(json.dumps(content))
    if size < least:
        fail(f"--size {size}: give {least} at least")
    for device in range(4):
        entry = {"platform": "linux", "browser": "chrome", "ip_address": f"203.0.113.{device + 10}",
                 "first_activity": 1764000000, "last_activity": 1764003600}
        content["_trace"].append(entry)
        if len(json.dumps(content)) > size:
            content["_trace"].pop()
            break
    content["benchmark_padding"] = "x" * (size - len(json.dumps(content)))
    return content


class OdooDirectory:
    """Odoo's FilesystemSessionStore of 18 and 19.0, as far as the filesystem sees it."""

    def __init__(self, name, path):
        self.name, self.path = name, path

    def filename(self, sid):
        return os.path.join(self.path, sid[:2], sid)

    def get(self, sid):
        old_path = os.path.join(self.path, f"werkzeug_{sid}.sess")
        session_path = self.filename(sid)
        if os.path.isfile(old_path) and not os.path.isfile(session_path):
            raise AssertionError("there is no flat name here")
        try:
            with open(session_path, encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None

    def save(self, sid, content):
        session_path = self.filename(sid)
        dirname = os.path.dirname(session_path)
        if not os.path.isdir(dirname):
            with contextlib.suppress(OSError):
                os.mkdir(dirname, 0o0755)
        fd, tmp = tempfile.mkstemp(suffix=".__wz_sess", dir=self.path)
        file = os.fdopen(fd, "w", encoding="utf-8")
        try:
            json.dump(dict(content), file)
        finally:
            file.close()
        # Odoo ignores an error of these two. A benchmark must not.
        os.rename(tmp, session_path)
        os.chmod(session_path, 0o644)

    def delete(self, sid):
        os.unlink(self.filename(sid))


class RedisStore:
    """Sessions as keys, by redis-py."""

    def __init__(self, name, client):
        self.name, self.client = name, client

    def get(self, sid):
        data = self.client.get(f"bench:{sid}")
        return None if data is None else json.loads(data)

    def save(self, sid, content):
        data = json.dumps(dict(content))
        key = f"bench:{sid}"
        if self.client.set(key, data):
            self.client.expire(key, LIFETIME_SECONDS)

    def delete(self, sid):
        self.client.delete(f"bench:{sid}")

"""Asks sessionfs for the sessions of a user, on its socket for Odoo (docs/odoo-socket.md)."""
import hashlib
import http.client
import json
import os
import re
import socket
import time
import urllib.parse

# sessionfs answers within 8 s, or says that it cannot.
TIMEOUT_S = 10
# The server takes 20 requests a second, and two at a time.
TRIES = 5
PAUSE_S = 1


class SessionfsError(Exception):
    """The socket is not there, or sessionfs has refused."""


def socket_path(session_dir):
    """Where sessionfs listens for the owner of this session directory, if its configuration names no other path."""
    path = os.path.realpath(session_dir)
    readable = re.sub(r"[^A-Za-z0-9_.-]", "", path.replace("/", "-"))[-40:].lstrip("-.")
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return f"/run/sessionfs/{readable}-{digest}.odoo.sock"


class Busy(SessionfsError):
    """Others are answered. Nothing was done, or not all."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout_s):
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path, method, own_sid=None, timeout_s=TIMEOUT_S, **words):
    """`GET` lists, `DELETE` ends the sessions that `words` name. The session `own_sid` is marked, or is not ended; its id
    goes into a header, because URLs are often logged."""
    connection = _Connection(path, timeout_s)
    try:
        headers = {"Session-Id": own_sid} if own_sid else {}
        connection.request(method, "/sessions?" + urllib.parse.urlencode(words), headers=headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SessionfsError(f"sessionfs on {path}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        kind = Busy if response.status in (429, 503) else SessionfsError
        raise kind(f"sessionfs on {path}: {answer.get('error')}")
    return answer


def ask_again(path, method, own_sid=None, **words):
    """The same for a person who waits: a few times, while others are answered."""
    for _ in range(TRIES - 1):
        try:
            return ask(path, method, own_sid, **words)
        except Busy:
            time.sleep(PAUSE_S)
    return ask(path, method, own_sid, **words)


def limit(text):
    """How many sessions a parameter of Odoo's allows: 1 to 1000 or none. `ValueError` if it says neither."""
    number = int(text or 0)
    if number < 0:
        raise ValueError(text)
    # More are not counted.
    return min(number, 1000) or None

"""Asks sessionfs for the sessions of a user, on its socket for Odoo (docs/odoo-socket.md)."""
import hashlib
import http.client
import json
import os
import re
import socket
import urllib.parse

# sessionfs answers within 8 s, or says that it cannot.
TIMEOUT_S = 10


class SessionfsError(Exception):
    """The socket is not there, or sessionfs has refused."""


def socket_path(session_dir):
    """Where sessionfs listens for the owner of this session directory, if its configuration names no other path."""
    path = os.path.realpath(session_dir)
    readable = re.sub(r"[^A-Za-z0-9_.-]", "", path.replace("/", "-"))[-40:].lstrip("-.")
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return f"/run/sessionfs/{readable}-{digest}.odoo.sock"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path, method, own_sid=None, **words):
    """`GET` lists, `DELETE` ends the sessions that `words` name. The session `own_sid` is marked, or is not ended; its id
    goes into a header, because URLs are often logged."""
    connection = _Connection(path)
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
        raise SessionfsError(f"sessionfs on {path}: {answer.get('error')}")
    return answer

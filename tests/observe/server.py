#!/usr/bin/env python3
"""Imitates how Odoo uses its session store, with a known number of system calls for each request.

  server.py {threaded | prefork} DIR

It listens on a free port, which it prints, and ends with its standard input. The first part of a path says how files are named
(`absolute`, `relative` to the working directory, `at` a descriptor), the second what is done, the third with which session.
"""

import contextlib
import http.server
import os
import socket
import socketserver
import sys
import threading

DIRECTORY = sys.argv[-1]
# What is beside the directory is none of its files.
BESIDE = DIRECTORY + "-beside"
LARGE = 32 << 20


class Naming:
    """How a file of the store is named: by a prefix of its path, or below a descriptor."""

    def __init__(self, prefix, descriptor=None):
        self.prefix = prefix
        self.one = {} if descriptor is None else {"dir_fd": descriptor}
        self.two = {} if descriptor is None else {"src_dir_fd": descriptor, "dst_dir_fd": descriptor}

    def path(self, name):
        return self.prefix + name


NAMINGS = {
    "absolute": Naming(DIRECTORY + "/"),
    "relative": Naming(os.path.basename(DIRECTORY) + "/"),
    "at": Naming("", os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)),
}


def sid(number):
    return "ab" + f"{number:x}".rjust(82, "z")


def load(names, number):
    with contextlib.suppress(FileNotFoundError):
        os.stat(names.path(f"werkzeug_{sid(number)}.sess"), **names.one)
    descriptor = os.open(names.path(f"ab/{sid(number)}"), os.O_RDONLY, **names.one)
    os.fstat(descriptor)
    while os.read(descriptor, LARGE):
        pass
    os.close(descriptor)


def save(names, number, content=b"x" * 700):
    os.stat(names.path("ab"), **names.one)
    # As many as can be saved at a time: each thread has a name of its own.
    temporary = names.path(f"tmp{threading.get_native_id() % 10**8:08}.__wz_sess")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, **names.one)
    os.write(descriptor, content)
    os.close(descriptor)
    os.rename(temporary, names.path(f"ab/{sid(number)}"), **names.two)
    os.chmod(names.path(f"ab/{sid(number)}"), 0o644, **names.one)


def large(names, number):
    save(names, number, b"x" * LARGE)


def absent(names, number):
    with contextlib.suppress(FileNotFoundError):
        os.open(names.path(f"ab/{sid(number + (1 << 40))}"), os.O_RDONLY, **names.one)


def logout(names, number):
    os.unlink(names.path(f"ab/{sid(number)}"), **names.one)


def elsewhere():
    """Calls that do not count."""
    descriptor = os.open(BESIDE + "/file", os.O_RDWR)
    os.fstat(descriptor)
    os.write(descriptor, b"x")
    os.read(descriptor, 10)
    os.close(descriptor)
    os.stat(BESIDE + "/file")
    os.rename(BESIDE + "/file", BESIDE + "/file")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self):
        elsewhere()
        _, naming, what, number = self.path.partition("?")[0].split("/")[:4]
        {"load": load, "save": save, "large": large, "absent": absent, "logout": logout}.get(what, lambda *_: None)(
            NAMINGS[naming], int(number) if number.isdigit() else 0)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Threaded(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve(kind):
    server = (Threaded if kind == "threaded" else http.server.HTTPServer)(("127.0.0.1", 0), Handler)
    workers = []
    if kind == "prefork":
        for _ in range(2):
            worker = os.fork()
            if worker == 0:
                server.serve_forever()
            workers.append(worker)
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    for worker in workers:
        os.kill(worker, 9)
    # Connections that are held are nobody's any more.
    server.socket.shutdown(socket.SHUT_RDWR)
    os._exit(0)


os.makedirs(BESIDE, exist_ok=True)
with open(BESIDE + "/file", "w", encoding="ascii") as beside:
    beside.write("x")
os.chdir(os.path.dirname(DIRECTORY))
serve("prefork" if "prefork" in sys.argv else "threaded")

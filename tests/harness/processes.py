"""Servers that a run starts, and bounded waits for what they say and do."""
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time


def poll(condition, what, timeout_s):
    """For what announces itself nowhere else. Short steps, a deadline, the reason in the error."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(0.02)


def await_port(port, timeout_s, host="127.0.0.1"):
    def listens():
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port), timeout_s):
            return True
        return False

    poll(listens, f"a server on port {port}", timeout_s)


def child_of(parent, command):
    """The youngest child of a sessionfs that runs this command of it (`worker`), or None: between two there is none."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            with open(f"/proc/{name}/stat") as file:
                # After the command, which may hold anything: the state, the parent, and later the start (proc(5)).
                fields = file.read().rsplit(")", 1)[1].split()
            with open(f"/proc/{name}/cmdline") as file:
                words = file.read().split("\0")
            if int(fields[1]) == parent and words[1] == command:
                found.append((int(fields[19]), int(name)))
    return max(found)[1] if found else None


class Process:
    """A child whose output goes to a file, and whose announcements can be awaited."""

    def __init__(self, name, argv, logs, stdin=subprocess.DEVNULL, **popen):
        self.name = name
        self.log = os.path.join(logs, name + ".log")
        self.lines = []
        self.news = threading.Condition()
        self.child = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      start_new_session=True, **popen)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with open(self.log, "ab") as out:
            for line in self.child.stdout:
                out.write(line)
                out.flush()
                with self.news:
                    self.lines.append(line.decode("utf-8", "replace"))
                    self.news.notify_all()
        with self.news:
            self.lines.append(None)
            self.news.notify_all()

    def await_line(self, pattern, timeout_s):
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self.news:
            while True:
                while seen < len(self.lines):
                    line = self.lines[seen]
                    seen += 1
                    if line is None:
                        raise RuntimeError(f"{self.name} ended before it said '{pattern}'; its log ends: {self.tail()}")
                    if re.search(pattern, line):
                        return line
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self.name} did not say '{pattern}' within {timeout_s} s; its log ends: {self.tail()}")
                self.news.wait(left)

    def tail(self, count=15):
        return "".join(line for line in self.lines[-count:] if line)

    def stop(self, sig=signal.SIGTERM, timeout_s=20):
        """Ends it and all it started. Returns its exit status, or None if it had to be killed."""
        status = None
        if self.child.poll() is None:
            self.child.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.child.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(10)
        self.reader.join(10)
        return status

"""A server of a run: Redis, the mount, and callers on it."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from namespaces import mounts_at
from processes import Process, child_of, poll
from redis_servers import PORT, Server

HERE = os.path.dirname(os.path.abspath(__file__))
# A user other than root that every Debian has.
NOBODY = 65534
START_S = 60
# Longer than load.py takes to find out who hangs.
LOAD_ENDS_S = 300
# Of a container: the volume is the directory that the mount lies in.
VOLUME = "/mnt"


class ServiceManager:
    """The part of systemd that a keeper speaks to: keeps descriptors for the next one (sd_notify(3), FDSTORE)."""

    def __init__(self, path):
        self.path = path
        self.kept = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.bind(path)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            said, descriptors, _flags, _from = socket.recv_fds(self.socket, 4096, 16)
            told = dict(line.split("=", 1) for line in said.decode().splitlines() if "=" in line)
            name = told.get("FDNAME")
            for descriptor in descriptors:
                # BARRIER=1 waits for the end of its descriptor.
                if told.get("FDSTORE") == "1" and name not in self.kept:
                    self.kept[name] = descriptor
                else:
                    os.close(descriptor)
            if told.get("FDSTOREREMOVE") == "1" and name in self.kept:
                os.close(self.kept.pop(name))

    def command(self, argv):
        """The start of a program that gets what is kept, from descriptor 3 on."""
        names = list(self.kept)
        given = "".join(f"exec {3 + number}<&{self.kept[name]}; " for number, name in enumerate(names))
        script = f'{given}export LISTEN_PID=$$ LISTEN_FDS={len(names)} LISTEN_FDNAMES={":".join(names)}; exec "$@"'
        return (["bash", "-c", script, "bash", *argv] if names else argv), tuple(self.kept.values())


class Node:
    """`place` has `run_dir`, `logs` and `binary`; `row` is what is tried."""

    host = "127.0.0.1"

    def __init__(self, place, row, way):
        self.directory = os.path.join(place.run_dir, f"{row.name}-{way}")
        self.logs = os.path.join(place.logs, f"{row.name}-{way}")
        self.started = []
        for path in (self.directory, self.logs):
            os.mkdir(path)
        os.chmod(self.directory, 0o755)
        self.sessions = os.path.join(self.directory, "data", "sessions")
        os.makedirs(self.sessions)
        self.program = os.path.join(self.directory, "sessionfs")
        self.binary = place.binary
        self.install()
        # Its own secret: each deployment is a new one.
        os.environ["SESSIONFS_SECRET_FILE"] = os.path.join(self.directory, "secret")
        os.environ["SESSIONFS_KERNEL_WITHOUT"] = "" if way == "RESEND" else "resend"
        self.manager = ServiceManager(os.path.join(self.directory, "notify")) if row.stored else None
        self.redis = self.keeper = None
        self.config = os.path.join(self.directory, "sessionfs.toml")
        with open(self.config, "w") as out:
            # Reads are checked against saves, so each of them asks Redis.
            out.write(f'owner = "{NOBODY}"\ngroup = "{NOBODY}"\n[redis]\nurl = "redis://{self.host}:{PORT}"\n{row.settings}\n'
                      '[near_cache]\nfreshness = "strict"\n')

    def begin(self):
        self.redis = Server(self, PORT)
        self.start()

    def install(self):
        """Another build under the name of the program: a file of its own."""
        shutil.copy(self.binary, self.program + ".new")
        os.rename(self.program + ".new", self.program)

    def start(self):
        argv, descriptors = [self.program, "mount", self.sessions, "--config", self.config], ()
        environment = {**os.environ, "RUST_BACKTRACE": "1"}
        if self.manager:
            environment["NOTIFY_SOCKET"] = self.manager.path
            argv, descriptors = self.manager.command(argv)
        self.keeper = Process("sessionfs", argv, self.logs, env=environment, pass_fds=descriptors)
        self.keeper.await_line("^ready ", START_S)

    def times_ready(self):
        return sum(1 for line in list(self.keeper.lines) if line and line.startswith("ready "))

    def await_ready(self, after):
        """Until it has said so more often than that."""
        poll(lambda: self.times_ready() > after, f"ready once more; its log ends: {self.keeper.tail()}", START_S)

    def signal_worker(self, number):
        """Whether there was one to get it."""
        pid = child_of(self.keeper.child.pid, "worker")
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)
                return True
        return False

    def command(self, name):
        done = subprocess.run([self.program, name, self.sessions, "--config", self.config], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
        if done.returncode:
            raise RuntimeError(f"sessionfs {name}: exit code {done.returncode}: {done.stdout}")

    def kill_keeper(self):
        self.keeper.child.send_signal(signal.SIGKILL)
        self.keeper.child.wait(30)
        self.keeper.reader.join(10)

    def end(self):
        """Unmounts; raises if it leaves something."""
        self.command("unmount")
        code = self.keeper.child.wait(30)
        if code or mounts_at(self.sessions):
            raise RuntimeError(f"the end of the keeper: exit code {code}, mounts {mounts_at(self.sessions)}")

    def stop(self):
        if self.keeper:
            self.keeper.stop(timeout_s=30)
        for process in self.started:
            process.stop(signal.SIGKILL, 10)
        shutil.rmtree(self.directory, ignore_errors=True)


class Load:
    """Processes of Odoo's kind, as a user that can see nothing below the mount; in a container, if there is a volume."""

    def __init__(self, node, propagation=None, each=1):
        with open(os.path.join(HERE, "load.py")) as file:
            script = file.read()
        sessions, argv = node.sessions, []
        if propagation:
            # As runc does it: a mount namespace, where the directory is bound with all that is mounted in it.
            bind = (f"mount --make-rprivate {VOLUME} 2>/dev/null || true; mount --rbind {os.path.dirname(sessions)} {VOLUME} && "
                    f"mount --make-{propagation} {VOLUME} && exec \"$@\"")
            argv = ["unshare", "--mount", "--propagation", "slave" if propagation == "rslave" else "private", "--pid", "--fork",
                    "--kill-child", "--mount-proc", "sh", "-ec", bind, "sh"]
            sessions = os.path.join(VOLUME, "sessions")
        argv += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/usr/bin/python3", "-c", script,
                 sessions, str(each)]
        self.process = Process("load", argv, node.logs, stdin=subprocess.PIPE, cwd="/")
        self.process.await_line("^running", START_S)

    def end(self):
        """What they have seen; see load.py."""
        self.process.child.stdin.close()
        line = self.process.await_line('^{"operations"', LOAD_ENDS_S)
        self.process.stop(signal.SIGKILL)
        return json.loads(line)


def kernel_resends():
    """FUSE_NOTIFY_RESEND came with Linux 6.9."""
    major, minor = re.match(r"(\d+)\.(\d+)", os.uname().release).groups()
    return (int(major), int(minor)) >= (6, 9)


def hold(seconds):
    """Not a wait for an event: it is how long something lasts."""
    time.sleep(seconds)

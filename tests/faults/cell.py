"""One row of the table: a deployment, two mounts on it, callers on both, a fault, and a judge."""
import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

from caller import Board
from namespaces import mounts_at
from network import NODES, REDIS
from processes import Process, poll
from servers import PASSWORD, USER, hold, hour_ahead_environment

OPERATIONS = ("read", "save", "rotate", "logout", "resave", "list")
# Odoo's user. It has no other files on this machine.
UID = 61_719
PYTHON = "/usr/bin/python3"
BEFORE_S, AFTER_S = 1.0, 1.5
START_S = 60
# From the end of the cause; what is not served by then is reported as never.
RECOVERY_BOUND_S = 15
# Until what waits on the servers has been replayed.
SETTLED_S = 10
STOP_S = 100

Result = collections.namedtuple("Result", "errors waits locked recovery_s lost revived logouts forgotten operations notes")


class Node:
    """One server with its own network."""

    def __init__(self, cell, name):
        self.cell = cell
        self.name = name
        self.directory = os.path.join(cell.directory, "node-" + name)
        self.sessions = os.path.join(self.directory, "sessions")
        os.makedirs(self.sessions)
        self.config = os.path.join(self.directory, "sessionfs.toml")
        self.process = None

    def mount(self, url, settings, hour_ahead=False):
        with open(self.config, "w") as out:
            out.write(f'owner = "{UID}"\ngroup = "{UID}"\n')
            out.write(f'[redis]\nurl = "{url}"\n')
            if self.cell.deployment.kind == "standalone":
                password = os.path.join(self.directory, "password")
                with open(password, "w") as file:
                    file.write(PASSWORD)
                out.write(f'username = "{USER}"\npassword_file = "{password}"\n')
            # What the table promises holds at once: with the default a known session is served meanwhile.
            out.write(f'{settings}\n[near_cache]\nfreshness = "strict"\n')
        environment = hour_ahead_environment() if hour_ahead else dict(os.environ)
        self.process = Process("sessionfs-" + self.name, [
            *self.cell.network.inside(self.name), self.cell.binary, "mount", self.sessions, "--config", self.config],
            self.cell.logs, env={**environment, "RUST_BACKTRACE": "1"})
        self.process.await_line("^ready ", START_S)

    def reload(self):
        """Begun, and not waited for."""
        return Process("reload-" + self.name, [self.cell.binary, "reload", self.sessions, "--config", self.config],
                       self.cell.logs).child

    def unmount(self):
        """Its exit status, and how often it is still mounted."""
        return self.process.stop(timeout_s=30), len(mounts_at(self.sessions))


class Caller:
    def __init__(self, cell, kind, here, there):
        self.kind, self.node = kind, here.name
        self.process = Process(f"{kind}-{here.name}", [
            PYTHON, "-B", cell.caller, kind, f"{here.name}:{here.sessions}", f"{there.name}:{there.sessions}", cell.board],
            cell.logs, user=UID, group=UID, extra_groups=[], cwd="/")

    def events(self):
        for line in list(self.process.lines):
            if line and line.startswith("{"):
                yield json.loads(line)

    def recovered_at(self, moment):
        """When the first operation without an error ended after that moment."""
        return next((event["at"] for event in self.events()
                     if event["what"] == "op" and event["result"] == "ok" and event["at"] >= moment), None)


class Cell:
    def __init__(self, fault, place):
        self.fault = fault
        self.network, self.binary, self.host = place.network, place.binary, REDIS
        self.directory = os.path.join(place.run_dir, fault.name)
        self.logs = os.path.join(place.logs, fault.name)
        self.started = []
        for path in (self.directory, self.logs):
            os.mkdir(path)
        # Its own secret: each deployment is a new one.
        os.environ["SESSIONFS_SECRET_FILE"] = os.path.join(self.directory, "secret")
        # The callers may not read where this repository lies.
        self.caller = shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "caller.py"), self.directory)
        self.board = os.path.join(self.directory, "board")
        with open(self.board, "wb") as board:
            board.write(bytes(Board.size()))
        os.chown(self.board, UID, UID)
        self.callers = []
        self.nodes = []
        self.deployment = None
        self.line = None

    def run(self):
        try:
            return self._run()
        finally:
            self._stop()

    def _run(self):
        fault = self.fault
        self.deployment = fault.deployment(self)
        urls = fault.urls(self)
        for name in NODES:
            self.nodes.append(Node(self, name))
        for node, url in zip(self.nodes, urls):
            node.mount(url, fault.settings, hour_ahead=node.name in fault.hour_ahead)
        self._start_callers()
        hold(BEFORE_S)
        windows = []
        for _ in range(fault.times):
            begun = time.monotonic()
            ended = fault.happen(self) or time.monotonic()
            windows.append((begun, ended))
            recovery_s = self._await_recovery(ended)
        hold(AFTER_S)
        for caller in self.callers:
            caller.process.child.send_signal(signal.SIGTERM)
        for caller in self.callers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                caller.process.child.wait(STOP_S)
            caller.process.reader.join(10)
        return self._judge(windows, recovery_s)

    def _start_callers(self):
        a, b = self.nodes
        both = ((a, b), (b, a))
        writers = [(kind, *nodes) for kind in ("save", "resave") for nodes in both]
        writers += [(kind, a, b) for kind in ("roam", *self.fault.more_callers)]
        # These look at what the writers have saved.
        others = [(kind, *nodes) for kind in OPERATIONS if kind not in ("save", "resave") for nodes in both]
        for group in (writers, others):
            begun = [Caller(self, *which) for which in group]
            self.callers += begun
            for caller in begun:
                caller.process.await_line('"warm"', START_S)

    def _await_recovery(self, ended):
        """How long it took until each kind of operation has succeeded on each node; None if one did not."""
        found = {}

        def all_have():
            for caller in self.callers:
                if caller not in found:
                    at = caller.recovered_at(ended)
                    if at:
                        found[caller] = at - ended
            return len(found) == len(self.callers)

        with contextlib.suppress(TimeoutError):
            poll(all_have, "recovery", RECOVERY_BOUND_S)
            return max(found.values())
        return None

    # --- the judge -----------------------------------------------------------------------------------------------

    def _judge(self, windows, recovery_s):
        events = sorted((event for caller in self.callers for event in caller.events()), key=lambda event: event["at"])
        operations = [event for event in events if event["what"] == "op"]
        errors = collections.defaultdict(collections.Counter)
        waits, locked = collections.Counter(), 0
        counted = collections.Counter()
        for event in operations:
            # The browser of both servers saves, too.
            kind = {"roam": "save", "large": "save"}.get(event["kind"], event["kind"])
            counted[kind] += 1
            if event["result"] != "ok":
                errors[kind][event["result"]] += 1
            waits[kind] = max(waits[kind], event["wait"])
            locked = max(locked, event["locked"])
        history = History(events, windows, self.fault)
        found = self._look(history)
        return Result(errors, waits, locked, recovery_s, *found, counted, history.notes)

    def _look(self, history):
        """Reads all sessions on both nodes, until they are as they must be, for as long as a replay may take."""
        wanted = history.wanted()
        lost = revived = gone = ()
        deadline = time.monotonic() + SETTLED_S
        while True:
            lost, revived, gone = self._compare(history, wanted)
            if not (lost or revived or gone) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        history.notes += [f"{what}: {item}" for what, found in (("lost", lost), ("revived", revived), ("gone", gone))
                          for item in found if not history.is_forgotten(item[0])]
        # What Redis has forgotten counts apart. It was judged of what a caller has seen when he saw it.
        forgotten = {sid for found in (lost, revived, gone) for sid, *_ in found if history.is_forgotten(sid)}
        found = [{sid for sid, *_ in found} - forgotten for found in (lost, revived, gone)]
        seen = (history.behind, history.revived, history.missing)
        return *(len(judged | noticed) for judged, noticed in zip(found, seen)), len(forgotten | history.forgotten)

    def _compare(self, history, wanted):
        sids = list(wanted)
        asked = json.dumps({"roots": [node.sessions for node in self.nodes], "sids": sids})
        done = subprocess.run([PYTHON, "-B", self.caller, "judge"], input=asked, check=True, capture_output=True, text=True,
                              user=UID, group=UID, extra_groups=[], cwd="/", timeout=120)
        lost, revived, gone = [], [], []
        for node, seen in zip(self.nodes, json.loads(done.stdout)):
            for sid, count in zip(sids, seen):
                least = wanted[sid]
                if least == 0 and count != "ENOENT":
                    revived.append((sid, node.name, count, *history.last[sid]))
                elif least and count == "ENOENT":
                    gone.append((sid, node.name, *history.last[sid]))
                elif least and (not isinstance(count, int) or count < least):
                    lost.append((sid, node.name, count, least, *history.last[sid]))
        return lost, revived, gone

    def _stop(self):
        for caller in self.callers:
            caller.process.stop(signal.SIGKILL, 5)
        for node in self.nodes:
            if node.process:
                node.unmount()
        for process in reversed(self.started):
            if process.child.poll() is None:
                # One that stands still hears nothing else.
                process.stop(signal.SIGKILL, 10)
        self.network.heal()
        shutil.rmtree(self.directory, ignore_errors=True)


class History:
    """What was acknowledged, and what callers have seen against it."""

    def __init__(self, events, windows, fault):
        self.windows, self.fault = windows, fault
        self.last = {}  # session: (what is known of it, since when, begun when)
        self.missing, self.revived, self.behind, self.forgotten = set(), set(), set(), set()
        self.notes = []
        for event in events:
            getattr(self, "_" + event["what"], lambda _event: None)(event)

    def _saved(self, event):
        # A full Redis has room for a login by the end of a visitor that nobody has seen again.
        if event["visitor"] and self.fault.ends_visitors:
            return
        self.last[event["sid"]] = (event["n"], event["at"], event["begun"])

    def _removed(self, event):
        self.last[event["sid"]] = (0, event["at"], event["begun"])

    def _unsure(self, event):
        # A save that failed leaves what was saved before, or is taken all the same. A removal that failed may be done.
        if event["removed"]:
            self.last.pop(event["sid"], None)

    def _missing(self, event):
        if self.last.get(event["sid"], (None,))[0]:
            self._note(event, self.missing)

    def _revived(self, event):
        self._note(event, self.revived)

    def _behind(self, event):
        # During an outage the other server's saves may be on their way.
        outside = not any(begun <= event["at"] <= ended + self.fault.settles_s for begun, ended in self.windows)
        if event["own"] or outside:
            self._note(event, self.behind)

    def _note(self, event, among):
        if self.is_forgotten(event["sid"]):
            self.forgotten.add(event["sid"])
            return
        began, ended = self.windows[-1]
        self.notes.append(f"{event['what']} {event['at'] - began:+.3f} s from the cause, {event['at'] - ended:+.3f} s from "
                          f"its end: {event}")
        among.add(event["sid"])

    def wanted(self):
        """Sessions, with the least counter that must be read: 0 for none."""
        return {sid: count for sid, (count, *_) in self.last.items()}

    def is_forgotten(self, sid):
        """Whether Redis promises nothing for what was acknowledged last of this session."""
        if sid not in self.last:
            return False
        _, at, begun = self.last[sid]
        if self.fault.forgets == "before":
            return begun < self.windows[-1][1]
        if self.fault.forgets == "during":
            return any(at >= first and begun <= last for first, last in self.windows)
        if self.fault.forgets == "following":
            return any(at >= first and begun <= last + self.fault.recovers_s for first, last in self.windows)
        return False



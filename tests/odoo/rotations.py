"""Odoo 19's rotation of sessions: every three hours a new cookie, two minutes later the old sessions are deleted.

With them Odoo removes the living session, too, and saves it again. Nobody may be told "session expired" between.
"""
import collections
import contextlib
import datetime
import os
import random
import threading
import time

from browser import Browser, SessionExpired, WebSocket, WebSocketClosed
from checks import FAMILY, Failed, Gate, check
from processes import poll

TABS = 3
PEOPLE = 5
TURN_S = 60
NOTICE_S = 15
# A removal that Odoo takes back is carried out after a second: what is asked later than this proves nothing.
GAP_S = 0.8
GAP_ATTEMPTS = 10
SESSION_EXPIRED = 4001


class Person:
    """Tabs that share a cookie, a websocket on each node, and a second device that sends messages to them."""

    def __init__(self, run, user):
        self.run = run
        self.user = user
        self.one, self.device = run.fresh(user, run.a), run.fresh(user, run.b)
        self.web_sockets = {}
        self.news = threading.Condition()
        self.under_way = collections.Counter()  # cookie: requests
        self.answered = 0
        self.rotating = None  # the cookie that a rotation under way replaces
        self.held = self.over = False

    # --- tabs ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def request(self):
        """Its cookie, and whether Odoo may not have saved that session yet.

        Odoo gives the new cookie to a parallel request a moment before it saves the new session. As long as the request
        that saves it is under way, so is the rotation; it may be over when the answer comes.
        """
        with self.news:
            self.news.wait_for(lambda: not self.held or self.over, TURN_S)
            sid = self.one.sid
            may_be_unsaved = self.rotating not in (None, sid)
            self.under_way[sid] += 1
        try:
            yield sid, may_be_unsaved
        finally:
            with self.news:
                self.under_way[sid] -= 1
                self.answered += 1
                self.news.notify_all()

    def tab(self, counts, seed):
        chance = random.Random(seed)
        while not self.over:
            with self.request() as (sid, may_be_unsaved):
                node = chance.choice(self.run.lab.nodes)
                tab = Browser(sid)
                try:
                    check(tab.whoami(node) == self.user.id, f"{self.user.login} is somebody else on {node.name}")
                    counts.add("requests")
                except SessionExpired as error:
                    if may_be_unsaved:
                        counts.add("before the new session was saved")
                    else:
                        counts.expired(f"{self.user.login}: {error}")
                if tab.sid != sid:
                    self.one.take(tab.sid)

    def hold_tabs(self):
        with self.news:
            self.held = True
            self.await_news(lambda: not any(self.under_way.values()), "the tabs' requests did not end")

    def release_tabs(self):
        with self.news:
            self.held = False
            self.news.notify_all()

    def await_news(self, condition, what):
        check(self.news.wait_for(lambda: condition() or self.over, TURN_S), f"{self.user.login}: {what}")

    def end(self):
        with self.news:
            self.over = True
            self.news.notify_all()
        for web_socket in self.web_sockets.values():
            web_socket.close()

    # --- websockets ----------------------------------------------------------------------------------------------

    def connect(self, node):
        web_socket = WebSocket(self.one, node, self.run.web_socket_version())
        web_socket.send("subscribe", {"channels": [], "last": 0})
        self.web_sockets[node] = web_socket

    def hear(self, text, counts, strict):
        """A message for all websockets. What Odoo closed is opened again, as its web client does.

        After a natural rotation Odoo itself may close one: parallel requests each made a new session, and one of
        the two is deleted as old. Where that cannot be, `strict` counts it as an expired session.
        """
        self.device.get(self.run.a, f"/sessionfs_test/notify?text={text}")
        for node in self.run.lab.nodes:
            try:
                self.run.await_notice(self.web_sockets[node], text, NOTICE_S)
                counts.add("messages")
            except (WebSocketClosed, OSError) as error:
                if getattr(error, "code", None) == SESSION_EXPIRED and strict:
                    counts.expired(f"{self.user.login}: a websocket on {node.name} was closed as expired")
                counts.add(f"closed {getattr(error, 'code', type(error).__name__)}")
                self.web_sockets[node].close()
                self.connect(node)
                self.run.notify_until_heard(self.web_sockets[node], self.device, self.run.a, text + "-again")

    # --- rotations -----------------------------------------------------------------------------------------------

    def rotate(self, number, counts):
        """One rotation and, as if two minutes later, the deletion of the old session."""
        quiet = number % 2 == 1
        before = self.one.sid
        if quiet:
            self.hold_tabs()
        else:
            self.rotating = before
        self.age(10801)
        if quiet:
            check(self.one.whoami(self.run.a) == self.user.id, "somebody else")
            self.release_tabs()
        with self.news:
            self.await_news(lambda: self.one.sid != before, "not rotated")
            # Nobody is still under way with an older cookie: two minutes are longer than any request.
            self.await_news(lambda: not any(n for sid, n in self.under_way.items() if sid != self.one.sid),
                            "requests with the old cookie did not end")
            self.under_way = +self.under_way
            self.rotating = None
        self.hear(f"rotated{number}", counts, strict=False)
        if quiet:
            self.hold_tabs()
        self.age(121)
        answered = self.answered
        if quiet:
            # The evented processes of both nodes delete the old session, and all tabs ask at that moment.
            self.release_tabs()
            self.hear(f"deleted{number}", counts, strict=True)
        with self.news:
            # As many as can have been under way, and as many again.
            self.await_news(lambda: self.answered >= answered + 2 * TABS, "the tabs stand still")
        # A deletion that was still under way at the next rotation would delete its new session: in three hours none is.
        self.hold_tabs()
        check(self.one.whoami(self.run.b) == self.user.id, "somebody else")
        self.release_tabs()
        counts.add("rotations")

    def age(self, seconds):
        check(self.one.get(self.run.a, f"/sessionfs_test/age?seconds={seconds}").text == "older", "not made older")


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.of = collections.Counter()
        self.told = []

    def add(self, what):
        with self.lock:
            self.of[what] += 1

    def expired(self, what):
        with self.lock:
            self.of["expired"] += 1
            # As the logs of Odoo write the time.
            self.told.append(f"{datetime.datetime.now():%H:%M:%S.%f} {what}")


class Rotations:
    def rotations_under_load(self):
        """Until both numbers are reached. Told "session expired": nobody, ever."""
        counts, started = Counts(), time.monotonic()
        people = [Person(self, user) for user in self.users[:PEOPLE]]
        for person in people:
            for node in self.lab.nodes:
                person.connect(node)
                self.notify_until_heard(person.web_sockets[node], person.device, node, "hello")
        numbers = iter(range(10**6))

        def enough():
            return counts.of["rotations"] >= self.rotations and counts.of["requests"] >= self.rotation_requests

        def rotate(person):
            while not enough():
                person.rotate(next(numbers), counts)

        tabs = [self.threads.submit(person.tab, counts, number * 10 + tab)
                for number, person in enumerate(people) for tab in range(TABS)]
        try:
            for item in [self.threads.submit(rotate, person) for person in people]:
                item.result()
        finally:
            for person in people:
                person.end()
            for tab in tabs:
                tab.result(TURN_S)
        for person in people:
            for node in self.lab.nodes:
                self.must_be(person.one, node, person.user, "after all rotations")
        numbers = ", ".join(f"{number} {what}" for what, number in sorted(counts.of.items()))
        note = f"{numbers} in {time.monotonic() - started:.0f} s"
        if not self.on_disk:
            check(counts.of["expired"] == 0, f"{note}; {counts.told[:5]}")
        return note

    def family(self, one):
        """How many sessions of this login are listed."""
        folder = os.path.dirname(self.lab.session_file(self.b, one.sid))
        return sum(name.startswith(one.sid[:FAMILY]) for name in os.listdir(folder))

    def bus_message_first_after_rotation(self):
        """Two minutes after a rotation the evented process is the first to look at the session."""
        user = self.users[1]
        for node in self.lab.nodes:
            self.bus_message_first(user, node)

    def bus_message_first(self, user, node):
        one, device = self.fresh(user, self.a), self.fresh(user, self.b)
        with WebSocket(one, node, self.web_socket_version()) as web_socket:
            web_socket.send("subscribe", {"channels": [], "last": 0})
            self.notify_until_heard(web_socket, device, self.a, f"{node.name}-before")
            old = one.clone()
            one.get(self.a, "/sessionfs_test/age?seconds=10801")
            self.must_be(one, self.b, user, "the call that rotates")
            check(one.sid != old.sid, "a session of three hours was not rotated")
            self.notify_until_heard(web_socket, device, self.a, f"{node.name}-rotated")
            check(self.family(one) == 2, "the old session was deleted before two minutes were over")
            one.get(self.a, "/sessionfs_test/age?seconds=121")
            # A closed websocket raises.
            self.notify_until_heard(web_socket, device, self.a, f"{node.name}-first")
            poll(lambda: self.family(one) == 1, "the deletion of the old session by the evented process", 10)
            for there in self.lab.nodes * 2:
                self.must_be(one, there, user, "after the evented process deleted the old session")
            # It may have opened both in the last minute, as one request. Then both removals are held, and the one that
            # no save takes back ends its session after a second. Listings leave it out at once.
            poll(lambda: all(old.is_dead(there) for there in self.lab.nodes), "the end of the old session", 10)
            self.must_be_dead(old, "two minutes after the rotation")
            for there in self.lab.nodes:
                self.must_be(one, there, user, "after the end of the old session")
            self.notify_until_heard(web_socket, device, self.b, f"{node.name}-after")
        self.must_be(one, self.a, user, "after the websocket")
        one.log_out(self.b)
        device.log_out(self.a)

    def asked_in_the_gap(self):
        """The gap made wide: held between the removal of the living session and its save, in either process."""
        user = self.users[2]
        told = {}
        for node in self.lab.nodes:
            for process, port in (("worker", node.http_port), ("evented process", node.gevent_port)):
                told[f"{process} of {node.name}"] = self.ask_in_the_gap(user, node, port)
        expired = [where for where, alive in told.items() if not alive]
        if not self.on_disk:
            check(not expired, f"told 'session expired' while the {', the '.join(expired)} deleted old sessions")
        return f"{len(expired)} of {len(told)} told 'session expired'"

    def ask_in_the_gap(self, user, node, port):
        for _ in range(GAP_ATTEMPTS):
            one = self.fresh(user, node)
            with Gate(self.lab) as gate:
                started = time.monotonic()
                page = self.threads.submit(one.clone().request, node, f"/sessionfs_test/delete_old?hold={gate.name}", port=port)
                gate.await_page()
                there = self.b if node is self.a else self.a
                alive = not one.is_dead(there)
                took = time.monotonic() - started
                gate.open()
                check(page.result(60).text == "deleted", "the page that deletes old sessions failed")
            if alive or took < GAP_S:
                for asked in self.lab.nodes:
                    self.must_be(one, asked, user, "after the deletion of old sessions")
                one.log_out(node)
                return alive
        raise Failed(f"this machine is too slow: no request was answered within {GAP_S} s")

    def ends_when_no_save_follows(self):
        """A worker that dies between the two leaves a session that ends by itself."""
        one = self.fresh(self.users[2], self.a)
        with Gate(self.lab) as gate:
            page = self.threads.submit(one.clone().get, self.a, f"/sessionfs_test/delete_old?hold={gate.name}")
            gate.await_page()
            deadline = time.monotonic() + 10
            while not all(one.is_dead(node) for node in self.lab.nodes):
                check(time.monotonic() < deadline, "a removed session that nobody saved lives on")
            gate.open()
            page.result(60)

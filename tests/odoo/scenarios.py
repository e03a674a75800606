"""What a user of a shop would see, as named checks. Each is one method; the order is in `Run.all`."""
import concurrent.futures
import contextlib
import functools
import http.client
import os
import random
import re
import ssl
import threading
import time
import traceback

import browser
from audits import Audits
from browser import Browser, SessionExpired, WebSocket, WebSocketClosed
from checks import FAMILY, Failed, Gate, check
from lab import User
from late_saves import LateSaves
from nginx import Front
from outages import Outages
from parameters import Parameters
from polling import Polling
from processes import poll
from redis_wire import Monitor
from rotations import Rotations
from successions import Successions
from suites import OwnSuites
from threaded import Threaded

IDLE_LONG = "15min"
IDLE_SHORT_S = 20
HELD_TRIALS = 10
NATURAL_TRIALS = 40
WEEK_S = 7 * 24 * 3600


class Run(Audits, Rotations, LateSaves, Threaded, Polling, OwnSuites, Outages, Parameters,
          Successions):
    idle_s = IDLE_SHORT_S

    def __init__(self, lab, load_seconds, rotations, only=(), failures=None):
        """`rotations` is how many rotations, during how many requests; `only` names the checks to ask, all of them
        where it is empty. `failures`: Redis fails ("outages"), or what serves is replaced ("succession"), and nothing
        else is asked."""
        self.lab = lab
        self.only = only
        self.failures = failures
        self.a, self.b = lab.a, lab.b
        self.load_seconds = load_seconds
        self.rotations, self.rotation_requests = rotations
        self.on_disk = lab.binary is None
        self.new = lab.version >= 16
        self.passed = self.failed = 0
        self.asked = set()
        self.tokens = set()
        self.transcript = os.path.join(lab.logs, "redis-monitor.log")
        self.monitor = None
        self.admin_user = User("admin", "admin")
        self.threads = concurrent.futures.ThreadPoolExecutor(max_workers=40)

    # --- order and counting --------------------------------------------------------------------------------------

    def all(self):
        started = time.monotonic()
        self.prepare()
        self.say(f"two Odoo {self.lab.version} are up ({time.monotonic() - started:.0f} s), "
                 f"sessions on {'a disk' if self.on_disk else 'sessionfs'}")
        if self.failures == "outages":
            self.ask_outages()
        elif self.failures == "succession":
            self.ask_succession()
        else:
            self.ask_all()
        for name in set(self.only) - self.asked:
            self.failed += 1
            self.say(f"FAILED {name}: there is no such check here")
        self.say(f"in all {time.monotonic() - started:.0f} s")

    def ask_outages(self):
        self.ask(self.redis_frozen)
        self.ask(self.redis_killed_and_restarted)
        self.ask(self.redis_full)
        self.ask(self.recovery_within_a_request)
        self.ask(self.redis_failed_over)
        self.lab.unmount_sessions()
        self.ask(self.sessionfs_ended_cleanly)

    def ask_succession(self):
        self.ask(self.workers_killed)
        self.ask(self.workers_stopped)
        self.ask(self.sessionfs_reloaded)
        self.ask(self.sessionfs_upgraded)
        self.ask(self.workers_and_redis_killed)
        self.lab.unmount_sessions()
        self.ask(self.sessionfs_ended_cleanly)

    def ask_all(self):
        self.ask(self.login)
        self.ask(self.fifty_calls)
        self.ask(self.second_node_at_once)
        self.ask(self.anonymous_cart)
        if self.new:
            self.ask(self.soft_rotation)
            self.ask(self.soft_rotation_with_tabs)
            self.ask(self.asked_in_the_gap)
            self.ask(self.ends_when_no_save_follows)
        self.ask(self.logout)
        self.ask(self.logout_with_held_page)
        self.ask(self.logout_with_page_under_way)
        if self.new:
            self.ask(self.device_revocation)
            self.ask(self.device_revocation_with_held_page)
        self.ask(self.password_change)
        self.ask(self.websocket if self.new else self.longpolling)
        if self.new:
            self.ask(self.bus_message_first_after_rotation)
            self.ask(self.handshakes_after_logout)
            self.ask(self.handshakes_at_the_logout)
            self.ask(self.odoo_without_workers)
        self.ask(self.nginx_as_documented)
        if not self.on_disk:
            self.ask(self.audit_passes)
            self.ask(self.audit_finds_each_fault)
            self.ask(self.audit_finds_sessions_on_a_disk)
        self.ask(self.vacuum if self.new else self.garbage_collection)
        self.stop_monitor()
        self.ask(self.parallel_load)
        if self.new:
            self.ask(self.rotations_under_load)
            self.ask(self.own_suites)
        self.ask(self.names_in_the_directory)
        if not self.on_disk:
            self.ask(self.restart_keeps_everyone)
            self.ask(self.idle_expiry)
            self.ask(self.odoo_parameters)
            if self.new:
                self.ask(self.polled_tabs_expire)
                self.ask(self.polled_tabs_live_where_requests_are_not_seen)
            # It ends whoever was not active for some seconds.
            self.ask(self.audit_waits_for_the_idle_time)
            self.ask(self.redis_holds_no_secret)
            self.ask(self.redis_is_told_no_secret)
            self.lab.unmount_sessions()
            self.ask(self.sessionfs_ended_cleanly)
            self.ask(self.logs_hold_no_secret)

    def say(self, text):
        print(text, flush=True)

    def ask(self, scenario):
        name = scenario.__name__
        self.asked.add(name)
        if self.only and name not in self.only:
            return
        try:
            note = scenario()
        except Exception as error:  # one check that breaks says so, and the others are still asked
            self.failed += 1
            self.say(f"FAILED {name}: {type(error).__name__}: {error}")
            with open(os.path.join(self.lab.logs, "failures.log"), "a") as out:
                out.write(f"--- {name}\n{traceback.format_exc()}\n")
        else:
            self.passed += 1
            self.say(f"ok {name}" + (f": {note}" if note else ""))

    # --- tools ---------------------------------------------------------------------------------------------------

    def prepare(self):
        lab = self.lab
        lab.make_root()
        lab.start_postgres()
        if not self.on_disk:
            lab.start_redis()
            if not self.failures:
                self.monitor = Monitor(lab.redis_socket, self.transcript)
            lab.mount_sessions(IDLE_LONG)
        lab.start_odoo(*lab.nodes)
        self.admin = Browser().log_in(self.a, self.admin_user)
        self.users = []
        for number in range(8):
            user = User(f"user{number}", f"secret-of-user{number}")
            user.id = self.admin.call(self.a, "res.users", "create", {
                "name": user.login, "login": user.login, "password": user.password})
            self.users.append(user)

    def fresh(self, user, node=None):
        """A browser of `user`, logged in; its session token is remembered to be looked for at the end."""
        one = Browser().log_in(node or self.a, user)
        self.remember_token(one.sid)
        return one

    def remember_token(self, sid):
        # root may read sessions; the token's 64 hexadecimal digits stand alike in 14's pickle and in 19's JSON.
        with open(self.lab.session_file(self.a, sid), "rb") as file:
            content = file.read()
        at = content.find(b"session_token")
        token = re.search(rb"[0-9a-f]{64}", content[at:])
        check(at >= 0 and token, "a fresh login has no session token")
        self.tokens.add(token.group(0))

    def must_be(self, one, node, user, when):
        try:
            uid = one.whoami(node)
        except SessionExpired as error:
            raise Failed(f"{when}: logged out on {node.name} ({error})") from error
        check(uid == user.id, f"{when}: on {node.name} uid {uid} instead of {user.id}")

    def must_be_dead(self, one, when):
        for node in self.lab.nodes:
            check(one.is_dead(node), f"{when}: the old cookie still works on {node.name}")
            page = one.clone().get(node, "/web")
            check(page.leads_to_login(), f"{when}: /web on {node.name} answers {page.status} {page.location}")

    # --- the plain life of a session -----------------------------------------------------------------------------

    def login(self):
        user = self.users[0]
        one = Browser()
        one.get(self.a, "/web/login")
        before = one.clone()
        one.log_in(self.a, user)
        check(one.sid != before.sid, "the login did not change the cookie")
        self.must_be(one, self.a, user, "after login")
        check(one.get(self.a, "/web").status == 200, "no backend page after login")
        if before.sid:
            self.must_be_dead(before, "the cookie of before the login")

    def fifty_calls(self):
        user = self.users[0]
        one = self.fresh(user)
        sid = one.sid
        for _ in range(50):
            self.must_be(one, self.a, user, "in 50 calls")
        check(one.sid == sid, "the cookie changed without a reason")

    def second_node_at_once(self):
        for number in range(10):
            # Alternately: made on one, asked first of all on the other.
            here, there = (self.a, self.b) if number % 2 == 0 else (self.b, self.a)
            user = self.users[number % len(self.users)]
            one = self.fresh(user, here)
            self.must_be(one, there, user, "first call on the other node")
            check(one.get(there, "/web").status == 200, "no backend page on the other node")
            self.must_be(one, here, user, "back on the first node")

    def product(self):
        found = self.admin.call(self.a, "product.product", "search_read", [
            ["sale_ok", "=", True], ["website_published", "=", True], ["product_tmpl_id.attribute_line_ids", "=", False],
            ["type", "!=", "service"]], ["name", "product_tmpl_id"], limit=2, order="id")
        check(len(found) == 2, f"the shop has no two plain products: {found}")
        return found

    def add_to_cart(self, one, node, product):
        if self.new:
            one.json(node, "/shop/cart/add", {"product_template_id": product["product_tmpl_id"][0],
                                              "product_id": product["id"], "quantity": 1})
        else:
            one.json(node, "/shop/cart/update_json", {"product_id": product["id"], "add_qty": 1})

    def cart_holds(self, one, node, products, when):
        page = one.get(node, "/shop/cart")
        check(page.status == 200, f"{when}: /shop/cart on {node.name} answers {page.status}")
        for product in products:
            check(product["name"] in page.text, f"{when}: '{product['name']}' is not in the cart on {node.name}")

    def anonymous_cart(self):
        first, second = self.product()
        visitor = Browser()
        check(visitor.get(self.a, "/shop").status == 200, "no shop page")
        self.add_to_cart(visitor, self.a, first)
        self.cart_holds(visitor, self.b, [first], "after the first product")
        self.add_to_cart(visitor, self.b, second)
        self.cart_holds(visitor, self.a, [first, second], "after the second product")
        stranger = Browser()
        check(first["name"] not in stranger.get(self.b, "/shop/cart").text, "a stranger sees the cart of another")
        self.visitor, self.cart = visitor, [first, second]

    # --- Odoo 19 changes the cookie every three hours ------------------------------------------------------------

    def soft_rotation(self):
        user = self.users[1]
        one = self.fresh(user)
        old = one.clone()
        check(one.get(self.a, "/sessionfs_test/age?seconds=10801").text == "older", "the session could not be aged")
        check(one.sid == old.sid, "aging alone has rotated the session")
        self.must_be(one, self.a, user, "the call that rotates")
        check(one.sid != old.sid, "a session of three hours was not rotated")
        check(one.sid[:FAMILY] == old.sid[:FAMILY], "the rotated sid is of another family")
        self.remember_token(one.sid)
        for node in self.lab.nodes:
            late = old.clone()
            self.must_be(late, node, user, "an old tab within the two minutes")
            check(late.sid == one.sid, "the old tab was not given the new cookie")
            self.must_be(one, node, user, "the new cookie")
        # Two minutes later Odoo unlinks the whole family, its own session included, and saves its own again.
        check(one.get(self.a, "/sessionfs_test/age?seconds=121").text == "older", "the new session could not be aged")
        self.must_be(one, self.a, user, "the call that deletes the old sessions")
        for node in (self.b, self.a) * 5:
            self.must_be(one, node, user, "after Odoo's own unlink and save")
        self.must_be_dead(old, "two minutes after the rotation")
        self.must_be(one, self.b, user, "after the old cookie was tried")
        family = [n for n in os.listdir(f"{self.lab.session_file(self.b, one.sid).rsplit('/', 1)[0]}")
                  if n.startswith(one.sid[:FAMILY])]
        check(len(family) == 1, f"{len(family)} sessions of the family are left instead of 1")
        one.log_out(self.b)

    def soft_rotation_with_tabs(self):
        user = self.users[2]
        one = self.fresh(user)
        one.get(self.a, "/sessionfs_test/age?seconds=10801")
        work = [self.threads.submit(self.must_be, one, self.lab.nodes[n % 2], user, "a tab at the rotation")
                for n in range(12)]
        for item in work:
            item.result(60)
        for node in self.lab.nodes:
            self.must_be(one, node, user, "after the rotation")

    # --- ways out ------------------------------------------------------------------------------------------------

    def logout(self):
        user = self.users[3]
        for here, there in ((self.a, self.b), (self.b, self.a)):
            one = self.fresh(user, here)
            self.must_be(one, there, user, "before logout")
            old = one.clone()
            reply = one.log_out(there)
            check(reply.status in (302, 303), f"logout answers {reply.status}")
            self.must_be_dead(old, f"logged out on {there.name}")
            check(one.sid != old.sid, "logout left the cookie as it was")

    def hold_a_page(self, one, node, meanwhile):
        """`meanwhile` runs after a page has loaded its session and before it saves it; the page's answer."""
        with Gate(self.lab) as gate:
            page = self.threads.submit(one.clone().get, node, f"/sessionfs_test/slow?hold={gate.name}")
            gate.await_page()
            meanwhile()
            gate.open()
            return page.result(60)

    def revived(self, count, of, what):
        """On a disk Odoo lets the session live again; there it is only reported."""
        if not self.on_disk:
            check(count == 0, f"{count} of {of} cookies were revived by {what}")
        return f"{count} of {of} revived"

    def logout_with_held_page(self):
        user = self.users[3]
        count = 0
        for number in range(HELD_TRIALS):
            page_at, logout_at = self.lab.nodes[number % 2], self.lab.nodes[number // 2 % 2]
            one = self.fresh(user, page_at)
            old = one.clone()
            page = self.hold_a_page(one, page_at, functools.partial(one.log_out, logout_at))
            check(page.status == 200, f"the page under way answers {page.status}")
            count += not all(old.is_dead(node) for node in self.lab.nodes)
        return self.revived(count, HELD_TRIALS, "a page that was under way")

    def logout_with_page_under_way(self):
        """Nothing held: a page and a logout sent at about the same time, as two tabs do it."""
        user = self.users[3]
        chance = random.Random(20)

        def trial(number):
            page_at, logout_at = self.lab.nodes[number % 2], self.lab.nodes[number // 2 % 2]
            one = self.fresh(user, page_at)
            old, tab = one.clone(), one.clone()
            pause = chance.uniform(0, 0.06)
            page = self.threads.submit(tab.get, page_at, "/web")
            # The moment of the logout within the page is what is tried here.
            time.sleep(pause)
            one.log_out(logout_at)
            page.result(60)
            return not all(old.is_dead(node) for node in self.lab.nodes)

        count = sum(trial(number) for number in range(NATURAL_TRIALS))
        return self.revived(count, NATURAL_TRIALS, "a page sent together with the logout")

    def revoke(self, one, user, victim_sid):
        """'Log out this device' as in the preferences, with the question for the password."""
        devices = one.call(self.a, "res.device", "search_read",
                           [["user_id", "=", user.id], ["session_identifier", "=", victim_sid[:FAMILY]]], ["id"])
        check(len(devices) == 1, f"{len(devices)} devices for one session")
        action = one.call(self.a, "res.device", "revoke", [devices[0]["id"]])
        if isinstance(action, dict) and action.get("res_model") == "res.users.identitycheck":
            one.call(self.a, "res.users.identitycheck", "run_check", [action["res_id"]], context={"password": user.password})

    def device_revocation(self):
        user = self.users[4]
        one, other = self.fresh(user, self.a), self.fresh(user, self.b)
        for browser_, node in ((one, self.a), (other, self.b), (other, self.a)):
            self.must_be(browser_, node, user, "before the revocation")
        self.revoke(one, user, other.sid)
        self.must_be_dead(other, "its device was revoked")
        for node in self.lab.nodes:
            self.must_be(one, node, user, "the revoking device")

    def device_revocation_with_held_page(self):
        user = self.users[4]
        one = self.fresh(user, self.a)
        trials = 4
        count = 0
        for number in range(trials):
            page_at = self.lab.nodes[number % 2]
            other = self.fresh(user, page_at)
            self.must_be(other, page_at, user, "before the revocation")
            self.hold_a_page(other, page_at, functools.partial(self.revoke, one, user, other.sid))
            count += not all(other.is_dead(node) for node in self.lab.nodes)
        return self.revived(count, trials, "a page under way at the revocation")

    def password_change(self):
        user = self.users[5]
        one, other = self.fresh(user, self.a), self.fresh(user, self.b)
        for node in self.lab.nodes:
            self.must_be(other, node, user, "before the change")
        check(one.call(self.a, "res.users", "change_password", user.password, "another-secret") is True, "no change")
        self.must_be_dead(other, "the password was changed elsewhere")
        user.password = "another-secret"
        self.must_be(self.fresh(user, self.b), self.a, user, "logged in with the new password")

    # --- the evented process -------------------------------------------------------------------------------------

    def web_socket_version(self):
        with open(self.lab.root + "/usr/lib/python3/dist-packages/odoo/addons/bus/websocket.py") as source:
            return re.search(r'_VERSION = "([^"]+)"', source.read()).group(1)

    def notify_until_heard(self, web_socket, one, other, text):
        """Odoo misses what is sent before its listener of the bus is up (it starts with the first subscription), so
        it is said again until it is heard."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            check(one.get(other, f"/sessionfs_test/notify?text={text}").text == "sent", "no notification sent")
            with contextlib.suppress(TimeoutError):
                return self.await_notice(web_socket, text, 3)
        raise Failed(f"the notification '{text}' did not arrive")

    def await_notice(self, web_socket, text, timeout_s):
        deadline = time.monotonic() + timeout_s
        while True:
            for notice in web_socket.receive(deadline - time.monotonic()):
                message = notice["message"]
                if message["type"] == "sessionfs_test" and message["payload"]["text"] == text:
                    return

    def websocket(self):
        user = self.users[6]
        one = self.fresh(user, self.a)
        for node, other in ((self.b, self.a), (self.a, self.b)):
            with WebSocket(one, node, self.web_socket_version()) as web_socket:
                self.must_be(one, other, user, "after the handshake, which saves the session")
                web_socket.send("subscribe", {"channels": [], "last": 0})
                for number in range(3):
                    self.notify_until_heard(web_socket, one, other, f"{node.name}{number}")
        visitor, first = Browser(), self.cart[0]
        visitor.get(self.a, "/shop")
        self.add_to_cart(visitor, self.a, first)
        with WebSocket(visitor, self.b, self.web_socket_version()) as web_socket:
            web_socket.send("subscribe", {"channels": [], "last": 0})
            self.cart_holds(visitor, self.b, [first], "after a visitor's handshake")
        with WebSocket(one, self.b, self.web_socket_version()) as web_socket:
            web_socket.send("subscribe", {"channels": [], "last": 0})
            one.log_out(self.a)
            web_socket.send("subscribe", {"channels": [], "last": 0})
            check(self.await_close(web_socket, 20) == 4001, "not closed as expired after the logout")

    def await_close(self, web_socket, timeout_s):
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                web_socket.receive(deadline - time.monotonic())
        except WebSocketClosed as closed:
            return closed.code

    def poll_bus(self, one, node, last=0):
        return one.json(node, "/longpolling/poll", {"channels": [], "last": last, "options": {}}, port=node.gevent_port)

    def longpolling(self):
        user = self.users[6]
        one = self.fresh(user, self.a)
        for node, other in ((self.b, self.a), (self.a, self.b)):
            last = 0
            for number in range(3):
                text = f"{node.name}{number}"
                tab = self.threads.submit(self.poll_bus, one, node, last)
                deadline = time.monotonic() + 30
                # Odoo 14 misses what is sent before its listener of the bus is up, and that starts with the first
                # poll: so it is said until it is heard. An unheard poll is held for 50 s.
                while not tab.done():
                    check(time.monotonic() < deadline, f"the notification '{text}' did not arrive")
                    check(one.get(other, f"/sessionfs_test/notify?text={text}").text == "sent", "no notification sent")
                    concurrent.futures.wait([tab], 3)
                found = tab.result(60)
                while not any(text in str(n["message"]) for n in found):
                    check(time.monotonic() < deadline, f"the notification '{text}' did not arrive")
                    last = max([last, *(n["id"] for n in found)])
                    found = self.poll_bus(one, node, last)
                last = max([last, *(n["id"] for n in found)])
        for node in self.lab.nodes:
            self.must_be(one, node, user, "after longpolling")

    # --- behind nginx ------------------------------------------------------------------------------------------------

    def nginx_as_documented(self):
        """No sticky sessions: every request may go to another node."""
        front, user = Front(self.lab), self.users[6]
        front.start()
        one = self.fresh(user, front)
        for _ in range(20):
            self.must_be(one, front, user, "behind nginx")
        check(front.upstreams() == {node.http_port for node in self.lab.nodes}, "nginx did not ask both nodes")
        # The database has no calendar; whom nginx asks is what matters.
        one.request(front, "/calendar/notify", b"{}", "application/json")
        if self.new:
            with WebSocket(one, front, self.web_socket_version()) as web_socket:
                web_socket.send("subscribe", {"channels": [], "last": 0})
                for node in self.lab.nodes:
                    self.notify_until_heard(web_socket, one, node, f"nginx{node.name}")
        else:
            one.json(front, "/longpolling/im_status", {"partner_ids": []})
        evented = {node.gevent_port for node in self.lab.nodes}
        check(evented & front.upstreams(), "nginx did not ask the evented process")
        self.must_be(one, front, user, "after the evented process")
        cookies = one.log_out(front).headers.get_all("Set-Cookie")
        flags = [cookie.lower() for cookie in cookies if cookie.startswith("session_id=")]
        check(flags and all("; secure" in f and "; samesite=lax" in f for f in flags), f"the cookie has the flags {flags}")
        self.nginx_speaks_tls()
        check(front.process.stop() == 0, "nginx did not end well")

    def nginx_speaks_tls(self):
        # Its certificate is of a minute ago, and nobody's.
        tls = http.client.HTTPSConnection("127.0.0.1", timeout=30, context=ssl._create_unverified_context())
        tls.request("GET", "/web", headers={"Host": "shop.example.com"})
        answer = tls.getresponse()
        target = answer.headers["Location"]
        check(re.match(r"(https://shop\.example\.com)?/web/login", target), f"over TLS /web leads to {target}")
        tls.close()
        plain = http.client.HTTPConnection("127.0.0.1", timeout=30)
        plain.request("GET", "/web", headers={"Host": "shop.example.com"})
        target = plain.getresponse().headers["Location"]
        check(target == "https://shop.example.com/web", f"without TLS nginx leads to {target}")
        plain.close()

    # --- Odoo's own collection of old sessions -------------------------------------------------------------------

    def vacuum(self):
        """By Odoo's cron process, as every day; only what counts as old is set lower.

        Ten minutes are much longer than the check takes on the slowest machine: nobody else may become old meanwhile.
        """
        inactivity_s = 600
        old_user, live_user = self.users[6], self.users[7]
        old = [self.fresh(old_user, node) for node in self.lab.nodes]
        live = [self.fresh(live_user, node) for node in self.lab.nodes]
        visitor = Browser()
        visitor.get(self.a, "/shop")
        self.add_to_cart(visitor, self.a, self.cart[0])
        # Odoo compares the time of the last save.
        past = time.time() - inactivity_s - 60
        for one in (*old, visitor):
            os.utime(self.lab.session_file(self.a, one.sid), (past, past))
        admin = self.admin
        admin.call(self.a, "ir.config_parameter", "set_param", "sessions.max_inactivity_seconds", str(inactivity_s))
        cron_id = int(self.lab.sql("SELECT res_id FROM ir_model_data WHERE module = 'base' AND name = 'autovacuum_job'"))
        before = self.lab.sql(f"SELECT coalesce(lastcall::text, '') FROM ir_cron WHERE id = {cron_id}")
        for one in (*live, admin, self.visitor):
            # A page that refreshes its session; the visitor's is saved by a change of the cart.
            if one is self.visitor:
                self.add_to_cart(one, self.a, self.cart[0])
            else:
                one.json(self.a, "/web/session/get_session_info", {})
        admin.call(self.a, "ir.cron", "write", [cron_id], {"active": True, "nextcall": "2020-01-01 00:00:00"})
        try:
            poll(lambda: self.lab.sql(f"SELECT coalesce(lastcall::text, '') FROM ir_cron WHERE id = {cron_id}") != before,
                 "Odoo's vacuum by its cron process", 60)
        finally:
            # Or a second one, triggered by something else, would find everybody old.
            self.lab.sql(f"UPDATE ir_cron SET active = false WHERE id = {cron_id}")
            admin.call(self.a, "ir.config_parameter", "set_param", "sessions.max_inactivity_seconds", str(WEEK_S))
        for one in old:
            self.must_be_dead(one, "older than the limit at the vacuum")
        check(self.cart[0]["name"] not in visitor.get(self.b, "/shop/cart").text, "the old visitor's session is left")
        for one in live:
            for node in self.lab.nodes:
                self.must_be(one, node, live_user, "saved just before the vacuum")
        self.cart_holds(self.visitor, self.b, self.cart, "saved just before the vacuum")

    def garbage_collection(self):
        old_user, live_user = self.users[6], self.users[7]
        old, live = self.fresh(old_user, self.a), self.fresh(live_user, self.b)
        path = self.lab.session_file(self.a, old.sid)
        past = time.time() - WEEK_S - 60
        os.utime(path, (past, past))
        check(live.get(self.b, "/sessionfs_test/gc").text == "collected", "no collection")
        self.must_be_dead(old, "older than a week at the collection")
        for node in self.lab.nodes:
            self.must_be(live, node, live_user, "after the collection")

    # --- load ----------------------------------------------------------------------------------------------------

    def parallel_load(self):
        tabs = 3
        browsers = [(self.fresh(user, self.lab.nodes[n % 2]), user) for n, user in enumerate(self.users[:5])]
        visitors = [Browser() for _ in range(2)]
        for visitor in visitors:
            visitor.get(self.a, "/shop")
            self.add_to_cart(visitor, self.a, self.cart[0])
        first_sids = [one.sid for one, _ in browsers] + [visitor.sid for visitor in visitors]
        end = time.monotonic() + self.load_seconds
        counts = {"requests": 0, "logouts": 0}
        lock = threading.Lock()
        lost = []

        def note(logout=None):
            with lock:
                counts["requests"] += 1
                if logout:
                    counts["logouts"] += 1
                    lost.append(logout)

        def user_tab(one, user, seed):
            chance = random.Random(seed)
            while time.monotonic() < end:
                node = chance.choice(self.lab.nodes)
                kind = chance.random()
                try:
                    if kind < 0.55:
                        right = one.whoami(node) == user.id
                        note(None if right else f"{user.login} is somebody else on {node.name}")
                    elif kind < 0.75:
                        one.json(node, "/web/session/get_session_info", {})
                        note()
                    elif kind < 0.9:
                        one.call(node, "res.partner", "search_read", [], ["name"], limit=3)
                        note()
                    else:
                        page = one.get(node, "/web")
                        check(page.status == 200 or page.leads_to_login(), f"/web answers {page.status}")
                        note(f"{user.login} was led to the login page on {node.name}" if page.leads_to_login() else None)
                except SessionExpired as error:
                    note(f"{user.login}: {error}")

        def visitor_tab(visitor, seed):
            chance = random.Random(seed)
            while time.monotonic() < end:
                node = chance.choice(self.lab.nodes)
                try:
                    self.cart_holds(visitor, node, self.cart[:1], "under load")
                    note()
                except Failed as error:
                    note(f"a visitor: {error}")

        started = time.monotonic()
        work = [self.threads.submit(user_tab, one, user, n * 10 + tab)
                for n, (one, user) in enumerate(browsers) for tab in range(tabs)]
        work += [self.threads.submit(visitor_tab, visitor, 1000 + n) for n, visitor in enumerate(visitors)]
        for item in work:
            item.result(self.load_seconds + 120)
        took = time.monotonic() - started
        check(counts["logouts"] == 0, f"{counts['logouts']} unexpected logouts in {counts['requests']} requests: {lost[:5]}")
        check(counts["requests"] > self.load_seconds, f"only {counts['requests']} requests in {took:.0f} s")
        for one, user in browsers:
            for node in self.lab.nodes:
                self.must_be(one, node, user, "after the load")
        last_sids = [one.sid for one, _ in browsers] + [visitor.sid for visitor in visitors]
        check(first_sids == last_sids, "a cookie changed under load")
        return f"{counts['requests']} requests, {counts['requests'] / took:.0f}/s, no logout"

    # --- what is kept, and where ---------------------------------------------------------------------------------

    def secrets(self):
        """What must be nowhere. Of a long sid the first half is no secret: Odoo keeps it in its database."""
        found = set(self.tokens)
        for sid in list(browser.sids_ever):
            found.add((sid[FAMILY:] if len(sid) > 80 else sid[2:]).encode())
        check(len(found) > 50 and min(map(len, found)) > 30, f"only {len(found)} secrets to look for")
        return found

    def leaks(self, data, where):
        """All of it at once would be slow: sids are found by their first eight bytes, then compared."""
        heads = {}
        for secret in self.secrets():
            heads.setdefault(secret[:8], []).append(secret)
        pattern = re.compile(b"|".join(re.escape(h) for h in heads))
        at, found = 0, 0
        while match := pattern.search(data, at):
            found += any(data.startswith(secret[:20], match.start()) for secret in heads[match.group(0)])
            at = match.start() + 1
        check(found == 0, f"{found} secrets in {where}")

    def names_in_the_directory(self):
        names = []
        for node in self.lab.nodes:
            for _, _, files in os.walk(node.sessions):
                names += files
        check(len(names) > 10, f"the directory lists only {len(names)} sessions")
        try:
            self.leaks("\n".join(names).encode(), "the names of the directory")
        except Failed:
            # There the names are the sids: which shows that the search finds what it looks for.
            if not self.on_disk:
                raise
        else:
            check(not self.on_disk, "the search for secrets does not find the sids that a disk shows")
        return f"{len(names)} names"

    def stop_monitor(self):
        """MONITOR costs Redis a multiple of its work, so not under load."""
        if self.monitor:
            self.monitor.end()
            self.monitor = None

    def redis_holds_no_secret(self):
        redis = self.lab.connect_redis()
        held = redis.everything()
        redis.close()
        check(len(held) > 10, f"Redis holds only {len(held)} keys")
        dump = b"\n".join(key + b" " + value for key, value, _ in held)
        self.leaks(dump, "Redis")
        check(b"session_token" not in dump and b"next_sid" not in dump, "contents in Redis are readable")
        endless = [key for key, _, ttl in held if b":s:" in key and ttl < 0]
        check(not endless, f"{len(endless)} session keys have no TTL")
        return f"{len(held)} keys, {len(self.secrets())} secrets looked for"

    def redis_is_told_no_secret(self):
        """Not even for a moment: who may use MONITOR or read the slow log must not get a cookie."""
        with open(self.transcript, "rb") as file:
            transcript = file.read()
        check(transcript.count(b"\n") > 500, "the transcript of Redis is too short to prove anything")
        self.leaks(transcript, "what was sent to Redis")
        check(b"session_token" not in transcript, "contents sent to Redis are readable")
        return f"{transcript.count(bytes([10]))} commands"

    def sessionfs_ended_cleanly(self):
        mounts = self.lab.mount_count * len(self.lab.servers)
        check(len(self.lab.exits) == mounts, f"{len(self.lab.exits)} ends instead of {mounts}")
        for name, status, mounts in self.lab.exits:
            check(status == 0, f"{name} ended with {status} on SIGTERM")
            check(mounts == 0, f"{name} left {mounts} mounts")

    def logs_hold_no_secret(self):
        total = 0
        for process in self.lab.started:
            if process.name.startswith("sessionfs"):
                with open(process.log, "rb") as file:
                    data = file.read()
                total += len(data)
                self.leaks(data, f"the log of {process.name}")
                check(b"panicked" not in data, f"a panic in the log of {process.name}")
        check(total > 0, "the logs are empty")
        return f"{total} bytes"

    # --- sessionfs itself ----------------------------------------------------------------------------------------

    def restart_keeps_everyone(self):
        """Ended and started again with other settings; Odoo runs on."""
        people = [(self.fresh(user, self.lab.nodes[n % 2]), user) for n, user in enumerate(self.users[:4])]
        self.lab.unmount_sessions()
        self.lab.mount_sessions(f"{IDLE_SHORT_S}s")
        for one, user in people:
            for node in self.lab.nodes:
                self.must_be(one, node, user, "after a restart of sessionfs")
        self.cart_holds(self.visitor, self.b, self.cart, "after a restart of sessionfs")

    def idle_expiry(self):
        """Two people leave their desks with a tab open that keeps the evented process reading; one goes on working."""
        away, busy = [self.users[0], self.users[1]], self.users[2]
        working = self.fresh(busy, self.a)
        gone = [self.fresh(user, self.a) for user in away]
        for one, user in zip(gone, away):
            self.must_be(one, self.b, user, "the last click")
        last_click = time.monotonic()
        tabs = [self.threads.submit(self.leave_tab_open, one, node, last_click) for one, node in zip(gone, self.lab.nodes)]
        number = 0
        while time.monotonic() < last_click + IDLE_SHORT_S + 4:
            # The clock is what is tried here: somebody who clicks every two seconds never expires.
            time.sleep(2)
            self.must_be(working, self.lab.nodes[number % 2], busy, "working all the time")
            number += 1
        reads = [tab.result(60) for tab in tabs]
        for one, node in zip(gone, (self.b, self.a)):
            page = one.get(node, "/web")
            check(page.leads_to_login(), f"after {IDLE_SHORT_S} s without a click /web answers {page.status} {page.location}")
            check(one.is_dead(node), "the cookie still works for calls")
        for one in gone:
            self.must_be_dead(one, "idle")
        for node in self.lab.nodes:
            self.must_be(working, node, busy, "working all the time")
        self.cart_holds(self.visitor, self.a, self.cart, "an anonymous visitor, after the idle time of users")
        back = gone[0].log_in(self.b, away[0])
        for node in self.lab.nodes:
            self.must_be(back, node, away[0], "logged in again")
        return f"the open tabs made {sum(reads)} reads meanwhile"

    def leave_tab_open(self, one, node, last_click):
        """Traffic of the evented process every second, until the session has expired. The number of messages."""
        count = 0
        deadline = last_click + IDLE_SHORT_S + 10
        if not self.new:
            while time.monotonic() < last_click + IDLE_SHORT_S + 2:
                tab = one.clone()
                try:
                    tab.json(node, "/longpolling/im_status", {"partner_ids": []}, port=node.gevent_port)
                except SessionExpired:
                    early = last_click + IDLE_SHORT_S - time.monotonic()
                    check(early < 0.5, f"expired {early:.1f} s too early")
                    return count
                count += 1
                time.sleep(1)
            raise Failed("longpolling still works after the idle time")
        with WebSocket(one, node, self.web_socket_version()) as web_socket:
            try:
                while time.monotonic() < deadline:
                    web_socket.send("subscribe", {"channels": [], "last": 0})
                    count += 1
                    until = time.monotonic() + 1
                    try:
                        while time.monotonic() < until:
                            web_socket.receive(until - time.monotonic())
                    except TimeoutError:
                        pass
            except WebSocketClosed as closed:
                early = last_click + IDLE_SHORT_S - time.monotonic()
                check(closed.code == 4001, f"the websocket was closed with {closed.code} instead of 4001")
                check(early < 0.5, f"expired {early:.1f} s too early")
                check(count >= IDLE_SHORT_S // 2, f"only {count} messages in {IDLE_SHORT_S} s")
                return count
        raise Failed("the websocket still works after the idle time")

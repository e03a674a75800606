"""Redis fails while people work on both servers: nobody is logged out, and no save is lost."""
import random
import threading
import time

from browser import Browser, OdooError, SessionExpired
from checks import Failed, Gate, check
from processes import poll

FROZEN_S = 5
FULL_S = 5
# Longer than the budget of an outage.
SPENT_S = 24
BEFORE_S, AFTER_S = 2, 4
# What one server saved or removed meanwhile has reached the other.
SETTLED_S = 10
# Between two clicks of a person.
PAUSE_S = 0.2


class Traffic:
    """People at work. What they must not see is kept in `wrong`."""

    def __init__(self, run):
        self.run = run
        self.over = self.unsettled = False
        self.lock = threading.Lock()
        self.requests = 0
        self.longest_s = 0
        self.wrong = []
        self.dead = []  # browsers that have logged out
        self.work = []

    def begin(self, visitors):
        run = self.run
        for number, user in enumerate(run.users[:3]):
            self._start(self.counts, run.fresh(user, run.lab.nodes[number % 2]), number)
        for number, user in enumerate(run.users[3:5]):
            one = run.fresh(user, run.lab.nodes[number % 2])
            for tab in range(2):
                self._start(self.asks, one, user, 10 * number + tab)
        if visitors:
            product = run.product()[0]
            visitor = Browser()
            visitor.get(run.a, "/shop")
            run.add_to_cart(visitor, run.a, product)
            self._start(self.shops, visitor, product)
        for number, node in enumerate(run.lab.nodes):
            self._start(self.comes_and_goes, run.users[5 + number], node)

    def _start(self, person, *about):
        self.work.append(self.run.threads.submit(self._repeat, person, *about))

    def _repeat(self, person, *about):
        try:
            person(*about)
        except Exception as error:
            self.note(f"{person.__name__}: {type(error).__name__}: {error}")

    def end(self):
        self.over = True
        for item in self.work:
            item.result(120)

    def note(self, what):
        with self.lock:
            self.wrong.append(what)

    def clicks(self):
        """One turn for each click, until the end."""
        while not self.over:
            begun = time.monotonic()
            yield
            with self.lock:
                self.requests += 1
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
            # Not a wait for an event: a person thinks.
            time.sleep(PAUSE_S)

    # --- people --------------------------------------------------------------------------------------------------

    def counts(self, one, seed):
        """Each click saves a number in the session, and is told the one before.

        What one server could not save in Redis, the other does not know before the outage is over.
        """
        chance = random.Random(seed)
        saved = where = None
        for _ in self.clicks():
            node = chance.choice(self.run.lab.nodes)
            number = (saved or 0) + 1
            page = one.get(node, f"/sessionfs_test/count?number={number}")
            if page.status != 200:
                self.note(f"a save on {node.name} answers {page.status} {page.location}")
                continue
            is_known = node is where or not self.unsettled
            if saved and page.text != str(saved) and is_known:
                self.note(f"on {node.name} the session holds {page.text}, and {saved} was saved")
            saved, where = number, node
        self.saved_last(one, saved)

    def saved_last(self, one, saved):
        for node in self.run.lab.nodes:
            page = one.get(node, "/sessionfs_test/count")
            if page.text != str(saved):
                self.note(f"in the end the session holds {page.text} on {node.name}, and {saved} was saved")

    def asks(self, one, user, seed):
        chance = random.Random(seed)
        for _ in self.clicks():
            node = chance.choice(self.run.lab.nodes)
            try:
                if one.whoami(node) != user.id:
                    self.note(f"{user.login} is somebody else on {node.name}")
            except SessionExpired as error:
                self.note(f"{user.login}: {error}")

    def shops(self, visitor, product):
        chance = random.Random(7)
        for _ in self.clicks():
            try:
                self.run.cart_holds(visitor, chance.choice(self.run.lab.nodes), [product], "in an outage")
            except Failed as error:
                self.note(str(error))

    def comes_and_goes(self, user, node):
        """Logs in, asks, and logs out again, all on one server. The old cookie is nobody's then."""
        for _ in self.clicks():
            one = Browser().log_in(node, user)
            try:
                if one.whoami(node) != user.id:
                    self.note(f"{user.login} is somebody else after the login")
            except SessionExpired as error:
                self.note(f"just logged in, {user.login}: {error}")
                continue
            old = one.clone()
            reply = one.log_out(node)
            if reply.status not in (302, 303):
                self.note(f"logout answers {reply.status}")
            elif not old.is_dead(node):
                self.note(f"logged out, and the cookie still works on {node.name}")
            with self.lock:
                self.dead.append(old)


class Outages:
    """Part of `Run`."""

    def through(self, outage, visitors=True):
        traffic = Traffic(self)
        traffic.begin(visitors)
        # Work before, during and after it.
        time.sleep(BEFORE_S)
        traffic.unsettled = True
        outage()
        time.sleep(AFTER_S)
        traffic.end()
        check(not traffic.wrong, f"{len(traffic.wrong)} in {traffic.requests} clicks: {traffic.wrong[:5]}")
        check(traffic.requests > 20, f"only {traffic.requests} clicks")
        for old in traffic.dead:
            poll(lambda old=old: all(old.is_dead(node) for node in self.lab.nodes), "a cookie that was logged out", SETTLED_S)
        return f"{traffic.requests} clicks, the longest took {traffic.longest_s:.1f} s; {len(traffic.dead)} logouts"

    def redis_frozen(self):
        def outage():
            master = self.lab.deployment.master()
            master.freeze()
            time.sleep(FROZEN_S)
            master.thaw()

        return self.through(outage)

    def redis_killed_and_restarted(self):
        def outage():
            master = self.lab.deployment.master()
            master.kill()
            time.sleep(1)
            master.start()

        return self.through(outage)

    def redis_full(self):
        def outage():
            master = self.lab.deployment.master()
            master.set("maxmemory", "1")
            time.sleep(FULL_S)
            master.set("maxmemory", "0")

        # A visitor of less than a minute ends there, to make room for a login.
        return self.through(outage, visitors=False)

    def redis_failed_over(self):
        """Sentinel is told to notice soon only here: above the master stays the master."""
        def outage():
            deployment = self.lab.deployment
            deployment.notice_after_ms(3000)
            was = deployment.master()
            was.kill()
            deployment.await_other_master(was)

        return self.through(outage)

    def recovery_within_a_request(self):
        """The budget is spent, so a request cannot read its session. Redis is back before it saves: Odoo must not replace
        the session, nor the cookie."""
        user = self.users[0]
        one = self.fresh(user, self.a)
        other = self.fresh(self.users[1], self.a)
        sid, master = one.sid, self.lab.deployment.master()
        master.freeze()
        # Until the budget is spent.
        time.sleep(SPENT_S)
        try:
            with Gate(self.lab) as gate:
                page = self.threads.submit(one.get, self.a, f"/sessionfs_test/anybody?hold={gate.name}")
                gate.await_page()
                master.thaw()
                poll(lambda: self.is_served(other), "Odoo on A with Redis back", 30)
                gate.open()
                reply = page.result(60)
        finally:
            master.thaw()
        check(reply.status == 500, f"a request that could not read its session answers {reply.status}")
        check(one.sid == sid, "it was given another cookie")
        for node in self.lab.nodes:
            self.must_be(one, node, user, "after the recovery")

    def is_served(self, one):
        """Until Redis is back, Odoo takes the session for none, or answers 500 where it would save."""
        try:
            return not one.is_dead(self.a)
        except OdooError:
            return False

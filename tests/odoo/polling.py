"""Browser tabs that nobody looks at, and go on to ask by themselves."""
import contextlib
import time

from browser import OdooError, SessionExpired
from checks import check

# Each opens the session, whatever Odoo answers.
POLLS = (
    "/calendar/notify",
    "/websocket/peek_notifications",
    "/web/dataset/call_kw/discuss.channel/channel_fetched",
    "/discuss/channel/ping",
    "/web/webclient/version_info",
)


class Polling:
    def polled_tabs_expire(self):
        """One tab polls pages, on an Odoo with workers and on one without, where another has a websocket besides."""
        with self.odoo_on(self.lab.threaded) as threaded:
            polled, reads = self.leave_to_poll((self.a, threaded), self.leave_tab_open)
            for one, node in polled:
                check(one.is_dead(node), f"polled on {node.name}, and the cookie still works after {self.idle_s} s")
        return f"the websocket made {reads} reads meanwhile"

    def polled_tabs_live_where_requests_are_not_seen(self):
        """The same without the program in the kernel: what it is for."""
        self.lab.unmount_sessions()
        self.lab.mount_sessions(f"{self.idle_s}s", requests="off")
        with self.odoo_on(self.lab.threaded) as threaded:
            polled, _ = self.leave_to_poll((self.a, threaded), None)
            for one, node in polled:
                check(not one.is_dead(node), f"polled on {node.name}, and the cookie is dead: the check above shows nothing")

    @contextlib.contextmanager
    def odoo_on(self, node):
        self.lab.start_odoo(node)
        try:
            yield node
        finally:
            node.odoo.stop(timeout_s=20)
            node.odoo = None

    def leave_to_poll(self, nodes, hold_websocket):
        """Polls on each node for longer than the idle time, while a person works there. The browsers that polled."""
        people = list(zip(self.users, nodes))
        polled = [(self.fresh(user, node), node) for user, node in people]
        working = [(self.fresh(user, node), node, user) for user, node in people]
        for (one, node), (user, _) in zip(polled, people):
            self.must_be(one, node, user, "the last click")
        held = []
        if hold_websocket:
            node = nodes[-1]
            tab = self.fresh(self.users[5], node)
            self.must_be(tab, node, self.users[5], "before its websocket")
            held.append(self.threads.submit(hold_websocket, tab, node, time.monotonic()))
        until = time.monotonic() + self.idle_s + 4
        number = 0
        while time.monotonic() < until:
            # The clock is what is tried here: nobody clicks, and the tabs ask every second.
            time.sleep(1)
            for one, node in polled:
                self.poll_once(one.clone(), node, POLLS[number % len(POLLS)])
            for one, node, user in working:
                self.must_be(one, node, user, "working all the time")
            number += 1
        return polled, sum(tab.result(60) for tab in held)

    def poll_once(self, tab, node, path):
        # Some ask for what is not installed, or for nobody's channel; a session that has ended is looked at at the end.
        with contextlib.suppress(OdooError, SessionExpired):
            tab.json(node, path, {})

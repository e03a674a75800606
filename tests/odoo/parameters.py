"""Lifetimes that an administrator sets on Odoo's own page of system parameters, while everything runs."""
import functools
import os
import subprocess
import time

from browser import Browser
from checks import check
from processes import poll

# The shortest lifetime that a parameter can set here; by default it is a minute.
FLOOR_S = 15
KEY = "session.timeout"


class Parameters:
    def odoo_parameters(self):
        """A value is set, mistyped, corrected and deleted; each holds on both nodes within ten seconds."""
        self.lab.unmount_sessions()
        self.lab.mount_sessions("15min", floor=f"{FLOOR_S}s")
        try:
            return self.change_parameters()
        finally:
            self.lab.unmount_sessions()
            self.lab.mount_sessions(f"{self.idle_s}s")

    def change_parameters(self):
        admin = Browser().log_in(self.a, self.admin_user)
        away, user = self.fresh(self.users[0], self.a), self.users[0]
        self.must_be(away, self.b, user, "before the parameter")
        [parameter] = admin.call(self.a, "ir.config_parameter", "create", [{"key": KEY, "value": str(FLOOR_S)}])
        took = [self.await_idle(f"{FLOOR_S}s")]
        self.must_be(away, self.a, user, "when the parameter is followed")
        until = time.monotonic() + FLOOR_S + 1
        while time.monotonic() < until:
            # The clock is what is tried here: the administrator goes on working.
            time.sleep(2)
            admin.whoami(self.b)
        for node in self.lab.nodes:
            check(away.is_dead(node), f"{FLOOR_S} s without a click, and the cookie still works on {node.name}")

        # Neither locks the administrator out of the page on which it is corrected.
        for value, told in (("1", "is not allowed"), ("soon", "is not a number")):
            admin.call(self.a, "ir.config_parameter", "write", [parameter], {"value": value})
            poll(functools.partial(self.is_told, told), f"'{value}' is told", 10)
            admin.whoami(self.b)
        admin.call(self.a, "ir.config_parameter", "write", [parameter], {"value": "900"})
        took.append(self.await_idle("15min"))
        admin.call(self.b, "ir.config_parameter", "unlink", [parameter])
        took.append(self.await_idle(None))
        return "followed within " + ", ".join(f"{seconds:.1f}" for seconds in took) + " s"

    def await_idle(self, value):
        """Waits until both nodes have this lifetime of Odoo's for the shop, or none; how long that took."""
        began = time.monotonic()
        for node in self.lab.nodes:
            poll(functools.partial(self.has_idle, node, value), f"{KEY} becomes {value} on {node.name}", 10)
        return time.monotonic() - began

    def has_idle(self, node, value):
        return self.idle_of_shop(node) == value

    def idle_of_shop(self, node):
        for line in self.sessionfs("config", "get", "lifetime.idle", "--config", self.lab.config_of(node),
                                   "--redis", self.lab.redis_url).splitlines():
            words = line.split()
            if words[-1] == "odoo" and "database=shop" in words:
                return words[-2]
        return None

    def is_told(self, words):
        return words in " ".join(self.sessionfs("status", self.a.sessions).split())

    def sessionfs(self, *words):
        done = subprocess.run([self.lab.binary, *words], check=False, capture_output=True, text=True, timeout=20,
                              env=os.environ)
        check(done.returncode == 0, f"sessionfs {words[0]}: {done.stderr}")
        return done.stdout

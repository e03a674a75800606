"""Saves that come after the end of a session, above all from the evented process, where all requests share one thread."""
import threading

from browser import WebSocket
from checks import Gate, check

HANDSHAKE_TRIALS = 10


class LateSaves:
    def handshakes_after_logout(self):
        """One request of the evented process has the session of before the logout, two handshakes see it gone."""
        user, count, trials = self.users[3], 0, 0
        for page_at in self.lab.nodes:
            for shake_at in self.lab.nodes:
                trials += 1
                count += self.handshake_after_logout(user, page_at, shake_at, page_at.gevent_port)
        return self.revived(count, trials, "handshakes with a cookie that was logged out")

    def handshake_after_logout(self, user, page_at, shake_at, port):
        one = self.fresh(user, page_at)
        old = one.clone()
        with Gate(self.lab) as gate:
            page = self.threads.submit(one.clone().request, page_at, f"/sessionfs_test/slow?hold={gate.name}", port=port)
            gate.await_page()
            one.log_out(shake_at)
            self.shake_hands(old, page_at)
            gate.open()
            page.result(60)
            self.shake_hands(old, shake_at)
        return not all(old.is_dead(node) for node in self.lab.nodes)

    def shake_hands(self, one, node):
        """Odoo takes anybody's handshake, and saves the session that it finds, or an empty one."""
        WebSocket(one.clone(), node, self.web_socket_version()).close()

    def handshakes_at_the_logout(self):
        """Nothing held: tabs connect again and again while the person logs out."""
        user, count, trials = self.users[3], 0, HANDSHAKE_TRIALS
        for number in range(trials):
            one = self.fresh(user, self.lab.nodes[number % 2])
            old = one.clone()
            over = threading.Event()
            tabs = [self.threads.submit(self.connect_until, over, old, node) for node in self.lab.nodes * 2]
            one.log_out(self.lab.nodes[number // 2 % 2])
            for node in self.lab.nodes:
                self.shake_hands(old, node)
            over.set()
            handshakes = sum(tab.result(60) for tab in tabs)
            check(handshakes >= len(tabs), f"only {handshakes} handshakes")
            count += not all(old.is_dead(node) for node in self.lab.nodes)
        return self.revived(count, trials, "handshakes at the moment of the logout")

    def connect_until(self, over, one, node):
        count = 0
        while count == 0 or not over.is_set():
            self.shake_hands(one, node)
            count += 1
        return count

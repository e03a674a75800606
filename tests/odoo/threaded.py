"""An Odoo without workers beside the two that have some."""
from browser import WebSocket
from checks import check


class Threaded:
    def odoo_without_workers(self):
        """workers = 0, on the same Redis: one process for pages and websockets, a thread for each request."""
        node = self.lab.threaded
        self.lab.start_odoo(node)
        try:
            return self.live_without_workers(node, self.users[4])
        finally:
            # Odoo's own suites use its port.
            node.odoo.stop(timeout_s=20)
            node.odoo = None

    def live_without_workers(self, node, user):
        one = self.fresh(user, node)
        self.must_be(one, self.a, user, "logged in without workers")
        with WebSocket(one, node, self.web_socket_version()) as web_socket:
            web_socket.send("subscribe", {"channels": [], "last": 0})
            self.notify_until_heard(web_socket, one, self.a, "C")
            self.must_be(one, node, user, "after the handshake")
        self.bus_message_first(user, node)
        alive = self.ask_in_the_gap(user, node, node.http_port)
        check(alive or self.on_disk, "told 'session expired' while old sessions were deleted")
        count = sum(self.handshake_after_logout(user, node, there, node.http_port) for there in (node, self.a))
        return self.revived(count, 2, "handshakes with a cookie that was logged out")

"""What every check needs: a way to fail, and to hold Odoo at the moment that matters."""
import os
import random
import socket

FAMILY = 42  # characters of a long sid that Odoo itself keeps in its database, in clear


class Failed(Exception):
    pass


def check(condition, reason):
    if not condition:
        raise Failed(reason)


class Gate:
    """Holds a page of the addon between the reading of its session and its save."""

    def __init__(self, lab):
        self.name = f"gate-{random.getrandbits(40):x}"
        path = f"{lab.root}/run/sessionfs-test/{self.name}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(30)
        self.listener.bind(path)
        os.chown(path, lab.odoo_uid, lab.odoo_gid)
        self.listener.listen(1)
        self.held = None

    def await_page(self):
        self.held, _ = self.listener.accept()

    def __enter__(self):
        return self

    def open(self):
        self.held.close()

    def __exit__(self, *_):
        if self.held:
            self.held.close()
        self.listener.close()

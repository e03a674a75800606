"""Loaded by --load into the Odoo 19 that runs its own suites: most of `test_http` keeps its sessions in a dict.

Here they are written, read and deleted as a server does it, by Odoo's own store in the session directory. No test is
changed: they expect the very object that they saved, so they get it where what was read is what was saved.
"""
import functools
import json

from odoo.addons.test_http import utils
from odoo.http import FilesystemSessionStore
from odoo.tests import HttpCase
from odoo.tools import config


class DirectoryStore(FilesystemSessionStore):
    def __init__(self, session_class):
        super().__init__(config.session_dir, session_class=session_class, renew_missing=True)
        self.saved = {}  # sid: session and its content at that time

    @property
    def store(self):
        """Each test begins with `store.clear()`."""
        return self

    def clear(self):
        for session, _ in list(self.saved.values()):
            self.delete(session)
        self.saved.clear()

    def save(self, session):
        super().save(session)
        self.saved[session.sid] = session, json.dumps(dict(session))

    def get(self, sid):
        loaded = super().get(sid)
        if not loaded or sid not in self.saved:
            return loaded
        session, content = self.saved[sid]
        if json.dumps(dict(loaded)) != content:
            raise RuntimeError(f'saved {content}, read {dict(loaded)}')
        return session


utils.MemorySessionStore = DirectoryStore

# One test deletes the bundles of assets and asks for them. On a busy machine Odoo needs longer to make one than the 12 s
# for which its tests wait.
HttpCase.url_open = functools.partialmethod(HttpCase.url_open, timeout=120)

"""Sessions as keys of Redis, by redis-py in Odoo's own process: what the modules do, and nothing more."""
import json
import os

import redis
from odoo import http

LIFETIME_SECONDS = 7 * 24 * 3600


class RedisStore(http.FilesystemSessionStore):

    def __init__(self):
        super().__init__('/nowhere', session_class=http.Session, renew_missing=True)
        self.client = redis.Redis(unix_socket_path=os.environ['SESSIONFS_BENCH_REDIS'])

    def save(self, session):
        key = f'session:{session.sid}'
        if self.client.set(key, json.dumps(dict(session))):
            self.client.expire(key, LIFETIME_SECONDS)

    def delete(self, session):
        self.client.delete(f'session:{session.sid}')

    def get(self, sid):
        data = self.is_valid_key(sid) and self.client.get(f'session:{sid}')
        if not data:
            return self.new()
        return self.session_class(json.loads(data), sid, False)

    def delete_from_identifiers(self, identifiers):
        for identifier in identifiers:
            for key in self.client.scan_iter(f'session:{identifier}*'):
                self.client.delete(key)


http.root.session_store = RedisStore()

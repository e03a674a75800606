"""In Odoo's container, as Odoo's user: two devices log in, and one logs the other out, by Odoo's own code.

Prints `revoked` if the other session is gone, and `alive` if its cookie is still good.
"""
import sys

from odoo.http import FilesystemSessionStore, Session

store = FilesystemSessionStore(sys.argv[1], session_class=Session, renew_missing=True)


def log_in():
    session = store.new()
    session.update(uid=2, login="admin", db="shop", session_token="0" * 64, context={}, debug="")
    store.save(session)
    return session.sid


def is_alive(sid):
    return store.get(sid).get("uid") == 2


here, there = log_in(), log_in()
assert is_alive(there), "a session that was saved is not read"
# A request begins by reading its own session. The removal of the session that it has read last is not carried out at
# once (docs/semantics.md).
assert is_alive(here), "a session that was saved is not read"
store.delete_from_identifiers([there[:42]])
assert is_alive(here), "the device that asked is logged out"
print("alive" if is_alive(there) else "revoked")

"""Loaded by --load into the Odoo under test (14 and 19): what a driver cannot reach over HTTP alone.

Odoo itself is not patched: no constant, no method. A session is made older instead of a limit smaller.
"""
import os
import random
import socket
import time
from unittest import mock

from odoo import http, release
from odoo.http import request

try:
    from odoo.http import root  # 16 and later
except ImportError:
    root = None

VERSION = release.version_info[0]


def store():
    return (root or http.root).session_store


def await_driver(hold):
    with socket.socket(socket.AF_UNIX) as gate:
        gate.settimeout(30)
        gate.connect(os.path.join('/run/sessionfs-test', os.path.basename(hold)))
        gate.recv(1)


class Handles(http.Controller):

    @http.route('/sessionfs_test/slow', type='http', auth='user')
    def slow(self, hold):
        """A page load under way: the session is loaded, then the driver decides how long it takes, then it is saved."""
        await_driver(hold)
        request.session['sessionfs_test'] = time.time()
        return 'saved'

    @http.route('/sessionfs_test/count', type='http', auth='user')
    def count(self, number=None):
        """The number in the session; another one takes its place."""
        before = str(request.session.get('sessionfs_count'))
        if number:
            request.session['sessionfs_count'] = int(number)
        return before

    @http.route('/sessionfs_test/anybody', type='http', auth='none')
    def anybody(self, hold):
        """The same as `slow`, also for those who are not logged in."""
        await_driver(hold)
        request.session['sessionfs_test'] = time.time()
        return 'saved'

    @http.route('/sessionfs_test/age', type='http', auth='user')
    def age(self, seconds):
        """As if this session had been made `seconds` earlier. Saved here: at its end the request would rotate it."""
        request.session['create_time'] -= float(seconds)
        store().save(request.session)
        request.session.can_save = False
        return 'older'

    @http.route('/sessionfs_test/delete_old', type='http', auth='user')
    def delete_old(self, hold):
        """What Odoo 19 does two minutes after a rotation, held between the removal of this very session and its save."""
        session, save = request.session, store().save

        def save_when_told(saved):
            await_driver(hold)
            save(saved)

        session['gc_previous_sessions'] = True
        session['create_time'] -= 121
        with mock.patch.object(store(), 'save', save_when_told):
            store().delete_old_sessions(session)
        session.can_save = False
        return 'deleted'

    @http.route('/sessionfs_test/notify', type='http', auth='user')
    def notify(self, text):
        """A message for every tab of this user, by Odoo's bus."""
        partner = request.env.user.partner_id
        if VERSION >= 19:
            partner._bus_send('sessionfs_test', {'text': text})
        else:
            request.env['bus.bus'].sendone((request.db, 'res.partner', partner.id), {'sessionfs_test': text})
        return 'sent'

    @http.route('/sessionfs_test/gc', type='http', auth='user')
    def gc(self):
        """14's garbage collection comes once in a thousand requests: here it comes now."""
        with mock.patch.object(random, 'random', return_value=0.0):
            http.session_gc(store())
        return 'collected'

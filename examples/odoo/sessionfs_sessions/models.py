import logging
import time

from odoo import _, models
from odoo.exceptions import AccessError, UserError
from odoo.http import request
from odoo.tools import config

from . import sessionfs

_logger = logging.getLogger(__name__)

# A system parameter: how many sessions a user can have. Without it, as many as he likes.
LIMIT_PARAMETER = "sessionfs.sessions_max"
# In a session: the user for whom it was counted.
COUNTED = "sessionfs_counted"
# A page waits for no longer; and after a failure none of this process asks for a while.
TIMEOUT_S = 1
PAUSE_S = 60


def socket_path():
    # In odoo.conf, where the configuration of sessionfs names another path.
    return config.get("sessionfs_socket") or sessionfs.socket_path(config.session_dir)


class Pause:
    """Since a failure in this process."""

    until = 0.0

    @classmethod
    def begin(cls):
        cls.until = time.monotonic() + PAUSE_S

    @classmethod
    def is_over(cls):
        return time.monotonic() >= cls.until


class ResUsers(models.Model):
    _inherit = "res.users"

    def _sessionfs_log_out_everywhere(self):
        """Ends all sessions of these users, but for the one that asks."""
        if not self.env.user.has_group("base.group_erp_manager"):
            raise AccessError(_("Only who manages access rights can log other people out."))
        own_sid = request.session.sid if request else None
        ended = 0
        for user in self:
            try:
                answer = sessionfs.ask_again(
                    socket_path(), "DELETE", own_sid, database=self.env.cr.dbname, user_id=user.id
                )
            except sessionfs.SessionfsError as error:
                message = _("%s sessions ended, then no more: %s") % (ended, error)
                raise UserError(message) from error
            ended += answer["ended"]
        message = _("%s sessions ended") % ended
        return {
            "type": "ir.actions.client",
            "tag": "display_notification",
            "params": {"message": message, "type": "success"},
        }


class IrHttp(models.AbstractModel):
    _inherit = "ir.http"

    def session_info(self):
        self._sessionfs_limit()
        return super().session_info()

    def get_frontend_session_info(self):
        self._sessionfs_limit()
        return super().get_frontend_session_info()

    def _sessionfs_limit(self):
        """Ends the oldest sessions of a user beyond the limit, once for each login: at the first page after it. There the
        second factor was given, and the session has its final id."""
        session = request.session
        if not session.uid or session.get(COUNTED) == session.uid:
            return
        # Within the login's own request it is not saved under its final id yet. (`rotate`: Odoo 14 and 15.)
        if getattr(session, "should_rotate", False) or getattr(session, "rotate", False):
            return
        if not Pause.is_over():
            return
        text = self.env["ir.config_parameter"].sudo().get_param(LIMIT_PARAMETER)
        try:
            limit = sessionfs.limit(text)
            if limit is None:
                return
            # Not the one that asks, but those that logged in last: who logs in twice at once would end both.
            words = {"database": session.db, "user_id": session.uid, "keep_newest": limit}
            sessionfs.ask(socket_path(), "DELETE", timeout_s=TIMEOUT_S, **words)
        except ValueError:
            Pause.begin()
            _logger.warning("%s is not a number of sessions: there is no limit", LIMIT_PARAMETER)
            return
        except sessionfs.SessionfsError as error:
            # Nobody is kept from working. A page after the pause tries again.
            Pause.begin()
            _logger.warning("the sessions of user %s are not limited: %s", session.uid, error)
            return
        session[COUNTED] = session.uid

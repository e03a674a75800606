# Words of the scenarios under systemd.
#
# Odoo's own unit is odoo.service beside this file; its log is $odoo_home/log.
# shellcheck shell=bash

# Odoo as a service, with people logged in, as its directory is now.
start_odoo() {
    odoo login anna bert chris dana
    cp /srv/test/odoo.service /etc/systemd/system/odoo.service
    systemctl daemon-reload
    systemctl enable -q --now odoo.service
    within 10 is_serving
}

property() { systemctl show --value --property "$1" "$2"; }
is_active() { systemctl is-active --quiet "$@"; }
keeper() { property MainPID sessionfs.service; }
worker() { pgrep -P "$(keeper)" -f '^[^ ]*sessionfs worker'; }
keeper_is_new() { [ "$(keeper)" != 0 ] && [ "$(keeper)" != "$1" ] && is_active sessionfs.service; }
worker_is_new() { [ -n "$(worker)" ] && [ "$(worker)" != "$1" ]; }
none_failed() { [ -z "$(systemctl list-units --failed --plain --no-legend)" ] || { systemctl list-units --failed; return 1; }; }

# Asks the Redis that install.sh has set up, as Redis's own administrator would.
instance_cli() {
    redis-cli -s /run/redis-sessionfs/redis-server.sock --user sessionfs --pass "$(cat /etc/sessionfs/redis.password)" --no-auth-warning "$@"
}

explain() {
    systemctl list-units --failed --plain --no-legend
    systemctl status --no-pager --lines 0 sessionfs.service odoo.service redis-server@sessionfs.service
    journalctl --no-pager --lines 40 --unit sessionfs.service --unit odoo.service --output short-precise
    tail -n 5 $odoo_home/log
    tail -n 15 /var/log/redis/redis-server-sessionfs.log
    findmnt --types fuse.sessionfs
}

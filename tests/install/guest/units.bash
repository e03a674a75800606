# Words of the scenarios under systemd.
#
# Odoo's own unit is odoo.service beside this file; its log is $odoo_home/log.
# shellcheck shell=bash
# shellcheck source=tests/install/guest/words.bash
source /srv/test/words.bash

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

# A second Odoo: another user, a directory with a blank in its name and an owner and mode to be remembered.
second_home=/srv/odoo\ 17
second=$second_home/data/sessions
odoo17() { runuser -u odoo17 -- python3 -B /srv/test/odoo.py --dir "$second" "$@"; }
start_odoo17() {
    groupadd --system staff17
    useradd --system --create-home --home-dir "$second_home" --shell /usr/sbin/nologin odoo17
    runuser -u odoo17 -- mkdir -p "$second"
    chown odoo17:staff17 "$second"
    chmod 2750 "$second"
    odoo17 login greta heinz
    cat >/etc/systemd/system/odoo17.service <<UNIT
[Service]
User=odoo17
ExecStart=/usr/bin/python3 -B /srv/test/odoo.py --data-dir "$second_home/data" serve
StandardOutput=append:/srv/odoo17.log
UNIT
    systemctl daemon-reload
    systemctl start odoo17.service
    within 10 odoo17_is_serving
}
odoo17_is_serving() {
    local file="$second_home/sids.pages" before
    [ -e "$file" ] && is_active odoo17.service || return 1
    before=$(cat "$file")
    within 10 odoo17_is_beyond "$((before + 4))"
}
odoo17_is_beyond() { [ "$(cat "$second_home/sids.pages")" -gt "$1" ]; }
no_errors_of_odoo17() { not grep '^error' /srv/odoo17.log; }
# As it was before the first mount.
second_is_as_it_was() { [ "$(stat -c '%U:%G %a' "$second")" = "odoo17:staff17 2750" ]; }

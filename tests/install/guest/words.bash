# Words of every scenario: what lies where, and what can be asked and expected of Odoo and of the machine.
# shellcheck shell=bash

# For scenarios only; shellcheck sees no use here.
# shellcheck disable=SC2034
tree=/srv/sessionfs
program=/srv/test/sessionfs
odoo_home=/var/lib/odoo
# Where Odoo 16 and later keep sessions when no data_dir is set.
sessions=$odoo_home/.local/share/Odoo/sessions

# Waits until a command succeeds: `within SECONDS COMMAND...`.
within() {
    local until=$((SECONDS + $1))
    shift
    while ! "$@"; do
        [ $SECONDS -lt $until ] || { echo "not within its time: $*"; return 1; }
        sleep 0.05
    done
}

# A command must end with this exit code: `ends_with CODE COMMAND...`.
ends_with() {
    local wanted=$1 code=0
    shift
    timeout 60 "$@" || code=$?
    [ $code = "$wanted" ] || { echo "ended with $code instead of $wanted: $*"; return 1; }
}

# The last command's output says this: `says PATTERN COMMAND...`.
says() {
    local pattern=$1 output
    shift
    output=$(timeout 60 "$@" 2>&1) || true
    printf '%s\n' "$output"
    grep -qE -- "$pattern" <<<"$output" || { echo "does not say '$pattern': $*"; return 1; }
}

not() { if "$@"; then echo "unexpectedly true: $*"; return 1; fi; }

odoo() { runuser -u odoo -- python3 -B /srv/test/odoo.py --dir "$sessions" "$@"; }

# Odoo at work: `odoo serve` counts its pages, and logs each error.
pages() { cat $odoo_home/sids.pages; }
pages_beyond() { [ "$(pages)" -gt "$1" ]; }
# Odoo makes progress with all its people, now.
is_serving() {
    [ -e $odoo_home/sids.pages ] || return 1
    local before after
    before=$(errors)
    within 10 pages_beyond "$(($(pages) + 8))" || return 1
    after=$(errors)
    [ "$before" = "$after" ]
}
errors() { grep -c '^error' $odoo_home/log || true; }
# Since `errors_before=$(errors)` none was added.
errors_before=0
no_new_errors() {
    [ "$(errors)" = "$errors_before" ] || { grep '^error' $odoo_home/log | tail -n "+$((errors_before + 1))" | sort | uniq -c; return 1; }
}

# A build that is not the same as the installed one.
make_newer() {
    newer=/srv/test/newer
    { cat $program; echo; } >$newer
    chmod 755 $newer
}

# The user that an Odoo package makes, and its configuration.
make_odoo() {
    useradd --system --create-home --home-dir $odoo_home --shell /usr/sbin/nologin odoo
    mkdir -p /etc/odoo
    printf '[options]\ndb_host = False\nproxy_mode = True\n' >/etc/odoo/odoo.conf
    chown odoo: /etc/odoo/odoo.conf
    chmod 640 /etc/odoo/odoo.conf
    runuser -u odoo -- mkdir -p -m 700 "$sessions"
}

is_mounted() { [ "$(findmnt -n -o FSTYPE --mountpoint "$sessions")" = fuse.sessionfs ]; }
keepers() { pgrep -f '^[^ ]*sessionfs mount '; }

# Every file of the system, with owner and mode, but those that change by themselves, and the sessions.
files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /srv/test \
        -o -path /srv/sessionfs -o -path /var/log -o -path /var/cache -o -path /var/lib/apt \
        -o -path /var/lib/systemd -o -path /var/lib/redis -o -path /var/tmp \
        -o -path "$sessions/*" -o -path "$odoo_home/*" -name "sids*" \) -prune -o -printf '%p %U:%G %m\n' | sort
}

# What is there to be read by people and by programs: `reference_is_installed PREFIX`.
reference_is_installed() {
    local share=$1/share page
    for page in sessionfs.8 sessionfs-kill.8 sessionfs-bench.1 sessionfs.toml.5 sessionfs-setup.8 mount.sessionfs.8 \
        mount.fuse.sessionfs.8; do
        grep -q '^[.]' <(zcat "$share/man/man${page##*.}/$page.gz")
    done
    grep -qF '\-\-dry\-run' <(zcat "$share/man/man8/sessionfs-setup.8.gz")
    bash -c "source '$share/bash-completion/completions/sessionfs'; declare -F _sessionfs"
    not grep -qw worker "$share/bash-completion/completions/sessionfs"
    test -s "$share/sessionfs/alerts.yml"
    # Documents lie in one directory, and lead to each other in it.
    not grep -hE '\]\((docs|\.\.)/' "$share"/doc/sessionfs/README.md "$share"/doc/sessionfs/getting-started.md
    test -s "$share/sessionfs/grafana.json"
    # As needrestart reads it.
    perl -we 'our %nrconf; local $/; eval <STDIN>; die $@ if $@; my ($re) = keys %{$nrconf{override_rc}};
        exit !("sessionfs\@shop.service" =~ /$re/ and $nrconf{override_rc}{$re} == 0)' </etc/needrestart/conf.d/sessionfs.conf
}

# Those that no package has brought, and that have not to do with Debian's Redis.
strays() {
    files | awk '
        FILENAME != "-" { sub("^/(bin|sbin|lib|lib64)/", "/usr&"); packaged[$0]; next }
        !($1 in packaged)
    ' /var/lib/dpkg/info/*.list - | grep -v -e '^/var/lib/dpkg/' -e '/redis[^/]*\.service' -e '/rc[0-6]\.d/.*redis'
}

# The life of the Debian package, with a service manager and without. `start_odoo` is the caller's.
# shellcheck shell=bash
# shellcheck source=tests/install/guest/words.bash
source /srv/test/words.bash

newer_package() {
    make_newer
    dpkg-deb --raw-extract /srv/test/sessionfs.deb /srv/test/package
    cp $newer /srv/test/package/usr/bin/sessionfs
    sed -i 's/^Version: .*/&+newer/' /srv/test/package/DEBIAN/control
    (cd /srv/test/package && find usr -type f -print0 | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Znone --build /srv/test/package /srv/test/newer.deb
}
apt() { timeout 120 apt-get -qq -y "$@" </dev/null; }
has() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1")" = installed ]; }
state() { dpkg-query -W -f '${db:Status-Status}' sessionfs; }

package_life() {
    step "a shop at work, on plain files"
    make_odoo
    start_odoo
    strays >/srv/test/before

    step "apt installs the package, which mounts nothing yet"
    apt update
    apt install /srv/test/sessionfs.deb
    test -z "$(dpkg --audit)"
    dpkg --verify sessionfs
    not is_mounted
    sessionfs --version
    reference_is_installed /usr
    # Nobody is to find an open port of a server that nobody uses.
    not has redis-server
    not has valkey-server
    within 10 is_serving

    step "sessionfs-setup mounts; nobody is logged out, and no request fails"
    errors_before=$(errors)
    timeout 120 sessionfs-setup </dev/null
    is_mounted
    within 10 is_serving
    no_new_errors
    odoo check

    step "an upgrade: the new program serves, and no request fails"
    newer_package
    errors_before=$(errors)
    apt install /srv/test/newer.deb
    test -z "$(dpkg --audit)"
    cmp $newer /usr/bin/sessionfs
    cmp $newer "/proc/$(pgrep -n -f '^[^ ]*sessionfs worker')/exe"
    within 10 is_serving
    no_new_errors

    step "removed: unmounted, and Odoo writes plain files again"
    apt remove sessionfs
    test "$(state)" = config-files
    test -z "$(dpkg --audit)"
    not is_mounted
    odoo login anna bert chris dana
    odoo check

    step "installed again: the plain sessions of meanwhile are valid"
    apt install /srv/test/sessionfs.deb
    timeout 120 sessionfs-setup </dev/null
    is_mounted
    odoo check

    step "purged: nothing is left but the imported files"
    apt purge sessionfs
    not state
    test -z "$(dpkg --audit)"
    not is_mounted
    test -z "$(findmnt -n -t fuse.sessionfs)"
    not pgrep -f '^[^ ]*sessionfs (mount|worker|disk)'
    not getent passwd sessionfs
    diff /srv/test/before <(strays | grep -v "^$sessions.imported")
    odoo login anna bert chris dana
    within 10 is_serving
}

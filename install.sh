#!/bin/bash
# Puts Odoo's sessions on sessionfs, on Debian or Ubuntu, and takes it away again. docs/install.md describes it.
#
# How it is built: every `decide_...` looks at the system and notes what has to be done with `step TEXT FUNCTION`. The
# texts are the plan that is printed; the functions are then called in the same order. What is as it should be already
# gets no step, so a second run has nothing to do.
set -euo pipefail

# What it is called by: install.sh in the source tree, sessionfs-setup once it is installed.
readonly me=${0##*/}

readonly usage_of_source="usage: install.sh [OPTION]...

  --binary PATH         install this program
  --deb FILE            install this package
                        (neither: the program is built with cargo)
  --setup-only          the program is already installed; do only the setup
  --prefix DIR          install below DIR (default: /usr/local)
  --destdir DIR         for packagers: put the files below DIR, and do nothing else
"
readonly usage_of_setup="usage: sessionfs-setup [OPTION]...
"
readonly usage="
  --sessions DIR        Odoo's session directory (default: the one that is found)
  --owner USER          Odoo's user (default: the one that is found, or the directory's owner)
  --odoo-unit NAME      Odoo's systemd unit (default: those that are found); 'none' for none; may be repeated
  --idle TIME           idle time after which users log in again, for example 8h (default: 15min)
  --follow-parameters   let Odoo's administrators set lifetimes by its system parameters (docs/odoo-parameters.md)
  --instance NAME       set up a further Odoo on this host, with /etc/sessionfs/NAME.toml and sessionfs@NAME
  --restart-container   set up even if the running Odoo is in a container that must be restarted to see the mount
  --redis URL           use this Redis instead of a dedicated one: a server, sentinels or a Cluster
  --redis-user NAME     user for this Redis
  --redis-password-file FILE
                        file with its password
  --redis-ca FILE       certificates of the authorities that sign its own
  --redis-cert FILE, --redis-key FILE
                        certificate that this host shows to it, and its key
  --sentinel-user NAME, --sentinel-password-file FILE
                        the same for its sentinels
  --log-out-everybody   use the Redis that is named even if the sessions in use are not in it
  --redis-memory SIZE   memory limit of the dedicated Redis (default: 256mb, or a quarter of the RAM if that is less)
  --no-import           do not import the session files in the directory
  --after-import move|delete
                        what to do with their files after the import (default: move, to DIR.imported)
  --uninstall           remove sessionfs, and give the directory back to Odoo
      --purge           also remove the configuration and the sessions in the dedicated Redis
      --restore-mirror  replace the directory with the configured mirror
      --leave-mirror    leave the mirror where it is
  --dry-run             print the plan, and change nothing
  --yes                 accepted and ignored: the script asks no questions
  --help

Exit codes: 0 done, 1 failed, 2 the command line cannot be understood, 3 a decision is needed,
4 done, but 'sessionfs check' reports an error. The last line is 'result: changed' or 'result: unchanged'."

# What this installation did to the host, for the next run and for --uninstall: lines KEY=VALUE, and the installed files.
readonly host_record=/etc/sessionfs/installed
readonly manifest=/etc/sessionfs/installed.files
readonly updatedb=/etc/updatedb.conf
readonly user=sessionfs
readonly ready_within_seconds=90

# ---- Words ---------------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
fail() { printf '%s: %s\n' "$me" "$*" >&2; exit 1; }
misused() { printf "%s: %s; see '%s --help'\n" "$me" "$*" "$me" >&2; exit 2; }

# A question that only an option can answer: `undecided QUESTION CHOICE...`. A choice can be pasted as it is.
undecided() {
    printf '%s: %s\n' "$me" "$1" >&2
    shift
    printf '    %s\n' "$@" >&2
    exit 3
}

# One word of a command that can be pasted, even if whoever named it meant harm.
word() {
    local value=${1//\'/\'\\\'\'}
    [[ $1 =~ ^[A-Za-z0-9/._@:+-]+$ ]] || value="'$value'"
    [[ $1 != *[[:cntrl:]]* ]] || printf -v value %q "$1"
    say "$value"
}

# An option with its value, as it can be pasted: `choice OPTION VALUE [WHY]`.
choice() { say "$1 $(word "$2")${3:+   # $(printable "$3")}"; }

# What Odoo's user has named, without what would move a terminal's cursor or begin a line.
printable() { say "${1//[[:cntrl:]]/?}"; }

# What this script is started as by who reads its messages, for this mount.
again() { say "$me${name:+ --instance $name}"; }

# What a command of the program needs to be about this mount, if that is not the first one.
with_config() { [ -z "$name" ] || say " --config $config"; }

# What the program said in failing, without its name.
reason() { say "${1#sessionfs: }"; }

# ---- The plan ------------------------------------------------------------------------------------------------------

step_texts=()
step_functions=()

step() {
    step_texts+=("$1")
    step_functions+=("$2")
}

print_plan() {
    local number
    if [ ${#step_texts[@]} = 0 ]; then
        say "Nothing to do."
        return
    fi
    say "This will be done:"
    for number in "${!step_texts[@]}"; do indented "$(printf '%3d. ' $((number + 1)))" "${step_texts[number]}"; done
}

# A text behind its mark, in lines of 100 columns.
indented() {
    local mark=$1 line
    while IFS= read -r line; do
        printf '%s%s\n' "$mark" "${line% }"
        mark=${mark//?/ }
    done < <(fold -s -w $((100 - ${#mark})) <<<"$2")
}

carry_out_plan() {
    local number
    for number in "${!step_texts[@]}"; do
        "${step_functions[number]}"
        say "[$((number + 1))/${#step_texts[@]}] done"
    done
}

# For programs: whether anything was changed, or would be.
print_result() {
    if [ ${#step_texts[@]} = 0 ]; then
        say "result: unchanged"
    elif [ -n "$dry_run" ]; then
        say "result: would change"
    else
        say "result: changed"
    fi
}

# ---- Command line --------------------------------------------------------------------------------------------------

binary='' deb='' name='' sessions='' owner='' group='' idle='' redis_url='' redis_user='' redis_password='' redis_memory=''
redis_ca='' redis_cert='' redis_key='' sentinel_user='' sentinel_password=''
odoo_units=()
import=yes after_import=move restart_container='' follow_parameters='' log_out_everybody='' logs_out='' setup_only='' uninstall='' purge='' mirror_choice='' from_package='' dry_run=''
prefix='' destdir='' is_asked='' is_named='' owner_is_named=''

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --binary | --deb | --instance | --sessions | --owner | --odoo-unit | --idle | --redis | --redis-user \
                | --redis-password-file | --redis-ca | --redis-cert | --redis-key | --sentinel-user \
                | --sentinel-password-file | --redis-memory | --after-import | --prefix | --destdir)
                [ -n "${2:-}" ] || misused "$1 needs a value"
                set_option "$1" "$2"
                shift
                ;;
            --no-import) import='' ;;
            --restart-container) restart_container=yes ;;
            --follow-parameters) follow_parameters=true is_asked=yes ;;
            --log-out-everybody) log_out_everybody=yes ;;
            --setup-only) setup_only=yes ;;
            --uninstall) uninstall=yes ;;
            --purge) purge=yes ;;
            --restore-mirror) mirror_choice=restore ;;
            --leave-mirror) mirror_choice=leave ;;
            # Called by the package, which installs and removes its files itself.
            --from-package) from_package=yes ;;
            --dry-run) dry_run=yes ;;
            --yes) ;;
            --help | -h)
                if [ "$me" = sessionfs-setup ]; then say "$usage_of_setup$usage"; else say "$usage_of_source$usage"; fi
                exit 0
                ;;
            *) misused "unknown option '$1'" ;;
        esac
        shift
    done
    [ -z "$binary" ] || [ -z "$deb" ] || misused "--binary and --deb cannot be used together"
    [ -z "$redis_url" ] || [ -z "$redis_memory" ] || misused "--redis-memory is for the dedicated Redis, not for --redis"
    [ -n "$uninstall" ] || [ -z "$purge$mirror_choice" ] || misused "--purge, --restore-mirror and --leave-mirror need --uninstall"
    # Its files stand beside those of the first mount. (Who set up units by hand may have called them otherwise.)
    [ -n "$from_package" ] || [[ $name =~ ^([a-z0-9][a-z0-9_-]{0,31})?$ && $name != redis && $name != sessionfs ]] \
        || misused "--instance $name: use up to 32 of a-z, 0-9, _ and -, and neither redis nor sessionfs"
}

# The true path of the file that an option names.
named_file() {
    realpath -e -- "$2" 2>/dev/null || misused "$1 $2: there is no such file"
}

# An option with its value.
set_option() {
    case $1 in
        --binary) binary=$(realpath -e -- "$2" 2>/dev/null) || misused "--binary $2: there is no such file" ;;
        --deb) deb=$(realpath -e -- "$2" 2>/dev/null) || misused "--deb $2: there is no such file" ;;
        --instance) name=$2 ;;
        --sessions)
            [[ $2 = /* ]] || misused "--sessions $2: name an absolute path"
            sessions=$2 is_asked=yes is_named=yes
            ;;
        --owner) owner=$2 is_asked=yes owner_is_named=yes ;;
        --odoo-unit)
            [[ $2 =~ ^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*$ ]] || misused "--odoo-unit $2: that is not the name of a unit"
            odoo_units+=("${2%.service}")
            ;;
        --idle) idle=$2 is_asked=yes ;;
        --redis) redis_url=$2 is_asked=yes ;;
        --redis-user) redis_user=$2 is_asked=yes ;;
        --redis-password-file) redis_password=$(named_file "$@") || exit; is_asked=yes ;;
        --redis-ca) redis_ca=$(named_file "$@") || exit; is_asked=yes ;;
        --redis-cert) redis_cert=$(named_file "$@") || exit; is_asked=yes ;;
        --redis-key) redis_key=$(named_file "$@") || exit; is_asked=yes ;;
        --sentinel-user) sentinel_user=$2 is_asked=yes ;;
        --sentinel-password-file) sentinel_password=$(named_file "$@") || exit; is_asked=yes ;;
        --redis-memory)
            [[ $2 =~ ^[1-9][0-9]*(mb|gb)$ ]] || misused "--redis-memory $2: write it as 256mb or 2gb"
            redis_memory=$2
            ;;
        --after-import)
            [[ $2 =~ ^(move|delete)$ ]] || misused "--after-import $2: use move or delete"
            after_import=$2
            ;;
        --prefix)
            # Written into units.
            [[ $2 =~ ^(/[A-Za-z0-9._@:+,-]+)+/?$ ]] || misused "--prefix $2: name an absolute path of letters, digits and ._@:+,-"
            prefix=${2%/}
            ;;
        --destdir) destdir=$(realpath -m -- "$2") ;;
    esac
}

# Sets what differs from mount to mount: the first one, or the further one called `name`.
name_mount() {
    if [ -z "$name" ]; then
        config=/etc/sessionfs/sessionfs.toml record=$host_record log=/var/log/sessionfs.log
        unit=sessionfs.service account=$user password_file=/etc/sessionfs/redis.password
    else
        has_systemd || fail "--instance needs systemd, which does not run here: it sets up the unit sessionfs@$name"
        config=/etc/sessionfs/$name.toml record=/etc/sessionfs/$name.installed
        unit=sessionfs@$name.service account=$user-$name password_file=/etc/sessionfs/$name.password
    fi
}

# ---- The system as it is -------------------------------------------------------------------------------------------

has_systemd() { [ -d /run/systemd/system ]; }
has_program() { command -v "$1" >/dev/null; }
# In the mount table. A mount whose keeper was killed stays there, dead.
is_mounted() { findmnt --noheadings --types fuse.sessionfs --mountpoint "$1" >/dev/null 2>&1; }
# (What stat says without -f, the kernel may still remember.)
is_served() { is_mounted "$1" && timeout 10 stat -f -- "$1" >/dev/null 2>&1; }
is_installed_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
# (With pipefail, `| grep -q` fails when grep is done before the other: so no pipe here.)
is_package_known() { grep -q '^ *Candidate: [^(]' <<<"$(apt-cache policy "$1" 2>/dev/null)"; }

# The value of KEY of what an earlier run noted: of this mount, of the host, of a record that is named.
recall() { recall_from "$record" "$1"; }
recall_host() { recall_from $host_record "$1"; }
recall_from() { [ ! -r "$1" ] || sed -n "s/^$2=//p" "$1"; }

remember() { remember_in "$record" "$1" "$2"; }
remember_host() { remember_in $host_record "$1" "$2"; }
remember_in() {
    local rest=
    [ ! -e "$1" ] || rest=$(grep -v "^$2=" "$1" || true)
    { [ -z "$rest" ] || printf '%s\n' "$rest"; printf '%s=%s\n' "$2" "$3"; } >"$1.new"
    chmod 600 "$1.new"
    mv -f "$1.new" "$1"
}

# What the configuration says, as variables: redis.url is config_redis_url, and what it does not say of lifetimes is
# default_lifetime_... (`read_config PROGRAM`)
read_config() {
    local facts file=$config
    unset "${!config_@}" "${!default_@}"
    [ -e "$file" ] || { file=$scratch/empty.toml; : >"$file"; }
    facts=$("$1" config show --shell --config "$file" 2>"$scratch/refused") || { reason "$(cat "$scratch/refused")" >&2; return 1; }
    eval "$facts"
}

# The directories of all mounts of sessionfs. (Raw is with spaces as \x20.)
mounted_directories() {
    local dir
    findmnt --noheadings --raw --types fuse.sessionfs --output TARGET | sort -u \
        | while IFS= read -r dir; do printf '%b\n' "$dir"; done
}

# The further mounts that were set up, or whose unit is there: names.
other_instances() {
    local file listed
    {
        for file in /etc/sessionfs/*.installed; do
            [ ! -e "$file" ] || [ -z "$(recall_from "$file" mountpoint)" ] || { file=${file##*/}; say "${file%.installed}"; }
        done
        if has_systemd; then
            for file in /etc/systemd/system/*.wants/sessionfs@*.service; do
                [ ! -L "$file" ] || { file=${file##*/sessionfs@}; say "${file%.service}"; }
            done
            while read -r listed _; do
                listed=${listed#sessionfs@}
                [ -z "$listed" ] || say "${listed%.service}"
            done < <(systemctl list-units --plain --no-legend --state active,activating,reloading 'sessionfs@*.service')
        fi
    } | awk '!known[$0]++'
}

# Where the files of this script's tree, or of its installation, are.
locate() {
    local script
    script=$(realpath -e -- "${BASH_SOURCE[0]}")
    here=${script%/*}
    if [ "${script##*/}" = sessionfs-setup ]; then
        share=${here%/*}/share/sessionfs
        prefix=${prefix:-${here%/*}}
        [ -n "$binary$deb" ] || setup_only=yes
    else
        share=$here
        prefix=${prefix:-/usr/local}
    fi
    [ -z "$setup_only" ] || { [ ! -x /usr/bin/sessionfs ] || [ -x "$prefix/bin/sessionfs" ] || prefix=/usr; }
    [ -z "$deb" ] || prefix=/usr
    program=$prefix/bin/sessionfs
    unit_dir=/etc/systemd/system
    [ "$prefix" != /usr ] || unit_dir=/usr/lib/systemd/system
}

# ---- The program ---------------------------------------------------------------------------------------------------

# `is_at_least VERSION WANTED`
is_at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Sets `binary` to the program that will be installed.
find_binary() {
    if [ -n "$setup_only" ]; then
        [ -x "$program" ] || fail "$program does not exist; omit --setup-only, or install the package first"
        binary=$program
    elif [ -n "$deb" ]; then
        dpkg-deb --fsys-tarfile "$deb" | tar -xC "$scratch" ./usr/bin/sessionfs ./usr/share/sessionfs \
            || fail "--deb $deb: not a package of sessionfs"
        binary=$scratch/usr/bin/sessionfs
        share=$scratch/usr/share/sessionfs
    elif [ -z "$binary" ]; then
        build
    fi
    [ -n "$setup_only$deb" ] || [ -e "$here/Cargo.toml" ] || fail "--binary needs the source tree around install.sh"
    local version
    version=$("$binary" --version 2>&1) || fail "$binary does not run on this system: ${version##*$'\n'}; build it here, or use one for this distribution and architecture"
}

build() {
    local wanted found cargo as=()
    [ -e "$here/Cargo.toml" ] || fail "this script is not in a source tree; name a program with --binary or a package with --deb"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
    cargo=$(command -v cargo || true)
    [ -n "$cargo" ] || [ ! -x /root/.cargo/bin/cargo ] || cargo=/root/.cargo/bin/cargo
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        # The Rust of who called sudo, and as that user: root is to own nothing in their tree.
        local home
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        [ ! -x "$home/.cargo/bin/cargo" ] || { cargo=$home/.cargo/bin/cargo; as=(runuser -u "$SUDO_USER" --); }
    fi
    local remedy="install a newer Rust with its own installer, as the user who builds:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
    . ~/.cargo/env
and start this script again; or build elsewhere, and name the program with --binary or the package with --deb"
    [ -n "$cargo" ] || fail "building sessionfs needs Rust $wanted or newer, and there is no cargo; $remedy"
    found=$(cd "$here" && "${as[@]}" "$cargo" --version | cut -d' ' -f2) || fail "$cargo does not run; $remedy"
    is_at_least "$found" "$wanted" || fail "building sessionfs needs Rust $wanted or newer, and $cargo is $found; $remedy"
    has_program cc || fail "building sessionfs needs a C compiler: apt-get install gcc libc6-dev"
    binary=$here/target/release/sessionfs
    if [ -n "$dry_run" ]; then
        say "The program would be built first ($cargo $found, in $here/target); the plan depends on what it finds."
        # Of an earlier build.
        [ ! -x "$binary" ] || return 0
        exit 0
    fi
    say "Building with $cargo $found, in $here/target ..."
    (cd "$here" && "${as[@]}" "$cargo" build --release --locked) || fail "the build failed; see above"
}

# ---- Files ---------------------------------------------------------------------------------------------------------

# Lays everything that is installed out below $1, under its final name.
lay_out() {
    local root=$1 share_dir=$prefix/share/sessionfs page file
    put() { install -D -m "$1" -- "$2" "$root$3"; }
    put 755 "$binary" "$prefix/bin/sessionfs"
    put 755 "$(realpath -e -- "${BASH_SOURCE[0]}")" "$prefix/sbin/sessionfs-setup"
    # mount(8) looks for its helpers here alone.
    install -d -m 755 "$root/usr/sbin"
    ln -sfr "$root$prefix/bin/sessionfs" "$root/usr/sbin/mount.sessionfs"
    ln -sfr "$root$prefix/bin/sessionfs" "$root/usr/sbin/mount.fuse.sessionfs"

    for file in sessionfs.service sessionfs@.service sessionfs-check.service sessionfs-check.timer; do
        sed "s|/usr/bin/sessionfs|$prefix/bin/sessionfs|g" "$share/systemd/$file" >"$scratch/unit"
        put 644 "$scratch/unit" "$unit_dir/$file"
        put 644 "$share/systemd/$file" "$share_dir/systemd/$file"
    done
    put 644 "$share/systemd/odoo.service.d/sessionfs.conf" "$share_dir/systemd/odoo.service.d/sessionfs.conf"
    for file in redis valkey; do
        put 644 "$share/systemd/redis-instance.conf" "$unit_dir/$file-server@sessionfs.service.d/sessionfs.conf"
    done
    put 644 "$here/packaging/needrestart/sessionfs.conf" /etc/needrestart/conf.d/sessionfs.conf

    mkdir -p "$scratch/man"
    "$binary" man "$scratch/man"
    # (Where it is now, no program may be startable.)
    bash "$root$prefix/sbin/sessionfs-setup" --help | "$here/packaging/man/setup-page" >"$scratch/man/sessionfs-setup.8"
    for page in "$scratch/man/"*; do
        gzip -9n "$page"
        put 644 "$page.gz" "$prefix/share/man/man${page##*.}/${page##*/}.gz"
    done
    "$binary" completions bash >"$scratch/bash"
    "$binary" completions zsh >"$scratch/zsh"
    "$binary" completions fish >"$scratch/fish"
    local zsh_dir=site-functions
    [ "$prefix" != /usr ] || zsh_dir=vendor-completions
    put 644 "$scratch/bash" "$prefix/share/bash-completion/completions/sessionfs"
    put 644 "$scratch/zsh" "$prefix/share/zsh/$zsh_dir/_sessionfs"
    put 644 "$scratch/fish" "$prefix/share/fish/vendor_completions.d/sessionfs.fish"

    while IFS= read -r file; do
        # All lie in one directory there.
        sed 's#](docs/#](#g; s#](\.\./#](#g' "$here/$file" >"$scratch/document"
        put 644 "$scratch/document" "$prefix/share/doc/sessionfs/${file#docs/}"
    done < <(cd "$here" && find README.md CHANGELOG.md SECURITY.md docs -name '*.md')
    # What a program reads: minimal systems and images drop documents.
    for file in alerts.yml grafana.json; do
        put 644 "$here/docs/$file" "$share_dir/$file"
        ln -sfr "$root$share_dir/$file" "$root$prefix/share/doc/sessionfs/$file"
    done
}

# Where files are missing or differ.
decide_files() {
    [ -z "$setup_only" ] || return 0
    if [ -n "$deb" ]; then
        # Its units would go before those of the package.
        [ ! -e $manifest ] || fail "sessionfs is installed from source; upgrade it with --binary, or stop Odoo, remove it (sessionfs-setup --uninstall; sessions in Redis stay), run this again, and start Odoo"
        local here_now offered
        here_now=$(dpkg-query -W -f '${Version}' sessionfs 2>/dev/null || true)
        offered=$(dpkg-deb -f "$deb" Version)
        if ! is_installed_package sessionfs || [ "$here_now" != "$offered" ] || ! cmp -s "$binary" "$program"; then
            local older=''
            ! dpkg --compare-versions "$here_now" gt "$offered" || older=", which is older than $here_now"
            step "Install the package $deb ($offered$older)" install_deb
        fi
        return
    fi
    ! is_installed_package sessionfs \
        || fail "the package sessionfs is installed; upgrade it with --deb, or stop Odoo, remove it (sessionfs-setup --uninstall; sessions in Redis stay), run this again, and start Odoo"
    lay_out "$scratch/files"
    local file changed=() known=no
    [ ! -x "$program" ] || known=yes
    while IFS= read -r file; do
        if [ -L "$scratch/files$file" ]; then
            [ "$(readlink "$file" 2>/dev/null)" = "$(readlink "$scratch/files$file")" ] || changed+=("$file")
        else
            cmp -s "$scratch/files$file" "$file" || changed+=("$file")
        fi
    done < <(staged_files)
    # A run that was killed may have left all files, and no list of them.
    [ ${#changed[@]} -gt 0 ] || [ ! -e $manifest ] || return 0
    changed_files=("${changed[@]}")
    if [ $known = no ]; then
        step "Install $program, sessionfs-setup, the mount helpers in /usr/sbin, units in $unit_dir, man pages, completions and documents ($prefix/share)" install_files
    elif [ ${#changed[@]} = 0 ]; then
        step "Record which files are installed ($manifest)" install_files
    elif cmp -s "$binary" "$program"; then
        step "Replace ${#changed[@]} installed files that differ" install_files
    else
        step "Upgrade $program to $("$binary" --version | cut -d' ' -f2), with its other files" install_files
    fi
    cmp -s "$binary" "$program" || program_changes=yes
}

staged_files() { (cd "$scratch/files" && find . \( -type f -o -type l \) -printf '/%P\n' | sort); }

# The directories that are missing on the way to a file, from the top.
missing_parents() {
    local dir=${1%/*}
    [ ! -d "$dir" ] || return 0
    missing_parents "$dir"
    say "$dir"
}

# Each by a rename: who runs or reads the old one goes on with it.
install_files() {
    local file dir
    make_config_dir
    # The list comes first: what a run that was killed has left is taken away by it, too.
    {
        staged_files
        {
            [ ! -e $manifest ] || grep '/$' $manifest || true
            for file in "${changed_files[@]}"; do missing_parents "$file" | sed 's|$|/|'; done
        } | sort -u
    } >$manifest.new
    mv -f $manifest.new $manifest
    remember_host prefix "$prefix"
    for file in "${changed_files[@]}"; do
        while IFS= read -r dir; do mkdir -m 755 -- "$dir"; done < <(missing_parents "$file")
        cp -P --preserve=mode -- "$scratch/files$file" "$file.sessionfs-new"
        mv -fT -- "$file.sessionfs-new" "$file"
    done
    ! has_systemd || systemctl daemon-reload
}

install_deb() {
    apt_get install --allow-downgrades "$deb" || fail "$deb cannot be installed; see above"
    make_config_dir
    remember_host prefix /usr
}

make_config_dir() { install -d -m 755 /etc/sessionfs; }

# ---- Packages and the kernel's module ------------------------------------------------------------------------------

# Quiet, unless it fails.
apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 "$@" </dev/null >"$scratch/apt" 2>&1 8>&- && return
    cat "$scratch/apt" >&2
    return 1
}

# The kind of Redis server that is installed: redis or valkey.
server_here() {
    local kind
    for kind in redis valkey; do
        if has_program "$kind-server"; then
            say $kind
            return
        fi
    done
}

# Whether the distribution's server can be run as a further instance.
has_instances() {
    local dir
    for dir in /usr/lib/systemd/system /lib/systemd/system /etc/systemd/system; do
        [ ! -e "$dir/$1-server@.service" ] || return 0
    done
    return 1
}

decide_packages() {
    [ -z "$needs_server" ] || [ -n "$(server_here)" ] && return 0
    has_program apt-get || fail "a Redis is needed, but there is no apt-get to install it; install redis-server, or name a Redis with --redis"
    server_package=redis-server
    if is_package_known valkey-server && ! is_package_known redis-server; then server_package=valkey-server; fi
    step "Install the package $server_package with apt-get; the distribution's own instance is not started" install_server
}

install_server() {
    is_package_known "$server_package" || apt_get update || fail "apt-get update failed; see above"
    if is_package_known valkey-server && ! is_package_known redis-server; then server_package=valkey-server; fi
    # Packages start what they bring, unless this says no. A policy that is there already is somebody's own.
    if [ ! -e $policy ]; then
        printf '%s\n' "$policy_text" >$policy
        chmod 755 $policy
    fi
    apt_get install --no-install-recommends "$server_package" \
        || fail "$server_package cannot be installed; see above, or name a Redis with --redis"
    take_policy_away
    # Nobody has used it so far, and nobody is to find an open port.
    if has_program systemctl; then
        systemctl --quiet disable "$server_package.service"
    elif has_program update-rc.d; then
        update-rc.d "$server_package" disable >/dev/null 2>&1 || true
    fi
    make_config_dir
    remember_host server_package "$server_package"
}

readonly policy=/usr/sbin/policy-rc.d
readonly policy_text="#!/bin/sh
# Made by sessionfs-setup while it installs a package; it takes this away then, or when it is started again.
exit 101"

# Also one that was left by a run that was killed: no package would start its services any more.
take_policy_away() { [ "$(cat $policy 2>/dev/null)" != "$policy_text" ] || rm -f -- $policy; }

decide_device() {
    [ ! -e /dev/fuse ] || return 0
    step "Load the kernel module fuse" load_module
}

load_module() {
    modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || fail "/dev/fuse is missing; in a container, add --device /dev/fuse --cap-add SYS_ADMIN"
}

# updatedb of plocate or mlocate lists every directory of each filesystem, but of the types that are named there.
is_pruned() { grep -qiE '^[[:space:]]*PRUNEFS[[:space:]]*=.*[" ]fuse\.sessionfs[" ]' $updatedb; }

decide_updatedb() {
    [ -f $updatedb ] && [ ! -L $updatedb ] && ! is_pruned || return 0
    step "Add fuse.sessionfs to PRUNEFS in $updatedb, so that updatedb does not list every session each night" prune_updatedb
}

prune_updatedb() {
    make_config_dir
    remember_host updatedb yes
    if grep -qE '^[[:space:]]*PRUNEFS[[:space:]]*=[[:space:]]*"' $updatedb; then
        edit_updatedb 's/^\([[:space:]]*PRUNEFS[[:space:]]*=[[:space:]]*"[^"]*\)"/\1 fuse.sessionfs"/'
    else
        edit_updatedb '$ a PRUNEFS="fuse.sessionfs"'
    fi
}

decide_to_unprune() {
    [ "$(recall_host updatedb)" = yes ] && [ -f $updatedb ] && [ ! -L $updatedb ] && is_pruned || return 0
    step "Remove fuse.sessionfs from PRUNEFS in $updatedb" unprune_updatedb
}

unprune_updatedb() {
    edit_updatedb '/^PRUNEFS="fuse\.sessionfs"$/d
        /^[[:space:]]*PRUNEFS[[:space:]]*=/ { s/ fuse\.sessionfs\([" ]\)/\1/I; s/"fuse\.sessionfs  */"/I; s/"fuse\.sessionfs"/""/I }'
    sed -i '/^updatedb=/d' $host_record
}

# In one step: updatedb may be reading it.
edit_updatedb() {
    cp -p -- $updatedb $updatedb.sessionfs-new
    sed -i "$1" $updatedb.sessionfs-new
    mv -fT -- $updatedb.sessionfs-new $updatedb
}

decide_user() {
    ! getent passwd $user >/dev/null || return 0
    step "Create the system user $user, without login, for the worker" make_user
}

make_user() {
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin $user
    make_config_dir
    remember_host user_made yes
}

# ---- Redis ---------------------------------------------------------------------------------------------------------

# Sets `redis_plan`: other (named), instance (the distribution's, its own), private (started by sessionfs). Who is
# configured already stays until another is named: its sessions are there.
choose_redis() {
    if [ -n "$redis_url" ] && [ "$redis_url" != "${config_redis_url:-}" ]; then
        redis_plan=other
    elif [ -e "$config" ]; then
        redis_url=${config_redis_url:-}
        case $redis_url in
            '') redis_plan=private ;;
            unix:/run/*-sessionfs/*) redis_plan=instance ;;
            *)
                redis_plan=other
                redis_user=${redis_user:-${config_redis_username:-}}
                redis_password=${redis_password:-${config_redis_password_file:-}}
                redis_ca=${redis_ca:-${config_redis_ca_file:-}}
                redis_cert=${redis_cert:-${config_redis_cert_file:-}}
                redis_key=${redis_key:-${config_redis_key_file:-}}
                sentinel_user=${sentinel_user:-${config_redis_sentinel_username:-}}
                sentinel_password=${sentinel_password:-${config_redis_sentinel_password_file:-}}
                ;;
        esac
    elif ! has_systemd; then
        redis_plan=private
    elif [ -n "$(server_here)" ] && ! has_instances "$(server_here)"; then
        redis_plan=private
    else
        redis_plan=instance
    fi
    [ "$redis_plan" = other ] || [ -z "$redis_user$redis_password$redis_ca$redis_cert$redis_key$sentinel_user$sentinel_password" ] \
        || misused "--redis-user, --redis-password-file, --redis-ca, --redis-cert, --redis-key and --sentinel-... are for a Redis that --redis names"
    needs_server=
    [ "$redis_plan" = other ] || needs_server=yes
}

# 256 MB, or a quarter of the RAM if that is less.
default_memory() {
    awk '/^MemTotal:/ { mb = int($2 / 4096); if (mb > 256) mb = 256; if (mb < 32) mb = 32; print mb "mb" }' /proc/meminfo
}

# Names of the instance: the one that was set up, whatever was installed since; or of the server that is here; or, of
# one that is yet to be installed, those of the package.
name_instance() {
    kind=$(recall_host instance)
    kind=${kind%%-server@*}
    kind=${kind:-$(server_here)}
    kind=${kind:-${server_package%-server}}
    instance=$kind-server@sessionfs.service
    instance_config=/etc/$kind/$kind-sessionfs.conf
    instance_dir=/var/lib/$kind/sessionfs
    instance_socket=/run/$kind-sessionfs/$kind-server.sock
}

decide_redis() {
    [ "$redis_plan" = instance ] || return 0
    name_instance
    memory=${redis_memory:-$(default_memory)}
    local is_made='' stale
    if [ ! -e "$instance_config" ]; then
        is_made=yes
        step "Set up a dedicated Redis, $instance: $instance_config, only on $instance_socket, synced to disk every second ($instance_dir), at most $memory, without eviction" make_instance
    elif [ -n "$redis_memory" ] && ! grep -qx "maxmemory $redis_memory" "$instance_config"; then
        step "Set the memory limit of $instance to $redis_memory, and restart it; Odoo waits meanwhile" renew_memory
    fi
    if [ -n "$is_made" ] || [ ! -e "$password_file" ] || ! grep -q "^user $account " "$instance_config"; then
        # What serves has the old password.
        reconfigured=yes
        local waits="; $instance is restarted, and Odoo waits meanwhile"
        [ -z "$is_made" ] || waits=''
        step "Create the Redis user $account, for keys that begin with '$(redis_prefix):', with its own password ($password_file)$waits" make_account
    fi
    stale=$([ -n "$is_made" ] || stale_accounts)
    if [ -n "$stale" ]; then
        check_accounts
        step "Update the rights of these Redis users ($instance_config), and restart $instance; Odoo waits meanwhile: ${stale//$'\n'/ }" renew_rights
    fi
    # Making it stops one that runs.
    if [ -n "$is_made" ] || ! systemctl is-active --quiet "$instance" || ! systemctl is-enabled --quiet "$instance" 2>/dev/null; then
        step "Enable and start $instance" start_instance
    fi
}

make_instance() {
    name_instance
    has_instances "$kind" || fail "$kind-server@.service does not exist, so a dedicated Redis cannot be set up; name a Redis with --redis"
    make_config_dir
    install -d -m 750 -o "$kind" -g "$kind" "$instance_dir"
    (umask 077 && cat >"$instance_config.new") <<CONFIG
# The Redis that holds Odoo's sessions; made by sessionfs-setup, and yours to change.

# Its directory and everything in it can be reached on this host by name. Who connects needs the password.
port 0
unixsocket $instance_socket
unixsocketperm 777
# Off, so that nobody can be this user, but with all rights: when the server starts, it reads its append-only file as
# this user, and leaves out, with no more than a line in its log, whatever the user may not do.
user default off ~* &* +@all

# What is lost is a logout: every save is on disk within a second, and nothing is evicted. When it is full, saves fail.
dir $instance_dir
appendonly yes
appendfsync everysec
save ""
maxmemory $memory
maxmemory-policy noeviction

pidfile /run/$kind-sessionfs/$kind-server.pid
logfile /var/log/$kind/$kind-server-sessionfs.log
loglevel notice
CONFIG
    chown "root:$kind" "$instance_config.new"
    chmod 640 "$instance_config.new"
    mv -f "$instance_config.new" "$instance_config"
    remember_host instance "$instance"
    # One that runs has the old password.
    systemctl stop "$instance"
}

# The beginning of this mount's keys.
redis_prefix() { say "${config_redis_prefix:-$account}"; }

# What follows a user's name and password in Redis's configuration: `rights_of PREFIX`.
rights_of() { "$binary" redis-acl --with-check --prefix "$1"; }

make_account() {
    name_instance
    local password hash
    password=$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '%s\n' "$password" >"$password_file")
    hash=$(printf %s "$password" | sha256sum | cut -d' ' -f1)
    sed -i "/^user $account /d" "$instance_config"
    say "user $account on #$hash $(rights_of "$(redis_prefix)")" >>"$instance_config"
    systemctl try-restart "$instance"
}

# The users of this and of all other mounts.
accounts() { sed -n "s/^user \($user\|$user-[a-z0-9_-]*\) .*/\1/p" "$instance_config"; }

# What its line says after its name: `account_line ACCOUNT`.
account_line() { sed -n "s/^user $1 //p" "$instance_config"; }

# The same as this release wants it, for the same password and prefix.
wanted_account_line() {
    local line hash prefix
    line=$(account_line "$1")
    hash=$(sed -n 's/^on #\([0-9a-f]\{64\}\) .*/\1/p' <<<"$line")
    prefix=$(sed -n 's/.* ~\([^ ]*\):\* .*/\1/p' <<<"$line")
    [ "$1" != "$account" ] || prefix=$(redis_prefix)
    [ -z "$hash$prefix" ] || say "on #$hash $(rights_of "${prefix:-$1}")"
}

# Those whose rights are not of this release.
stale_accounts() {
    local one
    for one in $(accounts); do
        [ "$(account_line "$one")" = "$(wanted_account_line "$one")" ] || say "$one"
    done
}

renew_rights() {
    local one
    for one in $(stale_accounts); do
        sed -i "/^user $one /c user $one $(wanted_account_line "$one")" "$instance_config"
    done
    systemctl try-restart "$instance"
}

# A line that was changed so that it cannot be told what it is to be.
check_accounts() {
    local one wanted
    for one in $(stale_accounts); do
        wanted=$(wanted_account_line "$one")
        [[ $wanted = "on #"[0-9a-f]* ]] || fail "the rights in $instance_config cannot be updated, because its line 'user $one' was changed; write it as: user $one on #SHA256_OF_THE_PASSWORD $(rights_of "$one")"
    done
}

renew_memory() {
    if grep -q '^maxmemory ' "$instance_config"; then
        sed -i "s/^maxmemory .*/maxmemory $redis_memory/" "$instance_config"
    else
        printf '\nmaxmemory %s\n' "$redis_memory" >>"$instance_config"
    fi
    systemctl try-restart "$instance"
}

start_instance() {
    name_instance
    systemctl --quiet enable "$instance"
    systemctl start "$instance" || fail "$instance does not start; see journalctl -u $instance and /var/log/$kind"
}

# ---- Odoo's session directory --------------------------------------------------------------------------------------

candidate_paths=() candidate_owners=() candidate_groups=() candidate_sources=() candidate_units=() candidate_sees=()
units_here=()

discovered_units=''

# Asks the program where Odoo keeps its sessions. What another mount is for is no candidate.
discover() {
    local facts number variable taken
    facts=$("$binary" discover --shell 2>/dev/null) || [ -n "$facts" ] || return 0
    eval "$facts"
    taken=$(taken_directories)
    fact() { variable=discovered_${number}_$1; say "${!variable}"; }
    for ((number = 0; number < discovered; number++)); do
        grep -qxF -- "$(fact path)" <<<"$taken" && continue
        candidate_paths+=("$(fact path)")
        candidate_owners+=("$(fact owner)")
        candidate_groups+=("$(fact group)")
        candidate_sources+=("$(fact source)")
        candidate_units+=("$(fact units)")
        candidate_sees+=("$(fact sees_mount)")
    done
}

# The directories that were set up for other mounts.
taken_directories() {
    local file
    for file in $host_record /etc/sessionfs/*.installed; do
        [ "$file" = "$record" ] || [ ! -r "$file" ] || recall_from "$file" mountpoint
    done
}

# Sets `sessions`, `owner` and `group`, and `units_here`: Odoo's units that use the directory.
find_sessions() {
    local number choices=() known=''
    discover
    [ -n "$sessions" ] || { sessions=${config_mountpoint:-} is_named=${config_mountpoint:+yes}; }
    if [ -z "$sessions" ]; then
        if [ ${#candidate_paths[@]} = 0 ]; then
            undecided "no Odoo is found on this host${name:+ that is not set up already}, so neither are its sessions; name the directory, which is 'sessions' in Odoo's data_dir:" "--sessions DIR"
        elif [ ${#candidate_paths[@]} -gt 1 ]; then
            for number in "${!candidate_paths[@]}"; do
                choices+=("$(choice --sessions "${candidate_paths[number]}" "${candidate_owners[number]}; ${candidate_sources[number]}")")
            done
            undecided "there is more than one directory with sessions; name one (and set the others up with --instance NAME):" "${choices[@]}"
        fi
        sessions=${candidate_paths[0]}
    fi
    [ -e "$sessions" ] || is_mounted "$sessions" || sessions=$(realpath -m -- "$sessions")
    [ ! -e "$sessions" ] || sessions=$(realpath -e -- "$sessions")
    # Written into the configuration and a unit. Not before symbolic links were followed: Odoo's user may have made them.
    [[ $sessions =~ ^/[A-Za-z0-9/._@:+,\ -]+$ && $sessions != *" " ]] \
        || fail "$(printable "$sessions"): this script does not support such characters in a name; mount it by hand (docs/configuration.md)"

    for number in "${!candidate_paths[@]}"; do
        [ "${candidate_paths[number]}" != "$sessions" ] || known=$number
    done
    [ -z "$known" ] || read -ra units_here <<<"${candidate_units[known]}"
    units_here=("${units_here[@]%.service}")
    [ -n "$owner" ] || owner=${config_owner:-}
    if [ -z "$owner" ] && [ -n "$known" ]; then
        owner=${candidate_owners[known]} group=${candidate_groups[known]}
    fi
    [ -n "$owner" ] || owner=$(stat -c %U -- "$sessions" 2>/dev/null || true)
    [ "$owner" != UNKNOWN ] || owner=$(stat -c %u -- "$sessions")
    [ "$owner" != root ] || [ -z "$owner_is_named" ] || misused "--owner root: the owner cannot be root; name the user that Odoo runs as"
    if [ -z "$owner" ] || [ "$owner" = root ]; then
        owner=odoo
        getent passwd odoo >/dev/null || undecided "$sessions does not tell who Odoo runs as; name its user:" "--owner USER"
    fi
    # The user of an Odoo in a container may have no name here.
    [[ $owner =~ ^[0-9]+$ ]] || getent passwd "$owner" >/dev/null \
        || fail "the user $owner does not exist; name Odoo's user with --owner"
    [ -n "$group" ] || group=$(group_of_owner)
    [ -n "$group" ] || group=$(stat -c %g -- "$sessions" 2>/dev/null || say "$owner")
}

# What is read in Odoo's configuration is the word of Odoo's user, and a link in its data_dir may lead anywhere: a
# directory that this user does not have anyway is not handed out unless an administrator names it.
doubt_ownership() {
    local path=$sessions uid
    # (Who is not root cannot look.)
    if [ -n "$is_named" ] || [ "$(id -u)" != 0 ]; then return 0; fi
    while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done
    uid=$(id -u -- "$owner" 2>/dev/null || say "$owner")
    case $(stat -c '%u %a' -- "$path") in
        "$uid "*) return 0 ;;
        # As a mount has left it.
        "0 0" | "0 "[1-7]000) [ "$path" != "$sessions" ] || return 0 ;;
    esac
    undecided "Odoo's sessions would be in $sessions, but $path does not belong to its user $owner; if that is meant, name it:" \
        "$(choice --sessions "$sessions")"
}

# The owner's own group; nothing for a user without a name.
group_of_owner() { id -gn -- "$owner" 2>/dev/null || true; }

# Before anything is done: a container sees what is mounted later only in a volume that passes mounts on.
decide_containers() {
    local number
    ! is_mounted "$sessions" || return 0
    for number in "${!candidate_paths[@]}"; do
        if [ "${candidate_paths[number]}" != "$sessions" ] || [ "${candidate_sees[number]}" != no ]; then continue; fi
        [ -z "$restart_container" ] || { blind_odoo=${candidate_sources[number]}; return 0; }
        undecided "the Odoo that runs would not see the mount on $sessions, and nobody could use it until it is restarted (${candidate_sources[number]}); two ways:" \
            "start its container anew with the directory above as a volume that passes mounts on (-v DIR:DIR:rslave), and start $(again) again" \
            "--restart-container   set up now, and restart that container yourself right after; its sessions stay"
    done
}

decide_directory() {
    [ -z "$(recall mountpoint)" ] || [ "$(recall mountpoint)" = "$sessions" ] \
        || fail "sessionfs is set up for $(recall mountpoint); remove that first ($(again) --uninstall), or set up a further one: $me --instance NAME $(choice --sessions "$sessions")"
    ! grep -qxF -- "$sessions" <<<"$(taken_directories)" || fail "$sessions is already set up by another instance; name another directory"
    if ! is_mounted "$sessions"; then
        if [ -e "$sessions" ]; then
            look_at_directory
        else
            local above=$sessions
            while [ ! -e "$above" ]; do above=$(dirname -- "$above"); done
            [ -d "$above" ] || fail "cannot create $sessions: $above is not a directory"
            step "Create the directory $sessions for $owner" make_directory
        fi
        doubt_ownership
    fi
    [ -n "$(recall mountpoint)" ] || step "Record the present state of the directory, for --uninstall ($record)" note_directory
}

# Sets `session_count`. What a mount would refuse of the directory is refused here, before anything is changed; what else
# it would miss is yet to be installed.
look_at_directory() {
    local said code=0
    said=$("$binary" mount --dry-run "$sessions" 2>"$scratch/refused") || code=$?
    # Who is not root cannot look.
    [ "$(id -u)" != 0 ] && return
    case $code in
        # The mountpoint is missing, is none, holds what is not Odoo's, is mounted on already.
        23 | 24 | 25 | 26) fail "$(reason "$(cat "$scratch/refused")")" ;;
    esac
    session_count=$(sed -n 's/^sessions //p' <<<"$said")
    local unmovable
    unmovable=$(sed -n 's/^unmovable //p' <<<"$said")
    [ -z "$unmovable" ] || [ -z "$import" ] \
        || fail "$sessions: its session files cannot be moved ($unmovable); make the directory writable for root, or set up without them (their users log in again): --no-import"
}

# Where Odoo's user may change names, root follows none.
as_owner() {
    if [[ $owner =~ ^[0-9]+$ ]]; then
        setpriv --reuid "$owner" --regid "$group" --clear-groups -- "$@"
    else
        runuser -u "$owner" -- "$@"
    fi
}

make_directory() {
    local path=$sessions missing=()
    while [ ! -e "$path" ]; do
        missing=("$path" "${missing[@]}")
        path=$(dirname -- "$path")
    done
    local uid
    uid=$(id -u -- "$owner" 2>/dev/null || say "$owner")
    for path in "${missing[@]}"; do
        if [ "$(stat -c %u -- "$(dirname -- "$path")")" = "$uid" ]; then
            # From where root is: not all of the way may be open to this user.
            (cd -- "$(dirname -- "$path")" && as_owner mkdir -m 700 -- "./${path##*/}")
        else
            install -d -m 700 -o "$owner" -g "$group" -- "$path"
        fi
    done
}

note_directory() {
    local mode=700
    make_config_dir
    # A mount that is there already, or was, hides it.
    if ! is_mounted "$sessions" && [ "$(stat -c %u -- "$sessions")" != 0 ]; then mode=$(stat -c %a -- "$sessions"); fi
    remember mode "$mode"
    remember owner "$owner"
    remember group "$group"
    remember mountpoint "$sessions"
}

# ---- Configuration -------------------------------------------------------------------------------------------------

# A text as TOML writes it.
toml() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

reload_command() { if has_systemd; then say "systemctl reload ${unit%.service}"; else say "sessionfs reload $sessions"; fi; }

# The idle time by this configuration, and the one that is in force until it is taken up.
idle_now() { say "${config_lifetime_idle:-$default_lifetime_idle}"; }

# The one that is in force on all servers: what 'sessionfs config set' has set wins over a configuration file.
idle_in_force() {
    local said
    said=$("$program" config get lifetime.idle --config "$config" 2>/dev/null | sed -n 's/^lifetime\.idle  *\(.*[^ ]\)  *[a-z]*$/\1/p')
    say "${said:-$(idle_now)}"
}

# Whether --idle names a time, by the program's own word.
check_idle() {
    [ -n "$idle" ] || return 0
    local said
    printf '[lifetime]\nidle = %s\n' "$(toml "$idle")" >"$scratch/idle.toml"
    said=$("$binary" config show --config "$scratch/idle.toml" 2>&1) || misused "--idle: $(reason "$said")"
}

# Asks a database as Odoo's user would.
ask_database() {
    PGDATABASE=$1 PGCONNECT_TIMEOUT=2 as_owner timeout 5 psql -XAtwq -c "$2" 2>/dev/null </dev/null || true
}

# Sets `max_age` if Odoo keeps sessions for longer than their files are imported otherwise: its own parameter, in any of
# the databases that its user can read. That none can be read is no error, and none is waited for in vain for long.
find_max_age() {
    local week=604800 longest=315360000 most=0 until=$((SECONDS + 20)) database seconds
    max_age=
    { [ -n "$import" ] && [ "$(id -u)" = 0 ] && command -v psql >/dev/null; } || return 0
    while ((SECONDS < until)) && IFS= read -r database; do
        seconds=$(ask_database "$database" "SELECT value FROM ir_config_parameter WHERE key = 'sessions.max_inactivity_seconds'")
        if [[ $seconds =~ ^[0-9]{1,9}$ ]] && ((10#$seconds > most)); then most=$((10#$seconds)); fi
    done < <(ask_database postgres "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate LIMIT 50")
    ((most <= longest)) || most=$longest
    ((most <= week)) || max_age=${most}s
}

wanted_config() {
    local wanted_age=${config_import_max_age:-${max_age:-}}
    local wanted_idle=${idle:-${config_lifetime_idle:-}}
    local wanted_following=${follow_parameters:-${config_odoo_follow_parameters:-}}
    say "# sessionfs, written by sessionfs-setup. All keys: $prefix/share/doc/sessionfs/configuration.md"
    say "# After a change: $(reload_command)"
    say "mountpoint = $(toml "$sessions")"
    say "owner = $(toml "$owner")"
    [ "$group" = "$(group_of_owner)" ] || say "group = $(toml "$group")"
    case $redis_plan in
        other)
            printf '\n[redis]\nurl = %s\n' "$(toml "$redis_url")"
            [ -z "$redis_user" ] || say "username = $(toml "$redis_user")"
            [ -z "$redis_password" ] || say "password_file = $(toml "$redis_password")"
            [ -z "$redis_ca" ] || say "ca_file = $(toml "$redis_ca")"
            [ -z "$redis_cert" ] || say "cert_file = $(toml "$redis_cert")"
            [ -z "$redis_key" ] || say "key_file = $(toml "$redis_key")"
            [ -z "$sentinel_user" ] || say "sentinel_username = $(toml "$sentinel_user")"
            [ -z "$sentinel_password" ] || say "sentinel_password_file = $(toml "$sentinel_password")"
            wanted_prefix
            ;;
        instance)
            printf '\n[redis]\nurl = %s\n' "$(toml "unix:$instance_socket")"
            say "username = $(toml "$account")"
            say "password_file = $(toml "$password_file")"
            wanted_prefix
            ;;
        private)
            local memory=$redis_memory
            memory=${memory:-${config_private_redis_memory:-}}
            memory=${memory:-$(default_memory)}
            printf '\n[private_redis]\nmemory = %s\n' "$(toml "$(sed 's/mb$/MiB/; s/gb$/GiB/' <<<"$memory")")"
            [ -z "$name" ] || say "dir = $(toml "$(private_dir)")"
            ;;
    esac
    [ -z "$wanted_idle" ] || printf '\n[lifetime]\nidle = %s\n' "$(toml "$wanted_idle")"
    [ -z "$wanted_age" ] || printf '\n[import]\nmax_age = %s\n' "$(toml "$wanted_age")"
    [ -z "$wanted_following" ] || printf '\n[odoo]\nfollow_parameters = %s\n' "$wanted_following"
}

# The data directory of a Redis that sessionfs starts itself: each mount has one of its own.
private_dir() { say "/var/lib/sessionfs${name:+-$name}"; }

wanted_prefix() { [ "$(redis_prefix)" = $user ] || say "prefix = $(toml "$(redis_prefix)")"; }

# What no mount would take is no plan.
check_wanted_config() {
    local said
    wanted_config >"$scratch/wanted.toml"
    said=$("$binary" config show --config "$scratch/wanted.toml" 2>&1 >/dev/null) \
        || misused "the configuration with these options cannot be used: $(reason "$said")"
    [ "$redis_plan" != other ] || { check_secret "$scratch/wanted.toml"; check_sessions_follow "$scratch/wanted.toml"; }
}

# Sessions stay in the Redis that they are in: where none of those in use is, nobody is logged in.
check_sessions_follow() {
    is_served "$sessions" || return 0
    local aliases alias said status
    # One that does not answer cannot be compared. Three, since one may just have ended.
    aliases=$("$binary" list --config "$config" --json --sort idle --limit 3 2>/dev/null | grep -oE '"alias":"[^"]+"' | cut -d'"' -f4) || return 0
    for alias in $aliases; do
        status=0
        said=$("$binary" show --config "$1" -- "$alias" 2>&1 >/dev/null) || status=$?
        case $status in
            0) return 0 ;;
            53) ;;
            *) fail "the Redis that was named cannot be used, so nothing was changed: $(reason "$said")" ;;
        esac
    done
    logs_out=yes
    [ -n "$log_out_everybody" ] || undecided "the sessions in use are not in the Redis that was named, so everybody would have to log in again; two ways:" \
        "bring them there first ($prefix/share/doc/sessionfs/several-servers.md, From a dedicated Redis), and start $(again) again" \
        "--log-out-everybody   everybody has to log in again"
}

# A Redis that other servers use is written with their secret.
check_secret() {
    local said status=0
    said=$("$binary" secret show --config "$1" 2>&1 >/dev/null) || status=$?
    [ $status != 37 ] || fail "$(reason "$said")"
}

secret_file() {
    local dir=/var/lib/sessionfs
    [ "$redis_plan" != private ] || dir=$(private_dir)
    say "${config_secret_file:-$dir/secret}"
}

decide_secret() {
    [ ! -e "$(secret_file)" ] || return 0
    # A configuration that is used as it is: another secret would not start with its Redis.
    [ ! -e "$config" ] || check_secret "$config"
    local copies='copy it to your backup'
    [ "$redis_plan" != other ] || copies='copy it to your backup, and to every further server (sessionfs secret export)'
    step "Make the secret that sessions are sealed with, $(secret_file); $copies" make_secret
}

make_secret() { "$program" secret create --config "$config" >/dev/null; }

config_sha256() { sha256sum <"$config" | cut -d' ' -f1; }

decide_config() {
    find_max_age
    if [ ! -e "$config" ]; then
        local kept="in the dedicated Redis"
        [ "$redis_plan" != private ] || kept="in a Redis that sessionfs starts itself (there is no systemd that could): $(private_dir), at most ${redis_memory:-$(default_memory)}"
        [ "$redis_plan" != private ] || ! has_systemd || kept="in a Redis that sessionfs starts itself: $(private_dir)"
        [ -z "$idle" ] || kept="$kept; who does nothing for $idle logs in again"
        [ -z "$follow_parameters" ] || kept="$kept; Odoo's system parameters set lifetimes"
        [ "$redis_plan" != other ] || kept="in the Redis that was named"
        check_wanted_config
        step "Write $config: sessions of $sessions, for $owner, $kept" write_config
    elif [ -z "${config_mountpoint:-}" ] && [ -z "$is_asked" ]; then
        step "Add the mountpoint $sessions and its owner $owner to $config" add_mountpoint
    elif [ -z "$is_asked" ] || [ "$(wanted_config)" = "$(cat "$config")" ]; then
        return 0
    elif check_wanted_config; [ "$(config_sha256)" = "$(recall config_sha256)" ]; then
        step "Replace $config, which was not changed by hand, with these options" write_config
    else
        logs_out=''
        step "Write $config.new beside $config, which was changed by hand and is not touched" write_config_beside
        return 0
    fi
    reconfigured=yes
}

# Where the configuration is a symbolic link, the file it leads to is replaced.
put_config_in_place() { mv -f -- "$config.part" "$(realpath -m -- "$config")"; }

# For put_former_config_back.
keep_former_config() { [ ! -e "$config" ] || cp -p -- "$config" "$scratch/former.toml"; }

# Whether there was a former one, which is in its place again.
put_former_config_back() {
    [ -e "$scratch/former.toml" ] || return 1
    local is_ours=''
    [ "$(config_sha256)" != "$(recall config_sha256)" ] || is_ours=yes
    cp -p -- "$scratch/former.toml" "$config.part"
    put_config_in_place
    [ -z "$is_ours" ] || remember config_sha256 "$(config_sha256)"
}

write_config() {
    [ "$redis_plan" != instance ] || name_instance
    make_config_dir
    keep_former_config
    # A URL may hold a password.
    (umask 077 && wanted_config >"$config.part")
    put_config_in_place
    remember config_sha256 "$(config_sha256)"
}

add_mountpoint() {
    keep_former_config
    (umask 077 && { say "mountpoint = $(toml "$sessions")"; [ -n "${config_owner:-}" ] || say "owner = $(toml "$owner")"; cat "$config"; } >"$config.part")
    chmod --reference="$config" "$config.part"
    put_config_in_place
}

write_config_beside() {
    (umask 077 && wanted_config >"$config.new")
    say "       Compare them, copy what you want, and run: $(reload_command)"
}

# ---- Odoo's unit ---------------------------------------------------------------------------------------------------

# Sets `odoo_units` to those that get the drop-in: those that were named, now or earlier; else those whose Odoo uses the
# directory.
find_odoo_units() {
    has_systemd || { odoo_units=(); return 0; }
    local known one
    known=$(recall odoo_units)
    if [ "${odoo_units[*]}" = none ]; then
        odoo_units=()
        [ "$known" = none ] || unties=yes
    elif [ ${#odoo_units[@]} -gt 0 ]; then
        # A drop-in for a unit that is none would look as if Odoo were tied.
        for one in "${odoo_units[@]}"; do
            systemctl cat "$one.service" >/dev/null 2>&1 || fail "--odoo-unit $one: there is no unit $one.service; 'systemctl list-unit-files' lists all"
        done
        # Those of before have their drop-in.
        mapfile -t odoo_units < <(printf '%s\n' "${known/#none/}" "${odoo_units[@]}" | tr ' ' '\n' | awk 'NF && !known[$0]++')
    elif [ "$known" = none ]; then
        return 0
    elif [ -n "$known" ]; then
        read -ra odoo_units <<<"$known"
    elif [ ${#units_here[@]} -gt 0 ]; then
        odoo_units=("${units_here[@]}")
    else
        find_unknown_units
    fi
}

# Units of Odoo's name and user of which the program does not know what they start: a script, perhaps.
find_unknown_units() {
    local one choices=()
    while IFS= read -r one; do
        [[ " $discovered_units " != *" $one "* ]] || continue
        [ "$(systemctl show --value --property User "$one" 2>/dev/null)" != "$owner" ] || odoo_units+=("${one%.service}")
    done < <(systemctl list-unit-files --no-legend --type service 'odoo*' 'openerp*' | awk '$2 != "masked" && $1 !~ /@\./ { print $1 }')
    [ ${#odoo_units[@]} -gt 1 ] || return 0
    for one in "${odoo_units[@]}"; do choices+=("$(choice --odoo-unit "$one")"); done
    undecided "several units run as $owner, and do not tell which directory they use; name those that use $sessions:" "${choices[@]}" "--odoo-unit none"
}

forget_odoo_units() {
    remove_drop_ins "$sessions"
    remember odoo_units none
}

drop_in_of() { say "/etc/systemd/system/$1.service.d/sessionfs.conf"; }

wanted_drop_in() {
    sed "/^ExecStartPre=/d; s|/odoo.service.d/|/$1.service.d/|
        s|=sessionfs\.service|=$unit|; s|sessionfs\.toml|${config##*/}|" "$share/systemd/odoo.service.d/sessionfs.conf"
    mount_line "$sessions"
}

# The line of a unit that does not start without a mount, quoted as systemd reads it: `mount_line DIR`.
mount_line() {
    local path=${1//\\/\\\\}
    path=${path//\"/\\\"}
    path=${path//%/%%}
    say "ExecStartPre=+/usr/bin/mountpoint -q \"${path//\$/\$\$}\""
}

# The drop-ins that keep an Odoo from starting without a mount, whoever wrote them, also as they were written before:
# `drop_ins DIR`.
drop_ins() {
    grep -lsxF -e "$(mount_line "$1")" -e "AssertPathIsMountPoint=$1" /etc/systemd/system/*.service.d/*.conf || true
}
our_drop_ins() { drop_ins "$1" | grep '/sessionfs[^/]*$' || true; }

remove_drop_ins() {
    local file
    while IFS= read -r file; do
        rm -f -- "$file"
        rmdir --ignore-fail-on-non-empty -- "${file%/*}"
    done < <(our_drop_ins "$1")
    ! has_systemd || systemctl daemon-reload
}

# What earlier versions wrote into the drop-ins of Odoo's units, for whichever mount. systemd itself would ask the mount
# for it, and wait while the mount waits for systemd (docs/systemd.md).
outdated_drop_ins() { grep -ls '^AssertPathIsMountPoint=' /etc/systemd/system/*.service.d/sessionfs*.conf || true; }

decide_outdated_drop_ins() {
    local outdated
    outdated=$(outdated_drop_ins)
    [ -z "$outdated" ] || step "Replace AssertPathIsMountPoint=, with which systemd could hang, in ${outdated//$'\n'/ }" rewrite_outdated_drop_ins
}

rewrite_outdated_drop_ins() {
    local file path
    while IFS= read -r file; do
        path=$(sed -n 's/^AssertPathIsMountPoint=//p' "$file" | head -n 1)
        { sed '/^AssertPathIsMountPoint=/d' "$file"; printf '\n[Service]\n'; mount_line "$path"; } >"$file.new"
        chmod 644 "$file.new"
        mv -f -- "$file.new" "$file"
    done < <(outdated_drop_ins)
    # It refuses where /run is full.
    ! has_systemd || systemctl daemon-reload || say "At a convenient time: systemctl daemon-reload"
}

decide_odoo_units() {
    [ -z "$unties" ] || step "Make no unit of Odoo depend on the mount, now or in a later run" forget_odoo_units
    local one
    for one in "${odoo_units[@]}"; do
        [ "$(wanted_drop_in "$one")" = "$(cat "$(drop_in_of "$one")" 2>/dev/null)" ] && continue
        step "Make ${odoo_units[*]} start after the mount, and not without it ($(drop_in_of "$one")); Odoo is not restarted" write_drop_ins
        return
    done
}

write_drop_ins() {
    local one
    remember odoo_units "${odoo_units[*]}"
    for one in "${odoo_units[@]}"; do
        wanted_drop_in "$one" >"$scratch/drop-in.$one"
        install -D -m 644 "$scratch/drop-in.$one" "$(drop_in_of "$one")"
    done
    systemctl daemon-reload
}

# ---- Service -------------------------------------------------------------------------------------------------------

decide_service() {
    refuse_masked
    if ! is_served "$sessions"; then
        local how="Enable and start $unit"
        has_systemd || how="Start sessionfs in the background (log: $log)"
        step "$how: from then on Odoo's sessions in $sessions are in Redis; the underlying directory gets owner root and mode 0000, so that Odoo cannot write to it without the mount" start_service
    elif has_systemd && ! systemctl is-active --quiet "$unit"; then
        fail "$sessions is mounted, but not by $unit; stop that first (sessionfs unmount $sessions)"
    elif [ -n "$program_changes$reconfigured" ] || [ "$(recall reload)" = pending ]; then
        step "Reload the running sessionfs (no request fails)" reload_service
    elif has_systemd && ! systemctl is-enabled --quiet "$unit"; then
        step "Enable $unit" enable_service
    fi
}

# systemd starts no unit that is masked.
refuse_masked() {
    local option
    has_systemd || return 0
    case $(systemctl is-enabled "$unit" 2>/dev/null) in
        masked) option= ;;
        masked-runtime) option="--runtime " ;;
        *) return 0 ;;
    esac
    fail "$unit is masked, so systemd does not start it: systemctl unmask $option$unit, then run $me again"
}

# An upgrade is for all mounts, also those of fstab and by hand.
decide_others() {
    [ -n "$program_changes" ] || return 0
    local others
    others=$(other_directories)
    [ -z "$others" ] || step "Reload the other mounts: ${others//$'\n'/, }" reload_others
}

other_directories() { mounted_directories | grep -vxF -- "$sessions" || true; }

reload_others() { reload_mounts < <(other_directories); }

# Reloads the mounts on the directories that are read. None is restarted: if a reload fails, the old program goes on.
reload_mounts() {
    local dir said code
    while IFS= read -r dir; do
        code=0
        said=$("$program" reload "$dir" 2>&1 </dev/null) || code=$?
        case $code in
            # 28: no keeper on this host serves this very directory; it may be a bind mount, or a container's.
            0 | 28) ;;
            *)
                say "$(reason "$said")"
                say "The old program goes on. If Redis refuses a command: sessionfs-setup, then $(choice "sessionfs reload" "$dir")."
                say "Otherwise, at a convenient time: restart its unit, or unmount and mount it."
                ;;
        esac
    done
}

enable_service() { systemctl --quiet enable "$unit"; }

# Without Redis the service would start and wait for it. Who sets it up is told instead. sessionfs starts a private one.
meets_redis() {
    [ "$redis_plan" != private ] || return 0
    local said
    said=$("$program" list --config "$config" --limit 1 2>&1 >/dev/null) || {
        printf '%s\n' "$said" >&2
        return 1
    }
}

start_service() {
    meets_redis || start_failed "Redis cannot be used; see above"
    if has_systemd; then
        enable_service
        local began=$EPOCHSECONDS
        systemctl restart "$unit" || {
            journalctl --no-pager --quiet --lines 15 --since "@$began" --unit "$unit" >&2 || true
            start_failed "$unit does not start; see above"
        }
    else
        start_in_background
    fi
    is_mounted "$sessions" || start_failed "$sessions is not mounted, although sessionfs has started; see 'sessionfs check'"
    remember served yes
}

# A first start that fails leaves Odoo as it was. Later, plain files are no way out: who logged out would be back.
start_failed() {
    [ -z "$(recall served)" ] || fail "$1. Odoo cannot open sessions until this is corrected"
    ! has_systemd || systemctl --quiet disable --now "$unit" || true
    give_back
    fail "$1. Odoo still uses its files; correct this and run the script again"
}

# Ready is a line of its own in the log.
start_in_background() {
    local from pid until
    touch "$log"
    chmod 640 "$log"
    from=$(($(stat -c %s "$log") + 1))
    setsid "$program" mount --config "$config" </dev/null >>"$log" 2>&1 8>&- &
    pid=$!
    disown
    until=$((SECONDS + ready_within_seconds))
    until grep -q "^ready " <<<"$(tail -c +$from "$log")"; do
        kill -0 $pid 2>/dev/null || { tail -c +$from "$log" | tail -n 15 >&2; start_failed "sessionfs has ended; see above and $log"; }
        [ $SECONDS -lt $until ] || {
            end_process $pid
            start_failed "sessionfs is not ready after $ready_within_seconds s; see $log"
        }
        sleep 0.1
    done
}

# By its own way if it takes that within 30 s, which is longer than its own bounds.
end_process() {
    kill -TERM "$1" 2>/dev/null || return 0
    local until=$((SECONDS + 30))
    while kill -0 "$1" 2>/dev/null; do
        [ $SECONDS -lt $until ] || { kill -KILL "$1" 2>/dev/null || true; return 0; }
        sleep 0.1
    done
}

# A reload that fails leaves what serves as it was, and so does this. (Not by systemctl, which does not pass on why.)
reload_service() {
    local said restored=''
    # So that another run tries again, although nothing differs then.
    remember reload pending
    if ! said=$("$program" reload "$sessions" 2>&1); then
        if [[ $said = *"a restart is needed"* ]]; then
            restart_service "$said"
        else
            if put_former_config_back; then
                restored=", and $config was restored"
                [ -n "$program_changes" ] || remember reload "done"
            fi
            fail "the running sessionfs cannot apply this, and keeps its old settings$restored: $said"
        fi
    fi
    remember reload "done"
}

restart_service() {
    say "       $1"
    say "       So sessionfs is restarted; Odoo gets errors for a moment."
    ! (start_anew) || return 0
    put_former_config_back || fail "sessionfs does not start again, see above; Odoo cannot open sessions until this is corrected"
    (start_anew) || fail "sessionfs does not start again, although $config was restored; Odoo cannot open sessions until this is corrected"
    remember reload "done"
    fail "sessionfs does not start with the new configuration, see above; it runs with the old one, and $config was restored"
}

start_anew() {
    meets_redis || return
    if has_systemd; then
        systemctl restart "$unit"
    else
        { ! is_mounted "$sessions" || "$program" unmount "$sessions"; } && start_in_background
    fi
}

# ---- Import --------------------------------------------------------------------------------------------------------

decide_import() {
    [ -n "$import" ] || return 0
    if [ "$(recall import)" = pending ]; then
        step "Import the remaining session files" import_sessions
    elif [ -z "$(recall import)" ] && [ "${session_count:-0}" -gt 0 ]; then
        local after="then move their files to $sessions.imported" many="$session_count sessions"
        [ "$after_import" = move ] || after="then delete their files"
        [ "$session_count" != 1 ] || many="1 session"
        step "Import the $many in $sessions into Redis, so that nobody is logged out; $after" import_sessions
        import_is_new=yes
    fi
}

import_sessions() {
    "$program" import "$sessions" --config "$config" --after-import "$after_import" || {
        say "       Not all could be imported, see above. The rest is still there and is imported on access."
        say "       Run this script again, or: sessionfs import $(word "$sessions") --config $config"
        return 0
    }
    remember import "done"
}

# ---- What changes for people ---------------------------------------------------------------------------------------

# Said with the plan, when sessions come to sessionfs or the idle time becomes another.
tell_people() {
    [ -z "$logs_out" ] || {
        say
        say "Everybody has to log in again: the sessions in use are not in the Redis that was named."
    }
    local then=${idle:-$(idle_now)} before="7 days, unless Odoo has another setting"
    if [ -z "$is_first" ]; then
        [ "$then" != "$(idle_now)" ] || return 0
        before=$(idle_now)
    fi
    say
    say "What changes for users:"
    indented "  " "A user who does nothing for $then has to log in again (until now: $before). An open browser tab, a point-of-sale terminal or a phone app that only waits does not keep a user logged in, except for some screens where the kernel does not let sessionfs see requests (docs/ebpf.md). Input in a form that was not saved is lost with the login. All users who are away now are logged out together, $then later."
    # Lines of their own: they are pasted.
    [ -n "$idle" ] || say "  To change it:  $(again) --idle 8h"
    [ -n "$idle" ] || say "  or later:      sessionfs config set lifetime.idle 8h$(with_config)"
}

# ---- Install -------------------------------------------------------------------------------------------------------

install_all() {
    find_binary
    if [ -n "$destdir" ]; then
        lay_out "$destdir"
        return
    fi
    read_config "$binary" || fail "$config cannot be used, see above; correct it and run this again"
    check_idle
    choose_redis
    find_sessions
    find_odoo_units
    is_first=
    is_mounted "$sessions" || [ -n "$(recall served)" ] || is_first=yes

    decide_device
    decide_packages
    decide_user
    decide_files
    decide_redis
    decide_directory
    decide_containers
    decide_config
    decide_secret
    decide_service
    decide_updatedb
    decide_others
    decide_outdated_drop_ins
    decide_odoo_units
    # After the mount: until the import has ended, a session that is not in Redis yet is taken from the file below.
    decide_import

    print_plan
    [ ${#step_texts[@]} = 0 ] || tell_people
    if [ -n "$dry_run" ]; then
        say "Dry run: nothing was changed."
        print_result
        return
    fi
    [ ${#step_texts[@]} = 0 ] || say
    [ -z "$import_is_new" ] || { make_config_dir; remember import pending; }
    carry_out_plan
    conclude
}

# One at a time on this host. Who goes on when this has ended must not have the descriptor.
take_lock() {
    exec 8>/run/sessionfs-setup.lock
    flock --nonblock 8 || {
        say "Another run is in progress on this host; waiting for it."
        flock --timeout 600 8 || fail "another run has been in progress on this host for 10 minutes"
    }
}

need_root() { [ "$(id -u)" = 0 ] || fail "this needs root; run it with sudo"; }

# A Redis that was just restarted is in use again within a second or two.
wait_for_redis() {
    local until=$((SECONDS + 10))
    until "$program" status "$sessions" >/dev/null 2>&1 || [ $SECONDS -ge $until ]; do sleep 0.2; done
}

conclude() {
    local code=0
    read_config "$program" || true
    say
    [ ${#step_texts[@]} = 0 ] || wait_for_redis
    "$program" check "$sessions" --config "$config" || code=$?
    say
    say "Odoo's sessions in $sessions are in Redis."
    [ -z "$blind_odoo" ] || say "Now restart the container that does not see the mount yet: $blind_odoo."
    note "idle time:    $(idle_in_force), then users log in again"
    [ -z "$idle" ] || [ "$(idle_in_force)" = "$(idle_now)" ] \
        || note "              not $idle: the live setting of all servers wins; to change it: sessionfs config set lifetime.idle $(idle_now)$(with_config)"
    note "sessions:     sessionfs status; sessionfs list$(with_config)"
    if has_systemd; then note "log:          journalctl -u ${unit%.service}"; else note "log:          $log"; fi
    note "settings:     $config, then $(reload_command)"
    note "documents:    $prefix/share/doc/sessionfs"
    note "to undo:      sessionfs-setup --uninstall${name:+ --instance $name}"
    has_systemd || note "at boot:      not started; make your init system run: sessionfs mount --config $config"
    print_result
    # What 'check' calls an error.
    if [ $code = 61 ]; then
        printf '%s: it is done, but sessionfs check finds an error, see above\n' "$me" >&2
        exit 4
    fi
}

# ---- The package's upgrade -----------------------------------------------------------------------------------------

# The files are replaced. systemd reads the units again with the drop-ins.
finish_upgrade() {
    rewrite_outdated_drop_ins
    reload_mounts < <(mounted_directories)
}

# ---- Uninstall -----------------------------------------------------------------------------------------------------

uninstall_all() {
    [ -z "$(recall_host prefix)" ] || { prefix=$(recall_host prefix); program=$prefix/bin/sessionfs; }
    # A configuration that is broken is no reason to stay.
    [ ! -x "$program" ] || read_config "$program" || true
    sessions=$(recall mountpoint)
    sessions=${sessions:-${config_mountpoint:-}}
    owner=$(recall owner) group=$(recall group) mirror=${config_mirror:-}
    owner=${owner:-${config_owner:-}}
    redis_plan=$(recall redis)
    redis_plan=${redis_plan:-private}
    [ -z "${config_redis_url:-}" ] || redis_plan=other
    [ -z "$(recall_host instance)" ] || { redis_plan=instance; name_instance; }

    if [ -n "$name" ]; then
        if [ -z "$sessions" ] && [ -n "$from_package" ]; then
            systemctl --quiet disable --now "$unit"
            return
        fi
        [ -n "$sessions" ] || fail "there is no instance $name: neither $config nor $record names a directory"
    elif [ -n "$from_package" ]; then
        # All of them before the first one is taken away.
        local dir
        while IFS= read -r dir; do
            [ -z "$dir" ] || refuse_strange_drop_ins "$dir"
        done < <(say "$sessions"; instance_directories; mounted_directories)
        uninstall_others
    else
        refuse_with_others
    fi
    choose_mirror
    decide_to_untie
    decide_to_give_back
    decide_to_end_sessions
    decide_to_stop
    decide_to_finish_mirror
    if [ -n "$name" ]; then decide_to_remove_instance; else decide_to_remove; fi
    print_plan
    [ ${#step_texts[@]} = 0 ] || tell_of_sessions
    tell_of_imported
    if [ -n "$dry_run" ]; then
        say "Dry run: nothing was changed."
        print_result
        return
    fi
    local was_in_use=''
    ! is_in_use || was_in_use=yes
    carry_out_plan
    [ -z "$was_in_use" ] || [ -n "$from_package" ] || say "Odoo uses plain files in $sessions again."
    [ -n "$from_package" ] || print_result
}

# Other mounts need the program, and perhaps the Redis.
refuse_with_others() {
    local others=() one dir
    while IFS= read -r one; do
        others+=("sessionfs-setup --uninstall --instance $one")
    done < <(other_instances)
    while IFS= read -r dir; do
        [ "$dir" = "$sessions" ] || grep -qxF -- "$dir" <<<"$(instance_directories)" \
            || others+=("$(choice "sessionfs release" "$dir"); $(choice "sessionfs unmount" "$dir")")
    done < <(mounted_directories)
    [ ${#others[@]} = 0 ] || fail "there are other sessionfs mounts; remove them first:$(printf '\n    %s' "${others[@]}")"
}

# The directories of the further mounts.
instance_directories() {
    local one facts
    while IFS= read -r one; do
        recall_from "/etc/sessionfs/$one.installed" mountpoint
        facts=$("$program" config show --shell --config "/etc/sessionfs/$one.toml" 2>/dev/null) || continue
        (eval "$facts"; say "${config_mountpoint:-}")
    done < <(other_instances)
}

# The package takes all of them with it: each is given back.
uninstall_others() {
    [ -z "$dry_run" ] || return 0
    local one dir
    while IFS= read -r one; do
        "$0" --uninstall --from-package --instance "$one" || fail "the instance $one could not be removed, see above"
    done < <(other_instances)
    while IFS= read -r dir; do
        [ "$dir" != "$sessions" ] || continue
        say "Mounted by hand: $dir"
        refuse_strange_drop_ins "$dir"
        remove_drop_ins "$dir"
        "$program" release "$dir"
        "$program" unmount "$dir"
    done < <(mounted_directories)
}

choose_mirror() {
    if [ -z "$mirror" ] || [ ! -d "$mirror" ]; then
        [ "$mirror_choice" != restore ] \
            || fail "there is no mirror to restore (${mirror:-no mirror is configured}); bring it back, or omit --restore-mirror, and everybody has to log in again"
        mirror_choice=leave
        return 0
    fi
    [ -z "$from_package" ] || mirror_choice=${mirror_choice:-leave}
    [ -n "$mirror_choice" ] || undecided "$mirror holds sessions as plain files; decide what to do with it:" \
        "--restore-mirror   # it replaces $sessions, and its users stay logged in" \
        "--leave-mirror     # it stays where it is, and everybody logs in again"
}

# Whether sessions of people are in Redis that were not given up before.
is_in_use() { [ -n "$sessions" ] && { is_mounted "$sessions" || [ -n "$(recall served)" ]; }; }

tell_of_sessions() {
    is_in_use && [ "$mirror_choice" != restore ] || return 0
    say
    say "Sessions in Redis cannot be written back, because session ids are not stored. So everybody has to log in again."
    [ -z "$from_package$purge" ] || return 0
    say "To keep users logged in, set mirror = \"$sessions.mirror\" at the top of $config first,"
    say "reload, wait one idle time (better a working day), and run this with --restore-mirror."
}

# What the import has left is nobody's but the administrator's.
tell_of_imported() {
    local imported
    imported=$(recall imported)
    [ -z "$sessions" ] || imported=$sessions.imported
    [ -d "$imported" ] || return 0
    say
    say "$imported stays. It contains the imported session files, with their cookies, in plain text. Delete it:"
    say "    $(choice "rm -r --" "$imported")"
}

decide_to_untie() {
    [ -n "$sessions" ] || return 0
    refuse_strange_drop_ins "$sessions"
    local ours
    ours=$(our_drop_ins "$sessions")
    [ -z "$ours" ] || step "Remove the dependency of Odoo on the mount: ${ours//$'\n'/ }" forget_drop_ins
}

# With such a line Odoo would not start any more.
refuse_strange_drop_ins() {
    local strange
    strange=$(drop_ins "$1" | grep -v '/sessionfs[^/]*$' || true)
    [ -z "$strange" ] || fail "Odoo would not start without the mount; remove the line with $1 from: ${strange//$'\n'/ }"
}

forget_drop_ins() { remove_drop_ins "$sessions"; }

# Those of an instance in a Redis that stays.
decide_to_end_sessions() {
    # Those of a mirror live on in the files; if they ended in Redis, a later setup would not import them.
    [ -n "$name" ] && [ -n "$purge" ] && [ -e "$config" ] && [ "$mirror_choice" != restore ] || return 0
    step "End ALL SESSIONS of $sessions" end_sessions
}

end_sessions() {
    "$program" kill --all --yes --config "$config" || say "       Not all could be ended; the rest expires in Redis."
}

decide_to_stop() {
    if has_systemd && { systemctl is-active --quiet "$unit" || systemctl is-failed --quiet "$unit" || systemctl is-enabled --quiet "$unit" 2>/dev/null; }; then
        step "Stop and disable $unit: $sessions is unmounted" stop_service
    elif [ -n "$sessions" ] && is_mounted "$sessions"; then
        step "Unmount $sessions" unmount_sessions
    fi
}

stop_service() {
    systemctl --quiet disable "$unit"
    systemctl stop "$unit"
    systemctl reset-failed "$unit" 2>/dev/null || true
    [ -z "$sessions" ] || ! is_mounted "$sessions" || unmount_sessions
}

unmount_sessions() { "$program" unmount "$sessions"; }

# Before it is unmounted, so that there is no moment in which Odoo finds a directory that it cannot use.
decide_to_give_back() {
    [ -n "$sessions" ] && [ -x "$program" ] || return 0
    is_mounted "$sessions" || [ "$(stat -c %u%a -- "$sessions" 2>/dev/null)" = 00 ] || return 0
    step "Give the underlying directory of $sessions back to its former owner" give_back
    [ "$mirror_choice" != restore ] || step "Copy the sessions of $mirror into it: their users stay logged in" copy_mirror
}

# Runs a function where sessionfs is not mounted on the directory: in a mount namespace of its own.
below_the_mount() {
    if ! is_mounted "$sessions"; then
        "$1"
        return
    fi
    local script
    script="$(declare -f as_owner "$1"); umount --internal-only --lazy -- \"\$sessions\"; $1"
    sessions=$sessions owner=$owner mirror=$mirror unshare --mount --propagation private bash -euc "$script"
}

# The directory tells whose it was, where its filesystem can keep that; else the record does.
give_back() {
    local known=()
    [ -z "$(recall owner)" ] || known+=(--owner "$(recall owner)")
    [ -z "$(recall group)" ] || known+=(--group "$(recall group)")
    local mode
    mode=$(recall mode)
    # Permission bits alone: more of it is noted on the directory.
    [ -z "$mode" ] || known+=(--mode "${mode: -3}")
    [ ! -e "$config" ] || known+=(--config "$config")
    "$program" release "$sessions" "${known[@]}" >/dev/null
}

copy_mirror() { below_the_mount copy_newer; }

copy_newer() { as_owner cp -a --update -- "$mirror/." "$sessions/"; }

decide_to_finish_mirror() {
    [ "$mirror_choice" = restore ] || return 0
    step "Copy what was saved since, and remove $mirror" finish_mirror
}

finish_mirror() {
    ! is_mounted "$sessions" || fail "$sessions is still mounted; stop what uses it (fuser -m $sessions), and run this again"
    copy_newer
    # The copy has the mirror's own.
    [ -z "$(recall mode)" ] || as_owner chmod -- "$(recall mode)" "$sessions"
    as_owner rm -rf -- "$mirror" || say "       $mirror could not be removed; remove it by hand."
}

decide_to_remove_instance() {
    if [ "$redis_plan" = instance ] && [ -e "$instance_config" ] && grep -q "^user $account " "$instance_config"; then
        step "Remove the Redis user $account from $instance_config" remove_account
    fi
    if [ -n "$purge" ] && [ "$redis_plan" = private ]; then
        step "Remove $config, $record and its sessions in $(private_dir)" purge_instance
    elif [ -n "$purge" ]; then
        step "Remove $config, $password_file and $record" purge_instance
    elif [ -e "$record" ]; then
        step "Remove the record of the instance; $config stays until --purge" forget_instance
    fi
}

# It is gone with Redis's next start; its password is gone now.
remove_account() {
    sed -i "/^user $account /d" "$instance_config"
    rm -f -- "$password_file"
}

purge_instance() {
    rm -f -- "$config" "$config.new" "$password_file" "$record"
    [ "$redis_plan" != private ] || rm -rf -- "$(private_dir)"
}

forget_instance() {
    rm -f -- "$record"
    keep_for_purge
}

decide_to_remove() {
    decide_to_unprune
    if [ "$redis_plan" = instance ] && has_systemd && systemctl is-enabled --quiet "$instance" 2>/dev/null; then
        step "Stop and disable $instance" stop_instance
    fi
    if [ -n "$from_package" ]; then
        : # It removes itself.
    elif is_installed_package sessionfs; then
        if [ -n "$purge" ]; then
            step "Remove the package sessionfs" remove_package
        else
            step "Remove the package sessionfs; its configuration in /etc/sessionfs stays" remove_package
        fi
    elif [ -e $manifest ]; then
        step "Remove the $(grep -vc '/$' $manifest) installed files ($program, units, documents)" remove_files
    fi
    if [ -n "$purge" ]; then
        step "Remove /etc/sessionfs, the user $user, $(kept_sessions "ALL SESSIONS")" purge_all
    elif [ -n "$(recall mountpoint)" ]; then
        step "Remove the record of the installation; /etc/sessionfs, $(kept_sessions "the sessions") stay until --purge" forget
    fi
}

# What is kept here of sessions: `kept_sessions WORDS`. Another's Redis is never touched.
kept_sessions() {
    if [ "$redis_plan" = other ]; then
        printf 'and /var/lib/sessionfs with the secret (the sessions in the Redis that was named live on to their end)'
    else
        printf 'the secret, and %s in the dedicated Redis (%s)' "$1" "${instance_dir:-/var/lib/sessionfs}"
    fi
}

stop_instance() { systemctl --quiet disable --now "$instance"; }

remove_package() { apt_get remove sessionfs; }

remove_files() {
    local file
    ! has_systemd || systemctl --quiet disable --now sessionfs-check.timer
    # Directories, which end in a slash, after what is in them.
    while IFS= read -r file; do
        case $file in
            */) [ ! -d "$file" ] || rmdir --ignore-fail-on-non-empty -- "$file" ;;
            *) rm -f -- "$file" ;;
        esac
    done < <(grep -v '/$' $manifest; grep '/$' $manifest | sort -r)
    rm -f -- $manifest
    ! has_systemd || systemctl daemon-reload
}

# For a later --purge, when no program reads the configuration any more.
keep_for_purge() {
    remember redis "$redis_plan"
    [ ! -d "$sessions.imported" ] || remember imported "$sessions.imported"
}

# What a later --purge has to know stays.
forget() {
    keep_for_purge
    sed -i '/^\(mountpoint\|owner\|group\|mode\|import\|odoo_units\|prefix\|served\|reload\)=/d' "$record"
    clear_runtime
}

# Locks of mounts that are no more. One that waits for its Redis is not in the mount table yet.
clear_runtime() {
    ! grep -qsx sessionfs /proc/[0-9]*/comm || return 0
    [ -n "$(findmnt --noheadings --types fuse.sessionfs)" ] || rm -rf -- /run/sessionfs
}

purge_all() {
    clear_runtime
    [ -z "${instance_config:-}" ] || rm -rf -- "$instance_config" "$instance_dir" "/var/log/$kind/$kind-server-sessionfs.log"
    local made package
    made=$(recall_host user_made) package=$(recall_host server_package)
    rm -rf -- /etc/sessionfs /var/lib/sessionfs /var/spool/sessionfs "$log"
    [ -z "$made" ] || ! getent passwd $user >/dev/null || userdel $user
    case $(dpkg-query -W -f '${db:Status-Status}' sessionfs 2>/dev/null) in
        installed | config-files) DEBIAN_FRONTEND=noninteractive dpkg --purge sessionfs ;;
    esac
    [ -z "$package" ] || say "       The package $package stays; if it is not used otherwise: apt-get purge $package"
}

# ---- -------------------------------------------------------------------------------------------------------------

scratch='' blind_odoo='' program_changes='' reconfigured='' import_is_new='' is_first='' unties='' session_count='' server_package=redis-server
changed_files=() discovered=0

main() {
    parse "$@"
    scratch=$(mktemp -d)
    trap 'rm -rf -- "$scratch"' EXIT
    # Who may not do it may look at what would be done, as far as that can be seen.
    [ -n "$dry_run$destdir" ] || { need_root; trap 'take_policy_away; rm -rf -- "$scratch"' EXIT; }
    name_mount
    # The package's own call may come from within one that has the lock.
    [ -n "$dry_run$destdir$from_package" ] || take_lock
    # What was done here decides what would be done.
    [ ! -e "$record" ] || [ -r "$record" ] || need_root
    locate
    if [ -n "$uninstall" ]; then
        uninstall_all
    elif [ -n "$from_package" ]; then
        finish_upgrade
    else
        install_all
    fi
}

main "$@"

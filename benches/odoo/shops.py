"""Servers on one database that differ in where their sessions are, and the run of a benchmark with them."""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

from lab import Lab, Node
from namespaces import MS_BIND_RECURSIVE, mount, supervise

# Long enough for a run.
IDLE = "2h"
ADDON = os.path.join(os.path.dirname(os.path.abspath(__file__)), "addon")


class Place(Node):
    """One server, and where its sessions are: in a directory of the disk, on a mount, or where an addon puts them."""

    def __init__(self, name, number, freshness=None, addon="sessionfs_test", directory=None, workers=1, prefix=None,
                 requests="auto"):
        """Servers with the same `prefix` share their sessions; those with none have them for themselves. `requests`: whether
        the mount sees requests (docs/ebpf.md)."""
        super().__init__(re.sub(r"\W+", "-", name), 19, 100 * number, workers=workers)
        self.title, self.freshness, self.addon, self.directory = name, freshness, addon, directory
        self.prefix, self.requests = prefix or self.name, requests
        self.browser = None

    def must_use_addon(self):
        """Odoo goes on without a module that it cannot load."""
        if not self.directory and not self.freshness and os.listdir(self.sessions):
            raise RuntimeError(f"{self.title} keeps sessions as files all the same; see the log of its Odoo")


class Shops(Lab):
    def __init__(self, arguments, run_dir, logs, places):
        """`arguments` names the `root`, the `binary`, and with `client` what the addons import."""
        super().__init__(19, arguments.root, run_dir, logs, arguments.binary)
        self.client = arguments.client
        self.servers = self.nodes = places
        self.a = places[0]

    def make_root(self):
        super().make_root()
        for place in self.servers:
            if place.directory:
                os.chown(place.directory, self.odoo_uid, self.odoo_gid)
                mount(place.directory, place.sessions, None, MS_BIND_RECURSIVE)
            elif not place.freshness:
                # Odoo looks whether it could use it.
                os.chown(place.sessions, self.odoo_uid, self.odoo_gid)
        subprocess.run(["cp", "-R", ADDON + "/.", self.root + "/srv/addons"], check=True, timeout=30)
        if self.client:
            subprocess.run(["cp", "-R", self.client + "/.", self.root + "/usr/lib/python3/dist-packages"], check=True, timeout=60)
        # Where Odoo's user finds Redis.
        os.mkdir(self.root + "/run/redis")
        mount(os.path.dirname(self.redis_socket), self.root + "/run/redis", None, MS_BIND_RECURSIVE)

    def mount_sessions(self, idle):
        for place in self.servers:
            if not place.freshness:
                continue
            config = os.path.join(self.run_dir, f"{place.name}.toml")
            with open(config, "w") as out:
                out.write(f'owner = "{self.odoo_uid}"\ngroup = "{self.odoo_gid}"\n[lifetime]\nidle = "{idle}"\n'
                          f'[redis]\nprefix = "{place.prefix}"\n[near_cache]\nfreshness = "{place.freshness}"\n'
                          f'[activity]\nrequests = "{place.requests}"\nports = [{place.http_port}]\n')
            place.sessionfs = self._start("sessionfs-" + place.name, [
                self.binary, "mount", place.sessions, "--config", config, "--redis", self.redis_url])
            place.sessionfs.await_line("^ready ", 30)

    def odoo_config(self, node, database, addon):
        return super().odoo_config(node, database, node.addon)

    def _chroot(self, user, *argv, **environment):
        # Each for one of the addons.
        return super()._chroot(user, *argv, SESSIONFS_BENCH_REDIS="/run/redis/redis.sock",
                               SESSION_DB_URI="postgresql://odoo@/shop?host=/run/postgresql",
                               REDIS_URL="unix:///run/redis/redis.sock", **environment)


def parser():
    """The arguments that `run` gives to each of these benchmarks."""
    made = argparse.ArgumentParser()
    for name in ("--root", "--binary"):
        made.add_argument(name, required=True)
    made.add_argument("--client")
    made.add_argument("--update")
    made.add_argument("--keep", action="store_true")
    return made


def run(name, seconds, arguments, drive):
    """Runs `drive(arguments, run_dir, logs, disk)` with a directory of the disk, and ends with its status."""
    disk = tempfile.mkdtemp(prefix=f"sessionfs-{name}-", dir="/var/tmp")
    try:
        status = supervise(name, seconds, arguments.keep, lambda run_dir, logs: drive(arguments, run_dir, logs, disk))
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    sys.exit(status)

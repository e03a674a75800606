"""The machine under test: one PostgreSQL, one Redis, two sessionfs, two Odoos. All of it in namespaces of its own."""
import os
import shutil
import signal
import subprocess
import types

from namespaces import MS_BIND_RECURSIVE, mount, mounts_at
from processes import Process, await_port
from redis_servers import Sentinel
from redis_wire import Redis

# Longer than a run.
NEVER_MS = 3_600_000


class Node:
    """One server: an Odoo and the directory of its sessions."""

    def __init__(self, name, version, offset, workers):
        self.name = name
        self.version = version
        self.workers = workers
        # The network namespace is ours alone, so these ports are free.
        self.http_port = 8069 + offset
        # Without workers there is no evented process: the one process serves websockets, too.
        self.gevent_port = 8072 + offset if workers else self.http_port
        self.data_dir = "/srv/node-" + name.lower()
        self.odoo = None
        self.sessionfs = None
        self.sessions = None  # as seen from outside the chroot


class User:
    def __init__(self, login, password):
        self.login = login
        self.password = password
        self.id = None


class Lab:
    def __init__(self, version, base, run_dir, logs, binary, sentinel=False):
        """`binary` is None when the sessions are to lie on the disk. With `sentinel` there are three Redis servers."""
        self.version = version
        self.base = base
        self.run_dir = run_dir
        self.logs = logs
        # A copy: another build may be installed.
        self.binary = binary and os.path.join(run_dir, "sessionfs")
        self.built = binary
        self.root = os.path.join(run_dir, "root")
        self.redis_socket = os.path.join(run_dir, "redis", "redis.sock")
        self.redis_url = "unix://" + self.redis_socket
        self.sentinel = sentinel
        self.deployment = None
        # One secret for all nodes, as several servers would have it; the first mount makes it.
        os.environ["SESSIONFS_SECRET_FILE"] = os.path.join(run_dir, "secret")
        self.a = Node("A", version, 0, workers=2)
        self.b = Node("B", version, 100, workers=2)
        self.nodes = (self.a, self.b)
        # Started only by the checks that ask it.
        self.threaded = Node("C", version, 200, workers=0)
        self.servers = (*self.nodes, self.threaded)
        self.started = []
        self.mount_count = 0  # of all servers
        self.exits = []  # how each sessionfs ended, for the last check

    # --- places --------------------------------------------------------------------------------------------------

    def make_root(self):
        """A throw-away layer over the kept root: each run starts from the same database and leaves nothing."""
        mount("tmpfs", self.run_dir, "tmpfs", data="mode=0755")
        # What sessionfs keeps by default is kept apart from the host's own.
        mount("tmpfs", "/run", "tmpfs", data="mode=0755")
        if self.binary:
            shutil.copy(self.built, self.binary)
        for name in ("upper", "work", "root", "redis"):
            os.mkdir(os.path.join(self.run_dir, name))
        mount("overlay", self.root, "overlay",
              data=f"lowerdir={self.base},upperdir={self.run_dir}/upper,workdir={self.run_dir}/work")
        mount("proc", self.root + "/proc", "proc")
        mount("/dev", self.root + "/dev", None, MS_BIND_RECURSIVE)
        mount("tmpfs", self.root + "/run", "tmpfs", data="mode=0755")
        self.odoo_uid, self.odoo_gid = self._owner("odoo")
        pg_uid, pg_gid = self._owner("postgres")
        self._dir("/run/postgresql", pg_uid, pg_gid, 0o775)
        self._dir("/run/sessionfs-test", self.odoo_uid, self.odoo_gid)
        for node in self.servers:
            self._dir(node.data_dir, self.odoo_uid, self.odoo_gid)
            os.symlink("/srv/odoo/filestore", self.root + node.data_dir + "/filestore")
            node.sessions = self.root + node.data_dir + "/sessions"
        if self.binary:
            for node in self.servers:
                # root's own: Odoo must not be able to fall back on it when nothing is mounted.
                self._dir(node.data_dir + "/sessions", 0, 0)
        else:
            self._dir("/srv/sessions", self.odoo_uid, self.odoo_gid)
            for node in self.servers:
                os.symlink("/srv/sessions", self.root + node.data_dir + "/sessions")
                node.sessions = self.root + "/srv/sessions"
        addons = self.root + "/srv/addons"
        os.mkdir(addons)
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "addon")
        subprocess.run(["cp", "-R", source + "/.", addons], check=True, timeout=30)

    def _owner(self, name):
        with open(self.root + "/etc/passwd") as table:
            for line in table:
                fields = line.split(":")
                if fields[0] == name:
                    return int(fields[2]), int(fields[3])
        raise RuntimeError(f"no user {name} in {self.root}")

    def _dir(self, path, uid, gid, mode=0o700):
        os.mkdir(self.root + path, mode)
        os.chmod(self.root + path, mode)
        os.chown(self.root + path, uid, gid)

    def _chroot(self, user, *argv, **environment):
        words = [f"{k}={v}" for k, v in environment.items()]
        return ["chroot", f"--userspec={user}:{user}", self.root, "env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8",
                "PYTHONUNBUFFERED=1", *words, *argv]

    def _start(self, name, argv, **popen):
        process = Process(name, argv, self.logs, **popen)
        self.started.append(process)
        return process

    # --- servers -------------------------------------------------------------------------------------------------

    def start_postgres(self):
        binary = self._only("usr/lib/postgresql", "bin/postgres")
        cluster = self._only("var/lib/postgresql", "main")
        config = self._only("etc/postgresql", "main/postgresql.conf")
        self.postgres = self._start("postgres", self._chroot("postgres", binary, "-D", cluster, "-c", "config_file=" + config))
        self.postgres.await_line("database system is ready to accept connections", 60)
        # Of Odoo's jobs only the one under test may run, and only when the test says so. Much triggers the vacuum
        # besides its time of day, so it is switched off, not only put off.
        self.sql("UPDATE ir_cron SET active = false")

    def _only(self, folder, rest):
        for entry in sorted(os.listdir(os.path.join(self.root, folder)), reverse=True):
            if os.path.exists(os.path.join(self.root, folder, entry, rest)):
                return f"/{folder}/{entry}/{rest}"
        raise RuntimeError(f"no {folder}/*/{rest} in {self.root}")

    def sql(self, statement):
        done = subprocess.run(self._chroot("odoo", "psql", "-d", "shop", "-At", "-v", "ON_ERROR_STOP=1", "-c", statement),
                              check=False, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError("psql: " + done.stderr)
        return done.stdout.strip()

    def start_redis(self):
        folder = os.path.dirname(self.redis_socket)
        os.chmod(folder, 0o755)
        if self.sentinel:
            place = types.SimpleNamespace(host="127.0.0.1", directory=folder, logs=self.logs, started=self.started)
            self.deployment = Sentinel(place, down_after_ms=NEVER_MS)
            self.redis_url = self.deployment.url
            return
        self.redis = self._start("redis", [
            "redis-server", "--port", "0", "--unixsocket", self.redis_socket, "--unixsocketperm", "777",
            "--save", "", "--appendonly", "no", "--dir", folder])
        self.redis.await_line("eady to accept connections", 20)

    def start_odoo(self, *nodes):
        for node in nodes:
            node.odoo = self._start("odoo-" + node.name, self._chroot(
                "odoo", "odoo", "-c", self.odoo_config(node, "shop", "sessionfs_test"), HOME="/var/lib/odoo",
                # A job that is due is then started at once, not at the next minute.
                ODOO_NOTIFY_CRON_CHANGES="1"))
        for node in nodes:
            node.odoo.await_line(r"HTTP service \(werkzeug\) running on", 90)
            if node.workers:
                node.odoo.await_line(r"Evented Service \(longpolling\) running on", 90)
            # It says so a moment before it listens.
            for port in {node.http_port, node.gevent_port}:
                await_port(port, 30)

    def run_odoo(self, name, node, database, addon, timeout_s, *arguments):
        """An Odoo that ends by itself; its process, ended."""
        process = self._start(name, self._chroot("odoo", "odoo", "-c", self.odoo_config(node, database, addon), *arguments,
                                                 HOME="/var/lib/odoo"))
        process.child.wait(timeout_s)
        process.reader.join(10)
        return process

    def odoo_config(self, node, database, addon):
        """Writes it; its path as Odoo sees it."""
        path = f"/srv/{node.name.lower()}-{database}.conf"
        evented = "gevent_port" if self.version >= 16 else "longpolling_port"
        with open(self.root + path, "w") as out:
            out.write(f"""[options]
db_name = {database}
db_user = odoo
dbfilter = ^{database}$
list_db = False
data_dir = {node.data_dir}
addons_path = /usr/lib/python3/dist-packages/odoo/addons,/srv/addons
server_wide_modules = base,web,{addon}
http_interface = 127.0.0.1
http_port = {node.http_port}
{evented} = {node.gevent_port}
workers = {node.workers}
proxy_mode = True
max_cron_threads = {1 if node is self.a else 0}
""")
        return path

    def config_of(self, node):
        return os.path.join(self.run_dir, f"sessionfs-{node.name}.toml")

    def mount_sessions(self, idle, requests="auto", floor=None):
        """One sessionfs per node, both on the same Redis, as two servers would have it. `requests`: whether they see
        what Odoo is asked for. With a `floor`, the first one follows Odoo's system parameters, down to that time."""
        self.mount_count += 1
        for node in self.servers:
            config = self.config_of(node)
            follows = floor and node is self.a
            with open(config, "w") as out:
                out.write(f'owner = "{self.odoo_uid}"\ngroup = "{self.odoo_gid}"\n\n[lifetime]\nidle = "{idle}"\n'
                          'anonymous_idle = "7d"\nanonymous_unopened = "1h"\nabsolute = "off"\n'
                          + (f'idle_min = "{floor}"\n\n[odoo]\nfollow_parameters = true\n'
                             f'config = "{self._parameters_conf()}"\n' if follows else "") + "\n"
                          f'[activity]\nrequests = "{requests}"\nports = [{node.http_port}]\n')
            node.sessionfs = self._start(f"sessionfs-{node.name}-{self.mount_count}", [
                self.binary, "mount", node.sessions, "--config", config, "--redis", self.redis_url],
                env={**os.environ, "RUST_BACKTRACE": "1"})
            # The first one makes the secret, without which the others do not start.
            node.sessionfs.await_line("^ready ", 30)
            if len(mounts_at(node.sessions)) != 1:
                raise RuntimeError(f"sessionfs says ready, but mounted {len(mounts_at(node.sessions))} times on {node.sessions}")

    def _parameters_conf(self):
        """How PostgreSQL is reached from outside of Odoo's root."""
        path = os.path.join(self.run_dir, "parameters.conf")
        with open(path, "w") as out:
            out.write(f"[options]\ndb_host = {self.root}/run/postgresql\ndb_user = odoo\ndb_name = shop\n")
        return path

    def unmount_sessions(self):
        """SIGTERM, as a service manager does; how it ended is kept for the last check."""
        for node in self.servers:
            if node.sessionfs:
                status = node.sessionfs.stop()
                left = len(mounts_at(node.sessions))
                self.exits.append((node.sessionfs.name, status, left))
                node.sessionfs = None

    def session_file(self, node, sid):
        name = f"{sid[:2]}/{sid}" if self.version >= 16 else f"werkzeug_{sid}.sess"
        return os.path.join(node.sessions, name)

    def connect_redis(self):
        return Redis(self.redis_socket)

    def stop(self):
        """Never raises: whatever this leaves, the end of the namespaces takes."""
        for node in self.servers:
            if node.odoo:
                # 14's workers take a while to notice; nothing of theirs is worth waiting for.
                node.odoo.stop(timeout_s=8)
        try:
            self.unmount_sessions()
        finally:
            for process in reversed(self.started):
                if process.child.poll() is None:
                    process.stop(signal.SIGQUIT if process.name == "postgres" else signal.SIGTERM, 10)

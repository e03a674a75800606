"""Runs Odoo and sessionfs in containers, as docs/containers.md says, and looks at what people would see.

Not called by hand: `run` makes the root folders and starts this as process 1 of namespaces of its own.
"""
import argparse
import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TREE, "tests", "odoo")]

# They lie in the folders of the line above.
from browser import Browser  # noqa: E402
from podman import Failed, Form, Podman, command, compose, container, documents, pod  # noqa: E402

FILES = os.path.join(TREE, "packaging", "containers")
DAEMONSET, SIDECAR = f"{FILES}/kubernetes/daemonset.yaml", f"{FILES}/kubernetes/sidecar.yaml"
# Where the documents keep Odoo's data_dir on the host, and in its container.
HOST_DATA, DATA = "/srv/odoo", "/var/lib/odoo"
SESSIONS = HOST_DATA + "/sessions"
SESSIONFS = "/usr/local/bin/sessionfs"
FAMILY = 42
NO_DEVICE_LOGOUT = "device logout and background detection do not work"


class Node:
    """Odoo, as the browser of tests/odoo knows it. The network is the run's own."""
    name, version, http_port, gevent_port = "shop", 19, 8069, 8072


class Admin:
    login, password = "admin", "admin"


def check(condition, why):
    if not condition:
        raise Failed(why)


def until(condition, what, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {timeout_s} s")
        time.sleep(0.1)


class Run:
    def __init__(self, told):
        self.told = told
        self.space = os.path.join(told.base, "space")
        self.passed = self.failed = 0
        self.node = Node()
        self.people = []

    # --- the host ------------------------------------------------------------------------------------------------

    def make_host(self):
        """What is written is in memory, and seen in this namespace alone. `/` is shared, as systemd makes it."""
        os.mkdir(self.space)
        command(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.space])
        for place in ("/etc", "/srv", "/usr/local", "/var/lib", "/var/log"):
            layer = f"{self.space}/host{place}"
            os.makedirs(layer + ".upper")
            os.makedirs(layer + ".work")
            command(["mount", "-t", "overlay", "overlay", "-o",
                     f"lowerdir={place},upperdir={layer}.upper,workdir={layer}.work", place])
        command(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
        # The installer looks at all mounts. Here these are copies.
        command(["umount", "--all", "--lazy", "--types", "fuse.sessionfs"])
        command(["mount", "--make-rshared", "/"])
        command(["ip", "link", "set", "lo", "up"])
        for left in (HOST_DATA, "/etc/sessionfs", "/var/lib/sessionfs"):
            shutil.rmtree(left, ignore_errors=True)
        command(["strip", "-o", f"{self.space}/sessionfs", self.told.binary])
        os.makedirs("/usr/local/bin", exist_ok=True)
        shutil.copy(f"{self.space}/sessionfs", SESSIONFS)
        self.podman = Podman(self.space, self.told.cgroup)
        self.uid, self.gid = self.account("odoo")

    def account(self, name):
        with open(self.told.odoo + "/etc/passwd") as table:
            fields = next(line.split(":") for line in table if line.startswith(name + ":"))
        return int(fields[2]), int(fields[3])

    def make_directory(self, path, uid, gid, mode=0o700):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        os.chown(path, uid, gid)

    def clear_data_dir(self):
        # What a check that failed has left.
        while self.is_mounted():
            command(["umount", "--lazy", SESSIONS])
        shutil.rmtree(HOST_DATA, ignore_errors=True)

    def make_data_dir(self):
        self.clear_data_dir()
        self.people = []
        self.make_directory(HOST_DATA, self.uid, self.gid)
        self.make_directory(SESSIONS, self.uid, self.gid)
        # The database's own is in the root folder.
        os.symlink("/srv/odoo/filestore", HOST_DATA + "/filestore")

    def is_mounted(self):
        return command(["findmnt", "--noheadings", "--types", "fuse.sessionfs", "--mountpoint", SESSIONS],
                       may_fail=True)[0] == 0

    def set_up(self, *options, code=0):
        """The installer as sessionfs-setup: the program is there already."""
        ended, said = command([f"{TREE}/install.sh", "--setup-only", *options], 120, may_fail=True)
        check(ended == code, f"install.sh {' '.join(options)}: exit code {ended}, not {code}: {said[-2000:]}")
        return said

    # --- containers ----------------------------------------------------------------------------------------------

    def start_database(self):
        uid, gid = self.account("postgres")
        self.make_directory(f"{self.space}/postgresql", uid, gid, 0o777)
        with_versions = f"{self.told.odoo}/usr/lib/postgresql"
        version = max(os.listdir(with_versions))
        self.podman.start("db", ["--network", "none", "--user", "postgres", "-v", f"{self.space}/postgresql:/run/postgresql",
                                 "--rootfs"], [self.told.odoo + ":O"],
                          [f"/usr/lib/postgresql/{version}/bin/postgres", "-D", f"/var/lib/postgresql/{version}/main",
                           "-c", f"config_file=/etc/postgresql/{version}/main/postgresql.conf"])
        until(lambda: os.path.exists(f"{self.space}/postgresql/.s.PGSQL.5432"), "PostgreSQL's socket")

    def start_odoo(self, form):
        """The real Odoo with the volumes of a form; it is up when its login page comes."""
        with open(f"{self.space}/odoo.conf", "w") as out:
            out.write(f"[options]\ndb_name = shop\ndbfilter = ^shop$\ndata_dir = {DATA}\nhttp_interface = 127.0.0.1\n"
                      "workers = 2\nmax_cron_threads = 0\n")
        os.chmod(f"{self.space}/odoo.conf", 0o644)
        self.podman.start("odoo", [*form.options, "--network", "host", "--user", "odoo", "--env", f"HOME={DATA}",
                                   "-v", f"{self.space}/postgresql:/run/postgresql",
                                   "-v", f"{self.space}/odoo.conf:/etc/odoo/shop.conf:ro", "--rootfs"],
                          [self.told.odoo + ":O"], ["odoo", "-c", "/etc/odoo/shop.conf"])
        self.await_odoo()

    def await_odoo(self):
        def answers():
            try:
                return Browser().get(self.node, "/web/health").status == 200
            except OSError:
                return False
        try:
            until(answers, "Odoo's answer", 120)
        except Failed as failure:
            raise Failed(f"{failure}: {self.podman('logs', '--tail', '20', 'odoo')}") from None

    def log_in(self):
        self.people.append(Browser().log_in(self.node, Admin))
        return self.people[-1]

    def all_are_in(self, when):
        for person in self.people:
            check(not person.is_dead(self.node), f"logged out {when}")

    def started(self):
        return self.podman("inspect", "--format", "{{.State.StartedAt}} {{.State.Pid}}", "odoo")

    def revoke_by_browser(self):
        """'Log out this device' as in the preferences, with the question for the password."""
        one, other = Browser().log_in(self.node, Admin), Browser().log_in(self.node, Admin)
        check(not other.is_dead(self.node), "a device that has logged in is not in")
        devices = one.call(self.node, "res.device", "search_read",
                           [["session_identifier", "=", other.sid[:FAMILY]]], ["id"])
        check(len(devices) == 1, f"{len(devices)} devices for one session")
        action = one.call(self.node, "res.device", "revoke", [devices[0]["id"]])
        if isinstance(action, dict) and action.get("res_model") == "res.users.identitycheck":
            one.call(self.node, "res.users.identitycheck", "run_check", [action["res_id"]],
                     context={"password": Admin.password})
        check(not one.is_dead(self.node), "the device that asked is logged out")
        return "revoked" if other.is_dead(self.node) else "alive"

    def revoke_by_store(self, form):
        """The same by Odoo's own code alone, which needs no database."""
        return self.podman.start("device", [*form.options, "--network", "none", "--user", "odoo", "-v",
                                            f"{HERE}/revoke.py:/revoke.py:ro", "--rootfs"],
                                 [self.told.odoo + ":O"], ["python3", "/revoke.py", DATA + "/sessions"],
                                 wait=True).strip().splitlines()[-1]

    def start_sessionfs(self, form, *options):
        self.podman.start("sessionfs", [*form.options, *options], ["sessionfs"], form.arguments)
        self.await_sessionfs()

    def await_sessionfs(self):
        try:
            until(lambda: self.podman("exec", "sessionfs", "sessionfs", "status", may_fail=True)[0] == 0,
                  "sessionfs serves in its container", 60)
        except Failed as failure:
            raise Failed(f"{failure}: {self.podman('logs', '--tail', '20', 'sessionfs', may_fail=True)[1]}") from None
        check(self.is_mounted(), "the host does not see the mount")

    def findings(self, *argv):
        """The exit code of check, and what it found."""
        code, said = command([*argv, "check", "--json"], may_fail=True)
        return code, json.loads(said[:said.rindex("}") + 1])["findings"]

    def findings_inside(self):
        return self.findings(*self.podman.argv, "exec", "sessionfs", "sessionfs")

    def unidentified(self):
        """What check, status and the log say in the container of sessionfs of callers without a process."""
        code, findings = self.findings_inside()
        found = [finding for finding in findings if finding["id"] == "odoo.callers"]
        status = self.podman("exec", "sessionfs", "sessionfs", "status", may_fail=True)[1]
        log = self.podman("logs", "sessionfs")
        return code, found, status.count("error:"), log.count(NO_DEVICE_LOGOUT)

    # --- what is checked -----------------------------------------------------------------------------------------

    def all(self):
        began = time.monotonic()
        self.make_host()
        if self.ask(self.containerfile):
            parts = {"host": self.on_the_host, "compose": self.in_a_container, "kubernetes": self.in_kubernetes}
            for name in self.told.part or parts:
                parts[name]()
        self.say(f"in all {time.monotonic() - began:.0f} s")

    def on_the_host(self):
        self.start_database()
        self.make_data_dir()
        self.ask(self.no_propagation_is_a_question)
        self.ask(self.set_up_while_odoo_runs)
        self.ask(self.restart_of_sessionfs)
        self.ask(self.reload_of_sessionfs)
        self.ask(self.restart_of_odoo)
        self.ask(self.device_logout_on_the_host)
        self.ask(self.nothing_to_complain_of)
        self.ask(self.worker_killed)
        self.ask(self.upgraded)
        self.ask(self.without_propagation)
        self.ask(self.directory_itself_as_volume)
        self.ask(self.given_back)
        self.podman.remove("odoo", "db")

    def in_a_container(self):
        self.start_database()
        self.make_data_dir()
        self.ask(self.compose_file)
        self.ask(self.restart_of_the_container)
        self.ask(self.kill_of_the_container)
        self.ask(self.device_logout_with_pid_host)
        self.ask(self.without_pid_host)
        self.podman.remove("odoo", "sessionfs", "db")

    def in_kubernetes(self):
        self.ask(self.manifests_are_whole)
        self.ask(self.daemonset)
        self.ask(self.sidecar)
        self.podman.remove("sessionfs", "pause")

    def say(self, text):
        print(text, flush=True)

    def ask(self, scenario):
        name, began = scenario.__name__, time.monotonic()
        try:
            note = scenario()
        except Exception as error:  # one check that breaks says so, and the others are still asked
            self.failed += 1
            self.say(f"FAILED {name}: {type(error).__name__}: {error}")
            with open(os.path.join(self.told.base, "failures.log"), "a") as out:
                out.write(f"--- {name}\n{traceback.format_exc()}\n")
            return False
        self.passed += 1
        self.say(f"ok {name}" + (f": {note}" if note else "") + f" ({time.monotonic() - began:.0f} s)")
        return True

    def containerfile(self):
        """Built as the document says, from Debian 13's packages; no registry is asked for the base image."""
        base = subprocess.Popen(["tar", "-C", self.told.debian, "--exclude=./opt/rust", "-cf", "-", "."], stdout=subprocess.PIPE)
        self.podman("import", "-", "docker.io/library/debian:trixie-slim", stdin=base.stdout, timeout_s=120)
        check(base.wait(10) == 0, "tar failed")
        place = f"{self.space}/build"
        shutil.copytree(FILES, place)
        command([f"{TREE}/packaging/build-deb", "--binary", f"{self.space}/sessionfs", "--output", place], 300)
        self.podman("build", "--quiet", "--network", "none", "--pull=never", "--tag", "sessionfs", place, timeout_s=180)
        said = self.podman("run", "--rm", "--network", "none", "--cgroup-parent", "/" + self.told.cgroup,
                           "sessionfs", "--version")
        check(said.startswith("sessionfs "), said)

    # Odoo in a container, sessionfs on the host.

    def host_form(self):
        return compose(f"{FILES}/compose-host.yaml", "odoo", self.uid, self.gid)

    def no_propagation_is_a_question(self):
        plain = Form(["-v", f"{HOST_DATA}:{DATA}"])
        self.start_odoo(plain)
        self.log_in()
        found = json.loads(command([SESSIONFS, "discover", "--json"]))
        check([(one["path"], one["sees_mount"]) for one in found] == [(SESSIONS, "no")], f"{found}")
        said = self.set_up(code=3)
        for words in ("would not see the mount", "rslave", "--restart-container", "in a container (pid "):
            check(words in said, f"'{words}' is not in: {said}")
        check(not self.is_mounted() and not os.path.exists("/etc/sessionfs"), "something was done all the same")
        self.all_are_in("by a question")
        said = self.set_up("--restart-container", "--dry-run")
        check("This will be done:" in said, said)
        self.podman.remove("odoo")

    def set_up_while_odoo_runs(self):
        self.start_odoo(self.host_form())
        self.all_are_in("by another container")
        self.log_in()
        found = json.loads(command([SESSIONFS, "discover", "--json"]))
        check([(one["path"], one["owner"], one["group"], one["sees_mount"]) for one in found]
              == [(SESSIONS, str(self.uid), str(self.gid), "yes")], f"{found}")
        self.before = self.started()
        self.set_up()
        check(self.is_mounted(), "nothing is mounted")
        self.all_are_in("by the set-up")
        self.log_in()
        check(os.listdir(SESSIONS + ".imported"), "nothing was imported")

    def restart_of_sessionfs(self):
        command([SESSIONFS, "unmount", SESSIONS])
        check(not self.is_mounted(), "still mounted")
        self.set_up()
        self.all_are_in("by a restart of sessionfs")
        check(self.started() == self.before, "the container was restarted")

    def reload_of_sessionfs(self):
        command([SESSIONFS, "reload", SESSIONS])
        self.all_are_in("by a reload of sessionfs")

    def restart_of_odoo(self):
        self.podman("restart", "--time", "10", "odoo", timeout_s=90)
        self.await_odoo()
        self.all_are_in("by a restart of the container")

    def device_logout_on_the_host(self):
        check(self.revoke_by_browser() == "revoked", "the other device is still in")

    def nothing_to_complain_of(self):
        findings = self.findings(SESSIONFS)[1]
        of_odoo = [finding for finding in findings if finding["id"].startswith(("odoo.", "mount.", "files."))]
        bad = [finding for finding in of_odoo if finding["severity"] in ("error", "warning")]
        check(not bad, f"{bad}")
        check(any(finding["id"] == "odoo.ok" for finding in of_odoo), f"{of_odoo}")

    # What serves is replaced while people work.

    def at_work(self, happen):
        """People click, log in and log out while something happens three times; none of them may see it."""
        over, clicks, wrong = threading.Event(), [], []

        def clicks_on(person):
            if person.is_dead(self.node):
                wrong.append("logged out")

        def comes_and_goes(_nobody):
            one = Browser().log_in(self.node, Admin)
            if one.is_dead(self.node):
                wrong.append("logged out just after the login")
            old = one.clone()
            one.log_out(self.node)
            if not old.is_dead(self.node):
                wrong.append("still in after the logout")

        def repeat(action, person):
            while not over.is_set():
                began = time.monotonic()
                try:
                    action(person)
                except Exception as error:  # whatever it is, a person has seen it
                    wrong.append(f"{type(error).__name__}: {error}")
                clicks.append(time.monotonic() - began)

        self.log_in()
        threads = [threading.Thread(target=repeat, args=(action, self.people[-1])) for action in (clicks_on, comes_and_goes)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                # Not a wait for an event: it is how long people work meanwhile.
                time.sleep(1)
                happen()
            time.sleep(1)
        finally:
            over.set()
            for thread in threads:
                thread.join(120)
        check(not wrong, f"{len(wrong)} of {len(clicks)} clicks: {wrong[:3]}")
        check(len(clicks) > 5, f"only {len(clicks)} clicks")
        self.all_are_in("in the end")
        return f"{len(clicks)} clicks, the longest took {max(clicks):.1f} s"

    def processes_of(self, command):
        """Those of sessionfs that run this command of it."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    words = file.read().split("\0")
            except OSError:
                continue
            if os.path.basename(words[0]) == "sessionfs" and words[1:2] == [command]:
                found.append(int(pid))
        return found

    def kill_worker(self):
        killed = self.processes_of("worker")
        check(len(killed) == 1, f"{len(killed)} workers")
        os.kill(killed[0], signal.SIGKILL)
        until(lambda: self.processes_of("worker") not in ([], killed), "another worker")

    def worker_killed(self):
        return self.at_work(self.kill_worker)

    def install_another_build(self):
        """What the package does when it is upgraded."""
        shutil.copy(f"{self.space}/sessionfs", SESSIONFS + ".new")
        os.rename(SESSIONFS + ".new", SESSIONFS)
        command([SESSIONFS, "reload", SESSIONS])
        for name in ("mount", "worker"):
            for pid in self.processes_of(name):
                check(os.path.samefile(f"/proc/{pid}/exe", SESSIONFS), f"'sessionfs {name}' is still the program before")

    def upgraded(self):
        return self.at_work(self.install_another_build)

    def without_propagation(self):
        """A volume that passes no mounts on, of a container that was started with the mount in its place."""
        self.podman.remove("odoo")
        self.start_odoo(Form(["-v", f"{HOST_DATA}:{DATA}"]))
        self.all_are_in("by another container")

        def all_of_it():
            self.kill_worker()
            command([SESSIONFS, "reload", SESSIONS])
            self.install_another_build()

        try:
            return self.at_work(all_of_it)
        finally:
            self.podman.remove("odoo")
            self.start_odoo(self.host_form())

    def directory_itself_as_volume(self):
        """It sees the mount of now, whoever serves it, and check says that it will see no other."""
        with open(f"{self.space}/odoo-bin", "w") as out:
            out.write("import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
                      "print('ready', flush=True)\nsignal.pause()\n")
        self.podman.start("itself", ["--network", "none", "--user", "odoo", "-v", f"{SESSIONS}:/data/sessions:rslave",
                                     "-v", f"{self.space}/odoo-bin:/odoo-bin:ro", "--rootfs"],
                          [self.told.odoo + ":O"], ["python3", "/odoo-bin", "-D", "/data", "--workers", "2"])
        try:
            # Before that it may be podman's own program still.
            until(lambda: "ready" in self.podman("logs", "itself"), "Odoo has begun")
            for happen in (lambda: None, self.kill_worker, self.install_another_build):
                happen()
                said = command([SESSIONFS, "check", SESSIONS], may_fail=True)[1]
                check("[odoo.volume]" in said and "[odoo.stale]" not in said, said)
                self.podman("exec", "itself", "ls", "/data/sessions")
            command([SESSIONFS, "unmount", SESSIONS])
            # It is done, and what check finds is said.
            said = self.set_up(code=4)
            check("[odoo.stale]" in said, said)
        finally:
            self.podman.remove("itself")

    def given_back(self):
        self.set_up("--uninstall", "--purge")
        check(not self.is_mounted(), "still mounted")
        # Without a restart of the container; by files again.
        self.people = []
        self.log_in()
        self.all_are_in("after the way back")
        check(len(os.listdir(SESSIONS)) > 0, "no session file")

    # sessionfs in a container.

    def compose_file(self):
        self.sessionfs_form = compose(f"{FILES}/compose.yaml", "sessionfs", self.uid, self.gid)
        self.documented(compose(f"{FILES}/compose.yaml", "sessionfs", 101, 101))
        self.start_sessionfs(self.sessionfs_form)
        self.start_odoo(compose(f"{FILES}/compose.yaml", "odoo", self.uid, self.gid))
        self.before = self.started()
        self.log_in()
        self.all_are_in("at once")

    def documented(self, form):
        """The command of the document is that of the compose file."""
        with open(f"{TREE}/docs/containers.md") as text:
            told = text.read().split("podman run -d --name sessionfs ", 1)[1].split("\n    podman ", 1)[0]
        told = shlex.split(told.replace("\\\n", " "))
        options = form.options[:]
        # For Docker alone.
        at = options.index("--security-opt")
        del options[at:at + 2]

        def pairs(words):
            return sorted(zip(words[::2], words[1::2]))

        end = told.index("sessionfs")
        check(pairs(told[:end]) == pairs(options), f"{told[:end]} is not {options}")
        check(told[end + 1:] == form.arguments, f"{told[end + 1:]} is not {form.arguments}")

    def restart_of_the_container(self):
        self.podman("restart", "--time", "30", "sessionfs", timeout_s=90)
        self.await_sessionfs()
        self.all_are_in("by a restart of sessionfs's container")
        check(self.started() == self.before, "Odoo's container was restarted")

    def kill_of_the_container(self):
        self.podman("kill", "--signal", "KILL", "sessionfs")
        self.podman("wait", "sessionfs")
        self.podman("start", "sessionfs")
        self.await_sessionfs()
        self.all_are_in("by the death of sessionfs's container")

    def device_logout_with_pid_host(self):
        check(self.revoke_by_browser() == "revoked", "the other device is still in")
        found, told, logged = self.unidentified()[1:]
        check((found, told, logged) == ([], 0, 0), f"{found}, {told} times in status, {logged} in the log")
        # Without SYS_PTRACE Odoo's own view cannot be looked at, and nothing is guessed.
        ids = {finding["id"] for finding in self.findings_inside()[1]}
        check(ids >= {"mount.ok", "odoo.unseen"} and not ids & {"odoo.workers", "odoo.none", "odoo.blind"}, f"{ids}")
        # The host's root sees both containers, but not the control socket.
        ids = {finding["id"] for finding in self.findings(SESSIONFS)[1]}
        check(ids >= {"mount.ok", "odoo.ok", "mount.keeper"} and not ids & {"odoo.volume", "odoo.blind"}, f"{ids}")

    def without_pid_host(self):
        """The failure mode: everything works but what needs to know the caller, and it is said."""
        self.podman.remove("sessionfs")
        options = list(self.sessionfs_form.options)
        at = options.index("--pid")
        del options[at:at + 2]
        self.start_sessionfs(Form(options, self.sessionfs_form.arguments))
        self.all_are_in("by the other PID namespace")
        check(self.revoke_by_browser() == "alive", "device logout works: then the documents are wrong")
        code, found, told, logged = self.unidentified()
        check(code == 61 and found and found[0]["severity"] == "error" and NO_DEVICE_LOGOUT in found[0]["what"],
              f"check: exit code {code}, {found}")
        check("hostPID" in found[0]["remedy"] and "shareProcessNamespace" in found[0]["remedy"], found[0]["remedy"])
        check(told == 1, f"{told} times in status")
        check(logged == 1, f"{logged} times in the log")

    # Kubernetes's forms: the manifests themselves, run by podman.

    def manifests_are_whole(self):
        """What the API server would refuse or a person would miss; there is no Kubernetes here to ask."""
        for path, kind, name in ((DAEMONSET, "DaemonSet", "sessionfs"), (DAEMONSET, "Deployment", "odoo"),
                                 (SIDECAR, "Deployment", "odoo")):
            spec = pod(path, kind, name, self.uid, self.gid)
            volumes = {volume["name"] for volume in spec["volumes"]}
            for one in spec.get("initContainers", []) + spec["containers"]:
                used = {mount["name"] for mount in one["volumeMounts"]}
                check(used <= volumes, f"{path}: {one['name']} uses {used - volumes}, which no volume is")
                if one["image"].startswith("odoo"):
                    data = [mount for mount in one["volumeMounts"] if mount["mountPath"] == DATA]
                    check([mount["mountPropagation"] for mount in data] == ["HostToContainer"], f"{path}: {data}")
        names = {(one["kind"], one["metadata"]["name"])
                 for one in documents(f"{FILES}/kubernetes/configuration.yaml", self.uid, self.gid)}
        check(names == {("ConfigMap", "sessionfs"), ("Secret", "sessionfs-redis")}, f"{names}")

    def kubernetes_places(self, **places):
        """The ConfigMap and the Secret as files, and the Redis that they name."""
        place = f"{self.space}/kubernetes"
        if not os.path.isdir(place):
            os.makedirs(place + "/redis")
            os.mkdir(place + "/spool")
            configuration, secret = documents(f"{FILES}/kubernetes/configuration.yaml", self.uid, self.gid)
            with open(place + "/sessionfs.toml", "w") as out:
                out.write(configuration["data"]["sessionfs.toml"])
            password = secret["stringData"]["password"]
            with open(place + "/redis/password", "w") as out:
                out.write(password)
            with open(place + "/redis/secret", "w") as out:
                out.write(base64.b64encode(os.urandom(32)).decode())
            os.chmod(place + "/redis/secret", 0o400)
            self.start_redis(password)
        return {"configuration": place, "password": place + "/redis", "spool": place + "/spool", **places}

    def start_redis(self, password):
        """With the rights that the documents give, and no others."""
        with open(f"{TREE}/docs/redis.md") as text:
            rights = next(line.split(">PASSWORD ")[1] for line in text if "ACL SETUSER sessionfs reset on >PASSWORD" in line)
        os.mkdir(f"{self.space}/redis")
        with open(f"{self.space}/redis.conf", "w") as out:
            out.write(f"bind 127.0.0.1\ndir {self.space}/redis\nsave \"\"\nuser default off\n"
                      f"user sessionfs on >{password} {rights}\n")
        with open(f"{self.space}/redis.log", "w") as log:
            self.redis = subprocess.Popen(["redis-server", f"{self.space}/redis.conf"], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=subprocess.STDOUT)

    def run_pod(self, spec, places):
        """The containers of a pod in their order, up to the one that serves."""
        directory = container(spec, "directory", places)
        self.podman.start("directory", [*directory.options, "--network", "none"], ["sessionfs"], directory.arguments, wait=True)
        self.start_sessionfs(container(spec, "sessionfs", places), "--network", "host", "--add-host", "redis:127.0.0.1")

    def daemonset(self):
        self.clear_data_dir()
        os.mkdir(HOST_DATA)
        places = self.kubernetes_places(filestore=f"{self.space}/kubernetes/redis")
        self.run_pod(pod(DAEMONSET, "DaemonSet", "sessionfs", self.uid, self.gid), places)
        odoo = pod(DAEMONSET, "Deployment", "odoo", self.uid, self.gid)
        wait = container(odoo, "wait", places)
        self.podman.start("wait", [*wait.options, "--network", "none"], ["sessionfs"], wait.arguments, wait=True)
        check(self.revoke_by_store(container(odoo, "odoo", places)) == "revoked", "the other device is still in")
        # The pod is replaced: its first container meets the mount of the one before.
        self.podman("kill", "--signal", "KILL", "sessionfs")
        self.podman("wait", "sessionfs")
        self.podman.remove("sessionfs")
        self.run_pod(pod(DAEMONSET, "DaemonSet", "sessionfs", self.uid, self.gid), places)
        check(self.revoke_by_store(container(odoo, "odoo", places)) == "revoked", "the other device is still in")
        self.podman.remove("sessionfs")

    def sidecar(self):
        self.podman.remove("sessionfs")
        self.clear_data_dir()
        os.mkdir(HOST_DATA)
        places = self.kubernetes_places(filestore=f"{self.space}/kubernetes/redis", data=HOST_DATA)
        spec = pod(SIDECAR, "Deployment", "odoo", self.uid, self.gid)
        self.podman.start("pause", ["--network", "none", "--entrypoint", "sleep"], ["sessionfs"], ["infinity"])
        self.run_pod(spec, places)
        check(self.revoke_by_store(container(spec, "odoo", places)) == "revoked", "the other device is still in")
        found, told, logged = self.unidentified()[1:]
        check((found, told, logged) == ([], 0, 0), f"{found}, {told} times in status, {logged} in the log")


def keep_logs(run, base):
    for name in ("odoo", "sessionfs", "db"):
        with open(os.path.join(base, name + ".log"), "w") as out:
            out.write(run.podman("logs", name, may_fail=True)[1])
    for path in ("/var/log/sessionfs.log", f"{run.space}/redis.log"):
        if os.path.exists(path):
            shutil.copy(path, base)


def main():
    parser = argparse.ArgumentParser()
    for option in ("--base", "--binary", "--odoo", "--debian", "--cgroup"):
        parser.add_argument(option, required=True)
    parser.add_argument("part", nargs="*", choices=("host", "compose", "kubernetes", []))
    parser.add_argument("--keep", action="store_true")
    told = parser.parse_args()
    # The first process of the namespace: its end is the end of all others. SIGCHLD is for wait() alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    run = Run(told)
    try:
        run.all()
    except BaseException:
        print("FAILED driver: " + traceback.format_exc(), flush=True)
        run.failed += 1
    finally:
        if (run.failed or told.keep) and hasattr(run, "podman"):
            keep_logs(run, told.base)
    print(f"{run.passed} passed, {run.failed} failed", flush=True)
    sys.exit(1 if run.failed or not run.passed else 0)


if __name__ == "__main__":
    main()

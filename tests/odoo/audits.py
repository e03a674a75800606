"""`sessionfs audit` on the whole chain: the real Odoo behind nginx, as it should be and with each fault once."""
import json
import os
import shutil
import subprocess

from checks import check
from namespaces import MS_BIND_RECURSIVE, mount
from nginx import PLAIN_PORT, Front

SITE = "https://shop.example.com"
FLAGS = "proxy_cookie_flags session_id secure samesite=lax;"
REDIRECT = "return 301 https://$host$request_uri;"
AUDIT_TIMEOUT_S = 300
# All that is tried; what depends on the machine (its kernel, its Redis, its units) is another matter.
OF_THE_CHAIN = ("site.", "nginx.", "odoo.", "hijack.", "stress.")
WELL = ("pass", "note")


class AuditedFront(Front):
    """As documented, without the driver's own port, and with a certificate that a browser would trust."""

    def __init__(self, lab, faults=()):
        super().__init__(lab)
        self.faults = faults
        self.authority = os.path.join(self.place, "ca.pem")

    def start(self):
        if os.path.isdir(self.place):
            subprocess.run(["rm", "-r", self.place], check=True, timeout=30)
        super().start()

    def _config(self, certificate, key):
        self._certify(certificate, key)
        text = super()._config(certificate, key).replace(f"listen {PLAIN_PORT};", "")
        for was, becomes in self.faults:
            if was not in text:
                raise RuntimeError(f"the documented configuration has no '{was}'")
            text = text.replace(was, becomes)
        return text

    def _certify(self, certificate, key):
        def openssl(words):
            subprocess.run(["openssl", *words.split()], check=True, capture_output=True, timeout=30, cwd=self.place)

        curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        openssl(f"req -x509 {curve} -keyout ca.key -out ca.pem -days 2 -subj /CN=test")
        openssl(f"req {curve} -keyout {key} -out csr -subj /CN=shop")
        with open(os.path.join(self.place, "names"), "w") as out:
            out.write("subjectAltName=DNS:shop.example.com\n")
        openssl(f"x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {certificate}")


class Audits:
    def audit_passes(self):
        """Nothing is found where all is as documented, and nothing is left behind."""
        before = self.living()
        with self.behind() as front:
            said = self.audited(front, "--change-password", "--stress", "--for", "5s", "--rate", "10",
                                "--html", os.path.join(self.lab.logs, "audit.html"))
            self.show(front, "--preset", "pci-dss-8.2.8", "--stress", "--for", "3s")
        wrong = {one["id"]: one["seen"] for one in said["findings"]
                 if one["id"].startswith(OF_THE_CHAIN) and one["grade"] not in WELL}
        check(not wrong, f"found where all is well: {wrong}")
        check(self.living() == before, "the audit has left sessions behind")
        self.fresh(self.users[7])  # by its former password
        operations = {one["name"]: one for one in said["stress"]["operations"]}
        check(set(operations) == {"login page", "call of a user", "cart"}, f"the load was {sorted(operations)}")
        times = ", ".join(f"{name} p99 {one['p99_ms']} ms" for name, one in operations.items())
        return f"{times}; {self.photographed('audit.html')}"

    def audit_finds_each_fault(self):
        for faults, wanted in (
                ([(FLAGS, "")], {"site.cookie-secure", "site.cookie-samesite", "nginx.cookie-flags"}),
                ([(REDIRECT, "location / { proxy_pass http://odoo; }")],
                 {"site.redirect", "nginx.redirect", "hijack.plain-http"})):
            with self.behind(faults) as front:
                found = self.found(self.audited(front))
                self.show(front)
            check(wanted <= found, f"{faults}: {wanted - found} not found, but {found}")
        path = self.lab.root + self.lab.odoo_config(self.a, "shop", "sessionfs_test")
        with open(path) as file:
            text = file.read()
        # Of the file alone: Odoo has read it at its start.
        with open(path, "w") as file:
            file.write(text.replace("proxy_mode = True", "").replace("list_db = False", ""))
        with self.behind() as front:
            found = self.found(self.audited(front))
        self.lab.odoo_config(self.a, "shop", "sessionfs_test")
        check({"odoo.proxy-mode", "odoo.list-db"} <= found, f"neither proxy_mode nor list_db was missed, but {found}")

    def audit_finds_sessions_on_a_disk(self):
        """The same Odoo, after sessionfs is gone and a plain directory is in its place."""
        self.lab.unmount_sessions()
        disk = os.path.join(self.lab.run_dir, "plain-sessions")
        os.mkdir(disk, 0o700)
        os.chown(disk, self.lab.odoo_uid, self.lab.odoo_gid)
        for node in self.lab.nodes:
            mount(disk, node.sessions, None, MS_BIND_RECURSIVE)
        try:
            with self.behind() as front:
                found = self.found(self.audited(front))
        finally:
            for node in self.lab.nodes:
                subprocess.run(["umount", node.sessions], check=True, timeout=30)
            self.lab.mount_sessions("15min")
        check("hijack.listing" in found, f"cookies in the listing were not found, but {found}")
        check(any(one.startswith("mount.") for one in found), f"a missing mount was not found, but {found}")

    def audit_waits_for_the_idle_time(self):
        self.lab.unmount_sessions()
        self.lab.mount_sessions(f"{self.idle_s}s")
        try:
            with self.behind() as front:
                said = self.audited(front, "--wait-idle")
        finally:
            self.lab.unmount_sessions()
            self.lab.mount_sessions("15min")
        idle = next(one for one in said["findings"] if one["id"] == "hijack.idle")
        check(idle["grade"] == "pass", f"the cookie after the idle time: {idle['grade']}: {idle['seen']}")
        return idle["seen"]

    # --- tools ---------------------------------------------------------------------------------------------------

    def behind(self, faults=()):
        return Served(AuditedFront(self.lab, faults))

    def audited(self, front, *more):
        """What an audit of node A says."""
        done = self.run_audit(front, "--json", *more)
        return json.loads(done.stdout)

    def show(self, front, *more):
        """The same as a person reads it, kept beside the logs."""
        done = self.run_audit(front, *more)
        with open(os.path.join(self.lab.logs, "audit.txt"), "a") as out:
            out.write(done.stdout)

    def run_audit(self, front, *more):
        user = self.users[7]
        password = os.path.join(self.lab.run_dir, "audit.password")
        with open(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(user.password + "\n")
        argv = [self.lab.binary, "audit", SITE, "--address", "127.0.0.1", "--ca-file", front.authority,
                "--login", user.login, "--password-file", password, "--database", "shop",
                "--sessions", self.a.sessions, "--log", front.access_log,
                "--config", os.path.join(self.lab.run_dir, "sessionfs-A.toml"), "--redis", self.lab.redis_url, *more]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=AUDIT_TIMEOUT_S)
        with open(os.path.join(self.lab.logs, "audit.log"), "a") as out:
            out.write(done.stdout + done.stderr)
        check(user.password not in done.stdout + done.stderr, "the password is in the report")
        check(done.returncode in (0, 80, 81), f"exit code {done.returncode}: {done.stderr}")
        return done

    @staticmethod
    def found(said):
        return {one["id"] for one in said["findings"] if one["grade"] not in WELL}

    def photographed(self, name):
        """The page as a browser shows it, beside the logs."""
        browser = shutil.which("chromium")
        if not browser:
            return "no chromium here to look at the page"
        page = os.path.join(self.lab.logs, name)
        done = subprocess.run([
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--enable-logging=stderr", "--window-size=1100,4400", "--user-data-dir=" + os.path.join(self.lab.run_dir, "chromium"),
            f"--screenshot={page}.png", "file://" + page], check=False, capture_output=True, text=True, timeout=60)
        check(os.path.getsize(page + ".png") > 100_000, f"the page is empty: {done.stderr[-500:]}")
        check("Content Security Policy" not in done.stderr, f"the page breaks its own policy: {done.stderr[-500:]}")
        return f"the page is shown in {name}.png"

    def living(self):
        done = subprocess.run([self.lab.binary, "list", "--json", "--login", self.users[7].login, "--redis", self.lab.redis_url],
                              check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.count('"alias"')


class Served:
    """A front that runs while something is done."""

    def __init__(self, front):
        self.front = front

    def __enter__(self):
        self.front.start()
        return self.front

    def __exit__(self, *_):
        self.front.process.stop()

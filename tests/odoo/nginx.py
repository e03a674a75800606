"""nginx in front of both nodes, with the configuration that docs/several-servers.md shows, taken from there."""
import os
import re
import subprocess

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "several-servers.md")
PLAIN_PORT = 8888  # for the driver's browser, which speaks no TLS; the network namespace is ours alone


class Front:
    """What a browser sees of both nodes: one address for everything."""

    def __init__(self, lab):
        self.lab = lab
        self.name = "nginx"
        self.version = lab.version
        self.http_port = self.gevent_port = PLAIN_PORT
        self.place = os.path.join(lab.run_dir, "nginx")
        self.access_log = os.path.join(self.place, "access.log")

    def start(self):
        os.mkdir(self.place)
        certificate, key = os.path.join(self.place, "crt"), os.path.join(self.place, "key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=shop.example.com"],
                       check=True, capture_output=True, timeout=30)
        config = os.path.join(self.place, "nginx.conf")
        with open(config, "w") as out:
            out.write(self._config(certificate, key))
        argv = ["nginx", "-c", config, "-e", os.path.join(self.place, "error.log")]
        tried = subprocess.run([*argv, "-t"], check=False, capture_output=True, text=True, timeout=30)
        if tried.returncode:
            raise RuntimeError("nginx refuses the documented configuration: " + tried.stderr)
        self.process = self.lab._start("nginx", [*argv, "-g", "error_log stderr notice;"])
        self.process.await_line("start worker process ", 20)

    def upstreams(self):
        """Which ports answered since this was asked last."""
        with open(self.access_log) as log:
            ports = re.findall(r"127\.0\.0\.1:(\d+)", log.read())
        os.truncate(self.access_log, 0)
        return {int(port) for port in ports}

    def _config(self, certificate, key):
        with open(DOCUMENT) as document:
            # Those of health checks are for other places; tests/balancers.rs runs them.
            shop = document.read().split("\n## Health checks\n")[0]
        whole, *more = re.findall(r"```nginx\n(.*?)```", shop, re.S)
        a, b = self.lab.nodes
        for shown, here in (("10.0.0.11:8069", f"127.0.0.1:{a.http_port}"), ("10.0.0.12:8069", f"127.0.0.1:{b.http_port}"),
                            ("10.0.0.11:8072", f"127.0.0.1:{a.gevent_port}"),
                            ("10.0.0.12:8072", f"127.0.0.1:{b.gevent_port}"),
                            ("/etc/ssl/shop.example.com.crt", certificate),
                            ("/etc/ssl/private/shop.example.com.key", key),
                            ("listen 443 ssl;", f"listen 443 ssl; listen {PLAIN_PORT};" + "".join(more))):
            if whole.count(shown) != 1:
                raise RuntimeError(f"several-servers.md: '{shown}' is expected once in the first nginx block")
            whole = whole.replace(shown, here)
        places = "".join(f"{kind}_temp_path {self.place}/{kind};" for kind in
                         ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return (f"user root; daemon off; pid {self.place}/pid; events {{}}\n"
                f"http {{ log_format upstream '$upstream_addr'; access_log {self.access_log} upstream; {places}\n"
                f"{whole}\n}}\n")

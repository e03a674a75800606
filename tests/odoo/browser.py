"""A browser as far as sessions are concerned: one cookie, many tabs, any node. Standard library only."""
import base64
import hashlib
import html
import http.client
import json
import os
import re
import socket
import struct
import threading
import time
import urllib.parse

REQUEST_TIMEOUT_S = 40
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

# Every secret that any browser ever held: at the end none of them may be found where sessions are kept or logged.
sids_ever = set()
_sids_lock = threading.Lock()


def remember(sid):
    with _sids_lock:
        sids_ever.add(sid)


class SessionExpired(Exception):
    """Odoo said that nobody is logged in with this cookie."""


class OdooError(Exception):
    """Odoo answered with an error that has nothing to do with sessions."""


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body
        self.text = body.decode("utf-8", "replace")
        self.location = headers.get("Location", "")

    def leads_to_login(self):
        """A redirect to the login page; 14 has its page reload by itself."""
        return self.status in (302, 303) and "/web/login" in self.location


class Browser:
    def __init__(self, sid=None):
        self.lock = threading.Lock()
        self.sid = None
        self.user = None
        if sid:
            self.take(sid)

    def take(self, sid):
        with self.lock:
            self.sid = sid
        remember(sid)

    def clone(self):
        """Another browser with the cookie as it is now: what a thief, or an old tab, would send."""
        return Browser(self.sid)

    def request(self, node, path, body=None, content_type=None, port=None):
        headers = {"User-Agent": AGENT, "Accept": "*/*", "Connection": "close"}
        with self.lock:
            if self.sid:
                headers["Cookie"] = "session_id=" + self.sid
        if content_type:
            headers["Content-Type"] = content_type
        connection = http.client.HTTPConnection("127.0.0.1", port or node.http_port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()
        for cookie in reply.headers.get_all("Set-Cookie") or []:
            match = re.match(r"session_id=([^;]+)", cookie)
            if match:
                self.take(match.group(1))
        return reply

    def get(self, node, path):
        return self.request(node, path)

    def post(self, node, path, form):
        return self.request(node, path, urllib.parse.urlencode(form).encode(), "application/x-www-form-urlencoded")

    def json(self, node, path, params, port=None):
        """A JSON-RPC call as Odoo's web client makes it."""
        body = json.dumps({"jsonrpc": "2.0", "method": "call", "id": 1, "params": params}).encode()
        reply = self.request(node, path, body, "application/json", port)
        if reply.status != 200:
            raise OdooError(f"{path}: HTTP {reply.status}: {reply.text[:300]}")
        answer = json.loads(reply.body)
        if "error" in answer:
            error = answer["error"]
            if error.get("code") == 100 or "Session" in error.get("message", ""):
                raise SessionExpired(f"{path} on {node.name}: {error.get('message')}")
            raise OdooError(f"{path} on {node.name}: {json.dumps(error)[-1500:]}")
        return answer.get("result")

    def call(self, node, model, method, *args, **kwargs):
        return self.json(node, f"/web/dataset/call_kw/{model}/{method}",
                         {"model": model, "method": method, "args": list(args), "kwargs": kwargs})

    def whoami(self, node):
        """The user id, by a call that saves nothing in the session."""
        if node.version >= 16:
            return self.call(node, "res.users", "context_get")["uid"]
        # 14's context has no uid: whom would a new activity be given to?
        return self.call(node, "mail.activity", "default_get", ["user_id"])["user_id"]

    def is_dead(self, node):
        """Whether this cookie is nobody's. Asked with a clone: Odoo 14 answers a dead cookie with a new one."""
        try:
            self.clone().whoami(node)
        except SessionExpired:
            return True
        return False

    def log_in(self, node, user):
        """By the login page, with its form and its token, as a person does it."""
        page = self.get(node, "/web/login")
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        if page.status != 200 or not token:
            raise OdooError(f"no login form on {node.name}: HTTP {page.status} {page.location}: {page.text[:300]}")
        reply = self.post(node, "/web/login", {
            "csrf_token": html.unescape(token.group(1)), "login": user.login, "password": user.password, "redirect": ""})
        if reply.status not in (302, 303):
            raise OdooError(f"login of {user.login} on {node.name}: HTTP {reply.status}: {reply.text[:300]}")
        self.user = user
        return self

    def log_out(self, node):
        return self.get(node, "/web/session/logout")


class WebSocketClosed(Exception):
    def __init__(self, code):
        super().__init__(f"closed with {code}")
        self.code = code


class WebSocket:
    """As much of RFC 6455 as Odoo's bus needs."""

    def __init__(self, browser, node, version):
        self.socket = socket.create_connection(("127.0.0.1", node.gevent_port), REQUEST_TIMEOUT_S)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        host = f"127.0.0.1:{node.gevent_port}"
        self.socket.sendall((
            f"GET /websocket?version={version} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nUser-Agent: {AGENT}\r\n"
            f"Cookie: session_id={browser.sid}\r\n\r\n").encode())
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        expected = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        if b" 101 " not in head.split(b"\r\n")[0] or expected not in head:
            self.close()
            raise OdooError("no websocket handshake: " + head.decode("latin-1")[:300])

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise WebSocketClosed(1006)
        self.buffer += data

    def _exactly(self, count):
        while len(self.buffer) < count:
            self._more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def _frame(self, opcode, payload):
        mask = os.urandom(4)
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
        self.socket.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def send(self, event, data):
        self._frame(1, json.dumps({"event_name": event, "data": data}).encode())

    def receive(self, timeout_s):
        """The next message; raises TimeoutError, or WebSocketClosed with the code of the server."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            head = self._exactly(2)
            size = head[1] & 0x7F
            if size == 126:
                size = struct.unpack("!H", self._exactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", self._exactly(8))[0]
            payload = self._exactly(size)
            opcode = head[0] & 0x0F
            if opcode == 8:
                raise WebSocketClosed(struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005)
            if opcode == 9:
                self._frame(10, payload)
            elif opcode in (1, 2):
                return json.loads(payload)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

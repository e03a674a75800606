"""Enough of Redis's protocol to read all that a server holds, and to watch all that is sent to it."""
import contextlib
import socket
import threading


class Redis:
    def __init__(self, place, timeout_s=20):
        """`place` is the path of a socket, or host and port."""
        self.socket = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self.socket.settimeout(timeout_s)
        self.socket.connect(place)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RuntimeError("redis: " + rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2]
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        raise RuntimeError(f"unexpected answer {line!r}")

    def call(self, *words):
        self.send(*words)
        return self.read()

    def everything(self):
        """All keys with their values, as (key, value bytes, ttl in ms)."""
        readers = {b"string": ("GET",), b"hash": ("HGETALL",), b"zset": ("ZRANGE", 0, -1), b"list": ("LRANGE", 0, -1),
                   b"set": ("SMEMBERS",), b"stream": ("XRANGE", "-", "+")}
        found = []
        for key in self.call("KEYS", "*"):
            kind = self.call("TYPE", key)
            if kind == b"none":
                continue
            command, *rest = readers[kind]
            value = self.call(command, key, *rest)
            found.append((key, value if isinstance(value, bytes) else repr(value).encode(), self.call("PTTL", key)))
        return found

    def close(self):
        self.file.close()
        self.socket.close()


class Monitor:
    """Everything any client sends to Redis, written to a file until `end`."""

    def __init__(self, path, to):
        self.redis = Redis(path, timeout_s=None)
        self.redis.call("MONITOR")
        # `end` closes it.
        self.out = open(to, "wb")  # noqa: SIM115
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        with contextlib.suppress(OSError, ValueError):
            for line in self.redis.file:
                self.out.write(line)

    def end(self):
        with contextlib.suppress(OSError):
            self.redis.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.redis.close()
        self.out.close()

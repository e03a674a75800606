"""A server that works as Odoo's does: it reads a request, opens the session of whoever has sent it, and answers.

server.py PORT prefork|threads recvfrom|read|recvmsg|readv SESSION

It listens on 127.0.0.1 and says "ready". Then it writes one byte for each receiving call that has returned something, so
that whoever sends a request in pieces knows when each has arrived. A request opens the session before its body is read,
as Odoo does, and once more after it: the one that is named here, or in its field X-Session.
"""

import contextlib
import os
import socket
import sys
import threading

PORT, SHAPE, HOW, SESSION = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
# Of a request head, as Python's http.server reads it.
PIECE = 8192


def receive(connection, size):
    """Receives by the call that is to be tried."""
    if HOW == "recvfrom":
        data = connection.recv(size)
    elif HOW == "read":
        data = os.read(connection.fileno(), size)
    elif HOW == "recvmsg":
        data = connection.recvmsg(size)[0]
    else:
        half = (size + 1) // 2
        buffers = [bytearray(half), bytearray(size - half)]
        count = os.readv(connection.fileno(), buffers)
        data = b"".join(buffers)[:count]
    if data:
        os.write(1, b".")
    return data


def open_session(session=SESSION):
    """Opens the session as Odoo does."""
    with open(session, "rb") as file:
        file.read()


def answer(connection, text, head=""):
    """Sends a response in one piece."""
    body = text.encode()
    connection.sendall(f"HTTP/1.1 200 OK\r\nServer: test\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def hold(connection):
    """Serves what has become a websocket: each frame opens the session and is answered by one."""
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    while head := receive(connection, 2):
        payload = receive(connection, head[1] & 0x7F) if head[1] & 0x7F else b""
        open_session()
        # The number of bytes that is sent for "100 Continue", too.
        size = 23 if payload.startswith(b"25") else 40
        connection.sendall(bytes([0x82, size]) + bytes(size))


def serve(connection):
    """Serves one connection until its other end closes it."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = receive(connection, PIECE)
            if not more:
                return
            data += more
        head, data = data.split(b"\r\n\r\n", 1)
        lines = head.split(b"\r\n")
        path = lines[0].split(b" ")[1]
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        session = fields.get(b"x-session", SESSION)
        open_session(session)
        if fields.get(b"expect") == b"100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif fields.get(b"x-expect") == b"twice":
            for _ in range(2):
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(fields.get(b"content-length", 0))
        while len(data) < length:
            data += receive(connection, min(PIECE, length - len(data)))
        data = data[length:]
        open_session(session)
        if fields.get(b"upgrade") == b"websocket":
            hold(connection)
            return
        answer(connection, f"{threading.get_native_id()} {path.decode()}")
        if lines[0].endswith(b"HTTP/1.0"):
            return


def accept(listener):
    """Serves connections, one after the other or each by a thread of its own."""
    while True:
        connection = listener.accept()[0]
        if SHAPE == "threads":
            threading.Thread(target=close_after, args=(connection,), daemon=True).start()
        else:
            close_after(connection)


def close_after(connection):
    """Serves a connection, whatever its other end does."""
    with connection, contextlib.suppress(OSError):
        serve(connection)


def main():
    """Listens, and serves by two processes if it is to fork before."""
    listener = socket.create_server(("127.0.0.1", PORT), backlog=4096)
    if SHAPE == "prefork":
        os.fork()
    os.write(1, b"ready\n")
    accept(listener)


main()

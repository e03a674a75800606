"""A line to Redis that takes its time.

  line.py LISTEN TO

Each is HOST:PORT, or the path of a socket. A delay line, not a queue that sleeps: each piece of bytes is noted with the
time of its arrival and sent on when it is due, so requests in a pipeline do not wait for each other. Its rate is that of
the line, for all connections together, in each direction. Standard input changes both: `delay_ms N` (one way) and `rate N`
(bytes a second, 0: no limit). `cut 1` ends all connections, and each new one, until `cut 0`. Each is answered on standard
output.
"""
import asyncio
import contextlib
import os
import selectors
import sys
import time

PIECE_BYTES = 16 * 1024
# What is under way on the line, of one connection.
PIECES = 4096


class Direction:
    def __init__(self):
        self.free_at = 0.0


class Line:
    def __init__(self, to):
        self.to = to
        self.delay_s = 0.0
        self.rate = 0
        self.cut = False
        self.writers = set()
        self.there, self.back = Direction(), Direction()

    async def connect(self, reader, writer):
        if self.cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await open_connection(self.to)
        except OSError:
            writer.close()
            return
        self.writers |= {writer, far_writer}
        await asyncio.gather(self.carry(reader, far_writer, self.there), self.carry(far_reader, writer, self.back))
        self.writers -= {writer, far_writer}

    async def carry(self, reader, writer, direction):
        queue = asyncio.Queue(PIECES)

        async def send():
            while True:
                due, piece = await queue.get()
                if not piece:
                    break
                await asyncio.sleep(due - time.monotonic())
                writer.write(piece)
                await writer.drain()

        sender = asyncio.ensure_future(send())
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                now = time.monotonic()
                if self.rate:
                    direction.free_at = max(direction.free_at, now) + len(piece) / self.rate
                    now = direction.free_at
                await queue.put((now + self.delay_s, piece))
        await queue.put((0, b""))
        with contextlib.suppress(OSError):
            await sender
        writer.close()

    def obey(self, words):
        name, value = words
        if name == "delay_ms":
            self.delay_s = float(value) / 1000
        elif name == "rate":
            self.rate = int(value)
        elif name == "cut":
            self.cut = value == "1"
            for writer in self.writers if self.cut else ():
                writer.transport.abort()
        else:
            raise ValueError(name)


def open_connection(to):
    if to.startswith("/"):
        return asyncio.open_unix_connection(to)
    host, port = to.rsplit(":", 1)
    return asyncio.open_connection(host, int(port))


async def listen(at, connect):
    if at.startswith("/"):
        await asyncio.start_unix_server(connect, at)
        # Who may use it is a matter of its folder.
        os.chmod(at, 0o777)
    else:
        host, port = at.rsplit(":", 1)
        await asyncio.start_server(connect, host, int(port))


async def main():
    line = Line(sys.argv[2])
    await listen(sys.argv[1], line.connect)
    print("listening", flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := await orders.readline():
        line.obey(order.decode().split())
        print("done", flush=True)


# epoll waits for whole milliseconds.
asyncio.SelectorEventLoop(selectors.SelectSelector()).run_until_complete(main())

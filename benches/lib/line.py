"""The way to Redis of one node, that of tests/faults: it can be slow, stand still, or be cut."""
import os
import signal
import socket
import statistics
import subprocess
import time

from places import REPOSITORY
from servers import start, stop

PROGRAM = os.path.join(REPOSITORY, "tests", "faults", "line.py")
PINGS = 200


class Line:
    """A socket that leads to another one."""

    def __init__(self, work, name, to, stack):
        self.path = os.path.join(work, f"{name}.sock")
        self.process = start("the delay line", ["/usr/bin/python3", "-B", PROGRAM, self.path, to],
                             os.path.join(work, f"{name}.log"), stack, lambda: os.path.exists(self.path),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # What is stopped does not end when it is told to.
        stack.callback(self.go_on)
        self.process.stdout.readline()
        # What it takes by itself, there and back.
        self.own_us = round_trip_us(self.path) - round_trip_us(to)

    def order(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def delay(self, there_and_back_us):
        """So much longer than without it, at least what it takes by itself."""
        self.order(f"delay_ms {max(0.0, there_and_back_us - self.own_us) / 2000}")

    def cut(self):
        self.order("cut 1")

    def mend(self):
        self.order("cut 0")

    def stand_still(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.go_on()
        stop(self.process)


def round_trip_us(path):
    """How long Redis's answer to a PING takes on this way, in the middle."""
    times = []
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
        for _ in range(PINGS):
            began = time.perf_counter()
            one.sendall(b"PING\r\n")
            one.recv(64)
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6

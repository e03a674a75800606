"""Visitors who fill carts, few of them, then many, on pairs of servers; and what they see, second by second.

Not called by hand: `run` makes what it needs and starts this.
"""
import collections
import http.client
import json
import os
import random
import re
import threading
import time

import document
import plot
from browser import Browser
from lab import User
from places import filesystem_of, machine
from shops import IDLE, Place, Shops, parser, run
from tables import quantile, table

WHOLE_RUN_S = 3600
WORKERS = 2
PARTS = ("before", "the sale", "after")
ADDED = 3
# Between two clicks of a visitor.
PAUSE_S = (0.2, 0.6)
REQUEST_TIMEOUT_S = 30
# At a time. Who comes when there are as many sees an error.
VISITORS_MAX = 600
WARM_UP = 8
FIRST_PORT = 9000
KINDS = ("sessionfs strict", "sessionfs near", "disk, sticky")


class Pair:
    """Two servers, and the port of nginx in front of them."""

    def __init__(self, kind, number, disk):
        self.kind, self.sticky = kind, kind.endswith("sticky")
        self.port = FIRST_PORT + number
        self.places = []
        for side in (0, 1):
            how = {"freshness": kind.split()[-1]}
            if self.sticky:
                how = {"directory": os.path.join(disk, str(side))}
                os.mkdir(how["directory"])
            self.places.append(Place(f"{kind} {'ab'[side]}", 2 * number + side, workers=WORKERS,
                                     prefix=f"sale{number}", **how))

    def upstream(self):
        servers = "".join(f"server 127.0.0.1:{place.http_port}; " for place in self.places)
        return (f"upstream pair{self.port} {{ {'ip_hash; ' if self.sticky else ''}{servers}}}\n"
                f"server {{ listen {self.port}; location / {{ proxy_pass http://pair{self.port}; }} }}\n")


def start_nginx(lab, pairs):
    place = os.path.join(lab.run_dir, "nginx")
    os.mkdir(place)
    kept = "".join(f"{kind}_temp_path {place}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = os.path.join(place, "nginx.conf")
    with open(config, "w") as out:
        out.write(f"user root; daemon off; pid {place}/pid; events {{ worker_connections 4096; }}\n"
                  f"http {{ access_log off; {kept}proxy_read_timeout 720s; proxy_set_header Host $host;\n"
                  "proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n"
                  f"{''.join(pair.upstream() for pair in pairs)}}}\n")
    nginx = lab._start("nginx", ["nginx", "-c", config, "-e", os.path.join(place, "error.log"), "-g", "error_log stderr notice;"])
    nginx.await_line("start worker process ", 20)


class Visitor:
    """A browser with an address of its own, by which nginx may choose a server."""

    def __init__(self, port, number):
        self.port, self.number, self.cookie = port, number, None
        # nginx's ip_hash takes the first three bytes.
        self.address = f"127.{1 + number // 250 % 250}.{1 + number % 250}.1"

    def call(self, path, **params):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S,
                                                source_address=(self.address, 0))
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.cookie:
            headers["Cookie"] = "session_id=" + self.cookie
        try:
            connection.request("POST", path, json.dumps({"jsonrpc": "2.0", "method": "call", "params": params}), headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"HTTP {answer.status}")
        for said in answer.headers.get_all("Set-Cookie") or []:
            found = re.match(r"session_id=([^;]+)", said)
            self.cookie = found[1] if found else self.cookie
        said = json.loads(body)
        if "error" in said:
            raise OSError(said["error"].get("message", "error"))
        return said.get("result")


class Sale:
    """What the visitors of one pair see."""

    def __init__(self, pair, product, arguments):
        self.pair, self.product, self.arguments = pair, product, arguments
        self.lock = threading.Lock()
        # By the second in which a request began: how long each took, in ms, and each error.
        self.times, self.errors = collections.defaultdict(list), collections.defaultdict(collections.Counter)
        self.began = time.monotonic()
        self.lost, self.visitors, self.here = [0] * len(PARTS), [0] * len(PARTS), 0

    def run(self):
        """Visitors come at their rate, however long those before them take, and at the same times to each pair."""
        threads, drawn = [], random.Random(0)
        self.began = time.monotonic()
        for part in range(len(PARTS)):
            rate = self.arguments.visitors * (self.arguments.times if PARTS[part] == "the sale" else 1)
            at, end = (self.began + self.arguments.seconds * turn for turn in (part, part + 1))
            while (at := at + drawn.expovariate(rate)) < end:
                time.sleep(max(0.0, at - time.monotonic()))
                self.visitors[part] += 1
                thread = threading.Thread(target=self.visit, args=(part, len(threads)))
                threads.append(thread)
                thread.start()
        for thread in threads:
            thread.join()
        return self

    def visit(self, part, number):
        with self.lock:
            self.here += 1
            full = self.here > VISITORS_MAX
        try:
            if full:
                self.note(time.monotonic(), None, "turned away")
            else:
                self.fill_a_cart(part, Visitor(self.pair.port, number))
        finally:
            with self.lock:
                self.here -= 1

    def fill_a_cart(self, part, visitor):
        added, drawn = 0, random.Random(visitor.number)
        self.ask(visitor, "/shop/cart/quantity")
        for _ in range(ADDED):
            time.sleep(drawn.uniform(*PAUSE_S))
            added += self.add(visitor)
        time.sleep(drawn.uniform(*PAUSE_S))
        done, quantity = self.ask(visitor, "/shop/cart/quantity")
        # Of an addition that failed nobody knows whether it is in the cart.
        if done and added == ADDED and quantity != ADDED:
            with self.lock:
                self.lost[part] += 1

    def add(self, visitor):
        """Whether it worked."""
        return self.ask(visitor, "/shop/cart/add", product_template_id=self.product["product_tmpl_id"][0],
                        product_id=self.product["id"], quantity=1)[0]

    def ask(self, visitor, path, **params):
        began = time.monotonic()
        try:
            result = visitor.call(path, **params)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.note(began, None, str(error) if str(error).startswith("HTTP") else type(error).__name__)
            return False, None
        self.note(began, (time.monotonic() - began) * 1000, None)
        return True, result

    def note(self, began, took_ms, error):
        second = int(began - self.began)
        with self.lock:
            if error:
                self.errors[second][error] += 1
            else:
                self.times[second].append(took_ms)

    def seconds(self):
        return range(max([*self.times, *self.errors, 0]) + 1)

    def part(self, number):
        """Times and errors of the requests that began in this part; the last one lasts until nobody is left."""
        first = number * self.arguments.seconds
        last = first + self.arguments.seconds if number + 1 < len(PARTS) else max(self.seconds()) + 1
        times = sorted(took for second in range(first, last) for took in self.times[second])
        return times, sum((self.errors[second] for second in range(first, last)), collections.Counter())


def parts_table(sales):
    lines = [["part", "sessions on", "visitors", "requests", "p50 ms", "p99 ms", "max ms", "errors", "carts lost"]]
    for number, part in enumerate(PARTS):
        for sale in sales:
            times, errors = sale.part(number)
            numbers = [f"{quantile(times, share):,.0f}" for share in (0.5, 0.99, 1)] if times else ["-"] * 3
            said = ", ".join(f"{name} {count}" for name, count in errors.most_common()) or "0"
            lines.append([part, sale.pair.kind, str(sale.visitors[number]), str(len(times) + errors.total()), *numbers, said,
                          str(sale.lost[number])])
    return table(lines, words={0, 1})


def series(sale):
    """By second: p50, p99 and the number of errors."""
    rows = []
    for second in sale.seconds():
        times = sorted(sale.times[second])
        rows.append((*(quantile(times, share) if times else None for share in (0.5, 0.99)), sale.errors[second].total()))
    return rows


def seconds_table(sales):
    lines = [["second", *(f"{sale.pair.kind}: p50, p99 ms, errors" for sale in sales)]]
    found = [series(sale) for sale in sales]
    for second in range(max(len(rows) for rows in found)):
        cells = []
        for rows in found:
            p50, p99, errors = rows[second] if second < len(rows) else (None, None, 0)
            cells.append(f"{p50:,.0f}, {p99:,.0f}, {errors}" if p50 is not None else f"-, -, {errors}")
        lines.append([str(second), *cells])
    return table(lines, words=set())


def prepare(lab, pairs, arguments):
    lab.make_root()
    lab.start_postgres()
    lab.start_redis()
    lab.mount_sessions(IDLE)
    for place in lab.servers:
        lab.start_odoo(place)
    admin = Browser().log_in(lab.a, User("admin", "admin"))
    product = admin.call(lab.a, "product.product", "search_read", [
        ["sale_ok", "=", True], ["website_published", "=", True], ["product_tmpl_id.attribute_line_ids", "=", False],
        ["type", "!=", "service"]], ["name", "product_tmpl_id"], limit=1, order="id")[0]
    start_nginx(lab, pairs)
    for pair in pairs:
        sale = Sale(pair, product, arguments)
        for number in range(WARM_UP):
            if not sale.add(Visitor(pair.port, number)):
                raise RuntimeError(f"nothing can be put into a cart on {pair.kind}: {dict(sale.errors)}")
    return product


def drive(arguments, run_dir, logs, disk):
    # Odoo's user passes through it.
    os.chmod(disk, 0o755)
    pairs = [Pair(kind, number, disk) for number, kind in enumerate(KINDS)]
    lab = Shops(arguments, run_dir, logs, [place for pair in pairs for place in pair.places])
    try:
        product = prepare(lab, pairs, arguments)
        sales = [Sale(pair, product, arguments).run() for pair in pairs]
    finally:
        lab.stop()
    text = (f"two Odoo 19 with {WORKERS} workers each, {arguments.visitors:g} visitors a second before and after the sale, "
            f"{arguments.times} times as many in it,\n{arguments.seconds} s each; disk: {filesystem_of(disk)}; {machine()}\n\n"
            f"{parts_table(sales)}")
    print(text, end="", flush=True)
    if arguments.by_second:
        print("\n" + seconds_table(sales), end="", flush=True)
    if arguments.plot:
        marks = [arguments.seconds, 2 * arguments.seconds]
        plot.write(arguments.plot, {sale.pair.kind: series(sale) for sale in sales}, marks)
    if arguments.update:
        document.update(arguments.update, {"flash-sale": document.fenced(text)})
    return 0


def main():
    made = parser()
    made.add_argument("--visitors", type=float, default=0.05)
    made.add_argument("--times", type=int, default=50)
    made.add_argument("--seconds", type=int, default=40)
    made.add_argument("--by-second", action="store_true")
    made.add_argument("--plot")
    arguments = made.parse_args()
    for name, least, most in (("visitors", 0.01, 100), ("times", 1, 1000), ("seconds", 5, 600)):
        if not least <= getattr(arguments, name) <= most:
            made.error(f"--{name} {getattr(arguments, name)}: give {least} to {most}")
    run("flash-sale", WHOLE_RUN_S, arguments, drive)


if __name__ == "__main__":
    main()

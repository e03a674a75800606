"""Runs the table: for each row a server under load, and what happens to it. Prints it as Markdown.

Not called by hand: `run` installs what this needs.
"""
import argparse
import os
import sys
import time
import traceback

from events import ROWS
from namespaces import mount, supervise
from node import Load, Node, hold, kernel_resends

WHOLE_RUN_S = 1800
COLUMNS = ("what", "times", "kernel", "volume", "operations", "errors", "lost", "hung", "worst")


class Place:
    def __init__(self, run_dir, logs, binary):
        self.run_dir, self.logs, self.binary = run_dir, logs, binary
        mount("tmpfs", run_dir, "tmpfs", data="mode=0755")
        # What sessionfs keeps by default is kept apart from the host's own.
        for path in ("/run", "/var/spool"):
            mount("tmpfs", path, "tmpfs", data="mode=0755")


def ask(place, row, way, times):
    """What callers have seen of one row, and what is wrong with that."""
    node = Node(place, row, way)
    try:
        node.begin()
        load = Load(node, row.volume)
        row.happen(node, times)
        hold(1)
        seen = load.end()
        wrong = [f"{error}: {number} times" for error, number in sorted(seen["errors"].items())
                 if error.split()[-1] not in row.may_see]
        wrong += [f"{what}: {seen[what]}" for what in ("lost", "hung") if seen[what]]
        if seen["operations"] < 50:
            wrong.append(f"only {seen['operations']} operations")
        if row.may_see:
            # It is over: a caller that comes now sees nothing of it.
            after = Load(node)
            hold(0.5)
            later = after.end()
            wrong += [f"afterwards, {error}: {number} times" for error, number in sorted(later["errors"].items())]
        node.end()
        return seen, wrong
    finally:
        node.stop()


def line(row, way, times, seen):
    errors = ", ".join(f"{error} ({number})" for error, number in sorted(seen["errors"].items())) or "0"
    cells = (row.title, times, way, row.volume or "", seen["operations"], errors, seen["lost"], seen["hung"],
             f"{seen['worst_ms']} ms ({seen['worst']})")
    return "| " + " | ".join(map(str, cells)) + " |"


def drive(arguments, run_dir, logs):
    place = Place(run_dir, logs, arguments.binary)
    begun = time.monotonic()
    ways = ("RESEND", "replay") if kernel_resends() else ("replay",)
    print(f"Linux {os.uname().release}, which {'has' if len(ways) > 1 else 'lacks'} RESEND", flush=True)
    lines, asked, failed = [], 0, 0
    for row in arguments.rows:
        for way in ways:
            started = time.monotonic()
            asked += 1
            times = row.short if arguments.short else row.whole
            try:
                seen, wrong = ask(place, row, way, times)
                lines.append(line(row, way, times, seen))
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                return 1
            except Exception as error:  # a row that breaks says so, and the others are still run
                wrong = [f"{type(error).__name__}: {error}"]
                with open(os.path.join(logs, "failures.log"), "a") as out:
                    out.write(f"--- {row.name} {way}\n{traceback.format_exc()}\n")
            failed += bool(wrong)
            print(f"{'FAILED' if wrong else 'ok'} {row.name} {way} ({time.monotonic() - started:.0f} s)", flush=True)
            for text in wrong:
                print(f"    {text}", flush=True)
    print("\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    print("\n".join(lines))
    print(f"\nin all {time.monotonic() - begun:.0f} s\n{asked - failed} passed, {failed} failed", flush=True)
    return 1 if failed or not asked else 0


def main():
    parser = argparse.ArgumentParser(prog="tests/handoff/run")
    parser.add_argument("--short", action="store_true", help="what fits into two minutes")
    parser.add_argument("--only", type=lambda names: names.split(","), default=[], metavar="EVENT,...")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run without a failure")
    parser.add_argument("--list", action="store_true", help="name the events, and end")
    parser.add_argument("--binary", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.only) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no event {', '.join(unknown)}; there are {', '.join(row.name for row in ROWS)}")
    arguments.rows = [row for row in ROWS
                      if row.name in arguments.only or (not arguments.only and (row.short or not arguments.short))]
    if arguments.short:
        arguments.rows = [row._replace(short=row.short or 1) for row in arguments.rows]
    if arguments.list:
        for row in arguments.rows:
            print(f"{row.name:24}{row.title}{', in a volume with ' + row.volume if row.volume else ''}")
        return
    sys.exit(supervise("handoff", WHOLE_RUN_S, arguments.keep, lambda run_dir, logs: drive(arguments, run_dir, logs)))


if __name__ == "__main__":
    main()

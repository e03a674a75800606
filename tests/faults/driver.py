"""Runs the table: for each fault two mounts under load, the fault, and a judge. Prints it as Markdown.

Not called by hand: `run` installs what this needs.
"""
import argparse
import os
import sys
import time
import traceback

from cell import OPERATIONS, Cell
from namespaces import mount, supervise
from network import Network
from table import FAULTS

TITLES = {"resave": "remove and save", "list": "list"}
WHOLE_RUN_S = 3600


class Place:
    """What all cells share."""

    def __init__(self, run_dir, logs, binary):
        self.run_dir, self.logs, self.binary = run_dir, logs, binary
        mount("tmpfs", run_dir, "tmpfs", data="mode=0755")
        # What sessionfs and `ip netns` keep by default is kept apart from the host's own.
        mount("tmpfs", "/run", "tmpfs", data="mode=0755")
        self.network = Network()


def differences(fault, result):
    """Where a row is not as expected, in words."""
    found = []
    for operation in OPERATIONS:
        if not result.operations[operation]:
            found.append(f"{operation}: never ended")
        found += [f"{operation}: expected {fault.expects(operation)}, {text}"
                  for text in fault.expects(operation).differs(result.errors[operation])]
        if result.waits[operation] > fault.waits_s:
            found.append(f"{operation}: waited {result.waits[operation]:.1f} s, expected at most {fault.waits_s:.0f} s")
    if result.locked > fault.locked_s:
        found.append(f"a directory was locked for {result.locked:.1f} s, expected at most {fault.locked_s:.1f} s")
    if result.recovery_s is None or result.recovery_s > fault.recovers_s:
        found.append(f"recovered after {seconds(result.recovery_s)}, expected within {fault.recovers_s:.1f} s")
    for what in ("lost", "revived", "logouts"):
        if getattr(result, what):
            found.append(f"{what}: {getattr(result, what)}, expected 0")
    return found


def seconds(value):
    return "never" if value is None else f"{value:.1f} s"


def head():
    columns = ["fault", *(TITLES.get(operation, operation) for operation in OPERATIONS), "longest lock", "recovered",
               "lost", "revived", "logged out"]
    return "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)


def row(fault, result):
    cells = [fault.title]
    for operation in OPERATIONS:
        seen = ", ".join(sorted(result.errors[operation])) or "ok"
        cells.append(f"{seen}, {result.waits[operation]:.1f} s")
    cells += [f"{result.locked:.1f} s", seconds(result.recovery_s), str(result.lost), str(result.revived), str(result.logouts)]
    if fault.forgets:
        cells[-3] += f" (+{result.forgotten})"
    return "| " + " | ".join(cells) + " |"


def drive(arguments, run_dir, logs):
    place = Place(run_dir, logs, arguments.binary)
    begun = time.monotonic()
    rows, failed = [], 0
    for fault in arguments.faults:
        started = time.monotonic()
        try:
            result = Cell(fault, place).run()
            differ = differences(fault, result)
            rows.append(row(fault, result))
            note = f"{sum(result.operations.values())} operations"
            with open(os.path.join(logs, fault.name, "notes"), "w") as out:
                out.write("\n".join([*differ, *map(str, result.notes)]) + "\n")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            return 1
        except Exception as error:  # a cell that breaks says so, and the others are still run
            differ = [f"{type(error).__name__}: {error}"]
            note = "not judged"
            with open(os.path.join(logs, "failures.log"), "a") as out:
                out.write(f"--- {fault.name}\n{traceback.format_exc()}\n")
        failed += bool(differ)
        print(f"{'FAILED' if differ else 'ok'} {fault.name}: {note} in {time.monotonic() - started:.0f} s", flush=True)
        for text in differ:
            print(f"    {text}", flush=True)
    print("\n" + head())
    for text in rows:
        print(text)
    print(f"\nin all {time.monotonic() - begun:.0f} s\n{len(arguments.faults) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def chosen(arguments, parser):
    if arguments.only:
        by_name = {fault.name: fault for fault in FAULTS}
        unknown = [name for name in arguments.only if name not in by_name]
        if unknown:
            parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(by_name)}")
        return [by_name[name] for name in arguments.only]
    return [fault for fault in FAULTS if arguments.all or fault.usual != arguments.rest]


def main():
    parser = argparse.ArgumentParser(prog="tests/faults/run")
    parser.add_argument("--all", action="store_true", help="all faults, not only those that fit into five minutes")
    parser.add_argument("--rest", action="store_true", help="only those that do not fit into them")
    parser.add_argument("--only", type=lambda names: names.split(","), default=[], metavar="FAULT,...")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run without a failure")
    parser.add_argument("--list", action="store_true", help="name the faults, and end")
    parser.add_argument("--binary", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.faults = chosen(arguments, parser)
    if arguments.list:
        for fault in arguments.faults:
            print(f"{fault.name:16}{fault.title}")
        return
    sys.exit(supervise("faults", WHOLE_RUN_S, arguments.keep, lambda run_dir, logs: drive(arguments, run_dir, logs)))


if __name__ == "__main__":
    main()

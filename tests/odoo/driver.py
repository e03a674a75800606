"""Drives two real Odoos with their sessions on sessionfs (or on a disk) and checks what a user would see.

Not called by hand: `run` makes the root folder and starts this.
"""
import argparse
import sys
import traceback

from lab import Lab
from namespaces import supervise
from scenarios import Run

WHOLE_RUN_S = 1500
LONG_RUN_S = 4 * 3600
# How many, during how many requests.
ROTATIONS, LONG_ROTATIONS = (20, 1000), (300, 50_000)


def drive(arguments, run_dir, logs):
    lab = Lab(arguments.odoo, arguments.root, run_dir, logs, None if arguments.sessions_on_disk else arguments.binary,
              sentinel=arguments.failures is not None)
    run = Run(lab, arguments.load_seconds, LONG_ROTATIONS if arguments.rotations else ROTATIONS,
              ["rotations_under_load"] if arguments.rotations else arguments.only, arguments.failures)
    try:
        run.all()
    except KeyboardInterrupt:
        print("interrupted, cleaning up", flush=True)
        run.failed += 1
    except BaseException:
        print("FAILED driver: " + traceback.format_exc(), flush=True)
        run.failed += 1
    finally:
        lab.stop()
    print(f"{run.passed} passed, {run.failed} failed", flush=True)
    return 1 if run.failed or not run.passed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--odoo", type=int, choices=(14, 19), default=19)
    parser.add_argument("--root", required=True)
    parser.add_argument("--binary")
    parser.add_argument("--sessions-on-disk", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--load-seconds", type=int, default=60)
    parser.add_argument("--rotations", action="store_true")
    parser.add_argument("--outages", dest="failures", action="store_const", const="outages")
    parser.add_argument("--succession", dest="failures", action="store_const", const="succession")
    parser.add_argument("--only", type=lambda names: names.split(","), default=[])
    arguments = parser.parse_args()
    sys.exit(supervise("odoo", LONG_RUN_S if arguments.rotations else WHOLE_RUN_S, arguments.keep,
                       lambda run_dir, logs: drive(arguments, run_dir, logs)))


if __name__ == "__main__":
    main()

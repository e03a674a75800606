"""Drives two real Odoos with their sessions on sessionfs (or on a disk) and checks what a user would see.

Not called by hand: `run` makes the root folder and starts this.
"""
import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
WHOLE_RUN_S = 1500
LONG_RUN_S = 4 * 3600
# How many, during how many requests.
ROTATIONS, LONG_ROTATIONS = (20, 1000), (300, 50_000)
CLEAN_UP_S = 60
libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags):
    if libc.unshare(flags):
        error = ctypes.get_errno()
        raise OSError(error, "unshare: " + os.strerror(error))


def wait_bounded(pid, deadline):
    """The exit status of `pid`, or None when the deadline has passed."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        # Woken by SIGCHLD, or by a signal that we pass on.
        signal.sigtimedwait({signal.SIGCHLD}, min(left, 1.0))


def supervise(arguments):
    """Outside the namespaces: passes signals on, keeps the time, and takes what is left away.

    Process 1 of the new namespace dies with us, and with it every process and every mount of the run.
    """
    base = tempfile.mkdtemp(prefix="sessionfs-odoo-")
    os.chmod(base, 0o755)
    run_dir, logs = os.path.join(base, "run"), os.path.join(base, "logs")
    os.mkdir(run_dir)
    os.mkdir(logs)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    unshare(CLONE_NEWPID)
    first = os.fork()
    if first == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(be_process_one(arguments, run_dir, logs))
    asked_to_stop = []

    def pass_on(number, _frame):
        asked_to_stop.append(number)
        os.kill(first, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    limit_s = LONG_RUN_S if arguments.rotations else WHOLE_RUN_S
    deadline = time.monotonic() + limit_s
    status = None
    while status is None:
        status = wait_bounded(first, min(deadline, time.monotonic() + 1))
        if status is None and time.monotonic() >= deadline:
            print(f"FAILED time: the run was not over within {limit_s} s", flush=True)
            os.kill(first, signal.SIGTERM)
            status = wait_bounded(first, time.monotonic() + CLEAN_UP_S)
            if status is None:
                os.kill(first, signal.SIGKILL)
                os.waitpid(first, 0)
            status = 1
    if status == 0 and not arguments.keep:
        # In this mount namespace nothing was ever mounted below it.
        shutil.rmtree(base)
    else:
        os.rmdir(run_dir)
        print(f"logs are in {logs}", flush=True)
    return 128 + asked_to_stop[0] if asked_to_stop else (status if status >= 0 else 1)


def be_process_one(arguments, run_dir, logs):
    """Inside: prepares the namespaces, runs the driver, and reaps what loses its parent."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        from lab import MS_PRIVATE_RECURSIVE, mount
        unshare(CLONE_NEWNS | CLONE_NEWNET)
        mount("none", "/", None, MS_PRIVATE_RECURSIVE)
        mount("proc", "/proc", "proc")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
        driver = os.fork()
        if driver == 0:
            os._exit(drive(arguments, run_dir, logs))
    except BaseException:
        traceback.print_exc()
        return 1
    signal.signal(signal.SIGTERM, lambda *_: os.kill(driver, signal.SIGTERM))
    # From a terminal the driver gets it itself; process 1 only has to outlive it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == driver:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 1


def drive(arguments, run_dir, logs):
    from lab import Lab
    from scenarios import Run

    def give_up(_number, _frame):
        # Once: the cleaning up that follows is not to be interrupted in its turn.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, give_up)
    lab = Lab(arguments.odoo, arguments.root, run_dir, logs, None if arguments.sessions_on_disk else arguments.binary)
    run = Run(lab, arguments.load_seconds, LONG_ROTATIONS if arguments.rotations else ROTATIONS,
              ["rotations_under_load"] if arguments.rotations else arguments.only)
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
    parser.add_argument("--only", type=lambda names: names.split(","), default=[])
    arguments = parser.parse_args()
    sys.exit(supervise(arguments))


if __name__ == "__main__":
    main()

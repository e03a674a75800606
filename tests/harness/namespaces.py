"""A run in mount, process and network namespaces of its own: nothing of it is seen by the host, and nothing stays."""
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
import traceback

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
MS_PRIVATE_RECURSIVE = (1 << 18) | (1 << 14)
MS_BIND_RECURSIVE = (1 << 12) | (1 << 14)
CLEAN_UP_S = 60
libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags=0, data=None):
    if libc.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data and data.encode()):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind} on {target}: {os.strerror(error)}")


def mounts_at(path):
    with open("/proc/self/mountinfo") as table:
        return [line for line in table if line.split()[4] == path]


def supervise(name, limit_s, keep, drive):
    """Calls `drive(run_dir, logs)` inside; returns its exit status. It gets a KeyboardInterrupt when it has to stop.

    Outside the namespaces: passes signals on, keeps the time, and takes what is left away. Process 1 of the new namespace
    dies with us, and with it every process and every mount of the run. The logs of a run that failed are kept; of any, if
    `keep` says so.
    """
    base = tempfile.mkdtemp(prefix=f"sessionfs-{name}-")
    os.chmod(base, 0o755)
    run_dir, logs = os.path.join(base, "run"), os.path.join(base, "logs")
    os.mkdir(run_dir)
    os.mkdir(logs)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    _unshare(CLONE_NEWPID)
    first = os.fork()
    if first == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(_be_process_one(drive, run_dir, logs))
    asked_to_stop = []

    def pass_on(number, _frame):
        asked_to_stop.append(number)
        os.kill(first, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    deadline = time.monotonic() + limit_s
    status = None
    while status is None:
        status = _wait_bounded(first, min(deadline, time.monotonic() + 1))
        if status is None and time.monotonic() >= deadline:
            print(f"FAILED time: the run was not over within {limit_s} s", flush=True)
            os.kill(first, signal.SIGTERM)
            status = _wait_bounded(first, time.monotonic() + CLEAN_UP_S)
            if status is None:
                os.kill(first, signal.SIGKILL)
                os.waitpid(first, 0)
            status = 1
    if status == 0 and not keep:
        # In this mount namespace nothing was ever mounted below it.
        shutil.rmtree(base)
    else:
        os.rmdir(run_dir)
        print(f"logs are in {logs}", flush=True)
    return 128 + asked_to_stop[0] if asked_to_stop else (status if status >= 0 else 1)


def _unshare(flags):
    if libc.unshare(flags):
        error = ctypes.get_errno()
        raise OSError(error, "unshare: " + os.strerror(error))


def _wait_bounded(pid, deadline):
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


def _be_process_one(drive, run_dir, logs):
    """Inside: prepares the namespaces, runs the driver, and reaps what loses its parent."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        _unshare(CLONE_NEWNS | CLONE_NEWNET)
        mount("none", "/", None, MS_PRIVATE_RECURSIVE)
        mount("proc", "/proc", "proc")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
        driver = os.fork()
        if driver == 0:
            os._exit(_drive(drive, run_dir, logs))
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


def _drive(drive, run_dir, logs):
    def give_up(_number, _frame):
        # Once: the cleaning up that follows is not to be interrupted in its turn.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, give_up)
    try:
        return drive(run_dir, logs)
    except BaseException:
        print("FAILED driver: " + traceback.format_exc(), flush=True)
        return 1

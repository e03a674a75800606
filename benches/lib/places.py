"""Where sessions are measured: directories, and the machine they are on."""
import os
import platform
import shutil
import sys
import tempfile

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What a run installs for itself.
TARGET = os.path.join(REPOSITORY, "target")
PROGRAM = os.environ.get("SESSIONFS_BIN") or os.path.join(TARGET, "release", "sessionfs")


def temporary_directory(stack, name, parent=None):
    """Everybody may pass through it: the worker of a mount is not root. Removed with the stack."""
    path = tempfile.mkdtemp(prefix=f"sessionfs-{name}-", dir=parent)
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    os.chmod(path, 0o755)
    return path


def filesystem_of(path):
    """The type of the filesystem that holds `path`."""
    best = ("", "?")
    with open("/proc/self/mounts") as file:
        for line in file:
            _, where, kind = line.split()[:3]
            inside = where == "/" or path == where or path.startswith(where + "/")
            if inside and len(where) >= len(best[0]):
                best = (where, kind)
    return best[1]


def machine():
    """What numbers of one machine depend on, in words."""
    return f"Linux {platform.release().split('-')[0]}, {os.cpu_count()} processors"


def hold_cpu_latency(stack):
    """Keeps processors from halting: on a virtual machine waking one costs more than a read."""
    try:
        # ruff does not see that the stack closes it.
        file = stack.enter_context(open("/dev/cpu_dma_latency", "wb", buffering=0))  # noqa: SIM115
        file.write((0).to_bytes(4, sys.byteorder))
        return "kept from halting"
    except OSError as error:
        return f"free to halt ({error})"

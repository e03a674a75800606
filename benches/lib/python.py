"""The Python that a benchmark runs in: with redis-py and hiredis, and with more of PyPI where it is asked for."""
import os
import shutil
import subprocess
import sys

from places import TARGET
from terminal import fail, tell

VENV = os.path.join(TARGET, "compare")
REQUIREMENTS = ["redis>=5,<8", "hiredis>=3,<4"]


def need_redis_client():
    """Goes on in a Python that has redis-py and hiredis, made if there is none."""
    # They are only looked for here.
    try:
        import hiredis  # noqa: F401
        import redis  # noqa: F401
        return
    except ImportError:
        pass
    if sys.prefix == VENV:
        fail(f"{VENV} lacks redis or hiredis; remove it and try again")
    need_packages(*REQUIREMENTS)
    python = os.path.join(VENV, "bin", "python3")
    os.execv(python, [python, os.path.abspath(sys.argv[0]), *sys.argv[1:]])


def need_packages(*requirements):
    """Installs these of PyPI under target/, once; the folder of their programs."""
    marker = os.path.join(VENV, "complete")
    known = set()
    if os.path.exists(marker):
        with open(marker) as file:
            known = set(file.read().split("\n"))
    missing = [requirement for requirement in requirements if requirement not in known]
    programs = os.path.join(VENV, "bin")
    if not missing:
        return programs
    tell(f"installing {' '.join(missing)}")
    commands = [[os.path.join(programs, "python3"), "-m", "pip", "install", "--quiet", *missing]]
    if not known:
        shutil.rmtree(VENV, ignore_errors=True)
        commands.insert(0, [sys.executable, "-m", "venv", VENV])
    for command in commands:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode:
            last = (result.stderr or result.stdout).strip().splitlines()[-1:]
            fail(f"cannot install {' '.join(missing)} into {VENV} ({' '.join(last)}); is there a network, and python3-venv?")
    with open(marker, "w") as file:
        file.write("\n".join([*sorted(known - {""}), *missing]))
    return programs

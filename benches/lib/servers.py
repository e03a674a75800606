"""Programs that a benchmark starts: a Redis of its own, and mounts on it. They end with the stack that they are given."""
import os
import shutil
import subprocess
import time

from terminal import fail

START_SECONDS = 30
STOP_SECONDS = 20


def start(what, command, log, stack, ready, **popen):
    """A program, once `ready()` is true of it."""
    with open(log, "w") as out:
        # A session of its own: Ctrl-C is for us alone, who still need it for cleaning.
        process = subprocess.Popen(command, **{"stdout": out, **popen}, stderr=out, start_new_session=True)
    stack.callback(stop, process)
    end = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            with open(log, errors="replace") as file:
                last = " ".join(file.read().strip().splitlines()[-1:])
            fail(f"{what} did not start: {last}")
        time.sleep(0.02)
    return process


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_redis(work, stack, *settings):
    """A Redis that keeps nothing, unless the settings say so; the path of its socket."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not program:
        fail("there is no redis-server; install it (apt-get install redis-server)")
    path = os.path.join(work, "redis.sock")
    # The worker of a mount is not root.
    arguments = ["--port", "0", "--unixsocket", path, "--unixsocketperm", "777", "--save", "",
                 "--appendonly", "no", "--dir", work, "--loglevel", "warning", *settings]
    start("redis-server", [program, *arguments], os.path.join(work, "redis.log"), stack,
          lambda: os.path.exists(path))
    return path


def start_mount(program, work, name, redis_path, stack, settings=""):
    """A mount named so, with these lines in its configuration: its directory, and its keeper."""
    directory = os.path.join(work, name)
    os.makedirs(directory, exist_ok=True)
    config, out = (os.path.join(work, f"{name}.{kind}") for kind in ("toml", "out"))
    with open(config, "w") as file:
        file.write(f'owner = "root"\nlog = "warn"\n{settings}')

    def ready():
        with open(out) as file:
            return file.read() == f"ready {directory}\n"

    with open(out, "w") as out_file:
        keeper = start(f"sessionfs mount {directory}",
                       [program, "mount", directory, "--redis", f"unix://{redis_path}", "--config", config],
                       os.path.join(work, f"{name}.log"), stack, ready, stdout=out_file)
    return directory, keeper


def freshness(value):
    """The lines of a configuration that choose how opens of known sessions are answered."""
    return f'[near_cache]\nfreshness = "{value}"\n'

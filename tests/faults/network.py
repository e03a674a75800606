"""Two servers and the Redis that they share, each with a network of its own, joined by cables (veth)."""
import subprocess

REDIS = "10.77.0.1"
NODES = ("a", "b")


class Network:
    """This process, and every Redis that it starts, lives where the cables of both servers end."""

    def __init__(self):
        command("ip", "addr", "add", f"{REDIS}/32", "dev", "lo")
        for number, name in enumerate(NODES, 1):
            command("ip", "netns", "add", name)
            command("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "cable", "netns", name)
            command("ip", "addr", "add", f"10.77.{number}.1/24", "dev", f"to-{name}")
            command("ip", "link", "set", f"to-{name}", "up")
            inside = ("ip", "-n", name)
            command(*inside, "link", "set", "lo", "up")
            command(*inside, "addr", "add", f"10.77.{number}.2/24", "dev", "cable")
            command(*inside, "link", "set", "cable", "up")
            command(*inside, "route", "add", REDIS, "via", f"10.77.{number}.1")

    @staticmethod
    def inside(name):
        """The words that start a command on that server."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    def drop(self, *names):
        """Packets of these servers are lost, in both directions."""
        self._rules([f"chain in {{ type filter hook input priority 0; {self._each('iifname', names)} drop\n}}",
                     f"chain out {{ type filter hook output priority 0; {self._each('oifname', names)} drop\n}}"])

    def reset(self, *names):
        """Whatever these servers send is answered with a reset, so no connection lives or is made."""
        self._rules([f"chain in {{ type filter hook input priority 0; {self._each('iifname', names)} "
                     "meta l4proto tcp reject with tcp reset\n}"])

    def heal(self):
        command("nft", "flush", "ruleset")

    @staticmethod
    def _each(key, names):
        return f"{key} {{ {', '.join('to-' + name for name in names)} }}"

    @staticmethod
    def _rules(chains):
        command("nft", "table ip faults {\n" + "\n".join(chains) + "\n}")


def command(*words):
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")

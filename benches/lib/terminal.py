"""What a benchmark says beside its result: how far it is, and why it ends."""
import os
import sys


def fail(message):
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(1)


def tell(message):
    """One line that replaces the last one; nothing where nobody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)

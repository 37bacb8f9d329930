"""The workshop: what exists for speed or for rare inputs, read when needed."""
import os
import signal
import sys


def interrupted(*_):
    os._exit(130)


# A program of somebody else that imports our files keeps its own way.
_started = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "")
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.dirname(_started) in (_root, os.path.join(_root, "tiny")):
    # Ctrl-C while a script of ours imports the rest, which takes seconds, ends it without a
    # traceback; then run() in support/cli.py listens.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    # Started with a closed stdin, stdout or stderr (>&-, a daemon), the next file to be opened
    # would get its number, and what is printed.
    for _number in range(3):
        try:
            os.fstat(_number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0)
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")

"""The workshop: what exists for speed or for rare inputs, read when needed."""
import os
import signal
import sys


def interrupted(*_):
    os._exit(130)


# Ctrl-C while a script of ours imports the rest, which takes seconds, ends it without a traceback;
# then run() in support/cli.py listens. A program of somebody else that imports our files keeps its
# own way.
_started = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "")
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if (os.path.dirname(_started) in (_root, os.path.join(_root, "tiny"))
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, interrupted)

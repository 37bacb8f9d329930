"""What all command lines share: numbers with bounds, flags, errors as one sentence."""
import argparse
import math
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from unicodedata import category

from support import interrupted


class Parser(argparse.ArgumentParser):
    """argparse's, but a mistake is one line, without the usage, and flags are given in full: what
    --temp means today, as an abbreviation, another flag may mean tomorrow."""

    def __init__(self, **settings):
        super().__init__(**{"allow_abbrev": False} | settings)

    def error(self, message):
        if message.startswith(("unrecognized", "the following")):
            message += f"; {self.prog} --help says what there is"
        self.exit(2, f"{self.prog}: error: {printable(message, keep='')}\n")


# Not all that int() and float() take: no nan, no 1_000, no blanks, no digits of other scripts.
DIGITS = {int: r"[+-]?\d+", float: r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"}


def number(kind, above=None, at_least=None, below=None, at_most=None, limit=10**6):
    """An argparse type: an int or float (`kind`) within bounds; its refusal says them. No value
    above `limit` makes sense, though it may be possible: a slip, then, or days of work.

    >>> number(float, at_least=0, below=1)("0.5")
    0.5
    """
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    words = " and ".join(f"{name} {bound}" for name, bound in bounds.items() if bound is not None)

    def read(text):
        plain = re.fullmatch(DIGITS[kind], text, re.ASCII | re.IGNORECASE)
        x = float(text) if plain else math.nan
        if abs(x) < 1e-37:
            x = 0.0  # as it would be in float32
        good = (plain
                and (above is None or x > above) and (at_least is None or x >= at_least)
                and (below is None or x < below) and (at_most is None or x <= at_most))
        shown = repr(text if len(text) <= 40 else text[:40] + "...")
        if not good:
            whole = "whole " * (kind is int)
            raise argparse.ArgumentTypeError(f"{shown} is not a {whole}number {words}")
        if x > limit:
            raise argparse.ArgumentTypeError(f"{shown} is too large; give at most {limit}")
        return kind(x)
    return read


positive = number(int, above=0)
seed = number(int, at_least=0, limit=2**32 - 1)


def path(text):
    """An argparse type: the name of a file or folder. ~ is the home folder, as in --out=~/x, which
    a shell leaves as it is. A name that a terminal would obey is refused: it will be printed."""
    if not text.strip() or printable(text, keep="") != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file or folder")
    return os.path.expanduser(text)


def base_flags(add, templates, paper):
    """The flags about the base and the machine, which train.py and infer.py share. add: a parser's
    add_argument; templates: their names; paper: the values of --preset paper."""
    add("--model", type=path, default="tiny",
        help="the base, a Hugging Face model folder, or OWNER/NAME on its hub (default: tiny)")
    add("--seed", type=seed, default=0, help="random seed (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps, which nobody has tested "
                                         "yet (default: auto: cuda, else cpu)")
    add("--dtype", choices=("float32", "bfloat16"),
        help="of the frozen base (default: bfloat16 where that is fast, else float32)")
    add("--template", choices=templates, help="how the base is asked, the same in training and "
                                              "use (default: known by the model folder)")
    add("--preset", choices=["paper"], help="the paper's values for all that is not given: "
                                            + ", ".join(f"{k} {v}" for k, v in paper.items()))


def parse(parser, paper):
    """The flags. Under torchrun, meets the other processes. With --preset they are read again with
    the paper's values as defaults, so that those given still count; says what they are now."""
    from support.distributed import init_distributed  # here, because it brings torch
    args = parser.parse_args()
    init_distributed(args.device)
    if args.preset:
        parser.set_defaults(**paper)
        args = parser.parse_args()
        settings = (f"{key.replace('_', '-')} {getattr(args, key)}" for key in paper)
        print(f"preset {args.preset}: {printable(', '.join(settings), keep='')}\n")
    return args


def printable(text, keep="\n\t"):
    """The text with its control characters written out, as \\x1b: what comes from files, models and
    servers must not reach a terminal that would obey it. Line breaks stay, and tabs; in a name or a
    sentence, keep="". So do blanks of all widths, and what joins letters or parts them."""
    return "".join(c if c.isprintable() or c in keep or c in "\u200c\u200d" or category(c) == "Zs"
                   else ascii(c)[1:-1] for c in str(text))


def say(text, **how):
    """print, but a reader who has gone (`| head`, a closed terminal) does not end the work, and no
    control character of a name gets there."""
    try:
        print(printable(text), flush=True, **how)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text):
    """The same for a sentence on stderr."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def outlive_terminal():
    """A terminal that is closed does not end this process. (Windows has no such signal.)"""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def delayed_interrupts():
    """Ctrl-C and SIGTERM do not end the block; the list that it is given tells whether one came, so
    that it can end in good order. A second one is not delayed."""
    came, handlers = [], {}

    def note(number, _):
        came.append(number)
        signal.signal(number, handlers[number])
        with suppress(OSError):  # nobody may be there to read it; and print may be what it hit
            os.write(2, b"\nstopping after this step; once more: at once\n")

    if threading.current_thread() is threading.main_thread():  # others may not
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                handlers[number] = signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def out_of_memory(error):
    """Whether an exception says that the memory is full: a GPU's by type, a CPU's by text."""
    gpu = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def run(main, advice="; close other programs, or take a smaller model"):
    """Run a script's main(). Bad input and a full memory end in one sentence on stderr (of the
    second, with advice) and exit status 2, Ctrl-C in 130; other exceptions are bugs, and keep their
    traceback."""
    script = Path(sys.argv[0]).name
    with suppress(AttributeError):  # what a terminal's alphabet lacks must not end the work
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if signal.getsignal(signal.SIGINT) is interrupted:  # the imports are done
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = main()
        if "LOCAL_RANK" in os.environ:  # started by torchrun
            from support.distributed import leave  # here, because it brings torch
            leave(status)
        sys.exit(status)
    except BrokenPipeError:  # `| head` has seen enough; without this, Python complains at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a shell reports it
    except (ValueError, OSError) as error:
        tell(f"{script}: {printable(error, keep='')}")
        sys.exit(2)
    except NotImplementedError as error:  # what tests/blank.py leaves of an exercise
        if not str(error).startswith("exercise "):
            raise
        tell(f"{script}: {printable(error, keep='')} (not done yet)")
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        tell(f"{script}: the memory is full{advice}.")
        sys.exit(2)
    except KeyboardInterrupt as stop:
        if stop.args:
            tell(f"{script}: {stop}")
        sys.exit(130)

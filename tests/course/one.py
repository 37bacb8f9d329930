"""Grades one exercise, in a process of its own: what tests/grade.py starts.

    python tests/course/one.py < {"exercise": ..., "module": ..., "function": ..., "folder": ...,
                                  "nonce": ...}

The result, a line of JSON, goes to what was stdout at the start; the student's code finds all of
stdin, stdout and stderr closed off. The graders are loaded before it, and then forgotten by name.
"""
import builtins
import importlib
import inspect
import json
import math
import os
import random
import re
import sys
import traceback
import types
from operator import attrgetter
from pathlib import Path

MEMORY = 4 * 2**30  # bytes that the process may have
FILE = 64 * 2**20   # bytes of a file that it may write


def limit():
    """Bound the process's memory and files, where the system can (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in (resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, FILE):
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # a lower limit holds already
            pass


def stand_between():
    """Leave a process that only waits between this one and tests/grade.py: a student's code that
    kills its parent does not meet that."""
    if hasattr(os, "fork") and (child := os.fork()):
        os.waitpid(child, 0)
        os._exit(0)


def watched():
    """What the graders use and a student must not exchange: {(place, name): value}. Of a class also
    what it inherits."""
    places = {"builtins": builtins, "math": math, "random.Random": random.Random, "os": os,
              "json": json, "json.JSONEncoder": json.JSONEncoder}
    if torch := sys.modules.get("torch"):
        places |= {"torch": torch, "torch.Tensor": torch.Tensor, "torch.nn.Module": torch.nn.Module,
                   "torch.nn.functional": torch.nn.functional}
    found = {}
    for place, where in places.items():
        names = dir(where) if isinstance(where, type) else [
            name for name in vars(where) if not name.startswith("_")]
        found |= {f"{place}.{name}": inspect.getattr_static(where, name, None) for name in names}
    return found


def lines_of(module, function):
    """The line numbers of a function; none if it cannot be found."""
    try:
        lines, first = inspect.getsourcelines(inspect.unwrap(attrgetter(function)(module)))
        return range(first, first + len(lines))
    except Exception:
        return ()


def sentence(error, script, own=(), check=None):
    """What went wrong, for a student. script: the name of the file that is graded; own: the line
    numbers of the exercise's function, of which the deepest is told; check: the name of the check
    that ran, told where the grader does not say what it was `trying`."""
    if isinstance(error, NotImplementedError):
        return "not done yet"
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or script).name} line {error.lineno}: {error.msg}"
    if isinstance(error, SystemExit):
        return "it ends the program (exit), which it must not"
    if isinstance(error, MemoryError):
        return f"it needs more than the {MEMORY / 2**30:g} GB of memory that it may have"
    try:
        text = str(error)
    except BaseException:
        text = "an error without words"
    if isinstance(error, AssertionError) and text:
        return text
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == script]
    lines = [line for line in lines if line in own] or lines
    place = f" (line {lines[-1]} of {script})" if lines else ""
    if "'NoneType'" in text and not lines:  # the grader stumbled over what it was given
        text += "; is a return missing?"
    text = f"{type(error).__name__}: {text}{place}"
    if check:
        words = re.sub(r"^test_[a-z]+_\d+_", "", check).replace("_", " ")
        text = f"{getattr(error, 'tried', None) or f'In the check {words!r}:'} {text}"
    return text


def outcomes(exercise, module, function, folder):
    """[(check, None or what is wrong)] of an exercise, the body of a function of a module in the
    student's folder."""
    import course
    course.student = lambda name: None
    script = Path(module.replace(".", "/")).name + ".py"
    grader = importlib.import_module(f"course.test_{script[:-3]}")
    prefix = f"test_{exercise.replace('-', '_')}_"
    checks = [function for name, function in vars(grader).items() if name.startswith(prefix)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "course"]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")  # nor is this file found by name
    sys.path[0] = folder
    before, told = watched(), []
    try:
        graded = importlib.import_module(module)
        setattr(grader, script[:-3], graded)
    except BaseException as error:
        return [(check.__name__, sentence(error, script)) for check in checks]
    own, said = lines_of(graded, function), {}
    for check in checks:
        try:
            check()
            told.append((check.__name__, None))
        except BaseException as error:
            # the same error in many checks is told once, with the first of them
            why = sentence(error, script, own, check.__name__)
            told.append((check.__name__, said.setdefault(sentence(error, script, own), why)))
    now = watched()
    if changed := [name for name, value in before.items() if now.get(name) is not value]:
        why = f"{script} exchanges {changed[0]}, which the graders use; leave it alone"
        return [(name, why) for name, _ in told]
    return told


def main():
    asked = json.loads(sys.stdin.readline())
    answer, closed = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(closed, stream)
    stand_between()
    limit()
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    told = outcomes(asked["exercise"], asked["module"], asked["function"],
                    asked["folder"])
    os.write(answer, b"\n%s\n" % json.dumps([asked["nonce"], told]).encode())
    os._exit(0)  # whatever waits to run at the exit


if __name__ == "__main__":
    main()

"""What the graders share: the exercises, random inputs, and comparisons that say what is wrong.

An exercise is the body of one function, between two comments in a script: its name, its points
and what is to be done, then the end. Its grader is all functions of tests/course/test_<script>.py
whose names begin with its own: test_lora_1_... for lora-1. The first is the main one, each of the
others checks one more property. They know plain torch and Python, and of the
project only the function that is graded, so no exercise waits for another one.

LORID_SEED (0 if unset) draws the inputs.
"""
import importlib
import math
import os
import random
import re
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

FILES = ("lorid.py", "model.py", "lora.py", "data.py", "train.py", "infer.py", "support/engine.py")
MARKED = re.compile(r"^( *)# exercise ([a-z]+-\d+), (\d+) points: ([^\n]+)\n(.*?)^\1# end of \2\n",
                    re.M | re.S)

# function: its dotted name; start, end: where its body stands in the text of the file (None if one
# of the comments around it is lost)
Exercise = namedtuple("Exercise", "name file function points task start end")


def function_around(text, place):
    """The dotted name of the function in whose body a place is, as in LoRALinear.forward."""
    indent, name = re.findall(r"^( *)def (\w+)", text[:place], re.M)[-1]
    return re.findall(r"^class (\w+)", text[:place], re.M)[-1] + f".{name}" if indent else name


def exercises(folder):
    """The exercises that are marked in a folder's scripts, in reading order."""
    found = []
    for file in FILES:
        text = (Path(folder) / file).read_text(encoding="utf-8")
        for mark in MARKED.finditer(text):
            _, name, points, task, _ = mark.groups()
            function = function_around(text, mark.start())
            found.append(Exercise(name, file, function, int(points), task, *mark.span(5)))
    return found


def lost(folder, graders):
    """Exercises that have checks but, in this folder, no longer both of their comments. graders:
    {name: content} of tests/course/. What the comments said, the points above all, may be gone."""
    known = {exercise.name for exercise in exercises(folder)}
    found = []
    for file in FILES:
        script = Path(file).stem
        checks = graders[f"test_{script}.py"].decode()
        text = (Path(folder) / file).read_text(encoding="utf-8")
        for n in sorted(set(re.findall(rf"^def test_{script}_(\d+)_", checks, re.M)), key=int):
            if (name := f"{script}-{n}") not in known:
                begun = re.search(rf"# exercise {name}, (\d+) points", text)
                place = begun or re.search(rf"# end of {name}\b", text)
                function = function_around(text, place.start()) if place else "a function"
                points = int(begun[1]) if begun else 0
                found.append(Exercise(name, file, function, points, "", None, None))
    return found


# --------------------------------------------------------------------------------------------------
# For the graders


def student(script):
    """The script whose functions are graded. tests/grade.py puts another one in its place."""
    return importlib.import_module(script)


def rng(name):
    """Random numbers for a test: the same for the same seed."""
    return random.Random(f"{os.environ.get('LORID_SEED', 0)} {name}")


def generator(name):
    """The same for torch."""
    import torch
    return torch.Generator().manual_seed(rng(name).randrange(2**31))


def short(x):
    """A value as a person would write it, at most 120 characters of it."""
    if isinstance(x, float):
        return f"{x:.5g}"
    if isinstance(x, (list, tuple)):
        inside = ", ".join(map(short, x[:40]))
        text = f"[{inside}]" if isinstance(x, list) else f"({inside})"
    else:
        text = repr(x)
    return text if len(text) <= 120 else text[:117] + "..."


def check(good, sentence):
    """Fail with a sentence for the student."""
    if not good:
        raise AssertionError(sentence)


def same(a, b):
    """Whether two values are equal and of the same types, also within lists and tuples."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def difference(got, expected):
    """What differs, in words: both values; of those too long to be shown, the first place."""
    kinds = [kind for kind in (str, list, tuple) if isinstance(got, kind)]
    if not kinds or type(got) is not type(expected) or max(
            len(short(got)), len(short(expected))) < 120:
        return f"Expected {short(expected)}, got {short(got)}."
    pairs = list(zip(got, expected, strict=False))
    at = next((i for i, pair in enumerate(pairs) if not same(*pair)), len(pairs))
    if kinds == [str]:
        return (f"After {short(got[max(0, at - 20):at])} expected {short(expected[at:][:60])}, "
                f"got {short(got[at:][:60])}.")
    if at < len(pairs):
        return f"At [{at}]: {difference(*pairs[at])}"
    more = short(max(got, expected, key=len)[at])
    return f"Expected {len(expected)} items, got {len(got)}; at [{at}] comes {more}."


def equal(rule, got, expected):
    """Fail where `got` is not what is expected; the rule, a sentence, says why it should be."""
    if not same(got, expected):
        check(False, f"{rule} {difference(got, expected)}")


@contextmanager
def trying(what):
    """An exception in the block will be reported with what was tried."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "tried"):
            error.tried = what
        raise


def plain(x):
    """A tensor as nested lists of numbers."""
    return x.tolist() if hasattr(x, "tolist") else x


def shape(x):
    """The shape of nested lists, as far as their first items tell."""
    return (len(x), *shape(x[0] if x else 0)) if isinstance(x, (list, tuple)) else ()


def leaves(x, place=""):
    """[(place, number)] of nested lists; a place is written as an index, [0][2]."""
    if not isinstance(x, (list, tuple)):
        return [(place, x)]
    return [leaf for i, inner in enumerate(x) for leaf in leaves(inner, f"{place}[{i}]")]


def close(rule, got, expected, tolerance=1e-4):
    """Fail where numbers, or tensors or nested lists of them, differ by more than `tolerance`
    times the larger of 1 and what is expected. Shows all if these are few, else the first."""
    got, expected = plain(got), plain(expected)
    check(got is not None, f"{rule} Got None: is a return missing?")
    check(shape(got) == shape(expected),
          f"{rule} Expected the shape {shape(expected)}, got {shape(got)}.")
    pairs = list(zip(leaves(expected), leaves(got), strict=True))
    for (place, e), (_, g) in pairs:
        good = type(g) in (int, float, bool) and (
            g == e or math.isfinite(e) and abs(g - e) <= tolerance * max(1, abs(e)))
        if not good and len(pairs) > 8:
            check(False, f"{rule} At {place} expected {short(e)}, got {short(g)}.")
        check(good, f"{rule} Expected {short(expected)}, got {short(got)}.")


def refuses(rule, error, function, *args):
    """Fail unless function(*args) raises the error."""
    try:
        got = function(*args)
    except error:
        return
    except NotImplementedError:
        raise
    except Exception as other:
        check(False, f"{rule} Expected {error.__name__}, got {type(other).__name__}: {other}")
    check(False, f"{rule} Expected {error.__name__}, got {short(got)}.")

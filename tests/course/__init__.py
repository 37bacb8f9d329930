"""What the graders share: the exercises, random inputs, and comparisons that say what is wrong.

An exercise is the body of one function, between two comments in a script: its name, its points
and what is to be done, then the end. Its grader is all functions of tests/course/test_<script>.py
whose names begin with its own: test_lora_1_... for lora-1. They take plain torch and Python, and
of the project the one function that is graded, so none waits for another exercise.

LORID_SEED, a whole number (0 if unset), draws the inputs.
"""
import ast
import importlib
import os
import random
import re
from collections import namedtuple
from pathlib import Path

FILES = ("lorid.py", "model.py", "lora.py", "data.py", "train.py", "infer.py", "support/engine.py")
MARKED = re.compile(r"^( *)# exercise ([a-z]+-\d+), (\d+) points: ([^\n]+)\n(.*?)^\1# end of \2\n",
                    re.M | re.S)

# function: its dotted name; start, end: where its body stands in the text of the file
Exercise = namedtuple("Exercise", "name file function points task start end")


def function_at(tree, line):
    """The dotted name of the innermost function around a line, as in LoRALinear.forward."""
    name, inner = [], tree
    while inner:
        around = [node for node in inner.body if node.lineno <= line <= node.end_lineno]
        inner = around[0] if around and hasattr(around[0], "name") else None
        name += [inner.name] if inner else []
    return ".".join(name)


def exercises(folder):
    """The exercises that are marked in a folder's scripts, in reading order."""
    found = []
    for file in FILES:
        text = (Path(folder) / file).read_text(encoding="utf-8")
        tree = ast.parse(text)
        for mark in MARKED.finditer(text):
            _, name, points, task, _ = mark.groups()
            function = function_at(tree, text.count("\n", 0, mark.start()) + 1)
            found.append(Exercise(name, file, function, int(points), task, *mark.span(5)))
    return found

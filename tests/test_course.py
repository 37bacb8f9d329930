"""The course: the student's copy holds no answer, and no student's code touches the grade of
another exercise. That the graders are right: test_course_proofs.py."""
import ast
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap

import blank
import grade
import pytest
from conftest import ROOT
from course import FILES, Exercise, exercises, lost, rng
from test_course_proofs import graded, with_body

from support import cli

EXERCISES = {exercise.name: exercise for exercise in exercises(ROOT)}
GRADERS = {path.name: path.read_bytes() for path in (ROOT / "tests" / "course").glob("*.py")}
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Linux or macOS")


def text_of(file):
    return (ROOT / file).read_text(encoding="utf-8")


def body_of(exercise):
    return text_of(exercise.file)[exercise.start:exercise.end]


# --------------------------------------------------------------------------------------------------
# The marks


def test_exercises_have_a_hundred_points_in_reading_order():
    assert sum(exercise.points for exercise in EXERCISES.values()) == 100
    numbered = []
    for file in FILES:
        script = file.rpartition("/")[2].removesuffix(".py")
        names = [name for name, exercise in EXERCISES.items() if exercise.file == file]
        assert names == [f"{script}-{i}" for i in range(1, len(names) + 1)] and names
        numbered += names
    assert numbered == list(EXERCISES)


@pytest.mark.parametrize("file", FILES)
def test_every_mark_is_of_a_whole_body(file):
    """Each opens and closes once; between them stands all of a function but its docstring, and
    this function, or the class that it belongs to, has one."""
    text = text_of(file)
    here = {exercise.name: exercise for exercise in EXERCISES.values() if exercise.file == file}
    assert re.findall(r"# exercise (\S+),", text) == re.findall(r"# end of (\S+)", text) == [*here]
    functions = {}
    for node in ast.parse(text).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        functions |= {f"{node.name}.{f.name}": (f, node) for f in inner if hasattr(f, "name")}
        functions |= {node.name: (node, None)} if hasattr(node, "name") else {}
    for exercise in here.values():
        function, its_class = functions[exercise.function]
        assert ast.get_docstring(function) or ast.get_docstring(its_class)
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = text.splitlines(keepends=True)
        whole = "".join(lines[body[0].lineno - 1:body[-1].end_lineno])
        assert body_of(exercise).endswith(whole)
        assert set(body_of(exercise).removesuffix(whole).split("\n")) <= {
            line for line in body_of(exercise).split("\n") if line.lstrip()[:1] in ("#", "")}


# --------------------------------------------------------------------------------------------------
# The student's copy


@pytest.fixture(scope="module")
def student_copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course") / "student"
    assert blank.copy(folder) == list(EXERCISES.values())
    return folder


def test_the_copy_is_a_working_folder(student_copy):
    assert {path.name for path in student_copy.iterdir()} == {
        "README.md", "LICENSE", "requirements.txt", "ruff.toml", ".gitignore", "support", "tiny",
        "docs", "tests", *(file for file in FILES if "/" not in file)}
    assert {path.name for path in (student_copy / "tests").iterdir()} == {"course", "grade.py"}
    assert {path.name for path in (student_copy / "tests" / "course").iterdir()} == set(GRADERS)
    for name in ("tiny/model.safetensors", "tiny/world.py", "support/engine.py"):
        assert (student_copy / name).is_file()
    assert not [path for path in student_copy.rglob("*")
                if path.name in ("__pycache__", ".git", "out") or path.is_symlink()]
    assert list(student_copy.parent.iterdir()) == [student_copy]  # nothing is left beside it


def test_no_answer_is_left(student_copy):
    """No two lines of a body in a row, in any file; and of what the bodies have alone, nothing."""
    def lines(text):
        return [line for raw in text.splitlines() if (line := raw.partition("  #")[0].strip())
                and len(line) > 8 and not line.startswith("#")]

    left = {path: lines(path.read_text(encoding="utf-8")) for path in student_copy.rglob("*")
            if path.suffix in (".py", ".md", ".txt", ".toml", ".json")}
    assert len(left) > 25
    for exercise in EXERCISES.values():
        body = lines(body_of(exercise))
        pairs = set(zip(body, body[1:], strict=False)) or {tuple(body)}
        for path, there in left.items():
            found = set(zip(there, there[1:], strict=False)) | {(line,) for line in there}
            assert not pairs & found, f"{path.name} tells {exercise.name}"


def test_what_stays_is_all_but_the_bodies(student_copy):
    """Put the bodies back, and it is the original."""
    for file in FILES:
        text = (student_copy / file).read_text(encoding="utf-8")
        for exercise in EXERCISES.values():
            if exercise.file == file:
                call = f'raise NotImplementedError("exercise {exercise.name}: {exercise.task}")\n'
                assert text.count(call) == 1
                text = re.sub("^ *" + re.escape(call), lambda _, e=exercise: body_of(e), text,
                              flags=re.M)
        assert text == text_of(file)


def ends_in(folder, command, name):
    """The command says which exercise it needs, in one line."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"{command[0]}: exercise {name}: {EXERCISES[name].task} (not done yet)\n")


def test_the_copy_names_what_is_to_be_done(student_copy):
    ends_in(student_copy, ["lorid.py"], "lorid-1")


@pytest.mark.slow
@pytest.mark.parametrize("command, name", [
    (["data.py", "show"], "data-1"), (["data.py", "show", "--role", "dr"], "data-1"),
    (["model.py"], "model-6"), (["model.py", "tiny"], "model-6"), (["train.py"], "model-6"),
    (["lora.py", "merge", "tiny", "tiny", "x"], "model-6"), (["infer.py"], None)])
def test_every_script_of_the_copy_runs(command, name, student_copy):
    """Up to the first exercise that it meets; infer.py needs adapters first."""
    if name:
        return ends_in(student_copy, command, name)
    done = subprocess.run([sys.executable, *command], cwd=student_copy, capture_output=True,
                          text=True)
    assert done.returncode == 2 and "no adapter in" in done.stderr


def test_other_gaps_keep_their_traceback(monkeypatch):
    def main():
        raise NotImplementedError("no sparse tensors here")

    with pytest.raises(NotImplementedError, match="no sparse"):
        cli.run(main)


def test_only_those_that_are_named(tmp_path):
    assert [e.name for e in blank.copy(tmp_path / "some", ["lora-2", "data-1"])] == ["lora-2",
                                                                                     "data-1"]
    left = {e.name for e in exercises(tmp_path / "some")
            if "raise NotImplementedError" in (tmp_path / "some" / e.file).read_text()[
                e.start:e.end]}
    assert left == {"lora-2", "data-1"}


def test_blank_refuses(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ValueError, match="not an empty folder; name a new one"):
            blank.copy(tmp_path / name)
    with pytest.raises(ValueError, match="there is no exercise lora-9; there are lorid-1, "):
        blank.copy(tmp_path / "new", ["lora-9"])
    (tmp_path / "empty").mkdir()
    blank.copy(tmp_path / "empty")
    # whole or not at all
    real, copied = blank.shutil.copyfile, []

    def full(*paths):
        copied.append(paths)
        if len(copied) > 10:
            raise OSError(28, "No space left on device")
        return real(*paths)

    monkeypatch.setattr(blank.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        blank.copy(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "file", "empty"}
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


# --------------------------------------------------------------------------------------------------
# Each exercise stands alone


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_needs_no_other_one(name, monkeypatch, tmp_path):
    """Its checks pass where all others of its file are blank, and each fails where all are."""
    exercise = EXERCISES[name]
    others = [e for e in EXERCISES.values() if e.file == exercise.file and e != exercise]
    text = blank.blanked(text_of(exercise.file), others)
    assert [why for _, why in graded(name, text, monkeypatch, tmp_path) if why] == []
    text = blank.blanked(text_of(exercise.file), [exercise])
    assert {why for _, why in graded(name, text, monkeypatch, tmp_path)} == {"not done yet"}


@pytest.mark.slow
def test_a_file_needs_no_other_one(tmp_path):
    """In a copy where one script is done and all others are blank, graded from there, its exercises
    have all their points."""
    for file in FILES:
        folder = tmp_path / file.replace("/", "-")
        blank.copy(folder, [e.name for e in EXERCISES.values() if e.file != file])
        here = [e.name for e in EXERCISES.values() if e.file == file]
        done = subprocess.run([sys.executable, "tests/grade.py", *here], cwd=folder,
                              capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stdout


# --------------------------------------------------------------------------------------------------
# grade.py


def run_grade(*words, **more):
    return subprocess.run([sys.executable, ROOT / "tests" / "grade.py", *map(str, words)],
                          capture_output=True, text=True, **more)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "a word"])
def test_the_project_has_100_points(seed):
    done = run_grade(ROOT, "--seed", seed)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.endswith(f"\n100 of 100 points (seed {seed})\n"), done.stdout


@pytest.mark.slow
def test_the_blank_copy_has_none(student_copy, tmp_path):
    done = run_grade(student_copy, "--json", tmp_path / "results.json")
    assert done.returncode == 1 and not done.stderr
    assert done.stdout.count("    not done yet\n") == len(EXERCISES)
    assert done.stdout.endswith("\n0 of 100 points (seed 0)\n")
    tests = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert [(t["score"], t["max_score"]) for t in tests] == [
        (0, e.points) for e in EXERCISES.values()]


def own_lorid(folder, body, name="lorid-3", head=""):
    """A student's lorid.py with this body in an exercise, and these lines at its top."""
    exercise, text = EXERCISES[name], text_of("lorid.py")
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
    text = text[:exercise.start] + body + text[exercise.end:]
    folder.mkdir(exist_ok=True)
    # after its docstring
    (folder / "lorid.py").write_text(text.replace('"""\nimport', f'"""\n{head}\nimport', 1))
    return folder


def test_the_command(tmp_path):
    """Points, sentences, exit status and Gradescope's file, of three exercises."""
    folder = own_lorid(tmp_path / "ada", "return text.partition('boxed{')[2].strip('}') or None")
    done = run_grade(folder, "lorid-1", "lorid-3", "--json", tmp_path / "results.json")
    assert done.returncode == 1 and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "lorid-1      8 of 8  vote in lorid.py"
    assert lines[1] == "lorid-3      0 of 4  last_boxed in lorid.py"
    assert "What stands in the box is the answer." in lines[2] and "Expected '" in lines[2]
    assert lines[-1] == "8 of 12 points (seed 0)" and "Traceback" not in done.stdout
    first, second = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert first == {"name": "lorid-1 vote", "score": 8, "max_score": 8, "status": "passed",
                     "output": ""}
    assert second.items() >= {"score": 0, "max_score": 4, "status": "failed"}.items()
    assert second["output"].startswith("What stands in the box")
    done = run_grade("lorid-3", "--seed", 5)
    assert done.returncode == 0 and done.stdout.endswith("\n4 of 4 points (seed 5)\n")


def test_the_command_refuses(tmp_path):
    for words, sentence in ((["nowhere"], "nowhere is neither a folder nor an exercise"),
                            ([tmp_path, "lora-9"], "there is no exercise lora-9")):
        done = run_grade(*words)
        assert done.returncode == 2 and done.stderr.startswith(f"grade.py: {sentence}")
    done = run_grade(tmp_path, "lorid-1")
    assert done.returncode == 1 and "    lorid.py is missing\n" in done.stdout


def test_a_lost_comment_is_named(student_copy, tmp_path):
    blank.copy(tmp_path / "mine", ["lorid-1"])
    path = tmp_path / "mine" / "lorid.py"
    path.write_text(path.read_text().replace("    # end of lorid-2\n", ""))
    words = [".", "lorid-1", "lorid-2", "lorid-3", "model-1", "lorid-2"]
    done = subprocess.run([sys.executable, "tests/grade.py", *words], cwd=path.parent,
                          capture_output=True, text=True)
    sentence = (f"    {path.parent} has lost one of the comments around lorid-2, `# exercise "
                "lorid-2, ...` and `# end of lorid-2`; put it back.")
    assert done.returncode == 1 and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == ["lorid-1      0 of 8  vote in lorid.py", "    not done yet",
                         "lorid-2      0 of 3  self_consistency in lorid.py", sentence,
                         "lorid-3      4 of 4  last_boxed in lorid.py"]
    assert lines[-1] == "8 of 19 points (seed 0)"


def test_a_lost_beginning_has_no_points_and_keeps_its_place(tmp_path):
    for file in FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text_of(file), encoding="utf-8")
    assert lost(tmp_path, GRADERS) == []
    text = re.sub(" *# exercise model-2.*\n", "", text_of("model.py"))
    text = re.sub(" *# (exercise|end of) model-6.*\n", "", text)
    (tmp_path / "model.py").write_text(text, encoding="utf-8")
    assert lost(tmp_path, GRADERS) == [
        Exercise("model-2", "model.py", "apply_rope", 0, "", None, None),
        Exercise("model-6", "model.py", "a function", 0, "", None, None)]
    result = grade.grade(lost(tmp_path, GRADERS)[0], {}, {}, GRADERS, 1, "0")
    assert [test["status"] for test in grade.gradescope([result])["tests"]] == ["failed"]


def test_a_name_counts_once():
    assert [e.name for e in grade.choose(["lora-1", "data-1", "lora-1"], GRADERS)[1]] == [
        "lora-1", "data-1"]


def points(folder, name, seconds=20):
    """(points, sentences) of one exercise of a student's folder."""
    own, theirs = grade.scripts(ROOT), grade.scripts(folder)
    result = grade.grade(EXERCISES[name], own, theirs, GRADERS, seconds, "0")
    return result.score, " / ".join(result.sentences)


def test_without_the_first_check_there_are_no_points_and_each_counts_alike(tmp_path):
    almost = body_of(EXERCISES["lorid-3"]).replace(".strip() or None", ".strip()")
    score, said = points(own_lorid(tmp_path / "ada", almost), "lorid-3")
    checks = [n for n in GRADERS["test_lorid.py"].decode().split() if "test_lorid_3" in n]
    assert score == round(4 * (len(checks) - 1) / len(checks), 1)
    assert said.startswith("A box of blanks holds no answer.")
    score, said = points(own_lorid(tmp_path / "bob", "return None"), "lorid-3")
    assert score == 0 and "What stands in the box" in said


RIGHT = textwrap.dedent(body_of(EXERCISES["lorid-3"]))

HOSTILE = {  # what stands at the top of lorid.py, what in last_boxed, and what is said of it
    "exits at once": ("import sys; sys.exit(0)", RIGHT, "ends the program"),
    "exits at once, hard": ("import os; os._exit(0)", RIGHT, "ended before it was graded"),
    "exits when called": ("", "raise SystemExit(0)", "ends the program"),
    "exits when called, hard": ("import os", "os._exit(0)", "ended before it was graded"),
    "interrupts": ("", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    "loops": ("", "while True: pass", "does not come to an end"),
    "sleeps at the start": ("import time; time.sleep(100)", RIGHT, "does not come to an end"),
    "recurses": ("", "return last_boxed(text)", "RecursionError"),
    "is no Python": ("def f(:", RIGHT, "lorid.py line 14: "),
    "does not import": ("import nothing_of_that_name", RIGHT, "ModuleNotFoundError"),
    "prints a result": (
        "import os, sys\nprint('[\"0\", [[\"test_lorid_3\", null]]]')\nfor i in range(3, 20):\n"
        "    try: os.write(i, b'\\n[\"0\", [[\"test_lorid_3\", null]]]\\n')\n"
        "    except OSError: pass", "return 'wrong'", "What stands in the box"),
    "floods": ("import os\nfor i in range(2000): os.write(1, b'x' * 100_000)", "return 'wrong'",
               "What stands in the box"),
    "exchanges the comparison": (
        "import sys\nfor name in ('course', 'course.test_lorid', '__main__'):\n"
        "    if module := sys.modules.get(name):\n"
        "        for f in ('check', 'equal', 'sentence', 'outcomes', 'same'):\n"
        "            if hasattr(module, f): setattr(module, f, lambda *a: None)",
        "return 'wrong'", "What stands in the box"),
    "exchanges a builtin": ("import builtins; builtins.all = lambda x: True", RIGHT,
                            "exchanges builtins.all"),
    "is equal to everything": (
        "class All(str):\n    __eq__ = lambda a, b: True\n    __hash__ = str.__hash__",
        "return All('x')", "What stands in the box"),
    "rewrites the graders": (
        "from pathlib import Path\nfor f in Path(__file__).resolve().parent.parent.rglob('*.py'):\n"
        "    f.write_text('def test_lorid_3_x(): pass')", "return 'wrong'", ""),
    "cannot be told": ("class E(Exception):\n    def __str__(self): raise E", "raise E", "E:"),
    "is in colour": ("", "raise ValueError('\\x1b[31m' + 'long ' * 1000)", "ValueError"),
}
POSIX = {
    "kills its group": ("import os, signal; os.killpg(os.getpgrp(), signal.SIGKILL)", RIGHT,
                        "ended before it was graded"),
    "kills its parent": ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
                         "return 'wrong'", ""),
    "kills its parent's group": (
        "import os, signal; os.killpg(os.getpgid(os.getppid()), signal.SIGTERM)", RIGHT,
        "ended before it was graded"),
    "forks": ("import os; os.fork()", "return 'wrong'", ""),
    "forks and stays": ("import os, time\nif not os.fork(): time.sleep(100)", RIGHT, None),
    "fills the memory": ("x = bytearray(2**33)", RIGHT, "more than the 4 GB of memory"),
    "fills the disk": (
        "import os\nwith open('big', 'wb') as f:\n    for i in range(1000): f.write(bytes(2**20))",
        RIGHT, "File too large"),
}


EVERYDAY = ("exits at once, hard", "loops", "is no Python", "prints a result",
            "exchanges the comparison", "rewrites the graders", "kills its parent's group")


@pytest.mark.parametrize("what", [
    pytest.param(what, marks=[posix] * (what in POSIX) + [pytest.mark.slow] * (
        what not in EVERYDAY)) for what in HOSTILE | POSIX])
def test_no_code_gets_points_that_it_has_not_earned(what, tmp_path):
    """Nor harms the graders here, or this process."""
    head, body, words = (HOSTILE | POSIX)[what]
    seconds = 1.5 if "loops" in what or "sleeps" in what else 20
    score, said = points(own_lorid(tmp_path / "eve", body, head=head), "lorid-3", seconds)
    if words is None:
        assert (score, said) == (4, "")
    else:
        assert score == 0 and words in said
    for name, content in GRADERS.items():
        assert (ROOT / "tests" / "course" / name).read_bytes() == content
    line = grade.report(grade.Grade(EXERCISES["lorid-3"], 0, [said]))
    assert "\x1b" not in line and max(map(len, line.splitlines())) < 500


@pytest.mark.slow
def test_torch_is_not_exchanged(tmp_path):
    """A wrong lora-1 that makes all numbers look alike."""
    (tmp_path / "eve").mkdir()
    text = with_body("lora-1", "        return x\n")
    for what in "tolist", "__eq__":
        (tmp_path / "eve" / "lora.py").write_text(f"{text}\n\ntorch.Tensor.{what} = lambda *x: [1]")
        assert points(tmp_path / "eve", "lora-1") == (
            0, f"lora.py exchanges torch.Tensor.{what}, which the graders use; leave it alone")


def test_an_error_that_comes_in_every_check_is_told_once(tmp_path):
    """With what the first of them tried, and the line of the exercise, not of what it calls."""
    folder = own_lorid(tmp_path / "ada", "return extract_answer([])")
    line = (folder / "lorid.py").read_text().splitlines().index("    return extract_answer([])") + 1
    score, said = points(folder, "lorid-3")
    assert score == 0 and re.fullmatch(
        r"What stands in the box is the answer\. \(So it is \\boxed\{\d\d\}\.\) AttributeError: "
        rf"'list' object has no attribute 'rstrip' \(line {line} of lorid\.py\)", said)


def test_a_script_with_a_fault_costs_only_its_own_exercises(tmp_path):
    """Here lorid.py is no Python, and rewrites data.py besides; data-1 is graded without it."""
    folder = own_lorid(tmp_path / "eve", "return None", head="def f(:")
    (folder / "data.py").write_bytes((ROOT / "data.py").read_bytes())
    (folder / "model.py").write_text("raise SystemExit(0)")
    assert points(folder, "lorid-1")[0] == 0
    assert points(folder, "data-1") == (6, "")


def test_a_students_helper_file_is_taken_along(tmp_path):
    folder = own_lorid(tmp_path / "ada", RIGHT, head="from helpers import nothing")
    (folder / "helpers.py").write_text("nothing = None\n")
    assert points(folder, "lorid-3") == (4, "")


def test_links_are_not_followed(tmp_path):
    (tmp_path / "ada").mkdir()
    try:
        (tmp_path / "ada" / "lorid.py").symlink_to(ROOT / "lorid.py")
    except OSError:
        pytest.skip("no links here")
    assert points(tmp_path / "ada", "lorid-3") == (0, "lorid.py is missing")


def test_another_seed_draws_other_inputs(monkeypatch):
    drawn = set()
    for seed in "0123":
        monkeypatch.setenv("LORID_SEED", seed)
        assert rng("a").random() == rng("a").random() != rng("b").random()
        drawn.add(rng("a").random())
    assert len(drawn) == 4
    for file in FILES:  # every grader draws
        script = file.rpartition("/")[2]
        assert re.search(r"rng\(|generator\(", GRADERS[f"test_{script}"].decode())


def test_the_graders_import_torch_and_python_only():
    for name, content in GRADERS.items():
        tree = ast.parse(content)
        found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                 for alias in node.names}
        found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        outside = {module.split(".")[0] for module in found} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "course"}, name


def test_every_exercise_has_checks():
    for name, exercise in EXERCISES.items():
        script = exercise.file.rpartition("/")[2].removesuffix(".py")
        module = importlib.import_module(f"course.test_{script}")
        checks = [f for f in vars(module) if f.startswith(f"test_{name.replace('-', '_')}_")]
        assert len(checks) >= 3

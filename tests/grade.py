"""Grades a student's folder, exercise by exercise: points, and in words what is wrong.

    python tests/grade.py                          the folder that this file is in
    python tests/grade.py lora-1                   there, this exercise only
    python tests/grade.py ../ada lora-1 lora-2     another folder, these only
    python tests/grade.py ../ada --seed 7          other inputs, so that nobody can foresee them
    python tests/grade.py ../ada --json results.json    also in Gradescope's format

The exit status is 0 if all points that were asked for were reached, 1 if not, 2 if nothing could be
graded.

Each exercise is the body of one function; its checks are in tests/course/. Each counts alike, but
if the first, the main one, fails, there are no points. Of a student's folder, the one script
with the exercise is taken; all others and the graders come from where this file is, and are copied
afresh for each exercise. So a script with a fault costs its own exercises, not those of others.

Each exercise runs in a process of its own, with a time limit, a memory limit and no terminal. What
it prints is dropped, its exit status means nothing: the result comes through a file of its own,
with a word that was made for this run. So code that loops, exits, prints a result, edits files
near it, exchanges torch's functions or kills its parent costs its own exercise only. This is no
sandbox, though: the code runs as you, and if it sets out to (by reading the stack of the graders,
by searching the disk, by killing all processes of yours), it can fake its grade or do harm. What
nobody has read belongs in a container, as Gradescope and GitHub have them. The limit of memory and
the process between need Linux (macOS, as far as it keeps its limits); a process that leaves its
group may live on.
"""
import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from course import FILES, exercises, lost  # noqa: E402

from support.cli import number, positive, printable, run  # noqa: E402
from support.files import atomic_write  # noqa: E402

# score: points; sentences: what is wrong
Grade = namedtuple("Grade", "exercise score sentences")


def scripts(folder):
    """{name: content} of the Python files of a project, as they are now. Links are not followed."""
    paths = [path for pattern in ("*.py", "support/*.py", "tiny/*.py")
             for path in Path(folder).glob(pattern) if path.is_file() and not path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def end(process):
    """Kill what is left of a process and of its group."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it is gone
    process.kill()
    process.wait()


def ask(exercise, folder, seconds, seed):
    """Run tests/course/one.py in `folder`: [(check, None or what is wrong)], or a sentence."""
    nonce = secrets.token_hex(16)
    module = exercise.file.removesuffix(".py").replace("/", ".")
    asked = {"exercise": exercise.name, "module": module, "function": exercise.function,
             "folder": str(folder / "student"), "nonce": nonce}
    environment = os.environ | {"LORID_SEED": str(seed), "OMP_NUM_THREADS": "1",
                                "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    with open(folder / "result", "w+b") as result:
        process = subprocess.Popen(
            [sys.executable, str(folder / "graders" / "course" / "one.py")], cwd=folder / "student",
            env=environment, stdin=subprocess.PIPE, stdout=result, stderr=subprocess.DEVNULL,
            start_new_session=True)
        try:
            process.communicate(json.dumps(asked).encode() + b"\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:g} s: it does not come to an end"
        except BrokenPipeError:
            pass
        finally:
            end(process)
        result.seek(0)
        for line in result.read().splitlines():
            if nonce.encode() in line:
                return json.loads(line)[1]
    return "its process ended before it was graded: something in it exits, or takes too much memory"


def grade(exercise, own, theirs, graders, seconds, seed):
    """The Grade of one exercise. own and theirs: {name: content} of the project and of the
    student's folder."""
    if exercise.start is None:
        return Grade(exercise, 0, [
            f"{ROOT} has lost one of the comments around {exercise.name}, `# exercise "
            f"{exercise.name}, ...` and `# end of {exercise.name}`; put it back."])
    if exercise.file not in theirs:
        return Grade(exercise, 0, [f"{exercise.file} is missing"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = Path(folder).resolve()
        write(folder / "graders" / "course", graders)
        write(folder / "student", theirs | own | {exercise.file: theirs[exercise.file]})
        told = ask(exercise, folder, seconds, seed)
    if isinstance(told, str):
        return Grade(exercise, 0, [told])
    wrong = [why for _, why in told if why]
    if not told or told[0][1]:
        return Grade(exercise, 0, list(dict.fromkeys(wrong)))
    score = round(exercise.points * (len(told) - len(wrong)) / len(told), 1)
    return Grade(exercise, score, list(dict.fromkeys(wrong)))


def report(result, most=3):
    """The lines about one exercise."""
    exercise, score, sentences = result
    points = f"{score:g} of {exercise.points}"
    lines = [f"{exercise.name:9} {points:>9}  {exercise.function} in {exercise.file}"]
    lines += [f"    {printable(' '.join(why.split()))[:400]}" for why in sentences[:most]]
    if len(sentences) > most:
        lines.append(f"    (and {len(sentences) - most} more)")
    return "\n".join(lines)


def gradescope(results):
    """What Gradescope reads as /autograder/results/results.json."""
    return {"tests": [{
        "name": f"{exercise.name} {exercise.function}", "score": score,
        "max_score": exercise.points, "status": "failed" if sentences else "passed",
        "output": "\n".join(printable(why)[:400] for why in sentences)}
        for exercise, score, sentences in results]}


def arguments():
    parser = argparse.ArgumentParser(description="Grades the exercises in a student's folder.")
    parser.add_argument("words", metavar="[FOLDER] [NAME ...]", nargs="*",
                        help="the student's folder (default: the one that grade.py is in), "
                             "exercises (default: all)")
    parser.add_argument("--seed", default=os.environ.get("LORID_SEED", "0"),
                        help="draws the inputs (default: LORID_SEED, else 0)")
    parser.add_argument("--limit", type=number(float, above=0), default=30, metavar="SECONDS",
                        help="for one exercise (default: 30)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1,
                        help="exercises graded at once (default: one for each core)")
    parser.add_argument("--json", metavar="FILE", help="write Gradescope's results.json here")
    return parser.parse_args()


def choose(words, graders):
    """(the folder, the exercises) that the command names, each once."""
    found = sorted([*exercises(ROOT), *lost(ROOT, graders)], key=lambda e: (
        FILES.index(e.file), int(e.name.partition("-")[2])))
    found = {exercise.name: exercise for exercise in found}
    if not words or words[0] in found:
        words = [ROOT, *words]
    folder, names = Path(words[0]), words[1:]
    if not folder.is_dir():
        raise ValueError(f"{folder} is neither a folder nor an exercise ({', '.join(found)}).")
    if wrong := sorted(set(names) - found.keys()):
        raise ValueError(f"there is no exercise {wrong[0]}; there are {', '.join(found)}.")
    return folder, [found[name] for name in dict.fromkeys(names or found)]


def main():
    args = arguments()
    graders = {path.name: path.read_bytes() for path in (ROOT / "tests" / "course").glob("*.py")}
    folder, chosen = choose(args.words, graders)
    own, theirs = scripts(ROOT), scripts(folder)
    results, pool = [], ThreadPoolExecutor(args.jobs)
    try:
        for result in pool.map(lambda exercise: grade(exercise, own, theirs, graders, args.limit,
                                                      args.seed), chosen):
            results.append(result)
            print(report(result), flush=True)
    finally:  # after Ctrl-C, those that have not begun never will
        pool.shutdown(cancel_futures=True)
    reached = sum(result.score for result in results)
    points = sum(exercise.points for exercise in chosen)
    print(f"\n{reached:g} of {points} points (seed {args.seed})")
    if args.json:
        atomic_write(args.json, [json.dumps(gradescope(results), indent=2).encode()])
    return int(any(result.sentences for result in results))


if __name__ == "__main__":
    run(main)

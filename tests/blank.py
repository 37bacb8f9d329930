"""The student's copy: the project without the answers.

    python tests/blank.py OUT                     all exercises are to be done
    python tests/blank.py OUT lora-1 lora-2       only these

An exercise is the body of one function, between the comments `# exercise lora-1, 8 points: ...` and
`# end of lora-1`. In OUT it raises NotImplementedError; its signature and its docstring stay, and
so do both comments. Put the body back, and the file is the original again.

Only what COPIED names goes along: no tests of the project (they hold other ways to the same
answers), no .git, nothing that was trained or downloaded. What a student does with it:

    python tests/grade.py              points, and what is wrong, exercise by exercise
"""
import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from course import FILES, exercises  # noqa: E402

from support.cli import run  # noqa: E402

COPIED = ("README.md", "LICENSE", "requirements.txt", "ruff.toml", ".gitignore", *FILES,
          "support/*.py", "support/*.html", "tiny/*.py", "tiny/*.json", "tiny/*.safetensors",
          "tiny/study/*", "docs/*", "tests/grade.py", "tests/course/*.py")


def blanked(text, some):
    """A script's text with the bodies of `some` of its exercises replaced."""
    for exercise in sorted(some, key=lambda e: -e.start):  # from the end: places before it stay
        body = text[exercise.start:exercise.end]
        indent = body[:len(body) - len(body.lstrip(" "))]
        sentence = f"exercise {exercise.name}: {exercise.task}"
        line = f'{indent}raise NotImplementedError("{sentence}")\n'
        text = text[:exercise.start] + line + text[exercise.end:]
    return text


def copy(out, names=()):
    """Make the student's copy in the folder `out`, which must be new or empty: whole or not at all.
    Returns its exercises. names: those to blank, all if there are none."""
    out, found = Path(out), exercises(ROOT)
    if lost := set(names) - {exercise.name for exercise in found}:
        raise ValueError(f"there is no exercise {' or '.join(sorted(lost))}; there are "
                         f"{', '.join(exercise.name for exercise in found)}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; name a new one.")
    some = [exercise for exercise in found if not names or exercise.name in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        for path in sorted({path for pattern in COPIED for path in ROOT.glob(pattern)}):
            if path.is_file():
                (part / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, part / path.relative_to(ROOT))
        for file in FILES:
            text = (part / file).read_text(encoding="utf-8")
            here = [exercise for exercise in some if exercise.file == file]
            (part / file).write_text(blanked(text, here), encoding="utf-8")
        part.chmod(0o755)  # mkdtemp's are the owner's alone
        if out.exists():
            out.rmdir()
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return some


def main():
    parser = argparse.ArgumentParser(description="Copies the project without the answers.")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    parser.add_argument("names", metavar="NAME", nargs="*", help="exercises (default: all)")
    args = parser.parse_args()
    done = copy(args.out, args.names)
    print(f"{args.out}: {len(done)} exercises, {sum(e.points for e in done)} points. "
          f"There: python tests/grade.py")


if __name__ == "__main__":
    run(main)

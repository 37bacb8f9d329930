"""README.md against the code: commands, files and counts that it names."""
import re
import subprocess
import sys

import pytest

import data
import infer
from conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
CALLS = sorted({call.strip() for line in COMMANDS for call in line.split("&&") if call.strip().startswith("python ")})


def test_the_two_set_up_commands_are_there_to_the_letter():
    assert "pip install -r requirements.txt && python train.py && python infer.py" in COMMANDS
    test = "pip install -r requirements.txt -r tests/requirements.txt && pytest"
    assert test in COMMANDS
    assert f"\n{test}\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("call", CALLS)
def test_every_flag_in_a_command_exists(call):
    """Each flag, and each value of a flag with choices, is in the script's own --help."""
    _, script, *words = re.sub(r'"[^"]*"', "TEXT", call).split()
    command = [w for w in words[:1] if script == "data.py"]
    done = subprocess.run([sys.executable, script, *command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    for flag in (w for w in words if w.startswith("--")):
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", done.stdout), f"{script} has no {flag}"
    if "--role" in words:
        assert re.search(rf"[{{,]{words[words.index('--role') + 1]}[,}}]", done.stdout)


def test_files_that_are_named_exist():
    """Every script, and every file in the tour's table; and no script goes unmentioned."""
    named = set(re.findall(r"`(?:python )?([a-z_]+\.py)\b", README)) | set(re.findall(r"python ([a-z_]+\.py)", README))
    assert named == {path.name for path in ROOT.glob("*.py")}
    tour = re.findall(r"^\| `(\w+\.py)`", README, re.M)
    assert tour == ["lorid.py", "model.py", "lora.py", "data.py", "train.py", "infer.py"]


def test_the_tour_reads_downwards():
    """Each file imports only files that stand above it."""
    tour = re.findall(r"^\| `(\w+)\.py`", README, re.M)
    for i, name in enumerate(tour):
        source = (ROOT / f"{name}.py").read_text()
        for other in re.findall(r"^(?:import|from) (\w+)", source, re.M):
            assert other not in tour or other in tour[:i], f"{name}.py imports {other}.py, which comes later"


def test_counts():
    """What the README says of the toy world and the built-in base."""
    assert f"{len(data.KINDS)} kinds of event" in README
    assert f"{len(data.NAMES)} names, {len(data.THINGS)} things" in README
    size = sum(p.stat().st_size for p in (ROOT / "tiny").iterdir()) / 1e6
    assert f"({size:.1f} MB)" in README
    from model import load_model
    assert f"a Llama of {sum(p.numel() for p in load_model(ROOT / 'tiny').parameters()):,} parameters" in README


def test_the_table_is_of_the_form_that_infer_prints():
    header = infer.table([]).splitlines()[0]
    assert header in README
    rows = README.split(header)[1].split("\n\n")[0].strip().splitlines()[1:]
    assert [row.split("|")[1].strip() for row in rows] == list(infer.METHODS)


def test_toy_examples_are_real():
    """Every problem in the README's table is one that the generator makes, with its rules, lines and answer."""
    rows = re.findall(r"^\| (.+?\?) \| (.+?) \| (.+?) \| (\d+) \|$", README, re.M)
    assert len(rows) >= 3
    made = {r["question"]: r for r in data.toy(300)}
    for question, rules, lines, answer in rows:
        row = made[question]
        assert rules.split("<br>") == row["knowledge"] and lines.replace("\\*", "*").split("<br>") == row["rationale"].split("\n") and answer == row["answer"]


def test_no_machine_paths_and_no_strange_weights():
    """Nothing of the machine it was written on, no weights but our own."""
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        path = ROOT / name
        assert path.suffix not in (".bin", ".pt", ".pth", ".gguf"), name
        if path.suffix == ".safetensors":
            assert name == "tiny/model.safetensors"
        elif path.is_file():
            assert "/".join(["", "work", ""]) not in path.read_text(encoding="utf-8"), name

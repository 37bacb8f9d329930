"""README.md against the code: commands, files and counts that it names."""
import json
import re
import subprocess
import sys

import pytest

import data
import infer
from conftest import ROOT
from test_infer import assert_consistent

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
    assert f"{len({kind.name for kind in data.WORLD})} kinds of event" in README
    assert f"{len(data.NAMES)} names, {len(data.THINGS)} things" in README
    size = sum(p.stat().st_size for p in (ROOT / "tiny").iterdir()) / 1e6
    assert f"({size:.1f} MB)" in README
    from model import load_model
    assert f"a Llama of {sum(p.numel() for p in load_model(ROOT / 'tiny').parameters()):,} parameters" in README


def tables(header):
    """The rows, as lists of cells, of each table in the README with this header."""
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in part.split("\n\n")[0].strip().splitlines()[1:]]
            for part in README.split(header)[1:]]


def test_tables_are_whole():
    """As many cells in each row as in its header; a \\| is a character in a cell."""
    tables = re.findall(r"(?:^\|.*\n)+", README, re.M)
    assert len(tables) > 8
    for table in tables:
        counts = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(counts)) == 1, table


def test_the_first_table_is_of_the_form_that_infer_prints():
    first = tables(infer.table([]).splitlines()[0])[0]
    assert [row[0] for row in first] == ["IR alone, greedy", "KG -> DR alone, greedy", "LoRID"] and {len(row) for row in first} == {10}


HELP = " ".join(subprocess.run([sys.executable, "infer.py", "--help"], capture_output=True, text=True, cwd=ROOT).stdout.split())
STUDIES = {int(path.stem): json.loads(path.read_text()) for path in sorted((ROOT / "study").glob("*.json"))}


@pytest.mark.parametrize("seed", STUDIES)
def test_the_stored_studies_are_consistent(seed):
    assert_consistent(STUDIES[seed], 500, 20)
    about = STUDIES[seed]["about"]
    assert about["seed"] == seed and about["data"] == "toy world (test)" and about["model"] == "tiny"
    assert (ROOT / "study" / f"{seed}.png").read_bytes()[:4] == b"\x89PNG"
    for key in ("temperature", "top_k", "top_p", "max_new"):  # what infer.py does when it is told nothing
        flag = "--" + key.replace("_", "-")
        assert re.search(rf"{flag} [A-Z_]+ .*?\(default: {re.escape(str(about[key]))}[),]", HELP), (key, about[key])


def test_the_readme_tells_the_studies_as_they_are_stored():
    """The whole table of seed 0, and of each seed what the claim is about."""
    assert infer.table(STUDIES[0]["methods"]) in README
    told = {row[0]: row[1:] for row in tables("| seed |")[0] if row[0].isdigit()}
    assert list(told) == [str(seed) for seed in STUDIES] and 0 in STUDIES
    for seed, study in STUDIES.items():
        lines = {line["method"]: line for line in study["methods"]}
        ir, kgdr, gold, lorid = (lines[name]["accuracy"] for name in (
            "IR alone, greedy", "KG -> DR alone, greedy", "DR with the teacher's knowledge, greedy", "LoRID, 20 rounds"))
        alone = study["curves"]["self-consistency"]
        assert told[str(seed)] == [*(f"{x:.1%}" for x in (ir, kgdr, gold)), f"{alone[-1]['accuracy']:.1%} (k = {len(alone)})",
                                   f"{lorid:.1%}", f"{100 * (lorid - max(ir, kgdr)):+.1f}", f"{100 * (lorid - alone[-1]['accuracy']):+.1f}"]


def test_toy_examples_are_real():
    """Every problem in the README's table is one that the generator makes, with its rules, lines and answer."""
    rows = re.findall(r"^\| (.+?\?) \| (.+?) \| (.+?) \| (\d+) \|$", README, re.M)
    assert len(rows) >= 3
    made = {r["question"]: r for r in data.toy(300)}
    for question, rules, lines, answer in rows:
        row = made[question]
        assert rules.split("<br>") == row["knowledge"] and lines.replace("\\*", "*").split("<br>") == row["rationale"].split("\n") and answer == row["answer"]


def test_the_estimates_follow_from_what_is_said_beside_them():
    """Memory and hours from the parameters, by the operations and bytes that the text names."""
    rows = tables("| base | parameters | an adapter | memory, before activations | hours of an A100 for ir |")[0]
    assert len(rows) == 5
    for _, base, adapter, memory, hours in rows:
        N, A = 1e9 * float(base.split()[0]), 1e6 * float(adapter.split()[0])
        assert memory == f"{(2 * N + 16 * A) / 1e9:.0f} GB" and hours == f"{490e6 * (4 * N + 6 * A) / (0.4 * 312e12) / 3600:.0f}"


def test_the_names_in_the_tables_are_those_of_the_code():
    from model import TEMPLATES
    assert re.findall(r"^\| `(\w+)` \| ", README.split("### Downloads")[0].split("| template |")[1], re.M) == list(TEMPLATES)
    for name in data.SETS:
        assert f"`{name}`" in README or f"data.py download {name}\n" in README


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
        elif path.is_file() and path.suffix != ".png":
            assert "/".join(["", "work", ""]) not in path.read_text(encoding="utf-8"), name

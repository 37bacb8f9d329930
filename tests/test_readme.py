"""README.md and docs/*.md against the code: the commands, files, names, figures and links in them.
And the code against the limits of its design: who imports whom, lines, columns."""
import argparse
import ast
import functools
import importlib
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise

import course
import numpy
import pytest
from conftest import ROOT

import data
import infer
import lorid
import train
from support import compare
from support.terminal import tally
from support.tokenizer import TEMPLATES
from tiny import world

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
README, RESULTS = PAGES["README.md"], PAGES["docs/results.md"]
MODELS = PAGES["docs/real-models.md"]
COURSE, PROMISES = PAGES["docs/course.md"], PAGES["docs/promises.md"]

CORE = ["lorid.py", "model.py", "lora.py", "data.py", "train.py", "infer.py"]
SCRIPTS = sorted(path.relative_to(ROOT).as_posix()
                 for folder in (ROOT, ROOT / "support", ROOT / "tiny", ROOT / "tests")
                 for path in folder.glob("*.py")
                 if not path.name.startswith(("__init__", "test_", "conftest")))
STUDIES = {int(path.stem): json.loads(path.read_text())
           for path in sorted((ROOT / "tiny" / "study").glob("*.json"))}
GSM8K = json.loads((ROOT / "docs" / "gsm8k.json").read_text())


def flat(text):
    """The text without its line breaks, so that a sentence can be looked for."""
    return " ".join(text.split())


def source(script):
    return (ROOT / script).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------
# Commands


def commands(page):
    """The lines of a page's sh blocks; a block in a list is indented, and of a loop over seeds it
    is the turn of seed 1."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line.replace("$seed", "1") for line in lines
            if not re.fullmatch(r"for seed in [\d ]+; do|done", line)]


def code(page):
    """What stands between single backticks in a page's text."""
    return re.findall(r"`([^`]+)`", flat(re.sub(r"^ *```.*?^ *```$", "", page, flags=re.M | re.S)))


def calls(line):
    """The programs that a command line starts, as lists of words; behind > stands a file."""
    for call in line.split("&&"):
        yield shlex.split(call.partition(">")[0])


CALLS = sorted({tuple(call) for page in PAGES.values()
                for line in (*commands(page), *filter(re.compile("python ").match, code(page)))
                for call in calls(line)})
PYTHON = [call for call in CALLS if call[0] in ("python", "torchrun")]


def test_the_set_up_commands_are_there_to_the_letter():
    default = "pip install -r requirements.txt && python train.py && python infer.py"
    test = "pip install -r requirements.txt -r tests/requirements.txt && pytest"
    assert {default, test} <= set(commands(README))
    assert f"\n{test}\n" in source(".ci/run")


def test_commands_start_only_programs_that_are_checked_here():
    assert {call[0] for call in CALLS} <= {"python", "torchrun", "pip", "pytest", "grep"}
    assert len(PYTHON) > 25
    needed = source("requirements.txt") + source("tests/requirements.txt")
    for call in CALLS:
        if call[0] == "pip":
            assert call[1] == "install" and len(call) > 2
            for before, word in pairwise(call[1:]):
                if before == "-r":
                    assert (ROOT / word).is_file()
                elif word != "-r":  # a library that is optional here: the tests have it
                    assert re.search(rf"^{word}\b", needed, re.M)


def script_of(call):
    """python [-m] SCRIPT ... or torchrun --flag=value SCRIPT ... -> (script, its words)."""
    words = list(call[1:])
    while call[0] == "torchrun" and words[0].startswith("-"):
        assert re.fullmatch(r"--nproc_per_node=\d+", words.pop(0))
    if words[0] == "-m":
        return words[1].replace(".", "/") + ".py", words[2:]
    return words[0], words[1:]


@functools.cache
def help_of(script, *subcommand):
    """What the script says of its flags, started as a program."""
    how = [script]
    if script.startswith(("support/", "tiny/")):
        how = ["-m", script[:-3].replace("/", ".")]
    done = subprocess.run([sys.executable, *how, *subcommand, "--help"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return flat(done.stdout)


def name_of(script):
    """The name by which a script is imported."""
    return script[:-3].replace("tests/", "").replace("/", ".")


class Parsed(Exception):
    """Ends a script's main() when its flags have been read; holds them."""


def parse(script, words, monkeypatch):
    """The flags as the script's own parser reads them. It exits where it does not accept them."""
    def parse_args(parser, plain=argparse.ArgumentParser.parse_args):
        raise Parsed(plain(parser))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(Parsed) as end:
        importlib.import_module(name_of(script)).main()
    return end.value.args[0]


@pytest.mark.parametrize("call", PYTHON, ids=" ".join)
def test_every_command_exists(call, monkeypatch):
    """The script, its flags in full, their values: its help shows them, its parser takes them."""
    script, words = script_of(call)
    assert script in SCRIPTS
    parse(script, words, monkeypatch)
    said = help_of(script, *[word for word in words[:1] if script == "data.py"])
    for word in words:
        if re.match("--?[a-z]", word):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", said), f"{script} has no {word}"
    if "--role" in words:
        role = words[words.index("--role") + 1]
        assert re.search(rf"[{{,]{role}[,}}]", said)


def test_flags_that_are_named_alone_exist():
    """In a script's help, or in that of one of data.py's commands."""
    commands = [("data.py", name) for name in ("show", "toy", "augment", "download")]
    commands += [("infer.py",), ("train.py",), ("tests/bench.py",)]
    said = "\n".join(help_of(*command) for command in commands)
    named = {word for page in PAGES.values() for words in code(page)
             for word in words.split() if word.startswith("--")} - {"-->"}
    assert len(named) > 15
    for flag in named:
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", said), flag


def test_pretraining_has_its_own_command():
    assert ("python", "-m", "tiny.pretrain") in CALLS
    assert not any("base" in call[call.index("--role"):][:2] for call in CALLS if "--role" in call)


# --------------------------------------------------------------------------------------------------
# Files, names and links


def test_files_that_are_named_exist():
    """Scripts and pages by their path, and whatever is said to lie in a folder of ours."""
    for page, text in PAGES.items():
        for word in re.findall(r"[\w./-]+", text):
            ours = re.match(r"(support|tiny|tests|docs)/", word) or re.search(r"\w\.(py|md)$", word)
            if ours and word != "docs/course.md":
                near = (ROOT / page).parent / word  # in a link
                assert (ROOT / word.rstrip(".")).exists() or near.exists(), f"{page}: {word}"


def test_every_script_is_mentioned():
    """In the README, by its path; and the tour's table is of the core, in reading order."""
    named = set(re.findall(r"(?<![\w/.-])((?:\w+/)*\w+\.py)\b", README))
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert named | {name.replace(".", "/") + ".py" for name in modules} == set(SCRIPTS)
    assert re.findall(r"^\| `(\w+\.py)`", README, re.M) == CORE
    assert {path.name for path in ROOT.glob("*.py")} == set(CORE)


def defined_in(script):
    """The names of a script's functions and classes, and Class.method."""
    names = set()
    for node in ast.parse(source(script)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body
                      if isinstance(inner, ast.FunctionDef)}
    return names


def test_the_course_names_each_exercise_with_its_function_and_points():
    table = re.findall(r"^\| ([a-z]+-\d+) \| `([\w.]+)` \| `([\w./]+)` \| (\d+) \| \d+ \|$",
                       COURSE, re.M)
    assert [tuple(row) for row in table] == [
        (e.name, e.function, e.file, str(e.points)) for e in course.exercises(ROOT)]
    assert sum(int(points) for *_, points in table) == 100
    assert re.findall(r"^- \*\*([a-z]+-\d+)\.\*\*", COURSE, re.M) == [row[0] for row in table]
    assert f"{len(table)} exercises" in COURSE.replace("nineteen", "19")


def test_equations_stand_beside_functions_that_exist():
    """In the lectures' tables: | equation | `file.py`: `function`, `function`; `file.py`: ... |"""
    named = []
    for cell in re.findall(r"^\|[^|\n]+\| (`[\w/]+\.py`: [^|\n]+) \|$", COURSE, re.M):
        for part in cell.split("; "):
            script, functions = re.fullmatch(r"`([\w/]+\.py)`: (.+)", part).groups()
            names = re.findall(r"`([\w.]+)`", functions)
            assert names and set(names) <= defined_in(script), part
            named += names
    assert len(named) > 18 and {"vote", "LoRALinear.forward", "summed_loss"} <= set(named)


def test_each_promise_names_tests_that_exist():
    found = 0
    for row in re.findall(r"^\| (?!promise)(.+) \|$", PROMISES, re.M):
        held_by = re.sub(r"\\\|", "", row).split(" | ")[-1]
        for script, names in re.findall(r"`(tests/test_\w+\.py)`((?:[^`]|`test_\w+`)*)", held_by):
            assert set(re.findall(r"`(test_\w+)`", names)) <= defined_in(script), script
            found += 1
    assert found > 25


def test_names_that_are_said_to_be_in_a_file_are():
    """`NAME` in `file.py`: a function, a class or a table of its top level."""
    found = [pair for page in PAGES.values()
             for pair in re.findall(r"`(\w+)` in `([\w/]+\.py)`", flat(page))]
    assert len(found) >= 5
    for name, script in found:
        assert re.search(rf"^(?:def |class )?{name}\b", source(script), re.M), (name, script)


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_links_lead_somewhere():
    """Between the pages, to their headings and pictures. Nothing else is linked but the web."""
    links = [(page, *link.partition("#")[::2]) for page, text in PAGES.items()
             for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    assert len(links) > 20
    for page, path, anchor in links:
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.is_file(), f"{page} links {path}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: #{anchor}"
    for name in PAGES:
        assert name == "README.md" or ("README.md", name, "") in links


@pytest.mark.parametrize("page", PAGES)
def test_headings_are_unique(page):
    """Else an anchor would lead to the first of them."""
    assert len(set(anchors(PAGES[page]))) == len(anchors(PAGES[page])) > 4


# --------------------------------------------------------------------------------------------------
# Tables and figures


def tables(page, header):
    """The rows, as lists of cells, of each table of a page whose header begins so."""
    return [[[cell.strip() for cell in line.strip("|").split("|")]
             for line in part.split("\n\n")[0].strip().splitlines()[2:]]
            for part in ("\n\n" + page).split("\n\n" + header)[1:]
            for part in ["|" + part]]


def test_tables_are_whole():
    """As many cells in each row as in its header; a \\| is a character in a cell."""
    found = [table for page in PAGES.values() for table in re.findall(r"(?:^\|.*\n)+", page, re.M)]
    assert len(found) > 10
    for table in found:
        header, dashes, *rows = table.splitlines()
        assert rows and re.fullmatch(r"(\|-+)+\|", dashes), header
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1, header


HEADER = infer.table([]).splitlines()[0]


def methods(study):
    return {line["method"]: line for line in study["methods"]}


def settings(study):
    """As infer.py prints them below its tables; in the pages they stand in brackets."""
    told = (f"{key.replace('_', '-')} {value}" for key, value in study["about"].items())
    return f"\n({', '.join(told)})\n"


def solved_where_it_fails(pairs):
    """The share of questions that the first of two lines solves among those that the second does
    not; pairs: such lines, of one study or several."""
    first = [a for one, other in pairs
             for a, b in zip(one["right"], other["right"], strict=True) if not b]
    return sum(first) / len(first)


def test_the_first_table_is_what_infer_prints():
    """Its three lines are seed 0's, but for the seconds; each column is explained before it."""
    study = methods(STUDIES[0])
    lines = [study["IR alone, greedy"], study["KG -> DR alone, greedy"],
             study["LoRID, 20 rounds"] | {"method": "LoRID"}]
    [first] = tables(README, HEADER)
    [printed] = tables(infer.table(lines), HEADER)
    assert [row[:-1] for row in first] == [row[:-1] for row in printed]
    assert all(row[-1].isdigit() for row in first)
    before = README.split(HEADER)[0]
    for column in HEADER.strip("| ").split(" | "):
        assert f"**{column}**" in before, column


def test_the_conversation_is_a_vote(monkeypatch):
    """Its texts, sent to `vote`, give its rounds and its end, which is right in this world."""
    [call] = [call for call in CALLS if "--ask" in call]
    block = re.search(r"^```\n(Round 1\n.*?)^```$", README, re.M | re.S)[1]
    texts = [re.sub("^    ", "", text, flags=re.M).strip("\n") for text in
             re.findall(r"^  (?:Intui|Know|Deep)[\w ]+:\n((?:    .*\n)+)", block, re.M)]
    verdict = lorid.replay(lorid.vote(call[-1]), texts)
    told = [lorid.transcript(t, r) for t, r in enumerate(verdict.rounds, 1)]
    told.append(f"  {tally(verdict.rounds)}")  # the ballots, from the second round on
    end = f"Both systems have said {verdict.answer} after 2 rounds. Answer: {verdict.answer}\n"
    assert "\n".join([*told, end]) == block and verdict.agreed == ["4"]
    for law, operation in (("fair", "add"), ("rain", "divide")):
        [kind] = [kind for kind in world.LAWS if kind.name == law]
        assert world.OPERATIONS[kind.steps[world.CLASS["stickers"]]] == operation
        assert f"All stickers are paper. {law.capitalize()} on paper: {operation}." in block
    assert "a fair adds to paper and rain divides it" in flat(README) and (2 * 9 + 2) / 5 == 4


@pytest.mark.parametrize("seed", STUDIES)
def test_the_stored_studies_are_consistent(seed, monkeypatch):
    """And were made by infer.py as it is when it is told nothing, but for the seed."""
    from test_infer import assert_consistent  # here, so that these tests run without those
    assert_consistent(STUDIES[seed], 500, 20)
    about = STUDIES[seed]["about"]
    assert about["seed"] == seed and about["model"] == "tiny"
    assert about["data"] == "toy world (test)"
    assert (ROOT / "tiny" / "study" / f"{seed}.png").read_bytes()[:4] == b"\x89PNG"
    defaults = vars(parse("infer.py", [], monkeypatch))
    for key in ("rounds", "strict", "temperature", "top_k", "top_p", "max_new_tokens"):
        assert about[key] == defaults[key], key
    for key in ("temperature", "top_k", "top_p", "max_new_tokens"):  # and so its help says
        flag = "--" + key.replace("_", "-")
        default = re.escape(f"(default: {about[key]}")
        alias = r"(?:, --[a-z-]+ [A-Z]+)?"
        assert re.search(rf"{flag} [A-Z_]+{alias} [^-]*?{default}[),]", help_of("infer.py")), key


SINGLE = ("IR alone, greedy", "KG -> DR alone, greedy", "DR without knowledge, greedy",
          "DR with the teacher's knowledge, greedy")


def test_the_stored_studies_have_the_keys_that_infer_writes():
    assert [*STUDIES] == [0, 1, 2, 3, 4]
    keys = {"method", "accuracy", "low", "high", "rounds", "texts", "tokens", "truncated", "unread",
            "seconds"}
    for study in (*STUDIES.values(), GSM8K):
        compared = {"right", "gain", "gain_low", "gain_high", "mcnemar_p"}
        compared |= set() if study is GSM8K else {*compare.PARTS.values()}
        points = [line for curve in study["curves"].values() for line in curve]
        for line in (*study["methods"], *points):
            wanted = keys | (compared if line not in points else set())
            if line["method"].startswith(("LoRID", "two KG")):
                wanted |= {"agreed", "accuracy_when_agreed"}
            wanted |= {"among", "strict"} if line is study["methods"][-1] else set()
            assert line.keys() == wanted
        last = study["methods"][-1]["right"]
        for line in study["methods"]:
            stored = tuple(line[key] for key in ("gain", "gain_low", "gain_high"))
            assert stored == pytest.approx(compare.difference(last, line["right"]))
            if line["mcnemar_p"] is not None:
                assert line["mcnemar_p"] == pytest.approx(compare.mcnemar(last, line["right"]))


@functools.cache
def means():
    """The five studies as one table: name -> its line."""
    lines = compare.together([study["methods"] for study in STUDIES.values()])
    return {line["method"]: line for line in lines}


ALONE = SINGLE[1]
SELF = "self-consistency of k"
POOLED, EARLY = "majority of k IR and k KG -> DR", "IR and KG -> DR until 7 are equal"
CHAINS, DEEP, VOTE = "majority of k KG -> DR", "two KG -> DR that must agree", "LoRID, 20 rounds"


def test_the_pages_tell_the_studies_as_they_are_stored():
    """The whole table of seed 0, its settings, and all five as one, as a command prints it."""
    assert infer.table(STUDIES[0]["methods"]) in RESULTS
    assert compare.comparison(STUDIES[0]["methods"]) in RESULTS
    assert settings(STUDIES[0]) in RESULTS
    files = [f"tiny/study/{seed}.json" for seed in STUDIES]
    command = ["python", "-m", "support.compare", *files]
    assert " ".join(command) in commands(RESULTS)
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout in RESULTS
    header = "| method | accuracy | tokens | LoRID is better by | 95% interval |"
    [short] = tables(README, header)
    printed = done.stdout.split("\n")[0]
    columns = [printed.strip("| ").split(" | ").index(name)
               for name in header.strip("| ").split(" | ")]
    whole = [[row[i] for i in columns] for row in tables(done.stdout, printed)[0]]
    assert [row for row in whole if row in short] == short  # in its order, and to the digit
    assert [row[0] for row in short] == [ALONE, SELF, POOLED, EARLY, VOTE]
    [rows] = tables(RESULTS, "| seed |")
    for seed, row in zip(STUDIES, rows, strict=True):
        last = STUDIES[seed]["methods"][-1]
        cells = [f"{methods(STUDIES[seed])[name]['accuracy']:.1%}" for name in SINGLE]
        rivals = [methods_by_kind(seed)[name] for name in (CHAINS, DEEP, POOLED, EARLY)]
        cells += [f"{100 * line['gain']:+.1f}" for line in rivals]
        assert row == [str(seed), *cells, f"{last['accuracy']:.1%}"]


def methods_by_kind(seed):
    """A study's lines by the names that the means have."""
    return dict(zip(means(), STUDIES[seed]["methods"], strict=True))


def test_what_the_sentences_say_of_the_studies_follows_from_them():
    line, studies = means(), [methods_by_kind(seed) for seed in STUDIES]
    vote, better, deep = line[VOTE], line[ALONE], line[DEEP]
    assert better["accuracy"] > line["IR alone, greedy"]["accuracy"]
    steps = [compare.difference(line[b]["right"], line[a]["right"])
             for a, b in pairwise((ALONE, CHAINS, POOLED, EARLY, VOTE))]
    chains, pooled, early, rule = (f"{100 * step[0]:+.1f}" for step in steps)
    rows = [[a, b, f"{100 * d:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]
            for (a, b), (d, low, high) in zip(
                pairwise((ALONE, CHAINS, POOLED, EARLY, VOTE)), steps, strict=True)]
    assert tables(RESULTS, "| from | to |") == [rows]
    near = [100 * (study[SELF]["accuracy"] - study["IR alone, greedy"]["accuracy"])
            for study in studies]
    ahead = [round(500 * study[EARLY]["gain"]) for study in studies]
    less = f"{100 * (better['accuracy'] - deep['accuracy']):.1f} points less than one"
    k = EARLY.split()[-3]
    assert all(low <= 0 for _, low, _ in steps[:2])  # "both reach 0"
    five, ten = (line[f"LoRID, {r} rounds"] for r in (5, 10))
    (low5, high5), (low10, high10) = ((100 * low, 100 * high) for _, low, high in (
        compare.difference(some["right"], better["right"]) for some in (five, ten)))
    assert low5 < 0 < low10
    cheaper, dearer = (some["tokens"] / better["tokens"] for some in (five, ten))
    by5, by10 = (100 * (some["accuracy"] - better["accuracy"]) for some in (five, ten))
    for words in (f"step by step: asking it more often, sampled, {chains} points, asking two "
                  f"different systems {pooled} (both reach 0), until some answer has "
                  f"come {k} times {early}, **the rule that both must agree {rule} "
                  f"({rows[-1][-1]})**.",
                  f"with {cheaper:.1f} times, 5 rounds, it is not surely better "
                  f"({five['accuracy']:.1%})",
                  f"or the first answer that comes {k} times.",
                  f"takes {vote['tokens'] / better['tokens']:.1f} times the tokens of KG -> DR"):
        assert words in flat(README), words
    more = max(line[name]["tokens"] for name in (SELF, CHAINS, POOLED, EARLY)) / vote["tokens"] - 1
    most = max(study[name]["tokens"] / study[VOTE]["tokens"] - 1 for study in studies
               for name in (SELF, CHAINS, POOLED, EARLY))
    for words in (f"over both until {k} are equal it is ahead by {min(ahead)} to {max(ahead)} "
                  f"questions of 500",
                  f"5 rounds, at {cheaper:.1f} times its tokens, are not surely better "
                  f"({by5:+.1f}, {low5:+.1f} to {high5:+.1f}), its 10 rounds, at {dearer:.1f} "
                  f"times, are ({by10:+.1f}, {low10:+.1f} to {high10:+.1f}).",
                  f"is within {min(near):+.1f} to {max(near):+.1f} points of greedy IR;",
                  f"agree end at {deep['tokens']:.0f} tokens with {less}.",
                  f"up to {100 * more:.0f}% more tokens than LoRID (of single seeds, "
                  f"{100 * most:.0f}%)"):
        assert words in flat(RESULTS), words
    strict = [study[VOTE]["strict"] for study in studies]
    strictly = f"leaves LoRID {sum(strict) / len(strict):.1%}"
    assert strictly in flat(README)
    assert (f"{strictly} (of the five seeds {min(strict):.1%} to {max(strict):.1%}): less than KG "
            f"-> DR alone" in flat(RESULTS) and sum(strict) / len(strict) < better["accuracy"])
    for study in [line, *studies]:  # "the highest accuracy, in the mean and in each seed"
        assert all(study[VOTE]["accuracy"] >= other["accuracy"]
                   for name, other in study.items() if "teacher" not in name)

    told, ir = line[SINGLE[3]], line[SINGLE[0]]
    assert (f"still ahead of the vote ({told['accuracy']:.1%} against {vote['accuracy']:.1%})"
            in flat(RESULTS))
    rest = f"{solved_where_it_fails((study[SINGLE[0]], study[ALONE]) for study in studies):.0%}"
    assert f"IR solves {rest} of what System 2 fails on" in flat(README)
    assert (f"greedy IR solves {rest} of what KG -> DR fails on ({ir['accuracy']:.0%}, if their "
            f"failures were independent)" in flat(RESULTS))
    first = methods(STUDIES[0])["LoRID, 1 round"]
    assert (f"{first['agreed']:.1%} are agreed upon in the first round, and "
            f"{first['accuracy_when_agreed']:.1%} of these answers are right" in flat(RESULTS))


def test_the_study_of_a_real_model_is_told_as_it_is_stored():
    """Its tables, its settings, the command that made it, and README's row."""
    from test_infer import assert_consistent  # here, so that these tests run without those
    about, rows = GSM8K["about"], GSM8K["methods"]
    assert_consistent(GSM8K, 300, 5)
    assert infer.table(rows) in RESULTS and compare.comparison(rows) in RESULTS
    assert settings(GSM8K) in RESULTS
    [call] = [call for call in CALLS if "docs/gsm8k.json" in call]
    for key in ("questions", "data", "rounds", "temperature", "max_new_tokens"):
        flag = {"questions": "--limit"}.get(key, "--" + key.replace("_", "-"))
        assert call[call.index(flag) + 1] == str(about[key]), key
    assert (about["top_k"], about["top_p"], about["seed"], about["strict"]) == (50, 0.9, 0, False)
    line = methods(GSM8K)
    named = {"IR alone": SINGLE[0], "KG -> DR alone": ALONE,
             "majority of both": "majority of 4 IR and 4 KG -> DR"}
    [header] = [row for row in README.splitlines() if row.startswith("| GSM8K |")]
    names = header.strip("| ").split(" | ")[1:]
    [accuracies, tokens] = tables(README, header)[0]
    chosen = [line[named.get(name, name)] for name in names]
    assert chosen[-1] is rows[-1]
    assert accuracies == ["accuracy", *(f"{this['accuracy']:.1%}" for this in chosen)]
    assert tokens == ["tokens", *(f"{this['tokens']:.0f}" for this in chosen)]


def correlation(a, b):
    return numpy.corrcoef(a["right"], b["right"])[0, 1]


def test_what_the_sentences_say_of_the_real_model_follows_from_its_study():
    line, lead = methods(GSM8K), compare.cells
    vote, most = GSM8K["methods"][-1], line["self-consistency of 11"]
    ir, kg_dr = line[SINGLE[0]], line[ALONE]
    assert ir["gain_low"] > 0 and kg_dr["gain_low"] > 0  # "beats either system alone"
    wrong = vote["agreed"] * (1 - vote["accuracy_when_agreed"])
    strict = f"{vote['strict']:.1%}"
    for words in (f"alone (counted as in the paper: {strict}), but not 11 texts of IR "
                  f"({', '.join(lead(most))}): there",
                  f"agree upon a wrong answer to {wrong:.1%} of the questions."):
        assert words in flat(README), words
    nine = GSM8K["curves"]["self-consistency"][8]
    pooled, early = (line[name] for name in ("majority of 4 IR and 4 KG -> DR",
                                             "IR and KG -> DR until 3 are equal"))
    base = line["the base without adapters, greedy"]
    first = GSM8K["curves"]["LoRID"][0]
    toy = [(methods(study)[SINGLE[0]], methods(study)[ALONE]) for study in STUDIES.values()]
    together = [correlation(*pair) for pair in toy]
    for words in (
            "asked once: {} points over IR ({}), {} over KG -> DR ({}),".format(
                *lead(ir), *lead(kg_dr)),
            f"9 of its texts, {nine['tokens']:.0f} tokens, solve {nine['accuracy']:.1%} by their "
            f"majority, 11 solve {most['accuracy']:.1%}.",
            "Over the majority of both the vote is ahead by {} ({}), over both until 3 are equal "
            "by {} ({}).".format(*lead(pooled), *lead(early)),
            f"of IR's own texts** ({', '.join(lead(most))}); 300 questions",
            f"Counted as in the paper it solves {strict}, "
            f"{100 * (vote['strict'] - ir['accuracy']):.1f} points more than greedy IR.",
            f"the base solves {base['accuracy']:.1%} in its own words, but {base['truncated']} of "
            f"its 300 texts are cut off at 256 tokens.",
            f"correlates by {correlation(ir, kg_dr):.2f} here, by {sum(together) / 5:.2f} in the",
            f"Greedy IR solves {solved_where_it_fails([(ir, kg_dr)]):.0%} of what KG -> DR fails "
            f"on ({ir['accuracy']:.0%}, if their failures were independent; in the toy world "
            f"{solved_where_it_fails(toy):.0%})",
            f"On {vote['agreed'] - wrong:.1%} of the questions the vote agreed upon the right "
            f"answer, on {wrong:.1%} upon a wrong one: in the first round "
            f"{first['accuracy_when_agreed']:.1%} of the agreements are right, of all in five "
            f"rounds {vote['accuracy_when_agreed']:.1%}. For {vote['among']:.1%} the right answer "
            f"was among the texts, {100 * (vote['among'] - vote['accuracy']):.0f} points more",
            f"Of IR's greedy texts {ir['truncated']} of 300 do not end"):
        assert words in flat(RESULTS), words
    assert nine["method"] == "self-consistency of 9"
    assert round(vote["tokens"] / ir["tokens"]) == 9  # "at nine times IR's tokens"


def test_problems_with_a_new_pair_and_without_are_told_apart():
    """By the laws and things in their rules; the page's columns are about these."""
    laws = {law.name.capitalize(): law for law in world.LAWS}
    pairs = [re.findall(r"All (\w+) are \w+\. (\w+) on", "\n".join(row["knowledge"]))
             for row in world.toy(500, "test")]
    assert min(map(len, pairs)) >= 2  # "at least two laws"
    new = [any(world.unheard(thing, laws[law]) for thing, law in told) for told in pairs]
    n, others = sum(new), 500 - sum(new)
    assert f"{n} and {others} of the 500" in flat(RESULTS)
    for study in STUDIES.values():
        for line in study["methods"]:
            for key, part in (("unheard", True), ("heard", False)):
                right = [x for x, p in zip(line["right"], new, strict=True) if p == part]
                assert line[key] == pytest.approx(sum(right) / len(right))
    line = means()
    on_new, on_old = ([f"{line[name][key]:.1%}" for name in (VOTE, ALONE, POOLED)]
                      for key in ("unheard", "heard"))
    assert (f"On the {n} problems with such a pair LoRID solves {on_new[0]}, KG -> DR alone "
            f"{on_new[1]}, the majority of both {on_new[2]}; on the other {others} {on_old[0]}, "
            f"{on_old[1]} and {on_old[2]}." in flat(RESULTS))
    assert (f"on the {n} problems with such a pair the vote gains nothing (LoRID {on_new[0]}, KG "
            f"-> DR alone {on_new[1]})." in flat(README))
    blind, told = (line[name] for name in SINGLE[2:])
    on_ir = line[SINGLE[0]]["accuracy"]
    by, low, high = (100 * x for x in compare.difference(told["right"], blind["right"]))
    assert (f"With the right rules the Deep Reasoner solves {told['accuracy']:.1%}, without any "
            f"{blind['accuracy']:.1%}" in flat(README))
    assert (f"without any {blind['accuracy']:.1%} (IR, trained without, {on_ir:.1%})"
            in flat(README))
    assert f"are worth {by:.1f} points ({low:+.1f} to {high:+.1f})" in flat(RESULTS)
    by, low, high = (100 * x for x in compare.difference(told["right"], line[SINGLE[0]]["right"]))
    assert f"and {by:.1f} points ({low:+.1f} to {high:+.1f}) over IR" in flat(RESULTS)
    of = [[x for x, p in zip(line[name]["right"], new, strict=True) if p] for name in (VOTE, ALONE)]
    by, low, high = (100 * x for x in compare.difference(*of))
    assert f"the vote gains {by:+.1f} there ({low:+.1f} to {high:+.1f})" in flat(RESULTS)


def test_the_choices_follow_from_their_table():
    """What 1,500 and 3,000 examples give, and what the temperature was chosen by."""
    [rows] = tables(RESULTS, "| `--examples` |")
    for _, ir, kgdr, vote, gain in rows:
        better = max(float(x.strip("%")) for x in (ir, kgdr))
        assert f"{float(vote.strip('%')) - better:+.1f}" == gain
    assert len(rows) == 2 and f"LoRID solved {rows[0][3]} at 0.6" in RESULTS
    assert f"with twice as many the vote adds {rows[1][4].strip('+')})" in flat(README)
    last = methods(STUDIES[0])
    gain = 100 * (last["LoRID, 20 rounds"]["accuracy"] - last[ALONE]["accuracy"])
    assert f"they flatter the vote ({rows[0][4]}; on test problems, {gain:+.1f})" in flat(RESULTS)
    assert [row[0] for row in rows] == ["1500", "3000"]


def test_counts():
    """What the pages say of the toy world and the built-in base."""
    assert f"{len({kind.name for kind in world.WORLD})} kinds of event" in flat(RESULTS)
    assert f"{len(world.NAMES)} names, {len(world.THINGS)} things" in flat(RESULTS)
    assert (f"{len(world.THINGS)} things are of {len(world.CLASSES)} classes (`CLASSES` in "
            f"`tiny/world.py`)" in flat(RESULTS) and sorted(world.CLASS) == sorted(world.THINGS))
    assert f"{len(world.LAWS)} laws (`LAWS` in `tiny/world.py`)" in flat(RESULTS)
    pairs = [world.unheard(thing, law) for thing in world.THINGS for law in world.LAWS]
    assert f"{sum(pairs)} of the {len(pairs)} pairs of a thing and a law" in flat(RESULTS)
    names = ("config.json", "model.safetensors", "tokenizer.json")
    size = sum((ROOT / "tiny" / name).stat().st_size for name in names) / 1e6
    assert f"({size:.1f} MB)" in RESULTS
    from model import load_model
    parameters = sum(p.numel() for p in load_model(ROOT / "tiny").parameters())
    assert f"a Llama of {parameters:,} parameters" in RESULTS


def test_toy_examples_are_real():
    """Each problem in the table is one that the generator makes, with rules, lines and answer."""
    rows = re.findall(r"^\| (.+?\?) \| (.+?) \| (.+?) \| (\d+) \|$", RESULTS, re.M)
    assert len(rows) == 5
    made = {r["question"]: r for r in world.toy(300)}
    for question, rules, lines, answer in rows:
        row = made[question]
        assert rules.split("<br>") == row["knowledge"] and answer == row["answer"]
        assert lines.replace("\\*", "*").split("<br>") == row["rationale"].split("\n")


def test_the_estimates_follow_from_what_is_said_beside_them():
    """Memory and hours from the parameters, by the operations and bytes that the text names."""
    said = flat(MODELS)
    for words in ("4 operations per parameter of the base", "6 per parameter of the adapter",
                  "parameter takes 16 bytes", "a base's 2", "about 490 million tokens",
                  "at 40% of the A100's 312 TFLOP/s"):
        assert words in said
    [rows] = tables(MODELS, "| base | parameters |")
    assert len(rows) == 5
    for _, base, adapter, memory, hours in rows:
        N, A = 1e9 * float(base.split()[0]), 1e6 * float(adapter.split()[0])
        assert memory == f"{(2 * N + 16 * A) / 1e9:.0f} GB"
        assert hours == f"{490e6 * (4 * N + 6 * A) / (0.4 * 312e12) / 3600:.0f}"


def test_the_names_in_the_tables_are_those_of_the_code():
    listed = MODELS.split("| template |")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| ", listed, re.M) == list(TEMPLATES)
    for name in data.SETS:
        assert f"`{name}`" in MODELS or f"data.py download {name}\n" in MODELS


def test_the_papers_values_are_those_of_the_presets():
    t, i = train.PAPER, infer.PAPER
    lr = f"{t['lr']:g}".replace("e-0", "e-")
    targets = t["targets"].replace(",", " and ")
    assert (f"rank {t['rank']} and alpha {t['alpha']:g} on {targets}, dropout {t['dropout']}, "
            f"{t['epochs']:g} epochs of {t['batch']} examples a step, learning rate {lr}, cosine, "
            f"warm-up {t['warmup']:.0%}, AdamW's beta2 {t['beta2']}, {t['dtype']}; in infer.py "
            f"{i['rounds']} rounds, temperature {i['temperature']}, top-k {i['top_k']}, "
            f"top-p {i['top_p']}, {i['max_new_tokens']:,} tokens a text" in flat(MODELS))


def test_no_machine_paths_and_no_strange_weights():
    """Nothing of the machine it was written on, no weights but our own."""
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    tracked = done.stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        path = ROOT / name
        assert path.suffix not in (".bin", ".pt", ".pth", ".gguf"), name
        if path.suffix == ".safetensors":
            assert name == "tiny/model.safetensors"
        elif path.is_file() and path.suffix != ".png":
            assert "/".join(["", "work", ""]) not in path.read_text(encoding="utf-8"), name


# --------------------------------------------------------------------------------------------------
# The design: who imports whom, how long a file, a function and a line may be

# Each file may import those above it ...
ORDER = """
support/spellings.py
support/answers.py
support/distributed.py
support/cli.py
lorid.py
tiny/world.py
support/files.py
support/patterns.py
support/checks.py
model.py
support/compare.py
support/bpe.py
support/tokenizer.py
support/plots.py
support/page.py
lora.py
support/settings.py
support/checkpoint.py
support/replies.py
support/augment.py
support/sets.py
support/rows.py
data.py
train.py
support/fused.py
support/engine.py
support/journal.py
support/terminal.py
infer.py
tiny/pretrain.py
""".split()
# ... and of the workshop, a core file only what is named here: anywhere, or only in functions
WORKSHOP = {"lorid.py": ({"support.answers", "support.cli"}, set()),
            "model.py": ({"support.checks", "support.cli", "support.distributed", "support.files"},
                         {"support.tokenizer"}),
            "lora.py": ({"support.checks", "support.cli", "support.files", "support.patterns"},
                        set()),
            "data.py": ({"support.augment", "support.cli", "support.files", "support.replies",
                          "support.rows", "support.sets", "tiny.world"}, {"support.tokenizer"}),
            "train.py": ({"support.checkpoint", "support.cli", "support.distributed",
                          "support.plots", "support.settings", "support.tokenizer"}, set()),
            "infer.py": ({"support.cli", "support.compare", "support.distributed", "support.engine",
                          "support.files", "support.fused", "support.journal", "support.page",
                          "support.plots", "support.terminal", "support.tokenizer"}, set())}


def imports(script):
    """(module of ours, the function it is imported in or None) of each import in a script."""
    names = {name_of(other) for other in SCRIPTS}
    found = []

    def visit(node, function):
        if isinstance(node, ast.Import):
            found.extend((alias.name, function) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{script} imports relatively"
            within = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [name for name in within if name in names]  # from tiny import world
            if node.module != "support" or submodules:
                found.extend((name, function) for name in submodules or [node.module])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = function or node.name
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source(script)), None)
    ours = {"support", "tiny", "tests"} | {name.split(".")[0] for name in names}
    # `support` alone is its __init__.py, which makes Ctrl-C quiet and imports nothing of ours
    return [(name, function) for name, function in found
            if name.split(".")[0] in ours and name != "support"]


@pytest.mark.parametrize("script", ORDER)
def test_files_read_downwards(script):
    """Each file imports only files that stand above it, so nothing is used before it was read.
    One exception: `python model.py FOLDER` shows what the tokenizer does, in its main()."""
    above = {name_of(other) for other in ORDER[:ORDER.index(script)]}
    for name, function in imports(script):
        exception = (script, name, function) == ("model.py", "support.tokenizer", "main")
        assert name in above or exception, f"{script} imports {name}, which comes later"


def test_each_file_has_its_place():
    assert {script for script in SCRIPTS if not script.startswith("tests/")} == set(ORDER)
    assert [script for script in ORDER if script in CORE] == CORE == list(WORKSHOP)
    assert imports("tiny/world.py") == imports("support/spellings.py") == []


@pytest.mark.parametrize("script", WORKSHOP)
def test_core_files_import_no_more_of_the_workshop_than_they_may(script):
    at_the_top, in_functions = WORKSHOP[script]
    core = {name_of(other) for other in CORE}
    for name, function in imports(script):
        allowed = at_the_top | in_functions if function else at_the_top
        assert name in allowed or name in core, f"{script} imports {name}"
        if script == "data.py" and not function:  # it starts without torch, which model.py brings
            assert name in at_the_top | {"lorid"}


@pytest.mark.parametrize("script", ["model.py", "lora.py"])
def test_model_and_lora_know_nothing_of_the_engine(script):
    engine = {"pack", "packed", "fuse", "fused", "unfused", "draft", "drafts", "cache", "kvcache",
              "guess", "slot", "slots", "prefill"}
    for node in ast.walk(ast.parse(source(script))):
        for key in ("id", "attr", "arg", "name"):
            name = getattr(node, key, None) or ""
            assert not engine & set(name.lower().split("_")), f"{script}:{node.lineno}: {name}"


# of the core together: 2,362 before training could resume, and 12% for that
LIMITS = {"lorid.py": 295, "model.py": 550, "lora.py": 430, "data.py": 480, "train.py": 390,
          "infer.py": 445, "support/engine.py": 475, "support/tokenizer.py": 390,
          "support/answers.py": 380}


@pytest.mark.parametrize("script", LIMITS)
def test_files_are_short(script):
    lines = len(source(script).splitlines())
    assert lines <= LIMITS[script]


def test_the_miniature_is_short():
    lines = [len(source(s).splitlines()) for s in SCRIPTS if s.startswith("tiny/")]
    assert len(lines) == 2 and sum(lines) <= 650  # the sentences of the laws are 30 of them


def test_the_readme_is_short():
    lines, words = len(README.splitlines()), len(re.findall(r"[^\s|]*\w[^\s|]*", README))
    assert lines <= 200 and words <= 1600


def functions(script):
    return [node for node in ast.walk(ast.parse(source(script)))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_no_function_of_the_engine_is_longer_than_a_screen():
    long = [f"{node.name}: {lines} lines" for node in functions("support/engine.py")
            if (lines := node.end_lineno - node.lineno + 1) > 40]
    assert not long


@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT).as_posix() for folder in
                                          ("", "support", "tiny", "tests")
                                          for path in (ROOT / folder).glob("*.py")))
def test_lines_are_short(script):
    """At most 100 columns, but for the tables of sentences in tiny/world.py."""
    wide = [i for i, line in enumerate(source(script).splitlines(), 1) if len(line) > 100]
    if script == "tiny/world.py":
        bodies = [range(node.lineno, node.end_lineno + 1) for node in functions(script)]
        wide = [i for i in wide if any(i in body for body in bodies)]
    assert not wide, f"{script}: lines {wide}"

"""Bad input is answered: a table of commands that are mistaken, each with the words that its one
sentence on stderr must hold. Exit status 2, no traceback, nothing on disk touched, under 5 seconds.

And what no terminal shall obey: control characters from files, models and the command line.
"""
import argparse
import contextlib
import importlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, edit_json, start_server
from test_scheduling import random_base

from model import read_safetensors, write_safetensors
from support import cli

# --------------------------------------------------------------------------------------------------
# How a command is run here. Words that stand for longer ones:

SHORT = {
    "TRAIN": "train.py --role ir --model base --data good.jsonl --dtype float32 --steps 1",
    "INFER": "infer.py --model base --ir base/ir --kg base/kg --dr base/dr --data good.jsonl "
             "--limit 1 --rounds 1 --max-new-tokens 2",
    "ASK": "infer.py --model base --ir base/ir --kg base/kg --dr base/dr --rounds 1 "
           "--max-new-tokens 2 --ask",
    "AUGMENT": "data.py augment --data good.jsonl --out new.jsonl"}
GOOD = dict(question="What is 1+1?", rationale="1+1=2", knowledge=["Add."], answer="2")


def rows(*changes, **first):
    """A JSONL file of good rows with changes; ... takes a key away."""
    lines = [{k: v for k, v in (GOOD | change).items() if v is not ...}
             for change in ([first] if first else changes)]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small model folder with an adapter for each role in it; copied for each command."""
    return random_base(tmp_path_factory.mktemp("bad") / "base")


@pytest.fixture
def place(tmp_path, base, monkeypatch):
    """The folder that a command is run in: base/, with base/ir and so on, good.jsonl, empty/."""
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "good.jsonl").write_text(rows({}, dict(question="What is 1+2?", answer="3")))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a name of a model on the hub: not asked for here
    return tmp_path


def put(place, files):
    """Files of the folder: bytes or text; a dict changes keys of a JSON file that is there; a
    function is called with the path. base/ is copied before something in it changes."""
    for name, content in files.items():
        path = place / name
        if name.startswith("base/") and (place / "base").is_symlink():
            folder = (place / "base").resolve()
            (place / "base").unlink()
            shutil.copytree(folder, place / "base")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            edit_json(path, **content)
        elif callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def tree(place):
    """All that is below a folder and below base/, with size and time; and the bytes of files."""
    found = {}
    for path in [*place.rglob("*"), *(place / "base").resolve().rglob("*")]:
        status = path.lstat()
        found[path] = status.st_mode
        if path.is_file():
            small = status.st_size < 1_000_000 and path.read_bytes()
            found[path] = status.st_mode, status.st_size, status.st_mtime_ns, small
    return found


def words_of(command):
    words = shlex.split(command)
    return [*SHORT.get(words[0], words[0]).split(), *words[1:]]


def run(words):
    """A command in this process: (exit status, stdout, stderr)."""
    script, *words = words
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, \
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [Path(script).name, *words])
        with pytest.raises(SystemExit) as stop:
            cli.run(main)
    return stop.value.code or 0, out.getvalue(), err.getvalue()


def run_alone(words):
    """The same as a process of its own."""
    script, *words = words
    how = [str(ROOT / script)]
    if "/" in script:
        how = ["-m", script.removesuffix(".py").replace("/", ".")]
    done = subprocess.run([sys.executable, *how, *words], capture_output=True, text=True,
                          timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    return done.returncode, done.stdout, done.stderr


def seconds():
    """Of work, by this process and its children: a busy machine makes no test fail."""
    return sum(os.times()[:4])


def assert_refused(place, words, says, how=run):
    before, start = tree(place), seconds()
    status, _, err = how(words)
    assert status == 2, err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    line = err[:-1]
    assert line.startswith((Path(words[0]).name, "python -m")) and line.isprintable(), line
    assert all(word in line for word in says), line
    assert tree(place) == before
    assert seconds() - start < 5


# --------------------------------------------------------------------------------------------------
# The table: what is wrong | the command | words of its sentence, parted by " & " | files, if any

FLAGS = [
    # words that no command knows, or that it lacks
    ("lorid.py takes no words", "lorid.py 3", "unrecognized arguments: 3 & --help", {}),
    ("lorid.py takes no flags", "lorid.py --rounds 3", "--rounds 3", {}),
    ("two model folders", "model.py base base", "unrecognized arguments: base", {}),
    ("no adapter", "lora.py", "required & ADAPTER & merge BASE ADAPTER OUT", {}),
    ("two adapters", "lora.py base/ir base/kg", "merge BASE ADAPTER OUT", {}),
    ("merge what", "lora.py merge", "merge BASE ADAPTER OUT", {}),
    ("merge where", "lora.py merge base base/ir", "merge BASE ADAPTER OUT", {}),
    ("merge one too many", "lora.py merge base base/ir new more", "merge BASE ADAPTER OUT", {}),
    ("no subcommand", "data.py", "required: command & --help", {}),
    ("a subcommand that is none", "data.py print", "'print' & choose from", {}),
    ("a subcommand of two words", "data.py show toy", "unrecognized arguments: toy", {}),
    ("augment without files", "data.py augment --teacher m", "required: --data, --out", {}),
    ("augment by nobody", "AUGMENT", "--teacher & --map", {}),
    ("download nothing", "data.py download", "name of a set & --model", {}),
    ("download two things", "data.py download gsm8k --model me/toy", "name of a set & --model", {}),
    ("a set that is none", "data.py download gsm9k", "'gsm9k' & gsm8k", {}),
    ("a flag that is none", "TRAIN --learning-rate 1", "--learning-rate 1 & train.py --help", {}),
    ("a flag cut short", "INFER --temp 1", "--temp 1 & infer.py --help", {}),
    ("a flag cut short, at the end", "TRAIN --weight 0", "--weight 0", {}),
    ("a subcommand's flag cut short", "data.py toy --see 1", "--see 1", {}),
    ("a flag without its value", "TRAIN --lr", "--lr & expected one argument", {}),
    ("a flag as a value", "TRAIN --lr --batch 3", "--lr & expected one argument", {}),
    ("a switch with a value", "INFER --strict=yes", "--strict & 'yes'", {}),
    ("a flag of another script", "INFER --rank 3", "--rank 3", {}),
    ("a word too many", "TRAIN more", "unrecognized arguments: more", {}),
    # choices
    ("a role that is none", "TRAIN --role xx", "--role & 'xx' & ir", {}),
    ("the base is no role", "TRAIN --role base", "python -m tiny.pretrain", {}),
    ("an empty role", "TRAIN --role ''", "--role & '' & ir", {}),
    ("data.py's role", "data.py show --role IR", "--role & 'IR' & ir", {}),
    ("a split that is none", "data.py toy --split all", "--split & 'all' & train", {}),
    ("no split to learn from", "infer.py --split train", "--split & 'train' & test", {}),
    ("a dtype that is none", "TRAIN --dtype float8", "--dtype & 'float8' & bfloat16", {}),
    ("a template that is none", "TRAIN --template chatml", "--template & 'chatml' & plain", {}),
    ("data.py's template", "data.py show --model base --template chatml",
     "template & 'chatml' & plain", {}),
    ("a template that the base cannot", "TRAIN --template qwen", "<|im_start|> & template", {}),
    ("a preset that is none", "TRAIN --preset book", "--preset & 'book' & paper", {}),
    ("a preset and a mistake", "TRAIN --preset paper --rank x", "--rank & 'x'", {}),
    # devices
    ("a GPU that is not there", "TRAIN --device cuda", "--device cuda & 1 cpu", {}),
    ("a hundredth GPU", "INFER --device cuda:99", "--device cuda:99 & 1 cpu", {}),
    ("a second CPU", "TRAIN --device cpu:1", "--device cpu:1 & 1 cpu", {}),
    ("a device that is none", "TRAIN --device abacus", "--device abacus & 1 cpu", {}),
    ("a device without a number", "INFER --device cpu:x", "--device cpu:x & 1 cpu", {}),
    ("a negative device", "TRAIN --device cuda:-1", "--device cuda:-1 & 1 cpu", {}),
    ("an endless device", f"TRAIN --device cuda:{'9' * 20}", "--device cuda:9 & 1 cpu", {}),
    ("a device without memory", "TRAIN --device meta", "--device meta & 1 cpu", {}),
    ("no device", "INFER --device ''", "--device & 1 cpu", {}),
    ("pretraining's device", "tiny/pretrain.py --device cuda:7 --out new", "--device cuda:7", {}),
    # targets
    ("a target that is no layer", "TRAIN --targets q_proj,x_proj", "'x_proj' & q_proj", {}),
    ("no target", "TRAIN --targets ''", "'' & q_proj", {}),
    ("a comma too many", "TRAIN --targets q_proj,", "'' & q_proj", {}),
    ("targets with blanks", "TRAIN --targets 'q_proj, v_proj'", "' v_proj' & q_proj", {}),
    ("targets by a pattern", "TRAIN --targets '.*'", "'.*' & q_proj", {}),
    # numbers: the flags one by one below
    ("commands.md: lr", "TRAIN --lr 1e39", "--lr & '1e39' & at most 1e+30", {}),
    ("a learning rate below 0", "TRAIN --lr=-1e-3", "--lr & '-1e-3'", {}),
    ("commands.md: alpha", "TRAIN --alpha 1e308", "--alpha & '1e308' & at most 1000000", {}),
    ("commands.md: epochs", "TRAIN --epochs 1e308", "--epochs & '1e308' & at most", {}),
    ("commands.md: warmup", "TRAIN --warmup 1e308", "--warmup & '1e308' & at most 1", {}),
    ("a warmup in steps", "TRAIN --warmup 100", "--warmup & '100' & at most 1", {}),
    ("a dropout of all", "TRAIN --dropout 1", "--dropout & below 1", {}),
    ("commands.md: rank", "TRAIN --rank 99999999999999999999999", "--rank & at most", {}),
    ("commands.md: rank, again", "TRAIN --rank 1000000000", "--rank & '1000000000' & at most", {}),
    ("commands.md: batch", "TRAIN --batch 1000000000", "--batch & '1000000000' & at most", {}),
    ("commands.md: seed", f"TRAIN --seed {'7' * 30}", f"--seed & '{'7' * 30}' & at most", {}),
    ("a seed below 0", "INFER --seed=-1", "--seed & '-1' & at least 0", {}),
    ("a seed in words", "data.py toy --seed today", "--seed & 'today' & whole number", {}),
    ("commands.md: rows", "INFER --rows 9999999999999999999999999", "--rows & at most", {}),
    ("commands.md: limit", "infer.py --limit 1000000000000", "--limit & at most 1000000", {}),
    ("commands.md: -n", "data.py toy -n 1000000000000", "-n & at most 1000000", {}),
    ("five thousand digits", f"TRAIN --batch {'9' * 5000}", "--batch & 999... & at most", {}),
    ("underscores", "TRAIN --batch 1_000", "--batch & '1_000' is not a whole number", {}),
    ("hexadecimal", "TRAIN --batch 0x10", "--batch & '0x10' is not a whole number", {}),
    ("digits of another script", "TRAIN --batch １２", "--batch & is not a whole number", {}),
    ("a number among blanks", "TRAIN --batch ' 5 '", "--batch & ' 5 ' is not a whole number", {}),
    ("no number", "TRAIN --batch ''", "--batch & '' is not a whole number", {}),
    ("a whole number in float's way", "INFER --slots 1e3", "--slots & '1e3'", {}),
    ("two workers and a half", "AUGMENT --teacher m --workers 2.5", "--workers & '2.5'", {}),
    ("an army of workers", "AUGMENT --teacher m --workers 1000000000", "--workers & at most", {}),
    ("an endless timeout", "AUGMENT --teacher m --timeout 1e308", "--timeout & '1e308'", {}),
    ("half a price", "AUGMENT --teacher m --prices 3", "--prices & expected 2 arguments", {}),
    ("a price that is none", "AUGMENT --teacher m --prices 3 nan", "--prices & 'nan'", {}),
    ("params that are no JSON", "AUGMENT --teacher m --params {", "--params & JSON object", {}),
    ("params that are a list", "AUGMENT --teacher m --params []", "--params & JSON object", {}),
    ("params with NaN", "AUGMENT --teacher m --params '{\"a\": NaN}'", "--params & JSON", {}),
    # names of files and folders
    ("no base", "TRAIN --model nowhere", "nowhere & config.json", {}),
    ("a base that is a file", "TRAIN --model good.jsonl", "good.jsonl & config.json", {}),
    ("a base that is empty", "TRAIN --model empty", "empty & config.json", {}),
    ("a base that has no name", "TRAIN --model ''", "--model & '' is no name", {}),
    ("infer.py's base", "INFER --model nowhere", "nowhere & config.json", {}),
    ("model.py's base", "model.py nowhere", "nowhere & config.json", {}),
    ("data.py's base", "data.py show --model nowhere", "nowhere & tokenizer.json", {}),
    ("a base with two lines", "TRAIN --model 'a\nb'", r"--model & 'a\nb' is no name", {}),
    ("a base in red", "TRAIN --model '\x1b[31ma'", r"--model & '\x1b[31ma' is no name", {}),
    ("a base from right to left", "model.py 'a\u202eb'", r"'a\u202eb' is no name", {}),
    ("a base in no letters", "INFER --model 'a\udcffb'", r"'a\udcffb' is no name", {}),
    ("no adapter folder", "INFER --kg nowhere", "nowhere & python train.py --role kg", {}),
    ("an adapter that is a file", "INFER --kg good.jsonl", "good.jsonl & train.py --role kg", {}),
    ("an adapter that is empty", "INFER --kg empty", "empty & adapter_config.json", {}),
    ("an adapter that has no name", "INFER --kg ''", "--kg & '' is no name", {}),
    ("a base for an adapter", "INFER --kg base", "base & adapter_config.json", {}),
    ("adapters not trained yet", "infer.py --model base --data good.jsonl",
     "train.py --role ir --model base", {}),
    ("lora.py's adapter", "lora.py nowhere", "nowhere & adapter_config.json", {}),
    ("lora.py's adapter has no name", "lora.py ''", "'' is no name", {}),
    ("an adapter in red", "lora.py '\x1b[31ma'", r"'\x1b[31ma' is no name", {}),
    ("merge without a base", "lora.py merge nowhere base/ir new", "nowhere & config.json", {}),
    ("merge without an adapter", "lora.py merge base nowhere new", "nowhere & adapter_config", {}),
    ("merge onto a folder", "lora.py merge base base/ir empty", "empty exists already", {}),
    ("merge onto a file", "lora.py merge base base/ir good.jsonl", "good.jsonl exists already", {}),
    ("no rows", "TRAIN --data nowhere.jsonl", "nowhere.jsonl is not a file", {}),
    ("rows without a name", "TRAIN --data ''", "--data & '' is no name", {}),
    ("infer.py's rows", "INFER --data nowhere.jsonl", "nowhere.jsonl is not a file", {}),
    ("data.py's rows", "data.py show --model base --data nowhere", "nowhere is not a file", {}),
    ("augment's rows", "AUGMENT --teacher m --data nowhere", "nowhere is not a file", {}),
    ("the originals", "AUGMENT --data a --map nowhere.jsonl", "nowhere.jsonl is not a file",
     {"a": rows(id=1)}),
    ("rows with two lines in their name", "TRAIN --data 'a\nb'", r"--data & 'a\nb' is no name", {}),
    ("rows in red", "INFER --data '\x9b31ma'", r"--data & '\x9b31ma' is no name", {}),
    ("augment onto its rows", "AUGMENT --teacher m --out good.jsonl", "--out good.jsonl", {}),
    ("augment onto a folder", "AUGMENT --teacher m --out empty", "--out empty is a folder", {}),
    ("augment onto another's file", "AUGMENT --teacher m", "new.jsonl & without its journal",
     {"new.jsonl": "{}"}),
    ("a damaged journal", "AUGMENT --teacher m", "new.jsonl.journal:1: damaged",
     {"new.jsonl.journal": "{\n"}),
    ("adapters into a file", "TRAIN --out good.jsonl/out", "good.jsonl", {}),
    ("adapters without a name", "TRAIN --out ''", "--out & '' is no name", {}),
    ("rules without a name", "data.py augment --data good.jsonl --out ' ' --teacher m",
     "--out & ' ' is no name", {}),
    ("a model's place without a name", "data.py download --model me/toy --out ''",
     "--out & '' is no name", {}),
    ("merge into no name", "lora.py merge base base/ir ''", "'' is no name", {}),
    ("a base of no name", "tiny/pretrain.py --out '\x1b[1m'", r"--out & '\x1b[1m' is no name", {}),
    ("augment into a file", "AUGMENT --teacher m --out good.jsonl/x --url x", "good.jsonl", {}),
    ("a base into a file", "tiny/pretrain.py --out good.jsonl/x", "good.jsonl", {}),
    ("a model into a file", "data.py download --model me/toy --out good.jsonl/x", "good.jsonl", {}),
    ("a set into a file", "data.py download gsm8k --out good.jsonl/x", "good.jsonl", {}),
    # what only makes sense together
    ("sharing out with nobody", "TRAIN --shard", "--shard & torchrun", {}),
    ("a plot of nothing", "INFER --plot a.png", "--plot & --study", {}),
    ("a question and rows", "ASK 'What is 1+1?' --data good.jsonl", "--ask & --data", {}),
    ("a question and a table", "ASK 'What is 1+1?' --json new.json", "--ask & --json", {}),
    ("a table into a folder", "INFER --json empty", "--json & empty", {}),
    ("a table into a file that is a folder", "INFER --json good.jsonl/new", "good.jsonl", {}),
    ("a table onto its rows", "INFER --json good.jsonl", "--json & good.jsonl", {}),
    ("a table without a name", "INFER --json ''", "--json & '' is no name", {}),
    ("a plot of an unknown kind", "INFER --study --plot new.xyz", "--plot & xyz", {}),
    ("a plot into a folder", "INFER --study --plot empty", "--plot & empty", {}),
    ("a question without words", "ASK '1 2 3'", "'1 2 3' & maths question", {}),
    ("no question", "ASK ''", "the question is empty", {}),
    ("a blank question", "ASK ' \n '", "the question is empty", {}),
    ("a question without end", f"ASK '{'1+' * 3000}one?'", "too long & 500", {}),
]

ROWS = [
    ("an empty file", "TRAIN --data r", "r has no rows", {"r": ""}),
    ("blank lines", "TRAIN --data r", "r has no rows", {"r": "\n \r\n\n"}),
    ("nothing but a byte order mark", "TRAIN --data r", "r:1: not a JSON", {"r": "\ufeff"}),
    ("a binary file", "TRAIN --data r", "r:1: not a JSON object", {"r": bytes(range(256))}),
    ("zeros", "INFER --data r", "r:1: not a JSON object", {"r": bytes(100)}),
    ("UTF-16", "TRAIN --data r", "r:1: not a JSON object", {"r": rows({}).encode("utf-16")}),
    ("Latin-1", "TRAIN --data r", "r:1: not a JSON object",
     {"r": '{"question": "H\u00e4?"}'.encode("latin-1")}),
    ("a JSON file of many lines", "TRAIN --data r", "r:1: not a JSON object",
     {"r": json.dumps([GOOD], indent=1)}),
    ("CSV", "TRAIN --data r", "r:1: not a JSON object", {"r": "question,answer\n1+1?,2\n"}),
    ("a torn line", "TRAIN --data r", "r:3: not a JSON object",
     {"r": rows({}, {}) + rows({})[:30]}),
    ("two rows in a line", "TRAIN --data r", "r:1: not a JSON object",
     {"r": rows({}).strip() + rows({})}),
    ("NaN", "TRAIN --data r", "r:1: not a JSON object", {"r": '{"question": NaN}'}),
    ("100,000 brackets", "TRAIN --data r", "r:1: not a JSON object", {"r": "[" * 100_000}),
    ("a number of 5,000 digits", "TRAIN --data r", "r:1: not a JSON object",
     {"r": f'{{"question": "1?", "answer": {"9" * 5000}}}'}),
    ("a list", "TRAIN --data r", 'r:2: the key "question"', {"r": rows({}) + "[1]\n"}),
    ("null", "TRAIN --data r", 'r:1: the key "question"', {"r": "null\n"}),
    ("a line of 50 MB", "TRAIN --data r", "r:2: longer than 1,000,000 bytes",
     {"r": rows({}) + rows(question="a" * 50_000_000)}),
    ("a row of a MB and a bit", "TRAIN --data r", "r:1: longer than 1,000,000 bytes",
     {"r": rows(question="1 " * 500_000)}),
    ("no question", "TRAIN --data r", 'r:2: the key "question"',
     {"r": rows({}, {"question": ...})}),
    ("a null question", "TRAIN --data r", 'r:1: the key "question"', {"r": rows(question=None)}),
    ("an empty question", "INFER --data r", 'r:1: the key "question"', {"r": rows(question="")}),
    ("a blank question", "TRAIN --data r", 'r:1: the key "question"', {"r": rows(question=" \n")}),
    ("a number for a question", "TRAIN --data r", 'r:1: the key "question"',
     {"r": rows(question=7)}),
    ("a list for a question", "TRAIN --data r", 'r:1: the key "question"',
     {"r": rows(question=["1?"])}),
    ("true for a question", "data.py show --model base --data r", 'r:1: the key "question"',
     {"r": rows(question=True)}),
    ("half a character", "TRAIN --data r", r"r:2: \ud83d & half of a character",
     {"r": rows({}, {"question": "\ud83d 1+1?"})}),
    ("half a character in a rule", "TRAIN --data r", r"r:1: \udc00 & half of a character",
     {"r": rows(knowledge=["a", "\udc00"])}),
    ("half a character in an answer", "INFER --data r", r"r:1: \ud800 & half of a character",
     {"r": rows(answer="\ud800")}),
    ("a null id", "TRAIN --data r", 'r:1: the key "id"', {"r": rows(id=None)}),
    ("a list for an id", "TRAIN --data r", 'r:1: the key "id"', {"r": rows(id=[1])}),
    ("true for an id", "TRAIN --data r", 'r:2: the key "id"', {"r": rows({}, {"id": True})}),
    ("an infinite id", "TRAIN --data r", 'r:1: the key "id"',
     {"r": '{"question": "1?", "id": 1e400}'}),
    ("a null rationale", "TRAIN --data r", 'r:1: the key "rationale"', {"r": rows(rationale=None)}),
    ("a list for a rationale", "INFER --data r", 'r:1: the key "rationale"',
     {"r": rows(rationale=["1"])}),
    ("false for a rationale", "TRAIN --data r", 'r:1: the key "rationale"',
     {"r": rows(rationale=False)}),
    ("a null answer", "INFER --data r", 'r:1: the key "answer"', {"r": rows(answer=None)}),
    ("an object for an answer", "INFER --data r", 'r:1: the key "answer"',
     {"r": rows(answer={"value": 2})}),
    ("true for an answer", "TRAIN --data r", 'r:1: the key "answer"', {"r": rows(answer=True)}),
    ("an infinite answer", "TRAIN --data r", 'r:1: the key "answer"',
     {"r": '{"question": "1?", "answer": -1e999}'}),
    ("an object for knowledge", "TRAIN --data r", 'r:1: the key "knowledge"',
     {"r": rows(knowledge={"rule": "Add."})}),
    ("a number for knowledge", "TRAIN --data r", 'r:1: the key "knowledge"',
     {"r": rows(knowledge=0)}),
    ("false for knowledge", "TRAIN --data r", 'r:1: the key "knowledge"',
     {"r": rows(knowledge=False)}),
    ("a rule that is a number", "TRAIN --data r", 'r:2: the key "knowledge"',
     {"r": rows({}, {"knowledge": ["Add.", 3]})}),
    ("a rule that is null", "TRAIN --data r", 'r:1: the key "knowledge"',
     {"r": rows(knowledge=[None])}),
    ("no rules to learn from", "TRAIN --role kg --data r", 'r:2: no "knowledge" & kg',
     {"r": rows({}, {"knowledge": []})}),
    ("blank rules to learn from", "TRAIN --role dr --data r", 'r:2: no "knowledge" & dr',
     {"r": rows({}, {"knowledge": [" ", ""]})}),
    ("an empty text of rules", "data.py show --role kg --data r --model base",
     'r:1: no "knowledge"', {"r": rows(knowledge=" \n ")}),
    ("no rationale to learn from", "TRAIN --data r", 'r:2: & "rationale"',
     {"r": rows({}, {"rationale": ...})}),
    ("a blank rationale to learn from", "TRAIN --data r", 'r:2: & "rationale"',
     {"r": rows({}, {"rationale": "  "})}),
    ("no answer to learn from", "TRAIN --data r", 'r:2: & "answer"',
     {"r": rows({}, {"answer": ...})}),
    ("no answer to compare with", "INFER --data r", 'r:1: no "answer"',
     {"r": rows(answer=..., rationale=...)}),
    ("no rationale for the teacher", "AUGMENT --teacher m --data r", 'r:1: no "rationale"',
     {"r": rows(rationale=..., knowledge=...)}),
    ("no id to join by", "AUGMENT --map r", 'good.jsonl:1: no "id"', {"r": rows(id=1)}),
    ("originals that disagree", "AUGMENT --data a --map b", "a:1: the id 1 & 2 different",
     {"a": rows(id=1, knowledge=...), "b": rows({"id": 1}, {"id": 1, "knowledge": ["Stop."]})}),
    ("one problem only", "TRAIN --data r", "r: at least two problems", {"r": rows({})}),
    ("one problem, told twice", "TRAIN --data r", "r: at least two problems",
     {"r": rows({"id": 1}, {"id": 1})}),
    ("problems longer than the model reads", "TRAIN --data r", "500 positions",
     {"r": rows({"question": "1 " * 600}, {"question": "2 " * 600})}),
    ("a folder", "TRAIN --data empty", "empty is not a file", {}),
    ("a pipe that nobody writes to", "TRAIN --data r", "r is not a file", {"r": os.mkfifo}),
    ("zeros without end", "TRAIN --data /dev/zero", "/dev/zero is not a file", {}),
    ("a link that leads nowhere", "TRAIN --data r", "r is not a file",
     {"r": lambda path: path.symlink_to("nowhere")}),
    ("a link that leads to itself", "TRAIN --data r", "r & ",
     {"r": lambda path: path.symlink_to("r")}),
    ("a name of 300 letters", f"TRAIN --data {'a' * 300}", "aaa", {}),
]


def nested(path, *changes):
    """Changes {key.key...: value} of a JSON file, to be put there; ... takes a key away."""
    def change(file):
        spec = json.loads(file.read_text())
        for key, value in changes:
            *way, last = key.split(".")
            inner = spec
            for step in way:
                inner = inner[step]
            if value is ...:
                del inner[last]
            else:
                inner[last] = value
        file.write_text(json.dumps(spec))
    return {path: change}


config = partial(nested, "base/config.json")
tokenizer = partial(nested, "base/tokenizer.json")
WEIGHTS, PAIRS = "base/model.safetensors", "base/ir/adapter_model.safetensors"
Q = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{Q}.lora_{half}.weight" for half in "AB")


def adapter(*changes):
    """Changes of an adapter_config.json, whose weights say nothing of it, as peft's do not."""
    def plain(path):
        write_safetensors(path, read_safetensors(path))
    return nested("base/ir/adapter_config.json", *changes) | {PAIRS: plain}


def tensors(file, name, change=None, new=None):
    """A tensor of a safetensors file changed, taken away or, with a new name, renamed."""
    def edit(path):
        found = dict(read_safetensors(path))
        old = found.pop(name)
        if change or new:
            found[new or name] = change(old) if change else old
        write_safetensors(path, found)
    return {file: edit}


def cut(size):
    """A file without its last bytes."""
    return lambda path: path.write_bytes(path.read_bytes()[:-size])


def gone(path):
    path.unlink()


def nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[3] = torch.nan
    return tensor


def split(pattern):
    """A tokenizer.json whose texts are cut up by another regular expression."""
    step = dict(type="Split", pattern={"Regex": pattern}, behavior="Isolated", invert=False)
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    return tokenizer(("pre_tokenizer", dict(type="Sequence", pretokenizers=[step, level])))


FILES = [
    # config.json
    ("no JSON", "TRAIN", "base/config.json & JSON", {"base/config.json": "{"}),
    ("nothing", "INFER", "base/config.json & JSON", {"base/config.json": ""}),
    ("a list", "model.py base", "base/config.json & not an object", {"base/config.json": "[1]"}),
    ("a binary file", "TRAIN", "base/config.json & JSON", {"base/config.json": bytes(range(256))}),
    ("100,000 brackets", "TRAIN", "base/config.json & JSON", {"base/config.json": "[" * 100_000}),
    ("no size", "model.py base", "base/config.json & hidden_size", config(("hidden_size", ...))),
    ("a foreign kind", "TRAIN", "base/config.json & 'gpt2'", config(("model_type", "gpt2"))),
    ("no kind", "data.py show --model base", "base/config.json & model_type",
     config(("model_type", ...))),
    ("quantised", "INFER", "base/config.json & quantised",
     config(("quantization_config", {"bits": 4}))),
    ("another activation", "TRAIN", "config.json & hidden_act", config(("hidden_act", "gelu"))),
    ("a size as text", "TRAIN", "base/config.json & vocab_size", config(("vocab_size", "1024"))),
    ("true for a size", "TRAIN", "base/config.json & num_hidden_layers",
     config(("num_hidden_layers", True))),
    ("no layers", "TRAIN", "config.json & num_hidden_layers", config(("num_hidden_layers", 0))),
    ("a billion layers", "INFER", "base/config.json & num_hidden_layers",
     config(("num_hidden_layers", 10**9))),
    ("a vocabulary of 10^12", "model.py base", "vocab_size", config(("vocab_size", 10**12))),
    ("a layer of 10^30", "TRAIN", "base/config.json & intermediate_size",
     config(("intermediate_size", 10**30))),
    ("10^30 positions", "INFER", "base/config.json & max_position_embeddings",
     config(("max_position_embeddings", 10**30))),
    ("odd heads", "model.py base", "base/config.json & head_dim", config(("head_dim", 15))),
    ("heads that cannot share", "TRAIN", "base/config.json & num_key_value_heads",
     config(("num_key_value_heads", 3))),
    ("an end outside the vocabulary", "TRAIN", "eos_token_id & 99999",
     config(("eos_token_id", 99999))),
    ("a negative end", "INFER", "eos_token_id & -1", config(("eos_token_id", -1))),
    ("an end as text", "model.py base", "eos_token_id & '0'", config(("eos_token_id", "0"))),
    ("no end", "TRAIN", "config.json & eos_token_id", config(("eos_token_id", ...))),
    ("an end that is no object", "TRAIN", "base/generation_config.json",
     {"base/generation_config.json": "0"}),
    ("tied by a text", "TRAIN", "base/config.json & tie_word_embeddings",
     config(("tie_word_embeddings", "false"))),
    ("an epsilon as text", "INFER", "base/config.json & rms_norm_eps",
     config(("rms_norm_eps", "1e-5"))),
    ("an infinite theta", "model.py base", "base/config.json & rope_theta",
     {"base/config.json": lambda path: path.write_text(
         path.read_text().replace('"rope_theta": 500.0', '"rope_theta": 1e400'))}),
    ("another rotation", "TRAIN", "base/config.json & 'yarn'",
     config(("rope_scaling", {"type": "yarn", "factor": 2}))),
    ("llama3's rotation, torn", "TRAIN", "base/config.json & low_freq_factor",
     config(("rope_scaling", {"rope_type": "llama3", "factor": 8}))),
    ("a rotation that is a list", "INFER", "base/config.json & rope_scaling",
     config(("rope_scaling", [8]))),
    ("ESC in a key", "TRAIN", r"base/config.json & \x1b[31m",
     config(("model_type", "\x1b[31mllama"))),
    # the weights
    ("no weights", "TRAIN", "base has no model.safetensors", {WEIGHTS: gone}),
    ("empty weights", "INFER", f"{WEIGHTS} & fetch or write it again", {WEIGHTS: ""}),
    ("weights that are text", "model.py base", WEIGHTS, {WEIGHTS: "<html>Not found</html>"}),
    ("torn weights", "TRAIN", f"{WEIGHTS} & fetch or write it again", {WEIGHTS: cut(1000)}),
    ("a pointer instead of weights", "TRAIN", WEIGHTS,
     {WEIGHTS: "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"}),
    ("a tensor too few", "INFER", f"base & {Q}.weight is missing", tensors(WEIGHTS, f"{Q}.weight")),
    ("a tensor too many", "model.py base", r"base & \x1b[31mmore",
     {WEIGHTS: lambda path: write_safetensors(
         path, read_safetensors(path) | {"\x1b[31mmore": torch.ones(2)})}),
    ("a misshapen tensor", "TRAIN", f"base & {Q}.weight & shape",
     tensors(WEIGHTS, f"{Q}.weight", lambda t: t.T[:3].contiguous())),
    ("NaN in the base", "TRAIN", f"{WEIGHTS} & {Q}.weight",
     tensors(WEIGHTS, f"{Q}.weight", nan)),
    ("int8 in the base", "INFER", f"{WEIGHTS} & {Q}.weight",
     tensors(WEIGHTS, f"{Q}.weight", lambda t: t.to(torch.int8))),
    ("an index without a map", "TRAIN", "base/model.safetensors.index.json & weight_map",
     {WEIGHTS: gone, WEIGHTS + ".index.json": "{}"}),
    ("an index that leads out", "TRAIN", "base/model.safetensors.index.json & '../x'",
     {WEIGHTS: gone, WEIGHTS + ".index.json": '{"weight_map": {"a": "../x"}}'}),
    ("a lost shard", "TRAIN", "base/model.safetensors.index.json names x.safetensors",
     {WEIGHTS: gone, WEIGHTS + ".index.json": '{"weight_map": {"a": "x.safetensors"}}'}),
    # tokenizer.json
    ("no tokenizer", "TRAIN", "base has no tokenizer.json", {"base/tokenizer.json": gone}),
    ("a tokenizer that is a list", "model.py base", "tokenizer.json & not an object",
     {"base/tokenizer.json": "[]"}),
    ("a model that is a list", "INFER", "base/tokenizer.json & model", tokenizer(("model", [1]))),
    ("another kind of model", "TRAIN", "base/tokenizer.json & Unigram",
     tokenizer(("model.type", "Unigram"))),
    ("a pre-tokenizer that is a list", "TRAIN", "base/tokenizer.json & pre_tokenizer",
     tokenizer(("pre_tokenizer", [1]))),
    ("a pattern that is none", "TRAIN", "base/tokenizer.json & '('", split("(")),
    ("a pattern that matches nothing", "model.py base", "base/tokenizer.json & 'a*'", split("a*")),
    ("added tokens as a text", "TRAIN", "base/tokenizer.json & added_tokens",
     tokenizer(("added_tokens", "x"))),
    ("added tokens as numbers", "TRAIN", "base/tokenizer.json & added_tokens",
     tokenizer(("added_tokens", [1]))),
    ("an added token without its id", "TRAIN", "base/tokenizer.json & added_tokens",
     tokenizer(("added_tokens", [{"content": "x", "special": True}]))),
    ("a negative id", "INFER", "base/tokenizer.json & -3", tokenizer(("model.vocab.a", -3))),
    ("an id of 10^12", "TRAIN", "base/tokenizer.json", tokenizer(("model.vocab.a", 10**12))),
    ("an id as text", "TRAIN", "base/tokenizer.json & '5'", tokenizer(("model.vocab.a", "5"))),
    ("an id twice", "TRAIN", "base/tokenizer.json & 65", tokenizer(("model.vocab.a", 65))),
    ("merges of numbers", "TRAIN", "tokenizer.json & merges", tokenizer(("model.merges", [1]))),
    ("a merge of one", "TRAIN", "tokenizer.json & merge", tokenizer(("model.merges", [["a"]]))),
    ("a merge of three", "TRAIN", "base/tokenizer.json & merge",
     tokenizer(("model.merges", ["a b c"]))),
    ("no merges", "TRAIN", "base/tokenizer.json & merges", tokenizer(("model.merges", ...))),
    # adapters
    ("an adapter's config torn", "lora.py base/ir", "base/ir/adapter_config.json & JSON",
     {"base/ir/adapter_config.json": '{"r": 2'}),
    ("no LoRA", "INFER", "base/ir/adapter_config.json & 'IA3'", adapter(("peft_type", "IA3"))),
    ("a DoRA", "lora.py base/ir", "base/ir/adapter_config.json & use_dora",
     adapter(("use_dora", True))),
    ("a bias", "INFER", "base/ir/adapter_config.json & bias", adapter(("bias", "all"))),
    ("a base that was changed", "lora.py base/ir", "adapter_config.json & 'pissa'",
     adapter(("init_lora_weights", "pissa"))),
    ("no rank", "INFER", "base/ir/adapter_config.json & r must", adapter(("r", 0))),
    ("a rank as text", "INFER", "base/ir/adapter_config.json & r must", adapter(("r", "2"))),
    ("true for a rank", "lora.py base/ir", "base/ir/adapter_config.json & r must",
     adapter(("r", True))),
    ("a rank of 10^30", "INFER", "base/ir/adapter", adapter(("r", 10**30))),
    ("another rank", "INFER", f"{PAIRS} & rank 3", adapter(("r", 3))),
    ("an alpha of nothing", "INFER", "base/ir/adapter_config.json & lora_alpha",
     adapter(("lora_alpha", 0))),
    ("an alpha of 10^400", "lora.py merge base base/ir new",
     "base/ir/adapter_config.json & lora_alpha", adapter(("lora_alpha", 10**400))),
    ("an alpha of 1e308", "INFER", "base/ir/adapter_config.json & lora_alpha",
     adapter(("lora_alpha", 1e308))),
    ("alpha torn from its weights", "INFER", f"{PAIRS} & lora_alpha 3 & 77",
     nested("base/ir/adapter_config.json", ("lora_alpha", 77))),
    ("a target that is a number", "INFER", "base/ir/adapter_config.json & target_modules",
     adapter(("target_modules", 5))),
    ("a target that is no pattern", "INFER", "base/ir/adapter_config.json & target_modules & '('",
     adapter(("target_modules", "("))),
    ("an endless target", "lora.py merge base base/ir new", "adapter_config.json & target_modules",
     adapter(("target_modules", "a{99999999999}"))),
    ("no matrices", "INFER", "base/ir & adapter_model.safetensors", {PAIRS: gone}),
    ("torn matrices", "lora.py base/ir", f"{PAIRS} & fetch or write it again", {PAIRS: cut(100)}),
    ("half a pair", "INFER", f"{PAIRS} & {Q} & lora_A", tensors(PAIRS, B)),
    ("a layer lost", "INFER", f"base/ir & {Q}",
     {PAIRS: lambda path: write_safetensors(path, {
         name: t for name, t in read_safetensors(path).items() if Q not in name})}),
    ("NaN in an adapter", "INFER", f"{PAIRS} & {Q} & finite", tensors(PAIRS, A, nan)),
    ("an adapter never trained", "lora.py base/ir", f"{PAIRS} & {Q} & zero",
     tensors(PAIRS, B, torch.zeros_like)),
    ("whole numbers in an adapter", "INFER", f"{PAIRS} & {Q}",
     tensors(PAIRS, A, lambda t: t.to(torch.int64))),
    ("a misshapen pair", "INFER", f"{PAIRS} & {Q} & rank", tensors(PAIRS, A, lambda t: t[:1])),
    ("an adapter of a wider base", "lora.py merge base base/ir new",
     f"base/ir & {Q} & another base", tensors(PAIRS, A, lambda t: torch.cat([t, t], 1))),
    ("an adapter of another layer", "INFER", r"base/ir & \x1b]0;x & another base",
     {PAIRS: lambda path: write_safetensors(path, {
         name.replace("q_proj", "\x1b]0;x"): t for name, t in read_safetensors(path).items()})}),
    ("a tensor of no LoRA", "lora.py base/ir", rf"{PAIRS} & \x1b[31m",
     tensors(PAIRS, A, new="\x1b[31m")),
    ("merge a base that lacks a tensor", "lora.py merge base base/ir new", "base & norm.weight",
     tensors(WEIGHTS, "model.norm.weight")),
    ("merge a misshapen base", "lora.py merge base base/ir new", "base & norm.weight",
     tensors(WEIGHTS, "model.norm.weight", lambda t: t[:7])),
    ("merge into no folder", "lora.py merge base base/ir good.jsonl/new", "good.jsonl", {}),
]


def table(cases, everyday=1):
    """The cases as parameters; one of so many is tried every day, the others are slow tests."""
    return pytest.mark.parametrize("command, says, files", [
        pytest.param(*case[1:], id=case[0], marks=[pytest.mark.slow] * (i % everyday > 0))
        for i, case in enumerate(cases)])


@table(FLAGS)
def test_a_mistake_on_the_command_line_gets_a_sentence(place, command, says, files):
    put(place, files)
    assert_refused(place, words_of(command), says.split(" & "))


@table(ROWS)
def test_rows_of_a_wrong_kind_get_a_sentence(place, command, says, files):
    put(place, files)
    assert_refused(place, words_of(command), says.split(" & "))


@table(FILES, everyday=4)
def test_files_of_models_and_adapters_get_a_sentence(place, command, says, files):
    put(place, files)
    assert_refused(place, words_of(command), says.split(" & "))


@pytest.mark.parametrize("command, word, files", [
    (f"model.py base --text {'a' * 41}b", "base/tokenizer.json", split("(a+)+$")),
    (f"model.py base --text {'a' * 41}b", "base/tokenizer.json", split("(a|a)*c")),
    ("INFER", "target_modules", adapter(("target_modules", "(.*)*x"))),
    ("lora.py merge base base/ir new", "target_modules", adapter(("target_modules", "(a|.)*y")))])
def test_a_catastrophic_pattern_costs_two_seconds_at_most(place, command, word, files):
    """It may do what it says in that time, or be refused."""
    put(place, files)
    start = seconds()
    status, _, err = run(words_of(command))
    assert status == 0 or (status == 2 and word in err and err.count("\n") == 1), err
    assert seconds() - start < 2.5


@pytest.mark.parametrize("command", [
    "data.py augment --map r --data r --out new", "data.py download",
    "lorid.py --ask 1", "data.py toy -n x"])
def test_a_process_of_its_own_says_the_same(place, command):
    """Exit status and stderr as a shell sees them, of the commands that start without torch."""
    put(place, {"r": rows(question=7)})
    assert_refused(place, words_of(command), [], run_alone)
    assert run_alone(words_of(command))[1:] == run(words_of(command))[1:]


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    "data.py show --model base --data r", "TRAIN --data r", "TRAIN --lr 1e39",
    "TRAIN --device cuda:99", "TRAIN --model 'a\nb'", "TRAIN --targets x",
    "INFER --data r", "INFER --kg empty", "ASK ''", "INFER --temp 1",
    "model.py nowhere", "lora.py nowhere",
    "lora.py merge base base/ir empty", "tiny/pretrain.py --steps 0 --out new"])
def test_a_process_with_torch_says_the_same(place, command):
    put(place, {"r": rows(question=7)})
    assert_refused(place, words_of(command), [], run_alone)
    assert run_alone(words_of(command))[1:] == run(words_of(command))[1:]


# --------------------------------------------------------------------------------------------------
# Numbers, flag by flag: whatever flags a script has, now or later

SCRIPTS = ("lorid.py", "model.py", "lora.py", "data.py", "train.py", "infer.py", "tiny/pretrain.py")
ABSURD = ("9" * 40, "9" * 5000, "1e308", "1e400", "-1", "-1e308", "nan", "inf", "-inf", "1_000",
          "１２", "٣", "²", "½", "0x10", "0b1", "1e", "1e+", ".", "", " ", " 5 ", "5\n", "1,000",
          "1/2", "--5", "five", "True", "\x1b[31m5")


class Found(Exception):
    """Ends a script's main() when it would read its flags; holds its parser."""


def parser_of(script):
    def parse_args(parser):
        raise Found(parser)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Found) as end:
        patch.setattr(cli.Parser, "parse_args", parse_args)
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main()
    return end.value.args[0]


def flags_of(script):
    """(words before it, action) for each flag of a script and of its commands."""
    for action in parser_of(script)._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                yield from (([script, name], flag) for flag in parser._actions)
        else:
            yield [script], action


def is_number(action):
    for text in ("1", "0.5"):  # the second is for shares that are below 1
        with contextlib.suppress(argparse.ArgumentTypeError):
            return action.type is not None and isinstance(action.type(text), (int, float))
    return False


NUMBERS = [(words, action) for script in SCRIPTS for words, action in flags_of(script)
           if is_number(action)]


def test_every_flag_is_a_number_with_bounds_a_choice_a_switch_or_a_text():
    """No bare int or float, no number that is read without a type."""
    assert len(NUMBERS) >= 35
    for script in SCRIPTS:
        for words, action in flags_of(script):
            assert action.type not in (int, float, str), (words, action.dest)
            if not isinstance(action.default, (bool, dict, str, type(None))):
                assert (words, action.dest) in [(w, a.dest) for w, a in NUMBERS]
                assert action.type(str(action.default)) == action.default


@pytest.mark.parametrize("words, action", [
    pytest.param(words, action, id=" ".join([*words, action.option_strings[-1]]))
    for words, action in NUMBERS])
def test_numbers_of_absurd_size_or_form_are_refused_by_their_flag(words, action, monkeypatch):
    """At once, by the parser: nothing else of the command is there to be looked at."""
    for text in ABSURD:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            action.type(text)
        assert len(str(error.value)) < 150
    flag, more = action.option_strings[-1], ["1"] * ((action.nargs or 1) - 1)
    for text in ABSURD[:1] + ABSURD[-1:]:
        status, out, err = run([*words, flag, text, *more])
        assert (status, out, err.count("\n")) == (2, "", 1), (text, err)
        assert flag in err and err[:-1].isprintable(), err


@pytest.mark.parametrize("kind, text, value", [
    (int, "5", 5), (int, "+5", 5), (int, "-0", 0), (int, "007", 7), (int, "1000000", 10**6),
    (float, "1e-3", 1e-3), (float, ".5", 0.5), (float, "5.", 5.0), (float, "2E+2", 200.0),
    (float, "-0", 0.0), (float, "1e-300", 0.0), (float, "1000000", 1e6)])
def test_numbers_in_digits_are_read(kind, text, value):
    read = cli.number(kind, at_least=0)(text)
    assert (read, type(read), str(read)) == (value, kind, str(value))


def test_the_first_number_that_is_too_large():
    """Both limits are exact, also where floats are not."""
    assert cli.seed(str(2**32 - 1)) == 2**32 - 1
    for read, text in ((cli.seed, str(2**32)), (cli.positive, "1000001"),
                       (cli.number(float, above=0, limit=1), "1.0000001")):
        with pytest.raises(argparse.ArgumentTypeError, match="is too large; give at most"):
            read(text)


# --------------------------------------------------------------------------------------------------
# Control characters: each place where a text of somebody else's reaches the terminal is fed these

RED = "\x1b[31m"
HOSTILE = f"{RED}\x1b]0;title\x07\x9b2J\x7f\x08\x85\r\u202e\u2066\u2028\ufeff"
WRITTEN = r"\x1b[31m\x1b]0;title\x07\x9b2J\x7f\x08\x85\r\u202e\u2066\u2028\ufeff"
NAME = HOSTILE + "\n"  # in the name of a file, a line end is one of them
SAFE = WRITTEN + r"\n"


def test_what_is_written_out_and_what_stays():
    assert cli.printable(HOSTILE) == WRITTEN and cli.printable(NAME, keep="") == SAFE
    assert cli.printable("½ é 数\n\t" + "a") == "½ é 数\n\ta"
    assert cli.printable("\ud800") == r"\ud800"  # which print could not encode
    for i in range(0x20):
        assert cli.printable(chr(i), keep="") == ascii(chr(i))[1:-1]


def harmless(text, colours=()):
    """Nothing in a text that a terminal would obey, but for line ends, tabs and colours of ours."""
    for colour in colours:
        text = text.replace(colour, "")
    return all(c.isprintable() or c in "\n\t" for c in text)


def works(*words):
    status, out, err = run([*words])
    assert status == 0, err
    return out, err


def test_rows_and_what_is_asked_are_shown_harmlessly(place):
    put(place, {"r": rows(question=HOSTILE + "?\nYes?", rationale=HOSTILE, answer=HOSTILE,
                          knowledge=[HOSTILE])})
    for role in ("ir", "kg", "dr"):
        out, _ = works("data.py", "show", "--model", "base", "--data", "r", "--role", role)
        assert harmless(out, ["\033[32m", "\033[0m"])
        assert WRITTEN + "?\nYes?" in out and out.count(WRITTEN) >= 2
    out, _ = works("model.py", "base", "--text", HOSTILE)
    assert harmless(out) and r"\x1b | [" in out


def test_tensors_are_named_harmlessly(place):
    put(place, {PAIRS: lambda path: write_safetensors(path, {
        name.replace("q_proj", NAME): t for name, t in read_safetensors(path).items()})})
    out, _ = works("lora.py", "base/ir")
    assert harmless(out) and f"self_attn.{SAFE} " in out


def test_what_the_preset_leaves_is_shown_harmlessly(place):
    status, out, err = run([*words_of("TRAIN"), "--preset", "paper", "--targets", NAME])
    assert status == 2 and harmless(out + err) and f"targets {SAFE}," in out and WRITTEN in err


def test_the_base_that_an_adapter_names_is_shown_harmlessly(place):
    put(place, {"base/ir/adapter_config.json": {"base_model_name_or_path": NAME}})
    out, err = works(*words_of("INFER"))
    assert harmless(out + err) and f"base/ir was trained on {SAFE}; is base the same base?" in err


def test_a_models_texts_are_shown_harmlessly(place, monkeypatch):
    monkeypatch.setattr("support.tokenizer.Tokenizer.decode",
                        lambda _, ids: f"{HOSTILE} and\n--> {HOSTILE} END\n" * len(ids))
    out, err = works(*words_of("ASK"), f"What is {HOSTILE} 1+1?")
    assert harmless(out + err) and out.count(WRITTEN.partition(r"\x85")[0]) >= 6


def test_a_terminal_with_few_letters_shows_what_it_can(place):
    put(place, {"r": rows(question="\u00e9 \u6570 1?", knowledge=...)})
    done = subprocess.run(
        [sys.executable, str(ROOT / "data.py"), "augment", "--data", "r", "--out", "new",
         "--teacher", "m", "--url", "http://\u00e9", "--dry-run"], capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and r"POST http://\xe9/" in done.stdout, done.stderr


def test_a_request_is_shown_harmlessly(place):
    put(place, {"a": rows(question=HOSTILE + "?", knowledge=...)})
    out, err = works("data.py", "augment", "--data", "a", "--out", "new", "--teacher", HOSTILE,
                     "--url", f"http://h/{HOSTILE}", "--dry-run")
    assert harmless(out + err) and r"POST http://h/\x1b[31m\x1b]0;title\x07" in out


@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_servers_words_are_shown_harmlessly(place, monkeypatch, status):
    monkeypatch.setattr("data.TRIES", 1)
    monkeypatch.setenv("no_proxy", "*")

    def serve(handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        message = {"content": json.dumps({"knowledge": [f"Take {HOSTILE} 77."]})}
        reply = {"choices": [{"message": message, "finish_reason": HOSTILE}]}
        body = json.dumps(reply if status == 200 else {"error": {"message": HOSTILE}}).encode()
        handler.send_response(status, "Odd")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server = start_server(serve)
    put(place, {"a": rows(question=f"{HOSTILE} 77?", id=HOSTILE, knowledge=...)})
    url = f"http://127.0.0.1:{server.server_port}/v1"
    _, out, err = run(["data.py", "augment", "--data", "a", "--out", "new", "--teacher", "m",
                       "--url", url])
    server.shutdown()
    server.server_close()
    assert harmless(out + err) and (status == 503 or "title" in out + err or "77" in out)


@pytest.mark.parametrize("words", [
    ["lorid.py", NAME], ["lorid.py", f"--{NAME}"], ["model.py", "a", NAME], ["lora.py", "--", NAME],
    ["data.py", NAME], ["data.py", "show", "--role", NAME], ["data.py", "toy", "-n", NAME],
    ["data.py", "augment", "--data", NAME, "--out", NAME, "--teacher", "m"],
    ["data.py", "augment", "--data", "a", "--out", "b", "--teacher", "m", "--params", NAME],
    ["data.py", "download", NAME], ["data.py", "download", "--model", f"{NAME}/b"],
    ["data.py", "download", "gsm8k", NAME], ["train.py", "--role", NAME],
    ["train.py", "--device", NAME, "--data", "good.jsonl"], ["train.py", "--data", NAME],
    ["train.py", f"--{NAME}=1"],
    ["infer.py", "--ir", NAME, "--data", "good.jsonl"], ["infer.py", "--template", NAME],
    ["ASK", "\x1b\u202e1"], ["tiny/pretrain.py", "--device", NAME, "--out", "new"]])
def test_a_mistake_is_repeated_harmlessly(place, words):
    assert_refused(place, [*words_of(words[0]), *words[1:]], [])

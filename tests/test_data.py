"""data.py: rows in or a sentence why not, exactly the tokens that are learned, batches that fit."""
import ast
import doctest
import itertools
import json
import os
import random
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import data
import lorid
from data import micro_batches, read_rows, tokenize_example, toy


def script(*command, **env):
    return subprocess.run([sys.executable, "data.py", *map(str, command)], cwd=ROOT, timeout=120,
                          env=os.environ | env, capture_output=True, encoding="utf-8")


def test_the_examples_in_the_docstrings_are_true():
    from support import augment, replies, sets
    assert doctest.testmod(data).attempted >= 4 and doctest.testmod(replies).attempted >= 4
    for module in (data, augment, replies, sets):
        assert doctest.testmod(module).failed == 0


def test_no_script_needs_what_is_not_on_every_system_or_brings_torch_at_its_start():
    """Imported when used: fcntl, torch by way of model, requests, huggingface_hub."""
    files = ["data.py", "tiny/world.py", *(f"support/{name}.py" for name in (
        "augment", "replies", "sets", "cli"))]
    for file in files:
        for node in ast.parse((ROOT / file).read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                first = getattr(node, "module", None) or node.names[0].name
                assert first.split(".")[0] not in (
                    "fcntl", "msvcrt", "resource", "model", "torch", "requests", "huggingface_hub")
    heavy = "{'torch', 'requests', 'huggingface_hub'}"
    code = f"import sys, data; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# -------------------------------------------------------------------------------------------------
# Rows from a file


@pytest.fixture
def rows_of(tmp_path):
    """bytes or objects, a line each -> read_rows of them"""
    def read(*lines, end=b"\n"):
        path = tmp_path / "rows.jsonl"
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(end.join(lines))
        return read_rows(path)
    return read


GOOD = {"question": "1+1?", "rationale": "1+1=2", "knowledge": ["Add."], "answer": "2"}


@pytest.mark.parametrize("line", [
    b"{", b'{"question": "a"} {"question": "b"}', b"question: a", b'{"question": "\xff"}',
    b'{"question": "\xc3"}', b'{"question": "a\x01"}', json.dumps(GOOD).encode("utf-16"),
    b'{"question": "a", "answer": NaN}', b'{"question": "a", "answer": -Infinity}',
    b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", b"[" * 200_000,
])
def test_what_is_no_json_is_refused_with_file_and_line(rows_of, line):
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: not a JSON object; .*\.$") as error:
        rows_of(GOOD, b"", line, GOOD)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("line, key", [
    (b"[]", "question"), (b"null", "question"), (b'"question"', "question"), (b"7", "question"),
    ([GOOD], "question"), ({}, "question"), ({"query": "a"}, "question"),
    ({"question": ""}, "question"), ({"question": " \n"}, "question"),
    ({"question": None}, "question"), ({"question": 7}, "question"),
    ({"question": ["a"]}, "question"),
    (GOOD | {"rationale": ["1+1=2"]}, "rationale"), (GOOD | {"rationale": {}}, "rationale"),
    (GOOD | {"rationale": None}, "rationale"),
    (GOOD | {"answer": ["2"]}, "answer"), (GOOD | {"answer": {"value": 2}}, "answer"),
    (GOOD | {"answer": None}, "answer"),
    (GOOD | {"knowledge": [1]}, "knowledge"), (GOOD | {"knowledge": 3}, "knowledge"),
    (GOOD | {"knowledge": {"rule": "Add."}}, "knowledge"),
    (GOOD | {"knowledge": [["Add."]]}, "knowledge"), (GOOD | {"knowledge": [None]}, "knowledge"),
])
def test_what_is_no_row_is_refused_with_file_line_and_key(rows_of, line, key):
    with pytest.raises(ValueError, match=rf'rows\.jsonl:3: .*"{key}".*\.$') as error:
        rows_of(GOOD, b"", line, GOOD)
    assert len(str(error.value)) < 300


def test_a_file_without_rows_is_refused(tmp_path, rows_of):
    for lines in ([b""], [b"", b" ", b"\r"], [b"\n\n"]):
        with pytest.raises(ValueError, match=r"rows\.jsonl has no rows"):
            rows_of(*lines)
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(ValueError, match="is not a file"):
            read_rows(path)


def test_a_row_keeps_its_keys_and_remembers_its_place(rows_of, tmp_path):
    [row] = rows_of(GOOD | {"id": "x7", "level": 3})
    assert row == GOOD | {"id": "x7", "level": 3, "where": f"{tmp_path / 'rows.jsonl'}:1"}
    assert read_rows(str(tmp_path / "rows.jsonl")) == [row]


def test_blank_lines_crlf_and_a_byte_order_mark_change_nothing(rows_of):
    plain = rows_of(GOOD, GOOD)
    assert [row["id"] for row in plain] == [0, 1]  # a row without an id takes its line's
    without = [{k: row[k] for k in GOOD} for row in plain]
    for rows in (rows_of(GOOD, GOOD, end=b"\r\n"), rows_of(b"", GOOD, b"  ", b"", GOOD, b""),
                 rows_of(b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), GOOD)):
        assert [{k: row[k] for k in GOOD} for row in rows] == without
    rows = rows_of(b"", GOOD, b"  ", b"", GOOD, b"")
    assert [row["where"].rsplit(":")[-1] for row in rows] == ["2", "5"]
    assert [row["id"] for row in rows] == [1, 4]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e",
                                 "\u00e9", "\U0001f600"])
def test_only_a_line_feed_ends_a_line(rows_of, odd):
    """str.splitlines would cut a row at each of these, which JSON allows inside a string (raw, or
    escaped where it is a control character)."""
    question = f"a{odd}b?"
    lines = [json.dumps({"question": question}).encode()]
    if odd > "\x1f":
        lines.append(json.dumps({"question": question}, ensure_ascii=False).encode())
    assert [row["question"] for row in rows_of(*lines)] == [question] * len(lines)


@pytest.mark.parametrize("changes, answer", [
    ({"answer": 18}, "18"), ({"answer": 0}, "0"), ({"answer": 2.5}, "2.5"), ({"answer": -3}, "-3"),
    ({"answer": " 18 "}, "18"),
    # A blank one is a missing one, and a missing one is what the rationale states, as in MATH.
    ({"answer": "", "rationale": "so\n#### 7"}, "7"), ({"rationale": "so \\boxed{7}"}, "7"),
    ({"rationale": "The answer is: 7"}, "7"),
    ({"rationale": "so"}, None), ({}, None), ({"rationale": 7}, None),
])
def test_an_answer_becomes_a_text_or_none(rows_of, changes, answer):
    assert rows_of({"question": "1?"} | changes)[0]["answer"] == answer


@pytest.mark.parametrize("given, rules", [
    (["Add.", "Stop."], ["Add.", "Stop."]), ("Add.\nStop.", ["Add.", "Stop."]), ("Add.", ["Add."]),
    ("Add.\n\nStop.\n", ["Add.", "Stop."]), (["Add.", " "], ["Add."]), ("", []), (" \n", []),
    ([], []), (None, []),
])
def test_knowledge_becomes_a_list_of_rules(rows_of, given, rules):
    assert rows_of(GOOD | {"knowledge": given})[0]["knowledge"] == rules


def test_a_row_without_knowledge_has_none(rows_of):
    assert rows_of({"question": "1?"})[0]["knowledge"] == []


@pytest.mark.parametrize("file, n", [
    ("gsm8k/train", 7473), ("gsm8k/test", 1000), ("gsm8k/train_knowledge", 988),
    ("lorid_sample/gsm8k/train", 100), ("lorid_sample/math/train", 100),
    ("lorid_sample/gsm8k/test", 100), ("lorid_sample/math/test", 100)])
def test_real_files_are_read_whole(shared, file, n):
    rows = read_rows(shared / f"data/{file}.jsonl")
    assert len(rows) == n and all(row["answer"] and row["rationale"] for row in rows)
    taught = "knowledge" in file or file in ("lorid_sample/gsm8k/train", "lorid_sample/math/train")
    assert all(row["knowledge"] for row in rows) == taught


def test_rows_are_written_whole_without_their_places_and_read_again(rows_of, tmp_path):
    rows = rows_of(GOOD | {"id": 1, "level": None}, {"id": 2, "question": "½?"})
    data.write_rows(tmp_path / "new" / "rows.jsonl", rows)
    written = [json.loads(line) for line in open(tmp_path / "new" / "rows.jsonl")]
    assert written == [GOOD | {"id": 1, "level": None},
                       {"id": 2, "question": "½?", "knowledge": []}]
    again = read_rows(tmp_path / "new" / "rows.jsonl")
    assert [row | {"where": 0} for row in again] == [row | {"where": 0} for row in rows]


# -------------------------------------------------------------------------------------------------
# A row and a role, as tokens. The tokenizer here is the plainest in the real format: byte b is
# token b + 1, the end is token 0.


@pytest.fixture
def byte_folder(tmp_path):
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]  # in GPT-2's alphabet
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    vocabulary = {"<|end|>": 0} | {letters[b]: b + 1 for b in range(256)}
    end = dict(id=0, content="<|end|>", single_word=False, lstrip=False, rstrip=False,
               normalized=False, special=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "normalizer": None, "post_processor": None, "added_tokens": [end],
        "decoder": {"type": "ByteLevel"}, "pre_tokenizer": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(dict(
        model_type="llama", vocab_size=257, hidden_size=8, intermediate_size=8, eos_token_id=0,
        num_hidden_layers=1, num_attention_heads=1)))
    return tmp_path


def token_bytes(text):
    return [b + 1 for b in text.encode()]


ROW = dict(id=3, question="Zoë has {3} pens. 2 more?", rationale="3+2=5 pens", answer="5",
           knowledge=["What comes in is added.", "Stop."])
ASKED = {"ir": "Please answer this MATH question step by step.\nZoë has {3} pens. 2 more?",
         "kg": "Please output knowledge needed to solve the MATH question step by step.\n"
               "Question: Zoë has {3} pens. 2 more?\n\nKnowledge: ",
         "dr": "Please reason step by step based on the given MATH question and knowledge, and "
               "output the final answer.\nQuestion: Zoë has {3} pens. 2 more?\n\n"
               "Knowledge: What comes in is added.\nStop.\n\nRationale: "}
SAID = {"ir": "3+2=5 pens\n--> 5 END", "kg": "What comes in is added.\nStop.",
        "dr": "3+2=5 pens\n--> 5 END"}


@pytest.mark.parametrize("role", ["ir", "kg", "dr"])
def test_exactly_the_target_and_the_end_token_are_supervised(byte_folder, role):
    from support.tokenizer import Tokenizer
    ids, loss_mask = tokenize_example(ROW, role, Tokenizer(byte_folder))
    prompt, completion = token_bytes(ASKED[role] + "\n"), token_bytes(SAID[role])
    assert ids == prompt + completion + [0]
    assert loss_mask == [0] * len(prompt) + [1] * (len(completion) + 1)


class Plain:
    """A tokenizer whose tokens are characters."""
    def prompt_ids(self, text):
        return ["<"] + list(text)

    def answer_ids(self, text):
        return list(text) + [">"]


@pytest.mark.parametrize("role", ["ir", "kg", "dr"])
def test_prompt_and_answer_are_encoded_apart(role):
    """No token spans both: what is learned is what will have to be said after the prompt alone."""
    ids, loss_mask = tokenize_example(ROW, role, Plain())
    assert ids == ["<", *ASKED[role], *SAID[role], ">"] and len(loss_mask) == len(ids)
    assert sum(loss_mask) == len(SAID[role]) + 1 and loss_mask == sorted(loss_mask)


@pytest.mark.parametrize("lost, roles", [
    (dict(knowledge=[]), {"kg", "dr"}), (dict(rationale=""), {"ir", "dr"}),
    (dict(answer=None), {"ir", "dr"}), (dict(answer=""), {"ir", "dr"}),
    (dict(rationale=None), {"ir", "dr"})])
def test_a_row_that_lacks_what_a_role_needs_is_refused_by_its_place(lost, roles):
    [key] = lost
    for role in lorid.ROLES:
        for more, place in (({}, "row 3: "), ({"where": "some/file:17"}, "some/file:17: ")):
            if role in roles:
                with pytest.raises(ValueError, match=f'^{re.escape(place)}.*"{key}"'):
                    tokenize_example(ROW | lost | more, role, Plain())
            else:
                assert tokenize_example(ROW | lost | more, role, Plain())[0]


@pytest.mark.parametrize("role", ["ir", "dr"])
def test_a_number_as_rationale_is_learned_as_a_text(rows_of, role):
    [row] = rows_of(GOOD | {"rationale": 5, "answer": 5})
    ids, loss_mask = tokenize_example(row, role, Plain())
    assert "".join(ids[loss_mask.index(1):]) == "5\n--> 5 END>"


def test_a_row_read_from_a_file_without_a_rationale_is_refused_too(rows_of):
    [row] = rows_of({"question": "1+1?", "answer": 2})
    for role in lorid.ROLES:
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: "):
            tokenize_example(row, role, Plain())


# -------------------------------------------------------------------------------------------------
# Batches


def test_micro_batches_hold_every_example_once_under_the_limit_longest_first():
    rng = random.Random(0)
    for _ in range(300):
        max_tokens, n = rng.randint(1, 200), rng.randint(0, 40)
        lengths = rng.choices(range(1, rng.choice((3, 60, 300))), k=n)
        examples = [([7] * length, [1] * length) for length in lengths]
        before = list(examples)
        groups = micro_batches(examples, max_tokens)
        assert examples == before  # the caller's list is left in order
        # Every example once, and the same objects.
        assert sorted(id(e) for group in groups for e in group) == sorted(map(id, examples))
        assert all(groups)
        for group in groups:
            padded = len(group) * max(len(ids) for ids, _ in group)
            assert len(group) == 1 or padded <= max_tokens
        lengths = [len(ids) for group in groups for ids, _ in group]
        assert lengths == sorted(lengths, reverse=True)


def test_no_other_split_into_micro_batches_costs_less():
    """Among all ways to cut a sorted list; a group costs its padded size and a sixteenth of
    max_tokens."""
    def cost(groups):
        return sum(len(group) * len(group[0][0]) + max_tokens // 16 for group in groups)
    rng = random.Random(0)
    for _ in range(300):
        examples = [([7] * rng.randint(1, 200), []) for _ in range(rng.randint(1, 8))]
        examples.sort(key=lambda e: -len(e[0]))
        max_tokens, costs = rng.randint(1, 600), []
        for cuts in itertools.product((False, True), repeat=len(examples) - 1):
            groups = [[examples[0]]]
            for cut, example in zip(cuts, examples[1:], strict=True):
                if cut:
                    groups.append([])
                groups[-1].append(example)
            if all(len(g) == 1 or len(g) * len(g[0][0]) <= max_tokens for g in groups):
                costs.append(cost(groups))
        assert cost(micro_batches(examples, max_tokens)) == min(costs)


# -------------------------------------------------------------------------------------------------
# The script


def test_toy_writes_the_rows_that_read_rows_reads(tmp_path):
    """The same in another process, whose hashes are seeded otherwise."""
    command = ("toy", "--split", "test", "--seed", 3, "-n", 25)
    done = script(*command, PYTHONHASHSEED="1")
    (tmp_path / "toy.jsonl").write_text(done.stdout, encoding="utf-8")
    rows = read_rows(tmp_path / "toy.jsonl")
    assert [{k: v for k, v in row.items() if k != "where"} for row in rows] == toy(25, "test", 3)
    assert done.returncode == 0 and script(*command, PYTHONHASHSEED="2").stdout == done.stdout


def test_show_colours_what_is_supervised(byte_folder):
    row = ROW | dict(question=ROW["question"].replace("ë", "e"))
    (byte_folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    done = script("show", "--role", "dr", "--model", byte_folder, "--data",
                  byte_folder / "rows.jsonl")
    assert done.returncode == 0, done.stderr
    shown, asked = done.stdout.rsplit("\n(", 1)[0], ASKED["dr"].replace("ë", "e") + "\n"
    green = r"\033\[32m(.*?)\033\[0m"
    assert "".join(re.findall(green, shown, re.S)) == SAID["dr"] + "<|end|>"
    assert re.sub(green, "", shown, flags=re.S) == asked
    supervised = len(SAID["dr"]) + 1
    assert done.stdout.endswith(f"\n({len(asked) + supervised} tokens, {supervised} of them "
                                "supervised, in green)\n\n")


def test_show_needs_no_data(byte_folder):
    done = script("show", "--model", byte_folder, "-n", 2)
    assert done.returncode == 0 and done.stdout.count(" of them supervised, in green)\n") == 2
    assert done.stdout.count(ASKED["ir"].split("\n")[0]) == 2


@pytest.mark.parametrize("command, words", [
    ((), "show toy augment download"), (("show",), "--role --data --model --template -n"),
    (("toy",), "--split --seed -n"),
    (("augment",), "--data --out --teacher --url --params --workers --timeout --prices --strict "
                   "--map --dry-run -n OPENAI_API_KEY"),
    (("download",), "--model --out HF_TOKEN gsm8k lorid-math"),
])
def test_help_says_what_there_is(monkeypatch, capsys, command, words):
    monkeypatch.setattr(sys, "argv", ["data.py", *command, "--help"])
    with pytest.raises(SystemExit):
        data.main()
    said = capsys.readouterr().out
    assert all(word in said for word in words.split())


@pytest.mark.parametrize("command, says", [
    (["show", "--data", "nowhere.jsonl"], "nowhere.jsonl"), (["show", "--role", "xx"], "--role"),
    ([], "command"), (["toy", "--split", "all"], "--split"), (["toy", "-n", "0"], "-n"),
])
def test_what_cannot_be_done_is_said_in_a_line(byte_folder, command, says):
    done = script(*command, *(["--model", byte_folder] if "--data" in command else []))
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not done.stdout

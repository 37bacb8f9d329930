"""data.py: rows in or a sentence why not, a toy world that is right and general, splits that share nothing, and exactly the tokens that are learnt."""
import doctest
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest

import data
import lorid
from conftest import ROOT
from data import micro_batches, read_rows, render, toy


def script(*command, **env):
    return subprocess.run([sys.executable, "data.py", *map(str, command)], cwd=ROOT, env=os.environ | env, capture_output=True, encoding="utf-8", timeout=120)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(data).attempted >= 1 and doctest.testmod(data).failed == 0


# ---------------------------------------------------------------------------------------------------------------------
# Rows from a file

@pytest.fixture
def rows_of(tmp_path):
    """bytes or objects, a line each -> read_rows of them"""
    def read(*lines, end=b"\n"):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(end.join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
        return read_rows(path)
    return read


GOOD = {"question": "1+1?", "rationale": "1+1=2", "knowledge": ["Add."], "answer": "2"}


@pytest.mark.parametrize("line, says", [
    (b"{", "not a JSON object"), (b'{"question": "a"} {"question": "b"}', "not a JSON object"), (b"question: a", "not a JSON object"),
    (b'{"question": "\xff"}', "not a JSON object"), (b'{"question": "\xc3"}', "not a JSON object"), (b'{"question": "a\x01"}', "not a JSON object"),
    (json.dumps(GOOD).encode("utf-16"), "not a JSON object"),
    (b'{"question": "a", "answer": NaN}', "not a JSON object"), (b'{"question": "a", "answer": -Infinity}', "not a JSON object"),
    (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "not a JSON object"), (b"[" * 200_000, "not a JSON object"),
    (b"[]", '"question"'), (b"null", '"question"'), (b'"question"', '"question"'), (b"7", '"question"'), ([GOOD], '"question"'),
    ({}, '"question"'), ({"query": "a"}, '"question"'), ({"question": ""}, '"question"'), ({"question": " \n"}, '"question"'),
    ({"question": None}, '"question"'), ({"question": 7}, '"question"'), ({"question": ["a"]}, '"question"'),
    (GOOD | {"rationale": ["1+1=2"]}, '"rationale"'), (GOOD | {"rationale": {}}, '"rationale"'),
    (GOOD | {"answer": ["2"]}, '"answer"'), (GOOD | {"answer": {"value": 2}}, '"answer"'),
    (GOOD | {"knowledge": [1]}, '"knowledge"'), (GOOD | {"knowledge": {"rule": "Add."}}, '"knowledge"'), (GOOD | {"knowledge": 3}, '"knowledge"'),
    (GOOD | {"knowledge": [["Add."]]}, '"knowledge"'), (GOOD | {"knowledge": [None]}, '"knowledge"'),
])
def test_what_is_no_row_is_refused_with_file_line_and_key(rows_of, line, says):
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: .*" + says) as error:
        rows_of(GOOD, b"", line, GOOD)
    assert len(str(error.value)) < 300 and str(error.value).endswith(".")


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
    for rows in (rows_of(GOOD, GOOD, end=b"\r\n"), rows_of(b"", GOOD, b"  ", b"", GOOD, b""), rows_of(b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), GOOD)):
        assert [{k: row[k] for k in GOOD} for row in rows] == without
    assert [row["where"].rsplit(":")[-1] for row in rows_of(b"", GOOD, b"  ", b"", GOOD, b"")] == ["2", "5"]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\u00e9", "\U0001f600"])
def test_only_a_line_feed_ends_a_line(rows_of, odd):
    """str.splitlines would cut a row at each of these, which JSON allows inside a string (raw, or escaped where it is a control character)."""
    question = f"a{odd}b?"
    lines = [json.dumps({"question": question}).encode()] + ([json.dumps({"question": question}, ensure_ascii=False).encode()] if odd > "\x1f" else [])
    assert [row["question"] for row in rows_of(*lines)] == [question] * len(lines)


@pytest.mark.parametrize("changes, answer", [
    ({"answer": 18}, "18"), ({"answer": 0}, "0"), ({"answer": 2.5}, "2.5"), ({"answer": -3}, "-3"), ({"answer": " 18 "}, "18"),
    ({"answer": "", "rationale": "so\n#### 7"}, "7"),  # a blank one is a missing one ...
    ({"rationale": "so \\boxed{7}"}, "7"), ({"rationale": "The answer is: 7"}, "7"),  # ... and a missing one is what the rationale states, as in MATH
    ({"rationale": "so"}, None), ({}, None), ({"rationale": 7}, None),
])
def test_an_answer_becomes_a_text_or_none(rows_of, changes, answer):
    assert rows_of({"question": "1?"} | changes)[0]["answer"] == answer


@pytest.mark.parametrize("given, rules", [
    (["Add.", "Stop."], ["Add.", "Stop."]), ("Add.\nStop.", ["Add.", "Stop."]), ("Add.", ["Add."]), ("Add.\n\nStop.\n", ["Add.", "Stop."]),
    (["Add.", " "], ["Add."]), ("", []), (" \n", []), ([], []), (None, []),
])
def test_knowledge_becomes_a_list_of_rules(rows_of, given, rules):
    assert rows_of(GOOD | {"knowledge": given})[0]["knowledge"] == rules


def test_a_row_without_knowledge_has_none(rows_of):
    assert rows_of({"question": "1?"})[0]["knowledge"] == []


@pytest.mark.parametrize("file, n", [("gsm8k/train", 7473), ("gsm8k/test", 1000), ("gsm8k/train_knowledge", 988), ("lorid_sample/gsm8k/train", 100), ("lorid_sample/math/train", 100),
                                     ("lorid_sample/gsm8k/test", 100), ("lorid_sample/math/test", 100)])
def test_real_files_are_read_whole(shared, file, n):
    rows = read_rows(shared / f"data/{file}.jsonl")
    assert len(rows) == n and all(row["answer"] and row["rationale"] for row in rows)
    assert all(row["knowledge"] for row in rows) == ("knowledge" in file or file in ("lorid_sample/gsm8k/train", "lorid_sample/math/train"))


# ---------------------------------------------------------------------------------------------------------------------
# The toy world

@pytest.fixture(scope="module")
def world():
    return {split: toy(n, split) for split, n in (("train", 8000), ("valid", 1500), ("test", 1500))}


@pytest.fixture(scope="module")
def everything(world):
    return [row for rows in world.values() for row in rows]


@pytest.fixture(scope="module")
def short():
    return toy(6000, lengths=(1, 2, 3))


def worked(row):
    """[(left, sign, right, result, unit), ...] of the rationale."""
    return [(int(a), sign, int(b), int(c), unit) for a, sign, b, c, unit in
            (re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+) ([a-z]+)", line).groups() for line in row["rationale"].split("\n"))]


def test_every_worked_line_is_true_and_the_last_one_is_the_answer(everything):
    for row in everything:
        for a, sign, b, c, _ in worked(row):
            assert {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b), "/": Fraction(a, b)}[sign] == c and 1 <= c <= 600, row
        assert row["answer"] == str(worked(row)[-1][3]) == lorid.extract_answer(lorid.target("ir", row))


IN_WORDS = {"half": 2, "50 percent": 2, "a third": 3, "a quarter": 4, "25 percent": 4, "a fifth": 5, "20 percent": 5, "a tenth": 10, "10 percent": 10,
            "dozen": 12, "pairs": 2, "weeks": 7, "average": 2, "evened out": 2}


def test_every_number_in_a_worked_line_is_told_or_worked_out_before(everything):
    for row in everything:
        known = {int(n) for n in re.findall(r"\d+", row["question"])} | {n for word, n in IN_WORDS.items() if word in row["question"].lower()}
        for a, _, b, c, _ in worked(row):
            assert {a, b} <= known, row
            known.add(c)


def test_there_is_one_rule_for_each_worked_line_and_it_names_the_operation(everything):
    words = {"add": "+", "sum": "+", "subtract": "-", "minus": "-", "multiply": "*", "times": "*", "divid": "/"}
    for row in everything:
        assert len(row["knowledge"]) == len(worked(row))
        for rule, (_, sign, _, _, _) in zip(row["knowledge"], worked(row)):
            assert words[re.findall(r"\b(add|sum\b|subtract|minus\b|multiply\b|times\b|divid)", rule)[-1]] == sign, (rule, row)


def test_rules_are_general(everything):
    """A few sentences serve for all stories; none knows a name, a thing, or a number that is not the size of a unit or a percentage."""
    rules = {rule for row in everything for rule in row["knowledge"]}
    people = {name for row in everything for name in re.findall(r"\b[A-Z][a-z]+\b", row["question"])} & set(data.NAMES)
    assert len(rules) < 40 and people == set(data.NAMES)
    for rule in rules:
        assert not people & set(re.findall(r"\w+", rule)) and not set(data.THINGS) & set(re.findall(r"\w+", rule.lower())), rule
        assert set(map(int, re.findall(r"\d+", rule))) <= {2, 4, 5, 7, 10, 12, 20, 25, 50}, rule


def test_every_kind_of_event_occurs_and_all_lengths_equally(world):
    for rows in world.values():
        counts = Counter(kind for row in rows for kind in row["kinds"])
        assert counts.keys() == {kind.name for kind in data.KINDS} and len(counts) >= 12 and min(counts.values()) > 10
        assert Counter(len(worked(row)) for row in rows) == {length: len(rows) // 5 for length in (1, 2, 3, 4, 5)}
    assert Counter(len(worked(row)) for row in toy(30, lengths=(3,))) == {3: 30}


def test_questions_read_well(everything):
    """One question mark at the end, sentences that begin with a capital or a number and end in a dot, no braces or doubled spaces left from a template."""
    for row in everything:
        sentences = re.findall(r"[^.?]+[.?]", row["question"])
        assert "".join(sentences) == row["question"] and [s[-1] for s in sentences] == ["."] * (len(sentences) - 1) + ["?"], row
        assert all(re.match(r"[A-Z0-9]", s.lstrip()) for s in sentences) and not re.search(r"[{}]|  |\b1 ", row["question"]), row


# What the comparisons say, as equations (left person, right person, what left has given what right has): read anew here, not from data.KINDS.
PART = r"(half|50 percent|a third|a quarter|25 percent|a fifth|20 percent|a tenth|10 percent)"
RELATIONS = [
    (r"(\w+) has (\d+) times as many \w+ as (\w+)\.", "*"), (r"(\w+) has (\d+) \w+ for every one that (\w+) has\.", "*"), (r"(\w+) has (\d+) times what (\w+) has\.", "*"),
    (r"(\w+) has (\d+) more \w+ than (\w+)\.", "+"), (r"(\w+) has (\d+) \w+ more than (\w+) does\.", "+"), (r"(\w+) is ahead of (?P<right>\w+) by (\d+) \w+\.", "+"),
    (r"Next to (?P<right>\w+), (\w+) is ahead by (\d+) \w+\.", "+"), (r"Next to (?P<right>\w+), (\w+) is behind by (\d+) \w+\.", "-"),
    (r"(\w+) has (\d+) fewer \w+ than (\w+)\.", "-"), (r"(\w+) is (\d+) \w+ short of what (\w+) has\.", "-"), (r"(\w+) is behind (?P<right>\w+) by (\d+) \w+\.", "-"),
    (rf"(\w+) has {PART} as many \w+ as (\w+)\.", "/"), (rf"(\w+) owns only {PART} of what (\w+) has\.", "/"), (rf"What (\w+) has is {PART} of (\w+)'s \w+\.", "/"),
]


def who_has_what(question, thing):
    """{person: amount}, from what is told, in whatever order; and which relations were used."""
    has, relations = {}, []
    for pattern in (rf"(\w+) (?:has|owns|keeps) (\d+) {thing}(?: in a drawer)?\.", rf"There are (?P<n>\d+) {thing} in (\w+)'s room\."):
        for m in re.finditer(pattern, question):
            person, n = (m[2], m[1]) if "n" in m.groupdict() else m.groups()
            has[person] = Fraction(n)
    for i, (pattern, sign) in enumerate(RELATIONS):
        for m in re.finditer(pattern, question):
            named = m.groupdict().get("right")
            left, n, right = m.groups() if named is None else (*[g for g in m.groups() if g != named], named)
            if not n.isdigit() and sign != "/":
                left, n = n, left
            relations.append((left, sign, Fraction(IN_WORDS.get(n) or int(n)), right, i))
    for _ in relations:
        for left, sign, n, right, _ in relations:
            if right in has and left not in has:
                has[left] = {"*": has[right] * n, "/": has[right] / n, "+": has[right] + n, "-": has[right] - n}[sign]
            elif left in has and right not in has:
                has[right] = {"*": has[left] / n, "/": has[left] * n, "+": has[left] - n, "-": has[left] + n}[sign]
    return has, {i for *_, i in relations}


def test_comparisons_mean_what_they_say(short):
    """Stories of comparisons alone, told forwards or backwards, solved as equations from their words."""
    compared, asked = {"more", "fewer", "more, turned", "fewer, turned", "times", "times, turned", "part of"}, {"together", "difference", "average"}
    solved, used, ends = 0, set(), Counter()
    for row in short:
        if row["kinds"][0] != "has" or not set(row["kinds"][1:]) <= compared | asked or not compared & set(row["kinds"]):
            continue
        has, relations = who_has_what(row["question"], worked(row)[0][4])
        question = re.findall(r"[^.]+\?", row["question"])[-1]
        amounts = [has[name] for name in re.findall(r"[A-Z]\w+", question) if name in has]
        if re.search("together|one pile|total", question):
            ends["sum"], answer = ends["sum"] + 1, sum(amounts)
        elif re.search("differ|between|gap", question):
            ends["gap"], answer = ends["gap"] + 1, abs(amounts[0] - amounts[1])
        elif re.search("average|evened", question):
            ends["mean"], answer = ends["mean"] + 1, sum(amounts) / 2
        else:
            [answer] = amounts
        assert row["answer"] == str(answer), row
        solved, used = solved + 1, used | relations
    assert solved > 300 and used == set(range(len(RELATIONS))) and min(ends[end] for end in ("sum", "gap", "mean")) > 5


HAPPENINGS = [  # (what is told after "Ann has v things", what is then asked about)
    (r"gets \d+ more|is given another \d+|hands \d+ \w+ to|finds \d+ \w+ more|wins \d+", lambda v, n: v + n),
    (r"loses \d+|gives \d+ \w+ to|\d+ of \w+'s \w+ break|takes \d+ of|throws \d+ old", lambda v, n: v - n),
    (r"\d+ children share|\d+ friends divide", lambda v, n: v / n),
    (r"takes \d+ minutes|\d+ minutes for each", lambda v, n: v * n),
    (r"\d+ \w+ (?:in )?an hour", lambda v, n: v / n),
    (r"(?:each )?for \d+ dollars|pays \d+ dollars apiece", lambda v, n: v * n),
    (r"bags of \d+|into bags, \d+ in each|bags that hold \d+", lambda v, n: v / n),
    (rf"(?:gives|borrows|drops) {PART} of|{PART} of \w+'s \w+ get lost", lambda v, n: v - v / n),
]


def test_what_happens_to_an_amount_means_what_it_says(short):
    """Stories of one amount and one event, by reading: the amount is the first number drawn, the event's own number stands in its sentence."""
    met = Counter()
    for row in short:
        for i, (pattern, effect) in enumerate(HAPPENINGS):
            if len(row["kinds"]) == 2 and row["kinds"][0] == "has" and (found := re.search(pattern, row["question"], re.I)):
                event = found[0].lower()
                n = next((n for word, n in IN_WORDS.items() if word in event), None) or int(re.search(r"\d+", event)[0])
                assert row["answer"] == str(effect(Fraction(row["numbers"][0]), n)), row
                met[i] += 1
    assert sorted(met) == list(range(len(HAPPENINGS))) and min(met.values()) > 5, met


def test_splits_share_neither_problems_nor_questions(world):
    made = {split: {str((row["kinds"], row["numbers"])) for row in rows} for split, rows in world.items()}
    questions = {split: {row["question"] for row in rows} for split, rows in world.items()}
    for sets in (made, questions):
        assert all(len(sets[split]) == len(world[split]) for split in world)  # nor does one split repeat itself
        assert not sets["train"] & sets["valid"] and not sets["train"] & sets["test"] and not sets["valid"] & sets["test"]
    other = {str((row["kinds"], row["numbers"])) for row in toy(2000, "train", seed=1)}
    assert not other & made["test"] and not other & made["valid"]  # whatever the seed


def test_the_seed_decides_all(world):
    assert toy(200, "test") == world["test"][:200] == toy(200, "test", seed=0)
    others = {row["question"] for row in toy(200, "test", seed=1)}
    assert len(others & {row["question"] for row in world["test"]}) == 0
    assert [row["id"] for row in world["test"]] == list(range(1500))


def told(text):
    """The text with its people and things numbered by first appearance: the same problem about others looks the same."""
    seen = {}
    return re.sub(r"[A-Za-z]+", lambda m: seen.setdefault(m[0], f"<{len(seen)}>") if m[0] in PEOPLE_AND_THINGS else m[0], text)


PEOPLE_AND_THINGS = {*data.NAMES, *data.THINGS}


@pytest.fixture(scope="module")
def documents():
    rng = random.Random(5)
    return [data.document(rng) for _ in range(6000)]


def test_the_base_reads_no_role_prompt(documents):
    """The roles' layouts are left for the adapters to teach."""
    text = "\n\n".join(documents)
    assert not any(role.instruction in text for role in lorid.ROLES.values())
    assert not re.search(r"step by step|\n\nKnowledge: \n|\n\nRationale: \n|^--> \d+ END$", text, re.M)
    assert not any(re.search(r"Question: .*\n\nKnowledge: ", document) for document in documents)
    assert len(set(documents)) > 5900 and all(document.strip() for document in documents)


def test_the_base_reads_no_held_out_problem(documents, world):
    """Not even about other people and things. That some problems of the training split do turn up shows that this test can see."""
    lines = [line for document in documents for line in document.split("\n") if line.endswith("?")]
    read = {told(part) for line in lines for part in (line, line.split(": ", 1)[-1])}  # with and without "Story: "
    assert len(lines) > 4000
    assert [sum(told(row["question"]) in read for row in world[split]) for split in ("valid", "test")] == [0, 0]
    assert sum(told(row["question"]) in read for row in world["train"]) > 2


def test_the_base_reads_the_training_split_only(monkeypatch):
    """By ear: whatever stories were made on the way, the one that a document tells is of that split."""
    heard, story, rng, told_rows = [], data.story, random.Random(6), []
    monkeypatch.setattr(data, "story", lambda *dice: heard.append(story(*dice)) or heard[-1])
    for _ in range(1500):
        heard.clear()
        document = data.document(rng)
        told_rows += [row for row in heard if row and row["question"] in document]
    assert len(told_rows) > 1000 and {data.split_of(row) for row in told_rows} == {"train"}


def test_documents_are_true(documents):
    """Every equation that the base reads holds."""
    equations = re.findall(r"(\d+)([-+*/])(\d+)(?:=| --> )(\d+)", "\n".join(documents))
    assert len(equations) > 20_000
    for a, sign, b, c in equations:
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": Fraction(int(a), int(b))}[sign] == int(c)


# ---------------------------------------------------------------------------------------------------------------------
# A row and a role, as tokens. The tokenizer here is the plainest in the real format: byte b is token b + 1, the end is token 0.

@pytest.fixture
def byte_folder(tmp_path):
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in printable)}  # GPT-2's alphabet
    (tmp_path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "normalizer": None, "post_processor": None, "decoder": {"type": "ByteLevel"},
        "added_tokens": [dict(id=0, content="<|end|>", single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": {"<|end|>": 0} | {letters[b]: b + 1 for b in range(256)}, "merges": []}}), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(dict(
        model_type="llama", vocab_size=257, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, eos_token_id=0)))
    return tmp_path


def token_bytes(text):
    return [b + 1 for b in text.encode()]


ROW = dict(id=3, question="Zoë has {3} pens. 2 more?", rationale="3+2=5 pens", knowledge=["What comes in is added.", "Stop."], answer="5")
ASKED = {"ir": "Please answer this MATH question step by step.\nZoë has {3} pens. 2 more?",
         "kg": "Please output knowledge needed to solve the MATH question step by step.\nQuestion: Zoë has {3} pens. 2 more?\n\nKnowledge: ",
         "dr": "Please reason step by step based on the given MATH question and knowledge, and output the final answer.\n"
               "Question: Zoë has {3} pens. 2 more?\n\nKnowledge: What comes in is added.\nStop.\n\nRationale: "}
SAID = {"ir": "3+2=5 pens\n--> 5 END", "kg": "What comes in is added.\nStop.", "dr": "3+2=5 pens\n--> 5 END"}


@pytest.mark.parametrize("role", ["ir", "kg", "dr"])
def test_exactly_the_target_and_the_end_token_are_supervised(byte_folder, role):
    from model import Tokenizer
    ids, mask = render(ROW, role, Tokenizer(byte_folder))
    asked, said = token_bytes(ASKED[role] + "\n"), token_bytes(SAID[role])
    assert ids == asked + said + [0]
    assert mask == [0] * len(asked) + [1] * (len(said) + 1)


class Plain:
    """A tokenizer whose tokens are characters."""
    def prompt_ids(self, text):
        return ["<"] + list(text)

    def answer_ids(self, text):
        return list(text) + [">"]


@pytest.mark.parametrize("role", ["ir", "kg", "dr"])
def test_prompt_and_answer_are_encoded_apart(role):
    """No token spans both: what is learnt is what will have to be said after the prompt alone."""
    ids, mask = render(ROW, role, Plain())
    assert ids == ["<", *ASKED[role], *SAID[role], ">"] and len(mask) == len(ids) and sum(mask) == len(SAID[role]) + 1 and mask == sorted(mask)


@pytest.mark.parametrize("lost, roles", [(dict(knowledge=[]), {"kg", "dr"}), (dict(rationale=""), {"ir", "dr"}), (dict(answer=None), {"ir", "dr"}),
                                         (dict(answer=""), {"ir", "dr"}), (dict(rationale=None), {"ir", "dr"})])
def test_a_row_that_lacks_what_a_role_needs_is_refused_by_its_place(lost, roles):
    [key] = lost
    for role in lorid.ROLES:
        for row, place in ((ROW | lost, "row 3: "), (ROW | lost | {"where": "some/file.jsonl:17"}, "some/file.jsonl:17: ")):
            if role in roles:
                with pytest.raises(ValueError, match=f'^{re.escape(place)}.*"{key}"'):
                    render(row, role, Plain())
            else:
                assert render(row, role, Plain())[0]


def test_a_row_read_from_a_file_without_a_rationale_is_refused_too(rows_of):
    [row] = rows_of({"question": "1+1?", "answer": 2})
    for role in lorid.ROLES:
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: "):
            render(row, role, Plain())


def test_micro_batches_split_the_examples_under_the_budget_longest_first():
    rng = random.Random(0)
    for _ in range(300):
        budget, n = rng.randint(1, 200), rng.randint(0, 40)
        examples = [([7] * length, [1] * length) for length in rng.choices(range(1, rng.choice((3, 60, 300))), k=n)]
        before = list(examples)
        groups = micro_batches(examples, budget)
        assert examples == before  # the caller's list is left in order
        assert sorted(id(e) for group in groups for e in group) == sorted(map(id, examples))  # every example once, and the same objects
        assert all(groups) and all(len(group) == 1 or len(group) * max(len(ids) for ids, _ in group) <= budget for group in groups)
        lengths = [len(ids) for group in groups for ids, _ in group]
        assert lengths == sorted(lengths, reverse=True)
        for full, following in zip(groups, groups[1:]):  # and no group is closed before it is full
            assert (len(full) + 1) * len(full[0][0]) > budget and following


# ---------------------------------------------------------------------------------------------------------------------
# The script

def test_toy_writes_the_rows_that_read_rows_reads(tmp_path):
    """The same in another process, whose hashes are seeded otherwise."""
    done = script("toy", "--split", "test", "--seed", 3, "-n", 25, PYTHONHASHSEED="1")
    (tmp_path / "toy.jsonl").write_text(done.stdout, encoding="utf-8")
    rows = read_rows(tmp_path / "toy.jsonl")
    assert [{k: v for k, v in row.items() if k != "where"} for row in rows] == toy(25, "test", seed=3)
    assert done.returncode == 0 and script("toy", "--split", "test", "--seed", 3, "-n", 25, PYTHONHASHSEED="2").stdout == done.stdout


def test_show_colours_what_is_supervised(byte_folder):
    (byte_folder / "rows.jsonl").write_text(json.dumps(ROW | dict(question=ROW["question"].replace("ë", "e"))), encoding="utf-8")
    done = script("show", "--role", "dr", "--model", byte_folder, "--data", byte_folder / "rows.jsonl")
    assert done.returncode == 0, done.stderr
    shown, asked = done.stdout.rsplit("\n(", 1)[0], ASKED["dr"].replace("ë", "e") + "\n"
    assert "".join(re.findall(r"\033\[32m(.*?)\033\[0m", shown, re.S)) == SAID["dr"] + "<|end|>"
    assert re.sub(r"\033\[32m.*?\033\[0m", "", shown, flags=re.S) == asked
    assert done.stdout.endswith(f"\n({len(asked) + len(SAID['dr']) + 1} tokens, {len(SAID['dr']) + 1} of them supervised, in green)\n\n")


def test_show_needs_no_data(byte_folder):
    done = script("show", "--model", byte_folder, "-n", 2)
    assert done.returncode == 0 and done.stdout.count(" of them supervised, in green)\n") == 2 and done.stdout.count(ASKED["ir"].split("\n")[0]) == 2


def test_help_says_what_there_is():
    assert all(word in script("--help").stdout for word in ("show", "toy"))
    assert all(option in script("show", "--help").stdout for option in ("--role", "--data", "--model", "-n"))
    assert all(option in script("toy", "--help").stdout for option in ("--split", "--seed", "-n"))


@pytest.mark.parametrize("command, says", [
    (["show", "--data", "nowhere.jsonl"], "nowhere.jsonl"), (["show", "--role", "xx"], "--role"), ([], "command"), (["toy", "--split", "all"], "--split"),
])
def test_what_cannot_be_done_is_said_in_a_line(byte_folder, command, says):
    done = script(*command, *(["--model", byte_folder] if "--data" in command else []))
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr and not done.stdout

"""data.py: rows in or a sentence why not, a toy world that is right and general, splits that share nothing, and exactly the tokens that are learnt."""
import doctest
import functools
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, namedtuple
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
    return {split: toy(n, split) for split, n in (("train", 4000), ("valid", 1000), ("test", 2000))}


@pytest.fixture(scope="module")
def wide():
    """Stories of the wide world, which the base may read."""
    rng, rows = random.Random(8), []
    while len(rows) < 4000:
        rows += filter(None, [data.story(rng, 1 + len(rows) % 5, wide=True)])
    return rows


@pytest.fixture(scope="module")
def everything(world, wide):
    return [row for rows in (*world.values(), wide) for row in rows]


def worked(row):
    """[(left, sign, right, result, unit), ...] of the rationale."""
    return [(int(a), sign, int(b), int(c), unit) for a, sign, b, c, unit in
            (re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+) ([a-z]+)", line).groups() for line in row["rationale"].split("\n"))]


def test_every_worked_line_is_true_and_the_last_one_is_the_answer(everything):
    for row in everything:
        for a, sign, b, c, _ in worked(row):
            assert {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b), "/": Fraction(a, b)}[sign] == c and c >= 1, row
        assert row["answer"] == str(worked(row)[-1][3]) == lorid.extract_answer(lorid.target("ir", row))


def test_numbers_stay_small_but_all_occur(world, wide):
    for rows, largest in ((world["train"] + world["valid"] + world["test"], 200), (wide, 400)):
        assert {n for row in rows for a, _, b, c, _ in worked(row) for n in (a, b, c)} <= {*range(1, largest + 1)}
        assert len({c for row in rows for *_, c, _ in worked(row)}) > 0.9 * largest


IN_WORDS = {"half": 2, "50 percent": 2, "a third": 3, "a quarter": 4, "25 percent": 4, "a fifth": 5, "20 percent": 5, "a tenth": 10, "10 percent": 10,
            "dozen": 12, "pairs": 2, "weeks": 7, "average": 2, "evened out": 2}


def unsaid(question):
    """What the question does not say: of each pack, tin, crate or sack in it, how many of that thing it holds."""
    return [data.HOLDS[x][holder] for sentence in re.split("[.?]", question) if not re.search("packs the|in every pack", sentence)
            for words in [re.findall(r"\w+", sentence)] for holder in HOLDERS if {holder, f"{holder}s"} & {*words} for x in words if x in data.HOLDS]


def test_every_number_in_a_worked_line_is_told_or_worked_out_before(everything):
    """Or is what everybody knows: how many of the thing are in a pack."""
    for row in everything:
        known = {int(n) for n in re.findall(r"\d+", row["question"])} | {n for word, n in IN_WORDS.items() if word in row["question"].lower()}
        known |= set(unsaid(row["question"]))
        for a, _, b, c, _ in worked(row):
            assert {a, b} <= known, row
            known.add(c)


def test_there_is_one_rule_for_each_worked_line_and_it_names_the_operation(everything):
    words = {"add": "+", "sum": "+", "plus": "+", "subtract": "-", "minus": "-", "multiply": "*", "times": "*", "divid": "/"}
    for row in everything:
        assert len(row["knowledge"]) == len(worked(row))
        for rule, (_, sign, _, _, _) in zip(row["knowledge"], worked(row)):
            assert words[re.findall(r"\b(add|sum\b|plus\b|subtract|minus\b|multiply\b|times\b|divid)", rule)[-1]] == sign, (rule, row)


def test_rules_are_general(everything):
    """A few sentences serve for all stories; none knows a name, a thing, or a number that is not the size of a unit or a percentage."""
    rules = {rule for row in everything for rule in row["knowledge"]}
    shop = {m[0]: m.groups() for m in map(re.compile(r"A (\w+) of (\w+) holds (\d+): (?:add|subtract|multiply by|divide by) (\d+)\.").fullmatch, rules) if m}
    for holder, thing, k, again in shop.values():  # what everybody knows of a thing, whoever has how many of it
        assert k == again and int(k) == data.HOLDS[thing][holder]
    assert len({rule[:2] for rule in shop.values()}) == 4 * len(data.THINGS)
    rules -= shop.keys()
    people = {name for row in everything for name in re.findall(r"\b[A-Z][a-z]+\b", row["question"])} & set(data.NAMES)
    assert len(rules) < 40 and people == set(data.NAMES)
    for rule in rules:
        assert not people & set(re.findall(r"\w+", rule)) and not set(data.THINGS) & set(re.findall(r"\w+", rule.lower())), rule
        assert set(map(int, re.findall(r"\d+", rule))) <= {2, 4, 5, 7, 10, 12, 20, 25, 50}, rule


def test_everything_comes_in_everything():
    """And in many sizes, or they could be guessed."""
    assert data.HOLDS.keys() == {*data.THINGS} and {tuple(sizes) for sizes in data.HOLDS.values()} == {HOLDERS}
    assert {k for sizes in data.HOLDS.values() for k in sizes.values()} <= {*range(2, 41)}
    assert all(len(set(sizes)) >= 8 for sizes in zip(*(sizes.values() for sizes in data.HOLDS.values())))


def test_every_kind_of_event_occurs_and_all_lengths_equally(world):
    for rows in world.values():
        counts = Counter(kind for row in rows for kind in row["kinds"])
        assert counts.keys() == {kind.name for kind in data.WORLD} and len(counts) >= 12 and min(counts.values()) >= 5
        assert Counter(len(worked(row)) for row in rows) == {length: len(rows) // 5 for length in (1, 2, 3, 4, 5)}
    assert Counter(len(worked(row)) for row in toy(30, lengths=(3,))) == {3: 30}


def test_questions_read_well(everything):
    """One question mark at the end, sentences that begin with a capital or a number and end in a dot, no braces or doubled spaces left from a template."""
    for row in everything:
        sentences = re.findall(r"[^.?]+[.?]", row["question"])
        assert "".join(sentences) == row["question"] and [s[-1] for s in sentences] == ["."] * (len(sentences) - 1) + ["?"], row
        assert all(re.match(r"[A-Z0-9]", s.lstrip()) for s in sentences) and not re.search(r"[{}]|  |\b1 ", row["question"]), row


# A reader who knows what the sentences mean, and knows it from here alone, not from data.KINDS. P is whoever the sentence is about, Q somebody else,
# X the things, N a number, F a part in words. An entry is: of what, its effect on how much of it P has (two P have u and v) and on the numbers in the
# order told, the units of what is worked out ("" if nothing is), the sentences.

MEANINGS = [
    ("", lambda n: [n], "", "P has N X.", "P owns N X.", "There are N X in P's room.", "P keeps N X in a drawer.", "P starts with N X."),
    ("", lambda m, n: [m * n], "X", "P buys N boxes with N X in each.", "P fills N shelves with N X each.", "On P's table are N rows of N X.",
     "P opens N packs and finds N X in every pack.", "P makes N X an hour for N hours.", "For N hours P collects N X every hour.",
     "P works N hours and finishes N X in each of them.", "Each hour P finds N X, and that for N hours."),
    ("", lambda a_day, weeks: [weeks * 7, weeks * 7 * a_day], "days X", "P makes N X a day for N weeks.", "P finds N X each day, and that for N weeks."),
    ("", lambda weeks, a_day: [weeks * 7, weeks * 7 * a_day], "days X", "For N weeks P collects N X every day.", "In each of N weeks, P gets N X a day."),
    ("", lambda n: [n * 12], "X", "P buys N dozen X.", "P gets N dozen X for a birthday.", "In P's cupboard are N dozen X.", "P orders N dozen X."),
    ("", lambda n: [n * 2], "X", "P has N pairs of X.", "P sorts all the X into N pairs.", "P counts N pairs of X.", "In P's bag are N pairs of X."),
    ("", lambda m, n: [m + n], "X", "P picks up N X in the morning and N in the evening.", "P has N red X and N blue ones.",
     "P gets N X from an aunt and N from an uncle.", "P keeps N X at home and N at school."),
    ("", lambda room, empty: [room - empty], "X", "P's box has room for N X, and N places are empty.", "P collects N X in all; N are still missing.",
     "Of the N X that P wants, N have not come yet."),
    ("", lambda missing, all_: [all_ - missing], "X", "P needs N X more to have N."),

    ("X", lambda v, n: [v + n], "X", "Then P gets N more X.", "P is given another N X.", "Q hands N X to P.", "Later P finds N X more.", "P wins N X in a game."),
    ("X", lambda v, n: [v - n], "X", "Then P loses N X.", "P gives N X to Q.", "N of P's X break.", "Q takes N of P's X away.", "P throws N old X out."),
    ("X", lambda v, n: [v / n, v - v / n], "X X", "P gives F of the X to Q.", "F of P's X get lost.", "Q borrows F of P's X.", "P drops F of the X into a lake."),
    ("X", lambda v, n: [v / n, v + v / n], "X X", "P's heap of X grows by F.", "Then P finds F as many X again.", "The number of P's X rises by F."),
    ("X", lambda v, n: [v * n], "X", "In a year, P has N times as many X.", "A magician turns each of P's X into N.", "Q trades P N new X for each old one.",
     "Soon P's X are N times what they were."),
    ("X", lambda v, n: [v * n], "dollars", "P sells all the X for N dollars each.", "Q buys all of P's X and pays N dollars apiece.",
     "All of P's X are sold, each for N dollars.", "For each of the X, P is paid N dollars."),
    ("X", lambda v, n: [v / n], "bags", "P packs the X into bags of N.", "P's X go into bags, N in each.", "P fills bags that hold N X each.",
     "In each bag, P puts N X, until all are packed."),
    ("bags", lambda v, n: [v * n], "dollars", "P sells every bag for N dollars.", "Q pays P N dollars a bag and takes them all.",
     "Every bag brings P N dollars."),
    ("dollars", lambda v, n: [v + n], "dollars", "P also earns N dollars in a garden.", "P had N dollars before that.", "From Q, P gets N dollars."),
    ("dollars", lambda v, n: [v - n], "dollars", "P spends N dollars on a hat.", "Paint had cost P N dollars.", "P pays N dollars back to Q.",
     "Of this, N dollars go to a school."),

    ("X", lambda v: [v], "", "How many X does P have?", "What number of X does P have?", "How many X are P's?", "Can you tell how many X P has?",
     "How many X has P got?", "P counts the X: how many?", "How large is P's pile of X?", "How many X can P count?",
     "P wants to know: how many X are mine?", "How many X are there on P's side?"),
    ("dollars", lambda v: [v], "", "How many dollars does P have?", "How much money is that, in dollars?", "How many dollars are there?",
     "What amount of dollars does P have?"),
    ("bags", lambda v: [v], "", "How many bags are there?", "How many bags does P have?", "What number of bags is that?"),
    ("X", lambda u, v: [u + v], "X", "How many X do P and P have together?", "If P and P put their X on one pile, how many are there?",
     "What is the total of P's and P's X?", "How many X is that for P and P in all?"),
    ("X", lambda u, v: [abs(u - v)], "X", "How many X lie between what P and P have?", "By how many X do P and P differ?",
     "What is the gap between P and P, in X?"),
    ("X", lambda u, v: [u + v, (u + v) / 2], "X X", "What is the average number of X of P and P?", "How many X do P and P have on average?",
     "If P and P evened out their X, how many would each have?"),
    ("X", lambda v, n: [v / n], "X", "N children share P's X equally. How many X does each of them get?",
     "If N friends divide P's X fairly, how many X does one friend have?", "P deals the X out to N players. How many X does a player hold?"),
    ("X", lambda v, n: [v * n], "minutes", "To clean one of P's X takes N minutes. How many minutes do all of them take?",
     "P paints all the X, N minutes for each. How many minutes is that?", "P looks at every one of the X for N minutes. How long does that take, in minutes?"),
    ("X", lambda v, n: [v / n], "hours", "P can mend N X in an hour. How many hours will it take to mend all?",
     "If P wraps N X an hour, after how many hours are all of them wrapped?", "P uses up N of the X an hour. For how many hours do they last?"),
    ("dollars", lambda v, n: [n - v], "dollars", "A bicycle costs N dollars. How many dollars does P still need?",
     "P is saving for a tent of N dollars. How many dollars are missing?", "P wants a guitar for N dollars. How much is still to be earned, in dollars?"),
]
KNOWN = [  # as above, but the last number is not told: how many X a C, which is a pack or the like, holds
    ("", lambda n, k: [n * k], "X", "P buys N Cs of X.", "N Cs of X arrive for P.", "P opens N new Cs of X.", "On P's shelf are N Cs of X.",
     "P wins N Cs of X.", "In P's room are N Cs of X.", "P carries N Cs of X home.", "P receives N Cs of X."),
    ("X", lambda v, k: [v + k], "X", "Then P buys another C of X.", "Q hands P a new C of X.", "A C of X comes for P by mail.",
     "P finds one more C of X.", "P is given a further C of X.", "P is given another C of X."),
    ("X", lambda v, k: [v - k], "X", "P gives as many X away as are in a C.", "Q takes one C of P's X.", "P loses a whole C of X.",
     "A C of P's X gets wet and is thrown out.", "P drops a C of the X into a lake.", "Q takes a C of P's X."),
    ("X", lambda v, k: [v / k], "bags", "P fills bags with the X, a full C in each.", "P's X go into bags, one C in each bag.",
     "In each bag, P puts a C of the X, until all are in."),
]
RELATIONS = [  # true of what both have, whichever of them is known: P's is so much more, less, so many times or such a part of what Q's is
    ("+", "P has N more X than Q.", "P has N X more than Q does.", "P is ahead of Q by N X.", "Next to Q, P is ahead by N X.",
     "To have as many X as Q, P must give up N.", "P counts N X more than Q counts."),
    ("-", "P has N fewer X than Q.", "P is N X short of what Q has.", "P is behind Q by N X.", "Next to Q, P is behind by N X.",
     "To have as many X as Q, P must find N.", "P counts N X fewer than Q counts."),
    ("*", "P has N times as many X as Q.", "P has N X for every one that Q has.", "P has N times what Q has."),
    ("/", "P has F as many X as Q.", "P owns only F of what Q has.", "What P has is F of Q's X."),
]
ASIDES = ["P brings N X along.", "P is N years old.", "It is N degrees outside.", "The bus came N minutes late.", "P lives at number N.", "P also counted N X.",
          "There are N X on the floor.", "P watched for N minutes.", "A radio played N songs.", "P is saving N X.", "The shop is N steps away.",
          "P has read N pages today.", "It happened N days ago.", "The room has N lamps."]


def readings():
    """{a sentence, its people all alike: (the sort of sentence, which of its people are P, which are Q, what it means)}"""
    entries, found = [("aside", sentence, None) for sentence in ASIDES] + [("relation", sentence, sign) for sign, *some in RELATIONS for sentence in some], {}
    for of, effect, units, *some in MEANINGS + KNOWN:
        entries += [("question" if sentence[-1] == "?" else "event" if of else "start", sentence, (of, effect, units)) for sentence in some]
    for sort, sentence, meaning in entries:
        people, same = re.findall(r"\b[PQ]\b", sentence), re.sub(r"\bQ\b", "P", sentence)
        assert same not in found, same
        found[same] = sort, *([i for i, person in enumerate(people) if person == letter] for letter in "PQ"), meaning
    return found


READINGS = readings()
HOLDERS = ("pack", "tin", "crate", "sack")
PARTS = "half|50 percent|a third|a quarter|25 percent|a fifth|20 percent|a tenth|10 percent"


def split_up(sentence):
    """How it is told, its people, its things, its numbers in the order told, what holds things: "Ann has 3 pens." -> ("P has N X.", ["Ann"], ["pens"], [3], [])"""
    people, things, numbers, holders = [], [], [], []

    def blank(m):
        word = m[0]
        if word in data.NAMES or word in data.THINGS:
            (people if word in data.NAMES else things).append(word)
            return "P" if word in data.NAMES else "X"
        if word.lower() in IN_WORDS:
            numbers.append(Fraction(IN_WORDS[word.lower()]))
            return "F"
        if word.rstrip("s") in HOLDERS and "in every pack" not in sentence and "packs the" not in sentence:
            holders.append(word.rstrip("s"))
            return word.replace(holders[0], "C")
        if not word.isdecimal():
            return word
        numbers.append(Fraction(int(word)))
        return "N"

    known = rf"(?i:{PARTS})|\d+|{'|'.join([*data.NAMES, *data.THINGS, *HOLDERS, *(f'{holder}s' for holder in HOLDERS)])}"
    shape = re.sub(rf"\b(?:{known})\b", blank, sentence)
    return re.sub(r" (?:now|in the end|at last|after all this|by then|when it is over)(?=[?,])", "", shape), people, things, numbers, holders


Solved = namedtuple("Solved", "lines answer steps shapes numbers asides")


@functools.cache
def solve(question):
    """The question solved from its words: the results with their units, the answer, the sentences (place, sort) in the order in which they could be
    worked out, how each sentence is told, and the numbers that do and that do not belong to the story."""
    sentences = re.findall(r"\S[^.?]*[.?]", question)
    if len(sentences) > 1 and split_up(" ".join(sentences[-2:]))[0] in READINGS:  # an ending of two sentences
        sentences[-2:] = [" ".join(sentences[-2:])]
    has, waiting, lines, steps, shapes, numbers, asides, story_things, other_things = {}, [], [], [], [], [], [], set(), set()
    for place, sentence in enumerate(sentences):
        shape, people, things, told_numbers, holders = split_up(sentence)
        sort, about, others, meaning = READINGS[shape]
        told_numbers += [Fraction(data.HOLDS[things[0]][holder]) for holder in holders]
        shapes.append(shape)
        (asides if sort == "aside" else numbers).extend(told_numbers)
        (other_things if sort == "aside" else story_things).update(things)
        assert len(set(people)) == len(people) and (sort == "question") == (place == len(sentences) - 1), sentence
        about, others = [people[i] for i in about], [people[i] for i in others]
        if sort == "relation":
            waiting.append((place, *about, *others, meaning, *told_numbers))
        elif sort != "aside":
            of, effect, units = meaning
            if of and not about:  # "How many bags are there?": they are somebody's
                about = [person for person, kind in has if kind == of]
                assert len(about) == 1, sentence
            assert sort != "event" or not waiting, f"{sentence} Who knows of how many, at this point?"
            assert sort != "start" or not has, sentence
            results = effect(*([has.pop((person, of)) for person in about] if of else []), *told_numbers)
            lines += zip(results, units.split())
            steps.append((place, sort))
            has[about[0], (units.split() or ["X"])[-1]] = results[-1]
        while solvable := [equation for equation in waiting if ((equation[1], "X") in has) != ((equation[2], "X") in has)]:
            waiting.remove(solvable[0])
            at, left, right, sign, n = solvable[0]
            known, unknown, sign = (right, left, sign) if (right, "X") in has else (left, right, {"+": "-", "-": "+", "*": "/", "/": "*"}[sign])
            v = has[known, "X"]
            has[unknown, "X"] = {"+": v + n, "-": v - n, "*": v * n, "/": v / n}[sign]
            lines.append((has[unknown, "X"], "X"))
            steps.append((at, "relation"))
    [thing] = story_things
    assert not waiting and thing not in other_things, question
    return Solved([(result, thing if unit == "X" else unit) for result, unit in lines], results[-1], steps, shapes, numbers, asides)


def test_the_words_alone_lead_to_every_worked_line_and_the_answer(everything):
    """Every sentence of every question, read anew and solved: the same results in the same units, for what is asked; and the numbers that the
    story was made of."""
    for row in everything:
        solved = solve(row["question"])
        assert solved.lines == [(c, unit) for *_, c, unit in worked(row)] and str(solved.answer) == row["answer"], row
        assert sorted(solved.numbers) == sorted(row["numbers"]), row


def test_every_sentence_that_the_reader_knows_is_met(everything):
    met = Counter(shape for row in everything for shape in solve(row["question"]).shapes)
    assert met.keys() == READINGS.keys() and min(met.values()) >= 15, (READINGS.keys() - met, met.most_common()[-3:])


def test_comparisons_are_told_in_any_order(world, wide):
    """In the wide world; else it would do to go on from what was said last. That the answer is the same is tested above, where they are solved as
    equations. The other world tells all in the order in which it can be worked out."""
    stories = [solve(row["question"]).steps for row in wide]
    in_a_row = [steps for steps in stories if "relation relation" in " ".join(sort for _, sort in steps)]
    backwards = [steps for steps in in_a_row if steps != sorted(steps)]
    assert len(in_a_row) > 300 and 0.1 < len(backwards) / len(in_a_row) < 0.7
    from_the_start = sum(steps[0] != min(steps) for steps in backwards)  # even the amount known is told last of all
    assert min(from_the_start, len(backwards) - from_the_start) > 20  # ... or after an event, what followed it
    assert all((steps := solve(row["question"]).steps) == sorted(steps) for rows in world.values() for row in rows)


def test_irrelevant_numbers_occur_but_do_not_rule(world, wide):
    for rows in (*world.values(), wide):
        asides = Counter(len(solve(row["question"]).asides) for row in rows)
        assert asides.keys() == {0, 1} and 0.3 < asides[1] / len(rows) < 0.5, asides


def test_no_sentence_is_told_too_often(world, wide):
    """Whatever names, things and numbers it is about: or a model learns a few sentences by heart instead of reading."""
    blanks = dict.fromkeys(data.NAMES, "P") | dict.fromkeys(data.THINGS, "X") | dict.fromkeys(HOLDERS, "C") | {f"{holder}s": "Cs" for holder in HOLDERS}
    for rows in (world["train"], world["test"], wide):
        met = Counter()
        for row in rows:
            blank = re.sub(r"\d+", "N", re.sub(r"[A-Za-z]+", lambda m: blanks.get(m[0], m[0]), row["question"]))
            met.update(set(re.findall(r"\S[^.?]*[.?]", blank)))
        assert len(met) > 150 and met.most_common(1)[0][1] <= 0.05 * len(rows), met.most_common(3)


@pytest.mark.slow
def test_more_problems_than_there_are_is_a_sentence():
    """Stories of one line are few: by and by no new one comes up."""
    with pytest.raises(ValueError, match=r"hardly more than [\d,]+ different problems for test; ask for fewer than 5,000\.$"):
        data.toy(5000, "test", lengths=(1,))


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
    assert [row["id"] for row in world["test"]] == list(range(2000))


def told(text):
    """The text with its people and things numbered by first appearance: the same problem about others looks the same. And the numbers unsaid."""
    seen = {}
    return (*unsaid(text), re.sub(r"[A-Za-z]+", lambda m: seen.setdefault(m[0], f"<{len(seen)}>") if m[0] in PEOPLE_AND_THINGS else m[0], text))


PEOPLE_AND_THINGS = {*data.NAMES, *data.THINGS}


@pytest.fixture(scope="module")
def documents():
    rng = random.Random(5)
    return [data.document(rng, wide=i % 2) for i in range(6000)]


def test_the_base_reads_no_role_prompt(documents):
    """The roles' layouts are left for the adapters to teach. The arrow may be met, END may be met, but not the two together."""
    text = "\n\n".join(documents)
    assert not any(role.instruction in text for role in lorid.ROLES.values())
    assert not re.search(r"step by step|\n\nKnowledge: \n|\n\nRationale: \n|^--> \d+ END$", text, re.M)
    assert not any(re.search(r"Question: .*\n\nKnowledge: ", document) for document in documents)
    arrows = [document for document in documents if "-->" in document]
    assert len(arrows) > 500 and all(re.fullmatch(r"(?:(?!-->).)*^--> \d+", document, re.S | re.M) for document in arrows)  # as the last line alone
    assert text.count(" END") > 300
    assert len(set(documents)) > 5900 and sum(not document.strip() for document in documents) <= 6  # a page whose sums all came out too large is empty


def test_the_base_reads_no_held_out_problem(documents, world, wide):
    """Not even about other people and things. That some problems of the training split do turn up shows that this test can see."""
    lines = [line for document in documents for line in document.split("\n") if line.endswith("?")]
    read = {told(part) for line in lines for part in (line, line.split(": ", 1)[-1])}  # with and without "Story: "
    assert len(lines) > 4000
    held_out = world["valid"] + world["test"] + [row for row in wide if data.split_of(row) != "train"]
    assert not [row for row in held_out if told(row["question"]) in read]
    assert sum(told(row["question"]) in read for row in world["train"] + wide) > 2


def test_the_base_reads_the_training_split_only(monkeypatch):
    """By ear: whatever stories were made on the way, the one that a document tells is of that split."""
    heard, story, rng, told_rows = [], data.story, random.Random(6), []
    monkeypatch.setattr(data, "story", lambda *dice: heard.append(story(*dice)) or heard[-1])
    for i in range(1500):
        heard.clear()
        document = data.document(rng, wide=i % 2)
        told_rows += [(i % 2, row) for row in heard if row and row["question"] in document]
    assert len(told_rows) > 1000 and {data.split_of(row) for _, row in told_rows} == {"train"}
    assert any(int(row["answer"]) > 200 for wide, row in told_rows if wide)  # of the wide world, where that is asked for


def test_documents_are_true(documents):
    """Every equation that the base reads holds, and its numbers are those of the world it is from."""
    for some, largest in ((documents[::2], 200), (documents[1::2], 400)):
        equations = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", "\n".join(some))
        assert len(equations) > 10_000 and 0.9 * largest < max(int(n) for a, _, b, c in equations for n in (a, b, c)) <= largest
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


@pytest.mark.parametrize("role", ["ir", "dr"])
def test_a_number_as_rationale_is_learnt_as_a_text(rows_of, role):
    ids, mask = render(rows_of(GOOD | {"rationale": 5, "answer": 5})[0], role, Plain())
    assert "".join(ids[mask.index(1):]) == "5\n--> 5 END>"


def test_a_row_read_from_a_file_without_a_rationale_is_refused_too(rows_of):
    [row] = rows_of({"question": "1+1?", "answer": 2})
    for role in lorid.ROLES:
        with pytest.raises(ValueError, match=r"rows\.jsonl:1: "):
            render(row, role, Plain())


def test_micro_batches_hold_every_example_once_under_the_budget_longest_first():
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


def test_no_other_split_into_micro_batches_costs_less():
    """Among all ways to cut a sorted list; a group costs its padded size and a sixteenth of the budget."""
    def cost(groups):
        return sum(len(group) * len(group[0][0]) + budget // 16 for group in groups)
    rng = random.Random(0)
    for _ in range(40):
        examples = sorted(([7] * rng.randint(1, 200), []) for _ in range(rng.randint(1, 9)))[::-1]
        budget, costs = rng.randint(1, 600), []
        for cuts in itertools.product((False, True), repeat=len(examples) - 1):
            groups = [[examples[0]]]
            for cut, example in zip(cuts, examples[1:]):
                groups = groups + [[example]] if cut else groups[:-1] + [groups[-1] + [example]]
            if all(len(group) == 1 or len(group) * len(group[0][0]) <= budget for group in groups):
                costs.append(cost(groups))
        assert cost(micro_batches(examples, budget)) == min(costs)


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

"""Problems: where rows come from, and how a row and a role become tokens.

A row is a dict with the authors' keys: id, question, rationale, knowledge (a list of general rules), answer.
Rows come from a JSONL file, or from the toy world below: a generator of grade-school word problems that know their own
rules and solution, so that everything here runs with no download and no key. Rows without rules get them from a teacher.

    python data.py show --role dr           one training example, the supervised tokens in colour
    python data.py toy --split test -n 500      problems of the toy world, as JSONL
    python data.py augment --data rows.jsonl --out train.jsonl --teacher gpt-4o      rules for your rows, paid for once
    python data.py download gsm8k               the paper's sets, as JSONL; models and adapters: --model OWNER/NAME
"""
import argparse
import hashlib
import json
import os
import queue
import random
import re
import signal
import sys
import threading
import time
from collections import Counter, namedtuple
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.utils import mktime_tz, parsedate_tz
from pathlib import Path

import lorid

# ---------------------------------------------------------------------------------------------------------------------
# Rows from a file


def read_rows(path, joined=False):
    """The rows of a JSONL file. Raises ValueError with file and line for what is no row; `where` in each row remembers them.
    A row without an id is known by its line, unless rows are to be `joined` by their ids."""
    path, rows = Path(path), []
    if not path.is_file():
        raise ValueError(f"{path} is not a file.")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(str(line, "utf-8-sig"), parse_constant=int)  # int refuses NaN and Infinity, which are not JSON
        except (ValueError, RecursionError):  # also bytes that are not UTF-8, numbers of 5,000 digits, 100,000 brackets
            raise ValueError(f"{where}: not a JSON object; each line of the file must be one.") from None
        if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
            raise ValueError(f"{where}: the key \"question\" must hold a text.")
        if joined and "id" not in row:
            raise ValueError(f"{where}: no \"id\" to join by.")
        for key in ("rationale", "answer"):
            if not isinstance(row.get(key, ""), (str, int, float)):
                raise ValueError(f"{where}: the key \"{key}\" must hold a text.")
            if key in row:
                row[key] = str(row[key])
        rules = row.get("knowledge") or []
        rules = rules.splitlines() if isinstance(rules, str) else rules
        if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
            raise ValueError(f"{where}: the key \"knowledge\" must hold a list of texts.")
        rules = [rule for rule in rules if rule.strip()]
        answer = row.get("answer", "").strip() or lorid.extract_answer(row.get("rationale", ""))
        rows.append({**row, "id": row.get("id", number - 1), "knowledge": rules, "answer": answer, "where": where})
    if not rows:
        raise ValueError(f"{path} has no rows.")
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# The toy world. A story begins with an amount; then things happen to it, or people are compared; at last something is asked.
# Each kind of event is one entry: its name, what it needs and leaves behind, its arithmetic, the numbers it draws, its unit, a rule
# for each worked line, and how it may be told.
#
# What an event needs and leaves is one of: start -> things -> people (two were compared), bags or money -> end (a question was asked).
# Where things are needed, people will do: the story goes on with the one compared last.
#
#   in the arithmetic   v the amount so far, u the one before, hi and lo the larger and smaller of both, n and m drawn, _ the last result
#   in the telling      {a} whose amount it is, {b} somebody else, {x} the things, {n} {m} the numbers, {f} one n-th in words, {p} a pack;
#                       in asides {c} {d} other people, {y} other things

Kind = namedtuple("Kind", "name takes gives steps draw unit rules told")
LARGEST = (200, 400)  # number in a worked line: of the questions' world, and of the wide one, which only the base reads of
SMALL, FEW, MANY, PARTS = range(2, 10), range(2, 13), range(3, 61), (2, 3, 4, 5, 10)
IN_WORDS = {2: ("half", "50 percent"), 3: ("a third",), 4: ("a quarter", "25 percent"), 5: ("a fifth", "20 percent"),
            10: ("a tenth", "10 percent")}

# What everybody there knows and no story says: how many of a thing a pack holds, a tin, a crate and a sack.
HOLDS = {thing: dict(zip(("pack", "tin", "crate", "sack"), map(int, numbers.split()))) for thing, numbers in {
    "marbles": "20 11 20 24", "stickers": "16 12 18 24", "pens": "10 12 6 26", "books": "5 12 6 24", "coins": "15 10 24 16",
    "shells": "9 13 15 25", "cards": "18 13 8 24", "apples": "6 9 23 12", "stamps": "25 8 13 26", "buttons": "12 3 8 28",
    "beads": "30 4 6 10", "cookies": "8 6 7 25", "pencils": "14 14 18 23", "ribbons": "7 4 15 20", "balloons": "11 14 9 10",
    "candles": "4 10 21 15", "cups": "6 10 22 16", "plates": "5 9 18 13", "toys": "3 9 12 10", "keys": "2 15 24 19",
    "stones": "13 6 11 22", "rings": "3 7 6 29", "photos": "24 4 12 28", "lemons": "7 3 17 21", "pears": "9 5 24 25",
    "nuts": "40 9 11 30", "tickets": "17 7 13 29", "badges": "8 14 12 15", "kites": "2 13 18 25", "spoons": "12 9 7 13"}.items()}

KINDS = [Kind(*entry) for entry in (
    ("has", "start", "things", "", dict(n=MANY), "{x}",
        (),
        ("{a} has {n} {x}.", "{a} owns {n} {x}.", "There are {n} {x} in {a}'s room.", "{a} keeps {n} {x} in a drawer.",
         "{a} starts with {n} {x}.")),
    ("groups", "start", "things", "m*n", dict(m=SMALL, n=SMALL), "{x}",
        ("Equal groups: multiply the number of groups by the size of one.",),
        ("{a} buys {m} boxes with {n} {x} in each.", "{a} fills {m} shelves with {n} {x} each.",
         "On {a}'s table are {m} rows of {n} {x}.", "{a} opens {m} packs and finds {n} {x} in every pack.")),
    ("hourly", "start", "things", "m*n", dict(m=SMALL, n=SMALL), "{x}",
        ("All hours together: multiply the hours by the amount of one hour.",),
        ("{a} makes {n} {x} an hour for {m} hours.", "For {m} hours {a} collects {n} {x} every hour.",
         "{a} works {m} hours and finishes {n} {x} in each of them.", "Each hour {a} finds {n} {x}, and that for {m} hours.")),
    ("weekly", "start", "things", "m*7 _*n", dict(m=range(2, 6), n=SMALL), "days {x}",
        ("A week has 7 days: multiply the weeks by 7.", "All days together: multiply the days by the amount of one day."),
        ("{a} makes {n} {x} a day for {m} weeks.", "For {m} weeks {a} collects {n} {x} every day.",
         "{a} finds {n} {x} each day, and that for {m} weeks.", "In each of {m} weeks, {a} gets {n} {x} a day.")),
    ("dozen", "start", "things", "n*12", dict(n=FEW), "{x}",
        ("A dozen is 12: multiply the dozens by 12.",),
        ("{a} buys {n} dozen {x}.", "{a} gets {n} dozen {x} for a birthday.", "In {a}'s cupboard are {n} dozen {x}.",
         "{a} orders {n} dozen {x}.")),
    ("pairs", "start", "things", "n*2", dict(n=range(6, 41)), "{x}",
        ("A pair is 2: multiply the pairs by 2.",),
        ("{a} has {n} pairs of {x}.", "{a} sorts all the {x} into {n} pairs.", "{a} counts {n} pairs of {x}.",
         "In {a}'s bag are {n} pairs of {x}.")),
    ("two parts", "start", "things", "m+n", dict(m=MANY, n=MANY), "{x}",
        ("Two parts make a whole: add them.",),
        ("{a} picks up {m} {x} in the morning and {n} in the evening.", "{a} has {m} red {x} and {n} blue ones.",
         "{a} gets {m} {x} from an aunt and {n} from an uncle.", "{a} keeps {m} {x} at home and {n} at school.")),
    ("not full", "start", "things", "m-n", dict(m=range(40, 120), n=MANY), "{x}",
        ("What is there is the room for all minus the empty places.",),
        ("{a}'s box has room for {m} {x}, and {n} places are empty.", "{a} collects {m} {x} in all; {n} are still missing.",
         "Of the {m} {x} that {a} wants, {n} have not come yet.", "{a} needs {n} {x} more to have {m}.")),

    ("gain", "things", "things", "v+n", dict(n=MANY), "{x}",
        ("What comes in is added.",),
        ("Then {a} gets {n} more {x}.", "{a} is given another {n} {x}.", "{b} hands {n} {x} to {a}.",
         "Later {a} finds {n} {x} more.", "{a} wins {n} {x} in a game.")),
    ("loss", "things", "things", "v-n", dict(n=MANY), "{x}",
        ("What goes out is subtracted.",),
        ("Then {a} loses {n} {x}.", "{a} gives {n} {x} to {b}.", "{n} of {a}'s {x} break.",
         "{b} takes {n} of {a}'s {x} away.", "{a} throws {n} old {x} out.")),
    ("part lost", "things", "things", "v/n v-_", dict(n=PARTS), "{x} {x}",
        ("A part is found by dividing: 50 percent by 2, 25 by 4, 20 by 5, 10 by 10.",
         "What is left is the whole minus the part."),
        ("{a} gives {f} of the {x} to {b}.", "{f} of {a}'s {x} get lost.", "{b} borrows {f} of {a}'s {x}.",
         "{a} drops {f} of the {x} into a lake.")),
    ("part gained", "things", "things", "v/n v+_", dict(n=PARTS), "{x} {x}",
        ("A part is found by dividing: 50 percent by 2, 25 by 4, 20 by 5, 10 by 10.",
         "What grows by a part is the whole plus the part."),
        ("{a}'s heap of {x} grows by {f}.", "Then {a} finds {f} as many {x} again.",
         "The number of {a}'s {x} rises by {f}.")),
    ("multiplied", "things", "things", "v*n", dict(n=(2, 3, 4)), "{x}",
        ("To become so many times as many: multiply.",),
        ("In a year, {a} has {n} times as many {x}.", "A magician turns each of {a}'s {x} into {n}.", "{b} trades {a} {n} new {x} for each old one.",
         "Soon {a}'s {x} are {n} times what they were.")),

    ("more", "things", "people", "v+n", dict(n=MANY), "{x}",
        ("If the unknown one has more, add the difference.",),
        ("{b} has {n} more {x} than {a}.", "{b} has {n} {x} more than {a} does.", "Next to {a}, {b} is ahead by {n} {x}.",
         "To have as many {x} as {a}, {b} must give up {n}.", "{b} counts {n} {x} more than {a} counts.")),
    ("fewer", "things", "people", "v-n", dict(n=MANY), "{x}",
        ("If the unknown one has fewer, subtract the difference.",),
        ("{b} has {n} fewer {x} than {a}.", "{b} is {n} {x} short of what {a} has.", "Next to {a}, {b} is behind by {n} {x}.",
         "To have as many {x} as {a}, {b} must find {n}.", "{b} counts {n} {x} fewer than {a} counts.")),
    ("more, turned", "things", "people", "v-n", dict(n=MANY), "{x}",
        ("If the known one has more, the unknown one has less: subtract the difference.",),
        ("{a} has {n} more {x} than {b}.", "{a} is ahead of {b} by {n} {x}.", "{a} has {n} {x} more than {b} does.",
         "To have as many {x} as {b}, {a} must give up {n}.", "{a} counts {n} {x} more than {b} counts.")),
    ("fewer, turned", "things", "people", "v+n", dict(n=MANY), "{x}",
        ("If the known one has fewer, the unknown one has more: add the difference.",),
        ("{a} has {n} fewer {x} than {b}.", "{a} is behind {b} by {n} {x}.", "{a} is {n} {x} short of what {b} has.",
         "To have as many {x} as {b}, {a} must find {n}.", "{a} counts {n} {x} fewer than {b} counts.")),
    ("times", "things", "people", "v*n", dict(n=SMALL), "{x}",
        ("If the unknown one has times as many, multiply.",),
        ("{b} has {n} times as many {x} as {a}.", "{b} has {n} {x} for every one that {a} has.",
         "{b} has {n} times what {a} has.")),
    ("times, turned", "things", "people", "v/n", dict(n=SMALL), "{x}",
        ("If the known one has times as many, the unknown one has less: divide.",),
        ("{a} has {n} times as many {x} as {b}.", "{a} has {n} {x} for every one that {b} has.",
         "{a} has {n} times what {b} has.")),
    ("part of", "things", "people", "v/n", dict(n=PARTS), "{x}",
        ("A part is found by dividing: 50 percent by 2, 25 by 4, 20 by 5, 10 by 10.",),
        ("{b} has {f} as many {x} as {a}.", "{b} owns only {f} of what {a} has.", "What {b} has is {f} of {a}'s {x}.")),
    ("part of, turned", "things", "people", "v*n", dict(n=PARTS), "{x}",
        ("If the known one is a part of the unknown one, the whole is more: multiply.",),
        ("{a} has {f} as many {x} as {b}.", "{a} owns only {f} of what {b} has.", "What {a} has is {f} of {b}'s {x}.")),
    ("together", "people", "end", "u+v", {}, "{x}",
        ("A total of two is their sum.",),
        ("How many {x} do {a} and {b} have together?", "If {a} and {b} put their {x} on one pile, how many are there?",
         "What is the total of {a}'s and {b}'s {x}?", "How many {x} is that for {a} and {b} in all?")),
    ("difference", "people", "end", "hi-lo", {}, "{x}",
        ("How far apart two amounts are: subtract the smaller from the larger.",),
        ("How many {x} lie between what {a} and {b} have?", "By how many {x} do {a} and {b} differ?",
         "What is the gap between {a} and {b}, in {x}?")),
    ("average", "people", "end", "u+v _/2", {}, "{x} {x}",
        ("A total of two is their sum.", "The average of two is their total divided by 2."),
        ("What is the average number of {x} of {a} and {b}?", "How many {x} do {a} and {b} have on average?",
         "If {a} and {b} evened out their {x}, how many would each have?")),

    ("share", "things", "end", "v/n", dict(n=SMALL), "{x}",
        ("A fair share is the total divided by the number of people.",),
        ("{n} children share {a}'s {x} equally. How many {x} does each of them get?",
         "If {n} friends divide {a}'s {x} fairly, how many {x} does one friend have?",
         "{a} deals the {x} out to {n} players. How many {x} does a player hold?")),
    ("minutes", "things", "end", "v*n", dict(n=SMALL), "minutes",
        ("The time for all is their number times the time for one.",),
        ("To clean one of {a}'s {x} takes {n} minutes. How many minutes do all of them take?",
         "{a} paints all the {x}, {n} minutes for each. How many minutes is that?",
         "{a} looks at every one of the {x} for {n} minutes. How long does that take, in minutes?")),
    ("hours", "things", "end", "v/n", dict(n=SMALL), "hours",
        ("The hours needed are the total divided by what one hour brings.",),
        ("{a} can mend {n} {x} in an hour. How many hours will it take to mend all?",
         "If {a} wraps {n} {x} an hour, after how many hours are all of them wrapped?",
         "{a} uses up {n} of the {x} an hour. For how many hours do they last?")),

    ("sell", "things", "money", "v*n", dict(n=SMALL), "dollars",
        ("Money is the number sold times the price of one.",),
        ("{a} sells all the {x} for {n} dollars each.", "{b} buys all of {a}'s {x} and pays {n} dollars apiece.",
         "All of {a}'s {x} are sold, each for {n} dollars.", "For each of the {x}, {a} is paid {n} dollars.")),
    ("bags", "things", "bags", "v/n", dict(n=SMALL), "bags",
        ("The number of bags is the total divided by what one bag holds.",),
        ("{a} packs the {x} into bags of {n}.", "{a}'s {x} go into bags, {n} in each.",
         "{a} fills bags that hold {n} {x} each.", "In each bag, {a} puts {n} {x}, until all are packed.")),
    ("sell bags", "bags", "money", "v*n", dict(n=range(2, 16)), "dollars",
        ("Money is the number sold times the price of one.",),
        ("{a} sells every bag for {n} dollars.", "{b} pays {a} {n} dollars a bag and takes them all.",
         "Every bag brings {a} {n} dollars.")),
    ("earn", "money", "money", "v+n", dict(n=MANY), "dollars",
        ("What comes in is added.",),
        ("{a} also earns {n} dollars in a garden.", "{a} had {n} dollars before that.", "From {b}, {a} gets {n} dollars.")),
    ("spend", "money", "money", "v-n", dict(n=MANY), "dollars",
        ("What goes out is subtracted.",),
        ("{a} spends {n} dollars on a hat.", "Paint had cost {a} {n} dollars.", "{a} pays {n} dollars back to {b}.",
         "Of this, {n} dollars go to a school.")),
    ("need", "money", "end", "n-v", dict(n=range(20, 400)), "dollars",
        ("What is missing is the price minus what is there.",),
        ("A bicycle costs {n} dollars. How many dollars does {a} still need?",
         "{a} is saving for a tent of {n} dollars. How many dollars are missing?",
         "{a} wants a guitar for {n} dollars. How much is still to be earned, in dollars?")),
)]
SHOP = [Kind(*entry) for entry in (  # k is how many {x} a {p} holds, which is not told
    ("buy", "start", "things", "n*k", dict(n=SMALL), "{x}",
        ("A {p} of {x} holds {k}: multiply by {k}.",),
        ("{a} buys {n} {p}s of {x}.", "{n} {p}s of {x} arrive for {a}.", "{a} opens {n} new {p}s of {x}.", "On {a}'s shelf are {n} {p}s of {x}.",
         "{a} wins {n} {p}s of {x}.", "In {a}'s room are {n} {p}s of {x}.", "{a} carries {n} {p}s of {x} home.", "{a} receives {n} {p}s of {x}.")),
    ("one more", "things", "things", "v+k", {}, "{x}",
        ("A {p} of {x} holds {k}: add {k}.",),
        ("Then {a} buys another {p} of {x}.", "{b} hands {a} a new {p} of {x}.", "A {p} of {x} comes for {a} by mail.", "{a} finds one more {p} of {x}.",
         "{a} is given a further {p} of {x}.", "{a} is given another {p} of {x}.")),
    ("one less", "things", "things", "v-k", {}, "{x}",
        ("A {p} of {x} holds {k}: subtract {k}.",),
        ("{a} gives as many {x} away as are in a {p}.", "{b} takes one {p} of {a}'s {x}.", "{a} loses a whole {p} of {x}.",
         "A {p} of {a}'s {x} gets wet and is thrown out.", "{a} drops a {p} of the {x} into a lake.", "{b} takes a {p} of {a}'s {x}.")),
    ("fill", "things", "bags", "v/k", {}, "bags",
        ("A {p} of {x} holds {k}: divide by {k}.",),
        ("{a} fills bags with the {x}, a full {p} in each.", "{a}'s {x} go into bags, one {p} in each bag.",
         "In each bag, {a} puts a {p} of the {x}, until all are in.")),
)]
# Two worlds. WORLD is what the questions are about: it has packs, and a comparison says what the person not yet known has ("Ben has 4 more than
# Ann"). WIDE is what the base reads first: no packs, larger numbers, and a comparison may also be turned ("Ann has 4 more than Ben", Ann known).
WORLD, WIDE = [kind for kind in KINDS if not kind.name.endswith("turned")] + 2 * SHOP + [SHOP[0], SHOP[-1]], KINDS
ASKED = {  # for the kinds that bring no question of their own
    "things": ("How many {x} does {a} have {now}?", "What number of {x} does {a} have {now}?", "How many {x} are {a}'s {now}?",
               "Can you tell how many {x} {a} has {now}?", "How many {x} has {a} got {now}?", "{a} counts the {x}: how many {now}?"),
    "people": ("How many {x} does {b} have?", "What number of {x} does {b} have?", "Can you tell how many {x} {b} has?",
               "How large is {b}'s pile of {x}?", "How many {x} are {b}'s?", "How many {x} can {b} count?",
               "{b} wants to know: how many {x} are mine?", "How many {x} are there on {b}'s side?"),
    "money": ("How many dollars does {a} have {now}?", "How much money is that {now}, in dollars?",
              "How many dollars are there {now}?", "What amount of dollars does {a} have {now}?"),
    "bags": ("How many bags are there {now}?", "How many bags does {a} have {now}?", "What number of bags is that?"),
}
NOW = ("now", "in the end", "at last", "after all this", "by then", "when it is over")
ASIDES = ("{d} brings {n} {y} along.", "{c} is {n} years old.", "It is {n} degrees outside.", "The bus came {n} minutes late.",
          "{a} lives at number {n}.", "{d} also counted {n} {y}.", "There are {n} {y} on the floor.", "{c} watched for {n} minutes.",
          "A radio played {n} songs.", "{d} is saving {n} {y}.", "The shop is {n} steps away.", "{c} has read {n} pages today.",
          "It happened {n} days ago.", "The room has {n} lamps.")
NAMES = ("Ann Ben Cara Dan Ella Finn Gina Hugo Ida Jack Kim Leo Mia Noah Olga Paul Rosa Sam Tina Uma Vera Will Zoe Amir Bina Chen "
         "Diego Emma Farid Grace Hana Ivan Jada Karl Lena Milo Nina Omar Priya Quinn Rita Sven Tara Umar Vito Wendy Yuki Zara").split()
THINGS = ("marbles stickers pens books coins shells cards apples stamps buttons beads cookies pencils ribbons balloons candles "
          "cups plates toys keys stones rings photos lemons pears nuts tickets badges kites spoons").split()


def compute(steps, largest=LARGEST[False], **letters):
    """The worked lines and the result of a kind's arithmetic, or None if it leaves the whole numbers from 1 to `largest`.

    >>> compute("v/n v-_", v=60, n=3)
    (['60/3=20', '60-20=40'], 40)
    """
    lines, result = [], letters["n"]  # without any steps ("has") the number drawn is the amount
    for step in steps.split():
        left, sign, right = re.fullmatch(r"(\w+)([-+*/])(\w+)", step).groups()
        a, b = (letters[s] if s in letters else result if s == "_" else int(s) for s in (left, right))
        if sign == "/" and a % b:
            return None
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        if result < 1 or max(a, b, result) > largest:
            return None
        lines.append(f"{a}{sign}{b}={result}")
    return lines, result


def story(rng, length, wide=False):
    """One problem of `length` worked lines as a row, or None where the dice led nowhere. Beside the authors' keys the row
    has `kinds` and `numbers`, what it was made of. In the wide world numbers are larger, and the comparisons at
    the end of half of the stories are told in reverse."""
    (a, c, d, *others), (x, y) = rng.sample(NAMES, 4 + length), rng.sample(THINGS, 2)
    state, u, v, b = "start", 0, 0, None
    told, rules, lines, kinds, numbers, p = [], [], [], [], [], None
    loose = 0  # what is told from here on is true in any order
    while state != "end" and len(lines) < length:
        left = length - len(lines)
        fitting = [k for k in (WIDE if wide else WORLD) if (k.takes == state or (k.takes == "things" and state == "people"))
                   and (len(k.rules) == left if k.gives == "end" else len(k.rules) <= left)]
        ends = [k for k in fitting if k.gives == "end"]
        kind = rng.choice(ends if ends and rng.random() < 0.4 else fitting)  # ends fit on the last lines only: so that they are not rare
        if kind.takes != "people":  # the kinds that take two people ask about the two compared last
            if state == "people":
                a = b
            b = others.pop()
        drawn = {letter: rng.choice(some) for letter, some in kind.draw.items()}
        if kind in SHOP:
            p, drawn["k"] = rng.choice([*HOLDS[x].items()])
        made = compute(kind.steps, LARGEST[wide], **{"n": 0} | drawn, u=u, v=v, hi=max(u, v), lo=min(u, v))
        if made is None:
            return None
        text = rng.choice(kind.told)
        text = text.format(a=a, b=b, p=p, x=x, **drawn, f=rng.choice(IN_WORDS[drawn["n"]]) if "{f}" in text else "")
        told.append(text[0].upper() + text[1:])
        if kind.takes != "start" and kind.gives not in ("people", "end"):
            loose = len(told)
        state, u, v = kind.gives, v, made[1]
        lines += [f"{line} {unit}" for line, unit in zip(made[0], kind.unit.format(x=x).split())]
        rules += [rule.format(p=p, x=x, **drawn) for rule in kind.rules]
        kinds.append(kind.name)
        numbers += drawn.values()
    question = told.pop() if state == "end" else rng.choice(ASKED[state]).format(a=a, b=b, x=x, now=rng.choice(NOW))
    if wide and len(told) > loose and rng.random() < 0.5:
        told[loose:] = reversed(told[loose:])  # comparisons told backwards: what is said first is computed last
    if rng.random() < 0.4:
        told.insert(rng.randrange(len(told) + 1), rng.choice(ASIDES).format(a=a, c=c, d=d, y=y, n=rng.choice(MANY)))
    return dict(question=" ".join([*told, question]), rationale="\n".join(lines), knowledge=rules, answer=str(v),
                kinds=kinds, numbers=numbers)


def split_of(row):
    """train (80%), valid or test, by a hash of the kinds and numbers: in whatever words, a problem is in one split only."""
    digest = hashlib.sha256(json.dumps([row["kinds"], row["numbers"]]).encode()).digest()
    return (["train"] * 8 + ["valid", "test"])[int.from_bytes(digest[:4], "big") % 10]


def toy(n, split="train", seed=0, lengths=(1, 2, 3, 4, 5)):
    """n problems of the toy world, no two alike in kinds and numbers, none shared by two splits. The seed decides all."""
    rng, rows, seen, known = random.Random(f"{split} {seed}"), [], set(), 0
    while len(rows) < n:
        row = story(rng, lengths[len(rows) % len(lengths)])
        if row is None or split_of(row) != split:
            continue
        if (key := str([row["kinds"], row["numbers"]])) in seen:
            known += 1
            if known == 1000:  # in a row
                raise ValueError(f"the toy world has hardly more than {len(rows):,} different problems for {split}; ask for fewer than {n:,}.")
            continue
        seen.add(key)
        known = 0
        rows.append({"id": len(rows), **row})
    return rows


# What the toy base is pretrained on: the world's problems (of the training split only) in many layouts, none of them a role's.
# Head words, bullets and order change from document to document, so that the base learns what follows from what, not one form.

HEADS = {
    "question": ("Problem: {}", "Exercise.\n{}", "{}", "Story: {}", "A reader asks: {}", "Task no. 7\n{}"),
    "rules": ("Rules:\n{}", "What to know:\n{}", "Plan:\n{}", "Remember:\n{}", "It helps to know this.\n{}"),
    "lines": ("Working:\n{}", "Steps:\n{}", "Solution:\n{}", "Let us calculate.\n{}", "It goes like this:\n{}"),
    "answer": ("Result: {}", "So the answer is {}.", "Answer = {}", "That makes {} END", "--> {}", "--> {}"),
}
# The parts of a document, in order; what stands here several times is drawn more often. both: each rule with its line.
# A problem with packs is mostly told in the first order (see `used` below), where the base must use a number without reading it; the few others
# say it in rules. And the base reads of packs late and not for long. So it learns these numbers in patches, and in other patches where it must
# use them than where it must say them: two systems of one base that fail on different problems.
ORDERS = (["question", "lines", "answer"],) * 3 + (["question", "rules"],) * 2 + (["question", "rules", "lines", "answer"],) * 5 + (
    ["rules", "question", "lines", "answer"], ["question", "both", "answer"], ["question", "both", "answer"])
# The words of the role prompts, in no order: the base must have met them, but not the prompts.
TALK = ("Please output the final answer step by reason based on given MATH question and knowledge needed to solve this "
        "Question: Knowledge: Rationale:").split()


def document(rng, wide=False):
    """One text for the base to read, of the wide world or the one that the questions are about. Once in a while it is empty:
    a page whose sums have all come out too large."""
    bullet, stop = rng.choice(("", "- ", "* ", "{}) ", "{}. ")), rng.choice(("\n", "\n", "\n", "\n\n", "; "))

    def listed(items):
        return stop.join(bullet.format(i) + item for i, item in enumerate(items, 1))

    if rng.random() < 0.25:  # a page of bare arithmetic
        made, top = [], rng.choice((20, 100, LARGEST[wide]))
        for sign in rng.choices("+-*/", (2, 3, 2, 3), k=16):
            a, n = rng.randrange(1, top), rng.randrange(2, 16 if sign in "*/" else top)
            v = {"-": a + n, "/": a * n}.get(sign, a)  # made from the result, or few divisions would come out even
            made.append(compute(f"v{sign}n", LARGEST[wide], v=v, n=n))
        return listed([lines[0] for lines, _ in filter(None, made)])
    length, row = rng.randrange(1, 7), None
    while row is None or split_of(row) != "train":
        row = story(rng, length, wide)
    lines = row["rationale"].split("\n")
    parts = dict(question=row["question"], rules=listed(row["knowledge"]), lines=listed(lines), answer=row["answer"],
                 both=listed([f"{rule} {line}" for rule, line in zip(row["knowledge"], lines)]))
    gap = rng.choice(("\n", "\n", "\n\n"))
    used = any(kind.name in row["kinds"] for kind in SHOP) and rng.random() < 0.9
    texts = [rng.choice(HEADS.get(part, ("{}",))).format(parts[part]) for part in rng.choice(ORDERS[:1] if used else ORDERS)]
    preface = [" ".join(rng.sample(TALK, rng.randrange(3, len(TALK))))] if rng.random() < 0.2 else []
    return gap.join(preface + texts)


# ---------------------------------------------------------------------------------------------------------------------
# A row and a role, as tokens


def check(row, role):
    """Raises ValueError with the row's place if it lacks what the role learns from."""
    where = row.get("where", f"row {row['id']}")
    if role in ("kg", "dr") and not row["knowledge"]:
        raise ValueError(f"{where}: no \"knowledge\", which {role} learns from; add a list of rules, or train ir, which needs none.")
    if role in ("ir", "dr") and not (row.get("rationale") and row.get("answer")):
        raise ValueError(f"{where}: {role} learns from \"rationale\" and \"answer\"; one of them is missing.")


def render(row, role, tokenizer):
    """A training row as one role sees it: (ids, mask), two lists of equal length. mask is 1 on what the role must learn to say
    (its target and the end token), 0 on what it is asked. Raises ValueError as `check` does."""
    check(row, role)
    asked = tokenizer.prompt_ids(lorid.prompt(role, row["question"], "\n".join(row["knowledge"])))
    said = tokenizer.answer_ids(lorid.target(role, row))
    return asked + said, [0] * len(asked) + [1] * len(said)


def micro_batches(examples, budget):
    """Split examples, tuples that begin with their ids, into groups of similar length, longest first, whose padded size,
    rows x longest, is at most `budget` tokens. An example longer than the budget goes alone. Among such splits it takes a
    cheapest one; a group costs its padded size, and a sixteenth of the budget for the pass itself."""
    ordered, best = sorted(examples, key=lambda e: -len(e[0])), [(0, 0)]
    for end in range(1, len(ordered) + 1):  # best[end]: the least cost of the first `end`, the start of their last group
        most = max(1, budget // max(1, len(ordered[end - 1][0])))  # a bound, as if all were as short as the last
        best.append(min((best[start][0] + (end - start) * len(ordered[start][0]) + budget // 16, start) for start in range(max(0, end - most), end)
                        if end - start == 1 or (end - start) * len(ordered[start][0]) <= budget))
    groups, end = [], len(ordered)
    while end:
        start = best[end][1]
        groups, end = [ordered[start:end]] + groups, start
    return groups


# ---------------------------------------------------------------------------------------------------------------------
# The teacher. A large model, behind any OpenAI-compatible endpoint, is shown a question with its solution and writes down the
# knowledge behind it (in the paper: GPT-4o). Its replies cost money, so what is paid for is kept: each finished row becomes a line of
# the journal, a file beside the output, at once. A run that was stopped, or killed, and is started again asks only for what is missing.

TEACHER = """\
You write down the knowledge behind worked solutions of mathematics problems, for a student who is to learn to think of the right
rules before computing anything.

At the end of this message stand a problem and its solution. For every step of the solution, in the order of the solution, write the
general rule that the step applies.

A general rule
- holds for every problem of its kind, and helps somebody who has never seen this one;
- names nothing that belongs to this problem alone: no person, place, thing, date or amount. A number may stand in a rule only if it
  is the same in all problems, like the 60 minutes of an hour;
- is one plain sentence that says what is known and what to do with it; formulas are written with words or letters;
- computes nothing and does not give the answer away.

Cover every step, and add no rule that the solution does not use. If several steps apply the same rule, write it once, where it comes
first. Write 1 to 12 rules, without numbering.

An example.
Problem: Farmer Iris plants 6 rows of 14 tulips. A third of the tulips do not come up. How many tulips does she see?
Solution: She plants 6 * 14 = 84 tulips. 84 / 3 = 28 of them do not come up. So she sees 84 - 28 = 56 tulips.
"Multiply the 6 rows by 14 tulips" is no general rule: it repeats the story. "Use multiplication" is none either: it does not say
when. This is right:
{"knowledge": ["The total of equal groups is the number of groups times the size of one group.", \
"A fraction of a whole is the whole divided by the denominator and multiplied by the numerator.", \
"What remains of a whole is the whole minus the part that is gone."]}

Reply with nothing but a JSON object of this form: the key "knowledge" and a list of texts, a rule each.
"""
COPIED = """These words or numbers are copied from the problem: {}. Write the whole list again, in the same JSON form, so that each rule
holds for any problem of its kind. Keep a number only if it is the same in all problems."""
# Words with a capital that are no names: those that problems and rules begin their sentences with.
OPENERS = set("""How If The What There Each In On After They It At Then One For When Every This To Two During An Half Three Of While And But
    So Find Their From All By As Before Over Since Once With Some Only Another Both Twice Calculate Determine Let Given Use""".split())
TRIES = 5  # requests for a row; one that is answered with 429 counts a quarter
BACKOFF = 1, 30  # seconds until the next request where the server does not say: at first, and, as it doubles each time, at most


class Again(Exception):
    """A reply was of no use, the next may be; the text says why. wait: seconds until then, if the server said; crowded: for all."""
    wait, crowded = None, False


def usable(rules):
    return isinstance(rules, list) and 1 <= len(rules) <= 12 and all(isinstance(rule, str) and rule.strip() for rule in rules)


def read_rules(reply):
    """The rules in a chat completion: of the last JSON object that holds some, under "knowledge" or as its only list. Else raises Again."""
    try:
        choice = reply["choices"][0]
        ended, refusal, content = choice.get("finish_reason"), choice["message"].get("refusal"), choice["message"].get("content")
        content = content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])  # a text in parts
    except (LookupError, TypeError, AttributeError):
        raise Again(f"not a chat completion: {reply}") from None
    if ended == "length":
        raise Again("cut off (finish_reason length)")
    if refusal or ended == "content_filter":
        raise Again("refused")
    if not content.strip():
        raise Again("empty")
    rules, end = None, 0
    for brace in re.finditer("{", content):
        with suppress(ValueError, RecursionError):  # not every brace begins an object: prose has sets
            if brace.start() >= end:
                value, end = json.JSONDecoder().raw_decode(content, brace.start())
                lists = [value["knowledge"]] if "knowledge" in value else [each for each in value.values() if isinstance(each, list)]
                rules = lists[0] if len(lists) == 1 and usable(lists[0]) else rules
    if not rules:
        raise Again("no JSON object with a list of 1 to 12 texts")
    return [" ".join(rule.split()) for rule in rules]  # a line break would make two rules of one


def copied(rules, question):
    """Names and numbers that the rules share with the question, a sign that they tell its story. A guess: some numbers belong in
    a rule (the 2 of an average), and a name is what has a capital and is not a common first word."""
    ours, theirs = ({word.replace(",", "") for word in re.findall(r"\d[\d,]*\.?\d+|\w+", text)} for text in ("\n".join(rules), question))
    names = {word for word in ours & theirs if word[0].isupper() and len(word) > 1} - OPENERS
    return sorted(word for word in ours & theirs if word[0].isdecimal() or (word in names and word.lower() not in ours | theirs))


def asked_wait(headers):
    """Seconds that a server wants to be left alone: retry-after-ms, or Retry-After in seconds or as an HTTP date. None if not said."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "").strip()
        try:
            date = parsedate_tz(value)  # in UTC, if it names no zone
            wait = mktime_tz(date) - time.time() if date else float(re.fullmatch(r"\d+(\.\d*)?", value)[0]) / unit
        except (ValueError, TypeError, OverflowError):
            continue
        if wait > 0:
            return min(wait, 3600)  # more is granted to no server


class Teacher:
    """A model behind an endpoint, asked by several threads at once. What one of them learns holds for all: that the server wants to be
    left alone for a while, that it has no JSON mode, that it is time to stop."""

    def __init__(self, url, model, key="", params={}, timeout=120):
        self.url, self.model, self.key, self.params, self.timeout = f"{url.rstrip('/')}/chat/completions", model, key, params, timeout
        self.json_mode = {"response_format": {"type": "json_object"}}  # sent along until the server refuses it; one in --params overrides it
        self.quiet_until, self.trouble, self.stopping = 0, "", threading.Event()

    def request(self, row, rules=None):
        """(key, request): what the journal knows it by, and what to ask about a row. With rules, which copy from the question: to write them again."""
        problem = f"{TEACHER}\nProblem: {row['question'].strip()}\nSolution: {row.get('rationale', '').strip()}"
        messages = [{"role": "user", "content": problem}]
        if rules:
            messages += [{"role": "assistant", "content": json.dumps({"knowledge": rules})},
                         {"role": "user", "content": COPIED.format(", ".join(copied(rules, row["question"])))}]
        request = {"model": self.model, "messages": messages} | self.params
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32], request

    def sign(self, request):  # called by requests; a plain header would give way to what a .netrc says of this host
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def hide(self, text):
        """What a server says, without the key and control characters. A key under 6 letters (x, none) is no secret, but may be a word."""
        text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
        return text.replace(self.key, "[key]") if len(self.key) >= 6 else text

    def post(self, session, request):
        """The reply to one request, whatever JSON it is. Raises Again, or ValueError in the server's own words if no other try can help."""
        body, timeouts = self.json_mode | request, (min(10, self.timeout), self.timeout)  # to connect, to read
        try:
            response = session.post(self.url, json=body, auth=self.sign, timeout=timeouts, allow_redirects=False)
        except ValueError as error:  # no address of a server, or headers that cannot be understood
            raise ValueError(f"no reply can be had from {self.url}: {self.hide(str(error))}") from None
        except OSError as error:  # of requests, too; its words are left out, for they may hold anything
            raise Again("no reply in time" if "Timeout" in type(error).__name__ else "no connection, or a lost one") from None
        status, text = response.status_code, str(response.content, "utf-8-sig", "replace")
        reply = text
        with suppress(ValueError, RecursionError):
            reply = json.loads(text)
        if status == 200:
            return reply
        if status >= 500 or (status in (408, 409, 429) and "insufficient_quota" not in text):
            again = Again(f"HTTP status {status}")
            again.wait, again.crowded = asked_wait(response.headers), status == 429
            raise again
        if status in (400, 422) and body != request and re.search("response_format|json", text, re.I):  # it was we who added it
            self.json_mode = {}
            raise Again("no JSON mode")
        for name in ("error", "message"):  # {"error": {"message": ...}}, or one of them alone, or any text
            reply = reply.get(name, reply) if isinstance(reply, dict) else reply
        words = str(reply).strip() or response.headers.get("Location") or response.reason or "no word"
        raise ValueError(f"{self.url} answered with status {status}: {self.hide(words)[:500]}")

    def ask(self, session, request):
        """What the journal shall say of a request: the tokens, and the knowledge or why it failed. None if all stops before that."""
        tokens, tries, until = [0, 0], 0, 0
        while tries < TRIES:
            while (left := max(until, self.quiet_until) - time.monotonic()) > 0 and not self.stopping.is_set():
                self.stopping.wait(left + random.uniform(0, min(left, 1)))  # or all workers would come back in the same instant
            if self.stopping.is_set():
                return None
            try:
                reply = self.post(session, request)
                with suppress(LookupError, TypeError, ValueError, OverflowError, AttributeError):  # not every server counts
                    counts = [int(reply["usage"].get(f"{side}_tokens", 0)) for side in ("prompt", "completion")]
                    tokens = [n + min(max(0, count), 10**9) for n, count in zip(tokens, counts)]  # and some count nonsense
                return {"tokens": tokens, "knowledge": [self.hide(rule) for rule in read_rules(reply)]}
            except Again as error:
                failure = self.trouble = self.hide(str(error))[:150]
                until = time.monotonic() + (error.wait or min(BACKOFF[1], BACKOFF[0] * 2 ** tries))
                if error.crowded:
                    self.quiet_until = max(self.quiet_until, until)
                tries += 0.25 if error.crowded else 1  # a crowd says little against this row
        return {"tokens": tokens, "failed": failure}


def read_journal(file):
    """{key: entry} of what is done in a journal; what has no rules is left out, to be asked again. Cuts off a last line torn by a kill."""
    file.seek(0)
    done = {}
    for number, line in enumerate(file.readlines(), 1):
        try:
            entry = json.loads(line)
            if entry["key"] and usable(entry.get("knowledge")):
                done[entry["key"]] = entry
            if file.writable() and not line.endswith(b"\n"):
                file.write(b"\n")  # a whole line: somebody has edited the file
        except (ValueError, LookupError, TypeError, RecursionError):
            if line.endswith(b"\n"):
                raise ValueError(f"{file.name}:{number}: damaged; delete this line, and its row will be asked for again.") from None
            if file.writable():
                file.truncate(file.tell() - len(line))
    return done


def price(tokens, prices):
    """[tokens in, out] and what they cost, in words. prices: dollars for a million of each, or None."""
    dollars = f", about ${(tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6:.2f}" if prices else ""
    return f"{tokens[0]:,} tokens in, {tokens[1]:,} out{dollars}"


def fill_in(rows, teacher, done, strict=False):
    """Give the rows the knowledge that is done, {key: entry}. Returns {key: (where, request)} of what is not asked; if strict, that is also
    the second question about rows whose rules copy."""
    missing = {}
    for row in rows:
        first, request = teacher.request(row)
        row["knowledge"] = done.get(first, {}).get("knowledge", [])
        if first not in done:
            missing[first] = row["where"], request  # a row that is twice in the file is asked for once
        if copied(row["knowledge"], row["question"]):
            second, request = teacher.request(row, row["knowledge"])
            row["knowledge"] = done.get(second, {}).get("knowledge", row["knowledge"])
            if strict and second not in done:
                missing[second] = row["where"], request
    return missing


def consult(teacher, todo, journal, done, workers=8, prices=None):
    """Send the requests in todo, {key: (where, request)}. As soon as one is answered, or has failed for good, its entry goes to the journal,
    a binary file, and to `done`. Ctrl-C waits for what is in flight, which is paid for, a second one does not; both raise
    KeyboardInterrupt. An error that concerns all requests is raised when those in flight have arrived."""
    import requests  # here, because nothing else needs it
    waiting, replies, errors = iter(list(todo.items())), queue.SimpleQueue(), []  # a list's iterator gives an item to one thread only
    start = shown = time.monotonic()
    finished, tokens = 0, [0, 0]

    def work():
        try:
            with requests.Session() as session:  # keeps its connection from request to request
                for key, (where, request) in waiting:
                    if entry := teacher.ask(session, request):
                        replies.put({"key": key} | entry)
        except Exception as error:
            errors.append(ValueError(f"Asked about {where}, {error}") if isinstance(error, ValueError) else error)
            teacher.stopping.set()

    def enough(*_):
        if teacher.stopping.is_set():
            raise KeyboardInterrupt
        teacher.stopping.set()
        os.write(2, b"\nWaiting for the requests in flight; Ctrl-C again abandons them.\n")  # print could be in the middle of a line

    def show():
        rate = finished / (time.monotonic() - start)
        left = timedelta(seconds=round((len(todo) - finished) / rate)) if rate else "unknown time"
        trouble = f", last trouble: {teacher.trouble}" if teacher.trouble else ""
        print(f"{finished}/{len(todo)} rows, {rate:.2f} rows/s, {left} left, {price(tokens, prices)}{trouble}", file=sys.stderr, flush=True)
        os.fsync(journal.fileno())  # not even a power cut loses more than ten seconds

    before = signal.signal(signal.SIGINT, enough)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(todo)))]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or not replies.empty():
            with suppress(queue.Empty):
                entry = replies.get(timeout=0.1)
                journal.write(json.dumps(entry).encode() + b"\n")
                journal.flush()  # from here on, no kill can lose it
                done[entry["key"]] = entry
                finished, tokens = finished + 1, [sum(pair) for pair in zip(tokens, entry["tokens"])]
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                show()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)
        if finished < len(todo):
            teacher.stopping.set()  # also where the disk is full: nothing more is bought
        show()
    if finished < len(todo):
        raise errors[0] if errors else KeyboardInterrupt


def join(rows, originals):
    """Give the rows without knowledge that of the original with their id. If both have a type, or a level, these must be equal, too: MATH
    counts its ids anew in each. Raises ValueError if several originals fit that differ."""
    known = {}
    for original in originals:
        if original["knowledge"]:
            known.setdefault(str(original["id"]), []).append(original)
    for row in rows:
        if not row["knowledge"]:
            fitting = {tuple(original["knowledge"]) for original in known.get(str(row["id"]), ()) if all(
                not row.get(key) or not original.get(key) or str(row[key]) == str(original[key]) for key in ("type", "level"))}
            if len(fitting) > 1:
                raise ValueError(f"{row['where']}: the id {row['id']} stands for {len(fitting)} different lists of rules in --map; "
                                 "a type or level in both files would tell which.")
            row["knowledge"] = list(fitting.pop()) if fitting else []


def augment(args):
    """Writes args.out, and says what became of it. Returns the exit status: 1 if rows are without knowledge, or second questions failed."""
    rows, out, key = read_rows(args.data, joined=bool(args.map))[:args.n], Path(args.out), os.environ.get("OPENAI_API_KEY", "").strip()
    path = Path(f"{out}.journal")
    if out.is_dir() or {out.resolve(), path.resolve()} & {Path(source).resolve() for source in (args.data, args.map) if source}:
        raise ValueError(f"--out {out} is a folder, or it or its journal one of the files to be read; give the rows a file of their own.")
    if re.search("[^!-~]", key):
        raise ValueError("OPENAI_API_KEY holds a character that cannot be in a key.")
    if ours := {"messages", "model", "n", "stream"} & args.params.keys():
        raise ValueError(f"--params must leave out {', '.join(sorted(ours))}: a request is a question of ours, and wants one whole reply.")
    if args.map:
        join(rows, read_rows(args.map, joined=True))
    teacher = Teacher(args.url, args.teacher, key, args.params, args.timeout)
    asked = [row for row in rows if args.teacher and not row["knowledge"]]
    for row in asked:
        if not row.get("rationale", "").strip():
            raise ValueError(f"{row['where']}: no \"rationale\" to show to the teacher.")

    if args.dry_run:
        with open(path if path.is_file() else os.devnull, "rb") as journal:
            todo = [request for _, request in fill_in(asked, teacher, read_journal(journal), args.strict).values()]
        for request in todo[:1]:
            print(f"POST {teacher.url}\n{json.dumps(teacher.json_mode | request, indent=2)}\n")
        texts = [request["messages"][0]["content"] for request in todo]
        answers = [text.rpartition("\nSolution: ")[2] for text in texts]  # the rules are about as long; a token is about 4 letters
        tokens = [sum(map(len, side)) // 4 for side in (texts, answers)]
        print(f"{len(rows)} rows, {len(todo)} to ask for: about {price(tokens, args.prices)}. Nothing was sent.")
        return 0
    import fcntl  # here, because it is not on every system
    if out.exists() and not path.exists():
        raise ValueError(f"{out} is there already, without its journal {path}; move it away or name another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system when this process ends, however it ends
        except BlockingIOError:
            raise ValueError(f"Another run is filling {path}; wait for it, or stop it.") from None
        done = read_journal(journal)
        try:
            while todo := fill_in(asked, teacher, done, args.strict):  # if strict, a second time: first replies lead to second questions
                consult(teacher, todo, journal, done, args.workers, args.prices)
            from model import write_whole  # here, because it brings torch
            plain = ({key: value for key, value in row.items() if key != "where" and (key != "answer" or value is not None)} for row in rows)
            write_whole(out, (json.dumps(row).encode() + b"\n" for row in plain))
        except BaseException:  # Ctrl-C, an error that concerns all requests, a full disk
            print(f"Stopped. What is paid for is kept in {path}: the same command goes on from there.", file=sys.stderr)
            raise

    entries = [(row, done.get(teacher.request(row, row["knowledge"])[0], {})) for row in rows]  # where there are rules, of second questions
    failures = Counter(entry.get("failed", f"no original in {args.map}") for row, entry in entries if not row["knowledge"])
    unmended = Counter(entry["failed"] for row, entry in entries if row["knowledge"] and "failed" in entry)
    copies = [f"{row['where']} has {', '.join(words)}" for row in asked if (words := copied(row["knowledge"], row["question"]))]
    print(f"{len(rows) - failures.total()} of {len(rows)} rows in {out} have knowledge.")
    if failures:
        print(f"{failures.total()} have none: {'; '.join(f'{n} {why}' for why, n in failures.most_common(9))}. The same command tries these "
              f"again; for other --params (max_tokens, if cut off) take --data {out} and a new --out. kg and dr refuse them, ir does not.")
    if unmended:
        print(f"{unmended.total()} second questions failed: {'; '.join(unmended)}. The first rules stay; --strict asks again.")
    if copies:
        print(f"{len(copies)} have rules that copy a name or number from the question ({copies[0]}).")
    return 1 if failures or unmended else 0


# ---------------------------------------------------------------------------------------------------------------------
# Downloads: the paper's sets, as rows in our keys, and models and adapters of the Hugging Face hub, as folders. A file gets its name when
# it is whole and has the hash that was announced for it; until then it is NAME.HASH.part, and the next run goes on where that ends.
# What a server says never becomes the path of a file: of what the hub lists, the names below are fetched, and nothing else.

HUB, ROWS = "https://huggingface.co", "https://datasets-server.huggingface.co/rows"  # HF_ENDPOINT names another hub, a mirror say
GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"
MATH = "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus".split()
# What a model or an adapter consists of. No .bin and no .pt: those are pickles, which can run code.
WANTED = re.compile(r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|model\.safetensors\.index|adapter_config)\.json"
                    r"|(model(-\d+-of-\d+)?|adapter_model)\.safetensors")
TIMEOUT = 10, 60  # seconds until a connection stands, and of silence until it is given up
MOST = 50_000_000  # bytes of a reply that is no file
CLOSED = ("is not open to you: if the name is right, it is private or gated; have access granted on its page, and put a token that may "
          "read it into HF_TOKEN")  # the hub says 401 of a name that it does not know, too


def from_gsm8k(i, row):
    """GSM8K's answer is the solution, with notes for a calculator, <<48/2=24>>, and "#### 72" below."""
    rationale, _, answer = row["answer"].rpartition("####")
    return dict(id=i, question=row["question"], rationale=re.sub("<<.*?>>", "", rationale).strip(), answer=answer.strip().replace(",", ""))


def from_lorid(i, row):
    """The authors' own keys are ours; in MATH, the answer stands in the rationale only."""
    return {"answer": lorid.extract_answer(row["rationale"])} | row


def from_metamath(i, row):
    """MetaMathQA's response ends in "The answer is: 72", that to a GSM8K question also in "#### 72" before; as in the authors' rows, MATH's
    keep it. Rephrasings of one problem share an id; it is unlike those of GSM8K and MATH, so that `join` cannot take one for the other."""
    rationale, _, answer = row["response"].rpartition("The answer is:")
    rationale = row["response"] if rationale and row["type"].startswith("MATH") else re.sub(r"\n####.*\s*\Z", "", rationale)
    return dict(id="metamath-" + hashlib.sha256(row["original_question"].encode()).hexdigest()[:12], question=row["query"],
                rationale=rationale.strip(), answer=answer.strip().rstrip(" ."), source=row["type"])


def from_math(i, row):
    """MATH's answer is in the last box of the solution, sometimes without braces."""
    answer = lorid.last_boxed(re.sub(r"\\boxed +([^\s{}$.,]+)", r"\\boxed{\1}", row["solution"]))
    return dict(id=f"math-{i}", question=row["problem"], rationale=row["solution"], answer=answer, level=row["level"], type=row["type"])


# Names, sizes and hashes are those that public pages and code showed in 2025 and 2026; nobody has fetched them with this script yet.
SETS = {  # name: (where, {split: what is fetched}, how a row becomes ours)
    "gsm8k": (GSM8K, {  # parquet only on the hub (openai/gsm8k); these are the original files, their sizes and SHA-256
        "train": ("train.jsonl", 4166206, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
        "test": ("test.jsonl", 749738, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14")}, from_gsm8k),
    "lorid-gsm8k": ("LoRID-Math/GSM8K", {"train": "train.jsonl", "test": "test.jsonl"}, from_lorid),  # the authors', with knowledge
    "lorid-math": ("LoRID-Math/MATH", {"train": "train.jsonl", "test": "test.jsonl"}, from_lorid),  # 176 MB
    "metamath": ("meta-math/MetaMathQA", {"train": "MetaMathQA-395K.json"}, from_metamath),  # 396 MB; what the paper's ir learnt from
    "math": ("EleutherAI/hendrycks_math", {"train": MATH, "test": MATH}, from_math),  # parquet only: its rows as JSON, subject by subject
}


def file_hash(path, digits):
    """What the hub knows a file by: its SHA-256, 64 digits, if it is large; else git's SHA-1, 40 digits, of the content under a heading."""
    total = hashlib.sha256() if digits == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


class Hub:
    """The hub, and whatever else a set lies on. A request that fails is made again where that may help."""

    def __init__(self):
        import requests  # here, because only the network needs it
        self.broken, self.session, self.shown = requests.RequestException, requests.Session(), 0
        self.url, self.token = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/"), os.environ.get("HF_TOKEN", "").strip()
        if re.search(r"[^!-~]", self.token):
            raise ValueError("HF_TOKEN holds a character that cannot be in a token.")

    def sign(self, request):  # for the hub only; requests takes it off again where a redirect leads to another host
        if self.token and request.url.startswith(f"{self.url}/"):
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def show(self, text, last):
        """Say how far it is: on a terminal each second, over what was said before."""
        if last or time.monotonic() - self.shown > (1 if sys.stderr.isatty() else 10):
            self.shown = time.monotonic()
            print(text, end="\033[K\r" if sys.stderr.isatty() and not last else "\n", file=sys.stderr, flush=True)

    def reach(self, url, take, have=lambda: 0):
        """take(reply), the reply to url from byte have() on. Raises ValueError where no other try can help, and after five in a row
        that were of no use; a megabyte more is of use."""
        failures = 0
        while True:
            start = have()
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            try:
                with self.session.get(url, headers=headers, auth=self.sign, timeout=TIMEOUT, stream=True) as reply:
                    status = reply.status_code
                    if status in (200, 206, 416):
                        return take(reply)
            except Again as error:
                why, wait = str(error), None
            except ValueError:  # of requests, or of the libraries below
                raise ValueError(f"{url} is not the address of a server, or redirects to what is none.") from None
            except self.broken as error:
                why, wait = "no reply in time" if "Timeout" in type(error).__name__ else "no connection, or a lost one", None
            else:
                if status < 500 and status not in (408, 429):
                    why = {401: CLOSED, 403: CLOSED, 404: "does not exist"}.get(status, "is refused")
                    raise ValueError(f"{url} {why} (HTTP status {status}).")
                why, wait = f"HTTP status {status}", asked_wait(reply.headers)
            failures = 0 if have() - start >= 2**20 else failures + 1
            if failures == TRIES:
                raise ValueError(f"{url} could not be fetched: {why}, {TRIES} times in a row; what has come is kept, try again later.")
            wait = min(BACKOFF[1], BACKOFF[0] * 2 ** failures) if wait is None else wait
            print(f"{why}; again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)

    def ask(self, url, read):
        """What `read` makes of the JSON at url."""
        def take(reply):
            content = bytearray()
            for chunk in reply.iter_content(1 << 20):
                content += chunk
                if len(content) > MOST:
                    raise Again("a reply without end")
            try:
                return read(json.loads(content))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise Again("a reply in a form that is not known here") from None
        return self.reach(url, take)

    def files(self, kind, repo):
        """{name: (url, size, hash)} of a repository, at its latest commit. kind: models or datasets."""
        def read(known):
            base = f"{self.url}/{'datasets/' * (kind == 'datasets')}{repo}/resolve/{known['sha']}"
            sizes = {file["rfilename"]: file.get("lfs") or {"size": file.get("size"), "sha256": file.get("blobId")} for file in known["siblings"]}
            return {name: (f"{base}/{name}", size["size"], size["sha256"]) for name, size in sizes.items()}
        return self.ask(f"{self.url}/api/{kind}/{repo}/revision/main?blobs=true", read)

    def rows(self, repo, config, split):
        """The rows of a set that is there as parquet only: the hub's viewer gives them as JSON, 100 at a time."""
        def read(page):
            if page.get("partial") or any(e["truncated_cells"] or e["row_idx"] != len(rows) + i for i, e in enumerate(page["rows"])):
                raise ValueError
            return [page["rows"][0]["row"], *(entry["row"] for entry in page["rows"][1:])], page["num_rows_total"]  # none is an error
        rows, total = [], 1
        while len(rows) < total:
            more, total = self.ask(f"{ROWS}?dataset={repo}&config={config}&split={split}&offset={len(rows)}&length=100", read)
            rows += more
            self.show(f"{config}, {split}: {len(rows):,} of {total:,} rows", len(rows) >= total)
        return rows

    def fetch(self, url, size, digest, path):
        """The file at url, as path: whole, or not at all."""
        if not isinstance(size, int) or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
            raise ValueError(f"{url}: the server announces no size and no hash to check it by.")

        def whole(file):
            return file.is_file() and file.stat().st_size == size and file_hash(file, len(digest)) == digest

        def save(reply):
            have = file.seek(0, os.SEEK_END)
            if reply.status_code != 206 or not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                have = file.truncate(0)  # all of it comes, from a server that knows no ranges, or something that was not asked for
                if reply.status_code != 200:
                    raise Again("another part of the file than asked for")
            for chunk in reply.iter_content(1 << 16):
                file.write(chunk)
                file.flush()  # from here on, no kill can lose it
                have += len(chunk)
                self.show(f"{path.name}: {have / 1e6:,.1f} of {size / 1e6:,.1f} MB", have == size)
                if have > size:
                    return
            if have < size:
                raise Again("a file that ends too early")

        part = path.with_name(f"{path.name}.{digest[:16]}.part")
        for old in path.parent.glob(f"{path.name}.{'?' * 16}.part"):
            if old != part or old.is_symlink():  # it has changed on the server since, or a link would lead out of the folder
                old.unlink()
        if whole(path):
            return
        for _ in range(2):
            with open(part, "ab") as file:
                if file.tell() < size:
                    self.reach(url, save, lambda: file.seek(0, os.SEEK_END))
                os.fsync(file.fileno())
            if whole(part):
                return os.replace(part, path)
            part.unlink()
        raise ValueError(f"{url} has come twice with another size or hash than announced; nothing of it is kept.")


@contextmanager
def alone(folder):
    """One process at a time fills a folder; the others wait. What cannot be written, on a full disk say, is an OSError that names it."""
    import fcntl  # here, because it is not on every system
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:  # not all of them know the file
        raise OSError(f"{folder} cannot be filled ({error}); put that right, and the same command goes on from there.") from None


def parse(path):
    """The rows of a JSON list, or of JSON lines. A generator: what is wrong in there is raised where they are used."""
    text = path.read_text(encoding="utf-8")
    yield from json.loads(text) if text.startswith("[") else (json.loads(line) for line in text.split("\n") if line.strip())


def download_set(name, folder):
    """Write folder/SPLIT.jsonl for each split of a set that is not there yet."""
    hub, (where, splits, convert) = Hub(), SETS[name]
    from model import write_whole  # here, because it brings torch
    with alone(folder):
        for split, source in splits.items():
            path, raw = folder / f"{split}.jsonl", folder / f"{split}.raw"
            if path.is_file():
                print(f"{path} is there already.")
                continue
            if isinstance(source, list):
                rows = [row for config in source for row in hub.rows(where, config, split)]
            else:
                known = (where + source[0], *source[1:]) if isinstance(source, tuple) else hub.files("datasets", where).get(source)
                if not known:
                    raise ValueError(f"{hub.url}/datasets/{where} has no {source}; the table SETS in data.py is out of date.")
                hub.fetch(*known, raw)
                rows = parse(raw)
            try:
                rows = [convert(i, row) for i, row in enumerate(rows)]
                good = [row for row in rows if row["question"] and row["rationale"] and row["answer"]]  # no role can learn from others
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{where}: the {split} rows are not as data.py knows them; the table SETS is out of date.") from None
            write_whole(path, (json.dumps(row).encode() + b"\n" for row in good))
            raw.unlink(missing_ok=True)
            print(f"{path}: {len(good):,} rows" + f"; {len(rows) - len(good)} without rationale or answer left out" * (len(good) < len(rows)))


def complete(folder):
    """Whether a folder has all that an adapter or a model needs."""
    if (folder / "adapter_config.json").is_file():
        return (folder / "adapter_model.safetensors").is_file()
    index = folder / "model.safetensors.index.json"
    weights = re.findall(r"model-\d+-of-\d+\.safetensors", index.read_text()) if index.is_file() else ["model.safetensors"]
    return all((folder / name).is_file() for name in {"config.json", "tokenizer.json", *weights})


def cached(repo):
    """The folder in the Hugging Face cache of the last commit that was seen of a repository; None if it is not complete there."""
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub"), f"models--{repo.replace('/', '--')}")
    head = folder / "refs" / "main"
    commit = head.read_text().strip() if head.is_file() else "none"
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch("[0-9a-f]{40}", commit) and complete(snapshot) else None


def download_model(repo, folder):
    """Fill a folder with a model or an adapter: with links into the Hugging Face cache if that has it, else with files from the hub."""
    hub, snapshot = Hub(), cached(repo)
    files = {path.name: path.resolve() for path in snapshot.iterdir()} if snapshot else hub.files("models", repo)
    kind = "adapter_" * ("adapter_config.json" in files)
    names = sorted(filter(WANTED.fullmatch, files), key=lambda name: (name == f"{kind}config.json", name))  # last what `complete` looks for
    lost = {f"{kind}config.json", f"{kind}model.safetensors" if kind else "tokenizer.json"}.difference(names)
    if lost or not any(name.endswith(".safetensors") for name in names):
        pickles = any(name.endswith((".bin", ".pt", ".pth")) for name in files)
        raise ValueError(f"{hub.url}/{repo} has no {' and no '.join(sorted(lost)) or 'weights as safetensors'}"
                         + ("; weights in pickles (.bin), which can run code, are not read." if pickles else "."))
    with alone(folder):
        for name in () if complete(folder) else names:  # the process that was waited for may have done it
            if snapshot:
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(files[name])
            else:
                hub.fetch(*files[name], folder / name)


def model_folder(name, out=None):
    """The folder of a model or an adapter: `name` itself where that is one, or is not of the form OWNER/NAME; else models/OWNER/NAME (or
    `out`), to which it is brought unless it is there. Raises ValueError if that cannot be done."""
    folder = Path(out or Path("models", name or ""))
    if name is None or Path(name).exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return name
    if not complete(folder):
        try:
            download_model(name, folder)
        except ValueError as error:
            raise ValueError(f"{name} is no folder here, and {error}") from None
    return str(folder)


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def json_object(text):
    """argparse's type for a JSON object."""
    try:
        value = json.loads(text, parse_constant=int)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def positive(text):
    """argparse's type for numbers that must be whole and above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def preset(parser, name, values):
    """The flags read again with `values` as their defaults, so that those given still count; says what they are now."""
    parser.set_defaults(**values)
    args = parser.parse_args()
    print(f"preset {name}: " + ", ".join(f"{key.replace('_', '-')} {getattr(args, key)}" for key in values) + "\n")
    return args


def main():
    parser = argparse.ArgumentParser(description="Look at the problems that LoRID trains on.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print training examples as a role sees them, supervised tokens in colour")
    show.add_argument("--role", choices=lorid.ROLES, default="ir", help="whose example (default: ir)")
    show.add_argument("--data", help="a JSONL file (default: the toy world)")
    show.add_argument("--model", default="tiny", help="the model folder whose tokenizer cuts the text (default: tiny)")
    show.add_argument("--template", help="how the base is asked: a name in model.py's TEMPLATES (default: known by the model folder)")
    show.add_argument("-n", type=positive, default=1, help="how many (default: 1)")
    make = commands.add_parser("toy", help="write problems of the toy world as JSONL")
    make.add_argument("--split", choices=("train", "valid", "test"), default="train", help="which problems (default: train)")
    make.add_argument("--seed", type=int, default=0, help="another seed makes other problems (default: 0)")
    make.add_argument("-n", type=positive, default=1000, help="how many (default: 1000)")
    more = commands.add_parser("augment", help="add knowledge to rows: ask a teacher model for it, or take it from originals by id")
    more.add_argument("--data", required=True, help="the rows: a JSONL file with question and rationale; those that have knowledge keep it")
    more.add_argument("--out", required=True, help="where to write them; OUT.journal beside it keeps what is paid for")
    more.add_argument("--teacher", metavar="MODEL", help="the model to ask, as its server names it; the key is read from OPENAI_API_KEY")
    more.add_argument("--url", default=os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
                      help="its server, any that is OpenAI-compatible (default: OPENAI_BASE_URL, else https://api.openai.com/v1)")
    more.add_argument("--params", type=json_object, default={"max_tokens": 1000}, metavar="JSON",
                      help="what else requests say; another model or other params ask for all rows anew (default: {\"max_tokens\": 1000})")
    more.add_argument("--workers", type=positive, default=8, help="requests at the same time (default: 8)")
    more.add_argument("--timeout", type=positive, default=120, help="seconds of silence before a request is given up (default: 120)")
    more.add_argument("--prices", type=float, nargs=2, metavar=("IN", "OUT"), help="dollars for a million tokens, to show what it costs")
    more.add_argument("--strict", action="store_true", help="ask once more where rules copy a name or number from the question")
    more.add_argument("--map", metavar="FILE", help="take knowledge from this file's row with the same id; a teacher is asked for the rest")
    more.add_argument("-n", type=positive, help="only the first n rows (default: all)")
    more.add_argument("--dry-run", action="store_true", help="show the first request and what all would cost, and send nothing")
    get = commands.add_parser("download", help="fetch a set, as JSONL in data/<name>/, or a model or adapter, as a folder in models/")
    get.add_argument("name", nargs="?", choices=SETS, help="the set: %(choices)s")
    get.add_argument("--model", metavar="OWNER/NAME", help="a model or an adapter of the Hugging Face hub; the key to closed ones is read from HF_TOKEN")
    get.add_argument("--out", metavar="DIR", help="another folder to put it in")
    args = parser.parse_args()
    if args.command == "download":
        if bool(args.name) == bool(args.model):
            parser.error("download needs the name of a set, or --model OWNER/NAME.")
        if args.name:
            return download_set(args.name, Path(args.out or Path("data") / args.name))
        if not Path(folder := model_folder(args.model, args.out)).is_dir():
            raise ValueError(f"{args.model} is neither a folder here nor of the form OWNER/NAME.")
        print(f"{args.model} is in {folder}")
        return
    if args.command == "augment":
        if not (args.teacher or args.map) or args.dry_run and not args.teacher:
            parser.error("augment needs a --teacher to ask, or a --map to take knowledge from.")
        return augment(args)
    if args.command == "toy":
        for row in toy(args.n, args.split, args.seed):
            print(json.dumps(row))
        return
    from model import Tokenizer  # here, because it brings torch: the rest of this file does without
    tokenizer = Tokenizer(args.model, args.template)
    for row in (read_rows(args.data) if args.data else toy(args.n))[:args.n]:
        ids, mask = render(row, args.role, tokenizer)
        asked = mask.index(1)
        print(f"{tokenizer.decode(ids[:asked])}\033[32m{tokenizer.decode(ids[asked:])}\033[0m")
        print(f"({len(ids)} tokens, {sum(mask)} of them supervised, in green)\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its exit
    except (ValueError, OSError) as error:
        print(f"data.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

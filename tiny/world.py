"""The toy world: grade-school word problems that know their own rules and worked solution.

A story begins with an amount; then things happen to it, or people are compared; at last something
is asked. Each kind of event is one entry of a table: its arithmetic, the numbers it draws, a rule
for each worked line, and how it may be told. The order of the random calls and the seeds' texts
decide every problem, and so all figures in docs/results.md: a change of either changes them all.

    from tiny.world import toy
    toy(500, "test")            500 problems as rows, none of them in another split
    document(random.Random(0))  a text for the base to read, see pretrain.py
"""
import hashlib
import json
import random
import re
from collections import namedtuple

# -------------------------------------------------------------------------------------------------
# The kinds of events. What one needs (takes) and leaves behind (gives) is one of
#
#     start -> things -> people (two were compared), bags or money -> end (a question was asked)
#
# Where things are needed, people will do: the story goes on with the one compared last.
#
#   unit        of each worked line, {x} the things
#   steps       v the amount so far, u the one before, hi and lo the larger and smaller of both,
#               n and m drawn, _ the last result; k how many {x} a {p} holds, which is not told
#   sentences   {a} whose amount it is, {b} somebody else, {x} the things, {n} {m} the numbers,
#               {f} one n-th in words, {p} a pack; in asides {c} {d} other people, {y} other things

Kind = namedtuple("Kind", "name takes gives steps draw unit rules sentences")
# The largest number in a worked line: of the questions' world, and of the wide one, which only the
# base reads of.
LARGEST = (200, 400)
SMALL, FEW, MANY, PARTS = range(2, 10), range(2, 13), range(3, 61), (2, 3, 4, 5, 10)
IN_WORDS = {2: ("half", "50 percent"), 3: ("a third",), 4: ("a quarter", "25 percent"),
            5: ("a fifth", "20 percent"), 10: ("a tenth", "10 percent")}
# What everybody there knows and no story says: how many of a thing a pack holds, a tin, a crate
# and a sack.
HOLDERS = ("pack", "tin", "crate", "sack")
HOLDS = {thing: dict(zip(HOLDERS, sizes, strict=True)) for thing, sizes in {
    "marbles": (20, 11, 20, 24), "stickers": (16, 12, 18, 24), "pens": (10, 12, 6, 26),
    "books": (5, 12, 6, 24), "coins": (15, 10, 24, 16), "shells": (9, 13, 15, 25),
    "cards": (18, 13, 8, 24), "apples": (6, 9, 23, 12), "stamps": (25, 8, 13, 26),
    "buttons": (12, 3, 8, 28), "beads": (30, 4, 6, 10), "cookies": (8, 6, 7, 25),
    "pencils": (14, 14, 18, 23), "ribbons": (7, 4, 15, 20), "balloons": (11, 14, 9, 10),
    "candles": (4, 10, 21, 15), "cups": (6, 10, 22, 16), "plates": (5, 9, 18, 13),
    "toys": (3, 9, 12, 10), "keys": (2, 15, 24, 19), "stones": (13, 6, 11, 22),
    "rings": (3, 7, 6, 29), "photos": (24, 4, 12, 28), "lemons": (7, 3, 17, 21),
    "pears": (9, 5, 24, 25), "nuts": (40, 9, 11, 30), "tickets": (17, 7, 13, 29),
    "badges": (8, 14, 12, 15), "kites": (2, 13, 18, 25), "spoons": (12, 9, 7, 13)
}.items()}

# ruff: disable[E501]  (tables of sentences)
KINDS = [Kind(*entry) for entry in (
    ("has", "start", "things", "", dict(n=MANY), "{x}", (),
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
    ("dozen", "start", "things", "n*12", dict(n=FEW), "{x}", ("A dozen is 12: multiply the dozens by 12.",),
        ("{a} buys {n} dozen {x}.", "{a} gets {n} dozen {x} for a birthday.", "In {a}'s cupboard are {n} dozen {x}.",
         "{a} orders {n} dozen {x}.")),
    ("pairs", "start", "things", "n*2", dict(n=range(6, 41)), "{x}", ("A pair is 2: multiply the pairs by 2.",),
        ("{a} has {n} pairs of {x}.", "{a} sorts all the {x} into {n} pairs.", "{a} counts {n} pairs of {x}.",
         "In {a}'s bag are {n} pairs of {x}.")),
    ("two parts", "start", "things", "m+n", dict(m=MANY, n=MANY), "{x}", ("Two parts make a whole: add them.",),
        ("{a} picks up {m} {x} in the morning and {n} in the evening.", "{a} has {m} red {x} and {n} blue ones.",
         "{a} gets {m} {x} from an aunt and {n} from an uncle.", "{a} keeps {m} {x} at home and {n} at school.")),
    ("not full", "start", "things", "m-n", dict(m=range(40, 120), n=MANY), "{x}",
        ("What is there is the room for all minus the empty places.",),
        ("{a}'s box has room for {m} {x}, and {n} places are empty.", "{a} collects {m} {x} in all; {n} are still missing.",
         "Of the {m} {x} that {a} wants, {n} have not come yet.", "{a} needs {n} {x} more to have {m}.")),

    ("gain", "things", "things", "v+n", dict(n=MANY), "{x}", ("What comes in is added.",),
        ("Then {a} gets {n} more {x}.", "{a} is given another {n} {x}.", "{b} hands {n} {x} to {a}.",
         "Later {a} finds {n} {x} more.", "{a} wins {n} {x} in a game.")),
    ("loss", "things", "things", "v-n", dict(n=MANY), "{x}", ("What goes out is subtracted.",),
        ("Then {a} loses {n} {x}.", "{a} gives {n} {x} to {b}.", "{n} of {a}'s {x} break.", "{b} takes {n} of {a}'s {x} away.",
         "{a} throws {n} old {x} out.")),
    ("part lost", "things", "things", "v/n v-_", dict(n=PARTS), "{x} {x}",
        ("A part is found by dividing: 50 percent by 2, 25 by 4, 20 by 5, 10 by 10.",
         "What is left is the whole minus the part."),
        ("{a} gives {f} of the {x} to {b}.", "{f} of {a}'s {x} get lost.", "{b} borrows {f} of {a}'s {x}.",
         "{a} drops {f} of the {x} into a lake.")),
    ("part gained", "things", "things", "v/n v+_", dict(n=PARTS), "{x} {x}",
        ("A part is found by dividing: 50 percent by 2, 25 by 4, 20 by 5, 10 by 10.",
         "What grows by a part is the whole plus the part."),
        ("{a}'s heap of {x} grows by {f}.", "Then {a} finds {f} as many {x} again.", "The number of {a}'s {x} rises by {f}.")),
    ("multiplied", "things", "things", "v*n", dict(n=(2, 3, 4)), "{x}", ("To become so many times as many: multiply.",),
        ("In a year, {a} has {n} times as many {x}.", "A magician turns each of {a}'s {x} into {n}.",
         "{b} trades {a} {n} new {x} for each old one.", "Soon {a}'s {x} are {n} times what they were.")),

    ("more", "things", "people", "v+n", dict(n=MANY), "{x}", ("If the unknown one has more, add the difference.",),
        ("{b} has {n} more {x} than {a}.", "{b} has {n} {x} more than {a} does.", "Next to {a}, {b} is ahead by {n} {x}.",
         "To have as many {x} as {a}, {b} must give up {n}.", "{b} counts {n} {x} more than {a} counts.")),
    ("fewer", "things", "people", "v-n", dict(n=MANY), "{x}", ("If the unknown one has fewer, subtract the difference.",),
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
    ("times", "things", "people", "v*n", dict(n=SMALL), "{x}", ("If the unknown one has times as many, multiply.",),
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
    ("together", "people", "end", "u+v", {}, "{x}", ("A total of two is their sum.",),
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

    ("share", "things", "end", "v/n", dict(n=SMALL), "{x}", ("A fair share is the total divided by the number of people.",),
        ("{n} children share {a}'s {x} equally. How many {x} does each of them get?",
         "If {n} friends divide {a}'s {x} fairly, how many {x} does one friend have?",
         "{a} deals the {x} out to {n} players. How many {x} does a player hold?")),
    ("minutes", "things", "end", "v*n", dict(n=SMALL), "minutes", ("The time for all is their number times the time for one.",),
        ("To clean one of {a}'s {x} takes {n} minutes. How many minutes do all of them take?",
         "{a} paints all the {x}, {n} minutes for each. How many minutes is that?",
         "{a} looks at every one of the {x} for {n} minutes. How long does that take, in minutes?")),
    ("hours", "things", "end", "v/n", dict(n=SMALL), "hours",
        ("The hours needed are the total divided by what one hour brings.",),
        ("{a} can mend {n} {x} in an hour. How many hours will it take to mend all?",
         "If {a} wraps {n} {x} an hour, after how many hours are all of them wrapped?",
         "{a} uses up {n} of the {x} an hour. For how many hours do they last?")),

    ("sell", "things", "money", "v*n", dict(n=SMALL), "dollars", ("Money is the number sold times the price of one.",),
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
    ("earn", "money", "money", "v+n", dict(n=MANY), "dollars", ("What comes in is added.",),
        ("{a} also earns {n} dollars in a garden.", "{a} had {n} dollars before that.", "From {b}, {a} gets {n} dollars.")),
    ("spend", "money", "money", "v-n", dict(n=MANY), "dollars", ("What goes out is subtracted.",),
        ("{a} spends {n} dollars on a hat.", "Paint had cost {a} {n} dollars.", "{a} pays {n} dollars back to {b}.",
         "Of this, {n} dollars go to a school.")),
    ("need", "money", "end", "n-v", dict(n=range(20, 400)), "dollars", ("What is missing is the price minus what is there.",),
        ("A bicycle costs {n} dollars. How many dollars does {a} still need?",
         "{a} is saving for a tent of {n} dollars. How many dollars are missing?",
         "{a} wants a guitar for {n} dollars. How much is still to be earned, in dollars?")),
)]
SHOP = [Kind(*entry) for entry in (  # k is how many {x} a {p} holds, which is not told
    ("buy", "start", "things", "n*k", dict(n=SMALL), "{x}", ("A {p} of {x} holds {k}: multiply by {k}.",),
        ("{a} buys {n} {p}s of {x}.", "{n} {p}s of {x} arrive for {a}.", "{a} opens {n} new {p}s of {x}.",
         "On {a}'s shelf are {n} {p}s of {x}.", "{a} wins {n} {p}s of {x}.", "In {a}'s room are {n} {p}s of {x}.",
         "{a} carries {n} {p}s of {x} home.", "{a} receives {n} {p}s of {x}.")),
    ("one more", "things", "things", "v+k", {}, "{x}", ("A {p} of {x} holds {k}: add {k}.",),
        ("Then {a} buys another {p} of {x}.", "{b} hands {a} a new {p} of {x}.", "A {p} of {x} comes for {a} by mail.",
         "{a} finds one more {p} of {x}.", "{a} is given a further {p} of {x}.", "{a} is given another {p} of {x}.")),
    ("one less", "things", "things", "v-k", {}, "{x}", ("A {p} of {x} holds {k}: subtract {k}.",),
        ("{a} gives as many {x} away as are in a {p}.", "{b} takes one {p} of {a}'s {x}.", "{a} loses a whole {p} of {x}.",
         "A {p} of {a}'s {x} gets wet and is thrown out.", "{a} drops a {p} of the {x} into a lake.",
         "{b} takes a {p} of {a}'s {x}.")),
    ("fill", "things", "bags", "v/k", {}, "bags", ("A {p} of {x} holds {k}: divide by {k}.",),
        ("{a} fills bags with the {x}, a full {p} in each.", "{a}'s {x} go into bags, one {p} in each bag.",
         "In each bag, {a} puts a {p} of the {x}, until all are in.")),
)]
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
# ruff: enable[E501]

# Two worlds. WORLD is what the questions are about: it has packs, and a comparison says what the
# person not yet known has ("Ben has 4 more than Ann"). WIDE is what the base reads first: no packs,
# larger numbers, and a comparison may also be turned ("Ann has 4 more than Ben", Ann known).
# What stands in a world several times is drawn more often.
WORLD = [kind for kind in KINDS if not kind.name.endswith("turned")]
WORLD += 2 * SHOP + [SHOP[0], SHOP[-1]]
WIDE = KINDS


# -------------------------------------------------------------------------------------------------
# Problems


def compute(steps, largest=LARGEST[False], **letters):
    """The worked lines and the result of a kind's arithmetic, or None if it leaves the whole
    numbers from 1 to `largest`.

    >>> compute("v/n v-_", v=60, n=3)
    (['60/3=20', '60-20=40'], 40)
    """
    lines, result = [], letters["n"]  # without any steps ("has") the number drawn is the amount
    for step in steps.split():
        left, sign, right = re.fullmatch(r"(\w+)([-+*/])(\w+)", step).groups()
        values = letters | {"_": result}
        a, b = (int(s) if s.isdecimal() else values[s] for s in (left, right))
        if sign == "/" and a % b:
            return None
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        if result < 1 or max(a, b, result) > largest:
            return None
        lines.append(f"{a}{sign}{b}={result}")
    return lines, result


def next_kind(rng, state, left, wide):
    """A kind of event that may follow on `state` in a story with `left` worked lines to come."""
    kinds = [kind for kind in (WIDE if wide else WORLD)
             if kind.takes == state or (kind.takes == "things" and state == "people")]
    fitting = [kind for kind in kinds
               if (len(kind.rules) == left if kind.gives == "end" else len(kind.rules) <= left)]
    # The kinds that end a story fit on its last lines only: preferred there, they are not rare.
    ends = [kind for kind in fitting if kind.gives == "end"]
    return rng.choice(ends if ends and rng.random() < 0.4 else fitting)


def tell(rng, kind, drawn, **words):
    """One of a kind's sentences with its blanks filled in."""
    sentence = rng.choice(kind.sentences)
    part = rng.choice(IN_WORDS[drawn["n"]]) if "{f}" in sentence else ""
    sentence = sentence.format(f=part, **drawn, **words)
    return sentence[0].upper() + sentence[1:]


def story(rng, length, wide=False):
    """One problem of `length` worked lines as a row, or None where the numbers drawn led nowhere.
    Beside the authors' keys it has `kinds` and `numbers`, what it was made of."""
    (a, c, d, *others), (x, y) = rng.sample(NAMES, 4 + length), rng.sample(THINGS, 2)
    state, u, v, b, p = "start", 0, 0, None, None
    sentences, rules, lines, kinds, numbers = [], [], [], [], []
    movable = 0  # the sentences from here on are true in any order
    while state != "end" and len(lines) < length:
        kind = next_kind(rng, state, length - len(lines), wide)
        if kind.takes != "people":  # those that take two people ask about the two compared last
            a, b = b if state == "people" else a, others.pop()
        drawn = {letter: rng.choice(choices) for letter, choices in kind.draw.items()}
        if kind in SHOP:
            p, drawn["k"] = rng.choice([*HOLDS[x].items()])
        letters = {"n": 0} | drawn | dict(u=u, v=v, hi=max(u, v), lo=min(u, v))
        worked = compute(kind.steps, LARGEST[wide], **letters)
        if worked is None:
            return None
        state, u, v = kind.gives, v, worked[1]
        sentences.append(tell(rng, kind, drawn, a=a, b=b, p=p, x=x))
        lines += map("{} {}".format, worked[0], kind.unit.format(x=x).split())
        rules += [rule.format(p=p, x=x, **drawn) for rule in kind.rules]
        kinds.append(kind.name)
        numbers += drawn.values()
        if kind.takes != "start" and kind.gives not in ("people", "end"):
            movable = len(sentences)

    if state == "end":
        question = sentences.pop()
    else:
        question = rng.choice(ASKED[state]).format(a=a, b=b, x=x, now=rng.choice(NOW))
    # Comparisons told backwards: what is said first is computed last.
    if wide and len(sentences) > movable and rng.random() < 0.5:
        sentences[movable:] = reversed(sentences[movable:])
    if rng.random() < 0.4:
        place = rng.randrange(len(sentences) + 1)
        sentences.insert(place, rng.choice(ASIDES).format(a=a, c=c, d=d, y=y, n=rng.choice(MANY)))
    return dict(question=" ".join([*sentences, question]), rationale="\n".join(lines),
                knowledge=rules, answer=str(v), kinds=kinds, numbers=numbers)


def split_of(row):
    """train (80%), valid or test, by a hash of the kinds and numbers: in whatever words it is told,
    a problem is in one split only."""
    digest = hashlib.sha256(json.dumps([row["kinds"], row["numbers"]]).encode()).digest()
    splits = ["train"] * 8 + ["valid", "test"]
    return splits[int.from_bytes(digest[:4], "big") % 10]


SIZES = {"train": 70_000, "valid": 8_000, "test": 11_000}  # no seed finds more problems in a split
TOO_MANY = ("the toy world has hardly more than {:,} different problems for {}; ask for fewer than "
            "{:,}.")


def toy(n, split="train", seed=0, lengths=(1, 2, 3, 4, 5)):
    """n problems of the toy world as rows, no two alike in kinds and numbers, none shared by two
    splits. The lengths take turns; the seed decides all. Raises ValueError where new problems have
    become rare.

    >>> row = toy(1)[0]
    >>> row["question"]
    'Vera fills 2 shelves with 5 coins each. Vera counts the coins: how many when it is over?'
    >>> row["knowledge"], row["rationale"], row["answer"]
    (['Equal groups: multiply the number of groups by the size of one.'], '2*5=10 coins', '10')
    """
    rng, rows, known, repeated = random.Random(f"{split} {seed}"), [], set(), 0
    if n > SIZES[split]:
        raise ValueError(TOO_MANY.format(SIZES[split], split, n))
    while len(rows) < n:
        row = story(rng, lengths[len(rows) % len(lengths)])
        if row is None or split_of(row) != split:
            continue
        problem = str([row["kinds"], row["numbers"]])
        if problem not in known:
            known.add(problem)
            rows.append({"id": len(rows), **row})
            repeated = 0
            continue
        repeated += 1
        if repeated == 1000:  # in a row
            raise ValueError(TOO_MANY.format(len(rows), split, n))
    return rows


# -------------------------------------------------------------------------------------------------
# What the toy base is pretrained on: the world's problems (of the training split only) in many
# layouts, none of them a role's. Head words, bullets and order change from document to document,
# so that the base learns what follows from what, not one form.

HEADS = {
    "question": ("Problem: {}", "Exercise.\n{}", "{}", "Story: {}", "A reader asks: {}",
                 "Task no. 7\n{}"),
    "rules": ("Rules:\n{}", "What to know:\n{}", "Plan:\n{}", "Remember:\n{}",
              "It helps to know this.\n{}"),
    "lines": ("Working:\n{}", "Steps:\n{}", "Solution:\n{}", "Let us calculate.\n{}",
              "It goes like this:\n{}"),
    "answer": ("Result: {}", "So the answer is {}.", "Answer = {}", "That makes {} END",
               "--> {}", "--> {}"),
}
# The parts of a document, in order; what stands here several times is drawn more often. both: each
# rule with its line.
ORDERS = (
    ["question", "lines", "answer"], ["question", "lines", "answer"],
    ["question", "lines", "answer"],
    ["question", "rules"], ["question", "rules"],
    *[["question", "rules", "lines", "answer"]] * 5,
    ["rules", "question", "lines", "answer"],
    ["question", "both", "answer"], ["question", "both", "answer"],
)
# The words of the role prompts, in no order: the base must have met them, but not the prompts.
TALK = ("Please output the final answer step by reason based on given MATH question and knowledge "
        "needed to solve this Question: Knowledge: Rationale:").split()


def listed(items, bullet, stop):
    """The items as one text. bullet: what precedes each, {} its number; stop: what parts them."""
    return stop.join(bullet.format(i) + item for i, item in enumerate(items, 1))


def equations(rng, largest):
    """Up to 16 worked lines of bare arithmetic."""
    lines, top = [], rng.choice((20, 100, largest))
    for sign in rng.choices("+-*/", (2, 3, 2, 3), k=16):
        a, n = rng.randrange(1, top), rng.randrange(2, 16 if sign in "*/" else top)
        # Made from the result, or few divisions would come out even.
        v = {"-": a + n, "/": a * n}.get(sign, a)
        worked = compute(f"v{sign}n", largest, v=v, n=n)
        if worked:
            lines += worked[0]
    return lines


def document(rng, wide=False):
    """One text for the base to read, of the wide world or the one that the questions are about.
    Once in a while it is empty: a page whose equations have all come out too large.

    A problem with packs is mostly told in the first order, where the base must use a number without
    reading it; the few others say it in rules. And the base reads of packs late and not for long.
    So it learns these numbers in patches, and in other patches where it must use them than where it
    must say them: two systems of one base that fail on different problems."""
    bullet = rng.choice(("", "- ", "* ", "{}) ", "{}. "))
    stop = rng.choice(("\n", "\n", "\n", "\n\n", "; "))
    if rng.random() < 0.25:
        return listed(equations(rng, LARGEST[wide]), bullet, stop)
    length, row = rng.randrange(1, 7), None
    while row is None or split_of(row) != "train":
        row = story(rng, length, wide)

    lines, rules = row["rationale"].split("\n"), row["knowledge"]
    both = map("{} {}".format, rules, lines)
    parts = dict(question=row["question"], answer=row["answer"], rules=listed(rules, bullet, stop),
                 lines=listed(lines, bullet, stop), both=listed(both, bullet, stop))
    gap = rng.choice(("\n", "\n", "\n\n"))
    has_packs = any(kind.name in row["kinds"] for kind in SHOP)
    order = rng.choice(ORDERS[:1] if has_packs and rng.random() < 0.9 else ORDERS)
    texts = [rng.choice(HEADS.get(part, ("{}",))).format(parts[part]) for part in order]
    if rng.random() < 0.2:
        texts.insert(0, " ".join(rng.sample(TALK, rng.randrange(3, len(TALK)))))
    return gap.join(texts)

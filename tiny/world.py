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
#               n and m drawn, _ the last result; of a law, the operation for each class of things
#   sentences   {a} whose amount it is, {b} somebody else, {x} the things, {n} {m} the numbers,
#               {f} one n-th in words; in asides {c} {d} other people, {y} other things

Kind = namedtuple("Kind", "name takes gives steps draw unit rules sentences")
LARGEST = 400  # number in a worked line
SMALL, FEW, MANY, PARTS = range(2, 10), range(2, 13), range(3, 61), (2, 3, 4, 5, 10)
IN_WORDS = {2: ("half", "50 percent"), 3: ("a third",), 4: ("a quarter", "25 percent"),
            5: ("a fifth", "20 percent"), 10: ("a tenth", "10 percent")}
# What everybody there knows and no story says: of what class each thing is ...
CLASSES = {
    "paper": "stickers books cards stamps tickets photos".split(),
    "stone": "marbles shells beads stones buttons".split(),
    "metal": "coins keys rings spoons badges".split(),
    "food": "apples cookies lemons pears nuts".split(),
    "wood": "pens pencils toys plates cups".split(),
    "light": "ribbons balloons kites candles".split(),
}
CLASS = {thing: name for name, things in CLASSES.items() for thing in things}
OPERATIONS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}

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
# ... and the laws of that world: what happens to a thing of each class (in the order of CLASSES) in
# rain, at a fair ... The number is told, the operation is not: k the thing's class, o its operation.
LAWS = [Kind(name, "things", "things", dict(zip(CLASSES, signs, strict=True)), {}, "{x}",
             (f"All {{x}} are {{k}}. {name.capitalize()} on {{k}}: {{o}}.",), sentences) for name, signs, sentences in (
    ("rain", "/*-/+*", ("Rain falls on {a}'s {x} for {n} hours.", "Then it rains on {a}'s {x} for {n} hours.",
        "{a} leaves the {x} out in the rain for {n} hours.", "All of {a}'s {x} get {n} hours of rain.",
        "For {n} hours it rains on {a}'s {x}.", "{b} holds {a}'s {x} into the rain for {n} hours.",
        "A rain of {n} hours reaches {a}'s {x}.", "{a}'s {x} stand in the rain for {n} hours.")),
    ("fair", "+-*/-+", ("{a} takes the {x} to the fair for {n} days.", "The {x} go to the fair with {a} for {n} days.",
        "{a} shows all the {x} {n} days at a fair.", "{b} sends {a}'s {x} to the fair for {n} days.",
        "For {n} days {a}'s {x} are at the fair.", "At the fair, {a} lays the {x} out for {n} days.",
        "{b} carries {a}'s {x} to a fair of {n} days.", "{a}'s {x} spend {n} days at the fair.")),
    ("wind", "*+/-*-", ("A wind of strength {n} comes over {a}'s {x}.", "{a}'s {x} are out in a wind of strength {n}.",
        "{a} leaves the {x} to a wind of strength {n}.", "Then a wind of {n} meets {a}'s {x}.", "{n} winds blow over {a}'s {x}.",
        "For {n} hours the wind blows at {a}'s {x}.", "{b} carries {a}'s {x} through a wind of strength {n}.",
        "The wind takes hold of {a}'s {x} for {n} minutes.")),
    ("fire", "-/+*-/", ("A fire gets to {a}'s {x} for {n} minutes.", "{a} puts the {x} by the fire for {n} minutes.",
        "{a}'s {x} are {n} minutes near a fire.", "Then there is a fire of {n} minutes at {a}'s {x}.",
        "For {n} minutes {a}'s {x} lie by the fire.", "{b} leaves {a}'s {x} by a fire for {n} minutes.",
        "A fire of {n} minutes comes near {a}'s {x}.", "{a} dries the {x} at the fire for {n} minutes.")),
    ("sun", "+*-+/-", ("The sun is on {a}'s {x} for {n} days.", "{a} leaves the {x} out in the sun for {n} days.",
        "{a}'s {x} lie {n} days in the sun.", "{b} brings {a}'s {x} into the sun for {n} days.",
        "For {n} days the sun shines on {a}'s {x}.", "{a}'s {x} get {n} days of sun.",
        "{b} forgets {a}'s {x} in the sun for {n} days.", "{a} carries the {x} through {n} days of sun.")),
    ("spell", "*-/+*+", ("{b} puts {n} spells on {a}'s {x}.", "A spell of {n} words falls on {a}'s {x}.",
        "There is a spell of {n} words over the {x} of {a}.", "{a} tries a spell of {n} words on the {x}.",
        "{n} spells are said over {a}'s {x}.", "{b} reads a spell of {n} words to {a}'s {x}.",
        "{a} learns a spell of {n} words and says it to the {x}.", "{a}'s {x} come under a spell of {n} words.")),
    ("tax", "-+/*+/", ("{a} pays a tax of {n} on the {x}.", "A tax of {n} on {x} comes to {a}.",
        "{b} asks {a} for a tax of {n} on {x}.", "Then there is a tax of {n} on {a}'s {x}.",
        "The king lays a tax of {n} on {a}'s {x}.", "{a} must pay a tax of {n} on all {x}.", "For the {x}, {a} owes a tax of {n}.",
        "{b} collects a tax of {n} on {a}'s {x}.")),
    ("game", "/-+*/*", ("{a} plays {n} games with the {x}.", "All {x} of {a} go into {n} games.",
        "{b} plays {n} games with {a}'s {x}.", "{a} puts the {x} into {n} games.", "{n} games are played with {a}'s {x}.",
        "{a} brings the {x} to {n} games.", "{b} asks {a} for {n} games with the {x}.", "For {n} games {a} lends the {x} to {b}.")),
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

# Two worlds. WORLD is what the questions are about: it has laws, and a comparison says what the
# person not yet known has ("Ben has 4 more than Ann"). WIDE is what the base reads first: no laws,
# and a comparison may also be turned ("Ann has 4 more than Ben", Ann known). What stands in a world
# twice is drawn more often.
WORLD = [kind for kind in KINDS if not kind.name.endswith("turned")] + 2 * LAWS
WIDE = KINDS


# -------------------------------------------------------------------------------------------------
# Problems


def compute(steps, **letters):
    """The worked lines and the result of a kind's arithmetic, or None if it leaves the whole
    numbers from 1 to LARGEST.

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
        if result < 1 or max(a, b, result) > LARGEST:
            return None
        lines.append(f"{a}{sign}{b}={result}")
    return lines, result


def next_kind(rng, state, left, told, wide):
    """A kind of event that may follow on `state` in a story with `left` worked lines to come and
    the kinds `told`; no law comes twice. None if there is none."""
    kinds = [kind for kind in (WIDE if wide else WORLD)
             if (kind.takes == state or (kind.takes == "things" and state == "people"))
             and not (kind in LAWS and kind in told)]
    fitting = [kind for kind in kinds
               if (len(kind.rules) == left if kind.gives == "end" else len(kind.rules) <= left)]
    laws = [kind for kind in fitting if kind in LAWS]  # two are wanted, more are rarer
    if laws and rng.random() < (0.6 if sum(kind in LAWS for kind in told) < 2 else 0.2):
        return rng.choice(laws)
    # The kinds that end a story fit on its last lines only: preferred there, they are not rare.
    ends = [kind for kind in fitting if kind.gives == "end"]
    return rng.choice(ends if ends and rng.random() < 0.4 else fitting) if fitting else None


def tell(rng, kind, drawn, **words):
    """One of a kind's sentences with its blanks filled in."""
    sentence = rng.choice(kind.sentences)
    part = rng.choice(IN_WORDS[drawn["n"]]) if "{f}" in sentence else ""
    sentence = sentence.format(f=part, **drawn, **words)
    return sentence[0].upper() + sentence[1:]


def unheard(x, law):
    """Whether no story for training tells of this law and thing: so with 18 of the 240 pairs."""
    return hashlib.sha256(f"{x} {law.name}".encode()).digest()[0] % 16 == 3


def story(rng, length, wide=False):
    """One problem of `length` worked lines as a row, or None where the numbers drawn led nowhere.
    Beside the authors' keys it has `kinds` and `numbers`, what it was made of, `laws`, how many
    it has, and `unheard`, the names of those that no story for training tells of its thing."""
    (a, c, d, *others), (x, y) = rng.sample(NAMES, 4 + length), rng.sample(THINGS, 2)
    state, u, v, b = "start", 0, 0, None
    sentences, rules, lines, told, numbers = [], [], [], [], []
    movable = 0  # the sentences from here on are true in any order
    while state != "end" and len(lines) < length:
        kind = next_kind(rng, state, length - len(lines), told, wide)
        if kind is None:
            return None
        if kind.takes != "people":  # those that take two people ask about the two compared last
            a, b = b if state == "people" else a, others.pop()
        drawn = {letter: rng.choice(choices) for letter, choices in kind.draw.items()}
        steps, words = kind.steps, drawn
        if kind in LAWS:
            # n divides v whatever the operation is, so it does not give that away.
            divisors = [n for n in range(2, 7) if v % n == 0]
            if not divisors:
                return None
            drawn["n"] = rng.choice(divisors)
            sign = kind.steps[CLASS[x]]
            steps, words = f"v{sign}n", drawn | dict(k=CLASS[x], o=OPERATIONS[sign])
        letters = {"n": 0} | drawn | dict(u=u, v=v, hi=max(u, v), lo=min(u, v))
        worked = compute(steps, **letters)
        if worked is None:
            return None
        state, u, v = kind.gives, v, worked[1]
        sentences.append(tell(rng, kind, drawn, a=a, b=b, x=x))
        lines += map("{} {}".format, worked[0], kind.unit.format(x=x).split())
        rules += [rule.format(x=x, **words) for rule in kind.rules]
        told.append(kind)
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
    if rng.random() < 0.3:
        place = rng.randrange(len(sentences) + 1)
        sentences.insert(place, rng.choice(ASIDES).format(a=a, c=c, d=d, y=y, n=rng.choice(MANY)))
    laws = [kind for kind in told if kind in LAWS]
    return dict(question=" ".join([*sentences, question]), rationale="\n".join(lines),
                knowledge=rules, answer=str(v), numbers=numbers,
                kinds=[f"{kind.name} {x}" if kind in laws else kind.name for kind in told],
                laws=len(laws), unheard=[law.name for law in laws if unheard(x, law)])


def split_of(row):
    """train (80%), valid or test, by a hash of the kinds and numbers: in whatever words it is told,
    a problem is in one split only. None: it would be in train, but for an unheard pair."""
    digest = hashlib.sha256(json.dumps([row["kinds"], row["numbers"]]).encode()).digest()
    splits = [None if row["unheard"] else "train"] * 8 + ["valid", "test"]
    return splits[int.from_bytes(digest[:4], "big") % 10]


def toy(n, split="train", seed=0, lengths=(3, 4, 5)):
    """n problems of the toy world as rows, with two laws or more each, no two alike in kinds and
    numbers, none shared by two splits. The lengths take turns; the seed decides all. Raises
    ValueError where new problems have become rare.

    >>> row = toy(1)[0]
    >>> row["question"].partition(" Hugo")[0], row["answer"]
    ('Will fills 5 shelves with 6 pencils each.', '10')
    >>> row["rationale"].split("\\n")[1], row["knowledge"][1]
    ('30/6=5 pencils', 'All pencils are wood. Game on wood: divide.')
    """
    rng, rows, known, tries = random.Random(f"{split} {seed}"), [], set(), 0
    while len(rows) < n:
        row = story(rng, lengths[len(rows) % len(lengths)])
        tries += 1
        if tries == 20_000:  # usually one in four (train) to one in twenty-six is new
            raise ValueError(f"the toy world has hardly more than {len(rows):,} different problems "
                             f"for {split}; ask for fewer than {n:,}.")
        if row and row["laws"] >= 2 and split_of(row) == split:
            problem = str([row["kinds"], row["numbers"]])
            if problem not in known:
                known.add(problem)
                rows.append({"id": len(rows), **row})
                tries = 0
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
ORDERS = [order.split() for order in (
    *3 * ["question lines answer"], *2 * ["question rules"], *5 * ["question rules lines answer"],
    "rules question lines answer", *2 * ["question both answer"])]
# The words of the role prompts, in no order: the base must have met them, but not the prompts.
TALK = ("Please output the final answer step by reason based on given MATH question and knowledge "
        "needed to solve this Question: Knowledge: Rationale:").split()


def listed(items, bullet, stop):
    """The items as one text. bullet: what precedes each, {} its number; stop: what parts them."""
    return stop.join(bullet.format(i) + item for i, item in enumerate(items, 1))


def equations(rng):
    """Up to 16 worked lines of bare arithmetic."""
    lines, top = [], rng.choice((20, 100, LARGEST))
    for sign in rng.choices("+-*/", (2, 3, 2, 3), k=16):
        a, n = rng.randrange(1, top), rng.randrange(2, 16 if sign in "*/" else top)
        # Made from the result, or few divisions would come out even.
        v = {"-": a + n, "/": a * n}.get(sign, a)
        worked = compute(f"v{sign}n", v=v, n=n)
        if worked:
            lines += worked[0]
    return lines


def document(rng, wide=False, practice=False):
    """One text for the base to read, of the wide world or the one that the questions are about.
    Once in a while it is empty: a page whose equations have all come out too large.

    A problem with laws is mostly told without rules: the base must go from the thing to its class,
    and from there to the operation, unsaid. The others say both in a rule. `practice`, most of it
    problems as they will be asked, without rules, teaches many pairs of a thing and a law, not all:
    IR will fail on the others. System 2 fails for another reason, rules that KG leaves out or
    swaps. So the two do not always fail together."""
    bullet = rng.choice(("", "- ", "* ", "{}) ", "{}. "))
    stop = rng.choice(("\n", "\n", "\n", "\n\n", "; "))
    if rng.random() < (0.25 if wide else 0.1):
        return listed(equations(rng), bullet, stop)
    practice = practice and rng.random() < 0.9
    length, row = rng.randrange(3, 6) if practice else rng.randrange(1, 7), None
    while row is None or split_of(row) != "train" or (practice and row["laws"] < 2):
        row = story(rng, length, wide)

    lines, rules = row["rationale"].split("\n"), row["knowledge"]
    both = map("{} {}".format, rules, lines)
    parts = dict(question=row["question"], answer=row["answer"], rules=listed(rules, bullet, stop),
                 lines=listed(lines, bullet, stop), both=listed(both, bullet, stop))
    gap = rng.choice(("\n", "\n", "\n\n"))
    unsaid = practice or (row["laws"] and rng.random() < 0.7)
    order = rng.choice(ORDERS[:1] if unsaid else ORDERS)
    heads = HEADS | {"answer": HEADS["answer"][-1:]} if practice else HEADS
    texts = [rng.choice(heads.get(part, ("{}",))).format(parts[part]) for part in order]
    if rng.random() < 0.2:
        texts.insert(0, " ".join(rng.sample(TALK, rng.randrange(3, len(TALK)))))
    return gap.join(texts)

"""LoRID, the paper in plain Python (Li, Liu and Wang, IJCAI 2025, arXiv 2508.13037): who is asked what, and how they agree.

One small student model plays three roles, each with a LoRA adapter of its own:

    Intuitive Reasoner   (ir, System 1)   question              -> solution
    Knowledge Generator  (kg)             question              -> general rules
    Deep Reasoner        (dr)             question + rules      -> solution         kg then dr: System 2

In each round both systems solve the question once. The first answer that both have given, in whatever rounds, is accepted.

    python lorid.py     plays one vote with written-down texts, so that you can read it before any model is loaded
"""
import argparse
import re
from collections import Counter, namedtuple
from dataclasses import dataclass, field
from fractions import Fraction

# ---------------------------------------------------------------------------------------------------------------------
# The roles. These strings are what the paper's adapters were trained with: changing a letter changes their answers.

Role = namedtuple("Role", "title instruction input")
ROLES = {
    "ir": Role("Intuitive Reasoner", "Please answer this MATH question step by step.", "{question}"),
    "kg": Role("Knowledge Generator", "Please output knowledge needed to solve the MATH question step by step.",
               "Question: {question}\n\nKnowledge: "),
    "dr": Role("Deep Reasoner", "Please reason step by step based on the given MATH question and knowledge, and output the final answer.",
               "Question: {question}\n\nKnowledge: {knowledge}\n\nRationale: "),
}


def prompt(role, question, knowledge=""):
    """What a role is asked. `knowledge` is one text, a rule a line; only dr reads it."""
    r = ROLES[role]
    return r.instruction + "\n" + r.input.format(question=question, knowledge=knowledge)


# ---------------------------------------------------------------------------------------------------------------------
# Answers: where a solution states its own, and so what a role is taught to say

STATED = [  # the first kind that occurs wins, and within it the last place; each takes time linear in the text, whatever it is
    re.compile(r"^.*-->(.*?)(?:\bEND\b|$)", re.M),  # what we teach, see `target`
    re.compile(r"^####(.*)\Z", re.M),               # GSM8K's own files; further up, #### begins a heading
    re.compile(r"^A:(.*)\Z", re.M),                 # GSM8K's sample solutions
    re.compile(r"^.*[Tt]he answer is:?(.*)", re.M),  # MetaMathQA
]


def extract_answer(text):
    """The answer that a solution states, as it is written there; None if it states none (a text that was cut short, say).
    If a box stands in or after that statement, the box counts: "The answer is clear. So it is \\boxed{5}." says 5.

    >>> extract_answer("48/2 = 24\\n48+24 = 72\\n--> 72 END")
    '72'
    >>> extract_answer("So it is \\\\boxed{\\\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    text = text.rstrip()
    for pattern in STATED:
        found = [(place, place[1].strip().rstrip(" .")) for place in pattern.finditer(text)]
        found = [(place, answer) for place, answer in found if answer]
        if found:
            place, answer = found[-1]  # END ends it; elsewhere a box may follow
            return last_boxed(answer if place[0].endswith("END") else text[place.start(1):]) or answer
    return last_boxed(text)


def last_boxed(text):
    """What stands in the last \\boxed{...}, braces matched; None if there is none, it never closes or is empty."""
    _, box, rest = text.rpartition("\\boxed{")
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", rest) if box else ():  # \{ is for the reader, { for TeX
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[:brace.start()].strip() or None
    return None


def target(role, row):
    """What a role is taught to say about a training row (a dict with rationale, answer, knowledge: a list of rules): the rules, or the
    solution and its answer, which is added unless the solution states it."""
    if role == "kg":
        return "\n".join(row["knowledge"])
    if extract_answer(row["rationale"]) == row["answer"]:
        return row["rationale"]  # as MATH's do, in a box
    return f"{row['rationale']}\n--> {row['answer']} END"


# ---------------------------------------------------------------------------------------------------------------------
# When two answers are the same: exact numbers and a tiny parser. On a first reading, read only the docstring of canonical(), at the end of
# this section, and go on at "The vote".
#
# A number is a set of terms (powers, coefficient), powers a set of pairs (base, exponent): 5/2 + 3 sqrt(2) pi is
# {({}, 5/2), ({(2, 1/2), ("pi", 1)}, 3)}. A base is a prime, -1 (whose root is i), "pi", "infty" or a whole bracket. The exponent of
# an integer stays in [0, 1), so that sqrt(8) = 2^(3/2) becomes 2 * 2^(1/2); equal values are then equal sets.


def number(*terms):
    """The sum of terms (powers, coefficient), where a base may come twice. ValueError: it is too large, or has a root of i."""
    total = Counter()
    for powers, c in terms:
        c, exponents = Fraction(c), Counter()
        for base, e in powers:
            exponents[base] += e
        if exponents[-1].denominator % 2:  # (-1)^(1/3) is -1, the root that is real
            exponents[-1] = exponents[-1].numerator
        for base in exponents:
            if isinstance(base, int):
                whole, exponents[base] = divmod(exponents[base], 1)
                c *= Fraction(base) ** whole
        if exponents[-1] not in (0, Fraction(1, 2)):
            raise ValueError("a root of i")
        total[frozenset((base, e) for base, e in exponents.items() if e)] += c
    if len(total) > 8 or any(bits(c) > 4000 for c in total.values()):
        raise ValueError("too large")
    return frozenset((powers, c) for powers, c in total.items() if c)


def bits(c):
    return c.numerator.bit_length() + c.denominator.bit_length()


def fraction(a):
    """The number a as a Fraction; None if there is a root, pi or a bracket in it."""
    return None if any(powers for powers, _ in a) else sum((c for _, c in a), Fraction(0))


def times(a, b):
    return number(*(((*p, *q), x * y) for p, x in a for q, y in b))


def power(a, e):
    """The number a, of one term, to the power of a Fraction. ValueError: there are none or more terms, or the result is too large."""
    [(powers, c)] = a
    if e is None or abs(e) * bits(c) > 4000:
        raise ValueError("too large, or no rational exponent")
    if e.denominator > 1:
        powers, c = [*powers, (-1, c < 0), *primes(abs(c.numerator), 1), *primes(c.denominator, -1)], Fraction(1)
    return number(([(base, x * e) for base, x in powers], c ** int(e)))


def primes(n, sign):
    """The powers whose product is n, or 1/n. ValueError: finding them would take long."""
    if n > 10**6:
        raise ValueError("too large")
    p = 2
    while p * p <= n:
        if n % p:
            p += 1
        else:
            yield p, sign
            n //= p
    if n > 1:
        yield n, sign


CONSTANTS = {"pi": number(([("pi", 1)], 1)), "infty": number(([("infty", 1)], 1)), "i": number(([(-1, Fraction(1, 2))], 1))}

# The parser. Each function takes what it can read from a stack of tokens, the next one last and below them all "", the end, and
# returns a number. ValueError: this is not in the grammar.

LONGEST = 250  # characters; a longer answer is a text
TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+|sqrt(?:\[[2-9]\])?|[a-z]+|\\[{}\\]|\S)")
CLOSERS = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), r"\{": (r"\}",), "begin": ("end",)}  # begin ... end is a matrix


def take(tokens, *wanted):
    return tokens.pop() if tokens[-1] in wanted else ""


def listed(tokens):
    """expression (separator expression)*, as a list with the separators in it. Of an equation only one side, but it must hold."""
    parts = [expression(tokens)]
    while separator := take(tokens, ",", ";", "&", r"\\", "="):
        other = expression(tokens)
        if separator != "=":
            parts += [separator, other]
        elif other != parts[-1]:
            raise ValueError("not equal")
    return parts


def expression(tokens):
    """[sign] product (sign product)*; a product is powers with *, / or nothing between them, read from left to right."""
    products = []
    while not products or tokens[-1] in ("+", "-"):
        product, operator = number(((), take(tokens, "+", "-") + "1")), "*"
        while operator:
            factor = atom(tokens)
            if take(tokens, "^"):
                factor = power(factor, fraction(atom(tokens)))
            product = times(product, power(factor, Fraction(-1)) if operator == "/" else factor)
            operator = take(tokens, "*", "/") or tokens[-1] in CONSTANTS or tokens[-1][:4] in ("(", "frac", "sqrt")
        products.append(product)
    return number(*(term for product in products for term in product))


def atom(tokens):
    """3.5, \\pi, \\frac{1}{2}, \\sqrt[3]{2}, or a bracket: (3) is 3; (1,2), [1,2), \\{1,2\\} or a matrix is a base of its own."""
    token = tokens.pop()
    if "0" <= token[-1:] <= "9":
        return number(((), token))
    if token in CONSTANTS:
        return CONSTANTS[token]
    if token == "frac":
        return times(atom(tokens), power(atom(tokens), Fraction(-1)))
    if token[:4] == "sqrt":
        return power(atom(tokens), Fraction(1, int(token[5:-1] or 2)))
    if token not in CLOSERS:
        raise ValueError("not in the grammar")
    parts = listed(tokens)
    close = take(tokens, *CLOSERS[token])
    if not close:
        raise ValueError("not closed")
    if len(parts) == 1 and token + close in ("()", "{}"):
        return parts[0]
    return number(([(frozenset(parts[::2]) if close in ("}", r"\}") else (token, *parts, close), 1)], 1))


# Before the parser. All texts are short here, so no pattern needs to be afraid of a hostile one.

SYMBOLS = str.maketrans({"−": "-", "×": "*", "·": "*", "√": "sqrt ", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup "})
SPELLINGS = [(re.compile(pattern), spelling) for pattern, spelling in [
    (r"\\(?:text|math|mbox|hbox|operatorname)[a-z]*\s*\{([^{}]*)\}", r" \1 "),
    (r"(?:,?\\!|\{,\}|(?<=[0-9])\\,)(?=[0-9]{3})|\\!", ""),                          # 1,\!000 and 1{,}000 and 1\,000
    (r"\\?[$%£€]|°|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree", " "),
    (r"~|(?<!\\)\\[,:; ()\[\]]|\\(?:left|right|quad|displaystyle)(?![a-z])", " "),  # layout
    (r"\\[dtc]frac(?![a-z])", r"\\frac"),
    (r"\\(?:times|cdot)(?![a-z])", "*"),
    (r"\\([lgn])eq(?![a-z])", r"\\\1e"),                                             # \leq is \le
    (r"\\(begin|end)\{[pb]matrix\}", r"\\\1 "),
    (r"(?<=\{)\s+|\s+(?=[{}])", ""),
    (r"(\\frac|\\sqrt)\s*([0-9])", r"\1{\2}"),                                       # \frac12 ...
    (r"(?<!\\)\}\s*([0-9])", r"}{\1}"),                                              # ... and \frac{1}2
    (r"(?<=[\^_])\s*(-?[0-9]+|[a-z])", r"{\1}"),                                     # x^2, 10^-3
]]
UNIT = re.compile(r"\s+(?!(?:pi|or|and|squared|cubed)\b|hundred|thousand|dozen|[a-z]*illion)(?:[cfghjlmsvw]|[a-z]{2,})(?![a-z])"
                  r"[a-z./ ²³-]*(?:\^\{[0-9]\})?\s*$")  # 12 apples, 5 m/s, 3 cm^2; but 2 x may be a product
NAME = re.compile(r"(^|[,;])\s*(\\?[a-z]+(?:_\{\w+\})?|[a-z]\([^()=]*\)|\([a-z](?:,\s*[a-z])*\))\s*(?:=|\\in(?![a-z]))")  # x_1, f(2), (x,y)
MIXED = re.compile(r"(?<![0-9./])([0-9]+)(?:\s*\\frac\{([0-9]+)\}\{([0-9]+)\}|\s+([0-9]+)\s*/\s*([0-9]+))")
THOUSANDS = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")


def value(text):
    """The canonical form of a text in the grammar. ValueError: it is not."""
    text = re.sub(r",?\s(?:or|and)\s|\\cup", ",", UNIT.sub("", text))
    if len({name for _, name in NAME.findall(text)}) > 1:
        raise ValueError("x = 1, y = 2 is no list of two values of one thing")
    text = re.sub(r"([^,;]*)\\pm([^,;]*)", r"\1+\2,\1-\2", NAME.sub(r"\1", text))
    if not re.search(r"[(\[]|\\\{", text):  # (100,200) is a point
        text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = re.sub(r"\\([a-z])", r" \1", MIXED.sub(r"(\1+\2\4/\3\5)", text))
    tokens = ["", *reversed(TOKEN.findall(text))]
    if sum(token in CLOSERS or token[:4] in ("frac", "sqrt") for token in tokens) > 100:
        raise ValueError("deeper, perhaps, than Python's own stack")
    found = listed(tokens)[::2]
    if tokens != [""]:
        raise ValueError("something is left")
    if len(found) > 1:
        return frozenset(Counter(found).items())  # in any order, but as often
    exact = fraction(found[0])
    return found[0] if exact is None else exact


def canonical(answer):
    """What an answer is worth, as something hashable: two answers vote together, and one meets the gold answer, when these are equal.

    A Fraction for a rational number, something opaque for what else the grammar knows, always exact, and a tidied text for the rest.
    Nothing is ever evaluated, rounded or guessed, and no answer takes longer than some milliseconds.

    numbers     1,000 = 1000.0; 0.5 = 1/2 = \\frac12; 1 1/2 = 3/2; \\sqrt8 = 2\\sqrt2; 2^3 = 8; 3/2 i = 1.5i; 1/2\\pi = \\pi/2; but 1/(1+\\sqrt2) is a text
    dropped     money, degrees, and words after a number, whatever they say: $5 = 5 euros, 50 cents = 50, 5\\text{ cm}^2 = 5;
                but 5 million, 5x, 3 feet 4 inches are texts
    percent     dropped too, as GSM8K's graders do: 72% = 72, and 0.72 is neither
    names       x = 5 is 5, x \\in [0,1] is [0,1], and 48+24 = 72 is 72; but 48+24 = 70 and x = 1, y = 2 are texts
    lists       1 or 2 = 2, 1, in any order; 1 \\pm 2 = 3, -1; unions are lists, too
    brackets    (1,2), [1,2), matrices: in order, with the brackets they have; there 100,200 are two numbers. The order of \\{1,2\\} is free
    variables   make a text: 2x+3 is not 3+2x. If the question was to factor x^2-1, then (x-1)(x+1) is an answer and x^2-1 is none

    >>> canonical("$1,000"), canonical("72%"), canonical("1 \\\\frac{1}{2}"), canonical("12 apples"), canonical("2X + 3.")
    (Fraction(1000, 1), Fraction(72, 1), Fraction(3, 2), Fraction(12, 1), '2x+3')
    >>> canonical("x = 2 \\\\pm \\\\sqrt{8}") == canonical("2 - 2\\\\sqrt2 or 2 + 4/\\\\sqrt 2")
    True
    """
    text = str(answer).lower()
    if len(text) > LONGEST:
        return "".join(text.split())
    text = text.translate(SYMBOLS)
    for pattern, spelling in SPELLINGS:
        text = pattern.sub(spelling, text)
    text = text.strip().rstrip(".")
    try:
        return value(text)
    except ValueError:
        return re.sub(r"^\((\w)\)$", r"\1", "".join(text.split()))  # choice (C) is choice C


def same_answer(a, b):
    """72 = 72.0 = $72 = 72%, 1,000 = 1000, 0.5 = 1/2. None, the answer of a text that states none, equals nothing."""
    return a is not None and b is not None and canonical(a) == canonical(b)


# ---------------------------------------------------------------------------------------------------------------------
# The vote

Round = namedtuple("Round", "intuitive knowledge deep")  # three texts: ir's solution, kg's rules, dr's solution


@dataclass
class Verdict:
    """How a question ended. `answer` is None only if no text stated any."""
    answer: str | None
    agreed: list[str] = field(default_factory=list)  # what both gave; empty if they never agreed; two if two met in one round
    rounds: list[Round] = field(default_factory=list)

    def right(self, gold, strict=False):
        """Whether the question counts as solved. strict: as the paper counts; any agreed answer may be the right one, and
        without agreement the question is lost."""
        return any(same_answer(a, gold) for a in self.agreed) if strict else same_answer(self.answer, gold)


def vote(question, rounds=20):
    """The paper's inference, as a generator: it yields requests [(role, prompt), ...] and is sent their texts, in that order.

    It knows no model: infer.py drives many of these at once, a test drives one with texts of its own.
    Returns a Verdict. Should two answers meet in the same round, the one given more often in all is taken, then the earlier one.
    If none ever meet, it is the most frequent of all answers, with `agreed` left empty to say so.
    """
    intuitive, deep, said = Counter(), Counter(), {}  # said: how each answer was first written
    history = []
    for _ in range(rounds):
        solution, knowledge = yield [("ir", prompt("ir", question)), ("kg", prompt("kg", question))]
        [deep_solution] = yield [("dr", prompt("dr", question, knowledge))]
        history.append(Round(solution, knowledge, deep_solution))
        for system, text in ((intuitive, solution), (deep, deep_solution)):
            if (answer := extract_answer(text)) is not None:
                said.setdefault(canonical(answer), answer)
                system[canonical(answer)] += 1
        if intuitive.keys() & deep.keys():  # both sets keep growing: round 5's answer may meet one of round 2
            break
    given = sorted(said, key=lambda a: -(intuitive[a] + deep[a]))  # a stable sort: ties stay in the order of speaking
    agreed = [said[a] for a in given if a in intuitive and a in deep]
    candidates = agreed or [said[a] for a in given]
    return Verdict(candidates[0] if candidates else None, agreed, history)


def system1(question):
    """The Intuitive Reasoner alone, asked once: the same kind of generator."""
    [solution] = yield [("ir", prompt("ir", question))]
    return Verdict(extract_answer(solution), rounds=[Round(solution, None, None)])


def system2(question, knowledge=None):
    """Knowledge Generator, then Deep Reasoner, each asked once; only the Deep Reasoner where the knowledge is given."""
    if knowledge is None:
        [knowledge] = yield [("kg", prompt("kg", question))]
    [solution] = yield [("dr", prompt("dr", question, knowledge))]
    return Verdict(extract_answer(solution), rounds=[Round(None, knowledge, solution)])


def self_consistency(question, k):
    """What LoRID has to beat: the most frequent answer of k texts of the Intuitive Reasoner alone (arXiv 2203.11171)."""
    texts = yield [("ir", prompt("ir", question))] * k
    answers = [answer for answer in map(extract_answer, texts) if answer is not None]
    given = Counter(map(canonical, answers))
    return Verdict(max(answers, key=lambda a: given[canonical(a)], default=None), rounds=[Round(text, None, None) for text in texts])


def replay(conversation, texts):
    """The verdict of a conversation that is sent these texts, in the order in which it asks for them."""
    texts = iter(texts)
    requests = next(conversation)  # runs it up to its first yield
    try:
        while True:
            requests = conversation.send([next(texts) for _ in requests])
    except StopIteration as end:  # a generator's return value arrives in this exception
        return end.value


def transcript(number, round):
    """One round of a vote, for a reader."""
    lines = [f"Round {number}"]
    for role, text in zip(ROLES, round):
        lines += [f"  {ROLES[role].title}:"] + [f"    {line}" for line in text.splitlines()]
    answers = [extract_answer(round.intuitive), extract_answer(round.deep)]
    return "\n".join(lines + [f"  System 1 says {answers[0] or 'nothing'}, System 2 says {answers[1] or 'nothing'}."])


def main():
    argparse.ArgumentParser(description="Plays a vote of two rounds, every text of it written in this file.").parse_args()
    half, whole = "48/2 = 24\n--> 24 END", "48/2 = 24\n48+24 = 72\n--> 72 END"
    rule, rules = "Half of a number is the number divided by 2.", "Half of a number is the number divided by 2.\nA total is a sum."
    question = "Natalia sold 48 clips in April and half as many in May. How many did she sell in both months?"
    verdict = replay(vote(question), ["48+24 = 72\n--> 72 END", rule, half, half, rules, whole])
    for number, round in enumerate(verdict.rounds, 1):
        print(transcript(number, round))
    print(f"Given by both: {', '.join(verdict.agreed)}. Accepted: {verdict.answer}.")


if __name__ == "__main__":
    main()

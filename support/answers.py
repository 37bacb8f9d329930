r"""When two answers are the same: canonical(answer) says, exactly, what an answer is worth.

Two answers vote together, and one meets the gold answer, where their canonical forms are equal.
The form is a Fraction for a rational number, something opaque (but hashable) for whatever else
the grammar below knows, and a tidied text for the rest. Nothing is evaluated, rounded or
guessed, and no answer takes longer than some milliseconds: a grader that hands a model's text
to eval or sympy runs what stands there, and never comes back from 9**9**9**9.

    numbers     1,000 = 1 000 = 1000.0; 0.5 = ½ = \frac12; 1 1/2 = 3/2; \sqrt8 = 2\sqrt2; 2^3 = 8;
                3/2 i = 1.5i; 1/2\pi = \pi/2; but 1/(1+\sqrt2) and \infty-\infty are texts
    dressed     \boxed{5} = **5** = $5$ = \text{5}; Unicode's signs and digits are read as LaTeX's
    units       a known unit behind a number is dropped, and so are one or two words that can be
                counted, see spellings.py: $5 = US$5 = 5 euros, 50 cents = 50, 5\text{ cm}^2 = 5cm
                = 5, 5 red apples = 5; but 5 million, 3 halves, 5x, 3 feet 4 inches are texts
    percent     dropped too, as GSM8K's graders do: 72% = 72, and 0.72 is neither
    names       x = 5 is 5, f(x) = 2x is 2x, x \in [0,1] is [0,1], and 48+24 = 72 is 72; but
                48+24 = 70 is a text. x = 1, y = 2 is also y = 2, x = 1 and nothing else
    inequality  0 < x \le 5 is (0,5], 5 > x is x < 5 is (-\infty,5)
    lists       1, 2 and 3 = 3, 1, 2, in any order, but as often; 1 \pm 2 = 3, -1; unions are
                lists, too, and \{1,2\} is the list 1, 2
    brackets    (1,2), [1,2), matrices of any kind: in order, with the brackets they have; a comma
                in there separates, so that (100,200) is a point
    variables   make a text: 2x+3 is not 3+2x. If the question was to factor x^2-1, then
                (x-1)(x+1) is an answer and x^2-1 is none
    texts       are compared without the blanks that separate nothing: 2 * x = 2x, \frac x2 = x/2,
                (C) = C, but 1 2x is not 12x

How: one_spelling makes one way of writing of many, and a small parser turns the result into exact
numbers. A number is a set of terms (powers, coefficient), powers a set of pairs (base, exponent):

    5/2 + 3 sqrt(2) pi    is    {({}, 5/2), ({(2, 1/2), ("pi", 1)}, 3)}

A base is a prime, -1 (whose root is i), "pi", "infty" or a whole bracket. The exponent of an
integer stays in [0, 1), so that sqrt(8) = 2^(3/2) becomes 2 * 2^(1/2): equal values are equal sets.
"""
import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache

from support.spellings import one_spelling, split_unit

# -------------------------------------------------------------------------------------------------
# Exact numbers. Each function raises ValueError where a result would be too large to be an answer.


def bits(c):
    return c.numerator.bit_length() + c.denominator.bit_length()


def alone(bases):
    """Whether there is one that nothing is reckoned with: infinity, or a bracket."""
    return any(base == "infty" or isinstance(base, (tuple, frozenset)) for base in bases)


def number(*terms):
    """The sum of terms (powers, coefficient), in which a base may come twice.

    ValueError: it is too large, has a root of i, or reckons with infinity or with brackets.
    """
    total = Counter()
    for powers, c in terms:
        c, exponents = Fraction(c), Counter()
        for base, e in powers:
            exponents[base] += e
        if alone(exponents) and (len(terms) > 1 or [*exponents.values()] != [1]
                                 or "infty" in exponents and abs(c) != 1):
            raise ValueError("infinity minus infinity, or the product of two brackets")
        # (-1)^(1/3) is -1, the root that is real
        if exponents[-1].denominator % 2:
            exponents[-1] = exponents[-1].numerator
        # whole powers of an integer go into the coefficient
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


def fraction(a):
    """The number a as a Fraction; None if there is a root, pi or a bracket in it."""
    return None if any(powers for powers, _ in a) else sum((c for _, c in a), Fraction(0))


def times(a, b):
    """The product. ValueError: as of `number`; 0 times infinity is none either."""
    if not (a and b) and alone(base for powers, _ in a | b for base, _ in powers):
        raise ValueError("0 times infinity")
    return number(*(((*p, *q), x * y) for p, x in a for q, y in b))


def primes(n, sign):
    """The powers whose product is n (sign 1) or 1/n (sign -1).

    ValueError: finding them would take long.
    """
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


def power(a, e):
    """The number a, of one term, to the power e, a Fraction.

    ValueError: a is zero or a sum, e is None, or the result is too large.
    """
    [(powers, c)] = a
    if e is None or abs(e) * bits(c) > 4000:
        raise ValueError("too large, or no rational exponent")
    # the root of a coefficient is the root of its sign and its primes
    if e.denominator > 1:
        sign = (-1, c < 0)
        powers = [*powers, sign, *primes(abs(c.numerator), 1), *primes(c.denominator, -1)]
        c = Fraction(1)
    return number(([(base, x * e) for base, x in powers], c ** int(e)))


CONSTANTS = {
    "pi": number(([("pi", 1)], 1)),
    "infty": number(([("infty", 1)], 1)),
    "i": number(([(-1, Fraction(1, 2))], 1)),
}

# -------------------------------------------------------------------------------------------------
# The parser of this grammar. Each function takes what it can read from a stack of tokens, the next
# one last and below them all "", the end. ValueError: this is not in the grammar.
#
#     list         expression (separator expression)*       separator: , ; & \\ or =
#     expression   [sign] product (sign product)*           sign: + or -
#     product      factor ([* or /] factor)*                read from left to right
#     factor       atom [^ atom]
#     atom         3.5, \pi, \frac atom atom, \sqrt[3] atom, or a bracket around a list

LONGEST = 250  # characters; a longer answer is a text
TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+|sqrt(?:\[[2-9]\])?|[a-z]+|\\[{}\\]|\S)")
CLOSERS = {  # begin ... end is a matrix
    "(": (")", "]"), "[": ("]", ")"), "{": ("}",), r"\{": (r"\}",), "begin": ("end",),
}


def take(tokens, *wanted):
    """The next token, taken off, if it is one of these; else "", and it stays."""
    return tokens.pop() if tokens[-1] in wanted else ""


def atom(tokens):
    r"""A number. (3) is 3; (1,2), [1,2), \{1,2\} or a matrix is a base of its own."""
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
    bracket = frozenset(parts[::2]) if close in ("}", r"\}") else (token, *parts, close)
    return number(([(bracket, 1)], 1))


def expression(tokens):
    """A number: the sum of its products."""
    products = []
    while not products or tokens[-1] in ("+", "-"):
        product, operator = number(((), take(tokens, "+", "-") + "1")), "*"
        while operator:
            factor = atom(tokens)
            if take(tokens, "^"):
                factor = power(factor, fraction(atom(tokens)))
            product = times(product, power(factor, Fraction(-1)) if operator == "/" else factor)
            # without an operator a constant, a bracket, \frac or \sqrt is a factor, too
            operator = (take(tokens, "*", "/") or tokens[-1] in CONSTANTS
                        or tokens[-1][:4] in ("(", "frac", "sqrt"))
        products.append(product)
    return number(*(term for product in products for term in product))


def listed(tokens):
    """The list's numbers with the separators between them. Of an equation, which must hold,
    only one side."""
    parts = [expression(tokens)]
    while separator := take(tokens, ",", ";", "&", r"\\", "="):
        other = expression(tokens)
        if separator != "=":
            parts += [separator, other]
        elif other != parts[-1]:
            raise ValueError("not equal")
    return parts


# -------------------------------------------------------------------------------------------------
# Lists, names and texts

NAME = re.compile(  # x, x_1, f(2), (x,y), |AB|, \angle ABC, AB:CD, \frac{AB}{CD}
    r"(?!\\?(?:pi|infty)(?![a-z]))(?:{0}(?:\s*:\s*{0})?|[a-z]\s*\([^()=]*\)|\((?:\s*[a-z]\s*[,)])+|"
    r"\|[a-z]{{2,}}\||(?:m\s*)?\\(?:angle|overline)\s*\{{?\s*[a-z]+\}}?|"
    r"\\frac\{{[a-z]+\}}\{{[a-z]+\}})".format(r"\\?[a-z]+'*(?:_\{\w+\})?"))
MIXED = re.compile(
    r"(?<![0-9./])([0-9]+)(?:\s*\\frac\{([0-9]+)\}\{([0-9]+)\}|\s+([0-9]+)\s*/\s*([0-9]+))")
GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:\s[0-9]{3})+(?![0-9]|\s*/)")  # 10 000
PIECES = re.compile(
    r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|\\?[a-z]+|\\.|.", re.S)


def items(text):
    r"""The items of a list; a text without a separator is a list of one. The commas of thousands
    are taken out where no bracket is open: (100,200) is a point.

    ValueError: an item is empty, or the brackets do not match.
    """
    found, brackets, braces = [""], 0, 0
    for piece in PIECES.findall(text):
        brackets += (piece in ("(", "[", r"\{", r"\begin")) - (piece in (")", "]", r"\}", r"\end"))
        braces += (piece == "{") - (piece == "}")
        if min(brackets, braces) < 0:
            raise ValueError("closed before it was opened")
        if brackets == braces == 0 and piece in (",", ";", "or", "and"):
            # the comma of ", and"
            if found[-1].strip() or piece in ",;":
                found.append("")
        else:
            found[-1] += piece if brackets else re.sub(r"(?<=.),", "", piece)
    if brackets or braces or not all(item.strip() for item in found):
        raise ValueError("an end is missing")
    return [item.strip() for item in found]


MIRRORED = {">": "<", "≥": "≤", "<": ">", "≤": "≥"}


def named(text):
    """(name, text of its value): of x = 5 and 5 = x, and an interval of -1 < x <= 5 and x >= 2.
    The name is "" if no name of one quantity is a side; a < b is put for b > a."""
    sides = [side.strip() for side in re.split("([=≈∈<≤>≥])", text)]
    if sides[1:2] in (["="], ["≈"], ["∈"]):
        if NAME.fullmatch(sides[0]):
            return "".join(sides[0].split()), "".join(sides[2:])
        backwards = sides[1] == "=" and len(sides) == 3 and NAME.fullmatch(sides[2])
        return (sides[2], sides[0]) if backwards else ("", text)
    if sides[1:2] in ([">"], ["≥"]):
        sides = [MIRRORED.get(side, side) for side in reversed(sides)]
    if len(sides) == 3 and NAME.fullmatch(sides[0]):
        sides = [r"-\infty", "<", *sides]
    elif len(sides) == 3 and NAME.fullmatch(sides[2]):
        sides += ["<", r"\infty"]
    if len(sides) == 5 and NAME.fullmatch(sides[2]) and {*sides[1::2]} <= {"<", "≤"}:
        low, first, name, second, high = sides
        return name, f"{'([' [first == '≤']}{low},{high}{')]'[second == '≤']}"
    return "", "".join(sides)


def single_blanks(text):
    """A text without the blanks that separate nothing, like those of 2x + 3; not that of 1 2x."""
    return re.sub(r" (?![a-z0-9])|(?<![a-z0-9]) ", "", " ".join(text.split()))


def tidy(text):
    r"""A text that is no number in one spelling: 2x for 2 * x, x/2 for \frac{x}{2}, C for (C)."""
    text = single_blanks(re.sub(r"(?<=[a-z0-9)}])\s*\*\s*(?=[a-z(\\])", " ", text))
    text = re.sub(r"(?<=[0-9]) (?=[a-z])|(?<=[a-z]) (?=[0-9])", "", text)
    text = re.sub(r"(?<![a-z\\])([a-z]) (?=[a-z](?![a-z]))", r"\1", text)
    text = re.sub(r"(?<![\w)}])\\frac\{([^{}+/-]+)\}\{([0-9]+|[a-z])\}(?![0-9])", r"\1/\2", text)
    return re.sub(r"^\((\w)\)$", r"\1", text).rstrip(".")


def exact(text):
    """The numbers of a text in the grammar: one, or two if it has a plus-minus. ValueError: it is
    not in the grammar."""
    if len(re.findall(r"\\pm(?![a-z])", text)) == 1:
        return exact(text.replace(r"\pm", "+")) + exact(text.replace(r"\pm", "-"))
    text = re.sub(r"\\([a-z])", r" \1", MIXED.sub(r"(\1+\2\4/\3\5)", text.partition("≈")[0]))
    tokens = ["", *reversed(TOKEN.findall(text))]
    if sum(token in CLOSERS or token[:4] in ("frac", "sqrt") for token in tokens) > 100:
        raise ValueError("deeper, perhaps, than Python's own stack")
    found = listed(tokens)
    if tokens != [""] or len(found) > 1:
        raise ValueError("something is left")
    rational = fraction(found[0])
    return [found[0] if rational is None else rational]


def worth(text):
    """The values of an item of a list; one that is not in the grammar is a text."""
    try:
        return exact(text)
    except ValueError:
        return [tidy(text)]


def members(text):
    r"""The items in the bracket around a whole text; None if there is none around it."""
    for opening, closing in (("{", "}"), ("(", ")"), (r"\{", r"\}")):
        if text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening):-len(closing)]
            try:
                return items(inside if opening == "{" else inside.replace(",", ", "))
            except ValueError:  # (x-1)(x+1)
                return None
    return None


def value(text):
    """The canonical form of a text of one spelling. ValueError: it has none but the text."""
    text = GROUPED.sub(lambda match: "".join(match[0].split()), text.strip())
    inside = members(text)
    if inside and len(inside) == 1 and (text[0] == "{" or text[0] == "(" != text[1]):
        return value(inside[0])
    # one with a single member is not that member, but it may be two: \{\pm 2\}
    is_set = inside and text[0] in "{\\" and (len(inside) > 1 or r"\pm" in text)
    found = inside if is_set else items(text)
    # 2 cm, 3 cm and 2, 3 cm are 2, 3; of 3 feet, 4 or 3 feet, 4 inches each item keeps its own
    cut = [split_unit(item) for item in found]
    if len({unit for _, unit in cut}) == 1 or not any(unit for _, unit in cut[:-1]):
        found = [before for before, _ in cut]
    names, found = zip(*map(named, found), strict=True)
    if len(found) == 1 and names[0]:
        return value(found[0])  # x = {1,2}
    values = [worth(item) for item in found]
    if len(distinct := {*names} - {""}) > 1:
        if len(distinct) < len(names):
            raise ValueError("x = 1, y = 2 or x = 3, y = 4")
        return frozenset(zip(names, map(tuple, values), strict=True))
    values = [value for worths in values for value in worths]
    if len(values) == 1:
        return values[0]
    # in any order, and but for a set as often
    return frozenset(Counter(set(values) if is_set else values).items())


@lru_cache(10_000, typed=True)  # the same few answers come again and again; typed: 1 == True
def canonical(answer):
    r"""What an answer, a text or a number, is worth: equal where the table on top says so.

    A Fraction, a frozenset or a str. No text makes it raise.

    >>> canonical("$1,000"), canonical("72%"), canonical("1 \\frac{1}{2}"), canonical("12 apples")
    (Fraction(1000, 1), Fraction(72, 1), Fraction(3, 2), Fraction(12, 1))
    >>> canonical("x = 2 \\pm \\sqrt{8}") == canonical("2 - 2\\sqrt2 or 2 + 4/\\sqrt 2")
    True
    >>> canonical("2X + 3."), canonical(0.5)
    ('2x+3', Fraction(1, 2))
    """
    text = str(answer)
    if len(text) > LONGEST:
        return single_blanks(text.lower())
    text = one_spelling(text)
    try:
        return value(text)
    except ValueError:
        return tidy(text)

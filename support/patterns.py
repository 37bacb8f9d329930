"""Regular expressions from files of others, bounded in size, memory and time.

A few characters can keep a matcher busy for years, as (a+)+$ may, or fill the memory, as
(a{1000}){1000}. The library `regex`, which is installed with tiktoken, can stop after a time.
"""
import time
from itertools import accumulate, chain, pairwise

import regex

SECONDS = 1    # for one text, by all patterns; what is meant well takes a thousandth of that
COPIES = 1000  # x{9} is nine copies of x, and nested ones multiply

# Characters that are newer than Unicode 16. The tokenizers library takes them for no letters and no
# digits, while `regex` may know them.
NEWER = regex.compile(
    "[\u0558\u058b-\u058c\u05c8-\u05c9\u088f\u0b53-\u0b54\u0c5c\u0cdc\u1acf-\u1af0\u208f"
    "\u209d-\u209f\u20c1-\u20c4\u2b96\u2e60-\u2e63\ua7ce-\ua7cf\ua7d2\ua7d4\ua7dd-\ua7f1"
    "\uab6c-\uab6d\ufbc3-\ufbd2\ufd90-\ufd91\ufdc8-\ufdce\U000107bb-\U000107bf"
    "\U00010940-\U00010959\U00010ec5-\U00010efb\U00011b0a-\U00011b67\U00011db0-\U00011df1"
    "\U0001246f\U00012475-\U0001247f\U00012550-\U00012686\U00016ea0-\U00016ed3"
    "\U00016ff2-\U00016ff6\U000187f8-\U000187ff\U00018cd6-\U00018cda\U00018d09-\U000191d2"
    "\U0001b123-\U0001b128\U0001b168\U0001ccfa-\U0001ccfc\U0001ceba-\U0001cefd"
    "\U0001d127-\U0001d128\U0001d1eb-\U0001d1ff\U0001d250-\U0001d281\U0001d6a6"
    "\U0001db00-\U0001db1c\U0001df1f-\U0001df24\U0001df2b-\U0001dfff\U0001e6c0-\U0001e6ff"
    "\U0001f1ae\U0001f6d8-\U0001f6d9\U0001f777-\U0001f77a\U0001f7da-\U0001f7db"
    "\U0001f7f1-\U0001f7ff\U0001f8d0-\U0001f8d8\U0001fa54-\U0001fa57\U0001fa8a-\U0001fa8e"
    "\U0001fac8-\U0001facd\U0001fadd\U0001faea-\U0001faef\U0001faf9-\U0001fafa\U0001fbfa"
    "\U0002b73a-\U0002b73f\U0002b81e\U0002cea2-\U0002cead\U000323b0-\U0003fc3f]")

COUNT = regex.compile(r"\{(\d*),?(\d*)\}")
# Groups that are called, recurse or match fuzzily do not keep to the time. What others may do: look
# ahead or behind, set flags, have a name.
UNBOUNDED = regex.compile(r"\(\?(?!:|[=!>]|<[=!]|P?<\w+>|[aimsx]*(?:-[imsx]+)?[:)])"
                          r"|(?<!\\[pPxNuLg])\{[^{}|]*[deis][^{}|]*\}")


def compile_pattern(pattern, flags=0):
    """The compiled pattern. Raises ValueError if it is none, or none that is safe to run."""
    name, copies = f"the pattern {pattern[:60]!r}", 1
    if len(pattern) > 10_000 or UNBOUNDED.search(pattern):
        raise ValueError(f"{name} is too long, or has groups whose time cannot be bounded")
    for low, high in COUNT.findall(pattern):
        copies *= max(1, float(high or low or 1))
    if copies > COPIES:
        raise ValueError(f"{name} repeats something more than {COPIES:,} times")
    try:
        return regex.compile(pattern, flags)
    except (regex.error, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{name} is no regular expression: {error}") from None


# What Oniguruma, which the tokenizers library matches by, reads in another way than `regex`:
# classes that intersect, hexadecimal digits, any character with or without line breaks.
OTHERWISE = regex.compile(r"&&|(?<!\\)(?:\\\\)*\\[hHNO]")


def compile_split(pattern):
    """The compiled pattern of a tokenizer: $ ends a line there, and it must match something."""
    if found := OTHERWISE.search(pattern):
        raise ValueError(f"the pattern {pattern[:60]!r} has {found[0][-2:]}, which is not read "
                         "here as in the tokenizers library")
    compiled = compile_pattern(pattern, regex.MULTILINE)
    if fullmatches(compiled, [""])[0]:
        raise ValueError(f"the pattern {pattern[:60]!r} matches the empty text")
    return compiled


def timed(pattern, call, texts, end=None):
    """call(text, seconds left) of each text; ValueError once they took SECONDS together, or at
    `end`, a time of time.thread_time()."""
    end = end or time.thread_time() + SECONDS
    try:
        return [call(text, timeout=max(1e-3, end - time.thread_time())) for text in texts]
    except (TimeoutError, MemoryError):
        raise ValueError(f"the pattern {pattern.pattern[:60]!r} takes more than {SECONDS} s for "
                         "one text, and was given up") from None


def fullmatches(pattern, texts):
    """[whether the pattern matches it from end to end] of all texts."""
    return [found is not None for found in timed(pattern, pattern.fullmatch, texts)]


def split(pattern, texts, end=None):
    """What matches in the texts and what lies between, in order: by "[0-9]", "a12" is a, 1, 2."""
    def parts(text, timeout):
        known = text if text.isascii() else NEWER.sub("\u0378", text)  # which is no character
        words = [] if pattern.groups else pattern.findall(known, timeout=timeout)
        if sum(map(len, words)) == len(text):  # nothing lies between; two thirds of the time
            cuts = list(accumulate(map(len, words), initial=0)) if known != text else None
        else:
            spans = (match.span() for match in pattern.finditer(known, timeout=timeout))
            cuts = [0, *chain.from_iterable(spans), len(text)]
        return words if cuts is None else [text[a:b] for a, b in pairwise(cuts) if a < b]

    return [part for text in timed(pattern, parts, texts, end) for part in text]

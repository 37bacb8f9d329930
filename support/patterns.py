"""Regular expressions from files of others, bounded in size, memory and time.

A few characters can keep a matcher busy for years, as (a+)+$ may, or fill the memory, as
(a{1000}){1000}. The library `regex`, which is installed with tiktoken, can stop after a time.
"""
import time

import regex

SECONDS = 1    # for one text; what is meant well takes a thousandth of that
COPIES = 1000  # x{9} is nine copies of x, and nested ones multiply

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


def compile_split(pattern):
    """The compiled pattern of a tokenizer: $ ends a line there, and it must match something."""
    compiled = compile_pattern(pattern, regex.MULTILINE)
    if fullmatches(compiled, [""])[0]:
        raise ValueError(f"the pattern {pattern[:60]!r} matches the empty text")
    return compiled


def timed(pattern, call, texts):
    """call(text, seconds left) of each text; ValueError once they took SECONDS together."""
    end = time.monotonic() + SECONDS
    try:
        return [call(text, timeout=max(1e-3, end - time.monotonic())) for text in texts]
    except (TimeoutError, MemoryError):
        raise ValueError(f"the pattern {pattern.pattern[:60]!r} takes more than {SECONDS} s for "
                         "one text, and was given up") from None


def fullmatches(pattern, texts):
    """[whether the pattern matches it from end to end] of all texts."""
    return [found is not None for found in timed(pattern, pattern.fullmatch, texts)]


def split(pattern, texts):
    """What matches in the texts and what lies between, in order: by "[0-9]", "a12" is a, 1, 2."""
    def parts(text, timeout):
        if not pattern.groups:  # in one call: two thirds of the time
            found = pattern.findall(text, timeout=timeout)
            if sum(map(len, found)) == len(text):
                return found
        found, end = [], 0
        for match in pattern.finditer(text, timeout=timeout):
            start, stop = match.span()
            found += text[end:start], text[start:stop]
            end = stop
        return [part for part in (*found, text[end:]) if part]

    return [part for text in timed(pattern, parts, texts) for part in text]

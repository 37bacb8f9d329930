"""Is LoRID better than what else could be done with its tokens, and how sure is that? Its rivals in
`infer.py --study`; intervals; the same questions, compared in pairs.

    python -m support.compare tiny/study/0.json tiny/study/1.json       several studies as one
"""
import math
import re
from collections import Counter

import numpy

import lorid
from model import read_json
from support.answers import canonical
from support.cli import Parser, path, run

# --------------------------------------------------------------------------------------------------
# The rivals

# How the makers of Qwen2.5 ask it; other chat models understand it, too.
OWN_WORDS = "{}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def untrained(question):
    """The base in its own words: without adapters, and without the roles' instructions."""
    [text] = yield [(None, OWN_WORDS.format(question))]
    return lorid.Verdict(lorid.extract_answer(text), rounds=[lorid.Round(text, None, None)])


def pooled(question, systems, k, enough=float("inf")):
    """An ensemble's majority vote: every turn asks each system once, for k turns; the most frequent
    answer wins, whoever gave it (in `lorid.vote`, both must have). It stops early, as adaptive
    consistency does (arXiv 2305.11860), after the turn in which an answer comes the `enough`-th
    time."""
    count, first_written, rounds = Counter(), {}, []
    while len(rounds) < k * len(systems) and max(count.values(), default=0) < enough:
        for system in systems:
            verdict = yield from system(question)
            rounds += verdict.rounds
            if verdict.answer is not None:
                first_written.setdefault(canonical(verdict.answer), verdict.answer)
                count[canonical(verdict.answer)] += 1
    best = max(count, key=count.get, default=None)  # of equals the earlier
    return lorid.Verdict(first_written.get(best), rounds=rounds)


def two_deep(question, rounds=20):
    """The paper's vote between two System 2: `lorid.vote` runs, but what it asks for is ignored. It
    is sent a first chain's solution as ir's, then a second chain's rules and solution. The rules
    of the first are not kept in the verdict's rounds, which have room for three texts."""
    conversation = lorid.vote(question, rounds)
    next(conversation)
    try:
        while True:
            [first] = (yield from lorid.system2(question)).rounds
            [second] = (yield from lorid.system2(question)).rounds
            conversation.send([first.deep, second.knowledge])  # it asks dr
            conversation.send([second.deep])                   # and then the next round
    except StopIteration as end:
        return end.value


def rivals(measure, ir, kg_dr, voted, args):
    """What else to do with about LoRID's tokens, sampled as it is: (self-consistency's outcomes,
    the others' lines, those of the pool that 1, 2, 3, ... equal answers stop). ir, kg_dr,
    voted: the lines of either system, greedy, and of the vote. Their seconds are not told: many of
    their texts are there already, and taken from there.

    measure(method=, conversation=, temperature=) -> (outcomes, line), see infer.py"""
    def sampled(method, conversation, *more):
        outcomes, line = measure(method=method, temperature=args.temperature,
                                 conversation=lambda row: conversation(row["question"], *more))
        return outcomes, line | {"seconds": None}

    def times(*lines):  # how often to ask, to spend LoRID's tokens; counted by greedy texts
        tokens = sum(line["tokens"] for line in lines)
        return max(1, math.ceil(voted["tokens"] / max(1, tokens)))

    k, n, m = max(times(ir), math.ceil(voted["texts"])), times(kg_dr), times(ir, kg_dr)
    both = lorid.system1, lorid.system2
    many, _ = sampled("self-consistency", lorid.self_consistency, k)
    lines = [sampled(f"majority of {n} KG -> DR", pooled, both[1:], n)[1],
             sampled(f"majority of {m} IR and {m} KG -> DR", pooled, both, m)[1]]
    # Until 1, 2, 3, ... are equal, up to LoRID's tokens; at 2 * rounds nothing stops.
    early = []
    for enough in range(1, 2 * args.rounds + 1):
        method = f"IR and KG -> DR until {enough} are equal"
        early.append(sampled(method, pooled, both, args.rounds, enough)[1])
        if early[-1]["tokens"] >= voted["tokens"]:
            break
    deep = sampled("two KG -> DR that must agree", two_deep, args.rounds)[1]
    return many, [*lines, early[-1], deep], early


# --------------------------------------------------------------------------------------------------
# How sure


def wilson(right, n, z=1.96):
    """The 95% interval of a share p = right / n, Wilson's, which holds near 0 and 1, too:
    (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    p, zz = right / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / n / 4)
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def difference(a, b, seed=0, resamples=10_000):
    """(mean of a - b over the questions, the ends of its 95% interval): a and b say of each
    question how right a method was, 0 to 1.

    By the bootstrap: the questions drawn anew, with replacement, `resamples` times; the interval
    leaves out 2.5% of these means on either side. Only how often each value of a - b is drawn
    matters, and these numbers are multinomial."""
    d = numpy.subtract(a, b)
    values, counts = numpy.unique(d, return_counts=True)
    drawn = numpy.random.default_rng(seed).multinomial(len(d), counts / len(d), resamples)
    low, high = numpy.quantile(drawn @ values / len(d), (0.025, 0.975))
    return float(d.mean()), float(low), float(high)


def mcnemar(a, b):
    """McNemar's exact two-sided p: how likely a coin would divide the questions that only one of
    two methods has solved as unevenly as they are divided, or more."""
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    n = only_a + sum(x < y for x, y in zip(a, b, strict=True))
    tail = sum(math.comb(n, i) for i in range(min(only_a, n - only_a) + 1))
    return min(1.0, 2 * tail / 2**n)


def add_gains(lines):
    """How much better the last line's method is than each: gain, gain_low, gain_high."""
    for line in lines:
        line["gain"], line["gain_low"], line["gain_high"] = difference(
            lines[-1]["right"], line["right"])


# Of toy problems, the two parts that the tables show: title -> key. A new pair is a thing and a
# law that neither the base nor the adapters have read of together.
PARTS = {"with a new pair": "unheard", "without": "heard"}


def among(verdict, answer):
    """Whether one of a vote's texts states this answer."""
    texts = [text for r in verdict.rounds for text in (r.intuitive, r.deep)]
    return any(lorid.same_answer(lorid.extract_answer(text), answer) for text in texts)


def compare(lines, rows, votes):
    """Add to each line of a study how much better the last one, LoRID, is; to that one, from the
    outcomes of its votes, for how many questions the right answer was `among` its texts, and how
    many it solves if counted as `strict` as the paper does; and the accuracies on toy problems with
    and without a new pair, if the rows say which they are."""
    found = [among(vote.verdict, row["answer"]) for vote, row in zip(votes, rows, strict=True)]
    lines[-1]["among"] = sum(found) / len(rows)
    strictly = [vote.verdict.right(row["answer"], strict=True)
                for vote, row in zip(votes, rows, strict=True)]
    lines[-1]["strict"] = sum(strictly) / len(rows)
    new = [bool(row["unheard"]) for row in rows if isinstance(row.get("unheard"), list)]
    add_gains(lines)
    for line in lines:
        right = line["right"]
        whole = set(right) <= {0, 1}  # a mean over samples is not
        line["mcnemar_p"] = mcnemar(lines[-1]["right"], right) if whole else None
        if 0 < sum(new) < len(new) == len(rows):
            for key, wanted in zip(PARTS.values(), (True, False), strict=True):
                part = [x for x, is_new in zip(right, new, strict=True) if is_new == wanted]
                line[key] = sum(part) / len(part)


def markdown(columns, rows):
    """A table, of cells that are texts."""
    text = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return "\n".join([text[0], "|---" * len(columns) + "|", *text[1:]])


def show(x, form=".1%"):
    return "-" if x is None else format(x, form)


def cells(line):
    """The cells of a difference and its interval, in points."""
    low, high = 100 * line["gain_low"], 100 * line["gain_high"]
    return f"{100 * line['gain']:+.1f}", f"{low:+.1f} to {high:+.1f}"


def parts(lines):
    """The columns of PARTS, if the problems are toy problems of both kinds."""
    return PARTS if "unheard" in lines[-1] else {}


def comparison(lines):
    """What `compare` has added, as a Markdown table, differences in points; and a sentence."""
    last = lines[-1]
    columns = ("method", *parts(lines), "LoRID is better by", "95% interval", "McNemar p")
    text = markdown(columns, [
        (line["method"], *(show(line[key]) for key in parts(lines).values()), *cells(line),
         show(line["mcnemar_p"], ".1g")) for line in lines])
    wrong = last["agreed"] * (1 - (last["accuracy_when_agreed"] or 0))
    return (f"{text}\n\nOn {wrong:.1%} of the questions LoRID's two systems agreed upon a wrong "
            f"answer; for {last['among']:.1%} the right one was among its texts. Counted as in the "
            f"paper, which takes a question without agreement as lost, it solves "
            f"{last['strict']:.1%}.")


# --------------------------------------------------------------------------------------------------
# Several studies


def kind(line):
    """A line's method with its numbers called k: they differ from seed to seed."""
    return re.sub(r"\d+", "k", line["method"])


def together(studies):
    """The lines of studies of the same questions with other seeds, each the mean of theirs: per
    question, so that an interval is that of the questions, for these seeds. low and high: the least
    and the largest accuracy."""
    lines = []
    for same in zip(*studies, strict=True):
        accuracies, names = [line["accuracy"] for line in same], {line["method"] for line in same}
        lines.append({"method": names.pop() if len(names) == 1 else kind(same[0]),
                      "low": min(accuracies), "high": max(accuracies),
                      "right": numpy.mean([line["right"] for line in same], axis=0)})
        lines[-1] |= {key: sum(line[key] for line in same) / len(same)
                      for key in ("accuracy", "tokens", *PARTS.values()) if key in same[0]}
    add_gains(lines)
    return lines


def read_study(file):
    """(its seed, its lines, what another must share to be compared with it) of a file that
    infer.py --study --json has written."""
    study = read_json(file)
    try:
        about, lines = study["about"], study["methods"]
        shape = [(kind(line), len(line["right"]), [key in line for key in PARTS.values()])
                 for line in lines]
        same = {key: x for key, x in about.items()
                if key not in ("seed", "date", "threads", "device", "dtype")}
        figures = [about["seed"] + line["accuracy"] + line["tokens"] + line["gain"]
                   + sum(line["right"]) + sum(line[key] for key in parts(lines).values())
                   for line in lines]  # an error where one is missing, or no number
        if figures:
            return about["seed"], lines, (same, shape)
    except (AttributeError, TypeError, KeyError):
        pass
    raise ValueError(f"{file} is no file of infer.py --study --json; give such ones.")


def main():
    parser = Parser(prog="python -m support.compare", description="Studies of the same questions, "
                    "with other seeds, as one table: the means, and how much better LoRID is.")
    parser.add_argument("files", nargs="+", type=path, metavar="FILE",
                        help="what infer.py --study --json FILE has written")
    files, seeds, studies, shapes = parser.parse_args().files, {}, [], []
    for file in files:
        seed, lines, shape = read_study(file)
        shapes.append(shape)
        if shape != shapes[0]:
            raise ValueError(f"{file} has other questions, settings or methods than {files[0]}; "
                             "give studies that differ in their seed.")
        if seed in seeds:
            raise ValueError(f"{file} has the seed of {seeds[seed]}, {seed}; give studies that "
                             "differ in it.")
        seeds[seed] = file
        studies.append(lines)
    lines = together(studies)
    print(markdown(
        ("method", "accuracy", "from, to", "tokens", *parts(lines), "LoRID is better by",
         "95% interval"),
        [(line["method"], show(line["accuracy"]), f"{show(line['low'])}, {show(line['high'])}",
          show(line["tokens"], ".0f"), *(show(line[key]) for key in parts(lines).values()),
          *cells(line)) for line in lines]))


if __name__ == "__main__":
    run(main)

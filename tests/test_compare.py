"""support/compare.py: intervals and p-values against closed forms and definitions."""
import json
import math
import random
import time
from fractions import Fraction

import numpy
import pytest
from test_infer import run_script

import lorid
from support import compare
from support.engine import Outcome
from tiny.world import LAWS, THINGS, toy, unheard


def some_results(rng, n, p_both, p_a, p_b):
    """0 or 1 for each of n questions, of two methods: both right, only a, only b, none."""
    chances = p_both, p_a, p_b, 1 - p_both - p_a - p_b
    pairs = rng.choices([(1, 1), (1, 0), (0, 1), (0, 0)], chances, k=n)
    return zip(*pairs, strict=True)


@pytest.mark.parametrize("n, p_a, p_b", [(500, 0.15, 0.02), (500, 0.08, 0.07), (2000, 0.3, 0.1)])
def test_the_interval_is_that_of_the_normal_distribution_where_many_differ(n, p_a, p_b):
    """mean +- 1.96 standard errors, which it comes near as the questions become many."""
    a, b = some_results(random.Random(n), n, 0.5, p_a, p_b)
    d = [x - y for x, y in zip(a, b, strict=True)]
    mean = sum(d) / n
    error = math.sqrt(sum((x - mean) ** 2 for x in d) / n / n)
    found, low, high = compare.difference(a, b)
    assert found == pytest.approx(mean)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_the_interval_is_that_of_a_bootstrap_by_its_definition():
    """Questions drawn one by one, with shares between 0 and 1 among them; a few, all different."""
    rng = random.Random(0)
    a, b = [rng.choice((0, 1)) for _ in range(40)], [rng.random() for _ in range(40)]
    d = numpy.array(a) - numpy.array(b)
    drawn = numpy.random.default_rng(5).integers(0, 40, (40_000, 40))
    low, high = numpy.percentile(d[drawn].mean(1), (2.5, 97.5))
    found = compare.difference(a, b)
    assert found == pytest.approx((d.mean(), low, high), abs=0.006)
    assert found == compare.difference(a, b) != compare.difference(a, b, seed=1)


def test_methods_that_are_right_together_do_not_differ():
    assert compare.difference([1, 0, 1], [1, 0, 1]) == (0, 0, 0)
    assert compare.difference([1] * 9, [0] * 9) == (1, 1, 1)
    assert compare.mcnemar([1, 0, 1], [1, 0, 1]) == 1


def test_mcnemar_is_the_binomial_test():
    """Twice the smaller tail of so many throws of a coin, summed in fractions."""
    for only_a in range(12):
        for only_b in range(12):
            a = [1] * only_a + [0] * only_b + [1, 0]
            b = [0] * only_a + [1] * only_b + [1, 0]
            n, few = only_a + only_b, min(only_a, only_b)
            ways = [Fraction(math.factorial(n), math.factorial(i) * math.factorial(n - i) * 2**n)
                    for i in range(n + 1)]
            assert sum(ways) == 1
            assert compare.mcnemar(a, b) == pytest.approx(float(min(1, 2 * sum(ways[:few + 1]))))
    assert compare.mcnemar([1] * 9 + [0], [0] * 9 + [1]) == pytest.approx(0.021484375)  # a table's
    assert 0 < compare.mcnemar([1] * 2000 + [0] * 900, [0] * 2000 + [1] * 900) < 1e-90


def some_vote(i, answer):
    """Of two rounds; in every third vote no text has the answer, but one has it in its rules. The
    answers agreed upon are none, a wrong one, or two, and the second of these is right."""
    texts = ["no idea", answer, "--> 77777 END", f"--> {answer} END"]
    ir, dr = texts[i % 4], texts[(i + i // 12) % 4]
    if i % 3 == 0:
        ir, dr = "So the answer is 77777.", "\\boxed{88888}"
    rounds = [lorid.Round("--> 77777 END", f"--> {answer} END", "--> 88888 END"),
              lorid.Round(ir, "rules", dr)]
    agreed = [], ["77777"], ["77777", f"${answer}"]
    return Outcome(lorid.Verdict(None, agreed[i % 4 % 3], rounds))


def test_lines_are_compared_with_the_last_and_in_parts():
    rows, rng = toy(60, "test"), random.Random(0)
    new = [any(unheard(thing, law) for law in LAWS for thing in THINGS
               if f"{law.name} {thing}" in row["kinds"]) for row in rows]
    assert 5 < sum(new) < 30
    lines = [{"method": name, "right": [rng.choice((0, 1)) for _ in rows]} for name in "ab"]
    lines.append({"method": "mean", "right": [rng.random() for _ in rows]})
    lines.append({"method": "LoRID", "right": [rng.choice((0, 1, 1)) for _ in rows]})
    lines[-1] |= {"agreed": 0.8, "accuracy_when_agreed": 0.75}
    votes = [some_vote(i, row["answer"]) for i, row in enumerate(rows)]
    compare.compare(lines, rows, votes)
    for line in lines:
        for key, half in (("unheard", True), ("heard", False)):
            mine = [x for x, p in zip(line["right"], new, strict=True) if p == half]
            assert line[key] == pytest.approx(sum(mine) / len(mine))
        gain = (sum(lines[-1]["right"]) - sum(line["right"])) / 60
        assert line["gain"] == pytest.approx(gain) and line["gain_low"] <= gain <= line["gain_high"]
        interval = compare.difference(lines[-1]["right"], line["right"])
        assert (line["gain"], line["gain_low"], line["gain_high"]) == interval
        if line["method"] != "mean":
            assert line["mcnemar_p"] == compare.mcnemar(lines[-1]["right"], line["right"])
    assert lines[-1]["mcnemar_p"] == 1 and lines[2]["mcnemar_p"] is None
    first, mean = (f"| {line['method']} | {line['unheard']:.1%} | {line['heard']:.1%} | "
                   f"{100 * line['gain']:+.1f} | {100 * line['gain_low']:+.1f} to "
                   f"{100 * line['gain_high']:+.1f} | " for line in (lines[0], lines[2]))
    table = compare.comparison(lines).splitlines()
    assert table[0] == ("| method | with a new pair | without | LoRID is better by | 95% interval "
                        "| McNemar p |")
    assert table[2] == f"{first}{lines[0]['mcnemar_p']:.1g} |" and table[4] == f"{mean}- |"
    found = [i for i in range(60) if i % 3 and 3 in (i % 4, (i + i // 12) % 4)]
    assert 15 < len(found) < 40 and lines[-1]["among"] == pytest.approx(len(found) / 60)
    assert table[6:] == ["", "On 20.0% of the questions LoRID's two systems agreed upon a wrong "
                         f"answer; for {len(found) / 60:.1%} the right one was among its texts. "
                         "Counted as in the paper, which takes a question without agreement as "
                         "lost, it solves 25.0%."]


@pytest.mark.parametrize("unheard", [..., 5, None, "rain", []])
def test_where_rows_do_not_say_there_are_no_parts(unheard):
    row = {"answer": "5"} | ({"unheard": unheard} if unheard is not ... else {})
    rows = [row] * 3
    lines = [{"method": "LoRID", "right": [1, 0, 1], "agreed": 0.0, "accuracy_when_agreed": None}]
    compare.compare(lines, rows, [some_vote(0, "5")] * 3)
    header, _, line, _, sentence = compare.comparison(lines).splitlines()
    assert header == "| method | LoRID is better by | 95% interval | McNemar p |"
    assert line == "| LoRID | +0.0 | +0.0 to +0.0 | 1 |"
    assert sentence.startswith("On 0.0% of the questions") and "for 0.0% the right" in sentence
    assert sentence.endswith(" it solves 0.0%.")


def some_study(rng, n=40, toys=True, name="majority of 7 KG -> DR"):
    """The lines of one, as infer.py writes them."""
    rows = toy(n, "test") if toys else [{"answer": "1"}] * n
    lines = [{"method": method, "right": [rng.choice((0, 1)) for _ in rows], "tokens": rng.random()}
             for method in ("IR alone, greedy", name, "LoRID, 20 rounds")]
    for line in lines:
        line["accuracy"] = sum(line["right"]) / n
    lines[-1] |= {"agreed": 0.5, "accuracy_when_agreed": 0.5}
    compare.compare(lines, rows, [some_vote(i, row["answer"]) for i, row in enumerate(rows)])
    return lines


def written(folder, *studies):
    files = [folder / f"{i}.json" for i in range(len(studies))]
    for file, lines in zip(files, studies, strict=True):
        about = {"questions": len(lines[0]["right"]), "seed": int(file.stem), "threads": 2}
        file.write_text(json.dumps({"about": about, "methods": lines}))
    return files


@pytest.mark.parametrize("toys", [True, False])
def test_several_studies_are_told_as_one(tmp_path, toys):
    """The means; and the interval of the mean over the seeds, question by question."""
    rng = random.Random(1)
    studies = [some_study(rng, 40, toys, f"majority of {k} KG -> DR") for k in (7, 9, 7)]
    header, _, *rows = run_script(compare, *written(tmp_path, *studies)).stdout.splitlines()
    parts = ["with a new pair", "without"] * toys
    assert header.strip("| ").split(" | ") == [
        "method", "accuracy", "from, to", "tokens", *parts, "LoRID is better by", "95% interval"]
    names = ["IR alone, greedy", "majority of k KG -> DR", "LoRID, 20 rounds"]
    lorid_right = numpy.mean([study[2]["right"] for study in studies], axis=0)
    for name, row, lines in zip(names, rows, zip(*studies, strict=True), strict=True):
        right = numpy.mean([line["right"] for line in lines], axis=0)
        shares = [sum(line["right"]) / 40 for line in lines]
        gain, low, high = (100 * x for x in compare.difference(lorid_right, right))
        wanted = [name, f"{right.mean():.1%}", f"{min(shares):.1%}, {max(shares):.1%}",
                  f"{sum(line['tokens'] for line in lines) / 3:.0f}"]
        if toys:
            wanted += [f"{sum(line[key] for line in lines) / 3:.1%}"
                       for key in ("unheard", "heard")]
        assert row.strip("| ").split(" | ") == [
            *wanted, f"{gain:+.1f}", f"{low:+.1f} to {high:+.1f}"]
    done = run_script(compare, *written(tmp_path, studies[1]))
    one = done.stdout.splitlines()[3].split(" | ")
    assert one[0] == "| majority of 9 KG -> DR"
    better, interval = compare.cells(studies[1][1])
    assert one[-2:] == [better, f"{interval} |"]


def test_studies_that_do_not_belong_together_are_refused(tmp_path):
    """In one sentence with the file's name, and status 2."""
    rng = random.Random(2)
    first, longer = some_study(rng, 40), some_study(rng, 41)
    a, b = written(tmp_path, first, longer)
    cases = [([a, b], [b.name, "other questions", a.name]), ([a, a], [a.name, "the seed of"]),
             ([tmp_path / "none.json"], ["none.json"])]
    about = {"questions": 40, "seed": 7, "threads": 1}
    others = [
        {"about": about, "methods": first[1:]},
        {"about": about, "methods": [first[0] | {"method": "another"}, *first[1:]]},
        {"about": about, "methods": some_study(rng, 40, False)},
        {"about": about, "methods": [*first[:2], first[2] | {"right": [1] * 39}]},
        {"about": about | {"strict": True}, "methods": first},
        {"about": about | {"questions": 41}, "methods": first},
        [], {}, {"methods": first}, {"about": about}, {"about": about, "methods": []},
        {"about": about, "methods": 5}, {"about": about, "methods": ["again"]},
        {"about": about, "methods": [{"gain": 1}]}, {"about": {}, "methods": first},
        {"about": 5, "methods": first}, {"about": about, "methods": [first[0] | {"right": 1}]},
        {"about": about | {"seed": "x"}, "methods": first},
        {"about": about, "methods": [first[0] | {"tokens": None}]},
        *({"about": about, "methods": [line | change for line in first]} for change in (
            {"right": ["1"] * 40}, {"right": [None] * 40}, {"unheard": None}, {"heard": "x"})),
        {"about": about, "methods": [
            {key: x for key, x in line.items() if key != "heard"} for line in first]}]
    for i, study in enumerate(others):
        wrong = tmp_path / f"wrong{i}.json"
        wrong.write_text(json.dumps(study))
        cases.append(([a, wrong], [wrong.name]))
    good = tmp_path / "good.json"
    good.write_text(json.dumps({"about": about, "methods": first}))
    assert run_script(compare, a, good).returncode == 0
    for files, words in cases:
        done = run_script(compare, *files)
        assert done.returncode == 2 and not done.stdout, done
        assert done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done


def test_it_takes_no_time():
    a, b = some_results(random.Random(0), 5000, 0.5, 0.2, 0.1)
    start = time.process_time()
    compare.difference(a, b)
    assert time.process_time() - start < 0.5

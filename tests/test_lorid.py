"""lorid.py: the prompts to the letter, where a solution states its answer, and the vote against a
brute-force reading of the paper."""
import doctest
import functools
import json
import random
import subprocess
import sys
from fractions import Fraction

import pytest
from conftest import ROOT

import lorid
from lorid import Round, Verdict, extract_answer, prompt, same_answer, target
from support import compare
from support.answers import canonical


def read_jsonl(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def run(*command):
    """A script of the repository as a user runs it; the generous limit turns a hang into a
    failure."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True,
                          encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def cached(monkeypatch):
    """A text's canonical form depends on nothing else: where many texts recur, work it out once."""
    monkeypatch.setattr(lorid, "canonical", functools.cache(canonical))


def test_it_is_plain_python():
    heavy = "[m for m in ('torch', 'numpy', 'tiktoken', 'requests', 'sympy') if m in sys.modules]"
    assert run("-c", f"import sys, lorid, data; print({heavy})").strip() == "[]"


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(lorid).attempted >= 3 and doctest.testmod(lorid).failed == 0


# -------------------------------------------------------------------------------------------------
# What the roles are asked and taught. Written out here once more: the released adapters know these
# strings and no others.

IR = "Please answer this MATH question step by step.\nWhat is 1+1?"
KG = ("Please output knowledge needed to solve the MATH question step by step.\n"
      "Question: What is 1+1?\n\nKnowledge: ")
DR = ("Please reason step by step based on the given MATH question and knowledge, and output the "
      "final answer.\nQuestion: What is 1+1?\n\nKnowledge: Add.\nThen stop.\n\nRationale: ")


def test_prompts_are_the_papers_to_the_letter():
    prompts = [prompt(role, "What is 1+1?", "Add.\nThen stop.") for role in ("ir", "kg", "dr")]
    assert prompts == [IR, KG, DR]
    assert list(lorid.ROLES) == ["ir", "kg", "dr"]


@pytest.mark.parametrize("odd", [
    "{", "}", "{}", "{0}", "{question}", "{knowledge}", "{a!r:>{b}}", "\\frac{1}{2}",
    "%s %(x)d $HOME", "two\nlines ",
])
def test_questions_and_rules_reach_the_prompt_as_they_are(odd):
    question, rules = "What is 1+1?", "Add.\nThen stop."
    assert prompt("ir", odd) == IR.replace(question, odd)
    assert prompt("kg", odd) == KG.replace(question, odd)
    assert prompt("dr", "Q", odd) == DR.replace(question, "Q").replace(rules, odd)
    assert prompt("dr", odd, "K") == DR.replace(rules, "K").replace(question, odd)


def test_targets_are_the_rules_or_the_solution_with_its_answer():
    row = dict(rationale="1+1=2", answer="2", knowledge=["Add.", "Then stop."])
    solution = "1+1=2\n--> 2 END"
    targets = [target(role, row) for role in ("ir", "kg", "dr")]
    assert targets == [solution, "Add.\nThen stop.", solution]
    # as in MATH: nothing is said twice, but other answers in between count not
    for rationale in ("So $1+1=\\boxed{2}$.", "1+1=2\nThe answer is: 2"):
        row["rationale"] = rationale
        assert target("dr", row) == rationale
        assert target("dr", row | dict(answer="3")) == rationale + "\n--> 3 END"


@pytest.mark.parametrize("answer", [
    "2", "-2", "1,000", "$5", "\\frac{1}{2}", "(1, 2)", "x^2 + 1", "12 apples", "THE END OF MAY",
    "\\{1, 2\\}",
])
def test_what_a_target_states_is_found_again(answer):
    """Whatever the rationale says before: other answers, other forms."""
    found = "THE" if answer.startswith("THE") else answer  # END ends an answer, wherever it stands
    others = ("1+1", "1 --> 2\n3 --> 4", "The answer is: 7", "#### 7", "\\boxed{7}", "A: 7")
    for rationale in others:
        assert extract_answer(target("ir", dict(rationale=rationale, answer=answer))) == found


# -------------------------------------------------------------------------------------------------
# Where an answer stands

@pytest.mark.parametrize("text, answer", [
    ("48+24 = 72\n--> 72 END", "72"),
    ("--> 72 END\n", "72"),
    ("-->72END", "72END"),  # no words of ours, but the number is found: see canonical
    ("--> 1 END\n--> 2 END", "2"),
    ("--> 1 END --> 2 END", "2"),
    ("3 --> 4 --> 5 END", "5"),
    ("--> 5 END and so on", "5"),
    ("--> 5", "5"),
    ("--> 5 END\r\n", "5"),
    ("--> PRETEND END", "PRETEND"),
    ("--> 5 END\n--> ", "5"),  # truncated after it had answered
    ("--> END", None),
    ("-->", None),
    ("-->   \n  END", None),
    ("so 3\n#### 1,234", "1,234"),
    ("so 3\nA: 17.5", "17.5"),
    ("A: \n", None),
    ("The answer is: 5.", "5"),
    ("the answer is .5.", ".5"),
    # MetaMathQA has both on one line
    ("It is $\\boxed{\\frac{1}{48}}$.The answer is: \\frac{1}{48}", "\\frac{1}{48}"),
    ("The answer is 1/48.The answer is: \\frac{1}{48}", "\\frac{1}{48}"),
    ("The answer is $6 \\cdot 20 = \\boxed{120}$.", "120"),
    ("#### Step 1\nAdd.\n#### Step 2\nSo \\boxed{5}.", "5"),  # headings
    ("#### Step 1\nAdd.\nThe answer is: 5", "5"),
    ("#### 72\n\n", "72"),
    ("A: first\nB: second\nThe answer is: B", "B"),  # choices
    ("The answer is clearly positive.\nSo \\boxed{5}.", "5"),  # more is said behind it
    ("--> 72 END\nSo \\boxed{5}.", "72"),  # END ends it
    ("\\boxed{5} is wrong.\nThe answer is 6", "6"),
    ("f: A --> B is one to one.\nSo \\boxed{5}.", "5"),
    ("\\boxed{1} and \\boxed{2}", "2"),
    ("\\boxed{\\frac{a}{b}}", "\\frac{a}{b}"),
    ("\\boxed{ 7 }", "7"),
    ("\\boxed{}", None),
    ("\\boxed{7", None),
    ("\\boxed{\\frac{\\sqrt{3}}{2}} or {more}", "\\frac{\\sqrt{3}}{2}"),
    # a brace for the reader is none for TeX
    ("\\boxed{\\left\\{ 1, 2 \\right.}", "\\left\\{ 1, 2 \\right."),
    ("{7}", None),
    ("\\boxed 7", None),
    ("", None),
    ("the sum is 7", None),
    # Markdown
    ("The answer is **72**.", "72"), ("**The answer is: 72**", "72"), ("#### **72**", "72"),
    ("--> **72** END", "72"), ("--> **72 END**", "72"), ("The answer is **72** clips.", "72 clips"),
    ("_The answer is 72_", "72"), ("So the answer is `72`.", "72"), ("A: **72**", "72"),
    ("The answer is 2**3.", "2**3"), ("The answer is a_1 and b_1.", "a_1 and b_1"),
    ("The **final answer** is **58**.", "58"), ("**The answer** is 58.", "58"),
    ("The *final* answer is 58.", "58"), ("The answer **is 58**.", "58"), ("**#### 58**", "58"),
    ("The **answer** is 58.", "58"), ("x\n`Answer: 58`", "58"), ("The `answer` is __58__.", "58"),
    ("The answer is 2 * 3 * 4.", "2 * 3 * 4"), ("The answer is (2)*(3)*(4).", "(2)*(3)*(4)"),
    ("The answer is 2**3 and 4**5.", "2**3 and 4**5"),
    # a last line that says so, below a heading or beside it
    ("So there are 72.\nAnswer: 72", "72"), ("**Answer:** 72", "72"), ("Answer $72$", "72"),
    ("> **Answer**: 72 clips", "72 clips"), ("Final answer: 72.", "72"), ("ANSWER: 72", "72"),
    ("### Final Answer\n72", "72"), ("**Final Answer:**\n\n$72$", "72"), ("Answer:\n72", "72"),
    ("So it is so. Final Answer: The sum of both is 72.", "72"), ("Correct answer: 72", "72"),
    ("The answer is:\n\\[\n\\frac{1}{2}\n\\]", "\\frac{1}{2}"), ("Answer $$ \n 9 \n $$", "9"),
    ("Answer: 7\nSo the answer is 72.", "72"), ("The answer is 7.\nAnswer: 72", "72"),
    ("Answer: 7\n\nLet us see.", None), ("What is the answer?\nLet us see.", None),
    ("Answer the question.", None), ("A 2-liter bottle lasts 4 days", None),
    ("x\nAnswer = 12", "12"), ("x\nAnswer - 12", "12"), ("The final answer = 58", "58"),
    ("Answer -12", None), ("Answer: -12", "-12"), ("My answer: 12", "12"), ("Answer — 12", "12"),
    ("1. Answer: 58", "58"), ("Your answer: 12", "12"), ("THE ANSWER IS 12.", "12"),
    ("Answer = 72 END", None), ("Result: 72 END", None),  # other texts of the toy world's base
    # the correct answer, the final answer
    ("The correct answer is 72.", "72"), ("The correct answer is **(C)**.", "(C)"),
    ("The Final Answer is: 72", "72"), ("Final answer is 72", "72"), ("the answer isn't 5", None),
    ("The final answer is $72$. I hope it is correct.", "72"), ("The answer is $7.50.", "$7.50"),
    ("Final Answer: The final answer is $1,2$. I hope it is correct.", "1,2"),
    ("The answer is 5. No, wait. The answer is **6**.", "6"), ("The answer is $72$ cm.", "$72$ cm"),
    ("The answer is \\(72\\).", "72"), ("The answer is $7.5.$", "7.5"),
    ("the answer is 72 END", "72"), ("The answer is 3.14. It is pi.", "3.14"),
])
def test_a_text_states_its_answer_in_one_of_these_forms(text, answer):
    assert extract_answer(text) == answer


def test_no_answer_equals_nothing():
    assert not same_answer(None, None)
    assert not same_answer(None, "None") and not same_answer("None", None)


def test_graded_solutions_are_graded_as_their_authors_did(shared):
    """openai/grade-school-math, 4,000 solutions of models, each with a person's verdict."""
    rows = read_jsonl(shared / "data/gsm8k/graded_solutions.jsonl")
    wrong = []
    for row in rows:
        answer = extract_answer(row["text"])
        if same_answer(answer, row["answer"]) != row["is_correct"]:
            wrong.append((row["id"], row["answer"], answer))
    assert len(rows) == 4000 and sum(row["is_correct"] for row in rows) > 1000 and not wrong


@pytest.mark.parametrize("file, least", [
    ("gsm8k/train", 7473), ("gsm8k/test", 1000), ("gsm8k/train_knowledge", 988),
    ("lorid_sample/gsm8k/train", 100), ("lorid_sample/gsm8k/test", 100),
    ("lorid_sample/math/train", 100), ("lorid_sample/math/test", 100),
])
def test_gold_answers_are_found_again_in_their_own_target(shared, cached, file, least):
    rows = read_jsonl(shared / f"data/{file}.jsonl")
    assert len(rows) >= least
    for row in rows:
        gold = row.get("answer") or extract_answer(row["rationale"])
        assert gold and same_answer(gold, gold), row
        assert same_answer(extract_answer(target("dr", row | dict(answer=gold))), gold), row
        if "gsm8k" in file:
            assert isinstance(canonical(gold), Fraction), gold


def test_both_forms_of_a_math_row_state_one_answer(shared):
    """Where the authors' rows say it twice, boxed and in words, the two agree."""
    rows = [row["rationale"] for name in ("train", "test")
            for row in read_jsonl(shared / f"data/lorid_sample/math/{name}.jsonl")]
    boxed = [text for text in rows if "\\boxed{" in text]
    assert len(boxed) > 100
    assert all(same_answer(extract_answer(text), lorid.last_boxed(text)) for text in boxed)


# -------------------------------------------------------------------------------------------------
# The vote

def play(conversation, *texts):
    """Drive a generator with texts, in order. Returns (what it returned, the requests it made, how
    many texts were left over)."""
    texts, asked = list(texts), []
    requests = next(conversation)
    while True:
        asked.append(requests)
        sent, texts = texts[:len(requests)], texts[len(requests):]
        assert len(sent) == len(requests), "it asks for more than was foreseen"
        try:
            requests = conversation.send(sent)
        except StopIteration as end:
            return end.value, asked, len(texts)


def solution(answer):
    return "no idea" if answer is None else f"1+1=2\n--> {answer} END"


def texts_of(rounds):
    """The texts of rounds in which ir and dr answer as given, a pair a round."""
    texts = []
    for t, (ir, dr) in enumerate(rounds):
        texts += [solution(ir), f"rule {t}", solution(dr)]
    return texts


def vote(*rounds, most=20):
    return play(lorid.vote("Q", most), *texts_of(rounds))


def test_a_round_asks_ir_and_kg_and_then_dr_with_that_rounds_knowledge():
    _, asked, _ = vote((1, 2), (3, 4), (5, 6), most=3)
    both = [("ir", prompt("ir", "Q")), ("kg", prompt("kg", "Q"))]
    expected = []
    for t in range(3):
        expected += [both, [("dr", prompt("dr", "Q", f"rule {t}"))]]
    assert asked == expected


def test_the_vote_stops_at_the_first_agreement():
    verdict, asked, left = vote((72, 72), (1, 1))
    assert verdict == Verdict("72", ["72"], [Round(solution(72), "rule 0", solution(72))])
    assert len(asked) == 2 and left == 3


@pytest.mark.parametrize("rounds, answer, after", [
    # round 5's IR meets round 2's DR, and the other way round
    ([(1, 2), (3, 4), (5, 6), (7, 8), (2, 9), (0, 0)], "2", 5),
    ([(9, 2), (3, 4), (5, 6), (7, 8), (1, 9), (0, 0)], "9", 5),
    # one system alone agrees with itself in vain
    ([(1, 2), (1, 3), (1, 2), (4, 1)], "1", 4),
    # spellings agree; the first is kept
    ([("1,000", 2), (3, "1000")], "1,000", 2),
    ([("1/2", 2), (3, "0.5 cups")], "1/2", 2),
    # silence is no answer, and two silences do not meet
    ([(None, 4), (None, None), (4, None)], "4", 3),
])
def test_all_rounds_answers_stay_in_the_vote(rounds, answer, after):
    verdict, _, left = vote(*rounds)
    assert (verdict.answer, verdict.agreed, len(verdict.rounds)) == (answer, [answer], after)
    assert left == 3 * (len(rounds) - after)


@pytest.mark.parametrize("rounds, agreed", [
    ([(1, 2), (2, 1)], ["1", "2"]),  # a tie: the one that was written first
    ([(2, 1), (1, 2)], ["2", "1"]),
    ([(1, 2), (1, 3), (2, 1)], ["1", "2"]),  # 1 three times, 2 twice
    ([(2, 1), (3, 1), (1, 2)], ["1", "2"]),  # written later, given more often
])
def test_of_two_that_meet_in_one_round_the_more_frequent_is_taken_then_the_earlier(rounds, agreed):
    verdict, _, _ = vote(*rounds)
    assert (verdict.answer, verdict.agreed) == (agreed[0], agreed)


def test_without_agreement_the_majority_of_all_answers_is_taken_and_agreed_is_empty():
    verdict, asked, left = vote((1, 2), (3, 4), (5, 2), (6, 4), (7, 2), most=5)
    assert (verdict.answer, verdict.agreed, len(verdict.rounds)) == ("2", [], 5)
    assert (len(asked), left) == (10, 0)
    assert vote((1, 2), (3, 4), most=2)[0].answer == "1"  # all once: the first


def test_texts_without_answers_give_none():
    verdict, _, _ = vote(*[(None, None)] * 3, most=3)
    assert (verdict.answer, verdict.agreed, len(verdict.rounds)) == (None, [], 3)


def test_there_are_twenty_rounds_unless_told_otherwise():
    assert len(play(lorid.vote("Q"), *["no idea"] * 60)[0].rounds) == 20
    assert len(play(lorid.vote("Q", 7), *["no idea"] * 21)[0].rounds) == 7


VALUES = {"5": 5, "5.0": 5, "$5": 5, "1,000": 1000, "1000": 1000, "1/2": 0.5, "0.5": 0.5,
          "\\frac{1}{2}": 0.5, "-5": -5, "(1,2)": "pair", "(1, 2)": "pair", "7": 7, "8": 8, "9": 9}
FORMS = ("so\n--> {} END", "so\n#### {}", "A: {}", "The answer is: {}", "It is $\\boxed{{{}}}$.")


def by_hand(pairs):
    """The paper's rule read literally, by search: (answer, agreed, rounds used) of a list of
    spellings (IR's, DR's), None for silence."""
    for used in range(1, len(pairs) + 1):
        ir = [VALUES[a] for a, _ in pairs[:used] if a is not None]
        dr = [VALUES[a] for _, a in pairs[:used] if a is not None]
        order = [a for pair in pairs[:used] for a in pair if a is not None]
        met = [a for a in order if VALUES[a] in ir and VALUES[a] in dr]
        if met or used == len(pairs):
            break
    ranked = []
    for spelling in met or order:
        if all(VALUES[spelling] != VALUES[known] for known, _ in ranked):
            ranked.append((spelling, sum(VALUES[spelling] == VALUES[a] for a in order)))
    best = max((count for _, count in ranked), default=0)
    answer = next((spelling for spelling, count in ranked if count == best), None)
    return answer, {spelling for spelling, _ in ranked} if met else set(), used


def some_pairs(rng):
    """Up to 20 pairs of spellings or None; systems that hardly share an answer talk longer."""
    pool = rng.sample(list(VALUES), rng.randint(1, len(VALUES)))
    pool += [None] * rng.choice((0, 0, 1, 5, 20))
    apart = (pool[::2] or pool, pool[1::2] or pool)
    halves = (pool, pool) if rng.random() < 0.5 else apart
    return [tuple(rng.choice(half) for half in halves) for _ in range(rng.randint(1, 20))]


def test_the_vote_equals_a_brute_force_search_on_random_scripts(cached):
    rng, ends = random.Random(0), []
    for _ in range(3000):
        pairs, texts = some_pairs(rng), []
        for t, pair in enumerate(pairs):
            ir, dr = ("mumble" if a is None else rng.choice(FORMS).format(a) for a in pair)
            texts += [ir, f"rule {t}", dr]
        verdict, asked, left = play(lorid.vote("Q", len(pairs)), *texts)
        answer, agreed, used = by_hand(pairs)
        got = (verdict.answer, set(verdict.agreed), len(verdict.rounds))
        assert got == (answer, agreed, used), pairs
        assert [text for r in verdict.rounds for text in r] == texts[:3 * used]
        assert left == len(texts) - 3 * used and len(asked) == 2 * used
        assert len(agreed) == len(verdict.agreed)
        assert not agreed or verdict.agreed[0] == verdict.answer
        ends.append((used, len(agreed)))
    # the scripts reach every kind of end
    assert {used for used, _ in ends} == set(range(1, 21)) and {n for _, n in ends} == {0, 1, 2}


def test_a_question_is_right_by_its_one_answer_and_strictly_by_any_agreed_one():
    both = Verdict("1", ["1", "2"])
    assert both.right("1.0") and not both.right("2")
    assert both.right("1", strict=True) and both.right("2", strict=True)
    assert not both.right("3", strict=True)
    majority = Verdict("1", [])
    assert majority.right("1") and not majority.right("1", strict=True)
    nothing = Verdict(None)
    assert not nothing.right("1") and not nothing.right(None)
    assert not nothing.right("1", strict=True)


# -------------------------------------------------------------------------------------------------
# The vote's rivals, and what a reader is shown

def test_a_system_alone_is_asked_once():
    verdict, asked, _ = play(lorid.system1("Q"), solution(7))
    assert verdict == Verdict("7", [], [Round(solution(7), None, None)])
    assert asked == [[("ir", prompt("ir", "Q"))]]
    verdict, asked, _ = play(lorid.system2("Q"), "Add {x}.", solution(8))
    assert verdict == Verdict("8", [], [Round(None, "Add {x}.", solution(8))])
    assert asked == [[("kg", prompt("kg", "Q"))], [("dr", prompt("dr", "Q", "Add {x}."))]]
    assert play(lorid.system1("Q"), "trunca")[0].answer is None


def test_a_deep_reasoner_with_given_knowledge_asks_no_generator():
    for knowledge in ("Add {x}.", ""):
        verdict, asked, _ = play(lorid.system2("Q", knowledge), solution(8))
        assert (verdict.answer, asked) == ("8", [[("dr", prompt("dr", "Q", knowledge))]])


@pytest.mark.parametrize("answers, majority", [
    ("7 8 7", "7"), ("8 7 7.0 9", "7"), ("9 8 8 9", "9"), ("1", "1"), ("? ? 5 ?", "5"),
    ("? ?", None), ("0.5 2 1/2", "0.5"),
])
def test_self_consistency_is_the_majority_of_k_intuitive_texts(answers, majority):
    """Equal answers count together however they are written, texts without an answer do not count,
    and of equals the earlier wins."""
    texts = ["mumble" if a == "?" else solution(a) for a in answers.split()]
    verdict, asked, left = play(lorid.self_consistency("Q", len(texts)), *texts)
    assert (verdict.answer, verdict.agreed, left) == (majority, [], 0)
    assert asked == [[("ir", prompt("ir", "Q"))] * len(texts)]
    assert [r.intuitive for r in verdict.rounds] == texts


def by_count(spellings, enough, turn):
    """The most frequent of equal answers, the first of equally frequent ones, and how many of the
    spellings count: it ends with the turn of so many by which one was given `enough` times."""
    for used in range(turn, len(spellings) + 1, turn):
        given = [VALUES[a] for a in spellings[:used] if a is not None]
        if any(given.count(x) >= enough for x in given):
            break
    known = [a for a in spellings[:used] if a is not None]
    best = max((given.count(x) for x in given), default=0)
    return next((a for a in known if given.count(VALUES[a]) == best), None), used


def test_pooled_systems_equal_a_count_by_hand_on_random_scripts(cached):
    """Of both systems, and of System 2 alone; with an early end, and without."""
    rng, early = random.Random(1), 0
    for i in range(1500):
        pairs, enough = some_pairs(rng), rng.choice((1, 2, 3, 5, 99))
        both = i % 2 == 0
        spellings, texts = [], []
        for t, pair in enumerate(pairs):
            ir, dr = ("mumble" if a is None else rng.choice(FORMS).format(a) for a in pair)
            texts += [ir] * both + [f"rule {t}", dr]
            spellings += pair if both else pair[1:]
        systems = (lorid.system1, lorid.system2) if both else [lorid.system2]
        more = () if enough == 99 else (enough,)
        verdict, asked, left = play(compare.pooled("Q", systems, len(pairs), *more), *texts)
        answer, used = by_count(spellings, enough, 1 + both)
        assert (verdict.answer, verdict.agreed, len(verdict.rounds)) == (answer, [], used)
        told = [text for r in verdict.rounds for text in r if text is not None]
        assert told == texts[:len(texts) - left]
        assert len(told) == (used * 3 // 2 if both else used * 2)
        turn = [("ir", prompt("ir", "Q"))] * both + [("kg", prompt("kg", "Q"))]
        for t, start in enumerate(range(0, len(asked), 2 + both)):
            wanted = [*turn, ("dr", prompt("dr", "Q", f"rule {t}"))]
            assert asked[start:start + 2 + both] == [[request] for request in wanted]
        early += used < len(spellings)
    assert 200 < early < 1300


def test_two_deep_vote_as_the_paper_does(cached):
    """Between the two chains of each round, first and second in the place of ir and dr."""
    rng = random.Random(2)
    for _ in range(500):
        pairs, texts = some_pairs(rng), []
        for t, pair in enumerate(pairs):
            first, second = ("mumble" if a is None else rng.choice(FORMS).format(a) for a in pair)
            texts += [f"rule {t}", first, f"other rule {t}", second]
        verdict, asked, left = play(compare.two_deep("Q", len(pairs)), *texts)
        answer, agreed, used = by_hand(pairs)
        assert (verdict.answer, set(verdict.agreed), len(verdict.rounds)) == (answer, agreed, used)
        assert left == len(texts) - 4 * used
        for t, start in enumerate(range(0, len(asked), 4)):
            kg = [("kg", prompt("kg", "Q"))]
            assert asked[start:start + 4] == [
                kg, [("dr", prompt("dr", "Q", f"rule {t}"))],
                kg, [("dr", prompt("dr", "Q", f"other rule {t}"))]]
    assert len(play(compare.two_deep("Q"), *["no idea"] * 80)[0].rounds) == 20


def test_a_replay_gives_the_verdict_of_the_conversation():
    """Against the tests' own driver; a vote of fewer rounds takes the first of the same texts."""
    texts = texts_of([(1, 2), (3, 4), (5, 1), (9, 9)])
    for most in (1, 2, 3, 20):
        played = play(lorid.vote("Q", most), *texts)[0]
        assert lorid.replay(lorid.vote("Q", most), texts) == played
    verdict = lorid.replay(lorid.vote("Q"), texts)
    assert verdict.agreed == ["1"] and len(verdict.rounds) == 3


def test_a_transcript_shows_all_three_texts_and_both_answers():
    shown = lorid.transcript(3, Round("1+1=2\n--> 2 END", "Add.\nStop.", "mumble")).split("\n")
    assert shown == [
        "Round 3",
        "  Intuitive Reasoner:", "    1+1=2", "    --> 2 END",
        "  Knowledge Generator:", "    Add.", "    Stop.",
        "  Deep Reasoner:", "    mumble",
        "  System 1 says 2, System 2 says nothing.",
    ]


def test_the_script_plays_a_vote():
    shown = run("lorid.py")
    assert shown.count("Round ") == 2
    assert shown.endswith("Given by both, equally often: 72, 24. The one written first is "
                          "accepted: 72.\n")

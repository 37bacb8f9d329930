"""lorid.py: the prompts to the letter, answers compared without running anything, and the vote against a brute-force reading of the paper."""
import doctest
import json
import random
import subprocess
import sys
from fractions import Fraction

import pytest

import lorid
from conftest import ROOT
from lorid import Round, Verdict, canonical, extract_answer, same_answer


def read_jsonl(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def run(*command, cwd=ROOT):
    """A script of the repository as a user runs it; the generous limit turns a hang into a failure."""
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_plain_python():
    heavy = "[m for m in ('torch', 'numpy', 'tiktoken', 'requests', 'sympy') if m in sys.modules]"
    assert run("-c", f"import sys, lorid, data; print({heavy})").strip() == "[]"


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(lorid).attempted >= 3 and doctest.testmod(lorid).failed == 0


# ---------------------------------------------------------------------------------------------------------------------
# What the roles are asked and taught. Written out here once more: the released adapters know these strings and no others.

IR = "Please answer this MATH question step by step.\nWhat is 1+1?"
KG = "Please output knowledge needed to solve the MATH question step by step.\nQuestion: What is 1+1?\n\nKnowledge: "
DR = ("Please reason step by step based on the given MATH question and knowledge, and output the final answer.\n"
      "Question: What is 1+1?\n\nKnowledge: Add.\nThen stop.\n\nRationale: ")


def test_prompts_are_the_papers_to_the_letter():
    assert [lorid.prompt(role, "What is 1+1?", "Add.\nThen stop.") for role in ("ir", "kg", "dr")] == [IR, KG, DR]
    assert list(lorid.ROLES) == ["ir", "kg", "dr"]


@pytest.mark.parametrize("odd", ["{", "}", "{}", "{0}", "{question}", "{knowledge}", "{a!r:>{b}}", "\\frac{1}{2}", "%s %(x)d $HOME", "two\nlines "])
def test_questions_and_rules_reach_the_prompt_as_they_are(odd):
    assert lorid.prompt("ir", odd) == IR.replace("What is 1+1?", odd)
    assert lorid.prompt("kg", odd) == KG.replace("What is 1+1?", odd)
    assert lorid.prompt("dr", "Q", odd) == DR.replace("What is 1+1?", "Q").replace("Add.\nThen stop.", odd)
    assert lorid.prompt("dr", odd, "K") == DR.replace("Add.\nThen stop.", "K").replace("What is 1+1?", odd)


def test_targets_are_the_rules_or_the_solution_with_its_answer():
    row = dict(rationale="1+1=2", answer="2", knowledge=["Add.", "Then stop."])
    assert [lorid.target(role, row) for role in ("ir", "kg", "dr")] == ["1+1=2\n--> 2 END", "Add.\nThen stop.", "1+1=2\n--> 2 END"]


@pytest.mark.parametrize("answer", ["2", "-2", "1,000", "$5", "\\frac{1}{2}", "(1, 2)", "x^2 + 1", "12 apples", "THE END OF MAY", "\\{1, 2\\}"])
def test_what_a_target_states_is_found_again(answer):
    """Whatever the rationale says before: other answers, other forms."""
    for rationale in ("1+1", "1 --> 2\n3 --> 4", "The answer is: 7", "#### 7", "\\boxed{7}", "A: 7"):
        said = lorid.target("ir", dict(rationale=rationale, answer=answer))
        assert extract_answer(said) == ("THE" if answer.startswith("THE") else answer)  # END ends an answer, wherever it stands


# ---------------------------------------------------------------------------------------------------------------------
# Where an answer stands

@pytest.mark.parametrize("text, answer", [
    ("48+24 = 72\n--> 72 END", "72"),
    ("--> 72 END\n", "72"),
    ("-->72END", "72END"),                       # no words of ours, but the number is found: see canonical
    ("--> 1 END\n--> 2 END", "2"),
    ("--> 1 END --> 2 END", "2"),
    ("3 --> 4 --> 5 END", "5"),
    ("--> 5 END and so on", "5"),
    ("--> 5", "5"),
    ("--> 5 END\r\n", "5"),
    ("--> PRETEND END", "PRETEND"),
    ("--> 5 END\n--> ", "5"),                    # cut short after it had spoken
    ("--> END", None),
    ("-->", None),
    ("-->   \n  END", None),
    ("so 3\n#### 1,234", "1,234"),
    ("so 3\nA: 17.5", "17.5"),
    ("A: \n", None),
    ("The answer is: 5.", "5"),
    ("the answer is .5.", ".5"),
    ("It is $\\boxed{\\frac{1}{48}}$.The answer is: \\frac{1}{48}", "\\frac{1}{48}"),
    ("The answer is 1/48.The answer is: \\frac{1}{48}", "\\frac{1}{48}"),  # MetaMathQA has both on one line
    ("The answer is $6 \\cdot 20 = \\boxed{120}$.", "120"),
    ("\\boxed{1} and \\boxed{2}", "2"),
    ("\\boxed{\\frac{a}{b}}", "\\frac{a}{b}"),
    ("\\boxed{ 7 }", "7"),
    ("\\boxed{}", None),
    ("\\boxed{7", None),
    ("\\boxed 7", None),
    ("", None),
    ("the sum is 7", None),
])
def test_a_text_states_its_answer_in_one_of_five_forms(text, answer):
    assert extract_answer(text) == answer


# ---------------------------------------------------------------------------------------------------------------------
# When two answers are the same

ALIKE = [  # one value a line, as people write it
    ["72", "72.0", "72.", " 72 ", "$72", "72%", "72\\%", "$72.00", "72 apples", "+72", "072", "144/2", "\\$72", "£72", "72 sq. ft.", "72°", "72 °C"],
    ["1,000", "1000", "$1,000", "1,000.00", "1000 dollars", "2,000/2", "1000$"],
    ["1,234,567", "1234567"],
    ["0.5", ".5", "1/2", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\tfrac{ 1 }{2}", "$\\frac{1}{2}$", "2/4", "0.50", "1 / 2", "1/2 cup", "0.5%"],
    ["1.5", "1 1/2", "1\\frac{1}{2}", "3/2", "1 1/2 cups", "1 \\frac{1}{2}"],
    ["-3", "-3.0", "$-3", "-$3", "-6/2", "- 3", "-\\frac{6}{2}", "\\frac{-6}{2}"],
    ["-1.5", "-1 1/2", "-3/2"],
    ["0", "0.0", "-0", "0/5", "$0"],
    ["0.1", "1/10"], ["1/3", "2/6"], ["0.333"], ["50"], ["10001"], ["10000"], ["12"], ["1,2"], ["(1,2)", "(1, 2)"], ["[1,2]"], ["{1,2}"],
    ["x", "X"], ["2x"], ["5i"], ["5"], ["1/0"], ["1/0.0"], ["-1/0"], ["1/"], ["/2"], ["5$3"], ["53"], ["1,00"], ["100"], ["1e3"], ["12,"],
    ["yes", "Yes", "Yes."], ["no"], ["1/2/3"], ["2^3"], ["8"], ["٣"], ["3"], ["²"], ["1/٠"], ["5 or 6"], ["5, 6"], ["\\sqrt{2}"], ["sqrt{2}"], ["10:30"],
    ["9" * 999], ["9" * 1001], ["9" * 1001 + "1"], ["9" * 5000], [""],
]


def test_an_answer_equals_its_other_spellings_and_nothing_else():
    """Every pair of all these spellings: equal exactly within a line. This includes that equality is reflexive, symmetric and transitive."""
    every = [(value, spelling) for value, spellings in enumerate(ALIKE) for spelling in spellings]
    wrong = [(a, b) for i, a in every for j, b in every if same_answer(a, b) is not (i == j)]
    assert not wrong
    assert len({canonical(spelling) for _, spelling in every}) == len(ALIKE)  # canonical hashes as it compares: a Counter may hold it


def test_numbers_are_exact():
    """No float on the way: 0.1 + 0.2 is the classic."""
    assert canonical("0.1") + canonical("0.2") == canonical("0.3") == Fraction(3, 10)
    assert not same_answer("1/3", "0.3333333333333333") and not same_answer("10000000000000000", "10000000000000001")


def test_no_answer_equals_nothing():
    assert not same_answer(None, None) and not same_answer(None, "None") and not same_answer("None", None)


def test_answers_that_json_gave_as_numbers_compare_too():
    assert same_answer(72, "72") and same_answer(0.5, "1/2") and not same_answer(5, 0.5)


# The child answers all of it under an audit hook, which hears of anything that is compiled, executed, opened or started.
HOSTILE = """
import sys
import lorid
answers = ["9**9**9**9", "9^9^9^9", '__import__("os").system("touch caught")', "().__class__.__bases__[0].__subclasses__()", "exec('1')", "1/0", "0/0", "1/0.000", "1/-0",
           "1/\u0660", "\u0663", "\u00b2", "\u00bd", "\u0661/\u0662", "1e999999999", "nan", "inf", "-inf", "\\\\frac{1}{0}", "\\\\frac{}{}", "\\\\frac", "\\\\boxed{", "%s%n", "\\0", "\\ud800",
           ".", "..", "/", "-", "+", ",", "$", "%", "1/", "/1", "1//2", "1 1/", "1,", ",1", "1.2.3", "\\\\", "{" , "}"]
n = 100_000
for s in ("9", "9,", "0", "9.", "1/", " ", "\\n", "\\t", "(", ")", "[", "{", "}", "[(", ",", ".", "-", "--> ", "-->", "a ", "$", "\\\\", "\\\\frac", "\\\\frac{", "\\\\frac{1}", "\\\\boxed{",
          "END", "The answer is ", "#### ", "A: ", "1 ", "9**", ",999"):
    long = s * (n // len(s))
    answers += [long, "x" + long + "y", long[:999], "1" + long[:998], "1" + long[:997] + "!"]
heard = []
sys.addaudithook(lambda event, args: heard.append(event))
for a in answers:
    hash(lorid.canonical(a))
    assert lorid.same_answer(a, a)
    for text in (a, "--> " + a + " END", "A: " + a, "The answer is: " + a + ".", "\\\\boxed{" + a + "}"):
        found = lorid.extract_answer(text)
        assert found is None or found and hash(lorid.canonical(found)) is not None
print(len(answers), sorted(set(heard)))
"""


def test_hostile_answers_neither_raise_nor_run_nor_hang(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + HOSTILE, encoding="utf-8")
    assert run(child, cwd=tmp_path).strip() == "208 []"
    assert [p.name for p in tmp_path.iterdir()] == ["child.py"]


def test_graded_solutions_are_graded_as_their_authors_did(shared):
    """openai/grade-school-math, 4,000 solutions of models, each with a person's verdict."""
    rows = read_jsonl(shared / "data/gsm8k/graded_solutions.jsonl")
    wrong = [(row["id"], row["answer"], extract_answer(row["text"])) for row in rows if same_answer(extract_answer(row["text"]), row["answer"]) != row["is_correct"]]
    print(wrong)
    assert len(rows) == 4000 and sum(row["is_correct"] for row in rows) > 1000 and len(wrong) <= 4


@pytest.mark.parametrize("file, least", [("gsm8k/train", 7473), ("gsm8k/test", 1000), ("gsm8k/train_knowledge", 988), ("lorid_sample/gsm8k/train", 100),
                                         ("lorid_sample/gsm8k/test", 100), ("lorid_sample/math/train", 100), ("lorid_sample/math/test", 100)])
def test_gold_answers_are_found_again_in_their_own_target(shared, file, least):
    rows = read_jsonl(shared / f"data/{file}.jsonl")
    assert len(rows) >= least
    for row in rows:
        gold = row.get("answer") or extract_answer(row["rationale"])
        assert gold and same_answer(gold, gold), row
        assert same_answer(extract_answer(lorid.target("dr", row | dict(answer=gold))), gold), row
        if "gsm8k" in file:
            assert isinstance(canonical(gold), Fraction), gold


def test_both_forms_of_a_math_row_state_one_answer(shared):
    """Where the authors' rows say it twice, boxed and in words, the two agree."""
    rows = [row["rationale"] for name in ("train", "test") for row in read_jsonl(shared / f"data/lorid_sample/math/{name}.jsonl") if "\\boxed{" in row["rationale"]]
    assert len(rows) > 100 and all(same_answer(extract_answer(text), lorid.last_boxed(text)) for text in rows)


# ---------------------------------------------------------------------------------------------------------------------
# The vote

def play(conversation, *texts):
    """Drive a generator with texts, in order. Returns (what it returned, the requests it made, how many texts were left over)."""
    texts, asked = list(texts), []
    requests = next(conversation)
    while True:
        asked.append(requests)
        said, texts = texts[:len(requests)], texts[len(requests):]
        assert len(said) == len(requests), "it asks for more than was foreseen"
        try:
            requests = conversation.send(said)
        except StopIteration as end:
            return end.value, asked, len(texts)


def solution(answer):
    return "no idea" if answer is None else f"1+1=2\n--> {answer} END"


def vote(*rounds, most=20):
    """A vote in which IR and DR answer as given, a pair a round; extra pairs are left over."""
    return play(lorid.vote("Q", most), *(text for t, (ir, dr) in enumerate(rounds) for text in (solution(ir), f"rule {t}", solution(dr))))


def test_a_round_asks_ir_and_kg_and_then_dr_with_that_rounds_knowledge():
    _, asked, _ = vote((1, 2), (3, 4), (5, 6), most=3)
    assert asked == [step for t in range(3) for step in ([("ir", lorid.prompt("ir", "Q")), ("kg", lorid.prompt("kg", "Q"))], [("dr", lorid.prompt("dr", "Q", f"rule {t}"))])]


def test_the_vote_stops_at_the_first_agreement():
    verdict, asked, left = vote((72, 72), (1, 1))
    assert verdict == Verdict("72", ["72"], [Round(solution(72), "rule 0", solution(72))]) and len(asked) == 2 and left == 3


@pytest.mark.parametrize("rounds, answer, after", [
    ([(1, 2), (3, 4), (5, 6), (7, 8), (2, 9), (0, 0)], "2", 5),          # round 5's IR meets round 2's DR ...
    ([(9, 2), (3, 4), (5, 6), (7, 8), (1, 9), (0, 0)], "9", 5),          # ... and the other way round
    ([(1, 2), (1, 3), (1, 2), (4, 1)], "1", 4),                          # one system alone agrees with itself in vain
    ([("1,000", 2), (3, "1000")], "1,000", 2),                           # spellings agree; the first is kept
    ([("1/2", 2), (3, "0.5 cups")], "1/2", 2),
    ([(None, 4), (None, None), (4, None)], "4", 3),                      # silence is no answer, and two silences do not meet
])
def test_all_rounds_answers_stay_in_the_vote(rounds, answer, after):
    verdict, _, left = vote(*rounds)
    assert (verdict.answer, verdict.agreed, len(verdict.rounds), left) == (answer, [answer], after, 3 * (len(rounds) - after))


@pytest.mark.parametrize("rounds, agreed", [
    ([(1, 2), (2, 1)], ["1", "2"]),              # a tie: the one that was said first
    ([(2, 1), (1, 2)], ["2", "1"]),
    ([(1, 2), (1, 3), (2, 1)], ["1", "2"]),      # 1 three times, 2 twice
    ([(2, 1), (3, 1), (1, 2)], ["1", "2"]),      # said later, given more often
])
def test_of_two_answers_that_meet_in_one_round_the_more_frequent_is_taken_then_the_earlier(rounds, agreed):
    verdict, _, _ = vote(*rounds)
    assert (verdict.answer, verdict.agreed) == (agreed[0], agreed)


def test_without_agreement_the_majority_of_all_answers_is_taken_and_agreed_is_empty():
    verdict, asked, left = vote((1, 2), (3, 4), (5, 2), (6, 4), (7, 2), most=5)
    assert (verdict.answer, verdict.agreed, len(verdict.rounds), len(asked), left) == ("2", [], 5, 10, 0)
    assert vote((1, 2), (3, 4), most=2)[0].answer == "1"  # all once: the first


def test_texts_without_answers_give_none():
    verdict, _, _ = vote(*[(None, None)] * 3, most=3)
    assert (verdict.answer, verdict.agreed, len(verdict.rounds)) == (None, [], 3)


def test_there_are_twenty_rounds_unless_told_otherwise():
    assert len(play(lorid.vote("Q"), *["no idea"] * 60)[0].rounds) == 20
    assert len(play(lorid.vote("Q", 7), *["no idea"] * 21)[0].rounds) == 7


SPELLINGS = {"5": 5, "5.0": 5, "$5": 5, "1,000": 1000, "1000": 1000, "1/2": 0.5, "0.5": 0.5, "\\frac{1}{2}": 0.5, "-5": -5, "(1,2)": "pair", "(1, 2)": "pair", "7": 7, "8": 8, "9": 9}
FORMS = ("so\n--> {} END", "so\n#### {}", "A: {}", "The answer is: {}", "It is $\\boxed{{{}}}$.")


def by_hand(pairs):
    """The paper's rule read literally, by search: (answer, agreed, rounds used) of a list of spellings (IR's, DR's), None for silence."""
    def value(spelling):
        return SPELLINGS[spelling]

    for used in range(1, len(pairs) + 1):
        ir, dr = ([pair[k] for pair in pairs[:used] if pair[k] is not None] for k in (0, 1))
        order = [spelling for pair in pairs[:used] for spelling in pair if spelling is not None]
        met = [a for a in order if any(value(a) == value(b) for b in ir) and any(value(a) == value(b) for b in dr)]
        if met or used == len(pairs):
            break
    ranked = []
    for spelling in met or order:
        if all(value(spelling) != value(known) for known, _ in ranked):
            ranked.append((spelling, sum(value(spelling) == value(other) for other in order)))
    best = max((count for _, count in ranked), default=0)
    answer = next((spelling for spelling, count in ranked if count == best), None)
    return answer, {spelling for spelling, _ in ranked} if met else set(), used


def test_the_vote_equals_a_brute_force_search_on_random_scripts():
    rng, ends = random.Random(0), []
    for _ in range(3000):
        pool = rng.sample(list(SPELLINGS), rng.randint(1, len(SPELLINGS))) + [None] * rng.choice((0, 0, 1, 5, 20))
        halves = (pool, pool) if rng.random() < 0.5 else (pool[::2] or pool, pool[1::2] or pool)  # systems that hardly share an answer talk longer
        pairs = [tuple(rng.choice(half) for half in halves) for _ in range(rng.randint(1, 20))]
        texts = [text for t, pair in enumerate(pairs) for ir, dr in [["mumble" if a is None else rng.choice(FORMS).format(a) for a in pair]] for text in (ir, f"rule {t}", dr)]
        verdict, asked, left = play(lorid.vote("Q", len(pairs)), *texts)
        answer, agreed, used = by_hand(pairs)
        assert (verdict.answer, set(verdict.agreed), len(verdict.rounds)) == (answer, agreed, used), pairs
        assert [text for r in verdict.rounds for text in r] == texts[:3 * used] and left == len(texts) - 3 * used and len(asked) == 2 * used
        assert len(agreed) == len(verdict.agreed) and (not agreed or verdict.agreed[0] == verdict.answer)
        ends.append((used, len(agreed)))
    assert {used for used, _ in ends} == set(range(1, 21)) and {0, 1, 2} == {n for _, n in ends}  # the scripts reach every kind of end


def test_a_question_is_right_by_its_one_answer_and_strictly_by_any_agreed_one():
    both = Verdict("1", ["1", "2"])
    assert both.right("1.0") and not both.right("2") and both.right("2", strict=True) and both.right("1", strict=True) and not both.right("3", strict=True)
    majority = Verdict("1", [])
    assert majority.right("1") and not majority.right("1", strict=True)
    nothing = Verdict(None)
    assert not nothing.right("1") and not nothing.right(None) and not nothing.right("1", strict=True)


def test_a_system_alone_is_asked_once():
    verdict, asked, _ = play(lorid.system1("Q"), solution(7))
    assert (verdict, asked) == (Verdict("7", [], [Round(solution(7), None, None)]), [[("ir", lorid.prompt("ir", "Q"))]])
    verdict, asked, _ = play(lorid.system2("Q"), "Add {x}.", solution(8))
    assert verdict == Verdict("8", [], [Round(None, "Add {x}.", solution(8))])
    assert asked == [[("kg", lorid.prompt("kg", "Q"))], [("dr", lorid.prompt("dr", "Q", "Add {x}."))]]
    assert play(lorid.system1("Q"), "cut sho")[0].answer is None


def test_a_deep_reasoner_with_given_knowledge_asks_no_generator():
    for knowledge in ("Add {x}.", ""):
        verdict, asked, _ = play(lorid.system2("Q", knowledge), solution(8))
        assert (verdict.answer, asked) == ("8", [[("dr", lorid.prompt("dr", "Q", knowledge))]])


@pytest.mark.parametrize("answers, majority", [("7 8 7", "7"), ("8 7 7.0 9", "7"), ("9 8 8 9", "9"), ("1", "1"), ("? ? 5 ?", "5"), ("? ?", None), ("0.5 2 1/2", "0.5")])
def test_self_consistency_is_the_majority_of_k_intuitive_texts(answers, majority):
    """Equal answers count together however they are written, texts without an answer do not count, and of equals the earlier wins."""
    texts = ["mumble" if a == "?" else solution(a) for a in answers.split()]
    verdict, asked, left = play(lorid.self_consistency("Q", len(texts)), *texts)
    assert (verdict.answer, verdict.agreed, left) == (majority, [], 0)
    assert asked == [[("ir", lorid.prompt("ir", "Q"))] * len(texts)] and [r.intuitive for r in verdict.rounds] == texts


def test_a_replay_gives_the_verdict_of_the_conversation():
    """Against the tests' own driver; a vote of fewer rounds takes the first of the same texts."""
    texts = [text for pair in ((1, 2), (3, 4), (5, 1), (9, 9)) for ir, dr in [pair] for text in (solution(ir), f"rule {dr}", solution(dr))]
    for most in (1, 2, 3, 20):
        assert lorid.replay(lorid.vote("Q", most), texts) == play(lorid.vote("Q", most), *texts)[0]
    assert lorid.replay(lorid.vote("Q"), texts).agreed == ["1"] and len(lorid.replay(lorid.vote("Q"), texts).rounds) == 3


def test_a_transcript_shows_all_three_texts_and_both_answers():
    shown = lorid.transcript(3, Round("1+1=2\n--> 2 END", "Add.\nStop.", "mumble")).split("\n")
    assert shown == ["Round 3", "  Intuitive Reasoner:", "    1+1=2", "    --> 2 END", "  Knowledge Generator:", "    Add.", "    Stop.",
                     "  Deep Reasoner:", "    mumble", "  System 1 says 2, System 2 says nothing."]


def test_the_script_plays_a_vote():
    shown = run("lorid.py")
    assert shown.count("Round ") == 2 and shown.endswith("Given by both: 72, 24. Accepted: 72.\n")

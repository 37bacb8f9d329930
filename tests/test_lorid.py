"""lorid.py: the prompts to the letter, answers compared without running anything, and the vote against a brute-force reading of the paper."""
import doctest
import json
import math
import random
import subprocess
import sys
import time
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
    for stated in ("So $1+1=\\boxed{2}$.", "1+1=2\nThe answer is: 2"):  # as in MATH: nothing is said twice, but other answers in between count not
        assert lorid.target("dr", row | dict(rationale=stated)) == stated
        assert lorid.target("dr", row | dict(rationale=stated, answer="3")) == stated + "\n--> 3 END"


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
    ("#### Step 1\nAdd.\n#### Step 2\nSo \\boxed{5}.", "5"),            # headings
    ("#### Step 1\nAdd.\nThe answer is: 5", "5"),
    ("#### 72\n\n", "72"),
    ("A: first\nB: second\nThe answer is: B", "B"),                      # choices
    ("The answer is clearly positive.\nSo \\boxed{5}.", "5"),            # more is said behind it
    ("--> 72 END\nSo \\boxed{5}.", "72"),                                # END ends it
    ("\\boxed{5} is wrong.\nThe answer is 6", "6"),
    ("f: A --> B is one to one.\nSo \\boxed{5}.", "5"),
    ("\\boxed{1} and \\boxed{2}", "2"),
    ("\\boxed{\\frac{a}{b}}", "\\frac{a}{b}"),
    ("\\boxed{ 7 }", "7"),
    ("\\boxed{}", None),
    ("\\boxed{7", None),
    ("\\boxed{\\frac{\\sqrt{3}}{2}} or {more}", "\\frac{\\sqrt{3}}{2}"),
    ("\\boxed{\\left\\{ 1, 2 \\right.}", "\\left\\{ 1, 2 \\right."),  # a brace for the reader is none for TeX
    ("{7}", None),
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
    ["yes", "Yes", "Yes."], ["no"], ["1/2/3"], ["2^3", "8"], ["٣"], ["3"], ["²"], ["1/٠"], ["5 or 6", "5, 6"], ["\\sqrt{2}", "sqrt{2}"], ["10:30"],
    ["9" * 999], ["9" * 1001], ["9" * 1001 + "1"], ["9" * 5000], [""],
]


def test_an_answer_equals_its_other_spellings_and_nothing_else():
    """Every pair of all these spellings: equal exactly within a line. This includes that equality is reflexive, symmetric and transitive."""
    every = [(value, spelling) for value, spellings in enumerate(ALIKE) for spelling in spellings]
    wrong = [(a, b) for i, a in every for j, b in every if same_answer(a, b) is not (i == j)]
    assert not wrong
    assert len({canonical(spelling) for _, spelling in every}) == len(ALIKE)  # canonical hashes as it compares: a Counter may hold it


# Graded by hand: is b a right answer where a is? All of MATH's kinds, and near misses of each.

EQUAL = [  # as (a, b); what a person grading would call the same answer
    # integers, signs, decimals
    ("72", "72.0"), ("72", "+72"), ("072", "72"), ("-3", "- 3"), ("−3", "-3"), (".5", "0.5"), ("2.50", "2.5"), ("-.5", "-1/2"), ("7.", "7"), ("0", "-0"),
    # thousands
    ("1,000", "1000"), ("1,234,567", "1234567"), ("362,\\!880", "362880"), ("1{,}000", "1000"), ("10\\,000", "10000"), ("1,000.50", "1000.5"), ("-1,000", "-1000"),
    ("\\frac{1,000}{3}", "\\frac{1000}{3}"), ("1,000 and 2,000", "2000, 1000"), ("(1,\\!000, 5)", "(1000, 5)"),
    # money, percent, degrees, units, words
    ("$5", "5"), ("\\$5", "5"), ("5 dollars", "$5.00"), ("£3", "3"), ("72%", "72"), ("72\\%", "72"), ("0.5%", ".5"), ("30^\\circ", "30"), ("30^{\\circ}", "30°"),
    ("30 degrees", "30"), ("90\\degree", "90"), ("12 apples", "12"), ("5\\text{ cm}", "5"), ("5\\text{ cm}^2", "5"), ("5 cm^2", "5"), ("5\\mbox{ cm}^{2}", "5"), ("9\\mathrm{m}", "9"),
    ("\\frac{1}{2}\\text{ hour}", "0.5"), ("60 miles per hour", "60"), ("60 miles/hour", "60"), ("5 m/s^2", "5"), ("36\\pi\\text{ cubic inches}", "36\\pi"), ("5\\text{ in}^2", "5"),
    ("x = 5\\text{ cm}", "5"), ("5 or 6 cm", "6 or 5"),
    # fractions and mixed numbers
    ("\\frac{1}{2}", "1/2"), ("\\frac12", "0.5"), ("\\frac 43", "4/3"), ("\\frac1{10}", "0.1"), ("\\frac{1}2", "1/2"), ("\\frac{3}{6}", "\\dfrac{1}{2}"), ("\\tfrac{1}{4}", "\\cfrac14"), ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("\\frac{\\frac{1}{2}}{3}", "1/6"), ("\\frac{1}{\\frac{2}{3}}", "3/2"), ("\\frac { 1 } { 2 }", "1/2"), ("1 1/2", "3/2"), ("1\\frac{1}{2}", "1.5"), ("6 \\frac34", "27/4"), ("-1 1/2", "-3/2"),
    ("1\\frac 12", "1 1 / 2"), ("3/(4/5)", "15/4"), ("10/4", "2\\frac{1}{2}"), ("1 1/2 cups", "1.5"),
    # roots
    ("\\sqrt{8}", "2\\sqrt{2}"), ("\\sqrt8", "2\\sqrt2"), ("\\sqrt{4}", "2"), ("\\sqrt{\\frac{1}{4}}", "\\frac12"), ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}"), ("\\frac{1}{\\sqrt{3}}", "\\frac{\\sqrt{3}}3"),
    ("\\sqrt2\\sqrt3", "\\sqrt6"), ("\\sqrt{12}+\\sqrt{3}", "3\\sqrt{3}"), ("\\sqrt[3]{8}", "2"), ("\\sqrt[3]{-8}", "-2"), ("\\sqrt[3]{16}", "2\\sqrt[3]{2}"), ("\\sqrt[4]{4}", "\\sqrt{2}"), ("8^{2/3}", "4"),
    ("2^{1/2}", "\\sqrt2"), ("\\sqrt{\\sqrt{2}}", "2^{.25}"), ("sqrt(2)", "\\sqrt{2}"), ("√12", "2√3"), ("\\frac{192\\sqrt{14}}{25}", "7.68\\sqrt{14}"), ("\\sqrt{0.25}", "0.5"), ("1+\\sqrt2", "\\sqrt2+1"),
    ("\\frac{2+2\\sqrt5}{4}", "\\frac{1+\\sqrt{5}}{2}"), ("2(1+\\sqrt3)", "2+2\\sqrt3"), ("(1+\\sqrt2)(1-\\sqrt2)", "-1"), ("\\sqrt{2} - \\sqrt{2}", "0"), ("\\sqrt2 \\cdot \\sqrt2", "2"),
    # powers
    ("2^3", "8"), ("2^{10}", "1024"), ("2^10", "1024"), ("10^{-3}", "0.001"), ("10^-3", "0.001"), ("1.5 \\times 10^3", "1500"), ("1.5 * 10^{3}", "1,500"), ("-2^2", "-4"), ("(-2)^2", "4"), ("5^0", "1"),
    ("\\left(\\frac{2}{3}\\right)^2", "\\frac49"), ("3^{100} \\cdot 3^{-99}", "3"),
    # pi, i, infinity
    ("2\\pi+\\pi", "3\\pi"), ("\\frac{\\pi}{2}", "\\frac12\\pi"), ("2 pi", "2\\pi"), ("2π", "2\\pi"), ("\\frac{4}{3}\\pi", "\\frac{4\\pi}{3}"), ("4\\pi/3", "4/3 \\pi"), ("\\pi\\sqrt{2}", "\\sqrt2\\,\\pi"), ("\\pi^2/\\pi", "\\pi"),
    ("\\frac{3}{2} + \\frac{3}{2} i", "\\frac{3+3i}{2}"), ("4i+3", "3+4i"), ("i^2", "-1"), ("\\sqrt{-4}", "2i"), ("(1+i)(1-i)", "2"), ("\\frac{1}{i}", "-i"), ("∞", "\\infty"),
    # names and equations
    ("x=5", "5"), ("x = 5", "x=5.0"), ("AB = 5", "5"), ("x_1 = 2", "2"), ("x_{1}=2", "2"), ("\\theta = 30^\\circ", "30"), ("f(x) = 3", "3"), ("f(2)=3", "3"), ("x \\in [0,1]", "[0,1]"), ("(x,y) = (1,2)", "(1, 2)"),
    ("48+24 = 72", "72"), ("6 \\cdot 20 = 120", "120"), ("(8 + 2/2, -8 + 2/2) = (9, -7)", "(9,-7)"),
    # lists, in any order
    ("x=1 or x=2", "1, 2"), ("1, 2", "2, 1"), ("1 and 2", "1,2"), ("$x=1$ or $x=2$", "2, 1"), ("1\\text{ or }2", "2\\text{ and }1"), ("x=\\pm 2", "x = 2 or x = -2"), ("\\pm 2", "-2, 2"), ("1 \\pm \\sqrt{2}", "1-\\sqrt2, 1+\\sqrt2"),
    ("\\frac{-1\\pm\\sqrt{5}}{2}", "\\frac{-1-\\sqrt5}{2}, \\frac{\\sqrt5-1}{2}"), ("0, \\pm 1", "1, 0, -1"), ("(1,2), (3,4)", "(3,4) and (1,2)"), ("7,9,12,13", "13, 12, 9, 7"), ("3;4", "4, 3"), ("0.5, \\frac13", "1/3, 1/2"),
    ("3, 5, and 7", "3,5,7"), ("3, 5, or 7", "7 or 5 or 3"), ("1\\text{, and }2", "1,2"),
    # brackets
    ("(1,2)", "( 1 , 2 )"), ("\\left( -\\frac{1}{4}, -2 \\right)", "(-0.25,-2)"), ("(\\sqrt8,1)", "(2\\sqrt2,1)"), ("\\{1,2\\}", "\\{2, 1\\}"), ("\\{1,1,2\\}", "\\{1,2\\}"), ("{1,2}", "\\{1,2\\}"), ("[0,\\infty)", "\\left[0, \\infty\\right)"),
    ("(-\\infty,1)\\cup(2,\\infty)", "(2,\\infty) \\cup (-\\infty,1)"), ("(100,200)", "(100, 200)"), ("(5)", "5"), ("\\{\\frac12\\}", "\\{0.5\\}"), ("[1,2]", "[1.0,2.0]"), ("(\\sqrt8,2]", "(2\\sqrt2,2]"), ("(0.5,1)∪(2,3)", "(2,3) \\cup (1/2,1)"),
    ("\\begin{pmatrix} 5/3 \\\\ 1 \\end{pmatrix}", "\\begin{pmatrix}\\frac{5}{3}\\\\1\\end{pmatrix}"), ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"),
    # texts
    ("\\text{odd}", "odd"), ("\\text{(C)}", "C"), ("(B)", "B"), ("Yes", "yes."), ("\\text{Evelyn}", "Evelyn"), ("2x+3", "2x + 3"), ("x^{2}+1", "x^2 + 1"), ("x^{10}", "x^10"), ("\\dfrac{x}{2}", "\\frac{x}{2}"), ("\\frac12x", "\\frac{1}{2}x"),
    ("4210_{7}", "4210_7"), ("\\left(x-1\\right)(x+1)", "(x-1)(x+1)"), ("3 \\cdot x", "3 \\times x"), ("y = 2x+3", "y=2x + 3"), ("3:4", "3 : 4"), ("\\$x", "x"), ("1/0", "1 / 0"),
    ("x \\leq 5", "x\\le5"), ("x \\geq 5", "x \\ge 5"), ("x \\neq 5", "x \\ne 5"),
]

UNEQUAL = [  # near misses
    ("0.5", "50"), ("10001", "10000"), ("(1,2)", "[1,2]"), ("(1,2)", "(2,1)"), ("(1,2)", "1,2"), ("[1,2)", "(1,2]"), ("[1,2)", "[1,2]"), ("(1,2)", "\\{1,2\\}"), ("1,2", "\\{1,2\\}"), ("0.72", "72%"), ("0.5", "50%"), ("5", "-5"),
    ("1,2", "1.2"), ("1,2", "12"), ("1,00", "100"), ("1,000", "1,0"), ("1, 000", "1000"), ("(1,000)", "1000"), ("(100,200)", "100200"), ("1000", "1,0000"), ("1,0000", "10000"), ("1.000", "1000"), ("12", "1 2"), ("5$3", "53"), ("1e3", "1000"),
    ("1/3", "0.333"), ("1/3", "0.3333333333333333"), ("2/3", "0.67"), ("\\pi", "3.14"), ("\\pi", "22/7"), ("\\sqrt2", "1.414"), ("1/2", "2/1"), ("1 1/2", "11/2"), ("1\\frac{1}{2}", "\\frac{11}{2}"), ("1\\frac12", "\\frac12"),
    ("2\\frac{1}{2}", "1"), ("2 \\cdot \\frac{1}{2}", "2\\frac12"), ("\\frac{1}{23}", "\\frac{12}{3}"), ("\\frac12", "\\frac1{12}"), ("\\sqrt{12}", "\\sqrt12"), ("\\sqrt{2}3", "\\sqrt{23}"), ("2\\sqrt3", "3\\sqrt2"),
    ("\\sqrt{8}", "\\sqrt{2}"), ("\\sqrt{4}", "-2"), ("\\sqrt{4}", "\\pm 2"), ("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5}"), ("\\sqrt[3]{2}", "\\sqrt2"), ("3\\sqrt{2}", "\\sqrt[3]{2}"), ("\\sqrt[3]{-8}", "2"), ("\\sqrt{-4}", "-2"), ("\\sqrt{-4}", "2"),
    ("2^3", "6"), ("2^3", "3^2"), ("2^{-1}", "-2"), ("2^{10}", "2^{1}0"), ("-2^2", "4"), ("2^{3^2}", "64"), ("9^9^9", "9^{81}"), ("\\pi", "\\pi^2"), ("2\\pi", "2"), ("\\pi", "p"), ("\\pi", "i"),
    ("5i", "5"), ("i", "1"), ("3+4i", "3-4i"), ("3+4i", "4+3i"), ("\\infty", "-\\infty"), ("(-\\infty,1)", "(\\infty,1)"), ("(-\\infty,1)", "(-\\infty,1]"), ("(0,\\infty)", "[0,\\infty)"),
    ("x=5", "x=6"), ("x=5", "x=-5"), ("x=1, y=2", "1,2"), ("x=1, y=2", "x=2, y=1"), ("x=1 or x=2", "x=1"), ("x=1 or x=2", "x=1 or x=3"), ("2x=5", "5"), ("x+1=5", "5"), ("x^2=5", "5"), ("\\sqrt{x}=5", "5"), ("5+y=3", "8"),
    ("-x=5", "5"), ("48+24=70", "70"), ("48+24=70", "72"), ("x>5", "x=5"), ("x>5", "x<5"), ("x \\ge 5", "x > 5"), ("x \\leq 5", "x \\geq 5"), ("x=5", "x \\neq 5"), ("x \\in [0,1]", "(0,1)"), ("(x,y)=(1,2)", "(y,x)=(2,1)"),
    ("1, 2", "1, 2, 3"), ("1, 1, 2", "1, 2"), ("1, 1, 2", "1, 2, 2"), ("1,2", "1"), ("\\pm 2", "2"), ("1 \\pm 2", "3"), ("\\pm 1 \\pm 2", "3, -3"), ("(\\pm 1, \\pm 2)", "(1,2), (-1,-2)"), ("(1,2),(3,4)", "(1,2,3,4)"), ("(1,2),(3,4)", "(2,1),(3,4)"),
    ("\\{1,2\\}", "\\{1,2,3\\}"), ("\\{5\\}", "5"), ("\\{5\\}", "(5)"), ("[5]", "5"), ("(1,2,3)", "(1,(2,3))"), ("(1,2]", "(1,2)"), ("(1,2", "(1,2)"), ("(1,2))", "(1,2)"), ("2(1,2)", "(1,2)"), ("(1;2)", "(1,2)"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)"),
    ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
    ("5 million", "5"), ("2 dozen", "2"), ("5 thousand", "5"), ("1234,567", "1234567"), ("0.123,456", "0.123456"), ("3/4 1/2", "2/3"), ("1\\frac{ 1 }{ 2 }", "1/2"), ("(\\sqrt[6]{-1})^2", "-1"),
    ("5 hundred", "5"), ("5 squared", "5"), ("2x", "2"), ("2 x", "2"), ("5x", "5 x apples"), ("3 hours and 20 minutes", "20 hours and 3 minutes"), ("3 feet 4 inches", "34"), ("3 feet 4 inches", "3"),
    ("10:30", "10"), ("10:30", "1030"), ("3:4", "3/4"), ("3:4", "4:3"), ("5 to 6", "56"), ("10^3", "10*3"), ("5!", "5"), ("5!", "120."), ("|5|", "-5"), ("4210_7", "4210"), ("4210_7", "4210_8"), ("0.\\overline{3}", "0.3"), ("\\binom{5}{2}", "5/2"),
    ("2x+3", "3+2x"), ("2x+3", "2x-3"), ("(x-1)(x+1)", "x^2-1"), ("x^2", "x2"), ("x^{2y}", "x^2y"), ("\\frac{12}{5}x", "\\frac{1}{25}x"), ("x", "y"), ("\\frac{x}{2}", "\\frac{2}{x}"), ("\\sin x", "\\cos x"), ("A", "B"), ("yes", "no"),
    ("odd", "even"), ("1/0", "0"), ("0/0", "0"), ("0/0", "1"), ("1/0", "2/0"), ("0^0", "1"), ("1/", "1"), ("/2", "2"), ("12,", "12"), ("", "0"), ("1/2/3", "1/(2/3)"), ("1.2.3", "1.23"), ("٣", "3"), ("²", "2"), ("½", "12"), ("--5", "5"), ("5-", "5"),
    ("1/2\\pi", "\\frac{1}{2\\pi}"), ("10^{400}", "10^{401}"), ("10^{4000}", "10^{4001}"), ("9**9", "81"),
]


def test_hand_graded_pairs_get_the_same_verdict():
    wrong = [(a, b, verdict) for verdict, pairs in ((True, EQUAL), (False, UNEQUAL)) for a, b in pairs if same_answer(a, b) is not verdict or same_answer(b, a) is not verdict]
    assert not wrong and len(EQUAL) >= 150 and len(UNEQUAL) >= 150


def test_the_grammars_limits_are_where_they_were_put():
    """Beyond them an answer is a text: it still equals itself, and never another value."""
    assert same_answer("\\sqrt{999983}", "\\sqrt{999983.0}") and not same_answer("\\sqrt{1000003}", "\\sqrt{1000003.0}")  # both are primes
    assert canonical("10^{500}") == 10**500 and isinstance(canonical("10^{1500}"), str) and isinstance(canonical("10^{500} 10^{500} 10^{500}".replace(" ", " \\cdot ")), str)
    assert same_answer("(" * 100 + "1" + ")" * 100, "1") and isinstance(canonical("(" * 101 + "1" + ")" * 101), str)
    assert canonical("1" * lorid.LONGEST) == int("1" * lorid.LONGEST) and isinstance(canonical("1" * (lorid.LONGEST + 1)), str)


def some_number(rng, depth):
    """A random expression in the grammar and its value as Python's complex numbers have it. ZeroDivisionError, OverflowError happen."""
    a, b, k = rng.randint(0, 9), rng.randint(1, 9), rng.choice((2, 3, 4, 6, 8, 12, 18))
    if depth == 0:
        return rng.choice([(f"{a}", a), (f"{a}.{b}", a + b / 10), (f"{a}/{b}", a / b), (f"\\frac{a}{b}", a / b), (f"{a}\\frac{{{b}}}{{{b + 1}}}", a + b / (b + 1)), (f"\\sqrt{{{k}}}", k ** 0.5),
                           (f"\\sqrt{b}", b ** 0.5), (f"\\sqrt[3]{{{k}}}", k ** (1 / 3)), ("\\pi", math.pi), ("i", 1j), ("\\sqrt{-4}", 2j), (f"{b}\\sqrt{{{k}}}", b * k ** 0.5), (f"{b}\\pi", b * math.pi)])
    (x, x_value), (y, y_value) = (some_number(rng, rng.randint(0, depth - 1)) for _ in range(2))
    return rng.choice([lambda: (f"({x}) + {y}", x_value + y_value), lambda: (f"{x} - ({y})", x_value - y_value), lambda: (f"-({x})", -x_value), lambda: (f"({x})({y})", x_value * y_value),
                       lambda: (f"({x}) \\cdot ({y})", x_value * y_value), lambda: (f"\\frac{{{x}}}{{{y}}}", x_value / y_value), lambda: (f"({x})/({y})", x_value / y_value),
                       lambda: (f"({x})^{{{k - 4}}}", x_value ** (k - 4)), lambda: (f"({x})^2", x_value ** 2)])()


def test_exact_values_are_equal_exactly_where_floating_point_finds_them_close():
    """The oracle knows nothing of terms: each random expression comes with its value, computed along with it in complex floats."""
    rng, found = random.Random(1), {}
    while len(found) < 1500:
        try:
            text, value = some_number(rng, rng.randint(0, 3))
        except ArithmeticError:
            continue
        if not isinstance(key := canonical(text), str) and abs(value) < 1e6:  # a text: 1/(1+\\sqrt2), say, which the grammar leaves alone
            found[text] = (key, value)
    values = list(found.items())
    wrong = [(a, b) for a, (key, x) in values for b, (other, y) in values if (key == other) != (abs(x - y) < 1e-9 * (1 + abs(x)))]
    assert not wrong, wrong[:5]
    assert len({key for key, _ in found.values()}) < 1200 and sum(not isinstance(key, Fraction) for key, _ in found.values()) > 500


FRAGMENTS = ["\\frac", "\\dfrac", "\\sqrt", "\\sqrt[3]", "{", "}", "\\{", "\\}", "(", ")", "[", "]", "\\left(", "\\right)", "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", ",", ";", " or ", " and ", "\\cup", "\\pm", "=", "x", "x=", "f(x)=",
             "\\in", "^", "_", "+", "-", "*", "/", "\\cdot", "\\pi", "i", "\\infty", "0", "1", "2", "12", "99999", "1,000", ".5", "1.5", "1 1/2", "%", "$", "^\\circ", "\\text{", "\\text{ cm}", " cm", " cm^2", "\\!", "\\,", " ", ".", "!", "|", "\\",
             "\\boxed{", "-->", "END", "\n", "\0", "\u0663", "\u00b2", "\u2212", "\u221a", "\u03c0", "\ud800", "\u0130", "\U0001d7d9"]


def test_any_text_has_a_canonical_form_and_same_answer_is_an_equivalence():
    rng = random.Random(2)
    texts = ["".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 9))) for _ in range(2000)]
    texts += ["".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)))) for _ in range(rng.randint(1, 30))) for _ in range(1000)]
    keys = [canonical(text) for text in texts]
    assert all(key == canonical(text) and isinstance(key, (Fraction, frozenset, str)) for key, text in zip(keys, texts))
    pool = rng.sample(texts, 20) + [text for pair in rng.sample(EQUAL, 15) + rng.sample(UNEQUAL, 5) for text in pair]
    same = [{j for j, b in enumerate(pool) if same_answer(a, b)} for a in pool]
    assert all(i in same[i] and all(same[j] == same[i] for j in same[i]) for i in range(len(pool)))  # reflexive; symmetric and transitive


LONG = ["9", "0", "9,", "1,000,", "9.", ".", "1/", " ", "\n", "\t", "a", "a ", " cm", "1 ", "1 1/2 ", "(", ")", "[", "]", "{", "}", "[(", "{}", "\\{", "\\\\", "\\", "\\!", "\\,", ",", ";", " or ", "-", "+", "--> ", "-->", "=", "x=", "x=1,", "\\pm", "1\\pm", "$", "%",
        "^", "^2", "9^9", "9**", "2^", "_", "\\frac", "\\frac{", "\\frac{1}", "\\frac12", "\\sqrt", "\\sqrt{2}+", "(1+\\sqrt2)", "\\sqrt{999983}", "999983^.5", "9^{999}+", "1/9^{999}+", "\\pi", "\\text{", "\\text{a}", "^\\circ", "\\begin{pmatrix}", "1&", "\\boxed{",
        "\\boxed{}", "END", "END ", "#### ", "A: ", "The answer is ", "the answer is:\n", "\u0130", "\u0663", "\u221a", "\ud800"]


def test_no_text_takes_long():
    """At most 50 milliseconds, of 100,000 characters or just of the most that the parser takes, whole and with a stranger at either end. In
    processor time, and the best of five, so that a busy machine does not matter; the worst was 20 milliseconds when this was written."""
    def cost(call, text):
        best = math.inf
        for _ in range(5):
            started = time.process_time()
            call(text)
            best = min(best, time.process_time() - started)
            if best < 0.03:
                break
        return best, call.__name__, text[:30]
    slowest = (0, "", "")
    for piece in LONG:
        for size in (100_000, lorid.LONGEST):
            most = (piece * size)[:size - 1]
            for text in (most, "1" + most, most + "!", "x" + most[:-1] + "1"):
                said = (text, f"--> {text} END", f"#### {text}", f"The answer is: {text}", f"\\boxed{{{text}}}")
                slowest = max(slowest, cost(canonical, text), *(cost(extract_answer, solution) for solution in said))
    assert slowest[0] < 0.05, slowest


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
answers = ["9**9**9**9", "9^9^9^9", "9^{999999999}", "(9^{999})^{999}", "2^{1/999999999}", "\\\\sqrt{9^{99}}", '__import__("os").system("touch caught")', "().__class__.__bases__[0].__subclasses__()", "exec('1')", "1/0", "0/0", "1/0.000", "1/-0",
           "1/\u0660", "\u0663", "\u00b2", "\u00bd", "\u0661/\u0662", "1e999999999", "nan", "inf", "-inf", "\\\\frac{1}{0}", "\\\\frac{}{}", "\\\\frac", "\\\\boxed{", "%s%n", "\\0", "\\ud800",
           ".", "..", "/", "-", "+", ",", "$", "%", "1/", "/1", "1//2", "1 1/", "1,", ",1", "1.2.3", "\\\\", "{" , "}"]
n, most = 100_000, lorid.LONGEST
for s in ("9", "9,", "0", "9.", "1/", " ", "\\n", "\\t", "(", ")", "[", "{", "}", "[(", ",", ".", "-", "--> ", "-->", "a ", "$", "\\\\", "\\\\frac", "\\\\frac{", "\\\\frac{1}", "\\\\boxed{",
          "END", "The answer is ", "#### ", "A: ", "1 ", "9**", ",999"):
    long = s * (n // len(s))
    answers += [long, "x" + long + "y", long[:most], "1" + long[:most - 1], "1" + long[:most - 2] + "!"]
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
    assert run(child, cwd=tmp_path).strip() == "212 []"
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


def test_the_gold_answers_of_math_equal_themselves_and_none_of_their_neighbours(shared):
    """Neighbours: the other rows' answers, the same with one digit changed, with another sign, or with something written beside it."""
    golds = [extract_answer(row["rationale"]) for name in ("train", "test") for row in read_jsonl(shared / f"data/lorid_sample/math/{name}.jsonl")]
    assert len(golds) == 200 and None not in golds
    values = {gold: canonical(gold) for gold in golds}
    alike = {frozenset((a, b)) for a in values for b in values if a != b and values[a] == values[b]}
    assert alike == {frozenset(("\\frac14", "\\frac{1}{4}"))} and len(values) > 70
    texts = {gold for gold, value in values.items() if isinstance(value, str)}
    assert texts == {"\\text{odd}", "\\text{C}", "\\text{neither}", "4210_{7}", "1202_3", "a"}  # all else is understood
    for gold in values:
        assert same_answer(gold, f" ${gold}$. ") and same_answer(gold, extract_answer(f"so $\\boxed{{{gold}}}$"))
        changed = [gold[:i] + str((int(digit) + 1) % 10) + gold[i + 1:] for i, digit in enumerate(gold) if digit.isdigit()]
        for other in [*changed, f"{gold}x", f"({gold}, 1)", f"{gold}, 7", f"{gold}/0"] + [f"-{gold}", f"{gold}+1"] * (gold != "0"):
            assert not same_answer(gold, other), (gold, other)


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

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


def target(role, row):
    """What a role is taught to say about a training row (a dict with rationale, answer, knowledge: a list of rules)."""
    if role == "kg":
        return "\n".join(row["knowledge"])
    return f"{row['rationale']}\n--> {row['answer']} END"


# ---------------------------------------------------------------------------------------------------------------------
# Answers: where a solution states its own, and when two are the same

STATED = [  # the first kind that occurs wins, and within it the last place; none can be slowed down by a hostile text
    re.compile(r"^.*-->(.*?)(?:\bEND\b|$)", re.M),  # as taught above
    re.compile(r"^####(.*)", re.M),                 # GSM8K's own files
    re.compile(r"^A:(.*)", re.M),                   # GSM8K's sample solutions
    re.compile(r"^.*[Tt]he answer is:?(.*)", re.M),  # MetaMathQA
]


def extract_answer(text):
    """The answer that a solution states, as it is written there; None if it states none (a text that was cut short, say).

    >>> extract_answer("48/2 = 24\\n48+24 = 72\\n--> 72 END")
    '72'
    >>> extract_answer("So it is \\\\boxed{\\\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    for pattern in STATED:
        found = [place.strip().rstrip(" .") for place in pattern.findall(text)]
        found = [place for place in found if place]
        if found:
            return last_boxed(found[-1]) or found[-1]
    return last_boxed(text)


def last_boxed(text):
    """What stands in the last \\boxed{...}, braces matched; None if there is none, it never closes or is empty."""
    start, depth = text.rfind("\\boxed{"), 0
    if start < 0:
        return None
    for i in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len("\\boxed{"):i].strip() or None
    return None


NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?"  # 1,000 but not 1,2; .5; also the empty string, which is ruled out below
UNIT = r"(?:\s*°|\s+[a-zA-Z])[a-zA-Z°. ]*"           # 12 apples, 90°; but 2x is no number
VALUE = re.compile(rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s+(?=\d+/))?(?P<top>{NUMBER})(?:\s*/\s*(?P<bottom>{NUMBER}))?(?:{UNIT})?",
                   re.ASCII)


def canonical(answer):
    """An exact Fraction if the answer is a number, else a tidied string: two answers vote together when these are equal.

    Money and percent signs, thousands separators and words after the number are dropped, whatever they say (50 cents is 50);
    fractions are exact.
    Nothing is ever evaluated: the text is matched against one pattern.

    >>> canonical("$1,000"), canonical("72%"), canonical("3/6"), canonical("\\\\frac{1}{2}"), canonical("12 apples")
    (Fraction(1000, 1), Fraction(72, 1), Fraction(1, 2), Fraction(1, 2), Fraction(12, 1))
    """
    text = str(answer).strip().rstrip(".")
    plain = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1/\2", text)
    plain = re.sub(r"\\[!,; ]", "", re.sub(r"\\?[$%£€]", " ", plain)).strip()
    m = VALUE.fullmatch(plain) if len(plain) <= 1000 else None
    if m and m["top"] and (m["bottom"] is None or m["bottom"].strip("0.,")):  # a bottom of zeros is no number
        top, bottom = (Fraction((m[part] or "1").replace(",", "")) for part in ("top", "bottom"))
        value = int(m["whole"] or 0) + top / bottom
        return -value if m["sign"] == "-" else value
    return re.sub(r"\s+", "", plain).lower()


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

    It knows no model: infer.py drives hundreds of these at once, a test drives one with texts of its own.
    Returns a Verdict. Should two answers meet in the same round, the one given more often in all is taken, then the earlier one.
    If none ever meet, it is the majority of all answers, with `agreed` left empty to say so.
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

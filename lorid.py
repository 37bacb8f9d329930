"""LoRID (Li, Liu and Wang, IJCAI 2025, arXiv 2508.13037): who is asked what, and how they agree.

One small student model plays three roles, each with a LoRA adapter of its own:

    Intuitive Reasoner   (ir, System 1)   question           -> solution
    Knowledge Generator  (kg)             question           -> general rules
    Deep Reasoner        (dr)             question + rules   -> solution     kg then dr: System 2

In each round both systems solve the question once. As soon as both have given some same answer, in
whatever rounds, it is accepted.

    python lorid.py     plays one vote with texts written in this file; no model is loaded
"""
import re
from collections import Counter, deque, namedtuple
from dataclasses import dataclass, field

from support.answers import canonical
from support.cli import Parser, run

# -------------------------------------------------------------------------------------------------
# The roles. The paper's adapters were trained with these strings: a changed letter changes answers.

Role = namedtuple("Role", "title instruction input")
ROLES = {
    "ir": Role("Intuitive Reasoner",
               "Please answer this MATH question step by step.",
               "{question}"),
    "kg": Role("Knowledge Generator",
               "Please output knowledge needed to solve the MATH question step by step.",
               "Question: {question}\n\nKnowledge: "),
    "dr": Role("Deep Reasoner",
               "Please reason step by step based on the given MATH question and knowledge,"
               " and output the final answer.",
               "Question: {question}\n\nKnowledge: {knowledge}\n\nRationale: "),
}


def prompt(role, question, knowledge=""):
    """What a role is asked. `knowledge` is one text, a rule a line; only dr reads it."""
    r = ROLES[role]
    return r.instruction + "\n" + r.input.format(question=question, knowledge=knowledge)


# -------------------------------------------------------------------------------------------------
# The vote

Round = namedtuple("Round", "intuitive knowledge deep")  # texts of ir, kg and dr, as in ROLES


@dataclass
class Verdict:
    """How a question ended."""
    answer: str | None  # None only if no text stated any
    agreed: list[str] = field(default_factory=list)  # what both systems gave, the best first
    rounds: list[Round] = field(default_factory=list)

    def right(self, gold, strict=False):
        """Whether the question counts as solved. strict: as the paper counts; any agreed answer
        may be the right one, and without agreement the question is lost."""
        if strict:
            return any(same_answer(answer, gold) for answer in self.agreed)
        return same_answer(self.answer, gold)


def vote(question, rounds=20):
    """The paper's inference, a generator that knows no model: it yields requests, a list of
    (role, prompt), is sent the list of their texts, and returns a Verdict (see `replay`).

    Each round yields twice: ir and kg together, then dr with that round's knowledge. The vote ends
    after the first round by which ir and dr have given some same answer, in one round or in two
    (dr in 2, ir in 5), or after `rounds` rounds. One that agrees with itself ends nothing.

    `extract_answer` reads a text's answer; one that states none counts nowhere and never agrees.
    Answers are the same if `canonical` (support/answers.py) says so, as of 72 and $72.00; the first
    spelling is kept, ir's before dr's within a round.

    The verdict's `agreed` holds all answers given by both, the most frequent first (of both
    together, in all rounds), of equals the one written earlier; `answer` is its first. Where it is
    empty, `answer` is chosen likewise from all answers given, None if there are none. Its `rounds`
    has a Round for each round that was asked.
    """
    # exercise lorid-1, 8 points: ask until both systems have given some same answer
    intuitive, deep = Counter(), Counter()  # how often each system has given an answer
    first_written, history = {}, []
    for _ in range(rounds):
        # yield hands the requests out; its value is the list of texts that are sent back
        solution, knowledge = yield [("ir", prompt("ir", question)), ("kg", prompt("kg", question))]
        [deep_solution] = yield [("dr", prompt("dr", question, knowledge))]
        history.append(Round(solution, knowledge, deep_solution))

        for system, text in ((intuitive, solution), (deep, deep_solution)):
            if (answer := extract_answer(text)) is not None:
                key = canonical(answer)
                first_written.setdefault(key, answer)
                system[key] += 1

        # both keep growing: ir's answer of round 5 may meet dr's of round 2
        if intuitive.keys() & deep.keys():
            break

    # a stable sort: of answers given equally often, the one written earlier stays in front
    ranked = sorted(first_written, key=lambda k: intuitive[k] + deep[k], reverse=True)
    agreed = [first_written[k] for k in ranked if k in intuitive and k in deep]
    candidates = agreed or [first_written[k] for k in ranked]
    return Verdict(candidates[0] if candidates else None, agreed, history)
    # end of lorid-1


# -------------------------------------------------------------------------------------------------
# What the vote is measured against: generators of the same kind

def system1(question):
    """The Intuitive Reasoner alone, asked once."""
    [solution] = yield [("ir", prompt("ir", question))]
    return Verdict(extract_answer(solution), rounds=[Round(solution, None, None)])


def system2(question, knowledge=None):
    """Knowledge Generator, then Deep Reasoner, each asked once; only the Deep Reasoner where the
    knowledge is given, be it empty."""
    if knowledge is None:
        [knowledge] = yield [("kg", prompt("kg", question))]
    [solution] = yield [("dr", prompt("dr", question, knowledge))]
    return Verdict(extract_answer(solution), rounds=[Round(None, knowledge, solution)])


def self_consistency(question, k):
    """The majority of k texts of the Intuitive Reasoner alone (Wang et al., arXiv 2203.11171).

    It yields once, a list of k equal requests. The verdict's `answer` is the one that most of the
    texts state, as it was first written. Answers are equal if their `canonical` forms are; of
    those given equally often the one written first wins; texts that state none do not count, and
    if none does, `answer` is None. `agreed` stays empty; `rounds` holds a Round(text, None, None)
    for each of the k texts.
    """
    # exercise lorid-2, 3 points: ask k times at once, take the most frequent answer
    texts = yield [("ir", prompt("ir", question))] * k
    answers = [answer for answer in map(extract_answer, texts) if answer is not None]
    count = Counter(map(canonical, answers))
    majority = max(answers, key=lambda answer: count[canonical(answer)], default=None)
    return Verdict(majority, rounds=[Round(text, None, None) for text in texts])
    # end of lorid-2


def replay(conversation, texts):
    """The verdict of a conversation (one of the generators above) that is sent these texts, in
    the order in which it asks for them. Texts may be left over."""
    texts = deque(texts)
    requests = next(conversation)  # runs it up to its first yield
    try:
        while True:
            requests = conversation.send([texts.popleft() for _ in requests])
    except StopIteration as end:  # a generator's return value arrives in this exception
        return end.value


# -------------------------------------------------------------------------------------------------
# Where a solution states its answer, and so what a role is taught to write

# The first form that occurs counts, and of it the last place. Each takes time linear in the text.
# Our roles write the first one only; the rest reads data sets and chat models: skip it at first.
FORMS = [
    re.compile(r"^.*-->(.*?)(?:\bEND\b|$)", re.M),  # what we teach, see `target`
    re.compile(r"^####(.*)\Z", re.M),  # GSM8K's own files; further up, #### begins a heading
    # GSM8K's "A: 72" and chat models' "**Final Answer:** The sum is 72", on the last line only
    re.compile(r"^(?=.*\Z)(?:A:|(?i:[-#*_> ]*(?:(?:the|my|your|correct|\d+\.) )*ans(?:wer)?|"
               r".*\bfinal answer)[*_ ]*(?::|=(?!.*END)|[–—-](?=\s)|(?=[$\\\d])))"
               r"(?:[^.\n]*\bis\b:?)?(.*)", re.M),
    re.compile(r"^.*(?<![A-Za-z])(?i:(?:the|final|correct) answer is\b):?(.*?)(?:\bEND\b|$)", re.M),
]
# words that Markdown sets apart; 2**3, 2 * 3 * 4 and (2)*(3)*(4) are none
MARKED = re.compile(r"(?<![\w)}*])(\*\*|__|\*|`)(?=\S)([^*_`\n]+)(?<=\S)\1(?![\w({*])")
# breaks behind a heading, and around a formula that has lines of its own
BREAKS = re.compile(r"([Aa]nswer(?: is)?[:*_ ]*)\n{1,2}|(?<=\$\$|\\\[) *\n(.*)\n *(?=\$\$|\\\])")


def extract_answer(text):
    r"""The answer that a solution states, as it is written there; None if it states none (a text
    that was truncated, say).

    It stands in one of FORMS, up to the end of its sentence and without the blanks, Markdown and
    dollars around it, else in the last \boxed{...}. An empty statement is none. If a box stands in
    the statement, or after one that no END closes, the last box counts: "The answer is clear: it is
    \boxed{5}." states 5. Only the text's last 20,000 characters are read.

    >>> extract_answer("48/2 = 24\n--> 24 END\n48+24 = 72\n--> 72 END")
    '72'
    >>> extract_answer("So it is \\boxed{\\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("**Final Answer:**\nThe sum is $12$. I hope it is correct.")
    '12'
    >>> extract_answer("I do not know.")
    """
    text = BREAKS.sub(r"\1 \2", MARKED.sub(r"\2", text.rstrip()[-20_000:]))
    for form in FORMS:
        found = [place for place in form.finditer(text) if stated(place[1])]
        if found:
            place, answer = found[-1], stated(found[-1][1])
            closed = place[0].endswith("END")
            return last_boxed(answer if closed else text[place.start(1):]) or answer
    return last_boxed(text)


def stated(text):
    """The first sentence of a text, without Markdown and what else is around it."""
    text = re.sub(r"(?<!\w)(\*\*|__|`)([^*_`]+)\1(?!\w)", r"\2", text)
    text = re.split(r"[.!]\s+(?=[A-Z<\[])", text)[0].strip(" \t*_`").rstrip(" .*_`")
    return re.sub(r"^(?:\$\$?|\\[(\[])([^$]+)(?:\$\$?|\\[)\]])$", r"\1", text).strip().rstrip(".")


def last_boxed(text):
    r"""What stands in the last \boxed{...} of a text, without blanks around it; None if there is
    no \boxed{ or the last one never closes or holds nothing but blanks.

    Braces are matched, so that a box may hold \frac{1}{2}. A brace right after a backslash, \{ or
    \}, is printed for the reader and takes no part in the matching. If one box stands in another,
    the last is the one that opens last.

    >>> last_boxed(r"\boxed{1}, no, \boxed{ \frac{1}{2} } since {x}")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{\{1, 2\}}")
    '\\{1, 2\\}'
    >>> last_boxed(r"\boxed{1}, no, \boxed{2"), last_boxed(r"\boxed{ }"), last_boxed(r"\boxed 2")
    (None, None, None)
    """
    # exercise lorid-3, 4 points: find the last box, match its braces
    _, box, rest = text.rpartition("\\boxed{")
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", rest) if box else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[:brace.start()].strip() or None
    return None
    # end of lorid-3


def target(role, row):
    """What a role is taught to write about a training row (a dict with rationale, answer and
    knowledge, a list of rules): kg the rules, a rule a line; ir and dr the solution, and its
    answer in the form "--> 72 END" unless the solution states that answer already."""
    if role == "kg":
        return "\n".join(row["knowledge"])
    if extract_answer(row["rationale"]) == row["answer"]:
        return row["rationale"]  # as MATH's do, in a box
    return f"{row['rationale']}\n--> {row['answer']} END"


def same_answer(a, b):
    """Whether two answers are equal: 72 = 72.0 = $72 = 72%, 1,000 = 1000, 0.5 = 1/2; the table in
    support/answers.py says all. None, the answer of a text that states none, equals nothing."""
    return a is not None and b is not None and canonical(a) == canonical(b)


# -------------------------------------------------------------------------------------------------
# A vote to read

def paragraph(role, text):
    """A role's text, for a reader."""
    lines = [f"  {ROLES[role].title}:"] + [f"    {line}" for line in text.splitlines()]
    return "\n".join(lines)


def statements(texts):
    """What the two systems state in a Round, for a reader."""
    first, second = (extract_answer(text) or "nothing" for text in (texts.intuitive, texts.deep))
    return f"  System 1 says {first}, System 2 says {second}."


def transcript(t, texts):
    """Round number t of a vote, a Round of three texts, for a reader."""
    paragraphs = [paragraph(role, text) for role, text in zip(ROLES, texts, strict=True)]
    return "\n".join([f"Round {t}", *paragraphs, statements(texts)])


def main():
    about = "Plays a vote of two rounds, every text of it written in this file."
    Parser(description=about).parse_args()
    question = ("Natalia sold 48 clips in April and half as many in May. "
                "How many did she sell in both months?")
    half, whole = "48/2 = 24\n--> 24 END", "48/2 = 24\n48+24 = 72\n--> 72 END"
    rule = "Half of a number is the number divided by 2."
    texts = ["48+24 = 72\n--> 72 END", rule, half,  # round 1: ir, kg, dr
             half, rule + "\nA total is a sum.", whole]  # round 2
    verdict = replay(vote(question), texts)
    for t, played in enumerate(verdict.rounds, 1):
        print(transcript(t, played))
    print(f"Given by both, equally often: {', '.join(verdict.agreed)}. The one written first is "
          f"accepted: {verdict.answer}.")


if __name__ == "__main__":
    run(main)

"""Graders of lorid-1 (vote), lorid-2 (self_consistency) and lorid-3 (last_boxed)."""
from contextlib import contextmanager

from course import check, equal, rng, short, student, trying

lorid = student("lorid")


@contextmanager
def without_boxes():
    """`extract_answer` calls last_boxed, which is an exercise of its own: here nothing is boxed."""
    own, lorid.last_boxed = lorid.last_boxed, lambda text: None
    try:
        yield
    finally:
        lorid.last_boxed = own


def says(answer):
    """A solution that states this answer; None: one that states none."""
    return "I do not know." if answer is None else f"1+1 = 2\n--> {answer} END"


def hold(conversation, **texts):
    """Drive a conversation with each role's texts: (what it returned, the requests, by turn)."""
    check(hasattr(conversation, "send"), "The function must be a generator: it yields its "
          f"requests and is sent the texts. Got {type(conversation).__name__}.")
    left, turns, reply = {role: list(said) for role, said in texts.items()}, [], None
    with without_boxes():
        while True:
            try:
                requests = conversation.send(reply)
            except StopIteration as end:
                check(turns, "It must be a generator: no `yield` was reached.")
                return end.value, turns
            check(isinstance(requests, (list, tuple)) and all(
                isinstance(r, tuple) and len(r) == 2 for r in requests),
                f"It must yield lists of (role, prompt), not {short(requests)}.")
            turns.append(list(requests))
            reply = []
            for role, _ in requests:
                check(left.get(role), f"It must stop in time, but asks {role} once more after "
                                      "all that it needs.")
                reply.append(left[role].pop(0))


def play(ir, dr, rounds=None):
    """A vote in which the systems state these answers, round by round: its Verdict."""
    rounds = len(ir) if rounds is None else rounds
    verdict, _ = hold(lorid.vote("How many?", rounds), kg=["A rule."] * len(ir),
                      ir=map(says, ir), dr=map(says, dr))
    check(isinstance(verdict, lorid.Verdict), f"vote must return a Verdict, not {verdict!r}.")
    return verdict


def told(ir, dr):
    return f"ir says {', '.join(map(str, ir))}; dr says {', '.join(map(str, dr))}."


def ends(rule, ir, dr, answer, agreed, rounds):
    """The vote with these answers must end so."""
    rule = f"{rule} ({told(ir, dr)})"
    with trying(rule):
        verdict = play(ir, dr)
    equal(f"{rule} answer:", verdict.answer, answer)
    equal(f"{rule} agreed:", verdict.agreed, agreed)
    equal(f"{rule} Number of rounds:", len(verdict.rounds), rounds)


def three(name):
    """Three different answers."""
    return list(map(str, rng(name).sample(range(10, 100), 3)))


def test_lorid_1_ends_when_both_say_the_same():
    a, b, c = three("vote")
    ends("Both say the same in round 1: accept it.", [a, b], [a, c], a, [a], 1)
    ends("Both say the same in round 2: accept it.", [a, b, c], [c, b, a], b, [b], 2)


def test_lorid_1_agreement_may_span_rounds():
    a, b, c = three("across")
    ends("What ir says now and dr said earlier agrees.", [a, b, c], [b, c, a], b, [b], 2)
    ends("What dr says now and ir said earlier agrees.", [a, b, c], [c, a, b], a, [a], 2)


def test_lorid_1_a_system_cannot_agree_with_itself():
    a, b, c = three("itself")
    ends("ir agreeing with itself ends nothing.", [a, a, b], [b, c, c], b, [b], 3)


def test_lorid_1_no_answer_agrees_with_nothing():
    a, b, _ = three("none")
    ends("Texts that state no answer do not agree.", [None, a], [None, a], a, [a], 2)
    ends("A text that states no answer does not count.", [None, None, a], [None, None, b], a, [], 3)
    ends("If no text states an answer, there is none.", [None], [None], None, [], 1)


def test_lorid_1_answers_are_compared_by_value():
    a, b, _ = three("value")
    ends("Answers are the same if canonical says so; the first spelling stays.",
         [b, f"{a}"], [f"${a}.00", "7"], f"${a}.00", [f"${a}.00"], 2)


def test_lorid_1_asks_as_the_paper_does():
    _, turns = hold(lorid.vote("How many?", 2), ir=map(says, "12"), dr=map(says, "34"),
                    kg=["Add.", "Subtract."])
    equal("Each round asks twice: ir with kg, then dr.", [[role for role, _ in t] for t in turns],
          [["ir", "kg"], ["dr"], ["ir", "kg"], ["dr"]])
    for turn, rule in (turns[1], "Add."), (turns[3], "Subtract."):
        equal("dr is asked with the knowledge of its own round.", turn[0][1],
              lorid.prompt("dr", "How many?", rule))
    for role, asked in turns[2]:
        equal(f"{role} is asked the question, as `prompt` puts it.", asked,
              lorid.prompt(role, "How many?"))


def test_lorid_1_of_two_agreed_answers_the_more_frequent_is_first():
    a, b, c = three("frequent")
    ends("Of agreed answers, the one given most often, by both together, is first.",
         [c, b, a], [a, a, c], a, [a, c], 3)


def test_lorid_1_of_equals_the_earlier_is_first():
    a, b, c = three("equals")
    ends("Of answers given equally often, the one written first is first; within a round, ir's.",
         [b, a], [a, b], b, [b, a], 2)
    ends("Of answers given equally often, the one written first is first, whoever wrote it.",
         [None, a, b], [b, None, a], b, [b, a], 3)
    ends("Without agreement, of answers given equally often the one written first wins.",
         [None, a], [c, b], c, [], 2)


def test_lorid_1_without_agreement_the_most_frequent_answer_is_taken():
    a, b, c = three("rest")
    ends("Without agreement, the most frequent answer of either system is taken.",
         [a, b, b], [c, "8", "9"], b, [], 3)
    verdict = play("11111", "22222", 3)
    equal("rounds=3 asks 3 rounds at most.", len(verdict.rounds), 3)


def test_lorid_1_keeps_the_texts():
    a, b, _ = three("texts")
    verdict = play([a, b], [b, "0"])
    expected = [lorid.Round(says(a), "A rule.", says(b)), lorid.Round(says(b), "A rule.", says(0))]
    equal("The verdict holds a Round of three texts for each round.", verdict.rounds, expected)


def majority(rule, said, answer):
    rule = f"{rule} (The texts say {', '.join(map(str, said))}.)"
    with trying(rule):
        verdict, _ = hold(lorid.self_consistency("How many?", len(said)), ir=map(says, said))
        got = verdict.answer
    equal(rule, got, answer)
    return verdict


def test_lorid_2_takes_the_most_frequent_answer():
    a, b, c = three("majority")
    majority("The most frequent answer wins.", [a, b, c, b], b)
    majority("The most frequent answer wins.", [c, c, a], c)


def test_lorid_2_asks_once():
    _, turns = hold(lorid.self_consistency("How many?", 3), ir=map(says, "123"))
    asked = [len(requests) for requests in turns]
    times = f"{len(asked)} times" if len(asked) > 1 else "once"
    check(asked == [3], "It yields once, k equal requests to ir: with k = 3 asked "
          f"{times} for {' and '.join(map(str, sorted(set(asked))))}, expected once for 3.")
    for request in turns[0]:
        equal("It yields once, k equal requests to ir.", request,
              ("ir", lorid.prompt("ir", "How many?")))


def test_lorid_2_of_equals_the_first_wins():
    a, b, c = three("first")
    majority("Of answers given equally often the one written first wins.", [c, b, a, b, c, a], c)
    majority("Of answers given equally often the one written first wins.", [a, c, b], a)


def test_lorid_2_texts_without_an_answer_do_not_count():
    a, b, _ = three("without")
    majority("Texts that state no answer do not count.", [None, None, None, a, b, b], b)
    majority("If no text states an answer, there is none.", [None, None], None)


def test_lorid_2_answers_are_compared_by_value():
    a, b, _ = three("spelling")
    majority("Answers are the same if canonical says so; the first spelling stays.",
             [b, f"{a}.0", f"${a}"], f"{a}.0")


def test_lorid_2_keeps_the_texts():
    verdict = majority("One text, one answer.", ["3"], "3")
    equal("The verdict holds Round(text, None, None) for each text.", verdict.rounds,
          [lorid.Round(says(3), None, None)])
    equal("Nobody agrees here.", verdict.agreed, [])


def box(rule, text, expected):
    with trying(f"{rule} ({text})"):
        got = lorid.last_boxed(text)
    equal(f"{rule} ({text})", got, expected)


def test_lorid_3_finds_what_is_in_the_box():
    a, b, _ = three("box")
    box("What stands in the box is the answer.", rf"So it is \boxed{{{a}}}.", a)
    box("Of two boxes the last counts.", rf"\boxed{{{a}}}, no, \boxed{{{b}}}", b)
    box("Without a box there is no answer.", f"It is {a}. }}", None)


def test_lorid_3_matches_braces():
    a, b, _ = three("braces")
    box("A box may hold braces.", rf"\boxed{{\frac{{{a}}}{{{b}}}}}, {{x}}", rf"\frac{{{a}}}{{{b}}}")


def test_lorid_3_printed_braces_do_not_count():
    a, b, _ = three("printed")
    box(r"\{ and \} take no part in the matching.", rf"\boxed{{\{{{a}, {b}\}}}}.",
        rf"\{{{a}, {b}\}}")
    box(r"\{ and \} take no part in the matching.", rf"\boxed{{[{a}, {b}\}}}}", rf"[{a}, {b}\}}")


def test_lorid_3_a_box_that_never_closes_is_none():
    a, b, _ = three("open")
    box("If the last box never closes, there is no answer.", rf"\boxed{{{a}}}, \boxed{{{b}", None)
    box("A box must have its brace.", rf"\boxed {a}", None)


def test_lorid_3_blanks():
    a, _, _ = three("blanks")
    box("Blanks around the answer go.", rf"\boxed{{ {a}  }}", a)
    box("A box of blanks holds no answer.", rf"\boxed{{{a}}} \boxed{{  }}", None)


def test_lorid_3_of_nested_boxes_the_inner_counts():
    a, b, _ = three("nested")
    box("If one box stands in another, the last is the one that opens last.",
        rf"\boxed{{{a} = \boxed{{{b}}}}}", b)

"""Grader of engine-1 (accept)."""
from course import equal, rng, student, trying

engine = student("support.engine")


def accepts(rule, draft, drawn, tokens, eos_ids=(0,)):
    kept = list(draft), list(drawn)
    rule = f"{rule} accept({draft}, {drawn}, eos_ids={list(eos_ids)})"
    with trying(f"{rule}:"):
        got = list(engine.accept(draft, drawn, list(eos_ids)))
    equal(rule, got, tokens)
    equal("The arguments must not be changed.", (draft, drawn), kept)


def test_engine_1_up_to_the_first_that_differs():
    accepts("Up to the first drawn token that differs from its draft, that one included.",
            [5, 6, 7], [5, 6, 9, 4], [5, 6, 9])
    r = rng("accept")
    for _ in range(20):
        drawn = [r.randrange(1, 9) for _ in range(6)]
        n = r.randrange(5)  # so many are right
        draft = [*drawn[:n], drawn[n] + 10, *drawn[n + 1:5]]
        accepts("Up to the first drawn token that differs from its draft, that one included.",
                draft, drawn, drawn[:n + 1])


def test_engine_1_the_first_is_wrong():
    accepts("A wrong first token leaves one: what comes after was drawn from a text that is not "
            "there, though it may look right.", [1, 2, 3], [9, 2, 3, 4], [9])


def test_engine_1_all_are_right():
    accepts("If all of the draft is right, one more comes.", [5, 6], [5, 6, 7], [5, 6, 7])
    accepts("Without a draft one token comes.", [], [3], [3])


def test_engine_1_an_end_token_ends():
    accepts("No further than an end token, which is included.", [5, 0, 7], [5, 0, 7, 8], [5, 0])
    accepts("Any of the end tokens ends the text.", [5, 2, 7], [5, 2, 7, 8], [5, 2], (0, 2))
    accepts("An end token may be drawn where another was drafted.", [5, 6], [0, 6, 7], [0])
    accepts("A drafted end token that was not drawn ends by being wrong.", [0, 6], [5, 6, 7], [5])

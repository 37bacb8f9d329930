"""Grader of data-1 (tokenize_example)."""
from contextlib import contextmanager
from types import SimpleNamespace

from course import check, equal, refuses, rng, short, student, trying

data = student("data")

# Tokens are letters. The prompt stands between marks, as in a chat template.
LETTERS = SimpleNamespace(prompt_ids=lambda text: ["<ask>", *text, "<answer>"],
                          answer_ids=lambda text: [*text, "<end>"])


def pairs(text):
    return [text[i:i + 2] for i in range(0, len(text), 2)]


# Tokens are pairs of letters: where two texts are joined, the pairs shift.
PAIRS = SimpleNamespace(prompt_ids=pairs, answer_ids=lambda text: [*pairs(text), "<end>"])


@contextmanager
def without_boxes():
    """lorid.target calls last_boxed, which is an exercise of its own: here nothing is boxed."""
    own, data.lorid.last_boxed = data.lorid.last_boxed, lambda text: None
    try:
        yield
    finally:
        data.lorid.last_boxed = own


def example(name):
    n = rng(name).randrange(10, 100)
    return {"id": 0, "question": f"{n}+1?", "rationale": f"{n}+1={n + 1}", "answer": f"{n + 1}",
            "knowledge": ["Add.", "Count on."]}


def tokenize(row, role, tokenizer=LETTERS):
    with trying(f"tokenize_example for {role}:"), without_boxes():
        got = data.tokenize_example(row, role, tokenizer)
    check(isinstance(got, tuple) and len(got) == 2,
          f"It must return two lists, (ids, loss_mask), not {short(got)}.")
    return tuple(map(list, got))


def texts(row, role):
    """(what the role is asked, what it learns to say)"""
    with without_boxes():
        return (data.lorid.prompt(role, row["question"], "\n".join(row["knowledge"])),
                data.lorid.target(role, row))


def test_data_1_prompt_then_completion():
    for role in data.lorid.ROLES:
        row = example(role)
        ids, _ = tokenize(row, role)
        prompt, target = texts(row, role)
        whole = ["<ask>", *prompt, "<answer>", *target, "<end>"]
        told = "".join(ids), "".join(whole)
        at = next((i for i, (a, b) in enumerate(zip(*told, strict=False)) if a != b), 0)
        check(ids == whole, f"{role}: first what prompt_ids makes of the prompt, then what "
              f"answer_ids makes of the target. Expected ...{short(told[1][at:])}, "
              f"got ...{short(told[0][at:])}.")


def supervised(row, role):
    """The tokens that count, and those that do not."""
    ids, loss_mask = tokenize(row, role)
    equal("ids and loss_mask must have the same length.", len(loss_mask), len(ids))
    marked = list(zip(ids, loss_mask, strict=True))
    return "".join(i for i, m in marked if m), "".join(i for i, m in marked if not m)


def test_data_1_the_prompt_does_not_count():
    row = example("prompt")
    prompt, target = texts(row, "ir")
    counted, left = supervised(row, "ir")
    equal("The prompt's tokens must not count.", left, f"<ask>{prompt}<answer>")


def test_data_1_the_completion_counts():
    for role in data.lorid.ROLES:
        row = example(role)
        counted, _ = supervised(row, role)
        equal(f"{role}: all that it is to say counts.", counted.removesuffix("<end>"),
              texts(row, role)[1])


def test_data_1_the_end_token_counts():
    counted, _ = supervised(example("end"), "kg")
    check(counted.endswith("<end>"), "The end token counts, too, or the role never learns to stop: "
          f"expected the supervised tokens to end in <end>, got ...{short(counted[-12:])}.")


def test_data_1_only_dr_reads_the_knowledge():
    row = example("knowledge")
    for role, reads in ("ir", False), ("kg", False), ("dr", True):
        _, left = supervised(row, role)
        check(("Add.\nCount on." in left) == reads, f"{role} must {'' if reads else 'not '}read "
              f"the knowledge, a rule a line, in its prompt; it reads ...{short(left[-40:])}")


def test_data_1_tokenized_apart():
    row = example("apart")
    for question in ("1+1?", "1+1 ?"):  # one of them makes the prompt odd
        row["question"] = question
        prompt, target = texts(row, "ir")
        equal("Prompt and completion are tokenized apart, so no token spans both.",
              tokenize(row, "ir", PAIRS)[0][-4:], [*pairs(prompt), *pairs(target), "<end>"][-4:])


def test_data_1_refuses():
    row = example("refuses")
    for role, key in ("kg", "knowledge"), ("dr", "knowledge"), ("ir", "rationale"):
        refuses(f"A row without {key} must be refused for {role}.", ValueError,
                tokenize, row | {key: type(row[key])()}, role)

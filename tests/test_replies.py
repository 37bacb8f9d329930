"""support/replies.py: rules as real models write them, copies of the problem in them, and what
servers mean that do not answer."""
import json
import random
import re
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from data import read_rows
from support import replies
from support.replies import RetryableError, RowError, copied, read_rules, refusal, retry_after

NONE = "no JSON object with a list of 1 to 12 texts"


def rules(content):
    """What read_rules makes of a message's content: the rules, or why there are none."""
    try:
        return read_rules({"choices": [{"message": {"content": content}}]})
    except RetryableError as error:
        return str(error)


def says(*texts):
    """A reply with these texts exactly as they stand, not escaped."""
    return '{"knowledge": [' + ", ".join(f'"{text}"' for text in texts) + "]}"


@pytest.mark.parametrize("written, meant", [
    # single backslashes: escapes that JSON knows, ...
    (r"A third is \frac{1}{3}.", r"A third is \frac{1}{3}."),
    (r"\forall x, \flat", r"\forall x, \flat"), (r"\beta, \bar{x}, \binom{n}{k}, \begin{x}",
                                                 r"\beta, \bar{x}, \binom{n}{k}, \begin{x}"),
    (r"\rho and \right)", r"\rho and \right)"), (r"a \times b", r"a \times b"),
    (r"2\times3 = 6 \text{m}, \textbf{x}", r"2\times3 = 6 \text{m}, \textbf{x}"),
    (r"\theta_1 \to \tau, \tan x, \tfrac12 A, \triangle ABC",
     r"\theta_1 \to \tau, \tan x, \tfrac12 A, \triangle ABC"),
    (r"\nu \neq 0, a \ne b, \nabla f, x \notin M, a \not= b",
     r"\nu \neq 0, a \ne b, \nabla f, x \notin M, a \not= b"),
    # ... those that it does not, ...
    (r"\sqrt{2}, \pi, \cdot \left( \{a\} \$ \% \,", r"\sqrt{2}, \pi, \cdot \left( \{a\} \$ \% \,"),
    (r"\underline{x} and \upsilon", r"\underline{x} and \upsilon"),
    # ... and as they should be
    (r"\\frac{1}{2} of \\nu", r"\frac{1}{2} of \nu"), (r"a \\\\ b", r"a \\ b"),
    # what is no LaTeX
    (r"One.\nTwo.", "One. Two."), (r"One.\nnext, not one, near it", "One. next, not one, near it"),
    (r"One.\r\nand two", "One. and two"), (r"One:\tAdd.", "One: Add."),
    (r"One:\tadd up.", "One: add up."),
    (r"say \"x\" \/ \u00e9\u20ac \ud835\udc65", 'say "x" / é€ 𝑥'),
    ("One.\nTwo.", "One. Two."), ("One\ttab", "One tab"),  # raw, which JSON forbids
    ("a \times b \neq \frac{1}{2} \beta", r"a \times b \neq \frac{1}{2} \beta"),  # decoded twice
])
def test_latex_in_json_stays_latex_and_line_breaks_end_lines(written, meant):
    assert rules(says(written)) == [meant]


@pytest.mark.parametrize("content, wanted", [
    ("<think>" + says("Draft.") + "</think>" + says("Good."), ["Good."]),
    (says("Good.") + "<think>" + says("Draft.") + "</think>", ["Good."]),
    ("<think>" + says("Draft."), NONE), ("<think>" + says("Draft.") + "</think> Sorry.", NONE),
    (says("Draft.") + "</think> Sorry.", NONE),  # the opening tag stood in the prompt
    (says("Draft.") + "</think>" + says("Good."), ["Good."]),
    ("<think>a<think>b</think>" + says("Draft.") + "</think>No.", NONE),
    (f"<thinking>{says('Draft.')}</thinking>\n```json\n{says('Good.')}\n```", ["Good."]),
    ("[THINK]" + says("Draft.") + "[/THINK]", NONE), ("<Think>" + says("Draft."), NONE),
    ("<reasoning>" + says("Draft.") + "</reasoning>No.", NONE),
    ([{"type": "thinking", "text": says("Draft.")}, {"type": "text", "text": "No."}], NONE),
    ([{"type": "reasoning", "text": "x"}, {"type": "text", "text": says("Good.")}], ["Good."]),
    *[(f"{opened}{says('Draft.')}{closed}No.", NONE) for opened, closed in (
        ("<think >", "</think >"), ("<thoughts>", "</thoughts>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel|>analysis<|message|>", ""))],
    ("<|channel|>analysis<|message|>" + says("Draft.") + "<|end|><|start|>assistant"
     "<|channel|>final<|message|>" + says("Good."), ["Good."]),
    ("<|begin_of_thought|>x<|end_of_thought|>" + says("Good."), ["Good."]),
    ("Let a < b, [think of it]: " + says("Think of x."), ["Think of x."]),
])
def test_thoughts_do_not_count(content, wanted):
    assert rules(content) == wanted


@pytest.mark.parametrize("content, wanted", [
    (says("First.") + " better: " + says("Second."), ["Second."]),
    (says("First.") + " and " + '["Second."]', NONE), (says("First.") + ' {"note": 1}', NONE),
    (f"[{says('First.')}]", NONE), (f"[{says('First.')}, {says('Second.')}]", NONE),
    (f'{{"result": {says("Inner.")}}}', NONE), (f'{{"x": {says("Inner.")}, oops}}', NONE),
    (says("First.") + ' {"knowledge": ["Second', NONE),  # broken, but the last
    ("First {'knowledge': ['x']} " + says("Good."), ["Good."]),
    ('{"knowledge": ["A half."], "knowledge": ["Another."]}', NONE),
    ('{"rules": ["Another key."]}', NONE), ('{"Knowledge": ["Another key."]}', NONE),
    ('{"knowledge": ["One.", "Two.",],}', ["One.", "Two."]),
    ('{"knowledge": ["Commas, ] and , } stay.",\n]\n}', ["Commas, ] and , } stay."]),
    ('Of {1, 2}, [0, 1) and {x: x > 1: a 6" pipe, ' + says("Good."), ["Good."]),
    (says("Brackets [ and { and } ]] stay.") + " Bye :-}", ["Brackets [ and { and } ]] stay."]),
    (says(r"A quote \" and } stay."), ['A quote " and } stay.']),
])
def test_the_last_object_alone_decides_by_its_key(content, wanted):
    assert rules(content) == wanted


@pytest.mark.parametrize("written, meant", [
    ("1. Add.", "Add."), ("12) Add.", "Add."), ("(3) Add.", "Add."), ("4.Add.", "Add."),
    ("**5.** Add.", "Add."), ("[6] Add.", "Add."), ("7: Add.", "Add."), ("8、加", "加"),
    ("Rule 1: Add.", "Add."), ("step 2. add", "add"), ("Rule #3 - Add.", "Add."),
    ("- Add.", "Add."), ("* Add.", "Add."), ("• Add.", "Add."), ("– Add.", "Add."),
    ("- 1. Add.", "Add."), ("a) Add.", "Add."), ("iv) Add.", "Add."), ("① Add.", "Add."),
    ("2. 60 minutes make an hour.", "60 minutes make an hour."), ("1) 2 plus 3", "2 plus 3"),
    ("**Rule 1:** A total.", "A total."), ("**Rule 1**: A total.", "A total."),
    ("(a) A total.", "A total."), ("(i) A total.", "A total."), ("1 - A total.", "A total."),
    ("#1 A total.", "A total."), ("１．A total.", "A total."), ("1.1. A total.", "A total."),
    ("→ A total.", "A total."), ("➤ A total.", "A total."), ("✓ A total.", "A total."),
    ("Knowledge 1: A total.", "A total."), ("- 2. 60 minutes", "60 minutes"),
    *[(text, text) for text in (
        "(b) + (c) is a sum.", "-x is 3.", "60 minutes", "1.5 is 3/2.", "3 - 2 is 1.", "1.1 A",
        "1.5 times it is more.", "2 halves make a whole.", "-x is the negative of x.",
        "3:4 is a ratio.", "3: 4 is a ratio, too.", "(a + b) squared", "A. M. means before noon.",
        "*Add* both.", "60 minutes are an hour.", "Rule out what is impossible.", "1/2 is a half.",
        "(1, 2) is a point.", "Divide. 1. is no number.")],
])
def test_numbering_and_bullets_are_taken_off(written, meant):
    assert rules(json.dumps({"knowledge": [written]})) == [meant]


@pytest.mark.parametrize("bad, why", [
    ("Rules \ufffd here.", "broken characters"), ("Half \ud835 a pair.", "broken characters"),
    ("Half \udc65 a pair.", "broken characters"), ("\u200b", NONE), ("\u2060\ufeff \u00ad", NONE),
    ("\u3164", NONE), ("\u2800", NONE), ("...", NONE), ("1.", NONE), ("- ", NONE), ("{}", NONE),
    ("a" * 1001, "over 1,000"), ("Add. " * 300, "over 1,000"),
])
def test_rules_that_nobody_can_read_are_asked_for_again(bad, why):
    for content in ({"knowledge": ["Good.", bad]}, {"knowledge": [bad]}):
        assert why in rules(json.dumps(content))
        assert why in rules(json.dumps(content, ensure_ascii=False))
    assert rules(says("a" * 1000)) == ["a" * 1000]
    assert rules(says("加")) == ["加"]


HOSTILE = ("{", '{"a":', "[", '{"', '"\\"', "<think>", "</think>", '{"":}', '["', "\\", ",", ", ",
           '{"":[}', "[[1],", "- ", "\t", "<", " ", "[THINK", '{"a": "\\', "1", '{"x"')


@pytest.mark.parametrize("piece", HOSTILE)
def test_reading_takes_time_in_proportion_to_the_reply(piece):
    """A whole megabyte takes ten times as long; quadratic time would be minutes here."""
    for start in ("", '{"knowledge": ["'):
        content = start + piece * ((100_000 - len(start)) // len(piece))
        begin = time.process_time()
        assert isinstance(rules(content), str)
        assert time.process_time() - begin < 1


# -------------------------------------------------------------------------------------------------
# Copies


@pytest.mark.parametrize("rule, words", [
    ("A week has 7 days.", []), ("Half of it is it divided by 2.", []), ("Take 7 of them.", ["7"]),
    ("Percent are divided by 100.", []), ("Add 100 to it.", ["100"]), ("So there are 24.", ["24"]),
    ("A day has 24 hours.", []), ("The answer is 1,200.", ["1200"]), ("It costs $3.50.", ["3.5"]),
    ("December ends the year.", []), ("In December Ann sells.", ["Ann", "December"]),
    ("Subtract 1 for oneself.", []), ("A score of 31 is high.", []),
])
def test_numbers_that_all_problems_have_are_no_copies_and_results_are(rule, words):
    question = "In December, Ann sells 7 of 100 pens, 2 a day, at $3.50. How much is that?"
    rationale = "She sells 7*24 = 168 pens, 1,200 in all, on 1 of 2 days."
    assert copied([rule], question, rationale) == words


def leaks(row, rng):
    """(kind, rules with one leak planted) for a row with good rules."""
    told, worked = (set(re.findall(r"\d+", row[key])) - {"0", "1"}
                    for key in ("question", "rationale"))
    names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}", row["question"])
    names = [name for name in names if name not in replies.OPENERS]
    good, place = row["knowledge"], rng.randrange(len(row["knowledge"]))
    if told:
        yield "number", f"Multiply by {rng.choice(sorted(told))} to find the total."
        yield "number in a rule", f"{good[place][:-1]} and {rng.choice(sorted(told))} more."
    if worked - told:
        yield "result", f"This gives {rng.choice(sorted(worked - told))}."
        yield "result in a rule", f"{good[place][:-1]}, which is {max(worked - told, key=int)}."
    yield "answer", f"The answer is {row['answer']}."
    yield "name", f"What {rng.choice(names)} keeps is the rest." if names else "Ann 1."
    steps = [line for line in row["rationale"].splitlines() if "=" in line]
    yield "step", rng.choice(steps) if steps else "Ann 1."


@pytest.mark.parametrize("file, most", [("train_knowledge", 0.005), ("train_knowledge_more", 0.01)])
def test_good_rules_are_hardly_ever_taken_for_copies_and_leaks_are_found(shared, file, most):
    """The numbers in FIXED were found on the first file; the second is a check of them."""
    rng, found, planted = random.Random(0), {}, {}
    rows = read_rows(shared / "data" / "gsm8k" / f"{file}.jsonl")
    wrong = sum(bool(copied(row["knowledge"], row["question"], row["rationale"])) for row in rows)
    assert wrong <= most * len(rows)
    for row in rows[::3]:
        for kind, rule in leaks(row, rng):
            if rule != "Ann 1.":
                planted[kind] = planted.get(kind, 0) + 1
                caught = copied([rule], row["question"], row["rationale"])
                found[kind] = found.get(kind, 0) + bool(caught)
    assert len(planted) == 7 and min(planted.values()) > 150
    for kind, number in planted.items():
        assert found[kind] > 0.93 * number, (kind, found[kind], number)


# -------------------------------------------------------------------------------------------------
# Refusals


def refused(status, reply, **headers):
    response = SimpleNamespace(status_code=status, headers=headers, reason="Reason")
    return refusal(response, reply, "http://host/v1/chat/completions")


@pytest.mark.parametrize("status, words, kind", [
    (429, "Rate limit reached on requests per min (RPM): Limit 3. Please try again in 20s. You can "
          "increase it by adding a payment method at /account/billing.", RetryableError),
    (429, "Resource has been exhausted (e.g. check quota).", RetryableError),
    (429, "slow_down", RetryableError), (503, "billing is down", RetryableError),
    (429, "RESOURCE_EXHAUSTED: You exceeded your current quota.", ValueError),
    (429, "Quota exceeded for metric requests, check your billing details.", ValueError),
    (429, "Your credit balance is too low to access the API.", ValueError),
    (429, "insufficient_user_quota", ValueError), (429, "Insufficient balance", ValueError),
    (429, "You are out of credits", ValueError), (429, "Monthly spend limit reached", ValueError),
    (429, "Rate limit: free-models-per-day", ValueError), (402, "pay", ValueError),
    (429, "Request too large on tokens per min (TPM): Limit 100, Requested 1700.", RowError),
    (400, "content_filter: The response was filtered", RowError), (413, "no", RowError),
    (400, "This model's maximum context length is 4096 tokens.", RowError), (422, "?", RowError),
    (403, "Your input was flagged by moderation", RowError), (403, "Forbidden", ValueError),
    (451, "", RowError), (405, "", ValueError), (302, "", ValueError), (425, "", RetryableError),
])
def test_whom_a_refusal_concerns(status, words, kind):
    error = refused(status, {"error": {"message": words}})
    assert type(error) is kind
    assert (words or "Reason") in str(error)
    assert str(status) in str(error)


def test_a_quota_that_says_when_it_is_back_within_a_minute_is_waited_for():
    words = {"error": {"message": "You exceeded your current quota"}}
    error = refused(429, words, **{"retry-after": "36"})
    assert type(error) is RetryableError and error.wait == 36
    assert type(refused(429, words, **{"retry-after": "86400"})) is ValueError


@pytest.mark.parametrize("status, words, hint", [
    (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
          "'max_completion_tokens' instead.", """--params '{"max_completion_tokens": 1000}'"""),
    (400, "Unsupported value: 'temperature' does not support 0.", "--params sets"),
    (404, "Invalid URL (POST /chat/completions)", "--url usually ends in /v1"),
    (404, "404 page not found", "--url usually ends in /v1"), (405, "", "--url"),
    (404, "The model `wise` does not exist", ""), (400, "bad", ""), (401, "no", ""),
])
def test_the_flag_that_helps_is_named(status, words, hint):
    for reply in (words, {"detail": words}, {"error": words}):
        said = str(refused(status, reply))
        assert said.endswith(f": {words or (str(reply) if reply else 'Reason')}") or not words
        assert hint in said and (hint or "--" not in said)


def test_retry_after_as_a_unix_time():
    assert 3 < retry_after({"retry-after": str(time.time() + 5)}) <= 5
    assert retry_after({"retry-after": str(int(time.time()) - 5)}) is None
    assert retry_after({"retry-after": str(int(time.time()) + 5000)}) == 60


def test_deep_json_in_an_error_is_only_an_error():
    def nest(depth):
        with suppress(RecursionError):
            return json.loads('{"a":' * depth + "1" + "}" * depth)

    deepest = max(depth for depth in range(700, 2000, 2) if nest(depth))
    for depth in range(deepest - 12, deepest + 1):  # somewhere here, it can be read but not shown
        assert isinstance(refused(500, nest(depth)), RetryableError)
        with pytest.raises(RetryableError, match="not a chat completion"):
            read_rules(nest(depth))


def test_addresses_of_servers():
    for url in ("http://h/v1", "http://h/v1/", "http://h/v1/chat/completions",
                "http://u:p@h/v1", "http://h/v1/chat/completions/"):
        assert replies.Server(url).url == "http://h/v1/chat/completions"
    azure = replies.Server("https://h/openai/deployments/x?api-version=1")
    assert azure.url == "https://h/openai/deployments/x/chat/completions?api-version=1"
    assert replies.Server("http://me:a%40b@h/v1").login == ["me", "a@b"]
    for local in ("127.0.0.1", "localhost", "a.localhost", "[::1]", "127.9.9.9", "LOCALHOST."):
        assert replies.Server(f"http://{local}:8000/v1").options["proxies"]
    for far in ("example.com", "localhost.com", "10.0.0.1", "127.com", "xlocalhost"):
        assert "proxies" not in replies.Server(f"http://{far}/v1").options
    for wrong in ("http://me:pass/word@host/v1", "http://[half"):
        with pytest.raises(ValueError, match="^--url") as error:
            replies.Server(wrong)
        assert "word" not in str(error.value).split(";")[0]

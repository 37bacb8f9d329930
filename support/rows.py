"""What a line of a JSONL file must be to become a row, and in what words others are refused.

What passes is a dict with a question, texts or nothing under rationale and answer, and a list of
rules, maybe empty, under knowledge; all that is in them can be encoded, printed and written.
"""
import json
import math

from lorid import extract_answer

LONGEST = 1_000_000  # bytes of a line: more than any model reads


def is_text(value):
    """A text, or a number, which is taken for one; true and 1e400, which is JSON, are neither."""
    number = type(value) in (int, float) and abs(value) < math.inf
    return number or isinstance(value, str)


def read_row(line, where):
    """The row in a line of JSON. Raises ValueError that says what is wrong `where`."""
    def require(good, why):
        if not good:
            raise ValueError(f"{where}: {why}")

    require(len(line) <= LONGEST, f"longer than {LONGEST:,} bytes; each line of the file must be "
                                  "one row.")
    try:  # int refuses NaN and Infinity, which are not JSON
        row = json.loads(str(line, "utf-8-sig"), parse_constant=int)
    except (ValueError, RecursionError):  # also bytes that are not UTF-8, or 100,000 brackets
        require(False, "not a JSON object; each line of the file must be one.")
    row = row if isinstance(row, dict) else {}
    question, rules = row.get("question"), row.get("knowledge")
    require(isinstance(question, str) and question.strip(), 'the key "question" must hold a text.')
    for key in ("id", "rationale", "answer"):
        require(is_text(row.get(key, "")), f'the key "{key}" must hold a text.')
    row |= {key: str(row[key]) for key in ("rationale", "answer") if key in row}
    rules = rules.splitlines() if isinstance(rules, str) else [] if rules is None else rules
    require(isinstance(rules, list) and all(isinstance(rule, str) for rule in rules),
            'the key "knowledge" must hold a list of texts.')
    rationale, answer = row.get("rationale", ""), row.get("answer", "")
    try:
        "\n".join([question, rationale, answer, *rules]).encode()
    except UnicodeEncodeError as error:  # of a character beyond U+FFFF, escaped in two halves
        half = ascii(error.object[error.start])[1:-1]
        require(False, f"{half} is half of a character; write it whole, or leave it out.")
    # An answer that is not given is what the rationale states, as in MATH; None if it states none.
    answer = answer.strip() or extract_answer(rationale)
    rules = [rule for rule in rules if rule.strip()]
    return row | {"knowledge": rules, "answer": answer, "where": where}

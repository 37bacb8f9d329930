"""The conversations of an evaluation as one page, for any browser: infer.py --html FILE.

support/page.html is that page but for its data, which are JSON. They are looked at only by its
script, which makes text of them, never HTML; a policy forbids all other scripts, and the network.
"""
import base64
import hashlib
import json
import re
from pathlib import Path

import lorid
from support.answers import canonical
from support.cli import printable
from support.files import atomic_write

TEMPLATE = Path(__file__).with_name("page.html")


def readable(text):
    """A text with its line breaks as \\n, tabs as spaces, and control characters written out."""
    lines = text.expandtabs(4).splitlines()
    return "\n".join(line if line.isprintable() else printable(line) for line in lines)


def conversation(row, outcome, strict):
    """A vote about a row, as the page wants it. Of each text: [text, index in `stated`, note]."""
    verdict, stated, indices, texts = outcome.verdict, [], {}, []
    agreed, gold = {canonical(answer) for answer in verdict.agreed}, canonical(row["answer"])
    for n, text in enumerate(text for played in verdict.rounds for text in played):
        key = None
        if n % 3 != 1 and (answer := lorid.extract_answer(text)) is not None:  # kg states none
            key = canonical(answer)
            if key not in indices:
                indices[key] = len(stated)
                stated.append({"text": readable(answer), "gold": key == gold,
                               "agreed": key in agreed})
        note = "cut short" * outcome.truncated[n] if outcome.tokens[n] else "no room"
        texts.append([readable(text), indices.get(key), note])
    return {"question": readable(row["question"]), "gold": readable(row["answer"]),
            "answer": verdict.answer and readable(verdict.answer), "agreed": bool(agreed),
            "right": verdict.right(row["answer"], strict), "stated": stated,
            "rounds": [texts[n:n + 3] for n in range(0, len(texts), 3)]}


def write_page(path, table, settings, rows, outcomes, strict=False):
    """Write the page of these rows and the outcomes of their votes. table: Markdown, as infer.py
    prints it; settings: a sentence."""
    head, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    data = json.dumps({
        "settings": readable(settings), "head": head, "lines": lines,
        "roles": [(role, about.title) for role, about in lorid.ROLES.items()],
        "questions": [conversation(row, outcome, strict)
                      for row, outcome in zip(rows, outcomes, strict=True)]})
    # In a script element only a < could begin something else: its end, or a comment. All that is
    # not ASCII is written \u...., so that neither encodings nor U+2028 matter.
    data = data.replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    [script] = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    before, after = page.replace("'HASH'", f"'sha256-{digest}'").split("DATA", 1)
    atomic_write(path, [before.encode(), data.encode(), after.encode()])

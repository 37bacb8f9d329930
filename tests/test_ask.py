"""support/terminal.py: a vote as a terminal shows it while it is held, against the plain text.

Texts are written token by token by a stand-in for the engine, which knows what it will say, or by
the engine itself over a random base, whose texts are full of control characters and broken UTF-8.
"""
import codecs
import doctest
import io
import math
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from unicodedata import category

import pytest
from conftest import ROOT
from test_scheduling import MANY_ENDS, engine_of, random_base

import infer
import lorid
from support import terminal
from support.engine import Outcome, Sequence
from support.tokenizer import Tokenizer

CODE = re.compile(r"\x1b\[[0-9;]*m")
QUESTION = "Ann has 3 pens. How many pens does Ann have?"
TEXTS = ["3*24=72\n--> 72 END", "Half is 1/2.\nStop.", "--> 8 END",
         "So the answer is 8.\n--> 8 END", "", "--> 8.0 END"]
PLAIN = """\
Round 1
  Intuitive Reasoner:
    3*24=72
    --> 72 END
  Knowledge Generator:
    Half is 1/2.
    Stop.
  Deep Reasoner:
    --> 8 END
  System 1 says 72, System 2 says 8.
Round 2
  Intuitive Reasoner:
    So the answer is 8.
    --> 8 END
  Knowledge Generator:
  Deep Reasoner:
    --> 8.0 END
  System 1 says 8, System 2 says 8.0.
  So far: 8 (System 1 once, System 2 twice), 72 (System 1 once).
Both systems have said 8 after 2 rounds. Answer: 8
"""
# half a character is no character; what a terminal would obey; lines that end in many ways
NASTY = ["\x1b[31mred\x1b]0;t\x07 é😀 \u202eback\u202c \r\n\x0c\x85a\u2028b\tc\x00\n\n\n--> 5 END",
         "  😀😀\ud83d  \r \n", "\ufffd\ufffd\x9b2J\n--> 5 END\n\n"]


class Tty(io.StringIO):
    """A terminal that notes what it is sent."""
    def __init__(self):
        super().__init__()
        self.pieces = []

    def isatty(self):
        return True

    def write(self, text):
        self.pieces.append(text)
        return super().write(text)

    def flush(self):
        self.on_the_screen = len(self.getvalue())

    def shows(self):
        return CODE.sub("", self.getvalue())


class Script:
    """Stands in for the engine: writes these texts, a token of each open one at a time."""
    limit, max_new_tokens = 500, 99

    def __init__(self, texts, after=lambda sequence: None, lost=()):
        self.texts, self.after, self.lost = texts, after, lost
        self.tokenizer = Tokenizer(ROOT / "tiny")
        self.watch = lambda sequence, over: None

    def run(self, conversations):
        [conversation], texts, outcome = conversations, iter(self.texts), Outcome()
        [end] = self.tokenizer.eos_ids[:1]
        try:
            requests = next(conversation)
            while True:
                number, replies = len(outcome.tokens), [next(texts) for _ in requests]
                ids = [[*self.tokenizer.encode(text), end] for text in replies]
                ids = [row if number + i not in self.lost else [] for i, row in enumerate(ids)]
                outcome.tokens += map(len, ids)
                for size in range(1, max(map(len, ids)) + 1):
                    for i in reversed(range(len(ids))):  # as slots are looked through
                        if size <= len(ids[i]):
                            written = Sequence(0, number + i, requests[i][0], [], None)
                            written.tokens = ids[i][:size]
                            self.watch(written, size == len(ids[i]))
                            self.after(written)
                requests = conversation.send(
                    [self.tokenizer.decode(row[:-1]).strip(" ") for row in ids])
        except StopIteration as stop:
            outcome.verdict = stop.value
        return [outcome]


@pytest.fixture(autouse=True)
def colours_are_known(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def asked(engine, out):
    with redirect_stdout(out):
        infer.ask(engine, QUESTION, 2)
    return out.getvalue()


# --------------------------------------------------------------------------------------------------
# What is shown


def test_the_plain_text_by_hand():
    assert asked(Script(TEXTS), io.StringIO()) == PLAIN


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(terminal).attempted and not doctest.testmod(terminal).failed


def test_the_stream_is_the_plain_text_in_colours():
    out = Tty()
    assert CODE.sub("", asked(Script(TEXTS), out)) == PLAIN
    for role, colour in terminal.COLOURS.items():
        title = f"\x1b[1;{colour}m  {lorid.ROLES[role].title}:\x1b[0m"
        assert out.getvalue().count(title) == 2
    assert len(set(terminal.COLOURS.values())) == 3
    assert out.pieces[-1].startswith(f"\x1b[{terminal.AGREED}mBoth systems have said 8")


@pytest.mark.parametrize("texts", [NASTY * 2, ["A.\n", "\n\n", " "] * 2], ids=["nasty", "blank"])
def test_what_models_write_does_nothing_to_a_terminal(texts):
    """Its control characters are spelt out; the stream is the plain text; no half characters."""
    plain, out = asked(Script(texts), io.StringIO()), Tty()
    assert CODE.sub("", asked(Script(texts), out)) == plain
    assert all(c.isprintable() or c in "\n\t\u200c\u200d" or category(c) == "Zs" for c in plain)
    if texts[0] == NASTY[0]:
        assert "\n    \\x1b[31mred\\x1b]0;t\\x07 é😀 \\u202eback\\u202c \n" in plain
        assert "\n  Knowledge Generator:\n    😀😀" in plain


def test_the_answer_is_harmless_too():
    texts = ["\\boxed{\x1b[2J}", "", "\\boxed{\x1b[2J}"]
    assert asked(Script(texts), io.StringIO()).endswith("1 round. Answer: \\x1b[2J\n")


def test_texts_come_as_they_are_written():
    """After each token, ir's text, but for half a character and spaces at its end, which may yet
    become something else; nothing of kg's until ir's is whole, then all there is of it."""
    texts = ["1 😀é\n2 é", "A rule é 😀 that is much longer than the text of the other one.", "No."]
    out, script, kinds = Tty(), Script(texts), set()

    def after(sequence):
        role, ids = sequence.role, sequence.tokens
        if ids[-1] in script.tokenizer.eos_ids:
            return
        if role == "kg" and "Knowledge" not in (shown := out.shows()):
            assert shown != wanted("ir", texts[0], "Round 1\n") + "\n"
            kinds.add("waits")
            return
        assert out.on_the_screen == len(out.getvalue())
        decoder = codecs.getincrementaldecoder("utf-8")()
        text = decoder.decode(b"".join(script.tokenizer.token_bytes[i] for i in ids)).rstrip()
        before = {"ir": "Round 1\n", "kg": wanted("ir", texts[0], "Round 1\n") + "\n"}
        assert role not in before or out.shows() == wanted(role, text, before[role])
        kinds.add(role)

    def wanted(role, text, before):
        lines = "".join(f"\n    {line}" for line in text.splitlines())
        return f"{before}  {lorid.ROLES[role].title}:{lines}"
    script.after = after
    with redirect_stdout(out):
        infer.ask(script, QUESTION, 1)
    assert kinds == {"waits", "ir", "kg", "dr"}


def test_a_text_that_is_cut_short_says_so():
    """The stream has shown its last line by then; the plain text leaves it out, as the vote does.
    A text that had no room at all was never written."""
    class Short(Script):
        def run(self, conversations):
            watch, end = self.watch, self.tokenizer.eos_ids[0]

            def cut(sequence, over):
                tokens = sequence.tokens
                sequence.tokens = tokens[:-1] if over and tokens[-1] == end else tokens
                watch(sequence, over)
            self.watch = cut
            return super().run(conversations)
    out = Tty()
    asked(Short([text or "Add." for text in TEXTS]), out)
    assert "\n    --> 72 END [cut short; this line does not count]\n" in out.shows()
    out, lost = Tty(), Script(TEXTS, lost=[2])
    assert CODE.sub("", asked(lost, out)) == asked(Script(TEXTS, lost=[2]), io.StringIO())
    assert "Deep Reasoner:\n  System 1 says 72, System 2 says nothing.\n" in out.shows()


def test_ballots():
    def stated(answer):
        return f"--> {answer} END" if answer else "I do not know."

    def rounds(*pairs):
        return [lorid.Round(stated(a), "", stated(b)) for a, b in pairs]
    assert terminal.tally(rounds((None, None))) == "So far: nothing."
    assert terminal.tally(rounds((1, 2), (2.0, 3), (None, 2), ("$2", 1))) == (
        "So far: 2 (System 1 twice, System 2 twice), 1 (System 1 once, System 2 once), "
        "3 (System 2 once).")
    assert terminal.tally(rounds((4, 5), (4, 6), (4, 5))) == (
        "So far: 4 (System 1 3 times), 5 (System 2 twice), 6 (System 2 once).")


# --------------------------------------------------------------------------------------------------
# Colours


def luminance(code):
    """Of a colour of the 256, by the definition of WCAG 2.2."""
    steps, n = (0, 95, 135, 175, 215, 255), int(code.rpartition(";")[2]) - 16
    assert 0 <= n < 216
    parts = [steps[n // size % 6] / 255 for size in (36, 6, 1)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("code", [*terminal.COLOURS.values(), terminal.AGREED])
def test_colours_can_be_read_on_black_and_on_white(code):
    light = luminance(code) + 0.05
    assert light / 0.05 > 4.3 and 1.05 / light > 4.3


def test_nothing_stays_coloured():
    """Each piece that is sent resets the colours at its end, so it does not matter what ends the
    program; and no other code is sent."""
    out = Tty()
    asked(Script(TEXTS), out)
    assert sum(map(len, out.pieces)) > 1000
    for piece in filter(None, out.pieces):
        assert re.fullmatch(r"\x1b\[[0-9;]+m[^\x1b]+\x1b\[0m", piece) and "\r" not in piece


def test_ctrl_c_in_the_middle_leaves_no_colour():
    def stop(sequence):
        if sequence.role == "dr" and len(sequence.tokens) == 2:
            raise KeyboardInterrupt
    out = Tty()
    with pytest.raises(KeyboardInterrupt), redirect_stdout(out):
        infer.ask(Script(TEXTS, after=stop), QUESTION, 2)
    assert out.shows() == PLAIN[:PLAIN.index("--> 8") + 3] and out.getvalue().endswith("\x1b[0m")


@pytest.mark.parametrize("variable, value", [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", None)])
def test_where_no_colours_are_wanted_or_known_the_text_is_plain(monkeypatch, variable, value):
    monkeypatch.delenv(variable, raising=False)
    if value:
        monkeypatch.setenv(variable, value)
    assert asked(Script(TEXTS), Tty()) == PLAIN


def test_an_empty_no_color_forbids_nothing(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert "\x1b" in asked(Script(TEXTS), Tty())


def test_a_character_that_the_output_lacks_is_spelt():
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, encoding="ascii")) as out:
        infer.ask(Script(["é --> 8 END", "", "--> 8"]), QUESTION, 1)
        out.flush()
        assert b"\n    \\xe9 --> 8 END\n" in raw.getvalue()


# --------------------------------------------------------------------------------------------------
# A real terminal, a real engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_base(tmp_path_factory.mktemp("ask") / "base")


def on_a_terminal(work):
    """What a pseudo-terminal receives while work() writes to it as to stdout."""
    pty = pytest.importorskip("pty", reason="a pseudo-terminal needs Unix")
    here, there = pty.openpty()
    received = []

    def read():
        try:
            while piece := os.read(here, 65536):
                received.append(piece)
        except OSError:  # so Linux says that the other end is closed
            pass
    reader = threading.Thread(target=read)
    reader.start()
    with open(there, "w", encoding="utf-8") as out, redirect_stdout(out):
        work()
    reader.join()
    os.close(here)
    return b"".join(received).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("ends", [MANY_ENDS, (0,)], ids=["ended", "cut short"])
def test_the_engine_on_a_pseudo_terminal(folder, monkeypatch, ends):
    """Random texts of random length: the same text as through a pipe, but for the unfinished last
    line of what was cut short."""
    tokenizer = Tokenizer(folder)
    # that which begins a new line here, while the vote, which cuts at \n, leaves out both
    breaks = [i for c in "\r\x0b\x0c\x1c\x1d\x1e" for i in tokenizer.encode(c)]
    tokenizer.eos_ids = list(ends)

    def hot(logits, u):
        logits[:, breaks] = -math.inf
        return infer.draw(logits, u, temperature=9.0, top_k=0, top_p=1.0)

    def ask():
        engine = engine_of(folder, hot, slots=2, max_new_tokens=20)
        engine.tokenizer = tokenizer
        infer.ask(engine, QUESTION, 5)
    with redirect_stdout(io.StringIO()) as out:
        ask()
    plain, seen = out.getvalue(), on_a_terminal(ask)
    assert ("\\x" in plain and "\ufffd" in plain) or ends != MANY_ENDS
    shown = CODE.sub("", seen)
    assert seen.count("\x1b[0m") * 2 == len(CODE.findall(seen)) > 40 and "\x1b" not in shown
    unfinished = re.compile(r"\n    [^\n]*" + re.escape(terminal.CUT))
    assert unfinished.sub("", shown) == plain and (ends == MANY_ENDS or terminal.CUT in shown)
    if ends == MANY_ENDS:
        monkeypatch.setenv("NO_COLOR", "1")
        assert on_a_terminal(ask) == plain


@pytest.mark.slow
def test_ctrl_c_at_a_real_terminal(folder):
    """The command in a process of its own is stopped in the middle of a text."""
    pty = pytest.importorskip("pty", reason="a pseudo-terminal needs Unix")
    here, there = pty.openpty()
    words = [word for role in lorid.ROLES for word in (f"--{role}", folder / role)]
    command = [sys.executable, "infer.py", "--model", folder, *words, "--ask", QUESTION]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=there, stderr=there,
                               stdin=there, start_new_session=True)
    os.close(there)
    received = b""
    while received.count(b"\x1b[0m") < 9:
        received += os.read(here, 1024)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    try:
        while piece := os.read(here, 65536):
            received += piece
    except OSError:
        pass
    codes = CODE.findall(received.decode())
    assert codes[1::2] == ["\x1b[0m"] * len(codes[1::2]) and len(codes) % 2 == 0
    assert b"Traceback" not in received

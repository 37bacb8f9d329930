"""A vote to watch: `python infer.py --ask` writes the three voices in three colours, as they think.

Nothing is written but text and colours, from left to right. No cursor is moved, so that a narrow or
a scrolled window shows what a wide one shows; and each piece of text ends with the code that resets
the colours, so that nothing stays coloured, whatever ends the program. Where no colours are wanted
or known (a pipe, NO_COLOR, TERM=dumb) the same text comes without them, a round when it is over.
"""
import os
import sys
from collections import Counter

import lorid
from support.answers import canonical
from support.cli import printable

# Colours 16 to 255 are the same in every theme. The contrast of these is 4.3 or more on black as on
# white, and the colour-blind, too, tell blue, orange and teal apart.
COLOURS = {"ir": "38;5;63", "kg": "38;5;130", "dr": "38;5;30"}
BOLD, AGREED = "1", "1;38;5;28"
CUT = " [cut short; this line does not count]"


def obeys_colours(out):
    """Whether `out` is a terminal that is known to obey colours, and nobody forbids them
    (https://no-color.org). Consoles of Windows set no TERM, and some obey none."""
    known = os.environ.get("TERM", "dumb") != "dumb"
    return known and out.isatty() and not os.environ.get("NO_COLOR")


def tally(rounds):
    """Which answers these rounds' texts have stated, and who how often; the most frequent first.

    >>> tally([lorid.Round("--> 6 END", "", "--> 8 END"), lorid.Round("--> 8 END", "", "--> 8.0")])
    'So far: 8 (System 1 once, System 2 twice), 6 (System 1 once).'
    """
    spelling, ballots = {}, {}  # canonical form -> how it was first written; who gave it how often
    for played in rounds:
        for i, text in enumerate((played.intuitive, played.deep), 1):
            if answer := lorid.extract_answer(text):
                spelling.setdefault(canonical(answer), answer)
                ballots.setdefault(canonical(answer), Counter())[i] += 1
    told, times = [], {1: "once", 2: "twice"}
    for key, counts in sorted(ballots.items(), key=lambda item: -item[1].total()):
        each = [f"System {i} {times.get(n, f'{n} times')}" for i, n in sorted(counts.items())]
        told.append(f"{spelling[key]} ({', '.join(each)})")
    return f"So far: {', '.join(told) or 'nothing'}."


class Show:
    """Writes a vote to stdout while `engine` holds it, in the order of a transcript.

    ir and kg write at the same time: ir is shown as it writes, kg, which is kept until ir has
    ended, then as far as it has come, and from there as it writes."""

    def __init__(self, engine):
        self.out, self.tokenizer = sys.stdout, engine.tokenizer
        self.coloured = obeys_colours(self.out)
        self.texts = {}  # number of a text of the vote -> (as far as it is written, whether whole)
        self.number, self.shown = 0, ""  # the text that is being shown, and what of it has been
        if self.coloured:
            engine.watch = self.watch

    def write(self, text, colour=BOLD):
        """Write a text, harmlessly and in a colour."""
        encoding = self.out.encoding or "utf-8"  # of an old locale, it may lack characters
        text = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        self.out.write(f"\x1b[{colour}m{text}\x1b[0m" if self.coloured and text else text)

    def watch(self, sequence, over):
        """The engine's `watch`: a text has grown."""
        tokens = sequence.tokens
        ended = tokens[-1] in self.tokenizer.eos_ids
        text = self.tokenizer.decode(tokens[:-1] if ended else tokens).strip(" ")
        if not over:  # what may yet change is kept: half a character, half a line break, a space
            text = text.rstrip("\ufffd").rstrip()
        self.texts[sequence.number] = text + CUT * (over and not ended), over
        self.show()

    def show(self):
        """Write what can be written: text after text, the last one as far as it has come."""
        while self.number in self.texts:
            text, over = self.texts[self.number]
            t, place = divmod(self.number, 3)  # a round of a vote is three texts
            role = list(lorid.ROLES)[place]
            if not self.shown:
                self.shown = lorid.paragraph(role, "")
                self.write(f"Round {t + 1}\n" * (place == 0))
                self.write(self.shown, f"{BOLD};{COLOURS[role]}")
            paragraph = lorid.paragraph(role, text)  # begins with what has been shown
            self.write(paragraph[len(self.shown):], COLOURS[role])
            self.shown = paragraph
            if not over:
                break
            self.write("\n")
            self.number, self.shown = self.number + 1, ""
        if self.coloured:
            self.out.flush()

    def heard(self, texts):
        """All texts of the vote up to here, each of them whole."""
        self.texts |= {n: (texts[n], True) for n in range(self.number, len(texts))}
        self.show()
        if len(texts) % 3 == 0:
            rounds = [lorid.Round(*texts[i:i + 3]) for i in range(0, len(texts), 3)]
            self.write(lorid.statements(rounds[-1]) + "\n")
            if len(rounds) > 1:  # else it would say the same
                self.write(f"  {tally(rounds)}\n")
            self.out.flush()

"""The journal of an evaluation: what is written stays written, however the run ends.

With --json FILE each finished text is a line of FILE.journal, at once; the first line says what the
texts depend on. Started again, the same command takes these texts from there and writes only the
others: no text depends on another but through its prompt. When FILE is written, the journal goes.
Under torchrun each process has a file (FILE.journal, FILE.journal.1, ...), and all read all.
"""
import hashlib
import json
import os
import sys
import time
from collections import Counter
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path

from support.distributed import get_rank
from support.files import atomic_write, explained, open_locked, vanished
from support.settings import differences, digest_model, digest_rows

# Settings that change no text, or are names of what is looked into
FREE = {"strict", "threads", "date", "data", "model"}
HEAD = b'{"evaluation": {"--'  # how each journal begins


class Journal:
    """Texts for `Engine.run`; each that joins is a line of the file at `path`, if there is one:
    [temperature, question, number, role, hash of the prompt, text, tokens, truncated, method,
    seconds since the line before]."""

    def __init__(self, path=None):
        self.path, self.file, self.texts, self.spent = path, None, {}, Counter()
        self.place = "the start"  # how far the run is, for a person

    def begin(self, method, temperature):
        """Say what is written from now on; returns the seconds that it took in earlier runs."""
        self.method, self.temperature, self.place = method, temperature, method
        self.clock = time.monotonic()
        return self.spent[method]

    def key(self, question, number, role, prompt):
        prompt = hashlib.sha256(prompt.encode(errors="replace")).hexdigest()[:16]
        return self.temperature, question, number, role, prompt

    def get(self, key, default):
        return self.texts.get(self.key(*key), default)

    def __setitem__(self, key, text):
        key, before, self.clock = self.key(*key), self.clock, time.monotonic()
        self.texts[key] = text
        seconds = 0 if get_rank() else self.clock - before  # processes work side by side
        self.append([*key, *text, self.method, seconds])

    def append(self, entry):
        if self.file:
            self.check_place()
            line = json.dumps(entry).encode() + b"\n"
            with explained(self.file.name):
                while line:  # of what has no room a part is taken; the second write says why
                    line = line[os.write(self.file.fileno(), line):]

    def check_place(self):
        """Raise ValueError if the file has been moved, deleted or replaced: no other run would see
        its lock, nor its texts. What was deleted is written again."""
        if not vanished(self.file):
            return
        name = self.file.name
        kept = "what is there now was left alone; wait for the run that writes it"
        if not os.path.exists(name):
            self.file.seek(0)
            atomic_write(name, [self.file.read()])
            kept = "it is written again, and the same command goes on from there"
        raise ValueError(f"{name} vanished during the run: {kept}.")

    def open(self, settings):
        """Take this process's file for this run alone, and read all processes' files. Raises
        ValueError if one was begun with other settings, or another run has it."""
        own = Path(f"{self.path}.{get_rank()}" if get_rank() else self.path)
        with explained(own):
            own.parent.mkdir(parents=True, exist_ok=True)
        self.file = open_locked(own)
        end = self.read(own, settings)
        self.file.truncate(end)  # a kill may have torn the last line, or the first
        if not end:
            self.append({"evaluation": settings})
        for path in {*self.files()} - {own}:
            self.read(path, settings)

    def files(self):
        return [Path(path) for path in (self.path, *glob(f"{escape(self.path)}.[0-9]*"))
                if Path(path).is_file()]

    def read(self, path, settings):
        """Take in the texts of a file; returns where its last whole line ends."""
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if not end and (HEAD.startswith(content) or content.startswith(HEAD)):
            return 0  # another process has just made it, or was killed in its first line
        head, *lines = content[:end].split(b"\n")
        try:
            changed = differences(json.loads(head)["evaluation"], settings)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{path} is no journal of an evaluation; move it away, or give "
                             "another --json.") from None
        if changed:
            raise ValueError(f"{path} was begun with other settings: {', '.join(changed)}. Go on "
                             "with the old ones, give another --json, or delete the journal.")
        for line in lines:
            try:
                *key, text, tokens, truncated, method, seconds = json.loads(line)
                types = type(text), type(tokens), type(truncated)
                if types == (str, int, bool) and 0 <= tokens < 1e9 and 0 <= seconds < 1e9:
                    self.texts[tuple(key)] = text, tokens, truncated
                    self.spent[method] += seconds
            except (ValueError, TypeError, RecursionError):
                pass  # it will be written again
        return end


@contextmanager
def open_journal(file, settings, rows, folders):
    """The Journal of `file` (--json), or one that is kept nowhere. settings, rows, {flag: folder}:
    what the texts depend on. When the block ends well, the file goes; else it is said what is
    kept."""
    journal = Journal(file and f"{file}.journal")
    try:
        if file:
            settings = {f"--{key.replace('_', '-')}": value for key, value in settings.items()
                        if key not in FREE}
            settings |= {f"--{flag}": digest_model(folder) for flag, folder in folders.items()}
            journal.open(settings | {"--data": digest_rows(rows)})
        yield journal
    except (KeyboardInterrupt, RuntimeError, MemoryError) as error:  # the others are sentences
        if not get_rank() and (file or isinstance(error, KeyboardInterrupt)):
            kept = (f"What is written is kept in {journal.path}: the same command goes on from "
                    "there." if file else "Nothing is kept; with --json FILE it would be.")
            print(f"\nStopped at {journal.place}. {kept}", file=sys.stderr)
        raise
    finally:
        if journal.file:
            journal.file.close()
    if file and not get_rank():
        for path in journal.files():
            path.unlink(missing_ok=True)

"""data.py's command `augment`: many requests at once to a teacher, none lost, none paid for twice.

Each finished request becomes a line of the journal, a file beside the output, at once: its key (a
hash of all that was asked), its tokens, and the knowledge or why it failed. A run that was stopped,
or killed, and is started again asks only for what is missing.
"""
import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path

from support.cli import number, positive
from support.files import lock
from support.replies import copied, usable


class Abandoned(KeyboardInterrupt):
    """A second Ctrl-C: requests are still in flight."""


def read_journal(file):
    """{key: entry} of what is done in a journal; what has no rules is left out, to be asked again.
    Cuts off a last line torn by a kill."""
    file.seek(0)
    done = {}
    for i, line in enumerate(file.readlines(), 1):
        whole = line.endswith(b"\n")
        try:
            entry = json.loads(line)
            if entry["key"] and usable(entry.get("knowledge")):
                done[entry["key"]] = entry
            if file.writable() and not whole:
                file.write(b"\n")  # somebody has edited the file
        except (ValueError, LookupError, TypeError, RecursionError):
            if whole:
                raise ValueError(f"{file.name}:{i}: damaged; delete this line, and its row will be "
                                 "asked for again.") from None
            if file.writable():
                file.truncate(file.tell() - len(line))
    return done


@contextmanager
def open_journal(path):
    """The journal at `path`, held by this process alone: (file, done), done as read_journal gives
    it. Whatever ends the `with` block early, it is said how to go on."""
    with open(path, "a+b") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise ValueError(f"Another run is filling {path}; wait for it, or stop it.") from None
        done = read_journal(file)
        try:
            yield file, done
        except BaseException as error:  # Ctrl-C, an error that concerns all requests, a full disk
            print(f"Stopped. What is paid for is kept in {path}: the same command goes on from "
                  "there.", file=sys.stderr, flush=True)
            if isinstance(error, Abandoned):
                os._exit(130)  # or Python would wait for the threads, and these for the server
            raise


def fill_in(rows, teacher, done, strict=False):
    """Give the rows the knowledge that is done, {key: entry}. Returns {key: (where, request)} of
    what is not asked; if strict, also the second question about rows whose rules copy."""
    missing = {}
    for row in rows:
        first, request = teacher.request(row)
        row["knowledge"] = done.get(first, {}).get("knowledge", [])
        if first not in done:
            missing[first] = row["where"], request  # a row that is twice in the file is asked once
        if copied(row["knowledge"], row["question"]):
            second, request = teacher.request(row, row["knowledge"])
            row["knowledge"] = done.get(second, {}).get("knowledge", row["knowledge"])
            if strict and second not in done:
                missing[second] = row["where"], request
    return missing


def join(rows, originals):
    """Give the rows without knowledge that of the original with their id. If both have a type, or
    a level, these must be equal, too: MATH counts its ids anew in each. Raises ValueError if
    several originals fit that differ."""
    known = {}
    for original in originals:
        if original["knowledge"]:
            known.setdefault(str(original["id"]), []).append(original)
    for row in rows:
        if row["knowledge"]:
            continue
        fitting = set()
        for original in known.get(str(row["id"]), ()):
            pairs = [(row.get(key), original.get(key)) for key in ("type", "level")]
            if all(not mine or not theirs or str(mine) == str(theirs) for mine, theirs in pairs):
                fitting.add(tuple(original["knowledge"]))
        if len(fitting) > 1:
            raise ValueError(f"{row['where']}: the id {row['id']} stands for {len(fitting)} "
                             "different lists of rules in --map; a type or level in both files "
                             "would tell which.")
        row["knowledge"] = list(fitting.pop()) if fitting else []


def price(tokens, prices):
    """[tokens in, tokens out] and what they cost, in words. prices: dollars for a million of each,
    or None."""
    words = f"{tokens[0]:,} tokens in, {tokens[1]:,} out"
    if prices:
        words += f", about ${(tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6:.2f}"
    return words


class Progress:
    """How many requests of a run are finished, and what they cost."""

    def __init__(self, total, prices):
        self.total, self.prices, self.finished, self.tokens = total, prices, 0, [0, 0]
        self.start = self.shown = time.monotonic()

    def add(self, tokens):
        self.finished += 1
        self.tokens = [a + b for a, b in zip(self.tokens, tokens, strict=True)]

    def show(self, trouble):
        self.shown = time.monotonic()
        rate, left = self.finished / (self.shown - self.start), "unknown time"
        if rate:
            left = timedelta(seconds=round((self.total - self.finished) / rate))
        cost = price(self.tokens, self.prices)
        trouble = f", last trouble: {trouble}" if trouble else ""
        print(f"{self.finished}/{self.total} rows, {rate:.2f} rows/s, {left} left, {cost}{trouble}",
              file=sys.stderr, flush=True)


@contextmanager
def interruptible(stopping):
    """In its block, a first Ctrl-C sets the event `stopping`, a second raises Abandoned."""
    def interrupt(*_):
        if stopping.is_set():
            raise Abandoned
        stopping.set()
        # print could be in the middle of a line.
        os.write(2, b"\nWaiting for the requests in flight; Ctrl-C again abandons them.\n")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ask_all(teacher, todo, journal, done, workers=8, prices=None):
    """Send the requests in todo, {key: (where, request)}. As soon as one is answered, or has failed
    for good, its entry goes to the journal, a binary file, and to `done`. Ctrl-C waits for what is
    in flight, which is paid for, and raises KeyboardInterrupt; a second one raises Abandoned at
    once. An error that concerns all requests is raised when those in flight have arrived."""
    waiting, running, errors = iter(todo.items()), set(), []
    progress, pool = Progress(len(todo), prices), ThreadPoolExecutor(workers)
    try:
        with interruptible(teacher.stopping):
            while True:
                free = 0 if teacher.stopping.is_set() else workers - len(running)
                for key, (where, request) in islice(waiting, free):
                    running.add(pool.submit(teacher.ask, key, where, request))
                if not running:
                    break
                ready, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in ready:
                    if error := future.exception():
                        errors.append(error)
                        teacher.stopping.set()
                    elif entry := future.result():
                        journal.write(json.dumps(entry).encode() + b"\n")
                        journal.flush()  # from here on, no kill can lose it
                        done[entry["key"]] = entry
                        progress.add(entry["tokens"])
                if time.monotonic() - progress.shown > 10:
                    progress.show(teacher.trouble)
                    os.fsync(journal.fileno())  # no power cut loses more than ten seconds
    finally:
        if progress.finished < len(todo):
            teacher.stopping.set()  # also where the disk is full: nothing more is bought
        pool.shutdown(wait=False)
        progress.show(teacher.trouble)
    if progress.finished < len(todo):
        raise errors[0] if errors else KeyboardInterrupt


def dry_run(args, rows, todo, teacher):
    """Show the first request, and about what all would cost."""
    requests = [request for _, request in todo.values()]
    for request in requests[:1]:
        body = json.dumps(teacher.json_mode | request, indent=2)
        print(f"POST {teacher.url}\n{body}\n")
    # The rules are about as long as the solution; a token is about 4 letters.
    texts = [request["messages"][0]["content"] for request in requests]
    solutions = [text.rpartition("\nSolution: ")[2] for text in texts]
    tokens = [sum(map(len, side)) // 4 for side in (texts, solutions)]
    print(f"{len(rows)} rows, {len(requests)} to ask for: about "
          f"{price(tokens, args.prices)}. Nothing was sent.")


def report(args, rows, asked, teacher, done):
    """Says what became of the rows. Returns the exit status: 1 if some are without knowledge, or
    second questions failed."""
    # Where a row has rules, its entry is that of the second question.
    entries = [(row, done.get(teacher.request(row, row["knowledge"])[0], {})) for row in rows]
    failures = Counter(entry.get("failed", f"no original in {args.map}")
                       for row, entry in entries if not row["knowledge"])
    unmended = Counter(entry["failed"]
                       for row, entry in entries if row["knowledge"] and "failed" in entry)
    copies = [(row["where"], words) for row in asked
              if (words := copied(row["knowledge"], row["question"]))]
    print(f"{len(rows) - failures.total()} of {len(rows)} rows in {args.out} have knowledge.")
    if failures:
        reasons = "; ".join(f"{n} {why}" for why, n in failures.most_common(9))
        print(f"{failures.total()} have none: {reasons}. The same command tries these again; for "
              f"other --params (max_tokens, if cut off) take --data {args.out} and a new --out. kg "
              "and dr refuse them, ir does not.")
    if unmended:
        print(f"{unmended.total()} second questions failed: {'; '.join(unmended)}. The first rules "
              "stay; --strict asks again.")
    if copies:
        where, words = copies[0]
        print(f"{len(copies)} have rules that copy a name or number from the question ({where} has "
              f"{', '.join(words)}).")
    return 1 if failures or unmended else 0


def augment(args, rows, teacher, write_rows):
    """Give the rows without knowledge that of the teacher, and write them to args.out by
    write_rows(path, rows). Returns the exit status, as `report` does."""
    out, path = Path(args.out), Path(f"{args.out}.journal")
    sources = {Path(source).resolve() for source in (args.data, args.map) if source}
    if out.is_dir() or sources & {out.resolve(), path.resolve()}:
        raise ValueError(f"--out {out} is a folder, or it or its journal one of the files to be "
                         "read; give the rows a file of their own.")
    if ours := {"messages", "model", "n", "stream"} & args.params.keys():
        raise ValueError(f"--params must leave out {', '.join(sorted(ours))}: a request is a "
                         "question of ours, and wants one whole reply.")
    asked = [row for row in rows if args.teacher and not row["knowledge"]]
    for row in asked:
        if not row.get("rationale", "").strip():
            raise ValueError(f"{row['where']}: no \"rationale\" to show to the teacher.")
    if args.dry_run:
        with open(path if path.is_file() else os.devnull, "rb") as file:
            todo = fill_in(asked, teacher, read_journal(file), args.strict)
        dry_run(args, rows, todo, teacher)
        return 0
    if out.exists() and not path.exists():
        raise ValueError(f"{out} is there already, without its journal {path}; move it away or "
                         "name another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_journal(path) as (file, done):
        # If strict, a second time: first replies lead to second questions.
        while todo := fill_in(asked, teacher, done, args.strict):
            ask_all(teacher, todo, file, done, args.workers, args.prices)
        write_rows(out, rows)
    return report(args, rows, asked, teacher, done)


# -------------------------------------------------------------------------------------------------
# The command's flags


def json_object(text):
    """argparse's type for a JSON object."""
    try:
        value = json.loads(text, parse_constant=int)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def add_flags(flag):
    flag("--data", required=True, help="JSONL rows with question and rationale; those that have "
         "knowledge keep it")
    flag("--out", required=True, help="where to write them; OUT.journal keeps what is paid for")
    flag("--teacher", metavar="MODEL", help="the model to ask, as its server names it; the key is "
         "read from OPENAI_API_KEY")
    flag("--url", default=os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
         help="its server, any that is OpenAI-compatible (default: OPENAI_BASE_URL, else "
         "https://api.openai.com/v1)")
    flag("--params", type=json_object, default={"max_tokens": 1000}, metavar="JSON",
         help="what else requests say; another model or other params ask for all rows anew "
         '(default: {"max_tokens": 1000})')
    flag("--workers", type=positive, default=8, help="requests at the same time (default: 8)")
    flag("--timeout", type=positive, default=120,
         help="seconds of silence before a request is given up (default: 120)")
    flag("--prices", type=number(float, at_least=0), nargs=2, metavar=("IN", "OUT"),
         help="dollars for a million tokens, to show what it costs")
    flag("--strict", action="store_true",
         help="ask once more where rules copy a name or number from the question")
    flag("--map", metavar="FILE", help="take knowledge from this file's row with the same id; a "
         "teacher is asked for the rest")
    flag("-n", type=positive, help="only the first n rows (default: all)")
    flag("--dry-run", action="store_true",
         help="show the first request and what all would cost, and send nothing")

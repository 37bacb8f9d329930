"""data.py's command `augment`: many requests at once to a teacher, none lost, none paid for twice.

Each finished request becomes a line of the journal, a file beside the output, at once: its key (a
hash of all that was asked), its tokens, and the knowledge or why it failed. A run that was stopped,
or killed, and is started again asks only for what is missing.
"""
import argparse
import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path

from support.cli import number, path, positive, printable, tell
from support.files import atomic_write, lock, vanished
from support.replies import ROW, copied, flaw

FIRST = 20  # rows that all fail alike stop a run ...
IN_A_ROW = 5  # ... as do so many neighbours that the server refuses


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
            if entry["key"] and not flaw(entry.get("knowledge")):
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
    it. Whatever ends the `with` block early, it is said how to go on. If the file has vanished
    meanwhile, it is written again, under another name if there is a new one."""
    with open(path, "a+b") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise ValueError(f"Another run is filling {path}; wait for it, or stop it.") from None
        done, stopped = read_journal(file), None
        try:
            yield file, done
        except BaseException as error:  # Ctrl-C, an error that concerns all requests, a full disk
            stopped = error
            raise
        finally:
            if vanished(file):
                path = path.with_name(f"{path.name}.saved") if path.exists() else path
                file.seek(0)
                atomic_write(path, [file.read()])
            if stopped:
                tell(f"Stopped. What is paid for is kept in {path}: the same command goes on from "
                     "there.")
            if isinstance(stopped, Abandoned):
                os._exit(130)  # or Python would wait for the threads, and these for the server


def copies(row):
    return copied(row["knowledge"], row["question"], row["rationale"])


def fill_in(rows, teacher, done, strict=False):
    """Give the rows the knowledge that is done, {key: entry}. Returns {key: (i, row, request)} of
    what is not asked, i counting the rows; if strict, also the second question about rows whose
    rules copy."""
    missing = {}
    for i, row in enumerate(rows):
        first, request = teacher.request(row)
        row["knowledge"] = done.get(first, {}).get("knowledge", [])
        if first not in done:
            missing[first] = i, row, request  # a row that is twice in the file is asked once
        if copies(row):
            second, request = teacher.request(row, row["knowledge"])
            row["knowledge"] = done.get(second, {}).get("knowledge", row["knowledge"])
            if strict and second not in done:
                missing[second] = i, row, request
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
    """How many requests of a run are finished, what they cost, and how they ended."""

    def __init__(self, total, prices, good=False):
        self.good = good  # whether any row has rules by now
        self.total, self.prices, self.finished, self.tokens = total, prices, 0, [0, 0]
        self.start = self.shown = time.monotonic()
        self.failures = {}  # of row i, but for the words after a colon

    def add(self, i, row, entry):
        """Count one; returns the error that it is time to stop with, if it is."""
        self.finished += 1
        self.tokens = [a + b for a, b in zip(self.tokens, entry["tokens"], strict=True)]
        self.failures[i] = why = entry.get("failed", "").partition(":")[0]
        if why and self.alike(why, 0, FIRST):
            return ValueError(f"The first {FIRST} rows failed alike: {entry['failed']}. Change "
                              "--params (max_tokens, if cut off), --teacher or --url; -n 5 tries "
                              "a few rows.")
        self.good |= not why
        # long rows may be neighbours: once others have gone well, what is said of a row is its own
        about_row = self.good and ROW.search(entry.get("failed", ""))
        if why.startswith("HTTP status 4") and not about_row and any(
                self.alike(why, i - j, IN_A_ROW) for j in range(IN_A_ROW)):
            return ValueError(f"{IN_A_ROW} rows in a row were refused, {row['where']} is one: "
                              f"{entry['failed']}; leave these rows out of --data, or change "
                              "--params.")

    def alike(self, why, start, n):
        return all(self.failures.get(i) == why for i in range(start, start + n))

    def show(self, trouble):
        self.shown = time.monotonic()
        rate, left = self.finished / (self.shown - self.start), "unknown time"
        if rate:
            left = timedelta(seconds=round((self.total - self.finished) / rate))
        cost = price(self.tokens, self.prices)
        trouble = f", last trouble: {trouble}" if trouble else ""
        tell(f"{self.finished}/{self.total} rows, {rate:.2f} rows/s, {left} left, {cost}{trouble}")


@contextmanager
def interruptible(stopping):
    """In its block, a first Ctrl-C, SIGTERM or SIGHUP (a closed terminal; under nohup it is
    ignored, and stays so) sets the event `stopping`, a second raises Abandoned."""
    def interrupt(*_):
        if stopping.is_set():
            raise Abandoned
        stopping.set()
        with suppress(OSError):  # print could be in the middle of a line
            os.write(2, b"\nWaiting for the requests in flight; Ctrl-C again abandons them.\n")

    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = {one: signal.getsignal(one) for one in known if one}
    for one, handler in before.items():
        if one == signal.SIGINT or handler != signal.SIG_IGN:
            signal.signal(one, interrupt)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def ask_all(teacher, todo, journal, done, workers=8, prices=None):
    """Send the requests in todo, {key: (i, row, request)}. As soon as one is answered, or has
    failed for good, its entry goes to the journal, a binary file, and to `done`. Ctrl-C waits for
    what is in flight, which is paid for, and raises KeyboardInterrupt; a second one raises
    Abandoned at once. An error that concerns all requests is raised when those in flight have
    arrived."""
    waiting, running, errors = iter(todo.items()), {}, []
    progress, pool = Progress(len(todo), prices, bool(done)), ThreadPoolExecutor(workers)
    try:
        with interruptible(teacher.stopping):
            while True:
                if vanished(journal) and not errors:
                    errors.append(ValueError(f"{journal.name} vanished during the run."))
                if errors:
                    teacher.stopping.set()
                free = 0 if teacher.stopping.is_set() else workers - len(running)
                for key, (i, row, request) in islice(waiting, free):
                    running[pool.submit(teacher.ask, key, row, request)] = i, row
                if not running:
                    break
                for future in wait(running, timeout=0.1, return_when=FIRST_COMPLETED).done:
                    i, row = running.pop(future)
                    if error := future.exception():
                        errors.append(error)
                    elif entry := future.result():
                        journal.write(json.dumps(entry).encode() + b"\n")
                        journal.flush()  # from here on, no kill can lose it
                        done[entry["key"]] = entry
                        if error := progress.add(i, row, entry):
                            errors.append(error)
                if time.monotonic() - progress.shown > (1 if teacher.news else 10):
                    teacher.news = False
                    progress.show(teacher.trouble)
                    os.fsync(journal.fileno())  # no power cut loses more than ten seconds
    finally:
        if progress.finished < len(todo):
            teacher.stopping.set()  # also where the disk is full: nothing more is bought
        pool.shutdown(wait=False)
        progress.show(teacher.trouble)
    if errors or progress.finished < len(todo):
        raise errors[0] if errors else KeyboardInterrupt


def dry_run(args, rows, todo, teacher):
    """Show the first request, and about what all would cost."""
    for _, _, request in list(todo.values())[:1]:
        body = json.dumps(teacher.json_mode | request, indent=2)
        print(printable(f"POST {teacher.server.url}\n{body}\n"))
    # The rules are about as long as the solution; a token is about 4 letters.
    asked = sum(len(message["content"]) for _, _, request in todo.values()
                for message in request["messages"])
    told = sum(len(row["rationale"]) for _, row, _ in todo.values())
    print(f"{len(rows)} rows, {len(todo)} to ask for: about "
          f"{price([asked // 4, told // 4], args.prices)}. Nothing was sent. Not counted: what a "
          "model thinks before it replies, replies of no use, second questions of --strict.")


def report(args, rows, asked, teacher, done):
    """Says what became of the rows. Returns the exit status: 1 if some are without knowledge, or
    second questions failed."""
    # Where a row has rules, its entry is that of the second question.
    entries = [(row, done.get(teacher.request(row, row["knowledge"])[0], {})) for row in rows]
    failures = Counter(entry.get("failed", f"no original in {args.map}")
                       for row, entry in entries if not row["knowledge"])
    unmended = Counter(entry["failed"]
                       for row, entry in entries if row["knowledge"] and "failed" in entry)
    copiers = [(row["where"], words) for row in asked if (words := copies(row))]
    print(f"{len(rows) - failures.total()} of {len(rows)} rows in {args.out} have knowledge.")
    if failures:
        reasons = printable("; ".join(f"{n} {why}" for why, n in failures.most_common(9)))
        print(f"{failures.total()} have none: {reasons}. The same command tries these again; for "
              f"other --params (max_tokens, if cut off) take --data {args.out} and a new --out. kg "
              "and dr refuse them, ir does not.")
    if unmended:
        print(f"{unmended.total()} second questions failed: {printable('; '.join(unmended))}. "
              "The first rules stay; --strict asks again.")
    if copiers:
        where, words = copiers[0]
        print(f"{len(copiers)} have rules that copy a name or number from the question or a result "
              f"from the rationale ({where} has {', '.join(words)}).")
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
    flag("--data", type=path, required=True,
         help="JSONL rows with question and rationale; those that have "
         "knowledge keep it")
    flag("--out", type=path, required=True,
         help="where to write them; OUT.journal keeps what is paid for")
    flag("--teacher", metavar="MODEL", help="the model to ask, as its server names it; the key is "
         "read from OPENAI_API_KEY")
    flag("--url", default=os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
         help="its server, any that is OpenAI-compatible (default: OPENAI_BASE_URL, else "
         "https://api.openai.com/v1)")
    flag("--params", type=json_object, default={"max_tokens": 1000}, metavar="JSON",
         help='what else requests say, as {"max_tokens": 2000, "temperature": 0.2}; another model '
         'or other params ask for all rows anew (default: {"max_tokens": 1000})')
    flag("--workers", type=number(int, above=0, limit=1000), default=8,
         help="requests at the same time (default: 8)")
    flag("--timeout", type=number(int, above=0, limit=86400), default=120,
         help="seconds that a request may take in all (default: 120)")
    flag("--prices", type=number(float, at_least=0, limit=1e9), nargs=2, metavar=("IN", "OUT"),
         help="dollars for a million tokens, to show what it costs")
    flag("--strict", action="store_true",
         help="ask once more where rules copy from the question or give results away")
    flag("--map", type=path, metavar="FILE",
         help="take knowledge from this file's row with the same id; a "
         "teacher is asked for the rest")
    flag("-n", type=positive, help="only the first n rows (default: all)")
    flag("--dry-run", action="store_true",
         help="show the first request and what all would cost, and send nothing")

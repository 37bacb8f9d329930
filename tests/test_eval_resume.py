"""An evaluation that was stopped goes on: support/journal.py, and what infer.py checks before.

What a kill leaves is a first part of the journal, of any number of bytes: that of a whole run is
kept, and runs go on from first parts of it. The slow tests kill real processes.
"""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, edit_json
from test_infer import adapters, assert_refused, run, taught  # noqa: F401  one is a fixture
from test_scheduling import random_base

import infer
from support.engine import Engine
from support.files import atomic_write, lock, open_locked
from support.journal import Journal
from support.tokenizer import Tokenizer
from tiny.world import toy

DEEP = b"[" * 9999 + b"]" * 9999  # JSON, but too deep for Python


@pytest.fixture(scope="module", autouse=True)
def texts_answer():
    """What a random base writes, with an answer: some votes agree at once, some late or never."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "decode", lambda self, ids: f"{ids}\n--> {sum(ids) % 6} END\n")
        yield


class Work:
    """An evaluation of six rows in a file; `said` is all it says but the seconds."""

    def __init__(self, base, folder, *flags):
        self.folder, self.flags, self.rows = folder, flags, folder / "rows.jsonl"
        self.base, self.json, self.journal = base, folder / "t.json", folder / "t.json.journal"
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in toy(6, "test", 3)))

    def words(self, *more):
        return ["--model", self.base, *adapters(self.base), "--data", self.rows, "--rounds", 3,
                "--max-new-tokens", 4, "--temperature", 1.0, "--json", self.json, *self.flags,
                *more]

    def run(self, *more):
        return run(*self.words(*more))

    def said(self, done):
        assert done.returncode == 0, done.stderr
        printed = re.sub(r"[\d-]+ \|$", "", done.stdout, flags=re.M)
        written = re.sub(r'"seconds": [\d.]+', "", self.json.read_text())
        return [text.replace(str(self.folder), "") for text in (printed, written)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_base(tmp_path_factory.mktemp("resume") / "base")


@pytest.fixture
def work(base, tmp_path):
    return Work(base, tmp_path)


def finish(work):
    """Run to the end: (what it says, the whole journal)."""
    with pytest.MonkeyPatch.context() as patch:
        def full(*_):
            raise OSError("no room for the JSON")
        patch.setattr(infer, "atomic_write", full)
        assert_refused(work.run(), "no room for the JSON")  # and the journal stays
    content = work.journal.read_bytes()
    said = work.said(work.run())
    assert not work.journal.exists()
    return said, content


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    work = Work(base, tmp_path_factory.mktemp("whole"))
    plain = work.said(work.run())
    said, content = finish(work)
    assert said == plain
    return said, content


@pytest.fixture
def written(monkeypatch):
    """The texts that engines write, and do not find in a journal."""
    texts, plain = [], Engine.finish

    def finish(self, sequence, truncated):
        texts.append(sequence)
        plain(self, sequence, truncated)
    monkeypatch.setattr(Engine, "finish", finish)
    return texts


# --------------------------------------------------------------------------------------------------
# Going on


def test_wherever_it_is_killed_it_goes_on_and_writes_only_what_is_missing(work, whole, written):
    """From first parts of a journal, of its first line, too: the same table and JSON, and each
    text once."""
    said, content = whole
    total, rng = content.count(b"\n") - 1, random.Random(0)
    head = content.index(b"\n") + 1
    cuts = [0, 1, 150, head - 1, head, len(content) - 1, len(content),
            *rng.sample(range(head, len(content)), 6)]
    assert total > 50 and b"LoRID" in content
    for cut in cuts:
        written.clear()
        work.journal.write_bytes(content[:cut])
        assert work.said(work.run()) == said
        there = max(0, content[:cut].count(b"\n") - 1)
        assert len(written) == total - there and not work.journal.exists()


def test_it_may_be_killed_again(work, whole, written, monkeypatch):
    """A line that was torn is gone from the file: the next one stands alone."""
    said, content = whole
    lines = content.splitlines(keepends=True)
    work.journal.write_bytes(b"".join(lines[:9]) + lines[9][:20])
    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        assert work.run().returncode == 130
    again = work.journal.read_bytes()
    assert again.startswith(b"".join(lines[:9])) and again.count(b"\n") == 9 + 3
    assert [json.loads(line)[:8] for line in again.splitlines()[1:]] \
        == [json.loads(line)[:8] for line in lines[1:12]]
    work.journal.write_bytes(again[:-5])
    written.clear()
    assert work.said(work.run()) == said and len(written) == len(lines) - 1 - 10


def test_damaged_lines_are_written_again(work, whole, written):
    said, content = whole
    lines = content.splitlines(keepends=True)
    lines[2], lines[5], lines[9] = b"\0" * 40 + b"\n", b"[1, 2]\n", b'{"a": ' * 9999 + b"\n"
    lines[11] = lines[11].replace(b", false,", b", 5,").replace(b", true,", b", 5,")
    lines[13] = lines[13][:20] + lines[14]  # two processes cannot, a disk can
    lines[14] = b""
    for i, seconds in (16, b"1" + b"0" * 400), (18, b"NaN"), (20, b"-5.0"), (22, DEEP):
        lines[i] = lines[i].rpartition(b" ")[0] + b" " + seconds + b"]\n"
    lines[24] = lines[24].replace(b", false,", b"0" * 400 + b", false,") \
        .replace(b", true,", b"0" * 400 + b", true,")
    work.journal.write_bytes(b"".join(lines))
    assert work.said(work.run()) == said and len(written) == 11
    assert "nan" not in work.json.read_text().lower()


def test_seconds_are_the_sum_of_what_was_spent(work, whole):
    _, content = whole
    lines = [json.loads(line) for line in content.splitlines()[1:]]
    slow = [[*line[:-1], 100.0] for line in lines if line[-2] == "LoRID"]
    kept = [content.splitlines()[0], *(json.dumps(line).encode() for line in slow)]
    work.journal.write_bytes(b"\n".join(kept) + b"\n")
    assert work.run().returncode == 0
    seconds = [line["seconds"] for line in json.loads(work.json.read_text())["methods"]]
    assert 0 < seconds[0] < 50 > seconds[1] and 0 < seconds[2] - 100 * len(slow) < 50


def interrupt_after(n, monkeypatch):
    """Ctrl-C once n texts are kept."""
    plain, texts = Journal.__setitem__, []

    def keep(self, key, text):
        plain(self, key, text)
        texts.append(text)
        if len(texts) == n:
            raise KeyboardInterrupt
    monkeypatch.setattr(Journal, "__setitem__", keep)


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(work, whole, monkeypatch):
    said, content = whole
    lines = content.splitlines()[1:]
    before = sum(json.loads(line)[-2] != "LoRID" for line in lines)
    n = before + (len(lines) - before) * 3 // 4  # some votes are over, not all
    work.journal.write_bytes(content[:content.index(b"\n") + 30])  # a line that was torn
    with monkeypatch.context() as patch:
        interrupt_after(n, patch)
        done = work.run()
    assert (done.returncode, done.stdout) == (130, "")
    assert re.fullmatch(rf"\nStopped at LoRID: [1-5]/6 questions\. What is written is kept in "
                        rf"{re.escape(str(work.journal))}: the same command goes on from there\.\n",
                        done.stderr)
    assert len([json.loads(line) for line in work.journal.read_text().splitlines()]) \
        == 1 + n
    assert work.said(work.run()) == said


def test_ctrl_c_without_json_says_what_would_have_kept_it(work, monkeypatch):
    interrupt_after(1, monkeypatch)
    words = work.words()
    del words[words.index("--json"):]
    done = run(*words)
    assert (done.returncode, done.stdout) == (130, "")
    assert re.fullmatch(r"\nStopped at IR alone, greedy.*\. Nothing is kept; with --json FILE it "
                        r"would be\.\n", done.stderr)
    assert not work.json.exists() and not work.journal.exists()


def start(words, processes=None):
    crew = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *crew * bool(processes), "infer.py", *map(str, words)]
    # in the background of a shell, Ctrl-C would be ignored
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def family(pid):
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [pid]
    for child in children.read_text().split() if children.exists() else ():
        found += family(int(child))
    return found


def stop(work, rng, how, processes=None):
    """Start it, and stop all its processes at a random moment while the journals grow. Returns
    whether it was still at work, and what it said."""
    before, child = len(keys_of(work)), start(work.words(), processes)
    while child.poll() is None and len(keys_of(work)) == before:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.6))
    running = child.poll() is None
    while True:
        if child.poll() is None:
            for pid in family(child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
        try:
            return running, child.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            pass  # Ctrl-C in a __del__ is lost: press it again


def keys_of(work):
    """Of the texts in all journals."""
    return [tuple(json.loads(line)[:5]) for path in work.folder.glob("t.json.journal*")
            for line in path.read_bytes().rpartition(b"\n")[0].splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("kills, processes", [(20, [None]), (4, [2, None, 3, 2])])
def test_real_kills_change_nothing(taught, tmp_path, kills, processes):  # noqa: F811
    """kill -9 at random moments, and a Ctrl-C; of one process, and under torchrun, with another
    number of processes each time."""
    work, rng = Work(ROOT / "tiny", tmp_path), random.Random(kills)
    work.rows.write_text("".join(json.dumps(row) + "\n" for row in toy(30, "test", 3)))

    def words(*more):
        return ["--out", taught, "--data", work.rows, "--rounds", 8, "--temperature", 0.7,
                "--max-new-tokens", 60, "--slots", 4, "--json", work.json, *more]
    def run_whole():
        child = start(words())
        printed, stderr = child.communicate()
        return work.said(subprocess.CompletedProcess((), child.returncode, printed, stderr))
    work.words = words
    said, before = run_whole(), 0
    work.json.unlink()
    for i in range(kills):
        how = signal.SIGINT if i == kills // 2 and processes == [None] else signal.SIGKILL
        running, stderr = stop(work, rng, how, processes[i % len(processes)])
        assert running, f"after {i} kills all was done"
        if how == signal.SIGINT:
            assert stderr.count("Stopped at ") == 1 and "Traceback" not in stderr
        assert not work.json.exists()
        keys = keys_of(work)
        assert len(set(keys)) == len(keys) > before  # no text is written twice
        before = len(keys)
    assert run_whole() == said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "t.json"]


def test_a_study_writes_no_text_twice(base, tmp_path, written):
    """Rivals take the texts that are there: the same (role, prompt, temperature, number of this
    role about this question) is written once, whoever asks for it. And a study goes on, too."""
    work = Work(base, tmp_path, "--study")
    said, content = finish(work)
    asked = [tuple(json.loads(line)[:5]) for line in content.splitlines()[1:]]
    assert len(set(asked)) == len(asked) == len(written)
    lines = {line["method"]: line for line in json.loads(work.json.read_text())["methods"]}
    # the vote, the mixtures and self-consistency draw one row of samples, as long as the longest
    [k] = [line["texts"] for name, line in lines.items() if name.startswith("self-consistency")]
    solved = [key[1] for key in asked if key[0] == 1 and key[3] == "ir"]
    assert k > 3 and sorted(solved) == sorted([*range(6)] * int(k))
    [n] = [line["rounds"] for name, line in lines.items() if re.match(r"majority of \d+ KG", name)]
    ruled = [key[1] for key in asked if key[0] == 1 and key[3] == "kg"]
    assert 6 * n <= len(ruled) <= 6 * 6  # two a round at most
    written.clear()
    cut = random.Random(3).randrange(len(content) // 2, len(content))
    work.journal.write_bytes(content[:cut])
    assert work.said(work.run()) == said
    assert len(written) == len(asked) - (content[:cut].count(b"\n") - 1) > 0


# --------------------------------------------------------------------------------------------------
# Refusals


def changed_rows(**changes):
    def change(work):
        rows = [json.loads(line) for line in work.rows.read_text().splitlines()]
        work.rows.write_text("".join(json.dumps(row | (changes if i == 4 else {})) + "\n"
                                     for i, row in enumerate(rows)))
    return change


def changed_weights(work):
    """One letter of dr's weights, in a copy that is named likewise."""
    weights = bytearray((work.base / "dr" / "adapter_model.safetensors").read_bytes())
    weights[-3] ^= 1
    copy_base(work)
    (work.base / "dr" / "adapter_model.safetensors").write_bytes(weights)


def changed_dropout(work):
    copy_base(work)
    edit_json(work.base / "kg" / "adapter_config.json", lora_dropout=0.25)


def changed_base(work):
    copy_base(work)
    edit_json(work.base / "config.json", rms_norm_eps=2e-5)


def copy_base(work):
    work.base = shutil.copytree(work.base, work.folder / "base")


@pytest.mark.parametrize("flags, says", [
    (["--temperature", 0.9], "--temperature 1.0 (now 0.9)"), (["--seed", 1], "--seed 0 (now 1)"),
    (["--top-k", 9], "--top-k 50 (now 9)"), (["--top-p", 0.8], "--top-p 0.9 (now 0.8)"),
    (["--rounds", 4], "--rounds 3 (now 4)"), (["--limit", 5], "--questions 6 (now 5)"),
    (["--max-new-tokens", 5], "--max-new-tokens 4 (now 5)"),
    (["--dtype", "bfloat16"], "--dtype float32 (now bfloat16)"),
    (changed_rows(question="What is 7+8?"), "--data 6 rows"),
    (changed_rows(knowledge=["Add."]), "--data 6 rows"),
    (changed_rows(answer="8"), "--data 6 rows"),
    (changed_weights, "--dr dr "), (changed_dropout, "--kg kg "), (changed_base, "--model base ")],
    ids=str)
def test_other_settings_are_refused_by_name(work, whole, written, flags, says):
    """All of them that differ, old and new; and the journal is left alone."""
    half = whole[1][:len(whole[1]) // 2]
    work.journal.write_bytes(half)
    if callable(flags):
        flags(work)
    done = work.run(*([] if callable(flags) else flags))
    assert_refused(done, str(work.journal), "other settings", says, "give another --json")
    assert done.stderr.count("(now ") == 1 + ("--limit" in flags if type(flags) is list else 0)
    assert work.journal.read_bytes() == half and not work.json.exists() and not written


def test_what_changes_no_text_may_change(work, whole, written):
    said, content = whole
    work.journal.write_bytes(content)
    done = work.run("--slots", 2, "--no-drafts")
    assert work.said(done) == said and not written
    work.journal.write_bytes(content)
    assert work.run("--strict").returncode == 0 and not written


@pytest.mark.parametrize("content", [
    b"mine", b"mine\n", b"{}\n", b'{"evaluation": 5}\n', b"[" * 9999,
    b'{"key": "a", "knowledge": ["Add."]}\n' * 3, b'{"evaluation": {"--a": ' + DEEP + b"}}\n",
    b'{"evaluation": {"--a": ' + b"[" * 9999 + b"\n", b'{"evaluation": ["--'])
def test_a_file_that_is_no_journal_is_left_alone(work, content):
    work.journal.write_bytes(content)
    assert_refused(work.run(), f"{work.journal} is no journal of an evaluation")
    assert work.journal.read_bytes() == content


def pipe(journal, mine):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(journal)


@pytest.mark.parametrize("plant, why", [
    (Path.symlink_to, "symbolic links"), (lambda journal, mine: journal.mkdir(), "is no file"),
    (pipe, "is no file")])
def test_what_is_planted_in_its_place_is_left_alone(work, plant, why):
    mine = work.folder / "mine"
    mine.write_bytes(b"")
    plant(work.journal, mine)
    assert_refused(work.run(), str(work.journal), why)
    assert mine.read_bytes() == b"" and work.journal.exists()
    with pytest.raises(ValueError, match=f"{work.journal} cannot be opened as a plain file: .*; "
                                         "move it away"):
        open_locked(work.journal)
    mine.unlink()
    if work.journal.is_symlink():  # to nothing: no file is made there
        assert_refused(work.run(), "cannot be opened as a plain file")
        assert not mine.exists()


def test_what_is_opened_keeps_its_name_and_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with open_locked(tmp_path / "a") as file:
        file.write(b"new")
        assert Path(file.name) == tmp_path / "a"
    assert (tmp_path / "a").read_bytes() == b"oldnew"
    for path in "none/a", "a/a", "n" * 300:
        with pytest.raises(OSError, match=f"{path} cannot be written: .*; .*[.]$"):
            open_locked(tmp_path / path)


@pytest.mark.parametrize("path, remedy", [
    ("folder", "move that folder away"), ("file/a", "another place"), ("n" * 250, "a shorter name"),
    ("gone/a", "make its folder")])
def test_what_cannot_be_written_is_named_with_a_remedy(tmp_path, monkeypatch, path, remedy):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    if path == "gone/a":  # deleted in the same moment
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(OSError) as refusal:
        atomic_write(tmp_path / path, [b"x"])
    said = str(refusal.value)
    assert said.startswith(f"{tmp_path / path} cannot be written: ") and remedy in said
    assert "Errno" not in said and ".tmp" not in said


def replace(journal):
    journal.rename(journal.with_name("moved"))
    journal.write_bytes(b"of another run")


@pytest.mark.parametrize("vanish, says", [
    (Path.unlink, "written again"), (replace, "left alone")])
def test_a_journal_that_vanishes_stops_the_run(work, whole, monkeypatch, vanish, says):
    """Its lock would hold no more. What was written is not lost."""
    said, content = whole
    plain, texts = Journal.__setitem__, []

    def keep(self, key, text):
        plain(self, key, text)
        texts.append(text)
        if len(texts) == 9:
            vanish(work.journal)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "__setitem__", keep)
        assert_refused(work.run(), f"{work.journal} vanished during the run: ", says)
    assert len(texts) == 9 and not work.json.exists()
    if vanish is replace:
        assert work.journal.read_bytes() == b"of another run"
        work.journal.with_name("moved").rename(work.journal)
    assert work.journal.read_bytes().count(b"\n") == 1 + 9
    assert work.said(work.run()) == said


def test_a_second_run_is_refused(work, whole):
    work.journal.write_bytes(whole[1])
    with open(work.journal, "rb+") as file:
        lock(file)
        assert_refused(work.run(), f"{work.journal} is being written by another process")
    assert work.journal.read_bytes() == whole[1] and work.run().returncode == 0


@pytest.mark.parametrize("share", [0.5, 0.01], ids=["in a text", "in the first line"])
def test_a_full_disk_costs_nothing_of_what_is_written(work, whole, share):
    """The system refuses to let the file grow: a line is written in part, and the true reason
    said, with what helps."""
    resource = pytest.importorskip("resource")
    said, content = whole
    room = int(share * len(content))
    assert (room < content.index(b"\n")) == (share < 0.5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        done = work.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_refused(done, f"{work.journal} cannot be written: File too large; raise the limit")
    assert work.journal.stat().st_size == room
    assert work.said(work.run()) == said


def few(folder, *words):
    return ["--model", folder, *adapters(folder), "--limit", 1, "--rounds", 1, *words]


@pytest.mark.parametrize("words, says", [
    (["--json", "."], "--json . is no file"), (["--json", ""], "argument --json"),
    (["--json", " "], "argument --json"), (["--json", "/dev/null"], "--json /dev/null is no file"),
    (["--json", "/proc/t.json"], "/proc/t.json cannot be written"),
    (["--json", "rows.jsonl/t.json"], "rows.jsonl"),
    (["--json", "rows.jsonl"], "--json rows.jsonl would overwrite"),
    (["--study", "--plot", "./t.png", "--json", "t.png"], "--plot ./t.png would overwrite"),
    (["--study", "--plot", "t.xyz"], "--plot t.xyz: Format 'xyz' is not supported"),
    (["--study", "--plot", "."], "--plot . is no file"),
    (["--study", "--plot", "/proc/t.png"], "/proc/t.png cannot be written"),
    (["--json", "v", "--html", "v.journal"], "--html v.journal would overwrite"),
    (["--json", "v", "--study", "--plot", "v.journal"], "--plot v.journal would overwrite"),
    (["--data", "v.journal", "--json", "v"], "--json's journal v.journal would overwrite"),
    (["--json", "BASE/tokenizer.json"], "tokenizer.json would overwrite"),
    (["--html", "BASE/dr/../config.json"], "config.json would overwrite"),
    (["--json", "BASE/ir/adapter_config.json"], "adapter_config.json would overwrite"),
    (["--study", "--plot", "BASE/kg/adapter_model.safetensors"], "would overwrite"),
    (["--ask", "1+1?", "--json", "t.json"], "--ask"), (["--ask", "1+1?", "--study"], "--ask"),
    (["--ask", "1+1?", "--study", "--plot", "t.png"], "--ask"),
    (["--ask", "", "--json", "t.json"], "--ask")])
def test_outputs_are_checked_before_the_work(tmp_path, base, monkeypatch, words, says):
    pytest.importorskip("matplotlib")
    if "/proc" in " ".join(words) and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    monkeypatch.setattr(infer, "load", lambda args: pytest.fail("began to work"))
    (tmp_path / "rows.jsonl").write_text('{"question": "What is 1+1?", "answer": "2"}\n')
    data = [] if "--ask" in words else ["--data", "rows.jsonl"]
    words = [word.replace("BASE", str(base)) for word in words]
    done = run(*few(base, *data, *words), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_tilde_is_the_home_folder(tmp_path, base, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run(*few(base, "--max-new-tokens", 2, "--json=~/new/t.json")).returncode == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.json"]

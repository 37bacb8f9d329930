"""Nothing lost: a training that is stopped, killed, or meets a full disk, and goes on; what lies in
its folder meanwhile, and the curves."""
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from test_infer import assert_refused, run_alone, run_script

import lora
import train
from model import load_model, read_safetensors
from support import checkpoint, settings
from support.checks import check_adapter_config
from support.files import open_locked, read_metadata
from tiny import pretrain
from tiny.world import toy

WEIGHTS = "adapter_model.safetensors"
# Dropout, micro-batches, and steps enough for three checkpoints
WORDS = ["--role", "ir", "--steps", 6, "--batch", 5, "--max-tokens", 250, "--dropout", 0.2,
         "--dtype", "float32"]
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in ENV: two threads add in another order, and the last bits differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    """A few problems, of which few are held out."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toy(60, "train")))
    return path


@pytest.fixture(scope="module")
def run(rows_file):
    """train.py in this process: run(folder, more words)."""
    def go(out, *more):
        return run_script(train, *WORDS, "--data", rows_file, "--out", out, *more)
    return go


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of a training that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out / "tiny" / "ir"


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(step, act): act at the end of the optimizer's step of that number."""
    plain = train.AdamW.step

    def set_stop(number, act):
        def step(self, lr):
            plain(self, lr)
            if self.t == number:
                act()
        monkeypatch.setattr(train.AdamW, "step", step)
    yield set_stop


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def crash():
    raise RuntimeError("the power is gone")


def steps_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint*"))


def assert_same(folder, whole):
    """The same adapter to the byte, the same log but for the speed, and nothing left over."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.iterdir())
    for name in (WEIGHTS, "adapter_config.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = ([{k: v for k, v in entry.items() if k != "tokens/s"} for entry in steps_of(f)]
                    for f in (folder, whole))
    assert ours == theirs


# --------------------------------------------------------------------------------------------------
# Stopped, and gone on with


def test_ctrl_c_leaves_a_checkpoint_and_resume_ends_as_if_it_had_not_been(
        run, whole, stop_after, tmp_path):
    """Between two steps, wherever the signal came; the sentence says how to go on. Without
    --resume, what was reached is said to be left aside, and is not lost at once."""
    folder = tmp_path / "tiny" / "ir"
    stop_after(4, interrupt)
    done = run(tmp_path)
    assert done.returncode == 130 and "step 5" not in done.stdout
    assert done.stderr.endswith("train.py: stopped after step 4; the same command with --resume "
                                "goes on from there.\n")
    assert checkpoints(folder) == ["checkpoint-step-0000004.safetensors"]
    assert [entry["step"] for entry in steps_of(folder)] == [1, 2, 3, 4]
    assert not (folder / WEIGHTS).exists()

    stop_after(1, interrupt)
    done = run(tmp_path)
    assert "checkpoint-step-0000004.safetensors is not used without --resume" in done.stdout
    assert len(checkpoints(folder)) == 2

    stop_after(0, None)
    done = run(tmp_path, "--resume", "--save-every", 0)
    assert done.returncode == 0, done.stderr
    assert "resumed    after step 4" in done.stdout and "step 4/6" not in done.stdout
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_crash_costs_what_came_after_the_last_checkpoint(
        run, whole, stop_after, tmp_path, monkeypatch):
    """The log, which had gone on, goes back too. Of a checkpoint that is torn, cut off or altered,
    the one before is taken; of two, at most. Nothing left to go on from: from the start."""
    folder, n, said, say = tmp_path / "tiny" / "ir", 5, [], checkpoint.say
    monkeypatch.setattr(checkpoint, "say", lambda text: (said.append(text), say(text)))
    cut, altered = (lambda raw: raw[:-100]), lambda raw: raw[:len(raw) // 2] + b"\0" * 9999
    for damage, says in ((cut, "no checkpoint in"), (altered, "resumed    after step 3"),
                         (None, "resumed    after step 3")):
        stop_after(n, crash)
        with pytest.raises(RuntimeError, match="power"):
            run(tmp_path, "--save-every", 0, "--resume")
        assert any(says in text for text in said)
        said.clear()
        names = [f"checkpoint-step-{step:07}.safetensors" for step in (n - 2, n - 1)]
        assert checkpoints(folder) == names
        assert [entry["step"] for entry in steps_of(folder)] == list(range(1, n))
        if damage:
            newest = folder / names[1]
            newest.write_bytes(damage(newest.read_bytes()))
    with (folder / "log.jsonl").open("a") as log:  # what a killed process had got so far with
        log.write('{"step": 5, "loss": 9}\n{"ste')
    stop_after(0, None)
    done = run(tmp_path, "--resume")
    assert done.returncode == 0 and "resumed    after step 4" in done.stdout
    assert_same(folder, whole)
    other = tmp_path / "other"
    assert run(other, "--resume").returncode == 0
    assert_same(other / "tiny" / "ir", whole)


@pytest.mark.parametrize("more, says", [
    (["--lr", 1e-3], "--lr 0.002 (now 0.001)"), (["--rank", 8], "--rank 16 (now 8)"),
    (["--seed", 5], "--seed 0 (now 5)"), (["--steps", 7], "--steps 6 (now 7)"),
    (["--max-tokens", 99], "--max-tokens 250 (now 99)"),
    (["--dtype", "bfloat16", "--batch", 3], "--batch 5 (now 3), --dtype float32 (now bfloat16)"),
    ("data", "--data 60 rows "), ("base", "--model tiny ")])
def test_resume_with_something_else_says_what(run, stopped, rows_file, tmp_path, more, says):
    """And neither trains nor touches the checkpoint."""
    before = {path.name: path.read_bytes() for path in (stopped / "tiny" / "ir").iterdir()}
    if more == "data":
        rows = rows_file.read_text().replace("1", "2", 1)
        (tmp_path / "rows.jsonl").write_text(rows)
        more = ["--data", tmp_path / "rows.jsonl"]
    if more == "base":  # of the same name and shapes
        base = tmp_path / "tiny"
        base.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (base / name).write_bytes((ROOT / "tiny" / name).read_bytes())
        weights = bytearray((ROOT / "tiny" / "model.safetensors").read_bytes())
        weights[len(weights) // 2] ^= 1
        (base / "model.safetensors").write_bytes(weights)
        more = ["--model", base]
    assert_refused(run(stopped, *more, "--resume"), "a training with", says, "leave --resume out")
    assert {p.name: p.read_bytes() for p in (stopped / "tiny" / "ir").iterdir()} == before


@pytest.fixture(scope="module")
def stopped(run, tmp_path_factory):
    """--out of a training that was stopped after its second step."""
    out, patch = tmp_path_factory.mktemp("stopped"), pytest.MonkeyPatch()
    plain = train.AdamW.step
    patch.setattr(train.AdamW, "step",
                  lambda self, lr: (plain(self, lr), interrupt() if self.t == 2 else None))
    assert run(out).returncode == 130
    patch.undo()
    return out


@pytest.mark.slow
def test_memory_may_be_saved_when_going_on(run, stopped, whole, tmp_path):
    """--checkpointing changes no bit, and other settings start anew without --resume, whatever an
    older checkpoint says."""
    folder = tmp_path / "tiny" / "ir"
    folder.mkdir(parents=True)
    for path in (stopped / "tiny" / "ir").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert run(tmp_path, "--lr", 1e-3, "--steps", 1).returncode == 0
    assert checkpoints(folder) == [] and len(steps_of(folder)) == 1
    (folder / WEIGHTS).unlink()
    for path in (stopped / "tiny" / "ir").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    done = run(tmp_path, "--checkpointing", "--save-every", 3, "--resume")
    assert done.returncode == 0 and "step 2/6" not in done.stdout
    assert_same(folder, whole)


@pytest.mark.slow
def test_roles_that_are_finished_are_not_paid_for_twice(rows_file, stop_after, tmp_path):
    """All three in turn, the second one stopped. With other settings, all are trained."""
    words = [*WORDS[2:], "--data", rows_file, "--out", tmp_path, "--steps", 1, "--batch", 1]
    assert run_script(train, "--role", "ir", *words).returncode == 0
    done = run_script(train, *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert "ir: trained already with these settings" in done.stdout
    assert done.stdout.count("step 1/1") == 2
    done = run_script(train, "--role", "ir", *words, "--seed", 3, "--resume")
    assert done.returncode == 0 and done.stdout.count("step 1/1") == 1
    (tmp_path / "tiny" / "kg" / "adapter_config.json").unlink()  # half of it is not finished
    assert "step 1/1" in run_script(train, "--role", "kg", *words, "--resume").stdout


@pytest.mark.slow
def test_the_base_is_pretrained_on_after_a_stop(stop_after, tmp_path, monkeypatch):
    """tiny/pretrain.py, through the same loop: documents are drawn again up to where it was."""
    monkeypatch.setattr(pretrain, "train_bpe", lambda *_: ([], []))
    monkeypatch.setattr(pretrain, "tokenizer_json", lambda *_: json.loads(
        (ROOT / "tiny" / "tokenizer.json").read_text()))

    def run(out, *more):
        return run_script(pretrain, "--steps", 20, "--batch", 2, "--out", tmp_path / out, *more)
    assert run("one").returncode == 0
    stop_after(2, interrupt)
    assert run("two").returncode == 130
    stop_after(0, None)
    done = run("two", "--resume")
    assert done.returncode == 0 and "step 2/20" not in done.stdout, done.stderr
    assert "step 20/20" in done.stdout and "step 1/1 " in done.stdout  # of reading, of practice
    one, two = (read_safetensors(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert checkpoints(tmp_path / "two") == []

    def pressed(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "practise", pressed)
        done = run("three", "--save-every", 0)
    assert done.returncode == 130 and "has read but not practised" in done.stderr
    done = run("three", "--resume")
    assert done.returncode == 0 and "step 20/20" not in done.stdout, done.stderr
    three = read_safetensors(tmp_path / "three" / "model.safetensors")
    assert all(torch.equal(one[name], three[name]) for name in one)


# --------------------------------------------------------------------------------------------------
# Processes of their own, killed


def start(*words, **how):
    command = [sys.executable, str(ROOT / "train.py"), *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=ENV, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **how)


def wait_for(process, text):
    """Read what the process prints up to a line with this text; False if it ends before."""
    return any(text in line for line in process.stdout)


@pytest.mark.slow
def test_killed_at_random_it_ends_as_if_it_had_not_been(rows_file, tmp_path):
    """At least ten times, by kill -9 at any moment of a step or of a saving."""
    words = [*WORDS, "--steps", 40, "--batch", 2, "--data", rows_file]
    assert run_alone("train.py", *words, "--out", tmp_path / "whole").returncode == 0
    rng, kills = random.Random(0), 0
    for _ in range(60):
        process = start(*words, "--out", tmp_path, "--resume", "--save-every",
                        rng.choice([0, 0, 0.001]))
        if kills < 12:
            if wait_for(process, "step "):
                time.sleep(rng.random() * 0.4)
            process.kill()
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
            assert len(checkpoints(tmp_path / "tiny" / "ir")) <= 2 + 1  # one before it is whole
        else:
            said, errors = process.communicate()
            assert process.returncode == 0, errors
            break
    assert kills >= 12 and "resumed" in said, kills
    for old in (tmp_path / "tiny" / "ir").glob("*.tmp"):
        old.unlink()  # of a kill in mid-writing; atomic_write removes it after an hour
    assert_same(tmp_path / "tiny" / "ir", tmp_path / "whole" / "tiny" / "ir")


def workers(process):
    """The ids of the processes that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("the children of a process cannot be listed here")
    return list(map(int, children.read_text().split()))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--shard", "--checkpointing")], ids=" ".join)
def test_two_processes_one_of_them_killed(more, rows_file, tmp_path):
    """Each has random states of its own. Not with another number of processes."""
    words = [*WORDS, "--steps", 8, "--batch", 3, "--data", rows_file, *more]
    done = run_alone("train.py", *words, "--out", tmp_path / "whole", processes=2)
    assert done.returncode == 0, done.stderr
    crew = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    folder = tmp_path / "tiny" / "ir"
    for victim in (0, 1):
        process = subprocess.Popen(
            [sys.executable, *crew, str(ROOT / "train.py"), *map(str, words), "--out",
             str(tmp_path), "--save-every", "0", "--resume"], cwd=ROOT, env=ENV, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert wait_for(process, f"step {3 + 2 * victim}/")
        os.kill(workers(process)[victim], signal.SIGKILL)
        process.communicate()
        assert process.returncode != 0 and checkpoints(folder)
    if not more:
        done = run_alone("train.py", *words, "--out", tmp_path, "--resume")
        assert_refused(done, "processes 2 (now 1)")
    done = run_alone("train.py", *words, "--out", tmp_path, "--resume", processes=2)
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    for old in folder.glob("*.tmp"):
        old.unlink()
    assert_same(folder, tmp_path / "whole" / "tiny" / "ir")


@pytest.mark.slow
def test_a_reader_who_leaves_a_closed_terminal_and_a_second_training(rows_file, whole, tmp_path):
    """`train.py | head -2` trains to the end, a hang-up does not end it, and meanwhile nobody else
    may train there."""
    process = start(*WORDS, "--data", rows_file, "--out", tmp_path)
    assert wait_for(process, "step 1/")
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    done = run_script(train, *WORDS, "--data", rows_file, "--out", tmp_path)
    assert_refused(done, f"{tmp_path}/tiny/ir/log.jsonl", "another process")
    assert process.wait() == 0 and process.stderr.read() == ""
    assert_same(tmp_path / "tiny" / "ir", whole)


@pytest.mark.parametrize("script", ["train.py", "infer.py"])
def test_ctrl_c_while_the_imports_run_is_quiet(script):
    """Before anything else could listen: just after support/ has been read."""
    started = ("import os, signal, runpy, sys; sys.path.insert(0, '.'); sys.argv = [sys.argv[1]]; "
               "sys.modules['__main__'].__file__ = sys.argv[0]; import support; "
               "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT)); "
               "signal.setitimer(signal.ITIMER_REAL, 0.3); "
               "runpy.run_path(sys.argv[0], {}, '__main__')")
    done = subprocess.run([sys.executable, "-c", started, script], cwd=ROOT, env=ENV,
                          capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


# --------------------------------------------------------------------------------------------------
# What is saved, and where


@pytest.mark.parametrize("more", [
    ["--lr", 1e30, "--steps", 1], pytest.param(["--lr", 100], marks=pytest.mark.slow)])
def test_a_training_that_failed_replaces_no_good_adapter(run, whole, tmp_path, more):
    folder = tmp_path / "tiny" / "ir"
    folder.mkdir(parents=True)
    for name in (WEIGHTS, "adapter_config.json"):
        (folder / name).write_bytes((whole / name).read_bytes())
    done = run(tmp_path, *more)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "nothing is saved" in done.stderr and "--lr" in done.stderr
    for name in (WEIGHTS, "adapter_config.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_two_files_of_two_adapters_are_not_one(run, whole, tmp_path):
    """A kill between the two renames leaves new weights beside an old adapter_config.json."""
    assert run(tmp_path, "--alpha", 8, "--steps", 1).returncode == 0
    folder = tmp_path / "tiny" / "ir"
    lora.read_adapter(folder)
    config = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_bytes((whole / "adapter_config.json").read_bytes())
    with pytest.raises(ValueError, match=r"saved with lora_alpha 8, adapter_config.json .* 32"):
        lora.read_adapter(folder)
    (folder / "adapter_config.json").write_text(config)
    metadata = read_metadata(folder / WEIGHTS)
    assert metadata["format"] == "pt" and all(isinstance(v, str) for v in metadata.values())
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata() == metadata


@pytest.mark.slow
def test_a_disk_without_room_is_found_before_the_training(rows_file, run, tmp_path, monkeypatch):
    """By a limit on the size of files that lets the weights pass and no checkpoint, or by the room
    that is left."""
    words = " ".join(map(str, [*WORDS, "--data", rows_file, "--out", tmp_path / "out"]))
    command = f"ulimit -f 1000; exec {sys.executable} train.py {words}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=ENV, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "step 1" not in done.stdout
    assert f"{tmp_path / 'out'}" in done.stderr and "ulimit -f" in done.stderr
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    done = run(tmp_path / "other")
    assert done.returncode == 2 and "step 1" not in done.stdout
    assert f"{tmp_path / 'other'}" in done.stderr and "MB are needed; make room" in done.stderr


@pytest.mark.parametrize("flag", ["--out", "--data", "--model", "--plot"])
def test_a_path_is_a_name_and_may_begin_at_home(flag, tmp_path, monkeypatch):
    done = run_script(train, flag, "")
    assert done.returncode == 2 and f"argument {flag}: '' is no name" in done.stderr
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", f"{flag}=~/x"])
    assert getattr(train.arguments(), flag[2:]) == str(tmp_path / "x")


# --------------------------------------------------------------------------------------------------
# Memory and curves


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients(make_base, dropout):
    """Of a frozen base too, whose embeddings need none; with the same dropout the second time."""
    folder, _ = make_base()
    gradients, kept = [], []
    for checkpointing in (False, True):
        model = load_model(folder, dtype=torch.float32)
        torch.manual_seed(1)
        parameters = lora.inject(model, ["q_proj", "down_proj"], {"ir": (4, 2.0)}, dropout)
        for p in parameters:
            torch.nn.init.normal_(p, std=0.1)
        lora.set_adapter(model, "ir")
        model.train().checkpointing = checkpointing
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = train.summed_loss(model, [([5, 6, 7, 8, 9] * 8, [0] + [1] * 39)] * 2)
        loss.backward()
        gradients.append([p.grad for p in parameters])
        kept.append(sum(sizes))
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.abs().max() > 1e-3
        assert torch.allclose(plain, recomputed, rtol=0, atol=1e-6)
    assert kept[1] < 0.5 * kept[0]


def test_held_out_loss_is_measured_now_and_then_and_changes_nothing(whole, run, monkeypatch):
    """Of a full training: eight times, in equal distances, the same examples, at most 4% as many as
    are learnt from; a short one has fewer. The last step is one of them."""
    valid = list(range(200))
    plan = train.measurements(valid, 63, 32)
    assert list(plan) == [7, 15, 23, 31, 39, 47, 55, 63]
    assert all(part == plan[7] for part in plan.values()) and len(plan[7]) == 10
    assert plan[7][-1] > 150  # not only the first problems
    assert train.measurements(valid, 2, 4) == {}
    assert set(train.measurements([7], 1000, 16)) == {125 * i for i in range(1, 9)}
    for steps, batch in ((1, 1), (1, 32), (3, 40), (1000, 3)):
        plan = train.measurements(valid, steps, batch)
        assert set(plan) <= set(range(1, steps + 1))
        assert sum(map(len, plan.values())) <= steps * batch / 25


def test_the_log_has_a_line_a_step(whole):
    entries = steps_of(whole)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    for entry in entries:
        assert entry.keys() - {"val_loss"} == {"step", "loss", "lr", "tokens/s"}
        assert entry["lr"] == pytest.approx(train.learning_rate(entry["step"] - 1, 6, 2e-3, 1))
    assert any("val_loss" in entry for entry in entries)


def test_curves_are_drawn(whole, tmp_path):
    pytest.importorskip("matplotlib")
    out = whole.parent.parent
    for name, begins in (("a.png", b"\x89PNG"), ("b.SVG", b"<?xml"), ("c.pdf", b"%PDF")):
        done = run_script(train, "--plot", tmp_path / name, "--out", out)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert b"<!-- ir, held out -->" in (tmp_path / "b.SVG").read_bytes()
    assert_refused(run_script(train, "--plot", tmp_path / "a.xyz", "--out", out), "a.xyz", "png")
    assert_refused(run_script(train, "--plot", tmp_path / "a.png", "--out", tmp_path), "no log")
    folder = tmp_path / "tiny" / "dr"
    folder.mkdir(parents=True)
    for line in ("[1]", "{}", "x", '{"step": 1, "loss": "a"}'):
        (folder / "log.jsonl").write_text(line + "\n")
        done = run_script(train, "--plot", tmp_path / "a.png", "--out", tmp_path)
        assert_refused(done, "log.jsonl:1")


def test_settings_of_fit_are_enough(make_base):
    """fit needs no checkpoints: what the course and the bench call."""
    folder, _ = make_base()
    model = load_model(folder, dtype=torch.float32)
    parameters = lora.inject(model, ["q_proj"], {"ir": (2, 1.0)})
    lora.set_adapter(model, "ir")
    args = SimpleNamespace(lr=1e-2, weight_decay=0.0, warmup=0.0, beta2=0.9, clip=1.0,
                           max_tokens=100)
    examples = [([1, 2, 3, 4], [0, 1, 1, 1])] * 2
    assert train.fit(model, parameters, iter([examples] * 3), 3, args) > 0


# --------------------------------------------------------------------------------------------------
# What a strict reader broke


def test_every_flag_is_a_setting_or_is_known_to_change_nothing(monkeypatch):
    """A flag that is added to train.py stops a resumption that gives another value."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    args = train.arguments()
    args.base, args.dtype = args.model, "float32"
    compared = {key.lstrip("-").replace("-", "_")
                for key in settings.settings_of("ir", [toy(1, "train")], args)}
    free = {"base", "out", "preset", "checkpointing", "save_every", "resume", "plot"}
    assert set(vars(args)) - compared == free


@pytest.mark.parametrize("key, value", [("use_rslora", True), ("layers_to_transform", [0])])
def test_an_old_config_that_scales_otherwise_is_not_ours(whole, tmp_path, key, value):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=rf"{key}"):
        lora.read_adapter(tmp_path)


def test_a_log_that_vanishes_is_written_again(run, whole, stop_after, tmp_path):
    """Its lock would have gone with it."""
    folder = tmp_path / "tiny" / "ir"
    stop_after(3, (folder / "log.jsonl").unlink)
    assert run(tmp_path).returncode == 0
    assert_same(folder, whole)


def test_ctrl_c_while_the_adapter_is_saved_waits_for_it(run, whole, tmp_path, monkeypatch):
    """Between the two files of the adapter, say: both are whole, and the sentence says so."""
    plain = lora.save_adapter

    def save(*args):
        interrupt()
        plain(*args)

    monkeypatch.setattr(lora, "save_adapter", save)
    done = run(tmp_path)
    assert done.returncode == 130 and "is trained and saved" in done.stderr
    assert_same(tmp_path / "tiny" / "ir", whole)


def test_dropout_goes_on_after_a_measurement(make_base):
    folder, _ = make_base()
    model = load_model(folder, dtype=torch.float32)
    parameters = lora.inject(model, ["q_proj"], {"ir": (2, 1.0)}, 0.5)
    lora.set_adapter(model, "ir")
    args = SimpleNamespace(lr=1e-2, weight_decay=0.0, warmup=0.0, beta2=0.9, clip=1.0,
                           max_tokens=100)
    examples, modes = [([1, 2, 3, 4], [0, 1, 1, 1])] * 2, []

    def batches():
        while True:
            yield examples
            modes.append(model.training)

    train.fit(model, parameters, batches(), 3, args, held_out={1: examples, 2: examples})
    assert modes == [True, True]


def test_resume_that_finds_nothing_says_so(run, tmp_path):
    """Louder if there was something; and nobody else trains where a log is locked."""
    folder = tmp_path / "tiny" / "ir"
    done = run(tmp_path, "--resume", "--steps", 1)
    assert f"note       no checkpoint in {folder}; from the start" in done.stdout
    (folder / WEIGHTS).unlink()
    (folder / "checkpoint-step-0000001.safetensors").write_bytes(b"torn")
    with open_locked(folder / "log.jsonl"):
        assert_refused(run(tmp_path, "--steps", 1), f"{folder}/log.jsonl", "another process")
    done = run(tmp_path, "--resume", "--steps", 1)
    assert done.returncode == 0 and "a checkpoint is left aside" in done.stdout
    assert f"WARNING    no whole checkpoint in {folder}; from the start" in done.stdout


def test_a_disk_that_fills_up_under_a_training_is_named(run, stop_after, tmp_path):
    """Closing the log tries to write the rest once more: the sentence must outlive that."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    stop_after(2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1])))
    try:
        done = run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "log.jsonl cannot be written" in done.stderr and "ulimit -f" in done.stderr


def test_bounds_of_training_are_those_of_reading(tmp_path, monkeypatch):
    """Whatever alpha and rank train.py takes, the file that it writes is read: alpha is saved as
    (alpha / rank) rank, rounded twice."""
    def parse(flag, value):
        monkeypatch.setattr(sys, "argv", ["train.py", flag, value])
        return getattr(train.arguments(), flag[2:])
    for flag, value in (("--alpha", "9e-6"), ("--alpha", "1000001"), ("--rank", "10001")):
        with pytest.raises(SystemExit):
            parse(flag, value)
    for alpha in (parse("--alpha", "1e-5"), parse("--alpha", "1000000")):
        for rank in (1, 7, 2117, 4233, 8334, parse("--rank", "10000")):
            saved = alpha / rank * rank
            saved = round(saved) if math.isclose(saved, round(saved)) else saved
            check_adapter_config(tmp_path, dict(peft_type="LORA", r=rank, lora_alpha=saved))


def test_a_model_is_known_by_what_is_read_of_it(whole, tmp_path):
    """Not by a checkpoint, a link to nowhere, a folder or a pipe, which would wait for ever; shards
    have the names that their index gives."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    (folder / "x.safetensors").write_bytes(b"1")
    before = settings.digest_model(folder)
    os.mkfifo(folder / "pipe.json")
    (folder / "nowhere.json").symlink_to("gone")
    (folder / "generation_config.json").mkdir()
    (folder / "checkpoint-step-0000003.safetensors").write_bytes(b"3")
    assert settings.digest_model(folder) == before
    for name in ("config.json", WEIGHTS, "adapter_config.json", "x.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert settings.digest_model(folder) != before, name
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("line", ['{"step": 1, "loss": 1' + "0" * 400 + "}", "[" * 100_000],
                         ids=["beyond a float", "too deep"])
def test_a_log_with_strange_lines_gets_a_sentence(line, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "tiny" / "ir"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text(line + "\n")
    done = run_script(train, "--plot", tmp_path / "a.png", "--out", tmp_path)
    assert_refused(done, "log.jsonl:1: no step of a training")


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "x.png").mkdir()
    for name in (tmp_path / "x.png", "/proc/x.png"):
        done = run_script(train, "--plot", name, "--out", tmp_path)
        assert_refused(done, f"--plot {name} ")
        assert ".tmp" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_streams_that_are_closed_end_no_training(closed, rows_file, whole, tmp_path):
    """As daemons are started, `train.py >&-`: nothing of ours may get the number of a stream."""
    number = {"stdout": 1, "stderr": 2}[closed]
    words = [sys.executable, "train.py", *map(str, WORDS), "--data", rows_file, "--out", tmp_path]
    done = subprocess.run(words, cwd=ROOT, env=ENV, check=False, timeout=120,
                          preexec_fn=lambda: os.close(number))
    assert done.returncode == 0
    assert_same(tmp_path / "tiny" / "ir", whole)


@pytest.mark.slow
def test_a_stop_that_nobody_can_be_told_of_leaves_a_checkpoint(rows_file, tmp_path):
    """`train.py 2>&1 | head`, then SIGTERM."""
    words = [sys.executable, "train.py", *map(str, WORDS), "--steps", "400", "--data", rows_file,
             "--out", tmp_path]
    process = subprocess.Popen(words, cwd=ROOT, env=ENV, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    assert wait_for(process, "step 1/")
    process.stdout.close()
    time.sleep(0.5)
    process.terminate()
    assert process.wait(60) == 130
    assert checkpoints(tmp_path / "tiny" / "ir")

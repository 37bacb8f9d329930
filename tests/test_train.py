"""train.py: the loss and the loop against transformers, peft and torch, and the whole command on
the built-in base."""
import argparse
import hashlib
import json
import math
import random
import re
import sys

import pytest
import torch
from conftest import ROOT
from test_infer import assert_refused, run_alone, run_script

import data
import infer
import lora
import train
from model import load_model, read_safetensors
from support.tokenizer import Tokenizer
from tiny.world import toy


def examples_of(n, seed=0, vocab=97):
    """Random examples of very different lengths; some end where others have barely begun."""
    rng = random.Random(seed)
    lengths = [(rng.randrange(1, 30), rng.randrange(1, 20)) for _ in range(n)]
    return [([rng.randrange(vocab) for _ in range(a + b)], [0] * a + [1] * b) for a, b in lengths]


def settings(**changes):
    usual = dict(lr=1e-2, weight_decay=0.01, warmup=0.3, beta2=0.9, clip=0.5, max_tokens=100)
    return argparse.Namespace(**usual | changes)


def oracle_loss(hf, examples):
    """transformers' own loss, example by example: no padding, no batch."""
    total = 0
    for ids, mask in examples:
        labels = [i if m else -100 for i, m in zip(ids, mask, strict=True)]
        mean = hf(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total += mean * sum(mask[1:])
    return total


# --------------------------------------------------------------------------------------------------
# The loss


def test_loss_equals_transformers(make_base):
    folder, hf = make_base()
    examples = examples_of(9)
    ours = train.summed_loss(load_model(folder, dtype=torch.float32), examples)
    assert ours.item() == pytest.approx(oracle_loss(hf, examples).item(), rel=1e-6)


def test_held_out_loss_is_the_mean_per_supervised_token_without_dropout(make_base):
    """However many tokens a pass may have, and whatever mode the model was in."""
    folder, hf = make_base()
    model, examples = load_model(folder, dtype=torch.float32), examples_of(9)
    lora.inject(model, ["q_proj"], {"ir": (2, 1.0)}, dropout=0.9)
    lora.set_adapter(model, "ir")
    for _, layer in lora.lora_layers(model):
        layer.B.data.normal_()
    n_tokens = sum(sum(mask[1:]) for _, mask in examples)
    assert train.count_supervised(examples) == n_tokens
    with torch.no_grad():
        wanted = train.summed_loss(model.eval(), examples).item() / n_tokens
        assert wanted != pytest.approx(oracle_loss(hf, examples).item() / n_tokens, rel=1e-3)
        lora.set_adapter(model, None)
        bare = oracle_loss(hf, examples).item() / n_tokens
        assert train.val_loss(model.train(), examples, 100) == pytest.approx(bare, rel=1e-6)
    lora.set_adapter(model, "ir")
    for max_tokens in (1, 100, 10_000):
        found = train.val_loss(model.train(), examples, max_tokens)
        assert found == pytest.approx(wanted, rel=1e-6) and not model.training


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
def test_cross_entropy_equals_torch(dtype, tolerance):
    """Loss and gradient are those of torch in float64, over a vocabulary so large that the rows are
    taken a few at a time. The tolerance is relative, 2**-7 being two roundings to bfloat16; the
    absolute one, 1e-6, is what float32 keeps of p - 1 where p is nearly 1."""
    torch.manual_seed(0)
    logits, targets = 6 * torch.randn(100, 60_000), torch.randint(60_000, (100,))
    logits[:50].scatter_(1, targets[:50, None], 30.0)  # half of them learnt
    theirs, ours = logits.to(dtype).double().requires_grad_(), logits.to(dtype).requires_grad_()
    wanted = torch.nn.functional.cross_entropy(theirs, targets, reduction="sum")
    (wanted * 0.37).backward()
    given = ours * 1
    loss = train.CrossEntropy.apply(given, targets)
    # overwritten: the gradient takes no memory
    assert torch.allclose(0.37 * given.double(), theirs.grad, rtol=tolerance, atol=1e-6)
    (loss * 0.37).backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert torch.allclose(ours.grad.double(), theirs.grad, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
def test_gradient_does_not_depend_on_the_micro_batches(make_base, max_tokens):
    """Accumulated by token count: one example at a time gives what one big batch gives."""
    folder, _ = make_base()
    model = load_model(folder, dtype=torch.float32).requires_grad_(True)
    examples = examples_of(9)
    n_tokens = train.count_supervised(examples)
    (train.summed_loss(model, examples) / n_tokens).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    groups = data.micro_batches(examples, max_tokens)
    assert len(groups) == {1: 9, 10_000: 1}.get(max_tokens, len(groups))
    for group in groups:
        (train.summed_loss(model, group) / n_tokens).backward()
    for p, grad in zip(model.parameters(), whole, strict=True):
        assert torch.allclose(p.grad, grad, atol=1e-6, rtol=1e-4)


# --------------------------------------------------------------------------------------------------
# The step


def test_training_equals_peft(make_base, capsys):
    """Five steps of `fit` give the adapter that peft, torch's optimizer and scheduler and one
    unsplit batch a step give, weight for weight."""
    peft = pytest.importorskip("peft")
    folder, hf = make_base()
    torch.manual_seed(3)
    model, targets = load_model(folder, dtype=torch.float32), ["q_proj", "v_proj", "gate_proj"]
    parameters = lora.inject(model, targets, {"ir": (4, 6 / 4)})
    lora.set_adapter(model, "ir")
    theirs = peft.get_peft_model(hf, peft.LoraConfig(
        r=4, lora_alpha=6, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"))
    named = dict(theirs.named_modules())
    pairs = [(layer, named[f"base_model.model.{name}"]) for name, layer in lora.lora_layers(model)]
    for layer, other in pairs:
        other.lora_A.default.weight.data.copy_(layer.A.data)
    steps, batches = 5, [examples_of(8, seed) for seed in range(5)]
    args = settings()
    train.fit(model, parameters, iter(batches), steps, args)

    trained = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=args.lr, weight_decay=args.weight_decay, betas=(0.9, args.beta2))
    warmup = round(args.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (
        (t + 1) / warmup if t < warmup else
        (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2))
    losses = []
    for batch in batches:
        loss = oracle_loss(theirs, batch) / sum(sum(mask[1:]) for _, mask in batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, args.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(f"{loss.item():.4f}")
    for layer, other in pairs:
        assert layer.B.abs().max() > 1e-3
        # Adam makes much of a tiny gradient's rounding
        assert torch.allclose(layer.A, other.lora_A.default.weight, atol=1e-4)
        assert torch.allclose(layer.B, other.lora_B.default.weight, atol=1e-4)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("loss ")[1].split()[0] for line in printed] == losses
    assert printed[2].startswith("step 3/5 ")
    assert all(word in printed[2] for word in ("lr ", "tokens/s", "left"))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_equals_torch(decay):
    """Over twenty steps whose gradients differ by nineteen orders of magnitude, with decay and a
    falling learning rate; the first steps bit for bit."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(7, 5)), torch.nn.Parameter(torch.randn(3))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = train.AdamW(ours, 0.9, 0.95, decay)
    oracle = torch.optim.AdamW(theirs, betas=(0.9, 0.95), weight_decay=decay)
    start = [p.detach().clone() for p in ours]
    for step in range(20):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape) * 10.0 ** (step - 9)
            q.grad = p.grad.clone()
        oracle.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step(0.1 / (step + 1))
        oracle.step()
        for p, q in zip(ours, theirs, strict=True):
            assert p.grad is None and torch.allclose(p, q, rtol=1e-6, atol=1e-7)
            assert step > 5 or torch.equal(p, q)
    assert all((p - q).abs().min() > 1e-3 for p, q in zip(ours, start, strict=True))


def test_learning_rate():
    """Up in equal parts, then half a cosine whose middle is half the peak; the last step is still
    above zero."""
    rates = [train.learning_rate(step, 104, 8.0, 4) for step in range(104)]
    assert rates[:5] == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert rates[54] == pytest.approx(4.0) and 0 < rates[-1] < 0.01
    assert all(a >= b for a, b in zip(rates[3:], rates[4:], strict=False))


def test_every_example_once_per_pass():
    batches = train.shuffled(list(range(10)), 4, seed=1)
    drawn = [i for _ in range(5) for i in next(batches)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    first, other = (next(train.shuffled(list(range(10)), 4, seed)) for seed in (1, 2))
    assert first == drawn[:4] != other


def test_rephrasings_stay_on_one_side(tmp_path):
    """Rows that share an id, as the authors' rephrasings do, are all learnt from or all held
    out."""
    rows = [dict(id=i // 3, question=f"{i}?", rationale="r", answer="1") for i in range(120)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    learn, held = train.rows_of(argparse.Namespace(data=tmp_path / "rows.jsonl"))
    assert len(learn) + len(held) == 120 and len(held) == 6
    assert not {row["id"] for row in learn} & {row["id"] for row in held}


# --------------------------------------------------------------------------------------------------
# The command


def run(*words):
    return run_script(train, *words)


def losses_of(done):
    assert done.returncode == 0, done.stderr
    return list(map(float, re.findall(r"^step .*?loss ([\d.]+)", done.stdout, re.M)))


def fingerprint(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir()) if path.is_file() and path.name != "log.jsonl"}


def write_rows(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    """A few problems, of which few are held out."""
    return write_rows(toy(80, "train"), tmp_path_factory.mktemp("rows") / "rows.jsonl")


def test_a_role_learns_and_the_base_stays(rows_file, tmp_path):
    """Twelve steps: what it does is announced, the loss falls, the adapter is where it is said to
    be, the base's files are as before. The seed decides all, in this process and another."""
    before, folder = fingerprint(ROOT / "tiny"), tmp_path / "tiny" / "dr"
    words = ["--role", "dr", "--steps", 12, "--batch", 8, "--data", rows_file, "--out", tmp_path,
             "--dtype", "float32"]
    done = run_alone("train.py", *words)
    losses, announced = losses_of(done), "\n".join(done.stdout.splitlines()[:6])
    for part in ("tiny", "parameters, frozen", "float32 on cpu", "rank 16", "to learn from",
                 "tokens", "12 steps"):
        assert part in announced
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert f"saved in   {folder}/" in done.stdout and "held-out loss" in done.stdout
    assert fingerprint(ROOT / "tiny") == before
    again, threads = fingerprint(folder), torch.get_num_threads()
    torch.set_num_threads(1)
    assert losses_of(run(*words)) == losses
    torch.set_num_threads(threads)
    assert fingerprint(folder) == again


@pytest.mark.parametrize("batch, steps, more", [
    (7, 3, ()), *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        (1, 2, ()), (7, 3, ("--shard",)), (1, 2, ("--shard",))))])
def test_two_processes_train_the_model_that_one_trains(batch, steps, more, rows_file, tmp_path):
    """The same losses and the same adapter; seven examples a step cannot be shared out evenly, and
    of one, one process has nothing to do."""
    # with so few tokens a pass, seven examples are more passes for one process than for the other
    words = ["--role", "dr", "--data", rows_file, "--dtype", "float32", "--max-tokens", 250,
             "--steps", steps, "--batch", batch]
    one = run(*words, "--out", tmp_path / "one")
    two = run_alone("train.py", *words, *more, "--out", tmp_path / "two", processes=2)
    losses = losses_of(one), losses_of(two)
    assert len(losses[0]) == len(losses[1]) == steps  # told once, not twice
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    ours, theirs = (read_safetensors(tmp_path / out / "tiny" / "dr" / "adapter_model.safetensors")
                    for out in ("one", "two"))
    assert ours.keys() == theirs.keys()
    # Adam's first steps make much of a gradient that is nearly nothing: the whole, not each number
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-3 * ours[name].norm(), name


LEAVING = """
import atexit, os, sys
from support import cli, distributed

def main():
    distributed.init_distributed("cpu")
    atexit.register(os.abort)
    print("first", flush=False)
    sys.stderr.write("both ")
    return {status}

cli.run(main)
"""


@pytest.mark.parametrize("status", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_an_abort_at_the_end_does_not_fail_several_processes(status, tmp_path, monkeypatch):
    """torch's groups do, now and then: a thread of theirs may outlive the interpreter (seen after
    --shard, once in 60 runs of two processes). Here an exit handler aborts always."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING.replace("{status}", str(status)))
    done = run_alone(script, processes=2)
    assert done.stdout == "first\n" and done.stderr.count("both ") == 2
    assert done.returncode == (status is not None) and "SIGABRT" not in done.stderr
    assert ("exitcode  : 3" in done.stderr) == (status is not None), done.stderr


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_a_step_and_make_as_many_passes(world_size, monkeypatch):
    """Every example counts once, somewhere; --shard would wait for ever for a pass that one process
    makes and another does not."""
    monkeypatch.setattr(train, "get_world_size", lambda: world_size)
    for n in (1, 2, 7, 20):
        examples, shares = examples_of(n), []
        for rank in range(world_size):
            monkeypatch.setattr(train, "get_rank", lambda rank=rank: rank)
            shares.append(train.share(examples, 60))
        assert len(set(map(len, shares))) == 1
        passes = [each for share in shares for each in share]
        counted = [example for group, counts in passes if counts for example in group]
        assert sorted(counted) == sorted(examples) and {counts for _, counts in passes} <= {0, 1}
        # and as much to do, as far as they can be shared out
        sizes = [sum(len(group) for group, counts in share if counts) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("more", [(), ("--shard",), ("--preset", "paper")])
def test_pretraining_is_elsewhere(more, tmp_path):
    done = run("--role", "base", *more, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "python -m tiny.pretrain" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag, values, kind", [
    ("--dropout", "-0.5 1 1.5 nan", "a number at least 0 and below 1"),
    ("--beta2", "-0.5 1 1.5 nan", "a number at least 0 and below 1"),
    ("--alpha", "0 -1 1e-7", "a number at least 1e-05"), ("--clip", "0 nan", "a number above 0"),
    ("--epochs", "0 inf nan", "a number above 0"), ("--lr", "0 -1 nan", "a number above 0"),
    ("--warmup", "nan -1", "a number at least 0"),
    ("--weight-decay", "nan -1", "a number at least 0"),
    *((flag, "0 -1 1.5 few", "a whole number above 0") for flag in (
        "--rank", "--steps", "--batch", "--examples", "--max-tokens", "--budget"))])
def test_numbers_that_no_training_can_use(flag, values, kind, tmp_path):
    for value in values.split():
        done = run(flag, value, "--out", tmp_path / "out")
        said = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and not (tmp_path / "out").exists()
        assert said.startswith("train.py: error: argument ") and flag in said
        assert said.endswith(f": {value!r} is not {kind}")


def test_max_tokens_has_its_old_name_too(monkeypatch):
    def parsed(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        return train.arguments()
    assert parsed("--budget", "300") == parsed("--max-tokens", "300") != parsed()
    assert (parsed("--budget", "300").max_tokens, parsed().max_tokens) == (300, 2048)


def test_a_place_where_nothing_can_be_saved_is_found_before_the_training(rows_file, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--role", "ir", "--steps", 1, "--data", rows_file, "--out",
               tmp_path / "file" / "out")
    assert_refused(done, str(tmp_path / "file"))


def test_sharing_out_needs_somebody_to_share_with(tmp_path):
    done = run("--role", "ir", "--shard", "--out", tmp_path / "out")
    assert done.returncode == 2 and "torchrun" in done.stderr and not (tmp_path / "out").exists()


def test_an_adapter_trained_here_speaks_the_same_in_peft(rows_file, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    done = run("--role", "kg", "--steps", 3, "--batch", 4, "--data", rows_file, "--out", tmp_path,
               "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "tiny" / "kg"
    model = load_model(ROOT / "tiny", dtype=torch.float32)
    ids = torch.tensor([Tokenizer(ROOT / "tiny").encode(toy(1)[0]["question"])])
    with torch.no_grad():
        bare = model.logits(model(ids))
        lora.load_adapters(model, {"kg": folder})
        lora.set_adapter(model, "kg")
        ours = model.logits(model(ids))
        hf = transformers.AutoModelForCausalLM.from_pretrained(ROOT / "tiny", dtype=torch.float32)
        theirs = peft.PeftModel.from_pretrained(hf, folder)(ids).logits
    assert (ours - theirs).abs().max() <= 1e-4 < (ours - bare).abs().max()


@pytest.mark.parametrize("words, why", [
    (["--role", "ir", "--model", "nowhere"], "no config.json"),
    (["--role", "ir", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    (["--role", "ir", "--targets", "q_proj,x_proj"], "x_proj"),
    (["--role", "ir", "--device", "abacus"], "abacus"),
    # this one wants tokens that tiny has not
    (["--role", "ir", "--template", "qwen"], "<|im_start|>")])
def test_mistakes_get_a_sentence(words, why, rows_file, tmp_path):
    assert_refused(run("--data", rows_file, *words, "--out", tmp_path / "out"), why)
    assert not (tmp_path / "out").exists()


def test_a_sentence_is_one_line_and_exit_status_2(tmp_path):
    """The command itself, in a process of its own."""
    done = run_alone("train.py", "--data", "nowhere.jsonl", "--out", tmp_path / "out")
    assert_refused(done, "train.py: nowhere.jsonl is not a file.")


def test_the_paper_preset_sets_what_is_not_given_and_says_so(rows_file, tmp_path, monkeypatch):
    """The values of the authors' scripts, found again in what is trained and in the adapter's own
    config."""
    trained, plain = [], train.fit

    def fit(model, *rest, **named):
        trained.extend(layer for _, layer in lora.lora_layers(model))
        return plain(model, *rest, **named)
    monkeypatch.setattr(train, "fit", fit)
    done = run("--role", "ir", "--preset", "paper", "--steps", 1, "--rank", 8, "--batch", 2,
               "--data", rows_file, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "preset paper: rank 8, alpha 1024, targets q_proj,v_proj, dropout 0.1, epochs 5, batch 2, "
        "lr 5e-05, warmup 0.03, weight-decay 0.0, beta2 0.999, clip 1.0, dtype bfloat16\n")
    config = json.loads((tmp_path / "tiny" / "ir" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 1024, 0.1)
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert len(trained) == 2 * 6
    assert all((layer.dropout, layer.parts["ir"]) == (0.1, (slice(0, 8), 128)) for layer in trained)
    assert train.PAPER["rank"] == 512
    assert "learning rate 5e-05" in done.stdout and "bfloat16 on cpu" in done.stdout


def test_a_row_without_knowledge_is_refused_by_its_line(tmp_path):
    rows = [dict(question="1+1?", rationale="1+1=2", answer="2", knowledge=["Add."]),
            dict(question="1+2?", rationale="1+2=3", answer="3")]
    file = write_rows(rows, tmp_path / "rows.jsonl")
    assert_refused(run("--role", "kg", "--data", file, "--out", tmp_path / "out"), "rows.jsonl:2")


def test_all_roles_check_their_rows_before_the_first_trains(tmp_path):
    """ir could learn from rows without knowledge, but kg and dr could not: better to hear it now
    than minutes later."""
    rows = [dict(id=i, question=f"1+{i}?", rationale="r", answer="2") for i in range(30)]
    file = write_rows(rows, tmp_path / "rows.jsonl")
    done = run("--data", file, "--steps", 1, "--out", tmp_path / "out")
    assert_refused(done, "knowledge")
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_saves_nothing(rows_file, tmp_path):
    done = run("--role", "ir", "--steps", 30, "--batch", 4, "--data", rows_file, "--lr", 1e30,
               "--clip", 1e30, "--out", tmp_path / "out")
    assert done.returncode == 2 and "try a lower --lr" in done.stderr
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert done.stderr.count("\n") == 1 and left == ["log.jsonl"]  # which shows how it went


def test_one_problem_cannot_be_split(tmp_path):
    rows = [dict(question="1+1?", rationale="r", answer="2", knowledge=["k"])]
    file = write_rows(rows, tmp_path / "rows.jsonl")
    assert_refused(run("--data", file, "--out", tmp_path / "out"), "at least two problems")


# --------------------------------------------------------------------------------------------------
# A real model and real rows


@pytest.mark.slow
def test_a_real_model_learns_every_role_and_answers(smollm2, shared, tmp_path):
    """SmolLM2-135M on GSM8K rows with knowledge: each role's loss falls within 20 steps, then a
    vote on test questions runs through."""
    rows = shared / "data" / "gsm8k" / "train_knowledge.jsonl"
    for role in ("ir", "kg", "dr"):
        losses = losses_of(run("--role", role, "--model", smollm2, "--data", rows, "--lr", 1e-3,
                               "--steps", 20, "--batch", 4, "--out", tmp_path))
        assert len(losses) == 20 and sum(losses[-5:]) < 0.9 * sum(losses[:5]), losses
    folder = tmp_path / smollm2.resolve().name
    adapters = [word for role in ("ir", "kg", "dr") for word in (f"--{role}", folder / role)]
    done = run_script(infer, "--model", smollm2, "--data",
                      shared / "data" / "gsm8k" / "test.jsonl", "--limit", 4, "--rounds", 2,
                      "--max-new-tokens", 100, *adapters)
    assert done.returncode == 0, done.stderr
    assert "| LoRID |" in done.stdout and "questions 4" in done.stdout

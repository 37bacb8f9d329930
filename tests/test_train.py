"""train.py: the loss and the loop against transformers and peft, and the whole command on the built-in base."""
import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys

import pytest
import torch

import data
import lora
import train
from conftest import ROOT
from model import load_model, read_safetensors
from support.tokenizer import Tokenizer


def examples_of(n, seed=0, vocab=97):
    """Random examples of very different lengths; some end where others have barely begun."""
    rng = random.Random(seed)
    lengths = [(rng.randrange(1, 30), rng.randrange(1, 20)) for _ in range(n)]
    return [([rng.randrange(vocab) for _ in range(a + b)], [0] * a + [1] * b) for a, b in lengths]


def settings(**changes):
    return argparse.Namespace(**dict(lr=1e-2, weight_decay=0.01, warmup=0.3, beta2=0.9, clip=0.5, budget=100) | changes)


def oracle_loss(hf, examples):
    """transformers' own loss, example by example: no padding, no batch."""
    return sum(hf(input_ids=torch.tensor([ids]), labels=torch.tensor([[i if m else -100 for i, m in zip(ids, mask)]])).loss * sum(mask[1:]) for ids, mask in examples)


def test_loss_equals_transformers(make_base):
    folder, hf = make_base()
    examples = examples_of(9)
    mine = train.summed_loss(load_model(folder, dtype=torch.float32), examples)
    assert mine.item() == pytest.approx(oracle_loss(hf, examples).item(), rel=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
def test_cross_entropy_equals_torch(dtype, tolerance):
    """Loss and gradient are those of torch in float64, over a vocabulary so large that the rows are taken a few at a time. The tolerance
    is relative, 2**-7 being two roundings to bfloat16; the absolute one, 1e-6, is what float32 keeps of p - 1 where p is nearly 1."""
    torch.manual_seed(0)
    logits, targets = 6 * torch.randn(100, 60_000), torch.randint(60_000, (100,))
    logits[:50].scatter_(1, targets[:50, None], 30.0)  # half of them learnt
    theirs, mine = logits.to(dtype).double().requires_grad_(), logits.to(dtype).requires_grad_()
    wanted = torch.nn.functional.cross_entropy(theirs, targets, reduction="sum")
    (wanted * 0.37).backward()
    given = mine * 1
    loss = train.CrossEntropy.apply(given, targets)
    assert torch.allclose(0.37 * given.double(), theirs.grad, rtol=tolerance, atol=1e-6)  # overwritten: the gradient takes no memory
    (loss * 0.37).backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert torch.allclose(mine.grad.double(), theirs.grad, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_gradient_does_not_depend_on_the_micro_batches(make_base, budget):
    """Accumulated by token count: one example at a time gives what one big batch gives."""
    folder, _ = make_base()
    model = load_model(folder, dtype=torch.float32).requires_grad_(True)
    examples = examples_of(9)
    (train.summed_loss(model, examples) / train.count_supervised(examples)).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    groups = data.micro_batches(examples, budget)
    assert len(groups) == {1: 9, 10_000: 1}.get(budget, len(groups))
    for group in groups:
        (train.summed_loss(model, group) / train.count_supervised(examples)).backward()
    for p, grad in zip(model.parameters(), whole):
        assert torch.allclose(p.grad, grad, atol=1e-6, rtol=1e-4)


def test_training_equals_peft(make_base, capsys):
    """Five steps of `fit` give the adapter that peft, torch's scheduler and one unsplit batch a step give, weight for weight."""
    peft = pytest.importorskip("peft")
    folder, hf = make_base()
    torch.manual_seed(3)
    model = load_model(folder, dtype=torch.float32)
    parameters = lora.inject(model, ["q_proj", "v_proj", "gate_proj"], {"ir": (4, 6 / 4)})
    lora.switch(model, "ir")
    theirs = peft.get_peft_model(hf, peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "gate_proj"], task_type="CAUSAL_LM"))
    named = dict(theirs.named_modules())
    pairs = [(layer, named[f"base_model.model.{name}"]) for name, layer in lora.layers(model)]
    for layer, other in pairs:
        other.lora_A.default.weight.data.copy_(layer.A.data)
    steps, batches = 5, [examples_of(8, seed) for seed in range(5)]
    args = settings()
    train.fit(model, parameters, iter(batches), steps, args)

    trained = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=args.weight_decay, betas=(0.9, args.beta2))
    warmup = round(args.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) / warmup if t < warmup else (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2)
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
        assert torch.allclose(layer.A, other.lora_A.default.weight, atol=1e-4)  # Adam makes much of a tiny gradient's rounding
        assert torch.allclose(layer.B, other.lora_B.default.weight, atol=1e-4)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("loss ")[1].split()[0] for line in printed] == losses
    assert printed[2].startswith("step 3/5 ") and all(word in printed[2] for word in ("lr ", "tokens/s", "left"))


def test_adamw_equals_torch():
    """Bit for bit, over steps whose gradients differ by ten orders of magnitude, with decay and a falling learning rate."""
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(7, 5)), torch.nn.Parameter(torch.randn(3))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    optimizer, oracle = train.AdamW(mine, 0.9, 0.95, 0.1), torch.optim.AdamW(theirs, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(6):
        for p, q in zip(mine, theirs):
            p.grad = torch.randn(p.shape) * 10.0 ** (2 * step - 8)
            q.grad = p.grad.clone()
        oracle.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step(0.1 / (step + 1))
        oracle.step()
        assert all(torch.equal(p, q) and p.grad is None for p, q in zip(mine, theirs))


def test_learning_rate():
    """Up in equal parts, then half a cosine whose middle is half the peak; the last step is still above zero."""
    rates = [train.learning_rate(step, 104, 8.0, 4) for step in range(104)]
    assert rates[:5] == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert rates[54] == pytest.approx(4.0) and 0 < rates[-1] < 0.01
    assert all(a >= b for a, b in zip(rates[3:], rates[4:]))


def test_every_example_once_per_pass():
    batches = train.shuffled(list(range(10)), 4, seed=1)
    drawn = [i for _ in range(5) for i in next(batches)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10] != drawn[10:]
    assert next(train.shuffled(list(range(10)), 4, seed=1)) == drawn[:4] != next(train.shuffled(list(range(10)), 4, seed=2))


def test_rephrasings_stay_on_one_side(tmp_path):
    """Rows that share an id, as the authors' rephrasings do, are all learnt from or all held out."""
    rows = [dict(id=i // 3, question=f"{i}?", rationale="r", answer="1") for i in range(120)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    learn, held = train.rows_of(argparse.Namespace(data=tmp_path / "rows.jsonl"))
    assert len(learn) + len(held) == 120 and len(held) == 6
    assert not {r["id"] for r in learn} & {r["id"] for r in held}


# ---------------------------------------------------------------------------------------------------------------------
# The command


def run(*words, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "train.py"), *words], capture_output=True, text=True, cwd=cwd)


def crew(*words):
    """The same with two processes."""
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "train.py"), *words],
                          capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})


def fingerprint(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_a_role_learns_and_the_base_stays(tmp_path):
    """Ten steps: what it does is announced, the loss falls, the adapter is where it is said to be, the base's files are as before."""
    before = fingerprint(ROOT / "tiny")
    words = ["--role", "dr", "--steps", "12", "--batch", "8", "--examples", "200", "--out", str(tmp_path), "--dtype", "float32"]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    announced = "\n".join(lines[:6])
    for part in ("tiny", "parameters, frozen", "float32 on cpu", "rank 16", "to learn from", "tokens", "12 steps"):
        assert part in announced
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("step ")]
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert f"saved in   {tmp_path}/tiny/dr/" in done.stdout and "held-out loss" in done.stdout
    assert fingerprint(ROOT / "tiny") == before
    again = fingerprint(tmp_path / "tiny" / "dr")
    assert run(*words).returncode == 0
    assert fingerprint(tmp_path / "tiny" / "dr") == again  # the seed decides all


@pytest.mark.parametrize("more", [(), pytest.param(("--shard",), marks=pytest.mark.slow)])
def test_two_processes_train_the_model_that_one_trains(more, tmp_path):
    """The same losses and the same adapter; seven examples a step cannot be shared out evenly, and in one step one process has nothing to do."""
    for batch, steps in ((7, 3), (1, 2)):  # under so small a budget, seven examples are more passes for one process than for the other
        words = ["--role", "dr", "--steps", str(steps), "--batch", str(batch), "--examples", "60", "--dtype", "float32", "--budget", "250"]
        one, two = run(*words, "--out", str(tmp_path / "one")), crew(*words, *more, "--out", str(tmp_path / "two"))
        assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
        losses = [[float(line.split("loss ")[1].split()[0]) for line in done.stdout.splitlines() if line.startswith("step ")] for done in (one, two)]
        assert len(losses[0]) == len(losses[1]) == steps  # told once, not twice
        assert max(abs(a - b) for a, b in zip(*losses)) <= 1e-4, losses
        mine, theirs = (read_safetensors(tmp_path / out / "tiny" / "dr" / "adapter_model.safetensors") for out in ("one", "two"))
        assert mine.keys() == theirs.keys()
        for name in mine:  # Adam's first steps make much of a gradient that is nearly nothing: the whole, not each number
            assert (mine[name] - theirs[name]).norm() <= 1e-3 * mine[name].norm(), name


@pytest.mark.parametrize("more", [("--shard",), ("--preset", "paper")])
def test_pretraining_refuses_what_is_for_adapters(more, tmp_path):
    done = run("--role", "base", *more, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "--role base" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--dropout", "--beta2"])
@pytest.mark.parametrize("value", ["-0.5", "1", "1.5", "nan"])
def test_shares_are_at_least_0_and_below_1(flag, value, tmp_path):
    done = run("--role", "ir", flag, value, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "--dropout and --beta2 must be at least 0 and below 1" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag, value", [("--alpha", "0"), ("--alpha", "-1"), ("--epochs", "inf"), ("--epochs", "nan"), ("--clip", "0"), ("--lr", "-1"), ("--lr", "nan"),
                                         ("--warmup", "nan"), ("--weight-decay", "nan")])
def test_numbers_that_no_training_can_use(flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", flag, value, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2 and f"{flag}" in capsys.readouterr().err.splitlines()[-1]


def test_a_place_where_nothing_can_be_saved_is_found_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--role", "ir", "--steps", "1", "--examples", "40", "--out", str(tmp_path / "file" / "out"))
    assert done.returncode == 2 and str(tmp_path / "file") in done.stderr and "step" not in done.stdout.split("plan")[1].split("\n", 1)[1]


def test_sharing_out_needs_somebody_to_share_with(tmp_path):
    done = run("--role", "ir", "--shard", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "torchrun" in done.stderr and not (tmp_path / "out").exists()


def test_an_adapter_trained_here_speaks_the_same_in_peft(tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    assert run("--role", "kg", "--steps", "3", "--batch", "4", "--examples", "50", "--out", str(tmp_path), "--dtype", "float32").returncode == 0
    folder = tmp_path / "tiny" / "kg"
    model = load_model(ROOT / "tiny", dtype=torch.float32)
    ids = torch.tensor([Tokenizer(ROOT / "tiny").encode(data.toy(1)[0]["question"])])
    with torch.no_grad():
        bare = model.logits(model(ids))
        lora.stack(model, {"kg": folder})
        lora.switch(model, "kg")
        mine = model.logits(model(ids))
        theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(ROOT / "tiny", dtype=torch.float32), folder)(ids).logits
    assert (mine - theirs).abs().max() <= 1e-4 < (mine - bare).abs().max()


@pytest.mark.parametrize("words,why", [
    (["--role", "ir", "--model", "nowhere"], "no config.json"),
    (["--role", "ir", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    (["--role", "ir", "--targets", "q_proj,x_proj"], "x_proj"),
    (["--role", "ir", "--device", "abacus"], "abacus"),
])
def test_mistakes_get_a_sentence(words, why, tmp_path):
    done = run(*words, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and why in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_paper_preset_sets_what_is_not_given_and_says_so(tmp_path):
    """The values of the authors' scripts, found again in the adapter's own config."""
    done = run("--role", "ir", "--preset", "paper", "--steps", "1", "--rank", "8", "--batch", "2", "--examples", "40", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("preset paper: rank 8, alpha 1024, targets q_proj,v_proj, dropout 0.1, epochs 5, batch 2, lr 5e-05, warmup 0.03, "
                                  "weight-decay 0.0, beta2 0.999, clip 1.0, dtype bfloat16\n")
    config = json.loads((tmp_path / "tiny" / "ir" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], sorted(config["target_modules"])) == (8, 1024, 0.1, ["q_proj", "v_proj"])
    assert train.PAPER["rank"] == 512 and "learning rate 5e-05" in done.stdout and "bfloat16 on cpu" in done.stdout


def test_a_template_can_be_chosen(tmp_path):
    """The Qwen template wants tokens that tiny has not."""
    done = run("--role", "ir", "--template", "qwen", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "<|im_start|>" in done.stderr and not (tmp_path / "out").exists()


def test_a_row_without_knowledge_is_refused_by_its_line(tmp_path):
    rows = [dict(question="1+1?", rationale="1+1=2", answer="2", knowledge=["Add."]), dict(question="1+2?", rationale="1+2=3", answer="3")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("--role", "kg", "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "rows.jsonl:2" in done.stderr


def test_all_roles_check_their_rows_before_the_first_trains(tmp_path):
    """ir could learn from rows without knowledge, but kg and dr could not: better to hear it now than minutes later."""
    rows = [dict(id=i, question=f"1+{i}?", rationale="r", answer="2") for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("--data", str(tmp_path / "rows.jsonl"), "--steps", "1", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "knowledge" in done.stderr and "step" not in done.stdout and not (tmp_path / "out").exists()


def test_a_run_that_diverges_saves_nothing(tmp_path):
    done = run("--role", "ir", "--steps", "30", "--batch", "4", "--examples", "50", "--lr", "1e30", "--clip", "1e30", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "try a lower --lr" in done.stderr and not (tmp_path / "out").exists()


def test_one_problem_cannot_be_split(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(dict(question="1+1?", rationale="r", answer="2", knowledge=["k"])))
    done = run("--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "at least two problems" in done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# A real model and real rows


@pytest.mark.slow
def test_a_real_model_learns_every_role_and_answers(smollm2, shared, tmp_path):
    """SmolLM2-135M on GSM8K rows with knowledge: each role's loss falls within 20 steps, then a vote on test questions runs through."""
    rows = shared / "data" / "gsm8k" / "train_knowledge.jsonl"
    for role in ("ir", "kg", "dr"):
        done = run("--role", role, "--model", str(smollm2), "--data", str(rows), "--lr", "1e-3", "--steps", "20", "--batch", "4", "--out", str(tmp_path))
        assert done.returncode == 0, done.stderr
        losses = [float(line.split("loss ")[1].split()[0]) for line in done.stdout.splitlines() if line.startswith("step ")]
        assert len(losses) == 20 and sum(losses[-5:]) < 0.9 * sum(losses[:5]), losses
    folder = tmp_path / smollm2.resolve().name
    done = subprocess.run([sys.executable, "infer.py", "--model", str(smollm2), "--data", str(shared / "data" / "gsm8k" / "test.jsonl"), "--limit", "4",
                           "--rounds", "2", "--max-new", "100", *(w for r in ("ir", "kg", "dr") for w in (f"--{r}", str(folder / r)))],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "| LoRID |" in done.stdout and "questions 4" in done.stdout

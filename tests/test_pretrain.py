"""tiny/pretrain.py: its byte-pair encoding against the tokenizers library, and the built-in base
against what the code makes and against transformers."""
import json
import random
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import train
from model import load_model, read_safetensors, write_safetensors
from support import cli
from support.tokenizer import Tokenizer
from tiny import pretrain
from tiny.world import document, toy
from train import val_loss


def test_byte_pair_encoding_equals_the_tokenizers_library(tmp_path):
    """Our trainer's merges, run by the library, split every text as our own tokenizer does."""
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(0)
    texts = [document(rng) for _ in range(300)]
    tokens, merges = pretrain.train_bpe(texts, 600)
    assert len(tokens) == len(set(tokens)) == 600 and len(merges) == 600 - 256
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(pretrain.tokenizer_json(tokens, merges)))
    (tmp_path / "config.json").write_bytes((ROOT / "tiny" / "config.json").read_bytes())
    ours, theirs = Tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(path))
    for text in texts + ["", "  12 + 3\n\n é 漢字 🙂 don't", "<|endoftex"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == text


def test_bpe_merges_the_most_frequent_pair_first():
    """The textbook case: in "aab aab ab" the pair (a, b) occurs three times, (a, ab) then twice."""
    tokens, merges = pretrain.train_bpe(["aab"] * 2 + ["ab"], 258)
    assert merges == [(b"a", b"b"), (b"a", b"ab")] and tokens[256:] == [b"ab", b"aab"]


def test_tiny_is_what_this_code_makes(tmp_path):
    """`python -m tiny.pretrain` makes tiny/'s tokenizer and config to the byte, and a folder of the
    same tensors that transformers reads; tiny/ stays small."""
    transformers = pytest.importorskip("transformers")
    base, tiny = tmp_path / "base", ROOT / "tiny"
    words = ["-m", "tiny.pretrain", "--steps", "2", "--batch", "4", "--out", str(base)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name in ("tokenizer.json", "config.json"):
        assert (base / name).read_bytes() == (tiny / name).read_bytes()
    made, kept = ({name: (t.shape, t.dtype) for name, t in tensors.items()} for tensors in
                  (read_safetensors(folder / "model.safetensors") for folder in (base, tiny)))
    assert made == kept
    assert sum(p.stat().st_size for p in tiny.iterdir() if p.is_file()) <= 8_000_000
    ids = torch.tensor([[5, 6, 7, 300, 301]])
    with torch.no_grad():
        hf = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        model = load_model(tiny, dtype=torch.float32)
        assert (model.logits(model(ids)) - hf(ids).logits).abs().max() <= 1e-4


def test_tiny_knows_its_world():
    """tiny/ is really pretrained: it continues held-out problems in a layout of its own reading far
    better than chance (ln 1024 = 6.9)."""
    tokenizer = Tokenizer(ROOT / "tiny")
    model = load_model(ROOT / "tiny", dtype=torch.float32)
    examples = []
    for row in toy(50, "test"):
        prompt = tokenizer.encode(f"Problem: {row['question']}\nSolution:\n")
        answer = tokenizer.encode(row["rationale"])
        examples.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
    assert val_loss(model, examples, 4096) < 0.5


def test_what_is_added_to_the_residual_stream_starts_smaller(tmp_path):
    """GPT-2's rule: 0.02, but 0.02 / sqrt(12) for the two matrices of each of the six layers that
    add to the stream. Norms start from 1."""
    model = load_model(ROOT / "tiny", dtype=torch.float32)
    for p in model.parameters():
        torch.nn.init.ones_(p)
    torch.manual_seed(0)
    pretrain.init_weights(model)
    for name, p in model.named_parameters():
        adds = "o_proj" in name or "down_proj" in name
        expected = 0 if "norm" in name else 0.02 / 12 ** 0.5 if adds else 0.02
        assert p.std().item() == pytest.approx(expected, rel=0.02), name


def test_documents_end_and_are_learnt_whole():
    """The order of random calls, which fixes tiny/: one document after another; empty ones are
    left out."""
    tokenizer, rng = Tokenizer(ROOT / "tiny"), random.Random(7)
    steps = list(pretrain.batches(lambda step: f"{rng.random()} {step}", tokenizer, 5, 2))
    rng, texts = random.Random(7), []
    for examples in steps:
        for ids, mask in examples:
            assert ids[-1] == 0 and mask == [1] * len(ids)
            texts.append(tokenizer.decode(ids[:-1]))
    assert texts == [f"{rng.random()} {i // 2}" for i in range(10)]
    assert list(pretrain.batches(lambda step: "", tokenizer, 5, 2)) == [[]] * 5


def test_the_base_reads_then_practises_from_what_was_saved(monkeypatch, tmp_path):
    """Three fifths of the steps wide; then, at a third of the rate and with generators of its own,
    a twentieth as many of practice."""
    read, rates, begun = [], [], []

    def written(rng, wide=False, practice=False):
        read.append((wide, practice))
        return f"{rng.random()}"

    def step(self, lr, plain=train.AdamW.step):
        if not begun or lr > 2 * rates[-1]:
            begun.append([p.clone() for p, _, _ in self.state])
        rates.append(lr)
        plain(self, lr)

    kept = []
    monkeypatch.setattr(pretrain, "document", written)
    monkeypatch.setattr(pretrain, "train_bpe", lambda texts, size: (len(list(texts)), []))
    monkeypatch.setattr(pretrain, "tokenizer_json", lambda *_: json.loads(
        (ROOT / "tiny" / "tokenizer.json").read_text()))
    monkeypatch.setattr(train.AdamW, "step", step)
    monkeypatch.setattr(pretrain, "write_safetensors", lambda path, tensors: (
        kept.append(tensors), write_safetensors(path, tensors)))
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--out", str(tmp_path), "--steps", "60",
                                      "--batch", "1", "--lr", "0.003"])
    pretrain.main()
    assert read == ([(True, False)] * 4036 + [(False, False)] * 24 + [(False, True)] * 3)
    assert rates[60:] == [train.learning_rate(k, 3, 0.001, 1) for k in range(3)]
    first, last = kept
    model = load_model(ROOT / "tiny", dtype=torch.float32)
    names = [name for name, _ in model.named_parameters()]
    assert len(begun) == 2 and len(names) == len(begun[1])
    for name, p in zip(names, begun[1], strict=True):
        assert torch.equal(p, first[name].float())
    saved = read_safetensors(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], last[name]) for name in names)
    assert not all(torch.equal(saved[name], first[name]) for name in names)


def test_the_log_is_of_the_run_that_the_code_makes():
    """Its rates are those of the schedules, for 3,000 steps and 150."""
    log = [json.loads(line) for line in (ROOT / "tiny" / "pretrain.jsonl").read_text().splitlines()]
    for key, steps, peak, warmup in (("step", 3000, 3e-3, 90), ("practice", 150, 1e-3, 15)):
        part = [line for line in log if key in line]
        assert part[0][key] == 1 and part[-1][key] == steps
        for line in part:
            lr = train.learning_rate(line[key] - 1, steps, peak, warmup)
            assert line["lr"] == pytest.approx(lr, rel=0.01)
    assert part[-1]["loss"] < 0.6


@pytest.mark.parametrize("flag, value, says", [
    ("--batch", "0", "above 0"), ("--lr", "nan", "at least 0"), ("--max-tokens", "0", "above 0"),
    ("--steps", "0", "above 0"), ("--device", "abacus", "abacus")])
def test_flags_that_no_training_can_use(flag, value, says, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "base"
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--out", str(folder), flag, value])
    with pytest.raises(SystemExit) as stop:
        cli.run(pretrain.main)
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and flag in said and says in said and not folder.exists()

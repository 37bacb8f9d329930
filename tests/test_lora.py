"""The laws of LoRA, against dense algebra done here and against peft."""
import json
import math
import os
import sys
import warnings
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from conftest import edit_json

import lora
from model import load_model, read_safetensors, write_safetensors

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def base(make_base):
    """The folder of a tiny Qwen2: grouped heads, biases."""
    return make_base("qwen2")[0]


def load(folder, dtype=torch.float32):
    return load_model(folder, dtype=dtype)


def some_ids(B=2, T=17, seed=0):
    return torch.randint(3, 97, (B, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids):
    return model.logits(model(ids))


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape and (ours - theirs).abs().max().item() <= tolerance
    return True


def far(a, b):
    return (a - b).abs().max().item() > 0.05


def injected(folder, targets=("q_proj", "v_proj"), rank=4, alpha=20.0, dropout=0.0,
             dtype=torch.float32, name="ir", train_b=True):
    """A model with one adapter, switched on; B random rather than zero, as if trained."""
    model = load(folder, dtype).requires_grad_(True)  # inject must freeze it
    torch.manual_seed(1)
    parameters = lora.inject(model, targets, {name: (rank, alpha / rank)}, dropout)
    if train_b:
        for p in parameters[1::2]:
            torch.nn.init.normal_(p, std=0.1)
    lora.set_adapter(model, name)
    return model, parameters


def pairs_of(model):
    return {name: (layer.A.detach(), layer.B.detach()) for name, layer in lora.lora_layers(model)}


def adapter(folder, base, targets, rank, alpha, seed, layers=None, **config):
    """A random PEFT folder written without lora.py, for those of the targets that the base's file
    holds (a tied head is not among them). Returns {layer: (A, B)}."""
    st = pytest.importorskip("safetensors.torch")
    torch.manual_seed(seed)
    pairs, tensors = {}, {}
    for name, weight in read_safetensors(base / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if layer.split(".")[-1] in targets and (layers is None or layer.split(".")[2] in layers):
            out, into = weight.shape
            pairs[layer] = (torch.randn(rank, into) / into**0.5, 0.2 * torch.randn(out, rank))
    for layer, (A, B) in pairs.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = A
        tensors[f"base_model.model.{layer}.lora_B.weight"] = B
    folder.mkdir()
    st.save_file(tensors, folder / "adapter_model.safetensors")
    names = list(dict.fromkeys(layer.split(".")[-1] for layer in pairs))
    settings = dict(peft_type="LORA", task_type="CAUSAL_LM", r=rank, lora_alpha=alpha,
                    target_modules=names, bias="none", **config)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return pairs


def dense(base, pairs, scale):
    """The oracle: a plain model whose weights are W + scale B A, multiplied out in float64."""
    model = load(base)
    for layer, (A, B) in pairs.items():
        weight = model.get_parameter(f"{layer}.weight")
        weight.copy_((weight.double() + scale * (B.double() @ A.double())).float())
    return model


def three_adapters(base, folder):
    """Three adapters that differ in rank, alpha and targets: ({role: folder}, {role: the dense
    oracle, None: the base})."""
    wanted = {"ir": (["q_proj", "v_proj"], 3, 8.0),
              "kg": (["v_proj", "o_proj", "down_proj", "lm_head"], 5, 2.0),
              "dr": (["k_proj", "v_proj", "gate_proj", "up_proj"], 2, 7.0)}
    folders, oracles = {}, {None: load(base)}
    for seed, (role, (targets, rank, alpha)) in enumerate(wanted.items()):
        folders[role] = folder / role
        pairs = adapter(folders[role], base, targets, rank, alpha, seed)
        oracles[role] = dense(base, pairs, alpha / rank)
    return folders, oracles


@pytest.fixture
def three(base, tmp_path):
    return three_adapters(base, tmp_path)


# --------------------------------------------------------------------------------------------------
# The layer


def test_nothing_changes_at_initialisation(base):
    ids = some_ids()
    model, _ = injected(base, PROJECTIONS, train_b=False)
    assert torch.equal(logits(model, ids), logits(load(base), ids))


def test_off_is_the_base_and_on_is_not(base):
    ids, plain = some_ids(), logits(load(base), some_ids())
    model, _ = injected(base)
    assert far(logits(model, ids), plain)
    lora.set_adapter(model, None)
    assert torch.equal(logits(model, ids), plain)
    for _, layer in lora.lora_layers(model):
        layer.A.data.fill_(math.nan)  # what is off is not even computed
    assert torch.equal(logits(model, ids), plain)


def test_an_adapter_is_the_dense_weight_plus_alpha_over_r_times_b_a(base):
    ids = some_ids()
    model, _ = injected(base, PROJECTIONS, rank=4, alpha=3.0)
    pairs = pairs_of(model)
    assert len(pairs) == 3 * 7
    oracle = dense(base, pairs, 3.0 / 4)
    assert close(logits(model, ids), logits(oracle, ids))
    assert far(logits(oracle, ids), logits(load(base), ids))


def test_adapters_are_float32_on_any_base_and_start_as_in_the_paper(base):
    model, parameters = injected(base, PROJECTIONS, rank=16, dtype=torch.bfloat16, train_b=False)
    assert {p.dtype for p in parameters} == {torch.float32}
    assert model(some_ids()).dtype == torch.bfloat16  # what flows keeps the base's dtype
    for _, layer in lora.lora_layers(model):
        bound = 1 / math.sqrt(layer.A.shape[1])  # kaiming_uniform with a = sqrt(5)
        assert not layer.B.any() and 0.95 * bound < layer.A.abs().max() <= bound


def loss_of(model, ids):
    hidden = model(ids[:, :-1])
    return F.cross_entropy(model.logits(hidden).flatten(0, 1), ids[:, 1:].flatten())


def test_gradients_reach_a_and_b_and_nothing_else_and_the_base_keeps_its_bits(base):
    model, parameters = injected(base, PROJECTIONS, train_b=False)
    before = {name: t.clone() for name, t in load(base).state_dict().items()}
    start = [p.detach().clone() for p in parameters]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in parameters}
    assert len(parameters) == 2 * 3 * 7
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.train()
    for step in range(3):
        loss_of(model, some_ids(seed=step)).backward()
        assert all(p.grad is not None for p in parameters)
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(p, was) for p, was in zip(parameters, start, strict=True))
    after = {name.replace(".base.", "."): t for name, t in model.state_dict().items()
             if not name.endswith((".A", ".B"))}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_gradients_are_those_of_the_dense_weight(base):
    """dL/dA = scale B^T dL/dW and dL/dB = scale dL/dW A^T, with dL/dW taken from a plain model."""
    model, _ = injected(base, PROJECTIONS, rank=4, alpha=3.0)
    loss_of(model, some_ids()).backward()
    oracle = dense(base, pairs_of(model), 0.75).requires_grad_(True)
    loss_of(oracle, some_ids()).backward()
    for name, layer in lora.lora_layers(model):
        W = oracle.get_parameter(f"{name}.weight").grad
        A, B = layer.A.detach(), layer.B.detach()
        torch.testing.assert_close(layer.A.grad, 0.75 * B.T @ W, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(layer.B.grad, 0.75 * W @ A.T, atol=1e-5, rtol=1e-3)


def test_dropout_acts_in_training_only_and_on_the_adapter_only(base):
    ids, plain = some_ids(), logits(injected(base)[0], some_ids())
    model, _ = injected(base, dropout=0.5)
    # a loaded model is in evaluation mode, and injecting leaves it there
    assert torch.equal(logits(model, ids), plain)
    model.train()
    assert far(logits(model, ids), logits(model, ids))
    lora.set_adapter(model, None)
    assert torch.equal(logits(model, ids), logits(load(base), ids))

    _, layer = lora.lora_layers(model)[0]
    layer.adapter_scale = layer.scale_of("ir")
    x = torch.randn(4, 9, layer.A.shape[1])
    torch.manual_seed(7)
    y = layer(x)
    torch.manual_seed(7)
    kept = lora.dropout(x, 0.5)
    assert close(y, layer.base(x) + 5.0 * (kept @ layer.A.T @ layer.B.T))  # alpha / r = 20 / 4


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_each_element_on_its_own_with_probability_p(p):
    torch.manual_seed(0)
    x = torch.randn(3, 701, 500, requires_grad=True)
    y = lora.dropout(x, p)
    dropped, n = y == 0, x.numel()
    assert torch.equal(y[~dropped], (x / (1 - p))[~dropped])
    # neighbours share one random number of 64 bits, and know nothing of each other
    for lag in (1, 2, 3, 4, 500):
        both = (dropped.flatten()[lag:] & dropped.flatten()[:-lag]).float().mean()
        assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / n) ** 0.5 + 1e-9
    assert abs(dropped.float().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2 ** -16
    assert not torch.equal(lora.dropout(x, 0.5) == 0, lora.dropout(x, 0.5) == 0)
    y.sum().backward()
    assert torch.equal(x.grad, (~dropped).float() / (1 - p))


def test_an_adapter_may_sit_on_the_head_and_leaves_a_tied_embedding_alone(make_base):
    base, _ = make_base(tie_word_embeddings=True)
    model, _ = injected(base, ["lm_head"], rank=4, alpha=3.0)
    (name, layer), = lora.lora_layers(model)
    hidden = load(base)(some_ids()).detach()
    embedding = load(base).model.embed_tokens.weight
    expected = hidden @ (embedding + 0.75 * layer.B @ layer.A).T.detach()
    assert name == "lm_head" and close(logits(model, some_ids()), expected, 1e-4)
    # per sequence, and only the last position of each, as in decoding
    lora.set_adapter(model, ["ir", None])
    last = model.logits(hidden[:, -1:])[:, 0].detach()
    assert close(last[0], expected[0, -1], 1e-4)
    assert close(last[1], (hidden @ embedding.T)[1, -1], 1e-4)
    lora.merge(model, "ir")
    assert close(logits(model, some_ids()), expected, 1e-4)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert model.dtype == torch.float32 and model.device.type == "cpu"


# --------------------------------------------------------------------------------------------------
# Three adapters, one batch


def test_each_sequence_of_a_mixed_batch_is_that_role_alone(base, three):
    """All that set_adapter takes but names per token: None, a name, a name (or None) for each."""
    folders, oracles = three
    model, ids = load(base), some_ids(7)
    lora.load_adapters(model, folders)
    assert torch.equal(logits(model, ids), logits(oracles[None], ids))  # all off at first
    roles = ["kg", "ir", None, "dr", "ir", "kg", "dr"]
    lora.set_adapter(model, roles)
    together = logits(model, ids)
    alone = {role: logits(oracle, ids) for role, oracle in oracles.items()}
    for i, role in enumerate(roles):
        assert close(together[i], alone[role][i])
        assert all(far(alone[other][i], alone[role][i]) for other in alone if other != role)
    for role in ("ir", "kg", "dr", None):
        lora.set_adapter(model, role)
        assert close(logits(model, ids), alone[role])
    lora.set_adapter(model, [[role] * 17 for role in roles])
    assert torch.equal(logits(model, ids), together)


@torch.no_grad()
def test_each_token_of_a_mixed_sequence_passes_a_layer_with_its_adapter(base, three):
    """Names per token: each layer against the dense one of each token's role."""
    folders, oracles = three
    model = load(base)
    lora.load_adapters(model, folders)
    names = [["ir", None, "kg", "dr", "dr"], ["dr", "kg", "ir", "ir", None]]
    lora.set_adapter(model, names)
    for path, layer in lora.lora_layers(model):
        x = torch.randn(2, 5, layer.base.in_features)
        alone = {role: oracle.get_submodule(path)(x) for role, oracle in oracles.items()}
        expected = torch.stack([
            torch.stack([alone[role][b, t] for t, role in enumerate(roles)])
            for b, roles in enumerate(names)])
        assert close(layer(x), expected) and far(layer(x), alone[None])


def test_loaded_adapters_are_frozen_and_of_the_dtype_of_the_base(base, three):
    model = load(base, torch.bfloat16)
    lora.load_adapters(model, three[0])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())
    lora.set_adapter(model, ["ir", None, "kg"])
    assert logits(model, some_ids(3)).isfinite().all()


def test_a_role_that_was_never_loaded_is_refused_not_taken_for_the_base(base, three):
    model = load(base)
    lora.load_adapters(model, {"ir": three[0]["ir"]})
    for call in (lora.set_adapter, lora.merge):
        with pytest.raises(ValueError, match="kg"):
            call(model, "kg")
    for names in (["ir", "kg", None], [["ir", "kg", None]]):
        with pytest.raises(ValueError, match="kg"):
            lora.set_adapter(model, names)


# --------------------------------------------------------------------------------------------------
# Merging


def test_merged_equals_unmerged_and_unmerging_restores_the_bits(base, three):
    folders, oracles = three
    model, ids = load(base), some_ids()
    lora.load_adapters(model, folders)
    for role in ("kg", "ir", "dr"):
        lora.merge(model, role)
        assert close(logits(model, ids), logits(oracles[role], ids))
        with pytest.raises(ValueError, match="unmerge"):
            lora.merge(model, role)
        lora.unmerge(model)
        assert torch.equal(logits(model, ids), logits(oracles[None], ids))
        lora.set_adapter(model, role)
        assert close(logits(model, ids), logits(oracles[role], ids))


def test_unmerging_restores_the_bits_of_a_bf16_base(base):
    model, _ = injected(base, PROJECTIONS, dtype=torch.bfloat16)
    before = {name: layer.base.weight.clone() for name, layer in lora.lora_layers(model)}
    lora.merge(model, "ir")
    for name, layer in lora.lora_layers(model):
        whole = before[name].float() + 5.0 * layer.B.detach() @ layer.A.detach()
        assert torch.equal(layer.base.weight, whole.bfloat16())
        assert not torch.equal(layer.base.weight, before[name])
    lora.unmerge(model)
    for name, layer in lora.lora_layers(model):
        assert torch.equal(layer.base.weight, before[name])
        assert layer.base.weight.dtype == torch.bfloat16


# A model folder of its own: python lora.py merge BASE ADAPTER OUT


def merge_command(monkeypatch, *folders):
    monkeypatch.setattr(sys, "argv", ["lora.py", "merge", *map(str, folders)])
    lora.main()


EXTRAS = {"tokenizer.json": "{}", "tokenizer_config.json": '{"a": 1}', "merges.txt": "a b",
          "chat_template.jinja": "{{ x }}", "tokenizer.model": "\0"}


@pytest.mark.parametrize("settings", [
    dict(family="llama"), dict(family="llama", tie_word_embeddings=True),
    dict(family="qwen2", shard="50KB"), dict(family="mistral", sliding_window=7, shard="50KB"),
], ids=str)
def test_what_is_merged_into_a_folder_transformers_loads_with_the_logits_of_peft(
        make_base, tmp_path, monkeypatch, settings):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base, hf = make_base(**settings)
    for name, text in EXTRAS.items():
        (base / name).write_text(text)
    (base / "pytorch_model.bin").write_bytes(b"pickled")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(hf, peft.LoraConfig(
        r=3, lora_alpha=8, target_modules=PROJECTIONS, task_type="CAUSAL_LM",
        init_lora_weights=False))
    theirs.eval().save_pretrained(tmp_path / "adapter")
    out, ids = tmp_path / "new" / "merged", some_ids()
    merge_command(monkeypatch, base, tmp_path / "adapter", out)
    ours = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    with torch.no_grad():
        assert close(ours(ids).logits, theirs(ids).logits, 2e-5)
        assert far(ours(ids).logits, logits(load(base), ids))
    assert close(logits(load(out), ids), ours(ids).logits.detach())
    assert os.listdir(tmp_path / "new") == ["merged"]
    files = {"config.json", "generation_config.json", "model.safetensors", *EXTRAS}
    assert {path.name for path in out.iterdir()} == files
    assert all((out / name).read_text() == text for name, text in EXTRAS.items())


def test_a_merge_is_done_in_float32_and_written_in_the_dtype_of_the_base(make_base, tmp_path):
    base, _ = make_base(dtype=torch.bfloat16, shard="50KB")
    whole, _ = make_base(folder="whole", dtype=torch.bfloat16)
    pairs = adapter(tmp_path / "a", whole, ["q_proj", "down_proj"], 4, 6.0, 0)
    assert lora.export(base, tmp_path / "a", tmp_path / "out") == len(pairs) == 6
    before = read_safetensors(whole / "model.safetensors")
    after = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys() and {t.dtype for t in after.values()} == {torch.bfloat16}
    for name in before:
        if (layer := name.removesuffix(".weight")) in pairs:
            A, B = pairs[layer]
            exact = before[name].double() + 1.5 * B.double() @ A.double()
            # half a step of bfloat16: rounded once
            assert ((after[name] - exact).abs() <= 1.001 * 2**-8 * exact.abs()).all()
        else:
            assert torch.equal(before[name], after[name])


def refusal(call, *args, names=()):
    with pytest.raises(ValueError) as caught:
        call(*args)
    for name in names:
        assert str(name) in str(caught.value), str(caught.value)


def test_a_merge_that_does_not_fit_is_refused(make_base, base, tmp_path):
    other, _ = make_base(folder="other", hidden_size=96)
    deeper, _ = make_base("qwen2", folder="deeper", num_hidden_layers=4)
    tied, _ = make_base("qwen2", folder="tied", tie_word_embeddings=True)
    for name, source, target in (("wide", other, "q_proj"), ("deep", deeper, "v_proj"),
                                 ("head", base, "lm_head"), ("good", base, "q_proj")):
        adapter(tmp_path / name, source, [target], 4, 8, 0)
    before, out = sorted(os.listdir(tmp_path)), tmp_path / "out"
    for at, name, says in ((base, "wide", "96 -> 96"), (base, "deep", "layers.3.self_attn.v_proj"),
                           (tied, "head", "tied"), (base, "none", "no adapter")):
        refusal(lora.export, at, tmp_path / name, out, names=[tmp_path / name, says])
    refusal(lora.export, tmp_path / "wide", tmp_path / "good", out, names=["config.json"])
    good = tmp_path / "good"
    refusal(lora.export, base, good, good, names=[good, "already"])
    assert sorted(os.listdir(tmp_path)) == before and "out" not in before


def test_a_merge_that_is_interrupted_leaves_nothing(base, tmp_path, monkeypatch):
    adapter(tmp_path / "good", base, ["q_proj"], 4, 8, 0)
    before = sorted(os.listdir(tmp_path))

    def interrupted(*paths):
        raise KeyboardInterrupt
    monkeypatch.setattr(lora.shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lora.export(base, tmp_path / "good", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before and "out" not in before


def test_the_command_says_what_it_takes(monkeypatch, capsys):
    for words in (["merge"], ["merge", "a", "b"], ["a", "b"], []):
        monkeypatch.setattr(sys, "argv", ["lora.py", *words])
        with pytest.raises(SystemExit):
            lora.main()
        assert "merge BASE ADAPTER OUT" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# The PEFT folder


def test_saved_equals_loaded(base, tmp_path):
    ids, out = some_ids(), tmp_path / "out"
    model, _ = injected(base, ["q_proj", "down_proj"], rank=3, alpha=16.0)
    lora.save_adapter(model, "ir", out, base="some/base", dropout=0.1)
    again = load(base)
    lora.load_adapters(again, {"any name": out})
    lora.set_adapter(again, "any name")
    assert torch.equal(logits(again, ids), logits(model, ids))
    config = json.loads((out / "adapter_config.json").read_text())
    assert config == dict(
        peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path="some/base", r=3,
        lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], bias="none",
        fan_in_fan_out=False, inference_mode=True, use_rslora=False, use_dora=False,
        modules_to_save=None, layers_to_transform=None)
    assert isinstance(config["lora_alpha"], int)  # vLLM insists
    assert sorted(os.listdir(out)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_one_of_three_adapters_is_saved_as_it_came(base, three, tmp_path):
    folders, oracles = three
    model, ids = load(base), some_ids()
    lora.load_adapters(model, folders)
    for role in folders:
        out = tmp_path / "out" / role
        lora.save_adapter(model, role, out, base=base)
        came, went = (read_safetensors(folder / "adapter_model.safetensors")
                      for folder in (folders[role], out))
        assert came.keys() == went.keys()
        assert all(torch.equal(came[name], went[name]) for name in came)
        again = load(base)
        lora.load_adapters(again, {role: out})
        lora.set_adapter(again, role)
        assert close(logits(again, ids), logits(oracles[role], ids))
    with pytest.raises(ValueError, match="nobody"):
        lora.save_adapter(model, "nobody", tmp_path / "none", base=base)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("alpha", [8.0, 0.3, 2 / 3, 1024.0])
def test_alpha_survives_saving(base, tmp_path, alpha):
    for rank in (3, 7, 49):
        model, _ = injected(base, ["q_proj"], rank=rank, alpha=alpha)
        out = tmp_path / str(rank)
        lora.save_adapter(model, "ir", out, base=base)
        assert lora.read_adapter(out)[1:] == (rank, pytest.approx(alpha / rank, rel=1e-15))
        saved = json.loads((out / "adapter_config.json").read_text())["lora_alpha"]
        assert saved == pytest.approx(alpha, rel=1e-15)


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_is_divided_by_the_rank_or_its_root(base, tmp_path, rslora):
    pairs = adapter(tmp_path / "a", base, ["q_proj", "v_proj"], 4, 6.0, 0, use_rslora=rslora)
    model = load(base)
    lora.load_adapters(model, {"ir": tmp_path / "a"})
    lora.set_adapter(model, "ir")
    oracle = dense(base, pairs, 6.0 / (2 if rslora else 4))
    assert close(logits(model, some_ids()), logits(oracle, some_ids()))


def test_an_adapter_on_some_layers_only_is_loaded(base, tmp_path):
    pairs = adapter(tmp_path / "a", base, ["q_proj"], 4, 6.0, 0, layers=["1"],
                    layers_to_transform=[1])
    model = load(base)
    lora.load_adapters(model, {"ir": tmp_path / "a"})
    lora.set_adapter(model, "ir")
    assert len(pairs) == 1
    assert close(logits(model, some_ids()), logits(dense(base, pairs, 1.5), some_ids()))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_we_save_peft_loads_with_the_same_logits(make_base, tmp_path, family):
    peft = pytest.importorskip("peft")
    base, hf = make_base(family)
    model, _ = injected(base, PROJECTIONS, rank=4, alpha=3.0)
    lora.save_adapter(model, "ir", tmp_path / "ours", base=base, dropout=0.1)
    ids, plain = some_ids(), hf(some_ids()).logits
    with warnings.catch_warnings():  # peft does no more than warn
        warnings.filterwarnings("error", message="Found missing adapter keys")
        theirs = peft.PeftModel.from_pretrained(hf, tmp_path / "ours").eval()
    with torch.no_grad():
        assert close(logits(model, ids), theirs(ids).logits) and far(theirs(ids).logits, plain)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_trains_and_saves_we_load_with_the_same_logits(make_base, tmp_path, rslora):
    peft = pytest.importorskip("peft")
    base, hf = make_base("llama")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(hf, peft.LoraConfig(
        r=3, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"], lora_dropout=0.1,
        use_rslora=rslora, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=3e-2)
    for step in range(4):
        theirs(some_ids(seed=step), labels=some_ids(seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs.eval().save_pretrained(tmp_path / "theirs")
    model, ids = load(base), some_ids()
    lora.load_adapters(model, {"kg": tmp_path / "theirs"})
    lora.set_adapter(model, ["kg", "kg"])
    with torch.no_grad():
        assert close(logits(model, ids), theirs(ids).logits)
        assert far(theirs(ids).logits, logits(load(base), ids))


# adapter_config.json as peft wrote it when the paper's authors published their adapters
THEN = dict(
    alpha_pattern={}, auto_mapping=None, base_model_name_or_path="base", bias="none",
    fan_in_fan_out=False, inference_mode=True, init_lora_weights=True, layer_replication=None,
    layers_pattern=None, layers_to_transform=None, loftq_config={}, megatron_config=None,
    megatron_core="megatron.core", modules_to_save=None, peft_type="LORA", rank_pattern={},
    revision=None, task_type="CAUSAL_LM", use_dora=False, use_rslora=False)


def released(folder, hf, **changes):
    """A folder of the shape that the authors published, made by peft."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = dict(r=512, lora_alpha=1024, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    settings |= changes
    theirs = peft.get_peft_model(hf, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, p in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.01)
    theirs.eval().save_pretrained(folder)
    (folder / "adapter_config.json").write_text(json.dumps(THEN | settings))
    return theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_as_the_authors_released_them_is_loaded(make_base, tmp_path, dtype):
    """Rank 512, alpha 1024, on q_proj and v_proj: the three of them side by side."""
    base, hf = make_base("llama", num_key_value_heads=4)
    theirs = released(tmp_path / "ir", hf)
    if dtype == torch.bfloat16:
        file = tmp_path / "ir" / "adapter_model.safetensors"
        rounded = {name: t.bfloat16() for name, t in read_safetensors(file).items()}
        write_safetensors(file, rounded)
        for p in [p for name, p in theirs.named_parameters() if "lora_" in name]:
            p.data = p.data.bfloat16().float()
    assert lora.read_adapter(tmp_path / "ir")[1:] == (512, 2.0)
    model, ids = load(base), some_ids(3)
    lora.load_adapters(model, dict.fromkeys(("ir", "kg", "dr"), tmp_path / "ir"))
    lora.set_adapter(model, ["kg", None, "dr"])
    with torch.no_grad():
        expected, plain = theirs(ids).logits, logits(load(base), ids)
        assert close(logits(model, ids)[::2], expected[::2], 2e-5) and far(expected, plain)
        assert torch.equal(logits(model, ids)[1], plain[1])


def test_a_released_adapter_for_another_base_rank_or_target_is_refused_by_name(
        make_base, tmp_path):
    base, _ = make_base("llama", num_key_value_heads=4)

    def release(name, kv_heads=4, **changes):
        hf = make_base("llama", folder=f"base of {name}", num_key_value_heads=kv_heads)[1]
        released(tmp_path / name, hf, **changes)

    def refused(name, *says):
        refusal(lora.load_adapters, load(base), {"ir": tmp_path / name}, names=says)

    release("grouped", kv_heads=2)
    refused("grouped", "layers.0.self_attn.v_proj", "64 -> 32", "64 -> 64", "another base")
    release("rank", r=256)
    edit_json(tmp_path / "rank" / "adapter_config.json", r=512)
    refused("rank", "rank 512", "(256, 64)")
    release("target")
    file = tmp_path / "target" / "adapter_model.safetensors"
    tensors = read_safetensors(file).items()
    write_safetensors(file, {name.replace("v_proj", "Wqkv"): t for name, t in tensors})
    refused("target", "layers.0.self_attn.Wqkv", "lacks")


# --------------------------------------------------------------------------------------------------
# Refusals


def test_an_adapter_of_another_base_is_refused(make_base, tmp_path):
    base, _ = make_base()
    wider, _ = make_base(folder="wider", hidden_size=96)
    deeper, _ = make_base(folder="deeper", num_hidden_layers=4)
    for other, says in ((wider, "model.layers.0.self_attn.q_proj"),
                        (deeper, "model.layers.3.self_attn.q_proj")):
        folder = tmp_path / f"adapter of {other.name}"
        adapter(folder, other, ["q_proj"], 4, 8, 0)
        refusal(lora.load_adapters, load(base), {"ir": folder},
                names=[folder, says, "another base"])


def test_an_adapter_that_is_not_whole_is_refused(make_base, tmp_path):
    """One of a shallower base, and one that has lost all of v_proj: what is left of both would
    fit."""
    base, _ = make_base()
    deeper, _ = make_base(folder="deeper", num_hidden_layers=4)
    adapter(tmp_path / "shallow", base, ["q_proj"], 4, 8, 0)
    adapter(tmp_path / "torn", deeper, ["q_proj"], 4, 8, 0)
    edit_json(tmp_path / "torn" / "adapter_config.json", target_modules=["q_proj", "v_proj"])
    for name, lost in (("shallow", "model.layers.3.self_attn.q_proj"),
                       ("torn", "model.layers.0.self_attn.v_proj")):
        folder, out = tmp_path / name, tmp_path / "out"
        refusal(lora.load_adapters, load(deeper), {"ir": folder}, names=[folder, lost])
        refusal(lora.export, deeper, folder, out, names=[folder, lost])
        assert not out.exists()


def test_layers_that_are_named_whole_are_all_there_is(base, tmp_path):
    """peft takes a whole name in target_modules, too; and an end of several names, of which one has
    lost its pairs."""
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    adapter(tmp_path / "whole", base, ["q_proj"], 4, 6.0, 0, layers=["0", "1"])
    edit_json(tmp_path / "whole" / "adapter_config.json", target_modules=names)
    model = load(base)
    lora.load_adapters(model, {"ir": tmp_path / "whole"})
    assert [name for name, _ in lora.lora_layers(model)] == names
    adapter(tmp_path / "lost", base, ["q_proj"], 4, 6.0, 0)
    edit_json(tmp_path / "lost" / "adapter_config.json",
              target_modules=["self_attn.q_proj", "mlp.up_proj"])
    refusal(lora.load_adapters, load(base), {"ir": tmp_path / "lost"},
            names=["model.layers.0.mlp.up_proj"])


def test_a_pattern_tells_which_layers_there_are(base, tmp_path):
    """As peft reads it: a text in target_modules has to match the whole name."""
    pattern = r"model\.layers\.[01]\..*\.(q|v)_proj"
    adapter(tmp_path / "a", base, ["q_proj", "v_proj"], 4, 6.0, 0, layers=["0", "1"])
    edit_json(tmp_path / "a" / "adapter_config.json", target_modules=pattern)
    model = load(base)
    lora.load_adapters(model, {"ir": tmp_path / "a"})
    if find_spec("peft"):
        from peft import LoraConfig
        from peft.tuners.tuners_utils import check_target_module_exists
        config = LoraConfig(target_modules=pattern)
        names = [name for name, _ in load(base).named_modules()
                 if check_target_module_exists(config, name)]
        assert names == [name for name, _ in lora.lora_layers(model)] and len(names) == 4
    file, lost = tmp_path / "a" / "adapter_model.safetensors", "layers.1.self_attn.v_proj"
    left = {name: t for name, t in read_safetensors(file).items() if lost not in name}
    write_safetensors(file, left)
    refusal(lora.load_adapters, load(base), {"ir": tmp_path / "a"},
            names=[tmp_path / "a", f"nothing for model.{lost}"])


@pytest.mark.parametrize("changes, says", [
    (dict(target_modules=5), "target_modules"),
    (dict(target_modules=[["q_proj"]]), "target_modules"),
    (dict(r=5), "says rank 5"), (dict(r=0), "r must"), (dict(r=...), "r must"),
    (dict(lora_alpha=None), "lora_alpha"), (dict(lora_alpha="8"), "lora_alpha"),
    *[(dict(lora_alpha=alpha), "lora_alpha") for alpha in (0, -8, math.nan, math.inf)],
    (dict(use_rslora="false"), "use_rslora is 'false'"),
    (dict(target_modules="(q_proj"), "target_modules is '(q_proj'"),
    (dict(use_dora=True), "use_dora"), (dict(fan_in_fan_out=True), "fan_in_fan_out"),
    (dict(modules_to_save=["lm_head"]), "modules_to_save"), (dict(lora_bias=True), "lora_bias"),
    (dict(rank_pattern={"q_proj": 8}), "rank_pattern"),
    (dict(alpha_pattern={"q_proj": 8}), "alpha_pattern"),
    (dict(bias="all"), "bias"), (dict(peft_type="IA3"), "IA3"), (dict(peft_type=...), "peft_type"),
    (dict(layer_replication=[[0, 2], [1, 3]]), "layer_replication"),
    (dict(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    *[(dict(init_lora_weights=start), start) for start in ("pissa", "pissa_niter_4", "loftq")],
], ids=str)
def test_an_adapter_config_that_this_lora_does_not_compute_is_refused(
        base, tmp_path, changes, says):
    adapter(tmp_path / "a", base, ["q_proj"], 4, 8, 0)
    edit_json(tmp_path / "a" / "adapter_config.json", **changes)
    refusal(lora.load_adapters, load(base), {"ir": tmp_path / "a"}, names=[tmp_path / "a", says])


def test_an_adapter_config_with_harmless_keys_is_read(base, tmp_path):
    adapter(tmp_path / "a", base, ["q_proj"], 4, 8, 0, rank_pattern={}, alpha_pattern={},
            init_lora_weights="gaussian", modules_to_save=None, layers_to_transform=None,
            use_dora=False)
    assert lora.read_adapter(tmp_path / "a")[1:] == (4, 2.0)


Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
NORM = Q0.replace("self_attn.q_proj", "input_layernorm")
BARE = "model.layers.0.self_attn.q_proj.lora_A.weight"  # without the prefix
ONES = torch.ones
ZERO_B = "layers.0.self_attn.q_proj is zero"


@pytest.mark.parametrize("change, says", [
    (lambda t: t.pop(Q0 + "A.weight"), "layers.0.self_attn.q_proj"),
    (lambda t: t.pop(Q0 + "B.weight"), "layers.0.self_attn.q_proj"),
    (lambda t: [t[name].zero_() for name in t if "lora_B" in name], "zero"),
    (lambda t: t[Q0 + "B.weight"].zero_(), ZERO_B),
    (lambda t: t.clear(), "zero or missing"),
    (lambda t: t.update({Q0 + "A.weight": ONES(5, 64)}), "A of (5, 64)"),
    (lambda t: t.update({Q0 + "B.weight": ONES(64, 5)}), "B of (64, 5)"),
    (lambda t: t.update({Q0 + "A.weight": ONES(4)}), "layers.0.self_attn.q_proj"),
    (lambda t: t.update({Q0 + "B.weight": ONES(4)}), "layers.0.self_attn.q_proj"),
    (lambda t: t.update({Q0 + "A.weight": torch.tensor(4.0)}), "layers.0.self_attn.q_proj"),
    (lambda t: t.update({Q0 + "magnitude_vector": ONES(64)}), "magnitude_vector"),
    (lambda t: t.update({Q0[:-5] + "bias": ONES(64)}), "bias"),
    (lambda t: t.update({BARE: ONES(4, 64)}), "model.layers.0"),
    (lambda t: t.update({NORM + half: ONES(4, 4) for half in ("A.weight", "B.weight")}),
     "input_layernorm"),
    (lambda t: t[Q0 + "A.weight"][0].fill_(math.nan), "layers.0.self_attn.q_proj holds numbers"),
], ids=["A missing", "B missing", "B all zero", "one B zero", "empty", "A of another rank",
        "B of another rank", "A flat", "B flat", "A a number", "DoRA", "bias", "no prefix",
        "on a norm", "A not finite"])
def test_adapter_tensors_that_do_not_fit_are_refused(base, tmp_path, change, says):
    adapter(tmp_path / "a", base, ["q_proj", "v_proj"], 4, 8, 0)
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {name: t.clone() for name, t in read_safetensors(file).items()}
    change(tensors)
    write_safetensors(file, tensors)
    refusal(lora.load_adapters, load(base), {"ir": tmp_path / "a"}, names=[tmp_path / "a", says])


def test_a_folder_without_an_adapter_is_refused(base, tmp_path):
    refusal(lora.load_adapters, load(base), {"ir": tmp_path},
            names=[tmp_path, "adapter_config.json"])
    adapter(tmp_path / "a", base, ["q_proj"], 4, 8, 0)
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    refusal(lora.load_adapters, load(base), {"ir": tmp_path / "a"},
            names=[tmp_path / "a", "adapter_model.safetensors"])


def test_unknown_targets_and_a_second_injection_are_refused(base, three):
    refusal(lora.inject, load(base), ["q_proj", "query", "c_attn"], {"ir": (4, 1.0)},
            names=["query", "c_attn", "v_proj"])
    model, _ = injected(base)
    refusal(lora.inject, model, ["q_proj"], {"kg": (4, 1.0)}, names=["already"])
    refusal(lora.load_adapters, model, three[0], names=["already"])

"""The laws of LoRA, against dense algebra done here and against peft."""
import json
import math
import os
import sys
import warnings
from importlib.util import find_spec

import pytest
import torch

import lora
from conftest import edit_json
from model import KVCache, load_model, read_safetensors, write_safetensors

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


def injected(folder, targets=("q_proj", "v_proj"), rank=4, alpha=20.0, dropout=0.0, dtype=torch.float32, name="ir", train_b=True):
    """A model with one adapter, switched on; B random rather than zero, as if trained."""
    model = load(folder, dtype).requires_grad_(True)  # inject must freeze it
    torch.manual_seed(1)
    parameters = lora.inject(model, targets, {name: (rank, alpha / rank)}, dropout)
    if train_b:
        for p in parameters[1::2]:
            torch.nn.init.normal_(p, std=0.1)
    lora.switch(model, name)
    return model, parameters


def adapter(folder, base, targets, rank, alpha, seed, layers=None, **config):
    """A random PEFT folder written without lora.py. Returns {layer: (A, B)}."""
    st = pytest.importorskip("safetensors.torch")
    torch.manual_seed(seed)
    pairs = {}
    for name, weight in read_safetensors(base / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if layer.split(".")[-1] in targets and (layers is None or layer.split(".")[2] in layers):
            out, into = weight.shape
            pairs[layer] = (torch.randn(rank, into) / into**0.5, 0.2 * torch.randn(out, rank))
    folder.mkdir()
    tensors = {f"base_model.model.{layer}.lora_{half}.weight": pair["AB".index(half)] for layer, pair in pairs.items() for half in "AB"}
    st.save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(dict(
        peft_type="LORA", task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=list(targets), bias="none", **config)))
    return pairs


def dense(base, pairs, scale):
    """The oracle: a plain model whose weights are W + scale B A, multiplied out in float64."""
    model = load(base)
    for layer, (A, B) in pairs.items():
        weight = model.get_parameter(f"{layer}.weight")
        weight.copy_((weight.double() + scale * (B.double() @ A.double())).float())
    return model


@pytest.fixture
def three(base, tmp_path):
    """Three adapters that differ in rank, alpha and targets: ({role: folder}, {role: the dense oracle, None: the base})."""
    wanted = {"ir": (["q_proj", "v_proj"], 3, 8.0), "kg": (["v_proj", "o_proj", "down_proj"], 5, 2.0), "dr": (["k_proj", "v_proj", "gate_proj", "up_proj"], 2, 7.0)}
    folders, oracles = {}, {None: load(base)}
    for seed, (role, (targets, rank, alpha)) in enumerate(wanted.items()):
        folders[role] = tmp_path / role
        oracles[role] = dense(base, adapter(folders[role], base, targets, rank, alpha, seed), alpha / rank)
    return folders, oracles


# ---------------------------------------------------------------------------------------------------------------------
# The layer


def test_nothing_changes_at_initialisation(base):
    ids = some_ids()
    model, _ = injected(base, PROJECTIONS, train_b=False)
    assert torch.equal(logits(model, ids), logits(load(base), ids))


def test_off_is_the_base_and_on_is_not(base):
    ids, plain = some_ids(), logits(load(base), some_ids())
    model, _ = injected(base)
    assert far(logits(model, ids), plain)
    lora.switch(model, None)
    assert torch.equal(logits(model, ids), plain)


def test_an_adapter_is_the_dense_weight_plus_alpha_over_r_times_b_a(base):
    ids = some_ids()
    model, _ = injected(base, PROJECTIONS, rank=4, alpha=3.0)
    pairs = {name: (layer.A.detach(), layer.B.detach()) for name, layer in lora.layers(model)}
    assert len(pairs) == 3 * 7
    oracle = dense(base, pairs, 3.0 / 4)
    assert close(logits(model, ids), logits(oracle, ids)) and far(logits(oracle, ids), logits(load(base), ids))


def test_adapters_are_float32_on_any_base_and_start_as_in_the_paper(base):
    model, parameters = injected(base, PROJECTIONS, rank=16, dtype=torch.bfloat16, train_b=False)
    assert {p.dtype for p in parameters} == {torch.float32} and model(some_ids()).dtype == torch.bfloat16  # what flows keeps the base's dtype
    for _, layer in lora.layers(model):
        bound = 1 / math.sqrt(layer.A.shape[1])  # kaiming_uniform with a = sqrt(5)
        assert not layer.B.any() and 0.95 * bound < layer.A.abs().max() <= bound


def test_gradients_reach_a_and_b_and_nothing_else_and_the_base_keeps_its_bits(base):
    model, parameters = injected(base, PROJECTIONS, train_b=False)
    before, start = {k: v.clone() for k, v in load(base).state_dict().items()}, [p.detach().clone() for p in parameters]
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in parameters} and len(parameters) == 2 * 3 * 7
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for step in range(3):
        ids = some_ids(seed=step)
        torch.nn.functional.cross_entropy(model.logits(model(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten()).backward()
        assert all(p.grad is not None for p in parameters)
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(p, was) for p, was in zip(parameters, start))
    after = {k.replace(".base.", "."): v for k, v in model.state_dict().items() if not k.endswith((".A", ".B"))}
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_gradients_are_those_of_the_dense_weight(base):
    """dL/dA = scale B^T dL/dW and dL/dB = scale dL/dW A^T, with dL/dW taken from a plain model."""
    def loss(model):
        ids = some_ids()
        return torch.nn.functional.cross_entropy(model.logits(model(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())
    model, _ = injected(base, PROJECTIONS, rank=4, alpha=3.0)
    loss(model).backward()
    oracle = dense(base, {name: (layer.A.detach(), layer.B.detach()) for name, layer in lora.layers(model)}, 0.75).requires_grad_(True)
    loss(oracle).backward()
    for name, layer in lora.layers(model):
        W = oracle.get_parameter(f"{name}.weight").grad
        torch.testing.assert_close(layer.A.grad, 0.75 * layer.B.detach().T @ W, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(layer.B.grad, 0.75 * W @ layer.A.detach().T, atol=1e-5, rtol=1e-3)


def test_dropout_acts_in_training_only_and_on_the_adapter_only(base):
    ids, plain = some_ids(), logits(injected(base)[0], some_ids())
    model, _ = injected(base, dropout=0.5)
    assert torch.equal(logits(model, ids), plain)  # a loaded model is in evaluation mode, and injecting leaves it there
    model.train()
    assert far(logits(model, ids), logits(model, ids))
    lora.switch(model, None)
    assert torch.equal(logits(model, ids), logits(load(base), ids))

    _, layer = lora.layers(model)[0]
    layer.gate = layer.gate_of("ir")
    x = torch.randn(4, 9, layer.A.shape[1])
    torch.manual_seed(7)
    y = layer(x)
    torch.manual_seed(7)
    kept = lora.drop(x, 0.5)
    assert close(y, layer.base(x) + 5.0 * (kept @ layer.A.T @ layer.B.T))  # alpha / r = 20 / 4


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_each_element_on_its_own_with_probability_p(p):
    torch.manual_seed(0)
    x = torch.randn(3, 701, 500, requires_grad=True)
    y = lora.drop(x, p)
    dropped, n = y == 0, x.numel()
    assert torch.equal(y[~dropped], (x / (1 - p))[~dropped])
    for lag in (1, 2, 3, 4, 500):  # neighbours share one random number of 64 bits, and know nothing of each other
        both = (dropped.flatten()[lag:] & dropped.flatten()[:-lag]).float().mean()
        assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / n) ** 0.5 + 1e-9
    assert abs(dropped.float().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2 ** -16
    assert not torch.equal(lora.drop(x, 0.5) == 0, lora.drop(x, 0.5) == 0)
    y.sum().backward()
    assert torch.equal(x.grad, (~dropped).float() / (1 - p))


def test_an_adapter_may_sit_on_the_head_and_leaves_a_tied_embedding_alone(make_base):
    base, _ = make_base(tie_word_embeddings=True)
    model, _ = injected(base, ["lm_head"], rank=4, alpha=3.0)
    (name, layer), = lora.layers(model)
    hidden = load(base)(some_ids()).detach()
    embedding = load(base).model.embed_tokens.weight
    expected = hidden @ (embedding + 0.75 * layer.B @ layer.A).T.detach()
    assert name == "lm_head" and close(logits(model, some_ids()), expected, 1e-4)
    lora.switch(model, ["ir", None])  # rows, and only the last position of each, as in decoding
    assert close(model.logits(hidden[:, -1:])[0, 0].detach(), expected[0, -1], 1e-4)
    assert close(model.logits(hidden[:, -1:])[1, 0].detach(), (hidden @ embedding.T)[1, -1], 1e-4)
    lora.merge(model, "ir")
    assert close(logits(model, some_ids()), expected, 1e-4)
    assert torch.equal(model.model.embed_tokens.weight, embedding) and model.dtype == torch.float32 and model.device.type == "cpu"


# ---------------------------------------------------------------------------------------------------------------------
# Three adapters, one batch


@pytest.mark.parametrize("prepare", [lambda model: model, lora.fuse], ids=["plain", "fused"])
def test_each_row_of_a_mixed_batch_is_that_role_alone(base, three, prepare):
    folders, oracles = three
    model, ids = load(base), some_ids(7)
    lora.stack(model, folders)
    size = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert prepare(model) is model and size == sum(p.numel() for p in model.parameters() if p.dim() == 2)  # no matrix is there twice
    assert close(logits(model, ids), logits(oracles[None], ids), 1e-5 if prepare is lora.fuse else 0)  # all off at first
    rows = ["kg", "ir", None, "dr", "ir", "kg", "dr"]
    lora.switch(model, rows)
    together = logits(model, ids)
    alone = {role: logits(oracle, ids) for role, oracle in oracles.items()}
    for row, role in enumerate(rows):
        assert close(together[row], alone[role][row])
        assert all(far(alone[other][row], alone[role][row]) for other in alone if other != role)
    for role in ("ir", "kg", "dr", None):
        lora.switch(model, role)
        assert close(logits(model, ids), alone[role])


@torch.no_grad()
@pytest.mark.parametrize("prepare", [lambda model: model, lora.fuse], ids=["plain", "fused"])
def test_roles_keep_to_their_rows_while_decoding(base, three, prepare):
    folders, oracles = three
    model, ids, rows = load(base), some_ids(4, 20), ["dr", None, "ir", "kg"]
    lora.stack(model, folders)
    prepare(model)
    lora.switch(model, [role for role in rows for _ in range(8)])
    cache = KVCache(model.config, 4, model.dtype, model.device)
    model(ids[:, :8].reshape(-1, 1), cache, [0] * 4, [8] * 4)
    lora.switch(model, rows)
    for t in range(8, 20):
        step = model.logits(model(ids[:, t:t + 1], cache, [t] * 4, [1] * 4)[:, 0])
        for row, role in enumerate(rows):
            assert close(step[row], logits(oracles[role], ids[row:row + 1])[0, t])


def test_stacked_adapters_are_frozen_and_of_the_dtype_of_the_base(base, three):
    model = load(base, torch.bfloat16)
    lora.stack(model, three[0])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not any(p.requires_grad for p in model.parameters())
    lora.switch(model, ["ir", None, "kg"])
    assert logits(model, some_ids(3)).isfinite().all()


def test_a_role_that_was_never_loaded_is_refused_not_taken_for_the_base(base, three):
    model = load(base)
    lora.stack(model, {"ir": three[0]["ir"]})
    for call in (lora.switch, lora.merge):
        with pytest.raises(ValueError, match="kg"):
            call(model, "kg")
    with pytest.raises(ValueError, match="kg"):
        lora.switch(model, ["ir", "kg", None])


# ---------------------------------------------------------------------------------------------------------------------
# Merging


def test_merged_equals_unmerged_and_unmerging_restores_the_bits(base, three):
    folders, oracles = three
    model, ids = load(base), some_ids()
    lora.stack(model, folders)
    for role in ("kg", "ir", "dr"):
        lora.merge(model, role)
        assert close(logits(model, ids), logits(oracles[role], ids))
        with pytest.raises(ValueError, match="unmerge"):
            lora.merge(model, role)
        lora.unmerge(model)
        assert torch.equal(logits(model, ids), logits(oracles[None], ids))
        lora.switch(model, role)
        assert close(logits(model, ids), logits(oracles[role], ids))


def test_unmerging_restores_the_bits_of_a_bf16_base(base):
    model, _ = injected(base, PROJECTIONS, dtype=torch.bfloat16)
    before = {name: layer.base.weight.clone() for name, layer in lora.layers(model)}
    lora.merge(model, "ir")
    for name, layer in lora.layers(model):
        whole = before[name].float() + 5.0 * layer.B.detach() @ layer.A.detach()
        assert torch.equal(layer.base.weight, whole.bfloat16()) and not torch.equal(layer.base.weight, before[name])
    lora.unmerge(model)
    assert all(torch.equal(layer.base.weight, before[name]) and layer.base.weight.dtype == torch.bfloat16 for name, layer in lora.layers(model))


# A model folder of its own: python lora.py merge BASE ADAPTER OUT


def merge_command(monkeypatch, *folders):
    monkeypatch.setattr(sys, "argv", ["lora.py", "merge", *map(str, folders)])
    lora.main()


@pytest.mark.parametrize("settings", [dict(family="llama"), dict(family="llama", tie_word_embeddings=True), dict(family="qwen2", shard="50KB"),
                                      dict(family="mistral", sliding_window=7, shard="50KB")], ids=str)
def test_what_is_merged_into_a_folder_transformers_loads_with_the_logits_of_peft(make_base, tmp_path, monkeypatch, settings):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base, hf = make_base(**settings)
    extras = {"tokenizer.json": "{}", "tokenizer_config.json": '{"a": 1}', "chat_template.jinja": "{{ x }}", "tokenizer.model": "\0", "merges.txt": "a b"}
    for name, text in extras.items():
        (base / name).write_text(text)
    (base / "pytorch_model.bin").write_bytes(b"pickled")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(hf, peft.LoraConfig(r=3, lora_alpha=8, target_modules=PROJECTIONS, task_type="CAUSAL_LM", init_lora_weights=False))
    theirs.eval().save_pretrained(tmp_path / "adapter")
    merge_command(monkeypatch, base, tmp_path / "adapter", tmp_path / "new" / "merged")
    out, ids = tmp_path / "new" / "merged", some_ids()
    ours = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    with torch.no_grad():
        assert close(ours(ids).logits, theirs(ids).logits, 2e-5) and far(ours(ids).logits, logits(load(base), ids))
    assert close(logits(load(out), ids), ours(ids).logits.detach())
    assert os.listdir(tmp_path / "new") == ["merged"]
    assert {p.name for p in out.iterdir()} == {"config.json", "generation_config.json", "model.safetensors", *extras}
    assert all((out / name).read_text() == text for name, text in extras.items())


def test_a_merge_is_done_in_float32_and_written_in_the_dtype_of_the_base(make_base, tmp_path):
    base, _ = make_base(dtype=torch.bfloat16, shard="50KB")
    whole, _ = make_base(folder="whole", dtype=torch.bfloat16)
    pairs = adapter(tmp_path / "a", whole, ["q_proj", "down_proj"], 4, 6.0, 0)
    assert lora.export(base, tmp_path / "a", tmp_path / "out") == len(pairs) == 6
    before, after = read_safetensors(whole / "model.safetensors"), read_safetensors(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys() and {t.dtype for t in after.values()} == {torch.bfloat16}
    for name in before:
        if (layer := name.removesuffix(".weight")) in pairs:
            A, B = pairs[layer]
            exact = before[name].double() + 1.5 * B.double() @ A.double()
            assert ((after[name] - exact).abs() <= 1.001 * 2**-8 * exact.abs()).all()  # half a step of bfloat16: rounded once
        else:
            assert torch.equal(before[name], after[name])


def test_a_merge_that_fails_leaves_nothing(make_base, base, tmp_path, monkeypatch, capsys):
    other, _ = make_base(folder="other", hidden_size=96)
    deeper, _ = make_base("qwen2", folder="deeper", num_hidden_layers=4)
    tied, _ = make_base("qwen2", folder="tied", tie_word_embeddings=True)
    for name, source, targets in (("wide", other, ["q_proj"]), ("deep", deeper, ["v_proj"]), ("head", base, ["lm_head"]), ("good", base, ["q_proj"])):
        adapter(tmp_path / name, source, targets, 4, 8, 0)
    for at, name, says in ((base, "wide", "96 -> 96"), (base, "deep", "layers.3.self_attn.v_proj"), (tied, "head", "tied"), (base, "none", "no adapter")):
        refusal(lora.export, at, tmp_path / name, tmp_path / "out", names=[tmp_path / name, says])
    refusal(lora.export, tmp_path / "wide", tmp_path / "good", tmp_path / "out", names=["config.json"])
    refusal(lora.export, base, tmp_path / "good", tmp_path / "good", names=[tmp_path / "good", "already"])

    def interrupted(*paths):
        raise KeyboardInterrupt
    before = sorted(os.listdir(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lora.shutil, "copyfile", interrupted)
        lora.export(base, tmp_path / "good", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before and "out" not in before
    for words in (["merge"], ["merge", "a", "b"], ["a", "b"], []):
        monkeypatch.setattr(sys, "argv", ["lora.py", *words])
        with pytest.raises(SystemExit):
            lora.main()
    assert "merge BASE ADAPTER OUT" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# The PEFT folder


def test_saved_equals_loaded(base, tmp_path):
    ids = some_ids()
    model, _ = injected(base, ["q_proj", "down_proj"], rank=3, alpha=16.0)
    lora.save_adapter(model, "ir", tmp_path / "out", base="some/base", dropout=0.1)
    again = load(base)
    lora.stack(again, {"any name": tmp_path / "out"})
    lora.switch(again, "any name")
    assert torch.equal(logits(again, ids), logits(model, ids))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config == dict(peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path="some/base", r=3, lora_alpha=16, lora_dropout=0.1,
                          target_modules=["q_proj", "down_proj"], bias="none", fan_in_fan_out=False, inference_mode=True, use_rslora=False,
                          use_dora=False, modules_to_save=None)
    assert isinstance(config["lora_alpha"], int)  # vLLM insists
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_one_of_three_stacked_adapters_is_saved_as_it_came(base, three, tmp_path):
    folders, oracles = three
    model, ids = load(base), some_ids()
    lora.stack(model, folders)
    for role in folders:
        lora.save_adapter(model, role, tmp_path / "out" / role, base=base)
        came, went = (read_safetensors(place / "adapter_model.safetensors") for place in (folders[role], tmp_path / "out" / role))
        assert came.keys() == went.keys() and all(torch.equal(came[name], went[name]) for name in came)
        again = load(base)
        lora.stack(again, {role: tmp_path / "out" / role})
        lora.switch(again, role)
        assert close(logits(again, ids), logits(oracles[role], ids))
    with pytest.raises(ValueError, match="nobody"):
        lora.save_adapter(model, "nobody", tmp_path / "none", base=base)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("alpha", [8.0, 0.3, 2 / 3, 1024.0])
def test_alpha_survives_saving(base, tmp_path, alpha):
    for rank in (3, 7, 49):
        model, _ = injected(base, ["q_proj"], rank=rank, alpha=alpha)
        lora.save_adapter(model, "ir", tmp_path / str(rank), base=base)
        assert lora.read_adapter(tmp_path / str(rank))[1:] == (rank, pytest.approx(alpha / rank, rel=1e-15))
        assert json.loads((tmp_path / str(rank) / "adapter_config.json").read_text())["lora_alpha"] == pytest.approx(alpha, rel=1e-15)


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_is_divided_by_the_rank_or_its_root(base, tmp_path, rslora):
    pairs = adapter(tmp_path / "a", base, ["q_proj", "v_proj"], 4, 6.0, 0, use_rslora=rslora)
    model = load(base)
    lora.stack(model, {"ir": tmp_path / "a"})
    lora.switch(model, "ir")
    assert close(logits(model, some_ids()), logits(dense(base, pairs, 6.0 / (2 if rslora else 4)), some_ids()))


def test_an_adapter_on_some_layers_only_is_loaded(base, tmp_path):
    pairs = adapter(tmp_path / "a", base, ["q_proj"], 4, 6.0, 0, layers=["1"], layers_to_transform=[1])
    model = load(base)
    lora.stack(model, {"ir": tmp_path / "a"})
    lora.switch(model, "ir")
    assert len(pairs) == 1 and close(logits(model, some_ids()), logits(dense(base, pairs, 1.5), some_ids()))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_we_save_peft_loads_with_the_same_logits(make_base, tmp_path, family):
    peft = pytest.importorskip("peft")
    base, hf = make_base(family)
    model, _ = injected(base, PROJECTIONS, rank=4, alpha=3.0)
    lora.save_adapter(model, "ir", tmp_path / "ours", base=base, dropout=0.1)
    ids, plain = some_ids(), hf(some_ids()).logits
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # peft does no more than warn
        theirs = peft.PeftModel.from_pretrained(hf, tmp_path / "ours").eval()
    with torch.no_grad():
        assert close(logits(model, ids), theirs(ids).logits) and far(theirs(ids).logits, plain)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_trains_and_saves_we_load_with_the_same_logits(make_base, tmp_path, rslora):
    peft = pytest.importorskip("peft")
    base, hf = make_base("llama")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(hf, peft.LoraConfig(r=3, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"], lora_dropout=0.1,
                                                     use_rslora=rslora, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=3e-2)
    for step in range(4):
        theirs(some_ids(seed=step), labels=some_ids(seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs.eval().save_pretrained(tmp_path / "theirs")
    model, ids = load(base), some_ids()
    lora.stack(model, {"kg": tmp_path / "theirs"})
    lora.switch(model, ["kg", "kg"])
    with torch.no_grad():
        assert close(logits(model, ids), theirs(ids).logits) and far(theirs(ids).logits, logits(load(base), ids))


def released(folder, hf, **changes):
    """A folder of the shape that the paper's authors published, made by peft: with adapter_config.json as peft wrote it then."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = dict(r=512, lora_alpha=1024, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]) | changes
    theirs = peft.get_peft_model(hf, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, p in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.01)
    theirs.eval().save_pretrained(folder)
    (folder / "adapter_config.json").write_text(json.dumps(dict(
        alpha_pattern={}, auto_mapping=None, base_model_name_or_path="base", bias="none", fan_in_fan_out=False, inference_mode=True,
        init_lora_weights=True, layer_replication=None, layers_pattern=None, layers_to_transform=None, loftq_config={}, megatron_config=None,
        megatron_core="megatron.core", modules_to_save=None, peft_type="LORA", rank_pattern={}, revision=None, task_type="CAUSAL_LM",
        use_dora=False, use_rslora=False) | settings))
    return theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_as_the_authors_released_them_is_loaded(make_base, tmp_path, dtype):
    """Rank 512, alpha 1024, on q_proj and v_proj: the three of them side by side."""
    base, hf = make_base("llama", num_key_value_heads=4)
    theirs = released(tmp_path / "ir", hf)
    if dtype == torch.bfloat16:
        file = tmp_path / "ir" / "adapter_model.safetensors"
        write_safetensors(file, {name: t.bfloat16() for name, t in read_safetensors(file).items()})
        for p in [p for name, p in theirs.named_parameters() if "lora_" in name]:
            p.data = p.data.bfloat16().float()
    assert lora.read_adapter(tmp_path / "ir")[1:] == (512, 2.0)
    model, ids = load(base), some_ids(3)
    lora.stack(model, {role: tmp_path / "ir" for role in ("ir", "kg", "dr")})
    lora.switch(model, ["kg", None, "dr"])
    with torch.no_grad():
        expected, plain = theirs(ids).logits, logits(load(base), ids)
        assert close(logits(model, ids)[::2], expected[::2], 2e-5) and far(expected, plain)
        assert torch.equal(logits(model, ids)[1], plain[1])


def test_a_released_adapter_for_another_base_rank_or_target_is_refused_by_name(make_base, tmp_path):
    base, _ = make_base("llama", num_key_value_heads=4)
    released(tmp_path / "grouped", make_base("llama", folder="grouped base", num_key_value_heads=2)[1])
    refusal(lora.stack, load(base), {"ir": tmp_path / "grouped"}, names=["layers.0.self_attn.v_proj", "64 -> 32", "64 -> 64", "another base"])
    released(tmp_path / "rank", make_base("llama", folder="again", num_key_value_heads=4)[1], r=256)
    edit_json(tmp_path / "rank" / "adapter_config.json", r=512)
    refusal(lora.stack, load(base), {"ir": tmp_path / "rank"}, names=["rank 512", "(256, 64)"])
    released(tmp_path / "target", make_base("llama", folder="third", num_key_value_heads=4)[1])
    file = tmp_path / "target" / "adapter_model.safetensors"
    write_safetensors(file, {name.replace("v_proj", "Wqkv"): t for name, t in read_safetensors(file).items()})
    refusal(lora.stack, load(base), {"ir": tmp_path / "target"}, names=["layers.0.self_attn.Wqkv", "lacks"])


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def refusal(call, *args, names=()):
    with pytest.raises(ValueError) as caught:
        call(*args)
    for name in names:
        assert str(name) in str(caught.value), str(caught.value)


def test_an_adapter_of_another_base_is_refused(make_base, tmp_path):
    base, _ = make_base()
    wider, _ = make_base(folder="wider", hidden_size=96)
    deeper, _ = make_base(folder="deeper", num_hidden_layers=4)
    for other, says in ((wider, "model.layers.0.self_attn.q_proj"), (deeper, "model.layers.3.self_attn.q_proj")):
        folder = tmp_path / f"adapter of {other.name}"
        adapter(folder, other, ["q_proj"], 4, 8, 0)
        refusal(lora.stack, load(base), {"ir": folder}, names=[folder, says, "another base"])


def test_an_adapter_that_is_not_whole_is_refused(make_base, tmp_path):
    """One of a shallower base, and one that has lost all of v_proj: what is left of both would fit."""
    base, _ = make_base()
    deeper, _ = make_base(folder="deeper", num_hidden_layers=4)
    adapter(tmp_path / "shallow", base, ["q_proj"], 4, 8, 0)
    adapter(tmp_path / "torn", deeper, ["q_proj"], 4, 8, 0)
    edit_json(tmp_path / "torn" / "adapter_config.json", target_modules=["q_proj", "v_proj"])
    for folder, lost in (("shallow", "model.layers.3.self_attn.q_proj"), ("torn", "model.layers.0.self_attn.v_proj")):
        refusal(lora.stack, load(deeper), {"ir": tmp_path / folder}, names=[tmp_path / folder, lost])
        refusal(lora.export, deeper, tmp_path / folder, tmp_path / "out", names=[tmp_path / folder, lost])
        assert not (tmp_path / "out").exists()


def test_layers_that_are_named_whole_are_all_there_is(base, tmp_path):
    """peft takes a whole name in target_modules, too; and an end of several names, of which one has lost its pairs."""
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    adapter(tmp_path / "whole", base, ["q_proj"], 4, 6.0, 0, layers=["0", "1"])
    edit_json(tmp_path / "whole" / "adapter_config.json", target_modules=names)
    model = load(base)
    lora.stack(model, {"ir": tmp_path / "whole"})
    assert [name for name, _ in lora.layers(model)] == names
    adapter(tmp_path / "lost", base, ["q_proj"], 4, 6.0, 0)
    edit_json(tmp_path / "lost" / "adapter_config.json", target_modules=["self_attn.q_proj", "mlp.up_proj"])
    refusal(lora.stack, load(base), {"ir": tmp_path / "lost"}, names=["model.layers.0.mlp.up_proj"])


def test_a_pattern_tells_which_layers_there_are(base, tmp_path):
    """As peft reads it: a text in target_modules has to match the whole name."""
    pattern = r"model\.layers\.[01]\..*\.(q|v)_proj"
    adapter(tmp_path / "a", base, ["q_proj", "v_proj"], 4, 6.0, 0, layers=["0", "1"])
    edit_json(tmp_path / "a" / "adapter_config.json", target_modules=pattern)
    model = load(base)
    lora.stack(model, {"ir": tmp_path / "a"})
    if find_spec("peft"):
        from peft import LoraConfig
        from peft.tuners.tuners_utils import check_target_module_exists
        config = LoraConfig(target_modules=pattern)
        names = [name for name, module in load(base).named_modules() if check_target_module_exists(config, name)]
        assert names == [name for name, _ in lora.layers(model)] and len(names) == 4
    file = tmp_path / "a" / "adapter_model.safetensors"
    write_safetensors(file, {name: t for name, t in read_safetensors(file).items() if "layers.1.self_attn.v_proj" not in name})
    refusal(lora.stack, load(base), {"ir": tmp_path / "a"}, names=[tmp_path / "a", "nothing for model.layers.1.self_attn.v_proj"])


@pytest.mark.parametrize("changes, says", [
    (dict(target_modules=5), "target_modules"), (dict(target_modules=[["q_proj"]]), "target_modules"),
    (dict(r=5), "says rank 5"), (dict(r=0), "r must"), (dict(r=...), "r must"), (dict(lora_alpha=None), "lora_alpha"), (dict(lora_alpha="8"), "lora_alpha"),
    *[(dict(lora_alpha=alpha), "lora_alpha") for alpha in (0, -8, math.nan, math.inf)],
    (dict(use_rslora="false"), "use_rslora is 'false'"), (dict(target_modules="(q_proj"), "target_modules is '(q_proj'"),
    (dict(use_dora=True), "use_dora"), (dict(fan_in_fan_out=True), "fan_in_fan_out"), (dict(modules_to_save=["lm_head"]), "modules_to_save"),
    (dict(rank_pattern={"q_proj": 8}), "rank_pattern"), (dict(alpha_pattern={"q_proj": 8}), "alpha_pattern"), (dict(lora_bias=True), "lora_bias"),
    (dict(bias="all"), "bias"), (dict(peft_type="IA3"), "IA3"), (dict(peft_type=...), "peft_type"),
    (dict(layer_replication=[[0, 2], [1, 3]]), "layer_replication"), (dict(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    (dict(init_lora_weights="pissa"), "pissa"), (dict(init_lora_weights="pissa_niter_4"), "pissa"), (dict(init_lora_weights="loftq"), "loftq"),
], ids=str)
def test_an_adapter_config_that_this_lora_does_not_compute_is_refused(base, tmp_path, changes, says):
    adapter(tmp_path / "a", base, ["q_proj"], 4, 8, 0)
    edit_json(tmp_path / "a" / "adapter_config.json", **changes)
    refusal(lora.stack, load(base), {"ir": tmp_path / "a"}, names=[tmp_path / "a", says])


def test_an_adapter_config_with_harmless_keys_is_read(base, tmp_path):
    adapter(tmp_path / "a", base, ["q_proj"], 4, 8, 0, rank_pattern={}, alpha_pattern={}, init_lora_weights="gaussian", modules_to_save=None,
            layers_to_transform=None, use_dora=False)
    assert lora.read_adapter(tmp_path / "a")[1:] == (4, 2.0)


Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize("change, says", [
    (lambda t: t.pop(Q0 + "A.weight"), "layers.0.self_attn.q_proj"), (lambda t: t.pop(Q0 + "B.weight"), "layers.0.self_attn.q_proj"),
    (lambda t: [t[name].zero_() for name in t if "lora_B" in name], "zero"), (lambda t: t[Q0 + "B.weight"].zero_(), "layers.0.self_attn.q_proj is zero"),
    (lambda t: t.clear(), "zero or missing"),
    (lambda t: t.update({Q0 + "A.weight": torch.ones(5, 64)}), "A of (5, 64)"), (lambda t: t.update({Q0 + "B.weight": torch.ones(64, 5)}), "B of (64, 5)"),
    (lambda t: t.update({Q0 + "A.weight": torch.ones(4)}), "layers.0.self_attn.q_proj"), (lambda t: t.update({Q0 + "B.weight": torch.ones(4)}), "layers.0.self_attn.q_proj"),
    (lambda t: t.update({Q0 + "A.weight": torch.tensor(4.0)}), "layers.0.self_attn.q_proj"),
    (lambda t: t.update({Q0 + "magnitude_vector": torch.ones(64)}), "magnitude_vector"), (lambda t: t.update({Q0[:-5] + "bias": torch.ones(64)}), "bias"),
    (lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}), "model.layers.0"),
    (lambda t: t.update({Q0.replace("self_attn.q_proj", "input_layernorm") + half: torch.ones(4, 4) for half in ("A.weight", "B.weight")}), "input_layernorm"),
], ids=["A missing", "B missing", "B all zero", "one B zero", "empty", "A of another rank", "B of another rank", "A flat", "B flat", "A a number", "DoRA", "bias", "no prefix", "on a norm"])
def test_adapter_tensors_that_do_not_fit_are_refused(base, tmp_path, change, says):
    adapter(tmp_path / "a", base, ["q_proj", "v_proj"], 4, 8, 0)
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {name: t.clone() for name, t in read_safetensors(file).items()}
    change(tensors)
    write_safetensors(file, tensors)
    refusal(lora.stack, load(base), {"ir": tmp_path / "a"}, names=[tmp_path / "a", says])


def test_a_folder_without_an_adapter_is_refused(base, tmp_path):
    refusal(lora.stack, load(base), {"ir": tmp_path}, names=[tmp_path, "adapter_config.json"])
    adapter(tmp_path / "a", base, ["q_proj"], 4, 8, 0)
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    refusal(lora.stack, load(base), {"ir": tmp_path / "a"}, names=[tmp_path / "a", "adapter_model.safetensors"])


def test_unknown_targets_and_a_second_injection_are_refused(base, three):
    refusal(lora.inject, load(base), ["q_proj", "query", "c_attn"], {"ir": (4, 1.0)}, names=["query", "c_attn", "v_proj"])
    model, _ = injected(base)
    refusal(lora.inject, model, ["q_proj"], {"kg": (4, 1.0)}, names=["already"])
    refusal(lora.stack, model, three[0], names=["already"])


def test_what_needs_the_matrices_apart_is_refused_after_fusing(base, three, tmp_path):
    model = load(base)
    lora.stack(model, three[0])
    lora.fuse(model)
    for refused, *rest in ((lora.save_adapter, "ir", tmp_path / "new", base), (lora.merge, "ir"), (lora.fuse,)):
        refusal(refused, model, *rest, names=["fused"])
    assert not (tmp_path / "new").exists()
    refusal(lora.inject, lora.fuse(load(base)), ["q_proj"], {"ir": (4, 1.0)}, names=["fused"])

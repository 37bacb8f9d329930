"""model.py against transformers and safetensors: same logits, same files; and refusals that say
why. For the cache and all that is fused or packed see test_engine.py."""
import json
import math
import os
import random
import shutil

import pytest
import torch
from conftest import edit_json

from model import (
    causal_attention,
    load_model,
    pick_device,
    read_config,
    read_safetensors,
    read_weights,
    write_safetensors,
)
from support.files import atomic_write


def some_ids(*shape, seed=0, vocabulary=97):
    return torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def our_logits(folder, ids, dtype=torch.float32):
    model = load_model(folder, dtype=dtype)
    with torch.no_grad():
        return model.logits(model(ids))


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.3  # a flat oracle would agree with anything
    assert (ours - theirs).abs().max().item() <= tolerance
    return True


# --------------------------------------------------------------------------------------------------
# The decoder

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
UPPER = dict(family="qwen2", sliding_window=9, max_window_layers=1)  # a window in the upper layers
BASES = {
    "llama": dict(),
    "llama with as many kv heads as heads": dict(num_key_value_heads=4),
    "llama with one kv head": dict(num_key_value_heads=1),
    "llama with attention biases": dict(attention_bias=True),
    "llama with a tied head": dict(tie_word_embeddings=True),
    "llama with its own head_dim": dict(head_dim=24),
    "llama3 rope scaling": dict(rope_parameters=LLAMA3, head_dim=32),
    "mistral without a window": dict(family="mistral", sliding_window=None),
    "mistral with a window": dict(family="mistral", sliding_window=7),
    "mistral with its own head_dim": dict(family="mistral", sliding_window=None, head_dim=8),
    "qwen2": dict(family="qwen2"),
    "qwen2 with a tied head": dict(family="qwen2", tie_word_embeddings=True),
    "qwen2 with a window in its upper layers": dict(UPPER, use_sliding_window=True),
    "qwen2 with a window that is not used": dict(UPPER, use_sliding_window=False),
}
WINDOW_KEYS = ("sliding_window", "use_sliding_window", "max_window_layers")


def write_old_config(folder, family="llama", rope_parameters=None, **changes):
    """The config.json that model folders had before transformers 5: rope_theta, rope_scaling with
    "type", torch_dtype, no layer_types."""
    rope = dict(rope_parameters or {"rope_theta": 500.0})
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    scaling = None if kind == "default" else {"type": kind, **rope}
    windows = {key: changes[key] for key in WINDOW_KEYS if key in changes}
    edit_json(folder / "config.json", rope_parameters=..., layer_types=..., dtype=...,
              torch_dtype="float32", rope_theta=theta, rope_scaling=scaling, **windows)


@pytest.mark.parametrize("style", ["new config", "old config"])
@pytest.mark.parametrize("name", BASES)
def test_logits_equal_transformers(make_base, name, style):
    folder, hf = make_base(**BASES[name])
    if style == "old config":
        write_old_config(folder, **BASES[name])
    ids = some_ids(2, 200)
    assert close(our_logits(folder, ids), hf(ids).logits)


PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize("name, plain", [
    ("llama3 rope scaling", dict(rope_parameters=PLAIN_ROPE)),
    ("mistral with a window", dict(sliding_window=None)),
    ("qwen2 with a window in its upper layers", dict(use_sliding_window=False))])
def test_the_test_above_can_see_scaling_and_windows(make_base, name, plain):
    ids = some_ids(2, 200)
    with_it, without = make_base(**BASES[name])[1], make_base(**BASES[name] | plain)[1]
    assert (with_it(ids).logits - without(ids).logits).abs().max() > 0.1


def test_windows_that_the_config_leaves_out_have_the_defaults_of_transformers(make_base):
    folder, hf = make_base("mistral")
    edit_json(folder / "config.json", sliding_window=...)
    assert read_config(folder).windows == [hf.config.sliding_window] * 3 == [4096] * 3


def test_a_config_may_name_its_dtype_either_way_and_leave_out_what_has_a_default(make_base):
    folder, hf = make_base(num_key_value_heads=4, rope_parameters=PLAIN_ROPE, rms_norm_eps=1e-6)
    optional = ("num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps",
                "tie_word_embeddings", "dtype")
    edit_json(folder / "config.json", **dict.fromkeys(optional, ...))
    ids = some_ids(1, 30)
    assert close(our_logits(folder, ids), hf(ids).logits)


# The paper's bases: the keys of their own config.json, with smaller numbers.
SMALL = dict(
    vocab_size=97, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
    num_attention_heads=4, bos_token_id=1, eos_token_id=2, hidden_act="silu",
    initializer_range=0.02, tie_word_embeddings=False, use_cache=True, torch_dtype="bfloat16")
LLAMA = dict(SMALL, architectures=["LlamaForCausalLM"], model_type="llama", pretraining_tp=1,
             rope_scaling=None)
LLAMA_3 = dict(LLAMA, num_key_value_heads=2, max_position_embeddings=8192, rms_norm_eps=1e-5,
               rope_theta=500000.0, attention_bias=False, attention_dropout=0.0)
PAPER = {
    "LLaMA-2": dict(LLAMA, num_key_value_heads=4, max_position_embeddings=4096, rms_norm_eps=1e-5,
                    transformers_version="4.31.0.dev0"),
    "LLaMA-3": LLAMA_3,
    "LLaMA-3.1": dict(
        LLAMA_3, max_position_embeddings=131072, mlp_bias=False, rope_scaling=dict(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64, rope_type="llama3")),
    "Mistral v0.1": dict(
        SMALL, architectures=["MistralForCausalLM"], model_type="mistral", num_key_value_heads=2,
        max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=40),
    "Qwen2.5-Math": dict(
        SMALL, architectures=["Qwen2ForCausalLM"], model_type="qwen2", num_key_value_heads=2,
        max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=10000, attention_dropout=0.0,
        max_window_layers=1, sliding_window=40, use_mrope=False, use_sliding_window=False),
    "DeepSeekMath": dict(
        LLAMA, num_key_value_heads=4, max_position_embeddings=4096, rms_norm_eps=1e-6,
        rope_theta=10000.0, attention_bias=False, attention_dropout=0.0),
}


def spell(config, style):
    """The config as it was written then, or as transformers 5 writes it."""
    config = dict(config)
    scaling = config.get("rope_scaling")
    if style == "new":
        config.pop("rope_scaling", None)
        theta = config.pop("rope_theta", 10000.0)
        rope = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
        return config | dict(rope_parameters=rope, dtype=config.pop("torch_dtype"))
    if scaling:
        old = {key: value for key, value in scaling.items() if key != "rope_type"}
        config["rope_scaling"] = old | {"type": scaling["rope_type"]}
    return config


@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_bases_load_from_their_own_config(make_base, name, style):
    """Sharded, in bfloat16; both sides read the same files, in 200 tokens that the window of
    Mistral does not span."""
    transformers = pytest.importorskip("transformers")
    config = PAPER[name]
    folder, _ = make_base(config["model_type"], shard="50KB", dtype=torch.bfloat16,
                          num_key_value_heads=config["num_key_value_heads"])
    (folder / "config.json").write_text(json.dumps(spell(config, style)))
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager")
    ids = some_ids(2, 200)
    with torch.no_grad():
        assert close(our_logits(folder, ids), hf(ids).logits)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert read_config(folder).windows == [40 if name == "Mistral v0.1" else None] * 3


def test_sharded_weights_give_the_same_logits(make_base):
    folder, hf = make_base(shard="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    ids = some_ids(2, 20)
    assert close(our_logits(folder, ids), hf(ids).logits)


def test_bf16_weights_keep_their_bits_and_give_the_same_logits_in_float32(make_base):
    folder, hf = make_base(dtype=torch.bfloat16)
    ids = some_ids(2, 20)
    assert close(our_logits(folder, ids), hf(ids).logits)
    model = load_model(folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    for name, weight in hf.named_parameters():
        assert torch.equal(model.get_parameter(name), weight.bfloat16())


def test_bf16_decoding_is_as_near_to_float32_as_transformers_is(make_base):
    folder, hf = make_base(dtype=torch.bfloat16)
    ids = some_ids(4, 50)
    exact = hf(ids).logits
    rounded = type(hf).from_pretrained(folder, dtype=torch.bfloat16)
    theirs = (rounded(ids).logits.float() - exact).abs().mean()
    assert (our_logits(folder, ids, torch.bfloat16) - exact).abs().mean() <= 1.1 * theirs


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(make_base):
    model = load_model(make_base(tie_word_embeddings=True)[0], dtype=torch.float32)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_stands_to_the_right_changes_nothing(make_base):
    """Causal: so right padding needs no mask."""
    folder, _ = make_base("mistral", sliding_window=7)
    ids = some_ids(1, 40)
    padded = torch.cat([ids[:, :25], torch.zeros(1, 15, dtype=torch.long)], 1)
    alone, whole = our_logits(folder, padded)[:, :25], our_logits(folder, ids)[:, :25]
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)


# Attention, and the seam by which the decoder is told how to attend


def attention_by_definition(q, k, v, window=None):
    """Query by query, head by head, in float64: nothing is masked, since what may not be looked at
    is not there."""
    (_, H, T, D), K = q.shape, k.shape[1]
    q, k, v, y = q.double(), k.double(), v.double(), torch.empty_like(q, dtype=torch.float64)
    for h in range(H):
        group = h // (H // K)
        for t in range(T):
            first = 0 if window is None else max(0, t - window + 1)
            keys, values = k[:, group, first:t + 1], v[:, group, first:t + 1]
            p = torch.softmax((keys @ q[:, h, t, :, None])[..., 0] / math.sqrt(D), -1)
            y[:, h, t] = (p[..., None] * values).sum(1)
    return y


@pytest.mark.parametrize("window", [None, 1, 7, 512, 600])
@pytest.mark.parametrize("T", [1, 512, 513])
def test_attention_is_its_definition_with_short_and_long_sequences(T, window):
    """Up to 512 tokens by hand, above by torch: outputs, and gradients of the last five tokens."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, T, 8, requires_grad=True) for heads in (4, 2, 2))
    ours = causal_attention(q, k, v, window)
    rows = slice(max(0, T - 5), T)
    grads = torch.autograd.grad(ours[:, :, rows].pow(2).sum(), (q, k, v))
    with torch.no_grad():
        theirs = attention_by_definition(q, k, v, window)
    torch.testing.assert_close(ours.double(), theirs, atol=2e-6, rtol=0)
    assert all(grad.isfinite().all() for grad in grads)
    # a token's gradient reaches back as far as its window, and no further
    reach = grads[2].abs().amax((0, 1, 3)).nonzero()[0].item()
    assert reach == (0 if window is None else max(0, rows.start - window + 1))


def test_the_decoder_is_told_how_to_attend(make_base):
    """It hands over layer after layer, and computes with what comes back."""
    model = load_model(make_base(**BASES["qwen2 with a window in its upper layers"])[0],
                       dtype=torch.float32)
    ids, seen = some_ids(2, 20), []

    def attend(layer_index, q, k, v):
        seen.append((layer_index, tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return attention_by_definition(q, k, v, model.config.windows[layer_index]).float()
    with torch.no_grad():
        assert close(model(ids, attend=attend), model(ids))
        blind = model(ids, attend=lambda layer_index, q, k, v: torch.zeros_like(q))
    assert seen == [(i, (2, 4, 20, 16), (2, 2, 20, 16), (2, 2, 20, 16)) for i in range(3)]
    for twin in blind[ids == ids[0, 0]]:  # what attends to nothing depends on its token alone
        assert torch.equal(twin, blind[0, 0])
    assert not torch.equal(blind[0, 0], blind[0, 1])


@torch.no_grad()
def test_positions_may_be_given(make_base):
    """Only their differences matter: sequences may begin anywhere, each elsewhere, but not run
    twice as fast."""
    model, ids = load_model(make_base()[0], dtype=torch.float32), some_ids(2, 30)
    positions = torch.arange(30)[None]
    assert torch.equal(model(ids, positions), model(ids))
    assert close(model(ids, positions + torch.tensor([[5], [300]])), model(ids), 1e-4)
    assert (model(ids, 2 * positions) - model(ids)).abs().max() > 0.1


# --------------------------------------------------------------------------------------------------
# Folders that are refused, in a sentence that names what is wrong


def refusal(call, *args, names=(), **kwargs):
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    for name in names:
        assert str(name) in message, message
    assert message.endswith((".", ").")), message
    return message


FULL = "full_attention"
LACKING = {key: value for key, value in LLAMA3.items() if key != "low_freq_factor"}
NOT_NUMBERS = dict(
    hidden_size="64", num_attention_heads=0, num_hidden_layers=2.5, vocab_size=None,
    intermediate_size=[112], num_key_value_heads="2", head_dim=-16, sliding_window="7",
    max_position_embeddings="2048", rms_norm_eps="1e-3")


@pytest.mark.parametrize("changes, says", [
    (dict(model_type="gpt2"), "gpt2"),
    (dict(model_type="deepseek_v3"), "deepseek_v3"),
    (dict(model_type=...), "model_type"),
    (dict(quantization_config={"bits": 4}), "quantised"),
    (dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), "yarn"),
    (dict(rope_parameters=..., rope_scaling={"type": "linear", "factor": 2.0}), "linear"),
    (dict(rope_parameters=..., rope_scaling={"rope_type": "longrope", "factor": 2.0}), "longrope"),
    (dict(rope_parameters=LACKING), "low_freq_factor"),
    (dict(hidden_act="gelu"), "hidden_act"),
    (dict(mlp_bias=True), "mlp_bias"),
    *[({key: ...}, key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers",
                                    "vocab_size", "intermediate_size")],
    *[({key: value}, f"{key} is {value!r}") for key, value in NOT_NUMBERS.items()],
    (dict(num_attention_heads="4"), "num_attention_heads is '4'"),
    (dict(rope_parameters=..., rope_theta="500"), "rope_theta is '500'"),
    (dict(rope_parameters=LLAMA3 | {"factor": "8"}), "factor is '8'"),
    (dict(rope_parameters=LLAMA3 | {"factor": None}), "lacks factor"),
    (dict(rope_parameters=..., rope_scaling="linear"), "'linear'"),
    (dict(rope_parameters=[2.0]), "[2.0]"),
    (dict(rope_parameters=..., rope_scaling={"factor": 2.0}), "None"),
    (dict(model_type="qwen2", max_window_layers=None), "max_window_layers is None"),
    (dict(layer_types=5), "layer_types"),
    (dict(layer_types=[FULL] * 2), "3 layers"),
    (dict(layer_types=["chunked_attention", FULL, FULL]), "layer_types"),
    (dict(layer_types=[[]] * 3), "layer_types"),
], ids=str)
def test_a_config_that_would_be_computed_wrongly_is_refused(make_base, changes, says):
    folder, _ = make_base()
    edit_json(folder / "config.json", **changes)
    refusal(load_model, folder, names=[folder / "config.json", says])


@pytest.mark.parametrize("text", ["", "[]", "null", "{\"a\": ", "\xff"])
def test_a_config_that_is_not_a_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    refusal(read_config, tmp_path, names=[tmp_path / "config.json"])


def test_a_folder_without_config_or_weights_is_refused(make_base, tmp_path):
    refusal(load_model, tmp_path / "nowhere", names=["nowhere", "config.json"])
    folder, _ = make_base()
    (folder / "model.safetensors").unlink()
    refusal(load_model, folder, names=["model.safetensors"])


def change_weights(folder, change):
    st = pytest.importorskip("safetensors.torch")
    tensors = st.load_file(folder / "model.safetensors")
    tensors = {name: t.clone() for name, t in tensors.items()}
    change(tensors)
    st.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("tied", [False, True])
def test_each_missing_tensor_is_named(make_base, tied):
    folder, _ = make_base(attention_bias=True, num_hidden_layers=1, tie_word_embeddings=tied)
    whole = (folder / "model.safetensors").read_bytes()
    for name in read_weights(folder):
        (folder / "model.safetensors").write_bytes(whole)
        change_weights(folder, lambda tensors, name=name: tensors.pop(name))
        refusal(load_model, folder, names=[folder, name])


def test_an_extra_tensor_is_named(make_base):
    folder, _ = make_base()
    extra = {"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}
    change_weights(folder, lambda tensors: tensors.update(extra))
    refusal(load_model, folder, names=[folder, *extra])


def test_biases_that_the_config_does_not_announce_are_refused(make_base):
    folder, _ = make_base(attention_bias=True)
    edit_json(folder / "config.json", attention_bias=False)
    assert ".bias" in refusal(load_model, folder, names=[folder])


@pytest.mark.parametrize("name", [
    "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_misshapen_tensor_is_named_with_both_shapes(make_base, name):
    folder, _ = make_base()
    was = tuple(read_weights(folder)[name].shape)

    def lengthen(tensors):
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    change_weights(folder, lengthen)
    shapes = f"has the shape {(was[0] + 1, *was[1:])}, config.json asks for {was}"
    refusal(load_model, folder, names=[folder, name, shapes])


def test_a_tied_head_may_be_stored_twice_if_both_are_the_same(make_base):
    folder, hf = make_base(tie_word_embeddings=True)

    def store_twice(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    change_weights(folder, store_twice)
    assert close(our_logits(folder, some_ids(1, 9)), hf(some_ids(1, 9)).logits)
    change_weights(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    refusal(load_model, folder, names=[folder, "lm_head.weight"])


def test_stored_rotary_frequencies_of_old_folders_are_ignored(make_base):
    folder, hf = make_base()
    stored = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    change_weights(folder, lambda tensors: tensors.update(stored))
    assert close(our_logits(folder, some_ids(1, 9)), hf(some_ids(1, 9)).logits)


def test_every_name_of_a_stop_token_is_read(make_base):
    folder, _ = make_base()
    (folder / "generation_config.json").unlink(missing_ok=True)
    for stored, read in ((7, [7]), ([7, 9], [7, 9]), (None, [])):
        edit_json(folder / "config.json", eos_token_id=stored)
        assert read_config(folder).eos_ids == read
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert read_config(folder).eos_ids == [5, 6]
    for wrong in ("2", [2, "3"], {"id": 2}):
        edit_json(folder / "generation_config.json", eos_token_id=wrong)
        refusal(read_config, folder, names=[folder, repr(wrong)])


def test_null_is_as_good_as_no_key(make_base):
    folder, _ = make_base(num_key_value_heads=4)
    optional = ("quantization_config", "rope_parameters", "rope_scaling", "rope_theta",
                "rms_norm_eps", "head_dim", "num_key_value_heads", "layer_types",
                "max_position_embeddings")
    edit_json(folder / "config.json", **dict.fromkeys(optional, ...))
    without = read_config(folder)
    edit_json(folder / "config.json", **dict.fromkeys(optional))
    assert read_config(folder) == without
    assert (without.rope_theta, without.rms_norm_eps) == (10000.0, 1e-6)


@pytest.mark.parametrize("file", [
    "../x", "../model-00001.safetensors", "..", ".", "", "a/b", "/etc/passwd", 7, None])
def test_a_shard_index_may_not_leave_its_folder(make_base, tmp_path, file):
    folder, _ = make_base()
    index = folder / "model.safetensors.index.json"
    shutil.move(folder / "model.safetensors", tmp_path / "x")
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    named = "" if file in ("..", ".", "") else repr(file)
    refusal(read_weights, folder, names=[index.name, named])


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', "{}"])
def test_a_shard_index_of_another_shape_is_refused(make_base, index):
    folder, _ = make_base()
    # where both are, the single file is read, as transformers does
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    refusal(load_model, folder, names=[folder])


def test_a_shard_index_that_is_wrong_is_refused(make_base):
    folder, _ = make_base(shard="50KB")
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    one, other = sorted(set(where.values()))[:2]
    name = next(n for n, file in where.items() if file == one)
    edit_json(index, weight_map=where | {name: other})
    refusal(read_weights, folder, names=[name, other])
    edit_json(index, weight_map=where)
    (folder / one).unlink()
    refusal(read_weights, folder, names=[one])


def test_pick_device_knows_the_cpu_refuses_nonsense_and_leaves_cuda_asleep():
    assert pick_device("cpu") == torch.device("cpu")
    for nonsense in ("gpu", "", "cpu:x", "cpu:1", "banana", "cuda:99", "cpu:-1", "CPU", "meta",
                     "cuda:x"):
        refusal(pick_device, nonsense, names=[f"--device {nonsense}"])
    if not torch.cuda.is_available():
        assert pick_device() == torch.device("cpu") and not torch.cuda.is_initialized()
        refusal(pick_device, "cuda", names=["cpu"])


# --------------------------------------------------------------------------------------------------
# safetensors

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
         torch.int16, torch.int8, torch.uint8, torch.bool]
SHAPES = [(), (3, 5), (0,), (2, 0, 3), (1, 1, 7)]


def zoo():
    """Every dtype, 0-d, empty, odd sizes (so that what follows is not aligned), a view, a name that
    needs escapes."""
    torch.manual_seed(0)
    tensors = {f"{kind}-{shape}": (torch.randn(shape) * 50).to(kind)
               for kind in KINDS for shape in SHAPES}
    tensors["transposed"] = torch.randn(4, 6).T
    tensors["sliced"] = torch.randn(4, 6)[:, 1:3]
    tensors['na"me \u4e00\\ \n'] = torch.tensor([float("nan"), -0.0, float("inf")])
    return tensors


def same(ours, theirs):
    """Equal names, dtypes, shapes and bits."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = ours[name], theirs[name]
        assert a.dtype == b.dtype and a.shape == b.shape
        bits = (t.contiguous().view(-1).view(torch.uint8) for t in (a, b))
        assert torch.equal(*bits), name
    return True


def test_a_file_of_the_library_is_read_equal(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    whole = {name: t.contiguous() for name, t in zoo().items()}
    st.save_file(whole, tmp_path / "x", metadata={"format": "pt", "é": "ü"})
    assert same(read_safetensors(tmp_path / "x"), st.load_file(tmp_path / "x"))
    assert same(read_safetensors(tmp_path / "x"), zoo())


def test_a_file_of_ours_is_read_equal_by_the_library(tmp_path):
    library, st = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.torch")
    path = tmp_path / "new folder" / "x"
    write_safetensors(path, zoo())
    assert same(st.load_file(path), zoo())
    with library.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert same(read_safetensors(path), zoo())
    # the numbers begin at a multiple of eight
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    write_safetensors(tmp_path / "none", {})
    assert read_safetensors(tmp_path / "none") == st.load_file(tmp_path / "none") == {}


def test_writing_to_a_tensor_that_was_read_leaves_the_file_alone(tmp_path):
    write_safetensors(tmp_path / "x", zoo())
    before = (tmp_path / "x").read_bytes()
    read_safetensors(tmp_path / "x")["transposed"].zero_()
    assert (tmp_path / "x").read_bytes() == before


def file_of(header, body=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def entry(start, stop, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def one(start, stop, shape=(1,), dtype="F32", **changes):
    """A file of one tensor and four bytes."""
    return file_of({"a": entry(start, stop, shape, dtype) | changes}, bytes(4))


NAN, INF = float("nan"), float("inf")
GOOD = file_of({"a": entry(0, 4), "b": entry(4, 12, [2])}, bytes(12))
A_TWICE = (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
           b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}')
MANY_DIGITS = b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'
MALFORMED = {
    "empty": b"", "seven bytes": b"\0" * 7, "only a length": b"\2" + b"\0" * 7,
    "huge length": file_of(b"{}", length=2**64 - 1),
    "length past 2^63": file_of(b"{}", length=2**63),
    "length one too long": file_of(b"{}", length=3),
    "header over 100 MB": None,  # made in the test
    "truncated in the header": GOOD[:40], "truncated in the numbers": GOOD[:-1],
    "trailing byte": GOOD + b"\0",
    "not JSON": file_of(b"{nonsense}"), "not an object": file_of(b"[]"),
    "leading space": file_of(b" {}"), "not UTF-8": file_of(b'{"\xff":1}'),
    "UTF-16": file_of('{"a":1}'.encode("utf-16-le")),
    "nested beyond measure": file_of(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "number of 5,000 digits": file_of(MANY_DIGITS, bytes(4)),
    "overlap": file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "same place": file_of({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
    "hole": file_of({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "hole at the start": file_of({"a": entry(4, 8)}, bytes(8)),
    "smaller than its shape": one(0, 4, [2]),
    "larger than its shape": file_of({"a": entry(0, 8)}, bytes(8)),
    "negative shape": one(0, 4, [-1]), "two negatives": one(0, 4, [-1, -1]),
    "negative offset": one(-4, 0), "backwards": one(4, 0),
    "fraction in the shape": one(0, 4, [1.0]), "true in the shape": one(0, 4, [True]),
    "text in the shape": one(0, 4, ["1"]),
    "shape is a number": file_of({"a": entry(0, 4) | {"shape": 1}}, bytes(4)),
    "fraction in the offsets": one(0.0, 4.0), "true in the offsets": one(False, 4),
    "fraction in the offsets of an empty tensor": file_of({"a": entry(0.0, 0.0, [0])}),
    "NaN in the offsets": one(NAN, 4), "infinite offset": one(0, INF),
    "empty of impossible shape": file_of({"a": entry(0, 0, [0, 2**70])}),
    "offsets beyond any file": file_of({"a": entry(0, 2**66, [2**64])}),
    "sizes that overflow": file_of({"a": entry(0, 0, [2**32, 2**32])}),
    "three offsets": one(0, 4, data_offsets=[0, 4, 4]), "one offset": one(0, 4, data_offsets=[0]),
    "offsets as text": one(0, 4, data_offsets="04"),
    "no offsets": file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "unknown dtype": one(0, 4, dtype="F33"), "dtype is a list": one(0, 4, dtype=["F32"]),
    "entry is a number": file_of({"a": 4}), "entry is null": file_of({"a": None}),
    "bytes without a tensor": file_of({}, bytes(4)), "a name twice": file_of(A_TWICE, bytes(8)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_in_a_sentence_that_names_it(tmp_path, name):
    library, st = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    path.write_bytes(MALFORMED[name] or file_of(b"{}" + b" " * 100_000_000))
    if name != "leading space":  # the format forbids it, the library does not
        # the oracle agrees that it is malformed
        with pytest.raises((library.SafetensorError, RuntimeError)):
            st.load_file(path)
    refusal(read_safetensors, path, names=[path])


def flipped(good, rng):
    """The file with one to three bytes changed, in the length or the header (the last 32 bytes are
    numbers, which may be any); every tenth ends too early, too."""
    bad = bytearray(good)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(bad) - 32)
        any_byte, one_bit = rng.randrange(256), bad[at] ^ 1 << rng.randrange(8)
        bad[at] = rng.choice([any_byte, one_bit, *b'0123456789,:"[]{}-'])
    return bytes(bad[:rng.randrange(len(bad))]) if rng.random() < 0.1 else bytes(bad)


def test_whatever_bytes_are_flipped_the_answer_is_a_refusal_or_that_of_the_library(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    rng, refused, path = random.Random(0), 0, tmp_path / "x"
    header = {"__metadata__": {"format": "pt"}, "w": entry(0, 12, [3]),
              "b": entry(12, 20, [2, 2], "BF16"), "n": entry(20, 20, [0], "I64"),
              "x": entry(20, 24, [2, 2], "BOOL"), "y": entry(24, 32, [], "F64")}
    good = file_of(header, bytes(rng.choices([0, 1], k=32)))
    for _ in range(1500):
        path.write_bytes(bad := flipped(good, rng))
        try:
            ours = read_safetensors(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert same(ours, st.load(bad))
    assert 700 < refused < 1500


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    for unwritable in (torch.ones(2, device="meta"), torch.ones(2, dtype=torch.complex64),
                       torch.eye(2).to_sparse()):
        with pytest.raises((RuntimeError, NotImplementedError, KeyError)):
            write_safetensors(path, {"a": torch.zeros(1000), "b": unwritable})
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]

    def interrupted():
        yield b"half"
        assert path.read_bytes() == before
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, interrupted())
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]

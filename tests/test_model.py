"""model.py against transformers, safetensors and tokenizers: same logits, same files, same ids; and refusals that say why."""
import functools
import json
import os
import random
import shutil
import unicodedata

import pytest
import torch

import data
import lora
import lorid
from conftest import edit_json
from model import (TEMPLATES, KVCache, Tokenizer, byte_alphabet, load_model, pack, pick_device, product, read_config, read_safetensors, read_weights,
                   write_safetensors, write_whole)


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


# ---------------------------------------------------------------------------------------------------------------------
# The decoder

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
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
    "qwen2 with a window in its upper layers": dict(family="qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen2 with a window that is not used": dict(family="qwen2", use_sliding_window=False, sliding_window=9, max_window_layers=1),
}


def write_old_config(folder, family="llama", rope_parameters=None, **changes):
    """The config.json that model folders had before transformers 5: rope_theta, rope_scaling with "type", torch_dtype, no layer_types."""
    rope = dict(rope_parameters or {"rope_theta": 500.0})
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    scaling = None if kind == "default" else {"type": kind, **rope}
    windows = {k: changes[k] for k in ("sliding_window", "use_sliding_window", "max_window_layers") if k in changes}
    edit_json(folder / "config.json", rope_parameters=..., layer_types=..., dtype=..., torch_dtype="float32", rope_theta=theta,
              rope_scaling=scaling, **windows)


@pytest.mark.parametrize("style", ["new config", "old config"])
@pytest.mark.parametrize("name", BASES)
def test_logits_equal_transformers(make_base, name, style):
    folder, hf = make_base(**BASES[name])
    if style == "old config":
        write_old_config(folder, **BASES[name])
    ids = some_ids(2, 200)
    assert close(our_logits(folder, ids), hf(ids).logits)


@pytest.mark.parametrize("name, plain", [("llama3 rope scaling", dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
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
    folder, hf = make_base(num_key_value_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, rms_norm_eps=1e-6)
    edit_json(folder / "config.json", num_key_value_heads=..., head_dim=..., rope_parameters=..., rms_norm_eps=..., tie_word_embeddings=..., dtype=...)
    ids = some_ids(1, 30)
    assert close(our_logits(folder, ids), hf(ids).logits)


# The paper's bases: the keys of their own config.json, with smaller numbers.
SMALL = dict(vocab_size=97, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4, bos_token_id=1, eos_token_id=2,
             hidden_act="silu", initializer_range=0.02, tie_word_embeddings=False, use_cache=True, torch_dtype="bfloat16")
LLAMA = dict(SMALL, architectures=["LlamaForCausalLM"], model_type="llama", pretraining_tp=1, rope_scaling=None)
PAPER = {
    "LLaMA-2": dict(LLAMA, num_key_value_heads=4, max_position_embeddings=4096, rms_norm_eps=1e-5, transformers_version="4.31.0.dev0"),
    "LLaMA-3": dict(LLAMA, num_key_value_heads=2, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=500000.0, attention_bias=False,
                    attention_dropout=0.0),
    "LLaMA-3.1": dict(LLAMA, num_key_value_heads=2, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, attention_bias=False,
                      attention_dropout=0.0, mlp_bias=False, rope_scaling=dict(
                          factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64, rope_type="llama3")),
    "Mistral v0.1": dict(SMALL, architectures=["MistralForCausalLM"], model_type="mistral", num_key_value_heads=2, max_position_embeddings=32768,
                         rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=40),
    "Qwen2.5-Math": dict(SMALL, architectures=["Qwen2ForCausalLM"], model_type="qwen2", num_key_value_heads=2, max_position_embeddings=4096,
                         rms_norm_eps=1e-6, rope_theta=10000, attention_dropout=0.0, max_window_layers=1, sliding_window=40, use_mrope=False,
                         use_sliding_window=False),
    "DeepSeekMath": dict(LLAMA, num_key_value_heads=4, max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=10000.0, attention_bias=False,
                         attention_dropout=0.0),
}


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_bases_load_from_their_own_config(make_base, name, spelling):
    """Sharded, in bfloat16; both sides read the same files, in 200 tokens that the window of Mistral does not span."""
    transformers = pytest.importorskip("transformers")
    config = dict(PAPER[name])
    folder, _ = make_base(config["model_type"], shard="50KB", dtype=torch.bfloat16, num_key_value_heads=config["num_key_value_heads"])
    if spelling == "new":
        rope = config.pop("rope_scaling", None) or {"rope_type": "default"}
        config |= dict(rope_parameters={"rope_theta": config.pop("rope_theta", 10000.0), **rope}, dtype=config.pop("torch_dtype"))
    elif config.get("rope_scaling"):
        config["rope_scaling"] = {{"rope_type": "type"}.get(key, key): value for key, value in config["rope_scaling"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = some_ids(2, 200)
    with torch.no_grad():
        assert close(our_logits(folder, ids), hf(ids).logits)
    assert len(list(folder.glob("model-*.safetensors"))) > 2 and read_config(folder).windows == [40 if name == "Mistral v0.1" else None] * 3


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


@pytest.mark.parametrize("family, tied", [("qwen2", False), ("llama", True)])
def test_packed_layers_say_what_they_said_before(make_base, family, tied):
    """With and without biases; a tied head is packed, its embedding is not; adapters on top, and both ways to call the model."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 kernels")
    folder, _ = make_base(family, tie_word_embeddings=tied)
    torch.manual_seed(0)
    lora.inject(model := load_model(folder, dtype=torch.float32), ["q_proj", "down_proj"], {"ir": (3, 2.0)})
    for _, layer in lora.layers(model):
        torch.nn.init.normal_(layer.B)
    lora.save_adapter(model, "ir", folder / "ir", folder)
    said, kinds = [], []
    for prepare in (lambda model: model, pack, lambda model: pack(lora.fuse(model))):
        lora.stack(model := load_model(folder, dtype=torch.bfloat16), {"ir": folder / "ir"})
        assert prepare(model) is model
        cache = KVCache(model.config, 3, torch.bfloat16, "cpu")
        with torch.inference_mode():
            lora.switch(model, ["ir", None, "ir"] * 30)
            said.append([model.logits(model(some_ids(90, 1), cache, [0] * 3, [30] * 3))])
            lora.switch(model, ["ir", None, "ir"])
            said[-1].append(model.logits(model(some_ids(3, 1), cache, [30, 7, 3], [1] * 3)))
        kinds.append([p.is_mkldnn for p in model.parameters() if p.dim() == 2 and p is not model.model.embed_tokens.weight])
        assert not model.model.embed_tokens.weight.is_mkldnn
    matrices = [3 * (7 + 2 * 2) + 1, 3 * (4 + 3) + 1]  # of each layer: seven, and A and B of two; fused: qkv, o, gate_up, down, and three A and B
    assert all(map(all, kinds[1:])) and [len(kind) for kind in kinds[1:]] == matrices
    for plain, packed in [pair for other in said[1:] for pair in zip(said[0], other)]:
        torch.testing.assert_close(packed, plain, atol=0.02, rtol=0.02)  # sums in another order, rounded to bfloat16
        assert (packed - plain).abs().mean() < 2e-3 < plain.abs().mean()


@pytest.mark.parametrize("shape, rows", [((3, 1), 8), ((64, 1), 64), ((65, 1), 96), ((1, 300), 320), ((7,), 8)])
def test_packed_products_have_few_numbers_of_rows(shape, rows):
    """Since each is compiled: what the kernel really gets, and that the rows added do not come out."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 kernels")
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*shape, 48).bfloat16(), torch.randn(40, 48).bfloat16(), torch.randn(40).bfloat16()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as recorded:
        y = product(x, packed, bias)
    assert [e.input_shapes[0] for e in recorded.events() if e.name == "mkldnn::_linear_pointwise"] == [[rows, 48]]
    torch.testing.assert_close(y, (x.double() @ weight.double().T + bias.double()).bfloat16(), atol=0.01, rtol=0.01)


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(make_base):
    model = load_model(make_base(tie_word_embeddings=True)[0], dtype=torch.float32)
    assert not any(p.requires_grad for p in model.parameters()) and not any(m.training for m in model.modules())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_stands_to_the_right_changes_nothing(make_base):
    """Causal: so right padding needs no mask."""
    folder, _ = make_base("mistral", sliding_window=7)
    ids = some_ids(1, 40)
    padded = torch.cat([ids[:, :25], torch.zeros(1, 15, dtype=torch.long)], 1)
    torch.testing.assert_close(our_logits(folder, padded)[:, :25], our_logits(folder, ids)[:, :25], atol=1e-6, rtol=0)


def gsm8k(shared, name):
    path = shared / "data" / "gsm8k" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_smollm2_says_the_same_as_in_transformers(smollm2, shared):
    """Greedy, float32, ten questions of different lengths: in one line and cached per row here, padded on the left there."""
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer(smollm2)
    texts = [tokenizer.encode(row["question"] + "\n") for row in gsm8k(shared, "test.jsonl")[:10]]
    hf = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    longest = max(map(len, texts))
    padded, mask = (torch.tensor([[0] * (longest - len(ids)) + (ids if part == "ids" else [1] * len(ids)) for ids in texts]) for part in ("ids", "mask"))
    theirs = hf.generate(padded, attention_mask=mask, max_new_tokens=24, min_new_tokens=24, do_sample=False, pad_token_id=0)[:, longest:].tolist()
    del hf
    model = load_model(smollm2, dtype=torch.float32)
    stop = model.config.eos_ids
    lengths = [len(ids) for ids in texts]
    cache = KVCache(model.config, 10, model.dtype, model.device)
    with torch.no_grad():
        hidden = model(torch.tensor([[i] for ids in texts for i in ids]), cache, [0] * 10, lengths)
        hidden, ours = hidden[torch.tensor(lengths).cumsum(0) - 1, 0], []
        for _ in range(24):
            logits = model.logits(hidden)
            logits[:, stop] = -torch.inf  # min_new_tokens does the same
            ours.append(logits.argmax(-1))
            hidden = model(ours[-1][:, None], cache, lengths, [1] * 10)[:, 0]
            lengths = [n + 1 for n in lengths]
    assert torch.stack(ours, 1).tolist() == theirs


# ---------------------------------------------------------------------------------------------------------------------
# The cache

WINDOWED = ["llama", "llama3 rope scaling", "mistral with a window", "qwen2 with a window in its upper layers"]


def dirty_cache(model, rows, size):
    """A cache full of leftovers, none of which may ever be seen."""
    cache = KVCache(model.config, rows, model.dtype, model.device)
    cache.reserve(size)
    for pair in cache.layers:
        for kept in pair:
            kept.normal_(0, 100)
    return cache


@torch.no_grad()
def feed(model, ids, cache, starts, lengths, row=0):
    """Feed ids[i, starts[i]:starts[i] + lengths[i]] to the rows from `row` on; the logits of each text, a list of (lengths[i], V)."""
    line = torch.cat([text[n:n + more] for text, n, more in zip(ids, starts, lengths)])[:, None]
    return model.logits(model(line, cache, starts, lengths, row))[:, 0].split(lengths)


@pytest.fixture(params=[True, False], ids=["by hand", "torch's"])
def either_attention(request, monkeypatch):
    """Our own attention, as for short texts on a CPU, and torch's, as on a GPU."""
    monkeypatch.setattr("model.by_hand", lambda T, device: request.param)


def decode(model, ids, cache, starts, steps):
    """Feed ids[row, start], ids[row, start + 1], ... one a step; the logits of each, (rows, steps, V)."""
    return torch.stack([torch.cat(feed(model, ids, cache, [n + t for n in starts], [1] * len(ids))) for t in range(steps)], 1)


@pytest.mark.parametrize("name", WINDOWED)
@torch.no_grad()
def test_cached_decoding_equals_the_whole_forward(make_base, either_attention, name):
    """Prompts of different lengths, in two calls, into rows of their own; then one token a row, each at its own position."""
    model = load_model(make_base(**BASES[name])[0], dtype=torch.float32)
    ids, lengths = some_ids(4, 60), [5, 23, 1, 12]
    whole = model.logits(model(ids))
    cache = dirty_cache(model, 6, 24)
    first = *feed(model, ids[2:], cache, [0, 0], lengths[2:], row=2), *feed(model, ids[:2], cache, [0, 0], lengths[:2])
    for text, row in enumerate([2, 3, 0, 1]):
        assert close(first[text], whole[row, :lengths[row]])
    for row, said in enumerate(decode(model, ids, cache, lengths, 36)):  # the cache grows in mid-text
        assert close(said, whole[row, lengths[row]:lengths[row] + 36])


@pytest.mark.parametrize("longest", [63, 64])
@torch.no_grad()
def test_a_whole_prompt_beside_one_whose_beginning_is_known(make_base, either_attention, longest):
    """Also where the whole one, the longest, ends at the cache's last position: only the other looks back further than its own tokens."""
    model = load_model(make_base()[0], dtype=torch.float32)
    ids = some_ids(2, 64)
    whole, cache = model.logits(model(ids)), dirty_cache(model, 2, 64)
    feed(model, ids[1:], cache, [0], [5], row=1)
    first, second = feed(model, ids, cache, [0, 5], [longest, 20])
    assert close(first, whole[0, :longest]) and close(second, whole[1, 5:25])


@pytest.mark.parametrize("name", WINDOWED)
@torch.no_grad()
def test_several_tokens_of_each_text_at_once_and_wrong_ones_taken_back(make_base, either_attention, name):
    """As when tokens are guessed: each row is fed some that are wrong and, from where they began, the right ones, a different number each."""
    model = load_model(make_base(**BASES[name])[0], dtype=torch.float32)
    ids, wrong, at = some_ids(4, 60), some_ids(4, 60).flip(0), [0, 0, 0, 0]
    whole, cache = model.logits(model(ids)), dirty_cache(model, 4, 8)
    for step in range(12):
        lengths = [1 + (step * k + k) % 4 for k in range(4)]
        feed(model, wrong, cache, at, [n + 1 for n in lengths[::-1]])
        for row, said in enumerate(feed(model, ids, cache, at, lengths)):
            assert close(said, whole[row, at[row]:at[row] + lengths[row]])
        at = [n + more for n, more in zip(at, lengths)]
    assert len(set(at)) > 2


@torch.no_grad()
def test_a_moved_row_goes_on_as_before_and_a_freed_row_takes_a_new_prompt(make_base):
    model = load_model(make_base("mistral", sliding_window=7)[0], dtype=torch.float32)
    ids, whole = some_ids(4, 40), None
    whole = model.logits(model(ids))
    cache = dirty_cache(model, 3, 16)
    feed(model, ids[:3], cache, [0, 0, 0], [9, 4, 15])
    decode(model, ids[:3], cache, [9, 4, 15], 5)
    cache.put(0, cache.take(2, 20), 20)  # text 2 takes the place of text 0
    feed(model, ids[3:], cache, [0], [11], row=2)  # and text 3 begins where it was
    steps = decode(model, ids[[2, 1, 3]], cache, [20, 9, 11], 15)
    for row, (text, at) in enumerate([(2, 20), (1, 9), (3, 11)]):
        assert close(steps[row], whole[text, at:at + 15])


@torch.no_grad()
def test_fewer_rows_than_the_cache_has_may_be_decoded(make_base):
    model = load_model(make_base()[0], dtype=torch.float32)
    ids = some_ids(3, 30)
    cache = dirty_cache(model, 3, 30)
    feed(model, ids, cache, [0, 0, 0], [10, 10, 10])
    assert close(decode(model, ids[:2], cache, [10, 10], 20), model.logits(model(ids[:2]))[:, 10:])


# ---------------------------------------------------------------------------------------------------------------------
# Folders that are refused, in a sentence that names what is wrong


def refusal(call, *args, names=(), **kwargs):
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    for name in names:
        assert str(name) in message, message
    assert message.endswith((".", ").")), message
    return message


@pytest.mark.parametrize("changes, says", [
    (dict(model_type="gpt2"), "gpt2"), (dict(model_type="deepseek_v3"), "deepseek_v3"), (dict(model_type=...), "model_type"), (dict(quantization_config={"bits": 4}), "quantised"),
    (dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), "yarn"),
    (dict(rope_parameters=..., rope_scaling={"type": "linear", "factor": 2.0}), "linear"),
    (dict(rope_parameters=..., rope_scaling={"rope_type": "longrope", "factor": 2.0}), "longrope"),
    (dict(rope_parameters={k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}), "low_freq_factor"),
    (dict(hidden_act="gelu"), "hidden_act"), (dict(mlp_bias=True), "mlp_bias"),
    *[({key: ...}, key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size")],
    *[({key: value}, f"{key} is {value!r}") for key, value in dict(
        hidden_size="64", num_attention_heads=0, num_hidden_layers=2.5, vocab_size=None, intermediate_size=[112], num_key_value_heads="2", head_dim=-16,
        max_position_embeddings="2048", rms_norm_eps="1e-3").items()],
    (dict(num_attention_heads="4"), "num_attention_heads is '4'"),
    (dict(rope_parameters=..., rope_theta="500"), "rope_theta is '500'"), (dict(rope_parameters=LLAMA3 | {"factor": "8"}), "factor is '8'"),
    (dict(rope_parameters=LLAMA3 | {"factor": None}), "lacks factor"),
    (dict(rope_parameters=..., rope_scaling="linear"), "'linear'"), (dict(rope_parameters=[2.0]), "[2.0]"),
    (dict(rope_parameters=..., rope_scaling={"factor": 2.0}), "None"),
    (dict(model_type="qwen2", max_window_layers=None), "max_window_layers is None"),
    (dict(layer_types=5), "layer_types"), (dict(layer_types=["full_attention"] * 2), "3 layers"),
    (dict(layer_types=["chunked_attention", "full_attention", "full_attention"]), "layer_types"), (dict(layer_types=[[]] * 3), "layer_types"),
], ids=str)
def test_a_config_that_would_be_computed_wrongly_is_refused(make_base, changes, says):
    folder, _ = make_base()
    edit_json(folder / "config.json", **changes)
    refusal(load_model, folder, names=[folder / "config.json", says])


@pytest.mark.parametrize("text", ["", "[]", "null", "{\"a\": ", "\xff"])
def test_a_config_that_is_not_a_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    refusal(read_config, tmp_path, names=[tmp_path / "config.json"])


def test_a_folder_without_config_or_weights_or_tokenizer_is_refused(make_base, tmp_path):
    refusal(load_model, tmp_path / "nowhere", names=["nowhere", "config.json"])
    folder, _ = make_base()
    (folder / "model.safetensors").unlink()
    refusal(load_model, folder, names=["model.safetensors"])
    refusal(Tokenizer, folder, names=["tokenizer.json"])


def change_weights(folder, change):
    st = pytest.importorskip("safetensors.torch")
    tensors = st.load_file(folder / "model.safetensors")
    tensors = {k: v.clone() for k, v in tensors.items()}
    change(tensors)
    st.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("tied", [False, True])
def test_each_missing_tensor_is_named(make_base, tied):
    folder, hf = make_base(attention_bias=True, num_hidden_layers=1, tie_word_embeddings=tied)
    whole = (folder / "model.safetensors").read_bytes()
    for name in read_weights(folder):
        (folder / "model.safetensors").write_bytes(whole)
        change_weights(folder, lambda tensors: tensors.pop(name))
        refusal(load_model, folder, names=[folder, name])


def test_an_extra_tensor_is_named(make_base):
    folder, _ = make_base()
    change_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}))
    refusal(load_model, folder, names=[folder, "model.layers.0.self_attn.q_norm.weight"])


def test_biases_that_the_config_does_not_announce_are_refused(make_base):
    folder, _ = make_base(attention_bias=True)
    edit_json(folder / "config.json", attention_bias=False)
    assert ".bias" in refusal(load_model, folder, names=[folder])


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_misshapen_tensor_is_named_with_both_shapes(make_base, name):
    folder, _ = make_base()
    was = tuple(read_weights(folder)[name].shape)
    change_weights(folder, lambda tensors: tensors.update({name: torch.cat([tensors[name], tensors[name][:1]])}))
    refusal(load_model, folder, names=[folder, name, was, (was[0] + 1, *was[1:])])


def test_a_tied_head_may_be_stored_twice_if_both_are_the_same(make_base):
    folder, hf = make_base(tie_word_embeddings=True)
    change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert close(our_logits(folder, some_ids(1, 9)), hf(some_ids(1, 9)).logits)
    change_weights(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    refusal(load_model, folder, names=[folder, "lm_head.weight"])


def test_stored_rotary_frequencies_of_old_folders_are_ignored(make_base):
    folder, hf = make_base()
    change_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
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
    optional = ("quantization_config", "rope_parameters", "rope_scaling", "rope_theta", "rms_norm_eps", "head_dim", "num_key_value_heads", "layer_types",
                "max_position_embeddings")
    edit_json(folder / "config.json", **dict.fromkeys(optional, ...))
    without = read_config(folder)
    edit_json(folder / "config.json", **dict.fromkeys(optional))
    assert read_config(folder) == without and (without.rope_theta, without.rms_norm_eps) == (10000.0, 1e-6)


@pytest.mark.parametrize("file", ["../x", "../model-00001.safetensors", "..", ".", "", "a/b", "/etc/passwd", 7, None])
def test_a_shard_index_may_not_leave_its_folder(make_base, tmp_path, file):
    folder, _ = make_base()
    shutil.move(folder / "model.safetensors", tmp_path / "x")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    refusal(read_weights, folder, names=["model.safetensors.index.json", repr(file) if file not in ("..", ".", "") else ""])


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', "{}"])
def test_a_shard_index_of_another_shape_is_refused(make_base, index):
    folder, _ = make_base()
    (folder / "model.safetensors").unlink()  # where both are, the single file is read, as transformers does
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
    for nonsense in ("gpu", "", "cpu:x", "cpu:1", "banana", "cuda:99", "cpu:-1", "CPU", "meta", "cuda:x"):
        refusal(pick_device, nonsense, names=[f"--device {nonsense}"])
    if not torch.cuda.is_available():
        assert pick_device() == torch.device("cpu") and not torch.cuda.is_initialized()
        refusal(pick_device, "cuda", names=["cpu"])


# ---------------------------------------------------------------------------------------------------------------------
# safetensors

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def zoo():
    """Every dtype, 0-d, empty, odd sizes (so that what follows is not aligned), a view, a name that needs escapes."""
    torch.manual_seed(0)
    tensors = {f"{kind}-{shape}": (torch.randn(shape) * 50).to(kind) for kind in KINDS for shape in [(), (3, 5), (0,), (2, 0, 3), (1, 1, 7)]}
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
        assert torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b))), name
    return True


def test_a_file_of_the_library_is_read_equal(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    st.save_file({name: t.contiguous() for name, t in zoo().items()}, tmp_path / "x", metadata={"format": "pt", "é": "ü"})
    assert same(read_safetensors(tmp_path / "x"), st.load_file(tmp_path / "x"))
    assert same(read_safetensors(tmp_path / "x"), zoo())


def test_a_file_of_ours_is_read_equal_by_the_library(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    write_safetensors(tmp_path / "new folder" / "x", zoo())
    assert same(st.load_file(tmp_path / "new folder" / "x"), zoo())
    with pytest.importorskip("safetensors").safe_open(tmp_path / "new folder" / "x", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert same(read_safetensors(tmp_path / "new folder" / "x"), zoo())
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


GOOD = file_of({"a": entry(0, 4), "b": entry(4, 12, [2])}, bytes(12))
MALFORMED = {
    "empty": b"", "seven bytes": b"\0" * 7, "only a length": b"\2" + b"\0" * 7,
    "huge length": file_of(b"{}", length=2**64 - 1), "length past 2^63": file_of(b"{}", length=2**63), "length one too long": file_of(b"{}", length=3),
    "header over 100 MB": None,  # made in the test
    "truncated in the header": GOOD[:40], "truncated in the numbers": GOOD[:-1], "trailing byte": GOOD + b"\0",
    "not JSON": file_of(b"{nonsense}"), "not an object": file_of(b"[]"), "leading space": file_of(b" {}"), "not UTF-8": file_of(b'{"\xff":1}'),
    "UTF-16": file_of('{"a":1}'.encode("utf-16-le")), "nested beyond measure": file_of(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "number of 5,000 digits": file_of(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', bytes(4)),
    "overlap": file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "same place": file_of({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
    "hole": file_of({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "hole at the start": file_of({"a": entry(4, 8)}, bytes(8)),
    "smaller than its shape": file_of({"a": entry(0, 4, [2])}, bytes(4)), "larger than its shape": file_of({"a": entry(0, 8)}, bytes(8)),
    "negative shape": file_of({"a": entry(0, 4, [-1])}, bytes(4)), "two negatives": file_of({"a": entry(0, 4, [-1, -1])}, bytes(4)),
    "negative offset": file_of({"a": entry(-4, 0)}, bytes(4)), "backwards": file_of({"a": entry(4, 0)}, bytes(4)),
    "fraction in the shape": file_of({"a": entry(0, 4, [1.0])}, bytes(4)), "true in the shape": file_of({"a": entry(0, 4, [True])}, bytes(4)),
    "text in the shape": file_of({"a": entry(0, 4, ["1"])}, bytes(4)), "shape is a number": file_of({"a": entry(0, 4) | {"shape": 1}}, bytes(4)),
    "fraction in the offsets": file_of({"a": entry(0.0, 4.0)}, bytes(4)), "true in the offsets": file_of({"a": entry(False, 4)}, bytes(4)),
    "fraction in the offsets of an empty tensor": file_of({"a": entry(0.0, 0.0, [0])}),
    "NaN in the offsets": file_of({"a": entry(float("nan"), 4)}, bytes(4)), "infinite offset": file_of({"a": entry(0, float("inf"))}, bytes(4)),
    "empty of impossible shape": file_of({"a": entry(0, 0, [0, 2**70])}), "offsets beyond any file": file_of({"a": entry(0, 2**66, [2**64])}),
    "sizes that overflow": file_of({"a": entry(0, 0, [2**32, 2**32])}),
    "three offsets": file_of({"a": entry(0, 4) | {"data_offsets": [0, 4, 4]}}, bytes(4)), "one offset": file_of({"a": entry(0, 4) | {"data_offsets": [0]}}, bytes(4)),
    "offsets as text": file_of({"a": entry(0, 4) | {"data_offsets": "04"}}, bytes(4)), "no offsets": file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "unknown dtype": file_of({"a": entry(0, 4, dtype="F33")}, bytes(4)), "dtype is a list": file_of({"a": entry(0, 4, dtype=["F32"])}, bytes(4)),
    "entry is a number": file_of({"a": 4}), "entry is null": file_of({"a": None}), "bytes without a tensor": file_of({}, bytes(4)),
    "a name twice": file_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_in_a_sentence_that_names_it(tmp_path, name):
    library, st = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    path.write_bytes(MALFORMED[name] or file_of(b"{}" + b" " * 100_000_000))
    if name != "leading space":  # the format forbids it, the library does not
        with pytest.raises((library.SafetensorError, RuntimeError)):  # the oracle agrees that it is malformed
            st.load_file(path)
    refusal(read_safetensors, path, names=[path])


def test_whatever_bytes_are_flipped_the_answer_is_a_refusal_or_that_of_the_library(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    rng, refused = random.Random(0), 0
    good = file_of({"__metadata__": {"format": "pt"}, "w": entry(0, 12, [3]), "b": entry(12, 20, [2, 2], "BF16"), "n": entry(20, 20, [0], "I64"),
                    "x": entry(20, 24, [2, 2], "BOOL"), "y": entry(24, 32, [], "F64")}, bytes(rng.choices([0, 1], k=32)))
    for _ in range(1500):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            at = rng.randrange(len(bad) - 32)  # in the length and the header: the numbers may be any
            bad[at] = rng.choice([rng.randrange(256), bad[at] ^ 1 << rng.randrange(8), *b'0123456789,:"[]{}-'])
        bad = bytes(bad[:rng.randrange(len(bad))]) if rng.random() < 0.1 else bytes(bad)
        (tmp_path / "x").write_bytes(bad)
        try:
            ours = read_safetensors(tmp_path / "x")
        except ValueError as error:
            assert str(tmp_path / "x") in str(error)
            refused += 1
        else:
            assert same(ours, st.load(bad))
    assert 700 < refused < 1500


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    for unwritable in (torch.ones(2, device="meta"), torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse()):
        with pytest.raises(Exception):
            write_safetensors(path, {"a": torch.zeros(1000), "b": unwritable})
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]

    def interrupted():
        yield b"half"
        assert path.read_bytes() == before
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted())
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]


# ---------------------------------------------------------------------------------------------------------------------
# The tokenizer

# The five files at hand: (its model_type, its end token, the template it is known by). The other model_type of llama2's is in tests of its own.
FILES = {"smollm2": ("llama", 2, "plain"), "llama2": ("llama", 2, "llama2"), "llama3": ("llama", 128001, "llama3"),
         "qwen3": ("qwen2", 151643, "qwen"), "deepseek_v3": ("llama", 1, "deepseek")}


def load_both(folder, spec, model_type="llama", eos=2, template=None):
    """(our Tokenizer, the one of the tokenizers library) of the same tokenizer.json: a dict, or the path of one."""
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir(exist_ok=True)
    if isinstance(spec, dict):
        (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    else:
        shutil.copy(spec, folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(dict(model_type=model_type, hidden_size=8, num_attention_heads=1, num_hidden_layers=1,
                                                        vocab_size=8, intermediate_size=8, eos_token_id=eos)))
    return Tokenizer(folder, template), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module", params=FILES)
def both(request, tokenizer_json, tmp_path_factory):
    """(name, ours, theirs) of each file in turn; they are large, so each is loaded once."""
    model_type, eos, _ = FILES[request.param]
    return request.param, *load_both(tmp_path_factory.mktemp(request.param), tokenizer_json(request.param), model_type, eos)


@pytest.fixture(scope="module")
def smol(tokenizer_json, tmp_path_factory):
    return load_both(tmp_path_factory.mktemp("smol"), tokenizer_json("smollm2"))


def read_spec(tokenizer_json, name):
    return json.loads(tokenizer_json(name).read_text(encoding="utf-8"))


@functools.cache
def random_texts(count, seed=0):
    """Strings of all that Unicode has: letters of many scripts, digits, controls, combining marks, emoji, CJK, runs of spaces, line ends."""
    rng = random.Random(seed)
    kinds = [range(0x20, 0x7F), range(0, 0x20), range(0x80, 0x250), range(0x300, 0x370), range(0x370, 0x530), range(0x590, 0x700), range(0x900, 0xE00),
             range(0x1100, 0x1200), range(0x2000, 0x2070), range(0x2070, 0x2C00), range(0x3040, 0x3100), range(0x4E00, 0xA000), range(0xAC00, 0xD7A4),
             range(0xF900, 0xFB00), range(0xFF00, 0xFFF0), range(0x1D400, 0x1D800), range(0x1F300, 0x1FA00), range(0x20000, 0x2A000), range(0xE0000, 0xE0100)]
    runs = [" ", "  ", " " * 17, "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2581", "\u3000", "1234567", "٣٤", "½", "e\u0301", "\u212b", "'s", "'LL", " 'Re", "👩‍👩‍👧", "🇩🇪",
            "don't", "x²", "\0", "==", "--", "aa"]
    texts = []
    for _ in range(count):
        some = rng.sample(kinds, rng.randint(1, 4))
        parts = [rng.choice(runs) * rng.randint(1, 4) if rng.random() < 0.3 else chr(rng.choice(rng.choice(some))) for _ in range(rng.randint(1, 40))]
        texts.append("".join(parts))
    return texts


def agree(ours, theirs, texts):
    """Equal ids, and equal texts from them: so what comes back unchanged from theirs does from ours."""
    for start in range(0, len(texts), 1000):
        some = texts[start:start + 1000]
        expected = [encoding.ids for encoding in theirs.encode_batch(some, add_special_tokens=False)]
        for text, ids, back in zip(some, expected, theirs.decode_batch(expected)):
            assert ours.encode(text) == ids, repr(text)
            assert ours.decode(ids) == back, repr(text)
    return True


def texts_in(value):
    """Every text in a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [text for part in inner for text in texts_in(part)]


@functools.cache
def problems(folder):
    """Every text of every GSM8K and MATH row, once."""
    return list(dict.fromkeys(text for path in sorted(folder.rglob("*.jsonl")) for line in path.open(encoding="utf-8") for text in texts_in(json.loads(line))))


def test_problems_are_cut_as_the_tokenizers_library_does(both, shared):
    _, ours, theirs = both
    texts = problems(shared / "data")
    assert len(texts) > 20_000 and agree(ours, theirs, texts)
    assert all(ours.decode(ours.encode(text)) == text for text in texts[::50] if text.isascii())


def test_random_unicode_is_cut_as_the_tokenizers_library_does(both):
    name, ours, theirs = both
    assert agree(ours, theirs, random_texts(20_000))
    if name != "smollm2":  # which lacks some bytes
        came_back = sum(ours.decode(ours.encode(text)) == text for text in random_texts(20_000)[:2000])
        assert came_back > (1000 if name in ("qwen3", "llama2") else 1999)  # NFC changes some, and U+2581 becomes a space


def test_tokens_and_runs_are_cut_as_the_tokenizers_library_does(both):
    """Each token on its own, which tiktoken looks up whole; and runs of one character, in which neighbours compete."""
    _, ours, theirs = both
    rng = random.Random(0)
    tokens = theirs.decode_batch([[i] for i in rng.sample(range(theirs.get_vocab_size()), 5000)])
    runs = [character * n for character in " \n\t=-_*#.a0é的😀\u2581" for n in (*range(1, 40), 97, 500)]
    runs += ["".join(rng.choice([" ", "\n", "=", "-", "a", "_", "*", "1", " x", "."]) * rng.randint(1, 40) for _ in range(rng.randint(1, 8))) for _ in range(1000)]
    assert agree(ours, theirs, ["", *tokens, *(f" {token}" for token in tokens[:1000]), *runs])


def test_text_that_spells_a_special_token_is_ordinary_text(both, tokenizer_json):
    name, ours, _ = both
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_str(json.dumps(read_spec(tokenizer_json, name) | {"added_tokens": []}))
    texts = [text for token in ours.special for text in (token, f"2{token}3", f" {token}\n{token}")]
    assert len(ours.special) >= 3 and agree(ours, theirs, texts)
    for fill in (ours.prompt_ids, ours.answer_ids):  # a template's own special tokens are all there is
        own = [i for i in fill("x") if i in ours.special.values()]
        assert all([i for i in fill(text) if i in ours.special.values()] == own for text in texts[:60])


def test_combining_marks_in_any_order_are_cut_as_the_tokenizers_library_does(both):
    """NFC depends on the version of Unicode: Python's is newer than the library's."""
    _, ours, theirs = both
    rng, marks = random.Random(0), [chr(c) for c in range(0x300, 0x1F000) if unicodedata.combining(chr(c))]
    texts = ["".join(rng.choices("aeouñ\u1100\u1161\uac00\u0915\U00011935\U00011930", k=2) + rng.choices(marks, k=rng.randint(1, 5))) for _ in range(4000)]
    assert sum(unicodedata.normalize("NFC", text) != text for text in texts) > 1000 and agree(ours, theirs, texts)


def test_bytes_without_a_token_are_dropped_as_in_the_library(smol):
    ours, theirs = smol
    assert any(letter not in theirs.get_vocab() for letter in byte_alphabet())
    for text in ("a\x06b", "\x04", "12\x133 \x14\n", "x = \U00040000", "\x1d\x16\x06"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids) != text


def test_ids_without_a_token_are_no_text(smol):
    """A model's vocabulary may be larger than its tokenizer's: Qwen's is, and may sample such an id."""
    ours, theirs = smol
    ids = ours.encode("2 + 2")
    assert ours.decode([151_900, *ids, 151_935]) == theirs.decode([151_900, *ids, 151_935]) == "2 + 2"


def test_a_text_cut_off_within_a_character_decodes(smol):
    ours, _ = smol
    ids = ours.encode("🫠")
    assert len(ids) > 1 and ours.decode(ids[:-1]) == "\ufffd" and ours.decode([]) == ""


def test_a_lone_surrogate_does_not_raise(smol, tokenizer_json, tmp_path):
    assert smol[0].encode("a\ud800b") and load_both(tmp_path, tokenizer_json("llama2"))[0].encode("a\ud800b")


def test_the_tokenizer_of_mistral_puts_one_space_before_a_text_that_has_none(tokenizer_json, tmp_path):
    """Today's file of Mistral v0.1 says the same as that of LLaMA-2, but for this."""
    spec = read_spec(tokenizer_json, "llama2")
    for scheme in ("first", "always"):
        metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
        ours, theirs = load_both(tmp_path, spec | dict(normalizer=None, pre_tokenizer=metaspace))
        assert agree(ours, theirs, ["", " ", "a", " a", "  a", "\u2581a", "a \u2581 b ", "\n a", *random_texts(20_000)[:2000]])
        assert ours.encode("a b") == ours.encode(" a b") and ours.decode(ours.encode("a b")) == "a b"


def test_deepseekmath_splits_in_six_steps_and_has_letters_among_its_added_tokens(tokenizer_json, tmp_path):
    """Its own file is not at hand. What is special in it, on the vocabulary of a later DeepSeek: its pre-tokenizer, and that the 13 bytes
    that no UTF-8 text holds are not in the vocabulary, while the letters that byte-level files write them with are added tokens."""
    spec = read_spec(tokenizer_json, "deepseek_v3")
    steps = (r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓͰ-ͳΆΈ-ΊΣ-ϵҊ-ԯ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+")
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        *({"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False} for step in steps),
        {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=True, special=False)
    first, vocab = max(t["id"] for t in spec["added_tokens"]) + 1, spec["model"]["vocab"]
    for i, letter in enumerate("õ÷ÁýÀÿøúþüùöû"):
        vocab[f"ĀĀĀunused{i}"] = vocab.pop(letter)  # the library counts on ids without a gap
        spec["added_tokens"].append(dict(flags, id=first + i, content=letter))
    ours, theirs = load_both(tmp_path, spec, eos=1)
    texts = ["Möbius", "Erdős and Schrödinger: 12345", " \tö  x \n", "öö÷ 3", "À 1²½ Á", *random_texts(20_000)[:4000]]
    for text in texts:  # back from its ids, the library makes a broken byte of ö; here it is ö again
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids) == text
    assert ours.special["ö"] in ours.encode("Möbius") and ours.template == "deepseek"


def small_sentencepiece(*merged):
    """The spec of a tokenizer of six characters, the bytes, and what `merged` makes."""
    merges = [["\u2581", "a"], *merged]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *"\u2581ab.é中", *dict.fromkeys(a + b for a, b in merges)]
    decoders = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {"version": "1.0", "added_tokens": [
                dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for i, t in enumerate(tokens[:3])],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
            "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": {t: i for i, t in enumerate(tokens)},
                      "merges": merges}}


@pytest.mark.parametrize("merged", [(), (("a", "b"), ("\u2581a", "b"), ("\u2581", "ab")), ((".", "\u2581"), (".\u2581", "a"), (".", "\u2581a"), ("b", ".\u2581a"))],
                         ids=["words alone", "merges that compete", "a token that goes on with a space"])
def test_small_sentencepiece_tokenizers_agree_too(tmp_path, merged):
    ours, theirs = load_both(tmp_path, small_sentencepiece(*merged))
    rng = random.Random(0)
    assert agree(ours, theirs, ["".join(rng.choices("aab.. é中\u00e8丮😀\n", k=rng.randint(1, 20))) for _ in range(2000)])


def test_other_kinds_of_tokenizer_are_refused(tokenizer_json, tmp_path):
    good, pieces = read_spec(tokenizer_json, "smollm2"), small_sentencepiece()
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    for spec, says in ((good | dict(model=good["model"] | {"type": "Unigram"}), "Unigram"), (good | dict(normalizer={"type": "Lowercase"}), "Lowercase"),
                       (good | dict(pre_tokenizer={"type": "Whitespace"}), "Whitespace"), (good | dict(pre_tokenizer=None), "pre-tokenizer"),
                       (good | dict(pre_tokenizer={"type": "Digits", "individual_digits": True}), "byte-level"),
                       (good | dict(model=good["model"] | {"merges": good["model"]["merges"][::-1]}), "merges"),
                       (good | dict(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "ByteLevel"),
                       (good | dict(model=good["model"] | {"byte_fallback": True}), "Sequence"),
                       (pieces | dict(normalizer=None), "normalizer is None"), (pieces | dict(normalizer={"type": "NFKC"}), "NFKC"),
                       (pieces | dict(normalizer=None, pre_tokenizer=metaspace), "Metaspace"),
                       (pieces | dict(model=pieces["model"] | {"vocab": {"<s>": 1, "a": 3}}), "<0x00>"),
                       (pieces | dict(model=pieces["model"] | {"merges": ["b b"]}), "'bb'"), (small_sentencepiece([".", "\u2581"], [".\u2581", "a"]), "all the pairs"),
                       (small_sentencepiece(["a", "b"], ["\u2581a", "b"], ["a", "."], ["\u2581", "ab"]), "one token after the other"),
                       (pieces | dict(model=pieces["model"] | {"merges": None}), "merges")):
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
        refusal(Tokenizer, tmp_path, names=[tmp_path / "tokenizer.json", says])


# ---------------------------------------------------------------------------------------------------------------------
# Templates. What is expected is written out here again, part by part: a special token, or a text that the tokenizers library cuts.

EXPECTED = {  # template: (prompt, answer, what ends a text)
    "llama2": (["<s>", "[INST] {} [/INST]"], ["{}", "</s>"], ["</s>"]),
    "llama3": (["<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\n{}", "<|eot_id|>", "<|start_header_id|>", "assistant",
                "<|end_header_id|>", "\n\n"], ["{}", "<|end_of_text|>"], ["<|end_of_text|>", "<|eot_id|>"]),
    "mistral": (["<s>", "[INST] {}[/INST]"], [" {}", "</s>"], ["</s>"]),
    "qwen": (["<|im_start|>", "system\nYou are a helpful assistant.", "<|im_end|>", "\n", "<|im_start|>", "user\n{}", "<|im_end|>", "\n",
              "<|im_start|>", "assistant\n"], ["{}", "<|im_end|>", "\n"], ["<|endoftext|>", "<|im_end|>"]),
    "deepseek": (["<｜begin▁of▁sentence｜>", "User: {}\n\nAssistant:"], ["{}", "<｜end▁of▁sentence｜>"], ["<｜end▁of▁sentence｜>"]),
    "plain": (["{}\n"], ["{}", "<|im_end|>"], ["<|im_end|>"]),  # SmolLM2's end token
}
ROW = {"question": "Mia has 3 {boxes} of 12 pens.\nHow many pens?", "rationale": " 3 × 12 = 36", "knowledge": ["Équal groups: multiply."], "answer": "36",
       "id": 7}


def as_expected(template, ours, theirs):
    special = {added.content: i for i, added in theirs.get_added_tokens_decoder().items()}

    def ids_of(parts, text):
        return [i for part in parts for i in
                ([special[part]] if part in special else theirs.encode(part.replace("{}", text), add_special_tokens=False).ids)]

    prompt, answer, ends = EXPECTED[template]
    assert ours.template == template and sorted(ours.eos_ids) == sorted(special[end] for end in ends)
    for role in lorid.ROLES:
        ids, mask = data.render(ROW, role, ours)
        asked = ids_of(prompt, lorid.prompt(role, ROW["question"], "\n".join(ROW["knowledge"])))
        said = ids_of(answer, lorid.target(role, ROW))
        assert ids == asked + said and mask == [0] * len(asked) + [1] * len(said)
    return True


def test_each_file_is_known_by_its_template_and_fills_it_to_the_letter(both):
    name, ours, theirs = both
    assert as_expected(FILES[name][2], ours, theirs)


def test_mistral_is_known_by_its_model_type(tokenizer_json, tmp_path):
    spec = read_spec(tokenizer_json, "llama2")
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    for changes in ({}, dict(normalizer=None, pre_tokenizer=metaspace)):
        assert as_expected("mistral", *load_both(tmp_path, spec | changes, "mistral"))


def test_a_template_may_be_named(tokenizer_json, tmp_path):
    source = tokenizer_json("llama2")
    assert as_expected("mistral", *load_both(tmp_path, source, template="mistral"))
    ours, theirs = load_both(tmp_path, source, template="plain")
    assert ours.prompt_ids("a") == theirs.encode("a\n", add_special_tokens=False).ids and ours.answer_ids("b")[-1] == 2 and ours.eos_ids == [2]
    refusal(Tokenizer, tmp_path, "qwen", names=[tmp_path / "tokenizer.json", "<|im_start|>", "qwen"])
    refusal(Tokenizer, tmp_path, "alpaca", names=["alpaca", *TEMPLATES])


@pytest.mark.parametrize("model_type, tokens, template", [
    ("llama", ["<|im_start|>", "<|im_end|>"], "plain"), ("qwen2", ["<|endoftext|>"], "plain"), ("mistral", ["<|im_start|>"], "plain"), ("llama", [], "plain"),
    ("qwen2", ["<|im_start|>", "<|im_end|>"], "qwen")])
def test_only_the_papers_bases_are_known(tmp_path, model_type, tokens, template):
    spec = {"added_tokens": [{"content": token, "id": 256 + i, "special": True} for i, token in enumerate(tokens)],
            "pre_tokenizer": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {c: b for c, b in byte_alphabet().items()}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type=model_type, hidden_size=8, num_attention_heads=1, num_hidden_layers=1, vocab_size=8,
                                                          intermediate_size=8)))
    ours = Tokenizer(tmp_path)
    assert ours.template == template
    if template == "plain":  # and this config.json names no end
        refusal(ours.answer_ids, "x", names=["eos_token_id"])

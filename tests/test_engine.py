"""support/engine.py and support/fused.py, below the scheduling: what a pass computes with a cache,
and with fused and packed weights, is what the plain decoder computes. (How texts enter, grow and
leave is in test_scheduling.py.)"""
import json

import pytest
import torch
from test_lora import refusal, three_adapters
from test_model import BASES, close, some_ids

import lora
from model import load_model
from support.engine import CachedAttention, KVCache
from support.fused import fuse, linear, pack
from support.tokenizer import Tokenizer

# --------------------------------------------------------------------------------------------------
# The cache, attention over it, fused and packed weights

WINDOWED = ["llama", "llama3 rope scaling", "mistral with a window",
            "qwen2 with a window in its upper layers"]


def load(folder, dtype=torch.float32):
    return load_model(folder, dtype=dtype)


def dirty_cache(model, slots, size):
    """A cache full of leftovers, none of which may ever be seen."""
    cache = KVCache(model.config, slots, model.dtype, model.device)
    cache.reserve(size)
    for layer in cache.layers:
        for cached in layer:
            cached.normal_(0, 100)
    return cache


@torch.no_grad()
def feed(model, ids, cache, starts, lengths, first=0):
    """Feed ids[i, starts[i]:starts[i] + lengths[i]] to the slots from `first` on; the logits of
    each sequence, a list of (lengths[i], V)."""
    attend = CachedAttention(
        cache, model.config, starts, lengths, first, model.device, model.dtype)
    new = [sequence[n:n + more] for sequence, n, more in zip(ids, starts, lengths, strict=True)]
    hidden = model(torch.cat(new)[None], attend.positions[None], attend)
    return model.logits(hidden)[0].split(lengths)


def decode(model, ids, cache, starts, steps):
    """Feed ids[i, start], ids[i, start + 1], ... one a step; the logits, (sequences, steps, V)."""
    ones, logits = [1] * len(ids), []
    for t in range(steps):
        logits.append(torch.cat(feed(model, ids, cache, [n + t for n in starts], ones)))
    return torch.stack(logits, 1)


@pytest.fixture(params=[512, 0], ids=["sequence by sequence", "padded"])
def either_attention(request, monkeypatch):
    """As on a CPU, and all in one call, as on a GPU."""
    monkeypatch.setattr("support.engine.LONGEST_ALONE", request.param)


@torch.no_grad()
def test_a_cpu_takes_sequence_by_sequence_up_to_512_tokens(make_base):
    """Which is what the fixture above rests on; and longer prompts, beside short ones, are right
    too."""
    model = load(make_base("mistral", sliding_window=7)[0])
    for T, expected in ((1, False), (2, True), (512, True), (513, False)):
        cache = KVCache(model.config, 2, model.dtype, model.device)
        attend = CachedAttention(
            cache, model.config, [0, 3], [1, T], 0, model.device, model.dtype)
        assert attend.one_by_one == expected
    ids = some_ids(2, 600)
    whole, cache = model.logits(model(ids)), dirty_cache(model, 2, 8)
    first, second = feed(model, ids, cache, [0, 0], [590, 3])
    assert close(first, whole[0, :590]) and close(second, whole[1, :3])
    first, second = feed(model, ids, cache, [590, 3], [10, 597])
    assert close(first, whole[0, 590:]) and close(second, whole[1, 3:])


@pytest.mark.parametrize("name", WINDOWED)
@torch.no_grad()
def test_cached_decoding_equals_the_whole_forward(make_base, either_attention, name):
    """Prompts of different lengths, in two calls, into slots of their own; then one token of each
    sequence, at its own position."""
    model = load(make_base(**BASES[name])[0])
    ids, lengths = some_ids(4, 60), [5, 23, 1, 12]
    whole = model.logits(model(ids))
    cache = dirty_cache(model, 6, 24)
    later = feed(model, ids[2:], cache, [0, 0], lengths[2:], first=2)
    earlier = feed(model, ids[:2], cache, [0, 0], lengths[:2])
    for i, logits in enumerate((*earlier, *later)):
        assert close(logits, whole[i, :lengths[i]])
    for i, logits in enumerate(decode(model, ids, cache, lengths, 36)):  # the cache grows meanwhile
        assert close(logits, whole[i, lengths[i]:lengths[i] + 36])


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("longest", [63, 64])
@torch.no_grad()
def test_a_whole_prompt_beside_one_whose_beginning_is_known(
        make_base, either_attention, longest, name):
    """Also where the whole one, the longest, ends at the cache's last position: only the other
    looks back further than its own tokens. And where the other, padded, would run past the end."""
    model = load(make_base(**BASES[name])[0])
    ids = some_ids(2, 64)
    whole, cache = model.logits(model(ids)), dirty_cache(model, 2, 64)
    feed(model, ids[1:], cache, [0], [5], first=1)
    first, second = feed(model, ids, cache, [0, 5], [longest, 20])
    assert close(first, whole[0, :longest]) and close(second, whole[1, 5:25])
    feed(model, ids[1:], cache, [25], [35], first=1)
    first, second = feed(model, ids, cache, [0, 60], [longest, 4])
    assert close(first, whole[0, :longest]) and close(second, whole[1, 60:])


@pytest.mark.parametrize("name", WINDOWED)
@torch.no_grad()
def test_several_tokens_at_once_and_wrong_ones_taken_back(make_base, either_attention, name):
    """As with drafts: each sequence is fed some tokens that are wrong and, from where they began,
    the right ones, a different number each."""
    model = load(make_base(**BASES[name])[0])
    ids, wrong, starts = some_ids(4, 60), some_ids(4, 60).flip(0), [0, 0, 0, 0]
    whole, cache = model.logits(model(ids)), dirty_cache(model, 4, 8)
    for step in range(12):
        lengths = [1 + (step * k + k) % 4 for k in range(4)]
        feed(model, wrong, cache, starts, [n + 1 for n in lengths[::-1]])
        for i, logits in enumerate(feed(model, ids, cache, starts, lengths)):
            assert close(logits, whole[i, starts[i]:starts[i] + lengths[i]])
        starts = [n + more for n, more in zip(starts, lengths, strict=True)]
    assert len(set(starts)) > 2


@torch.no_grad()
def test_a_moved_sequence_goes_on_as_before_and_its_slot_takes_a_new_prompt(make_base):
    model = load(make_base("mistral", sliding_window=7)[0])
    ids = some_ids(4, 40)
    whole = model.logits(model(ids))
    cache = dirty_cache(model, 3, 16)
    feed(model, ids[:3], cache, [0, 0, 0], [9, 4, 15])
    decode(model, ids[:3], cache, [9, 4, 15], 5)
    cache.copy_in(0, cache.copy_out(2, 20), 20)    # sequence 2 takes the place of sequence 0
    feed(model, ids[3:], cache, [0], [11], first=2)  # and sequence 3 begins where it was
    steps = decode(model, ids[[2, 1, 3]], cache, [20, 9, 11], 15)
    for slot, (i, start) in enumerate([(2, 20), (1, 9), (3, 11)]):
        assert close(steps[slot], whole[i, start:start + 15])


@torch.no_grad()
def test_a_copied_beginning_is_as_good_as_a_computed_one(make_base, either_attention):
    """The prefix cache: what two prompts share is copied, also less than was kept; and a copy does
    not change with its slot."""
    model = load(make_base()[0])
    ids = some_ids(2, 40)
    ids[1, :12] = ids[0, :12]
    whole, cache = model.logits(model(ids)), dirty_cache(model, 3, 8)
    feed(model, ids[:1], cache, [0], [30])
    copies = cache.copy_out(0, 30)
    feed(model, ids.flip(1), cache, [0, 0], [20, 20])
    cache.copy_in(2, copies, 12)
    logits, = feed(model, ids[1:], cache, [12], [28], first=2)
    assert close(logits, whole[1, 12:])


@torch.no_grad()
def test_fewer_slots_than_the_cache_has_may_be_decoded(make_base):
    model = load(make_base()[0])
    ids = some_ids(3, 30)
    cache = dirty_cache(model, 3, 30)
    feed(model, ids, cache, [0, 0, 0], [10, 10, 10])
    steps = decode(model, ids[:2], cache, [10, 10], 20)
    assert close(steps, model.logits(model(ids[:2]))[:, 10:])


def test_the_cache_grows_by_multiples_of_32_and_keeps_what_it_holds(make_base):
    model = load(make_base()[0])
    cache = dirty_cache(model, 2, 1)
    before = cache.copy_out(1, 32)
    for size, capacity in ((32, 32), (33, 64), (5, 64), (97, 128)):
        cache.reserve(size)
        shapes = {cached.shape for layer in cache.layers for cached in layer}
        assert cache.capacity == capacity and shapes == {(2, 2, capacity, 16)}
    for was, layer in zip(before, cache.copy_out(1, 128), strict=True):
        for old, new in zip(was, layer, strict=True):
            assert torch.equal(new[:, :32], old) and not new[:, 32:].any()


# Three adapters in one pass, with and without a cache, plain and fused


def storages(model):
    """How many numbers a model's matrices hold, what is shared counted once."""
    sizes = {p.data_ptr(): p.numel() for p in model.parameters() if p.dim() == 2}
    return sum(sizes.values())


def far(a, b):
    return (a - b).abs().max().item() > 0.05


@torch.no_grad()
def logits_of(model, ids):
    return model.logits(model(ids))


@pytest.mark.parametrize("tied", [False, True])
def test_each_sequence_of_a_fused_mixed_batch_is_that_role_alone(make_base, tmp_path, tied):
    base, _ = make_base("qwen2", tie_word_embeddings=tied)
    folders, oracles = three_adapters(base, tmp_path)
    model, ids = load(base), some_ids(7, 17)
    lora.load_adapters(model, folders)
    size = storages(model)
    assert fuse(model) is model and storages(model) == size  # no matrix is there twice
    assert close(logits_of(model, ids), logits_of(oracles[None], ids), 2e-5)  # all off at first
    roles = ["kg", "ir", None, "dr", "ir", "kg", "dr"]
    lora.set_adapter(model, roles)
    together = logits_of(model, ids)
    alone = {role: logits_of(oracle, ids) for role, oracle in oracles.items()}
    for i, role in enumerate(roles):
        assert close(together[i], alone[role][i], 2e-5)
        assert all(far(alone[other][i], alone[role][i]) for other in alone if other != role)
    for role in ("ir", "kg", "dr", None):
        lora.set_adapter(model, role)
        assert close(logits_of(model, ids), alone[role], 2e-5)


@pytest.mark.parametrize("prepare", [lambda model: model, fuse], ids=["plain", "fused"])
def test_roles_keep_to_their_sequences_while_decoding(
        make_base, tmp_path, either_attention, prepare):
    base, _ = make_base("qwen2")
    folders, oracles = three_adapters(base, tmp_path)
    model, ids, roles = load(base), some_ids(4, 20), ["dr", None, "ir", "kg"]
    alone = [logits_of(oracles[role], ids)[i] for i, role in enumerate(roles)]
    lora.load_adapters(model, folders)
    prepare(model)
    cache, lengths = dirty_cache(model, 4, 8), [8, 3, 6, 8]
    per_token = [role for role, n in zip(roles, lengths, strict=True) for _ in range(n)]
    lora.set_adapter(model, [per_token])
    for i, logits in enumerate(feed(model, ids, cache, [0] * 4, lengths)):
        assert close(logits, alone[i][:lengths[i]])
    lora.set_adapter(model, [roles])
    for i, logits in enumerate(decode(model, ids, cache, lengths, 12)):
        assert close(logits, alone[i][lengths[i]:lengths[i] + 12])


# What fuse and pack make of the weights

needs_bfloat16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
                                    reason="this CPU has no bfloat16 kernels")


@needs_bfloat16
@pytest.mark.parametrize("family, tied", [("qwen2", False), ("llama", True)])
def test_fused_and_packed_layers_give_the_same_logits(make_base, family, tied):
    """With and without biases; a tied head is packed, its embedding is not; adapters on top; both
    ways to call the model."""
    folder, _ = make_base(family, tie_word_embeddings=tied)
    torch.manual_seed(0)
    trained = load(folder)
    lora.inject(trained, ["q_proj", "down_proj", "lm_head"], {"ir": (3, 2.0)})
    for _, layer in lora.lora_layers(trained):
        torch.nn.init.normal_(layer.B)
    lora.save_adapter(trained, "ir", folder / "ir", folder)
    ids, results, kinds = some_ids(3, 50), [], []
    for prepare in (lambda model: model, fuse, lambda model: pack(fuse(model))):
        model = load(folder, torch.bfloat16)
        lora.load_adapters(model, {"ir": folder / "ir"})
        assert prepare(model) is model
        cache, roles = KVCache(model.config, 3, torch.bfloat16, "cpu"), ["ir", None, "ir"]
        with torch.inference_mode():
            lora.set_adapter(model, roles)
            whole = logits_of(model, ids)
            lora.set_adapter(model, [[role for role in roles for _ in range(30)]])
            prompts = feed(model, ids, cache, [0] * 3, [30] * 3)
            lora.set_adapter(model, [roles])
            step = feed(model, ids, cache, [30, 7, 3], [1] * 3)
        results.append([whole, torch.cat(prompts), torch.cat(step)])
        embedding = model.model.embed_tokens.weight
        kinds.append([p.is_mkldnn for p in model.parameters()
                      if p.dim() == 2 and p is not embedding])
        assert not embedding.is_mkldnn
    # of each layer qkv, o, gate_up and down, and the B of two adapters; of the head both
    assert kinds[2] == [True] * (3 * (4 + 2) + 2) and not any(kinds[1])
    for other in results[1:]:
        for plain, fast in zip(results[0], other, strict=True):
            # sums in another order, rounded to bfloat16
            torch.testing.assert_close(fast, plain, atol=0.02, rtol=0.02)
            assert (fast - plain).abs().mean() < 2e-3 < plain.abs().mean()


@needs_bfloat16
@pytest.mark.parametrize("shape, rows", [
    ((3, 1), 8), ((64, 1), 64), ((65, 1), 96), ((1, 300), 320), ((7,), 8)])
def test_packed_products_have_few_numbers_of_rows(shape, rows):
    """Since each is compiled: what the kernel really gets, and that the rows added do not come
    out."""
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*size).bfloat16() for size in ((*shape, 48), (40, 48), (40,)))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as recorded:
        y = linear(x, packed, bias)
    shapes = [event.input_shapes[0] for event in recorded.events()
              if event.name == "mkldnn::_linear_pointwise"]
    assert shapes == [[rows, 48]]
    exact = (x.double() @ weight.double().T + bias.double()).bfloat16()
    torch.testing.assert_close(y, exact, atol=0.01, rtol=0.01)


def test_float32_is_never_packed(make_base):
    model = pack(fuse(load(make_base()[0])))
    assert not any(p.is_mkldnn for p in model.parameters())


def test_what_needs_the_matrices_apart_is_refused_after_fusing(make_base, tmp_path):
    base, _ = make_base("qwen2")
    folders, _ = three_adapters(base, tmp_path)
    model = load(base)
    lora.load_adapters(model, folders)
    lora.set_adapter(fuse(model), "ir")
    ids, out = some_ids(2, 9), tmp_path / "new"
    before = logits_of(model, ids)
    apart = ["the matrices of model.layers.0.self_attn.qkv.layers.0 are not apart any more",
             "load the base again."]
    refusal(lora.save_adapter, model, "ir", out, base, names=apart)
    refusal(lora.merge, model, "ir", names=apart)
    already = "this model carries adapters already; load the base again."
    refusal(lora.inject, model, ["q_proj"], {"new": (4, 1.0)}, names=[already])
    refusal(lora.load_adapters, model, {"new": folders["ir"]}, names=[already])
    assert not out.exists() and torch.equal(logits_of(model, ids), before)
    # and without adapters there is no layer of the old name
    refusal(lora.inject, fuse(load(base)), ["q_proj"], {"ir": (4, 1.0)}, names=["'q_proj'"])
    refusal(lora.load_adapters, fuse(load(base)), {"ir": folders["ir"]},
            names=[folders["ir"], "self_attn.q_proj", "lacks"])


# A real model


def first_questions(shared, count):
    path = shared / "data" / "gsm8k" / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(next(lines))["question"] for _ in range(count)]


def greedy_by_transformers(folder, prompts, count):
    """`count` tokens of each prompt, padded on the left, in float32; no end token among them."""
    transformers = pytest.importorskip("transformers")
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    longest = max(map(len, prompts))
    pads = [longest - len(ids) for ids in prompts]
    padded = [[0] * pad + ids for pad, ids in zip(pads, prompts, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
    texts = hf.generate(
        torch.tensor(padded), attention_mask=torch.tensor(mask), max_new_tokens=count,
        min_new_tokens=count, do_sample=False, pad_token_id=0)
    return texts[:, longest:].tolist()


@torch.no_grad()
def test_smollm2_writes_the_same_as_in_transformers(smollm2, shared):
    """Greedy, float32, ten questions of different lengths, in one line and cached."""
    tokenizer = Tokenizer(smollm2)
    prompts = [tokenizer.encode(text + "\n") for text in first_questions(shared, 10)]
    theirs = greedy_by_transformers(smollm2, prompts, 24)
    model = load(smollm2)
    cache, lengths = KVCache(model.config, 10, model.dtype, model.device), [*map(len, prompts)]

    def last_logits(tokens, starts):
        """Of each sequence, after some more of its tokens; an end token is never the likeliest, as
        with min_new_tokens."""
        counts = [len(new) for new in tokens]
        attend = CachedAttention(
            cache, model.config, starts, counts, 0, model.device, model.dtype)
        ids = torch.tensor([[token for new in tokens for token in new]])
        hidden = model(ids, attend.positions[None], attend)[0]
        logits = model.logits(hidden[torch.tensor(counts).cumsum(0) - 1])
        logits[:, model.config.eos_ids] = -torch.inf
        return logits
    logits, ours = last_logits(prompts, [0] * 10), []
    for step in range(24):
        ours.append(logits.argmax(-1))
        starts = [n + step for n in lengths]
        logits = last_logits(ours[-1][:, None].tolist(), starts)
    assert torch.stack(ours, 1).tolist() == theirs
    # and without a cache
    whole = model.logits(model(torch.tensor([prompts[0] + theirs[0]])))[0, lengths[0] - 1:-1]
    whole[:, model.config.eos_ids] = -torch.inf
    assert whole.argmax(-1).tolist() == theirs[0]

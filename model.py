"""A Hugging Face model folder, read and run by hand: the decoder, its weights, its tokenizer.

The decoder is the one that Llama (arXiv 2302.13971), Mistral (arXiv 2310.06825) and Qwen2 (arXiv 2407.10671) share:
RMSNorm, rotary positions, grouped-query attention, SwiGLU. Its modules carry the names of the checkpoint's tensors,
so no table of names stands between the file and the code.

    python model.py tiny        what is in a model folder, how its tokenizer cuts a sentence, and in which template it is asked

Shapes: B rows, T tokens, S positions to look back at, C hidden size, H query heads, K key/value heads, G = H / K, D head size,
V vocabulary.
"""
import argparse
import atexit
import json
import math
import mmap
import os
import sys
import time
import unicodedata
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import regex  # tiktoken's own regular expressions: it is installed with tiktoken
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F

# A CPU compiles its bfloat16 products for each shape they have and keeps the last 1,024, which is half a GB where lengths vary. 64 are as fast:
# the layers of a pass have the same few shapes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

# ---------------------------------------------------------------------------------------------------------------------
# config.json


@dataclass
class Config:
    """The part of a config.json that changes what the decoder computes."""
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool = False
    o_bias: bool = False
    rope_scaling: dict | None = None                        # None, or the keys of the llama3 kind
    windows: list[int | None] = field(default_factory=list)  # per layer: how many positions back a token sees
    eos_ids: list[int] = field(default_factory=list)         # every one of them ends a text


def read_config(folder):
    """Read folder/config.json. Raises ValueError for a model that this decoder would compute wrongly."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json.")
    c = read_json(path)
    family = c.get("model_type")
    if family not in ("llama", "mistral", "qwen2"):
        raise ValueError(f"{path}: model_type is {family!r}; this decoder knows llama, mistral and qwen2.")
    if c.get("quantization_config"):
        raise ValueError(f"{path}: the weights are quantised; use the folder of the original model.")
    if c.get("hidden_act", "silu") != "silu" or c.get("mlp_bias"):
        raise ValueError(f"{path}: hidden_act must be silu and mlp_bias false; this decoder's MLP has no other form.")

    # Newer transformers write one `rope_parameters`; older files have `rope_theta` beside `rope_scaling`.
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"{path}: rope_parameters or rope_scaling is {rope!r}; it must be an object.")
    needed = ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size"]
    whole = [*needed, "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"]
    for key in (*whole, "rms_norm_eps", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
        value = (c | rope).get(key)
        good = key not in needed if value is None else isinstance(value, int if key in whole else (int, float)) and value > 0
        if not good:
            raise ValueError(f"{path}: {key} is {value!r}; it must be a {'whole ' * (key in whole)}number above 0.")
    C, H, L = c["hidden_size"], c["num_attention_heads"], c["num_hidden_layers"]
    kind = rope.get("rope_type") or rope.get("type") or ("default" if rope.keys() <= {"rope_theta"} else None)
    if kind not in ("default", "llama3"):
        raise ValueError(f"{path}: rope scaling of the kind {kind!r} is not built here, only llama3.")
    needs = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings") if kind == "llama3" else ()
    if lost := [key for key in needs if rope.get(key) is None]:
        raise ValueError(f"{path}: llama3 rope scaling lacks {' and '.join(lost)}.")

    window = c.get("sliding_window", 4096)  # a missing key is not null: null is no window
    if family == "llama" or (family == "qwen2" and not c.get("use_sliding_window")):
        window = None
    first = c.get("max_window_layers", 28) if family == "qwen2" else 0
    if not isinstance(first, int):
        raise ValueError(f"{path}: max_window_layers is {first!r}; it must be a whole number.")
    kinds = c.get("layer_types") or ["full_attention" if i < first else "sliding_attention" for i in range(L)]
    if not isinstance(kinds, list) or len(kinds) != L or not all(k in ("full_attention", "sliding_attention") for k in kinds):
        raise ValueError(f"{path}: layer_types must be a list of full_attention or sliding_attention, one for each of the {L} layers.")
    eos = c.get("eos_token_id")
    if (generation := Path(folder) / "generation_config.json").is_file():
        newer = read_json(generation).get("eos_token_id")
        eos = eos if newer is None else newer
    eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(isinstance(i, int) for i in eos_ids):
        raise ValueError(f"{folder}: eos_token_id is {eos!r}; it must be the number of a token or a list of such numbers.")
    return Config(
        model_type=family, vocab_size=c["vocab_size"], hidden_size=C, intermediate_size=c["intermediate_size"],
        num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=c.get("num_key_value_heads") or (8 if family == "mistral" else H),
        head_dim=c.get("head_dim") or C // H, rms_norm_eps=c.get("rms_norm_eps") or 1e-6,
        rope_theta=rope.get("rope_theta") or c.get("rope_theta") or 10000.0,
        max_position_embeddings=c.get("max_position_embeddings") or 2048,
        tie_word_embeddings=c.get("tie_word_embeddings", False),
        qkv_bias=family == "qwen2" or bool(family == "llama" and c.get("attention_bias")),
        o_bias=bool(family == "llama" and c.get("attention_bias")),
        rope_scaling=rope if kind == "llama3" else None,
        windows=[window if kind == "sliding_attention" else None for kind in kinds], eos_ids=eos_ids)


def read_json(path):
    """The object in a JSON file; ValueError names the file if it holds none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}, not an object.")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The decoder, leaf to root


def product(x, weight, bias=None):
    """x W' + bias, in the dtype of x: x (..., d_in), W (d_out, d_in) -> (..., d_out). A weight that `pack` has reordered goes to the kernel that
    knows its order."""
    if not weight.is_mkldnn:
        return F.linear(x, weight.to(x.dtype), bias)
    # This kernel is compiled anew for each number of rows (see the top of the file), so rows of zeros are added up to the next multiple of 8, or of 32
    # above 64, where multiples of 8 would still be many. tiny/ in bfloat16 votes a tenth faster.
    rows = x.flatten(0, -2)
    more = -len(rows) % (8 if len(rows) <= 64 else 32)
    y = torch.ops.mkldnn._linear_pointwise(F.pad(rows, (0, 0, 0, more)) if more else rows, weight, bias, "none", [], "")
    return y[:len(rows)].view(*x.shape[:-1], -1)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight; the mean in float32, whatever x is (arXiv 1910.07467)."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


def rotary_frequencies(config):
    """(D/2,) float32: the angle per position of each pair of channels, theta^(-2i/D); llama3 scaling slows the long waves."""
    D = config.head_dim
    f = 1.0 / config.rope_theta ** (torch.arange(0, D, 2, dtype=torch.int64, device="cpu").float() / D)
    if (s := config.rope_scaling) is None:
        return f
    waves = s["original_max_position_embeddings"] * f / (2 * math.pi)  # full turns within the length first trained on
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    keep = ((waves - low) / (high - low)).clamp(0, 1)  # 1: a short wave, kept; 0: a long one, slowed by `factor`
    return (1 - keep) * f / s["factor"] + keep * f


def rotate(x, cos, sin):
    """Rotary embedding (arXiv 2104.09864): channel i turns with channel i + D/2, (a, b) -> (a cos - b sin, b cos + a sin).
    x (B, H, T, D); cos, sin (B or 1, 1, T, D), the first half of sin negated."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def causal_mask(query, key, window, dtype):
    """What is added to the scores: 0 for a key that the query may look at (itself always, nothing later, nothing outside the window),
    else -inf; (B, T, S) from positions (B, T) and (S,)."""
    back = query[:, :, None] - key
    seen = (back >= 0) if window is None else (back >= 0) & (back < window)
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -math.inf)


def by_hand(T, device):
    """Whether our own `attend` is faster than torch's attention: for a single token and, on a CPU, for short texts. T: the most tokens of any text."""
    return T == 1 or (T <= 512 and device.type == "cpu")


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245): H query heads share K key/value heads."""

    def __init__(self, config):
        super().__init__()
        C, H, K, D = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.H, self.K, self.D = H, K, D
        self.q_proj = nn.Linear(C, H * D, bias=config.qkv_bias)
        self.k_proj = nn.Linear(C, K * D, bias=config.qkv_bias)
        self.v_proj = nn.Linear(C, K * D, bias=config.qkv_bias)
        self.o_proj = nn.Linear(H * D, C, bias=config.o_bias)
        self.qkv = None  # for inference: q_proj, k_proj and v_proj as one layer, set by `lora.fuse`

    def forward(self, x, cos, sin, mask, past=None, layout=None):
        """x (B, T, C) -> (B, T, C); mask None for plain causal attention.

        With past, this layer's keys and values in the cache, x is (N, 1, C): the new tokens of several texts, each token a row. layout: rows, the
        slice of the cache that holds these texts; text, nth, at, all (N,): each token's text, its index among that text's new tokens, its position;
        lengths, how many new tokens each text has; S, how many positions of the cache to look at."""
        B, T, _ = x.shape
        qkv = self.qkv(x) if self.qkv is not None else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (each.view(B, T, -1, self.D).transpose(1, 2) for each in qkv)  # (B, H, T, D), and twice (B, K, T, D)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        ragged = False
        if past is not None:
            rows, text, nth, at, lengths, S = layout
            past = [cached[rows] for cached in past]  # rows is a slice, so these are views of the cache
            for cached, new in zip(past, (k, v)):
                cached[text, :, at] = new[:, :, 0]  # (N, K, D): token j goes to row text[j], position at[j]
            if isinstance(mask, list):  # one for each text
                return self.o_proj(self.attend_each(q, past, mask, lengths).to(x.dtype))
            # The queries of a text must stand side by side, to look at the same keys.
            k, v = (cached[:, :, :S] for cached in past)  # (texts, K, S, D)
            flat, shape = q[:, :, 0], (len(k), max(lengths), self.H, self.D)
            ragged = B < shape[0] * shape[1]  # some texts have fewer tokens than the longest: padded for attention only
            q = (flat.new_zeros(shape).index_put_((text, nth), flat) if ragged else flat.view(shape)).transpose(1, 2)  # (texts, H, longest, D)
        if by_hand(q.shape[2], x.device):
            y = self.attend(q, k, v, mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.H > self.K)
        y = y.transpose(1, 2)
        return self.o_proj((y[text, nth] if ragged else y).reshape(B, T, self.H * self.D))

    def attend(self, q, k, v, mask):
        """softmax(q k' / sqrt(D)) v as two batched products: q (B, H, T, D), k and v (B, K, S, D), mask (B or 1, 1, G T, S) -> (B, H, T, D).

        scaled_dot_product_attention gives the same. On a CPU, this takes half the time for one query against a cache, and a
        quarter (at T = 128, backward pass included) for short texts; long ones would fill the memory with T x S scores.
        """
        B, _, T, D = q.shape
        G = self.H // self.K  # the G query heads of a group read the same keys
        q = (q / math.sqrt(D)).reshape(B, self.K, G * T, D)
        # Both orders give the same. A CPU would copy the keys to transpose them, if they are not the whole cache: for one query, turn the small result.
        direct = T > 1 or k.is_contiguous()
        scores = q @ k.transpose(2, 3) if direct else (k @ q.transpose(2, 3)).transpose(2, 3).contiguous()  # (B, K, G T, S)
        scores += mask
        return (scores.softmax(-1) @ v).view(B, self.H, T, D)

    def attend_each(self, q, past, masks, lengths):
        """`attend`, text by text, for the next lengths[i] tokens of text i: all at once, every text would be padded to the most tokens and the most keys
        that any has, in a vote to five times the work. (If all have a single token, one batched `attend` is faster.)

        q (N, H, 1, D); past, keys and values, (texts, K, positions, D); masks[i]: S, how many keys text i has, and its mask (T G, S), None where all may
        be seen -> (N, 1, H D). Rows stand token by token, T G, not head by head as in `attend`, so that `split` can cut them by text. In float32 at
        least: a CPU compiles its bfloat16 products for each shape they have, and here every text has another one."""
        N, G, dtype = len(q), self.H // self.K, torch.promote_types(q.dtype, torch.float32)
        q = (q.to(dtype) / math.sqrt(self.D)).view(N, self.K, G, self.D).transpose(0, 1).reshape(self.K, N * G, self.D)
        y = []
        for own, k, v, (S, mask) in zip(q.split([T * G for T in lengths], 1), *past, masks):
            scores = own.bmm(k[:, :S].to(dtype).transpose(1, 2))  # (K, T G, S)
            if mask is not None:
                scores += mask
            y.append(scores.softmax(-1).bmm(v[:, :S].to(dtype)))
        return torch.cat(y, 1).view(self.K, N, G * self.D).transpose(0, 1).reshape(N, 1, self.H * self.D)


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config):
        super().__init__()
        C, I = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(C, I, bias=False)
        self.up_proj = nn.Linear(C, I, bias=False)
        self.down_proj = nn.Linear(I, C, bias=False)
        self.gate_up = None  # likewise: gate_proj and up_proj

    def forward(self, x):
        gate, up = self.gate_up(x) if self.gate_up is not None else (self.gate_proj(x), self.up_proj(x))
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, *args):
        x = x + self.self_attn(self.input_layernorm(x), *args)
        return x + self.mlp(self.post_attention_layernorm(x))


class KVCache:
    """Keys and values of `rows` texts, each of its own length; grows as they do.

    Nothing is ever erased: a row's positions beyond its length hold leftovers (of another text, or of guesses that proved wrong),
    which `causal_mask` hides until the next token overwrites them.
    """

    def __init__(self, config, rows, dtype, device):
        empty = torch.zeros(rows, config.num_key_value_heads, 0, config.head_dim, dtype=dtype, device=device)
        self.layers = [(empty, empty) for _ in range(config.num_hidden_layers)]  # per layer: keys and values, (rows, K, S, D)

    def reserve(self, size):
        """Make room for `size` positions, rounded up to a multiple of 32, so that growing stays rare. Returns that multiple."""
        size = -(-size // 32) * 32
        more = size - self.layers[0][0].shape[2]
        if more > 0:
            for i, layer in enumerate(self.layers):  # layer by layer: never the whole old cache beside the whole new one
                self.layers[i] = tuple(F.pad(cached, (0, 0, 0, more)) for cached in layer)
        return size

    def take(self, row, size):
        """A copy of the first `size` positions of a row."""
        return [tuple(cached[row, :, :size].clone() for cached in layer) for layer in self.layers]

    def put(self, row, taken, size):
        """Begin a row with the first `size` positions of what `take` has copied."""
        for layer, copies in zip(self.layers, taken):
            for cached, copy in zip(layer, copies):
                cached[row, :, :size] = copy[:, :size]


class Decoder(nn.Module):
    """ids (B, T) -> hidden states (B, T, C); `logits` turns those that matter into (..., V)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict(dict(
            # left uninitialised: the file brings it, and drawing it at random would first load modules of torch's for a second
            embed_tokens=nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size), freeze=False),
            layers=nn.ModuleList(Layer(config) for _ in config.windows),
            norm=RMSNorm(config.hidden_size, config.rms_norm_eps)))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        f = rotary_frequencies(config)
        self.frequencies = torch.cat((-f, f))  # (D,), the signs that `rotate` wants of sin; cos does not mind

    def forward(self, ids, cache=None, starts=(), lengths=(), row=0):
        """Two ways to call it:

        forward(ids)                               whole texts (B, T), right-padded, causal: training -> (B, T, C);
        forward(ids, cache, starts, lengths, row)  the next tokens of texts in the cache: text i is in its row `row` + i, and its next lengths[i]
                                                   tokens go to the positions starts[i], starts[i] + 1, ... They stand one after the other, as
                                                   ids (N, 1), N = sum(lengths), so that no padding is computed -> (N, 1, C).
        """
        device, layout = ids.device, None
        if cache:
            T, starts, counts = max(lengths), torch.tensor(starts), torch.tensor(lengths)
            ends = (starts + counts).tolist()                                        # how long each text will be
            text = torch.arange(len(starts)).repeat_interleave(counts)               # lengths (2, 3): 0 0 1 1 1
            nth = torch.arange(len(ids)) - (counts.cumsum(0) - counts)[text]         # and 0 1 0 1 2
            older, S = starts.any(), cache.reserve(max(ends))
            S = S if older else T  # else they are whole texts
            text, nth, at, queries = (x.to(device) for x in (text, nth, starts[text] + nth, starts[:, None] + torch.arange(T)))  # queries (texts, T)
            layout = slice(row, row + len(starts)), text, nth, at, lengths, S
            at = at[:, None]  # (N, 1)
        else:
            T = S = ids.shape[1]
            older = False
            at = queries = torch.arange(T, device=device)[None]  # (1, T)
        angles = at[:, None, :, None] * self.frequencies.to(device)  # (1, 1, T, D) or (N, 1, 1, D), float32 as cos and sin need
        x = self.model.embed_tokens(ids)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        # Layers with the same window share a mask, of the form that their attention wants.
        keys, masks = torch.arange(S, device=device), {}
        G = self.config.num_attention_heads // self.config.num_key_value_heads
        for window in set(self.config.windows):
            if not by_hand(T, device):  # torch's. Right padding needs no mask: a causal token never sees what stands to its right
                needed = older or (window is not None and T > window)
                masks[window] = causal_mask(queries, keys, window, x.dtype)[:, None] if needed else None  # (1 or texts, 1, T, S)
            elif cache and T > 1:  # `attend_each`
                mask = causal_mask(at, keys, window, torch.promote_types(x.dtype, torch.float32)).repeat(1, G, 1)  # (N, G, S)
                masks[window] = [(end, own.flatten(0, 1)[:, :end] if len(own) > 1 or window is not None else None)
                                 for own, end in zip(mask.split(lengths), ends)]
            else:  # `attend`, which stacks the heads of a group
                masks[window] = causal_mask(queries, keys, window, x.dtype).repeat(1, G, 1)[:, None]  # (1 or texts, 1, G T, S)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, masks[self.config.windows[i]], cache and cache.layers[i], layout)
        return self.model.norm(x)

    def logits(self, hidden):
        """(B, T, C) -> (B, T, V), or (N, C) -> (N, V), in the model's dtype."""
        return self.lm_head(hidden)

    @property
    def dtype(self):
        return self.model.embed_tokens.weight.dtype  # the head may carry an adapter; the embedding never does

    @property
    def device(self):
        return self.model.embed_tokens.weight.device


# ---------------------------------------------------------------------------------------------------------------------
# safetensors: eight bytes of header length, a JSON header, then the raw numbers

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


def read_safetensors(path):
    """{name: tensor} of one file. The tensors are views of the mapped file: nothing is read before it is used, nothing is copied.

    Raises ValueError if the header does not describe the file exactly (no hole, no overlap, no rest).
    """
    def check(good, why):
        if not good:
            raise ValueError(why)

    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            check(size >= 8, "it is too short")
            length = int.from_bytes(file.read(8), "little")
            check(length <= min(100_000_000, size - 8), "its header runs past its end")
            raw = file.read(length)
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # private: writing to a tensor leaves the file alone
        check(raw[:1] == b"{", "its header is not JSON")
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = sorted((*e["data_offsets"], name, e["dtype"], e["shape"]) for name, e in header.items())
        tensors, end = {}, 0
        for start, stop, name, kind, shape in entries:
            check(kind in DTYPES, f"{name} has the unknown dtype {kind!r}")
            check(all(type(n) is int and n >= 0 for n in (start, stop, *shape)), f"{name} has the shape {shape} and the offsets {start}, {stop}")
            dtype, count = DTYPES[kind], math.prod(shape)
            check(start == end and stop - start == count * dtype.itemsize, f"the offsets of {name} do not fit its shape or its neighbours")
            end = stop
            check(8 + length + end <= size, f"{name} runs past its end")
            flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=8 + length + start) if count else torch.empty(0, dtype=dtype)
            tensors[name] = flat.view(shape)
        check(8 + length + end == size, f"{size - 8 - length - end} bytes follow its last tensor")
        return tensors
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:  # whatever a header of another form runs into
        raise ValueError(f"{path} is not a safetensors file: {error}; fetch or write it again.") from None


def write_safetensors(path, tensors):
    """Write {name: tensor} to one file, which appears whole or not at all."""
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the numbers begin at a multiple of eight, as readers that map them want
    chunks = (t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy() for t in tensors.values())
    write_whole(path, (len(raw).to_bytes(8, "little"), raw, *chunks))


def write_whole(path, chunks):
    """Write bytes to a neighbour of `path`, then rename: whoever looks sees the old file or the new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(part, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# Devices and processes. The crew: the processes that torchrun has started, one for each GPU; a plain `python` is a crew of one


def join_crew(device="auto"):
    """Meet the other processes, where torchrun has started several: GPUs, one each, talk over NCCL, CPUs over Gloo. Only the first prints."""
    if "LOCAL_RANK" in os.environ:
        if torch.cuda.is_available() and device != "cpu":
            if (here := int(os.environ["LOCAL_RANK"])) >= torch.cuda.device_count():
                raise ValueError(f"process {here} has no GPU of its own: start at most {torch.cuda.device_count()} processes here, or give --device cpu.")
            torch.cuda.set_device(here)
        torch.distributed.init_process_group()
        atexit.register(torch.distributed.destroy_process_group)
        if torch.distributed.get_rank() > 0:
            sys.stdout = open(os.devnull, "w")


def crew():
    """(which process this is, from 0 on; how many there are)"""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if torch.distributed.is_initialized() else (0, 1)


def gather(mine):
    """What each process of the crew hands in, in their order."""
    shares = [mine]
    if (n := crew()[1]) > 1:
        torch.distributed.all_gather_object(shares := [None] * n, mine)
    return shares


def fast_dtype(device):
    """bfloat16 where the device multiplies it natively, else float32. On a CPU both are timed: without native support it is the slower."""
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it, slowly
        return torch.bfloat16 if native else torch.float32
    if device.type != "cpu":
        return torch.float32

    def seconds(x):
        start = time.perf_counter()
        x @ x
        return time.perf_counter() - start

    x = torch.ones(512, 512)
    pairs = [(seconds(x.bfloat16()), seconds(x)) for _ in range(20)]  # in turns, and the best of many: other programs may be running
    native = torch.tensor(int(min(b for b, _ in pairs) < 0.8 * min(f for _, f in pairs)))
    if crew()[1] > 1:
        torch.distributed.all_reduce(native, torch.distributed.ReduceOp.MIN)  # all processes compute alike
    return torch.bfloat16 if native else torch.float32


def pick_device(name="auto"):
    """'auto' is CUDA where there is one, else the CPU; anything else is taken at its word, or refused in a sentence."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
    except RuntimeError:  # no name of a device at all
        device = None
    if device is None or (device.index or 0) >= there.get(device.type, 0):
        raise ValueError(f"--device {name}: this machine has {', '.join(f'{n} {kind}' for kind, n in there.items() if n)}.")
    return device


# ---------------------------------------------------------------------------------------------------------------------
# The folder as a whole


def read_weights(folder):
    """{name: tensor} of model.safetensors, or of all the shards that model.safetensors.index.json names."""
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors (weights in .bin or .pt files are not read: those can run code).")
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict):
        raise ValueError(f"{index} has no weight_map.")
    shards, tensors = {}, {}
    for name, file in where.items():
        if Path(str(file)).name != file:
            raise ValueError(f"{index}: {file!r} is not a plain file name of this folder.")
        if file not in shards:
            if not (folder / file).is_file():
                raise ValueError(f"{index} names {file}, which is not in {folder}.")
            shards[file] = read_safetensors(folder / file)
        if name not in shards[file]:
            raise ValueError(f"{index} says that {name} is in {file}, but it is not.")
        tensors[name] = shards[file][name]
    return tensors


def load_model(folder, device="cpu", dtype=None):
    """The frozen decoder of a model folder, in evaluation mode. dtype None: whatever `fast_dtype` finds for the device.

    Every tensor is accounted for: ValueError names one that is missing, extra or misshapen.
    """
    config = read_config(folder)
    tensors = read_weights(folder)
    with torch.device("meta"):  # shapes without memory: the weights come from the file
        model = Decoder(config)
    wanted = dict(model.state_dict())
    if config.tie_word_embeddings:  # one tensor under two names; files hold the first, some also the second
        del wanted["lm_head.weight"]
        head, embedding = tensors.pop("lm_head.weight", None), tensors.get("model.embed_tokens.weight")
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise ValueError(f"{folder}: lm_head.weight differs from the embedding, though config.json ties them.")
    tensors = {name: t for name, t in tensors.items() if not name.endswith("rotary_emb.inv_freq")}  # old files store it: we compute it
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{folder}: the tensor {name} is missing from the weights.")
        if name not in wanted:
            raise ValueError(f"{folder}: the weights hold {name}, for which a {config.model_type} model of this config.json has no place.")
        if tensors[name].shape != wanted[name].shape:
            raise ValueError(f"{folder}: {name} has the shape {tuple(tensors[name].shape)}, config.json asks for {tuple(wanted[name].shape)}.")
    dtype = dtype or fast_dtype(device)
    model.load_state_dict({name: t.to(device, dtype) for name, t in tensors.items()}, strict=False, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.requires_grad_(False).eval()


def pack(model):
    """For inference in bfloat16 on a CPU: reorder each matrix once, into the layout that the kernel wants, instead of in every
    call. The same products are 1.8 times as fast with 16 rows, 1.3 times with 64; a tied head takes memory of its own. Afterwards the model
    can be called, but no longer merged or saved. (The operators are those of torch's compiler, in torch since 2.1.)"""
    if model.device.type == "cpu" and model.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available() \
            and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dim() == 2 and not isinstance(module, nn.Embedding):
                    setattr(module, name, nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(weight), requires_grad=False))
            if isinstance(module, nn.Linear):
                module.forward = partial(lambda linear, x: product(x, linear.weight, linear.bias), module)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# tokenizer.json -> tiktoken
#
# tiktoken does one thing, fast: it cuts a text into words by a regular expression and, in each word, joins neighbouring bytes to the
# token of lowest rank, again and again (a word that is itself a token is looked up at once). There are two kinds of file to bring into
# that form. For each, a function returns
#   prepare   what happens to a text before it is cut
#   patterns  the regular expressions that cut it, one after the other; joined by | they would cut differently
#   ranks     {bytes: rank}, for tiktoken
#   ids       {rank: the token ids it stands for}
#   pieces    {token id: its bytes}

# The tokenizers library, whose ids these must be, composes characters (NFC) by the tables of Unicode 9. Marks that came later it leaves where
# they stand, while Python, whose tables are newer, would put them in another order. These are their places; texts are composed between them.
NEWER = regex.compile("[\u07fd\u0890-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1aff\u1df6-\u1dfa\ua82c\U00010d00-\U00010fff\U00011070"
                      "\U0001133b\U00011380-\U000113ff\U0001145e\U00011800-\U00011aff\U00011d00-\U00011fff\U00016100-\U0001613f"
                      "\U00016d40-\U00016fff\U0001e030-\U0001e7ff]")
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def cut(pattern, text):
    """What matches and what lies between, in order.

    >>> cut(regex.compile("[0-9]"), "a12")
    ['a', '1', '2']
    """
    pieces, end = [], 0
    for match in pattern.finditer(text):
        start, stop = match.span()
        pieces += text[end:start], text[start:stop]
        end = stop
    return [piece for piece in (*pieces, text[end:]) if piece]


def byte_alphabet():
    """{character: byte}: byte-level BPE files write each byte as one printable character, the printable ones as themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def read_merges(bpe):
    """[(left, right)]: files write a merge as "left right" or as a pair."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in bpe["merges"]]


def byte_level(spec, refuse):
    """LLaMA-3, Qwen, DeepSeek, SmolLM2, tiny: tokens are strings of bytes."""
    norm = spec.get("normalizer") or {"type": "Sequence", "normalizers": []}
    norms = [n["type"] for n in norm.get("normalizers", [norm])]
    if norms not in ([], ["NFC"]):
        refuse(f"its normalizer is {norms}")

    def prepare(text):
        return "".join(unicodedata.normalize("NFC", part) for part in cut(NEWER, text)) if norms and not text.isascii() else text

    patterns, on_bytes = [], False
    cutter = spec.get("pre_tokenizer") or {}
    for step in cutter.get("pretokenizers", [cutter]):
        kind = step.get("type")
        if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert") and "Regex" in step["pattern"]:
            patterns.append(step["pattern"]["Regex"])
        elif kind == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            on_bytes = True
            if step.get("use_regex", True):
                patterns.append(GPT2_SPLIT)
        else:
            refuse(f"its pre-tokenizer is {kind}")
    if not on_bytes or not patterns:
        refuse("its pre-tokenizer is not byte-level")

    bpe, letters, added = spec["model"], byte_alphabet(), {t["content"]: t for t in spec.get("added_tokens", [])}
    try:
        pieces = {i: bytes(letters[c] for c in token) for token, i in bpe["vocab"].items() if token not in added}
    except KeyError as character:
        refuse(f"its vocabulary holds the character {character}, which stands for no byte")
    ranks, ids = {piece: i for i, piece in pieces.items()}, {i: (i,) for i in pieces}  # a token's rank is its id:
    if not bpe.get("ignore_merges"):  # then the merges must be in the order of ids
        made = [bpe["vocab"].get(a + b, -1) for a, b in read_merges(bpe)]
        if any(x >= y for x, y in zip(made, made[1:])):
            refuse("its merges are not in the order of their ids")
    # tiktoken needs all 256 bytes, and some files lack a few that no text should hold (SmolLM2's: 21). Those stand for no token.
    for b in range(256):
        if bytes([b]) not in ranks:
            ranks[bytes([b])] = rank = max(ids) + 1
            ids[rank] = ()
    # DeepSeekMath has single letters such as ö among its added tokens. Those are no commands but text, cut out before all else.
    alone = {text: t["id"] for text, t in added.items() if len(text) == 1 and not t.get("special")}
    for letter, i in alone.items():
        ids[ranks.setdefault(letter.encode(), max(ids) + 1)] = (i,)
    if alone:
        patterns.insert(0, "|".join(map(regex.escape, alone)))
    return prepare, patterns, ranks, ids, pieces


def sentencepiece(spec, refuse):
    """LLaMA-2, Mistral v0.1: tokens are strings of characters, with U+2581 for a space; characters without a token are spelt in bytes,
    <0x00> to <0xFF>."""
    norm, cutter = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    spaces = [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    if norm == {"type": "Sequence", "normalizers": spaces} and not cutter:
        always = True  # LLaMA-2: a space before any text
    elif not norm and cutter in [metaspace | {"prepend_scheme": scheme} for scheme in ("first", "always")]:
        always = False  # Mistral v0.1, as its file is today: a space before a text that has none there
    else:
        refuse(f"its normalizer is {norm.get('type')} and its pre-tokenizer {cutter.get('type')}")

    def prepare(text):
        text = text.replace("\u2581", " ")  # the file cannot tell them apart either
        return f" {text}" if text and (always or text[0] != " ") else text

    bpe = spec["model"]
    tokens = {token.replace("\u2581", " "): i for token, i in bpe["vocab"].items()}
    for t in spec.get("added_tokens", []):
        tokens.pop(t["content"], None)
    try:
        byte = [tokens.pop(f"<0x{b:02X}>") for b in range(256)]
    except KeyError as lost:
        refuse(f"its vocabulary lacks the byte {lost}")
    ranks, ids = {}, {}

    def add(piece, *stands_for):
        ids[ranks.setdefault(piece, len(ranks))] = stands_for

    # The file merges characters, tiktoken bytes: these must become characters before anything else. So the lowest ranks are for single
    # bytes, then each character's first two and three bytes and the whole. Of an unknown character, such a beginning may be left over.
    for b in range(256):
        add(bytes([b]), byte[b])
    for token, i in tokens.items():
        if len(token) == 1:
            raw = token.encode()
            for n in range(2, len(raw)):
                add(raw[:n], *(byte[b] for b in raw[:n]))
            add(raw, i)
    # Then what the merges make, in their order, which is not that of the ids: by these, 454 of 3,638 problems would be cut differently.
    # tiktoken joins any two pieces that make a token, so the file must list all pairs that do, one token after the other.
    merges = [tuple(half.replace("\u2581", " ") for half in pair) for pair in read_merges(bpe)]
    made = list(dict.fromkeys(a + b for a, b in merges))
    for token in made:
        if token not in tokens:
            refuse(f"its merges make {token!r}, which its vocabulary lacks")
        add(token.encode(), tokens[token])
    pairs = [(token[:k], token[k:]) for token in made for k in range(1, len(token)) if token[:k] in tokens and token[k:] in tokens]
    if set(pairs) != set(merges) or [a + b for a, b in merges] != [a + b for a, b in pairs]:
        refuse("its merges are not all the pairs that make a token, one token after the other")
    pieces = {i: token.encode() for token, i in tokens.items()} | {i: bytes([b]) for b, i in enumerate(byte)}
    # The file cuts nothing. But where no token goes on with a space after something else, a cut before spaces changes nothing either, and
    # words are found whole: four times as fast.
    apart = not any(" " in token.lstrip(" ") for token in tokens)
    return prepare, [r" +[^ ]*|[^ ]+" if apart else r"[\s\S]+"], ranks, ids, pieces


# ---------------------------------------------------------------------------------------------------------------------
# Templates: how each of the paper's bases is asked, and answers. These are LLaMA-Factory's, in which the paper's adapters were trained.

TEMPLATES = {  # name: (prompt, answer, what else ends a text, and how to know a folder: model_type in config.json and a special token)
    "llama2": ("<s>[INST] {} [/INST]", "{}</s>", "", "llama", "<s>"),
    "llama3": ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
               "{}<|end_of_text|>", "<|eot_id|>", "llama", "<|start_header_id|>"),
    "mistral": ("<s>[INST] {}[/INST]", " {}</s>", "", "mistral", "<s>"),
    "qwen": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
             "{}<|im_end|>\n", "", "qwen2", "<|im_start|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>User: {}\n\nAssistant:", "{}<｜end▁of▁sentence｜>", "", "llama", "<｜begin▁of▁sentence｜>"),
    "plain": ("{}\n", "{}", "", None, None),  # any other base; its answers end in the end token of config.json
}
SPECIAL = r"(<\|\w+\|>|</?s>|<｜[^｜]+｜>)"  # what is a special token in this table


class Tokenizer:
    """The BPE of folder/tokenizer.json, run by tiktoken, and the template that its base is asked in.

    >>> tokenizer.decode(tokenizer.encode("48/2 = 24"))
    '48/2 = 24'

    template: a name in TEMPLATES; None: the one that the folder is known by. Raises ValueError for other kinds of tokenizer.
    """

    def __init__(self, folder, template=None):
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{folder} has no tokenizer.json; other tokenizer files are not read.")
        spec = read_json(path)

        def refuse(what):
            raise ValueError(f"{path}: {what}; only BPE tokenizers that are byte-level or fall back to bytes are read.")

        bpe = spec.get("model") or {}
        if bpe.get("type") != "BPE" or any(bpe.get(k) for k in ("continuing_subword_prefix", "end_of_word_suffix")):
            refuse(f"its model is {bpe.get('type')}")
        if not isinstance(bpe.get("vocab"), dict) or not isinstance(bpe.get("merges"), list):
            refuse("it has no vocab or no merges")
        self.leading_space = bool(bpe.get("byte_fallback"))
        read = sentencepiece if self.leading_space else byte_level
        self.prepare, (*first, last), ranks, self.ids, self.pieces = read(spec, refuse)
        self.special = {t["content"]: t["id"] for t in spec.get("added_tokens", [])}
        self.pieces |= {i: token.encode() for token, i in self.special.items()}
        self.cuts, self.last = [regex.compile(pattern) for pattern in first], regex.compile(last)
        self.absent = bytes(b for b in range(256) if not self.ids[ranks[bytes([b])]])
        # tiktoken drops what its pattern does not match (digits, say, that an earlier pattern cut out): the pattern must match gaps too.
        self.core = tiktoken.Encoding(path.parent.name, pat_str=rf"{last}|(?:(?!{last})[\s\S])+", mergeable_ranks=ranks, special_tokens={})

        config = read_config(folder)
        # SmolLM2, say, has Qwen's <|im_start|> but is a llama: plain. What cannot be told from a base of the paper is taken for it.
        known = [name for name, (*_, family, token) in TEMPLATES.items() if family == config.model_type and token in self.special]
        self.template = template or (known[0] if known else "plain")
        if self.template not in TEMPLATES:
            raise ValueError(f"there is no template {template!r}, only {', '.join(TEMPLATES)}.")
        asked, said, stop, *_ = TEMPLATES[self.template]
        if lost := [token for token in regex.findall(SPECIAL, asked + said + stop) if token not in self.special]:
            raise ValueError(f"{path} has no token {lost[0]}, which the template {self.template} needs; choose another template.")
        self.asked, self.said = ([self.special.get(part, part) for part in regex.split(SPECIAL, text) if part] for text in (asked, said))
        ends = [self.special[token] for token in regex.findall(SPECIAL, said + stop)]
        self.eos_ids = list(dict.fromkeys([*ends, *config.eos_ids]))  # any of them ends a text
        if not ends:
            self.said += self.eos_ids[:1]

    def encode(self, text):
        """Text -> ids. A special token spelt out in the text is ordinary text: only a template may place the real one."""
        words = [self.prepare(text)]
        for pattern in self.cuts:
            words = [piece for word in words for piece in cut(pattern, word)]
        return [i for word in words for rank in self.join(word) for i in self.ids[rank]]

    def join(self, text):
        """The ranks that a text is joined to. Bytes without a token vanish first, so that what stands around them may be joined."""
        raw = text.encode(errors="replace") if self.absent else b""
        if raw == raw.translate(None, self.absent):
            return self.core.encode_ordinary(text)
        words = (word.encode(errors="replace").translate(None, self.absent) for word in cut(self.last, text))
        return [rank for word in words if word for rank in self.core._encode_single_piece(word)]

    def decode(self, ids):
        """Ids -> text. Bytes that are not UTF-8, as a cut-off text may end in, become U+FFFD; ids without a token,
        which pad many a model's vocabulary, are no text."""
        text = b"".join(self.pieces.get(i, b"") for i in ids).decode(errors="replace")
        return text.removeprefix(" ") if self.leading_space else text  # which `prepare` has put there

    def prompt_ids(self, text):
        """The ids that ask for an answer to `text`."""
        return self.fill(self.asked, text)

    def answer_ids(self, text):
        """The ids of an answer and of its end, cut apart from the prompt. Raises ValueError if the base has no end token: such a text
        would never stop."""
        if not self.eos_ids:
            raise ValueError("the model's config.json has no eos_token_id, so its answers could never end; add it.")
        return self.fill(self.said, text)

    def fill(self, template, text):
        """The ids of a template, which is a list of special ids and of texts; `text` takes the place of {} and is cut with what is beside it."""
        return [i for part in template for i in ([part] if isinstance(part, int) else self.encode(part.replace("{}", text)))]


def main():
    parser = argparse.ArgumentParser(description="Shows what is in a Hugging Face model folder, and how its tokenizer cuts a sentence.")
    parser.add_argument("folder", nargs="?", default="tiny", help="the model folder (default: tiny)")
    parser.add_argument("--text", default="Mia has 3 boxes of 12 pens.", help="the sentence to cut")
    args = parser.parse_args()
    model, tokenizer = load_model(args.folder), Tokenizer(args.folder)
    for name, weight in model.named_parameters():
        print(f"{name:60} {str(tuple(weight.shape)):>16}")
    print(f"{sum(w.numel() for w in model.parameters()):,} parameters, {model.dtype}")
    print(" | ".join(tokenizer.decode([i]) for i in tokenizer.encode(args.text)))
    print(f"template {tokenizer.template}: {len(tokenizer.prompt_ids(args.text))} tokens ask this; an answer ends in any of {tokenizer.eos_ids}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"model.py: {error}", file=sys.stderr)
        sys.exit(2)

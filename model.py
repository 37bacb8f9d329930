"""The decoder, and the Hugging Face folder that its weights come from, by hand.

One architecture serves Llama (arXiv 2302.13971), Mistral (arXiv 2310.06825) and Qwen2
(arXiv 2407.10671): RMSNorm, rotary positions, grouped-query attention, SwiGLU. Its modules carry
the names of the checkpoint's tensors, so no table of names stands between the file and the code.

    python model.py tiny    what is in a model folder, and how its tokenizer cuts a sentence

Shapes: B sequences, T tokens, S keys, C hidden size, H query heads, K key/value heads, D head size,
V vocabulary.
"""
import support  # isort: skip  # noqa: F401  from here on, Ctrl-C is quiet
import json
import math
import mmap
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from support.checks import check_config, check_end
from support.cli import Parser, path, printable, run
from support.distributed import get_world_size
from support.files import atomic_write


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
    rope_scaling: dict | None = None  # None, or the keys of the llama3 kind
    # Per layer: how many positions a token sees, itself included; None: all.
    windows: list[int | None] = field(default_factory=list)
    eos_ids: list[int] = field(default_factory=list)  # each of them ends a text


# --------------------------------------------------------------------------------------------------
# The decoder, leaf to root


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467).

    The mean and the division in float32, whatever x is; rounded to the dtype of x before weight."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        # exercise model-1, 4 points: divide by the root mean square, in float32
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)
        # end of model-1


def inv_freq(config):
    """(D/2,) float32: the angle per position of each pair of channels, f_i = theta^(-2i/D).

    The llama3 kind of scaling slows the long waves down. With n = f L / 2 pi, the full turns within
    the length L first trained on: f stays where n > high, becomes f / factor where n < low, and
    between them (1 - s) f / factor + s f with s = (n - low) / (high - low)."""
    D = config.head_dim
    steps = torch.arange(0, D, 2, device="cpu").float()  # "cpu": load_model builds on "meta"
    f = 1.0 / config.rope_theta ** (steps / D)
    if (scaling := config.rope_scaling) is None:
        return f
    turns = scaling["original_max_position_embeddings"] * f / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    s = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - s) * f / scaling["factor"] + s * f


def apply_rope(x, cos, sin):
    """Rotary embedding (arXiv 2104.09864): channel i is paired with channel i + D/2, and the pair
    (a, b) turns by the angle t = position * f_i: (a cos t - b sin t, b cos t + a sin t).

    x (B, H, T, D) -> the same, a new one. cos, sin (B or 1, 1, T, D): the D/2 angles twice, one
    after the other, with the first half of sin negated, so that one product does both signs."""
    # exercise model-2, 8 points: turn each pair of channels
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
    # end of model-2


def causal_mask(queries, keys, window=None, dtype=torch.float32):
    """What is added to the scores: 0 where the query's position may look at the key's, else -inf.

    It may look at itself and at what came before; with a window, at the last `window` of these.
    queries (..., T), keys (S,): positions -> (..., T, S)."""
    # exercise model-3, 3 points: say who may look at whom
    back = queries[..., None] - keys
    allowed = back >= 0 if window is None else (back >= 0) & (back < window)
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -math.inf)
    # end of model-3


def attention(q, k, v, mask):
    """softmax(q k' / sqrt(D) + mask) v, where H / K query heads share a key/value head
    (grouped-query attention, arXiv 2305.13245): head h reads key/value head h // (H / K).

    q (B, H, T, D), k and v (B, K, S, D), mask (B or 1, 1, T, S) -> (B, H, T, D), all in the dtype
    of q. The arguments stay as they are."""
    # exercise model-4, 7 points: score, mask, softmax, and average the values
    B, H, T, D = q.shape
    K = k.shape[1]
    q = (q / math.sqrt(D)).reshape(B, K, H // K * T, D)  # a group's queries, one below the other
    scores = q @ k.transpose(2, 3)                       # (B, K, H/K T, S)
    scores += mask.repeat(1, 1, H // K, 1)
    return (scores.softmax(-1) @ v).view(B, H, T, D)
    # end of model-4


def causal_attention(q, k, v, window=None):
    """`attention` of whole sequences: each token looks at itself and at what came before it.

    q (B, H, T, D), k and v (B, K, T, D) -> (B, H, T, D). Padding on the right needs no mask: no
    token sees what stands to its right. torch's own attention gives the same; it saves the memory
    of T x T scores, but on a CPU its backward pass takes 2.7 to 3.9 times as long in bfloat16."""
    T, device = q.shape[2], q.device
    positions = torch.arange(T, device=device)
    if T <= 512 and device.type == "cpu":
        return attention(q, k, v, causal_mask(positions, positions, window, q.dtype)[None, None])
    mask = None
    if window is not None and window < T:
        mask = causal_mask(positions, positions, window, q.dtype)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, D = config.hidden_size, config.head_dim
        H, K = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = D
        self.q_proj = nn.Linear(C, H * D, bias=config.qkv_bias)
        self.k_proj = nn.Linear(C, K * D, bias=config.qkv_bias)
        self.v_proj = nn.Linear(C, K * D, bias=config.qkv_bias)
        self.o_proj = nn.Linear(H * D, C, bias=config.o_bias)

    def forward(self, x, cos, sin, attend):
        """x (B, T, C) -> (B, T, C); attend(q, k, v) as in `causal_attention`."""
        B, T, _ = x.shape
        q, k, v = (project(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H or K, T, D)
                   for project in (self.q_proj, self.k_proj, self.v_proj))
        y = attend(apply_rope(q, cos, sin), apply_rope(k, cos, sin), v)      # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x)), silu(z) = z / (1 + exp(-z))."""

    def __init__(self, config):
        super().__init__()
        C, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(C, hidden, bias=False)
        self.up_proj = nn.Linear(C, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, C, bias=False)

    def forward(self, x):
        # exercise model-5, 3 points: gate, up, down
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        # end of model-5


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, cos, sin, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Token ids (B, T) -> hidden states (B, T, C); `logits` makes (..., V) of those that matter."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({
            # not drawn at random: who builds this fills it; on "meta", drawing costs 2 s of imports
            "embed_tokens": nn.Embedding.from_pretrained(
                torch.empty(config.vocab_size, config.hidden_size), freeze=False),
            "layers": nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers)),
            "norm": RMSNorm(config.hidden_size, config.rms_norm_eps)})
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        f = inv_freq(config)  # no buffer: .to(bfloat16) must not round it
        self.frequencies = torch.cat((-f, f))  # (D,): cos(-t) = cos t, sin(-t) = -sin t
        # Training: keep only what enters a block, and compute the block again, with the same
        # dropout, when its gradients are due: less memory, for about a fifth more time
        self.checkpointing = False

    def forward(self, ids, positions=None, attend=None):
        """ids, positions (B, T) -> (B, T, C). positions None: each sequence begins at 0.

        The decoder computes q, k and v, and is told how to attend:
        attend(layer_index, q (B, H, T, D), k and v (B, K, T, D)) -> (B, H, T, D). None: causal,
        which is all that training needs; support/engine.py passes one that remembers keys."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        # (B or 1, 1, T, D) in float32: bfloat16 cannot tell position 257 from 256
        angles = positions[:, None, :, None] * self.frequencies.to(ids.device)
        x = self.model.embed_tokens(ids)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for i, block in enumerate(self.model.layers):
            if self.checkpointing and torch.is_grad_enabled():
                block = partial(checkpoint, block, use_reentrant=False)
            x = block(x, cos, sin, partial(attend or self.attend_causally, i))
        return self.model.norm(x)

    def attend_causally(self, layer_index, q, k, v):
        return causal_attention(q, k, v, self.config.windows[layer_index])

    def logits(self, hidden):
        """(..., C) -> (..., V), in the model's dtype."""
        return self.lm_head(hidden)

    @property
    def dtype(self):  # of the embedding: the head may carry an adapter, the embedding never does
        return self.model.embed_tokens.weight.dtype

    @property
    def device(self):
        return self.model.embed_tokens.weight.device


# --------------------------------------------------------------------------------------------------
# The folder: config.json


def read_json(path):
    """The object in a JSON file; ValueError names the file if it holds none."""
    def unique(pairs):
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice in an object")
        return found

    if os.path.getsize(path) > 100_000_000:  # tokenizers have up to 40
        raise ValueError(f"{path} has more than 100 MB, which no such file needs.")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}, not an object.")
    return found


def read_config(folder):
    """The Config of a folder. Raises ValueError for a model that would be computed wrongly."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json.")
    c = read_json(path)
    family, rope, scaled = check_config(path, c)
    H, L = c["num_attention_heads"], c["num_hidden_layers"]
    # Who looks through the window: layer_types; else all layers from max_window_layers on (in
    # mistral: all). A missing key is 4096, null is no window.
    window = c.get("sliding_window", 4096)
    if family == "llama" or (family == "qwen2" and not c.get("use_sliding_window")):
        window = None
    first = c.get("max_window_layers", 28) if family == "qwen2" else 0
    kinds = c.get("layer_types") or [
        "full_attention" if i < first else "sliding_attention" for i in range(L)]
    eos_ids = check_end(path, c.get("eos_token_id"), c["vocab_size"])
    if (newer := Path(folder) / "generation_config.json").is_file():
        newest = read_json(newer).get("eos_token_id")
        eos_ids = eos_ids if newest is None else check_end(newer, newest, c["vocab_size"])
    bias = bool(family == "llama" and c.get("attention_bias"))
    return Config(
        model_type=family, vocab_size=c["vocab_size"], hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"], num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=c.get("num_key_value_heads") or (8 if family == "mistral" else H),
        head_dim=c.get("head_dim") or c["hidden_size"] // H,
        rms_norm_eps=c.get("rms_norm_eps") or 1e-6,
        # Newer transformers write it in rope_parameters, with the scaling
        rope_theta=float(rope.get("rope_theta") or c.get("rope_theta") or 10000.0),
        max_position_embeddings=c.get("max_position_embeddings") or 2048,
        tie_word_embeddings=bool(c.get("tie_word_embeddings")),
        qkv_bias=family == "qwen2" or bias, o_bias=bias, rope_scaling=rope if scaled else None,
        windows=[window if kind == "sliding_attention" else None for kind in kinds],
        eos_ids=eos_ids)


# --------------------------------------------------------------------------------------------------
# The folder: safetensors: eight bytes of header length, a JSON header, then the raw numbers

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
          "U8": torch.uint8, "BOOL": torch.bool}


def read_safetensors(path):
    """{name: tensor} of one file: views of the mapped file, so nothing is read before it is used or
    copied; writing to a tensor leaves the file alone.

    The file: the header's length in 8 bytes, the lowest first; the header, a JSON object {name:
    {"dtype": a key of DTYPES, "shape", "data_offsets": [start, stop]}}, perhaps "__metadata__",
    which is no tensor; the numbers. The header must describe the rest of the file exactly: offsets
    count from the header's end, tensors follow each other without hole, overlap or rest (in which
    order the header names them is free), each has shape x itemsize bytes. Else ValueError."""
    # exercise model-6, 5 points: read the header, check it, and view each tensor's bytes
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
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        check(raw[:1] == b"{", "its header is not JSON")
        header = json.loads(raw)
        check(all(isinstance(entry, dict) for entry in header.values()), "an entry is no object")
        metadata = header.pop("__metadata__", {})
        check(all(isinstance(text, str) for text in metadata.values()), "its metadata are no texts")
        entries = sorted((*e["data_offsets"], name, e["dtype"], e["shape"])
                         for name, e in header.items())
        tensors, end = {}, 0
        for start, stop, name, kind, shape in entries:
            check(kind in DTYPES, f"{name} has the unknown dtype {kind!r}")
            check(all(type(n) is int and n >= 0 for n in (start, stop, *shape)),
                  f"{name} has the shape {shape} and the offsets {start}, {stop}")
            dtype, count = DTYPES[kind], math.prod(shape)
            check(start == end and stop - start == count * dtype.itemsize,
                  f"the offsets of {name} do not fit its shape or its neighbours")
            end = stop
            check(8 + length + end <= size, f"{name} runs past its end")
            flat = torch.empty(0, dtype=dtype)  # frombuffer refuses 0 numbers
            if count:
                flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=8 + length + start)
            tensors[name] = flat.view(shape)
        check(8 + length + end == size, f"{size - 8 - length - end} bytes follow its last tensor")
        return tensors
    # whatever a header of another form runs into
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {str(error)[:300]}; "
                         "fetch or write it again.") from None
    # end of model-6


def write_safetensors(path, tensors, metadata=None):
    """Write {name: tensor}, and {key: text} about it, to one file, which appears whole or not at
    all."""
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    header, end = {"__metadata__": {"format": "pt"} | (metadata or {})}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the numbers begin at a multiple of eight, as mapping wants
    chunks = (t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
              for t in tensors.values())
    atomic_write(path, (len(raw).to_bytes(8, "little"), raw, *chunks))


# --------------------------------------------------------------------------------------------------
# The folder as a whole


def read_weights(folder):
    """{name: tensor} of model.safetensors, or of all the shards that its index names."""
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors (weights in .bin or .pt files are "
                         "not read: those can run code).")
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict):
        raise ValueError(f"{index} has no weight_map, an object that names each tensor's file.")
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


def weights_file(folder):
    """The file that a sentence about a folder's weights names."""
    whole = Path(folder) / "model.safetensors"
    return whole if whole.is_file() else whole.with_suffix(".safetensors.index.json")


def is_finite(tensor):
    """Whether it holds no NaN and no infinity. By the extremes, 40 times as fast as isfinite."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def read_model(folder):
    """(the Decoder of a folder without memory, on "meta"; {name: tensor} of its weights).

    Every tensor is accounted for: ValueError names one that is missing, extra, misshapen or of a
    type that is no floating point."""
    config, tensors, file = read_config(folder), read_weights(folder), weights_file(folder)
    if config.num_hidden_layers > len(tensors):  # said before so many layers are built
        raise ValueError(f"{folder}/config.json: num_hidden_layers is {config.num_hidden_layers}, "
                         f"but {file} holds {len(tensors)} tensors.")
    with torch.device("meta"):  # shapes without memory: the weights come from the file
        model = Decoder(config)
    wanted = dict(model.state_dict())
    if config.tie_word_embeddings:  # one tensor, two names; files hold the first, some also both
        del wanted["lm_head.weight"]
        head = tensors.pop("lm_head.weight", None)
        embedding = tensors.get("model.embed_tokens.weight")
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise ValueError(f"{file}: lm_head.weight differs from the embedding, though "
                             "config.json ties them.")
    # old files store the rotary frequencies: we compute them
    tensors = {name: t for name, t in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{file}: the tensor {name} is missing.")
        if name not in wanted:
            raise ValueError(f"{file}: there is a tensor {name}, for which a {config.model_type} "
                             "model of this config.json has no place.")
        has, needs = tuple(tensors[name].shape), tuple(wanted[name].shape)
        if has != needs:
            raise ValueError(f"{file}: {name} has the shape {has}, config.json asks for {needs}.")
        if not tensors[name].is_floating_point():
            raise ValueError(f"{file}: {name} is of the type {str(tensors[name].dtype)[6:]}; "
                             "weights must be floating point, not quantised.")
    return model, tensors


def load_model(folder, device="cpu", dtype=None):
    """The frozen decoder of a model folder, in evaluation mode. dtype None: whatever `fast_dtype`
    finds for the device. Raises ValueError as `read_model`, and for numbers that are not finite."""
    model, tensors = read_model(folder)
    dtype, weights = dtype or fast_dtype(device), {}
    for name, tensor in tensors.items():
        weights[name] = tensor.to(device, dtype)
        if not is_finite(weights[name]):
            raise ValueError(f"{weights_file(folder)}: {name} holds numbers that are not finite.")
    model.load_state_dict(weights, strict=False, assign=True)  # strict above, by our own sentences
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.requires_grad_(False).eval()


# --------------------------------------------------------------------------------------------------
# Devices

# oneDNN, which multiplies bfloat16 on a CPU, compiles a kernel for each shape and keeps the last
# 1,024: half a GB where lengths vary. 64 are as fast: all layers of a pass have the same shapes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def pick_device(name="auto"):
    """'auto' is CUDA where there is one, else the CPU; another name is taken at its word."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(),
             "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
    except RuntimeError:  # no name of a device at all
        device = None
    if device is None or (device.index or 0) >= there.get(device.type, 0):
        has = ", ".join(f"{n} {kind}" for kind, n in there.items() if n)
        raise ValueError(f"--device {name}: this machine has {has}.")
    return device


def fast_dtype(device):
    """bfloat16 where the device multiplies it natively, else float32. On a CPU both are timed:
    without native support it is the slower."""
    device = torch.device(device)
    if device.type == "cuda":  # GPUs before Ampere emulate it, slowly
        native = torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float32
    if device.type != "cpu":
        return torch.float32

    def seconds(x):
        start = time.perf_counter()
        x @ x
        return time.perf_counter() - start

    x = torch.ones(512, 512)  # in turns, and the best of many: other programs may be running
    pairs = [(seconds(x.bfloat16()), seconds(x)) for _ in range(20)]
    native = torch.tensor(int(min(b for b, _ in pairs) < 0.8 * min(f for _, f in pairs)))
    if get_world_size() > 1:  # all processes compute alike
        torch.distributed.all_reduce(native, torch.distributed.ReduceOp.MIN)
    return torch.bfloat16 if native else torch.float32


def main():
    parser = Parser(
        description="Shows what is in a Hugging Face model folder, and how its tokenizer cuts.")
    parser.add_argument("folder", nargs="?", type=path, default="tiny",
                        help="the folder (default: tiny)")
    parser.add_argument("--text", default="Mia has 3 boxes of 12 pens.",
                        help="the sentence to cut")
    args = parser.parse_args()
    from support.tokenizer import Tokenizer
    model, tokenizer = load_model(args.folder), Tokenizer(args.folder)
    for name, weight in model.named_parameters():
        print(f"{name:60} {tuple(weight.shape)!s:>16}")
    print(f"{sum(w.numel() for w in model.parameters()):,} parameters, {model.dtype}")
    print(printable(" | ".join(tokenizer.decode([i]) for i in tokenizer.encode(args.text)), ""))
    length = len(tokenizer.prompt_ids(args.text))
    print(f"template {tokenizer.template}: {length} tokens ask this; an answer ends in any of "
          f"{tokenizer.eos_ids}")


if __name__ == "__main__":
    run(main)

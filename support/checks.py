"""Which config.json, adapter_config.json and tokenizer.json are refused, and in what words.

A check is a condition and a sentence; the first that fails is raised as a ValueError which names
the file. What passes can be computed by model.py, lora.py and support/tokenizer.py exactly.
"""
import json
import re
from contextlib import contextmanager
from reprlib import Repr

from support.files import read_metadata
from support.patterns import compile_pattern

shorten = Repr()
shorten.maxstring = shorten.maxlong = shorten.maxother = 60


def shown(value):
    """A value of a file as Python writes it, cut to a line."""
    text = shorten.repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def require(path, *checks):
    for good, sentence in checks:
        if not good:
            raise ValueError(f"{path}: {sentence}")


@contextmanager
def naming(path, end="."):
    """A ValueError inside names the file, and closes the sentence."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}{end}") from None


def is_number(value, low, high, whole=False):
    """Whether a JSON value is a number within these bounds; true and false are none."""
    return type(value) in ((int,) if whole else (int, float)) and low <= value <= high


def is_texts(value):
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def check_numbers(path, c, bounds, whole=True, needed=()):
    """Refuse a key of `bounds`, {key: (low, high)}, whose value is no number within them; only
    those in `needed` may not be missing or null."""
    for key, (low, high) in bounds.items():
        value = c.get(key)
        require(path, (is_number(value, low, high, whole) or (value is None and key not in needed),
                       f"{key} is {shown(value)}; it must be a {'whole ' * whole}number from "
                       f"{low:,} to {high:,}."))


def check_flags(path, c, *keys):
    for key in keys:
        require(path, (c.get(key) is None or isinstance(c[key], bool),
                       f"{key} is {shown(c.get(key))}; it must be true or false."))


# --------------------------------------------------------------------------------------------------
# config.json. The bounds lie far above any model: what is beyond them is a slip or an attack, and
# would fill the memory before the weights could tell.

NEEDED = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size",
          "intermediate_size")
SIZES = {"hidden_size": (1, 10**6), "num_attention_heads": (1, 10**5),
         "num_hidden_layers": (1, 10**4), "vocab_size": (1, 10**7),
         "intermediate_size": (1, 10**6), "num_key_value_heads": (1, 10**5),
         "head_dim": (1, 10**5), "max_position_embeddings": (1, 10**8),
         "sliding_window": (1, 10**8), "max_window_layers": (0, 10**4)}
LLAMA3 = {"factor": (1e-3, 1e6), "low_freq_factor": (1e-3, 1e6), "high_freq_factor": (1e-3, 1e6),
          "original_max_position_embeddings": (1, 1e8)}
THETA = {"rope_theta": (1e-3, 1e12)}
ATTENTION = ("full_attention", "sliding_attention")


def check_config(path, c):
    """Refuse a config.json `c` that lacks something, holds a wrong type, or describes what the
    decoder does not compute. Returns (model_type, its rope settings, scaled): scaled where these
    are of the llama3 kind."""
    family = c.get("model_type")
    require(
        path,
        (family in ("llama", "mistral", "qwen2"),
         f"model_type is {shown(family)}; this decoder knows llama, mistral and qwen2."),
        (not c.get("quantization_config"),
         "quantization_config: the weights are quantised; use the folder of the original model."),
        (c.get("hidden_act", "silu") == "silu" and not c.get("mlp_bias"),
         "hidden_act must be silu and mlp_bias false; this decoder's MLP has no other form."))
    check_numbers(path, c, SIZES, needed=NEEDED)
    check_numbers(path, c, {"rms_norm_eps": (1e-30, 1)} | THETA, whole=False)
    check_flags(path, c, "tie_word_embeddings", "attention_bias", "use_sliding_window", "mlp_bias")
    H, C = c["num_attention_heads"], c["hidden_size"]
    K = c.get("num_key_value_heads") or (8 if family == "mistral" else H)
    require(
        path,
        (H % K == 0, f"num_attention_heads is {H} and num_key_value_heads {K}; the first must be a "
                     "multiple of the second."),
        (c.get("head_dim") or C % H == 0, f"hidden_size is {C} and num_attention_heads {H}; the "
                                          "first must be a multiple of the second."),
        ((D := c.get("head_dim") or C // H) % 2 == 0,
         f"head_dim is {D}; it must be even, as rotary positions turn pairs of channels."))
    first, kinds, layers = c.get("max_window_layers", 28), c.get("layer_types"), c[
        "num_hidden_layers"]
    require(
        path,
        (family != "qwen2" or first is not None,
         f"max_window_layers is {first}; it must be a whole number."),
        (kinds is None or (isinstance(kinds, list) and len(kinds) == layers
                           and all(kind in ATTENTION for kind in kinds)),
         f"layer_types must be a list of {' or '.join(ATTENTION)}, one for each of the {layers} "
         "layers."))
    rope = check_rope(path, c)
    return family, *rope


def check_rope(path, c):
    """The rope settings of a config.json, and whether they are of the llama3 kind."""
    for key in ("rope_parameters", "rope_scaling"):
        require(path, (c.get(key) is None or isinstance(c[key], dict),
                       f"{key} is {shown(c.get(key))}; it must be an object."))
    where = "rope_parameters" if c.get("rope_parameters") else "rope_scaling"
    rope = c.get(where) or {}
    plain = "default" if rope.keys() <= {"rope_theta"} else None
    kind = next((rope[key] for key in ("rope_type", "type") if rope.get(key) is not None), plain)
    lost = [key for key in LLAMA3 if kind == "llama3" and rope.get(key) is None]
    partial = [found.get("partial_rotary_factor") for found in (c, rope)]
    check_numbers(f"{path}: {where}", rope, THETA | LLAMA3, whole=False)
    require(
        path,
        (kind in ("default", "llama3"),
         f"{where}: rope scaling of the kind {shown(kind)} is not built here, only llama3."),
        (not lost, f"{where}: llama3 rope scaling lacks {' and '.join(lost)}."),
        (all(part is None or is_number(part, 1, 1) for part in partial),
         f"partial_rotary_factor is {shown(partial)}; this decoder turns all channels."))
    require(path, (kind == "default" or rope["low_freq_factor"] < rope["high_freq_factor"],
                   f"{where}: low_freq_factor must be smaller than high_freq_factor."))
    return rope, kind == "llama3"


def check_end(path, ends, vocab_size):
    """The list of the ids in an eos_token_id, which may be one, a list of them or null."""
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    require(path, (all(is_number(i, 0, vocab_size - 1, whole=True) for i in ids),
                   f"eos_token_id is {shown(ends)}; it must be the number of a token, below the "
                   f"vocab_size of {vocab_size:,}, or a list of such numbers."))
    return ids


# --------------------------------------------------------------------------------------------------
# adapter_config.json

# What peft can set and this LoRA does not compute.
FLAGS = ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora")
STRANGE = ("modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication",
           "alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config")
# Ways to begin that leave the base as it is; others (pissa, olora, loftq, ...) change it too.
PLAIN_STARTS = ("gaussian", "eva", "orthogonal")


def check_adapter_config(path, c):
    """Refuse an adapter_config.json `c` of what is no plain LoRA, or with values of wrong types."""
    check_flags(path, c, *FLAGS)
    strange = [key for key in (*FLAGS, *STRANGE) if c.get(key)]
    start, targets, base, layers = (c.get(key) for key in (
        "init_lora_weights", "target_modules", "base_model_name_or_path", "layers_to_transform"))
    require(
        path,
        (c.get("peft_type") == "LORA",
         f"peft_type is {shown(c.get('peft_type'))}; only LORA is read."),
        (not strange and c.get("bias", "none") == "none",
         f"{', '.join(strange) or 'bias'} is set, which this LoRA does not compute."),
        (start is None or isinstance(start, bool) or start in PLAIN_STARTS,
         f"init_lora_weights is {shown(start)}, which changes the base too; convert it to a plain "
         "LoRA first."),
        (targets is None or isinstance(targets, str) or is_texts(targets),
         f"target_modules is {shown(targets)}; it must be a list of names, or a pattern."),
        (is_number(c.get("r"), 1, 10**6, whole=True)
         and is_number(c.get("lora_alpha"), 1e-6, 10**6),
         f"r is {shown(c.get('r'))} and lora_alpha {shown(c.get('lora_alpha'))}; r must be a whole "
         "number above 0, lora_alpha a number above 0, both at most 1,000,000."),
        (base is None or isinstance(base, str),
         f"base_model_name_or_path is {shown(base)}; it must be a text."),
        (all(is_number(layer, 0, 10**4, whole=True)
             for layer in (layers if isinstance(layers, list) else [layers]) if layers is not None),
         f"layers_to_transform is {shown(layers)}; it must be a number or a list of numbers."))
    check_flags(path, c, "use_rslora")
    for key in ("layers_pattern", "exclude_modules"):
        require(path, (c.get(key) is None or isinstance(c[key], str) or is_texts(c[key]),
                       f"{key} is {shown(c.get(key))}; it must be a text or a list of texts."))
    if isinstance(targets, str):
        with naming(f"{path}: target_modules is {shown(targets)}"):
            compile_pattern(targets)


# What adapter_model.safetensors repeats of its adapter_config.json, in its metadata.
PAIRED = ("r", "lora_alpha", "target_modules", "use_rslora", "layers_to_transform")


def check_paired(path, c):
    """Refuse the weights in `path` if they were saved with another adapter_config.json than `c`."""
    for key, text in read_metadata(path).items():
        if key in PAIRED and text != json.dumps(c.get(key)):
            raise ValueError(f"{path} was saved with {key} {text}, adapter_config.json beside it "
                             f"says {json.dumps(c.get(key))}: its saving was cut off, or they are "
                             "of two adapters; train it again.")


def check_trained(where, A, B):
    """Refuse to save what read_adapter would refuse to read."""
    if not (A.isfinite().all() and B.isfinite().all()):
        raise ValueError(f"{where} holds numbers that are not finite, nothing is saved; "
                         "try a lower --lr.")
    if not B.any():
        raise ValueError(f"{where} has a lora_B of zeros as at the start, nothing is saved; train "
                         "longer or with a higher --lr.")


# What a model folder consists of beside its weights.
COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
          "merges.txt", "chat_template.jinja", "chat_template.json")


def check_links(base):
    """Refuse a link that leads out of a model folder: to merge is to copy, and what it leads to is
    not the model's. In the hub's cache, links lead from snapshots/REVISION to blobs beside it."""
    home = base.resolve()
    home = home.parents[1] if home.parent.name == "snapshots" else home
    for file in base.iterdir():
        used = file.name in COPIED or ".safetensors" in file.suffixes
        if used and home not in file.resolve().parents:
            raise ValueError(f"{file} is a link out of {base}; put the file itself there.")


# --------------------------------------------------------------------------------------------------
# tokenizer.json: whether each value that is read is of its type. Which kinds of tokenizer there are
# is for support/tokenizer.py to say.


SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text):
    """Whether a text is Unicode: JSON can also write half a character, as \\ud800."""
    return isinstance(text, str) and not SURROGATE.search(text)


def check_tokenizer(path, spec):
    """Refuse a tokenizer.json `spec` with a value of the wrong type, or without a vocabulary or
    merges that fit each other."""
    def must(good, where, value, what):
        if not good:
            raise ValueError(f"{path}: {where} is {shown(value)}; it must be {what}.")

    bpe = spec.get("model")
    must(isinstance(bpe, dict), "model", bpe, "an object")
    check_vocab(path, bpe, must)
    for key in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        must(bpe.get(key) is None or encodable(bpe[key]), f"model.{key}", bpe.get(key), "a text")
    must(bpe.get("dropout") in (None, 0), "model.dropout", bpe.get("dropout"), "null")
    check_flags(path, bpe, "byte_fallback", "ignore_merges", "fuse_unk")

    added, contents = spec.get("added_tokens"), set()
    must(added is None or isinstance(added, list), "added_tokens", added, "a list")
    for k, token in enumerate(added or ()):
        where = f"added_tokens[{k}]"
        must(isinstance(token, dict), where, token, "an object")
        content, i = token.get("content"), token.get("id")
        must(content and encodable(content), f"{where}.content", content, "a text")
        must(content not in contents, f"{where}.content", content, "there only once")
        contents.add(content)
        must(is_number(i, 0, 2**31 - 1, whole=True), f"{where}.id", i, "a whole number, at least 0")
        check_flags(f"{path}: {where}", token, "special", "single_word", "lstrip", "rstrip",
                    "normalized")

    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        found = spec.get(key)
        must(found is None or isinstance(found, dict), key, found, "an object or null")
        steps = (found or {}).get(inner, [])
        must(isinstance(steps, list) and len(steps) <= 50
             and all(isinstance(step, dict) for step in steps),
             f"{key}.{inner}", steps, "a list of at most 50 objects")
        for step in (found or {}, *steps):
            check_flags(f"{path}: {key}", step, "invert", "individual_digits", "use_regex",
                        "add_prefix_space")
            if step.get("type") == "Split":
                pattern = step.get("pattern")
                text = next(iter(pattern.values())) if isinstance(pattern, dict) and len(
                    pattern) == 1 else None
                must(encodable(text), f"the pattern of a Split in its {key}", pattern,
                     'an object, {"Regex": a regular expression}')


def check_vocab(path, bpe, must):
    """Refuse a vocabulary that is not {text: its own whole number}, and merges that are not pairs
    of its texts which make a text of it."""
    vocab, merges = bpe.get("vocab"), bpe.get("merges")
    must(isinstance(vocab, dict) and vocab, "model.vocab", vocab, "an object, {token: id}")
    for token, i in vocab.items():  # 150,000 of them: what is right must be passed fast
        if type(i) is not int or not 0 <= i < 2**31:
            must(False, f"model.vocab[{shown(token)}]", i, "a whole number, at least 0")
    if len(token_of := {i: token for token, i in vocab.items()}) < len(vocab):
        twice = next(token for token, i in vocab.items() if token_of[i] != token)
        must(False, f"model.vocab[{shown(twice)}]", vocab[twice], "an id of its own")
    if not encodable("".join(vocab)):
        broken = next(token for token in vocab if not encodable(token))
        must(False, "a token of model.vocab", broken, "Unicode")
    must(isinstance(merges, list), "model.merges", merges, "a list")
    for k, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
                and isinstance(pair[1], str) and all(pair)):
            must(False, f"model.merges[{k}]", merge, "a pair of tokens")
        left, right = pair
        if left not in vocab or right not in vocab or left + right not in vocab:
            lost = next(token for token in (left, right, left + right) if token not in vocab)
            must(False, f"model.merges[{k}]", merge,
                 f"of tokens that make one; the vocabulary lacks {shown(lost)}")

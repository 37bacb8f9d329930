"""Which config.json and adapter_config.json are refused, and in what words.

A check is a condition and a sentence; the first that fails is raised as a ValueError which names
the file. What passes can be computed by model.py and lora.py exactly.
"""
import json
import math

from support.files import read_metadata

# What must be there, what must be a whole number above 0, and what any number above 0.
NEEDED = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size",
          "intermediate_size")
WHOLE = (*NEEDED, "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NUMBERS = (*WHOLE, "rms_norm_eps", "rope_theta", *LLAMA3)
ATTENTION = ("full_attention", "sliding_attention")


def require(path, *checks):
    for good, sentence in checks:
        if not good:
            raise ValueError(f"{path}: {sentence}")


def check_config(path, c, rope):
    """Refuse a config.json `c`, whose rope settings are `rope`, that lacks something, holds a wrong
    type, or describes what the decoder does not compute. Returns (model_type, rope or None), the
    second where it is scaling of the llama3 kind."""
    family = c.get("model_type")
    require(
        path,
        (family in ("llama", "mistral", "qwen2"),
         f"model_type is {family!r}; this decoder knows llama, mistral and qwen2."),
        (not c.get("quantization_config"),
         "the weights are quantised; use the folder of the original model."),
        (c.get("hidden_act", "silu") == "silu" and not c.get("mlp_bias"),
         "hidden_act must be silu and mlp_bias false; this decoder's MLP has no other form."),
        (isinstance(rope, dict),
         f"rope_parameters or rope_scaling is {rope!r}; it must be an object."))
    for key in NUMBERS:
        value, whole = (c | rope).get(key), key in WHOLE
        fits = isinstance(value, int if whole else (int, float)) and value > 0
        require(path, (fits or (value is None and key not in NEEDED),
                       f"{key} is {value!r}; it must be a {'whole ' * whole}number above 0."))
    first, kinds = c.get("max_window_layers", 28), c.get("layer_types")
    layers = c["num_hidden_layers"]
    plain = "default" if rope.keys() <= {"rope_theta"} else None
    kind = rope.get("rope_type") or rope.get("type") or plain
    lost = [key for key in LLAMA3 if kind == "llama3" and rope.get(key) is None]
    require(
        path,
        (family != "qwen2" or isinstance(first, int),
         f"max_window_layers is {first!r}; it must be a whole number."),
        (not kinds or (isinstance(kinds, list) and len(kinds) == layers
                       and all(kind in ATTENTION for kind in kinds)),
         f"layer_types must be a list of {' or '.join(ATTENTION)}, one for each of the {layers} "
         "layers."),
        (kind in ("default", "llama3"),
         f"rope scaling of the kind {kind!r} is not built here, only llama3."),
        (not lost, f"llama3 rope scaling lacks {' and '.join(lost)}."))
    return family, rope if kind == "llama3" else None


# What peft can set and this LoRA does not compute.
STRANGE = ("use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern",
           "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora",
           "arrow_config", "kasa_config")
# Ways to begin that leave the base as it is; others (pissa, olora, loftq, ...) change it too.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


def check_adapter_config(path, c):
    """Refuse an adapter_config.json `c` of what is no plain LoRA, or with values of wrong types."""
    strange = [key for key in STRANGE if c.get(key)]
    start, targets, rslora = (
        c.get(key) for key in ("init_lora_weights", "target_modules", "use_rslora"))
    rank, alpha = c.get("r"), c.get("lora_alpha")
    require(
        path,
        (c.get("peft_type") == "LORA",
         f"peft_type is {c.get('peft_type')!r}; only LORA is read."),
        (not strange and c.get("bias", "none") == "none",
         f"{', '.join(strange) or 'bias'} is set, which this LoRA does not compute."),
        (start in PLAIN_STARTS,
         f"init_lora_weights is {start!r}, which changes the base too; convert it to a plain LoRA "
         "first."),
        (isinstance(targets, (str, list, type(None)))
         and all(isinstance(target, str) for target in targets or ()),
         "target_modules must be a list of names."),
        (isinstance(rank, int) and rank >= 1
         and isinstance(alpha, (int, float)) and 0 < alpha < math.inf,
         "r must be a whole number above 0 and lora_alpha a number above 0."),
        (rslora in (None, True, False),
         f"use_rslora is {rslora!r}; it must be true or false."))


# What adapter_model.safetensors repeats of its adapter_config.json, in its metadata.
PAIRED = ("r", "lora_alpha", "target_modules")


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

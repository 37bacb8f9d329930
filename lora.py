"""LoRA by hand (Hu et al., arXiv 2106.09685): y = W x + (alpha / r) B A x, with W frozen and only A and B trained.

Three adapters live on one base here. A layer stacks them along the rank, and a gate per row says which of them speaks:

    A = [A_ir; A_kg; A_dr]  (R, d_in)      B = [B_ir, B_kg, B_dr]  (d_out, R)      R = r_ir + r_kg + r_dr
    y = W x + B (gate * (A x))             gate (R,): alpha/r at the ranks of the row's adapter, 0 at all others

So one frozen copy of W serves rows of all three roles in the same batch. Training one role is the same layer with one adapter.

In and out: the folder that peft writes (adapter_config.json, adapter_model.safetensors), one role a folder.

    python lora.py out/tiny/ir                      what is in such a folder
    python lora.py merge tiny out/tiny/ir merged    the base with that adapter multiplied in, as a model folder of its own
"""
import argparse
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import product, read_config, read_json, read_safetensors, read_weights, write_safetensors, write_whole

PREFIX = "base_model.model."  # what peft puts before the name of a module of ours


def drop(x, p):
    """Dropout: each element becomes 0 with probability p, the others x / (1 - p). On a CPU the random numbers are what takes the time:
    one of 64 bits serves four elements here, which takes a quarter of the time of F.dropout."""
    if x.device.type != "cpu":
        return F.dropout(x, p)
    bits = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-2**63, None).view(torch.int16)
    return x.masked_fill(bits[:x.numel()].view(x.shape) < round(p * 2**16) - 2**15, 0) / (1 - p)


class LoRALinear(nn.Module):
    """A frozen linear layer and the adapters on it. `adapters`: {name: (rank, alpha / rank)}, stacked in this order."""

    def __init__(self, base, adapters, dropout=0.0):
        super().__init__()
        self.base, self.dropout = base, dropout
        self.parts, R = {}, 0  # name -> (slice, scale): its ranks among the R, which are rows of A and columns of B; and its alpha / r
        for name, (rank, scale) in adapters.items():
            self.parts[name] = (slice(R, R + rank), scale)
            R += rank
        # In float32, for training: in bfloat16 a small step would be rounded away. (`stack` takes the base's dtype.)
        self.A = nn.Parameter(torch.empty(R, base.in_features, device=base.weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, R, device=base.weight.device))  # zero: at first the base is unchanged
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.gate = None  # off; (R,) for one adapter; (batch, 1, R) for an adapter per row. Set by `switch`.

    def forward(self, x):
        y = self.base(x)
        if self.gate is None:  # A x is not needed
            return y
        x = drop(x, self.dropout) if self.dropout and self.training else x
        return self.adapt(y, product(x, self.A))

    def adapt(self, Wx, Ax):
        """W x (..., d_out), A x (..., R) -> y (..., d_out)"""
        return Wx if self.gate is None else Wx + product(Ax * self.gate.to(Ax.dtype), self.B)

    def gate_of(self, name):
        """(R,): the scale at the ranks of that adapter, 0 elsewhere; name None, or an adapter this layer lacks: 0 everywhere."""
        gate = torch.zeros(self.B.shape[1], dtype=self.B.dtype, device=self.B.device)
        if name in self.parts:
            part, scale = self.parts[name]
            gate[part] = scale
        return gate


def layers(model):
    """[(name, LoRALinear)] of a model, in its order."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear)]


def check_unfused(model):
    if any(isinstance(m, Fused) for m in model.modules()):
        raise ValueError("this model is fused for inference, its matrices are no longer apart; load the base again.")


def check_bare(model):
    check_unfused(model)
    if layers(model):
        raise ValueError("this model carries adapters already; load the base again.")


def inject(model, targets, adapters, dropout=0.0):
    """Wrap every linear layer whose last name is in `targets` ("q_proj", ...); freeze all else. Returns the A's and B's.

    Raises ValueError for a target that no layer has, or if the model carries adapters already or is fused.
    """
    check_bare(model)
    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    names = dict.fromkeys(name.split(".")[-1] for name, _ in linears)  # each once
    if lost := set(targets) - names.keys():
        raise ValueError(f"no layer is called {' or '.join(map(repr, sorted(lost)))}; this model has {', '.join(names)}.")
    model.requires_grad_(False)
    parameters = []
    for name, linear in linears:
        if name.split(".")[-1] not in targets:
            continue
        layer = LoRALinear(linear, adapters, dropout).train(linear.training)  # a new module would train, whatever its model does
        replace(model, name, layer)
        parameters += [layer.A, layer.B]
    return parameters


def replace(model, name, module):
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def check_names(found, names):
    """A name that none of `layers` carries would silently mean the bare base."""
    known = {name for _, layer in found for name in layer.parts}
    if lost := set(names) - known - {None}:
        raise ValueError(f"this model carries no adapter {' or '.join(sorted(lost))}; it has {', '.join(sorted(known)) or 'none'}.")


def switch(model, names):
    """Which adapter speaks: None, the bare base; a name, that one for all; a list of names, one per row of the batch (None: the base);
    with a cache, a row is one token, not one text.

    Raises ValueError for a name that no layer has.
    """
    found, gates = layers(model), {}  # layers of one layout share the same tensor
    check_names(found, [names] if names is None or isinstance(names, str) else names)
    for _, layer in found:
        layout = tuple((name, part.start, part.stop, scale) for name, (part, scale) in layer.parts.items())
        if layout not in gates:
            if names is None or isinstance(names, str):
                gates[layout] = None if names is None else layer.gate_of(names)
            else:
                index = {name: i for i, name in enumerate(set(names))}
                table = torch.stack([layer.gate_of(name) for name in index])
                gates[layout] = table[[index[name] for name in names]][:, None]  # (batch, 1, R)
        layer.gate = gates[layout]


# ---------------------------------------------------------------------------------------------------------------------
# The PEFT folder


def save_adapter(model, name, folder, base, dropout=0.0):
    """Write the adapter `name` as a PEFT folder. `base`: where the base came from, for the reader's information. Raises ValueError for a name that
    no layer has, or after `fuse`."""
    check_unfused(model)
    check_names(layers(model), [name])
    tensors, targets = {}, []
    for path, layer in layers(model):
        if name not in layer.parts:
            continue
        part, scale = layer.parts[name]
        rank = part.stop - part.start
        tensors[f"{PREFIX}{path}.lora_A.weight"] = layer.A.detach()[part]
        tensors[f"{PREFIX}{path}.lora_B.weight"] = layer.B.detach()[:, part]
        targets.append(path.split(".")[-1])
    alpha = scale * rank
    config = dict(
        peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path=str(base), r=rank,
        lora_alpha=round(alpha) if math.isclose(alpha, round(alpha)) else alpha,  # a whole number where it is one: vLLM insists
        lora_dropout=dropout, target_modules=list(dict.fromkeys(targets)), bias="none", fan_in_fan_out=False, inference_mode=True,
        use_rslora=False, use_dora=False, modules_to_save=None)
    write_safetensors(Path(folder) / "adapter_model.safetensors", tensors)
    write_whole(Path(folder) / "adapter_config.json", [json.dumps(config, indent=2).encode()])


def read_adapter(folder):
    """A PEFT folder -> ({layer: (A, B)}, rank, alpha / rank). Raises ValueError for what this LoRA does not compute."""
    folder = Path(folder)
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no adapter (no adapter_config.json).")
    c = read_json(path)
    if c.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {c.get('peft_type')!r}; only LORA is read.")
    strange = [k for k in ("use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias",
                           "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config")
               if c.get(k)]
    if strange or c.get("bias", "none") != "none":
        raise ValueError(f"{path}: {', '.join(strange) or 'bias'} is set, which this LoRA does not compute.")
    if (start := c.get("init_lora_weights")) not in (None, True, False, "gaussian", "eva", "orthogonal"):  # pissa, olora, loftq, ...
        raise ValueError(f"{path}: init_lora_weights is {start!r}, which changes the base too; convert it to a plain LoRA first.")
    targets = c.get("target_modules")
    if not isinstance(targets, (str, list, type(None))) or not all(isinstance(target, str) for target in targets or ()):
        raise ValueError(f"{path}: target_modules must be a list of names.")
    rank, alpha = c.get("r"), c.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise ValueError(f"{path}: r must be a whole number above 0 and lora_alpha a number above 0.")
    if c.get("use_rslora") not in (None, True, False):
        raise ValueError(f"{path}: use_rslora is {c['use_rslora']!r}; it must be true or false.")
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ValueError(f"{folder} has no adapter_model.safetensors.")
    weights = {}
    for name, tensor in read_safetensors(file).items():
        layer, _, part = name.removeprefix(PREFIX).rpartition(".lora_")
        if not name.startswith(PREFIX) or part not in ("A.weight", "B.weight"):
            raise ValueError(f"{file}: {name} is no tensor of a plain LoRA adapter.")
        weights.setdefault(layer, {})[part[0]] = tensor
    for layer, pair in weights.items():
        if pair.keys() != {"A", "B"}:
            raise ValueError(f"{file}: {layer} has lora_{''.join(pair)} but not its other half.")
        if not all(half.isfinite().all() for half in pair.values()):
            raise ValueError(f"{file}: {layer} holds numbers that are not finite: its training failed.")
        A, B = pair["A"].shape, pair["B"].shape
        if (len(A), A[:1], len(B), B[1:]) != (2, (rank,), 2, (rank,)):
            raise ValueError(f"{file}: {layer} has an A of {tuple(A)} and a B of {tuple(B)}, adapter_config.json says rank {rank}.")
    idle = [layer for layer, pair in weights.items() if not pair["B"].any()]
    if idle or not weights:
        raise ValueError(f"{file}: lora_B of {idle[0] if idle else 'every layer'} is zero or missing: it was never trained, or is lost.")
    scale = alpha / math.sqrt(rank) if c.get("use_rslora") else alpha / rank
    return {layer: (pair["A"], pair["B"]) for layer, pair in weights.items()}, rank, scale


def check_fit(folder, path, pair, weight):
    """Refuse an adapter of another base: `pair`, the A and B for the layer `path`, must fit the base's weight there (None: it has none)."""
    if weight is None:
        raise ValueError(f"{folder}: the adapter is for {path}, which this base lacks; was it trained on another base?")
    A, B = pair
    if (B.shape[0], A.shape[1]) != tuple(weight.shape):
        raise ValueError(f"{folder}: {path} adapts a layer {A.shape[1]} -> {B.shape[0]}, this base has "
                         f"{weight.shape[1]} -> {weight.shape[0]}; was it trained on another base?")


def check_whole(folder, pairs, names):
    """Refuse an adapter that has a pair for some layers of a kind and none for others among `names`, all linear layers of the base: it is
    torn, or from a base with fewer layers."""
    c = read_json(Path(folder) / "adapter_config.json")
    targets = c.get("target_modules") or [path.rpartition(".")[2] for path in pairs]
    if any(c.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return  # some layers were left out on purpose
    if isinstance(targets, list):  # peft's rule: a list holds whole names, or how they end, and a text is a pattern for whole names
        targets = rf"(.*\.)?({'|'.join(map(re.escape, targets))})"
    try:
        missing = [name for name in names if re.fullmatch(targets, name) and name not in pairs]
    except re.error:
        raise ValueError(f"{folder}/adapter_config.json: target_modules is {targets!r}, which is no regular expression.") from None
    if missing:
        raise ValueError(f"{folder}: the adapter has nothing for {missing[0]}; its file is incomplete, or it was trained on another base.")


def stack(model, folders):
    """Put the adapters of `folders` ({name: PEFT folder}) on a model for inference: in the base's dtype, and all off at first.

    Raises ValueError naming a layer that the model lacks or whose sizes differ.
    """
    check_bare(model)
    adapters = {name: read_adapter(folder) for name, folder in folders.items()}
    modules = dict(model.named_modules())
    for path in dict.fromkeys(path for weights, _, _ in adapters.values() for path in weights):
        linear, here = modules.get(path), {}
        for name, (weights, rank, scale) in adapters.items():
            if path not in weights:
                continue
            check_fit(folders[name], path, weights[path], linear.weight if isinstance(linear, nn.Linear) else None)
            here[name] = (rank, scale)
        with torch.device("meta"):  # an empty frame, without memory: the three parts it needs are at hand
            layer = LoRALinear(nn.Linear(linear.in_features, linear.out_features), here)
        weight = linear.weight
        layer.base = linear
        layer.A = nn.Parameter(torch.cat([adapters[n][0][path][0] for n in here]).to(weight), requires_grad=False)
        layer.B = nn.Parameter(torch.cat([adapters[n][0][path][1] for n in here], dim=1).to(weight), requires_grad=False)
        replace(model, path, layer)
    for name, folder in folders.items():
        check_whole(folder, adapters[name][0], [path for path, module in modules.items() if isinstance(module, nn.Linear)])


class Fused(nn.Module):
    """Several layers that read the same x, as one product. If q and v carry adapters, [W_q; W_k; W_v; A_q; A_v] x; then B (gate * (A x)) is added to each."""

    def __init__(self, layers):
        """The layers stay in the model, where `switch` finds them with their B; their W and A go, since they are copied here."""
        super().__init__()
        bases = [getattr(layer, "base", layer) for layer in layers]
        ranks = [layer.A.shape[0] if isinstance(layer, LoRALinear) else 0 for layer in layers]
        self.layers = layers  # a plain list: they are registered where they stand
        self.sizes = [base.out_features for base in bases] + ranks
        owners = [(base, "weight") for base in bases] + [(layer, "A") for layer in layers if isinstance(layer, LoRALinear)]
        self.weight = nn.Parameter(torch.cat([getattr(*owner) for owner in owners]), requires_grad=False)  # (all d_out + all R, d_in)
        for owner, name in owners:
            setattr(owner, name, None)
        self.bias = None  # all have one, or none has
        if bases[0].bias is not None:
            self.bias = nn.Parameter(torch.cat([base.bias for base in bases] + [self.weight.new_zeros(sum(ranks))]), requires_grad=False)

    def forward(self, x):
        """x (..., d_in) -> the outputs of the layers, each (..., d_out)."""
        parts = product(x, self.weight, self.bias).split(self.sizes, -1)
        n = len(self.layers)  # W x of each, then A x of each, of size 0 where there is no adapter
        return [layer.adapt(Wx, Ax) if isinstance(layer, LoRALinear) else Wx for layer, Wx, Ax in zip(self.layers, parts[:n], parts[n:])]


def fuse(model):
    """For inference, after `stack` and before `pack`: q, k and v become one layer, gate and up another, for a large product is faster than several small
    ones. A step of SmolLM2 with 16 rows takes 43 ms instead of 49 (bfloat16, two cores). The model can then be called and switched, but not merged or saved.

    Raises ValueError if it is fused already."""
    check_unfused(model)
    for layer in model.model.layers:
        a, m = layer.self_attn, layer.mlp
        a.qkv, m.gate_up = Fused([a.q_proj, a.k_proj, a.v_proj]), Fused([m.gate_proj, m.up_proj])
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # the old matrices' memory is in pieces that fit no other layer's new ones
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Merging: for export. The product is taken in float32, and unmerging puts the old weight back rather than subtracting.


def merged(weight, A, B, scale):
    """W + scale B A, rounded once, to the dtype of W."""
    return (weight.float() + scale * B.float() @ A.float()).to(weight.dtype)


def merge(model, name):
    """W <- W + (alpha / r) B A for one adapter; all adapters are then off. Raises ValueError if something is merged already, or fused."""
    check_unfused(model)
    check_names(layers(model), [name])
    if any(hasattr(layer, "unmerged") for _, layer in layers(model)):
        raise ValueError("an adapter is merged already; unmerge it first.")
    switch(model, None)
    for _, layer in layers(model):
        if name in layer.parts:
            part, scale = layer.parts[name]
            layer.unmerged = layer.base.weight
            A, B = layer.A.detach()[part], layer.B.detach()[:, part]
            layer.base.weight = nn.Parameter(merged(layer.unmerged, A, B, scale), requires_grad=False)


def unmerge(model):
    """Undo `merge`, to the bit."""
    for _, layer in layers(model):
        if hasattr(layer, "unmerged"):
            layer.base.weight = layer.unmerged
            del layer.unmerged


def export(base, adapter, out):
    """Write the model folder `out`: the base with the adapter merged, in the dtype of the base. It appears whole or not at all.

    Raises ValueError if the adapter does not fit, or if something is at `out` already.
    """
    base, out = Path(base), Path(out)
    if out.exists():
        raise ValueError(f"{out} exists already; name a folder that does not.")
    config, tensors = read_config(base), read_weights(base)
    pairs, _, scale = read_adapter(adapter)
    for path, (A, B) in pairs.items():
        if path == "lm_head" and config.tie_word_embeddings:  # with the head, the embedding would change
            raise ValueError(f"{adapter}: the adapter is for lm_head, which is tied to the embedding in {base}; such a pair cannot be merged.")
        weight = tensors.get(f"{path}.weight")
        check_fit(adapter, path, (A, B), weight if weight is not None and weight.dim() == 2 else None)
        tensors[f"{path}.weight"] = merged(weight, A, B, scale)
    check_whole(adapter, pairs, [name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.dim() == 2])
    part = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        write_safetensors(part / "model.safetensors", tensors)  # of one file or of many shards, it becomes one
        for file in base.iterdir():  # config.json, the tokenizer's files, the chat template; but no list of shards
            if file.suffix in (".json", ".model", ".txt", ".jinja") and not file.name.endswith(".index.json"):
                shutil.copyfile(file, part / file.name)
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(pairs)


def show(folder):
    weights, rank, scale = read_adapter(folder)
    for path, (A, B) in weights.items():
        print(f"{path:40} A {str(tuple(A.shape)):>12}  B {str(tuple(B.shape)):>12}  |B A| {(B.float() @ A.float()).norm():.3f}")
    print(f"rank {rank}, scale alpha / r = {scale:g}, {sum(A.numel() + B.numel() for A, B in weights.values()):,} parameters")


def main():
    parser = argparse.ArgumentParser(
        usage="lora.py [-h] ADAPTER | merge BASE ADAPTER OUT",
        description="Shows what is in a PEFT adapter folder, or merges it into its base: OUT becomes a model folder of its own.")
    parser.add_argument("words", nargs="+", metavar="ADAPTER | merge BASE ADAPTER OUT",
                        help="folders; for example out/tiny/ir, or: merge tiny out/tiny/ir merged")
    match parser.parse_args().words:
        case ["merge", base, adapter, out]:
            print(f"{out}: {base} with {export(base, adapter, out)} layers changed by {adapter}")
        case [folder] if folder != "merge":
            show(folder)
        case _:
            parser.error("one folder to show, or merge and three folders")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"lora.py: {error}", file=sys.stderr)
        sys.exit(2)

"""LoRA by hand (Hu et al., arXiv 2106.09685): y = W x + (alpha / r) B A x, with W frozen.

Three adapters live on one frozen base here. A layer stacks them along the rank, and a scale per
sequence says which of them is used:

    A = [A_ir; A_kg; A_dr]  (R, d_in)    B = [B_ir, B_kg, B_dr]  (d_out, R)    R = sum of all ranks
    y = W x + B (scale * (A x))          scale (R,): alpha / r at the ranks of one adapter, else 0

So one frozen copy of W serves all three roles in the same batch. Training one role is the same
layer with one adapter. In and out: the folder that peft writes, one role a folder.

    python lora.py out/tiny/ir                      what is in such a folder
    python lora.py merge tiny out/tiny/ir merged    the base with that adapter multiplied in

Shapes: B sequences, T tokens, r rank of one adapter, R of all that are stacked. (The matrix B is
never meant by the first letter of a shape.)
"""
import support  # isort: skip  # noqa: F401  from here on, Ctrl-C is quiet
import json
import math
import os
import secrets
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from model import (
    is_finite,
    read_json,
    read_model,
    read_safetensors,
    weights_file,
    write_safetensors,
)
from support import cli
from support.checks import (
    COPIED,
    PAIRED,
    check_adapter_config,
    check_links,
    check_paired,
    check_trained,
    naming,
)
from support.files import atomic_write
from support.patterns import compile_pattern, fullmatches

PREFIX = "base_model.model."  # what peft puts before the name of a module of ours


def dropout(x, p):
    """Each element becomes 0 with probability p, else x / (1 - p)."""
    if x.device.type != "cpu":
        return F.dropout(x, p)
    # 64 random bits serve four elements: 0.3 to 0.6 of F.dropout's time on a CPU. An int16 is
    # uniform in [-2^15, 2^15), so the share p of all lies below p 2^16 - 2^15
    bits = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-2**63, None)
    bits = bits.view(torch.int16)[:x.numel()].view(x.shape)
    return x.masked_fill(bits < round(p * 2**16) - 2**15, 0) / (1 - p)


class LoRALinear(nn.Module):
    """A frozen linear layer and the adapters on it. adapters: {name: (rank, scaling)}, stacked in
    this order; scaling is alpha / rank. Dropout falls on the adapters' input, in training only."""

    def __init__(self, base, adapters, dropout=0.0):
        super().__init__()
        self.base, self.dropout = base, dropout
        # name -> (its slice of the R ranks: rows of A, columns of B; its scaling)
        self.parts, R = {}, 0
        for name, (rank, scaling) in adapters.items():
            self.parts[name] = (slice(R, R + rank), scaling)
            R += rank
        # In float32, for training: in bfloat16 a small step would be rounded away. B begins at
        # zero, so that at first the base is unchanged; A must not, or neither would get a gradient.
        device = base.weight.device
        self.A = nn.Parameter(torch.empty(R, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, R, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # uniform within 1 / sqrt(d_in), as peft
        # None: the bare base; (R,): for all; (B, 1, R): per sequence; (B, T, R): per token
        self.adapter_scale = None

    def forward(self, x):
        """x (B, T, d_in) -> (B, T, d_out): W x + B (scale * (A x)), in the dtype of x. W x is
        self.base(x), of x itself, never dropped out; scale is adapter_scale, without it W x is all.
        """
        # exercise lora-1, 8 points: W x, and B (scale * (A x)) on top of it
        y = self.base(x)
        if self.adapter_scale is None:
            return y
        if self.training and self.dropout:
            x = dropout(x, self.dropout)
        Ax = F.linear(x, self.A.to(x.dtype))  # (B, T, R)
        return y + F.linear(Ax * self.adapter_scale.to(x.dtype), self.B.to(x.dtype))
        # end of lora-1

    def scale_of(self, name):
        """(R,): alpha / r at the ranks of the adapter `name`, 0 elsewhere. 0 everywhere for None
        and for an adapter that this layer lacks."""
        scales = torch.zeros(self.B.shape[1], dtype=self.B.dtype, device=self.B.device)
        if name in self.parts:
            part, scaling = self.parts[name]
            scales[part] = scaling
        return scales


def lora_layers(model):
    """[(name, LoRALinear)] of a model, in its order."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear)]


def check_names(layers, names):
    known = {name for _, layer in layers for name in layer.parts}
    if lost := set(names) - known - {None}:
        raise ValueError(f"this model carries no adapter {' or '.join(sorted(lost))}; "
                         f"it has {', '.join(sorted(known)) or 'none'}.")


def check_bare(model):
    if lora_layers(model):
        raise ValueError("this model carries adapters already; load the base again.")


def replace(model, path, module):
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def inject(model, targets, adapters, dropout=0.0):
    """Wrap every linear layer whose last name is in `targets` ("q_proj", ...) and freeze all else.
    Returns the parameters to train: A and B of each, in the model's order.

    Raises ValueError for a target that no layer has, or if the model carries adapters already."""
    # exercise lora-2, 5 points: freeze the model, wrap the layers that are meant
    check_bare(model)
    linears = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    names = dict.fromkeys(path.split(".")[-1] for path, _ in linears)  # each once
    if lost := set(targets) - names.keys():
        raise ValueError(f"no layer is called {' or '.join(map(repr, sorted(lost)))}; "
                         f"this model has {', '.join(names)}.")
    model.requires_grad_(False)
    parameters = []
    for path, linear in linears:
        if path.split(".")[-1] in targets:
            layer = LoRALinear(linear, adapters, dropout).train(linear.training)
            replace(model, path, layer)
            parameters += [layer.A, layer.B]
    return parameters
    # end of lora-2


def set_adapter(model, names):
    """Which adapter the layers use: None, the bare base; a name, that one for the whole batch; a
    list of names, one per sequence (None: the base); a list of such lists, one per token. Sets the
    adapter_scale of each LoRALinear: None or, as `scale_of` says, (R,), (B, 1, R) or (B, T, R).

    Raises ValueError for a name that no layer has: it would silently mean the base."""
    # exercise lora-3, 6 points: give each layer the scale of the adapters that are named
    layers, whole_batch = lora_layers(model), not isinstance(names, list)
    nested = [[names]] if whole_batch else [n if isinstance(n, list) else [n] for n in names]
    used = list({name for inner in nested for name in inner})
    check_names(layers, used)
    index = torch.tensor([[used.index(name) for name in inner] for inner in nested])  # (B, 1 or T)
    scales = {}  # layers with the same adapters share one tensor
    for _, layer in layers:
        layout = str(layer.parts)
        if layout not in scales:
            table = torch.stack([layer.scale_of(name) for name in used])  # (used, R)
            # (R,), or (B, 1 or T, R)
            scales[layout] = table[0] if whole_batch else table[index.to(table.device)]
        layer.adapter_scale = None if names is None else scales[layout]
    # end of lora-3


def matrices(model, name):
    """[(path, layer, A (r, d_in), B (d_out, r), scaling)] of one adapter. Raises ValueError for a
    name that no layer has, or where its matrices have been put to another use."""
    layers, found = lora_layers(model), []
    check_names(layers, [name])
    for path, layer in layers:
        if name in layer.parts:
            if layer.A is None:
                raise ValueError(f"the matrices of {path} are not apart any more; "
                                 "load the base again.")
            part, scaling = layer.parts[name]
            found.append((path, layer, layer.A.detach()[part], layer.B.detach()[:, part], scaling))
    return found


# --------------------------------------------------------------------------------------------------
# The PEFT folder: adapter_config.json and adapter_model.safetensors


def save_adapter(model, name, folder, base, dropout=0.0, settings=None):
    """Write the adapter `name` as a PEFT folder. base: where the base came from, for the reader;
    settings: how it was trained, kept with it.

    Raises ValueError, and leaves the folder alone, if a training has failed or done nothing."""
    tensors, targets = {}, {}
    for path, _, A, B, scaling in matrices(model, name):
        tensors[f"{PREFIX}{path}.lora_A.weight"] = A
        tensors[f"{PREFIX}{path}.lora_B.weight"] = B
        targets[path.split(".")[-1]] = True
        rank, alpha = len(A), scaling * len(A)
        check_trained(f"{folder}: {path}", A, B)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base),
        "r": rank,  # alpha is a whole number where it can be: vLLM insists
        "lora_alpha": round(alpha) if math.isclose(alpha, round(alpha)) else alpha,
        "lora_dropout": dropout, "target_modules": list(targets), "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False, "use_dora": False,
        "modules_to_save": None, "layers_to_transform": None}
    # a kill between the two renames leaves a new file beside an old one: read_adapter must notice
    metadata = {key: json.dumps(config[key]) for key in PAIRED} | {"settings": json.dumps(settings)}
    write_safetensors(Path(folder) / "adapter_model.safetensors", tensors, metadata)
    atomic_write(Path(folder) / "adapter_config.json", [json.dumps(config, indent=2).encode()])


def read_adapter(folder):
    """A PEFT folder -> ({path: (A, B)}, rank, scaling), which is alpha / r, or alpha / sqrt(r) with
    use_rslora. Raises ValueError for what this LoRA does not compute or what is not whole."""
    config_file = Path(folder) / "adapter_config.json"
    file = Path(folder) / "adapter_model.safetensors"
    if not config_file.is_file():
        raise ValueError(f"{folder} holds no adapter (no adapter_config.json).")
    c = read_json(config_file)
    check_adapter_config(config_file, c)
    rank, alpha = c["r"], c["lora_alpha"]
    if not file.is_file():
        raise ValueError(f"{folder} has no adapter_model.safetensors.")
    pairs, tensors = {}, read_safetensors(file)
    check_paired(file, c)
    for name, tensor in tensors.items():
        path, _, part = name.removeprefix(PREFIX).rpartition(".lora_")
        if not name.startswith(PREFIX) or part not in ("A.weight", "B.weight"):
            raise ValueError(f"{file}: {name} is no tensor of a plain LoRA adapter.")
        pairs.setdefault(path, {})[part[0]] = tensor
    for path, pair in pairs.items():
        check_pair(file, path, pair, rank)
    idle = [path for path, pair in pairs.items() if not pair["B"].any()]
    if idle or not pairs:
        raise ValueError(f"{file}: lora_B of {idle[0] if idle else 'every layer'} is zero or "
                         "missing: it was never trained, or is lost.")
    scaling = alpha / math.sqrt(rank) if c.get("use_rslora") else alpha / rank
    return {path: (pair["A"], pair["B"]) for path, pair in pairs.items()}, rank, scaling


def check_pair(file, layer, pair, rank):
    """Refuse half of an adapter's layer, one of another rank, or one of a training that failed."""
    if pair.keys() != {"A", "B"}:
        raise ValueError(f"{file}: {layer} has lora_{''.join(pair)} but not its other half.")
    for half in pair.values():
        if not half.is_floating_point():
            raise ValueError(f"{file}: {layer} is of the type {str(half.dtype)[6:]}; an adapter's "
                             "matrices must be floating point.")
    if not all(map(is_finite, pair.values())):
        raise ValueError(f"{file}: {layer} holds numbers that are not finite: its training failed.")
    A, B = pair["A"].shape, pair["B"].shape
    if (len(A), A[:1], len(B), B[1:]) != (2, (rank,), 2, (rank,)):
        raise ValueError(f"{file}: {layer} has an A of {tuple(A)} and a B of {tuple(B)}, "
                         f"adapter_config.json says rank {rank}.")


def check_fit(folder, path, pair, weight):
    """Refuse an adapter of another base: `pair`, the A and B for the layer `path`, must fit the
    base's weight there (None: it has none)."""
    if weight is None:
        raise ValueError(f"{folder}: the adapter is for {path}, which this base lacks; "
                         "was it trained on another base?")
    A, B = pair
    if (B.shape[0], A.shape[1]) != tuple(weight.shape):
        raise ValueError(f"{folder}: {path} adapts a layer {A.shape[1]} -> {B.shape[0]}, this base "
                         f"has {weight.shape[1]} -> {weight.shape[0]}; was it trained on another "
                         "base?")


def check_whole(folder, pairs, names):
    """Refuse an adapter that has a pair for some layers of a kind and none for others among
    `names`, all linear layers of the base: it is torn, or from a base with fewer layers."""
    config_file = Path(folder) / "adapter_config.json"
    c = read_json(config_file)
    left_out = (c.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))
    if any(value not in (None, [], "") for value in left_out):
        return  # on purpose
    # peft's rule: a list holds whole names, or how they end; a text is a pattern for whole names
    targets = c.get("target_modules") or [path.rpartition(".")[2] for path in pairs]
    if isinstance(targets, list):
        ends = tuple(f".{target}" for target in targets)
        adapted = [f".{name}".endswith(ends) for name in names]
    else:
        with naming(f"{config_file}: target_modules"):
            adapted = fullmatches(compile_pattern(targets), names)
    for name, is_target in zip(names, adapted, strict=True):
        if is_target and name not in pairs:
            raise ValueError(f"{folder}: the adapter has nothing for {name}; its file is "
                             "incomplete, or it was trained on another base.")


def load_adapters(model, folders):
    """Put the adapters of `folders`, {name: PEFT folder}, on a model for inference: in the base's
    dtype, frozen, and all off at first. A layer gets those that have a pair for it.

    Raises ValueError naming a layer that the model lacks or whose sizes differ."""
    check_bare(model)
    adapters = {name: read_adapter(folder) for name, folder in folders.items()}
    modules = dict(model.named_modules())
    linears = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    for path in dict.fromkeys(path for pairs, _, _ in adapters.values() for path in pairs):
        base, here = modules.get(path), {}
        for name, (pairs, rank, scaling) in adapters.items():
            if path in pairs:
                weight = base.weight if path in linears else None
                check_fit(folders[name], path, pairs[path], weight)
                here[name] = (rank, scaling)
        stacked = [adapters[name][0][path] for name in here]
        with torch.device("meta"):  # built without memory; its base, A and B follow
            layer = LoRALinear(nn.Linear(base.in_features, base.out_features), here)
        A, B = torch.cat([A for A, _ in stacked]), torch.cat([B for _, B in stacked], dim=1)
        layer.base = base
        layer.A = nn.Parameter(A.to(base.weight), requires_grad=False)
        layer.B = nn.Parameter(B.to(base.weight), requires_grad=False)
        replace(model, path, layer)
    for name, folder in folders.items():
        check_whole(folder, adapters[name][0], linears)


# --------------------------------------------------------------------------------------------------
# Merging, for export. The product is taken in float32; unmerging puts the old weight back.


def merged(weight, A, B, scaling):
    """W + scaling B A, rounded once, to the dtype of W."""
    return (weight.float() + scaling * B.float() @ A.float()).to(weight.dtype)


def merge(model, name):
    """W <- W + (alpha / r) B A for one adapter; all adapters are then off. Raises ValueError if
    something is merged already."""
    if any(hasattr(layer, "unmerged") for _, layer in lora_layers(model)):
        raise ValueError("an adapter is merged already; unmerge it first.")
    found = matrices(model, name)
    set_adapter(model, None)
    for _, layer, A, B, scaling in found:
        layer.unmerged = layer.base.weight
        layer.base.weight = nn.Parameter(merged(layer.unmerged, A, B, scaling), requires_grad=False)


def unmerge(model):
    """Undo `merge`, to the bit."""
    for _, layer in lora_layers(model):
        if hasattr(layer, "unmerged"):
            layer.base.weight = layer.unmerged
            del layer.unmerged


def export(base, adapter, out):
    """Write the model folder `out`: the base with the adapter merged, in the dtype of the base. It
    appears whole or not at all. Returns how many layers were changed.

    Raises ValueError if load_model would refuse the base, if the adapter does not fit, or if
    something is at `out` already."""
    base, out = Path(base), Path(out)
    if os.path.lexists(out):
        raise ValueError(f"{out} exists already; name a folder that does not.")
    model, tensors = read_model(base)
    check_links(base)
    pairs, _, scaling = read_adapter(adapter)
    linears = [path for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    for path, (A, B) in pairs.items():
        if path == "lm_head" and model.config.tie_word_embeddings:  # the embedding would change too
            raise ValueError(f"{adapter}: the adapter is for lm_head, which is tied to the "
                             f"embedding in {base}; such a pair cannot be merged.")
        weight = tensors[f"{path}.weight"] if path in linears else None
        check_fit(adapter, path, (A, B), weight)
        tensors[f"{path}.weight"] = merged(weight, A, B, scaling)
    check_whole(adapter, pairs, linears)
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"{name} of {weights_file(base)}, with {adapter} merged, holds "
                             "numbers that are not finite.")
    part = out.with_name(f"{out.name}.{secrets.token_hex(8)}.tmp")
    try:
        write_safetensors(part / "model.safetensors", tensors)  # many shards become one file
        for name in COPIED:
            if (base / name).is_file():
                shutil.copyfile(base / name, part / name)
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(pairs)


def show(folder):
    pairs, rank, scaling = read_adapter(folder)
    for path, (A, B) in pairs.items():
        shapes = f"A {tuple(A.shape)!s:>12}  B {tuple(B.shape)!s:>12}"
        size = (B.float() @ A.float()).norm()
        print(f"{cli.printable(path, keep=''):40} {shapes}  |B A| {size:.3f}")
    count = sum(A.numel() + B.numel() for A, B in pairs.values())
    print(f"rank {rank}, scale alpha / r = {scaling:g}, {count:,} parameters")


def main():
    parser = cli.Parser(
        usage="lora.py [-h] ADAPTER | merge BASE ADAPTER OUT",
        description="Shows what is in a PEFT adapter folder, or merges it into its base: OUT "
                    "becomes a model folder of its own.")
    parser.add_argument("words", nargs="+", type=cli.path,
                        metavar="ADAPTER | merge BASE ADAPTER OUT",
                        help="folders; for example out/tiny/ir, or: merge tiny out/tiny/ir merged")
    match parser.parse_args().words:
        case ["merge", base, adapter, out]:
            changed = export(base, adapter, out)
            print(cli.printable(f"{out}: {base} with {changed} layers changed by {adapter}"))
        case [folder] if folder != "merge":
            show(folder)
        case _:
            parser.error("give an ADAPTER to show, or merge BASE ADAPTER OUT")


if __name__ == "__main__":
    cli.run(main)

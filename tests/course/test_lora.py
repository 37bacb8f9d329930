"""Graders of lora-1 (LoRALinear.forward), lora-2 (inject) and lora-3 (set_adapter)."""
import torch
from torch import nn

from course import check, close, equal, generator, plain, refuses, short, student, trying

lora = student("lora")


# --------------------------------------------------------------------------------------------------
# lora-1


def layer_of(W, A, B, dropout=0.0):
    """A layer with these matrices, of one adapter; its scale is still to be set."""
    W, A, B = (torch.as_tensor(x, dtype=torch.float32) for x in (W, A, B))
    base = nn.Linear(W.shape[1], W.shape[0], bias=False).requires_grad_(False)
    base.weight.data = W
    layer = lora.LoRALinear(base, {"ir": (len(A), 1.0)}, dropout)
    layer.A.data, layer.B.data = A, B
    return layer.eval()


def output(layer, x, scale):
    """What the layer says of x, with this adapter_scale."""
    layer.adapter_scale = None if scale is None else torch.as_tensor(scale)
    told = None if scale is None else f"of shape {tuple(layer.adapter_scale.shape)}"
    with trying(f"With adapter_scale {told}:"):
        return layer(torch.as_tensor(x))


def random_layer(name):
    """d_in 3, d_out 4, R 2, with an x (2, 3, 3)."""
    g = generator(name)
    W, A, B = (torch.randn(*shape, generator=g) for shape in ((4, 3), (2, 3), (4, 2)))
    return layer_of(W, A, B), torch.randn(2, 3, 3, generator=g), torch.randn(2, 3, 2, generator=g)


def formula(layer, x, scale):
    y = x @ layer.base.weight.T
    return y + (x @ layer.A.T * scale) @ layer.B.T


def test_lora_1_formula():
    layer, x, scales = random_layer("forward")
    close("y = W x + B (scale * (A x)).", output(layer, x, scales[0, 0]),
          formula(layer, x, scales[0, 0]))


def test_lora_1_scale_counts_once():
    close("The scale counts once: with W = 0, A = B = 1 and scale 2, x = 1 becomes 2.",
          output(layer_of([[0]], [[1]], [[1]]), [[[1.0]]], [2.0]), [[[2]]])
    close("The scale is no part of W x: with W = 3, B = 0 and scale 2, x = 1 becomes 3.",
          output(layer_of([[3]], [[1]], [[0]]), [[[1.0]]], [2.0]), [[[3]]])


def test_lora_1_without_a_scale_it_is_the_base():
    layer = layer_of([[3]], [[1]], [[1]])
    close("If adapter_scale is None, W x is all: with W = 3 and A = B = 1, x = 1 becomes 3.",
          output(layer, [[[1.0]]], None), [[[3]]])
    layer.base.bias = nn.Parameter(torch.tensor([10.0]))
    close("W x is self.base(x), which may have a bias: with W = 3, bias 10, A = B = 1 and scale 2, "
          "x = 1 becomes 15.", output(layer, [[[1.0]]], [2.0]), [[[15]]])


def test_lora_1_a_scale_per_sequence_or_token():
    layer, x, scales = random_layer("scales")
    close("A scale (B, 1, R) holds for each sequence its own.", output(layer, x, scales[:, :1]),
          formula(layer, x, scales[:, :1]))
    close("A scale (B, T, R) holds for each token its own.", output(layer, x, scales),
          formula(layer, x, scales))


def test_lora_1_dropout_never_falls_on_the_base():
    layer = layer_of(torch.eye(64), torch.eye(64), torch.zeros(64, 64), dropout=0.5).train()
    y = plain(output(layer, torch.ones(1, 1, 64), torch.ones(64)))[0][0]
    check(set(y) == {1.0}, "Dropout is for the adapter's input, W sees x itself: with W = 1 and "
          f"B = 0, x = 1 must become 1 everywhere, got {short(sorted(set(y)))}.")


def test_lora_1_dropout_falls_on_the_adapters_input():
    one = torch.ones(1, 200, 64)
    straight = layer_of(torch.zeros(64, 64), torch.eye(64), torch.eye(64), dropout=0.25)
    close("In evaluation nothing is dropped.", output(straight, one, torch.ones(64)).min(), 1)
    y = output(straight.train(), one, torch.ones(64))
    values = sorted({round(value, 3) for value in y.unique().tolist()})
    close("In training, with dropout 0.25 and A = B = 1, W = 0, each 1 becomes 0 or 1 / 0.75.",
          values, [0, 1.333], 1e-3)
    share = (y == 0).float().mean().item()
    check(0.2 < share < 0.3, f"With dropout 0.25 a quarter must become 0, not {share:.0%}.")
    summed = layer_of([[0] * 64], torch.ones(1, 64), [[1]], dropout=0.25).train()
    values = output(summed, one, [1.0]).unique()
    check(len(values) > 2, "Dropout falls on x, not on A x: with A = (1, ..., 1), of 64 ones each "
          f"is kept or not, yet A x has only the values {short(plain(values))}.")


def test_lora_1_dtype():
    layer, x, scales = random_layer("dtype")
    layer.base.bfloat16()
    y = output(layer, x.bfloat16(), scales)
    equal("x and W in bfloat16, A and B in float32: the result has the dtype of x.", y.dtype,
          torch.bfloat16)
    equal("A stays in float32.", layer.A.dtype, torch.float32)


def test_lora_1_gradients_reach_A_and_B():
    layer = layer_of([[1]], [[2]], [[3]])
    output(layer, [[[5.0]]], [7.0]).sum().backward()
    check(layer.A.grad is not None and layer.B.grad is not None, "A and B must get gradients.")
    close("y = B scale A x with x = 5, A = 2, B = 3, scale = 7: dy/dA and dy/dB.",
          [layer.A.grad.item(), layer.B.grad.item()], [3 * 7 * 5, 7 * 2 * 5])


# --------------------------------------------------------------------------------------------------
# lora-2


def network():
    """Two blocks with q_proj and v_proj, and things that are called nearly so."""
    def block():
        return nn.ModuleDict({"attn": nn.ModuleDict({
            "q_proj": nn.Linear(3, 3), "v_proj": nn.Linear(3, 2), "q_proj_norm": nn.Linear(3, 3)}),
            "norm": nn.LayerNorm(3)})
    return nn.ModuleDict({"blocks": nn.ModuleList([block(), block()]),
                          "q_proj": nn.Identity(), "head": nn.Linear(3, 5)})


def wrapped(model):
    return [path for path, module in model.named_modules() if isinstance(module, lora.LoRALinear)]


QV = [f"blocks.{i}.attn.{name}_proj" for i in (0, 1) for name in "qv"]
ADAPTERS = {"ir": (2, 1.5), "kg": (1, 0.5)}


def test_lora_2_wraps_the_layers_that_are_named():
    model = network()
    old = {path: model.get_submodule(path) for path in QV}
    lora.inject(model, ["q_proj", "v_proj"], ADAPTERS)
    equal("Every linear layer whose last name is a target becomes a LoRALinear, no other one.",
          wrapped(model), QV)
    for path in QV:
        check(model.get_submodule(path).base is old[path],
              f"The base of the new {path} must be the layer that stood there.")


def test_lora_2_freezes_all_else():
    model = network()
    lora.inject(model, ["v_proj"], ADAPTERS)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    equal("Only A and B are trained; the base is frozen, wrapped or not.", trainable,
          [f"blocks.{i}.attn.v_proj.{matrix}" for i in (0, 1) for matrix in "AB"])


def test_lora_2_returns_what_to_train():
    model = network()
    got = lora.inject(model, ["v_proj", "q_proj"], ADAPTERS)
    expected = [(path, matrix) for path in QV for matrix in "AB"]
    check(isinstance(got, (list, tuple)), f"It must return a list of parameters, not {short(got)}.")
    found = {id(getattr(model.get_submodule(path), m)): (path, m) for path, m in expected}
    equal("It returns A and B of each layer, in the model's order.",
          [found.get(id(p), "something else") for p in got], expected)


def test_lora_2_changes_nothing_at_first():
    model = network()
    lora.inject(model, ["q_proj"], ADAPTERS)
    layer = model.get_submodule(QV[0])
    check(not layer.B.any(), "B must be zero at first, so that the model computes what it did.")
    check(layer.A.any(), "A must not be zero at first: then neither A nor B would get a gradient.")


def test_lora_2_hands_on_adapters_and_dropout():
    model = network()
    lora.inject(model, ["q_proj"], ADAPTERS, 0.25)
    layer = model.get_submodule(QV[0])
    equal("The new layers have the adapters.", list(layer.parts), ["ir", "kg"])
    equal("The new layers have the dropout.", layer.dropout, 0.25)


def test_lora_2_refuses():
    for targets in (["q_proj", "k_proj"], ["norm"], ["proj"]):
        refuses(f"A target that no linear layer is called, {targets[-1]}, must be refused.",
                ValueError, lora.inject, network(), targets, ADAPTERS)
    model = network()
    lora.inject(model, ["q_proj"], ADAPTERS)
    refuses("A model that carries adapters already must be refused.", ValueError,
            lora.inject, model, ["v_proj"], ADAPTERS)


# --------------------------------------------------------------------------------------------------
# lora-3


def adapted():
    """Two layers: the first has ir (2 ranks, scaling 1.5) and kg (1 rank, scaling 0.5), the second
    has kg (1 rank, scaling 3) and dr (1 rank, scaling 4)."""
    return nn.ModuleDict({
        "first": lora.LoRALinear(nn.Linear(3, 3), {"ir": (2, 1.5), "kg": (1, 0.5)}),
        "second": lora.LoRALinear(nn.Linear(3, 3), {"kg": (1, 3.0), "dr": (1, 4.0)})})


SCALES = {"first": {"ir": [1.5, 1.5, 0], "kg": [0, 0, 0.5]}, "second": {"kg": [3, 0], "dr": [0, 4]}}


def scales(rule, names, B=1, T=1):
    """After set_adapter(names), for B sequences of T tokens, each layer must have the scales of
    the named adapters."""
    model = adapted()
    with trying(f"{rule} set_adapter({names}):"):
        lora.set_adapter(model, names)
    nested = [[names] * T] * B if isinstance(names, str) else [
        inner if isinstance(inner, list) else [inner] * T for inner in names]
    for name, known in SCALES.items():
        R = len(known["kg"])
        expected = [[known.get(adapter, [0] * R) for adapter in inner] for inner in nested]
        got = model[name].adapter_scale
        got = torch.zeros(R) if got is None else got  # the base alone, either way
        try:
            got = torch.broadcast_to(got, (B, T, R))
        except (RuntimeError, TypeError):
            check(False, f"{rule} After set_adapter({names}) adapter_scale must have the shape "
                         f"(R,), (B, 1, R) or (B, T, R), here B = {B}, T = {T}, R = {R}; it has "
                         f"{short(tuple(getattr(got, 'shape', [])))}.")
        close(f"{rule} set_adapter({names}), the layer with {' and '.join(known)}:", got, expected)


def test_lora_3_one_for_all():
    scales("alpha / r at the ranks of the adapter, 0 elsewhere.", "ir", 2, 3)
    scales("alpha / r at the ranks of the adapter, 0 elsewhere.", "kg", 2, 3)


def test_lora_3_one_per_sequence():
    scales("Each sequence has the scale of its own adapter.", ["ir", "kg"], 2, 3)
    scales("Each sequence has the scale of its own adapter.", ["kg", "ir", "kg"], 3, 2)
    scales("A list of one.", ["kg"], 1, 2)


def test_lora_3_one_per_token():
    scales("Each token has the scale of its own adapter.", [["kg", "ir", "ir"]], 1, 3)
    scales("Each token has the scale of its own adapter.", [["ir", "kg"], ["kg", "dr"]], 2, 2)


def test_lora_3_none_is_the_base():
    model = adapted()
    lora.set_adapter(model, "ir")
    lora.set_adapter(model, None)
    equal("set_adapter(None) switches all adapters off, adapter_scale is None.",
          [layer.adapter_scale for layer in model.values()], [None, None])
    scales("None in a list is the base: 0 at all ranks.", ["ir", None], 2, 2)
    scales("None in a list is the base: 0 at all ranks.", [["kg", None]], 1, 2)


def test_lora_3_a_layer_without_the_adapter_is_its_base():
    scales("A layer that lacks the adapter has 0 at all ranks.", "dr")
    scales("A layer that lacks the adapter has 0 at all ranks.", ["dr", "ir"], 2)


def test_lora_3_refuses():
    for names in ("xy", ["ir", "xy"], [["ir", "xy"]]):
        refuses(f"A name that no layer has must be refused: set_adapter({names}).", ValueError,
                lora.set_adapter, adapted(), names)

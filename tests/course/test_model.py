"""Graders of model-1 (RMSNorm), model-2 (apply_rope), model-3 (causal_mask), model-4 (attention),
model-5 (MLP) and model-6 (read_safetensors)."""
import json
import math
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from course import check, close, equal, generator, plain, refuses, rng, short, student

model = student("model")


def unchanged(function, *tensors):
    """The function must leave its arguments as they are."""
    before = [t.clone() for t in tensors]
    function(*tensors)
    for now, then in zip(tensors, before, strict=True):
        check(plain(now) == plain(then), "The arguments must not be changed in place.")


# --------------------------------------------------------------------------------------------------
# model-1


def norm(size, eps, weight):
    layer = model.RMSNorm(size, eps)
    layer.weight.data = torch.as_tensor(weight, dtype=torch.float32)
    return layer


def test_model_1_formula():
    g = generator("norm")
    x, weight = torch.randn(2, 3, 4, generator=g), torch.randn(4, generator=g)
    rows = [[[v / math.sqrt(sum(u * u for u in row) / 4 + 1e-5) * w
              for v, w in zip(row, weight.tolist(), strict=True)] for row in rows]
            for rows in x.tolist()]
    close("y = x / sqrt(mean(x^2) + eps) * weight over the last dimension.",
          norm(4, 1e-5, weight)(x), rows)


def test_model_1_the_mean_stays():
    close("The mean is not subtracted: (2, 2) has the root mean square 2 and becomes (1, 1).",
          norm(2, 0, [1, 1])(torch.tensor([[2.0, 2.0]])), [[1, 1]])


def test_model_1_eps_is_under_the_root():
    close("eps is added to the mean of squares, under the root: 1 / sqrt(1 + 3) is 0.5.",
          norm(2, 3.0, [1, 1])(torch.tensor([[1.0, 1.0]])), [[0.5, 0.5]])


def test_model_1_computes_in_float32():
    layer = norm(2, 1e-5, [1, 1]).half()
    close("Squares are taken in float32: the square of 300 is too large for float16.",
          layer(torch.tensor([[300.0, 300.0]], dtype=torch.float16)), [[1, 1]], 1e-3)
    y = norm(2, 1e-5, [1, 2]).bfloat16()(torch.ones(1, 2, dtype=torch.bfloat16))
    equal("The result has the dtype of x.", y.dtype, torch.bfloat16)


def test_model_1_rounds_before_the_weight():
    # mean(x^2) = 13; 1 and 5 / sqrt(13) in bfloat16 are 0.27734 and 1.39062, three times that in
    # bfloat16 0.83203 and 4.1875; without the first rounding it would be 4.15625
    x = torch.tensor([[1.0, 5.0]], dtype=torch.bfloat16)
    close("x / sqrt(mean(x^2) + eps) is rounded to the dtype of x before it meets the weight: in "
          "bfloat16, with weight (3, 3) and eps 0.", norm(2, 0, [3, 3]).bfloat16()(x),
          [[0.83203125, 4.1875]], 1e-6)


# --------------------------------------------------------------------------------------------------
# model-2


def rotation(angles):
    """cos and sin as apply_rope wants them; angles (T, D/2) -> (1, 1, T, D) each."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1)[None, None], torch.cat((-sin, sin), -1)[None, None]


def rope(x, angles):
    """x: the channels of one token, angles: of its D/2 pairs."""
    cos, sin = rotation(torch.tensor([angles]))
    return plain(model.apply_rope(torch.tensor([[[x]]]), cos, sin))[0][0][0]


def test_model_2_formula():
    for D in (4, 6):
        g = generator(f"rope {D}")
        x, angles = torch.randn(2, 3, 5, D, generator=g), torch.randn(5, D // 2, generator=g)
        # a pair is a complex number, and turns by a product
        turned = torch.complex(x[..., :D // 2], x[..., D // 2:]) * torch.polar(
            torch.ones_like(angles), angles)
        close("The pair a = x[i], b = x[i + D/2] becomes (a cos t - b sin t, b cos t + a sin t), "
              "with the angles of its token.", model.apply_rope(x, *rotation(angles)),
              torch.cat((turned.real, turned.imag), -1))


def test_model_2_position_0():
    x = [1.0, 2.0, 3.0, 4.0]
    close(f"Position 0 must be left as it is: all angles are 0, x is {x}.", rope(x, [0.0, 0.0]), x)


def test_model_2_pairs():
    close("Channel i is paired with channel i + D/2: (1, 0, 0, 0), its pair turned by 90 degrees, "
          "must move into channel 2.", [abs(v) for v in rope([1.0, 0, 0, 0], [math.pi / 2, 0.0])],
          [0, 0, 1, 0])


def test_model_2_sign():
    hint = "The first half of sin is negated already, x's must not be negated again."
    close("The sign: the pair (1, 0), turned by 90 degrees, must become (0, 1), not (0, -1). "
          + hint, rope([1.0, 0.0], [math.pi / 2]), [0, 1])
    close("The sign: the pair (0, 1), turned by 90 degrees, must become (-1, 0). " + hint,
          rope([0.0, 1.0], [math.pi / 2]), [-1, 0])


def test_model_2_only_the_distance_counts():
    g = generator("distance")
    q, k = torch.randn(2, 1, 1, 1, 6, generator=g)
    f = torch.rand(3, generator=g)
    products = []
    for m, n in ((3, 1), (9, 7)):
        turned = [model.apply_rope(x, *rotation(position * f[None]))
                  for x, position in ((q, m), (k, n))]
        products.append((turned[0] * turned[1]).sum().item())
    close("q at position m and k at position n: their product must depend on m - n alone, and be "
          "the same at (9, 7) as at (3, 1).", products[1], products[0])
    close("Turning keeps the length.", turned[0].norm(), q.norm())


def test_model_2_leaves_its_arguments():
    g = generator("rope")
    unchanged(model.apply_rope, torch.randn(1, 1, 2, 4, generator=g),
              *rotation(torch.randn(2, 2, generator=g)))


# --------------------------------------------------------------------------------------------------
# model-3


def mask(queries, keys, window=None):
    return model.causal_mask(torch.tensor(queries), torch.tensor(keys), window)


def allowed(queries, keys, window=None):
    return [[0.0 if 0 <= q - k < (window or 1000) else -math.inf for k in keys] for q in queries]


def test_model_3_sees_itself_and_the_past():
    close("Each token sees itself and what came before: 0 there, -inf elsewhere.",
          mask([0, 1], [0, 1]), allowed([0, 1], [0, 1]))
    T = rng("mask").randrange(4, 7)
    close("Each token sees itself and what came before: 0 there, -inf elsewhere.",
          mask(list(range(T)), list(range(T))), allowed(range(T), range(T)))


def test_model_3_window():
    close("With window 1 a token sees only itself.", mask([0, 1], [0, 1], 1),
          allowed([0, 1], [0, 1], 1))
    close("With window 2 the token at position 3 sees the positions 2 and 3.",
          mask([3], [0, 1, 2, 3], 2), [[-math.inf, -math.inf, 0, 0]])


def test_model_3_positions_count_not_places():
    first = rng("places").randrange(2, 5)
    close("Positions count, not places: the only query may stand further along.",
          mask([first], list(range(6))), allowed([first], range(6)))


def test_model_3_shapes_and_dtypes():
    got = mask([[0, 1], [2, 3]], [0, 1, 2])
    close("queries (B, T) give (B, T, S).", got,
          [allowed([0, 1], range(3)), allowed([2, 3], range(3))])
    equal("The dtype, if none is asked for:", got.dtype, torch.float32)
    positions = torch.arange(2)
    equal("The dtype that is asked for:",
          model.causal_mask(positions, positions, None, torch.bfloat16).dtype, torch.bfloat16)


# --------------------------------------------------------------------------------------------------
# model-4


def by_hand(q, k, v, mask):
    """The formula, in Python's floats, query by query."""
    (B, H, T, D), K = q.shape, k.shape[1]
    q, k, v, mask = (x.tolist() for x in (q, k, v, mask))

    def one(query, keys, values, allowed):
        e = [math.exp(sum(x * y for x, y in zip(query, key, strict=True)) / math.sqrt(D) + a)
             for key, a in zip(keys, allowed, strict=True)]
        return [sum(weight * x for weight, x in zip(e, column, strict=True)) / sum(e)
                for column in zip(*values, strict=True)]

    return [[[one(q[b][h][t], k[b][h // (H // K)], v[b][h // (H // K)], mask[b % len(mask)][0][t])
              for t in range(T)] for h in range(H)] for b in range(B)]


def drawn(name, B, H, K, T, S, D=4):
    """q, k and v."""
    g = generator(name)
    return (torch.randn(B, H, T, D, generator=g), torch.randn(B, K, S, D, generator=g),
            torch.randn(B, K, S, D, generator=g))


def open_mask(T, S):
    """Everybody sees everything."""
    return torch.zeros(1, 1, T, S)


def test_model_4_formula():
    q, k, v = drawn("attention", 2, 2, 2, 3, 3)
    mask = torch.full((3, 3), -math.inf).triu(1)[None, None]
    close("softmax(q k' / sqrt(D) + mask) v, for as many key/value heads as query heads.",
          model.attention(q, k, v, mask), by_hand(q, k, v, mask))


def test_model_4_scale():
    q = torch.full((1, 1, 1, 4), 1.0)
    k = torch.tensor([[[[1.0] * 4, [0.0] * 4]]])
    v = torch.tensor([[[[1.0], [0.0]]]]).expand(1, 1, 2, 4)
    weight = math.exp(2) / (math.exp(2) + 1)
    close("The scores are divided by sqrt(D): with D = 4, scores of 4 and 0 become 2 and 0.",
          model.attention(q, k, v, open_mask(1, 2))[0, 0, 0, 0], weight)


def test_model_4_which_head_reads_which():
    q, k, _ = drawn("heads", 1, 4, 2, 1, 1)
    v = torch.tensor([10.0, 20.0])[None, :, None, None].expand(1, 2, 1, 4)
    close("Of 4 query heads and 2 key/value heads, heads 0 and 1 read the first, 2 and 3 the "
          "second: h // (H / K).", model.attention(q, k, v, open_mask(1, 1))[0, :, 0, 0],
          [10, 10, 20, 20])
    for H, K in ((6, 2), (4, 1)):
        q, k, v = drawn(f"heads {H}", 2, H, K, 3, 3)
        close(f"{H} query heads on {K} key/value heads.",
              model.attention(q, k, v, open_mask(3, 3)), by_hand(q, k, v, open_mask(3, 3)))


def test_model_4_mask():
    q, k, v = drawn("mask", 1, 2, 1, 2, 2)
    v[:, :, 1] = 1000.0
    mask = torch.tensor([[0, -math.inf], [0, 0]])[None, None]
    got = model.attention(q, k, v, mask)
    close("The first token must not see the second, whose values are 1000: it sees itself only.",
          got[0, :, 0], v[0, :, 0].expand(2, 4))
    masks = torch.tensor([[[[0, 0.5]]], [[[1.5, -1]]]])
    q, k, v = drawn("masks", 2, 2, 1, 1, 2)
    close("The mask is added to the scores, and each sequence may have its own.",
          model.attention(q, k, v, masks), by_hand(q, k, v, masks))


def test_model_4_more_keys_than_queries():
    q, k, v = drawn("keys", 2, 4, 2, 2, 5)
    close("There may be more keys than queries.", model.attention(q, k, v, open_mask(2, 5)),
          by_hand(q, k, v, open_mask(2, 5)))


def test_model_4_dtype():
    q, k, v = (x.bfloat16() for x in drawn("dtype", 1, 2, 1, 2, 2))
    got = model.attention(q, k, v, open_mask(2, 2).bfloat16())
    equal("The result has the dtype of q.", got.dtype, torch.bfloat16)
    unchanged(model.attention, *drawn("in place", 1, 2, 1, 2, 2), open_mask(2, 2))


# --------------------------------------------------------------------------------------------------
# model-5


def mlp(gate, up, down):
    """An MLP with these weights."""
    weights = [torch.as_tensor(w, dtype=torch.float32) for w in (gate, up, down)]
    hidden, size = weights[0].shape
    layer = model.MLP(SimpleNamespace(hidden_size=size, intermediate_size=hidden))
    for linear, weight in zip((layer.gate_proj, layer.up_proj, layer.down_proj), weights,
                              strict=True):
        linear.weight.data = weight
    return layer


def test_model_5_formula():
    g = generator("mlp")
    gate, up, down = (torch.randn(*shape, generator=g) for shape in ((5, 3), (5, 3), (3, 5)))
    x = torch.randn(2, 2, 3, generator=g)
    z = x @ gate.T
    close("down(silu(gate(x)) * up(x)).", mlp(gate, up, down)(x),
          z / (1 + (-z).exp()) * (x @ up.T) @ down.T)


def test_model_5_silu():
    x = torch.tensor([[2.0]])
    close("silu(z) = z / (1 + exp(-z)): with up and down the identity and gate -1, 2 becomes "
          "silu(-2) * 2.", mlp([[-1]], [[1]], [[1]])(x), [[-2 / (1 + math.exp(2)) * 2]])


def test_model_5_only_the_gate_passes_silu():
    x = torch.tensor([[1.0]])
    silu = [z / (1 + math.exp(-z)) for z in (3, -1)]
    close("silu is taken of the gate: with gate 3 and up -1, 1 becomes silu(3) * -1.",
          mlp([[3]], [[-1]], [[1]])(x), [[silu[0] * -1]])
    close("silu is not taken of up: with gate -1 and up 3, 1 becomes silu(-1) * 3.",
          mlp([[-1]], [[3]], [[1]])(x), [[silu[1] * 3]])


# --------------------------------------------------------------------------------------------------
# model-6


def entry(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def file_of(header, buffer, pad=b""):
    raw = (header if isinstance(header, bytes) else json.dumps(header).encode()) + pad
    return struct.pack("<Q", len(raw)) + raw + buffer


def load(content):
    """What read_safetensors makes of a file with this content: {name: (dtype, nested lists)}."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        tensors = model.read_safetensors(path)
        check(isinstance(tensors, dict), f"It must return a dictionary, not {short(tensors)}.")
        found = {name: (t.dtype, plain(t.clone())) for name, t in tensors.items()}
        del tensors  # a file that is still mapped cannot be removed on Windows
    return found


def read(content):
    """The same, of a file that is right."""
    try:
        return load(content)
    except ValueError as error:
        check(False, f"A file that is right was refused: {error}")


def test_model_6_names_shapes_and_numbers():
    numbers = [round(rng("numbers").uniform(-9, 9) * 8) / 8 for _ in range(6)]
    header = {"a": entry("F32", [2, 3], 0, 24), "b": entry("I64", [2], 24, 40)}
    found = read(file_of(header, struct.pack("<6f2q", *numbers, 5, -7)))
    equal("The names of the tensors:", sorted(found), ["a", "b"])
    close("The numbers of a float32 tensor of shape (2, 3).", found["a"][1],
          [numbers[:3], numbers[3:]], 0)
    equal("Its dtype:", found["a"][0], torch.float32)
    equal("The numbers of an int64 tensor.", found["b"][1], [5, -7])


def test_model_6_the_header_in_any_order():
    header = {"z": entry("U8", [2], 0, 2), "__metadata__": {"format": "pt"},
              "a": entry("U8", [1], 2, 3)}
    for names in (["z", "__metadata__", "a"], ["a", "z", "__metadata__"]):
        found = read(file_of({name: header[name] for name in names}, bytes([1, 2, 3]), b"   "))
        equal("__metadata__ is no tensor.", sorted(found), ["a", "z"])
        equal("Offsets count, not the order in the header.",
              (found["z"][1], found["a"][1]), ([1, 2], [3]))


def test_model_6_kinds():
    header = {"half": entry("BF16", [1, 2], 0, 4), "yes": entry("BOOL", [2], 4, 6),
              "scalar": entry("F16", [], 6, 8), "none": entry("F32", [0, 3], 8, 8)}
    found = read(file_of(header, bytes([0x80, 0x3F, 0, 0xC0, 1, 0, 0, 0x3C])))
    equal("BF16:", found["half"], (torch.bfloat16, [[1.0, -2.0]]))
    equal("BOOL:", found["yes"], (torch.bool, [True, False]))
    equal("A tensor of shape () is one number:", found["scalar"], (torch.float16, 1.0))
    equal("A tensor of shape (0, 3) holds none:", found["none"], (torch.float32, []))


def test_model_6_the_file_stays_as_it_is():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        content = file_of({"a": entry("U8", [2], 0, 2)}, bytes([1, 2]))
        path.write_bytes(content)
        tensor = model.read_safetensors(path)["a"]
        tensor.fill_(9)
        equal("Writing to a tensor must leave the file alone.", path.read_bytes(), content)
        del tensor


def wrong(rule, content):
    refuses(f"{rule} must be refused.", ValueError, load, content)


def test_model_6_offsets_that_do_not_fit():
    two = bytes(range(8))
    wrong("A tensor whose offsets do not fit its shape (3 numbers in 8 bytes)",
          file_of({"a": entry("F32", [3], 0, 8)}, two))
    wrong("A tensor whose offsets do not fit its shape (1 number in 8 bytes)",
          file_of({"a": entry("F32", [1], 0, 8)}, two))
    wrong("A hole between two tensors", file_of({"a": entry("U8", [2], 0, 2),
                                                 "b": entry("U8", [4], 4, 8)}, two))
    wrong("Two tensors that overlap", file_of({"a": entry("U8", [6], 0, 6),
                                               "b": entry("U8", [4], 4, 8)}, two))
    wrong("A tensor that runs past the end of the file",
          file_of({"a": entry("U8", [12], 0, 12)}, two))
    wrong("A file in which bytes follow the last tensor",
          file_of({"a": entry("U8", [6], 0, 6)}, two))
    wrong("A negative size", file_of({"a": entry("U8", [-2, -4], 0, 8)}, two))


def test_model_6_headers_that_are_none():
    wrong("An empty file", b"")
    wrong("A file of 4 bytes", b"abcd")
    wrong("A header that is longer than the file", struct.pack("<Q", 500) + b"{}")
    wrong("A header that is not JSON", file_of(b"{what}", b""))
    wrong("A header that is no object", file_of(b"[1, 2]", b""))
    wrong("An unknown dtype", file_of({"a": entry("F99", [1], 0, 4)}, bytes(4)))
    wrong("An entry without offsets", file_of({"a": {"dtype": "U8", "shape": [1]}}, bytes(1)))

"""Graders of infer-1 (top_k_top_p) and infer-2 (sample)."""
import math

import torch

from course import check, close, equal, generator, plain, short, student, trying

infer = student("infer")


def softmax(logits):
    e = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(e) for x in e]


def by_hand(logits, temperature, top_k, top_p):
    """{id: its probability} of what may be drawn."""
    p = softmax([x / temperature for x in logits])
    order = sorted(range(len(p)), key=lambda i: -p[i])[:top_k or len(p)]
    rest = sum(p[i] for i in order)
    kept, before = {}, 0.0
    for i in order:
        if before < top_p:
            kept[i] = p[i] / rest
        before += p[i] / rest
    return {i: x / sum(kept.values()) for i, x in kept.items()}


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    """What top_k_top_p gives each token of each row a share of, from the running sums."""
    with trying(f"temperature {temperature}, top_k {top_k}, top_p {top_p}:"):
        got = infer.top_k_top_p(torch.as_tensor(logits), temperature, top_k, top_p)
    check(isinstance(got, tuple) and len(got) == 2,
          f"It must return (ids, cumulative), not {short(got)}.")
    ids, cumulative = map(plain, got)
    rows = []
    for i, sums in zip(ids, cumulative, strict=True):
        shares = [b - a for a, b in zip([0.0, *sums], sums, strict=False)]
        check(all(share > -1e-5 for share in shares),
              f"Running sums never fall. Got {short(sums)}.")
        check(len(set(i)) == len(i), f"Each token comes once. Got the ids {short(i)}.")
        rows.append({token: share for token, share in zip(i, shares, strict=True) if share > 1e-6})
    return rows


def may_be_drawn(rule, p, expected, top_k=0, top_p=1.0):
    """Of tokens with the probabilities p, these may be drawn, with these probabilities."""
    [got] = probabilities([[math.log(x) for x in p]], 1.0, top_k, top_p)
    told = ", ".join(f"{x:g}" for x in p)
    rule = f"{rule} (probabilities {told}; top_k {top_k}, top_p {top_p})"
    equal(f"{rule} Tokens that may be drawn:", sorted(got), sorted(expected))
    close(rule, [got[i] for i in sorted(got)], [expected[i] for i in sorted(expected)])


def random_logits(name, N=3, V=9):
    return 2 * torch.randn(N, V, generator=generator(name))


# --------------------------------------------------------------------------------------------------
# infer-1


def test_infer_1_formula():
    logits = random_logits("formula")
    for settings in ((1.0, 0, 1.0), (0.7, 4, 1.0), (1.5, 0, 0.6), (0.9, 5, 0.8)):
        rule = "temperature {}, top_k {}, top_p {}:".format(*settings)
        for got, row in zip(probabilities(logits, *settings), plain(logits), strict=True):
            expected = by_hand(row, *settings)
            equal(f"{rule} which tokens may be drawn.", sorted(got), sorted(expected))
            close(f"{rule} their probabilities.", [got[i] for i in sorted(got)],
                  [expected[i] for i in sorted(expected)])


def test_infer_1_temperature():
    [got] = probabilities([[math.log(4.0), 0.0]], temperature=0.5)
    close("The logits are divided by the temperature: at 0.5 the odds 4 : 1 become 16 : 1.",
          [got.get(0, 0), got.get(1, 0)], [16 / 17, 1 / 17])


def test_infer_1_top_p_keeps_the_one_that_crosses():
    may_be_drawn("The token that crosses top_p stays.", [0.5, 0.3, 0.2], {0: 0.625, 1: 0.375},
                 top_p=0.6)
    may_be_drawn("The first token always stays.", [0.5, 0.3, 0.2], {0: 1.0}, top_p=0.01)
    may_be_drawn("top_p counts the likeliest first, wherever they stand.", [0.1, 0.2, 0.7],
                 {2: 7 / 9, 1: 2 / 9}, top_p=0.75)


def test_infer_1_top_p_is_of_the_top_k_renormalised():
    may_be_drawn("top_k first, renormalised, then top_p: of 4/7 and 3/7 the first reaches 0.5.",
                 [0.4, 0.3, 0.2, 0.1], {0: 1.0}, top_k=2, top_p=0.5)


def test_infer_1_top_k():
    may_be_drawn("The top_k likeliest stay.", [0.1, 0.4, 0.2, 0.3], {1: 4 / 7, 3: 3 / 7}, top_k=2)
    may_be_drawn("top_k 0 keeps all.", [0.6, 0.4], {0: 0.6, 1: 0.4})
    may_be_drawn("top_k may be larger than the vocabulary.", [0.6, 0.4], {0: 0.6, 1: 0.4}, top_k=50)


def test_infer_1_running_sums():
    logits = random_logits("sums")
    ids, cumulative = infer.top_k_top_p(logits, 1.0, 5, 0.7)
    close("The last running sum is 1.", cumulative[:, -1], [1.0] * 3)
    first = plain(ids)[0][0]
    equal("The likeliest token comes first.", first, plain(logits[0].argmax()))
    ids, cumulative = infer.top_k_top_p(logits.bfloat16(), 1.0, 0, 1.0)
    equal("cumulative is in float32.", cumulative.dtype, torch.float32)


def test_infer_1_temperature_0_is_greedy():
    logits = random_logits("greedy")
    ids, cumulative = infer.top_k_top_p(logits, 0, 5, 0.5)
    close("Temperature 0 leaves the likeliest alone, k = 1.", ids, logits.argmax(-1)[:, None])
    close("Temperature 0: cumulative is 1.", cumulative, [[1.0]] * 3)


def test_infer_1_leaves_the_logits():
    logits = random_logits("in place")
    before = plain(logits)
    infer.top_k_top_p(logits, 0.5, 3, 0.5)
    check(plain(logits) == before, "The logits must not be changed in place.")


# --------------------------------------------------------------------------------------------------
# infer-2


def draw(ids, cumulative, u):
    return infer.sample(torch.tensor(ids), torch.tensor(cumulative), torch.tensor(u))


def test_infer_2_the_first_sum_that_reaches_u():
    g = generator("sample")
    p = torch.rand(5, 4, generator=g)
    cumulative = p.cumsum(-1) / p.sum(-1, keepdim=True)
    cumulative[:, -1] = 1
    ids, u = torch.stack([torch.randperm(9, generator=g)[:4] for _ in range(5)]), torch.rand(
        5, generator=g)
    expected = [next(i for i, c in zip(row, sums, strict=True) if c >= x)
                for row, sums, x in zip(ids.tolist(), cumulative.tolist(), u.tolist(), strict=True)]
    close("The first token whose running sum reaches u.", infer.sample(ids, cumulative, u),
          expected)


def test_infer_2_edges():
    ids, sums = [[7, 8, 9]], [[0.25, 0.75, 1.0]]
    for u, token in (0.0, 7), (0.25, 7), (0.26, 8), (0.75, 8), (0.99, 9):
        close(f"ids 7, 8, 9 with the running sums 0.25, 0.75, 1 and u = {u}.",
              draw(ids, sums, [u]), [token])


def test_infer_2_each_text_has_its_own_u():
    close("Each text has its own u: two equal rows with u = 0.1 and 0.9.",
          draw([[3, 4], [3, 4]], [[0.5, 1.0], [0.5, 1.0]], [0.1, 0.9]), [3, 4])


def test_infer_2_what_is_left_out_is_never_drawn():
    close("A token whose running sum is that of the one before has no share and is never drawn.",
          draw([[3, 4, 5]] * 2, [[0.5, 1.0, 1.0]] * 2, [0.5, 0.9999]), [3, 4])

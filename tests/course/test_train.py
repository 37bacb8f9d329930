"""Graders of train-1 (summed_loss), train-2 (learning_rate) and train-3 (AdamW.step)."""
import math

import torch

from course import check, close, equal, generator, plain, rng, short, student

train = student("train")

V, C = 7, 4  # vocabulary and hidden size


# --------------------------------------------------------------------------------------------------
# train-1


class Causal:
    """A model in miniature: the hidden state of a token is the mean of the embeddings up to it."""
    device = torch.device("cpu")

    def __init__(self, name, dtype=torch.float32):
        g = generator(name)
        self.embedding = (2 * torch.randn(V, C, generator=g)).to(dtype)
        self.head = (2 * torch.randn(V, C, generator=g)).to(dtype).requires_grad_()
        self.rows = 0  # of the logits that were computed

    def __call__(self, ids):
        x = self.embedding[ids]
        return (x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]).to(x.dtype)

    def logits(self, hidden):
        self.rows += hidden.numel() // C
        return hidden @ self.head.T


def by_hand(model, examples):
    """The formula: -log p of each supervised token, given all before it, summed."""
    total = 0.0
    for ids, loss_mask in examples:
        logits = (model(torch.tensor([ids]))[0] @ model.head.T).tolist()
        for t in range(1, len(ids)):
            if loss_mask[t]:
                said = logits[t - 1]
                total += math.log(sum(map(math.exp, said))) - said[ids[t]]
    return total


def drawn(name, *lengths):
    """Examples of these lengths, the last half of each supervised."""
    r = rng(name)
    return [([r.randrange(V) for _ in range(n)], [0] * (n - n // 2) + [1] * (n // 2))
            for n in lengths]


def loss_is(rule, examples, name):
    model = Causal(name)
    loss = train.summed_loss(model, examples)
    close(rule, loss, by_hand(model, examples))


def test_train_1_formula():
    loss_is("-log p of each supervised token, given all before it, summed (one text of 6 tokens, "
            "the last 3 supervised).", drawn("loss", 6), "loss")


def test_train_1_a_sum_not_a_mean():
    examples = drawn("sum", 6)
    model = Causal("sum")
    once, twice = (train.summed_loss(model, examples * n).item() for n in (1, 2))
    close("The loss is a sum: of a text that comes twice it is twice as large.", twice, 2 * once)


def test_train_1_each_token_is_predicted_by_the_one_before():
    loss_is("The logits at position t are for token t + 1: of the tokens 3 5 2, with the mask "
            "0 1 0, -log p(5 | 3) is all.", [([3, 5, 2], [0, 1, 0])], "shift")


def test_train_1_the_prompt_does_not_count():
    model = Causal("prompt")
    with torch.no_grad():
        got = [plain(train.summed_loss(model, [([1, 2, 3, 4], mask)]))
               for mask in ([0, 0, 0, 1], [0, 1, 1, 1])]
    expected = [by_hand(model, [([1, 2, 3, 4], mask)]) for mask in ([0, 0, 0, 1], [0, 1, 1, 1])]
    close("The prompt's tokens must not count: the tokens 1 2 3 4 with the masks 0 0 0 1 and "
          "0 1 1 1.", got, expected)


def test_train_1_padding_does_not_count():
    loss_is("Texts of different lengths: the loss is the sum of their own losses, padding does not "
            "count and is not seen.", drawn("padding", 3, 8, 5), "padding")


def test_train_1_only_supervised_positions_meet_the_vocabulary():
    examples, model = drawn("vocabulary", 4, 9), Causal("vocabulary")
    train.summed_loss(model, examples)
    equal("Logits are computed at supervised positions only (6 of them here).", model.rows, 6)


def test_train_1_gradient():
    model, reference = Causal("gradient"), Causal("gradient")
    examples = drawn("gradient", 5, 6)
    (train.summed_loss(model, examples) / 2).backward()
    logits = torch.cat([(reference(torch.tensor([ids]))[0] @ reference.head.T)[:-1]
                        for ids, _ in examples])
    keep = torch.tensor([m for _, mask in examples for m in mask[1:]]) > 0
    targets = torch.tensor([i for ids, _ in examples for i in ids[1:]])
    log_p = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    (-log_p[keep].sum() / 2).backward()
    check(model.head.grad is not None, "The loss must have a gradient: backward() reached nothing.")
    close("The gradient of loss / 2 for the head's weights.", model.head.grad, reference.head.grad,
          1e-3)


def test_train_1_float32():
    model, examples = Causal("float32", torch.bfloat16), drawn("float32", 9)
    loss = train.summed_loss(model, examples)
    equal("The loss of a model in bfloat16 is computed in float32.", loss.dtype, torch.float32)
    close("The loss of a model in bfloat16 is computed in float32.", loss, by_hand(model, examples),
          1e-2)


# --------------------------------------------------------------------------------------------------
# train-2


def rates(rule, steps, peak, warmup):
    got = [train.learning_rate(step, steps, peak, warmup) for step in range(steps)]
    rise = [peak * share / warmup for share in range(1, warmup + 1)]
    angles = [math.pi / 2 * i / (steps - warmup) for i in range(steps - warmup)]
    close(f"{rule} (steps {steps}, peak {peak}, warmup {warmup})", got,
          rise + [peak * math.cos(angle) ** 2 for angle in angles], 1e-6)


def test_train_2_formula():
    rates("It rises in a line to the peak, then falls as half a cosine.", 6, 100.0, 2)
    r = rng("lr")
    rates("It rises in a line to the peak, then falls as half a cosine.", 20, r.uniform(1, 9),
          r.randrange(3, 9))


def test_train_2_the_first_steps():
    close("The first step is not lost, the last of the warm-up has the peak: 25, 50, 75, 100.",
          [train.learning_rate(step, 8, 100.0, 4) for step in range(4)], [25, 50, 75, 100], 1e-6)


def test_train_2_the_cosine():
    close("The first step after the warm-up has the peak, the middle one half of it.",
          [train.learning_rate(step, 12, 100.0, 2) for step in (2, 7)], [100, 50], 1e-6)


def test_train_2_nothing_but_warmup():
    rates("A training may be all warm-up.", 3, 30.0, 3)
    rates("A training of one step.", 1, 30.0, 1)


# --------------------------------------------------------------------------------------------------
# train-3


def by_formula(p, gradients, lr, beta1, beta2, decay):
    """p after each of the steps, in Python's floats."""
    m = v = 0.0
    values = []
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p -= lr * decay * p
        p -= lr * m / (1 - beta1**t) / (math.sqrt(v / (1 - beta2**t)) + 1e-8)
        values.append(p)
    return values


def steps(p, gradients, lr=0.1, beta1=0.9, beta2=0.95, decay=0.0):
    """A parameter of one number after each of the steps."""
    parameter = torch.nn.Parameter(torch.tensor([p]))
    optimizer, values = train.AdamW([parameter], beta1, beta2, decay), []
    for g in gradients:
        parameter.grad = torch.tensor([g])
        optimizer.step(lr)
        values.append(parameter.item())
    return values


def test_train_3_formula():
    r = rng("adamw")
    p, gradients = r.uniform(1, 2), [r.uniform(-1, 1) for _ in range(4)]
    close(f"p = {p:.3g} after steps with the gradients {short(gradients)} (lr 0.1, betas 0.9 and "
          "0.95, decay 0.2):", steps(p, gradients, decay=0.2),
          by_formula(p, gradients, 0.1, 0.9, 0.95, 0.2))


def test_train_3_bias_correction():
    for g in (5.0, -0.001):
        close(f"The first step moves p by lr, however large the gradient ({g}): without the "
              "divisions by 1 - beta^t it does not.", steps(1.0, [g]), [1 - math.copysign(0.1, g)])
    close("The same gradient again and again moves p by lr each time.", steps(1.0, [2.0] * 3),
          [0.9, 0.8, 0.7])


def test_train_3_averages():
    close("m and v are running averages: with gradients 1 and then 0, p = 1 still moves in step 2.",
          steps(1.0, [1.0, 0.0]), by_formula(1.0, [1.0, 0.0], 0.1, 0.9, 0.95, 0.0))


def test_train_3_decay():
    close("The decay is p <- p - lr decay p, no part of the gradient: with gradient 0, lr 0.1 and "
          "decay 0.5, 1 becomes 0.95.", steps(1.0, [0.0], decay=0.5), [0.95])
    close("The decay is p <- p - lr decay p, no part of the gradient: with gradient 1, lr 0.1 and "
          "decay 0.5, 1 becomes 0.85.", steps(1.0, [1.0], decay=0.5), [0.85])


def test_train_3_epsilon_is_outside_the_root():
    close("1e-8 is added to the root: with gradient 1e-8 the step is lr / 2.",
          steps(1.0, [1e-8], lr=0.5), [0.75])


def test_train_3_every_parameter_in_place():
    parameters = [torch.nn.Parameter(torch.full((2,), x)) for x in (1.0, 2.0)]
    before = [p.data_ptr() for p in parameters]
    optimizer = train.AdamW(parameters, 0.9, 0.95, 0.0)
    for p, g in zip(parameters, (1.0, -3.0), strict=True):
        p.grad = torch.full((2,), g)
    optimizer.step(0.1)
    close("Every parameter moves, by its own gradient.", [plain(p) for p in parameters],
          [[0.9, 0.9], [2.1, 2.1]])
    check([p.data_ptr() for p in parameters] == before, "The parameters must change in place.")
    check(all(p.grad is None for p in parameters), "After the step p.grad must be None.")

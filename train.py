"""Training: one frozen base, one LoRA adapter per role. nanoGPT's loop, on A and B only.

    python train.py                     all three roles on the built-in base and the toy world
    python train.py --role ir           only the Intuitive Reasoner (or kg, or dr)
    python train.py --role kg --model models/smollm2 --data rows.jsonl --lr 2e-4      your own rows
    python train.py --resume            goes on where a stopped training was, to the same adapter
    python train.py --plot curves.png   how the losses fell, from out/<model>/<role>/log.jsonl

An adapter goes to out/<model>/<role>/, a folder that peft and vLLM read too. How the built-in base
was pretrained: tiny/pretrain.py.

Shapes: B sequences, T tokens, C hidden size, V vocabulary, N supervised tokens of a pass. An
example is (ids, loss_mask), two lists of equal length, as data.py makes them.
"""
import support  # isort: skip  # noqa: F401  from here on, Ctrl-C is quiet
import math
import random
import sys
import time
from argparse import RawDescriptionHelpFormatter
from contextlib import closing
from itertools import chain
from pathlib import Path

import torch

import data
import lora
import lorid
from model import fast_dtype, load_model, pick_device
from support import cli
from support.checkpoint import Checkpoints
from support.cli import number, path, positive, say
from support.distributed import all_reduce, get_rank, get_world_size, shard
from support.plots import plot_training
from support.settings import settings_of, trained_with
from support.tokenizer import TEMPLATES, Tokenizer

# --------------------------------------------------------------------------------------------------
# The loss


class CrossEntropy(torch.autograd.Function):
    """F.cross_entropy(logits.float(), targets, reduction="sum") in less memory: logits (N, V),
    targets (N,) -> the sum over N of -log softmax(logits)[target], float32.

    Its gradient, softmax(logits) - onehot(target), is known as soon as the loss is, and overwrites
    the logits, 2**21 numbers at a time: no float32 copy of all of them exists. So nobody else may
    need the logits, and backward works once."""

    @staticmethod
    def forward(ctx, logits, targets):
        loss = torch.zeros((), device=logits.device)
        size = max(1, 2**21 // logits.shape[1])  # 8 MB in float32, about what a CPU's cache holds
        for part, target in zip(logits.split(size), targets[:, None].split(size), strict=True):
            log_p = part.float().log_softmax(-1)
            loss -= log_p.gather(1, target).sum()
            minus_one = torch.full_like(target, -1, dtype=log_p.dtype)
            part.copy_(log_p.exp_().scatter_add_(1, target, minus_one))
        ctx.save_for_backward(logits)
        return loss

    @staticmethod
    def backward(ctx, grad):
        [gradient] = ctx.saved_tensors
        return gradient.mul_(grad), None


def summed_loss(model, examples):
    """Cross-entropy summed over the supervised tokens of the examples, float32: of each, given all
    before it, -log p. model(ids (B, T)) gives hidden states (B, T, C), model.logits the (..., V) of
    some of them, the one at position t for token t + 1. Shorter texts are padded on the right.

    A mean would weigh a token by the length of its neighbours; `fit` divides, once. Only supervised
    positions meet the vocabulary: logits of prompts and padding would be wasted work and, with a
    real vocabulary, most of the memory."""
    # exercise train-1, 8 points: sum -log p of each supervised token, given all before it
    # rounded up to a multiple of 8: many passes then have the same shape, and reuse memory
    T = -(-max(len(ids) for ids, _ in examples) // 8) * 8
    padded = [(ids + [0] * (T - len(ids)), mask + [0] * (T - len(mask))) for ids, mask in examples]
    ids, loss_mask = (torch.tensor(each, device=model.device) for each in zip(*padded, strict=True))
    supervised = loss_mask[:, 1:].bool()  # (B, T-1)
    hidden = model(ids[:, :-1])           # (B, T-1, C)
    logits = model.logits(hidden[supervised])  # (N, C) -> (N, V)
    return CrossEntropy.apply(logits, ids[:, 1:][supervised])
    # end of train-1


def count_supervised(examples):
    """How many tokens the loss counts: a text's first has nothing before it to predict it from."""
    return sum(sum(loss_mask[1:]) for _, loss_mask in examples)


@torch.no_grad()
def val_loss(model, examples, max_tokens):
    """Mean loss per supervised token, without dropout."""
    model.eval()
    groups = data.micro_batches(examples, max_tokens)
    return sum(summed_loss(model, group).item() for group in groups) / count_supervised(examples)


# --------------------------------------------------------------------------------------------------
# The step


def learning_rate(step, steps, peak, warmup):
    """Of step 0, 1, ..., steps - 1: peak (step + 1) / warmup in the first `warmup` steps; then half
    a cosine down to zero, peak (1 + cos(pi (step - warmup) / (steps - warmup))) / 2."""
    # exercise train-2, 2 points: rise in a line, fall as half a cosine
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    # end of train-2


class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101). In step t = 1, 2, ..., of gradient g,

        m <- beta1 m + (1 - beta1) g            v <- beta2 v + (1 - beta2) g^2
        p <- p - lr decay p
        p <- p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + 1e-8)

    So every parameter moves by about lr, however large its gradients usually are. Both averages
    start from zero, and after t steps are too small by the factor 1 - beta^t: hence the divisions.
    torch.optim.AdamW gives the same; `step` also sets p.grad to None."""

    def __init__(self, parameters, beta1, beta2, decay):
        self.beta1, self.beta2, self.decay, self.t = beta1, beta2, decay, 0
        self.state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]  # p, m, v

    @torch.no_grad()
    def step(self, lr):
        """The next step on each (p, m, v) of self.state, in place, with g = p.grad."""
        # exercise train-3, 5 points: update both averages, decay, and move
        self.t += 1
        correction1, correction2 = 1 - self.beta1 ** self.t, 1 - self.beta2 ** self.t
        for p, m, v in self.state:
            m.lerp_(p.grad, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
            p.mul_(1 - lr * self.decay)
            root = (v.sqrt() / math.sqrt(correction2)).add_(1e-8)
            p.addcdiv_(m, root, value=-lr / correction1)
            p.grad = None
        # end of train-3


def share(examples, max_tokens):
    """This process's micro-batches of a step: [(examples, weight)]. Weight 0: a pass only to keep
    step with the other processes, as --shard needs."""
    rank, world_size = get_rank(), get_world_size()
    ordered = sorted(examples, key=lambda example: len(example[0]))  # so that all get as much to do
    shares = [data.micro_batches(ordered[i::world_size], max_tokens) for i in range(world_size)]
    idle = max(map(len, shares)) - len(shares[rank])
    return [(group, 1) for group in shares[rank]] + [(examples[:1], 0)] * idle


def fit(model, parameters, batches, steps, args, autocast=False, checkpoints=None, held_out=None):
    """Take `steps` steps on `parameters`, each on the next list of examples from `batches`, and
    print a line for each. Minimised: the mean of -log p(token | all before it) over the supervised
    tokens of a step. args: lr, warmup, weight_decay, beta2, clip, max_tokens, as the flags;
    autocast: bfloat16 over float32 weights (tiny/pretrain.py); checkpoints: where to go on from and
    to log to; held_out: {step: the examples to measure after it}. Returns the seconds it took.

    A step's examples are split among the processes, if torchrun has started several, and into
    micro-batches of at most max_tokens; each loss is divided by the whole step's token count, so
    the gradient is that of one big batch, however it was split."""
    optimizer = AdamW(parameters, 0.9, args.beta2, args.weight_decay)
    warmup, device_type = max(1, round(args.warmup * steps)), model.device.type
    first = checkpoints.begin(optimizer) if checkpoints else 0
    start, tokens = time.time(), 0
    model.train()
    for _ in range(first):  # resuming: these batches have been learnt from
        next(batches)
    for step in range(first, steps):
        examples = next(batches)
        n_tokens, loss = count_supervised(examples), 0.0
        for group, weight in share(examples, args.max_tokens):
            with torch.autocast(device_type, torch.bfloat16, enabled=autocast):
                part = summed_loss(model, group) / n_tokens * weight
            part.backward()
            loss += part.item()
        if get_world_size() > 1:
            loss = all_reduce(parameters, loss)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {step + 1}, nothing is saved; "
                             "try a lower --lr.")
        torch.nn.utils.clip_grad_norm_(parameters, args.clip)
        lr = learning_rate(step, steps, args.lr, warmup)
        optimizer.step(lr)
        tokens += sum(len(ids) for ids, _ in examples)
        spent, last = time.time() - start, step + 1 == steps
        left = int(spent / (step + 1 - first) * (steps - step - 1))
        say(f"step {step + 1}/{steps}  loss {loss:.4f}  lr {lr:.2e}  "
            f"{tokens / spent:,.0f} tokens/s  {left // 60}:{left % 60:02} left  ",
            end="\r" if sys.stdout.isatty() and not last else "\n")
        entry = {"step": step + 1, "loss": loss, "lr": lr, "tokens/s": round(tokens / spent, 1)}
        if held_out and step + 1 in held_out:
            entry["val_loss"] = val_loss(model, held_out[step + 1], args.max_tokens)
            model.train()
        if checkpoints:
            checkpoints.after(entry, optimizer, last)
    return time.time() - start


# --------------------------------------------------------------------------------------------------
# One role


def rows_of(args):
    """(rows to learn from, rows held out). Rows of a file that share an id stay on the same side:
    they may be rephrasings."""
    if args.data is None:
        return data.toy(args.examples, "train", args.seed), data.toy(200, "valid")
    rows = data.read_rows(args.data)
    ids = sorted({str(row["id"]) for row in rows})
    if len(ids) < 2:
        raise ValueError(f"{args.data}: at least two problems with different ids are needed, since "
                         "one is held out.")
    held = set(random.Random(0).sample(ids, max(1, min(200, len(ids) // 20))))
    return ([row for row in rows if str(row["id"]) not in held],
            [row for row in rows if str(row["id"]) in held])


def shuffled(examples, size, seed):
    """Batches of `size` examples for ever, every example once per pass, each in a new order."""
    rng, order = random.Random(seed), []
    while True:
        while len(order) < size:
            order += rng.sample(range(len(examples)), len(examples))
        yield [examples[i] for i in order[:size]]
        del order[:size]


def tokenize_rows(rows, role, tokenizer, limit):
    """([examples to learn from], [held out]) without those longer than the model's positions."""
    sides = [[data.tokenize_example(row, role, tokenizer) for row in side] for side in rows]
    train, valid = ([example for example in side if len(example[0]) <= limit] for side in sides)
    if not train or not valid:
        raise ValueError(f"{len(train)} examples to learn from and {len(valid)} held out fit the "
                         f"model's {limit} positions; at least one of each is needed.")
    return train, valid


def measurements(valid, steps, batch):
    """{step: some held-out examples}: the same ones after at most eight steps, evenly spaced; in
    all, 4% of what is learnt from. Without a backward pass that takes 2% of the training's time."""
    n_examples = steps * batch // 25 // get_world_size()  # each process measures them all
    times = min(8, steps, n_examples)
    size = min(len(valid), n_examples // max(1, times))
    part = valid[::len(valid) // max(1, size)][:size]  # from all over the file
    return {steps * (i + 1) // times: part for i in range(times)}


def train_role(role, rows, args, checkpoints):
    """Train and save one role's adapter; rows as from `rows_of`."""
    start, rank, folder = time.time(), get_rank(), checkpoints.folder
    device = pick_device(args.device)
    model = load_model(args.model, "cpu" if args.shard else device, getattr(torch, args.dtype))
    model.checkpointing = args.checkpointing
    tokenizer = Tokenizer(args.model, args.template)
    torch.manual_seed(args.seed)
    adapters = {role: (args.rank, args.alpha / args.rank)}
    parameters = lora.inject(model, args.targets.split(","), adapters, args.dropout)
    if rank:
        torch.manual_seed(args.seed + rank)  # each process draws its own dropout
    trainable = sum(p.numel() for p in parameters)
    frozen = sum(p.numel() for p in model.parameters()) - trainable
    say(f"{role}: the {lorid.ROLES[role].title}\n"
        f"  base       {args.base}, {frozen:,} parameters, frozen, {str(model.dtype)[6:]} on "
        f"{device}, asked in the template {tokenizer.template}\n"
        f"  adapter    {trainable:,} trainable parameters in float32 (rank {args.rank}, "
        f"alpha {args.alpha:g}, on {args.targets})")

    limit = model.config.max_position_embeddings
    train, valid = tokenize_rows(rows, role, tokenizer, limit)
    steps = args.steps or max(1, math.ceil(args.epochs * len(train) / args.batch))
    long = sum(map(len, rows)) - len(train) - len(valid)
    left_out = f"; {long} too long for {limit} positions, left out" if long else ""
    say(f"  examples   {len(train):,} to learn from, {len(valid):,} held out; "
        f"{sum(len(ids) for ids, _ in train):,} tokens, {count_supervised(train):,} of them "
        f"supervised{left_out}\n"
        f"  plan       {steps} steps of {args.batch} examples, learning rate {args.lr:g}, "
        f"seed {args.seed} (ready in {time.time() - start:.1f} s)")

    if args.shard:
        parameters = shard(model, device)
    lora.set_adapter(model, role)
    with cli.delayed_interrupts() as checkpoints.interrupts:  # until all is saved
        spent = fit(model, parameters, shuffled(train, args.batch, args.seed), steps, args,
                    checkpoints=checkpoints, held_out=measurements(valid, steps, args.batch))
        held_out = val_loss(model, valid, args.max_tokens)
        # nan, or half way to guessing: a learning rate too high may have broken it
        if not held_out < math.log(model.config.vocab_size) / 2:
            lora.set_adapter(model, None)
            bare = val_loss(model, valid, args.max_tokens)
            if not held_out < 2 * bare:
                raise ValueError(f"{role}: the held-out loss is {held_out:.2f}, the bare base's "
                                 f"{bare:.2f}; nothing is saved, try a lower --lr.")
        if not rank:
            checkpoints.hold()
            lora.save_adapter(model, role, folder, args.base, args.dropout, checkpoints.settings)
        say(f"  trained in {spent:.0f} s, held-out loss {held_out:.4f} per token\n"
            f"  saved in   {folder}/\n")
        checkpoints.finish()


# --------------------------------------------------------------------------------------------------
# The command

# What the paper trained with, from its authors' scripts (batch: 4 examples, 4 times accumulated)
PAPER = {"rank": 512, "alpha": 1024, "targets": "q_proj,v_proj", "dropout": 0.1, "epochs": 5,
         "batch": 16, "lr": 5e-5, "warmup": 0.03, "weight_decay": 0.0, "beta2": 0.999, "clip": 1.0,
         "dtype": "bfloat16"}


def arguments():
    parser = cli.Parser(
        description="Trains the LoRA adapters of LoRID's roles on a frozen base.",
        formatter_class=RawDescriptionHelpFormatter, epilog=__doc__.split("\n\n")[1])
    add, fraction = parser.add_argument, number(float, at_least=0, below=1)
    above_0, at_least_0 = number(float, above=0), number(float, at_least=0)
    size, huge = number(int, above=0, limit=10**4), number(float, above=0, limit=1e30)
    add("--role", choices=[*lorid.ROLES, "base"], help="one role (default: all, in turn)")
    add("--data", type=path, help="training rows, a JSONL file (default: toy problems)")
    add("--examples", type=positive, default=1500, help="how many toy problems (default: 1500)")
    add("--out", type=path, default="out", help="folder for OUT/<model>/<role>/ (default: out)")
    add("--rank", type=size, default=16, help="rank r of each adapter (default: 16)")
    add("--alpha", type=number(float, at_least=1e-5), default=32,
        help="adapters are scaled by alpha / r (default: 32)")
    add("--targets", default="q_proj,k_proj,v_proj,o_proj",
        help="the linear layers that get an adapter (default: %(default)s)")
    add("--dropout", type=fraction, default=0.0, help="on an adapter's input (default: 0)")
    add("--epochs", type=above_0, default=1, help="passes over the rows (default: 1)")
    add("--steps", type=positive, help="optimizer steps (default: as many as the epochs need)")
    add("--batch", type=size, default=32, help="examples per step (default: 32)")
    add("--max-tokens", "--budget", type=positive, default=2048, metavar="N",
        help="most tokens in one pass: fewer need less memory, for the same step (default: 2048)")
    add("--checkpointing", action="store_true",
        help="compute each block's activations twice: less memory, for about a fifth more time")
    add("--lr", type=huge, default=2e-3,
        help="peak learning rate (default: 2e-3, for the toy base; real models: 5e-5 to 5e-4)")
    add("--warmup", type=number(float, at_least=0, limit=1), default=0.03,
        help="share of the steps in which the learning rate rises (default: 0.03)")
    add("--weight-decay", type=at_least_0, default=0.0, help="AdamW's decay (default: 0)")
    add("--beta2", type=fraction, default=0.95, help="AdamW's beta2 (default: 0.95)")
    add("--clip", type=huge, default=1.0, help="largest norm of a gradient (default: 1)")
    add("--shard", action="store_true",
        help="under torchrun: each process keeps a share of the base only, for bases too big")
    add("--save-every", type=at_least_0, default=10, metavar="MINUTES",
        help="from one checkpoint to the next (default: 10; 0: after every step)")
    add("--resume", action="store_true", help="go on from the same command's last checkpoint")
    add("--plot", type=path, metavar="FILE",
        help="train nothing; draw the losses of the trained roles there (needs matplotlib)")
    cli.base_flags(add, TEMPLATES, PAPER)
    args = cli.parse(parser, PAPER)
    if args.role == "base":
        raise ValueError("a base is pretrained by python -m tiny.pretrain; --role is for adapters.")
    if args.shard and get_world_size() == 1:
        parser.error("--shard shares the base out among processes; start several: "
                     "torchrun --nproc_per_node=2 train.py ...")
    return args


def main():
    args = arguments()
    roles = [args.role] if args.role else list(lorid.ROLES)
    if args.plot:
        return plot_training(Path(args.out) / data.model_name(args.model), roles, args.plot)
    # base: as it was named, for the adapter's file; model: its folder
    args.base, args.model = args.model, data.model_folder(args.model)
    out = Path(args.out) / data.model_name(args.model)
    args.dtype = args.dtype or str(fast_dtype(pick_device(args.device))).removeprefix("torch.")
    rows, trainings = rows_of(args), {}
    for role in roles:  # all of all roles is looked at before minutes go into the first
        for row in chain(*rows):
            data.check_row(row, role)
        settings = settings_of(role, rows, args)
        trainings[role] = Checkpoints(out / role, settings, args.resume, args.save_every)
    for role, checkpoints in trainings.items():
        with closing(checkpoints):
            if args.resume and trained_with(out / role) == checkpoints.settings:
                say(f"{role}: trained already with these settings, {out / role}/\n")
                checkpoints.finish()
            else:
                train_role(role, rows, args, checkpoints)


if __name__ == "__main__":
    cli.run(main, advice="; give a lower --max-tokens, or --checkpointing")

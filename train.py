"""Training: one frozen base, one LoRA adapter per role. The loop of nanoGPT, on the adapter's parameters only.

    python train.py                     all three roles on the built-in base and the toy world: minutes on a laptop
    python train.py --role ir           only the Intuitive Reasoner (or kg, or dr)
    python train.py --role kg --model models/smollm2 --data rows.jsonl --lr 2e-4      a real model, your rows
    python train.py --role base         pretrain a base like the built-in one, from nothing: an hour or two of CPU

An adapter goes to out/<model>/<role>/, a folder that peft and vLLM read too.
"""
import argparse
import json
import math
import os
import random
import sys
import time
from collections import Counter
from itertools import chain, pairwise
from itertools import count as count_from
from pathlib import Path

import regex
import torch

import data
import lora
import lorid
from model import (TEMPLATES, Decoder, Tokenizer, byte_alphabet, crew, fast_dtype, join_crew, load_model, pick_device, read_config,
                   write_safetensors, write_whole)

# What the paper trained with, from its authors' scripts (their batch: 4 examples, 4 times accumulated); --preset paper
PAPER = dict(rank=512, alpha=1024, targets="q_proj,v_proj", dropout=0.1, epochs=5, batch=16, lr=5e-5, warmup=0.03, weight_decay=0.0,
             beta2=0.999, clip=1.0, dtype="bfloat16")

# ---------------------------------------------------------------------------------------------------------------------
# The loop


class CrossEntropy(torch.autograd.Function):
    """The sum of -log softmax(logits)[target], logits (N, V), targets (N,) -> float32. The gradient, softmax - onehot(target), is known as
    soon as the loss is, and overwrites the logits, some rows at a time: with a real vocabulary, float32 copies of all logits would need
    more memory and time than many layers of the model. The logits are destroyed: nobody else may need them."""

    @staticmethod
    def forward(ctx, logits, targets):
        loss = torch.zeros((), device=logits.device)
        rows = max(1, 2**21 // logits.shape[1])  # of 8 MB in float32, about what a CPU's cache holds
        for some, target in zip(logits.split(rows), targets[:, None].split(rows)):
            log_p = some.float().log_softmax(-1)
            loss -= log_p.gather(1, target).sum()
            some.copy_(log_p.exp_().scatter_add_(1, target, torch.full_like(target, -1, dtype=log_p.dtype)))
        ctx.save_for_backward(logits)
        return loss

    @staticmethod
    def backward(ctx, slope):
        [gradient] = ctx.saved_tensors
        return gradient.mul_(slope), None


def summed_loss(model, examples):
    """Cross-entropy summed over the supervised tokens of [(ids, mask), ...], float32. Only supervised positions get
    logits: those of prompts and padding would be wasted work and, with a real vocabulary, most of the memory."""
    T = -(-max(len(ids) for ids, _ in examples) // 8) * 8  # many passes then have the same shape, and freed memory fits again
    ids = torch.tensor([i + [0] * (T - len(i)) for i, _ in examples], device=model.device)  # (B, T), right-padded
    mask = torch.tensor([m + [0] * (T - len(m)) for _, m in examples], device=model.device).bool()  # (B, T); padding is not learnt
    learn = mask[:, 1:]
    hidden = model(ids[:, :-1])  # (B, T-1, C): position t predicts token t+1
    return CrossEntropy.apply(model.lm_head(hidden[learn]), ids[:, 1:][learn])  # N supervised tokens: (N, V), (N,)


def count_supervised(examples):
    """How many tokens the loss counts: a text's first token has nothing before it to predict it from."""
    return sum(sum(mask[1:]) for _, mask in examples)


@torch.no_grad()
def held_out_loss(model, examples, budget):
    """Mean loss per supervised token."""
    model.eval()
    return sum(summed_loss(model, group).item() for group in data.micro_batches(examples, budget)) / count_supervised(examples)


def learning_rate(step, steps, peak, warmup):
    """Linear warm-up over the first `warmup` steps, then half a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def add_up(parameters, loss):
    """Sum the gradients and the loss over all processes: each then takes the same step. Returns the sum of the losses."""
    flat = torch.cat([p.grad.flatten() for p in parameters] + [torch.tensor([loss], device=parameters[0].device)])  # one message, not hundreds
    torch.distributed.all_reduce(flat)
    for p, grad in zip(parameters, flat[:-1].split([p.numel() for p in parameters])):
        p.grad = grad.view_as(p)
    return flat[-1].item()


class AdamW:
    """p <- p - lr (m / (sqrt(v) + 1e-8) + decay p), m and v being running averages of the gradient and of its square (arXiv 1711.05101).
    So every parameter moves by about the learning rate, however large its gradients usually are. Both averages start from zero: after t
    steps they are too small by the factor 1 - beta^t, and are divided by it.

    torch.optim.AdamW computes the same, but its first use loads torch's compiler, which takes longer than our first step."""

    def __init__(self, parameters, beta1, beta2, decay):
        self.beta1, self.beta2, self.decay, self.t = beta1, beta2, decay, 0
        self.state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]  # (p, m, v)

    @torch.no_grad()
    def step(self, lr):
        self.t += 1
        for p, m, v in self.state:
            m.lerp_(p.grad, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
            p.mul_(1 - lr * self.decay)
            p.addcdiv_(m, (v.sqrt() / math.sqrt(1 - self.beta2 ** self.t)).add_(1e-8), value=-lr / (1 - self.beta1 ** self.t))
            p.grad = None


def fit(model, parameters, batches, steps, args, autocast=False):
    """Train `parameters` for `steps` steps, one list of examples from `batches` each; a line per step. What is minimised is
    the mean of -log p(token | all before it) over the supervised tokens of the step.

    A step's examples are split among the processes, if torchrun has started several, and into micro-batches under the token budget,
    each loss divided by the whole step's token count: the gradient is that of one big batch, however it was split.
    """
    optimizer = AdamW(parameters, 0.9, args.beta2, args.weight_decay)
    warmup, (place, processes) = max(1, round(args.warmup * steps)), crew()
    start, tokens = time.time(), 0
    model.train()
    for step, examples in zip(range(steps), batches):
        rate = learning_rate(step, steps, args.lr, warmup)
        n_tokens, loss = count_supervised(examples), 0.0
        ordered = sorted(examples, key=lambda example: len(example[0]))  # so that all get as much to do
        shares = [data.micro_batches(ordered[i::processes], args.budget) for i in range(processes)]
        idle = [examples[:1]] * (max(map(len, shares)) - len(shares[place]))
        for i, group in enumerate(shares[place] + idle):  # all make as many passes, which --shard needs; idle ones count nothing
            with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
                part = summed_loss(model, group) / n_tokens * (i < len(shares[place]))
            part.backward()
            loss += part.item()
        if processes > 1:
            loss = add_up(parameters, loss)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {step + 1}, nothing is saved; try a lower --lr.")
        torch.nn.utils.clip_grad_norm_(parameters, args.clip)
        optimizer.step(rate)
        tokens += sum(len(ids) for ids, _ in examples)
        spent = time.time() - start
        left = spent / (step + 1) * (steps - step - 1)
        print(f"step {step + 1}/{steps}  loss {loss:.4f}  lr {rate:.2e}  {tokens / spent:,.0f} tokens/s  "
              f"{int(left) // 60}:{int(left) % 60:02} left  ",
              end="\r" if sys.stdout.isatty() and step + 1 < steps else "\n", flush=True)
    return time.time() - start


def shard(model, device):
    """Share the frozen layers out among the processes; each is put together only while it computes. Adapters stay whole, and are
    returned: the list of parameters to train, now on the device."""
    from torch.distributed.fsdp import fully_shard
    for layer in model.model.layers:
        fully_shard(layer, ignored_params={p for p in layer.parameters() if p.requires_grad})
    model.to(device)
    return [p for p in model.parameters() if p.requires_grad]


def shuffled(examples, size, seed):
    """Batches of `size` examples for ever, every example once per pass, each pass in a new order."""
    rng = random.Random(seed)
    order = []
    while True:
        while len(order) < size:
            order += rng.sample(range(len(examples)), len(examples))
        yield [examples[i] for i in order[:size]]
        del order[:size]


# ---------------------------------------------------------------------------------------------------------------------
# One role


def train_role(role, rows, args):
    """Train and save one role's adapter; rows as from `rows_of`."""
    start = time.time()
    device, (place, _) = pick_device(args.device), crew()
    dtype = getattr(torch, args.dtype) if args.dtype else fast_dtype(device)
    model = load_model(args.model, "cpu" if args.shard else device, dtype)
    tokenizer = Tokenizer(args.model, args.template)
    torch.manual_seed(args.seed)
    adapters = {role: (args.rank, args.alpha / args.rank)}
    parameters = lora.inject(model, args.targets.split(","), adapters, args.dropout)
    if place:
        torch.manual_seed(args.seed + place)  # each process draws its own dropout
    trainable, total = sum(p.numel() for p in parameters), sum(p.numel() for p in model.parameters())
    print(f"{role}: the {lorid.ROLES[role].title}")
    print(f"  base       {args.model}, {total - trainable:,} parameters, frozen, {str(model.dtype)[6:]} on {device}, "
          f"asked in the template {tokenizer.template}")
    print(f"  adapter    {trainable:,} trainable parameters in float32 (rank {args.rank}, alpha {args.alpha:g}, on {args.targets})", flush=True)

    limit = model.config.max_position_embeddings
    train, valid = ([data.render(row, role, tokenizer) for row in some] for some in rows)
    long = sum(len(ids) > limit for ids, _ in train + valid)
    train, valid = ([(ids, mask) for ids, mask in examples if len(ids) <= limit] for examples in (train, valid))
    if not train or not valid:
        raise ValueError(f"{len(train)} examples to learn from and {len(valid)} held out fit the model's {limit} positions; at least one of each is needed.")
    steps = args.steps or max(1, math.ceil(args.epochs * len(train) / args.batch))
    print(f"  examples   {len(train):,} to learn from, {len(valid):,} held out; {sum(len(ids) for ids, _ in train):,} tokens, "
          f"{count_supervised(train):,} of them supervised" + (f"; {long} too long for {limit} positions, left out" if long else ""))
    print(f"  plan       {steps} steps of {args.batch} examples, learning rate {args.lr:g}, seed {args.seed} "
          f"(ready in {time.time() - start:.1f} s)", flush=True)

    folder = Path(args.out) / Path(args.model).resolve().name / role
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):  # better to hear it now than after the training
        raise ValueError(f"{folder} cannot be made, {there} is no folder that may be written to; choose another --out.")
    if args.shard:
        parameters = shard(model, device)
    lora.switch(model, role)
    spent = fit(model, parameters, shuffled(train, args.batch, args.seed), steps, args)
    if not place:
        lora.save_adapter(model, role, folder, base=args.model, dropout=args.dropout)
    print(f"  trained in {spent:.0f} s, held-out loss {held_out_loss(model, valid, args.budget):.4f} per token")
    print(f"  saved in   {folder}/\n", flush=True)


def rows_of(args):
    """(rows to learn from, rows held out). Rows of a file that share an id stay on the same side: they may be rephrasings."""
    if args.data is None:
        return data.toy(args.examples, "train", args.seed), data.toy(200, "valid")
    rows = data.read_rows(args.data)
    ids = sorted({str(row["id"]) for row in rows})
    if len(ids) < 2:
        raise ValueError(f"{args.data}: at least two problems with different ids are needed, since one is held out.")
    held = set(random.Random(0).sample(ids, max(1, min(200, len(ids) // 20))))
    return [r for r in rows if str(r["id"]) not in held], [r for r in rows if str(r["id"]) in held]


# ---------------------------------------------------------------------------------------------------------------------
# The built-in base: a byte-pair tokenizer and a small Llama, both from the toy world's documents and nothing else

WORDS = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # digits one by one: arithmetic is learnt place by place
END = "<|endoftext|>"


def train_bpe(texts, size):
    """Byte-pair encoding (arXiv 1508.07909): merge the most frequent neighbours, again and again.

    Returns all `size` tokens, as bytes, in the order made, and the merges.
    """
    words = Counter(word.encode() for text in texts for word in regex.findall(WORDS, text))
    words = [([bytes([b]) for b in word], count) for word, count in words.items()]
    tokens, merges = [bytes([b]) for b in range(256)], []
    while len(tokens) < size:
        pairs = Counter()
        for parts, count in words:
            for pair in pairwise(parts):
                pairs[pair] += count
        if not pairs:
            break
        a, b = max(pairs, key=lambda pair: (pairs[pair], pair))
        tokens.append(a + b)
        merges.append((a, b))
        for parts, _ in words:  # merge in place, left to right
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == (a, b):
                    parts[i:i + 2] = [a + b]
                i += 1
    return tokens, merges


def tokenizer_json(tokens, merges):
    """The same as a tokenizer.json, END being token 0."""
    letter = {b: c for c, b in byte_alphabet().items()}

    def spell(token):
        return "".join(letter[b] for b in token)

    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [
                dict(id=0, content=END, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {END: 0} | {spell(t): i for i, t in enumerate(tokens, 1)},
                      "merges": [[spell(a), spell(b)] for a, b in merges]}}


def train_base(args):
    """Pretrain the built-in base and write it as a Hugging Face folder."""
    folder, device = Path(args.out), pick_device(args.device)
    rng = random.Random(args.seed)
    tokens, merges = train_bpe((data.document(rng, wide=True) for _ in range(4000)), 1023)
    write_whole(folder / "tokenizer.json", [json.dumps(tokenizer_json(tokens, merges), ensure_ascii=False).encode()])
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=1024, hidden_size=192, intermediate_size=384,
                  num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=48, rms_norm_eps=1e-5,
                  rope_theta=10000.0, max_position_embeddings=512, tie_word_embeddings=True, hidden_act="silu", attention_bias=False, eos_token_id=0, torch_dtype="bfloat16")
    write_whole(folder / "config.json", [json.dumps(config, indent=2).encode()])
    tokenizer = Tokenizer(folder)
    torch.manual_seed(args.seed)
    model = Decoder(read_config(folder)).to(device)
    for name, p in model.named_parameters():
        if p.dim() == 2:  # GPT-2's rule: what is added to the residual stream starts smaller, by the root of how often that is done
            adds = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(p, std=0.02 / math.sqrt(2 * config["num_hidden_layers"]) if adds else 0.02)

    def save():
        if not crew()[0]:
            write_safetensors(folder / "model.safetensors", {n: p.detach().to(torch.bfloat16) for n, p in model.named_parameters()})

    def batches():
        for step in count_from():
            if step % 500 == 499:  # a run that is cut short leaves a base that can be used
                save()
            wide = step < args.steps // 2  # first much of everything, then what the questions are about
            documents = [tokenizer.encode(data.document(rng, wide)) + tokenizer.eos_ids for _ in range(args.batch)]
            yield [(ids, [1] * len(ids)) for ids in documents if len(ids) > 1]

    print(f"base: {sum(p.numel() for p in model.parameters()):,} parameters, {args.steps} steps of {args.batch} documents on {device}, "
          f"to {folder}/", flush=True)
    spent = fit(model, list(model.parameters()), batches(), args.steps, args, autocast=fast_dtype(device) == torch.bfloat16)
    save()
    print(f"saved in {folder}/ after {spent / 60:.0f} minutes")


def main():
    parser = argparse.ArgumentParser(
        description="Trains the LoRA adapters of LoRID's roles on a frozen base.", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--role", choices=[*lorid.ROLES, "base"], help="one role (default: ir, kg and dr, one after the other); base pretrains a base like "
        "tiny/ in models/base/, with other defaults (4000 steps of 48 documents, learning rate 3e-3), and ignores the adapters' flags")
    add("--model", default="tiny", help="the base, a Hugging Face model folder, or OWNER/NAME on its hub (default: tiny)")
    add("--data", help="training rows, a JSONL file with question, rationale, knowledge, answer (default: the toy world)")
    add("--examples", type=data.positive, default=2000, help="how many toy problems to learn from (default: 2000)")
    add("--out", default="out", help="adapters go to OUT/<model>/<role>/ (default: out)")
    add("--rank", type=data.positive, default=16, help="rank r of each adapter (default: 16)")
    add("--alpha", type=float, default=32, help="an adapter's output is scaled by alpha / r (default: 32)")
    add("--targets", default="q_proj,k_proj,v_proj,o_proj", help="the linear layers that get an adapter (default: %(default)s)")
    add("--dropout", type=float, default=0.0, help="dropout on an adapter's input while training (default: 0)")
    add("--epochs", type=float, default=1, help="passes over the rows (default: 1)")
    add("--steps", type=data.positive, help="optimizer steps (default: as many as the epochs need)")
    add("--batch", type=data.positive, default=32, help="examples per step (default: 32)")
    add("--budget", type=data.positive, default=2048, help="most tokens in one pass; a step is split to fit, its gradient is "
        "the same; less needs less memory (default: 2048)")
    add("--lr", type=float, default=2e-3, help="peak learning rate; real models want 5e-5 to 5e-4 (default: 2e-3, for the toy base)")
    add("--warmup", type=float, default=0.03, help="share of the steps in which the learning rate rises (default: 0.03)")
    add("--weight-decay", type=float, default=0.0, help="AdamW's weight decay (default: 0)")
    add("--beta2", type=float, default=0.95, help="AdamW's beta2: how slowly its average of squared gradients forgets (default: 0.95)")
    add("--clip", type=float, default=1.0, help="largest norm of a gradient (default: 1)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add("--shard", action="store_true", help="under torchrun: each process keeps only its share of the frozen base, for bases too big for one GPU")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps, which nobody has tested yet (default: auto: cuda, else cpu)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the frozen base (default: bfloat16 where that is fast, else float32)")
    add("--template", choices=TEMPLATES, help="how the base is asked; infer.py must be told the same (default: known by the model folder)")
    add("--preset", choices=["paper"], help="the paper's values for all that is not given: " + ", ".join(f"{k} {v}" for k, v in PAPER.items()))
    args = parser.parse_args()
    join_crew(args.device)
    if args.role == "base" and (args.preset or args.shard):
        parser.error("--role base takes neither --preset nor --shard: both are for adapters.")
    if args.preset:
        args = data.preset(parser, args.preset, PAPER)
    if not (0 <= args.dropout < 1 and 0 <= args.beta2 < 1):
        parser.error("--dropout and --beta2 must be at least 0 and below 1.")
    if not (all(0 < x < math.inf for x in (args.alpha, args.epochs, args.clip)) and all(0 <= x < math.inf for x in (args.lr, args.warmup, args.weight_decay))):
        parser.error("--alpha, --epochs and --clip must be above 0; --lr, --warmup and --weight-decay at least 0.")
    if args.shard and crew()[1] == 1:
        parser.error("--shard shares the base out among processes; start several: torchrun --nproc_per_node=2 train.py ...")
    if args.role == "base":  # read the flags again with pretraining's defaults; those given still count
        parser.set_defaults(out="models/base", steps=4000, batch=48, lr=3e-3)
        train_base(parser.parse_args())
    else:
        args.model = data.model_folder(args.model)
        roles, rows = [args.role] if args.role else list(lorid.ROLES), rows_of(args)
        for row in chain(*rows):
            for role in roles:  # all rows for all roles, before minutes go into the first
                data.check(row, role)
        for role in roles:
            train_role(role, rows, args)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):  # a GPU's, a CPU's
            raise
        print("train.py: the memory is full; give a lower --budget.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

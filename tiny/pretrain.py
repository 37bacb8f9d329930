"""How the built-in base was made: a byte-pair tokenizer and a small Llama, both from documents of
the toy world and from nothing else.

    python -m tiny.pretrain             another base like it, in models/base/: an hour or two of CPU
    python -m tiny.pretrain --resume    goes on with one that was stopped
"""
import support  # isort: skip  # noqa: F401  from here on, Ctrl-C is quiet
import argparse
import json
import math
import random
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import regex
import torch

from model import Decoder, fast_dtype, load_model, pick_device, read_config, write_safetensors
from support.checkpoint import Checkpoints
from support.cli import Parser, delayed_interrupts, number, path, positive, run, seed
from support.distributed import all_gather, get_rank, init_distributed
from support.files import atomic_write, check_writable
from support.tokenizer import Tokenizer, byte_alphabet
from tiny.world import document
from train import fit

# Words as for GPT-2, but digits stand one by one: arithmetic is learnt place by place.
WORDS = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END = "<|endoftext|>"

CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=1024, hidden_size=192,
    intermediate_size=384, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
    head_dim=48, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=512,
    tie_word_embeddings=True, hidden_act="silu", attention_bias=False, eos_token_id=0,
    torch_dtype="bfloat16")


def train_bpe(texts, size):
    """Byte-pair encoding (arXiv 1508.07909): merge the most frequent neighbours, again and again.

    Returns all `size` tokens, as bytes, in the order made, and the merges. From the words aab, aab,
    ab: first (a, b), found three times, makes ab, then (a, ab), found twice, makes aab.
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
    character = {b: c for c, b in byte_alphabet().items()}

    def spell(token):
        return "".join(character[b] for b in token)

    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    split = dict(type="Split", pattern={"Regex": WORDS}, behavior="Isolated", invert=False)
    end = dict(id=0, content=END, single_word=False, lstrip=False, rstrip=False, normalized=False,
               special=True)
    bpe = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
               end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False,
               vocab={END: 0} | {spell(token): i for i, token in enumerate(tokens, 1)},
               merges=[[spell(a), spell(b)] for a, b in merges])
    return dict(version="1.0", truncation=None, padding=None, normalizer=None, post_processor=None,
                added_tokens=[end],
                pre_tokenizer=dict(type="Sequence", pretokenizers=[split, byte_level]),
                decoder=byte_level, model=bpe)


def init_weights(model):
    """GPT-2's rule: what is added to the residual stream, twice in each layer, starts smaller, by
    the root of how often that is done."""
    smaller = 1 / math.sqrt(2 * model.config.num_hidden_layers)
    for name, p in model.named_parameters():
        if p.dim() == 2:
            adds = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(p, std=0.02 * smaller if adds else 0.02)


def save(model, folder):
    if get_rank() == 0:
        weights = {name: p.detach().to(torch.bfloat16) for name, p in model.named_parameters()}
        write_safetensors(folder / "model.safetensors", weights)
    all_gather(None)  # the other processes read it only when it is whole


def batches(documents, tokenizer, steps, size):
    """Of each step, `size` documents as (ids, mask), all of their tokens supervised."""
    for step in range(steps):
        texts = [tokenizer.encode(documents(step)) + tokenizer.eos_ids for _ in range(size)]
        yield [(ids, [1] * len(ids)) for ids in texts if len(ids) > 1]


def pretrain(args):
    """Make a tokenizer, then a base, and write both as a Hugging Face folder."""
    folder, device, rng = Path(args.out), pick_device(args.device), random.Random(args.seed)
    check_writable(folder)
    settings = {key: value for key, value in vars(args).items()
                if key not in ("out", "resume", "save_every")}
    checkpoints = Checkpoints(folder, settings, args.resume, args.save_every)
    tokens, merges = train_bpe((document(rng, wide=True) for _ in range(4000)), 1023)
    text = json.dumps(tokenizer_json(tokens, merges), ensure_ascii=False)
    atomic_write(folder / "tokenizer.json", [text.encode()])
    atomic_write(folder / "config.json", [json.dumps(CONFIG, indent=2).encode()])
    tokenizer, autocast = Tokenizer(folder), fast_dtype(device) == torch.bfloat16

    torch.manual_seed(args.seed)
    model = Decoder(read_config(folder)).to(device)
    init_weights(model)
    print(f"base: {sum(p.numel() for p in model.parameters()):,} parameters, {args.steps} steps of "
          f"{args.batch} documents on {device}, to {folder}/", flush=True)

    def read(step):  # first the wide world, then the one asked about
        return document(rng, wide=step < args.steps * 3 // 5)

    with closing(checkpoints):
        with delayed_interrupts() as checkpoints.interrupts:
            spent = fit(model, list(model.parameters()),
                        batches(read, tokenizer, args.steps, args.batch), args.steps, args,
                        autocast, checkpoints)
            save(model, folder)
        try:
            if any(all_gather(bool(checkpoints.interrupts))):  # Ctrl-C came while it was saved
                raise KeyboardInterrupt
            spent += practise(folder, tokenizer, device, autocast, args)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; {folder} has read but not practised. The same "
                                    "command with --resume goes on from the last checkpoint."
                                    ) from None
        checkpoints.finish()
    print(f"saved in {folder}/ after {spent / 60:.0f} minutes")


def practise(folder, tokenizer, device, autocast, args):
    """For a short while, at a third of the rate: mostly problems as they will be asked. How long
    decides how well the base solves them without rules. It begins with what was saved."""
    model = load_model(folder, device, torch.float32).requires_grad_(True)
    rng, steps = random.Random(f"practice {args.seed}"), args.steps // 20
    slower = argparse.Namespace(**vars(args) | {"lr": args.lr / 3, "warmup": 0.1})
    print(f"practice: {steps} steps", flush=True)
    documents = batches(lambda step: document(rng, practice=True), tokenizer, steps, args.batch)
    spent = fit(model, list(model.parameters()), documents, steps, slower, autocast)
    save(model, folder)
    return spent


def main():
    parser = Parser(prog="python -m tiny.pretrain", description="Pretrains a base "
                                     "like the built-in one, from nothing, on the toy world.")
    add = parser.add_argument
    add("--out", type=path, default="models/base", help="its folder (default: %(default)s)")
    add("--steps", type=positive, default=3000, help="optimizer steps (default: 3000)")
    add("--batch", type=number(int, above=0, limit=10**4), default=48,
        help="documents per step (default: 48)")
    add("--lr", type=number(float, at_least=0, limit=1e30), default=3e-3,
        help="peak learning rate (default: 3e-3)")
    add("--max-tokens", type=positive, default=2048,
        help="most tokens in one pass; a step is split to fit (default: 2048)")
    add("--save-every", type=number(float, at_least=0), default=10, metavar="MINUTES",
        help="from one checkpoint to the next (default: 10)")
    add("--resume", action="store_true", help="go on from the last checkpoint")
    add("--seed", type=seed, default=0, help="random seed (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.set_defaults(warmup=0.03, weight_decay=0.0, beta2=0.95, clip=1.0)
    args = parser.parse_args()
    init_distributed(args.device)
    pretrain(args)


if __name__ == "__main__":
    run(main, advice="; give a lower --max-tokens")

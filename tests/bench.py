"""How fast, how small: these scripts beside the stack that most people would use, transformers +
peft, on the same work.

    python tests/bench.py --model models/smollm2 --data data/train_knowledge.jsonl    everything
    python tests/bench.py train sample --quick --json bench.json    two sections, each side once
    python tests/bench.py --gpu --model models/smollm2 --data data/train_knowledge.jsonl

    train      LoRA training: tokens/s (padding not counted), peak memory, the same loss
    sample     new tokens/s with an unmerged adapter, top-k and top-p, of 16 and of 64 texts at once
    roles      a batch of all three roles against a batch of one; what three adapters cost in memory
    vote       seconds a question against the authors' procedure, all 60 texts (built-in base)
    start      what importing the scripts costs; when the default training prints its first step
    tokenizer  encoding all rows, against the tokenizers library
    limit      which share of the machine's arithmetic, or of its memory's speed, is reached
    scale      cost per token and memory for few and many examples and questions

Each side runs in processes of its own, so that its peak memory is its own, and the sides take
turns: ours, peer, ours, peer ... Where it trains or writes texts, ours is started by torchrun, a
process for each core; the peer has a thread for each. A figure is the median of the turns. Ratios
are what counts: absolute figures change with the machine and with what else it does.

On a GPU (train, sample, limit) each side is one process. Its base has the shape of LLaMA-2-7B and
random weights, so no losses are compared; of --model, only the tokenizer and the size of its
vocabulary are used. (No one has run this yet.)
"""
import argparse
import contextlib
import io
import json
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import data  # noqa: E402
import lorid  # noqa: E402
from support.cli import run  # noqa: E402

CORES = len(os.sched_getaffinity(0))
SECTIONS = "train", "sample", "roles", "vote", "start", "tokenizer", "limit", "scale"
PAPER = dict(temperature=1.5, top_k=50, top_p=0.9)  # how the paper samples,
TOY = dict(temperature=0.6, top_k=50, top_p=0.9)    # and how infer.py does: tiny/ in float32
RANK, TARGETS = 64, ["q_proj", "v_proj"]
SEVEN_B = dict(
    model_type="llama", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
    num_attention_heads=32, max_position_embeddings=4096)

# --------------------------------------------------------------------------------------------------
# The sides. Each function runs in a process of its own (see `turn`); `a` holds its settings, what
# it returns is printed as JSON. Both sides get the same token ids and the same adapters, whose B is
# not zero, as if they had been trained for a while.


def ours(a):
    import torch

    from model import Decoder, load_model, read_config
    from support.tokenizer import Tokenizer
    torch.manual_seed(0)
    if not a.gpu:
        return load_model(a.model, "cpu", getattr(torch, a.dtype)), Tokenizer(a.model)
    torch.set_default_dtype(getattr(torch, a.dtype))
    with torch.device(a.gpu):
        model = Decoder(read_config(a.model))
        torch.nn.init.normal_(model.model.embed_tokens.weight)
    torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False).eval(), Tokenizer(a.model)


def ours_for_sampling(a, roles):
    import lora
    from support.fused import fuse, pack
    model, tokenizer = ours(a)
    lora.load_adapters(model, {role: f"{a.adapters}/{role}" for role in roles})
    return pack(fuse(model)), tokenizer


def peer(a, roles=("ir",), trainable=False):
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    from support.tokenizer import Tokenizer
    torch.manual_seed(0)
    dtype = getattr(torch, a.dtype)
    if a.gpu:
        with torch.device(a.gpu):
            config = AutoConfig.from_pretrained(a.model)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype)
    model = PeftModel.from_pretrained(
        model, f"{a.adapters}/{roles[0]}", adapter_name=roles[0], is_trainable=trainable)
    for role in roles[1:]:
        model.load_adapter(f"{a.adapters}/{role}", adapter_name=role)
    return model, Tokenizer(a.model)


def wait(a):
    """A GPU works on while Python goes on: wait for it, before looking at a clock."""
    if a.gpu:
        import torch
        torch.cuda.synchronize()


def everybody(mine):
    """The lists of all processes, one after the other; nobody goes on before all are here."""
    from support.distributed import all_gather
    return [x for share in all_gather(mine) for x in share]


def make_adapters(a):
    """Random adapters of the three roles, written by our save_adapter and read by both sides."""
    import torch

    import lora
    model, _ = ours(a)
    with torch.no_grad():
        for p in lora.inject(model, TARGETS, {role: (RANK, 2.0) for role in lorid.ROLES}):
            p.normal_(std=0.02)
    for role in lorid.ROLES:
        lora.save_adapter(model, role, Path(a.adapters) / role, a.model, a.dropout)


def steps_of(a, tokenizer):
    """The batches of a.steps steps; of a.examples toy problems, again and again, or of the file."""
    rows = data.toy(a.examples) if a.examples else data.read_rows(a.data)
    random.Random(0).shuffle(rows)
    examples = [data.tokenize_example(row, "ir", tokenizer) for row in rows[:a.batch * a.steps]]
    return [[examples[i % len(examples)] for i in range(step * a.batch, (step + 1) * a.batch)]
            for step in range(a.steps)]


def figures(steps, times, losses):
    """The first step, which warms up, is not timed."""
    tokens = sum(len(ids) for batch in steps[1:] for ids, _ in batch)
    return dict(tokens=tokens, seconds=time.time() - times[1], losses=losses)


def train_ours(a):
    """train.fit, as train.py runs it."""
    import torch

    import lora
    import train
    model, tokenizer = ours(a)
    parameters = lora.inject(model, TARGETS, {"ir": (RANK, 2.0)}, a.dropout)
    weights, _, _ = lora.read_adapter(Path(a.adapters) / "ir")
    with torch.no_grad():
        for name, layer in lora.lora_layers(model):
            layer.A.copy_(weights[name][0])
            layer.B.copy_(weights[name][1])
    lora.set_adapter(model, "ir")
    steps, times, printed = steps_of(a, tokenizer), [], io.StringIO()
    # fit draws a batch when it begins a step
    clocked = (times.append(time.time()) or step for step in steps)
    args = SimpleNamespace(lr=5e-5, weight_decay=0.0, warmup=0.0, beta2=0.95, clip=1.0,
                           max_tokens=a.max_tokens)
    with contextlib.redirect_stdout(printed):
        train.fit(model, parameters, clocked, len(steps), args)
    losses = re.findall(r"loss ([\d.]+)", printed.getvalue())
    return figures(steps, times, list(map(float, losses)))


def train_peer(a):
    """The loop that the manuals of both libraries show, with the optimizer and schedule of ours."""
    import torch
    model, tokenizer = peer(a, trainable=True)
    model.train()

    def padded(tensors):
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(model.device)
    steps, times, losses = steps_of(a, tokenizer), [], []
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, betas=(0.9, 0.95))
    for step, batch in enumerate(steps):
        times.append(time.time())
        share = max(0, step - 1) / max(1, len(steps) - 1)
        optimizer.param_groups[0]["lr"] = 5e-5 * (0.5 + 0.5 * math.cos(math.pi * share))
        ids = padded([torch.tensor(ids) for ids, _ in batch])
        learn = padded([torch.tensor(mask) for _, mask in batch])
        labels = ids.masked_fill(learn == 0, -100)
        there = padded([torch.ones(len(ids)) for ids, _ in batch])
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=there, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return figures(steps, times, losses)


def prompts_of(a):
    return [lorid.prompt("ir", row["question"]) for row in data.read_rows(a.data)[:a.batch]]


def sample_ours(a):
    """The engine as infer.py runs it, each text a.new tokens long; a.roles take turns over the same
    prompts."""
    import infer
    from support.distributed import get_rank, get_world_size
    model, tokenizer = ours_for_sampling(a, a.roles)
    tokenizer.eos_ids = []  # nothing ends a text but its length
    prompts, n = prompts_of(a), get_world_size()
    mine, prefills = range(get_rank(), a.batch, n), []
    draw = partial(infer.draw, **PAPER)
    engine = infer.Engine(model, tokenizer, draw, len(mine), 4, drafts=a.drafts)

    def text(i):
        yield [(a.roles[i // n % len(a.roles)], prompts[i])]  # each process has all roles
        return lorid.Verdict(None)

    def forward(sequences, fed, starts, *first, plain=engine.forward):
        if not first:
            return plain(sequences, fed, starts)
        wait(a)  # prompts, for the slots from `first` on
        start = time.time()
        hidden = plain(sequences, fed, starts, *first)
        wait(a)
        lengths = list(map(len, fed))
        # each token sees what stands before its text's new ones, and of these up to itself
        pairs = sum(T * n + T * (T + 1) / 2 for T, n in zip(lengths, starts, strict=True))
        prefills.append((time.time() - start, sum(lengths), pairs))
        return hidden

    engine.run(map(text, mine))  # warms up
    everybody([])
    engine.forward, engine.max_new_tokens, start = forward, a.new, time.time()
    outcomes = everybody(engine.run(map(text, mine)))
    seconds = time.time() - start
    prefill, read, pairs = zip(
        *everybody([[*map(sum, zip(*prefills, strict=True))]]), strict=True)  # of each process
    return dict(
        tokens=sum(sum(o.tokens) for o in outcomes), seconds=seconds, prefill=max(prefill),
        read=sum(read), pairs=sum(pairs),
        prompts=sum(len(tokenizer.prompt_ids(prompt)) for prompt in prompts),
        bytes=sum(everybody([sum(p.nbytes for p in model.parameters())])))


def generate(model, prompts, new, eos, **settings):
    """transformers' own generate on left-padded prompts, lists of ids -> the new ids of each."""
    import torch
    T = max(map(len, prompts))
    ids = torch.tensor([[eos] * (T - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=True,
                             pad_token_id=eos, **settings)
    return out[:, T:].tolist()


def sample_peer(a):
    model, tokenizer = peer(a)
    prompts, eos = list(map(tokenizer.prompt_ids, prompts_of(a))), tokenizer.eos_ids[0]
    generate(model.eval(), prompts, 4, eos, min_new_tokens=4, **PAPER)
    start = time.time()
    texts = generate(model, prompts, a.new, eos, min_new_tokens=a.new, **PAPER)
    return dict(tokens=sum(map(len, texts)), seconds=time.time() - start)


def all_rounds(question):
    """A vote that never stops early: what remains is speed."""
    for _ in range(20):
        asked = [("ir", lorid.prompt("ir", question)), ("kg", lorid.prompt("kg", question))]
        _, knowledge = yield asked
        yield [("dr", lorid.prompt("dr", question, knowledge))]
    return lorid.Verdict(None)


def vote_ours(a):
    import infer
    from support.distributed import get_rank, get_world_size
    model, tokenizer = ours_for_sampling(a, lorid.ROLES)
    conversations = dict(vote=lorid.vote, all_rounds=all_rounds, system1=lorid.system1)
    rows = data.toy(a.questions, "test")[get_rank()::get_world_size()]
    engine = infer.Engine(model, tokenizer, partial(infer.draw, **TOY), a.slots, a.new)
    everybody([])
    start = time.time()
    outcomes = everybody(engine.run(conversations[a.conversation](row["question"]) for row in rows))
    new = sum(sum(o.tokens) for o in outcomes)
    return dict(seconds=(time.time() - start) / a.questions, new=new / a.questions)


def vote_peer(a):
    """The authors' procedure: 20 rounds of all three roles for every question, then one looks for
    agreement. As many texts at once as ours."""
    model, tokenizer = peer(a, tuple(lorid.ROLES))
    asked = [row["question"] for row in data.toy(a.questions, "test") for _ in range(20)]
    start, new, eos, written = time.time(), 0, tokenizer.eos_ids[0], {}
    for role in lorid.ROLES:
        model.eval().set_adapter(role)
        pairs = zip(asked, written.get("kg", asked), strict=True)
        prompts = [tokenizer.prompt_ids(lorid.prompt(role, *pair)) for pair in pairs]
        texts = []
        for i in range(0, len(prompts), a.slots):
            texts += generate(model, prompts[i:i + a.slots], a.new, eos, **TOY)
        texts = [text[:text.index(eos)] if eos in text else text for text in texts]
        new += sum(len(text) + 1 for text in texts)
        written[role] = list(map(tokenizer.decode, texts))
    return dict(seconds=(time.time() - start) / a.questions, new=new / a.questions)


def encode_ours(a):
    """Texts per second, in turns: ours and the library's one after the other, and the library's
    batches, which use all cores."""
    import tokenizers

    from support.tokenizer import Tokenizer
    tokenizer = Tokenizer(a.model)
    library = tokenizers.Tokenizer.from_file(f"{a.model}/tokenizer.json")
    texts = [row[key] for row in data.read_rows(a.data) for key in ("question", "rationale")]
    sides = dict(
        ours=lambda: [tokenizer.encode(text) for text in texts],
        single=lambda: [library.encode(text, add_special_tokens=False).ids for text in texts],
        batch=lambda: [e.ids for e in library.encode_batch(texts, add_special_tokens=False)])
    times = {name: [] for name in sides}
    for _ in range(5):
        for name, encode in sides.items():
            start = time.time()
            encode()
            times[name].append(time.time() - start)
    return {name: len(texts) / median(spent) for name, spent in times.items()}


def limit_ours(a):
    """What the machine can do, the best of several: FLOP/s of a large bfloat16 product, bytes/s of
    a large read."""
    import torch

    def best(work):
        times = []
        for _ in range(8):
            start = time.perf_counter()
            work()
            wait(a)
            times.append(time.perf_counter() - start)
        return min(times)

    n, size, device = (8192, 2**30, a.gpu) if a.gpu else (2048, 2**27, "cpu")
    x, y = torch.randn(n, n, device=device).bfloat16(), torch.ones(size, device=device)
    return dict(flops=2 * n**3 / best(lambda: x @ x), bandwidth=y.nbytes / best(y.sum))


# --------------------------------------------------------------------------------------------------
# Taking turns


def turn(what, side, **settings):
    """Run one of the functions above in a fresh process: what it returned, and its peak memory in
    MB (on a GPU: the GPU's)."""
    several = side == "ours" and what in ("train", "sample", "vote") and not settings["gpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={CORES}"]
    asked = json.dumps(dict(what=f"{what}_{side}") | settings)
    command = [sys.executable, *torchrun * several, __file__, "--child", asked]
    own = {"OMP_NUM_THREADS": "1"} if several else {}
    if side == "peer":
        own = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}  # torch's default; model.py sets ours
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | own)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        # torchrun has more to say, below
        first = r"bench\.py: |(.*: )?[a-zA-Z]+Error: "
        reasons = [line for line in lines if re.match(first, line)] or lines
        raise ValueError(f"{what}, {side}: {reasons[-1]}")
    last = done.stdout.splitlines()[-1]
    print(f"  {what} {side}: {last}", file=sys.stderr)
    return json.loads(last)


def child(settings):
    import torch

    from support.distributed import init_distributed
    a = SimpleNamespace(**json.loads(settings))
    init_distributed(a.gpu or "cpu")
    found = globals()[a.what](a) or {}
    peak = (torch.cuda.max_memory_allocated() / 2**20 if a.gpu else
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    # what the processes share is counted for each
    print(json.dumps(found | dict(peak=sum(everybody([peak])))))


def turns(what, repeats, *sides, **common):
    """The medians of `repeats` turns of each side, taken alternately. sides: (name, its own
    settings)."""
    found = [[turn(what, side, **common | own) for side, own in sides] for _ in range(repeats)]

    def middle(results):
        return {key: value if isinstance(value, list) else median(r[key] for r in results)
                for key, value in results[0].items()}
    return list(map(middle, zip(*found, strict=True)))


def rate(figures, tokens="tokens"):
    return figures[tokens] / figures["seconds"]


def at_least(wanted, what, ours, other, ratio=None):
    """A line of the table: its ratio is that of ours to the other's, unless given; wanted: what it
    should be, None where nothing is."""
    ratio = ours / other if ratio is None else ratio
    met = None if wanted is None else ratio >= wanted
    return dict(what=what, ours=ours, other=other, ratio=ratio, wanted=wanted, sense="at least",
                met=met)


def at_most(wanted, *line):
    line = at_least(wanted, *line)
    return line | dict(sense="at most", met=None if wanted is None else line["ratio"] <= wanted)


# --------------------------------------------------------------------------------------------------
# The sections. Each yields lines of the table.

BOTH = ("ours", {}), ("peer", {})


def train_section(common, toy, repeats, quick):
    us, them = turns("train", repeats, *BOTH, **common)
    gpu = common["gpu"]
    yield at_least(1.5 if gpu else 3, "training, tokens/s", rate(us), rate(them))
    yield at_most(None if gpu else 1 / 3, "training, peak MB", us["peak"], them["peak"])
    if not gpu:  # there each side has random weights of its own
        common = common | dict(dropout=0.0, steps=3)
        turn("make", "adapters", **common)  # the same again: peft reads their dropout from them
        us, them = (side["losses"] for side in turns("train", 1, *BOTH, **common))
        off = max(abs(x / y - 1) for x, y in zip(us, them, strict=True))
        yield at_most(0.01, "loss of step 3; largest difference of three", us[-1], them[-1], off)


def sample_section(common, toy, repeats, quick):
    for batch in 16, 64:
        us, them = turns("sample", repeats, *BOTH, **common | dict(batch=batch))
        yield at_least(3, f"sampling {batch} texts, new tokens/s", rate(us), rate(them))


def roles_section(common, toy, repeats, quick):
    sides = ("ours", dict(roles=list(lorid.ROLES))), ("ours", {})
    three, one = turns("sample", repeats, *sides, **common | dict(batch=64))
    yield at_least(0.8, "three roles, one role: new tokens/s", rate(three), rate(one))
    yield at_most(1.1, "weights and adapters, MB", three["bytes"] / 2**20, one["bytes"] / 2**20)
    yield at_most(1.1, "peak MB", three["peak"], one["peak"])


def vote_section(common, toy, repeats, quick):
    # a vote's rounds follow one another: it takes many to fill 64 slots
    us, every, them = turns(
        "vote", repeats, ("ours", dict(questions=500)),
        ("ours", dict(conversation="all_rounds", questions=64)), ("peer", dict(questions=16)),
        **toy)
    us, all60, peers = us["seconds"], every["seconds"], them["seconds"]
    yield at_least(15, "the vote, seconds per question", us, peers, peers / us)
    yield at_least(3, "all 60 texts, seconds per question", all60, peers, peers / all60)
    yield at_least(3, "all 60 texts, new tokens/s", rate(every, "new"), rate(them, "new"))


def start_section(common, toy, repeats, quick):
    def seconds(*command, until="no such line"):
        start = time.time()
        command = [sys.executable, *command]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
            next((line for line in running.stdout if line.startswith(until)), None)
            took = time.time() - start
            running.kill()
        return took
    us, them = (median(seconds("-c", f"import {what}") for _ in range(5))
                for what in ("train, infer", "torch"))
    yield at_most(1.1, "importing the scripts, importing torch: seconds", us, them)
    with tempfile.TemporaryDirectory() as out:
        us = median(seconds("train.py", "--out", out, until="step 1/") for _ in range(5))
    yield at_most(1, "first step of the default run, seconds (wanted: 3)", us, 3)


def tokenizer_section(common, toy, repeats, quick):
    found = turn("encode", "ours", **common)
    us, single, batch = found["ours"], found["single"], found["batch"]
    yield at_least(1, "encoding, texts/s", us, single)
    yield at_least(None, "encoding, texts/s; the library with all cores", us, batch)


def limit_section(common, toy, repeats, quick):
    """The share of the machine's limit: the time that the work would take at the speed measured on
    the spot, over the time it took."""
    from model import read_config
    from support.tokenizer import Tokenizer
    c, a = read_config(common["model"]), SimpleNamespace(**common)
    machine = turn("limit", "ours", **common)
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    # weights that every token meets, those that only some do, and the trained ones
    P = c.num_hidden_layers * c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size)
    head, adapter = c.vocab_size * c.hidden_size, RANK * (2 * c.hidden_size + q + kv)
    adapter *= c.num_hidden_layers
    # FLOPs of a query with a key it sees: 2 D for the score, 2 D for the value, per head and layer
    pair = c.num_hidden_layers * 4 * q

    [found] = turns("train", repeats, ("ours", {}), **common)
    # Forward 2 FLOPs a weight; backward 2 for the gradient of its input, and 2 more for its own,
    # which only the adapter needs.
    work = sum(len(ids) * (4 * P + 6 * adapter) + sum(learn) * 4 * head
               + 3 * pair * len(ids) * (len(ids) + 1) / 2
               for step in steps_of(a, Tokenizer(a.model))[1:] for ids, learn in step)
    floor, took = work / machine["flops"], found["seconds"]
    yield at_least(0.4, "training: arithmetic limit and time, seconds", floor, took)
    for batch in 16, 64:
        # without drafts, so that each token takes a pass
        [found] = turns("sample", repeats, ("ours", {}), **common | dict(batch=batch, drafts=False))
        length, took = found["prompts"] / batch, found["prefill"]
        # what prompts begin with alike is read once by each process
        floor = (found["read"] * 2 * (P + adapter) + found["pairs"] * pair) / machine["flops"]
        yield at_least(None, f"reading {batch} prompts: arithmetic limit and time", floor, took)
        # keys that a new token sees, on average
        seen, took = length + a.new / 2, found["seconds"] - found["prefill"]
        weights, keys = P + adapter + head, batch * seen * c.num_hidden_layers * 2 * kv
        floors = {"arithmetic": batch * (2 * weights + pair * seen) / machine["flops"],
                  "memory": 2 * (weights + keys) / machine["bandwidth"]}  # 2 bytes a number
        kind = max(floors, key=floors.get)  # in fact each of our processes reads the weights
        yield at_least(0.5 if batch == 64 else None, f"writing {batch} texts: {kind} limit and "
                       "time", a.new * floors[kind], took)


def scale_section(common, toy, repeats, quick):
    examples, questions = (1000, 100) if quick else (10000, 1000)
    common = common | dict(model=toy["model"], adapters=f"{common['adapters']}/toy", batch=32,
                           dropout=0.0)
    turn("make", "adapters", **common)
    sides = [("ours", dict(examples=n, steps=examples // 32)) for n in (examples, 100)]
    lots, few = turns("train", repeats, *sides, **common)
    yield at_least(0.9, f"training on {examples:,} and 100 examples, tokens/s", rate(lots),
                   rate(few))
    yield at_most(1.1, "peak MB", lots["peak"], few["peak"])
    # a slot for each: the same work, however many
    toy = toy | dict(adapters=common["adapters"], slots=1, new=32, conversation="system1")
    sides = [("ours", dict(questions=n)) for n in (questions, 10)]
    lots, few = turns("vote", repeats, *sides, **toy)
    yield at_least(0.9, f"asking {questions:,} and 10 questions, new tokens/s", rate(lots, "new"),
                   rate(few, "new"))
    yield at_most(1.1, "peak MB", lots["peak"], few["peak"])


def bench(sections, gpu, model, rows, trained, quick, folder):
    """Yields the lines of the table."""
    if gpu:
        shape = Path(folder) / "7b"
        shape.mkdir()
        shutil.copyfile(f"{model}/tokenizer.json", shape / "tokenizer.json")
        known = json.loads(Path(f"{model}/config.json").read_text())
        config = SEVEN_B | {key: known[key] for key in ("vocab_size", "eos_token_id")}
        (shape / "config.json").write_text(json.dumps(config))
        model = str(shape)
    repeats = 1 if quick else 3
    common = dict(
        gpu=gpu, model=model, data=rows, adapters=folder, dtype="bfloat16", examples=None,
        dropout=0.1, batch=16, max_tokens=8192 if gpu else 1024, steps=3 if quick else 5,
        new=32 if quick else 128, roles=["ir"], drafts=True)
    toy = dict(
        gpu=None, model=str(ROOT / "tiny"), adapters=trained or f"{folder}/tiny", dtype="float32",
        slots=64, new=256, conversation="vote", questions=16)
    if {"train", "sample", "roles", "limit"} & set(sections):
        turn("make", "adapters", **common)
    if "vote" in sections and not trained:
        command = [sys.executable, "train.py", "--out", folder]
        if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
            raise ValueError("python train.py has failed, see above.")
    for name in SECTIONS:
        if name in sections:
            yield from globals()[f"{name}_section"](common, toy, repeats, quick)


# --------------------------------------------------------------------------------------------------
# The command


def arguments():
    parser = argparse.ArgumentParser(
        description="Measures these scripts beside transformers + peft on the same work.",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__.split("\n\n", 1)[1])
    shared = Path(os.environ.get("LORID_SHARED", ROOT.parent / "shared"))
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION",
        help=f"any of {', '.join(SECTIONS)} (default: all)")
    add("--model", default=os.environ.get("LORID_SMOLLM2", "models/smollm2"),
        help="a real model folder (default: %(default)s)")
    add("--data", default=shared / "data" / "gsm8k" / "train_knowledge.jsonl",
        help="rows, a JSONL file (default: %(default)s)")
    add("--adapters", help="trained adapters of the built-in base, for vote (default: train them "
                           "first, minutes)")
    add("--gpu", action="store_const", const="cuda",
        help="measure a random base of LLaMA-2-7B's shape on the GPU: train, sample and limit, or "
             "some of them")
    add("--quick", action="store_true", help="one turn each, fewer steps: a first impression")
    add("--json", metavar="FILE", help="write the figures to this file, too")
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def sections_of(args):
    """The sections to measure. Raises ValueError if something that they need is absent."""
    known = ("train", "sample", "limit") if args.gpu else SECTIONS
    sections = set(args.sections or known)
    if lost := sections - set(known):
        raise ValueError(f"there is no section {' or '.join(sorted(lost))}"
                         f"{' on a GPU' * bool(args.gpu)}; there are {', '.join(known)}.")
    if args.gpu:
        import torch
        if not torch.cuda.is_available():
            raise ValueError("--gpu: torch sees no CUDA GPU on this machine.")
    needed = ["transformers", "peft"] if {"train", "sample", "vote"} & sections else []
    needed += ["tokenizers"] if "tokenizer" in sections else []
    if lost := [name for name in needed if not find_spec(name)]:
        raise ValueError(f"the peer needs {' and '.join(lost)}; "
                         "pip install -r tests/requirements.txt.")
    if {"train", "sample", "roles", "tokenizer", "limit"} & sections:
        if not (Path(args.model) / "config.json").is_file():
            raise ValueError(f"{args.model} is not a model folder; name one with --model, such as "
                             "that of SmolLM2-135M.")
        if not Path(args.data).is_file():
            raise ValueError(f"{args.data} is not there; name a JSONL file of rows with --data.")
    return sections


def main():
    args = arguments()
    if args.child:
        return child(args.child)
    sections, table = sections_of(args), []
    about = dict(date=str(date.today()), cores=os.cpu_count(),
                 load_before=round(os.getloadavg()[0], 1))

    def show(x):
        return f"{x:.3g}" if x < 100 else f"{x:,.0f}"
    print("| what | ours | other | ratio | wanted | met |\n|---|---|---|---|---|---|")
    paths = [path and str(Path(path).resolve()) for path in (args.model, args.data, args.adapters)]
    with tempfile.TemporaryDirectory() as folder:
        for line in bench(sections, args.gpu, *paths, args.quick, folder):
            table.append(line)
            wanted = "-" if line["wanted"] is None else f"{line['sense']} {line['wanted']:.2g}"
            met = {None: "-", True: "yes", False: "no"}[line["met"]]
            print(f"| {line['what']} | {show(line['ours'])} | {show(line['other'])} "
                  f"| {line['ratio']:.3g} | {wanted} | {met} |", flush=True)
    about |= dict(load_after=round(os.getloadavg()[0], 1),
                  threads=os.environ.get("OMP_NUM_THREADS", "all"), model=Path(args.model).name,
                  quick=args.quick)
    if args.gpu:
        import torch
        name = torch.cuda.get_device_name()
        about["model"] = f"random, LLaMA-2-7B's shape, on {name}"
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    if args.json:
        Path(args.json).write_text(json.dumps(dict(about=about, table=table), indent=1))


if __name__ == "__main__":
    run(main, advice="; measure a smaller --model")

"""How fast, how small: these scripts beside the stack most people would use, transformers + peft, on the same work.

    python tests/bench.py --model models/smollm2 --data data/train_knowledge.jsonl          everything
    python tests/bench.py train sample --quick --json bench.json                            two sections, each side once, fewer steps
    python tests/bench.py --gpu --model models/smollm2 --data data/train_knowledge.jsonl    on a GPU: train, sample, limit

    train      LoRA training: tokens per second (padding not counted), peak memory, and the same loss on the same batches
    sample     new tokens per second with an unmerged adapter, top-k and top-p, for 16 and for 64 texts at once
    roles      a batch of all three roles against a batch of one; what three adapters cost in memory
    vote       seconds per question of LoRID against the authors' procedure, which writes all 60 texts (toy world, built-in base)
    start      what importing the scripts costs, and when the default training run prints its first step
    tokenizer  encoding all rows, against the tokenizers library
    limit      which share of the machine's arithmetic, or of its memory's speed, training, prefill and decoding reach
    scale      cost per token and memory for few and many examples and questions

Each side runs in processes of its own, so that its peak memory is its own, and the sides take turns: ours, peer, ours, peer ... Where it
trains or writes texts, ours is started by torchrun, a process for each core, as the README says for a CPU; the peer has a thread for each.
A figure is the median of the turns. Ratios are what counts: absolute figures change with the machine and with what else it does.

On a GPU each side is one process. Its base has the shape of LLaMA-2-7B and random weights, so no losses are compared; of --model, only the tokenizer and the
size of its vocabulary are used. (No one has run this yet.)
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
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import data
import lorid

CORES = len(os.sched_getaffinity(0))
SECTIONS = "train", "sample", "roles", "vote", "start", "tokenizer", "limit", "scale"
PAPER = dict(temperature=1.5, top_k=50, top_p=0.9)  # how the paper samples,
TOY = dict(temperature=0.6, top_k=50, top_p=0.9)    # and how infer.py does: tiny/ in float32
RANK, TARGETS = 64, ["q_proj", "v_proj"]
SEVEN_B = dict(model_type="llama", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, max_position_embeddings=4096)

# ---------------------------------------------------------------------------------------------------------------------
# The sides. Each function is run in a process of its own (see `turn`); `a` holds its settings, what it returns is printed as JSON.
# Both sides get the same token ids and the same adapters, whose B is not zero, as if they had been trained for a while.


def ours(a):
    import torch
    from model import Decoder, Tokenizer, load_model, read_config
    torch.manual_seed(0)
    if not a.gpu:
        return load_model(a.model, "cpu", getattr(torch, a.dtype)), Tokenizer(a.model)
    torch.set_default_dtype(getattr(torch, a.dtype))
    with torch.device(a.gpu):
        model = Decoder(read_config(a.model))
        torch.nn.init.normal_(model.model.embed_tokens.weight)
    torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False).eval(), Tokenizer(a.model)


def peer(a, roles=("ir",), trainable=False):
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    from model import Tokenizer
    torch.manual_seed(0)
    dtype = getattr(torch, a.dtype)
    if a.gpu:
        with torch.device(a.gpu):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(a.model), dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype)
    model = PeftModel.from_pretrained(model, f"{a.adapters}/{roles[0]}", adapter_name=roles[0], is_trainable=trainable)
    for role in roles[1:]:
        model.load_adapter(f"{a.adapters}/{role}", adapter_name=role)
    return model, Tokenizer(a.model)


def wait(a):
    """A GPU works on while Python goes on: wait for it, before looking at a clock."""
    if a.gpu:
        import torch
        torch.cuda.synchronize()


def everybody(mine):
    """The lists of all processes, one after the other."""
    from model import gather
    return [x for share in gather(mine) for x in share]


def make_adapters(a):
    """Random adapters of the three roles, written by our save_adapter and read by both sides."""
    import lora
    import torch
    model, _ = ours(a)
    with torch.no_grad():
        for p in lora.inject(model, TARGETS, {role: (RANK, 2.0) for role in lorid.ROLES}):
            p.normal_(std=0.02)
    for role in lorid.ROLES:
        lora.save_adapter(model, role, Path(a.adapters) / role, a.model, a.dropout)


def steps_of(a, tokenizer):
    """The batches of a.steps steps; a.examples toy problems, again and again, or rows of the file."""
    rows = data.toy(a.examples) if a.examples else data.read_rows(a.data)
    random.Random(0).shuffle(rows)
    examples = [data.render(row, "ir", tokenizer) for row in rows[:a.batch * a.steps]]
    return [[examples[i % len(examples)] for i in range(step * a.batch, (step + 1) * a.batch)] for step in range(a.steps)]


def figures(steps, times, losses):
    """The first step, which warms up, is not timed."""
    return dict(tokens=sum(len(ids) for batch in steps[1:] for ids, _ in batch), seconds=time.time() - times[1], losses=losses)


def train_ours(a):
    """train.fit, as train.py runs it."""
    import lora
    import torch
    import train
    model, tokenizer = ours(a)
    parameters, times, said = lora.inject(model, TARGETS, {"ir": (RANK, 2.0)}, a.dropout), [], io.StringIO()
    weights, _, _ = lora.read_adapter(Path(a.adapters) / "ir")
    with torch.no_grad():
        for name, layer in lora.layers(model):
            layer.A.copy_(weights[name][0])
            layer.B.copy_(weights[name][1])
    lora.switch(model, "ir")
    steps = steps_of(a, tokenizer)
    clocked = (times.append(time.time()) or step for step in steps)  # fit draws a batch when it begins a step
    with contextlib.redirect_stdout(said):
        train.fit(model, parameters, clocked, len(steps), SimpleNamespace(lr=5e-5, weight_decay=0.0, warmup=0.0, beta2=0.95, clip=1.0, budget=a.budget))
    return figures(steps, times, [float(loss) for loss in re.findall(r"loss ([\d.]+)", said.getvalue())])


def train_peer(a):
    """The loop that the manuals of both libraries show, with the optimizer and the schedule of ours."""
    import torch
    model, tokenizer = peer(a, trainable=True)
    model.train()
    steps, times, losses = steps_of(a, tokenizer), [], []
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, betas=(0.9, 0.95))
    for step, batch in enumerate(steps):
        times.append(time.time())
        optimizer.param_groups[0]["lr"] = 5e-5 * (0.5 + 0.5 * math.cos(math.pi * max(0, step - 1) / max(1, len(steps) - 1)))
        T = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [0] * (T - len(ids)) for ids, _ in batch], device=model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (T - len(ids)) for ids, _ in batch], device=model.device)
        learn = torch.tensor([learn + [0] * (T - len(learn)) for _, learn in batch], device=model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(learn == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return figures(steps, times, losses)


def sample_ours(a):
    """The engine as infer.py runs it, each text a.new tokens long; a.roles take turns over the same prompts."""
    import lora
    import infer
    from model import crew, pack
    if not a.guess:
        infer.guess = lambda *_: []
    model, tokenizer = ours(a)
    lora.stack(model, {role: f"{a.adapters}/{role}" for role in a.roles})
    pack(lora.fuse(model))
    tokenizer.eos_ids = []  # nothing ends a text but its length
    place, processes = crew()
    prompts = [lorid.prompt("ir", row["question"]) for row in data.read_rows(a.data)[:a.batch]]
    mine, reading = range(place, a.batch, processes), []
    engine = infer.Engine(model, tokenizer, len(mine), 4, **PAPER)

    def text(i):
        yield [(a.roles[i // processes % len(a.roles)], prompts[i])]  # each process has all roles
        return lorid.Verdict(None)

    def feed(*args, plain=engine.feed):
        if len(args) == 3:
            return plain(*args)
        wait(a)  # prompts, for these rows
        start = time.time()
        hidden = plain(*args)
        wait(a)
        pairs = sum(len(ids) * n + len(ids) * (len(ids) + 1) / 2 for ids, n in zip(*args[1:3]))  # each token sees the n before ids, and up to itself
        reading.append((time.time() - start, len(hidden), pairs))
        return hidden

    engine.run(map(text, mine))  # warms up
    everybody([])  # all begin together
    engine.feed, engine.max_new, start = feed, a.new, time.time()
    outcomes = everybody(engine.run(map(text, mine)))
    seconds = time.time() - start
    prefill, read, pairs = zip(*everybody([[*map(sum, zip(*reading))]]))  # of each process
    return dict(tokens=sum(sum(o.tokens) for o in outcomes), seconds=seconds, prefill=max(prefill), read=sum(read), pairs=sum(pairs),
                prompts=sum(len(tokenizer.prompt_ids(prompt)) for prompt in prompts), bytes=sum(everybody([sum(p.nbytes for p in model.parameters())])))


def generate(model, prompts, new, eos, **settings):
    """transformers' own generate on left-padded prompts, lists of ids -> the new ids of each."""
    import torch
    T = max(map(len, prompts))
    ids = torch.tensor([[eos] * (T - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=True, pad_token_id=eos, **settings)
    return out[:, T:].tolist()


def sample_peer(a):
    model, tokenizer = peer(a)
    prompts = [tokenizer.prompt_ids(lorid.prompt("ir", row["question"])) for row in data.read_rows(a.data)[:a.batch]]
    generate(model.eval(), prompts, 4, tokenizer.eos_ids[0], min_new_tokens=4, **PAPER)
    start = time.time()
    texts = generate(model, prompts, a.new, tokenizer.eos_ids[0], min_new_tokens=a.new, **PAPER)
    return dict(tokens=sum(map(len, texts)), seconds=time.time() - start)


def all_rounds(question):
    """A vote that never stops early: what remains is speed."""
    for _ in range(20):
        _, knowledge = yield [("ir", lorid.prompt("ir", question)), ("kg", lorid.prompt("kg", question))]
        yield [("dr", lorid.prompt("dr", question, knowledge))]
    return lorid.Verdict(None)


def vote_ours(a):
    import lora
    from infer import Engine
    from model import crew, pack
    model, tokenizer = ours(a)
    lora.stack(model, {role: f"{a.adapters}/{role}" for role in lorid.ROLES})
    conversation = dict(vote=lorid.vote, all_rounds=all_rounds, system1=lorid.system1)[a.conversation]
    place, processes = crew()
    engine = Engine(pack(lora.fuse(model)), tokenizer, a.rows, a.new, **TOY)
    everybody([])  # all begin together
    start = time.time()
    outcomes = everybody(engine.run([conversation(row["question"]) for row in data.toy(a.questions, "test")[place::processes]]))
    return dict(seconds=(time.time() - start) / a.questions, new=sum(sum(o.tokens) for o in outcomes) / a.questions)


def vote_peer(a):
    """The authors' procedure: 20 rounds of all three roles for every question, then one looks for agreement. As many texts at once as ours."""
    model, tokenizer = peer(a, tuple(lorid.ROLES))
    asked, said = [row["question"] for row in data.toy(a.questions, "test") for _ in range(20)], {}
    start, new, eos = time.time(), 0, tokenizer.eos_ids[0]
    for role in lorid.ROLES:
        model.eval().set_adapter(role)
        prompts = [tokenizer.prompt_ids(lorid.prompt(role, *pair)) for pair in zip(asked, said.get("kg", asked))]
        texts = [text for i in range(0, len(prompts), a.rows) for text in generate(model, prompts[i:i + a.rows], a.new, eos, **TOY)]
        texts = [text[:text.index(eos)] if eos in text else text for text in texts]
        new, said[role] = new + sum(len(text) + 1 for text in texts), list(map(tokenizer.decode, texts))
    return dict(seconds=(time.time() - start) / a.questions, new=new / a.questions)


def encode_ours(a):
    """Texts per second, in turns: ours and the library's one after the other, and the library's batches, which use all cores."""
    import tokenizers

    from model import Tokenizer
    mine, library = Tokenizer(a.model), tokenizers.Tokenizer.from_file(f"{a.model}/tokenizer.json")
    texts, times = [row[key] for row in data.read_rows(a.data) for key in ("question", "rationale")], dict(ours=[], single=[], batch=[])
    for _ in range(5):
        for name, encode in (("ours", lambda: [mine.encode(text) for text in texts]),
                             ("single", lambda: [library.encode(text, add_special_tokens=False).ids for text in texts]),
                             ("batch", lambda: [e.ids for e in library.encode_batch(texts, add_special_tokens=False)])):
            start = time.time()
            encode()
            times[name].append(time.time() - start)
    return {name: len(texts) / median(spent) for name, spent in times.items()}


def limit_ours(a):
    """What the machine can do, the best of several: FLOP/s of a large bfloat16 product, bytes/s of a large read."""
    import torch

    def best(work):
        times = [-time.perf_counter()]
        for _ in range(8):
            work()
            wait(a)
            times[-1] += time.perf_counter()
            times.append(-time.perf_counter())
        return min(times[:-1])

    n, size, device = (8192, 2**30, a.gpu) if a.gpu else (2048, 2**27, "cpu")
    x, y = torch.randn(n, n, device=device).bfloat16(), torch.ones(size, device=device)
    return dict(flops=2 * n**3 / best(lambda: x @ x), bandwidth=y.nbytes / best(y.sum))


# ---------------------------------------------------------------------------------------------------------------------
# Taking turns


def turn(what, side, **settings):
    """Run one of the functions above in a fresh process: what it returned, and its peak memory in MB (on a GPU: the GPU's)."""
    several = side == "ours" and what in ("train", "sample", "vote") and not settings["gpu"]
    crew = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={CORES}"] if several else []
    command = [sys.executable, *crew, __file__, "--child", json.dumps(dict(what=f"{what}_{side}") | settings)]
    own = {"OMP_NUM_THREADS": "1"} if several else {}
    if side == "peer":
        own = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}  # torch's default; ours is set by model.py
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | own)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        said = [line for line in lines if re.match(r"bench\.py: |(.*: )?[a-zA-Z]+Error: ", line)] or lines  # torchrun says more below
        raise ValueError(f"{what}, {side}: {said[-1]}")
    print(f"  {what} {side}: {done.stdout.splitlines()[-1]}", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def child(settings):
    import torch
    from model import join_crew
    a = SimpleNamespace(**json.loads(settings))
    join_crew(a.gpu or "cpu")
    found = globals()[a.what](a) or {}
    peak = torch.cuda.max_memory_allocated() / 2**20 if a.gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found | dict(peak=sum(everybody([peak])))))  # what the processes share is counted for each


def turns(what, repeats, *sides, **common):
    """The medians of `repeats` turns of each side, taken alternately. sides: (name, its own settings)."""
    found = [[turn(what, side, **common | own) for side, own in sides] for _ in range(repeats)]
    return [{key: value if isinstance(value, list) else median(r[key] for r in results) for key, value in results[0].items()}
            for results in zip(*found)]


def rate(figures):
    return figures["tokens"] / figures["seconds"]


def bench(sections, gpu, model, rows, trained, quick, folder):
    """Yields the lines of the table: (what, ours, the other's, their ratio, what it should be, whether that is at most or at least)."""
    if gpu:
        shape = Path(folder) / "7b"
        shape.mkdir()
        shutil.copyfile(f"{model}/tokenizer.json", shape / "tokenizer.json")
        known = json.loads(Path(f"{model}/config.json").read_text())
        (shape / "config.json").write_text(json.dumps(SEVEN_B | {key: known[key] for key in ("vocab_size", "eos_token_id")}))
        model = str(shape)
    repeats, new, both = 1 if quick else 3, 32 if quick else 128, (("ours", {}), ("peer", {}))
    common = dict(gpu=gpu, model=model, data=rows, adapters=folder, dtype="bfloat16", examples=None, dropout=0.1, batch=16, budget=8192 if gpu else 1024,
                  steps=3 if quick else 5, new=new, roles=["ir"], guess=True)
    if {"train", "sample", "roles", "limit"} & set(sections):
        turn("make", "adapters", **common)
    if "train" in sections:
        us, them = turns("train", repeats, *both, **common)
        yield "training, tokens/s", rate(us), rate(them), rate(us) / rate(them), 1.5 if gpu else 3, "at least"
        yield "training, peak MB", us["peak"], them["peak"], us["peak"] / them["peak"], None if gpu else 1 / 3, "at most"
    if "train" in sections and not gpu:  # on a GPU each side has random weights of its own
        us, them = (side["losses"] for side in turns("train", 1, *both, **common | dict(dropout=0.0, steps=3)))
        yield "loss of step 3; largest difference of three", us[-1], them[-1], max(abs(x / y - 1) for x, y in zip(us, them)), 0.01, "at most"
    for batch in (16, 64) if "sample" in sections else ():
        us, them = turns("sample", repeats, *both, **common | dict(batch=batch))
        yield f"sampling {batch} texts, new tokens/s", rate(us), rate(them), rate(us) / rate(them), 3, "at least"
    if "roles" in sections:
        three, one = turns("sample", repeats, ("ours", dict(roles=list(lorid.ROLES))), ("ours", {}), **common | dict(batch=64))
        yield "three roles, one role: new tokens/s", rate(three), rate(one), rate(three) / rate(one), 0.8, "at least"
        yield "weights and adapters, MB", three["bytes"] / 2**20, one["bytes"] / 2**20, three["bytes"] / one["bytes"], 1.1, "at most"
        yield "peak MB", three["peak"], one["peak"], three["peak"] / one["peak"], 1.1, "at most"
    toy = dict(gpu=None, model=str(ROOT / "tiny"), adapters=trained or f"{folder}/tiny", dtype="float32", rows=64, new=256, conversation="vote", questions=16)
    if "vote" in sections:
        if not trained:
            subprocess.run([sys.executable, "train.py", "--out", folder], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        us, every, them = turns("vote", repeats, ("ours", dict(questions=500)), ("ours", dict(conversation="all_rounds", questions=64)),
                                ("peer", dict(questions=16)), **toy)  # a vote's rounds follow one another: it takes many to fill 64 rows
        yield "the vote, seconds per question", us["seconds"], them["seconds"], them["seconds"] / us["seconds"], 15, "at least"
        yield "all 60 texts, seconds per question", every["seconds"], them["seconds"], them["seconds"] / every["seconds"], 3, "at least"
        us, them = every["new"] / every["seconds"], them["new"] / them["seconds"]
        yield "all 60 texts, new tokens/s", us, them, us / them, 3, "at least"
    if "start" in sections:
        def seconds(*command, until="no such line"):
            start = time.time()
            with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
                next((line for line in running.stdout if line.startswith(until)), None)
                took = time.time() - start
                running.kill()
            return took
        us, them = (median(seconds("-c", f"import {what}") for _ in range(5)) for what in ("train, infer", "torch"))
        yield "importing the scripts, importing torch: seconds", us, them, us / them, 1.1, "at most"
        us = median(seconds("train.py", "--out", folder, until="step 1/") for _ in range(5))
        yield "first step of the default run, seconds (wanted: 3)", us, 3, us / 3, 1, "at most"
    if "tokenizer" in sections:
        found = turn("encode", "ours", **common)
        yield "encoding, texts/s", found["ours"], found["single"], found["ours"] / found["single"], 1, "at least"
        yield "encoding, texts/s; the library with all cores", found["ours"], found["batch"], found["ours"] / found["batch"], None, ""
    if "limit" in sections:
        yield from limits(common, repeats)
    if "scale" in sections:
        many = (1000, 100) if quick else (10000, 1000)
        common |= dict(model=toy["model"], adapters=f"{folder}/toy", batch=32, dropout=0.0)
        turn("make", "adapters", **common)
        lots, few = turns("train", repeats, *(("ours", dict(examples=n, steps=many[0] // 32)) for n in (many[0], 100)), **common)
        yield f"training on {many[0]:,} and 100 examples, tokens/s", rate(lots), rate(few), rate(lots) / rate(few), 0.9, "at least"
        yield "peak MB", lots["peak"], few["peak"], lots["peak"] / few["peak"], 1.1, "at most"
        lots, few = turns("vote", repeats, *(("ours", dict(questions=n)) for n in (many[1], 10)),  # a row for each: the same work, however many
                          **toy | dict(adapters=f"{folder}/toy", rows=1, new=32, conversation="system1"))
        us, them = (found["new"] / found["seconds"] for found in (lots, few))
        yield f"asking {many[1]:,} and 10 questions, new tokens/s", us, them, us / them, 0.9, "at least"
        yield "peak MB", lots["peak"], few["peak"], lots["peak"] / few["peak"], 1.1, "at most"


def limits(common, repeats):
    """The share of the machine's limit: the time the work would take at the speed measured on the spot, over the time it took."""
    from model import Tokenizer, read_config
    c, a = read_config(common["model"]), SimpleNamespace(**common)
    machine = turn("limit", "ours", **common)
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    P = c.num_hidden_layers * c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size)  # weights that every token meets,
    head = c.vocab_size * c.hidden_size                                                   # those that only some do,
    adapter = c.num_hidden_layers * RANK * (2 * c.hidden_size + q + kv)                   # and the trained ones
    pair = c.num_hidden_layers * 4 * q  # FLOPs of a query with a key it sees: 2 D for the score, 2 D for the value, per head and layer

    [found] = turns("train", repeats, ("ours", {}), **common)
    # Forward 2 FLOPs a weight; backward 2 for the gradient of its input, and 2 more for its own, which only the adapter needs.
    work = sum(len(ids) * (4 * P + 6 * adapter) + sum(learn) * 4 * head + 3 * pair * len(ids) * (len(ids) + 1) / 2
               for step in steps_of(a, Tokenizer(a.model))[1:] for ids, learn in step)
    floor, took = work / machine["flops"], found["seconds"]
    yield "training: arithmetic limit and time, seconds", floor, took, floor / took, 0.4, "at least"
    for batch in 16, 64:
        [found] = turns("sample", repeats, ("ours", {}), **common | dict(batch=batch, guess=False))  # so that each token takes a pass
        length, took = found["prompts"] / batch, found["prefill"]
        floor = (found["read"] * 2 * (P + adapter) + found["pairs"] * pair) / machine["flops"]  # what prompts begin with alike is read once by each process
        yield f"reading {batch} prompts: arithmetic limit and time", floor, took, floor / took, None, ""
        seen, took = length + a.new / 2, found["seconds"] - found["prefill"]  # keys that a new token sees, on average
        floors = {"arithmetic": batch * (2 * (P + adapter + head) + pair * seen) / machine["flops"],
                  "memory": 2 * (P + adapter + head + batch * seen * c.num_hidden_layers * 2 * kv) / machine["bandwidth"]}  # 2 bytes a number
        kind = max(floors, key=floors.get)  # of the machine: in fact each of our processes reads the weights
        floor = a.new * floors[kind]
        yield f"writing {batch} texts: {kind} limit and time", floor, took, floor / took, 0.5 if batch == 64 else None, "at least"


def main():
    parser = argparse.ArgumentParser(description="Measures these scripts beside transformers + peft on the same work.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__.split("\n\n", 1)[1])
    shared = Path(os.environ.get("LORID_SHARED", ROOT.parent / "shared"))
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"any of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--model", default=os.environ.get("LORID_SMOLLM2", "models/smollm2"), help="a real model folder (default: %(default)s)")
    parser.add_argument("--data", default=shared / "data" / "gsm8k" / "train_knowledge.jsonl", help="rows, a JSONL file (default: %(default)s)")
    parser.add_argument("--adapters", help="trained adapters of the built-in base, for vote (default: train them first, minutes)")
    parser.add_argument("--gpu", action="store_const", const="cuda", help="measure a random base of LLaMA-2-7B's shape on the GPU: train, sample and limit, or some of them")
    parser.add_argument("--quick", action="store_true", help="one turn each, fewer steps: a first impression")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    known = ("train", "sample", "limit") if args.gpu else SECTIONS
    sections = args.sections or known
    if lost := set(sections) - set(known):
        raise ValueError(f"there is no section {' or '.join(sorted(lost))}{' on a GPU' * bool(args.gpu)}; there are {', '.join(known)}.")
    if args.gpu:
        import torch
        if not torch.cuda.is_available():
            raise ValueError("--gpu: torch sees no CUDA GPU on this machine.")
    needed = ["transformers", "peft"] if {"train", "sample", "vote"} & set(sections) else []
    if lost := [name for name in needed + ["tokenizers"] * ("tokenizer" in sections) if not find_spec(name)]:
        raise ValueError(f"the peer needs {' and '.join(lost)}; pip install -r tests/requirements.txt.")
    if {"train", "sample", "roles", "tokenizer", "limit"} & set(sections):
        if not (Path(args.model) / "config.json").is_file():
            raise ValueError(f"{args.model} is not a model folder; name one with --model, such as that of SmolLM2-135M.")
        if not Path(args.data).is_file():
            raise ValueError(f"{args.data} is not there; name a JSONL file of rows with --data.")

    def show(x):
        return f"{x:.3g}" if x < 100 else f"{x:,.0f}"

    about, table = dict(date=str(date.today()), cores=os.cpu_count(), load_before=round(os.getloadavg()[0], 1)), []
    print("| what | ours | other | ratio | wanted | met |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        resolve = [path and str(Path(path).resolve()) for path in (args.model, args.data, args.adapters)]
        for what, us, them, ratio, wanted, sense in bench(sections, args.gpu, *resolve, args.quick, folder):
            met = None if wanted is None else ratio <= wanted if sense == "at most" else ratio >= wanted
            table.append(dict(what=what, ours=us, other=them, ratio=ratio, wanted=wanted, sense=sense, met=met))
            print(f"| {what} | {show(us)} | {show(them)} | {ratio:.3g} | {'-' if wanted is None else f'{sense} {wanted:.2g}'} "
                  f"| {'-' if met is None else 'yes' if met else 'no'} |", flush=True)
    about |= dict(load_after=round(os.getloadavg()[0], 1), threads=os.environ.get("OMP_NUM_THREADS", "all"),
                  model=f"random, LLaMA-2-7B's shape, on {torch.cuda.get_device_name()}" if args.gpu else Path(args.model).name, quick=args.quick)
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    if args.json:
        Path(args.json).write_text(json.dumps(dict(about=about, table=table), indent=1))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

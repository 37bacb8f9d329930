"""Inference: sample, vote, count. One frozen base and its three adapters answer many questions at once.

    python infer.py                                     held-out toy problems: IR alone, KG -> DR alone, LoRID, as a table
    python infer.py --ask "Mia buys 3 crates of stickers. Mia gives 6 stickers to Ben. How many stickers does Mia have now?"
    python infer.py --model models/smollm2 --data test.jsonl --limit 8 --rounds 3

The engine knows nothing of votes: a conversation (see lorid.py) asks for texts, and gets them. Every row of the cache holds one
text; a row that is done takes the next text that somebody waits for, of whatever role.
"""
import argparse
import io
import json
import math
import random
import sys
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import torch

import data
import lora
import lorid
from model import TEMPLATES, KVCache, Tokenizer, crew, gather, join_crew, load_model, pack, pick_device, read_config, read_json, write_whole

# What the paper sampled with, from its authors' scripts; --preset paper
PAPER = dict(rounds=20, temperature=1.5, top_k=50, top_p=0.9, max_new=1024, dtype="bfloat16")

# ---------------------------------------------------------------------------------------------------------------------
# Sampling


def likely(logits, temperature, top_k, top_p):
    """What may be drawn: logits (B, V) -> ids (B, k), the likeliest first, and the running sums of their probabilities (B, k), float32, up to 1.

    Temperature first, then the top_k most likely, then of those the smallest set whose probability reaches top_p; top_k 0 and
    top_p 1 keep all; temperature 0 takes the most likely.
    """
    if temperature == 0:
        ids = logits.argmax(-1, keepdim=True)
        return ids, torch.ones(ids.shape, device=ids.device)
    # Sorted before divided: at a tiny temperature quotients are infinite and would all be alike. Then p is nan, no comparison here or in `draw`
    # is true, and the first token is drawn, the likeliest. And sorted before float32: a copy of all logits of a real vocabulary took a seventh of a step.
    logits, ids = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))
    p = (logits.float() / temperature).softmax(-1)
    p = p * (p.cumsum(-1) - p < top_p)  # what stands before a token is below top_p: the first always stays
    upto = p.cumsum(-1)
    return ids, upto / upto[:, -1:]


def draw(ids, upto, luck):
    """One token per row: the first whose running sum reaches the row's luck, uniform in [0, 1); (B, k), (B, k), (B,) -> (B,). Each row brings its
    own luck, so a text does not depend on its neighbours."""
    return ids.gather(-1, (upto < luck[:, None]).sum(-1, keepdim=True))[:, 0]


# ---------------------------------------------------------------------------------------------------------------------
# The engine

PROMPT_BUDGET = 2048  # most tokens of the prompts that are read in one pass, each counted as long as the longest
MOST_GUESSES = 24     # of a text in one pass
LONG, SHORT = 16, 3   # how many tokens back a guess looks
MOST_SEEN = 100_000   # keys in a table of `learn`, about two a token, 300 to 600 bytes a key; a table with more is emptied


@dataclass(eq=False)
class Text:
    """A text that a conversation asked for."""
    owner: int           # which conversation
    number: int          # which of all the texts that it has asked for
    role: str
    prompt: list[int]
    dice: random.Random  # its own
    said: list[int] = field(default_factory=list)    # the tokens written so far
    luck: list[float] = field(default_factory=list)  # luck[i] decides over said[i]; some are drawn ahead, for guesses
    choices: list = field(default_factory=list)      # what said[i] was drawn from: the four likeliest ids, and the running sums of their probabilities


@dataclass
class Outcome:
    """How a conversation ended, and what it took."""
    verdict: lorid.Verdict | None = None
    tokens: list[int] = field(default_factory=list)  # of each text, in the order asked for: new ones, end tokens included
    cut: list[bool] = field(default_factory=list)    # of each text: whether it ended by length, not by an end token


def shared_length(a, b):
    """How many items two lists have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def learn(text, tables):
    """For each token of a finished text, note in the tables the choice that it was drawn from, under the sixteen tokens before it and under the three."""
    for table in tables:
        if len(table) > MOST_SEEN:
            table.clear()
    ids = text.prompt[-LONG:] + text.said
    for end, choice in enumerate(text.choices, len(ids) - len(text.said)):
        back = tuple(ids[max(0, end - LONG):end])
        for table in tables:
            table[back] = table[back[-SHORT:]] = choice


def guess(text, tables, most):
    """Up to `most` tokens that may come next. First the table of the text's question is asked, then that of all questions, each for the choice noted
    under the last sixteen tokens, then under the last three. From it a token is drawn with the luck that will decide here. After sixteen, that was right
    99 of 100 times, after three (or wherever there are fewer than sixteen) every second time. So the second such weak guess is not made any more: each
    guess is one more row to compute, and behind a wrong one all are in vain.

    Speculative decoding (arXiv 2211.17192), with a table in place of a small model. It changes no text (up to rounding): attention is causal,
    so behind right guesses stand the logits that one token at a time would give; from them each token is drawn with its own luck. So the
    first draw that differs from its guess is valid, and replaces it; what was drawn behind it is dropped. The rounds of a vote
    repeat each other, and so do rules and endings: tiny/ writes 5 tokens of a text in a pass, and 5 of 6 guesses are right.
    """
    back, guessed, weak = text.prompt[-LONG:] + text.said[-LONG:], [], 0
    while len(guessed) < min(most, MOST_GUESSES):
        keys = tuple(back[-LONG:]), tuple(back[-SHORT:])
        key, choice = next(((key, table[key]) for table in tables for key in keys if key in table), (None, None))
        if not key:
            break
        weak += len(key) < LONG
        if weak > 1:
            break
        ids, upto = choice
        guessed.append(ids[bisect_left(upto, text.luck[len(text.said) + len(guessed)])])
        back.append(guessed[-1])
    return guessed


class Engine:
    """A cache of `rows` rows, in each of which a text is written, over one model with stacked adapters. temperature, top_k, top_p as in `likely`;
    a text has at most `max_new` tokens."""

    def __init__(self, model, tokenizer, rows=64, max_new=256, temperature=0.0, top_k=50, top_p=0.9, seed=0):
        self.model, self.tokenizer, self.rows, self.max_new, self.seed = model, tokenizer, rows, max_new, seed
        self.sampling = (temperature, top_k, top_p)
        self.limit = model.config.max_position_embeddings
        self.cache = KVCache(model.config, rows, model.dtype, model.device)
        self.place, self.processes = crew()

    @torch.inference_mode()
    def run(self, conversations, progress=lambda done: None):
        """Drive all conversations to their end; returns their Outcomes in order.

        A conversation is resumed, the texts it asks for wait, fill rows as these fall free, and grow until they end; when
        all it asked for have ended, it is resumed with them.
        """
        conversations = list(conversations)
        outcomes = [Outcome() for _ in conversations]
        replies = {}       # owner -> the texts of its present request, None where one is still being written
        waiting = deque()  # texts that have no row yet
        writing = []       # writing[i] is in row i of the cache
        kept = {None: {}}  # owner -> {role: (prompt, its keys and values)}: its first prompt of each role; under None, anybody's first
        seen = {None: {}}  # owner -> the table that `learn` fills from its texts; under None, from everybody's
        unopened = deque(range(len(conversations)))
        done = 0

        def resume(owner, texts):
            """Hand a conversation its texts (None at its beginning); queue what it asks for next."""
            nonlocal done
            try:
                requests = conversations[owner].send(texts)
            except StopIteration as end:
                outcomes[owner].verdict, done = end.value, done + 1
                kept.pop(owner, None)  # so at most about 3 * rows prompts are kept
                seen.pop(owner, None)
                progress(done)
                return
            replies[owner] = [None] * len(requests)
            outcome = outcomes[owner]
            kept.setdefault(owner, {})
            seen.setdefault(owner, {})
            for role, prompt in requests:
                # Seeded by question and text, not by row, step or process: results do not depend (but for rounding) on what else is
                # being written, or where.
                dice = random.Random(f"{self.seed} {self.place + owner * self.processes} {len(outcome.tokens)}")
                waiting.append(Text(owner, len(outcome.tokens), role, self.tokenizer.prompt_ids(prompt), dice))
                outcome.tokens.append(0)
                outcome.cut.append(False)

        def finish(text, cut):
            outcome, reply = outcomes[text.owner], replies[text.owner]
            learn(text, (seen[text.owner], seen[None]))
            outcome.tokens[text.number], outcome.cut[text.number] = len(text.said), cut
            said = self.tokenizer.decode(text.said if cut else text.said[:-1]).strip(" ")  # no end token; Mistral's answers begin with a space
            last = text.number - len(outcome.tokens)  # its index from the end: the present request asked for the last texts
            reply[last] = said.rpartition("\n")[0] if cut else said  # half a line may hold half a number
            if None not in reply:
                resume(text.owner, reply)

        def known(text):
            """The prompt of the same role that this one is compared with, and its keys and values: its question's first, else anybody's."""
            return kept[text.owner].get(text.role) or kept[None].get(text.role, ([], None))

        def enter(texts):
            """Put texts into the next rows and read their prompts: what they share with the known ones is copied, the rest is fed."""
            unread = []
            for text in texts:
                shared = min(shared_length(known(text)[0], text.prompt), len(text.prompt) - 1)  # one token at least must be fed
                unread.append((text.prompt[shared:], text))
            for group in data.micro_batches(unread, PROMPT_BUDGET):  # longest first
                tails, group = zip(*group)
                starts, row = [len(text.prompt) - len(tail) for tail, text in zip(tails, group)], len(writing)
                for i, text in enumerate(group):
                    if starts[i]:
                        self.cache.put(row + i, known(text)[1], starts[i])
                new = [(i, text) for i, text in enumerate(group) if text.role not in kept[text.owner]]
                if new or len(tails[0]) > 1:  # else only each prompt's last token is unread, and `extend` always begins with that one
                    self.feed(group, tails, starts, row)
                for i, text in new:
                    first = kept[text.owner][text.role] = text.prompt, self.cache.take(row + i, len(text.prompt))
                    kept[None].setdefault(text.role, first)
                writing.extend(group)

        def room(text):
            """How many more tokens it may have."""
            return min(self.max_new, self.limit - len(text.prompt)) - len(text.said)

        def extend():
            """Feed each text its latest token and what is guessed to follow; each grows by the guesses that prove right and one token more."""
            for text in writing:
                text.luck += [text.dice.random() for _ in range(len(text.said) + MOST_GUESSES + 1 - len(text.luck))]
            guesses = [guess(text, (seen[text.owner], seen[None]), room(text) - 1) for text in writing]  # one more comes anyway
            fed = [[(text.said or text.prompt)[-1], *guessed] for text, guessed in zip(writing, guesses)]
            hidden = self.feed(writing, fed, [len(text.prompt) + len(text.said) - 1 for text in writing])  # (N, 1, C)
            luck = [x for text, tokens in zip(writing, fed) for x in text.luck[len(text.said):len(text.said) + len(tokens)]]
            ids, upto = likely(self.model.logits(hidden)[:, 0], *self.sampling)
            drawn = draw(ids, upto, torch.tensor(luck, device=ids.device)).tolist()
            upto[:, 3:] = 1  # for `learn`, each choice's four likeliest; the fourth takes what is left of the probability, so any luck finds one
            choices = list(zip(ids[:, :4].tolist(), upto[:, :4].tolist()))
            at = 0
            for text, guessed in zip(writing, guesses):
                right = shared_length(guessed, drawn[at:at + len(guessed)])  # the token drawn next replaces the first wrong guess, or follows the last
                for token, choice in zip(drawn[at:at + right + 1], choices[at:]):
                    text.said.append(token)
                    text.choices.append(choice)
                    if token in self.tokenizer.eos_ids:
                        break
                at += len(guessed) + 1
            for row in reversed(range(len(writing))):  # backwards: what moves into an empty row has been looked at
                text = writing[row]
                ended = text.said[-1] in self.tokenizer.eos_ids
                if ended or room(text) <= 0:
                    last = writing.pop()  # rows stay packed: the last one moves to the empty place
                    if last is not text:
                        writing[row] = last
                        size = len(last.prompt) + len(last.said) - 1  # its latest token is not fed yet
                        self.cache.put(row, self.cache.take(len(writing), size), size)
                    finish(text, cut=not ended)

        while True:
            while len(waiting) < self.rows - len(writing) and unopened:  # a new question opens only if a row would stay empty
                resume(unopened.popleft(), None)
            # Filling one row costs a pass over the weights, as a step of all rows does: wait until an eighth is free, or room for all that wait.
            if waiting and (not writing or self.rows - len(writing) >= min(len(waiting), self.rows // 8 + 1)):
                entering = [waiting.popleft() for _ in range(min(len(waiting), self.rows - len(writing)))]
                fits = [text for text in entering if room(text) > 0]
                while fits:  # prompts copy from earlier ones, so first enters one text of each new role, then one of each question, then the others
                    now = {}
                    for text in fits:
                        new_to = [owner for owner in (None, text.owner) if text.role not in kept[owner]]
                        now.setdefault((text.role, new_to[0]) if new_to else text, text)
                    enter(now.values())
                    fits = [text for text in fits if text not in now.values()]
                for text in entering:
                    if room(text) <= 0:
                        finish(text, cut=True)  # an empty text, counted as cut
            elif writing:
                extend()
            else:
                return outcomes

    def feed(self, texts, fed, starts, row=0):
        """Feed each text some tokens, lists of ids: they go into the cache's rows from `row` on, to the positions from `starts` on.
        Their hidden states, (N, 1, C)."""
        lora.switch(self.model, [text.role for text, tokens in zip(texts, fed) for _ in tokens])  # to the model, each token is a row of the batch
        ids = torch.tensor([token for tokens in fed for token in tokens], device=self.model.device)
        return self.model(ids[:, None], self.cache, starts, [len(tokens) for tokens in fed], row)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def wilson(right, n, z=1.96):
    """The 95% interval of a share of right answers (Wilson's score interval): unlike the plain one it holds near 0 and 1."""
    p, zz = right / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / n / 4)
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def summary(method, rows, outcomes, strict=False, seconds=None):
    """What a method did with the questions of the rows, as a line of the table; all but `cut`, `unread` and `seconds` per question.
    Only a vote can be agreed upon, so only a vote is scored strictly."""
    voted = method.startswith("LoRID")
    n, right = len(rows), [o.verdict.right(row["answer"], strict and voted) for o, row in zip(outcomes, rows, strict=True)]
    low, high = wilson(sum(right), n)
    line = dict(method=method, accuracy=sum(right) / n, low=low, high=high, rounds=sum(len(o.verdict.rounds) for o in outcomes) / n,
                texts=sum(len(o.tokens) for o in outcomes) / n, tokens=sum(sum(o.tokens) for o in outcomes) / n)
    if voted:
        sure = [r for r, o in zip(right, outcomes) if o.verdict.agreed]
        line |= dict(agreed=len(sure) / n, sure=sum(sure) / len(sure) if sure else None)
    return line | dict(cut=sum(sum(o.cut) for o in outcomes), unread=sum(o.tokens.count(0) for o in outcomes), seconds=seconds)


def measure(engine, method, rows, conversation, args, temperature=0.0):
    """Hold a conversation about each row: (outcomes, their line of the table)."""

    def progress(done):
        if sys.stderr.isatty() and not engine.place:  # of several processes, the first tells its share
            print(f"\r{method}: {done}/{len(mine)} questions", end="\n" if done == len(mine) else "", file=sys.stderr)

    engine.sampling, start = (temperature, args.top_k, args.top_p), time.time()
    mine = rows[engine.place::engine.processes]
    shares = gather(engine.run(map(conversation, mine), progress))  # every n-th question was ours; in turn, everybody's outcomes
    outcomes = [shares[i % engine.processes][i // engine.processes] for i in range(len(rows))]
    return outcomes, summary(method, rows, outcomes, args.strict, time.time() - start)


def evaluate(engine, rows, args):
    """Either system alone and the vote: an (outcomes, line) of each."""
    return (measure(engine, "IR alone, greedy", rows, lambda row: lorid.system1(row["question"]), args),
            measure(engine, "KG -> DR alone, greedy", rows, lambda row: lorid.system2(row["question"]), args),
            measure(engine, "LoRID", rows, lambda row: lorid.vote(row["question"], args.rounds), args, args.temperature))


def study(engine, rows, args):
    """What else could explain the result? The Deep Reasoner without knowledge and with the teacher's; as many texts as LoRID's, all from the
    Intuitive Reasoner; fewer rounds. Returns (lines, curves): a curve is a list of lines, by rounds or by texts."""
    (_, system1), (_, system2), (votes, vote) = evaluate(engine, rows, args)
    _, blind = measure(engine, "DR without knowledge, greedy", rows, lambda row: lorid.system2(row["question"], ""), args)
    told = []
    if all(row["knowledge"] for row in rows):
        told = [measure(engine, "DR with the teacher's knowledge, greedy", rows,
                        lambda row: lorid.system2(row["question"], "\n".join(row["knowledge"])), args)[1]]
    k = math.ceil(max(vote["texts"], vote["tokens"] / max(1, system1["tokens"])))  # at least LoRID's texts, and about its tokens
    many, _ = measure(engine, "self-consistency", rows, lambda row: lorid.self_consistency(row["question"], k), args, args.temperature)

    def first(outcome, conversation):
        """The outcome, had it been this shorter conversation: its texts would have been the same ones, only fewer."""
        verdict = lorid.replay(conversation, (text for round in outcome.verdict.rounds for text in round if text is not None))
        texts = sum(text is not None for round in verdict.rounds for text in round)
        return Outcome(verdict, outcome.tokens[:texts], outcome.cut[:texts])

    curves = {
        "LoRID": [summary(f"LoRID, {r} round{'s' * (r > 1)}", rows, [first(o, lorid.vote(row["question"], r)) for row, o in zip(rows, votes)], args.strict)
                  for r in range(1, args.rounds + 1)],
        "self-consistency": [summary(f"self-consistency of {n}", rows, [first(o, lorid.self_consistency(row["question"], n)) for row, o in zip(rows, many)])
                             for n in range(1, k + 1)]}
    curves["LoRID"][-1]["seconds"] = vote["seconds"]  # that one was really run
    singles = [Outcome(lorid.replay(lorid.system1(row["question"]), [round.intuitive]), [tokens], [cut])
               for row, o in zip(rows, many) for round, tokens, cut in zip(o.verdict.rounds, o.tokens, o.cut)]
    mean = summary(f"IR alone, sampled: the mean of {k}", [row for row in rows for _ in range(k)], singles)
    mean["low"], mean["high"] = wilson(mean["accuracy"] * len(rows), len(rows))  # k texts about a question are not k questions
    shown = [line for r, line in enumerate(curves["LoRID"], 1) if r in (1, 2, 5, 10, 20, args.rounds)]
    return [system1, mean, system2, blind, *told, curves["self-consistency"][-1], *shown], curves


def table(lines):
    """The lines as a Markdown table; "sure" is the accuracy on the questions agreed upon."""
    text = ["| method | accuracy | 95% interval | rounds | texts | tokens | agreed | sure | cut | seconds |", "|---" * 10 + "|"]
    for r in lines:
        agreed, sure = ("-" if r.get(key) is None else f"{r[key]:.1%}" for key in ("agreed", "sure"))
        seconds = "-" if r["seconds"] is None else f"{r['seconds']:.0f}"
        text.append(f"| {r['method']} | {r['accuracy']:.1%} | {r['low']:.1%} to {r['high']:.1%} | {r['rounds']:.2f} | {r['texts']:.2f} "
                    f"| {r['tokens']:.0f} | {agreed} | {sure} | {r['cut']} | {seconds} |")
    return "\n".join(text)


def plot(curves, path):
    """Two pictures: accuracy against generated tokens, and how right the agreed answers are against how many are agreed upon."""
    from matplotlib.figure import Figure  # for pictures only
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in (("LoRID", "o"), ("self-consistency", "s")):
        left.plot([line["tokens"] for line in curves[name]], [100 * line["accuracy"] for line in curves[name]], marker=marker, ms=3, label=name)
    left.set(xlabel="generated tokens per question", ylabel="accuracy, %")
    left.legend()
    agreed = [line for line in curves["LoRID"] if line["agreed"]]
    right.plot([100 * line["agreed"] for line in agreed], [100 * line["sure"] for line in agreed], marker="o", ms=3)
    right.set(xlabel="questions agreed upon within 1, 2, 3, ... rounds, %", ylabel="accuracy on these, %")
    image = io.BytesIO()
    figure.savefig(image, format=Path(path).suffix[1:] or "png", dpi=150)
    write_whole(path, [image.getvalue()])


# ---------------------------------------------------------------------------------------------------------------------
# One question


def check_question(text, engine):
    """Raises ValueError, with what to do, for an input that is no question or is too long."""
    if not text.strip():
        raise ValueError("the question is empty; ask, for example, \"Mia buys 3 crates of stickers. How many stickers does Mia have now?\"")
    if not any(c.isalpha() for c in text) or not (any(c.isdigit() for c in text) or "?" in text):
        raise ValueError(f"{text.strip()[:60]!r} does not look like a maths question: it needs words, and a number or a question mark.")
    length = max(len(engine.tokenizer.prompt_ids(lorid.prompt(role, text))) for role in lorid.ROLES)
    if length + engine.max_new > engine.limit:
        raise ValueError(f"the question is too long: {length} tokens with its instruction and {engine.max_new} for the answer, "
                         f"but the model has {engine.limit} positions; shorten it, or lower --max-new.")


def aloud(conversation):
    """The same conversation, each round printed as soon as it is over."""
    requests, heard = next(conversation), []
    while True:
        texts = yield requests
        heard += texts
        if len(heard) % 3 == 0:
            print(lorid.transcript(len(heard) // 3, lorid.Round(*heard[-3:])), flush=True)
        try:
            requests = conversation.send(texts)
        except StopIteration as end:
            return end.value


def ask(engine, question, rounds):
    check_question(question, engine)
    [outcome] = engine.run([aloud(lorid.vote(question, rounds))])
    verdict, n = outcome.verdict, len(outcome.verdict.rounds)
    if verdict.agreed:
        print(f"Both systems have said {verdict.answer} after {n} round{'s' * (n > 1)}. Answer: {verdict.answer}")
    elif verdict.answer is not None:
        print(f"No agreement in {n} rounds; most often given: {verdict.answer}")
    else:
        print(f"No agreement, and no answer at all in {n} rounds.")
    if any(outcome.cut):
        print(f"{sum(outcome.cut)} of the {len(outcome.cut)} texts were cut short at {engine.max_new} tokens; --max-new gives them more room.")


def load(args):
    """The engine: the base, its tokenizer, and an adapter per role."""
    folders = {role: Path(getattr(args, role) or Path(args.out) / Path(args.model).resolve().name / role) for role in lorid.ROLES}
    for role, folder in folders.items():
        if not folder.is_dir():
            other = "".join(f" --{key} {value}" for key, value, usual in (("model", args.model, "tiny"), ("out", args.out, "out")) if value != usual)
            raise ValueError(f"no adapter in {folder}; train it first: python train.py --role {role}{other}")
    device, dtype = pick_device(args.device), args.dtype and getattr(torch, args.dtype)
    if device.type == "cpu" and read_config(args.model).hidden_size < 512:
        dtype = dtype or torch.float32  # so that what tiny/ says does not hang on whether a CPU has bfloat16, which would take a tenth less time
    model = load_model(args.model, device, dtype)
    lora.stack(model, folders)
    paths = Path(args.model), Path(args.model).resolve()
    names = {"", *(part.rpartition("--")[2] for path in paths for part in path.parts)}  # in the hub's cache a folder is models--OWNER--NAME
    for folder in folders.values():  # bases of one shape cannot be told apart except by name
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        if base and Path(str(base)).name not in names and not crew()[0]:
            print(f"infer.py: note: {folder} was trained on {base}; is {args.model} the same base?", file=sys.stderr)
    return Engine(pack(lora.fuse(model)), Tokenizer(args.model, args.template), args.rows, args.max_new, args.temperature, args.top_k, args.top_p, args.seed)


def main():
    parser = argparse.ArgumentParser(
        description="Answers maths questions with three LoRA roles on one frozen base, by vote.",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--ask", metavar="QUESTION", help="answer this one question and show the conversation")
    add("--model", default="tiny", help="the base, a Hugging Face model folder, or OWNER/NAME on its hub (default: tiny)")
    for role, (title, *_) in lorid.ROLES.items():
        add(f"--{role}", metavar="DIR", help=f"the {title}'s adapter, a PEFT folder (default: OUT/<model>/{role})")
    add("--out", default="out", help="where train.py --out has put the adapters (default: out)")
    add("--data", help="questions with answers, a JSONL file (default: held-out problems of the toy world)")
    add("--split", choices=("test", "valid"), default="test", help="which of the toy world's; settings are chosen on valid (default: test)")
    add("--limit", type=data.positive, default=500, help="how many questions at most (default: 500)")
    add("--rounds", type=data.positive, default=20, help="most rounds of a vote (default: 20)")
    add("--strict", action="store_true", help="score as the paper does: any agreed answer may be right, no agreement is a loss")
    add("--temperature", type=float, default=0.6, help="of LoRID's samples; the single systems are greedy (default: 0.6)")
    add("--top-k", type=int, default=50, help="sample among the k most likely tokens; 0 is all (default: 50)")
    add("--top-p", type=float, default=0.9, help="and of those, among the fewest that reach this probability (default: 0.9)")
    add("--max-new", type=data.positive, default=256, help="most tokens of one text (default: 256)")
    add("--rows", type=data.positive, default=64, help="texts written at the same time; fewer need less memory (default: 64)")
    add("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    add("--study", action="store_true", help="a longer table: the Deep Reasoner without knowledge and with the teacher's, self-consistency, fewer rounds")
    add("--json", metavar="FILE", help="write the table and its settings to this file, too")
    add("--plot", metavar="FILE", help="with --study: draw accuracy against tokens, and agreement against accuracy (needs matplotlib)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps, which nobody has tested yet (default: auto: cuda, else cpu)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the base (default: bfloat16 where that is fast, else float32)")
    add("--template", choices=TEMPLATES, help="how the base is asked, as in its adapters' training (default: known by the model folder)")
    add("--preset", choices=["paper"], help="the paper's values for all that is not given: " + ", ".join(f"{k} {v}" for k, v in PAPER.items()))
    args = parser.parse_args()
    join_crew(args.device)
    if args.preset:
        args = data.preset(parser, args.preset, PAPER)
    if args.plot and not args.study:
        parser.error("--plot draws what --study measures; give both.")
    if args.plot and not find_spec("matplotlib"):
        parser.error("--plot needs matplotlib; pip install matplotlib.")
    if not (0 <= args.temperature < math.inf and args.top_k >= 0 and 0 < args.top_p <= 1):
        parser.error("--temperature and --top-k must be at least 0, --top-p above 0 and at most 1.")
    for key in ("model", *lorid.ROLES):
        setattr(args, key, data.model_folder(getattr(args, key)))
    if args.ask is not None:
        args.rows = 2  # ir and kg write side by side, then dr
        return ask(load(args), args.ask, args.rounds)

    rows = data.read_rows(args.data)[:args.limit] if args.data else data.toy(args.limit, args.split)
    for row in rows:
        if row["answer"] is None:
            raise ValueError(f"{row['where']}: no \"answer\" to compare with.")
    engine = load(args)
    lines, curves = study(engine, rows, args) if args.study else ([line for _, line in evaluate(engine, rows, args)], {})
    about = dict(questions=len(rows), data=args.data or f"toy world ({args.split})", model=args.model, dtype=str(engine.model.dtype)[6:],
                 device=str(engine.model.device), threads=torch.get_num_threads(), date=str(date.today()),
                 **{key: getattr(args, key) for key in ("rounds", "strict", "temperature", "top_k", "top_p", "max_new", "seed")})
    print(table(lines))
    if unread := [f"{line['method']} {line['unread']}" for line in lines if line["unread"]]:
        print(f"Prompts longer than the model's {engine.limit} positions got no text and count as cut: {', '.join(unread)}.")
    print(", ".join(f"{key.replace('_', '-')} {value}" for key, value in about.items()))
    if args.json and not engine.place:
        write_whole(args.json, [json.dumps(dict(about=about, methods=lines, curves=curves)).encode()])
    if args.plot and not engine.place:
        plot(curves, args.plot)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"infer.py: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):  # a GPU's, a CPU's
            raise
        print("infer.py: the memory is full; give fewer --rows.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

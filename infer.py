"""Inference: sample, vote, count. One frozen base and three adapters answer many questions at once.

    python infer.py             held-out toy problems: IR alone, KG -> DR alone, LoRID, as a table
    python infer.py --study     what else could explain the result: rivals, fewer rounds
    python infer.py --ask "Mia has 8 pens. Mia plays 2 games with the pens. How many pens are left?"
    python infer.py --model models/smollm2 --data test.jsonl --limit 8 --rounds 3

`generate` is the whole of sampling; support/engine.py does the same for hundreds of texts at once.
"""
import support  # isort: skip  # noqa: F401  from here on, Ctrl-C is quiet
import json
import sys
import time
from argparse import RawDescriptionHelpFormatter
from datetime import date
from functools import partial
from pathlib import Path

import torch

import data
import lora
import lorid
from model import load_model, pick_device, read_config, read_json
from support.cli import Parser, base_flags, number, parse, path, positive, printable, run
from support.compare import compare, comparison, markdown, rivals, show, untrained, wilson
from support.distributed import all_gather
from support.engine import Engine, Outcome
from support.files import atomic_write, check_outputs
from support.fused import fuse, pack
from support.journal import open_journal
from support.page import write_page
from support.plots import check_plot, plot_study
from support.terminal import AGREED, Show
from support.tokenizer import TEMPLATES, Tokenizer

# --------------------------------------------------------------------------------------------------
# Sampling


@torch.inference_mode()
def generate(model, prompt, eos_ids, max_new_tokens, draw, rng):
    """A prompt's token ids -> the new ones: one after the other, drawn from what the model says
    after all that is there, until one of eos_ids (which is the last) or max_new_tokens.

    draw(logits (1, V), u (1,)) -> (tokens (1,), ids, cumulative), as below; rng: random.Random. All
    must fit the model's positions. Which adapter it uses, `lora.set_adapter` says. Slow and plain:
    the whole text goes through the model for every token."""
    new = []
    while len(new) < max_new_tokens and not (new and new[-1] in eos_ids):
        ids = torch.tensor([prompt + new], device=model.device)  # (1, T)
        logits = model.logits(model(ids)[:, -1])                 # (1, V), of the last position
        u = torch.tensor([rng.random()], device=model.device)
        new.append(draw(logits, u)[0].item())  # draw gives the token first
    return new


def top_k_top_p(logits, temperature, top_k, top_p):
    """What may be drawn: logits (N, V) -> ids (N, k), the likeliest first, and the running sums of
    their probabilities, cumulative (N, k) in float32, the last one 1.

    Temperature first (softmax(logits / temperature)), then the top_k likeliest, renormalised, then
    of those the smallest set whose probability reaches top_p: a token stays if what stands before
    it is below top_p, so the one that crosses stays, and the first always. What is left out has no
    share of the sums. top_k 0 (or more than V) and top_p 1 keep all; temperature 0 leaves the
    likeliest alone, k = 1. The logits stay as they are."""
    # exercise infer-1, 6 points: divide by the temperature, keep top_k, of these top_p, and add up
    if temperature == 0:
        ids = logits.argmax(-1, keepdim=True)
        return ids, torch.ones(ids.shape, device=ids.device)
    # Sort, then divide: at a tiny temperature all quotients are inf and their order is lost. Then p
    # is nan, no sum is below u, and `sample` takes the first, the likeliest. Float32 after topk: a
    # copy of all logits of a real vocabulary took a seventh of a step.
    logits, ids = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))
    p = (logits.float() / temperature).softmax(-1)
    p = p * (p.cumsum(-1) - p < top_p)
    cumulative = p.cumsum(-1)
    return ids, cumulative / cumulative[:, -1:]
    # end of infer-1


def sample(ids, cumulative, u):
    """One token for each text, the first whose running sum reaches its u, uniform in [0, 1):
    ids and cumulative (N, k), u (N,) -> (N,). Each brings its own u, so that a text does not depend
    on its neighbours."""
    # exercise infer-2, 2 points: find where each u falls
    return ids.gather(-1, (cumulative < u[:, None]).sum(-1, keepdim=True))[:, 0]
    # end of infer-2


def draw(logits, u, temperature=0.0, top_k=50, top_p=0.9):
    """logits (N, V), u (N,) -> tokens (N,), and what they were drawn from, ids and cumulative."""
    ids, cumulative = top_k_top_p(logits, temperature, top_k, top_p)
    return sample(ids, cumulative, u), ids, cumulative


def sampler(args, temperature):
    return partial(draw, temperature=temperature, top_k=args.top_k, top_p=args.top_p)


# --------------------------------------------------------------------------------------------------
# Evaluation


def summary(method, rows, outcomes, strict=False, seconds=None):
    """A method's line of the table: means per question, but truncated, unread (texts not written
    for want of room for their prompts) and seconds are totals; right: 1 or 0 for each question.
    Only a vote is scored strictly."""
    voted, n = method.startswith(("LoRID", "two KG")), len(rows)
    right = [+outcome.verdict.right(row["answer"], strict and voted)
             for outcome, row in zip(outcomes, rows, strict=True)]
    low, high = wilson(sum(right), n)
    line = {
        "method": method, "accuracy": sum(right) / n, "low": low, "high": high, "right": right,
        "rounds": sum(len(outcome.verdict.rounds) for outcome in outcomes) / n,
        "texts": sum(len(outcome.tokens) for outcome in outcomes) / n,
        "tokens": sum(sum(outcome.tokens) for outcome in outcomes) / n}
    if voted:
        agreed = [r for r, o in zip(right, outcomes, strict=True) if o.verdict.agreed]
        share = sum(agreed) / len(agreed) if agreed else None
        line |= {"agreed": len(agreed) / n, "accuracy_when_agreed": share}
    return line | {
        "truncated": sum(sum(outcome.truncated) for outcome in outcomes),
        "unread": sum(outcome.tokens.count(0) for outcome in outcomes), "seconds": seconds}


def measure(engine, journal, method, rows, conversation, args, temperature=0.0):
    """Hold a conversation about each row: (outcomes, their line). The journal keeps its texts."""
    mine = rows[engine.rank::engine.world_size]  # every n-th question is ours

    def progress(done):  # of several processes, the first tells its share
        journal.place = f"{method}: {done}/{len(mine)} questions"
        if sys.stderr.isatty() and not engine.rank:
            print(f"\r{journal.place}", end="\n" * (done == len(mine)), file=sys.stderr)

    spent, start = journal.begin(method, temperature), time.monotonic()
    engine.draw = sampler(args, temperature)
    shares = all_gather(engine.run(map(conversation, mine), progress, journal))
    # question i went to process i % n, as its i // n-th
    outcomes = [shares[i % len(shares)][i // len(shares)] for i in range(len(rows))]
    return outcomes, summary(method, rows, outcomes, args.strict, spent + time.monotonic() - start)


def for_rows(conversation, *more):
    """For `measure`: a row -> the conversation about its question."""
    return lambda row: conversation(row["question"], *more)


def evaluate(engine, journal, rows, args):
    """Either system alone and the vote: an (outcomes, line) of each."""
    held, vote = partial(measure, engine, journal), for_rows(lorid.vote, args.rounds)
    return (held("IR alone, greedy", rows, for_rows(lorid.system1), args),
            held("KG -> DR alone, greedy", rows, for_rows(lorid.system2), args),
            held("LoRID", rows, vote, args, args.temperature))


def shortened(rows, outcomes, conversation, size):
    """The outcomes, had these been shorter conversations, of `size` rounds or texts: their texts
    would have been the same ones, only fewer."""
    shorter = []
    for row, outcome in zip(rows, outcomes, strict=True):
        texts = [text for r in outcome.verdict.rounds for text in r if text is not None]
        verdict = lorid.replay(conversation(row["question"], size), texts)
        used = sum(text is not None for r in verdict.rounds for text in r)
        shorter.append(Outcome(verdict, outcome.tokens[:used], outcome.truncated[:used]))
    return shorter


def mean_of_samples(rows, outcomes, k):
    """The line of the Intuitive Reasoner sampled once: the mean over self-consistency's k texts.
    k texts about a question are not k questions: the interval is that of the questions."""
    singles = []
    for row, o in zip(rows, outcomes, strict=True):
        for r, tokens, truncated in zip(o.verdict.rounds, o.tokens, o.truncated, strict=True):
            verdict = lorid.replay(lorid.system1(row["question"]), [r.intuitive])
            singles.append(Outcome(verdict, [tokens], [truncated]))
    repeated = [row for row in rows for _ in range(k)]
    line = summary(f"IR alone, sampled: the mean of {k}", repeated, singles)
    line["low"], line["high"] = wilson(line["accuracy"] * len(rows), len(rows))
    right = line["right"]
    line["right"] = [sum(right[i:i + k]) / k for i in range(0, len(right), k)]
    return line


def study(engine, journal, rows, args):
    """What else could explain the result? The Deep Reasoner without knowledge and with the
    teacher's; a chat model as it was; as many tokens, but from one system, or from both without
    the rule that they agree; two of one system that agree; fewer rounds.

    Returns (lines, curves, the votes): a curve is a list of lines, by rounds, by texts or by how
    many equal answers end it; KG -> DR alone is a curve of one."""
    (_, ir), (_, kg_dr), (votes, voted) = evaluate(engine, journal, rows, args)
    alone = {"DR without knowledge, greedy": for_rows(lorid.system2, "")}
    if all(row["knowledge"] for row in rows):
        alone["DR with the teacher's knowledge, greedy"] = (
            lambda row: lorid.system2(row["question"], "\n".join(row["knowledge"])))
    if engine.tokenizer.template != "plain":  # a chat model: it can be asked as it is
        alone["the base without adapters, greedy"] = for_rows(untrained)
    held = partial(measure, engine, journal, rows=rows, args=args)
    lines = [ir, kg_dr, *(held(method=name, conversation=c)[1] for name, c in alone.items())]
    many, others, early = rivals(held, ir, kg_dr, voted, args)
    k = len(many[0].tokens)
    by_round = [summary(f"LoRID, {r} round{'s' * (r > 1)}", rows,
                        shortened(rows, votes, lorid.vote, r), args.strict)
                for r in range(1, args.rounds + 1)]
    by_text = [summary(f"self-consistency of {n}", rows,
                       shortened(rows, many, lorid.self_consistency, n))
               for n in range(1, k + 1)]
    by_round[-1]["seconds"] = voted["seconds"]  # that one was really run
    lines.insert(1, mean_of_samples(rows, many, k))
    lines += [by_text[-1], *others]
    lines += [by_round[r - 1] for r in sorted({1, 2, 5, 10, 20, args.rounds}) if r <= args.rounds]
    curves = {"LoRID": by_round, "self-consistency": by_text,
              "IR and KG -> DR until k are equal": early, "KG -> DR alone": [kg_dr]}
    for name, curve in curves.items():
        curves[name] = [dict(line) for line in curve]
        for line in curves[name]:
            del line["right"]  # of each question: only the table's lines keep it
    compare(lines, rows, votes)
    return lines, curves, votes


def table(lines):
    """The lines as a Markdown table."""
    columns = ("method", "accuracy", "95% interval", "rounds", "texts", "tokens", "agreed",
               "accuracy when agreed", "truncated", "seconds")

    return markdown(columns, [(
        line["method"], show(line["accuracy"]), f"{show(line['low'])} to {show(line['high'])}",
        *(show(line[key], ".2f") for key in ("rounds", "texts")), show(line["tokens"], ".0f"),
        *(show(line.get(key)) for key in ("agreed", "accuracy_when_agreed")),
        str(line["truncated"]), show(line["seconds"], ".0f")) for line in lines])


# --------------------------------------------------------------------------------------------------
# One question


def check_question(text, engine):
    if not text.strip():
        raise ValueError('the question is empty; ask, for example, "Mia has 24 cards. Mia takes '
                         'the cards to the fair for 3 days. How many cards does Mia have now?"')
    if not any(c.isalpha() for c in text) or not (any(c.isdigit() for c in text) or "?" in text):
        raise ValueError(f"{text.strip()[:60]!r} does not look like a maths question: it needs "
                         "words, and a number or a question mark.")
    prompts = [lorid.prompt(role, text) for role in lorid.ROLES]
    length = max(len(engine.tokenizer.prompt_ids(prompt)) for prompt in prompts)
    if length + engine.max_new_tokens > engine.limit:
        raise ValueError(f"the question is too long: {length} tokens with its instruction and "
                         f"{engine.max_new_tokens} for the answer, but the model has "
                         f"{engine.limit} positions; shorten it, or lower --max-new-tokens.")


def aloud(conversation, heard):
    """The same conversation; heard(texts) is told all texts so far whenever there are new ones."""
    requests, texts = next(conversation), []
    while True:
        replies = yield requests
        texts += replies
        heard(texts)
        try:
            requests = conversation.send(replies)
        except StopIteration as end:
            return end.value


def ask(engine, question, rounds):
    check_question(question, engine)
    show = Show(engine)  # writes the texts while they come
    [outcome] = engine.run([aloud(lorid.vote(question, rounds), show.heard)])
    verdict, n = outcome.verdict, len(outcome.verdict.rounds)
    if verdict.agreed:
        show.write(f"Both systems have said {verdict.answer} after {n} round{'s' * (n > 1)}. "
                   f"Answer: {verdict.answer}\n", AGREED)
    elif verdict.answer is not None:
        show.write(f"No agreement in {n} round{'s' * (n > 1)}; most often given: "
                   f"{verdict.answer}\n")
    else:
        show.write(f"No agreement, and no answer at all in {n} round{'s' * (n > 1)}.\n")
    if any(outcome.truncated):
        show.write(f"{sum(outcome.truncated)} of the {len(outcome.truncated)} texts were cut short "
                   f"at {engine.max_new_tokens} tokens; --max-new-tokens gives them more room.\n")


# --------------------------------------------------------------------------------------------------
# The command

# What the paper sampled with, from its authors' scripts
PAPER = {"rounds": 20, "temperature": 1.5, "top_k": 50, "top_p": 0.9, "max_new_tokens": 1024,
         "dtype": "bfloat16"}


def adapters(args):
    """Each role's adapter folder."""
    home = Path(args.out) / data.model_name(args.model)
    return {role: Path(getattr(args, role) or home / role) for role in lorid.ROLES}


def load(args):
    """The engine: the base, its tokenizer, and an adapter per role."""
    folders = adapters(args)
    for role, folder in folders.items():
        if not folder.is_dir():
            other = f" --model {args.base}" * (args.base != "tiny")
            other += f" --out {args.out}" * (args.out != "out")
            raise ValueError(f"no adapter in {folder}; train it first: "
                             f"python train.py --role {role}{other}")
    device, dtype = pick_device(args.device), args.dtype and getattr(torch, args.dtype)
    if device.type == "cpu" and read_config(args.model).hidden_size < 512:
        # what tiny/ says shall not hang on whether a CPU has bfloat16, a tenth faster here
        dtype = dtype or torch.float32
    model = load_model(args.model, device, dtype)
    lora.load_adapters(model, folders)
    engine = Engine(pack(fuse(model)), Tokenizer(args.model, args.template),
                    sampler(args, args.temperature), args.slots, args.max_new_tokens, args.seed,
                    not args.no_drafts)
    if not engine.rank:
        check_base_names(args.model, folders)
    return engine


def check_base_names(model, folders):
    """A note where an adapter names another base: bases of one shape are known by name only."""
    paths = Path(model), Path(model).resolve()
    # in the hub's cache a folder is models--OWNER--NAME
    names = {"", *(part.rpartition("--")[2] for path in paths for part in path.parts)}
    for folder in folders.values():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        if base and Path(str(base)).name not in names:
            note = f"infer.py: note: {folder} was trained on {base}; is {model} the same base?"
            print(printable(note, keep=""), file=sys.stderr)


def arguments():
    parser = Parser(
        description="Answers maths questions with three LoRA roles on one frozen base, by vote.",
        formatter_class=RawDescriptionHelpFormatter, epilog=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--ask", metavar="QUESTION", help="answer this one question and show the conversation")
    for role, (title, *_) in lorid.ROLES.items():
        add(f"--{role}", metavar="DIR", type=path,
            help=f"the {title}'s adapter, a PEFT folder (default: OUT/<model>/{role})")
    add("--out", type=path, default="out",
        help="where train.py --out has put the adapters (default: out)")
    add("--data", type=path, help="questions with answers, a JSONL file (default: the toy world's)")
    add("--split", choices=("test", "valid"), default="test",
        help="which of the toy world's; settings are chosen on valid (default: test)")
    add("--limit", type=positive, default=500, help="how many questions at most (default: 500)")
    add("--rounds", type=number(int, above=0, limit=1000), default=20,
        help="most rounds of a vote (default: 20)")
    add("--strict", action="store_true",
        help="score as the paper does: any agreed answer may be right, no agreement is a loss")
    add("--temperature", type=number(float, at_least=0), default=0.6,
        help="of LoRID's samples; the single systems are greedy (default: 0.6)")
    add("--top-k", type=number(int, at_least=0), default=50,
        help="sample among the k most likely tokens; 0 is all (default: 50)")
    add("--top-p", type=number(float, above=0, at_most=1), default=0.9,
        help="and of those, among the fewest that reach this probability (default: 0.9)")
    add("--max-new-tokens", "--max-new", type=positive, default=256, metavar="N",
        help="most tokens of one text (default: 256)")
    add("--slots", "--rows", type=number(int, above=0, limit=10**7), default=64, metavar="N",
        help="texts written at the same time; fewer need less memory (default: 64)")
    add("--no-drafts", action="store_true", help="the same texts, more slowly: nothing is drafted")
    add("--study", action="store_true", help="a longer table: rivals, fewer rounds, given rules")
    add("--json", metavar="FILE", type=path,
        help="write the table and its settings to this file, too; until then, FILE.journal keeps "
             "what is written, and the same command goes on from there")
    add("--html", metavar="FILE", type=path,
        help="write the votes to this file, a page for any browser")
    add("--plot", metavar="FILE", type=path,
        help="with --study: draw its curves there (needs matplotlib)")
    base_flags(add, TEMPLATES, PAPER)
    args = parse(parser, PAPER)
    if args.ask is not None and (args.study or args.json or args.html or args.plot or args.data):
        parser.error("--ask takes one question and no --data, --study, --json, --html or --plot.")
    if args.plot and not args.study:
        parser.error("--plot draws what --study measures; give both.")
    folders = [args.model, *adapters(args).values()]
    check_outputs({"--json": args.json, "--json's journal": args.json and f"{args.json}.journal",
                   "--html": args.html, "--plot": args.plot},
                  [args.data, *folders, *(Path("models", name) for name in folders)])
    if args.plot:
        check_plot(args.plot)
    return args


def settings(args, engine, rows):
    """What a table was made with, to be printed below it."""
    model, keys = engine.model, (
        "rounds", "strict", "temperature", "top_k", "top_p", "max_new_tokens", "seed")
    return dict(
        questions=len(rows), data=args.data or f"toy world ({args.split})", model=args.base,
        dtype=str(model.dtype)[6:], device=str(model.device), threads=torch.get_num_threads(),
        date=str(date.today()), **{key: getattr(args, key) for key in keys})


def main():
    args = arguments()
    args.base = args.model  # as it was named; args.model: its folder
    for key in ("model", *lorid.ROLES):
        setattr(args, key, data.model_folder(getattr(args, key)))
    if args.ask is not None:
        args.slots = 2  # ir and kg write side by side, then dr
        return ask(load(args), args.ask, args.rounds)

    rows = data.read_rows(args.data) if args.data else data.toy(args.limit, args.split)
    rows = rows[:args.limit]
    if lost := [row["where"] for row in rows if row["answer"] is None]:
        raise ValueError(f"{lost[0]}: no \"answer\" to compare with.")
    engine = load(args)
    about, folders = settings(args, engine, rows), {"model": args.model, **adapters(args)}
    told = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in about.items())
    more = {"device": engine.model.device.type, "template": engine.tokenizer.template}
    with open_journal(args.json, about | more, rows, folders) as journal:
        if args.study:
            lines, curves, votes = study(engine, journal, rows, args)
        else:
            *_, (votes, _) = pairs = evaluate(engine, journal, rows, args)
            lines, curves = [line for _, line in pairs], {}
        if args.plot and not engine.rank:
            plot_study(curves, args.plot)
        if args.html and not engine.rank:
            write_page(args.html, table(lines), told, rows, votes, args.strict)
        if args.json and not engine.rank:
            result = {"about": about, "methods": lines, "curves": curves}
            atomic_write(args.json, [json.dumps(result).encode()])
    print(table(lines))
    if args.study:
        print(f"\n{comparison(lines)}\n")
    if unread := [f"{line['method']} {line['unread']}" for line in lines if line["unread"]]:
        print(f"Prompts longer than the model's {engine.limit} positions got no text and count as "
              f"truncated: {', '.join(unread)}.")
    print(told)


if __name__ == "__main__":
    run(main, advice="; give fewer --slots")

"""What the figures rest on: the rows, prompts, settings and adapters behind every line of the
tables of infer.py, and the texts that train.py teaches each role and measures it by.

Both scripts run whole, through main(). At one place each meets a recorder: infer.py where the
engine is handed conversations (a script answers them), train.py where examples reach the loss. What
must have been recorded is said here after the paper's method, with the rows of the toy world and
the files of adapters, read by the safetensors library.
"""
import io
import json
import math
import random
import re
import shutil
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import infer
import lora
import train
from model import load_model
from support.engine import Engine, Outcome
from support.tokenizer import Tokenizer
from tiny.world import toy

ROOT = Path(train.__file__).parent
TINY = ROOT / "tiny"
PROMPTS = {
    "ir": "Please answer this MATH question step by step.\n{question}",
    "kg": "Please output knowledge needed to solve the MATH question step by step.\n"
          "Question: {question}\n\nKnowledge: ",
    "dr": "Please reason step by step based on the given MATH question and knowledge, "
          "and output the final answer.\n"
          "Question: {question}\n\nKnowledge: {knowledge}\n\nRationale: "}


def prompt(role, row, knowledge=None):
    return PROMPTS[role].format(question=row["question"], knowledge=knowledge)


def rules(row):
    return "\n".join(row["knowledge"])


def problems(rows):
    """What is the same problem, in whatever words: kinds of events and numbers."""
    return {str([row["kinds"], row["numbers"]]) for row in rows}


def run_main(script, *words):
    """The script's main() in this process; returns what it prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words), "--device", "cpu"])
        script.main()
    return printed.getvalue()


def write_rows(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --------------------------------------------------------------------------------------------------
# What each role is trained on


@dataclass
class Training:
    """One role's training: the examples that reached the loss, with gradients and without."""
    model: torch.nn.Module
    learned: list = field(default_factory=list)
    held_out: list = field(default_factory=list)  # in the end
    measured: list = field(default_factory=list)  # on the way
    modes: set = field(default_factory=set)  # (with gradients?, in training mode?)


def record_training(loss, *words):
    """Run train.py with `loss` in place of its own: (a Training of each role, the print)."""
    trainings, measure = [], train.val_loss

    def measuring(*args):  # only the last measurement is the one that is printed
        training = trainings[-1]
        training.measured, training.held_out = training.measured + training.held_out, []
        return measure(*args)

    def recorder(model, examples):
        if not trainings or trainings[-1].model is not model:
            trainings.append(Training(model))
        gradients = torch.is_grad_enabled()
        trainings[-1].modes.add((gradients, model.training))
        part = trainings[-1].learned if gradients else trainings[-1].held_out
        part += examples
        return loss(model, examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "summed_loss", recorder)
        patch.setattr(train, "val_loss", measuring)
        printed = run_main(train, *words)
    return trainings, printed


def no_loss(model, examples):
    """Something that has gradients without a pass over the model: for what is learned, not how."""
    return sum(p.sum() for p in model.parameters() if p.requires_grad)


def texts_of(examples):
    """(what is asked, what is supervised) of each example, decoded."""
    tokenizer, texts = Tokenizer(TINY), []
    for ids, mask in examples:
        start = mask.index(1)
        assert mask == [0] * start + [1] * (len(ids) - start)
        texts.append((tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])))
    return texts


def taught(role, rows):
    """The same by the paper: ir and dr learn the solution, kg the rules; dr is told the rules."""
    texts = []
    for row in rows:
        solution = f"{row['rationale']}\n--> {row['answer']} END"
        texts.append((prompt(role, row, rules(row)) + "\n",
                      (rules(row) if role == "kg" else solution) + "<|endoftext|>"))
    return texts


def test_by_default_each_role_learns_its_own_texts_of_the_training_split(tmp_path):
    """`python train.py`: 1,500 problems once, and 4 again in the last of 47 steps of 32. Held out
    are 200 problems of the split "valid"."""
    trainings, _ = record_training(no_loss, "--out", tmp_path)
    learned, held_out = toy(1500, "train", 0), toy(200, "valid", 0)
    assert not problems(learned) & problems(held_out)
    for role, training in zip(PROMPTS, trainings, strict=True):
        counts = Counter(texts_of(training.learned))
        assert counts.keys() == set(taught(role, learned))
        assert Counter(counts.values()) == {1: 1496, 2: 4}
        assert sorted(texts_of(training.held_out)) == sorted(taught(role, held_out))
        assert set(texts_of(training.measured)) < set(texts_of(training.held_out))


@pytest.mark.parametrize("role", ["ir", "kg", "dr"])
def test_rows_of_a_file_are_learned_or_held_out_but_never_both(role, tmp_path):
    """60 rows, two to an id: 1 in 20 ids is held out."""
    rows = [row | {"id": i // 2} for i, row in enumerate(toy(60, "train", 7))]
    file = write_rows(rows, tmp_path / "rows.jsonl")
    [training], _ = record_training(
        no_loss, "--role", role, "--data", file, "--steps", 1, "--batch", 58, "--out", tmp_path)
    held_out = set(texts_of(training.held_out))
    ids = {row["id"] for row in rows if set(taught(role, [row])) & held_out}
    assert len(ids) == 1
    for part, inside in ((training.held_out, True), (training.learned, False)):
        chosen = [row for row in rows if (row["id"] in ids) == inside]
        assert sorted(texts_of(part)) == sorted(taught(role, chosen))


def test_the_seed_decides_the_order_of_examples_and_which_toy_problems(tmp_path):
    """Two steps of ten out of forty rows: the same ones with the same seed, others with another."""
    file = write_rows(toy(42, "train", 7), tmp_path / "rows.jsonl")
    common = ["--role", "ir", "--steps", 2, "--batch", 10, "--out", tmp_path]

    def steps(*words):
        [training], _ = record_training(no_loss, *common, *words)
        texts = texts_of(training.learned)
        assert len(set(texts)) == 20
        return set(texts[:10]), set(texts[10:])

    assert steps("--data", file, "--seed", 1) == steps("--data", file, "--seed", 1)
    assert steps("--data", file, "--seed", 1) != steps("--data", file, "--seed", 2)
    for seed in (0, 3):
        first, second = steps("--examples", 20, "--seed", seed)
        assert first | second == set(taught("ir", toy(20, "train", seed)))


# --------------------------------------------------------------------------------------------------
# A short real training, for its held-out loss, and for adapters to load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder for --out, the three Trainings, the print) of three large steps with dropout."""
    out = tmp_path_factory.mktemp("out")
    file = write_rows(toy(200, "train", 0), out / "rows.jsonl")
    trainings, printed = record_training(
        train.summed_loss, "--data", file, "--batch", 8, "--steps", 3, "--lr", 0.01,
        "--dropout", 0.5, "--dtype", "float32", "--out", out)
    return out, trainings, printed


def adapter_of(folder):
    """{layer: alpha / r * B A}, read by the safetensors library."""
    safetensors = pytest.importorskip("safetensors.torch")
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = safetensors.load_file(folder / "adapter_model.safetensors")
    scale, changes = config["lora_alpha"] / config["r"], {}
    for name, A in weights.items():
        if found := re.fullmatch(r"base_model\.model\.(.+)\.lora_A\.weight", name):
            changes[found[1]] = scale * weights[name.replace("lora_A", "lora_B")] @ A
    assert len(weights) == 2 * len(changes)
    return changes


def adapted_base(folder):
    """A plain model: the built-in base, its matrices changed by that adapter."""
    model = load_model(TINY, dtype=torch.float32).requires_grad_(False).eval()
    for layer, change in adapter_of(folder).items():
        model.get_submodule(layer).weight += change
    return model


def test_held_out_loss_is_the_mean_over_supervised_tokens_without_dropout(trained):
    """Example by example, by the base with the adapter that was saved."""
    out, trainings, printed = trained
    announced = re.findall(r"held-out loss ([\d.]+) per token", printed)
    for role, training, loss in zip(PROMPTS, trainings, announced, strict=True):
        assert training.modes == {(True, True), (False, False)}  # dropout only while it learns
        assert len(training.held_out) == 10
        model, losses = adapted_base(out / "tiny" / role), []
        for ids, mask in training.held_out:
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([ids])))[0]
            token_losses = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
            losses.append(token_losses[torch.tensor(mask[1:]) == 1])
        assert torch.cat(losses).mean().item() == pytest.approx(float(loss), abs=2e-4)


# --------------------------------------------------------------------------------------------------
# What each line of the tables is made of


@dataclass
class Run:
    """What the engine was asked for by one method."""
    chances: torch.Tensor  # what is drawn from LOGITS, and how likely
    max_new_tokens: int
    seed: int
    conversations: list = field(default_factory=list)  # a question's [(role, prompt, text, tokens)]


LOGITS = torch.linspace(4, 0, 200)  # they fall, so the likeliest k are the first k


def chances_of(draw):
    """The probability of each token where the logits are LOGITS, as the engine's draw has it."""
    _, ids, cumulative = draw(LOGITS[None], torch.tensor([0.5]))
    each = cumulative[0].diff(prepend=torch.zeros(1))
    return torch.zeros(len(LOGITS)).scatter(0, ids[0], each)


def chances(temperature, top_k, top_p):
    """The same by definition: temperature, the top k renormalised, the fewest that reach top p."""
    if temperature == 0:
        return F.one_hot(torch.tensor(0), len(LOGITS)).float()
    p = (LOGITS / temperature).softmax(0)
    p[top_k:] = 0
    p /= p.sum()
    p[p.cumsum(0) - p >= top_p] = 0
    return p / p.sum()


def hold(conversation, history, script):
    """Hold a conversation with the script in the model's place, script(role, prompt, number) ->
    (text, tokens), and note it in history; returns its Outcome."""
    texts = None
    try:
        while True:
            requests, texts = conversation.send(texts), []
            for role, asked in requests:
                text, tokens = script(role, asked, len(history))
                history.append((role, asked, text, tokens))
                texts.append(text)
    except StopIteration as end:
        tokens = [tokens for *_, tokens in history]
        return Outcome(end.value, tokens, [False] * len(tokens))


def write_text(answers, sampled, wordiness, role, asked, number):
    """The script: rules, or a solution, often right, now and then without an answer. Each differs
    by prompt, turn and if sampled; sampled texts have `wordiness` times a greedy one's tokens."""
    rng = random.Random(f"{sampled} {asked} {number}")
    tokens = rng.randrange(10, 20) * (wordiness if sampled else 1)
    if role == "kg":
        return f"Rule {rng.random()}.\nRule {rng.random()}.", tokens
    question = asked.partition("\n")[2].removeprefix("Question: ").partition("\n\n")[0]
    answer = answers.get(question, 0) + rng.choice((0, 0, 1, 2, 3))
    return rng.choice([f"So it is.\n--> {answer} END"] * 9 + ["I do not know."]), tokens


def record_runs(rows, wordiness, *words):
    """Run infer.py with the script: ([Run], the print)."""
    runs = []
    answers = {row["question"]: int(row["answer"]) for row in rows}

    class Recorder(Engine):
        def run(self, conversations, progress=None, texts=None):
            run = Run(chances_of(self.draw), self.max_new_tokens, self.seed)
            runs.append(run)
            script = partial(write_text, answers, (run.chances > 0).sum() > 1, wordiness)
            outcomes = []
            for conversation in conversations:
                run.conversations.append([])
                outcomes.append(hold(conversation, run.conversations[-1], script))
            return outcomes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "Engine", Recorder)
        printed = run_main(infer, *words)
    return runs, printed


def record_tables(tmp_path, rows, wordiness, *words):
    """The same, and what --json wrote: ([Run], the lines, the print)."""
    file = tmp_path / "lines.json"
    runs, printed = record_runs(rows, wordiness, *words, "--json", file)
    return runs, json.loads(file.read_text()), printed


def answer_of(text):
    return text.partition("--> ")[2].removesuffix(" END") or None


def majority(answers):
    """The most frequent answer, of equals the first."""
    given = [answer for answer in answers if answer is not None]
    return max(given, key=given.count, default=None)


def decide(method, texts, most):
    """The method's (answer, agreed, number of texts it used), of at most `most` rounds or texts."""
    answers = [answer_of(text) for text in texts]
    if method == "self-consistency":
        return majority(answers[:most]), None, most
    if method.startswith("pooled"):  # kg's texts state no answer
        return majority(answers), None, len(texts)
    if method == "two deep":  # texts: kg, dr, kg, dr, kg, dr, ...
        deep = [answers[1::4], answers[3::4]]
        agreed = set(deep[0]) & set(deep[1]) - {None}
        given = [answer for pair in zip(*deep, strict=True) for answer in pair]
        return (majority([a for a in given if a in agreed or not agreed]), bool(agreed),
                len(texts))
    if method != "LoRID":
        return answers[-1], None, len(texts)
    agreed, given, rounds = set(), [], 0
    while not agreed and rounds < most:  # texts: ir, kg, dr, ir, kg, dr, ...
        given += [answers[3 * rounds], answers[3 * rounds + 2]]
        agreed = set(given[::2]) & set(given[1::2]) - {None}
        rounds += 1
    return majority([a for a in given if a in agreed or not agreed]), bool(agreed), 3 * rounds


def requests_of(method, row, texts, most):
    """What the paper's method asks about a question, given the texts that it got."""
    ir, kg = ("ir", prompt("ir", row)), ("kg", prompt("kg", row))

    def dr(knowledge):
        return "dr", prompt("dr", row, knowledge)

    match method:
        case "IR alone":
            return [ir]
        case "KG -> DR alone":
            return [kg, dr(texts[0])]
        case "DR without knowledge":
            return [dr("")]
        case "DR with the teacher's knowledge":
            return [dr(rules(row))]
        case "self-consistency":
            return [ir] * most
        case "pooled chains":
            return [request for t in range(most) for request in (kg, dr(texts[2 * t]))]
        case "pooled":
            return [request for t in range(most) for request in (ir, kg, dr(texts[3 * t + 1]))]
        case "pooled, early":
            turns, enough = most
            return requests_of("pooled", row, texts, first_turn(texts, turns, enough))
        case "two deep":
            turns = most
            for t in range(turns, 0, -1):  # the first turn by which both have said the same
                if decide(method, texts[:4 * t], most)[1]:
                    turns = t
            return [request for t in range(2 * turns) for request in (kg, dr(texts[2 * t]))]
        case "LoRID":
            rounds = decide(method, texts, most)[2] // 3
            return [request for t in range(rounds) for request in (ir, kg, dr(texts[3 * t + 1]))]


def first_turn(texts, turns, enough):
    """The first turn by which some answer was given so often; texts: ir, kg, dr, ir, kg, dr, ..."""
    answers = [answer_of(text) for text in texts]
    for t in range(1, turns):
        given = [answer for answer in answers[:3 * t] if answer is not None]
        if given and given.count(majority(given)) >= enough:
            return t
    return turns


def line_of(method, run, rows, most=None):
    """The figures that a line of the table must show, from what was recorded."""
    right, agreed, used, tokens = [], [], [], []
    for row, conversation in zip(rows, run.conversations, strict=True):
        answer, both, n = decide(method, [text for *_, text, _ in conversation], most)
        right.append(answer == row["answer"])
        agreed.append(both)
        used.append(n)
        tokens.append(sum(count for *_, count in conversation[:n]))
    line = {"accuracy": sum(right), "texts": sum(used), "tokens": sum(tokens)}
    line = {key: total / len(rows) for key, total in line.items()} | {"right": right}
    if method in ("LoRID", "two deep"):
        line["agreed"] = sum(agreed) / len(rows)
        both = sum(a and b for a, b in zip(right, agreed, strict=True))
        line["accuracy_when_agreed"] = both / sum(agreed)
    return line


def assert_run(run, method, rows, sampling, most=None, seed=0):
    """The method's requests about every row; sampling: temperature, top k, top p."""
    assert torch.allclose(run.chances, chances(*sampling), atol=1e-6), method
    assert (run.max_new_tokens, run.seed) == (256, seed)
    for row, conversation in zip(rows, run.conversations, strict=True):
        texts = [text for *_, text, _ in conversation]
        requests = [(role, asked) for role, asked, *_ in conversation]
        assert requests == requests_of(method, row, texts, most), method


def assert_line(line, method, wanted, printed=None):
    figures = {key: x for key, x in wanted.items() if key != "right"}
    assert line["method"] == method
    if "right" in line:  # a curve's points have no more than their means
        assert line["right"] == pytest.approx([+x for x in wanted["right"]])
    assert {key: line[key] for key in figures} == pytest.approx(figures), method
    if printed is not None:
        assert f"| {method} | {wanted['accuracy']:.1%} |" in printed


def test_by_default_the_table_is_made_of_the_held_out_problems(trained, tmp_path):
    """`python infer.py`: 500 problems of the split "test"; both systems greedy, then LoRID."""
    rows, greedy, sampled = toy(500, "test", 0), (0.0, 50, 0.9), (0.6, 50, 0.9)
    runs, written, printed = record_tables(tmp_path, rows, 1, "--out", trained[0])
    methods = ("IR alone", ", greedy"), ("KG -> DR alone", ", greedy"), ("LoRID", "")
    for run, line, (method, more) in zip(runs, written["methods"], methods, strict=True):
        assert_run(run, method, rows, greedy if more else sampled, 20)
        assert_line(line, method + more, line_of(method, run, rows, 20), printed)
    assert not problems(rows) & problems([*toy(1500, "train"), *toy(200, "valid")])


SINGLES = ("IR alone", "KG -> DR alone", "DR without knowledge", "DR with the teacher's knowledge")


def lines_of_study(singles, vote, many, rivals, rows, rounds, k):
    """The figures of the table and of both curves, [(name, figures)] each."""
    votes = [(f"LoRID, {r} round{'s' * (r > 1)}", line_of("LoRID", vote, rows, r))
             for r in range(1, rounds + 1)]
    choices = [(f"self-consistency of {n}", line_of("self-consistency", many, rows, n))
               for n in range(1, k + 1)]
    right = [answer_of(text) == row["answer"]
             for row, conversation in zip(rows, many.conversations, strict=True)
             for *_, text, _ in conversation]
    mean = {"accuracy": sum(right) / len(right), "texts": 1,
            "tokens": choices[-1][1]["tokens"] / k,
            "right": [sum(right[i:i + k]) / k for i in range(0, len(right), k)]}
    first, *others = [(f"{method}, greedy", line_of(method, run, rows))
                      for method, run in zip(SINGLES, singles, strict=True)]
    mean = f"IR alone, sampled: the mean of {k}", mean
    return [first, mean, *others, choices[-1], *rivals, *votes], votes, choices


@pytest.mark.parametrize("wordiness", [4, 0.5])
def test_every_line_of_the_study_is_made_of_what_it_says(wordiness, trained, tmp_path):
    """Self-consistency has at least LoRID's texts, and at least its tokens, as IR greedily counts
    them: the former decides where samples are short, the latter where they are long."""
    rows, greedy, sampled = toy(25, "valid", 0), (0.0, 60, 0.8), (0.8, 60, 0.8)
    runs, written, printed = record_tables(
        tmp_path, rows, wordiness, "--study", "--split", "valid", "--limit", 25, "--rounds", 3,
        "--temperature", 0.8, "--top-k", 60, "--top-p", 0.8, "--seed", 5, "--out", trained[0])
    ir, kg_dr, vote, blind, teacher, many, chains, mixed, *early, deep = runs
    texts, tokens = (line_of("LoRID", vote, rows, 3)[key] for key in ("texts", "tokens"))
    by_tokens = tokens / line_of("IR alone", ir, rows)["tokens"]
    k = max(math.ceil(texts), math.ceil(by_tokens))
    assert (by_tokens > texts + 1) == (wordiness > 1)  # or one of the two would go untested

    singles = [ir, kg_dr, blind, teacher]
    for method, run in zip(SINGLES, singles, strict=True):
        assert_run(run, method, rows, greedy, seed=5)
    assert_run(vote, "LoRID", rows, sampled, 3, seed=5)
    assert_run(many, "self-consistency", rows, sampled, k, seed=5)

    # the rivals have at least LoRID's tokens, as greedy texts count them
    ir, kg_dr = (line_of(method, run, rows)["tokens"]
                 for method, run in zip(SINGLES[:2], singles[:2], strict=True))
    n, m = math.ceil(tokens / kg_dr), math.ceil(tokens / (ir + kg_dr))
    assert_run(chains, "pooled chains", rows, sampled, n, seed=5)
    assert_run(mixed, "pooled", rows, sampled, m, seed=5)
    for enough, run in enumerate(early, 1):  # or themselves, by the least number that does
        assert_run(run, "pooled, early", rows, sampled, (3, enough), seed=5)
        written_tokens = line_of("pooled", run, rows)["tokens"]
        assert (written_tokens < tokens) == (run is not early[-1])
    assert_run(deep, "two deep", rows, sampled, 3, seed=5)
    rivals = [(f"majority of {n} KG -> DR", line_of("pooled", chains, rows)),
              (f"majority of {m} IR and {m} KG -> DR", line_of("pooled", mixed, rows)),
              (f"IR and KG -> DR until {len(early)} are equal", line_of("pooled", early[-1], rows)),
              ("two KG -> DR that must agree", line_of("two deep", deep, rows))]

    lines, votes, choices = lines_of_study(singles, vote, many, rivals, rows, 3, k)
    assert 0 < votes[0][1]["agreed"] < votes[-1][1]["agreed"] < 1  # all that can happen does
    for line, wanted in zip(written["methods"], lines, strict=True):
        assert "right" in line
        assert_line(line, *wanted, printed)
    stopped = [(f"IR and KG -> DR until {enough} are equal", line_of("pooled", run, rows))
               for enough, run in enumerate(early, 1)]
    curves = {"LoRID": votes, "self-consistency": choices,
              "IR and KG -> DR until k are equal": stopped, "KG -> DR alone": lines[2:3]}
    assert written["curves"].keys() == curves.keys()
    for name, curve in curves.items():
        for line, wanted in zip(written["curves"][name], curve, strict=True):
            assert_line(line, *wanted)


def test_rows_of_a_file_are_asked_in_order(trained, tmp_path):
    """The first --limit of them; where one has no knowledge, there is no line of the teacher's."""
    rows = toy(5, "train", 9)
    file = write_rows([*rows[:3], rows[3] | {"knowledge": []}, rows[4]], tmp_path / "rows.jsonl")
    for limit, teacher in ((3, True), (4, False)):
        runs, written, _ = record_tables(
            tmp_path, rows, 1, "--study", "--data", file, "--limit", limit, "--rounds", 2,
            "--out", trained[0])
        assert_run(runs[0], "IR alone", rows[:limit], (0.0, 50, 0.9))
        assert any("teacher" in line["method"] for line in written["methods"]) == teacher
        assert len(runs) >= 9 + teacher


def test_one_question_is_asked_by_a_vote_with_the_settings_given(trained):
    rows, common = toy(1, "test", 4), ["--out", trained[0], "--rounds", 2]
    flags = ["--temperature", 0.8, "--top-k", 60, "--top-p", 0.8, "--seed", 5]
    for words, sampling, seed in (([], (0.6, 50, 0.9), 0), (flags, (0.8, 60, 0.8), 5)):
        [run], _ = record_runs(rows, 1, "--ask", rows[0]["question"], *common, *words)
        assert_run(run, "LoRID", rows, sampling, 2, seed)


# --------------------------------------------------------------------------------------------------
# Which adapter speaks in which role


def changes(model, role):
    """{layer: what the adapter that is on adds to the layer's matrix}"""
    lora.set_adapter(model, role)
    found = {}
    for path, layer in lora.lora_layers(model):
        unit = torch.eye(layer.base.in_features)
        found[path] = (layer(unit) - layer.base(unit)).T
    lora.set_adapter(model, None)
    return found


@torch.no_grad()
def greedy_text(model, text, length):
    """No cache, no batch: the whole text through the model for every token."""
    tokenizer = Tokenizer(TINY)
    asked, ids = tokenizer.prompt_ids(text), []
    while len(ids) < length:
        ids.append(model.logits(model(torch.tensor([asked + ids]))[0, -1]).argmax().item())
        if ids[-1] in tokenizer.eos_ids:
            return tokenizer.decode(ids[:-1])
    return tokenizer.decode(ids).rpartition("\n")[0]  # half a line may hold half a number


def overhear(conversation, heard):
    """The same conversation, noted as (role, prompt, text)."""
    requests = next(conversation)
    while True:
        texts = yield requests
        heard += [(*asked, text) for asked, text in zip(requests, texts, strict=True)]
        try:
            requests = conversation.send(texts)
        except StopIteration as end:
            return end.value


def test_each_role_speaks_with_the_adapter_of_its_folder(trained, tmp_path, monkeypatch):
    """Number by number as the safetensors library reads it, and letter by letter as a plain model
    with the changed matrices writes. Two folders are found in --out, kg's is named by a flag."""
    shutil.copytree(trained[0], tmp_path / "out")
    (tmp_path / "out" / "tiny" / "kg").rename(tmp_path / "named")
    folders = {role: tmp_path / "out" / "tiny" / role for role in PROMPTS}
    folders["kg"] = tmp_path / "named"
    loaded, heard = {}, []

    def load_adapters(model, folders, plain=lora.load_adapters):
        plain(model, folders)
        loaded.update({role: changes(model, role) for role in PROMPTS})

    class Listener(Engine):
        def run(self, conversations, progress=None, texts=None):
            return super().run(overhear(conversation, heard) for conversation in conversations)
    monkeypatch.setattr(lora, "load_adapters", load_adapters)
    monkeypatch.setattr(infer, "Engine", Listener)
    run_main(infer, "--out", tmp_path / "out", "--kg", folders["kg"], "--limit", 2, "--rounds", 1,
             "--temperature", 0, "--max-new-tokens", 40)

    for role, folder in folders.items():
        wanted = adapter_of(folder)
        assert loaded[role].keys() == wanted.keys() and len(wanted) == 6 * 4
        for layer, change in wanted.items():
            assert (loaded[role][layer] - change).abs().max() <= 1e-5 < change.abs().max() / 100
        model = adapted_base(folder)
        texts = {(asked, text) for speaker, asked, text in heard if speaker == role}
        assert len(texts) >= 2
        for asked, text in texts:
            assert text == greedy_text(model, asked, 40)

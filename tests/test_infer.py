"""infer.py: the naive loop against transformers and peft, the sampler against its own definition,
then the tables, the study, --ask and the command line. The engine: test_scheduling.py."""
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import pytest
import torch
from conftest import ROOT
from test_scheduling import MANY_ENDS, ROLES, engine_of, plain_model, questions, random_base

import infer
import lora
import lorid
import train
from model import load_model
from support import cli
from support.engine import Drafts, Outcome
from support.tokenizer import Tokenizer
from tiny.world import toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random base with three random adapters in it: ir/, kg/, dr/."""
    return random_base(tmp_path_factory.mktemp("infer") / "base")


def run_script(script, *words, cwd=ROOT):
    """The script as a command, but in this process: what it printed, and its exit status."""
    printed, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(errors):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main)
    status = stop.value.code or 0
    return subprocess.CompletedProcess(words, status, printed.getvalue(), errors.getvalue())


run = partial(run_script, infer)


def run_alone(script, *words, processes=None):
    """The same in processes of its own, with one thread each."""
    crew = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *crew * bool(processes), str(ROOT / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})


def adapters(folder):
    return [word for role in ROLES for word in (f"--{role}", str(folder / role))]


def assert_refused(done, *says):
    """One line on stderr, exit status 2, and nothing else."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert all(part in done.stderr for part in says), done.stderr


# --------------------------------------------------------------------------------------------------
# The naive loop


@pytest.mark.parametrize("eos_ids", [[0], MANY_ENDS], ids=["one end", "many ends"])
@pytest.mark.parametrize("role", [None, "dr"])
def test_the_naive_loop_equals_transformers(folder, role, eos_ids):
    """Greedily, token by token, the bare base and an adapter, which peft reads."""
    transformers = pytest.importorskip("transformers")
    model = plain_model(folder, role or "ir", torch.float32)
    lora.set_adapter(model, role)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if role:
        theirs = pytest.importorskip("peft").PeftModel.from_pretrained(theirs, folder / role)
    tokenizer, lengths = Tokenizer(folder), set()
    for question in questions(24)[-5:]:  # of these the base ends none by itself
        ids = tokenizer.prompt_ids(question)
        new = infer.generate(model, ids, eos_ids, 20, infer.draw, random.Random(0))
        wanted = theirs.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long(),
            do_sample=False, max_new_tokens=20, eos_token_id=eos_ids, pad_token_id=0)
        assert ids + new == wanted[0].tolist()
        lengths.add(len(new))
    assert max(lengths) == 20 and (len(lengths) > 1) == (len(eos_ids) > 1)
    lora.set_adapter(model, role or "ir")
    assert infer.generate(model, ids, eos_ids, 0, infer.draw, random.Random(0)) == []


def distribution(logits, temperature, top_k, top_p):
    """The definition, token by token, in plain Python: {token: its probability}, the likeliest
    first."""
    p = [float(x) for x in (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(-1)]
    order = sorted(range(len(p)), key=lambda i: -p[i])[:top_k or None]
    whole, kept, before = sum(p[i] for i in order), {}, 0.0
    for i in order:
        if before >= top_p:
            break
        kept[i] = p[i]
        before += p[i] / whole
    return {i: q / sum(kept.values()) for i, q in kept.items()}


@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, 0, 1.0), (0.7, 50, 0.9)])
def test_the_naive_loop_samples_by_the_definition(folder, temperature, top_k, top_p):
    """Each token is the first by which the probabilities, the likeliest first, sum up to the next
    random number, given all that stands before it; in float64."""
    model, tokenizer = plain_model(folder, "ir", torch.float64), Tokenizer(folder)
    draw = partial(infer.draw, temperature=temperature, top_k=top_k, top_p=top_p)
    for question in questions(3):
        ids = tokenizer.prompt_ids(question)
        new = infer.generate(model, ids, [], 15, draw, random.Random(question))
        rng, wanted = random.Random(question), []
        for n in range(15):
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([ids + new[:n]])))[0, -1]
            chances, u = distribution(logits.tolist(), temperature, top_k, top_p), rng.random()
            sums = zip(chances, itertools.accumulate(chances.values()), strict=True)
            wanted.append(next(token for token, total in sums if total >= u))
        assert new == wanted and len(set(new)) > 5


# --------------------------------------------------------------------------------------------------
# The sampler


@pytest.mark.parametrize("temperature, top_k, top_p", [
    (1.0, 0, 1.0), (1.5, 50, 0.9), (0.7, 4, 1.0), (1.0, 0, 0.6), (2.0, 3, 0.5), (0.3, 50, 0.9)])
def test_sampling_follows_its_definition(temperature, top_k, top_p):
    """Random numbers swept evenly over [0, 1) draw every token in proportion to its probability,
    and never one that was left out."""
    logits = [2.0, -1.0, 0.5, 1.9, 0.0, -3.0, 1.0, 0.7]
    n = 20_000
    u = (torch.arange(n) + 0.5) / n
    drawn, *choice = infer.draw(
        torch.tensor(logits).expand(n, -1), u, temperature, top_k, top_p)
    counts, wanted = Counter(drawn.tolist()), distribution(logits, temperature, top_k, top_p)
    assert counts.keys() == wanted.keys()
    assert all(abs(counts[i] / n - q) < 2e-4 for i, q in wanted.items())
    # what is returned besides is what they were drawn from: the likeliest first, sums up to 1
    ids, cumulative = choice
    assert ids[0, :len(wanted)].tolist() == list(wanted) and cumulative.dtype == torch.float32
    sums = list(itertools.accumulate(wanted.values()))
    assert cumulative[0, :len(sums)].tolist() == pytest.approx(sums, abs=1e-6)
    assert (cumulative[:, len(sums) - 1:] == 1).all()
    assert torch.equal(infer.sample(ids, cumulative, u), drawn)


def test_each_row_is_drawn_with_its_own_number():
    logits = torch.zeros(3, 4) + torch.tensor([3.0, 2.0, 1.0, 0.0])
    likeliest, least, middle = infer.draw(logits, torch.tensor([0.0, 0.999, 0.7]), 1.0, 0, 1.0)[0]
    assert (likeliest, least, middle) == (0, 3, 1)


def test_temperature_zero_is_the_most_likely_and_extremes_stay_in_range():
    torch.manual_seed(0)
    logits = torch.randn(5, 30)

    def draw(u, *settings):
        return infer.draw(logits, u, *settings)[0]
    likeliest = logits.argmax(-1)
    assert torch.equal(draw(torch.rand(5), 0.0, 50, 0.9), likeliest)
    assert torch.equal(draw(torch.rand(5)), likeliest)  # which is the default
    assert torch.equal(draw(torch.full((5,), 0.999), 1.0, 0, 1e-9), likeliest)  # one always stays
    assert draw(torch.ones(5), 1.0, 50, 0.9).max() < 30  # float32 may round u up to 1
    assert torch.equal(draw(torch.rand(5), 1e-45, 50, 0.9), likeliest)


# --------------------------------------------------------------------------------------------------
# The figures


def test_wilson_interval():
    """Against the score equation it solves: (p - p0)^2 = z^2 p0 (1 - p0) / n at both ends."""
    for right, n in ((0, 10), (3, 8), (250, 500), (500, 500)):
        low, high = infer.wilson(right, n)
        assert low <= right / n + 1e-12 and right / n - 1e-12 <= high
        for end in (low, high):
            wanted = 1.96**2 * end * (1 - end) / n
            assert (right / n - end) ** 2 == pytest.approx(wanted, abs=1e-12)


def test_only_a_vote_is_scored_strictly():
    """Whatever the temperature: a right majority without agreement counts, strictly it does not;
    who never votes is scored as ever."""
    rows = [{"answer": "1"}] * 2
    outcomes = [Outcome(lorid.Verdict("1", agreed)) for agreed in ([], ["1"])]
    for method, strict, accuracy in (("LoRID", False, 1), ("LoRID", True, 0.5),
                                     ("IR alone, greedy", True, 1),
                                     ("self-consistency of 3", True, 1)):
        assert infer.summary(method, rows, outcomes, strict)["accuracy"] == accuracy


def test_a_line_sums_up_what_was_written():
    """Two questions: one agreed upon and wrong, one right by majority, with texts cut short and a
    prompt that got none."""
    rows = [{"answer": "1"}, {"answer": "2"}]
    outcomes = [Outcome(lorid.Verdict("3", ["3"], [None] * 2), [5, 6, 7, 8], [True] + [False] * 3),
                Outcome(lorid.Verdict("2", [], [None]), [0, 9], [True, True])]
    low, high = infer.wilson(1, 2)
    line = dict(accuracy=0.5, low=low, high=high, right=[0, 1], rounds=1.5, texts=3.0,
                tokens=17.5)
    tail = dict(truncated=3, unread=1, seconds=4.5)
    assert infer.summary("self", rows, outcomes, seconds=4.5) == dict(method="self", **line, **tail)
    voted = dict(agreed=0.5, accuracy_when_agreed=0.0)
    found = infer.summary("LoRID", rows, outcomes, seconds=4.5)
    assert found == dict(method="LoRID", **line, **voted, **tail)
    assert infer.summary("LoRID", rows[1:], outcomes[1:])["accuracy_when_agreed"] is None
    assert infer.table([found]).splitlines() == [
        "| method | accuracy | 95% interval | rounds | texts | tokens | agreed | accuracy when "
        "agreed | truncated | seconds |", "|---" * 10 + "|",
        "| LoRID | 50.0% | 9.5% to 90.5% | 1.50 | 3.00 | 18 | 50.0% | 0.0% | 3 | 4 |"]
    assert infer.table([dict(method="a", **line, **tail | dict(seconds=None))]).splitlines()[2] \
        == "| a | 50.0% | 9.5% to 90.5% | 1.50 | 3.00 | 18 | - | - | 3 | - |"


def test_table_and_json_say_the_same(folder, tmp_path):
    done = run("--model", folder, *adapters(folder), "--limit", 3, "--rounds", 2,
               "--max-new-tokens", 5, "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "t.json").read_text())
    first, second, vote = written["methods"]
    names = [line["method"] for line in written["methods"]]
    assert names == ["IR alone, greedy", "KG -> DR alone, greedy", "LoRID"]
    assert infer.table(written["methods"]) in done.stdout
    about = written["about"]
    assert (about["questions"], about["seed"], about["max_new_tokens"]) == (3, 0, 5)
    assert list(about) == [
        "questions", "data", "model", "dtype", "device", "threads", "date", "rounds", "strict",
        "temperature", "top_k", "top_p", "max_new_tokens", "seed"]
    settings = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in about.items())
    assert done.stdout.splitlines()[-1] == settings
    assert (first["texts"], second["texts"], vote["texts"]) == (1, 2, 3 * vote["rounds"])


def test_prompts_that_do_not_fit_are_counted_and_named(folder, tmp_path):
    """One of three questions has more tokens than the model has positions."""
    rows = [dict(question=question, answer="5")
            for question in ("What is 2+3?", "1" * 600, "What is 1+4?")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("--model", folder, *adapters(folder), "--data", tmp_path / "rows.jsonl", "--rounds",
               2, "--max-new-tokens", 5)
    assert done.returncode == 0, done.stderr
    assert ("Prompts longer than the model's 500 positions got no text and count as truncated: IR "
            "alone, greedy 1, KG -> DR alone, greedy 2, LoRID 6." in done.stdout)


# --------------------------------------------------------------------------------------------------
# The command line


def few(folder, *words):
    """Words for the shortest evaluation."""
    return ["--model", folder, *adapters(folder), "--limit", 2, "--rounds", 1, "--max-new-tokens",
            3, *words]


def test_the_paper_preset_sets_what_is_not_given_and_says_so(folder):
    done = run(*few(folder, "--preset", "paper", "--rounds", 3))
    assert done.returncode == 0, done.stderr
    assert ("preset paper: rounds 3, temperature 1.5, top-k 50, top-p 0.9, max-new-tokens 3, "
            "dtype bfloat16\n" in done.stdout)
    last = done.stdout.splitlines()[-1]
    assert "dtype bfloat16" in last
    assert ("rounds 3, strict False, temperature 1.5, top-k 50, top-p 0.9, max-new-tokens 3"
            in last)


def test_a_template_can_be_chosen(folder):
    """tiny's tokenizer has none of the tokens that the paper's templates need, and its own is the
    plain one."""
    assert run(*few(folder, "--template", "plain")).returncode == 0
    assert_refused(run(*few(folder, "--template", "qwen")), "<|im_start|>")


def test_a_narrow_base_is_held_in_float32_unless_told_otherwise(folder):
    """On a CPU, where that is faster."""
    for more, dtype in (((), "float32"), (("--dtype", "bfloat16"), "bfloat16")):
        assert f"dtype {dtype}," in run(*few(folder, "--device", "cpu", *more)).stdout


def test_flags_have_their_old_names_too(monkeypatch):
    def parsed(*words):
        monkeypatch.setattr(sys, "argv", ["infer.py", *words])
        return infer.arguments()
    assert parsed("--slots", "3") == parsed("--rows", "3") != parsed()
    assert parsed("--max-new-tokens", "7") == parsed("--max-new", "7") != parsed()
    assert (parsed("--rows", "3").slots, parsed("--max-new", "7").max_new_tokens) == (3, 7)
    assert (parsed().slots, parsed().max_new_tokens, parsed().no_drafts) == (64, 256, False)


def test_no_drafts_are_none(folder, monkeypatch):
    """That the table is the same: see the study."""
    proposed, plain = [], Drafts.propose

    def noted(*args):
        proposed.append(plain(*args))
        return proposed[-1]
    monkeypatch.setattr(Drafts, "propose", noted)
    assert run(*few(folder)).returncode == 0 and any(proposed)
    proposed.clear()
    assert run(*few(folder, "--no-drafts")).returncode == 0 and not proposed


@pytest.mark.parametrize("flag", ["--slots", "--rows", "--rounds", "--max-new-tokens", "--max-new",
                                  "--limit"])
@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many"])
def test_numbers_that_must_be_positive(flag, value):
    done = run(flag, value)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and flag in said
    assert said.endswith(f": {value!r} is not a whole number above 0")


@pytest.mark.parametrize("flag, value, says", [
    ("--temperature", "-1", "at least 0"), ("--temperature", "nan", "at least 0"),
    ("--temperature", "inf", "at least 0"), ("--top-k", "-1", "at least 0"),
    ("--top-p", "0", "above 0 and at most 1"), ("--top-p", "1.5", "above 0 and at most 1"),
    ("--top-p", "nan", "above 0 and at most 1")])
def test_numbers_that_no_sampling_can_use(flag, value, says):
    done = run(flag, value)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert f"argument {flag}: {value!r} is not a " in said and said.endswith(f"number {says}")


def test_a_sentence_is_one_line_and_exit_status_2(folder):
    """The command itself, in a process of its own."""
    done = run_alone("infer.py", "--model", folder, *adapters(folder), "--ask", "hello")
    assert_refused(done, "infer.py: ", "does not look like")


def test_a_full_memory_is_a_sentence(folder):
    """The cache of 10 million slots cannot be had under 8 GB of addresses."""
    words = " ".join(map(str, few(folder, "--slots", 10_000_000)))
    command = f"ulimit -v 8000000; exec {sys.executable} infer.py {words}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert_refused(done)
    assert done.stderr == "infer.py: the memory is full; give fewer --slots.\n"


def test_a_missing_adapter_names_the_command(folder, tmp_path):
    done = run("--model", folder, "--limit", 1, cwd=tmp_path)
    assert_refused(done, f"python train.py --role ir --model {folder}\n")


def test_an_adapter_of_another_base_of_the_same_shape_is_noted(folder, tmp_path):
    """Nothing but the name in adapter_config.json tells them apart; the file may be right all the
    same, so the work goes on."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    done = run(*few(folder))
    assert done.returncode == 0 and "note" not in done.stderr
    (tmp_path / "link").symlink_to(folder)
    same = [word if word != folder else tmp_path / "link" for word in few(folder)]
    assert "note" not in run(*same).stderr
    done = run(*["--model", other, *few(folder)[2:]])
    assert done.returncode == 0
    assert f"was trained on {folder}; is {other} the same base?" in done.stderr


def test_plot_wants_a_study():
    done = run("--plot", "a.png")
    assert done.returncode == 2 and "give both" in done.stderr


def test_without_matplotlib_plot_says_what_to_install(monkeypatch):
    """Before anything is sampled, not after."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(infer, "load", lambda args: pytest.fail("began to work"))
    done = run("--study", "--plot", "a.png")
    assert done.returncode == 2 and "pip install matplotlib" in done.stderr


def test_a_row_without_an_answer_is_refused_by_its_line(folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "What is 1+1?", "answer": "2"}\n{"question": "What is 2+1?"}\n')
    assert_refused(run(*few(folder, "--data", rows)), f"{rows}:2: no \"answer\" to compare with.")
    assert run(*few(folder, "--data", rows, "--limit", 1)).returncode == 0


# --------------------------------------------------------------------------------------------------
# One question


def test_ask_shows_every_round(folder):
    done = run("--model", folder, *adapters(folder), "--rounds", 2, "--max-new-tokens", 5,
               "--ask", "Ann has 3 pens. How many pens does Ann have?")
    assert done.returncode == 0, done.stderr
    titles = [role.title for role in lorid.ROLES.values()]
    for part in ("Round 1", "Round 2", *titles, "System 1 says", "No agreement"):
        assert part in done.stdout
    assert done.stdout.endswith("No agreement, and no answer at all in 2 rounds.\n6 of the 6 texts "
                                "were cut short at 5 tokens; --max-new-tokens gives them more "
                                "room.\n")


@pytest.mark.parametrize("answers, so_far, end", [
    ((5, 7, 7, 8), ["  So far: 7 (System 1 once, System 2 once), 5 (System 1 once), 8 (System 2 "
                    "once)."], "Both systems have said 7 after 2 rounds. Answer: 7\n"),
    ((5, 5), [], "Both systems have said 5 after 1 round. Answer: 5\n"),
    ((5, 7, 9, 7), ["  So far: 7 (System 2 twice), 5 (System 1 once), 9 (System 1 once)."],
     "No agreement in 2 rounds; most often given: 7\n")])
def test_ask_ends_with_the_verdict(folder, capsys, answers, so_far, end):
    """By scripted texts: each round's two answers, ir's and dr's. After the second round, the
    ballots of both."""
    texts, rounds = {}, list(zip(answers[::2], answers[1::2], strict=True))
    texts["ir"], texts["dr"] = (
        iter([f"Because.\n--> {answer} END" for answer in system])
        for system in zip(*rounds, strict=True))
    texts["kg"] = itertools.repeat("A rule.")
    engine = engine_of(folder, max_new_tokens=5)

    def run(conversations):
        [conversation], requests = conversations, None
        outcome = Outcome()
        try:
            requests = next(conversation)
            while True:
                outcome.tokens += [1 for _ in requests]
                requests = conversation.send([next(texts[role]) for role, _ in requests])
        except StopIteration as stop:
            outcome.verdict = stop.value
        return [outcome]
    engine.run = run
    infer.ask(engine, "What is 2+3?", 2)
    printed = capsys.readouterr().out
    told = [lorid.transcript(t, lorid.Round(f"Because.\n--> {a} END", "A rule.",
                                            f"Because.\n--> {b} END"))
            for t, (a, b) in enumerate(rounds, 1)]
    assert printed == "\n".join([*told, *so_far, end])


def test_ask_samples_as_the_table_does(folder, monkeypatch):
    """By the flags: greedily at temperature 0, else another conversation with another seed."""
    texts, plain = [], infer.Engine.finish

    def noted(self, sequence, truncated):
        texts.append(sequence.tokens)
        plain(self, sequence, truncated)
    monkeypatch.setattr(infer.Engine, "finish", noted)

    def asked(*words):
        texts.clear()
        done = run("--model", folder, *adapters(folder), "--rounds", 1, "--max-new-tokens", 12,
                   "--ask", "Ann has 3 pens. How many pens does Ann have?", *words)
        assert done.returncode == 0, done.stderr
        return list(texts)
    greedy = ["--temperature", 0, "--seed"]
    assert asked(*greedy, 0) == asked(*greedy, 1) != asked("--seed", 0) != asked("--seed", 1)


@pytest.mark.parametrize("question, why", [
    ("", "empty"), ("  \n", "empty"), ("hello", "does not look like a maths question"),
    ("12345", "does not look like"), ("How many? " * 300, "too long")])
def test_what_is_no_question_gets_a_sentence(folder, question, why):
    with pytest.raises(ValueError, match=why):
        infer.check_question(question, engine_of(folder, max_new_tokens=5))


# --------------------------------------------------------------------------------------------------
# The study


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Adapters of the built-in base after a few seconds of training: they often answer, and often
    disagree."""
    out = tmp_path_factory.mktemp("out")
    rows = out / "rows.jsonl"  # a file of them, so that few are held out
    rows.write_text("".join(json.dumps(row) + "\n" for row in toy(220, "train")))
    done = run_script(train, "--data", rows, "--steps", 8, "--batch", 10, "--lr", 5e-3, "--out",
                      out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_a_chat_model_is_also_asked_as_it_is(taught, monkeypatch):
    """Greedily, without an adapter: as the plain loop writes over the base's folder."""
    monkeypatch.setattr(sys, "argv", [
        "infer.py", "--out", str(taught), "--rounds", "1", "--max-new-tokens", "40"])
    args, rows = infer.arguments(), toy(6, "valid")
    engine = infer.load(args)
    engine.tokenizer.template = "some chat's"  # tiny's own is "plain": see the next test
    engine.tokenizer.eos_ids = [0, *engine.tokenizer.encode("=")]  # or no text would end in 40
    with infer.open_journal(None, {}, rows, {}) as journal:
        lines, *_ = infer.study(engine, journal, rows, args)
    assert lines[5]["method"] == "the base without adapters, greedy"
    # one turn is LoRID's one round: as many tokens are enough
    assert lines[9]["method"] == "IR and KG -> DR until 1 are equal"
    model, tokenizer = load_model(ROOT / "tiny"), engine.tokenizer
    tokens, right = [], []
    for row in rows:
        prompt = f"{row['question']}\nPlease reason step by step, and put your final answer "
        prompt += "within \\boxed{}."
        new = infer.generate(model, tokenizer.prompt_ids(prompt), tokenizer.eos_ids, 40,
                             infer.sampler(args, 0.0), random.Random(0))
        tokens.append(len(new))
        answer = lorid.extract_answer(tokenizer.decode(new))
        right.append(lorid.same_answer(answer, row["answer"]))
    assert lines[5]["tokens"] == sum(tokens) / 6 and lines[5]["right"] == right
    assert len(set(tokens)) > 1


def lines_of(file):
    return {line["method"]: line for line in json.loads(file.read_text())["methods"]}


@pytest.mark.slow
def test_the_study_is_consistent(taught, tmp_path):
    """Run whole, against runs of its parts: a vote of r rounds that is cut out of a longer one is
    the vote of r rounds. And without drafts the parts are the same, too."""
    pytest.importorskip("matplotlib")
    common = ["--out", taught, "--limit", 8, "--temperature", 0.7, "--max-new-tokens", 50]
    done = run(*common, "--rounds", 6, "--study", "--json", tmp_path / "s.json", "--plot",
               tmp_path / "s.png")
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "s.json").read_text())
    assert infer.table(study["methods"]) in done.stdout
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert_consistent(study, 8, 6)
    lines, k = lines_of(tmp_path / "s.json"), len(study["curves"]["self-consistency"])
    rivals = list(lines)[6:10]
    assert [re.sub(r"\d+", "N", name) for name in rivals] == [
        "majority of N KG -> DR", "majority of N IR and N KG -> DR",
        "IR and KG -> DR until N are equal", "two KG -> DR that must agree"]
    assert all(lines[name]["tokens"] >= 0.8 * lines["LoRID, 6 rounds"]["tokens"] > 0
               for name in rivals[:3])
    assert list(lines) == [
        "IR alone, greedy", f"IR alone, sampled: the mean of {k}", "KG -> DR alone, greedy",
        "DR without knowledge, greedy", "DR with the teacher's knowledge, greedy",
        f"self-consistency of {k}", *rivals, "LoRID, 1 round", "LoRID, 2 rounds",
        "LoRID, 5 rounds", "LoRID, 6 rounds"]
    assert infer.comparison(study["methods"]) in done.stdout

    tables = []
    for name, more in (("two", []), ("plain", ["--no-drafts"])):
        done = run(*common, "--rounds", 2, "--json", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        tables.append([line.rpartition(" | ")[0] for line in done.stdout.splitlines()
                       if line.startswith("|")])  # but for the seconds
    assert tables[0] == tables[1] and len(tables[0]) == 5
    parts, plain = lines_of(tmp_path / "two"), lines_of(tmp_path / "plain")
    assert {name: line | {"seconds": 0} for name, line in parts.items()} == {
        name: line | {"seconds": 0} for name, line in plain.items()}
    for name, line in parts.items():
        same = lines["LoRID, 2 rounds" if name == "LoRID" else name]
        for key in ("accuracy", "rounds", "texts", "tokens", "agreed", "accuracy_when_agreed",
                    "truncated"):
            assert line.get(key) == same.get(key), (name, key)
    # some agree later, or this test tests nothing
    assert parts["LoRID"]["agreed"] < lines["LoRID, 6 rounds"]["agreed"]


@pytest.mark.slow
def test_two_processes_share_the_questions_and_answer_as_one(taught, tmp_path):
    """Three questions, so the shares differ. One slot at a time, in float32: what sums still depend
    on (who drafted, whose prompt was kept) is too little to change a draw."""
    words = ["--out", taught, "--limit", 3, "--rounds", 2, "--max-new-tokens", 40, "--slots", 1,
             "--dtype", "float32"]
    for name in ("one", "two"):
        file = tmp_path / name
        done = (run_alone("infer.py", *words, "--json", file, processes=2) if name == "two" else
                run(*words, "--json", file))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| LoRID |") == 1
    one, two = lines_of(tmp_path / "one"), lines_of(tmp_path / "two")
    assert list(one) == list(two)
    for name in one:
        assert one[name] | {"seconds": 0} == two[name] | {"seconds": 0}
    assert one["LoRID"]["rounds"] > 1


def assert_consistent(study, questions, rounds):
    """What must hold between the figures of one study, whatever they are."""
    assert study["about"]["questions"] == questions and study["about"]["rounds"] == rounds
    votes, alone = study["curves"]["LoRID"], study["curves"]["self-consistency"]
    assert len(votes) == rounds
    for line in (*study["methods"], *votes, *alone):
        assert 0 <= line["low"] <= line["accuracy"] <= line["high"] <= 1
        assert line["tokens"] >= line["texts"] and line["truncated"] >= line["unread"] >= 0
        for end in (line["low"], line["high"]):  # the score equation, as above
            wanted = 1.96**2 * end * (1 - end) / questions
            assert (line["accuracy"] - end) ** 2 == pytest.approx(wanted, abs=1e-9)
        if "mean" not in line["method"]:
            right = line["accuracy"] * questions
            assert right == pytest.approx(round(right))
    for line in votes:
        assert line["texts"] == pytest.approx(3 * line["rounds"])
        # right answers come from questions agreed upon, or from a majority on the others
        right = (line["accuracy_when_agreed"] or 0) * line["agreed"]
        assert right <= line["accuracy"] + 1e-9 <= right + 1 - line["agreed"] + 2e-9
    for before, after in itertools.pairwise(votes):
        assert all(before[key] <= after[key] for key in ("agreed", "rounds", "tokens"))
        # one round more for those who had not agreed
        assert after["rounds"] - before["rounds"] == pytest.approx(1 - before["agreed"])
    assert [line["texts"] for line in alone] == list(range(1, len(alone) + 1))
    assert alone[-1]["texts"] >= votes[-1]["texts"]  # self-consistency gets as many texts
    mean = next(line for line in study["methods"] if "mean" in line["method"])
    assert mean["tokens"] == pytest.approx(alone[-1]["tokens"] / len(alone))
    last = study["methods"][-1]
    assert votes[-1].items() <= last.items()
    assert any(alone[-1].items() <= line.items() for line in study["methods"])
    for line in study["methods"]:
        assert sum(line["right"]) / questions == pytest.approx(line["accuracy"])
        assert line["gain"] == pytest.approx(last["accuracy"] - line["accuracy"])
        assert line["gain_low"] <= line["gain"] <= line["gain_high"]
    assert last["accuracy"] <= last["among"] <= 1  # what it answers stands in one of its texts
    # as the paper counts, any answer that both have given will do, and only such a one
    right = (last["accuracy_when_agreed"] or 0) * last["agreed"]
    assert right - 1e-9 <= last["strict"] <= min(last["agreed"], last["among"]) + 1e-9

"""infer.py: the engine against a loop that takes one text at a time and remembers nothing, and the sampler against its own definition."""
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch

import data
import infer
import lora
import lorid
from conftest import ROOT, edit_json
from model import Tokenizer, load_model

ROLES = list(lorid.ROLES)


@pytest.fixture
def folder(make_base):
    """A tiny random base that has the built-in tokenizer, and three random adapters of different ranks: ir/, kg/, dr/ in it."""
    path, _ = make_base(vocab_size=1024, eos_token_id=0, max_position_embeddings=500)
    (path / "tokenizer.json").write_bytes((ROOT / "tiny" / "tokenizer.json").read_bytes())
    for seed, role in enumerate(ROLES):
        torch.manual_seed(seed)
        model = load_model(path, dtype=torch.float32)
        lora.inject(model, ["q_proj", "v_proj", "down_proj", "lm_head"][seed:], {role: (2 + seed, 1.5)})
        for _, layer in lora.layers(model):
            torch.nn.init.normal_(layer.B, std=0.3)
        lora.save_adapter(model, role, path / role, base=path)
    return path


class Numbers(Tokenizer):
    """Says a text as the ids of its tokens, on one whole line: two texts are the same only if every token is."""
    def decode(self, ids):
        return " ".join(map(str, ids)) + "\n"


def engine_of(folder, dtype=torch.float32, **settings):
    model = load_model(folder, dtype=dtype)
    lora.stack(model, {role: folder / role for role in ROLES})
    return infer.Engine(lora.fuse(model), Numbers(folder), **settings)


def naive(folder, role, prompt, max_new, limit=500):
    """Greedy, one text, one adapter, no cache, no batch: the whole text through the model for every token."""
    model, tokenizer = load_model(folder, dtype=torch.float32), Numbers(folder)
    lora.stack(model, {role: folder / role})
    lora.switch(model, role)
    ids, said = tokenizer.prompt_ids(prompt), []
    with torch.no_grad():
        while len(said) < max_new and len(ids) < limit and (not said or said[-1] not in tokenizer.eos_ids):
            said.append(model.logits(model(torch.tensor([ids]))[0, -1]).argmax().item())
            ids.append(said[-1])
    if said[-1] in tokenizer.eos_ids:
        return tokenizer.decode(said[:-1]), len(said)
    return "\n".join(tokenizer.decode(said).split("\n")[:-1]), len(said)  # cut: its last line is not to be trusted


def scripted(question, log):
    """A conversation of every shape: one text, then three at once, then one that depends on what was heard."""
    [a] = yield [("kg", question)]
    b, c, d = yield [("ir", question), ("dr", question + a), ("kg", "Knowledge: " + question)]
    [e] = yield [("dr", b[:40])]
    log += [(("kg", question), a), (("ir", question), b), (("dr", question + a), c), (("kg", "Knowledge: " + question), d), (("dr", b[:40]), e)]
    return lorid.Verdict("1")


def questions(n):
    return [row["question"] for row in data.toy(n, "test", 3)]


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_greedy_engine_equals_the_naive_loop(folder, rows):
    """Many conversations over few rows, roles mixed, rows refilled: each text is what its role says when it is asked alone."""
    logs = [[] for _ in range(7)]
    outcomes = engine_of(folder, rows=rows, max_new=12).run(scripted(q, log) for q, log in zip(questions(7), logs))
    for log, outcome in zip(logs, outcomes):
        assert len(log) == len(outcome.tokens) == 5
        lengths = 0
        for (role, prompt), text in log:
            said, length = naive(folder, role, prompt, 12)
            assert text == said
            lengths += length
        assert sum(outcome.tokens) == lengths


def test_what_a_question_has_asked_before_is_read_once_and_answered_the_same(folder):
    """A vote asks its first two prompts in every round, and its third begins alike: of each prompt, only that is read which the question's first
    for the same role has not in common; of that one, which anybody's first has not. Asked greedily, all are answered as by the naive loop, in every
    round and row."""
    logs, read = [[] for _ in range(5)], []

    def rounds(question, log):
        for t in range(3):
            requests = [("ir", question), ("kg", question), ("ir", question), ("ir", question + " and more")]
            log += zip(requests, (yield requests))
            log += zip([("dr", f"{question} {t} and so on")], (yield [("dr", f"{question} {t} and so on")]))
        return lorid.Verdict("1")
    engine = engine_of(folder, rows=4, max_new=9)

    def counted(texts, fed, starts, *row, plain=engine.feed):
        if row:  # prompts
            assert [text.prompt[start:] for text, start in zip(texts, starts)] == list(fed)
            read.extend((text.role, tuple(text.prompt), start) for text, start in zip(texts, starts) if start < len(text.prompt) - 1)
        return plain(texts, fed, starts, *row)
    engine.feed = counted
    engine.run(rounds(q, log) for q, log in zip(questions(5), logs))
    wanted, anybody = [], {}  # the rows fill in the order of the questions
    for log in logs:
        assert len(log) == 15
        first = {}
        for (role, prompt), text in log:
            assert text == naive(folder, role, prompt, 9)[0]
            ids = engine.tokenizer.prompt_ids(prompt)
            shared = len(os.path.commonprefix([ids, first.get(role) or anybody.get(role, [])]))
            first.setdefault(role, ids)
            anybody.setdefault(role, ids)
            wanted += [(role, tuple(ids), shared)] * (shared < len(ids) - 1)
    assert sorted(read) == sorted(wanted) and len(read) == 5 * (2 + 3 + 3)


def test_prompts_share_what_anybodys_first_begins_with(folder):
    """Questions that begin together: the first prompt of the role is read before the others, which are read from where they differ from it."""
    engine, starts, asked = engine_of(folder, rows=3, max_new=6), [], questions(3)

    def counted(texts, fed, at, *row, plain=engine.feed):
        if row:
            starts.append(at)
        return plain(texts, fed, at, *row)
    engine.feed = counted
    outcomes = engine.run([lorid.system1(q) for q in asked])
    first, *others = (engine.tokenizer.prompt_ids(lorid.prompt("ir", q)) for q in asked)
    shared = [len(os.path.commonprefix([first, ids])) for ids in others]
    assert starts[0] == [0] and sorted(starts[1]) == sorted(shared) and min(shared) > 9
    assert [o.verdict.rounds[0].intuitive for o in outcomes] == [naive(folder, "ir", lorid.prompt("ir", q), 6)[0] for q in asked]


def test_what_one_question_was_answered_is_guessed_for_another(folder):
    """The same question asked twice, by two conversations, one after the other."""
    engine, steps = engine_of(folder, rows=1, max_new=24), []

    def counted(texts, fed, at, *row, plain=engine.feed):
        steps.extend([texts[0].owner] * (not row))
        return plain(texts, fed, at, *row)
    engine.feed = counted
    first, second = engine.run([lorid.system1(questions(1)[0]) for _ in range(2)])
    assert first.verdict.rounds == second.verdict.rounds and first.tokens == second.tokens
    assert steps.count(1) <= steps.count(0) / 2


def test_a_prompt_that_another_question_has_asked_is_kept_whole(folder):
    """Copied but for its last token, which must be read before the next prompt copies it."""
    [one], heard = questions(1), []
    other = " ".join(reversed(one.split())) + " Is that longer?"  # its keys are left where the kept prompt's last ones must come

    def asking(*prompts):
        for prompt in prompts:
            heard.extend((prompt, text) for text in (yield [("ir", prompt)]))
        return lorid.Verdict(None)
    engine_of(folder, rows=1, max_new=6).run([asking(one), asking(other), asking(one, one + "\nAnd then?")])
    assert len(heard) == 4 and all(text == naive(folder, "ir", prompt, 6)[0] for prompt, text in heard)


def test_guesses_change_no_text_and_save_steps(folder, monkeypatch):
    """The same texts without guesses, with those of the engine, and with half right ones, sampled too; in float64, as above. A question that is
    asked again greedily is answered alike: then all guesses are right."""
    steps = []

    def texts(**settings):
        engine, heard = engine_of(folder, torch.float64, rows=3, max_new=24, seed=5, **settings), {}
        steps.append(0)

        def counted(*args, plain=engine.feed):
            steps[-1] += len(args) == 3
            return plain(*args)

        def again(question):
            for _ in range(3):
                heard.setdefault(question, []).extend((yield [("ir", question)]))
            return lorid.Verdict(None)
        engine.feed = counted
        engine.run(map(again, questions(3)))
        return heard

    plain = {}

    def noted(text, tables, most):
        plain[text.owner, text.number] = text.said  # goes on growing
        return []

    def half_right(text, tables, most):
        """Up to seven tokens that this text will have, the fourth replaced, and beyond its end: one of nonsense."""
        first, known = len(text.said), plain[text.owner, text.number]
        guessed = (known[first:first + 7] + [1])[:most]
        return [(token + 1) % 1024 if i % 5 == 3 else token for i, token in enumerate(guessed)]
    for eos in ([0], list(range(0, 1024, 9))):
        edit_json(folder / "config.json", eos_token_id=eos)
        edit_json(folder / "generation_config.json", eos_token_id=eos)
        for settings in (dict(temperature=0.0), dict(temperature=1.0, top_k=0, top_p=0.95), dict(temperature=0.2, top_k=20, top_p=1.0)):
            guessed = texts(**settings)
            with monkeypatch.context() as patch:
                patch.setattr(infer, "guess", noted)
                assert texts(**settings) == guessed
                patch.setattr(infer, "guess", half_right)
                assert texts(**settings) == guessed
            assert [len(set(said)) for said in guessed.values()] == [1 if settings["temperature"] == 0 else 3] * 3
    few, every, some = steps[:3]  # greedy
    assert every >= 3 * 23 and few < every * 0.4 and some < every * 0.4


def test_a_guess_is_what_would_be_drawn_after_the_same_tokens():
    own, common, prompt = {}, {}, [*range(100, 120)]

    def text(*said, prompt=prompt, **more):
        return infer.Text(0, 0, "ir", prompt, None, said=list(said), luck=[0.5] * 60, **more)

    def sure(*said, **more):
        return text(*said, choices=[([token], [1.0]) for token in said], **more)

    def guess(*said, most=99):
        return infer.guess(text(*said), (own, common), most)
    whole = [*range(1, 41)]
    infer.learn(sure(*whole), [own])
    assert guess() == whole[:24] and guess(1, 2) == whole[2:26]
    assert guess(1, 2, most=2) == [3, 4] and guess(1, 2, most=0) == [] and guess(*whole) == []
    assert guess(50, 4, 5, 6) == [7]  # after the same three, one, for two weak guesses would make a doubtful one
    assert guess(50, *range(4, 18)) == [18]  # after fourteen, too
    assert guess(50, *range(4, 20)) == guess(50, *range(4, 19))[1:] == whole[19:]  # after sixteen, all; also if the one made them whole
    assert guess(5, 6) == guess(8, 7, 6) == []
    infer.learn(sure(30, 4, 5, 6, 40), [own])  # what came last counts, but sixteen tokens tell more than three
    assert guess(50, 4, 5, 6) == [40] and guess(1, 2, 3, 4, 5, 6, most=2) == [7, 8]
    infer.learn(text(60, 61, 62, choices=[([60], [1.0]), ([61], [1.0]), ([62, 63, 64], [0.5, 0.8, 1.0])]), [own])
    for luck, token in ((0.0, 62), (0.5, 62), (0.6, 63), (0.8, 63), (0.81, 64), (0.999, 64)):  # each place in a text has its own luck
        other = text(60, 61)
        other.luck[2] = luck
        assert infer.guess(other, (own, common), 1) == [token]
    infer.learn(sure(7, 8, 9, 70, 71, *range(80, 100)), [common])  # other questions' texts tell what this one's do not,
    assert guess(7, 8, 9) == [10] and guess(60, 9, 70) == []       # even if they have sixteen tokens in common
    assert guess(60, 8, 9, 70) == [71] and guess(7, 8, 9, 70) == [71, *range(80, 100)]
    infer.learn(sure(*range(1, 21), prompt=[7, 8]), [short := {}])  # where fewer than sixteen came before, guesses are weak
    assert infer.guess(text(prompt=[7, 8]), (short, {}), 99) == [1] and infer.guess(text(1, 2, 3, prompt=[7, 8]), (short, {}), 99) == [4]
    assert len(short) == 20 + 18 and infer.guess(text(*range(1, 15), prompt=[7, 8]), (short, {}), 99) == [15, 16, 17, 18, 19, 20]


def test_what_is_learnt_from_everybody_stays_small(monkeypatch):
    monkeypatch.setattr(infer, "MOST_SEEN", 40)
    table = {}
    for n in range(30):
        infer.learn(infer.Text(0, 0, "ir", [99] * 16, None, said=[n, n + 1, n + 2], choices=[([n + i], [1.0]) for i in range(3)]), [table])
        assert len(table) <= 40 + 6
        assert table[99, 99, 99] == ([n], [1.0])


def test_guesses_are_drawn_as_the_token_is(folder, monkeypatch):
    """With the luck that decides, from what was likely there: texts about a question begin unlike, but always as guessed."""
    tried = []

    def noted(text, tables, most, plain=infer.guess):
        guessed = plain(text, tables, most)
        tried.append((text, len(text.said), guessed))
        return guessed
    monkeypatch.setattr(infer, "guess", noted)

    def again():
        for _ in range(12):
            yield [("ir", questions(1)[0])]
        return lorid.Verdict(None)
    engine_of(folder, torch.float64, rows=1, max_new=4, temperature=0.7, top_k=4, seed=3).run([again()])
    first = [(text.said[0], guessed[0]) for text, n, guessed in tried if n == 0 and guessed]  # all texts begin after the same prompt
    assert len(first) == 11 and all(said == guessed for said, guessed in first) and len({said for said, _ in first}) > 1


def test_end_tokens_end_a_text_and_are_no_part_of_it(folder):
    """With many tokens declared end tokens, texts end early: their rows are reused, and only texts that reached max_new count as cut."""
    edit_json(folder / "config.json", eos_token_id=list(range(0, 1024, 9)))
    edit_json(folder / "generation_config.json", eos_token_id=list(range(0, 1024, 9)))
    logs = [[] for _ in range(6)]
    outcomes = engine_of(folder, rows=4, max_new=15).run(scripted(q, log) for q, log in zip(questions(6), logs))
    total = cut = 0
    for log in logs:
        for (role, prompt), text in log:
            said, length = naive(folder, role, prompt, 15)
            assert text == said
            total += length
    assert sum(sum(o.tokens) for o in outcomes) == total
    cut = sum(sum(o.cut) for o in outcomes)
    assert 0 < cut < 30  # some ended, some were cut, or this test tests nothing


def test_a_sampled_text_does_not_depend_on_its_neighbours(folder):
    """The same seed gives the same texts whatever the number of rows; another seed gives others. In float64, where it is not the last digit,
    which depends on the shapes that are multiplied, that decides between a thousand equally likely tokens."""
    def texts(rows, seed):
        logs = [[] for _ in range(6)]
        engine_of(folder, torch.float64, rows=rows, max_new=10, temperature=1.0, top_k=0, top_p=0.95, seed=seed).run(scripted(q, log) for q, log in zip(questions(6), logs))
        return logs
    assert texts(2, seed=1) == texts(16, seed=1) != texts(16, seed=2)


def test_a_prompt_without_room_is_an_empty_text_and_counted(folder):
    def conversation():
        [text] = yield [("ir", "one two three " * 400)]
        return lorid.Verdict(text)
    [outcome] = engine_of(folder, rows=2, max_new=10).run([conversation()])
    assert (outcome.verdict.answer, outcome.cut, outcome.tokens) == ("", [True], [0])


def test_a_text_stops_at_the_last_position_of_the_model(folder):
    """A prompt of 493 tokens leaves room for 7 more in 500 positions, no multiple of the 32 in which the cache grows: asked again, too,
    when all 7 can be guessed. One of 499 leaves room for one. One of a single token may come first, and another begin like it."""
    edit_json(folder / "config.json", eos_token_id=[])
    edit_json(folder / "generation_config.json", eos_token_id=[])
    engine = engine_of(folder, rows=2, max_new=50)
    words = ["", "\n1", "1" * 492, "1" * 492, "1" * 498]  # digits are tokens of their own, and the template adds a line break
    assert [len(engine.tokenizer.prompt_ids(text)) for text in words] == [1, 3, 493, 493, 499]
    assert engine.tokenizer.prompt_ids(words[1])[:1] == engine.tokenizer.prompt_ids("")

    def conversation():
        said = []
        for request in words:
            said += yield [("ir", request)]
        return lorid.Verdict(said)
    [outcome] = engine.run([conversation()])
    assert (outcome.tokens, outcome.cut) == ([50, 50, 7, 7, 1], [True] * 5)
    assert outcome.verdict.answer == [naive(folder, "ir", text, 50)[0] for text in words]


def test_the_last_line_of_a_cut_text_is_dropped(folder):
    """It may end in the middle of a number, which would vote."""
    class Solver(Tokenizer):
        def decode(self, ids):
            return "48+24=72\n--> 7"
    engine = engine_of(folder, rows=2, max_new=3)
    engine.tokenizer = Solver(folder)
    [outcome] = engine.run([lorid.system1("What is 48+24?")])
    assert outcome.cut == [True] and outcome.verdict.answer is None and outcome.verdict.rounds[0].intuitive == "48+24=72"


def test_an_engine_sets_its_adapters_whoever_else_switched(folder):
    engine = engine_of(folder, rows=2, max_new=6)
    texts = []
    for _ in range(2):
        [outcome] = engine.run([lorid.system1("What is 1+1?")])
        texts.append(outcome.verdict.rounds[0].intuitive)
        lora.switch(engine.model, None)
    assert texts[0] == texts[1] == naive(folder, "ir", lorid.prompt("ir", "What is 1+1?"), 6)[0]


def distribution(logits, temperature, top_k, top_p):
    """The definition, token by token, in plain Python."""
    p = [float(x) for x in (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(-1)]
    order = sorted(range(len(p)), key=lambda i: -p[i])[:top_k or None]
    whole, kept, before = sum(p[i] for i in order), {}, 0.0
    for i in order:
        if before >= top_p:
            break
        kept[i] = p[i]
        before += p[i] / whole
    return {i: q / sum(kept.values()) for i, q in kept.items()}


@pytest.mark.parametrize("temperature,top_k,top_p", [(1.0, 0, 1.0), (1.5, 50, 0.9), (0.7, 4, 1.0), (1.0, 0, 0.6), (2.0, 3, 0.5), (0.3, 50, 0.9)])
def test_sampling_follows_its_definition(temperature, top_k, top_p):
    """Luck swept evenly over [0, 1) draws every token in proportion to its probability, and never one that was cut off."""
    logits = [2.0, -1.0, 0.5, 1.9, 0.0, -3.0, 1.0, 0.7]
    n = 20_000
    luck = (torch.arange(n) + 0.5) / n
    drawn = Counter(infer.draw(*infer.likely(torch.tensor(logits).expand(n, -1), temperature, top_k, top_p), luck).tolist())
    wanted = distribution(logits, temperature, top_k, top_p)
    assert drawn.keys() == wanted.keys()
    assert all(abs(drawn[i] / n - q) < 2e-4 for i, q in wanted.items())


def test_temperature_zero_is_the_most_likely_and_extremes_stay_in_range():
    logits = torch.randn(5, 30)
    assert torch.equal(infer.draw(*infer.likely(logits, 0.0, 50, 0.9), torch.rand(5)), logits.argmax(-1))
    assert torch.equal(infer.draw(*infer.likely(logits, 1.0, 0, 1e-9), torch.full((5,), 0.999)), logits.argmax(-1))  # top_p keeps the first
    assert infer.draw(*infer.likely(logits, 1.0, 50, 0.9), torch.ones(5)).max() < 30  # float32 may round luck up to 1
    assert torch.equal(infer.draw(*infer.likely(logits, 1e-45, 50, 0.9), torch.rand(5)), logits.argmax(-1))


def test_wilson_interval():
    """Against the score equation it solves: (p - p0)^2 = z^2 p0 (1 - p0) / n at both ends."""
    for right, n in ((0, 10), (3, 8), (250, 500), (500, 500)):
        low, high = infer.wilson(right, n)
        assert low <= right / n + 1e-12 and right / n - 1e-12 <= high
        for end in (low, high):
            assert (right / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-12)


def run(*words, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "infer.py"), *words], capture_output=True, text=True, cwd=cwd)


def adapters(folder):
    return [word for role in ROLES for word in (f"--{role}", str(folder / role))]


def test_table_and_json_say_the_same(folder, tmp_path):
    done = run("--model", str(folder), *adapters(folder), "--limit", "3", "--rounds", "2", "--max-new", "5", "--json", str(tmp_path / "t.json"))
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "t.json").read_text())
    assert [m["method"] for m in written["methods"]] == ["IR alone, greedy", "KG -> DR alone, greedy", "LoRID"]
    assert infer.table(written["methods"]) in done.stdout
    assert written["about"]["questions"] == 3 and written["about"]["seed"] == 0
    assert [m["texts"] for m in written["methods"]][:2] == [1, 2] and written["methods"][2]["texts"] == 3 * written["methods"][2]["rounds"]


def test_prompts_that_do_not_fit_are_counted_and_named(folder, tmp_path):
    """One of three questions has more tokens than the model has positions."""
    rows = [dict(question=question, answer="5") for question in ("What is 2+3?", "1" * 600, "What is 1+4?")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("--model", str(folder), *adapters(folder), "--data", str(tmp_path / "rows.jsonl"), "--rounds", "2", "--max-new", "5")
    assert done.returncode == 0, done.stderr
    assert ("Prompts longer than the model's 500 positions got no text and count as cut: IR alone, greedy 1, KG -> DR alone, greedy 2, LoRID 6."
            in done.stdout)


def test_the_paper_preset_sets_what_is_not_given_and_says_so(folder):
    done = run("--model", str(folder), *adapters(folder), "--limit", "2", "--preset", "paper", "--rounds", "3", "--max-new", "5")
    assert done.returncode == 0, done.stderr
    assert "preset paper: rounds 3, temperature 1.5, top-k 50, top-p 0.9, max-new 5, dtype bfloat16\n" in done.stdout
    assert "dtype bfloat16" in done.stdout.splitlines()[-1] and "rounds 3, strict False, temperature 1.5, top-k 50, top-p 0.9, max-new 5" in done.stdout


def test_a_template_can_be_chosen(folder):
    """tiny's tokenizer has none of the tokens that the paper's templates need, and its own is the plain one."""
    few = ("--model", str(folder), *adapters(folder), "--limit", "2", "--rounds", "1", "--max-new", "5")
    assert run(*few, "--template", "plain").returncode == 0
    refused = run(*few, "--template", "qwen")
    assert refused.returncode == 2 and "<|im_start|>" in refused.stderr and refused.stderr.count("\n") == 1


def test_a_space_before_an_answer_does_not_reach_the_next_prompt(folder):
    """Mistral's template teaches answers that begin with one."""
    class Speaker(Tokenizer):
        def decode(self, ids):
            return " Add them.\n"
    engine, heard = engine_of(folder, rows=1, max_new=3), []
    engine.tokenizer = Speaker(folder)

    def conversation():
        heard.extend((yield [("kg", "What is 2+3?")]))
    engine.run([conversation()])
    assert heard == ["Add them."]


def test_a_narrow_base_is_held_in_float32_unless_told_otherwise(folder):
    """On a CPU, where that is faster."""
    few = ("--model", str(folder), *adapters(folder), "--limit", "1", "--rounds", "1", "--max-new", "3", "--device", "cpu")
    for more, dtype in (((), "float32"), (("--dtype", "bfloat16"), "bfloat16")):
        assert f"dtype {dtype}," in run(*few, *more).stdout


def test_ask_shows_every_round(folder):
    done = run("--model", str(folder), *adapters(folder), "--rounds", "2", "--max-new", "5", "--ask", "Ann has 3 pens. How many pens does Ann have?")
    assert done.returncode == 0, done.stderr
    for part in ("Round 1", "Round 2", *(role.title for role in lorid.ROLES.values()), "System 1 says", "No agreement"):
        assert part in done.stdout


@pytest.mark.parametrize("question,why", [("", "empty"), ("  \n", "empty"), ("hello", "does not look like a maths question"), ("12345", "does not look like"),
                                           ("How many? " * 300, "too long")])
def test_what_is_no_question_gets_a_sentence(folder, question, why):
    with pytest.raises(ValueError, match=why):
        infer.check_question(question, engine_of(folder, max_new=5))


def test_a_sentence_is_one_line_and_exit_status_2(folder):
    done = run("--model", str(folder), *adapters(folder), "--ask", "hello")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "does not look like" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--rows", "--rounds", "--max-new", "--limit"])
def test_numbers_that_must_be_positive(flag, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer.py", flag, "0"])
    with pytest.raises(SystemExit) as stop:
        infer.main()
    assert stop.value.code == 2 and "not a whole number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("flag, value", [("--temperature", "-1"), ("--temperature", "nan"), ("--temperature", "inf"), ("--top-k", "-1"), ("--top-p", "0"), ("--top-p", "1.5"),
                                         ("--top-p", "nan")])
def test_numbers_that_no_sampling_can_use(flag, value, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer.py", flag, value])
    with pytest.raises(SystemExit) as stop:
        infer.main()
    assert stop.value.code == 2 and flag in capsys.readouterr().err.splitlines()[-1]


def test_a_full_memory_is_a_sentence(folder):
    """The cache of 10 million rows cannot be had under 8 GB of addresses."""
    command = f"ulimit -v 8000000; exec {sys.executable} infer.py --model {folder} {' '.join(adapters(folder))} --rows 10000000 --limit 2"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "infer.py: the memory is full; give fewer --rows.\n")


def test_a_missing_adapter_names_the_command(folder, tmp_path):
    done = run("--model", str(folder), "--limit", "1", cwd=tmp_path)
    assert done.returncode == 2 and "python train.py --role ir" in done.stderr and done.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# The study


def test_an_adapter_of_another_base_of_the_same_shape_is_noted(folder, tmp_path):
    """Nothing but the name in adapter_config.json tells them apart; the file may be right all the same, so the work goes on."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    done = run("--model", str(folder), *adapters(folder), "--limit", "2", "--rounds", "1", "--max-new", "5")
    assert done.returncode == 0 and "note" not in done.stderr
    (tmp_path / "link").symlink_to(folder)
    assert "note" not in run("--model", str(tmp_path / "link"), *adapters(folder), "--limit", "2", "--rounds", "1", "--max-new", "5").stderr
    done = run("--model", str(other), *adapters(folder), "--limit", "2", "--rounds", "1", "--max-new", "5")
    assert done.returncode == 0 and f"was trained on {folder}; is {other} the same base?" in done.stderr


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Adapters of the built-in base after a few seconds of training: they often answer, and often disagree."""
    out = tmp_path_factory.mktemp("out")
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), "--examples", "300", "--steps", "16", "--batch", "16", "--out", str(out)],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


def test_the_study_of_30_questions_is_consistent(taught, tmp_path):
    """Run whole, against runs of its parts: a vote of r rounds that is cut out of a longer one is the vote of r rounds."""
    pytest.importorskip("matplotlib")
    common = ["--out", str(taught), "--limit", "30", "--temperature", "0.7", "--max-new", "60"]
    done = run(*common, "--rounds", "6", "--study", "--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png"))
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "s.json").read_text())
    assert infer.table(study["methods"]) in done.stdout and (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert_consistent(study, 30, 6)
    lines = {line["method"]: line for line in study["methods"]}
    k = len(study["curves"]["self-consistency"])
    assert list(lines) == ["IR alone, greedy", f"IR alone, sampled: the mean of {k}", "KG -> DR alone, greedy", "DR without knowledge, greedy",
                           "DR with the teacher's knowledge, greedy", f"self-consistency of {k}",
                           "LoRID, 1 round", "LoRID, 2 rounds", "LoRID, 5 rounds", "LoRID, 6 rounds"]
    done = run(*common, "--rounds", "2", "--json", str(tmp_path / "two.json"))
    assert done.returncode == 0, done.stderr
    *single, two = json.loads((tmp_path / "two.json").read_text())["methods"]
    for line, same in zip((*single, two), ("IR alone, greedy", "KG -> DR alone, greedy", "LoRID, 2 rounds"), strict=True):
        for key in ("accuracy", "rounds", "texts", "tokens", "agreed", "sure", "cut"):
            assert line.get(key) == lines[same].get(key), (same, key)
    assert two["agreed"] < lines["LoRID, 6 rounds"]["agreed"]  # some agree later, or this test tests nothing


def test_two_processes_share_the_questions_and_answer_as_one(taught, tmp_path):
    """Seven questions, so the shares differ. One row at a time, in float32: what sums still depend on (who guessed, whose prompt was kept) is too
    little to change a draw."""
    words = [str(ROOT / "infer.py"), "--out", str(taught), "--limit", "7", "--rounds", "3", "--max-new", "60", "--rows", "1", "--dtype", "float32"]
    for name, start in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"])):
        done = subprocess.run([sys.executable, *start, *words, "--json", str(tmp_path / f"{name}.json")], capture_output=True, text=True, cwd=ROOT,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| LoRID |") == 1
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["methods"] for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    assert one[2]["rounds"] > 1


def assert_consistent(study, questions, rounds):
    """What must hold between the figures of one study, whatever they are."""
    assert study["about"]["questions"] == questions and study["about"]["rounds"] == rounds
    lorid_curve, alone = study["curves"]["LoRID"], study["curves"]["self-consistency"]
    assert len(lorid_curve) == rounds
    for line in (*study["methods"], *lorid_curve, *alone):
        assert 0 <= line["low"] <= line["accuracy"] <= line["high"] <= 1 and line["tokens"] >= line["texts"]
        for end in (line["low"], line["high"]):  # the score equation, as above
            assert (line["accuracy"] - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / questions, abs=1e-9)
        if "mean" not in line["method"]:
            assert line["accuracy"] * questions == pytest.approx(round(line["accuracy"] * questions))
    for line in lorid_curve:
        assert line["texts"] == pytest.approx(3 * line["rounds"])
        # right answers come from questions agreed upon, or from a majority on the others
        assert (line["sure"] or 0) * line["agreed"] <= line["accuracy"] + 1e-9 <= (line["sure"] or 0) * line["agreed"] + 1 - line["agreed"] + 2e-9
    for before, after in zip(lorid_curve, lorid_curve[1:]):
        assert before["agreed"] <= after["agreed"] and before["rounds"] <= after["rounds"] and before["tokens"] <= after["tokens"]
        assert after["rounds"] - before["rounds"] == pytest.approx(1 - before["agreed"])  # one round more for those who had not agreed
    assert [line["texts"] for line in alone] == list(range(1, len(alone) + 1))
    assert alone[-1]["texts"] >= lorid_curve[-1]["texts"]  # self-consistency gets as many texts
    mean = next(line for line in study["methods"] if "mean" in line["method"])
    assert mean["tokens"] == pytest.approx(alone[-1]["tokens"] / len(alone))
    assert study["methods"][-1] == lorid_curve[-1] and alone[-1] in study["methods"]


def test_only_a_vote_is_scored_strictly():
    """Whatever the temperature: a right majority without agreement counts, strictly it does not; who never votes is scored as ever."""
    rows, outcomes = [{"answer": "1"}] * 2, [infer.Outcome(lorid.Verdict("1", agreed)) for agreed in ([], ["1"])]
    for method, strict, accuracy in (("LoRID", False, 1), ("LoRID", True, 0.5), ("IR alone, greedy", True, 1), ("self-consistency of 3", True, 1)):
        assert infer.summary(method, rows, outcomes, strict)["accuracy"] == accuracy


def test_plot_wants_a_study(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer.py", "--plot", "a.png"])
    with pytest.raises(SystemExit) as stop:
        infer.main()
    assert stop.value.code == 2 and "give both" in capsys.readouterr().err


def test_without_matplotlib_plot_says_what_to_install(capsys, monkeypatch):
    """Before anything is sampled, not after."""
    monkeypatch.setattr(sys, "argv", ["infer.py", "--study", "--plot", "a.png"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(infer, "load", lambda args: pytest.fail("began to work"))
    with pytest.raises(SystemExit) as stop:
        infer.main()
    assert stop.value.code == 2 and "pip install matplotlib" in capsys.readouterr().err

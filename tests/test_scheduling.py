"""support/engine.py: every text that the engine writes, however it was scheduled, against
infer.generate, the naive loop, which is itself checked in test_infer.py.

The base is tiny and random, and so are its three adapters. A text is spelt as the numbers of its
tokens, so that two texts are the same only if every token is.
"""
import functools
import itertools
import json
import os
import random
from functools import partial

import pytest
import torch
from conftest import ROOT

import infer
import lora
import lorid
from model import Decoder, load_model, read_config, write_safetensors
from support import engine as support_engine
from support.engine import Drafts, Engine, Sequence, accept
from support.fused import fuse
from support.tokenizer import Tokenizer
from tiny.world import toy

ROLES = list(lorid.ROLES)
LIMIT = 500  # positions of the base
CONFIG = dict(
    model_type="llama", vocab_size=1024, hidden_size=64, intermediate_size=112,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-3,
    rope_theta=500.0, max_position_embeddings=LIMIT, tie_word_embeddings=False, eos_token_id=0)
GREEDY, SAMPLED = infer.draw, partial(infer.draw, temperature=1.0, top_k=0, top_p=0.95)
COOL = partial(infer.draw, temperature=0.2, top_k=20, top_p=1.0)
MANY_ENDS = list(range(1, 1024, 9))


def random_base(folder):
    """Make a random base that has the built-in tokenizer, and in it three random adapters of
    different ranks, on different layers: ir/, kg/ and dr/. Returns the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_bytes((ROOT / "tiny" / "tokenizer.json").read_bytes())
    torch.manual_seed(0)
    model = Decoder(read_config(folder)).requires_grad_(False)
    for name, p in model.named_parameters():  # weights keep the size of what flows
        std = 0.3 if p.dim() == 1 else p.shape[1] ** -0.5
        torch.nn.init.normal_(p, mean=float("norm" in name), std=std)
    write_safetensors(folder / "model.safetensors", model.state_dict())
    for seed, role in enumerate(ROLES):
        torch.manual_seed(seed)
        model = load_model(folder, dtype=torch.float32)
        targets = ["q_proj", "v_proj", "down_proj", "lm_head"][seed:]
        lora.inject(model, targets, {role: (2 + seed, 1.5)})
        for _, layer in lora.lora_layers(model):
            torch.nn.init.normal_(layer.B, std=0.3)
        lora.save_adapter(model, role, folder / role, base=folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_base(tmp_path_factory.mktemp("engine") / "base")


class Numbers(Tokenizer):
    """Spells a text as the numbers of its tokens, on one whole line."""
    def decode(self, ids):
        return " ".join(map(str, ids)) + "\n"


def engine_of(folder, draw=GREEDY, dtype=torch.float32, eos_ids=(0,), **settings):
    model, tokenizer = load_model(folder, dtype=dtype), Numbers(folder)
    lora.load_adapters(model, {role: folder / role for role in ROLES})
    tokenizer.eos_ids = list(eos_ids)
    engine = Engine(fuse(model), tokenizer, draw, **settings)
    engine.folder = folder
    return engine


@functools.cache
def plain_model(folder, role, dtype):
    """The base with this one adapter on it, nothing fused."""
    model = load_model(folder, dtype=dtype)
    lora.load_adapters(model, {role: folder / role})
    lora.set_adapter(model, role)
    return model


@functools.cache
def naive_ids(folder, dtype, draw, eos_ids, most, role, prompt_ids, seed):
    """The new tokens of the naive loop: no cache, no batch, no draft, one adapter."""
    most = min(most, LIMIT - len(prompt_ids))
    return infer.generate(plain_model(folder, role, dtype), list(prompt_ids), eos_ids, most, draw,
                          random.Random(seed))


def alone(engine, role, prompt, question=0, number=0):
    """(text, number of tokens) of the naive loop in place of the engine. In a vote, the text would
    be the number-th about that question: so its random numbers are seeded."""
    tokenizer = engine.tokenizer
    seed = None if engine.draw is GREEDY else f"{engine.seed} {question} {number}"
    new = naive_ids(engine.folder, engine.model.dtype, engine.draw, tuple(tokenizer.eos_ids),
                    engine.max_new_tokens, role, tuple(tokenizer.prompt_ids(prompt)), seed)
    if new[-1] in tokenizer.eos_ids:
        return tokenizer.decode(new[:-1]), len(new)
    # truncated: its last line is not to be trusted
    return tokenizer.decode(new).rpartition("\n")[0], len(new)


def scripted(question, log):
    """A conversation of every shape: one text, then three at once, then one that depends on what
    was said. Notes ((role, prompt), text) in log."""
    requests = [("kg", question)]
    [a] = yield requests
    log += [(requests[0], a)]
    requests = [("ir", question), ("dr", question + a), ("kg", "Knowledge: " + question)]
    b, c, d = yield requests
    log += zip(requests, (b, c, d), strict=True)
    requests = [("dr", b[:40])]
    [e] = yield requests
    log += [(requests[0], e)]
    return lorid.Verdict("1")


def rounds_of(question, log, rounds=3):
    """A vote that never ends early."""
    for _ in range(rounds):
        requests = [("ir", lorid.prompt("ir", question)), ("kg", lorid.prompt("kg", question))]
        a, b = yield requests
        log += zip(requests, (a, b), strict=True)
        requests = [("dr", lorid.prompt("dr", question, b))]
        [c] = yield requests
        log += [(requests[0], c)]
    return lorid.Verdict("1")


def questions(n):
    return [row["question"] for row in toy(n, "test", 3)]


def assert_alone(engine, logs, outcomes):
    """Every text, and how long it is, as the naive loop has it. A vote asks ir, kg, dr, ir, ..."""
    for question, (log, outcome) in enumerate(zip(logs, outcomes, strict=True)):
        numbers = {role: itertools.count(i, 3) for i, role in enumerate(("ir", "kg", "dr"))}
        wanted = [alone(engine, *request, question, next(numbers[request[0]]))
                  for request, _ in log]
        assert [(text, length) for (_, text), length in zip(log, outcome.tokens, strict=True)] \
            == wanted


def record_passes(engine):
    """Note each pass of the engine: (is it a prefill?, sequences, what they are fed, from where,
    in which slot the first of them is)."""
    passes, plain = [], engine.forward

    def forward(sequences, fed, starts, *first):
        passes.append((bool(first), list(sequences), list(fed), starts, sum(first)))
        return plain(sequences, fed, starts, *first)
    engine.forward = forward
    return passes


def decode_steps(passes):
    return [step for step in passes if not step[0]]


# --------------------------------------------------------------------------------------------------
# The texts


@pytest.mark.parametrize("longest_alone", [512, 0], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_greedy_engine_equals_the_naive_loop(folder, slots, longest_alone, monkeypatch):
    """Many conversations in few slots, roles mixed, slots refilled, by either way to attend."""
    monkeypatch.setattr(support_engine, "LONGEST_ALONE", longest_alone)
    engine, logs = engine_of(folder, slots=slots, max_new_tokens=12), [[] for _ in range(7)]
    asked = zip(questions(7), logs, strict=True)
    outcomes = engine.run(scripted(question, log) for question, log in asked)
    assert_alone(engine, logs, outcomes)
    assert all(len(log) == 5 and outcome.verdict.answer == "1"
               for log, outcome in zip(logs, outcomes, strict=True))


def test_a_sampled_text_is_that_of_the_naive_loop_in_any_number_of_slots(folder):
    """Each text has random numbers of its own, by seed, question and number, so it does not depend
    on its neighbours; another seed gives others. In float64, where it is not the last digit, which
    depends on the shapes that are multiplied, that decides between a thousand equally likely
    tokens."""
    def texts(slots, seed):
        engine = engine_of(folder, SAMPLED, torch.float64, slots=slots, max_new_tokens=10,
                           seed=seed)
        logs = [[] for _ in range(6)]
        asked = zip(questions(6), logs, strict=True)
        outcomes = engine.run(scripted(question, log) for question, log in asked)
        if slots == 2:
            assert_alone(engine, logs, outcomes)
        return logs
    assert texts(2, seed=1) == texts(16, seed=1) != texts(16, seed=2)


@pytest.mark.parametrize("draw", [
    pytest.param(GREEDY, id="greedy", marks=pytest.mark.slow), pytest.param(SAMPLED, id="sampled"),
    pytest.param(COOL, id="cool", marks=pytest.mark.slow)])
def test_drafts_may_be_left_out(draw, folder):
    """Many votes in few slots, texts of all lengths: they are the same with drafts and without, and
    those of the naive loop."""
    found = {}
    for drafts in (True, False):
        engine = engine_of(folder, draw, torch.float64, MANY_ENDS, slots=3, max_new_tokens=12,
                           seed=4, drafts=drafts)
        passes, logs = record_passes(engine), [[] for _ in range(12)]
        asked = zip(questions(12), logs, strict=True)
        outcomes = engine.run(rounds_of(question, log) for question, log in asked)
        if drafts:
            assert_alone(engine, logs[:3], outcomes[:3])
        fed = [len(tokens) for step in decode_steps(passes) for tokens in step[2]]
        found[drafts] = logs, outcomes, len(fed)
        assert (max(fed) > 1) == drafts
    assert found[True][:2] == found[False][:2]
    # what a text has in common with earlier ones takes no pass of its own
    assert found[True][2] < found[False][2] * (0.5 if draw is GREEDY else 1)


def test_an_engine_sets_its_adapters_whoever_else_has_set_them(folder):
    engine, texts = engine_of(folder, slots=2, max_new_tokens=6), []
    for _ in range(2):
        [outcome] = engine.run([lorid.system1("What is 1+1?")])
        texts.append(outcome.verdict.rounds[0].intuitive)
        lora.set_adapter(engine.model, None)
    assert texts[0] == texts[1] == alone(engine, "ir", lorid.prompt("ir", "What is 1+1?"))[0]


# --------------------------------------------------------------------------------------------------
# Slots


def test_slots_are_refilled_while_texts_wait(folder):
    """Never more sequences than slots. While texts wait, a step is made with an eighth of the slots
    free at most; a new question is opened only when a slot would stay empty."""
    engine, opened = engine_of(folder, eos_ids=MANY_ENDS, slots=16, max_new_tokens=20), []
    plain, free, done = engine.decode_step, [], []

    def decode_step():
        if engine.waiting or engine.unopened:
            free.append(16 - len(engine.running))
        assert 0 < len(engine.running) <= 16
        assert len(opened) - len(done) <= 16  # each question that is open waits or is in a slot
        plain()
    engine.decode_step = decode_step

    def conversation(question):
        opened.append(question)
        yield [("ir", question)] * 2
        yield [("kg", question)]
        return lorid.Verdict("1")
    assert len(engine.run(map(conversation, questions(40)), done.append)) == 40
    assert opened == questions(40) and done == list(range(1, 41))
    assert len(free) > 20 and {0, 1} <= set(free) <= {0, 1, 2}


def test_end_tokens_end_a_text_and_are_no_part_of_it(folder):
    """With many end tokens, texts end early; only those that reached max_new_tokens count as
    truncated."""
    engine = engine_of(folder, eos_ids=MANY_ENDS, slots=4, max_new_tokens=15)
    logs = [[] for _ in range(6)]
    asked = zip(questions(6), logs, strict=True)
    outcomes = engine.run(scripted(question, log) for question, log in asked)
    assert_alone(engine, logs, outcomes)
    truncated = [flag for outcome in outcomes for flag in outcome.truncated]
    texts = [text for log in logs for _, text in log]
    assert truncated == [not text.endswith("\n") for text in texts]
    assert 0 < sum(truncated) < 30  # some ended, some were truncated, or this test tests nothing
    said = {int(word) for text in texts for word in text.split()}
    assert len(said) > 50 and not said & set(MANY_ENDS)


def test_a_prompt_without_room_is_an_empty_text_and_counted(folder):
    """And nothing is the worse for it: the next question is answered as ever."""
    def conversation(question):
        [text] = yield [("ir", question)]
        return lorid.Verdict(text)
    engine = engine_of(folder, slots=2, max_new_tokens=10)
    asked = ["one two three " * 400, "What is 1+1?"]
    first, second = engine.run(map(conversation, asked))
    assert (first.verdict.answer, first.truncated, first.tokens) == ("", [True], [0])
    assert (second.verdict.answer, second.tokens[0]) == alone(engine, "ir", asked[1])


@pytest.mark.parametrize("drafts", [True, False])
def test_a_text_stops_at_the_last_position_of_the_model(folder, drafts):
    """A prompt of 493 tokens leaves room for 7 more in 500 positions, no multiple of the 32 in
    which the cache grows: asked again, too, when all 7 can be drafted. One of 499 leaves room for
    one. One of a single token may come first, and another begin like it."""
    engine = engine_of(folder, eos_ids=[], slots=2, max_new_tokens=50, drafts=drafts)
    # digits are tokens of their own, and the template adds a line break
    prompts = ["", "\n1", "1" * 492, "1" * 492, "1" * 498]
    ids = list(map(engine.tokenizer.prompt_ids, prompts))
    assert list(map(len, ids)) == [1, 3, 493, 493, 499] and ids[1][:1] == ids[0]

    def conversation():
        texts = []
        for prompt in prompts:
            texts += yield [("ir", prompt)]
        return lorid.Verdict(texts)
    [outcome] = engine.run([conversation()])
    assert (outcome.tokens, outcome.truncated) == ([50, 50, 7, 7, 1], [True] * 5)
    assert outcome.verdict.answer == [alone(engine, "ir", prompt)[0] for prompt in prompts]


def test_the_last_line_of_a_truncated_text_is_dropped(folder):
    """It may end in the middle of a number, which would vote."""
    class Solver(Tokenizer):
        def decode(self, ids):
            return "48+24=72\n--> 7"
    engine = engine_of(folder, slots=2, max_new_tokens=3)
    engine.tokenizer = Solver(folder)
    [outcome] = engine.run([lorid.system1("What is 48+24?")])
    assert outcome.truncated == [True] and outcome.verdict.answer is None
    assert outcome.verdict.rounds[0].intuitive == "48+24=72"


def test_a_space_before_an_answer_does_not_reach_the_next_prompt(folder):
    """Mistral's template teaches answers that begin with one."""
    class Speaker(Tokenizer):
        def decode(self, ids):
            return " Add them.\n"
    engine, heard = engine_of(folder, slots=1, max_new_tokens=3), []
    engine.tokenizer = Speaker(folder)

    def conversation():
        heard.extend((yield [("kg", "What is 2+3?")]))
    engine.run([conversation()])
    assert heard == ["Add them."]


def test_what_no_engine_can_do_is_refused_and_it_goes_on(folder):
    """A role without an adapter would silently mean the base. A conversation may fail or ask for
    nothing; what it leaves in the slots is in nobody's way."""
    engine = engine_of(folder, slots=3, max_new_tokens=6)

    def failing():
        yield [("ir", "What is 2+3?"), ("kg", "What is 4?")]
        raise KeyError("of the conversation's own")

    def asking_nothing():
        return lorid.Verdict("4")
        yield

    def asking(role):
        yield [(role, "What is 3+3?")]
        return lorid.Verdict("6")
    with pytest.raises(KeyError, match="of the conversation's own"):
        engine.run([asking("dr"), failing(), asking("dr")])
    with pytest.raises(ValueError, match="carries no adapter xx; it has dr, ir, kg"):
        engine.run([asking("ir"), asking("xx")])
    assert engine.run([]) == []
    nothing, text = engine.run([asking_nothing(), lorid.system1("What is 1+1?")])
    assert (nothing.verdict.answer, nothing.tokens, nothing.truncated) == ("4", [], [])
    assert text.verdict.rounds[0].intuitive == alone(
        engine, "ir", lorid.prompt("ir", "What is 1+1?"))[0]


# --------------------------------------------------------------------------------------------------
# Prefix cache


def shared(a, b):
    return len(os.path.commonprefix([a, b]))


def test_what_a_question_has_asked_before_is_read_once_and_answered_the_same(folder):
    """A vote asks its first two prompts in every round, and its third begins alike: of each prompt,
    only that is read which the question's first for the same role has not in common; of that one,
    which anybody's first has not. Asked greedily, all are answered as by the naive loop, in every
    round and slot."""
    engine, logs, read = engine_of(folder, slots=4, max_new_tokens=9), [[] for _ in range(5)], []

    def conversation(question, log):
        for t in range(3):
            requests = [("ir", question), ("kg", question), ("ir", question),
                        ("ir", question + " and more")]
            log += zip(requests, (yield requests), strict=True)
            requests = [("dr", f"{question} {t} and so on")]
            log += zip(requests, (yield requests), strict=True)
        return lorid.Verdict("1")
    passes = record_passes(engine)
    asked = zip(questions(5), logs, strict=True)
    assert_alone(engine, logs, engine.run(conversation(question, log) for question, log in asked))
    for prefill, sequences, fed, starts, first in passes:
        if prefill:
            assert first + len(sequences) <= 4
            for sequence, tail, start in zip(sequences, fed, starts, strict=True):
                assert sequence.prompt[start:] == tail
                if len(tail) > 1:
                    read.append((sequence.role, tuple(sequence.prompt), start))
    wanted, anybody = [], {}  # the slots fill in the order of the questions
    for log in logs:
        assert len(log) == 15
        own = {}
        for (role, prompt), _ in log:
            ids = engine.tokenizer.prompt_ids(prompt)
            start = shared(ids, own.get(role) or anybody.get(role, []))
            own.setdefault(role, ids)
            anybody.setdefault(role, ids)
            wanted += [(role, tuple(ids), start)] * (start < len(ids) - 1)
    assert sorted(read) == sorted(wanted) and len(read) == 5 * (2 + 3 + 3)


def test_prompts_share_what_anybodys_first_begins_with(folder):
    """Questions that begin together: the first prompt of the role is read before the others, which
    are read from where they differ from it."""
    engine, asked = engine_of(folder, slots=3, max_new_tokens=6), questions(3)
    passes = record_passes(engine)
    outcomes = engine.run(map(lorid.system1, asked))
    prompts = [lorid.prompt("ir", question) for question in asked]
    first, *others = map(engine.tokenizer.prompt_ids, prompts)
    starts = [starts for prefill, _, _, starts, _ in passes if prefill]
    common = [shared(first, ids) for ids in others]
    assert starts[0] == [0] and sorted(starts[1]) == sorted(common) and min(common) > 9
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        assert outcome.verdict.rounds[0].intuitive == alone(engine, "ir", prompt)[0]


def test_a_prompt_that_another_question_has_asked_is_kept_whole(folder):
    """Copied but for its last token, which must be read before the next prompt copies it."""
    [one], heard = questions(1), []
    # its keys are left where the kept prompt's last ones must come
    other = " ".join(reversed(one.split())) + " Is that longer?"

    def asking(*prompts):
        for prompt in prompts:
            heard.extend((prompt, text) for text in (yield [("ir", prompt)]))
        return lorid.Verdict(None)
    engine = engine_of(folder, slots=1, max_new_tokens=6)
    engine.run([asking(one), asking(other), asking(one, one + "\nAnd then?")])
    assert len(heard) == 4
    assert all(text == alone(engine, "ir", prompt)[0] for prompt, text in heard)


def test_what_was_kept_for_a_question_goes_with_it(folder):
    """Prompts and drafts: as many as there are slots, and everybody's, however many questions."""
    engine, most = engine_of(folder, slots=2, max_new_tokens=4), []
    plain = engine.decode_step

    def decode_step():
        most.append(max(len(engine.prefixes), len(engine.drafts.tables)))
        plain()
    engine.decode_step = decode_step
    engine.run(map(lorid.system2, questions(9)))
    assert max(most) == 3
    assert list(engine.prefixes) == list(engine.drafts.tables) == [None]


# --------------------------------------------------------------------------------------------------
# Drafts


@pytest.mark.parametrize("draft", [[], [5], [5, 6], [5, 6, 5]], ids=len)
def test_accept_is_the_longest_valid_part(draft):
    """All that can be drawn from three tokens, with each set of end tokens: by its docstring."""
    for drawn in itertools.product((5, 6, 7), repeat=len(draft) + 1):
        for eos_ids in ((), (5,), (6, 7), (5, 6, 7)):
            tokens = accept(draft, list(drawn), eos_ids)
            n = len(tokens)
            assert n >= 1 and tokens == list(drawn[:n])
            # what stands before the last was drafted, and ends nothing
            assert tokens[:-1] == draft[:n - 1] and not set(tokens[:-1]) & set(eos_ids)
            # and there is a reason to stop
            assert (n == len(draft) + 1 or tokens[-1] != draft[n - 1] or tokens[-1] in eos_ids)


def test_accept_tells_a_draft_from_what_is_drawn():
    assert accept([5, 6, 7], [5, 6, 9, 4], eos_ids=[0]) == [5, 6, 9]
    assert accept([5, 6, 7], [5, 6, 7, 4], eos_ids=[0]) == [5, 6, 7, 4]
    assert accept([5, 0, 7], [5, 0, 7, 4], eos_ids=[0]) == [5, 0]
    assert accept([], [3], eos_ids=[0]) == [3]
    with pytest.raises(ValueError):
        accept([5, 6], [5, 6], eos_ids=[0])


@pytest.mark.parametrize("eos_ids", [[0], MANY_ENDS], ids=["one end", "many ends"])
def test_drafts_change_no_text_and_save_steps(folder, monkeypatch, eos_ids):
    """The same texts without drafts, with those of the engine, and with half right ones, sampled
    too, in float64. A question that is asked again greedily is answered alike: then all drafts are
    right."""
    written = {}

    def texts(draw, drafts=True):
        engine = engine_of(folder, draw, torch.float64, eos_ids, slots=3, max_new_tokens=24, seed=2,
                           drafts=drafts)
        passes, finish, logs = record_passes(engine), engine.finish, [[] for _ in range(3)]

        def noted(sequence, truncated):
            written[sequence.owner, sequence.number] = sequence.tokens
            finish(sequence, truncated)

        def again(question, log):
            for _ in range(3):
                log += [(("ir", question), text) for text in (yield [("ir", question)])]
            return lorid.Verdict(None)
        engine.finish = noted
        outcomes = engine.run(map(again, questions(3), logs))
        assert_alone(engine, logs, outcomes)
        return [[text for _, text in log] for log in logs], len(decode_steps(passes))

    def half_right(self, sequence, most):
        """Up to seven tokens that this text will have, the fourth replaced, and beyond its end one
        of nonsense."""
        n = len(sequence.tokens)
        draft = (written[sequence.owner, sequence.number][n:n + 7] + [1])[:most]
        return [(token + 1) % 1024 if i % 5 == 3 else token for i, token in enumerate(draft)]

    for draw in (GREEDY, SAMPLED, COOL):
        plain, every = texts(draw, drafts=False)
        drafted, few = texts(draw)
        with monkeypatch.context() as patch:
            patch.setattr(Drafts, "propose", half_right)
            half_drafted, some = texts(draw)
        assert drafted == half_drafted == plain
        assert [len(set(three)) for three in plain] == [1 if draw is GREEDY else 3] * 3
        assert few <= every and some < every * 0.6
        if draw is GREEDY and eos_ids == [0]:
            assert every >= 3 * 23 and few < every * 0.4 and some < every * 0.4


def test_what_one_question_was_answered_is_drafted_for_another(folder):
    """The same question asked twice, by two conversations, one after the other."""
    engine = engine_of(folder, slots=1, max_new_tokens=24)
    passes = record_passes(engine)
    first, second = engine.run(lorid.system1(questions(1)[0]) for _ in range(2))
    assert first.verdict.rounds == second.verdict.rounds and first.tokens == second.tokens
    owners = [sequences[0].owner for _, sequences, *_ in decode_steps(passes)]
    assert owners.count(1) <= owners.count(0) / 2


PROMPT = [*range(100, 120)]


def sequence(*tokens, owner=0, prompt=PROMPT, **more):
    return Sequence(owner, 0, "ir", prompt, None, tokens=list(tokens), u=[0.5] * 60, **more)


def sure(*tokens, **more):
    """A finished text, each of whose tokens was the only choice."""
    return sequence(*tokens, choices=[([token], [1.0]) for token in tokens], **more)


def test_a_draft_is_what_would_be_drawn_after_the_same_tokens():
    drafts, whole = Drafts(), [*range(1, 41)]

    def propose(*tokens, most=99):
        return drafts.propose(sequence(*tokens), most)
    drafts.learn(sure(*whole))
    assert propose() == whole[:24] and propose(1, 2) == whole[2:26]
    assert propose(1, 2, most=2) == [3, 4] and propose(1, 2, most=0) == [] == propose(*whole)
    # after the same three, one, for two weak drafts would make a doubtful one; after fourteen, too
    assert propose(50, 4, 5, 6) == [7] and propose(50, *range(4, 18)) == [18]
    # after sixteen, all; also if the one made them whole
    assert propose(50, *range(4, 20)) == propose(50, *range(4, 19))[1:] == whole[19:]
    assert propose(5, 6) == propose(8, 7, 6) == []
    # what came last counts, but sixteen tokens tell more than three
    drafts.learn(sure(30, 4, 5, 6, 40))
    assert propose(50, 4, 5, 6) == [40] and propose(1, 2, 3, 4, 5, 6, most=2) == [7, 8]


def test_each_place_of_a_draft_is_drawn_with_its_own_random_number():
    drafts = Drafts()
    drafts.learn(sequence(60, 61, 62, choices=[
        ([60], [1.0]), ([61], [1.0]), ([62, 63, 64], [0.5, 0.8, 1.0])]))
    for u, token in ((0.0, 62), (0.5, 62), (0.6, 63), (0.8, 63), (0.81, 64), (0.999, 64)):
        other = sequence(60, 61)
        other.u[2] = u
        assert drafts.propose(other, 1) == [token]
    other = sequence()
    other.u[2] = 0.9
    assert drafts.propose(other, 9) == [60, 61, 64]


def test_other_questions_tell_what_this_ones_texts_do_not():
    """Even if they have sixteen tokens in common."""
    drafts = Drafts()

    def propose(*tokens):
        return drafts.propose(sequence(*tokens), 99)
    drafts.learn(sure(*range(1, 41)))
    drafts.learn(sure(7, 8, 9, 70, 71, *range(80, 100), owner=1))
    assert propose(7, 8, 9) == [10] and propose(60, 9, 70) == []
    assert propose(60, 8, 9, 70) == [71] and propose(7, 8, 9, 70) == [71, *range(80, 100)]


def test_where_fewer_than_sixteen_tokens_came_before_drafts_are_weak():
    drafts = Drafts()

    def propose(*tokens):
        return drafts.propose(sequence(*tokens, prompt=[7, 8]), 99)
    drafts.learn(sure(*range(1, 21), prompt=[7, 8]))
    assert propose() == [1] and propose(1, 2, 3) == [4]
    assert len(drafts.tables[0]) == 20 + 18 and propose(*range(1, 15)) == [15, 16, 17, 18, 19, 20]


def test_what_is_learnt_from_everybody_stays_small(monkeypatch):
    monkeypatch.setattr(support_engine, "MOST_KEYS", 40)
    drafts = Drafts()
    for n in range(30):
        drafts.learn(sure(n, n + 1, n + 2, owner=n, prompt=[99] * 16))
        assert len(drafts.tables[None]) <= 40 + 6
        assert drafts.tables[None][99, 99, 99] == ([n], [1.0])


def test_four_of_the_likeliest_stand_for_a_choice():
    """The fourth takes what is left of the probability, so that any number finds one."""
    ids = torch.tensor([[7, 6, 5, 4, 3, 2]])
    cumulative = torch.tensor([[0.5, 0.625, 0.75, 0.875, 0.9375, 1.0]])
    assert Drafts().choices(ids, cumulative) == [([7, 6, 5, 4], [0.5, 0.625, 0.75, 1.0])]
    whole = torch.tensor([[0.5, 1.0]])
    assert Drafts().choices(ids[:, :2], whole) == [([7, 6], [0.5, 1.0])]


def test_drafts_are_drawn_as_the_token_is(folder, monkeypatch):
    """With the random number that decides, from what was likely there: texts about a question begin
    unlike, but always as drafted."""
    tried, plain = [], Drafts.propose

    def noted(self, sequence, most):
        draft = plain(self, sequence, most)
        tried.append((sequence, len(sequence.tokens), draft))
        return draft
    monkeypatch.setattr(Drafts, "propose", noted)

    def again():
        for _ in range(12):
            yield [("ir", questions(1)[0])]
        return lorid.Verdict(None)
    draw = partial(infer.draw, temperature=0.7, top_k=4)
    engine_of(folder, draw, torch.float64, slots=1, max_new_tokens=4, seed=3).run([again()])
    # all texts begin after the same prompt
    first = [(text.tokens[0], draft[0]) for text, n, draft in tried if n == 0 and draft]
    assert len(first) == 11 and all(token == drafted for token, drafted in first)
    assert len({token for token, _ in first}) > 1

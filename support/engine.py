"""Fast sampling, and nothing else: what infer.py's `generate` does, for hundreds of conversations.

A conversation (lorid.py) yields the texts that it wants, [(role, prompt), ...], and is sent them.
The engine writes all these texts side by side, whatever their role, in the slots of one KV cache:

    continuous batching     a slot takes the next text the moment its own has ended
    prefix cache            what a prompt shares with an earlier one is copied, not computed again
    speculative decoding    several tokens of a text in one pass, where tables can draft them

No text depends on any of this, up to rounding: each is drawn with random numbers of its own.

Shapes: N new tokens of all sequences, one after the other, a batch of one without padding; n
sequences, T most tokens of one, S most keys; H, K, D, C, V as in model.py, G = H / K.
"""
import math
import random
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from data import micro_batches
from lora import set_adapter
from lorid import ROLES, Verdict
from model import attention, causal_mask
from support.distributed import get_rank, get_world_size

PREFILL_TOKENS = 2048  # most tokens of prompts in one pass, each counted as long as the longest
LONGEST_ALONE = 512    # on a CPU, new tokens of one sequence up to which each attends on its own

# --------------------------------------------------------------------------------------------------
# The KV cache, and attention over it


class KVCache:
    """Keys and values of sequences of different lengths, one a slot. Nothing is ever erased: beyond
    a sequence's length lie leftovers (of another one, of drafts that proved wrong), which the mask
    hides until they are overwritten."""

    def __init__(self, config, slots, dtype, device):
        shape = (slots, config.num_key_value_heads, 0, config.head_dim)
        empty = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity = 0  # positions of each slot
        # per layer: keys and values, (slots, K, capacity, D)
        self.layers = [(empty, empty)] * config.num_hidden_layers

    def reserve(self, size):
        """Room for `size` positions, in multiples of 32 so that growing is rare. Layer by layer:
        never the whole old cache beside the whole new one."""
        more = -(-size // 32) * 32 - self.capacity
        if more > 0:
            for i, layer in enumerate(self.layers):
                self.layers[i] = tuple(F.pad(cached, (0, 0, 0, more)) for cached in layer)
            self.capacity += more

    def copy_out(self, slot, size):
        """A copy of the first `size` positions of a slot."""
        return [tuple(cached[slot, :, :size].clone() for cached in layer) for layer in self.layers]

    def copy_in(self, slot, copies, size):
        """Begin a slot with the first `size` positions of what `copy_out` has copied."""
        for layer, copied in zip(self.layers, copies, strict=True):
            for cached, copy in zip(layer, copied, strict=True):
                cached[slot, :, :size] = copy[:, :size]


class CachedAttention:
    """The `attend` of one pass, which the decoder calls for each layer: the next lengths[i] tokens
    of the sequence in slot first + i go to the positions starts[i], starts[i] + 1, ..."""

    def __init__(self, cache, config, starts, lengths, first, device, dtype):
        self.cache, self.windows = cache, config.windows
        self.slots, self.T = slice(first, first + len(starts)), max(lengths)
        starts, counts = torch.tensor(starts), torch.tensor(lengths)
        self.ends = (starts + counts).tolist()
        cache.reserve(max(self.ends))  # before views of it are taken

        # of each token: its sequence, its place among that sequence's new tokens, its position
        # (each (N,); for lengths (2, 3) the first is 0 0 1 1 1, the second 0 1 0 1 2)
        sequence = torch.arange(len(lengths)).repeat_interleave(counts)
        nth = torch.arange(len(sequence)) - (counts.cumsum(0) - counts)[sequence]
        self.sequence, self.nth, self.positions = (
            index.to(device) for index in (sequence, nth, starts[sequence] + nth))

        # A CPU takes sequence by sequence (padded, a vote took 25% longer), unless each has one
        # token, or one so many that its scores would fill the memory. A GPU takes all in one call.
        self.one_by_one = device.type == "cpu" and 1 < self.T <= LONGEST_ALONE
        if self.one_by_one:
            # in float32: a CPU compiles bfloat16 products for each shape, and here each is another
            self.dtype = torch.promote_types(dtype, torch.float32)
            G = config.num_attention_heads // config.num_key_value_heads
            keys, queries = torch.arange(max(self.ends)), self.positions.repeat_interleave(G)
            self.sizes = [T * G for T in lengths]
            self.masks = {window: causal_mask(queries, keys, window, self.dtype).split(self.sizes)
                          for window in set(self.windows)}            # per sequence: (T G, S)
            return
        whole = self.T > 1 and not starts.any()  # whole prompts look at nothing older
        # a CPU copies keys that are not the whole cache, so they are cut only where that pays
        cut = 2 * max(self.ends) <= cache.capacity
        self.S = self.T if whole else max(self.ends) if cut else cache.capacity
        # a padded query must look at something: a mask that is all -inf would give nan
        queries = (starts[:, None] + torch.arange(self.T)).clamp(max=self.S - 1).to(device)
        keys = torch.arange(self.S, device=device)
        self.masks = {window: None if whole and (window is None or window >= self.T)
                      else causal_mask(queries, keys, window, dtype)[:, None]   # (n, 1, T, S)
                      for window in set(self.windows)}

    def __call__(self, layer_index, q, k, v):
        """q (1, H, N, D), k and v (1, K, N, D) -> (1, H, N, D)"""
        # views of the cache, (n, K, capacity, D), which the new keys and values enter
        keys, values = (cached[self.slots] for cached in self.cache.layers[layer_index])
        keys[self.sequence, :, self.positions] = k[0].transpose(0, 1)    # (N, K, D)
        values[self.sequence, :, self.positions] = v[0].transpose(0, 1)
        mask = self.masks[self.windows[layer_index]]
        if self.one_by_one:
            return self.each_alone(q, keys, values, mask)
        return self.padded(q, keys[:, :, :self.S], values[:, :, :self.S], mask)

    def each_alone(self, q, keys, values, masks):
        """Sequence by sequence, each with its own keys only."""
        (_, H, N, D), K = q.shape, keys.shape[1]
        # token by token, and there head by head of a group, so that `split` can cut by sequence
        q = (q[0].to(self.dtype) / math.sqrt(D)).view(K, H // K, N, D).transpose(1, 2)
        queries, y = q.reshape(K, -1, D).split(self.sizes, 1), []
        for own, k, v, mask, S in zip(queries, keys, values, masks, self.ends, strict=True):
            scores = own.bmm(k[:, :S].to(self.dtype).transpose(1, 2))       # (K, T G, S)
            scores += mask[:, :S]
            y.append(scores.softmax(-1).bmm(v[:, :S].to(self.dtype)))
        y = torch.cat(y, 1).view(K, N, H // K, D).transpose(1, 2)           # (K, G, N, D)
        return y.reshape(1, H, N, D).to(keys.dtype)

    def padded(self, q, keys, values, mask):
        """All sequences in one call, each padded to the most tokens and the most keys of any."""
        q = q[0].transpose(0, 1)                                            # (N, H, D)
        if self.T == 1:
            return attention(q[:, :, None], keys, values, mask).transpose(0, 2)  # (1, H, n, D)
        queries = q.new_zeros(len(keys), self.T, *q.shape[1:])              # (n, T, H, D)
        queries.index_put_((self.sequence, self.nth), q)
        y = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values, mask,
                                           is_causal=mask is None, enable_gqa=True)
        return y.transpose(1, 2)[self.sequence, self.nth].transpose(0, 1)[None]


# --------------------------------------------------------------------------------------------------
# Drafts


LONG, SHORT = 16, 3  # how many tokens back a draft looks
MOST_DRAFTED = 24    # tokens of a sequence in one pass
MOST_KEYS = 100_000  # of a table, 300 to 600 bytes each; a fuller one is emptied


class Drafts:
    """What may come next, by what came next before. A table notes, for each token of a finished
    text, the choice that it was drawn from (the four likeliest ids, and the running sums of their
    probabilities), under the 16 tokens before it and under the 3. One table for each open question,
    one for all.

    Speculative decoding (arXiv 2211.17192), with tables in place of a small model. The rounds of a
    vote repeat each other: tiny/ writes 5 tokens of a text in a pass, and 5 of 6 drafted tokens are
    accepted."""

    def __init__(self):
        self.tables = {None: {}}  # owner -> table; under None, everybody's

    def tables_of(self, owner):
        return self.tables.setdefault(owner, {}), self.tables[None]

    def choices(self, ids, cumulative):
        """What a pass's tokens are drawn from, (N, k) each, as a list to note. The fourth id takes
        what is left of the probability, so that any u finds one. Overwrites cumulative."""
        cumulative[:, 3:] = 1
        return list(zip(ids[:, :4].tolist(), cumulative[:, :4].tolist(), strict=True))

    def learn(self, sequence):
        """Note the choices of a finished text."""
        ids = sequence.prompt[-LONG:] + sequence.tokens
        for table in self.tables_of(sequence.owner):
            if len(table) > MOST_KEYS:
                table.clear()
            for end, choice in enumerate(sequence.choices, len(ids) - len(sequence.tokens)):
                table[tuple(ids[max(0, end - LONG):end])] = choice
                table[tuple(ids[max(0, end - SHORT):end])] = choice

    def propose(self, sequence, most):
        """Up to `most` tokens that may come next, each drawn from a noted choice with the u that
        will decide here: if the choice is the same, so is the token.

        What was found under 16 tokens was right 99 of 100 times, under fewer every second time.
        After a wrong token all are in vain, so a second such weak one is not proposed."""
        tables, draft, weak = self.tables_of(sequence.owner), [], 0
        back = sequence.prompt[-LONG:] + sequence.tokens[-LONG:]
        while len(draft) < min(most, MOST_DRAFTED):
            # this question's table by 16 tokens, by 3, then everybody's
            places = [(table, tuple(back[-size:])) for table in tables for size in (LONG, SHORT)]
            table, key = next(((t, k) for t, k in places if k in t), (None, ()))
            weak += len(key) < LONG
            if table is None or weak > 1:
                break
            ids, cumulative = table[key]
            u = sequence.u[len(sequence.tokens) + len(draft)]
            draft.append(ids[bisect_left(cumulative, u)])
            back.append(draft[-1])
        return draft


def accept(draft, drawn, eos_ids):
    """How far a draft was right: the tokens that a sequence grows by, at least one.

    draft has m tokens, drawn m + 1: drawn[i] is what the model chose after draft[:i], so it is
    valid as long as draft[:i] is what was drawn before it. The result: the drawn tokens up to the
    first that differs from its draft, that one included; all m + 1 if none does; never further than
    an end token, which is included. The two lists stay as they are.

    >>> accept([5, 6, 7], [5, 6, 9, 4], eos_ids=[0])
    [5, 6, 9]
    """
    # exercise engine-1, 7 points: keep what the model would have written anyway
    tokens = []
    for token, drafted in zip(drawn, [*draft, None], strict=True):
        tokens.append(token)
        if token != drafted or token in eos_ids:
            break
    return tokens
    # end of engine-1


# --------------------------------------------------------------------------------------------------
# The engine


@dataclass(eq=False)
class Sequence:
    """A text that a conversation asked for."""
    owner: int         # which conversation
    number: int        # which of all the texts that it has asked for
    role: str
    prompt: list[int]
    rng: random.Random
    key: tuple = ()    # of the text, once it is written, in Engine.texts
    tokens: list[int] = field(default_factory=list)  # written so far
    u: list[float] = field(default_factory=list)     # u[i] draws tokens[i]; some ahead, for drafts
    choices: list = field(default_factory=list)      # what tokens[i] was drawn from, for Drafts


@dataclass
class Outcome:
    """How a conversation ended, and of each text that it asked for, in that order: its new tokens,
    the end token included, and whether it ended by length, not by an end token."""
    verdict: Verdict | None = None
    tokens: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)


def shared_length(a, b):
    """How many items two lists have in common at their beginning."""
    size = min(len(a), len(b))
    return next((i for i in range(size) if a[i] != b[i]), size)


class Engine:
    """`slots` sequences at a time over one model that carries the adapters of the roles.

    draw(logits (N, V), u (N,)) -> (tokens (N,), ids (N, k), cumulative (N, k)): the tokens drawn
    with the random numbers u in [0, 1), and what they were drawn from, the likeliest first. A text
    has at most max_new_tokens. drafts=False: one token of a sequence in a pass."""

    def __init__(self, model, tokenizer, draw, slots=64, max_new_tokens=256, seed=0, drafts=True):
        self.model, self.tokenizer, self.draw, self.slots = model, tokenizer, draw, slots
        self.max_new_tokens, self.seed, self.with_drafts = max_new_tokens, seed, drafts
        self.watch = lambda sequence, over: None  # told of each that has grown
        self.limit = model.config.max_position_embeddings
        self.cache = KVCache(model.config, slots, model.dtype, model.device)
        self.rank, self.world_size = get_rank(), get_world_size()

    @torch.inference_mode()
    def run(self, conversations, progress=lambda done: None, texts=None):
        """Drive all conversations to their end; returns their Outcomes in order.

        A conversation is resumed, the texts that it asks for wait, enter slots as these fall free,
        and grow until they end; when all have ended, it is resumed with them. Those that `texts`
        has, {(question, number, role, prompt): (text, its tokens, truncated)}, are not written
        again, and what is written joins it."""
        self.conversations, self.progress = list(conversations), progress
        self.texts = {} if texts is None else texts
        self.outcomes = [Outcome() for _ in self.conversations]
        self.unopened, self.done = deque(range(len(self.conversations))), 0
        self.asked = Counter()  # (owner, role) -> how many of its texts were asked for
        self.replies = {}       # owner -> the texts of its request, None where still written
        self.waiting = deque()  # sequences that have no slot yet
        self.running = []       # running[i] is in slot i of the cache
        # owner -> {role: (its first prompt, its keys and values)}; under None, the first of all
        self.prefixes = {None: {}}
        self.drafts = Drafts() if self.with_drafts else None
        self.roles = None       # which adapters are set
        while True:
            # a new question opens only if a slot would stay empty
            while len(self.waiting) < self.slots - len(self.running) and self.unopened:
                self.resume(self.unopened.popleft(), None)
            # To fill one slot costs a pass over the weights, as a decode step of all does: wait
            # until an eighth is free, or room for all that wait.
            free = self.slots - len(self.running)
            enough = free >= min(len(self.waiting), self.slots // 8 + 1)
            if self.waiting and (enough or not self.running):
                self.admit(free)
            elif self.running:
                self.decode_step()
            else:
                return self.outcomes

    def resume(self, owner, texts):
        """Hand a conversation its texts (None at its beginning); queue what it asks for next."""
        while texts is None or None not in texts:  # it goes on at once with texts that are there
            try:
                requests = self.conversations[owner].send(texts)
            except StopIteration as end:  # a generator's return value arrives in this exception
                self.outcomes[owner].verdict, self.done = end.value, self.done + 1
                self.prefixes.pop(owner, None)  # so at most about 3 * slots prompts are kept
                if self.drafts:
                    self.drafts.tables.pop(owner, None)
                self.progress(self.done)
                return
            texts = [self.request(owner, role, prompt) for role, prompt in requests]
        self.replies[owner] = texts
        self.prefixes.setdefault(owner, {})

    def request(self, owner, role, prompt):
        """The text, if it is there; else None, and it waits for a slot."""
        outcome, question = self.outcomes[owner], self.rank + owner * self.world_size
        # which text of this role it is, counted as in a vote: ir 0, 3, 6, ..., kg 1, 4, ..., dr 2
        number = len(ROLES) * self.asked[owner, role] + (*ROLES, role).index(role)
        self.asked[owner, role] += 1
        key = question, number, role, prompt
        text, tokens, truncated = self.texts.get(key, (None, 0, False))
        outcome.tokens.append(tokens)
        outcome.truncated.append(truncated)
        if text is None:
            # Seeded by question and text, not by slot, step, process or method: results do not
            # depend (but for rounding) on what else is being written, or where.
            rng = random.Random(f"{self.seed} {question} {number}")
            ids = self.tokenizer.prompt_ids(prompt)
            self.waiting.append(Sequence(owner, len(outcome.tokens) - 1, role, ids, rng, key))
        return text

    def finish(self, sequence, truncated):
        """A text has ended. If it was the last of its request, the conversation goes on."""
        outcome, reply = self.outcomes[sequence.owner], self.replies[sequence.owner]
        if self.drafts:
            self.drafts.learn(sequence)
        outcome.tokens[sequence.number] = len(sequence.tokens)
        outcome.truncated[sequence.number] = truncated
        written = sequence.tokens if truncated else sequence.tokens[:-1]  # no end token
        text = self.tokenizer.decode(written).strip(" ")  # Mistral's answers begin with a space
        # its index from the end: the present request asked for the last texts. Where a text was
        # cut short, its last line goes: it may hold half a number
        place = sequence.number - len(outcome.tokens)
        reply[place] = text = text.rpartition("\n")[0] if truncated else text
        self.texts[sequence.key] = text, len(sequence.tokens), truncated
        if None not in reply:
            self.resume(sequence.owner, reply)

    def room(self, sequence):
        """How many more tokens it may have."""
        most = min(self.max_new_tokens, self.limit - len(sequence.prompt))
        return most - len(sequence.tokens)

    def forward(self, sequences, tokens, starts, first=0):
        """Feed tokens[i], a list, to the sequence in slot first + i, from position starts[i] on.
        Their hidden states, (1, N, C)."""
        model, lengths = self.model, [len(new) for new in tokens]
        each = zip(sequences, lengths, strict=True)
        roles = [[s.role for s, length in each for _ in range(length)]]  # per token
        if roles != self.roles:
            set_adapter(model, roles)
            self.roles = roles
        attend = CachedAttention(
            self.cache, model.config, starts, lengths, first, model.device, model.dtype)
        ids = torch.tensor([[token for new in tokens for token in new]], device=model.device)
        return model(ids, attend.positions[None], attend)

    # Prefill: prompts enter the cache

    def known(self, sequence):
        """The prompt that this one is compared with, and its keys and values: the first of the
        same role and question, else of the same role."""
        own, everybodys = self.prefixes[sequence.owner], self.prefixes[None]
        return own.get(sequence.role) or everybodys.get(sequence.role, ([], None))

    def admit(self, free):
        """Sequences that wait enter the free slots."""
        entering = [self.waiting.popleft() for _ in range(min(len(self.waiting), free))]
        fits = [sequence for sequence in entering if self.room(sequence) > 0]
        # Prompts copy from earlier ones: the first of each new role enters alone, then the first of
        # each new question and role, then all others.
        while fits:
            now, later, begun = [], [], set()
            for s in fits:
                new_to = [owner for owner in (None, s.owner) if s.role not in self.prefixes[owner]]
                key = (s.role, new_to[0]) if new_to else s
                (later if key in begun else now).append(s)
                begun.add(key)
            self.prefill(now)
            fits = later
        for sequence in entering:
            if self.room(sequence) <= 0:
                self.finish(sequence, truncated=True)  # an empty text, counted as truncated

    def prefill(self, sequences):
        """Put sequences into the next slots and compute their prompts: what they share with a known
        one is copied, the rest is fed. The hidden states are dropped: the next decode step begins
        with each prompt's last token, once more."""
        unfed = []
        for sequence in sequences:
            shared = shared_length(self.known(sequence)[0], sequence.prompt)
            shared = min(shared, len(sequence.prompt) - 1)  # so that no tail is empty
            unfed.append((sequence.prompt[shared:], sequence))
        for group in micro_batches(unfed, PREFILL_TOKENS):  # longest first
            first = len(self.running)
            tails, group = zip(*group, strict=True)
            starts = [len(s.prompt) - len(tail) for tail, s in zip(tails, group, strict=True)]
            for i, s in enumerate(group):
                if starts[i]:
                    self.cache.copy_in(first + i, self.known(s)[1], starts[i])
            new = [(i, s) for i, s in enumerate(group) if s.role not in self.prefixes[s.owner]]
            # else only each prompt's last token is unfed, and the decode step feeds that
            if new or len(tails[0]) > 1:
                self.forward(group, tails, starts, first)
            for i, s in new:
                prefix = s.prompt, self.cache.copy_out(first + i, len(s.prompt))
                self.prefixes[s.owner][s.role] = prefix
                self.prefixes[None].setdefault(s.role, prefix)
            self.running.extend(group)

    # Decode: every running sequence grows

    def decode_step(self):
        """Feed each sequence its latest token and its draft; it grows by what is accepted."""
        fed, starts, u = [], [], []
        for s in self.running:
            n = len(s.tokens)
            s.u += [s.rng.random() for _ in range(n + MOST_DRAFTED + 1 - len(s.u))]
            # one more token than drafted comes anyway
            draft = self.drafts.propose(s, self.room(s) - 1) if self.drafts else []
            fed.append([(s.tokens or s.prompt)[-1], *draft])
            starts.append(len(s.prompt) + n - 1)
            u += s.u[n:n + len(fed[-1])]
        hidden = self.forward(self.running, fed, starts)  # (1, N, C)
        drawn, ids, cumulative = self.draw(
            self.model.logits(hidden)[0], torch.tensor(u, device=hidden.device))
        drawn = drawn.tolist()
        choices = self.drafts.choices(ids, cumulative) if self.drafts else []
        for s, (_, *draft) in zip(self.running, fed, strict=True):
            grown = accept(draft, drawn[:len(draft) + 1], self.tokenizer.eos_ids)
            s.tokens += grown
            s.choices += choices[:len(grown)]
            drawn, choices = drawn[len(draft) + 1:], choices[len(draft) + 1:]
        self.retire()

    def retire(self):
        """Sequences that have ended leave; slots stay packed: the last moves to the empty one."""
        for slot in reversed(range(len(self.running))):  # what moves there has been looked at
            sequence = self.running[slot]
            ended = sequence.tokens[-1] in self.tokenizer.eos_ids
            over = ended or self.room(sequence) <= 0
            self.watch(sequence, over)
            if over:
                last = self.running.pop()
                if last is not sequence:
                    self.running[slot] = last
                    size = len(last.prompt) + len(last.tokens) - 1  # its latest is not fed yet
                    copy = self.cache.copy_out(len(self.running), size)
                    self.cache.copy_in(slot, copy, size)
                self.finish(sequence, truncated=not ended)

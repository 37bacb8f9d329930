"""Byte-pair encoding (arXiv 1508.07909) and added tokens, by the rules of the tokenizers library.

Of all neighbours that are a pair in the list of merges, join the pair that is listed first, again
and again. With the merges a b, ab a, a ab the word "aaba" is a|a|b|a, then a|ab|a, then a|aba.
"""
import re
from heapq import heappop, heappush

import regex
import tiktoken


def join(symbols, merges):
    """The tokens that merges, {(left, right): rank}, make of symbols; of equal pairs, the left one
    is joined first.

    >>> join("aaba", {("a", "b"): 0, ("ab", "a"): 1, ("a", "ab"): 2})
    ['a', 'aba']
    """
    symbols, end = list(symbols), len(symbols)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))  # the neighbours' places
    queue = []  # the lowest rank first, then the leftmost

    def consider(i):
        pair = (symbols[i], symbols[after[i]]) if i >= 0 and after[i] < end else None
        if pair in merges:
            heappush(queue, (merges[pair], i, pair))

    for i in range(end):
        consider(i)
    while queue:
        _, i, (left, right) = heappop(queue)
        j = after[i]
        if j == end or symbols[i] != left or symbols[j] != right:
            continue  # meanwhile one of the two was joined to another
        symbols[i], symbols[j], after[i] = left + right, None, after[j]
        if after[j] < end:
            before[after[j]] = i
        consider(before[i])
        consider(i)
    return [symbol for symbol in symbols if symbol is not None]


def known(symbols, bpe):
    """The symbols with a token. One without becomes the unknown token, with fuse_unk one for all
    that follow each other; or nothing, where the file has no such token."""
    found, lost, unk = [], False, bpe.get("unk_token")
    for symbol in symbols:
        if symbol in bpe["vocab"]:
            found.append(symbol)
        elif unk is not None and not (lost and bpe.get("fuse_unk")):
            found.append(unk)
        lost = symbol not in bpe["vocab"]
    return found


def by_tiktoken(merges, vocab, raw_of):
    """A function from a word's bytes to its ids, by tiktoken, 20 times or more as fast as `join` on
    words; None if it could differ. vocab: {token: id}, raw_of: {token: its bytes}.

    tiktoken joins any neighbours that make a token, first those of the lowest id. That is the same
    where the merges are in the order of ids and a token comes whole out of its own: 500 are tried,
    or all. Bytes without a token vanish first: what stands around them may join."""
    made = [left + right for left, right in merges]
    if not raw_of.keys() >= set(made):
        return None
    ids = [vocab[token] for token in made]
    if ids != sorted(ids) or any(join(token, merges) != [token]
                                 for token in made[::len(made) // 500 + 1]):
        return None
    tokens = {*made, *(token for token in raw_of if len(token) == 1)}
    ranks = {raw_of[token]: vocab[token] for token in tokens}
    missing = bytes(b for b in range(256) if bytes([b]) not in ranks)
    encoding = tiktoken.Encoding("bpe", pat_str="", mergeable_ranks=ranks, special_tokens={})

    def encode(raw):
        raw = raw.translate(None, missing)
        return encoding._encode_single_piece(raw) if raw else []  # of b"" it would crash
    return encode


WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B)))


class AddedTokens:
    """Tokens that are found in a text before all else, the leftmost and there the longest first.

    tokens: {what is looked for: (its entry in the file, its id)}. Special ones are passed over:
    only a template may place these."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.lengths = sorted({len(content) for content in tokens}, reverse=True)
        starts = "".join(re.escape(content[0]) for content in tokens)
        self.start = re.compile(f"[{starts}]" if starts else "(?!)")

    def split(self, text):
        """[(text between such tokens, None) or ("", id)], in order."""
        parts, end, at = [], 0, 0
        while found := self.start.search(text, at):
            at = found.start()
            some = (text[at:at + length] for length in self.lengths)
            content = next((piece for piece in some if piece in self.tokens), None)
            if content is None:
                at += 1
                continue
            start, at = at, at + len(content)
            token, i = self.tokens[content]
            if token.get("special") or (token.get("single_word") and regex.search(
                    r"\w", text[max(0, start - 1):start] + text[at:at + 1])):
                continue
            before, behind = text[end:start], text[at:] if token.get("rstrip") else ""
            end = at + len(behind) - len(behind.lstrip(WHITE))
            parts += (before.rstrip(WHITE) if token.get("lstrip") else before, None), ("", i)
        return [(part, i) for part, i in (*parts, (text[end:], None)) if part or i is not None]

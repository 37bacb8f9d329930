"""A Hugging Face tokenizer.json, run by tiktoken; and the templates that its bases are prompted in.

    python model.py tiny        how a folder's tokenizer splits a sentence, and its template

What tiktoken does: it splits a text into words by a regular expression and encodes each word by
byte-pair encoding (arXiv 1508.07909): of all neighbours that make a token, join the two whose token
has the lowest rank, again and again. (A word that is itself a token is looked up at once.) With the
ranks a 0, b 1, ab 2, aab 3, aba 4 the word "aaba" is a|a|b|a, then a|ab|a, then aab|a: ranks 3, 0.

There are two kinds of file to bring into that form. For each, a function returns
    normalize    what happens to a text before it is split
    patterns     regular expressions that split it, one after the other (not as if joined by |)
    ranks        {bytes: rank}, for tiktoken
    ids          {rank: the token ids it stands for}
    token_bytes  {token id: its bytes}
"""
import unicodedata
from pathlib import Path

import regex  # tiktoken's own regular expressions: it is installed with tiktoken
import tiktoken

from model import read_config, read_json


def split(pattern, text):
    """What matches and what lies between, in order: by "[0-9]", "a12" is ['a', '1', '2']."""
    parts, end = [], 0
    for match in pattern.finditer(text):
        parts += text[end:match.start()], match.group()
        end = match.end()
    return [part for part in (*parts, text[end:]) if part]


def read_merges(bpe):
    """[(left, right)]: files write a merge as "left right" or as a pair."""
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in bpe["merges"]]


# --------------------------------------------------------------------------------------------------
# Byte-level files: LLaMA-3, Qwen, DeepSeek, SmolLM2, tiny. Tokens are strings of bytes.

GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# The tokenizers library, whose ids these must be, composes characters (NFC) by the tables of
# Unicode 9. Marks that came later it leaves where they stand, while Python, whose tables are newer,
# would put them in another order. These are their places; texts are composed between them.
NEWER = regex.compile(
    "[\u07fd\u0890-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1aff\u1df6-\u1dfa\ua82c"
    "\U00010d00-\U00010fff\U00011070\U0001133b\U00011380-\U000113ff\U0001145e\U00011800-\U00011aff"
    "\U00011d00-\U00011fff\U00016100-\U0001613f\U00016d40-\U00016fff\U0001e030-\U0001e7ff]")


def byte_alphabet():
    """{character: byte}: these files write each byte as one printable character, the printable ones
    as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def compose(text):
    """The text in NFC: e and a combining acute accent become é."""
    parts = [text] if text.isascii() else split(NEWER, text)
    return "".join(unicodedata.normalize("NFC", part) for part in parts)


def byte_level_patterns(spec):
    """The regular expressions of the file's pre-tokenizer, of one step or several."""
    patterns, on_bytes = [], False
    pre_tokenizer = spec.get("pre_tokenizer") or {}
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        kind = step.get("type")
        isolated = step.get("behavior") == "Isolated" and not step.get("invert")
        if kind == "Split" and isolated and "Regex" in step["pattern"]:
            patterns.append(step["pattern"]["Regex"])
        elif kind == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            on_bytes = True
            if step.get("use_regex", True):
                patterns.append(GPT2_SPLIT)
        else:
            raise ValueError(f"its pre-tokenizer is {kind}")
    if not on_bytes or not patterns:
        raise ValueError("its pre-tokenizer is not byte-level")
    return patterns


def byte_level(spec):
    """(normalize, patterns, ranks, ids, token_bytes) of a byte-level file."""
    normalizer = spec.get("normalizer") or {"type": "Sequence", "normalizers": []}
    kinds = [step["type"] for step in normalizer.get("normalizers", [normalizer])]
    if kinds not in ([], ["NFC"]):
        raise ValueError(f"its normalizer is {kinds}")
    patterns = byte_level_patterns(spec)

    bpe, alphabet = spec["model"], byte_alphabet()
    added = {t["content"]: t for t in spec.get("added_tokens", [])}
    vocab = {token: i for token, i in bpe["vocab"].items() if token not in added}
    try:
        token_bytes = {i: bytes(alphabet[c] for c in token) for token, i in vocab.items()}
    except KeyError as character:
        raise ValueError(f"its vocabulary holds the character {character}, "
                         "which stands for no byte") from None

    # A token's rank is its id, so the merges must be in the order of ids. (A file with
    # ignore_merges, LLaMA-3's, lists every pair that makes a token, which tiktoken joins anyway.)
    ranks, ids = {token: i for i, token in token_bytes.items()}, {i: (i,) for i in token_bytes}
    if not bpe.get("ignore_merges"):
        merged = [bpe["vocab"].get(left + right, -1) for left, right in read_merges(bpe)]
        if merged != sorted(set(merged)):
            raise ValueError("its merges are not in the order of their ids")

    # tiktoken needs all 256 bytes, and some files lack a few that no text should hold (SmolLM2's:
    # 21). Those stand for no token.
    missing = [bytes([b]) for b in range(256) if bytes([b]) not in ranks]
    for rank, raw in enumerate(missing, max(ids) + 1):
        ranks[raw], ids[rank] = rank, ()
    # DeepSeekMath has single letters such as ö among its added tokens. Those are no commands but
    # text, split off before all else.
    letters = [c for c, t in added.items() if len(c) == 1 and not t.get("special")]
    for c in letters:
        ids[ranks.setdefault(c.encode(), max(ids) + 1)] = (added[c]["id"],)
    if letters:
        patterns.insert(0, "|".join(map(regex.escape, letters)))
    return compose if kinds else str, patterns, ranks, ids, token_bytes


# --------------------------------------------------------------------------------------------------
# SentencePiece's files: LLaMA-2, Mistral v0.1. Tokens are strings of characters, with U+2581 for a
# space; characters without a token are spelt in bytes, <0x00> to <0xFF>.


def sentencepiece_normalize(spec):
    """The function that puts a space before a text, as the file's normalizer or pre-tokenizer."""
    normalizer, pre_tokenizer = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    llama2 = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    mistral = [metaspace | {"prepend_scheme": scheme} for scheme in ("first", "always")]
    if normalizer == llama2 and not pre_tokenizer:
        always = True  # LLaMA-2: a space before any text
    elif not normalizer and pre_tokenizer in mistral:
        always = False  # Mistral v0.1, as its file is today: before a text that has none there
    else:
        raise ValueError(f"its normalizer is {normalizer.get('type')} "
                         f"and its pre-tokenizer {pre_tokenizer.get('type')}")

    def normalize(text):
        text = text.replace("\u2581", " ")  # the file cannot tell them apart either
        return f" {text}" if text and (always or text[0] != " ") else text
    return normalize


def merged_tokens(bpe, tokens):
    """The tokens that the file's merges make, in their order; tokens is {token: id}. As tiktoken
    joins any two neighbours that make a token, the file must list all pairs that do, one token
    after the other: else ValueError."""
    merges = [tuple(half.replace("\u2581", " ") for half in pair) for pair in read_merges(bpe)]
    merged = list(dict.fromkeys(map("".join, merges)))
    pairs = []
    for token in merged:
        if token not in tokens:
            raise ValueError(f"its merges make {token!r}, which its vocabulary lacks")
        halves = [(token[:k], token[k:]) for k in range(1, len(token))]
        pairs += [(left, right) for left, right in halves if left in tokens and right in tokens]
    if set(pairs) != set(merges) or [*map("".join, merges)] != [*map("".join, pairs)]:
        raise ValueError("its merges are not all the pairs that make a token, "
                         "one token after the other")
    return merged


def sentencepiece(spec):
    """(normalize, patterns, ranks, ids, token_bytes) of a file of SentencePiece's kind."""
    normalize, bpe = sentencepiece_normalize(spec), spec["model"]
    tokens = {token.replace("\u2581", " "): i for token, i in bpe["vocab"].items()}
    for t in spec.get("added_tokens", []):
        tokens.pop(t["content"], None)
    try:
        byte_ids = [tokens.pop(f"<0x{b:02X}>") for b in range(256)]
    except KeyError as name:
        raise ValueError(f"its vocabulary lacks the byte {name}") from None
    ranks, ids = {}, {}

    def add(raw, *stands_for):
        ids[ranks.setdefault(raw, len(ranks))] = stands_for

    # The file merges characters, tiktoken bytes: these must become characters before anything else.
    # So the lowest ranks are for single bytes, then each character's first two and three bytes and
    # the whole. Of an unknown character, such a beginning may be left over.
    for b in range(256):
        add(bytes([b]), byte_ids[b])
    for token, i in tokens.items():
        if len(token) == 1:
            raw = token.encode()
            for n in range(2, len(raw)):
                add(raw[:n], *(byte_ids[b] for b in raw[:n]))
            add(raw, i)
    # Then what the merges make, in their order, which is not that of the ids: by these, 454 of
    # 3,638 problems would be split differently.
    for token in merged_tokens(bpe, tokens):
        add(token.encode(), tokens[token])
    token_bytes = {i: token.encode() for token, i in tokens.items()}
    token_bytes |= {i: bytes([b]) for b, i in enumerate(byte_ids)}
    # The file splits nothing. But where no token goes on with a space after something else, a split
    # before spaces changes nothing either, and words are looked up whole: four times as fast.
    words = not any(" " in token.lstrip(" ") for token in tokens)
    return normalize, [r" +[^ ]*|[^ ]+" if words else r"[\s\S]+"], ranks, ids, token_bytes


# --------------------------------------------------------------------------------------------------
# Templates: how each of the paper's bases is prompted, and answers. These are LLaMA-Factory's, in
# which the paper's adapters were trained. stop: what else ends a text. A folder is known by the
# model_type in its config.json and by a special token.

TEMPLATES = {
    "llama2": dict(prompt="<s>[INST] {} [/INST]", answer="{}</s>", model_type="llama", token="<s>"),
    "llama3": dict(
        prompt="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="{}<|end_of_text|>", stop="<|eot_id|>",
        model_type="llama", token="<|start_header_id|>"),
    "mistral": dict(
        prompt="<s>[INST] {}[/INST]", answer=" {}</s>", model_type="mistral", token="<s>"),
    "qwen": dict(
        prompt="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
               "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        answer="{}<|im_end|>\n", model_type="qwen2", token="<|im_start|>"),
    "deepseek": dict(
        prompt="<｜begin▁of▁sentence｜>User: {}\n\nAssistant:", answer="{}<｜end▁of▁sentence｜>",
        model_type="llama", token="<｜begin▁of▁sentence｜>"),
    # Any other base; its answers end in the end token of config.json.
    "plain": dict(prompt="{}\n", answer="{}"),
}
SPECIAL = r"(<\|\w+\|>|</?s>|<｜[^｜]+｜>)"  # what is a special token in this table


def read_tokenizer(spec):
    """(normalize, patterns, ranks, ids, token_bytes) of either kind; ValueError for others."""
    bpe = spec.get("model") or {}
    affixes = [bpe.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")]
    if bpe.get("type") != "BPE" or any(affixes):
        raise ValueError(f"its model is {bpe.get('type')}")
    if not isinstance(bpe.get("vocab"), dict) or not isinstance(bpe.get("merges"), list):
        raise ValueError("it has no vocab or no merges")
    return sentencepiece(spec) if bpe.get("byte_fallback") else byte_level(spec)


class Tokenizer:
    """The BPE of folder/tokenizer.json, run by tiktoken, and the template of its base.

    >>> tokenizer.decode(tokenizer.encode("48/2 = 24"))
    '48/2 = 24'

    template: a name in TEMPLATES; None: the one that the folder is known by. Raises ValueError for
    other kinds of tokenizer.
    """

    def __init__(self, folder, template=None):
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{folder} has no tokenizer.json; other tokenizer files are not read.")
        spec = read_json(path)
        try:
            self.normalize, patterns, ranks, self.ids, token_bytes = read_tokenizer(spec)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; only BPE tokenizers that are byte-level "
                             "or fall back to bytes are read.") from None
        self.leading_space = bool(spec["model"].get("byte_fallback"))
        self.special = {t["content"]: t["id"] for t in spec.get("added_tokens", [])}
        self.token_bytes = token_bytes | {i: t.encode() for t, i in self.special.items()}
        self.missing_bytes = bytes(b for b in range(256) if not self.ids[ranks[bytes([b])]])

        # tiktoken gets the last pattern. It drops what that does not match (digits, say, that an
        # earlier pattern split off): so the pattern must match gaps too.
        *first, last = patterns
        self.first, self.last = [regex.compile(p) for p in first], regex.compile(last)
        pattern = rf"{last}|(?:(?!{last})[\s\S])+"
        self.encoding = tiktoken.Encoding(
            path.parent.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self.set_template(template, path, read_config(folder))

    def set_template(self, name, path, config):
        """Choose the template of this name, or the one that the folder is known by."""
        # SmolLM2, say, has Qwen's <|im_start|> but is a llama: plain. What cannot be told from a
        # base of the paper is taken for it.
        known = (key for key, t in TEMPLATES.items()
                 if t.get("model_type") == config.model_type and t["token"] in self.special)
        self.template = name or next(known, "plain")
        if self.template not in TEMPLATES:
            raise ValueError(f"there is no template {name!r}, only {', '.join(TEMPLATES)}.")
        template = TEMPLATES[self.template]
        self.prompt_template, self.answer_template = template["prompt"], template["answer"]
        ends = regex.findall(SPECIAL, self.answer_template + template.get("stop", ""))
        for token in regex.findall(SPECIAL, self.prompt_template) + ends:
            if token not in self.special:
                raise ValueError(f"{path} has no token {token}, which the template "
                                 f"{self.template} needs; choose another template.")
        # Any of these ends a text; an answer whose template has no end ends in the first.
        self.eos_ids = list(dict.fromkeys([*(self.special[t] for t in ends), *config.eos_ids]))
        self.end = [] if ends else self.eos_ids[:1]

    def encode(self, text):
        """Text -> ids. A special token spelt out in the text is ordinary text: only a template may
        place the real one."""
        words = [self.normalize(text)]
        for pattern in self.first:
            words = [part for word in words for part in split(pattern, word)]
        return [i for word in words for rank in self.merge(word) for i in self.ids[rank]]

    def merge(self, text):
        """Text -> ranks. Bytes without a token vanish first: what stands around them may join."""
        raw = text.encode(errors="replace") if self.missing_bytes else b""
        if raw == raw.translate(None, self.missing_bytes):
            return self.encoding.encode_ordinary(text)
        ranks = []
        for word in split(self.last, text):
            if raw := word.encode(errors="replace").translate(None, self.missing_bytes):
                ranks += self.encoding._encode_single_piece(raw)  # of b"" it would crash
        return ranks

    def decode(self, ids):
        """Ids -> text. Bytes that are not UTF-8, as a truncated text may end in, become U+FFFD; ids
        without a token, which pad many a model's vocabulary, are no text."""
        text = b"".join(self.token_bytes.get(i, b"") for i in ids).decode(errors="replace")
        return text.removeprefix(" ") if self.leading_space else text  # that normalize put there

    def prompt_ids(self, text):
        """The ids that ask for an answer to `text`."""
        return self.fill(self.prompt_template, text)

    def answer_ids(self, text):
        """The ids of an answer and of its end, split apart from the prompt. Raises ValueError if
        the base has no end token: such a text would never stop."""
        if not self.eos_ids:
            raise ValueError("the model's config.json has no eos_token_id, so its answers could "
                             "never end; add it.")
        return self.fill(self.answer_template, text) + self.end

    def fill(self, template, text):
        """The ids of a template's special tokens and of the texts between them; `text` takes the
        place of {} and is split with what is beside it."""
        ids = []
        for part in regex.split(SPECIAL, template):
            special = self.special.get(part)
            ids += self.encode(part.replace("{}", text)) if special is None else [special]
        return ids

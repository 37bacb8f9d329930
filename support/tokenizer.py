"""A Hugging Face tokenizer.json, run by tiktoken; and the templates that its bases are prompted in.

    python model.py tiny        how a folder's tokenizer splits a sentence, and its template

A text is cut at the file's added tokens, normalized, and split into words by regular expressions;
byte-pair encoding (support/bpe.py) makes tokens of each word. There are two kinds of file. For
each, a function returns
    normalize    what happens to a text before it is split, and to the added tokens it may hold
    prepare      what happens then to a part between added tokens: prepare(part, stands first)
    patterns     regular expressions that split it, one after the other (not as if joined by |)
    encode_word  a word -> its token ids
    token_bytes  {token id: its bytes}
"""
import re
import time
import unicodedata
from functools import lru_cache
from pathlib import Path

import regex

from model import read_config, read_json
from support.bpe import AddedTokens, by_tiktoken, join, known
from support.checks import check_tokenizer, naming, shown
from support.patterns import SECONDS, compile_split, split

# --------------------------------------------------------------------------------------------------
# Byte-level files: LLaMA-3, Qwen, DeepSeek, SmolLM2, tiny. Tokens are strings of bytes.

GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# The tokenizers library, whose ids these must be, composes characters (NFC) by the tables of
# Unicode 9. Marks that came later it leaves where they stand, while Python, whose tables are newer,
# would put them in another order. These are their places; texts are composed between them.
NEWER = re.compile(
    "([\u07fd\u0890-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1aff\u1df6-\u1dfa\ua82c"
    "\U00010d00-\U00010fff\U00011070\U0001133b\U00011380-\U000113ff\U0001145e\U00011800-\U00011aff"
    "\U00011d00-\U00011fff\U00016100-\U0001613f\U00016d40-\U00016fff\U0001e030-\U0001e7ff])")


def byte_alphabet():
    """{character: byte}: these files write each byte as one printable character, the printable ones
    as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def compose(text):
    """The text in NFC: e and a combining acute accent become é."""
    return "".join(unicodedata.normalize("NFC", part) for part in NEWER.split(text))


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
            raise ValueError(f"pre_tokenizer: its pre-tokenizer is {shown(kind)}")
    if not on_bytes or not patterns:
        raise ValueError("pre_tokenizer: its pre-tokenizer is not byte-level")
    return patterns


def byte_level(spec, merges):
    """(normalize, prepare, patterns, encode_word, token_bytes) of a byte-level file."""
    normalizer = spec.get("normalizer") or {"type": "Sequence", "normalizers": []}
    kinds = [step.get("type") for step in normalizer.get("normalizers", [normalizer])]
    if kinds not in ([], ["NFC"]):
        raise ValueError(f"normalizer: its normalizer is {shown(kinds)}")
    patterns = byte_level_patterns(spec)
    bpe, alphabet = spec["model"], byte_alphabet()
    vocab, character = bpe["vocab"], {b: c for c, b in alphabet.items()}
    strange = {token for token in vocab if not alphabet.keys() >= set(token)}
    for token in strange - {t["content"] for t in spec.get("added_tokens") or ()}:
        raise ValueError(f"its vocabulary holds the character "
                         f"{min(set(token) - alphabet.keys())!r}, which stands for no byte")
    raw_of = {token: bytes(map(alphabet.get, token)) for token in vocab if token not in strange}
    unk = bpe.get("unk_token") if any(c not in vocab for c in alphabet) else None
    if unk is not None and unk not in vocab:
        raise ValueError(f"its vocabulary lacks the unk_token {unk!r}")
    merge = by_tiktoken(merges, vocab, raw_of) if unk is None else None

    def encode_word(word):
        raw = word.encode(errors="replace")
        symbols = list(map(character.get, raw))
        if bpe.get("ignore_merges") and (word := "".join(symbols)) in vocab:
            return [vocab[word]]
        if merge:
            return merge(raw)
        return [vocab[token] for token in join(known(symbols, bpe), merges)]

    token_bytes = {vocab[token]: raw for token, raw in raw_of.items()}
    return compose if kinds else str, lambda part, first: part, patterns, encode_word, token_bytes


# --------------------------------------------------------------------------------------------------
# SentencePiece's files: LLaMA-2, Mistral v0.1. Tokens are strings of characters, with U+2581 for a
# space; characters without a token are spelt in bytes, <0x00> to <0xFF>.


def sentencepiece_spaces(spec):
    """(normalize, prepare): which of them makes U+2581 of spaces and puts one before a text."""
    normalizer, pre_tokenizer = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    llama2 = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    schemes = [metaspace | {"prepend_scheme": scheme} for scheme in ("first", "always")]

    def normalize(text):  # LLaMA-2: a space before any text
        return "\u2581" + text.replace(" ", "\u2581") if text else ""

    def prepare(text, first):  # Mistral v0.1, as its file is today: before a text that has none
        text = text.replace(" ", "\u2581")
        bare = text[0] != "\u2581" and (first or pre_tokenizer["prepend_scheme"] == "always")
        return "\u2581" * bare + text

    if normalizer == llama2 and not pre_tokenizer:
        return normalize, lambda part, first: part
    if not normalizer and pre_tokenizer in schemes:
        return str, prepare
    raise ValueError("normalizer, pre_tokenizer: its normalizer is "
                     f"{shown(normalizer.get('type'))} and its pre-tokenizer "
                     f"{shown(pre_tokenizer.get('type'))}")


def sentencepiece(spec, merges):
    """(normalize, prepare, patterns, encode_word, token_bytes) of a file of SentencePiece's
    kind."""
    normalize, prepare = sentencepiece_spaces(spec)
    bpe = spec["model"]
    vocab, whole = bpe["vocab"], bpe.get("ignore_merges")
    spelt = [f"<0x{b:02X}>" for b in range(256)]
    if lost := [name for name in spelt if name not in vocab]:
        raise ValueError(f"its vocabulary lacks the byte {lost[0]}")

    def encode_word(word):
        if whole and word in vocab:
            return [vocab[word]]
        symbols = []
        for c in word:
            symbols += [c] if c in vocab else [spelt[b] for b in c.encode(errors="replace")]
        return [vocab[token] for token in join(symbols, merges)]

    token_bytes = {i: token.replace("\u2581", " ").encode() for token, i in vocab.items()}
    token_bytes |= {vocab[name]: bytes([b]) for b, name in enumerate(spelt)}
    # The file splits nothing. But where no merge goes on with a space after something else, a split
    # before spaces changes nothing either, and the words of a text come again.
    words = not whole and not any("\u2581" in (a + b).lstrip("\u2581") for a, b in merges)
    pattern = "\u2581+[^\u2581]*|[^\u2581]+" if words else r"[\s\S]+"
    return normalize, prepare, [pattern], encode_word, token_bytes


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


def added_ids(spec):
    """{content: id} of the added tokens. The library counts them, whatever id the file says: one
    that stands in the vocabulary has its id there, the others follow the vocabulary."""
    vocab, ids = spec["model"]["vocab"], {}
    following, taken = len(vocab), set(vocab.values())
    for content in (t["content"] for t in spec.get("added_tokens") or ()):
        ids[content] = vocab.get(content, following)
        if content not in vocab and following in taken:
            raise ValueError(f"the ids of its vocabulary have gaps: its added token {content!r} "
                             f"would be {following}, which is taken")
        following = max(following, ids[content] + 1)
    return ids


def read_tokenizer(spec):
    """(normalize, prepare, patterns, encode_word, token_bytes) of either kind; ValueError for
    others."""
    bpe = spec["model"]
    affixes = [bpe.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")]
    if bpe.get("type", "BPE") != "BPE" or any(affixes):
        raise ValueError(f"its model is {shown(bpe.get('type'))}" + " with affixes" * any(affixes))
    merges = (m.split(" ") if isinstance(m, str) else m for m in bpe["merges"])
    merges = {tuple(pair): rank for rank, pair in enumerate(merges)}
    return (sentencepiece if bpe.get("byte_fallback") else byte_level)(spec, merges)


class Tokenizer:
    """The BPE of folder/tokenizer.json, and the template of its base.

    >>> tokenizer.decode(tokenizer.encode("48/2 = 24"))
    '48/2 = 24'

    template: a name in TEMPLATES; None: the one that the folder is known by. Raises ValueError for
    other kinds of tokenizer.
    """

    def __init__(self, folder, template=None):
        self.path = Path(folder) / "tokenizer.json"
        if not self.path.is_file():
            raise ValueError(f"{folder} has no tokenizer.json; other tokenizer files are not read.")
        spec = read_json(self.path)
        check_tokenizer(self.path, spec)
        added = spec.get("added_tokens") or []
        with naming(self.path, "; only BPE tokenizers that are byte-level or fall back to bytes "
                               "are read."):
            self.normalize, self.prepare, patterns, encode_word, token_bytes = read_tokenizer(spec)
        with naming(self.path):
            self.patterns = [compile_split(pattern) for pattern in patterns]
            self.special = added_ids(spec)
        self.encode_word = lru_cache(1 << 16)(encode_word)  # most words come again and again
        self.leading_space = bool(spec["model"].get("byte_fallback"))
        self.token_bytes = token_bytes | {i: t.encode() for t, i in self.special.items()}

        # some are looked for in the text as it stands; others when it is normalized, as they are
        raw, normalized = {}, {}
        for t in added:
            as_text = t.get("normalized", not t.get("special"))
            content = self.normalize(t["content"]) if as_text else t["content"]
            (normalized if as_text else raw)[content] = t, self.special[t["content"]]
        self.raw, self.normalized = AddedTokens(raw), AddedTokens(normalized)
        config = read_config(folder)
        self.set_template(template, self.path, config)

        # a special token beyond the model's vocabulary, for padding, say, is never asked for
        never = {self.special[t["content"]] for t in added if t.get("special")} - set(self.eos_ids)
        if (last := max(self.token_bytes.keys() - never)) >= config.vocab_size:
            raise ValueError(f"{self.path} has the id {last}, config.json a vocab_size of "
                             f"{config.vocab_size}; they do not belong together.")

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
        parts = []
        for part, i in self.raw.split(text):
            parts += [(part, i)] if i is not None else self.normalized.split(self.normalize(part))
        split_parts, end = [], time.thread_time() + SECONDS  # for all patterns and parts
        for k, (part, i) in enumerate(parts):
            words = [self.prepare(part, k == 0)] if i is None else []
            with naming(self.path):
                for pattern in self.patterns:
                    words = split(pattern, words, end)
            split_parts.append((words, i))
        ids = []
        for words, i in split_parts:
            ids += [] if i is None else [i]
            for word in words:
                ids += self.encode_word(word)
        return ids

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

"""support/tokenizer.py against the tokenizers library: same ids, same texts; its templates, to the
letter; and refusals that say why."""
import functools
import json
import random
import shutil
import unicodedata

import pytest

import data
import lorid
from support.tokenizer import TEMPLATES, Tokenizer, byte_alphabet

# The five files at hand: (model_type, end token, the template each is known by). The other
# model_type of llama2's is in tests of its own.
FILES = {"smollm2": ("llama", 2, "plain"), "llama2": ("llama", 2, "llama2"),
         "llama3": ("llama", 128001, "llama3"), "qwen3": ("qwen2", 151643, "qwen"),
         "deepseek_v3": ("llama", 1, "deepseek")}
FLAGS = dict(single_word=False, lstrip=False, rstrip=False)  # of added tokens


def refusal(call, *args, names=()):
    with pytest.raises(ValueError) as caught:
        call(*args)
    message = str(caught.value)
    for name in names:
        assert str(name) in message, message
    assert message.endswith((".", ").")), message
    return message


def write_config(folder, model_type="llama", **more):
    config = dict(model_type=model_type, hidden_size=8, num_attention_heads=1, num_hidden_layers=1,
                  num_key_value_heads=1, vocab_size=300_000, intermediate_size=8)
    (folder / "config.json").write_text(json.dumps(config | more))


def load_both(folder, spec, model_type="llama", eos=2, template=None):
    """(our Tokenizer, the one of the tokenizers library) of the same tokenizer.json: a dict, or the
    path of one."""
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    if isinstance(spec, dict):
        path.write_text(json.dumps(spec), encoding="utf-8")
    else:
        shutil.copy(spec, path)
    write_config(folder, model_type, eos_token_id=eos)
    return Tokenizer(folder, template), tokenizers.Tokenizer.from_file(str(path))


@pytest.fixture(scope="module", params=FILES)
def both(request, tokenizer_json, tmp_path_factory):
    """(name, ours, theirs) of each file in turn; they are large, so each is loaded once."""
    name = request.param
    model_type, eos, _ = FILES[name]
    return name, *load_both(tmp_path_factory.mktemp(name), tokenizer_json(name), model_type, eos)


@pytest.fixture(scope="module")
def smol(tokenizer_json, tmp_path_factory):
    return load_both(tmp_path_factory.mktemp("smol"), tokenizer_json("smollm2"))


def read_spec(tokenizer_json, name):
    return json.loads(tokenizer_json(name).read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------
# Texts


@functools.cache
def random_texts(count, seed=0):
    """Strings of all that Unicode has: letters of many scripts, digits, controls, combining marks,
    emoji, CJK, runs of spaces, line ends."""
    rng = random.Random(seed)
    kinds = [range(0x20, 0x7F), range(0, 0x20), range(0x80, 0x250), range(0x300, 0x370),
             range(0x370, 0x530), range(0x590, 0x700), range(0x900, 0xE00), range(0x1100, 0x1200),
             range(0x2000, 0x2070), range(0x2070, 0x2C00), range(0x3040, 0x3100),
             range(0x4E00, 0xA000), range(0xAC00, 0xD7A4), range(0xF900, 0xFB00),
             range(0xFF00, 0xFFF0), range(0x1D400, 0x1D800), range(0x1F300, 0x1FA00),
             range(0x20000, 0x2A000), range(0xE0000, 0xE0100)]
    runs = [" ", "  ", " " * 17, "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2581", "\u3000",
            "1234567", "٣٤", "½", "e\u0301", "\u212b", "'s", "'LL", " 'Re", "👩‍👩‍👧", "🇩🇪", "don't",
            "x²", "\0", "==", "--", "aa"]

    def part():
        if rng.random() < 0.3:
            return rng.choice(runs) * rng.randint(1, 4)
        return chr(rng.choice(rng.choice(some)))

    texts = []
    for _ in range(count):
        some = rng.sample(kinds, rng.randint(1, 4))
        texts.append("".join(part() for _ in range(rng.randint(1, 40))))
    return texts


@functools.cache
def marked_texts():
    """Letters with combining marks in any order. NFC depends on the version of Unicode: Python's
    is newer than the library's."""
    rng = random.Random(0)
    marks = [chr(c) for c in range(0x300, 0x1F000) if unicodedata.combining(chr(c))]
    letters = "aeouñ\u1100\u1161\uac00\u0915\U00011935\U00011930"
    texts = ["".join(rng.choices(letters, k=2) + rng.choices(marks, k=rng.randint(1, 5)))
             for _ in range(4000)]
    assert sum(unicodedata.normalize("NFC", text) != text for text in texts) > 1000
    return texts


def texts_in(value):
    """Every text in a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in texts_in(part)]


@functools.cache
def problems(folder):
    """Every text of every GSM8K and MATH row, once."""
    texts = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            texts |= dict.fromkeys(texts_in(json.loads(line)))
    return list(texts)


def agree(ours, theirs, texts):
    """Equal ids, and equal texts from them: so what comes back unchanged from theirs does from
    ours."""
    for start in range(0, len(texts), 1000):
        some = texts[start:start + 1000]
        encodings = theirs.encode_batch(some, add_special_tokens=False)
        expected = [encoding.ids for encoding in encodings]
        for text, ids, back in zip(some, expected, theirs.decode_batch(expected), strict=True):
            assert ours.encode(text) == ids, repr(text)
            assert ours.decode(ids) == back, repr(text)
    return True


# --------------------------------------------------------------------------------------------------
# Real files


def test_problems_are_split_as_the_tokenizers_library_does(both, shared):
    _, ours, theirs = both
    texts = problems(shared / "data")
    assert len(texts) > 20_000 and agree(ours, theirs, texts)
    assert all(ours.decode(ours.encode(text)) == text for text in texts[::50] if text.isascii())


def test_random_unicode_is_split_as_the_tokenizers_library_does(both):
    name, ours, theirs = both
    assert agree(ours, theirs, random_texts(20_000))
    if name != "smollm2":  # which lacks some bytes
        texts = random_texts(20_000)[:2000]
        came_back = sum(ours.decode(ours.encode(text)) == text for text in texts)
        # NFC changes some, and U+2581 becomes a space
        assert came_back > (1000 if name in ("qwen3", "llama2") else 1999)


def test_tokens_and_runs_are_split_as_the_tokenizers_library_does(both):
    """Each token on its own, which tiktoken looks up whole; and runs of one character, in which
    neighbours compete."""
    _, ours, theirs = both
    rng = random.Random(0)
    tokens = theirs.decode_batch([[i] for i in rng.sample(range(theirs.get_vocab_size()), 5000)])
    runs = [character * n for character in " \n\t=-_*#.a0é的😀\u2581"
            for n in (*range(1, 40), 97, 500)]
    parts = [" ", "\n", "=", "-", "a", "_", "*", "1", " x", "."]
    for _ in range(1000):
        some = [rng.choice(parts) * rng.randint(1, 40) for _ in range(rng.randint(1, 8))]
        runs.append("".join(some))
    assert agree(ours, theirs, ["", *tokens, *(f" {token}" for token in tokens[:1000]), *runs])


def test_text_that_spells_a_special_token_is_ordinary_text(both, tokenizer_json):
    name, ours, _ = both
    spec, texts, special = read_spec(tokenizer_json, name), [], set()
    without = pytest.importorskip("tokenizers").Tokenizer.from_str(
        json.dumps(spec | {"added_tokens": [t for t in spec["added_tokens"] if not t["special"]]}))
    for t in spec["added_tokens"]:
        if t["special"]:
            token = t["content"]
            texts += token, f"2{token}3", f" {token}\n{token}"
            special.add(ours.special[token])
    assert len(special) >= 3 and agree(ours, without, texts)

    def specials(ids):
        return [i for i in ids if i in special]

    for fill in (ours.prompt_ids, ours.answer_ids):  # a template's own special tokens are all
        own = specials(fill("x"))
        assert all(specials(fill(text)) == own for text in texts[:60])


def test_combining_marks_in_any_order_are_split_as_the_tokenizers_library_does(both):
    _, ours, theirs = both
    assert agree(ours, theirs, marked_texts())


def test_bytes_without_a_token_are_dropped_as_in_the_library(smol):
    ours, theirs = smol
    assert any(letter not in theirs.get_vocab() for letter in byte_alphabet())
    for text in ("a\x06b", "\x04", "12\x133 \x14\n", "x = \U00040000", "\x1d\x16\x06"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids) != text


def test_ids_without_a_token_are_no_text(smol):
    """A model's vocabulary may be larger than its tokenizer's: Qwen's is, and may sample such an
    id."""
    ours, theirs = smol
    ids = [151_900, *ours.encode("2 + 2"), 151_935]
    assert ours.decode(ids) == theirs.decode(ids) == "2 + 2"


def test_a_text_cut_off_within_a_character_decodes(smol):
    ours, _ = smol
    ids = ours.encode("🫠")
    assert len(ids) > 1 and ours.decode(ids[:-1]) == "\ufffd" and ours.decode([]) == ""


def test_a_lone_surrogate_does_not_raise(smol, tokenizer_json, tmp_path):
    assert smol[0].encode("a\ud800b")
    assert load_both(tmp_path, tokenizer_json("llama2"))[0].encode("a\ud800b")


def test_mistrals_tokenizer_puts_one_space_before_a_text_without(tokenizer_json, tmp_path):
    """Today's file of Mistral v0.1 says the same as that of LLaMA-2, but for this."""
    spec = read_spec(tokenizer_json, "llama2")
    texts = ["", " ", "a", " a", "  a", "\u2581a", "a \u2581 b ", "\n a",
             *random_texts(20_000)[:2000]]
    for scheme in ("first", "always"):
        changes = dict(normalizer=None, pre_tokenizer=metaspace(scheme))
        ours, theirs = load_both(tmp_path, spec | changes)
        assert agree(ours, theirs, texts)
        assert ours.encode("a b") == ours.encode(" a b")
        assert ours.decode(ours.encode("a b")) == "a b"


def test_deepseekmath_splits_in_six_steps_and_adds_letters(tokenizer_json, tmp_path):
    """Its own file is not at hand. What is special in it, on the vocabulary of a later DeepSeek:
    its pre-tokenizer, and that the 13 bytes that no UTF-8 text holds are not in the vocabulary,
    while the letters that byte-level files write them with are added tokens."""
    spec = read_spec(tokenizer_json, "deepseek_v3")
    steps = (r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓͰ-ͳΆΈ-ΊΣ-ϵҊ-ԯ]+",
             r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+")
    splits = [{"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}
              for step in steps]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        *splits, {"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
    vocab, first = spec["model"]["vocab"], max(t["id"] for t in spec["added_tokens"]) + 1
    for i, letter in enumerate("õ÷ÁýÀÿøúþüùöû"):
        vocab[f"ĀĀĀunused{i}"] = vocab.pop(letter)  # the library counts on ids without a gap
        spec["added_tokens"].append(
            dict(FLAGS, id=first + i, content=letter, normalized=True, special=False))
    ours, theirs = load_both(tmp_path, spec, eos=1)
    texts = ["Möbius", "Erdős and Schrödinger: 12345", " \tö  x \n", "öö÷ 3", "À 1²½ Á",
             *random_texts(20_000)[:4000]]
    for text in texts:  # back from its ids, the library makes a broken byte of ö; here it is ö
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids) == text
    assert ours.special["ö"] in ours.encode("Möbius") and ours.template == "deepseek"


# --------------------------------------------------------------------------------------------------
# Small files, made here

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False,
         "pattern": {"Regex": r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"}}


PAIRS = [(b"\xc3", b"\xa9"), (b"\xc3", b"\xbc"), (b"\xc3", b"\x85"),  # é, ü, Å
         (b"\xea", b"\xb0"), (b"\xea\xb0", b"\x80"),  # 가
         (b"\xcc", b"\x81"), (b"e", b"\xcc\x81"),  # a combining acute accent, and on an e
         (b" ", b"t"), (b" t", b"h"), (b"t", b"h"), (b"th", b"e"), (b"1", b"2"), (b" ", b" ")]


def small_byte_level(*steps, normalizer=None, without=b""):
    """The spec of a tokenizer of the bytes, but for those in `without`, and of what PAIRS make.
    steps: of its pre-tokenizer."""
    character = {b: c for c, b in byte_alphabet().items()}
    merges = [["".join(character[b] for b in half) for half in pair] for pair in PAIRS]
    tokens = [c for b, c in character.items() if b not in without] + list(map("".join, merges))
    return {"version": "1.0", "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": None, "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)},
                      "merges": merges}}


NFC = {"type": "NFC"}
COMPOSED = ["é", "Ångström", "naïve café", "가각", "Ünder 12 thé"]


@pytest.mark.parametrize("normalizer", [NFC, {"type": "Sequence", "normalizers": [NFC]}, None])
def test_composed_and_decomposed_characters(tmp_path, normalizer):
    """With NFC both are the same text, and without it they are not, as in the library."""
    spec = small_byte_level(SPLIT, BYTE_LEVEL, normalizer=normalizer)
    ours, theirs = load_both(tmp_path, spec)
    decomposed = [unicodedata.normalize("NFD", text) for text in COMPOSED]
    assert agree(ours, theirs, [*COMPOSED, *decomposed, "\u212b", "plain", *marked_texts(),
                                *random_texts(20_000)[:2000]])
    for text, apart in zip(COMPOSED, decomposed, strict=True):
        assert text != apart and (ours.encode(text) == ours.encode(apart)) == bool(normalizer)
        assert ours.decode(ours.encode(apart)) == (text if normalizer else apart)


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


@pytest.mark.parametrize("steps, without", [
    ([dict(BYTE_LEVEL, use_regex=True)], b""),
    ([SPLIT, BYTE_LEVEL], b"\x06\x16\x1d\xf1"),
    ([digits(True), BYTE_LEVEL], b"\x06\x16\x1d\xf1"),
    ([digits(True), dict(BYTE_LEVEL, use_regex=True)], b""),
    ([digits(False), dict(BYTE_LEVEL, use_regex=True)], b"")],
    ids=["GPT-2's words", "bytes without a token", "such bytes within a word", "single digits",
         "digits together"])
def test_small_byte_level_tokenizers_agree_too(tmp_path, steps, without):
    ours, theirs = load_both(tmp_path, small_byte_level(*steps, without=without))
    texts = ["", "the 1212  12\n\n x12the", "a\x06b", "\x1d\x16\x06", "t\x06he", "\U00040000"]
    assert agree(ours, theirs, [*texts, *random_texts(20_000)[:2000]])


def test_letters_among_the_added_tokens_are_text(tmp_path):
    """As in DeepSeekMath's file, which lacks the bytes that such files would write as ö and ü."""
    spec = small_byte_level(dict(BYTE_LEVEL, use_regex=True), without=b"\xf6\xfc")
    first = len(spec["model"]["vocab"])
    letters = [dict(FLAGS, id=first + i, content=letter, normalized=True, special=False)
               for i, letter in enumerate("öü")]
    ours, theirs = load_both(tmp_path, spec | dict(added_tokens=letters))
    for text in ["Möbius", " ö", "öö", "thü ü12ö", "12  ö", *random_texts(20_000)[:2000]]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, repr(text)
    assert ours.encode("öü") == [first, first + 1]
    assert ours.decode(ours.encode("Möbius, ü")) == "Möbius, ü"


def added(content, i, **changes):
    return dict(FLAGS, id=i, content=content, normalized=True, special=False) | changes


ADDED = {
    "in the vocabulary": [added("the", 0, id=266), added("th", 265)],
    "in it with another id": [added("the", 999), added("t", 5)],
    "new": [added("<fact>", 269), added("<fact>x", 270, normalized=False), added("é 1", 271)],
    "new with another id": [added("<fact>", 5000), added("<x>", 7)],
    "special": [added("<s>", 269, special=True, normalized=False),
                added("the", 999, special=True), added("s>t", 270, normalized=False)],
    "spaces beside": [added("<fact>", 269, lstrip=True), added("<x>", 270, rstrip=True),
                      added("12", 271, lstrip=True, rstrip=True, normalized=False)],
    "single words": [added("the", 999, single_word=True), added("12", 269, single_word=True)],
    "decomposed": [added("e\u0301", 269), added("A\u030a", 270, normalized=False)]}


@pytest.mark.parametrize("kind", ["byte-level", "NFC", "llama2", "first", "always"])
@pytest.mark.parametrize("name", ADDED)
def test_added_tokens_are_found_as_in_the_library(tmp_path, name, kind):
    """Special ones stay text, for which the library has an option."""
    if kind in ("byte-level", "NFC"):
        spec = small_byte_level(SPLIT, BYTE_LEVEL, normalizer=NFC if kind == "NFC" else None)
    else:
        spec = small_sentencepiece(("a", "b"), ("\u2581a", "b"), ("\u2581", "ab"))
        if kind != "llama2":
            spec |= dict(normalizer=None, pre_tokenizer=metaspace(kind))
    ours, theirs = load_both(tmp_path, spec | {"added_tokens": ADDED[name]}, template="plain")
    theirs.encode_special_tokens = True
    rng = random.Random(0)
    parts = ["the", "th", "<fact>", "<x>", "<s>", "12", "é 1", "e\u0301", "A\u030a", "Å", " ", "  ",
             "\n", "\u00a0", "a", "x", "t", ".", "_", "ab"]
    for _ in range(600):
        text = "".join(rng.choices(parts, k=rng.randint(1, 8)))
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, (text, ids, ours.encode(text))


@pytest.mark.slow
def test_added_tokens_in_real_files_are_found_as_in_the_library(both, tokenizer_json, tmp_path):
    name, _, _ = both
    spec = read_spec(tokenizer_json, name)
    word = next(t for t in ("number", "many") if t in spec["model"]["vocab"])
    spec["added_tokens"] += [added(word, spec["model"]["vocab"][word]), added("<fact>", 10**6),
                             added("<rule>", 10**6 + 1, lstrip=True, normalized=False)]
    ours, theirs = load_both(tmp_path, spec, *FILES[name][:2])
    theirs.encode_special_tokens = True
    for text in (f"take <fact> now, a {word} of {word}s", " <rule> <rule>x<fact>", f"re{word}ed",
                 "<|im_start|><s></s><fact>", *(f"{t} <fact> {t}" for t in random_texts(500))):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, repr(text)


def test_merges_of_todays_converter_are_read(tmp_path):
    """transformers sorts merges by score, then by length: tokens of one score come mixed."""
    scores = {"\u2581" * n: 0.0 for n in (2, 3, 4, 8, 16)} | {"ab": -1.0, "\u2581a": -2.0}
    spec = small_sentencepiece()
    vocab = {t: i for t, i in spec["model"]["vocab"].items() if t != "\u2581a"}
    vocab |= {token: len(vocab) + i for i, token in enumerate(scores)}
    merges = []
    for token, score in scores.items():
        cuts = ((token[:k], token[k:]) for k in range(1, len(token)))
        merges += [(score, len(a), len(b), a, b) for a, b in cuts if a in vocab and b in vocab]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    spec["model"] |= {"vocab": vocab, "merges": [list(merge[3:]) for merge in merges]}
    ours, theirs = load_both(tmp_path, spec)
    rng = random.Random(0)
    texts = ["".join(rng.choices(["a", "b", " ", "  ", " " * 7], k=rng.randint(1, 20)))
             for _ in range(500)]
    assert agree(ours, theirs, [" " * n for n in range(40)] + texts)


def metaspace(scheme, split=False):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def small_sentencepiece(*merged):
    """The spec of a tokenizer of six characters, the bytes, and what `merged` makes."""
    merges = [["\u2581", "a"], *merged]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *"\u2581ab.é中",
              *dict.fromkeys(a + b for a, b in merges)]
    decoders = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    added = [dict(FLAGS, id=i, content=token, normalized=False, special=True)
             for i, token in enumerate(tokens[:3])]
    return {"version": "1.0", "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
            "pre_tokenizer": None, "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                      "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}}


@pytest.mark.parametrize("merged", [
    (), (("a", "b"), ("\u2581a", "b"), ("\u2581", "ab")),
    ((".", "\u2581"), (".\u2581", "a"), (".", "\u2581a"), ("b", ".\u2581a"))],
    ids=["words alone", "merges that compete", "a token that goes on with a space"])
def test_small_sentencepiece_tokenizers_agree_too(tmp_path, merged):
    ours, theirs = load_both(tmp_path, small_sentencepiece(*merged))
    rng = random.Random(0)
    texts = ["".join(rng.choices("aab.. é中\u00e8丮😀\n", k=rng.randint(1, 20)))
             for _ in range(2000)]
    assert agree(ours, theirs, texts)


@pytest.mark.parametrize("merged", [
    ([".", "\u2581"], [".\u2581", "a"]), (["a", "b"], ["b", "."], ["ab", "."], ["ab", "."]),
    (["a", "b"], ["\u2581a", "b"], ["a", "."], ["\u2581", "ab"]),
    (["b", "."], ["a", "b"], ["ab", "."]), (["a", "b"], ["b", "a"], ["a", "b"], ["ab", "ab"])],
    ids=["not all pairs", "a merge twice", "tokens mixed", "a pair left out", "overlapping"])
def test_merges_in_any_order_are_followed_by_the_letter(tmp_path, merged):
    """What tiktoken would join by the rank of the token, the library joins by that of the pair."""
    ours, theirs = load_both(tmp_path, small_sentencepiece(*merged))
    rng = random.Random(0)
    texts = ["".join(rng.choices("aabb.. ", k=rng.randint(1, 20))) for _ in range(1000)]
    assert agree(ours, theirs, texts)


@pytest.mark.parametrize("change", ["reversed", "first one twice", "last one first", "shuffled",
                                    "a pair left out", "none"])
def test_byte_level_merges_in_any_order_are_followed_too(tmp_path, change):
    spec = small_byte_level(SPLIT, BYTE_LEVEL)
    merges = spec["model"]["merges"]
    spec["model"]["merges"] = {
        "reversed": merges[::-1], "first one twice": merges + merges[:1],
        "last one first": merges[-1:] + merges[:-1], "none": [],
        "shuffled": random.Random(1).sample(merges, len(merges)),
        "a pair left out": [["h", "e"], *(m for m in merges if m != ["th", "e"])]}[change]
    spec["model"]["vocab"]["he"] = len(spec["model"]["vocab"])
    ours, theirs = load_both(tmp_path, spec)
    rng = random.Random(0)
    texts = ["".join(rng.choices("tthhee  12é", k=rng.randint(1, 20))) for _ in range(1000)]
    assert agree(ours, theirs, [*texts, *COMPOSED])


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_small_mistral_agrees_too(tmp_path, scheme):
    spec = small_sentencepiece(("a", "b"), ("\u2581a", "b"), ("\u2581", "ab"))
    spec |= dict(normalizer=None, pre_tokenizer=metaspace(scheme))
    ours, theirs = load_both(tmp_path, spec)
    assert agree(ours, theirs, ["", " ", "a", " a", "  ab", "\u2581a", "\n a", "ab \u2581 b "])
    assert ours.encode("a b") == ours.encode(" a b") and ours.decode(ours.encode("a b")) == "a b"


# --------------------------------------------------------------------------------------------------
# What is refused


def refused(folder, spec, says):
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    refusal(Tokenizer, folder, names=[folder / "tokenizer.json", says])


def test_other_kinds_of_tokenizer_are_refused(tokenizer_json, tmp_path):
    good = read_spec(tokenizer_json, "smollm2")
    model = good["model"]
    for changes, says in (
            (dict(model=model | {"type": "Unigram"}), "Unigram"),
            (dict(normalizer={"type": "Lowercase"}), "Lowercase"),
            (dict(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
            (dict(pre_tokenizer=None), "pre-tokenizer"),
            (dict(pre_tokenizer={"type": "Digits", "individual_digits": True}), "byte-level"),
            (dict(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "ByteLevel"),
            (dict(model=model | {"byte_fallback": True}), "Sequence")):
        refused(tmp_path, good | changes, says)


def test_other_byte_level_vocabularies_are_refused(tmp_path):
    spec = small_byte_level(SPLIT, BYTE_LEVEL)
    model, merges = spec["model"], spec["model"]["merges"]
    refused(tmp_path, spec | dict(model=model | {"vocab": model["vocab"] | {"漢": 999}}), "'漢'")
    refused(tmp_path, spec | dict(model=model | {"merges": [*merges, ["the", "the"]]}), "'thethe'")


def test_other_kinds_of_sentencepiece_are_refused(tmp_path):
    good = small_sentencepiece()
    model = good["model"]
    for changes, says in (
            (dict(normalizer=None), "normalizer is None"),
            (dict(normalizer={"type": "NFKC"}), "NFKC"),
            (dict(normalizer=None, pre_tokenizer=metaspace("first", split=True)), "Metaspace"),
            (dict(model=model | {"vocab": {"<s>": 1, "a": 3}, "merges": []}), "<0x00>"),
            (dict(model=model | {"merges": ["b b"]}), "'bb'"),
            (dict(model=model | {"merges": None}), "merges")):
        refused(tmp_path, good | changes, says)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    write_config(tmp_path)
    refusal(Tokenizer, tmp_path, names=[tmp_path, "tokenizer.json"])


# --------------------------------------------------------------------------------------------------
# Templates. What is expected is written out here again, part by part: a special token, or a text
# that the tokenizers library splits.

EXPECTED = {  # template: (prompt, answer, what ends a text)
    "llama2": (["<s>", "[INST] {} [/INST]"], ["{}", "</s>"], ["</s>"]),
    "llama3": (["<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\n{}",
                "<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"],
               ["{}", "<|end_of_text|>"], ["<|end_of_text|>", "<|eot_id|>"]),
    "mistral": (["<s>", "[INST] {}[/INST]"], [" {}", "</s>"], ["</s>"]),
    "qwen": (["<|im_start|>", "system\nYou are a helpful assistant.", "<|im_end|>", "\n",
              "<|im_start|>", "user\n{}", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"],
             ["{}", "<|im_end|>", "\n"], ["<|endoftext|>", "<|im_end|>"]),
    "deepseek": (["<｜begin▁of▁sentence｜>", "User: {}\n\nAssistant:"],
                 ["{}", "<｜end▁of▁sentence｜>"], ["<｜end▁of▁sentence｜>"]),
    "plain": (["{}\n"], ["{}", "<|im_end|>"], ["<|im_end|>"]),  # SmolLM2's end token
}
ROW = {"question": "Mia has 3 {boxes} of 12 pens.\nHow many pens?", "rationale": " 3 × 12 = 36",
       "knowledge": ["Équal groups: multiply."], "answer": "36", "id": 7}


def as_expected(template, ours, theirs):
    special = {added.content: i for i, added in theirs.get_added_tokens_decoder().items()}

    def ids_of(parts, text):
        ids = []
        for part in parts:
            if part in special:
                ids.append(special[part])
            else:
                filled = part.replace("{}", text)
                ids += theirs.encode(filled, add_special_tokens=False).ids
        return ids

    prompt, answer, ends = EXPECTED[template]
    assert ours.template == template
    assert sorted(ours.eos_ids) == sorted(special[end] for end in ends)
    for role in lorid.ROLES:
        ids, mask = data.tokenize_example(ROW, role, ours)
        asked = lorid.prompt(role, ROW["question"], "\n".join(ROW["knowledge"]))
        before, after = ids_of(prompt, asked), ids_of(answer, lorid.target(role, ROW))
        assert ids == before + after and mask == [0] * len(before) + [1] * len(after)
    return True


def test_each_file_is_known_by_its_template_and_fills_it_to_the_letter(both):
    name, ours, theirs = both
    assert as_expected(FILES[name][2], ours, theirs)


def test_mistral_is_known_by_its_model_type(tokenizer_json, tmp_path):
    spec = read_spec(tokenizer_json, "llama2")
    for changes in ({}, dict(normalizer=None, pre_tokenizer=metaspace("first"))):
        assert as_expected("mistral", *load_both(tmp_path, spec | changes, "mistral"))


def test_a_template_may_be_named(tokenizer_json, tmp_path):
    source = tokenizer_json("llama2")
    assert as_expected("mistral", *load_both(tmp_path, source, template="mistral"))
    ours, theirs = load_both(tmp_path, source, template="plain")
    assert ours.prompt_ids("a") == theirs.encode("a\n", add_special_tokens=False).ids
    assert ours.answer_ids("b")[-1] == 2 and ours.eos_ids == [2]
    path = tmp_path / "tokenizer.json"
    refusal(Tokenizer, tmp_path, "qwen", names=[path, "<|im_start|>", "qwen"])
    refusal(Tokenizer, tmp_path, "alpaca", names=["alpaca", *TEMPLATES])


@pytest.mark.parametrize("model_type, tokens, template", [
    ("llama", ["<|im_start|>", "<|im_end|>"], "plain"), ("qwen2", ["<|endoftext|>"], "plain"),
    ("mistral", ["<|im_start|>"], "plain"), ("llama", [], "plain"),
    ("qwen2", ["<|im_start|>", "<|im_end|>"], "qwen")])
def test_only_the_papers_bases_are_known(tmp_path, model_type, tokens, template):
    added = [{"content": token, "id": 256 + i, "special": True} for i, token in enumerate(tokens)]
    spec = {"added_tokens": added, "pre_tokenizer": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {c: b for c, b in byte_alphabet().items()},
                      "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    write_config(tmp_path, model_type)
    ours = Tokenizer(tmp_path)
    assert ours.template == template
    if template == "plain":  # and this config.json names no end
        refusal(ours.answer_ids, "x", names=["eos_token_id"])


SMALL = {"llama2": "llama", "llama3": "llama", "mistral": "mistral", "qwen": "qwen2",
         "deepseek": "llama", "plain": "llama"}


def small(folder, template, without=(), named=None):
    """load_both of a small file that has the special tokens of a template, but for some."""
    prompt, answer, ends = EXPECTED[template]
    if template in ("llama2", "mistral"):
        spec = small_sentencepiece()
    else:
        spec = small_byte_level(SPLIT, BYTE_LEVEL)
        tokens = dict.fromkeys(part for part in prompt + answer + ends if part[0] == "<")
        first = len(spec["model"]["vocab"])
        spec["added_tokens"] = [dict(FLAGS, id=i, content=token, normalized=False, special=True)
                                for i, token in enumerate(tokens, first)]
    eos = {t["content"]: t["id"] for t in spec["added_tokens"]}[ends[0]]
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in without]
    return load_both(folder, spec, SMALL[template], eos, named)


@pytest.mark.parametrize("template", SMALL)
def test_small_files_are_known_and_filled_to_the_letter(tmp_path, template):
    ours, theirs = small(tmp_path, template)
    assert as_expected(template, ours, theirs) and len(ours.special) >= 1
    for token, i in ours.special.items():
        assert ours.decode([i]) == theirs.decode([i], skip_special_tokens=False) == token
    ours, _ = small(tmp_path, template, named="plain")
    assert ours.template == "plain" and ours.answer_ids("a")[-1] == ours.eos_ids[0]


@pytest.mark.parametrize("template", [name for name in SMALL if name != "plain"])
def test_each_token_that_a_template_lacks_is_named(tmp_path, template):
    prompt, answer, ends = EXPECTED[template]
    tokens = {part for part in prompt + answer + ends if part[0] == "<"} - {"<|endoftext|>"}
    for token in tokens:
        refusal(small, tmp_path, template, {token}, template, names=[token, template])

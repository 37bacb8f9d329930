"""Files of others, changed at random and on purpose: they end in a sentence that names the file, at
once and in little memory; and no line of the project could run what is in them."""
import ast
import copy
import json
import random
import sys
import time

import pytest
import torch
from conftest import ROOT

import data
import lora
import model
from support.tokenizer import Tokenizer

resource = pytest.importorskip("resource")  # not on Windows

CONFIG = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8,
          "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
          "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
                              "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 32},
          "attention_bias": False, "eos_token_id": [0, 1], "sliding_window": None,
          "layer_types": ["full_attention"] * 2, "hidden_act": "silu"}
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 2, "lora_alpha": 4,
           "target_modules": ["q_proj"], "bias": "none", "use_rslora": False,
           "layers_to_transform": None, "layers_pattern": None, "exclude_modules": None,
           "init_lora_weights": True, "modules_to_save": None, "rank_pattern": {}}
ROW = {"id": 1, "question": "2 + 2?", "rationale": "2 + 2 = 4", "knowledge": ["Add."],
       "answer": "4"}


def tokenizer_spec():
    spec = json.loads((ROOT / "tiny" / "tokenizer.json").read_text(encoding="utf-8"))
    characters = [t for t, i in spec["model"]["vocab"].items() if i <= 256]
    merges = [["t", "h"], ["th", "e"]]
    tokens = [*characters, "th", "the"]
    spec["model"] |= {"vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}
    spec["added_tokens"].append({"id": len(tokens), "content": "<fact>", "special": False,
                                 "single_word": False, "lstrip": True, "rstrip": True,
                                 "normalized": True})
    return spec


@pytest.fixture
def folder(tmp_path):
    """A model folder and, in adapter/, an adapter of it, of a few KB."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with torch.device("meta"):
        shapes = model.Decoder(model.read_config(tmp_path)).state_dict()
    torch.manual_seed(0)
    weights = {name: torch.randn(t.shape) for name, t in shapes.items() if name != "lm_head.weight"}
    model.write_safetensors(tmp_path / "model.safetensors", weights)
    halves = {}
    for i in range(2):
        name = f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_"
        halves |= {f"{name}A.weight": torch.randn(2, 8), f"{name}B.weight": torch.randn(8, 2)}
    model.write_safetensors(tmp_path / "adapter" / "adapter_model.safetensors", halves)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_spec()))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    return tmp_path


def use_model(folder):
    decoder = model.load_model(folder, dtype=torch.float32)
    decoder.logits(decoder(torch.tensor([[1, 2, 3]])))


def use_adapter(folder):
    decoder = model.load_model(folder, dtype=torch.float32)
    lora.load_adapters(decoder, {"ir": folder / "adapter"})
    lora.set_adapter(decoder, "ir")
    decoder(torch.tensor([[1, 2, 3]]))


def use_tokenizer(folder):
    tokenizer = Tokenizer(folder)
    for text in ("the 12 <fact> thé", "a" * 41 + "!"):
        tokenizer.decode(tokenizer.encode(text))
    tokenizer.prompt_ids("2 + 2")


def use_rows(folder):
    data.read_rows(folder / "rows.jsonl")


USES = {"config.json": use_model, "model.safetensors": use_model, "tokenizer.json": use_tokenizer,
        "adapter/adapter_config.json": use_adapter,
        "adapter/adapter_model.safetensors": use_adapter, "rows.jsonl": use_rows}

ODD = [None, True, False, 0, 1, -1, 2, -3, 0.5, 1e308, float("inf"), float("nan"), 10**9, 10**12,
       10**30, 10**400, "", "5", "\ud800", "\x1b[2J", "a" * 10_000, "(", "a*", "(a+)+$", "(.*)*x",
       "a{99999999999}", "((a{99}){99}){99}", "(?R)", [], {}, [1], [[]], ["a"], {"a": 1}, [None],
       {"type": "Sequence"}, {"Regex": "(a|a)*$"}]


def nodes(tree):
    """[(container, key)] of every value in a JSON tree."""
    found = []
    items = (tree.items() if isinstance(tree, dict)
             else enumerate(tree) if isinstance(tree, list) else ())
    for key, value in items:
        found.append((tree, key))
        found += nodes(value)
    return found


def change_tree(text, rng):
    """One to three values replaced by odd ones, deleted, or put twice."""
    tree = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not (places := nodes(tree)):
            break
        shallow = [place for place in places if len(place[0]) < 50]  # not always the vocabulary
        container, key = rng.choice(shallow if shallow and rng.random() < 0.8 else places)
        kind = rng.random()
        if kind < 0.7:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.85:
            del container[key]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[rng.choice(list(container))] = copy.deepcopy(container[key])
    return json.dumps(tree).encode()


def change_bytes(raw, rng):
    """Some bytes changed (in the first 2,000 more often), or cut out, or put twice."""
    bad = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(min(len(bad), rng.choice([2000, len(bad)])) or 1)
        kind = rng.random()
        if kind < 0.6:
            bad[at:at + 1] = bytes([rng.choice([rng.randrange(256), *b'0123456789,:"[]{}-eE\\'])])
        elif kind < 0.8:
            del bad[at:at + rng.choice([1, 8, 100, len(bad)])]
        else:
            bad[at:at] = bad[at:at + rng.choice([1, 8, 100])]
    return bytes(bad)


def fuzz(folder, count, seed):
    rng, refused = random.Random(seed), 0
    good = {name: (folder / name).read_bytes() for name in USES}
    names = ["config.json", "tokenizer.json", "adapter/adapter_config.json", "rows.jsonl"]
    for use in USES.values():
        use(folder)
    for _ in range(count):
        name = rng.choice(list(USES))
        by_tree = name in names and rng.random() < 0.7
        bad = (change_tree if by_tree else change_bytes)(good[name], rng)
        (folder / name).write_bytes(bad)
        start = time.process_time()
        try:
            USES[name](folder)
        except (ValueError, OSError) as error:  # and no other
            assert str(folder) in str(error), (bad[:2000], error)
            assert len(str(error)) < 2000 and "\n" not in str(error).strip()[:50]
            refused += 1
        except BaseException:
            (folder / "bad").write_bytes(bad)
            print(name, bad[:3000])
            raise
        assert time.process_time() - start < 2, bad[:2000]
        (folder / name).write_bytes(good[name])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return refused, used / (2**20 if sys.platform != "darwin" else 2**30)  # in GB


def test_a_thousand_changed_files_end_in_a_sentence(folder):
    refused, _ = fuzz(folder, 1000, seed=0)
    assert 300 < refused < 1000


@pytest.mark.slow
def test_twenty_thousand_changed_files_end_in_a_sentence_and_little_memory(folder):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    refused, used = fuzz(folder, 20_000, seed=1)
    assert 6000 < refused < 20_000 and used < max(1, before + 0.2)


# --------------------------------------------------------------------------------------------------
# Chosen ones: each names the key or the tensor, too


def edited(folder, name, change):
    tree = json.loads((folder / name).read_text())
    change(tree)
    (folder / name).write_text(json.dumps(tree))


def refused(folder, name, *says):
    start = time.process_time()
    with pytest.raises(ValueError) as caught:
        USES[name](folder)
    assert time.process_time() - start < 2
    for word in (folder / name, *says):
        assert str(word) in str(caught.value), str(caught.value)


SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim",
         "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "sliding_window"]


@pytest.mark.parametrize("key", [*SIZES, "rms_norm_eps", "rope_theta"])
def test_a_number_of_config_json_is_a_number_of_sensible_size(folder, key):
    good = (folder / "config.json").read_text()
    for value in (10**9, 10**12, 10**30, 10**400, 0, -1, True, float("nan"), float("inf"), "8", [8],
                  {}, *([2.5, 1e3] if key in SIZES else [])):
        (folder / "config.json").write_text(good)
        edited(folder, "config.json", lambda c, value=value: c.update({key: value}))
        if not (key == "rope_theta" and type(value) is int and 0 < value <= 10**12):
            refused(folder, "config.json", key)


@pytest.mark.parametrize("changes, says", [
    (dict(head_dim=5), "head_dim is 5"), (dict(num_key_value_heads=3), "num_key_value_heads"),
    (dict(head_dim=None, hidden_size=9), "hidden_size is 9"),
    (dict(tie_word_embeddings="false"), "tie_word_embeddings is 'false'"),
    (dict(attention_bias=1), "attention_bias is 1"), (dict(eos_token_id=99999), "eos_token_id"),
    (dict(eos_token_id=-1), "eos_token_id"), (dict(eos_token_id=[0, 300]), "eos_token_id"),
    (dict(eos_token_id=True), "eos_token_id"), (dict(rope_parameters=""), "rope_parameters"),
    (dict(rope_scaling=[1]), "rope_scaling"), (dict(layer_types=""), "layer_types"),
    (dict(rope_parameters=CONFIG["rope_parameters"] | {"factor": 1e400}), "factor is inf"),
    (dict(rope_parameters=CONFIG["rope_parameters"] | {"high_freq_factor": 1}), "low_freq_factor"),
    (dict(rope_parameters=CONFIG["rope_parameters"] | {"rope_type": 3}), "kind 3"),
    (dict(num_hidden_layers=5000, layer_types=None), "num_hidden_layers is 5000"),
    (dict(vocab_size="300"), "vocab_size is '300'"),
    *[(dict(mlp_bias=value), "mlp_bias is") for value in ("", [], 0, {})],
    (dict(partial_rotary_factor=True), "partial_rotary_factor"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(rope_parameters=None, rope_scaling={"type": "yarn"}), "rope_scaling"),
    (dict(rope_parameters=CONFIG["rope_parameters"] | {"factor": "8"}), "rope_parameters"),
], ids=str)
def test_a_config_that_cannot_be_is_refused_by_key(folder, changes, says):
    edited(folder, "config.json", lambda c: c.update(changes))
    refused(folder, "config.json", says)


@pytest.mark.parametrize("change, says", [
    (lambda t: t[0].fill_(float("nan")), "not finite"),
    (lambda t: t[1].fill_(float("inf")), "not finite"),
    (lambda t: t.to(torch.int8), "int8"), (lambda t: t > 0, "bool"), (lambda t: t[:3], "shape")])
def test_weights_that_are_no_numbers_are_named(folder, change, says):
    file, name = folder / "model.safetensors", "model.layers.1.self_attn.q_proj.weight"
    weights = {n: t.clone() for n, t in model.read_safetensors(file).items()}
    changed = change(weights[name])
    model.write_safetensors(file, weights | {name: weights[name] if says == "not finite"
                                             else changed})
    refused(folder, "model.safetensors", name, says)
    with pytest.raises(ValueError, match=f"(?s)model.safetensors.*{says}|{says}"):
        lora.export(folder, folder / "adapter", folder / "out")
    assert not (folder / "out").exists()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int8])
def test_adapters_of_whole_numbers_are_refused(folder, dtype):
    file = folder / "adapter" / "adapter_model.safetensors"
    halves = {n: t.to(dtype) for n, t in model.read_safetensors(file).items()}
    model.write_safetensors(file, halves)
    refused(folder, "adapter/adapter_model.safetensors", "q_proj", str(dtype)[6:])


@pytest.mark.parametrize("changes, says", [
    (dict(lora_alpha=10**400), "lora_alpha"), (dict(lora_alpha=1e308), "lora_alpha"),
    (dict(lora_alpha=True), "lora_alpha True"), (dict(lora_alpha="16"), "lora_alpha '16'"),
    (dict(r=True), "r is True"), (dict(r=2.0), "r is 2.0"), (dict(r=10**30), "r is 1000"),
    (dict(target_modules="a{99999999999}"), "target_modules"), (dict(use_rslora=1), "use_rslora"),
    (dict(target_modules="((a{99}){99}){99}"), "target_modules"),
    (dict(target_modules="(?R)"), "target_modules"), (dict(target_modules=True), "target_modules"),
    (dict(target_modules=["q_proj", 1]), "target_modules"),
    (dict(target_modules={"q_proj": 1}), "target_modules"),
    (dict(base_model_name_or_path=["x"]), "base_model_name_or_path"),
    (dict(layers_to_transform="1"), "layers_to_transform"),
    (dict(layers_pattern=1), "layers_pattern"), (dict(exclude_modules={}), "exclude_modules"),
    (dict(rank_pattern={"q": 1}), "rank_pattern"),
    *[(dict(layers_to_transform=value), "layers_to_transform") for value in ({}, "", False)],
    *[(dict(init_lora_weights=value), "init_lora_weights") for value in (0, 1, [], {})],
    *[({key: value}, key) for key in ("use_dora", "fan_in_fan_out") for value in ("", [], 0)],
], ids=lambda value: str(value)[:40])
def test_an_adapter_config_that_cannot_be_is_refused_by_key(folder, changes, says):
    edited(folder, "adapter/adapter_config.json", lambda c: c.update(changes))
    refused(folder, "adapter/adapter_config.json", says)
    with pytest.raises(ValueError, match=says.split()[0]):
        lora.export(folder, folder / "adapter", folder / "out")


def test_a_pattern_for_layers_that_never_ends_is_given_up(folder):
    for pattern in ("(.*)*x", "(a|a|.)*$x", "(.+)+(.+)+(.+)+(.+)+y"):
        edited(folder, "adapter/adapter_config.json", lambda c, p=pattern: c.update(
            target_modules=p))
        start = time.process_time()
        try:
            use_adapter(folder)
        except ValueError as error:
            assert "target_modules" in str(error) and str(folder) in str(error)
        assert time.process_time() - start < 2


def model_is(**changes):
    return lambda spec: spec["model"].update(changes)


def step_is(**changes):
    return lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(changes)


def vocab_has(token, i):
    return lambda spec: spec["model"]["vocab"].update({token: i})


def top_is(**changes):
    return lambda spec: spec.update(changes)


@pytest.mark.parametrize("change, says", [
    (top_is(model=[1]), "model is [1]"), (top_is(model=None), "model is None"),
    (top_is(pre_tokenizer=[1]), "pre_tokenizer is [1]"), (top_is(normalizer="NFC"), "normalizer"),
    (top_is(normalizer={"type": "Sequence", "normalizers": [1]}), "normalizer.normalizers"),
    (lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].pop("pattern"), "Split"),
    (step_is(pattern={"Regex": "("}), "'('"), (step_is(pattern={"Regex": "a*"}), "'a*'"),
    (step_is(pattern={"Regex": 1}), "Split"), (step_is(pattern=[]), "Split"),
    (step_is(pattern={"Regex": "(?R)"}), "'(?R)'"), (step_is(invert=1), "invert is 1"),
    (step_is(pattern={"Regex": "((a{99}){99}){99}"}), "repeats"),
    (step_is(pattern={"Regex": "a" * 20_000}), "too long"),
    *[(step_is(pattern={"Regex": text}), "as in the tokenizers library")
      for text in (r"\h+", r"[\p{L}&&[^a]]+", r"\N", r"\\\N")],
    (step_is(type="Punctuation"), "pre_tokenizer: "), (top_is(normalizer={"type": "NFKC"}),
                                                       "normalizer: "),
    (top_is(added_tokens="x"), "added_tokens is 'x'"), (top_is(added_tokens=[1]), "[0] is 1"),
    (top_is(added_tokens=[{"content": "x"}]), "added_tokens[0].id"),
    (top_is(added_tokens=[{"id": 3}]), "added_tokens[0].content"),
    (top_is(added_tokens=[{"id": 300, "content": "\ud800"}]), "added_tokens[0].content"),
    (top_is(added_tokens=[{"id": 300, "content": "<a>"}, {"id": 301, "content": "<a>"}]),
     "added_tokens[1].content"),
    (vocab_has("th", -3), "model.vocab['th'] is -3"), (vocab_has("th", 10**12), "1000000000000"),
    (vocab_has("th", "5"), "'5'"), (vocab_has("th", 5), "an id of its own"),
    (vocab_has("th", True), "True"), (vocab_has("\ud800", 400), "Unicode"),
    (vocab_has("zz", 299_999), "vocab_size"),
    (model_is(vocab={}), "model.vocab"), (model_is(vocab=[]), "model.vocab"),
    *[(model_is(merges=merges), "model.merges") for merges in (
        [1, 2], [["a"]], ["a b c"], ["ab"], [["a", 1]], [["a", "zz"]], None, {}, "a b", [None])],
    (model_is(dropout=0.5), "model.dropout"), (model_is(unk_token=5), "model.unk_token"),
    (model_is(byte_fallback="yes"), "byte_fallback"), (model_is(type="WordPiece"), "WordPiece"),
    (model_is(continuing_subword_prefix="##"), "affixes"),
], ids=lambda value: None if callable(value) else value)
def test_a_tokenizer_that_cannot_be_is_refused_by_what_is_in_it(folder, change, says):
    edited(folder, "tokenizer.json", change)
    refused(folder, "tokenizer.json", says)


@pytest.mark.parametrize("text", [
    b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 200_000, b'{"model": 1, "model": 2}', b"NaN",
    b'"x"', b"[]", b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"vocab_size": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "adapter/adapter_config.json"])
def test_what_is_no_json_object_is_refused(folder, name, text):
    (folder / name).write_bytes(text)
    refused(folder, name)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises((ValueError, OSError), match=str(folder)):
        USES[name](folder)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+b", "(.*)*x", "(?:a?){40}a{40}b"])
def test_a_pattern_of_a_tokenizer_that_never_ends_is_given_up(folder, pattern):
    edited(folder, "tokenizer.json", step_is(pattern={"Regex": f"{pattern}|!"}))
    for text in ("a" * 41 + "!", "a" * 5000 + "!", "ab" * 2000 + "!"):
        start = time.process_time()
        try:
            tokenizer = Tokenizer(folder)
            assert tokenizer.decode(tokenizer.encode(text)) == text  # done, and nothing lost
        except ValueError as error:
            assert str(folder / "tokenizer.json") in str(error) and repr(pattern)[1:5] in str(error)
        assert time.process_time() - start < 2


def test_many_patterns_that_never_end_have_one_second_together(folder):
    """Each alone may take a little less than that."""
    step = {"type": "Split", "pattern": {"Regex": "(?:a|aa)+$"}, "behavior": "Isolated",
            "invert": False}
    edited(folder, "tokenizer.json", lambda spec: spec["pre_tokenizer"].update(
        pretokenizers=[step] * 49 + spec["pre_tokenizer"]["pretokenizers"][-1:]))
    tokenizer, start = Tokenizer(folder), time.process_time()
    with pytest.raises(ValueError, match="takes more than 1 s"):
        tokenizer.encode("a" * 28 + "!")
    assert time.process_time() - start < 2


def test_no_value_makes_a_sentence_without_end(folder):
    deep = 1
    for _ in range(6):
        deep = [deep] * 6
    edited(folder, "config.json", lambda c: c.update(eos_token_id=deep))
    with pytest.raises(ValueError, match="eos_token_id is") as caught:
        use_model(folder)
    assert len(str(caught.value)) < 400 + len(str(folder))


# --------------------------------------------------------------------------------------------------
# Merging copies the model and nothing else


def test_a_merge_copies_only_files_of_the_model(folder):
    (folder / "secret.txt").write_text("secret")
    base = folder / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(base / name)
    (base / "notes.txt").symlink_to(folder / "secret.txt")
    (base / "notes.json").write_text("{}")
    (base / "merges.txt").symlink_to("tokenizer.json")  # inside: followed
    lora.export(base, folder / "adapter", folder / "out")
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "merges.txt"}
    (base / "vocab.json").symlink_to(folder / "secret.txt")
    with pytest.raises(ValueError, match="vocab.json is a link out of"):
        lora.export(base, folder / "adapter", folder / "out2")
    assert not list(folder.glob("out2*"))


def test_a_merge_follows_the_links_of_the_hubs_cache(folder):
    home = folder / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / "1f").mkdir(parents=True)
    for k, name in enumerate(("config.json", "model.safetensors", "tokenizer.json")):
        (folder / name).rename(home / "blobs" / str(k))
        (home / "snapshots" / "1f" / name).symlink_to(f"../../blobs/{k}")
    assert lora.export(home / "snapshots" / "1f", folder / "adapter", folder / "out") == 2
    assert not any(path.is_symlink() for path in (folder / "out").iterdir())
    model.load_model(folder / "out")


# --------------------------------------------------------------------------------------------------
# No code from data

FORBIDDEN = {"eval", "exec", "compile", "__import__", "pickle", "cPickle", "dill", "cloudpickle",
             "marshal", "shelve", "joblib", "yaml", "os.system", "os.popen", "torch.load",
             "torch.jit.load", "runpy", "ctypes"}


def dotted(node):
    """a.b.c of an attribute of a name; None for others."""
    if isinstance(node, ast.Name):
        return node.id
    owner = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return owner and f"{owner}.{node.attr}"


def violations(source):
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [dotted(node)] if isinstance(node, ast.Name | ast.Attribute) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [n for n in names if n in FORBIDDEN or n and n.split(".")[0] in FORBIDDEN - {
            "compile"}]
        shell = isinstance(node, ast.keyword) and node.arg == "shell" and not (
            isinstance(node.value, ast.Constant) and node.value.value is False)
        found += ["shell="] if shell else []
    return found


def test_no_line_of_the_project_could_run_what_is_in_a_file():
    for bad in ("eval('1')", "import pickle", "from os import system", "torch.load(f)",
                "subprocess.run(x, shell=True)", "import yaml as y", "__import__('os')",
                "x = exec", "from pickle import loads"):
        assert violations(bad), bad
    files = [*ROOT.glob("*.py"), *ROOT.glob("support/*.py"), *ROOT.glob("tiny/**/*.py")]
    assert len(files) > 15
    for file in files:
        assert not violations(file.read_text(encoding="utf-8")), file

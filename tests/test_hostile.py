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

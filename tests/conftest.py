"""What the tests share: where the files that are not in git lie, a local server, and tiny random
models made by transformers, the oracle."""
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# before torch is imported: on a busy machine, threads that spin make this 4 times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def plain_signals():
    """As a foreground program has them. A shell's background jobs ignore Ctrl-C, nohup's a closed
    terminal, and so does a training in this process; what the tests start would inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


plain_signals()


@pytest.fixture(autouse=True)
def signals_of_its_own():
    yield
    plain_signals()


def place(variable, default):
    return Path(os.environ.get(variable, default))


def start_server(serve):
    """A local server in threads; serve(handler) answers each request, GET or POST."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            try:
                serve(self)
            except OSError:  # the other side is gone
                self.close_connection = True
        do_POST = do_GET

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 64

    http = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    return http


@pytest.fixture(scope="session")
def shared():
    """The folder with data/, models/ and bench/ that is not part of the repository."""
    path = place("LORID_SHARED", ROOT.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"{path} is absent; name the folder in LORID_SHARED")
    return path


@pytest.fixture(scope="session")
def smollm2():
    """The model folder of SmolLM2-135M-Instruct; made on the spot if get_smollm2.sh can."""
    path = place("LORID_SMOLLM2", ROOT / "models" / "smollm2")
    if (path / "tokenizer.json").is_file():
        return path
    script = place("LORID_SHARED", ROOT.parent / "shared") / "models" / "get_smollm2.sh"
    ready = script.is_file() and all(map(importlib.util.find_spec, ("gguf", "transformers")))
    if "LORID_SMOLLM2" in os.environ or not ready:
        pytest.skip(f"{path} is absent; make it with get_smollm2.sh, or name the folder in "
                    "LORID_SMOLLM2")
    part = path.with_name("smollm2.part")  # renamed when whole
    path.parent.mkdir(exist_ok=True)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(["sh", script, part], env=os.environ | {"PATH": search},
                          capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"get_smollm2.sh failed: {made.stderr.strip()[-200:]}")
    part.rename(path)
    return path


@pytest.fixture(scope="session")
def tokenizer_json(request):
    """name -> the tokenizer.json of smollm2, llama2, llama3, qwen3 or deepseek_v3."""
    def find(name):
        if name == "smollm2":
            return request.getfixturevalue("smollm2") / "tokenizer.json"
        path = place("LORID_TOKENIZERS", ROOT / "models" / "tokenizers") / name / "tokenizer.json"
        if not path.is_file():
            pytest.skip(f"{path} is absent; fetch it with shared/models/get_tokenizers.sh, or name "
                        "the folder in LORID_TOKENIZERS")
        return path
    return find


@pytest.fixture
def make_base(tmp_path):
    """make_base(family="llama", **config) -> (folder, the transformers model in it): small, and
    random enough that every part shows."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    families = {"llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
                "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
                "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM)}
    usual = dict(
        vocab_size=97, hidden_size=64, intermediate_size=112, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=None, attn_implementation="eager")

    def make(family="llama", folder="base", shard="1GB", dtype=torch.float32, seed=0, **changes):
        settings = usual | changes
        config, model = families[family]
        torch.manual_seed(seed)
        hf = model(config(**settings)).requires_grad_(False)
        # weights keep the size of what flows; norms differ from 1 and biases from 0
        for name, p in hf.named_parameters():
            std = 0.3 if p.dim() == 1 else p.shape[1] ** -0.5
            torch.nn.init.normal_(p, mean=float("norm" in name), std=std)
        hf.eval().to(dtype).save_pretrained(tmp_path / folder, max_shard_size=shard)
        if dtype != torch.float32:  # casting back would leave its rotary table rounded
            hf = model.from_pretrained(tmp_path / folder, dtype=torch.float32,
                                       attn_implementation="eager").requires_grad_(False)
        return tmp_path / folder, hf
    return make


def edit_json(path, **changes):
    """Change keys of a JSON file; ... removes one."""
    old = json.loads(Path(path).read_text()) | changes
    Path(path).write_text(json.dumps({k: v for k, v in old.items() if v is not ...}))

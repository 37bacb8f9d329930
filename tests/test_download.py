"""data.py download, and --model OWNER/NAME: what comes from a hub is whole, or it is not there.

The servers are real ones, on this machine: a hub that speaks the Hugging Face hub's paths, and the
host with the large files that it leads to. The library that fetches is huggingface_hub itself.
"""
import hashlib
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, start_server

import data
from support import sets

pytest.importorskip("huggingface_hub")
TOKEN = "hf_secret4711"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = random.Random(0).randbytes(3_000_000)
MODEL = {"config.json": b"{}", "tokenizer.json": b'{"model": 1}', "model.safetensors": BIG,
         "README.md": b"read me", "pytorch_model.bin": b"pickle", "optimizer.pt": b"pickle",
         "evil.py": b"print()", "tokenizer.model": b"x", "onnx/config.json": b"{ }"}
WHOLE = {name: MODEL[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
CACHED = Path("../hf/hub/models--me--toy/snapshots", COMMIT)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Servers:
    """Two hosts: `hub` and `cdn`, which has the files of 1 MB and more. repos: {"models/me/toy":
    {name: content}}. fate(host, path, n) says what becomes of the n-th GET or HEAD (from 0) for
    this path: None (it is served), a status, (status, headers), or a text: "cut 1000" (the line is
    cut after so many bytes), "slow" (2 MB/s)."""

    def __init__(self):
        self.repos, self.fate, self.lock = {}, lambda *_: None, threading.Lock()
        self.log = []  # (host, method, path, headers)
        self.hub, self.cdn = (start_server(partial(self.serve, host)) for host in ("hub", "cdn"))
        for host in (self.hub, self.cdn):
            host.RequestHandlerClass.do_HEAD = host.RequestHandlerClass.do_GET

    def url(self, host="hub"):
        name = "127.0.0.1" if host == "hub" else "localhost"  # another host, as for the real one
        return f"http://{name}:{getattr(self, host).server_port}"

    def asked(self, part, host=None, method=None):
        return [entry for entry in self.log if part in entry[2] and host in (None, entry[0])
                and method in (None, entry[1])]

    def serve(self, host, handler):
        path, method = handler.path, handler.command
        with self.lock:
            n = len(self.asked(path, host, method))
            self.log.append((host, method, path, dict(handler.headers)))
        fate = self.fate(host, path, n)
        if isinstance(fate, int):
            fate = fate, {}
        if isinstance(fate, tuple):
            return self.answer(handler, b"no", *fate)
        if path.startswith("/api/"):
            return self.tell(handler, path.removeprefix("/api/"))
        repo, name = re.fullmatch(rf"/(.+)/resolve/(?:main|{COMMIT})/(.+)", path).groups()
        repo = repo if repo.startswith("datasets/") else f"models/{repo}"
        if repo not in self.repos:
            return self.answer(handler, b"no", 401, {"X-Error-Code": "RepoNotFound"})
        files = self.repos[repo]
        if name not in files:
            return self.answer(handler, b"no", 404, {"X-Error-Code": "EntryNotFound"})
        content = files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content)}"'}
        if host == "hub" and len(content) > 1_000_000:
            size, etag = str(len(content)), headers["ETag"]
            headers |= {"X-Linked-Size": size, "X-Linked-ETag": etag}
            return self.answer(handler, b"", 302, headers | {"Location": self.url("cdn") + path})
        self.send(handler, content, headers, fate)

    def tell(self, handler, path):
        """What the hub's API says of a repository."""
        repo = "/".join(path.split("/")[:3])
        if repo not in self.repos:  # so says the real one of unknown names
            return self.answer(handler, b'{"error": "Invalid username or password."}', 401)
        files = self.repos[repo]
        if "/tree/" in path:
            said = [{"type": "file", "path": name, "size": len(content),
                     "oid": sha256(content)[:40]} for name, content in files.items()]
        else:
            said = {"id": repo.partition("/")[2], "sha": COMMIT,
                    "siblings": [{"rfilename": name} for name in files]}
        self.answer(handler, json.dumps(said).encode(), 200, {"Content-Type": "application/json"})

    def answer(self, handler, body, status, headers=()):
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def send(self, handler, content, headers, fate):
        start = int(re.search(r"\d+", handler.headers.get("Range", "bytes=0-"))[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send_response(206 if start else 200)
        for name, value in (headers | {"Content-Length": str(len(content) - start)}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        word, _, count = (fate or "").partition(" ")
        end, step = start + int(count) if count else len(content), 20_000
        for at in range(start, min(end, len(content)), step):
            handler.wfile.write(content[at:min(at + step, end)])
            if word == "slow":
                time.sleep(0.01)
        if word == "cut":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True


@pytest.fixture
def servers(monkeypatch, tmp_path):
    """A hub with one model, me/toy, and a folder of one's own."""
    made = Servers()
    made.repos["models/me/toy"] = dict(MODEL)
    for name in list(os.environ):
        if name.startswith("HF_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", made.url())
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield made
    for host in (made.hub, made.cdn):
        host.shutdown()
        host.server_close()


def forget_library():
    """huggingface_hub reads its variables when it is imported: the next import is a new one."""
    forgotten = {name: module for name, module in sys.modules.items()
                 if name.split(".")[0] == "huggingface_hub"}
    for name in forgotten:
        del sys.modules[name]
    return forgotten


@pytest.fixture
def library(servers):
    before = forget_library()
    yield
    forget_library()
    sys.modules.update(before)


@contextmanager
def disk_with_room_for(size):
    """No file can become larger than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def download(library, monkeypatch, capsys):
    """download(*arguments) -> (exit status, what was printed): the command, in this process."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data.py", "download", *arguments])
        try:
            status, error = data.main() or 0, ""
        except (ValueError, OSError) as problem:  # made a sentence and status 2 by support/cli.py
            status, error = 2, str(problem)
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err + error and "\n" not in error
        return status, said.out + said.err + error
    return run


def process(*arguments, **more):
    """The command as a process of its own, which Ctrl-C stops even where the tests ignore it."""
    more = dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) | more
    return subprocess.Popen([sys.executable, ROOT / "data.py", "download", *arguments], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def until(true):
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, "it did not happen in five minutes"
        time.sleep(0.01)


# -------------------------------------------------------------------------------------------------
# Models and adapters


def test_a_model_comes_whole_without_pickles_or_code_and_needs_no_network_from_then_on(
        servers, download):
    status, said = download("--model", "me/toy")
    assert status == 0 and said.startswith("me/toy is in ") and str(CACHED)[3:] in said
    assert contents(CACHED) == WHOLE and not list(CACHED.rglob("*/*"))
    assert [path for host, method, path, _ in servers.log if host == "cdn" and method == "GET"] == [
        f"/me/toy/resolve/{COMMIT}/model.safetensors"]
    before = len(servers.log)
    assert download("--model", "me/toy") == (status, said) and len(servers.log) == before
    (CACHED / "model.safetensors").unlink()  # what is there is not fetched again
    servers.log.clear()
    assert download("--model", "me/toy")[0] == 0 and contents(CACHED) == WHOLE
    assert not servers.asked("config.json", method="GET")


def test_a_changed_model_on_the_hub_changes_nothing_here(servers, library):
    folder = data.model_folder("me/toy")
    servers.repos["models/me/toy"]["config.json"] = b"[]"
    assert data.model_folder("me/toy") == folder and contents(folder) == WHOLE


def test_another_folder_and_the_place_of_former_versions(servers, download):
    status, said = download("--model", "me/toy", "--out", "else/where")
    assert (status, said) == (0, "me/toy is in else/where\n") or said.endswith("/else/where\n")
    assert contents("else/where") == WHOLE and not CACHED.exists()
    Path("models/me").mkdir(parents=True)
    Path("else/where").rename("models/me/toy")
    before = len(servers.log)
    assert data.model_folder("me/toy") == "models/me/toy" and len(servers.log) == before
    Path("models/me/toy/tokenizer.json").unlink()  # a part of a model does not count
    assert contents(data.model_folder("me/toy")) == WHOLE and contents(CACHED) == WHOLE


def test_all_shards_come_and_a_folder_that_lacks_one_is_not_whole(servers, library):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shards = {name: name.encode() for name in names}
    index = json.dumps({"weight_map": dict(zip("abc", [*names, names[0]], strict=True))}).encode()
    more = shards | {"model.safetensors.index.json": index, "generation_config.json": b"{ }"}
    del servers.repos["models/me/toy"]["model.safetensors"]
    servers.repos["models/me/toy"] |= more | {"model.fp16.safetensors": BIG,
                                              "consolidated.safetensors": BIG}
    servers.fate = lambda host, path, n: 404 if "00002-of" in path else None
    with pytest.raises(ValueError, match="^me/toy cannot be fetched now .*404"):
        data.model_folder("me/toy")
    servers.fate = lambda *_: None
    folder = Path(data.model_folder("me/toy"))
    assert contents(folder) == {k: WHOLE[k] for k in ("config.json", "tokenizer.json")} | more
    assert not data.lacking(folder)
    for name in names:
        (folder / name).unlink()
        assert data.lacking(folder) == [name]
        assert data.model_folder("me/toy") == str(folder) and not data.lacking(folder)


def test_an_adapter_is_a_folder_too_and_train_and_infer_take_both_by_name(
        servers, library, monkeypatch):
    import infer
    import train
    adapter = {"adapter_config.json": b'{"r": 1}', "adapter_model.safetensors": b"weights"}
    for role in ("ir", "kg", "dr"):
        servers.repos[f"models/me/{role}"] = adapter | {"training_args.bin": b"pickle"}
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "me/toy", "--data", "none.jsonl"])
    with pytest.raises(ValueError, match="none.jsonl is not a file"):
        train.main()
    assert contents(CACHED) == WHOLE
    flags = [word for role in ("ir", "kg", "dr") for word in (f"--{role}", f"me/{role}")]
    monkeypatch.setattr(sys, "argv", ["infer.py", "--model", "me/toy", *flags, "--ask", "1+1?"])
    with pytest.raises(ValueError, match=f"{COMMIT}/config.json: model_type is None"):
        infer.main()  # the adapters are there, the base is no real one
    for role in ("ir", "kg", "dr"):
        assert contents(f"../hf/hub/models--me--{role}/snapshots/{COMMIT}") == adapter


def test_what_is_here_wins_and_what_is_no_name_of_the_hub_is_left_alone(servers, tmp_path):
    Path("me/toy").mkdir(parents=True)
    for name in ("me/toy", "tiny", "a/b/c", "../here/x", "./x", "models/", "/me/toy", "me/..", None,
                 str(tmp_path)):
        assert data.model_folder(name) == name
    assert not servers.log and not Path("models").exists()


@pytest.mark.parametrize("files, why", [
    ({"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model-00001-of-00002.bin": b"x"},
     "has no model.safetensors on the hub; pickles"),
    ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"},
     "has no adapter_model.safetensors on the hub; pickles"),
    ({"config.json": b"{}", "tokenizer.model": b"{}", "model.safetensors": BIG},
     "has no tokenizer.json on the hub"),
    ({"model.gguf": b"x"}, "has no config.json and no tokenizer.json on the hub"),
    ({"../config.json": b"{}", "/tmp/tokenizer.json": b"x", "..\\model.safetensors": b"x",
      "a/../../model.safetensors": b"x"}, "has no config.json and no tokenizer.json on the hub"),
])
def test_a_repository_that_is_of_no_use_is_refused_before_weights_are_fetched(
        servers, download, files, why):
    servers.repos["models/me/toy"] = files
    status, said = download("--model", "me/toy")
    assert status == 2 and f"me/toy {why}" in said and said.endswith("are not read.")
    assert not servers.asked("/resolve/")  # not a single file
    assert os.listdir() == [] and os.listdir("..") == ["here"]


def test_no_name_leads_out_of_the_folder(servers, library):
    servers.repos["models/me/toy"] |= {"../evil.json": b"x", "../../config.json": b"x",
                                       "/tmp/evil.safetensors": b"x", "..\\config.json": b"x"}
    assert contents(data.model_folder("me/toy", "new/toy")) == WHOLE
    assert not servers.asked("evil") and len(servers.asked("config.json", method="GET")) == 1
    assert os.listdir("new") == ["toy"]


# -------------------------------------------------------------------------------------------------
# The token, and what the hub refuses


def test_the_token_goes_to_the_hub_and_to_nobody_else(servers, download, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert download("--model", "me/toy")[0] == 0
    for host, sent in (("hub", {f"Bearer {TOKEN}"}), ("cdn", {None})):
        asked = servers.asked("/me/toy", host)
        assert {{k.lower(): v for k, v in headers.items()}.get("authorization")
                for *_, headers in asked} == sent
    assert not any(TOKEN.encode() in content for content in contents(CACHED).values())


CLOSED = (r"is not open to you: check the spelling; .* access granted on its page, .* into "
          r"HF_TOKEN\.$")


@pytest.mark.parametrize("part, status, headers, words", [
    ("tokenizer.json", 403, {"X-Error-Code": "GatedRepo"}, CLOSED),
    ("tokenizer.json", 401, {"X-Error-Code": "GatedRepo"}, CLOSED),
    ("tokenizer.json", 401, {}, CLOSED), ("tokenizer.json", 403, {}, CLOSED),
    ("/api/", 401, {}, CLOSED), ("/api/", 403, {}, CLOSED),
    ("/api/", 404, {"X-Error-Code": "RepoNotFound"}, CLOSED),
    ("/api/", 400, {}, r"cannot be fetched now \(.*\); try the same command again\.$"),
    ("tokenizer.json", 404, {"X-Error-Code": "EntryNotFound"}, r"cannot be fetched now .*\.$"),
    ("tokenizer.json", 404, {}, r"cannot be fetched now \(.*404.*\); try the same command .*\.$"),
])
def test_what_the_hub_refuses_is_one_sentence(servers, download, part, status, headers, words):
    servers.fate = lambda host, path, n: (status, headers) if part in path else None
    code, said = download("--model", "me/toy")
    assert code == 2 and re.search(f"^me/toy {words}", said, re.M), said
    assert not servers.asked("model.safetensors")


def test_a_name_that_the_hub_does_not_know(servers, download):
    status, said = download("--model", "me/unknown")
    assert status == 2 and re.search(f"^me/unknown {CLOSED}", said, re.M)
    assert not Path("models/me/unknown").exists()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "no address"])
def test_without_a_network_the_cache_is_used_and_what_it_lacks_is_a_sentence(
        servers, library, monkeypatch, endpoint):
    folder = data.model_folder("me/toy")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its tries
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    forget_library()
    assert data.model_folder("me/toy") == folder
    for fetch, name in ((partial(data.model_folder, "me/other"), "me/other"),
                        (partial(data.download_set, "lorid-math", Path("x")), "LoRID-Math/MATH")):
        with pytest.raises(ValueError) as error:
            fetch()
        again = r"cannot be fetched now \(.+\); try the same command again\."
        assert re.fullmatch(rf"{name} {again}", str(error.value))


def test_the_offline_mode_uses_the_cache_and_says_so_where_that_lacks_something(
        servers, library, monkeypatch):
    folder = data.model_folder("me/toy")
    before = len(servers.log)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget_library()
    assert data.model_folder("me/toy") == folder
    with pytest.raises(ValueError, match="^me/other cannot be fetched now .*HF_HUB_OFFLINE"):
        data.model_folder("me/other")
    with pytest.raises(ValueError, match="^LoRID-Math/MATH cannot be fetched now"):
        data.download_set("lorid-math", Path("math"))
    assert len(servers.log) == before and not Path("math").exists()


def test_without_the_library_the_pip_command_is_told(servers, download, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for arguments, name in ((["--model", "me/toy"], "me/toy"),
                            (["lorid-gsm8k"], "LoRID-Math/GSM8K")):
        status, said = download(*arguments)
        assert status == 2 and said.startswith(f"{name} is to come from the Hugging Face hub")
        assert said.endswith("pip install huggingface_hub")


# -------------------------------------------------------------------------------------------------
# Lines that break, kills, full disks, company


def test_a_line_that_is_cut_is_taken_up_again(servers, library, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its tries
    servers.fate = lambda host, path, n: "cut 1200000" if host == "cdn" and n < 3 else None
    assert contents(data.model_folder("me/toy")) == WHOLE
    assert len(servers.asked("model.safetensors", "cdn", "GET")) == 4


def test_a_line_that_is_always_cut_is_a_sentence_and_no_file(servers, library, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its tries
    servers.fate = lambda host, path, n: "cut 1" if host == "cdn" else None
    with pytest.raises(ValueError, match="^me/toy cannot be fetched now"):
        data.model_folder("me/toy")
    assert data.lacking(CACHED) == ["model.safetensors"]


def test_ctrl_c_says_130_leaves_no_half_file_and_the_same_command_goes_on(servers):
    servers.fate = lambda host, path, n: "slow" if host == "cdn" else None
    run = process("--model", "me/toy")
    until(lambda: servers.asked("model.safetensors", "cdn", "GET"))
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 130 and "Traceback" not in err
    assert contents(CACHED).items() <= WHOLE.items()
    servers.fate = lambda *_: None
    assert process("--model", "me/toy").communicate()[0] and contents(CACHED) == WHOLE


def test_a_full_disk_is_a_sentence_and_no_file(servers, library):
    with disk_with_room_for(1_500_000), pytest.raises(ValueError, match="me/toy .*File too large"):
        data.model_folder("me/toy")
    assert data.lacking(CACHED) == ["model.safetensors"]
    assert contents(data.model_folder("me/toy")) == WHOLE


def test_several_processes_fetch_side_by_side(servers):
    servers.fate = lambda host, path, n: "slow" if host == "cdn" else None
    runs = [process("--model", "me/toy") for _ in range(2)]
    said = {run.communicate(timeout=300)[0] for run in runs}
    assert len(said) == 1 and [run.returncode for run in runs] == [0, 0]
    assert contents(CACHED) == WHOLE


# -------------------------------------------------------------------------------------------------
# Sets


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def gsm8k(servers, monkeypatch):
    """The set, on a local server and smaller."""
    answers = ["She has 3*400=<<3*400=1200>>1200 pens.\nThat is <<1200-0=1200>>1200.\n#### 1,200",
               "It is 7/2 = <<7/2=3.5>>3.5.\n#### 3.5"]
    questions = ["Ann has 3 bags of 400 pens. How many?", "Half\u2028of 7?"]
    rows = [dict(question=q, answer=a) for q, a in zip(questions, answers, strict=True)]
    train, test = lines(*rows), lines({"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    where, splits, convert = data.SETS["gsm8k"]
    assert where.startswith("https://raw.githubusercontent.com/openai/grade-school-math/")
    assert [name for name, _ in splits.values()] == ["train.jsonl", "test.jsonl"]
    servers.repos["models/open/gsm"] = {"train.jsonl": train, "test.jsonl": test}
    splits = {"train": ("train.jsonl", sha256(train)), "test": ("test.jsonl", sha256(test))}
    made = f"{servers.url('cdn')}/open/gsm/resolve/{COMMIT}/", splits, convert
    monkeypatch.setitem(data.SETS, "gsm8k", made)
    return made


def test_gsm8k(servers, gsm8k, download, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # it is not for this host
    status, said = download("gsm8k")
    assert len(servers.log) == 2
    assert not any("Authorization" in headers for *_, headers in servers.log)
    assert status == 0 and said == "data/gsm8k/train.jsonl: 2 rows\ndata/gsm8k/test.jsonl: 1 rows\n"
    assert sorted(contents("data/gsm8k")) == ["test.jsonl", "train.jsonl"]
    rows = [json.loads(line) for line in Path("data/gsm8k/train.jsonl").read_text().splitlines()]
    assert rows == [{"id": 0, "question": "Ann has 3 bags of 400 pens. How many?",
                     "rationale": "She has 3*400=1200 pens.\nThat is 1200.", "answer": "1200"},
                    {"id": 1, "question": "Half\u2028of 7?", "rationale": "It is 7/2 = 3.5.",
                     "answer": "3.5"}]
    for row in data.read_rows("data/gsm8k/train.jsonl"):
        data.check_row(row, "ir")
    before = len(servers.log)
    said = "data/gsm8k/train.jsonl is there already.\ndata/gsm8k/test.jsonl is there already.\n"
    assert download("gsm8k") == (0, said) and len(servers.log) == before
    assert download("gsm8k", "--out", "else/where")[0] == 0
    assert contents("else/where") == contents("data/gsm8k")


@pytest.mark.parametrize("fate, words", [
    (404, "cannot be fetched now (404"), (503, "cannot be fetched now (503"),
    ("cut 10", "cannot be fetched now ("),
])
def test_gsm8k_that_does_not_come_is_a_sentence_and_no_file(servers, gsm8k, download, fate, words):
    servers.fate = lambda *_: fate
    status, said = download("gsm8k")
    assert status == 2 and said.startswith(f"{gsm8k[0]}train.jsonl {words}")
    assert said.endswith("try again later.") and not Path("data").exists()


def test_gsm8k_with_another_hash_is_not_kept(servers, gsm8k, download):
    servers.repos["models/open/gsm"]["train.jsonl"] += b"\n"
    status, said = download("gsm8k")
    assert status == 2 and "another SHA-256" in said and not Path("data").exists()


def test_certificates_that_are_missing_are_named(servers, gsm8k, download, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "nowhere.pem")
    safe = f"https{gsm8k[0].removeprefix('http')}"
    monkeypatch.setitem(data.SETS, "gsm8k", (safe, *gsm8k[1:]))
    status, said = download("gsm8k")
    assert status == 2 and "nowhere.pem" in said and "None" not in said


def test_the_authors_sets_come_as_they_are(servers, download, shared):
    for name, repo in (("gsm8k", "GSM8K"), ("math", "MATH")):
        sample = shared / "data" / "lorid_sample" / name
        files = {f"{split}.jsonl": (sample / f"{split}.jsonl").read_bytes()
                 for split in ("train", "test")}
        servers.repos[f"datasets/LoRID-Math/{repo}"] = files
        status, said = download(f"lorid-{name}")
        assert status == 0
        assert all(f"data/lorid-{name}/{file}: 100 rows\n" in said for file in files)
        for split in ("train", "test"):
            ours = data.read_rows(f"data/lorid-{name}/{split}.jsonl")
            theirs = data.read_rows(sample / f"{split}.jsonl")
            assert [row | {"where": 0} for row in ours] == [row | {"where": 0} for row in theirs]
            for row in ours:
                data.check_row(row, "dr" if split == "train" else "ir")


def test_metamath(servers, download):
    known = dict(original_question="How many legs have 2 dogs?", type="GSM_Rephrased",
                 query="If there are 2 dogs, how many legs are there?",
                 response="A dog has 4 legs.\n2 dogs have 2*4=8 legs.\n#### 8\nThe answer is: 8")
    half = dict(original_question="What is $1/2$ of $1$?", query="What is $1/2$ of $1$?",
                type="MATH_AnsAug", response="It is $\\boxed{\\frac{1}{2}}$. The answer is: a "
                "guess.\nThe answer is: \\frac{1}{2}")
    rows = [known, known | dict(query="2 dogs: what is the number of legs?"), half,
            known | dict(response="I do not know.")]
    servers.repos["datasets/meta-math/MetaMathQA"] = {
        "MetaMathQA-395K.json": json.dumps(rows, indent=1).encode(), "MetaMathQA-40K.json": b"x"}
    status, said = download("metamath")
    assert status == 0 and said == (
        "data/metamath/train.jsonl: 3 rows; 1 without rationale or answer left out\n")
    assert sorted(contents("data/metamath")) == ["train.jsonl"]
    ours = data.read_rows("data/metamath/train.jsonl")
    legs = "A dog has 4 legs.\n2 dogs have 2*4=8 legs.", "8", "GSM_Rephrased"
    assert [(row["question"], row["rationale"], row["answer"], row["source"]) for row in ours] == [
        (known["query"], *legs), ("2 dogs: what is the number of legs?", *legs),
        (half["query"], half["response"].strip(), "\\frac{1}{2}", "MATH_AnsAug")]
    ids = [row["id"] for row in ours]
    assert ids[0] == ids[1] != ids[2] and not any(str(i).isdecimal() for i in ids)


@pytest.mark.parametrize("content", [
    b'{"question": "1?"}\n', b'[{"id": 0}]', b"not JSON", b"[1, 2]",
    b'{"rationale": 3, "question": "1?"}', b'{"problem": "1?", "rationale": "so it is 1"}',
    b"[" * 100_000, b'[{"question": ', b'{"question": "\xff"}'])
def test_a_set_in_another_form_is_a_sentence_and_no_file(servers, download, content):
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.jsonl": content, "test.jsonl": content}
    status, said = download("lorid-gsm8k")
    assert status == 2 and "LoRID-Math/GSM8K: the train rows are not as data.py knows them" in said
    assert not Path("data").exists()


def test_a_set_without_its_file_is_a_sentence(servers, download):
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.parquet": b"x"}
    status, said = download("lorid-gsm8k", "--out", "new")
    assert status == 2 and not Path("new").exists()
    assert "LoRID-Math/GSM8K has no train.jsonl; the table in support/sets.py is" in said
    status, said = download("metamath")
    assert status == 2 and re.search(f"^meta-math/MetaMathQA {CLOSED}", said, re.M)


def test_blank_lines_in_a_set_change_nothing(servers, download):
    rows = [dict(id=i, question="1?", rationale="1", answer="1") for i in range(2)]
    content = b"\n" + lines(rows[0]) + b"  \r\n" + lines(rows[1]).rstrip()
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.jsonl": content, "test.jsonl": content}
    assert download("lorid-gsm8k")[0] == 0
    assert [row["id"] for row in data.read_rows("data/lorid-gsm8k/train.jsonl")] == [0, 1]


def test_a_full_disk_while_a_set_is_written_leaves_no_half_of_it(servers, library):
    packed = lines(*[{"question": "½?" * 10_000, "rationale": "1+1=2", "answer": "2"}] * 10)
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.jsonl": packed, "test.jsonl": packed}
    # In our file, each ½ takes four bytes more.
    with disk_with_room_for(len(packed) + 5), pytest.raises(OSError, match="File too large"):
        data.download_set("lorid-gsm8k", Path("data"))
    assert contents("data") == {}


def test_where_the_sets_are():
    """Of each, at least a train split; ours has its hash, the others are repositories."""
    assert list(data.SETS) == ["gsm8k", "lorid-gsm8k", "lorid-math", "metamath"]
    for name, (where, files, _) in data.SETS.items():
        assert "train" in files
        assert all(re.fullmatch(r"[\w-]+\.jsonl?", file) for file, _ in files.values())
        hashes = {digest for _, digest in files.values()}
        if name == "gsm8k":
            assert where == sets.GSM8K and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)
        else:
            assert re.fullmatch(r"[\w-]+/\w+", where) and hashes == {None}


def test_the_command_line_wants_one_thing(servers, download):
    for arguments in ([], ["gsm8k", "--model", "me/toy"], ["gsm9k"]):
        with pytest.raises(SystemExit) as stop:
            download(*arguments)
        assert stop.value.code == 2
    status, said = download("--model", "toy")
    assert status == 2
    assert said.endswith("toy is neither a folder here nor of the form OWNER/NAME.")


def test_adapters_are_filed_under_the_repositorys_name_not_a_hash(tmp_path):
    cached = tmp_path / "hub" / "models--me--toy" / "snapshots" / "0123abc"
    cached.mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "linked").symlink_to(cached)
    names = [data.model_name(path) for path in (cached, tmp_path / "linked", tmp_path / "plain")]
    assert names == ["toy", "toy", "plain"]

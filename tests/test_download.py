"""data.py download, and --model OWNER/NAME: what comes from a hub is whole and checked, or it is not there, whatever the servers do.

The servers are real ones, on this machine: a hub that speaks the Hugging Face hub's paths, and the host with the large files that it leads to.
"""
import fcntl
import hashlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import data
from conftest import ROOT, start_server

TOKEN = "hf_secret4711"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = random.Random(0).randbytes(3_072_000)  # 3 MB: failures that bring less than a megabyte are counted
MODEL = {"config.json": b"{}", "tokenizer.json": b'{"model": 1}', "model.safetensors": BIG, "README.md": b"read me", "pytorch_model.bin": b"pickle",
         "optimizer.pt": b"pickle", "evil.py": b"print()"}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob(content):
    """git's own name for it: what `git hash-object` prints."""
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


class Servers:
    """Two hosts: `hub` and `cdn`. repos: {"models/me/toy": {name: content}}. fate(host, path, n) says what becomes of the n-th request (from 0)
    for this path: None (it is served), a status, (status, headers), bytes (served instead), or a text: "cut 1000" (the line is cut after so
    many bytes), "stall 1000" (it falls silent), "slow" (1 MB/s), "whole" (no ranges are known), "wrong" (another range), "416", "short"."""

    def __init__(self):
        self.repos, self.pages, self.fate, self.large = {}, {}, lambda *_: None, (".safetensors", ".jsonl", ".bin")
        self.log, self.lock, self.sent = [], threading.Lock(), 0  # log: (host, path, headers); sent: bytes of files
        self.hub, self.cdn = (start_server(partial(self.serve, host=host)) for host in ("hub", "cdn"))

    def url(self, host="hub"):
        return f"http://127.0.0.1:{getattr(self, host).server_port}"

    def asked(self, part, host=None):
        return [(h, path, headers) for h, path, headers in self.log if part in path and host in (None, h)]

    def serve(self, handler, host):
        path = handler.path
        with self.lock:
            n = len(self.asked(path, host))
            self.log.append((host, path, dict(handler.headers)))
        fate = self.fate(host, path, n)
        if isinstance(fate, int):
            fate = fate, {}
        if isinstance(fate, tuple):
            return self.answer(handler, fate[0], b"no", fate[1])
        if host == "hub" and path.startswith("/api/"):
            repo = path.removeprefix("/api/").removesuffix("/revision/main?blobs=true")
            if repo not in self.repos:
                return self.answer(handler, 401, b'{"error": "Invalid username or password."}')  # so says the real one of unknown names
            siblings = []
            for name, content in self.repos[repo].items():
                pointer = {"size": len(content), "sha256": sha256(content), "pointerSize": 134}
                siblings.append({"rfilename": name, "size": len(content), "blobId": blob(content)} | ({"lfs": pointer} if name.endswith(self.large) else {}))
            return self.answer(handler, 200, fate or json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
        if path.startswith("/rows?"):
            asked = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
            rows, at = self.pages[asked["config"], asked["split"]], int(asked["offset"])
            assert int(asked["length"]) <= 100
            page = [{"row_idx": at + i, "row": row, "truncated_cells": []} for i, row in enumerate(rows[at:at + int(asked["length"])])]
            return self.answer(handler, 200, fate or json.dumps({"rows": page, "num_rows_total": len(rows), "partial": False}).encode())
        repo, name = path.strip("/").split(f"/resolve/{COMMIT}/")
        content = self.repos[repo if repo.startswith("datasets/") else f"models/{repo}"][name]
        if host == "hub" and name.endswith(self.large):
            return self.answer(handler, 302, b"", {"Location": self.url("cdn") + path, "X-Linked-Size": str(len(content))})
        self.send(handler, content, fate)

    def answer(self, handler, status, body, headers={}):
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def send(self, handler, content, fate):
        content = fate if isinstance(fate, bytes) else content
        word, _, count = fate.partition(" ") if isinstance(fate, str) else ("", "", "")
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")) if word != "whole" else 0
        if word == "416" or start > len(content):
            return self.answer(handler, 416, b"")
        start = start // 2 if word == "wrong" else start
        handler.send_response(206 if start or word == "wrong" else 200)
        if start or word == "wrong":
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if word == "short":
            handler.send_header("Connection", "close")  # and no length: only the size in the list tells that this is not all
        else:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = min(len(content), start + int(count)) if count else len(content)
        step = 20_000 if word == "slow" else 1 << 20
        for at in range(start, end, step):
            piece = content[at:min(at + step, end)]
            handler.wfile.write(piece)
            with self.lock:
                self.sent += len(piece)
            if word == "slow":
                time.sleep(0.02)
        if word == "stall":
            handler.connection.recv(1)  # until the other side hangs up
        if word in ("cut", "stall", "short"):
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True


@pytest.fixture
def servers(monkeypatch, tmp_path):
    """A hub with one model, me/toy, a folder of one's own, and impatience."""
    made = Servers()
    made.repos["models/me/toy"] = dict(MODEL)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", made.url() + "/")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(data, "BACKOFF", (0.01, 0.05))
    monkeypatch.setattr(data, "TIMEOUT", (60, 60))
    monkeypatch.setattr(data, "ROWS", made.url() + "/rows")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield made
    for host in (made.hub, made.cdn):
        host.shutdown()
        host.server_close()


@pytest.fixture
def download(monkeypatch, capsys):
    """download(*arguments) -> (exit status, what was printed): the command, in this process."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data.py", "download", *arguments])
        try:
            status, error = data.main() or 0, ""
        except (ValueError, OSError) as problem:  # what the command line makes a sentence and status 2 of
            status, error = 2, str(problem)
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err + error and "\n" not in error
        return status, said.out + said.err + error
    return run


def process(*arguments, **more):
    """The command as a process of its own, which Ctrl-C stops even if the tests run where it is ignored, as behind nohup."""
    more = dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) | more
    return subprocess.Popen([sys.executable, ROOT / "data.py", "download", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


def until(true):
    end = time.monotonic() + 600
    while not true():
        assert time.monotonic() < end, "it did not happen in ten minutes"
        time.sleep(0.01)


WHOLE = {name: MODEL[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
WEIGHTS = f"/me/toy/resolve/{COMMIT}/model.safetensors"
PART = f"models/me/toy/model.safetensors.{sha256(BIG)[:16]}.part"


# ---------------------------------------------------------------------------------------------------------------------
# Models and adapters

def test_a_model_comes_whole_without_pickles_or_code_and_is_used_offline_from_then_on(servers, download):
    assert git_agrees(b"read me")
    status, said = download("--model", "me/toy")
    assert status == 0 and "me/toy is in models/me/toy" in said and "model.safetensors: 3.1 of 3.1 MB" in said
    assert contents("models/me/toy") == WHOLE
    assert [path for host, path, _ in servers.log if host == "cdn"] == [WEIGHTS]
    before = len(servers.log)
    assert download("--model", "me/toy")[0] == 0 and data.model_folder("me/toy") == "models/me/toy"
    assert len(servers.log) == before
    Path("models/me/toy/model.safetensors").unlink()  # what is there is not fetched again
    assert download("--model", "me/toy")[0] == 0 and contents("models/me/toy") == WHOLE
    assert [path.rpartition("/")[2] for _, path, _ in servers.log[before:]] == ["main?blobs=true", "model.safetensors", "model.safetensors"]


def git_agrees(content):
    made = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True)
    Path("blob").write_bytes(content)
    return made.returncode or made.stdout.decode().strip() == blob(content) == data.file_hash(Path("blob"), 40)


def test_all_shards_come_and_the_configuration_comes_last(servers):
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 1000 for i in (1, 2)}
    index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode()
    del servers.repos["models/me/toy"]["model.safetensors"]
    servers.repos["models/me/toy"] |= shards | {"model.safetensors.index.json": index, "generation_config.json": b"{ }", "model.fp16.safetensors": BIG,
                                                "consolidated.safetensors": BIG, "onnx/config.json": b"{}"}
    servers.fate = lambda host, path, n: 404 if path.endswith("00002-of-00002.safetensors") and host == "cdn" and n == 0 else None
    with pytest.raises(ValueError, match="does not exist"):
        data.model_folder("me/toy")
    assert not Path("models/me/toy/config.json").exists() and not data.complete(Path("models/me/toy"))
    data.model_folder("me/toy")
    assert contents("models/me/toy") == shards | {name: WHOLE[name] for name in ("config.json", "tokenizer.json")} | {
        "model.safetensors.index.json": index, "generation_config.json": b"{ }"}
    assert servers.log[-1][1].endswith("/config.json") and data.complete(Path("models/me/toy"))
    for name in shards:  # one shard less, and the folder is not taken for whole
        content = Path("models/me/toy", name).read_bytes()
        Path("models/me/toy", name).unlink()
        assert not data.complete(Path("models/me/toy"))
        Path("models/me/toy", name).write_bytes(content)


def test_an_adapter_is_a_folder_too_and_train_and_infer_take_both_by_name(servers, monkeypatch):
    import infer
    import train
    adapter = {"adapter_config.json": b'{"r": 1}', "adapter_model.safetensors": b"weights"}
    for role in ("ir", "kg", "dr"):
        servers.repos[f"models/me/{role}"] = adapter | {"tokenizer.model": b"x", "training_args.bin": b"pickle"}
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "me/toy", "--data", "none.jsonl"])
    with pytest.raises(ValueError, match="none.jsonl is not a file"):
        train.main()
    assert contents("models/me/toy") == WHOLE
    monkeypatch.setattr(sys, "argv", ["infer.py", "--model", "me/toy", "--ir", "me/ir", "--kg", "me/kg", "--dr", "me/dr", "--ask", "1+1?"])
    with pytest.raises(ValueError, match="models/me/toy/config.json: model_type is None"):  # the adapters are there, the base is no real one
        infer.main()
    assert [contents(f"models/me/{role}") for role in ("ir", "kg", "dr")] == [adapter] * 3


def test_what_is_here_wins_and_what_is_no_name_of_the_hub_is_left_alone(servers, tmp_path):
    Path("me/toy").mkdir(parents=True)
    for name in ("me/toy", "tiny", "a/b/c", "../here/x", "./x", "models/", "/me/toy", "me/..", None, str(tmp_path)):
        assert data.model_folder(name) == name
    assert not servers.log and not Path("models").exists()


@pytest.mark.parametrize("files, why", [
    ({"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model-00001-of-00002.bin": b"x"}, "no weights as safetensors; weights in pickles"),
    ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "has no adapter_model.safetensors; weights in pickles"),
    ({"config.json": b"{}", "tokenizer.model": b"{}", "model.safetensors": b"x"}, "has no tokenizer.json."),
    ({"model.gguf": b"x"}, "has no config.json and no tokenizer.json."),
    ({"../config.json": b"{}", "/tmp/tokenizer.json": b"x", "..\\model.safetensors": b"x", "a/../../model.safetensors": b"x"}, "has no config.json"),
])
def test_a_repository_that_is_of_no_use_is_refused_before_anything_is_fetched(servers, download, files, why):
    servers.repos["models/me/toy"] = files
    status, said = download("--model", "me/toy")
    assert status == 2 and why in said and f"{servers.url()}/me/toy" in said and len(servers.log) == 1
    assert not Path("models").exists() and sorted(path.name for path in Path("..").iterdir()) == ["here"]


def test_no_name_or_link_leads_out_of_the_folder(servers, download):
    servers.repos["models/me/toy"] |= {"../evil.json": b"x", "../../config.json": b"x", "/tmp/evil.safetensors": b"x", "..\\config.json": b"x"}
    outside = Path("outside")
    outside.write_bytes(b"precious")
    folder = Path("models/me/toy")
    folder.mkdir(parents=True)
    for name in ("config.json", ".lock", Path(PART).name):
        (folder / name).symlink_to(outside.resolve())
    assert download("--model", "me/toy")[0] == 0
    assert outside.read_bytes() == b"precious" and contents(folder) == WHOLE
    assert not (folder / "config.json").is_symlink() and sorted(os.listdir("models/me")) == ["toy"] and sorted(os.listdir()) == ["models", "outside"]
    assert not servers.asked("evil") and len(servers.asked("config.json")) == 1


def test_a_model_in_the_hugging_face_cache_is_linked_and_a_part_of_one_is_not(servers, monkeypatch, tmp_path):
    cache = tmp_path / "hf" / "hub" / "models--me--toy"
    snapshot = cache / "snapshots" / COMMIT
    for folder in (cache / "refs", cache / "blobs", snapshot):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):  # as that library lays it out
        (cache / "blobs" / blob(MODEL[name])).write_bytes(MODEL[name])
        (snapshot / name).symlink_to(f"../../blobs/{blob(MODEL[name])}")
    if find_spec("huggingface_hub"):  # whose layout this is
        from huggingface_hub import try_to_load_from_cache
        assert try_to_load_from_cache("me/toy", "config.json", cache_dir=tmp_path / "hf" / "hub") == str(snapshot / "config.json")
    assert data.cached("me/toy") is None and data.cached("you/toy") is None
    (cache / "blobs" / sha256(BIG)).write_bytes(BIG)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{sha256(BIG)}")
    Path("models/me/toy").mkdir(parents=True)
    Path("models/me/toy/config.json").symlink_to("gone")  # left of a cache that was elsewhere
    assert data.model_folder("me/toy") == "models/me/toy"
    assert contents("models/me/toy") == WHOLE and not servers.log
    assert all(path.is_symlink() and path.resolve().parent == cache / "blobs" for path in Path("models/me/toy").glob("*.*") if path.name != ".lock")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))  # it counts more than HF_HOME
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    assert data.cached("me/toy") == snapshot
    (cache / "blobs" / sha256(BIG)).unlink()  # the cache was emptied: the model is fetched, in place of the link
    assert data.model_folder("me/toy") and contents("models/me/toy") == WHOLE and len(servers.asked("safetensors", "cdn")) == 1
    assert not (cache / "blobs" / sha256(BIG)).exists()


def test_a_cache_that_points_out_of_itself_is_left_alone(servers, tmp_path):
    for name, content in WHOLE.items():
        (tmp_path / "secret").mkdir(exist_ok=True)
        (tmp_path / "secret" / name).write_bytes(content)
    cache = tmp_path / "hf" / "hub" / "models--me--toy"
    for folder in (cache / "refs", cache / "snapshots"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text("../../../../secret")
    assert data.complete(cache / "snapshots" / "../../../../secret") and data.cached("me/toy") is None
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE and not any(path.is_symlink() for path in Path("models/me/toy").iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# The token, and what the hub refuses

def test_the_token_goes_to_the_hub_and_to_nobody_else(servers, download, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert download("--model", "me/toy")[0] == 0
    told = {host: {headers.get("Authorization") for h, _, headers in servers.log if h == host} for host in ("hub", "cdn")}
    assert told == {"hub": {f"Bearer {TOKEN}"}, "cdn": {None}}
    assert not any(TOKEN.encode() in content for content in contents("models/me/toy").values())
    asked = len(servers.log)
    for token in ("hf_bad\ntoken", "hf_bad\rtoken", "hf_bad token", "hf_bad\u00e9", "hf_bad\x7f"):
        monkeypatch.setenv("HF_TOKEN", token)
        status, said = download("--model", "me/other")
        assert status == 2 and "HF_TOKEN holds a character" in said and "bad" not in said and len(servers.log) == asked


def prefix_of(url):
    """A hub whose address is how that of another host begins."""
    return url[:-1]


@pytest.mark.parametrize("status, words", [(401, "not open to you"), (403, "HF_TOKEN"), (404, "does not exist"), (400, "is refused")])
def test_what_the_hub_refuses_is_one_sentence_and_one_request(servers, download, monkeypatch, status, words):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    servers.fate = lambda host, path, n: status if "tokenizer" in path else None
    code, said = download("--model", "me/toy")
    assert code == 2 and words in said and f"(HTTP status {status})" in said and "me/toy is no folder here" in said
    assert len(servers.asked("tokenizer")) == 1 and not servers.asked("/config.json")
    assert ("access granted" in said and "HF_TOKEN" in said) == (status in (401, 403))
    code, said = download("--model", "me/unknown")
    assert code == 2 and "/api/models/me/unknown/revision/main" in said and "if the name is right" in said and not Path("models/me/unknown").exists()


def test_an_endpoint_that_is_none(servers, download, monkeypatch):
    for endpoint, words in (("no address", "is not the address of a server"), ("http://127.0.0.1:9", "no connection, or a lost one, 5 times")):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        status, said = download("--model", "me/toy")
        assert status == 2 and words in said and "Traceback" not in said


@pytest.mark.parametrize("location", ["http://[::1", "http://.bad/", "http://127.0.0.1:99999/", "file:///etc/passwd"])
@pytest.mark.parametrize("part", ["/api/", "/config.json"])
def test_a_redirect_to_what_is_no_address_is_a_sentence(servers, download, part, location):
    servers.fate = lambda host, path, n: (302, {"Location": location}) if part in path else None
    status, said = download("--model", "me/toy")
    assert status == 2 and "is not the address of a server, or redirects to what is none." in said and f"{servers.url()}/" in said and part in said
    assert not Path("models/me/toy/config.json").exists() and len(servers.asked(part)) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Lines that break, servers that misbehave

@pytest.mark.parametrize("fate, requests", [
    (lambda n: [429, 500, 503, 408][n] if n < 4 else None, 5),
    (lambda n: (429, {"Retry-After": "0"}) if n < 4 else None, 5),
    (lambda n: "cut 300000" if n < 4 else None, 5),
    (lambda n: "short 300000" if n < 4 else None, 5),
    (lambda n: ["cut 2000000", "whole"][n], 2),
    (lambda n: ["cut 2000000", "wrong", None][n], 3),
    (lambda n: ["cut 2000000", "416", None][n], 3),
    (lambda n: ["cut 2000000", b"x" * len(BIG), None][n], 3),  # another file: its hash tells, and all begins anew
    (lambda n: [BIG[::-1], None][n], 2),
    (lambda n: [BIG + b"more", None][n], 2),
])
def test_a_server_that_misbehaves_for_a_while_is_asked_again(servers, fate, requests):
    servers.fate = lambda host, path, n: fate(n) if host == "cdn" else None
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE
    assert len(servers.asked(WEIGHTS, "cdn")) == requests


def test_nothing_is_kept_of_a_range_that_was_not_asked_for(servers):
    """If it was, either a file that is wrong once more would be the second one, or the next request would go on from there."""
    fates = ["cut 2000000", "wrong", BIG[::-1], None]
    servers.fate = lambda host, path, n: fates[n] if host == "cdn" else None
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE
    assert ["Range" in headers for _, _, headers in servers.asked(WEIGHTS, "cdn")] == [False, True, False, False]


def test_a_list_without_end_does_not_fill_the_memory(servers, download, monkeypatch):
    monkeypatch.setattr(data, "MOST", 3_000_000)
    servers.fate = lambda host, path, n: b"[" + b" " * 30_000_000 + b"]" if path.startswith("/api/") else None
    status, said = download("--model", "me/toy")
    assert status == 2 and "a reply without end, 5 times in a row" in said


def test_an_answer_without_end_does_not_fill_the_disk(servers):
    servers.fate = lambda host, path, n: BIG + bytes(40_000_000) if host == "cdn" and n == 0 else None
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE and servers.sent < 25_000_000  # some stands in the buffers between us


def test_a_line_that_breaks_every_megabyte_is_never_given_up(servers, monkeypatch):
    monkeypatch.setattr(data, "TRIES", 2)
    servers.fate = lambda host, path, n: "cut 1200000" if host == "cdn" and n < 2 else None
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE and len(servers.asked(WEIGHTS, "cdn")) == 3


def test_a_server_that_falls_silent_is_left_and_asked_again(servers, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT", (60, 2))
    servers.fate = lambda host, path, n: "stall 100000" if host == "cdn" and n == 0 else None
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE and len(servers.asked(WEIGHTS, "cdn")) > 1
    assert servers.asked(WEIGHTS, "cdn")[1][2]["Range"] == f"bytes={100_000 - 100_000 % 65_536}-"  # all that had come in whole pieces


def test_only_what_is_missing_is_asked_for(servers):
    servers.fate = lambda host, path, n: "cut 1200000" if host == "cdn" and n < 2 else None
    data.model_folder("me/toy")
    assert {headers["Accept-Encoding"] for *_, headers in servers.log} == {"identity"}  # a range of a compressed file would not fit ours
    ranges = [headers.get("Range") for _, _, headers in servers.asked(WEIGHTS, "cdn")]
    starts = [int(text.removeprefix("bytes=").removesuffix("-")) for text in ranges[1:]]
    assert ranges[0] is None and 1_200_000 - 65_536 <= starts[0] <= 1_200_000 < starts[1] <= 2_400_000
    assert servers.sent <= len(BIG) + 2 * 65_536 + sum(map(len, WHOLE.values())) - len(BIG)


@pytest.mark.parametrize("fate, words", [
    (503, "HTTP status 503"), ("cut 100000", "no connection, or a lost one"), ("short 1000", "ends too early"),
])
def test_a_server_that_misbehaves_for_ever_is_given_up_and_the_part_is_kept(servers, download, fate, words):
    servers.fate = lambda host, path, n: fate if host == "cdn" else None
    Path(PART).parent.mkdir(parents=True)
    Path(PART).write_bytes(BIG[:500_000])
    status, said = download("--model", "me/toy")
    assert status == 2 and words in said and "5 times in a row" in said and len(servers.asked(WEIGHTS, "cdn")) == 5
    assert not Path("models/me/toy/model.safetensors").exists() and not data.complete(Path("models/me/toy"))
    have = Path(PART).read_bytes()
    assert have == BIG[:len(have)] and len(have) >= 500_000


def test_a_wrong_hash_is_tried_once_more_and_nothing_is_kept(servers, download):
    for large in (True, False):  # by SHA-256, and by git's SHA-1
        servers.large = (".safetensors",) if large else ()
        servers.fate = lambda host, path, n: BIG[:-1] + b"x" if path == WEIGHTS and (host == "cdn" or not large) else None
        servers.log.clear()
        status, said = download("--model", "me/toy")
        assert status == 2 and "has come twice with another size or hash" in said and f"{servers.url()}{WEIGHTS}" in said
        assert len(servers.asked(WEIGHTS, "cdn" if large else "hub")) == 2
        assert sorted(contents("models/me/toy")) == []


def test_a_file_that_has_changed_on_the_server_is_begun_anew(servers):
    servers.fate = lambda host, path, n: "cut 1000000" if host == "cdn" and n == 0 else 404 if host == "cdn" else None
    with pytest.raises(ValueError):
        data.model_folder("me/toy")
    assert 0 < Path(PART).stat().st_size <= 1_000_000
    Path("models/me/toy/tokenizer.json").write_bytes(b"an older one")
    servers.repos["models/me/toy"]["model.safetensors"] = BIG[::-1]
    servers.fate = lambda *_: None
    servers.log.clear()
    data.model_folder("me/toy")
    assert contents("models/me/toy") == WHOLE | {"model.safetensors": BIG[::-1]}
    assert "Range" not in servers.asked(WEIGHTS, "cdn")[0][2]


def test_a_server_without_hashes_is_not_believed(servers, download):
    for entry in ({"size": 2}, {"size": 2, "blobId": "../../x"}, {"size": None, "blobId": "0" * 40}, {"lfs": {"size": 2, "sha256": None}}):
        files = [{"rfilename": name} | entry for name in WHOLE]
        servers.fate = lambda host, path, n: json.dumps({"sha": COMMIT, "siblings": files}).encode() if path.startswith("/api/") else None
        status, said = download("--model", "me/toy")
        assert status == 2 and "no size and no hash" in said and contents("models/me/toy") == {}
    for body in (b"<html>", b"[]", b"{}", b'{"siblings": 3}', b'{"sha": "x", "siblings": [{}]}'):
        servers.fate = lambda host, path, n: body
        status, said = download("--model", "me/toy")
        assert status == 2 and "in a form that is not known here" in said


def test_a_pause_that_the_server_asks_for_is_made(servers, monkeypatch):
    slept = []
    monkeypatch.setattr(data.time, "sleep", slept.append)
    answers = [(429, {"Retry-After": "7"}), 503, (503, {"Retry-After": "2.5"})]
    servers.fate = lambda host, path, n: answers[n] if path.startswith("/api/") and n < 3 else None
    data.model_folder("me/toy")
    assert slept == [7, pytest.approx(0.04), 2.5]


# ---------------------------------------------------------------------------------------------------------------------
# Kills, full disks, company

def test_after_a_kill_the_same_command_goes_on_from_there(servers):
    servers.fate = lambda host, path, n: "slow" if host == "cdn" and n == 0 else None
    run = process("--model", "me/toy")
    until(lambda: Path(PART).is_file() and Path(PART).stat().st_size > 1_000_000)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    have = Path(PART).stat().st_size
    assert Path(PART).read_bytes() == BIG[:have] and not Path("models/me/toy/model.safetensors").exists()
    sent = None
    while sent != (sent := servers.sent):  # the server may not have noticed yet
        time.sleep(0.5)
    servers.sent = 0
    run = process("--model", "me/toy")
    said = run.communicate(timeout=600)
    assert run.returncode == 0 and said[0] == "me/toy is in models/me/toy\n", said
    assert servers.asked(WEIGHTS, "cdn")[-1][2]["Range"] == f"bytes={have}-"
    assert contents("models/me/toy") == WHOLE
    assert servers.sent == len(BIG) - have + len(WHOLE["config.json"]) + len(WHOLE["tokenizer.json"])  # and not one byte twice


def test_ctrl_c_keeps_the_part_and_says_130(servers):
    servers.fate = lambda host, path, n: "slow" if host == "cdn" else None
    run = process("--model", "me/toy")
    until(lambda: Path(PART).is_file() and Path(PART).stat().st_size > 200_000)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 130 and "Traceback" not in err
    assert Path(PART).read_bytes() == BIG[:Path(PART).stat().st_size] and not Path("models/me/toy/model.safetensors").exists()


def test_a_full_disk_is_a_sentence_and_the_part_is_kept(servers):
    full = 1_500_000
    run = process("--model", "me/toy", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (full, full)))
    _, err = run.communicate(timeout=600)
    assert run.returncode == 2 and err.endswith("models/me/toy cannot be filled ([Errno 27] File too large); put that right, and the same command goes on from there.\n")
    assert "Traceback" not in err and Path(PART).read_bytes() == BIG[:full]
    assert data.model_folder("me/toy") and contents("models/me/toy") == WHOLE


def test_a_full_disk_while_a_set_is_written_names_it(servers):
    packed = lines(*[{"question": "½?" * 10_000, "rationale": "1+1=2", "answer": "2"}] * 10)
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.jsonl": packed, "test.jsonl": packed}
    limit = len(packed) + 5  # in our file, each ½ takes four bytes more
    run = process("lorid-gsm8k", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, err = run.communicate(timeout=600)
    assert run.returncode == 2 and "data/lorid-gsm8k cannot be filled ([Errno 27] File too large)" in err and "Traceback" not in err
    assert sorted(contents("data/lorid-gsm8k")) == ["train.raw"]


@pytest.mark.parametrize("name", [".lock", "config.json", Path(PART).name, f"model.safetensors.{'0' * 16}.part"])
def test_a_folder_where_a_file_belongs_is_named(servers, download, name):
    Path("models/me/toy", name).mkdir(parents=True)
    status, said = download("--model", "me/toy")
    assert status == 2 and "models/me/toy cannot be filled ([Errno 21] Is a directory: " in said and name in said and "make room" not in said


def test_certificates_that_are_missing_are_named(servers, download, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "nowhere.pem")
    where, splits, convert = data.SETS["gsm8k"]
    monkeypatch.setitem(data.SETS, "gsm8k", (f"https{servers.url().removeprefix('http')}/", splits, convert))
    status, said = download("gsm8k")
    assert status == 2 and "nowhere.pem" in said and "data/gsm8k cannot be filled" in said and "None" not in said


def test_several_processes_fetch_each_file_once(servers):
    servers.fate = lambda host, path, n: "slow" if host == "cdn" else None
    runs = [process("--model", "me/toy") for _ in range(2)]
    assert [(run.communicate(timeout=600)[0], run.returncode) for run in runs] == [("me/toy is in models/me/toy\n", 0)] * 2
    assert contents("models/me/toy") == WHOLE
    assert len(servers.asked(WEIGHTS, "cdn")) == len(servers.asked("/config.json")) == len(servers.asked("/tokenizer.json")) == 1


def test_who_waits_for_another_process_finds_its_work_done(servers):
    folder = Path("models/me/toy")
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = process("--model", "me/toy")
        until(lambda: servers.asked("/api/"))
        for name, content in WHOLE.items():  # as the other process would
            (folder / name).write_bytes(content)
    assert run.communicate(timeout=600)[0] == "me/toy is in models/me/toy\n" and len(servers.log) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Sets

def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_gsm8k(servers, download, monkeypatch):
    train = lines({"question": "Ann has 3 bags of 400 pens. How many?", "answer": "She has 3*400=<<3*400=1200>>1200 pens.\nThat is <<1200-0=1200>>1200.\n#### 1,200"},
                  {"question": "Half\u2028of 7?", "answer": "It is 7/2 = <<7/2=3.5>>3.5.\n#### 3.5"})
    test = lines({"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    where, splits, convert = data.SETS["gsm8k"]
    assert where.startswith("https://raw.githubusercontent.com/openai/grade-school-math/") and [name for name, *_ in splits.values()] == ["train.jsonl", "test.jsonl"]
    servers.repos["models/open/gsm"], servers.large = {"train.jsonl": train, "test.jsonl": test}, ()
    splits = {"train": ("train.jsonl", len(train), sha256(train)), "test": ("test.jsonl", len(test), sha256(test))}
    monkeypatch.setitem(data.SETS, "gsm8k", (f"{servers.url('cdn')}/open/gsm/resolve/{COMMIT}/", splits, convert))
    monkeypatch.setenv("HF_ENDPOINT", prefix_of(servers.url("cdn")))
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # it is not for this host
    status, said = download("gsm8k")
    assert len(servers.log) == 2 and all("Authorization" not in headers for *_, headers in servers.log)
    assert status == 0 and "data/gsm8k/train.jsonl: 2 rows\n" in said and "data/gsm8k/test.jsonl: 1 rows\n" in said
    assert sorted(contents("data/gsm8k")) == ["test.jsonl", "train.jsonl"]
    assert [json.loads(line) for line in Path("data/gsm8k/train.jsonl").read_text().splitlines()] == [
        {"id": 0, "question": "Ann has 3 bags of 400 pens. How many?", "rationale": "She has 3*400=1200 pens.\nThat is 1200.", "answer": "1200"},
        {"id": 1, "question": "Half\u2028of 7?", "rationale": "It is 7/2 = 3.5.", "answer": "3.5"}]
    for row in data.read_rows("data/gsm8k/train.jsonl"):
        data.check(row, "ir")
    before = len(servers.log)
    assert download("gsm8k") == (0, "data/gsm8k/train.jsonl is there already.\ndata/gsm8k/test.jsonl is there already.\n") and len(servers.log) == before
    assert download("gsm8k", "--out", "else/where")[0] == 0 and Path("else/where/test.jsonl").read_bytes() == Path("data/gsm8k/test.jsonl").read_bytes()


def test_the_authors_sets_come_as_they_are(servers, download, shared):
    for name, repo in (("gsm8k", "GSM8K"), ("math", "MATH")):
        sample = shared / "data" / "lorid_sample" / name
        servers.repos[f"datasets/LoRID-Math/{repo}"] = {f"{split}.jsonl": (sample / f"{split}.jsonl").read_bytes() for split in ("train", "test")}
        status, said = download(f"lorid-{name}")
        assert status == 0 and f"data/lorid-{name}/train.jsonl: 100 rows\n" in said and f"data/lorid-{name}/test.jsonl: 100 rows\n" in said
        for split in ("train", "test"):
            ours, theirs = data.read_rows(f"data/lorid-{name}/{split}.jsonl"), data.read_rows(sample / f"{split}.jsonl")
            assert [row | {"where": None} for row in ours] == [row | {"where": None} for row in theirs]
            for row in ours:
                data.check(row, "dr" if split == "train" else "ir")


def test_metamath(servers, download):
    known = dict(original_question="How many legs have 2 dogs?", query="If there are 2 dogs, how many legs are there?", type="GSM_Rephrased",
                 response="A dog has 4 legs.\n2 dogs have 2*4=8 legs.\n#### 8\nThe answer is: 8")
    rows = [known, known | dict(query="2 dogs: what is the number of legs?"),
            dict(original_question="What is $1/2$ of $1$?", query="What is $1/2$ of $1$?", type="MATH_AnsAug",
                 response="It is $\\boxed{\\frac{1}{2}}$. The answer is: a guess.\nThe answer is: \\frac{1}{2}"), known | dict(response="I do not know.")]
    servers.repos["datasets/meta-math/MetaMathQA"] = {"MetaMathQA-395K.json": json.dumps(rows, indent=1).encode(), "MetaMathQA-40K.json": b"x"}
    servers.large = (".json",)
    status, said = download("metamath")
    assert status == 0 and "data/metamath/train.jsonl: 3 rows; 1 without rationale or answer left out\n" in said
    assert sorted(contents("data/metamath")) == ["train.jsonl"]
    ours = data.read_rows("data/metamath/train.jsonl")
    assert [(row["question"], row["rationale"], row["answer"], row["source"]) for row in ours] == [
        (known["query"], "A dog has 4 legs.\n2 dogs have 2*4=8 legs.", "8", "GSM_Rephrased"),
        ("2 dogs: what is the number of legs?", "A dog has 4 legs.\n2 dogs have 2*4=8 legs.", "8", "GSM_Rephrased"),
        (rows[2]["query"], rows[2]["response"].strip(), "\\frac{1}{2}", "MATH_AnsAug")]
    ids = [row["id"] for row in ours]
    assert ids[0] == ids[1] != ids[2] and not any(str(i).isdecimal() for i in ids)


def test_math_comes_as_rows_page_by_page(servers, download, monkeypatch):
    monkeypatch.setattr(data, "ROWS", servers.url("cdn") + "/rows")
    monkeypatch.setenv("HF_ENDPOINT", prefix_of(servers.url("cdn")))
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # it is not for this host

    def problem(config, split, i):
        box = "\\boxed 5" if (config, split, i) == ("algebra", "train", 7) else "nothing" if i == 9 else f"\\boxed{{\\frac{{{i}}}{{7}}}}"
        return dict(problem=f"{config} {split} {i}?", level="Level 3", type=config.title(), solution=f"The answer is not 1, but ${box}$.")
    counts = {config: {"train": 12, "test": 11} for config in data.MATH} | {"geometry": {"train": 250, "test": 100}}
    servers.pages = {(config, split): [problem(config, split, i) for i in range(n)] for config, both in counts.items() for split, n in both.items()}
    answers = {n: fate for n, fate in enumerate((429, 500))}
    servers.fate = lambda host, path, n: answers.get(n) if "config=prealgebra" in path else None
    status, said = download("math")
    assert status == 0 and "data/math/train.jsonl: 315 rows; 7 without rationale or answer left out\n" in said
    ours = {split: data.read_rows(f"data/math/{split}.jsonl") for split in ("train", "test")}
    assert len(ours["test"]) == 6 * 11 + 100 - 7 and len({row["id"] for row in ours["train"]}) == 315
    assert [row["answer"] for row in ours["train"][:9]] == [*(f"\\frac{{{i}}}{{7}}" for i in range(7)), "5", "\\frac{8}{7}"]
    assert {row["question"]: (row["rationale"], row["level"], row["type"]) for split in ours for row in ours[split]} == {
        p["problem"]: (p["solution"], p["level"], p["type"]) for page in servers.pages.values() for p in page if "nothing" not in p["solution"]}
    asked = [parse_qs(urlsplit(path).query) for _, path, _ in servers.asked("/rows?")]
    assert {tuple(q["dataset"]) for q in asked} == {("EleutherAI/hendrycks_math",)} and all("Authorization" not in headers for *_, headers in servers.log)
    assert [q["offset"] for q in asked if q["config"] == ["geometry"] and q["split"] == ["train"]] == [["0"], ["100"], ["200"]]


def page_of(*rows, total=1, partial=False):
    return {"rows": [{"row_idx": i, "row": {}, "truncated_cells": truncated} for i, truncated in rows], "num_rows_total": total, "partial": partial}


@pytest.mark.parametrize("page", [page_of(total=5), page_of((0, ["solution"])), page_of((0, []), partial=True), {"error": "busy"},
                                  page_of((0, []), total=2), page_of((0, []), (2, []), total=3)])  # the first row for ever; a gap
def test_rows_that_are_not_all_there_make_no_file(servers, download, page):
    servers.pages = {(config, split): [] for config in data.MATH for split in ("train", "test")}
    servers.fate = lambda host, path, n: json.dumps(page).encode()
    status, said = download("math")
    assert status == 2 and "in a form that is not known here, 5 times" in said and contents("data/math") == {} and len(servers.log) < 7


@pytest.mark.parametrize("content", [b'{"question": "1?"}\n', b'[{"id": 0}]', b"not JSON", b"[1, 2]", b'{"rationale": 3, "question": "1?"}',
                                     b'{"problem": "1?", "rationale": "so it is 1"}',
                                     b"[" * 100_000, b'[{"question": ', b'{"question": "\xff"}'])
def test_a_set_in_another_form_is_a_sentence_and_no_file(servers, download, content):
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.jsonl": content, "test.jsonl": content}
    status, said = download("lorid-gsm8k")
    assert status == 2 and "LoRID-Math/GSM8K: the train rows are not as data.py knows them" in said and not list(Path("data").rglob("*.jsonl"))
    servers.repos["datasets/LoRID-Math/GSM8K"] = {"train.parquet": content}
    status, said = download("lorid-gsm8k", "--out", "new")
    assert status == 2 and "has no train.jsonl; the table SETS in data.py is out of date" in said


def test_the_command_line_wants_one_thing(servers, download, capsys):
    for arguments in ([], ["gsm8k", "--model", "me/toy"], ["gsm9k"]):
        with pytest.raises(SystemExit) as stop:
            download(*arguments)
        assert stop.value.code == 2
    status, said = download("--model", "toy")
    assert status == 2 and said.endswith("toy is neither a folder here nor of the form OWNER/NAME.")

"""A small hub of our own on this machine: the calls that the hub's client makes, answered from dictionaries."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}",
         "model.safetensors": b"w" * 5000, "README.md": b"# Model", "pytorch_model.bin": b"p" * 5000,
         "onnx/model.onnx": b"o", "consolidated.safetensors": b"c" * 5000, "original/model.safetensors": b"d" * 5000}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
SHARDED = {"config.json": b"{}", "model.safetensors.index.json": INDEX.encode(),
           "model-00001-of-00002.safetensors": b"1" * 999, "model-00002-of-00002.safetensors": b"2" * 999}
GGUFS = {"README.md": b"", "m-Q4_0.gguf": b"GGUF" + b"4" * 99, "m-Q8_0.gguf": b"GGUF" + b"8" * 99,
         "mmproj-m.gguf": b"GGUF" + b"p" * 99}
SPLIT = {f"q4/m-{i:05}-of-00002.gguf": b"GGUF" + b"s" * 99 for i in (1, 2)}
REPOS = {"owner/model": FILES, "owner/sharded": SHARDED, "owner/ggufs": GGUFS, "owner/split": SPLIT,
         "owner/one-gguf": {"x.gguf": b"GGUF1", "config.json": b"{}"},
         "owner/pickles": {"model.bin": b"p", "config.json": b""}, "owner/empty": {}}
REFUSALS = {"owner/gated": (403, "GatedRepo"), "owner/missing": (401, "RepoNotFound"), "owner/busy": (503, ""),
            "owner/limited": (429, ""), "owner/forbidden": (403, "")}


class Handler(BaseHTTPRequestHandler):
    """Answers the calls that the hub's client makes to look a repository up and to download files."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        self.server.speaks.wait(30)
        parts = path.strip("/").split("/")
        repo = "/".join(parts[2:4]) if parts[0] == "api" else "/".join(parts[:2])
        if repo in REFUSALS:
            return self.send(*REFUSALS[repo])
        if repo not in REPOS:
            return self.send(404, "RepoNotFound")
        if parts[0] != "api":
            return self.file(REPOS[repo], "/".join(parts[4:]))
        if len(parts) > 5 and parts[5] not in ("main", SHA):
            return self.send(404, "RevisionNotFound")
        files = REPOS[repo]
        if parts[4:5] == ["tree"]:
            return self.send(200, body=json.dumps([{"type": "file", "path": n, "size": len(b), "oid": etag(b)}
                                                   for n, b in files.items()]).encode())
        siblings = [{"rfilename": name, "size": len(data), "blobId": etag(data)} for name, data in files.items()]
        self.send(200, body=json.dumps({"id": repo, "sha": SHA, "siblings": siblings}).encode())

    def file(self, files, name):
        if name in self.server.broken or name not in files:
            return self.send(500 if name in self.server.broken else 404, "EntryNotFound")
        data = files[name]
        self.send(200, body=data, headers={"ETag": f'"{etag(data)}"', "X-Repo-Commit": SHA})

    def send(self, status, code="", body=b"", headers=None):
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "Content-Length": str(len(body)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class QuietServer(ThreadingHTTPServer):
    """A client that hangs up is no news."""

    def handle_error(self, request, client_address):
        pass


def etag(data):
    """The name of a content: SHA-256 for large files (here from 100 bytes on), else git's SHA-1."""
    if len(data) >= 100:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = QuietServer(("127.0.0.1", 0), Handler)
    running.asked, running.broken, running.speaks = [], set(), threading.Event()
    running.cache = tmp_path / "hub"
    running.speaks.set()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MLXLM_CACHE", str(tmp_path / "wheels"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    yield running
    running.shutdown()
    running.server_close()

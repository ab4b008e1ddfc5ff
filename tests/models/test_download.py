"""Downloads from a small hub of this machine's own: the demo stands for a published model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tuner.models.registry import find_model

NAME, REPOSITORY = "easyanimate-v5-7b-inp", "alibaba-pai/EasyAnimateV5-7b-zh-InP"
COMMIT = "1f" * 20
LARGE = "transformer/diffusion_pytorch_model.safetensors"
BREAK_AT = 6_000_000

FETCH = """
import shutil, sys, time
from huggingface_hub import constants
from tuner.errors import TunerError
from tuner.models.download import available
from tuner.models.registry import find_model
time.sleep = lambda seconds: None  # the hub's client waits longer and longer between its tries
constants.DOWNLOAD_CHUNK_SIZE = 2**20  # the demo is smaller than one of the usual pieces
if len(sys.argv) > 2:
    import collections
    shutil.disk_usage = lambda place: collections.namedtuple("usage", "free")(int(sys.argv[2]))
try:
    print(available(find_model(sys.argv[1])))
except TunerError as error:
    print(type(error).__name__, error)
"""


class Hub:
    """Serves a folder the way the hub serves a repository, and notes what was asked for.

    Args:
        folder: The repository's files.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
        self.files["text_encoder/pytorch_model.bin"] = self.files["model_index.json"]
        self.files["samples/large.mp4"] = self.files[LARGE]
        self.asked: list[tuple[str, int]] = []
        self.cuts: list[int] = []  # after how many bytes the next connections for the large file end
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        name = request.path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if request.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            listed = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in self.files.items()
            ]
            self.send(request, 200, json.dumps(listed).encode(), body)
        elif request.path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": name} for name in self.files]
            self.send(
                request, 200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode(), body
            )
        elif name in self.files:
            content = self.files[name].read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            start = int(re.findall(r"\d+", request.headers.get("Range", "bytes=0-"))[0])
            if body:
                self.asked.append((name, start))
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = self.cuts.pop(0) if body and self.cuts and name == LARGE else None
            self.send(request, 206 if start else 200, content[start:], body, headers, cut)
        else:
            self.send(request, 404, b"", body)

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        body: bool,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(content[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()


@pytest.fixture
def hub(demo: Path) -> Iterator[Hub]:
    hub = Hub(demo)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def fetch(hub: Hub, home: Path, *free_bytes: int) -> tuple[str, str]:
    """The last line that the download prints, and its progress."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "TUNER_MODELS": str(home / "models"),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, NAME, *map(str, free_bytes)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1], done.stderr


def test_a_published_model_is_fetched_once_with_progress(hub, tmp_path, monkeypatch, demo):
    folder, progress = fetch(hub, tmp_path)
    assert "%" in progress
    for file in (LARGE, "text_encoder_2/model.safetensors", "tokenizer/vocab.txt"):
        assert (Path(folder) / file).read_bytes() == (demo / file).read_bytes()
    names = [name for name, _ in hub.asked]
    assert len(names) == len(set(names))
    assert not {"samples/large.mp4", "text_encoder/pytorch_model.bin"} & set(names)
    assert fetch(hub, tmp_path)[0] == folder
    assert [name for name, _ in hub.asked] == names
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("TUNER_MODELS", str(tmp_path / "models"))
    assert find_model(NAME).path == Path(folder)


def test_a_connection_that_breaks_is_taken_up_where_it_was(hub, tmp_path, demo):
    hub.cuts = [BREAK_AT]
    folder, _ = fetch(hub, tmp_path)
    assert (Path(folder) / LARGE).read_bytes() == (demo / LARGE).read_bytes()
    starts = [start for name, start in hub.asked if name == LARGE]
    assert starts[0] == 0 and 0 < starts[1] <= BREAK_AT and len(starts) == 2


def test_after_a_download_that_failed_only_what_is_left_is_fetched(hub, tmp_path):
    hub.cuts = [0] * 100
    message, _ = fetch(hub, tmp_path)
    assert message.startswith("TunerError") and "finished files are kept" in message
    finished = {name for name, _ in hub.asked} - {LARGE}
    hub.cuts = []
    hub.asked.clear()
    folder, _ = fetch(hub, tmp_path)
    assert (Path(folder) / LARGE).is_file()
    assert LARGE in dict(hub.asked) and len(finished & {name for name, _ in hub.asked}) < len(finished)


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(hub, tmp_path):
    message, _ = fetch(hub, tmp_path, 5_000_000)
    assert message.startswith("BadInput") and "room" in message and not hub.asked
    assert Path(fetch(hub, tmp_path, 50_000_000)[0]).is_dir()


def test_a_hub_that_does_not_know_the_model_is_answered_with_where_to_put_it(hub, tmp_path):
    hub.url += "/nothing"
    message, _ = fetch(hub, tmp_path)
    assert message.startswith("BadInput") and str(tmp_path / "models" / NAME) in message

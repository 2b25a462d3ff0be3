"""The bucket store against an S3 server: moto, where it is installed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmaas.core.errors import NotFound, Refused, Unavailable
from openmaas.core.settings import Settings
from openmaas.store.blobs import BlobStore, open_blobs

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    if not all(importlib.util.find_spec(name) for name in ("moto", "flask", "flask_cors")):
        pytest.skip("no S3 server here: pip install 'moto[s3]' flask flask-cors")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        server.kill()


@pytest.fixture
def blobs(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/models", method="PUT")).close()
    return open_blobs(Settings(blobs_url="s3://models/some/prefix"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 5, 40_000_000], ids=["empty", "single", "in parts"])
def test_what_was_put_comes_back(blobs: BlobStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "source").write_bytes(data)
    assert blobs.put(digest(data), tmp_path / "source") == size
    assert blobs.put(digest(data), tmp_path / "source") == 0
    assert blobs.size(digest(data)) == size
    blobs.fetch(digest(data), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data
    assert (digest(data), size) in set(blobs.list())
    blobs.delete(digest(data))
    blobs.delete(digest(data))
    assert blobs.size(digest(data)) is None


@pytest.mark.parametrize("size", [5, 40_000_000], ids=["single", "in parts"])
def test_a_file_with_another_digest_is_not_kept(blobs: BlobStore, tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size))
    with pytest.raises(Refused) as refused:
        blobs.put("0" * 64, tmp_path / "source")
    assert refused.value.code == "digest_mismatch"
    assert blobs.size("0" * 64) is None


def test_what_is_not_there_is_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        blobs.fetch("1" * 64, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_bucket_that_does_not_exist_is_unavailable(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(Unavailable):
        open_blobs(Settings(blobs_url="s3://nowhere")).put(digest(b"x"), tmp_path / "source")

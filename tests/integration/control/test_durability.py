"""What was acknowledged is there and intact: after kills at any moment, and on a disk that is really full."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from openmaas.core.manifest import Manifest
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from tests.integration.registry import Registry

ROOT = Path(__file__).parents[3]
PUSHES = """
import os, sys, time
from openmaas.core.settings import Settings
from openmaas.store.database import open_database
from tests.integration.registry import Registry
settings = Settings(home=sys.argv[1], database_url=sys.argv[2], chunk_size=2**16)
registry = Registry(settings, open_database(settings), time.time)
registry.examine.added = {"made": b"made by the conversion"}
print("ready", flush=True)
for n in range(10_000):
    name = f"model-{n % 3}"
    version = registry.push(name, {"weights": os.urandom(150_000), "same": b"same", "n": str(n).encode()}).version
    print(name, version.number, version.digest, flush=True)
    registry.aliases.set(name, "champion", version.number, actor="admin")
    if n % 4 == 3:
        registry.garbage.apply()
"""


def test_no_acknowledged_push_is_lost_to_a_kill(settings: Settings, database: Database, tmp_path: Path) -> None:
    acknowledged: list[tuple[str, int, str]] = []
    dice = random.Random(7)
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", PUSHES, settings.home, settings.database_url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        lines = [child.stdout.readline() for _ in range(dice.randint(1, 4))]
        time.sleep(dice.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        lines += child.stdout
        child.wait(60)
        child.stdout.close()
        acknowledged += [(line[0], int(line[1]), line[2]) for line in map(str.split, lines) if len(line) == 3]
    registry = Registry(settings, database, lambda: time.time() + 2 * 24 * 3600)
    registry.garbage.apply()  # two days later: nothing that a version needs may go
    assert len(acknowledged) > 6
    for name, number, digest in acknowledged:
        assert registry.versions.get(f"{name}:{number}").digest == digest
    needed: set[str] = set()
    for model in registry.models.list().items:
        versions = registry.versions.list(model.name).items
        assert [version.number for version in versions] == list(range(model.versions, 0, -1))
        for version in versions:
            manifest = msgspec.convert(version.manifest, Manifest)
            registry.blobs.materialize(manifest, tmp_path / "look" / version.digest)
            needed.update(file.sha256 for file in manifest.files)
    assert registry.stored() == needed
    assert registry.parts.list() == []


FULL = """
import os, sys, time
from pathlib import Path
from openmaas.core.errors import StorageFull
from openmaas.core.settings import Settings
from openmaas.store.database import open_database
from tests.integration.registry import Registry, digest, upload_request
home = Path(sys.argv[1])
filler = home / "filler"
filler.write_bytes(bytes(1_000_000))
settings = Settings(home=str(home), chunk_size=2**16)
registry = Registry(settings, open_database(settings), time.time)
kept = registry.push("kept", {"m": b"small"}).version
large = {"m": os.urandom(1_500_000)}
told = 0
for _ in range(3):
    try:
        registry.push("large", large)
    except StorageFull as error:
        assert "gc" in error.next_step
        told += 1
assert told == 3, told
assert registry.versions.get("kept") == kept  # reads go on
assert registry.models.list().total == 1
assert b"".join(registry.versions.read_file("kept", "m")[1]) == b"small"
filler.unlink()
result = registry.push("large", large)  # goes on where it stopped
assert result.created and result.version.number == 1
assert b"".join(registry.versions.read_file("large", "m")[1]) == large["m"]
more = {"m": os.urandom(1_500_000)}
try:
    registry.push("more", more)
except StorageFull:
    pass
else:
    raise AssertionError("a second one fits?")
registry.models.delete("large", actor="admin")  # deleting works on a full disk, and makes room
assert registry.garbage.apply().bytes >= 1_500_000
assert registry.push("more", more).created
print("done")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A small tmpfs in a namespace of its own, so that no right is needed and nothing outside sees it."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("unshare -Urm is not possible here")
    home = tmp_path / "home"
    home.mkdir()
    script = f'mount -t tmpfs -o size=2800k tmpfs "{home}" && exec "$0" -c "$1" "{home}"'
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, sys.executable, FULL],
        cwd=ROOT, capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert ran.stdout.strip() == "done", ran.stderr

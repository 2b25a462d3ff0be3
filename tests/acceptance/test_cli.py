"""The command line and the client as a person uses them, against the real program."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

import openmaas
from openmaas.core.errors import InvalidInput

from .conftest import Server

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, str(ROOT / "examples" / "demo.py")]


@pytest.fixture(scope="module")
def digits(server: Server) -> Server:
    """A server with a scikit-learn estimator deployed as `digits`."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    estimator = LogisticRegression(max_iter=200).fit(images[:300] / 16, labels[:300])
    with openmaas.Client(home=server.home) as client:
        client.push(estimator, name="digits", sample=images[:20] / 16)
        client.deploy("digits")
    return server


def _snippets(server: Server) -> tuple[str, str]:
    shown = server.run("deploy", "digits").stdout
    match = re.search(r"^curl\n(.*)^Python\n(.*)\Z", shown, re.MULTILINE | re.DOTALL)
    assert match is not None, shown
    return dedent(match[1]), dedent(match[2])


def test_what_deploy_prints_works(digits: Server) -> None:
    curl, python = _snippets(digits)
    environment = {**digits.environment, "NO_PROXY": "*"}
    answered = subprocess.run(["bash", "-euc", curl], env=environment, capture_output=True, text=True, timeout=180, check=True)
    assert '"outputs"' in answered.stdout, answered.stdout
    called = subprocess.run(
        [sys.executable, "-c", python], env=environment, capture_output=True, text=True, timeout=180, check=True
    )
    assert "probabilities" in called.stdout


@pytest.mark.parametrize(
    "words",
    [
        "ls",
        "ls digits",
        "show digits",
        "ps",
        "history digits",
        "logs digits",
        "status",
        "gc --dry-run",
        "approve",
        "alias digits",
    ],
)
def test_listings_give_json_and_a_table(digits: Server, words: str) -> None:
    digits.json(*words.split())
    assert digits.run(*words.split()).returncode == 0


def test_a_life_of_versions(digits: Server, dummy: Callable[..., Path]) -> None:
    run = digits.run
    run("push", str(dummy("life")), "--name", "life")
    run("push", str(dummy("life", factor=3.0)), "--name", "life")
    run("alias", "life:1", "champion")
    run("deploy", "life@champion")
    assert digits.client().predict("life", [1, 2])["Y"].tolist() == [[1.0, 2.0]]
    run("deploy", "life:2")
    assert digits.client().predict("life", [1, 2])["Y"].tolist() == [[3.0, 6.0]]
    run("rollback", "life")
    assert digits.client().predict("life", [1, 2])["Y"].tolist() == [[1.0, 2.0]]
    moves = digits.json("history", "life")
    assert [move["action"] for move in moves["deployments"]] == ["rollback", "deploy", "deploy"]
    refused = run("rm", "life", "--yes", check=False)
    assert refused.returncode == 1
    assert "next" in refused.stderr
    run("undeploy", "life")
    run("alias", "life@champion", "--remove")
    run("rm", "life:2", "--yes")
    assert [row["number"] for row in digits.json("ls", "life")["items"]] == [1]


@pytest.mark.parametrize(
    ("rows", "answers"),
    [("[1, 2]", 1), ("[[1, 2], [3, 4]]", 2), ('{"instances": [[1, 2]]}', 1), ("a,b\n1,2\n3,4\n5,6\n", 3)],
)
def test_predict_reads_rows_from_a_file(
    digits: Server, dummy: Callable[..., Path], tmp_path: Path, rows: str, answers: int
) -> None:
    client = digits.client()
    client.push(dummy("rows"), name="rows")
    client.deploy("rows")
    (tmp_path / "rows.txt").write_text(rows)
    answer = digits.json("predict", "rows", "--input", str(tmp_path / "rows.txt"))
    assert (answer["model"], answer["version"], answer["notes"]) == ("rows", 1, [])
    assert [list(row) for row in answer["predictions"]] == [["Y"]] * answers


async def test_the_asynchronous_client(digits: Server) -> None:
    async with openmaas.AsyncClient(home=digits.home) as client:
        version = await client.show("digits")
        assert version.number == 1
        answer = await client.predict("digits", np.zeros((3, 64)))
        assert answer["probabilities"].shape == (3, 10)
        assert "digits" in [model.name async for model in client.models()]
        with pytest.raises(InvalidInput):
            await client.predict("digits", np.zeros((3, 63)))


def test_threads_share_a_client(digits: Server) -> None:
    client = digits.client()

    def ask(rows: int) -> set[tuple[int, ...]]:
        return {client.predict("digits", np.full((rows, 64), 0.5))["probabilities"].shape for _ in range(20)}

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(1, 9))) == [{(rows, 10)} for rows in range(1, 9)]


def test_download_gives_the_files_of_the_manifest(digits: Server, tmp_path: Path) -> None:
    client = digits.client()
    folder = client.download("digits", tmp_path / "out")
    for entry in client.show("digits").manifest["files"]:
        assert hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert len(list(folder.iterdir())) == len(client.show("digits").manifest["files"])


# ── the demo ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def _run_demo(folder: Path, interrupt_at: str | None = None) -> tuple[int, str]:
    """The demo in a temporary folder of its own; Ctrl-C once it prints `interrupt_at`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENMAAS_")}
    process = subprocess.Popen(
        DEMO, env={**environment, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    written = ""
    for line in process.stdout:
        written += line
        if interrupt_at is not None and interrupt_at in line:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    process.stdout.close()
    return process.wait(120), written


def _left_in(folder: Path) -> list[Path]:
    """Without the machine's lock for measuring: it is nobody's own, and whoever removed it would let two measure at once."""
    return [path for path in folder.iterdir() if not path.name.startswith("openmaas-measuring-")]


def _processes_of(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"OPENMAAS_HOME={folder}".encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_the_demo_ends_well_and_leaves_nothing(short: Path) -> None:
    code, written = _run_demo(short)
    assert code == 0, written
    assert "all labels are the estimator's own" in written
    assert _left_in(short) == []
    assert _processes_of(short) == []


@pytest.mark.parametrize("moment", ["openmaas up --detach", "Deploy it"])
def test_an_interrupted_demo_leaves_nothing(short: Path, moment: str) -> None:
    code, written = _run_demo(short, interrupt_at=moment)
    assert code == 130, written
    assert _left_in(short) == []
    assert _processes_of(short) == []

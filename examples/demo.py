"""`make demo`: the life of a model in half a minute, on real data, with everything cleaned up behind it.

Trains a classifier of handwritten digits, starts a server in a folder of its own, pushes the model, deploys it, calls it
from Python and with curl, checks the answers against the estimator itself, and stops the server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.text import Text
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import openmaas

OPENMAAS = Path(sys.executable).with_name("openmaas")
START = 60.0  # seconds
console = Console(highlight=False)


def main() -> int:
    """Run all steps; whatever happens, nothing is left behind."""
    signal.signal(signal.SIGTERM, _interrupt)
    home = Path(tempfile.mkdtemp(prefix="openmaas-demo-", dir=_short_folder()))
    try:
        run_steps(home)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except openmaas.OpenMaaSError as error:
        say(f"The demo failed: {error}", "red")
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


def run_steps(home: Path) -> None:
    begun = time.monotonic()
    step("Train a classifier of handwritten digits (scikit-learn, 1,797 images of 8 × 8 pixels)")
    estimator, images, digits = train()
    with server(home), openmaas.Client(home=home) as client:
        step("Push the estimator as it is: converted to ONNX, and compared with its source")
        push(client, estimator, images)
        step("Deploy it: one process, ready when it has answered")
        deploy(client)
        step("Ask it, from Python and with curl, and hold the answers against the estimator")
        check(client, estimator, images, digits)
        curl(client, home, images[0])
        step("Look at it")
        show(home, "ls")
        show(home, "ps")
        with traffic(client, images):
            show(home, "top", "--once")
        step("Stop the server")
    say(f"Done in {time.monotonic() - begun:.0f} s; the server has stopped and its folder is gone.", "green")
    farewell()


# ── the steps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def train() -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """A fitted pipeline, and the images [N, 64] float32 and digits [N] that it has not seen."""
    images, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        images.astype(np.float32), digits, test_size=0.25, random_state=0, stratify=digits
    )
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(seen, seen_digits)
    say(f"{estimator.score(unseen, unseen_digits):.1%} of {len(unseen)} unseen images are read correctly")
    return estimator, unseen, unseen_digits


@contextmanager
def server(home: Path) -> Iterator[None]:
    """`openmaas up --detach` on free ports; `openmaas down` at the end."""
    step("Start a server: openmaas up --detach")
    os.environ.update(
        OPENMAAS_HOME=str(home),
        OPENMAAS_RUNTIME_DIR=str(home / "s"),
        OPENMAAS_HTTP_PORT=str(free_port()),
        OPENMAAS_CONTROL_PORT=str(free_port()),
    )
    for name in ("OPENMAAS_URL", "OPENMAAS_GATEWAY_URL", "OPENMAAS_API_KEY"):
        os.environ.pop(name, None)
    start = None
    try:
        with uninterrupted():
            # A session of its own: Ctrl-C reaches this program only, which then stops the server in order.
            start = subprocess.Popen([OPENMAAS, "up", "--detach"], start_new_session=True, stdout=subprocess.DEVNULL)
        if start.wait(START):
            raise openmaas.OpenMaaSError("The server did not start.", next_step="Its message is above.")
        say(f"ready: {openmaas.Client(home=home).server.gateway_url}")
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave the server behind
        if start is not None:
            start.wait(START)
            subprocess.run([OPENMAAS, "down"], check=False, start_new_session=True, stdout=subprocess.DEVNULL)


def push(client: openmaas.Client, estimator: Pipeline, images: np.ndarray) -> None:
    version = client.push(estimator, name="digits", sample=images[:64]).version
    say(f"{version.model}:{version.number}, {version.format} → {version.engine}, {version.size / 1000:.1f} kB")
    say(f"digest {version.digest}")
    parity: dict[str, Any] | None = version.manifest.get("parity")
    for comparison in (parity or {}).get("comparisons", ()):
        difference = comparison["max_abs_diff"]
        say(f"batch of {comparison['batch']}: largest difference {difference:.1e} in {comparison['output']}")


def deploy(client: openmaas.Client) -> None:
    begun = time.monotonic()
    say("the engines that can run it are being measured on this machine; the fastest that answers rightly will serve")
    info = client.deploy("digits")
    say(f"{info.name} serves {info.model}:{info.version} after {time.monotonic() - begun:.1f} s")
    if info.engine is not None:
        say(f"engine: {info.engine.name} ({info.engine.why})")


def check(client: openmaas.Client, estimator: Pipeline, images: np.ndarray, digits: np.ndarray) -> None:
    """All unseen images in one request; raises OpenMaaSError where the served answers differ from the estimator's."""
    begun = time.monotonic()
    label, *rest = client.predict("digits", images).values()
    milliseconds = (time.monotonic() - begun) * 1000
    if not np.array_equal(label, estimator.predict(images)):
        raise openmaas.OpenMaaSError("The served labels differ from the estimator's.")
    difference = max((float(np.abs(part - estimator.predict_proba(images)).max()) for part in rest), default=0.0)
    if difference > 1e-3:
        raise openmaas.OpenMaaSError(f"The served probabilities differ from the estimator's by {difference:.1e}.")
    say(f'client.predict("digits", images)   {len(images)} answers in {milliseconds:.0f} ms')
    say(f"all labels are the estimator's own, probabilities within {difference:.1e}; {np.mean(label == digits):.1%} are right")


def curl(client: openmaas.Client, home: Path, image: np.ndarray) -> None:
    """One image by KServe's V1 protocol. Runs where curl is installed, and is shown in any case."""
    body = json.dumps({"instances": [image.tolist()]})
    url = f"{client.server.gateway_url}/v1/models/digits:predict"
    say(f"curl {url} -H \"Authorization: Bearer $(cat {home}/admin.key)\" -d '{body[:40]} … ]]}}'")
    if shutil.which("curl") is None:
        return
    header = f"Authorization: Bearer {client.server.api_key}"
    answer = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", url, "-H", header, "-d", body], capture_output=True, text=True, check=False
    )
    say(answer.stdout[:100] + (" …" if len(answer.stdout) > 100 else "") or answer.stderr)
    if "predictions" not in answer.stdout:
        raise openmaas.OpenMaaSError("curl got no predictions.")


def show(home: Path, *words: str) -> None:
    console.print(Text(f"  $ openmaas {' '.join(words)}", style="dim"))
    environment = {**os.environ, "OPENMAAS_HOME": str(home), "COLUMNS": str(console.width - 4)}
    if console.is_terminal:
        environment["FORCE_COLOR"] = "1"
    shown = subprocess.run([OPENMAAS, *words], env=environment, capture_output=True, text=True, check=True).stdout
    console.print(Text.from_ansi("\n".join(f"    {line}" for line in shown.splitlines())), soft_wrap=True)
    console.print()


@contextmanager
def traffic(client: openmaas.Client, images: np.ndarray) -> Iterator[None]:
    """Four threads that ask for one image after the other, so that there is something to see."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            client.predict("digits", images[0])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def farewell() -> None:
    console.print(Rule("What to try next", style="dim"))
    console.print(
        "  source .venv/bin/activate\n"
        "  openmaas up --detach                      # a server of your own\n"
        "  openmaas push ./model.onnx --name mine    # a file or a folder\n"
        "  openmaas deploy mine                      # prints calls that work\n"
        "  openmaas top                              # live rates and latency\n"
        "  openmaas --help                           # the rest; docs/quickstart.md explains\n",
        markup=False,
    )


# ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def step(title: str) -> None:
    console.print(Text.assemble(("\n▸ ", "bold cyan"), (title, "bold")), soft_wrap=True)


def say(text: str, style: str = "") -> None:
    console.print(Text(f"  {text}", style=style), soft_wrap=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _short_folder() -> str:
    """The system's temporary folder; /tmp where that one's path is too long for the names of sockets."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 50 else "/tmp"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over: a server that is being started must be known to whoever stops it."""
    came: list[int] = []
    former = {number: signal.signal(number, lambda *which: came.append(which[0])) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

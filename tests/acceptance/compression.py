"""Small models that were really trained, and datasets of every kind, for tests of compression."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .conftest import Server

Array = NDArray[Any]
TRAIN = slice(0, 1200)
TEST = slice(1200, None)


@cache
def digits() -> tuple[Array, Array]:
    """Pictures, float32 [1797, 1, 8, 8] from 0 to 1, and what they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64)


def cnn_weights(seed: int, start: dict[str, Array] | None = None, epochs: int = 12) -> dict[str, Array]:
    """Of two convolutions, the first with batch norm, and a linear layer: 2,666 numbers, trained on TRAIN."""
    import torch
    from torch import nn

    torch.set_num_threads(1)  # two wait for each other more than they compute, on a busy machine twenty times as long
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    if start is not None:
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in start.items()}, strict=False)
    images, labels = (torch.from_numpy(part[TRAIN]) for part in digits())
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return {name: value.numpy() for name, value in net.state_dict().items() if value.ndim}


def save_cnn(path: Path, weights: dict[str, Array]) -> Path:
    names = ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    nodes = [
        helper.make_node("Conv", ["image", "0.weight", "0.bias"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *names], ["b"], name="norm"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("MaxPool", ["c"], ["d"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["d", "4.weight", "4.bias"], ["e"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["e"], ["f"], name="relu_2"),
        helper.make_node("MaxPool", ["f"], ["g"], name="pool_2", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["g"], ["h"], name="flatten"),
        helper.make_node("Gemm", ["h", "8.weight", "8.bias"], ["scores"], name="head", transB=1),
    ]
    return save(path, nodes, weights, {"image": ["N", 1, 8, 8]}, {"scores": ["N", 10]})


def save_mlp(path: Path, name: str, features: int, answers: int, seed: int = 0) -> Path:
    """One linear layer from `name` to `scores`, with weights that mean nothing."""
    weight = np.random.default_rng(seed).normal(size=(features, answers)).astype(np.float32)
    nodes = [helper.make_node("MatMul", [name, "weight"], ["scores"], name="linear")]
    return save(path, nodes, {"weight": weight}, {name: ["N", features]}, {"scores": ["N", answers]})


def save(
    path: Path, nodes: list[Any], weights: dict[str, Array], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]
) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


# ── datasets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def save_rows(path: Path, part: slice, **arrays: Array) -> Path:
    """Digits as npz: `image` and, unless others are given, `label`."""
    images, labels = digits()
    np.savez(path, allow_pickle=False, **(arrays or {"image": images[part], "label": labels[part]}))
    return path


@cache
def cancer() -> tuple[Array, Array]:
    from sklearn.datasets import load_breast_cancer

    rows, labels = load_breast_cancer(return_X_y=True)
    return rows.astype(np.float32), labels.astype(np.int64)


def save_table(path: Path, part: slice) -> Path:
    """Breast-cancer rows as CSV, JSON lines or Parquet, by the path's suffix: columns f0 to f29 and `target`."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    rows, labels = cancer()
    columns = {f"f{number}": rows[part, number].astype(np.float64) for number in range(rows.shape[1])} | {
        "target": labels[part]
    }
    table = pyarrow.table(columns)
    match path.suffix:
        case ".csv":
            pyarrow.csv.write_csv(table, path)
        case ".parquet":
            pyarrow.parquet.write_table(table, path)
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def save_pictures(folder: Path, part: slice) -> Path:
    """Digits as PNG files, a folder of each class."""
    from PIL import Image

    images, labels = digits()
    for number, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
        target = folder / str(label) / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).astype(np.uint8)).save(target)
    return folder


# ── a server with all of it ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class World:
    """A server with `digits:1` and `digits-train`, `digits-test`, and a folder for files."""

    server: Server
    folder: Path
    weights: dict[str, Array]

    def recipe(self, *steps: Any, seed: int = 0) -> Path:
        """As YAML that somebody might write."""
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump({"seed": seed, "steps": list(steps)}))
        return path

    def words(
        self, reference: str, *steps: Any, seed: int = 0, data: str = "digits-train", test: str = "digits-test"
    ) -> list[str]:
        """Of `openmaas optimize`, whose timing is short."""
        given = ["--data", data] if data else []
        given += ["--eval", test] if test else []
        return ["optimize", reference, "--recipe", str(self.recipe(*steps, seed=seed)), *given, "--seconds", "1"]

    def optimize(self, reference: str, *steps: Any, **options: Any) -> dict[str, Any]:
        """The job's result. A job that fails is an AssertionError with what was said."""
        done = self.server.run(*self.words(reference, *steps, **options), "--json", timeout=240)
        return dict(json.loads(done.stdout)["result"])

    def versions(self, model: str = "digits") -> list[str]:
        return sorted(f"{model}:{version.number}" for version in self.server.client().versions(model))

    def answers(self, deployment: str, name: str, rows: Array) -> dict[str, Array]:
        """Of a deployment to the rows, by its public door."""
        client = self.server.client()
        parts = [client.predict(deployment, {name: rows[start : start + 200]}) for start in range(0, len(rows), 200)]
        return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}

    def accuracy(self, deployment: str) -> float:
        """Of what is deployed, on the rows of `digits-test`."""
        images, labels = digits()
        found = self.answers(deployment, "image", images[TEST])["scores"]
        return float((found.argmax(1) == labels[TEST]).mean())

    def nothing_is_left(self) -> None:
        """Neither a job's folder nor a process of one."""
        until = time.monotonic() + 60
        while (left := self._left()) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, left

    def _left(self) -> list[str]:
        home = self.server.home
        files = [str(path) for folder in ("jobs", "run/jobs") for path in (home / folder).glob("*")]
        known = set(self.server.pids())
        return files + [f"process {pid}: {line}" for pid, line in processes_of(home).items() if pid not in known]


def processes_of(home: Path) -> dict[int, str]:
    """All processes that have this home in their environment, and their command lines."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"OPENMAAS_HOME={home}".encode() in environment and state != "Z" and "openmaas status" not in line:
                found[int(entry.name)] = line[:200]
    return found


def make_world(server: Server, folder: Path) -> World:
    weights = cnn_weights(0)
    client = server.client()
    client.push(save_cnn(folder / "digits.onnx", weights), name="digits")
    client.push_dataset(save_rows(folder / "digits-train.npz", TRAIN))
    client.push_dataset(save_rows(folder / "digits-test.npz", TEST))
    return World(server, folder, weights)

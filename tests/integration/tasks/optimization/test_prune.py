"""Pruning of a convolutional network that was trained on scikit-learn's digits and exported by torch, and of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from openmaas.core.recipes import Prune
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.passes import prune
from tests.unit.tasks.optimization.graph_models import bench, piece_of

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


class Digits:
    """A model of digits, the rows that it learnt, and those that it did not."""

    def __init__(self, model: onnx.ModelProto, training: Examples, images: Any, labels: Any) -> None:
        self.model, self.training, self._images, self._labels = model, training, images, labels

    def accuracy(self, model: onnx.ModelProto | Path) -> float:
        given = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"image": self._images})
        return float(np.mean(scores.argmax(1) == self._labels))


@pytest.fixture(scope="module")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(images))
    taught, kept = order[:1350], order[1350:]
    torch.manual_seed(0)
    layers = torch.nn
    network = layers.Sequential(
        layers.Conv2d(1, 32, 3, padding=1), layers.BatchNorm2d(32), layers.ReLU(),
        layers.Conv2d(32, 48, 3, padding=1), layers.BatchNorm2d(48), layers.ReLU(),
        layers.MaxPool2d(2), layers.Flatten(), layers.Linear(48 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    x, y = torch.from_numpy(images[taught]), torch.from_numpy(labels[taught])
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            layers.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    program = torch.export.export(network.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    model = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["image"]).model_proto
    training = Examples(
        inputs={"image": images[taught]}, truth=labels[taught].astype(np.int64), task="classification",
        classes=tuple("0123456789"), index=taught, digest="",
    )  # fmt: skip
    return Digits(model, training, images[kept], labels[kept])


def _pruned(tmp_path: Path, digits: Digits, **parameters: Any) -> Piece:
    step = Prune(**parameters)
    step.check()
    training = digits.training if step.needs_data else None
    return prune.run(piece_of(digits.model, tmp_path / "a"), step, bench(tmp_path, training=training))


pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter


def test_half_of_the_channels_go_at_hardly_a_loss(tmp_path: Path, digits: Digits) -> None:
    made = _pruned(tmp_path, digits, method="channels", amount=0.5, epochs=5)
    assert digits.accuracy(digits.model) >= 0.98
    assert digits.accuracy(made.path) >= 0.97
    assert made.facts["prune"]["parameters"]["after"] < made.facts["prune"]["parameters"]["before"] / 2.4
    assert made.path.stat().st_size < digits.model.ByteSize() / 2


@pytest.mark.parametrize("parameters", [{}, {"schedule": 2}, {"method": "l1"}, {"method": "layer"}, {"method": "n:m", "n": 1}])
def test_most_weights_go_and_stay_away_while_it_is_trained(tmp_path: Path, digits: Digits, parameters: dict[str, Any]) -> None:
    made = _pruned(tmp_path, digits, **{"amount": 0.75, "epochs": 3, **parameters})
    assert digits.accuracy(made.path) >= 0.96
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer}
    zeros = sum(int((array == 0).sum()) for array in arrays.values() if array.ndim > 1)
    assert zeros / sum(array.size for array in arrays.values() if array.ndim > 1) >= 0.74


def test_without_labels_it_is_trained_on_its_own_answers(tmp_path: Path, digits: Digits) -> None:
    unlabelled = Examples(inputs=digits.training.inputs, truth=None, task="agreement", index=digits.training.index, digest="")
    blind = Digits(digits.model, unlabelled, digits._images, digits._labels)
    made = _pruned(tmp_path, blind, method="channels", amount=0.5, epochs=5)
    assert made.facts["prune"]["trained_on"] == "its own earlier answers"
    assert digits.accuracy(made.path) >= 0.96


def test_of_an_encoder_the_layers_between_are_narrowed(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from openmaas.tasks.optimization.passes.prune.channels import prune_channels

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip

    class Pooled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(config, add_pooling_layer=False)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)

    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=32)}
    program = torch.export.export(Pooled().eval(), (ids, ids), dynamic_shapes=(axes, axes), strict=False)
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    made = prune_channels(piece_of(model, tmp_path / "a"), Prune(method="channels", amount=0.5), bench(tmp_path))
    narrowed = [layer["channels"] for layer in made.facts["prune"]["layers"] if layer["channels"][0] != layer["channels"][1]]
    assert narrowed == [[32, 16], [32, 16]]
    assert any("Reshape" in reason for reason in made.facts["prune"]["kept_whole"].values())

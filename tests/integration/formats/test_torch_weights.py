"""Weights without their class, and pickled modules: refused with what is in them and how to go on; nothing is run."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.formats.torch.weights import read_weights
from tests.integration.formats.conftest import Examine
from tests.integration.formats.torch_models import Convolutions, Perceptron

torch = pytest.importorskip("torch")


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["state dict", "checkpoint"])
def test_state_dict(save: Any, wrapped: bool, folder: Path, look: Examine) -> None:
    weights = Convolutions().state_dict()
    save({"epoch": 3, "model": weights} if wrapped else weights, folder / "model.pth")
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "weights_only"
    assert "9 tensors with 1,055 numbers" in caught.value.message
    assert f"{'model.' if wrapped else ''}features.0.weight float [6, 1, 3, 3]" in caught.value.message
    assert "The class that computes with them is missing" in caught.value.message
    assert "client.push(module" in str(caught.value.next_step)


def test_safetensors_alone(folder: Path, look: Examine) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(Perceptron().state_dict(), folder / "model.safetensors")
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "weights_only"
    assert "4 tensors with 131 numbers" in caught.value.message


@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
def test_pickled_module(save: Any, folder: Path, look: Examine) -> None:
    save(Perceptron(), folder / "model.pt2")  # whatever it is called
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "pickle_refused"
    assert "client.push(module" in str(caught.value.next_step)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
def test_hostile_state_dict(save: Any, folder: Path, tmp_path: Path, look: Examine) -> None:
    marker = tmp_path / "marker"
    save({**Perceptron().state_dict(), "more": Bomb(marker)}, folder / "model.pt")
    assert read_weights(folder / "model.pt") is None
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "pickle_refused"
    assert not marker.exists()


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}},
        {"w": {"dtype": "F32", "shape": "no", "data_offsets": [0, 8]}},
        {"w": [1]},
        {},
    ],
)
def test_lying_safetensors(header: Any, folder: Path, look: Examine) -> None:
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises((InvalidInput, Refused)):
        look()


def test_other_files_hold_no_weights(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"{", b"\x02" + bytes(7) + b"{}", b"\xff" * 20, bytes(9) + b"{")):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert not read_weights(path)

"""Packed ONNX files through the child process: examined, and refused where they lie."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.packed import pack
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.engines.openvino.model import OpenVinoModel
from tests.integration.formats.conftest import Examine
from tests.unit.formats import models
from tests.unit.formats.models import save, save_external


def packed(folder: Path, name: str = "model.onnx.xz") -> Path:
    save(models.linear(), folder, "plain")
    (folder / name).write_bytes(pack((folder / "plain").read_bytes()))
    return folder / name


def test_it_is_examined_and_served_as_it_is(folder: Path, look: Examine) -> None:
    path = packed(folder)
    plain = path.with_name("plain").rename(folder.parent / "plain.onnx")
    found = look()
    assert (found.format, found.entry, found.artifacts[0].entry) == ("onnx", path.name, path.name)
    assert found.batchable
    x = {"x": np.ones((2, 4), np.float32)}
    answers = OnnxSession(plain).session.run(None, x)[0]
    assert np.array_equal(OnnxSession(path).session.run(None, x)[0], answers)
    assert np.allclose(OpenVinoModel(path, "onnx").run(x)["y"], answers, atol=1e-6)


def test_one_that_is_cut_short_is_no_model(folder: Path, look: Examine) -> None:
    path = packed(folder)
    (folder / "plain").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OpenMaaSError) as refused:
        look()
    assert refused.value.status == 400


def test_a_bomb_ends_at_the_limit_of_the_examination(folder: Path, look: Examine) -> None:
    (folder / "model.onnx.xz").write_bytes(lzma.compress(b"\x08\x09" + bytes(300 << 20), preset=0))
    with pytest.raises((InvalidInput, Refused)):
        look(memory=256 << 20)


def test_tensors_in_other_files_are_refused(folder: Path, look: Examine) -> None:
    save_external(folder)
    plain = folder / "model.onnx"
    (folder / "model.onnx.xz").write_bytes(pack(plain.read_bytes()))
    plain.unlink()
    with pytest.raises(Refused, match="other files"):
        look()

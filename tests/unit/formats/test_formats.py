"""The seam itself: formats are found by entry point, the package is light, live objects find their format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.formats import Task, export
from openmaas.formats.base import format_named, formats
from openmaas.formats.description import FILE_NAME, Description, read_description
from openmaas.formats.dummy import DummyFormat


def test_the_installed_formats() -> None:
    assert {"dummy", "onnx", "sklearn"} <= set(formats())
    assert all(kind.name == name for name, kind in formats().items())


def test_an_unknown_format_lists_the_known() -> None:
    with pytest.raises(InvalidInput, match=f"'caffe' is not a format; installed are {', '.join(formats())}"):
        format_named("caffe")


def test_the_package_imports_nothing_heavy() -> None:
    heavy = ["numpy", "onnx", "onnxruntime", "sklearn", "yaml"]
    code = f"import sys, openmaas.formats; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_an_object_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        export(object(), None, tmp_path)
    assert "builtins.object" in caught.value.message
    assert "scikit-learn" in caught.value.message
    assert caught.value.next_step


def test_a_dummy_is_what_openmaas_yaml_says(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(
        "format: dummy\nbatchable: true\noptions: {factor: 3}\n"
        "signature: {inputs: [{name: x, datatype: FP32, shape: [-1]}], outputs: [{name: y, datatype: FP32, shape: [-1]}]}\n"
    )
    kind = DummyFormat()
    assert kind.find(tmp_path, [FILE_NAME]) == [FILE_NAME]
    task = Task(folder=tmp_path, output=tmp_path, description=read_description(tmp_path))
    found = kind.examine(task, FILE_NAME)
    assert (found.engine, found.batchable, found.options) == ("dummy", True, {"factor": 3})
    assert found.signature.inputs[0].name == "x"


def test_a_dummy_needs_a_signature(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="signature"):
        DummyFormat().examine(Task(folder=tmp_path, output=tmp_path, description=Description(format="dummy")), FILE_NAME)

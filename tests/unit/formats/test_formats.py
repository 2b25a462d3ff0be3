"""The seam itself: formats are found by entry point, the package is light, live objects find their format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.formats import Task, export
from openmaas.formats.base import Examined, format_named, formats
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


def test_a_dummy_that_generates(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(
        "format: dummy\noptions: {token_delay: 0.1}\n"
        "generator: {context: 128, vocabulary: 300, end: [2], tokenizer: tokenizer.json}\n"
    )

    def examine() -> Examined:
        return DummyFormat().examine(Task(folder=tmp_path, output=tmp_path, description=read_description(tmp_path)), FILE_NAME)

    with pytest.raises(InvalidInput, match=r"'tokenizer\.json' is not among the pushed files"):
        examine()
    (tmp_path / "tokenizer.json").write_text("{}")
    found = examine()
    assert found.generator is not None
    assert (found.engine, found.generator.context, found.options) == ("dummy-generator", 128, {"token_delay": 0.1})
    assert [artifact.kind for artifact in found.artifacts] == ["dummy-generator"]
    assert (found.signature.inputs[0].name, found.signature.outputs[0].name) == ("text_input", "text_output")
    (tmp_path / FILE_NAME).write_text(
        "format: dummy\nbatchable: true\ngenerator: {context: 8, vocabulary: 3, end: [], tokenizer: tokenizer.json}\n"
    )
    with pytest.raises(InvalidInput, match="'batchable' means nothing"):
        examine()

"""Hostile uploads: nothing of theirs runs, nothing is written outside, and each is answered with a clear refusal."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.formats.files import sha256_of
from tests.integration.formats.conftest import Examine
from tests.unit.formats import models
from tests.unit.formats.models import model, save, save_external, value
from tests.unit.formats.test_pickles import WRAPS, Evil


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.parametrize("wrap", WRAPS)
def test_no_pickle_is_loaded_however_it_is_packed(folder: Path, look: Examine, canary: Path, wrap: str) -> None:
    path = folder / "model.onnx"
    path.write_bytes(WRAPS[wrap](pickle.dumps(Evil(canary))))
    with pytest.raises(Refused, match="pickle") as caught:
        look()
    assert caught.value.code == "pickle_refused"
    assert f"openmaas approve {sha256_of(path)}" in (caught.value.next_step or "")
    assert not canary.exists()


def test_a_pickle_beside_a_good_model_is_refused_too(folder: Path, look: Examine, canary: Path) -> None:
    save(models.linear(), folder)
    (folder / "extra.dat").write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(Refused, match=r"'extra.dat' is a pickle"):
        look()
    assert not canary.exists()


def test_a_pickle_as_sample_is_refused(folder: Path, look: Examine, canary: Path) -> None:
    save(models.linear(), folder)
    array = np.array([Evil(canary)], dtype=object)
    np.save(folder / "sample.npy", array, allow_pickle=True)
    with pytest.raises(Refused, match="array of objects"):
        look(sample="sample.npy")
    assert not canary.exists()


def test_an_approved_pickle_is_only_loaded_where_it_is_the_model(folder: Path, look: Examine, canary: Path) -> None:
    """Beside an ONNX model it is one of two candidates, and neither is loaded."""
    save(models.linear(), folder)
    (folder / "extra.pkl").write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(InvalidInput, match="2 models in it"):
        look(approved=frozenset({sha256_of(folder / "extra.pkl")}))
    assert not canary.exists()


def test_modules_in_the_upload_are_not_imported(folder: Path, look: Examine, canary: Path) -> None:
    save(models.linear(), folder)
    for name in ("numpy", "onnx", "sitecustomize", "usercustomize", "msgspec"):
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    assert look().entry == "model.onnx"
    assert not canary.exists()


def test_the_environment_does_not_reach_the_child(
    folder: Path, look: Examine, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "sitecustomize.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "evil"))
    save(models.linear(), folder)
    assert look().batchable
    assert not canary.exists()


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "../secret.bin"])
def test_external_data_outside_is_refused(folder: Path, look: Examine, location: str) -> None:
    (folder.parent / "secret.bin").write_bytes(bytes(48))
    save_external(folder, location)
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "external_data"


@pytest.mark.parametrize("target", ["/etc/passwd", "weights.bin"])
def test_links_in_the_folder_are_refused(folder: Path, look: Examine, target: str) -> None:
    save_external(folder, "link.bin")
    (folder / "link.bin").symlink_to(target)
    with pytest.raises(InvalidInput, match=r"'link.bin' is a link"):
        look()


def test_hard_links_are_files_like_any_other(folder: Path, look: Examine, tmp_path: Path) -> None:
    os.link(save(models.linear(), tmp_path / "blobs"), folder / "model.onnx")
    assert look().batchable


@pytest.mark.parametrize("sample", ["../sample.npy", "/etc/passwd", "nothing.npy"])
def test_a_sample_outside_is_refused(folder: Path, look: Examine, sample: str) -> None:
    save(models.linear(), folder)
    with pytest.raises(InvalidInput):
        look(sample=sample)


def test_a_yaml_bomb(folder: Path, look: Examine) -> None:
    save(models.linear(), folder)
    lines = ["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    (folder / "openmaas.yaml").write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match="aliases"):
        look(timeout=20.0)


def test_yaml_tags_build_nothing(folder: Path, look: Examine, canary: Path) -> None:
    save(models.linear(), folder)
    (folder / "openmaas.yaml").write_text(f"metadata: !!python/object/apply:os.system ['touch {canary}']")
    with pytest.raises(InvalidInput, match="constructor"):
        look()
    assert not canary.exists()


@pytest.mark.parametrize("shape", [(1 << 40,), (None, 1 << 33), (1 << 31, 1 << 31)])
def test_giant_declared_shapes_are_not_made(folder: Path, look: Examine, shape: Any) -> None:
    save(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", shape)], [value("y", shape)]), folder)
    found = look(timeout=20.0)
    assert not found.batchable
    assert found.batching.startswith("Not measured")


def test_a_model_that_asks_for_all_memory_is_refused(folder: Path, look: Examine) -> None:
    huge = models.numpy_helper.from_array(np.array([1 << 35]), "huge")
    fill = helper.make_node("ConstantOfShape", ["huge"], ["z"])
    steps = [fill, helper.make_node("ReduceSum", ["z"], ["s"]), helper.make_node("Add", ["x", "s"], ["y"])]
    save(model(steps, [value("x", [None, 1])], [value("y", None)], [huge]), folder)
    with pytest.raises(Refused) as caught:
        look(timeout=30.0, memory=1 << 30)
    assert caught.value.code in ("model_not_runnable", "examine_memory")


def endless() -> Any:
    """A model whose loop takes practically for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", ["n", 1])],
        [value("go_on", [], TensorProto.BOOL), value("w", ["n", 1])],
    )
    constants = [
        models.numpy_helper.from_array(np.array(1 << 60), "times"),
        models.numpy_helper.from_array(np.array(True), "true"),
    ]
    loop = helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body)
    return model([loop], [value("x", ["n", 1])], [value("y", ["n", 1])], constants)


def test_a_model_that_never_ends_is_killed(folder: Path, look: Examine) -> None:
    save(endless(), folder)
    with pytest.raises(Refused, match="longer than 3 s") as caught:
        look(timeout=3.0)
    assert caught.value.code == "examine_timeout"


def test_random_bytes_under_every_name(folder: Path, look: Examine) -> None:
    noise = random.Random(5)
    for name in ("a.onnx", "b.skops", "c.npz", "d.pkl"):
        (folder / name).write_bytes(noise.randbytes(5000))
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code == "no_model"


def test_damaged_models_are_refused_or_run(folder: Path, look: Examine) -> None:
    """Bytes flipped anywhere: an answer or one of our errors, never a crash of the caller."""
    whole = models.linear().SerializeToString()
    noise = random.Random(11)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(3):
            data[noise.randrange(len(data))] = noise.randrange(256)
        (folder / "model.onnx").write_bytes(bytes(data))
        try:
            assert look().format == "onnx"
        except OpenMaaSError as error:
            assert 400 <= error.status < 500
            assert error.code != "examine_failed"


def hostile_skops(path: Path, root: dict[str, Any], protocol: int = 2) -> None:
    """A skops file whose root is this node."""
    schema = {"protocol": protocol, "_skops_version": "0.16.0", **root}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))


def node(module: str, name: str, loader: str, **more: Any) -> dict[str, Any]:
    return {"__module__": module, "__class__": name, "__loader__": loader, **more}


def nodes(canary: Path) -> dict[str, dict[str, Any]]:
    """Every kind of node that could build something, asked to build what runs a command."""
    text = node("builtins", "str", "JsonNode", content=json.dumps(f"touch {canary}"), is_json=True)
    arguments = node("builtins", "tuple", "TupleNode", content=[text])
    nothing = node("builtins", "dict", "DictNode", content={}, key_types=node("builtins", "list", "ListNode", content=[]))
    system = node("posix", "system", "FunctionNode")
    partial = {"func": system, "args": arguments, "kwds": nothing, "namespace": nothing}
    return {
        "constructor": node("subprocess", "Popen", "ConstructorFromReduceNode", content=arguments),
        "function": system,
        "type": node("posix", "system", "TypeNode"),
        "object": node("subprocess", "Popen", "ObjectNode", content=nothing),
        "partial": node("functools", "partial", "PartialNode", content=partial),
        "operator": node("operator", "methodcaller", "OperatorFuncNode", attrs=arguments),
        "method": node("builtins", "str", "MethodNode", content={"func": "format", "obj": text}),
    }


@pytest.mark.parametrize("kind", ["constructor", "partial", "method"])
def test_hostile_types_in_a_skops_file_are_named_and_not_built(folder: Path, look: Examine, canary: Path, kind: str) -> None:
    pytest.importorskip("skops")
    hostile_skops(folder / "model.skops", nodes(canary)[kind])
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "untrusted_type"
    assert not canary.exists()


def test_no_form_of_skops_builds_them(tmp_path: Path, canary: Path) -> None:
    pytest.importorskip("skops")
    from openmaas.engines.sklearn.estimator import load_skops

    for protocol in (-1, 0, 1, 2, 99):
        for hostile in nodes(canary).values():
            hostile_skops(tmp_path / "model.skops", hostile, protocol)
            with pytest.raises(OpenMaaSError):
                load_skops(tmp_path / "model.skops")
    assert not canary.exists()


def test_a_vectorizer_that_reads_files_is_refused(folder: Path, look: Examine, tmp_path: Path) -> None:
    skops_io = pytest.importorskip("skops.io")
    from sklearn.feature_extraction.text import CountVectorizer

    (tmp_path / "secret").write_text("secret words")
    skops_io.dump(CountVectorizer(input="filename").fit([str(tmp_path / "secret")]), folder / "model.skops")
    with pytest.raises(Refused, match="reads files") as caught:
        look()
    assert caught.value.code == "reads_files"


def test_a_skops_file_does_not_choose_what_is_trusted(folder: Path, look: Examine, canary: Path) -> None:
    pytest.importorskip("skops")
    hostile_skops(folder / "model.skops", nodes(canary)["function"] | {"trusted": ["posix.system"], "_trusted": True})
    with pytest.raises(Refused, match=r"posix\.system"):
        look()


def test_a_skops_file_with_a_broken_schema(tmp_path: Path) -> None:
    pytest.importorskip("skops")
    from openmaas.engines.sklearn.estimator import load_skops

    for schema in (b"", b"{}", b"[]", b"null", b"{" * 10_000, b'{"__loader__": "NoSuch"}', b'{"a": ' * 50_000):
        with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
            archive.writestr("schema.json", schema)
        with pytest.raises(InvalidInput, match="cannot be read"):
            load_skops(tmp_path / "model.skops")


def test_a_skops_file_that_is_a_zip_bomb(folder: Path, look: Examine) -> None:
    pytest.importorskip("skops")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1))
    array = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode", "type": "numpy", "file": "1.npy"}
    with zipfile.ZipFile(folder / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps({"protocol": 0, "_skops_version": "0.16.0", **array}))
        with archive.open("1.npy", "w", force_zip64=True) as member:
            for _ in range(15):
                member.write(bytes(50 << 20))
    with pytest.raises(OpenMaaSError) as caught:
        look(memory=600 << 20)
    assert caught.value.code == "examine_memory"

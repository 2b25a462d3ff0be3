"""Exported programs (.pt2): what may be loaded is copied out of the archive; nothing else of it ever reaches PyTorch.

torch.export.load trusts its file: it unpickles sample inputs and objects, loads compiled libraries, evaluates symbolic shapes
and guards as Python, imports what a tree's description names, and writes names into source code that it runs. So the
program's JSON is read here against a list of what each of its strings may be, all that only serves debugging is left out, the
weights are copied as bytes, and PyTorch is given that copy.
"""

from __future__ import annotations

import ast
import json
import math
import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from openmaas.core.errors import EngineFailed, OpenMaaSError, Refused
from openmaas.engines.torch.archive import Archive
from openmaas.engines.torch.script import FORBIDDEN, reason

SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_PROGRAM = "models/model.json"
_PAYLOADS = (
    ("data/weights/", "model_weights_config.json", "weight_"),
    ("data/constants/", "model_constants_config.json", "tensor_"),
)
_COPIED = ("archive_format", "archive_version", ".data/version", "byteorder")
_MAX_JSON = 256 << 20
_EMPTIED: dict[str, Any] = {"metadata": {}, "guards_code": [], "treespec_namedtuple_fields": {}}
_REFUSED = {"as_custom_obj": "an object of its author's own class", "custom_obj": "an object of its author's own class"}

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DOTTED = re.compile(r"[\w.@]*", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.(?:aten|prims|quantized_decomposed)\.(\w+)\.\w+", re.ASCII)
_ARITHMETIC = re.compile(
    r"_operator\.(?:add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|lshift|rshift)"
    r"|math\.(?:ceil|floor|trunc|sqrt|cos|sin|tan|log|exp)"
    r"|torch\.(?:sym_(?:max|min|int|float|not|ite|sum|sqrt)|_sym_\w+)"
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|scan|associative_scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_SYMPY = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|"
    r"LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|Abs|floor|ceiling|true|false|oo|FloorDiv|ModularIndexing|"
    r"Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|"
    r"IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|One|Zero|NegativeOne|Half|"
    r"BooleanTrue|BooleanFalse"
    r"|[a-z]+\d+"
)
_EXPRESSION = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop,
)  # fmt: skip
_CONTAINERS = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})


def load_exported(path: Path) -> Any:
    """The torch.export.ExportedProgram, without its sample inputs. Raises Refused, EngineFailed."""
    import torch

    with Archive(path) as archive, tempfile.TemporaryFile() as copy:
        write_clean(archive, copy)
        copy.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.load(copy)
        except OpenMaaSError:
            raise
        except Exception as error:
            raise EngineFailed(f"torch cannot load the exported program: {reason(error)}", code="load_failed") from None


def write_clean(archive: Archive, target: BinaryIO) -> None:
    """Write what may be loaded of an archive as one of its own; the same program gives the same bytes. Raises Refused."""
    _check_members(archive)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for folder, configuration, prefix in _PAYLOADS:
            for name in _write_payloads(archive, copy, folder, configuration, prefix):
                _copy(archive, copy, name)
        _write(copy, _PROGRAM, json.dumps(_clean(_read_json(archive, _PROGRAM))).encode())
        _write(copy, SAMPLE_INPUTS, b"")
        for name in _COPIED:
            _write(copy, name, archive.read(name))


def _check_members(archive: Archive) -> None:
    names = archive.members
    if any(name.startswith("data/aotinductor/") for name in names):
        raise _unsafe("holds compiled machine code")
    if "data/weights/model.pt" in names or "data/constants/model.pt" in names:
        raise Refused(
            "The .pt2 file was written by an older PyTorch, which pickled the weights.",
            code="old_format",
            next_step="Load it with that PyTorch, and save it again with torch.export.save of 2.9 or newer.",
        )
    if [name for name in names if name.startswith("models/")] != [_PROGRAM]:
        raise _unsafe("does not hold exactly one program called 'model'")
    if archive.read("archive_format") != b"pt2" or archive.read("byteorder") != b"little":
        raise _unsafe("has another format or byte order than PyTorch's archives on this machine")


def _read_json(archive: Archive, name: str) -> Any:
    if archive.size(name) > _MAX_JSON:
        raise _unsafe(f"has {archive.size(name)} bytes of {name}, at most {_MAX_JSON} are read")
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError):
        raise _unsafe(f"has a {name} that is no JSON") from None


# ── weights and constants ────────────────────────────────────────────────────────────────────────────────────────────


def _write_payloads(archive: Archive, copy: zipfile.ZipFile, folder: str, configuration: str, prefix: str) -> list[str]:
    """Write which tensor lies where; the members that hold the tensors, each once."""
    plan = _read_json(archive, folder + configuration)
    entries = plan.get("config") if isinstance(plan, dict) else None
    if not isinstance(entries, dict):
        raise _unsafe(f"has a {configuration} of another form")
    paths: dict[str, None] = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not _DOTTED.fullmatch(name):
            raise _unsafe(f"has a {configuration} of another form")
        path = entry.get("path_name")
        if entry.get("use_pickle") is not False or not isinstance(path, str) or not re.fullmatch(rf"{prefix}\d+", path):
            raise _unsafe(f"keeps {name[:80]!r} as a pickled object")
        _check_size(name, entry.get("tensor_meta"), archive.size(folder + path))
        paths[folder + path] = None
    _write(copy, folder + configuration, json.dumps(_clean_value(plan, "", keys=_DOTTED)).encode())
    return list(paths)


def _check_size(name: str, meta: Any, size: int) -> None:
    """An empty member would be filled up with zeros, as many as the file asks for."""
    try:
        count = math.prod(axis["as_int"] for axis in meta["sizes"])
    except (TypeError, KeyError):
        raise _unsafe(f"describes the tensor {name[:80]!r} wrongly") from None
    if size < 0 or (size == 0 and count != 0):
        raise _unsafe(f"lacks the data of {name[:80]!r}")


def _copy(archive: Archive, copy: zipfile.ZipFile, name: str) -> None:
    info = zipfile.ZipInfo(f"model/{name}")
    info.file_size = archive.size(name)
    try:
        with archive.open(name) as source, copy.open(info, "w") as target:
            shutil.copyfileobj(source, target, 4 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise _unsafe(f"has damaged data in {name!r}") from None


def _write(copy: zipfile.ZipFile, name: str, data: bytes) -> None:
    copy.writestr(zipfile.ZipInfo(f"model/{name}"), data)


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _clean(program: Any) -> Any:
    try:
        graph = program["graph_module"]
        constants = [spec["constant_input"] for spec in graph["signature"]["input_specs"] if "constant_input" in spec]
        texts = [item for item in (*graph["graph"]["inputs"], *(item["value"] for item in constants)) if "as_string" in item]
    except (KeyError, TypeError):
        raise _unsafe("holds a program of another form") from None
    if texts:
        raise _unsafe("takes text as an input")
    try:
        return _clean_value(program, "")
    except RecursionError:
        raise _unsafe("is nested too deeply") from None


def _clean_value(value: Any, key: str, keys: re.Pattern[str] = _IDENTIFIER) -> Any:
    """The value without what only serves debugging. `key` is the nearest name that it stands under."""
    if isinstance(value, dict):
        return {name: _clean_entry(name, item, keys) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean_value(item, key, keys) for item in value]
    if isinstance(value, str) and not _TEXTS.get(key, _never)(value):
        raise _unsafe(f"has {value[:80]!r} where it names {key or 'something'!r}")
    return value


def _clean_entry(name: str, item: Any, keys: re.Pattern[str]) -> Any:
    if name in _REFUSED:
        raise _unsafe(f"holds {_REFUSED[name]}")
    if not keys.fullmatch(name):
        raise _unsafe(f"has the key {name[:80]!r}")
    return _EMPTIED[name] if name in _EMPTIED else _clean_value(item, name, keys)


def _never(_text: str) -> bool:
    return False


def _is_name(text: str) -> bool:
    return not text or _IDENTIFIER.fullmatch(text) is not None


def _is_dotted(text: str) -> bool:
    return _DOTTED.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    found = _OPERATOR.fullmatch(text)
    return found[1] not in FORBIDDEN if found else _ARITHMETIC.fullmatch(text) is not None


def _is_expression(text: str) -> bool:
    """Whether it is made of symbols, numbers and known functions only: it is going to be evaluated."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(text) < 100_000 and all(_is_part(node) for node in ast.walk(tree))


def _is_part(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Name):
        return _SYMPY.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"[a-z]+\d+|-?[\d.]+(?:e[-+]?\d+)?", node.value) is not None
    return isinstance(node, _EXPRESSION)


def _is_tree(text: str) -> bool:
    """Whether it describes tuples, lists and dicts with names as keys: other types would be imported to be found."""
    try:
        version, root = json.loads(text)
        return version == 1 and _is_branch(root)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_branch(branch: Any) -> bool:
    kind, context = branch["type"], branch["context"]
    names = json.loads(context) if context is not None else None
    plain = names is None or (isinstance(names, list) and all(isinstance(name, str) and _is_name(name) for name in names))
    return (kind is None or kind in _CONTAINERS) and plain and all(map(_is_branch, branch["children_spec"]))


def _is_number(text: str) -> bool:
    return text in ("Infinity", "-Infinity", "NaN")


_TEXTS: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("name", "as_name", "forward_arg_names"), _is_name),
    **dict.fromkeys(
        ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn", "path_name", "verifiers"),
        _is_dotted,
    ),
    **dict.fromkeys(("target", "as_operator"), _is_operator),
    **dict.fromkeys(("as_float", "as_floats", "as_float_lists", "real", "imag"), _is_number),
    **dict.fromkeys(("as_string", "as_strings", "torch_version"), lambda text: len(text) < 10_000),
    **dict.fromkeys(("in_spec", "out_spec"), _is_tree),
    "expr_str": _is_expression,
    "type": lambda text: text == "cpu",
}
"""What each string of a program may be, by the name that it stands under. A string under another name is refused."""


def _unsafe(what: str) -> Refused:
    return Refused(
        f"The .pt2 file {what}; only programs of PyTorch's own operators on the CPU, with plain tensors, are loaded.",
        code="unsafe_model",
        next_step="Export the module on the CPU with torch.export.export, and save it with torch.export.save.",
    )

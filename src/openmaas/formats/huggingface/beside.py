"""Which files of a folder a push can do without: the same weights for other tools, and code that is never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from openmaas.core.errors import OpenMaaSError
from openmaas.formats.description import FILE_NAME
from openmaas.formats.huggingface.folder import MODULES
from openmaas.formats.huggingface.weights import read_json, weight_files

_OTHER_FORMS = frozenset(
    {
        ".bin", ".ckpt", ".gguf", ".h5", ".mlmodel", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pb", ".pkl", ".pt", ".pth",
        ".safetensors", ".tflite",
    }
)  # fmt: skip
_OTHER_FOLDERS = frozenset({"coreml", "onnx", "openvino", "__pycache__"})
_CODE = frozenset({".py", ".pyc", ".so"})


def idle_files(folder: Path, entry: str, files: Sequence[str]) -> list[str]:
    """Those of `files` beside and below the entry that are neither read at push nor loaded later.

    Code is among them only where the configuration does not name any: a model that needs it is to be refused, not maimed.
    """
    base = PurePosixPath(entry).parent
    try:
        needed = {(base / name).as_posix() for name in weight_files(folder / base)}
    except OpenMaaSError:
        return []
    if not needed:
        return []
    needs_code = _names_code(folder, entry)
    return [file for file in files if file not in needed and _is_idle(PurePosixPath(file), needs_code)]


def _is_idle(file: PurePosixPath, needs_code: bool) -> bool:
    if file.name == FILE_NAME:
        return False
    hidden = any(part.startswith(".") for part in file.parts)
    other = bool(_OTHER_FOLDERS & set(file.parts[:-1])) or file.suffix.lower() in _OTHER_FORMS
    return hidden or other or (file.suffix in _CODE and not needs_code)


def _names_code(folder: Path, entry: str) -> bool:
    base = (folder / entry).parent
    try:
        configs = [read_json(path) for path in (folder / entry, base / "tokenizer_config.json") if path.is_file()]
    except OpenMaaSError:
        return True
    modules = base / MODULES
    foreign = modules.is_file() and b'"sentence_transformers.' not in modules.read_bytes()
    return foreign or any(config.get("auto_map") for config in configs)

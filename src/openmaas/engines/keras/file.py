"""A .keras or .h5 file read as data: its configuration, and whether its weights lie in the file itself. Nothing is built."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused

Kind = Literal["keras", "h5"]
_CONFIGURATION, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_CONFIGURATION = 64 << 20
_MAX_OBJECTS = 1_000_000
_MAX_EXPANSION = 100
"""How many times larger than what is stored a part may become: Keras stores its weights uncompressed."""
_SLACK = 1 << 20
_HDF5 = b"\x89HDF\r\n\x1a\n"


def kind_of(path: Path) -> Kind | None:
    """Told by content: a zip archive with Keras' members, or HDF5 from the first byte on. Nothing is loaded."""
    with path.open("rb") as file:
        start = file.read(8)
        if start == _HDF5:
            return "h5"
        if start[:4] != b"PK\x03\x04":
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                return "keras" if {_CONFIGURATION, _METADATA} <= set(archive.namelist()) else None
        except (zipfile.BadZipFile, OSError, ValueError):
            return None


def read_configuration(path: Path) -> Any:
    """The model's configuration as JSON has it, after the rest of the file was found to be sound.

    Raises InvalidInput for a damaged file or one without a model, Refused for weights that lie elsewhere and for bombs.
    """
    try:
        return _read_archive(path) if kind_of(path) == "keras" else _read_hdf5(path)
    except (OpenMaaSError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidInput(f"The Keras file is damaged: {said}.", code="damaged") from None


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        for name in _checked_members(archive):
            information = archive.getinfo(name)
            _check_expansion(name, information.file_size, information.compress_size)
        if archive.getinfo(_CONFIGURATION).file_size > _MAX_CONFIGURATION:
            raise Refused(f"Its {_CONFIGURATION} has more than {_MAX_CONFIGURATION} bytes.", code="damaged")
        _check_hdf5(io.BytesIO(archive.read(_WEIGHTS)))
        return _json(archive.read(_CONFIGURATION))


def _checked_members(archive: zipfile.ZipFile) -> list[str]:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise Refused("The Keras file holds two members of one name.", code="damaged")
    if assets := [name for name in names if name.startswith("assets/") and not name.endswith("/")]:
        raise Refused(
            f"The Keras file holds files that a layer reads ({assets[0][:80]!r}): a vocabulary, or something of its own.",
            code="reads_files",
            next_step="Leave the preprocessing of text out of the model, and push the rest.",
        )
    known = [name for name in names if name in (_CONFIGURATION, _METADATA, _WEIGHTS)]
    if other := [name for name in names if name not in known and not name.endswith("/")]:
        raise InvalidInput(
            f"The Keras file holds {other[0][:80]!r}, which no Keras file does.",
            code="damaged",
            next_step="Save the model again, in one file: model.save('model.keras').",
        )
    if _WEIGHTS not in known:
        raise InvalidInput(f"The Keras file holds no {_WEIGHTS}.", code="damaged")
    return known


def _read_hdf5(path: Path) -> Any:
    import h5py

    with path.open("rb") as file:
        _check_hdf5(file)
        file.seek(0)
        with h5py.File(file, "r") as content:
            configuration = content.attrs.get("model_config")
    if configuration is None:
        raise InvalidInput(
            "The HDF5 file holds no Keras model: it may be weights alone, which tell nothing of their layers.",
            code="no_model",
            next_step="Save the whole model: model.save('model.keras').",
        )
    if len(configuration) > _MAX_CONFIGURATION:
        raise Refused(f"Its configuration has more than {_MAX_CONFIGURATION} bytes.", code="damaged")
    return _json(configuration)


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise InvalidInput("The Keras configuration is nested too deeply.", code="damaged") from None


def _check_hdf5(file: BinaryIO) -> None:
    """Raises Refused where the weights lie in other files, or claim to be far larger than what is stored."""
    import h5py

    with h5py.File(file, "r") as content:
        waiting: list[Any] = [content]
        for _ in range(_MAX_OBJECTS):
            if not waiting:
                return
            group = waiting.pop()
            for name in group:
                item = _own(group, name)
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                elif isinstance(item, h5py.Dataset):
                    _check_dataset(item)
    raise Refused(f"The HDF5 file holds more than {_MAX_OBJECTS} groups.", code="damaged")


def _own(group: Any, name: str) -> Any:
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refused(f"{name[:80]!r} in the HDF5 file is a link to somewhere else.", code="external_data")
    return group[name]


def _check_dataset(dataset: Any) -> None:
    name = str(dataset.name)[:120]
    if dataset.external or dataset.is_virtual:
        raise Refused(
            f"The HDF5 dataset {name!r} keeps its data in another file.",
            code="external_data",
            next_step="Save the model again, in one file: model.save('model.keras').",
        )
    if dataset.shape is not None:
        _check_expansion(name, math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size())


def _check_expansion(name: str, size: int, stored: int) -> None:
    if size > _MAX_EXPANSION * stored + _SLACK:
        raise Refused(
            f"{name!r} claims to have {size} bytes and stores {stored}.", code="damaged", next_step="Save the model again."
        )

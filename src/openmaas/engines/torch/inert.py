"""PyTorch's pickles read without running any of what they name: every class and function is only written down.

What is allowed to be named is a list of ours. So a pickle that names anything else is not read at all, and one that names
nothing else can be summarised, and its tensors held against the bytes that are there for them.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

_ITEM_SIZES = {
    "Byte": 1, "Char": 1, "Bool": 1, "QInt8": 1, "QUInt8": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4,
    "QInt32": 4, "Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1,
}  # fmt: skip
_STORAGE = re.compile(rf"torch(?:\.storage)?\.({'|'.join(_ITEM_SIZES)})Storage")
_TENSORS = re.compile(
    r"collections\.OrderedDict|torch\.(?:Size|device)|torch\.(?:float|int|uint|bfloat|complex)\d+|torch\.bool"
    r"|torch\._utils\._rebuild_(?:tensor|tensor_v2|tensor_v3|parameter|qtensor)|torch\.per_(?:tensor|channel)_affine"
    r"|torch\.Tensor|torch\.nn\.parameter\.Parameter|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|torch\._export\.serde\.serialize\._reconstruct_fake_tensor"
)
_SCRIPT = re.compile(
    r"__torch__(?:\.\w+)+|torch\.jit\._pickle\.(?:build_\w+list|build_tensor_from_id|restore_type_tag)"
    r"|torch\._utils\._rebuild_meta_tensor_no_storage"
)
_REBUILDS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")


class NotInert(ValueError):
    """The pickle names something that is not on the list, or is damaged."""


class Named:
    """What a pickle names, or the result of calling it, with the arguments and the state that it would have been given."""

    name: ClassVar[str] = ""

    def __new__(cls, *arguments: Any) -> Named:
        self = object.__new__(cls)
        self.arguments = arguments
        self.state = None
        return self

    arguments: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Storage:
    """Bytes that lie beside the pickle: their key there, how many elements of what size."""

    def __init__(self, identity: Any) -> None:
        try:
            _, kind, key, _, count, *_ = identity
            found = _STORAGE.fullmatch(kind.name)
            assert found is not None
            assert isinstance(key, str)
            assert type(count) is int
        except (TypeError, ValueError, AttributeError, AssertionError):
            raise NotInert("a storage is described wrongly") from None
        self.key, self.count, self.item = key, count, found[1]

    @property
    def size(self) -> int:
        return self.count * _ITEM_SIZES[self.item]


class Pickled:
    """What was read: `value`, and every storage and call that was named on the way."""

    def __init__(self, value: Any, storages: list[Storage], calls: list[Named]) -> None:
        self.value, self.storages, self._calls = value, storages, calls

    def tensors(self) -> Iterator[tuple[Storage, int, tuple[int, ...], tuple[int, ...]]]:
        """Storage, offset, sizes and strides of each tensor, in elements. Raises NotInert where they are no numbers."""
        for call in self._calls:
            if call.name.rpartition(".")[2] in _REBUILDS:
                yield _tensor(call)


def is_tensor(value: Any) -> bool:
    return isinstance(value, Named) and value.name.startswith("torch._utils._rebuild_")


def shape_of(tensor: Named) -> tuple[str, tuple[int, ...]]:
    """A tensor's element type, as PyTorch's storages are called, and its sizes."""
    while tensor.name.endswith("._rebuild_parameter"):
        tensor = tensor.arguments[0]
    storage, _, sizes, _ = _tensor(tensor)
    return storage.item, sizes


def _tensor(call: Named) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
    storage, offset, sizes, strides = call.arguments[:4] if len(call.arguments) >= 4 else (None,) * 4
    numbers = (*sizes, *strides) if isinstance(sizes, tuple) and isinstance(strides, tuple) else (None,)
    if not isinstance(storage, Storage) or not all(type(number) is int for number in (offset, *numbers)):
        raise NotInert("a tensor is described wrongly")
    return storage, offset, sizes, strides


def read_tensors(data: bytes) -> Pickled:
    """A pickle of tensors in tuples, lists and dicts: sample inputs, a state dict. Raises NotInert."""
    return _read(data, lambda name: bool(_TENSORS.fullmatch(name) or _STORAGE.fullmatch(name)))


def read_script(data: bytes) -> Pickled:
    """A pickle of TorchScript's: objects of the archive's own classes too. Raises NotInert."""
    return _read(data, lambda name: any(allowed.fullmatch(name) for allowed in (_SCRIPT, _TENSORS, _STORAGE)))


def read_legacy(data: io.BufferedIOBase | io.BytesIO) -> Pickled:
    """What torch.save wrote before it used zip archives: magic number, protocol, system, then the value. Raises NotInert."""
    for _ in range(3):
        _load(_Reader(data, lambda _: False))
    reader = _Reader(data, lambda name: bool(_TENSORS.fullmatch(name) or _STORAGE.fullmatch(name)))
    return Pickled(_load(reader), reader.storages, reader.calls)


def fits(pickled: Pickled, size_of: Callable[[str], int]) -> bool:
    """Whether every tensor lies within its storage, and every storage within the bytes that are there for it."""
    try:
        enough = all(0 <= storage.size <= max(size_of(storage.key), 0) for storage in pickled.storages)
        return enough and all(_lies_within(*tensor) for tensor in pickled.tensors())
    except NotInert:
        return False


def _lies_within(storage: Storage, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if len(sizes) != len(strides) or min((offset, *sizes, *strides)) < 0:
        return False
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return math.prod(sizes) == 0 or offset + last < storage.count


def _read(data: bytes, allowed: Callable[[str], bool]) -> Pickled:
    stream = io.BytesIO(data)
    reader = _Reader(stream, allowed)
    value = _load(reader)
    if stream.read(1):
        raise NotInert("something lies behind the pickle")
    return Pickled(value, reader.storages, reader.calls)


def _load(reader: _Reader) -> Any:
    try:
        return reader.load()
    except NotInert:
        raise
    except Exception as error:
        raise NotInert(f"it is damaged ({type(error).__name__})") from None


class _Reader(pickle.Unpickler):
    """Calls nothing but Named and OrderedDict, which is all that `find_class` ever gives."""

    def __init__(self, stream: Any, allowed: Callable[[str], bool]) -> None:
        super().__init__(stream)
        self._allowed = allowed
        self.storages: list[Storage] = []
        self.calls: list[Named] = []

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if not self._allowed(full):
            raise NotInert(f"it names {full[:120]}")
        if full == "collections.OrderedDict":
            return OrderedDict
        calls = self.calls

        def note(cls: type[Named], *arguments: Any) -> Named:
            made = Named.__new__(cls, *arguments)
            calls.append(made)
            return made

        return type("Named", (Named,), {"name": full, "__new__": note})

    def persistent_load(self, identity: Any) -> Storage:
        storage = Storage(identity)
        self.storages.append(storage)
        return storage

"""Datasets: pushed as models are, and what there is of them."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from openmaas.client.answers import check, fetch
from openmaas.client.driver import Listing, Session, listing, operation
from openmaas.client.registry import API, receive_file
from openmaas.client.steps import Operation, Request, Work
from openmaas.client.uploads import Report, files_of, hash_files, name_of, scratch_folder, send_files, write_arrays
from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import check_path
from openmaas.core.names import check_name, parse_reference
from openmaas.core.resources import DatasetInfo, DatasetPushResult, DatasetSummary, Page, UploadRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ARCHIVE = "images.zip"
_MANY = 64  # files, above which they travel as one
_CLUTTER = frozenset({"Thumbs.db", "desktop.ini"})


@runtime_checkable
class Table(Protocol):
    """Columns by name, as a pandas DataFrame has them."""

    columns: Any

    def items(self) -> Iterable[tuple[Any, Any]]: ...


class Datasets(Session):
    @operation
    def push_dataset(
        self,
        data: str | os.PathLike[str] | Mapping[str, Any] | Table,
        *,
        name: str | None = None,
        label: str | None = None,
        progress: Report | None = None,
    ) -> Operation[DatasetPushResult]:
        """Register a new version of a dataset.

        data: the path of a file (npz, Parquet, CSV, JSON lines, running text) or of a folder of images, whose sub-folders are
        classes; or arrays by name, rows on axis 0, or a pandas DataFrame, which are written as npz. name: of the dataset; for
        a path its own name without. label: the column that is predicted; without it one called label, target, class or y is.
        progress: told after each piece.

        The same files pushed twice give the same version (`created` is False). A push that was cut off goes on where it stopped
        when it is called again. Hidden files of a folder are not sent; a folder of many images travels as a zip file.
        Raises InvalidInput for what is no dataset or a label that is not there, TooLarge, Refused, StorageFull, Unavailable.
        """
        report = progress or (lambda _: None)
        name = check_name(name or _name_of(data), "dataset")
        with ExitStack() as stack:
            files, left_out = yield Work(lambda: _pack(data, stack))
            entries = yield Work(lambda: hash_files(files, report))
            request = UploadRequest(name=name, files=entries, kind="dataset", label=label)
            sources = {entry.sha256: files[entry.path] for entry in entries}
            result = yield from send_files(request, sources, report, DatasetPushResult)
            return replace(result, left_out=left_out)

    @listing
    def datasets(self, *, page_size: int | None = None) -> Listing[DatasetSummary]:
        """All datasets, by name."""
        return Listing(Page[DatasetSummary], *API, "datasets", page_size=page_size)

    @listing
    def dataset_versions(self, name: str, *, page_size: int | None = None) -> Listing[DatasetInfo]:
        """A dataset's versions, newest first. Raises NotFound."""
        return Listing(Page[DatasetInfo], *API, "datasets", check_name(name, "dataset"), "versions", page_size=page_size)

    @operation
    def dataset(self, reference: str) -> Operation[DatasetInfo]:
        """A dataset's version, whole. reference: `digits-test` (its newest) or `digits-test:2`. Raises NotFound."""
        return (yield from _dataset(reference))

    @operation
    def delete_dataset(self, reference: str, *, force: bool = False, reason: str = "") -> Operation[None]:
        """Delete one version (`digits-test:2`), or a dataset with all its versions (`digits-test`).

        force: although versions were made with it or evaluated on it; the reason is kept, and who did it.
        Raises NotFound, and Conflict while the rules of a gate or a job that has not ended name it, or a version was made with
        it or evaluated on it.
        """
        numbered = parse_reference(reference).number is not None
        forced = {"force": "true", "reason": reason} if force else {"reason": reason}
        check((yield Request("DELETE", _parts(reference) if numbered else (*API, "datasets", reference), query=forced)))

    @operation
    def download_dataset(self, reference: str, folder: str | os.PathLike[str]) -> Operation[Path]:
        """Write all files of a dataset's version into `folder` (made if missing), each checked against its digest.

        A file that is there already with the right digest is left. Raises NotFound, Refused where the bytes do not fit.
        """
        info = yield from _dataset(reference)
        target = Path(folder)
        for entry in msgspec.convert(info.manifest, DatasetManifest).files:
            parts = (*_parts(info.reference), "files", *entry.path.split("/"))
            yield from receive_file(parts, entry, target / check_path(entry.path))
        return target


def _dataset(reference: str) -> Operation[DatasetInfo]:
    return (yield from fetch(Request("GET", _parts(reference)), DatasetInfo))


def _parts(reference: str) -> tuple[str, ...]:
    return (*API, "dataset-versions", str(parse_reference(reference)))


def _name_of(data: object) -> str:
    if isinstance(data, str | os.PathLike):
        return name_of(data)
    raise InvalidInput("Arrays have no name of their own.", next_step="Give one: push_dataset(arrays, name='digits-test').")


def _pack(
    data: str | os.PathLike[str] | Mapping[str, Any] | Table, stack: ExitStack
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The files to send by their path, and those that are left out."""
    if isinstance(data, Mapping | Table):
        path = scratch_folder(stack) / "data.npz"
        write_arrays({str(name): _plain(name, values) for name, values in data.items()}, path)
        return {path.name: path}, ()
    if not isinstance(data, str | os.PathLike):
        raise InvalidInput(f"A dataset is a path or arrays by name, not {type(data).__name__}.", code="invalid_dataset")
    files = files_of(Path(data))
    left_out = tuple(path for path in files if Path(data).is_dir() and _is_clutter(path))
    kept = {path: file for path, file in files.items() if path not in left_out}
    if not kept:
        raise InvalidInput(f"The folder {str(data)!r} holds only hidden files.", code="no_such_file")
    if len(kept) > _MANY:
        return {_ARCHIVE: _packed(kept, scratch_folder(stack) / _ARCHIVE)}, left_out
    return kept, left_out


def _packed(files: Mapping[str, Path], target: Path) -> Path:
    """All of them in one zip file, uncompressed, the same bytes each time: thousands of images would be as many requests."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(files):
            with files[path].open("rb") as source, archive.open(zipfile.ZipInfo(path), "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member)
    return target


def _plain(name: str, values: Any) -> NDArray[Any]:
    """An array without objects: of text, a missing value is empty. Raises InvalidInput for what is no array of one type."""
    import numpy as np

    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"The rows of {name!r} differ in length: {error}.", code="invalid_dataset") from None
    if array.dtype.kind != "O":
        return array
    texts = ["" if value is None or _is_nan(value) else value for value in array.ravel().tolist()]
    odd = next((value for value in texts if not isinstance(value, str)), None)
    if odd is not None:
        raise InvalidInput(
            f"The array {name!r} holds {type(odd).__name__} among its values, which no array without objects keeps.",
            code="invalid_dataset",
            next_step="Give numbers or text; push images as a folder or Parquet file.",
        )
    return np.array(texts, dtype=str).reshape(array.shape)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_clutter(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return parts[-1] in _CLUTTER or any(part.startswith(".") for part in parts)

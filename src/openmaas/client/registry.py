"""What exists: models, versions, aliases and their history."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import IO, Any

import msgspec

from openmaas.client.answers import check, fetch
from openmaas.client.driver import Listing, Session, listing, operation
from openmaas.client.steps import Operation, Request, Response, Work
from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import FileEntry, Manifest, check_path
from openmaas.core.names import check_alias, check_name, parse_reference
from openmaas.core.resources import AliasChange, AliasMove, ModelSummary, Page, VersionChange, VersionInfo

API = ("api", "v1")
_HOURS = 6 * 3600.0


class Registry(Session):
    @listing
    def models(self, *, prefix: str = "", page_size: int | None = None) -> Listing[ModelSummary]:
        """All models whose name begins with `prefix`, by name."""
        return Listing(Page[ModelSummary], *API, "models", prefix=prefix, page_size=page_size)

    @listing
    def versions(self, model: str, *, page_size: int | None = None) -> Listing[VersionInfo]:
        """A model's versions, newest first. Raises NotFound."""
        return Listing(Page[VersionInfo], *API, "models", check_name(model), "versions", page_size=page_size)

    @listing
    def history(self, model: str, *, page_size: int | None = None) -> Listing[AliasMove]:
        """Every move of a model's aliases, newest first. Raises NotFound."""
        return Listing(Page[AliasMove], *API, "models", check_name(model), "history", page_size=page_size)

    @operation
    def model(self, name: str) -> Operation[ModelSummary]:
        """A model: how many versions, the newest, its aliases and its size in bytes. Raises NotFound."""
        return (yield from fetch(Request("GET", (*API, "models", check_name(name))), ModelSummary))

    @operation
    def show(self, reference: str) -> Operation[VersionInfo]:
        """A version, whole. reference: `digits` (its newest), `digits:3` or `digits@champion`. Raises NotFound."""
        return (yield from _version(reference))

    @operation
    def describe(
        self, reference: str, *, metadata: dict[str, Any] | None = None, card: str | None = None
    ) -> Operation[VersionInfo]:
        """Replace a version's free metadata or its card (Markdown); None leaves each as it is. Raises NotFound."""
        change = VersionChange(metadata=metadata, card=card)
        return (yield from fetch(_sending("PATCH", change, *_version_parts(reference)), VersionInfo))

    @operation
    def delete_model(self, name: str) -> Operation[None]:
        """Delete a model with all its versions. Raises NotFound, and Conflict while a deployment uses it."""
        check((yield Request("DELETE", (*API, "models", check_name(name)))))

    @operation
    def delete_version(self, reference: str) -> Operation[None]:
        """Delete one version. Raises NotFound, and Conflict while an alias or a deployment uses it."""
        if str(parse_reference(reference)) == parse_reference(reference).model:
            raise InvalidInput(f"{reference!r} does not say which version to delete.", next_step=f"Write {reference}:NUMBER.")
        check((yield Request("DELETE", _version_parts(reference))))

    @operation
    def alias(self, reference: str, alias: str, *, force: bool = False, reason: str = "") -> Operation[AliasMove]:
        """Let `alias` mean this version from now on. force: although its gate refuses, for the reason that is kept with it.

        Raises NotFound, and Refused by the gate.
        """
        target = parse_reference(reference)
        number = target.number if target.number is not None else (yield from _version(reference)).number
        change = AliasChange(number=number, force=force, reason=reason)
        return (yield from fetch(_sending("PUT", change, *_alias_parts(target.model, alias)), AliasMove))

    @operation
    def remove_alias(self, model: str, alias: str) -> Operation[AliasMove]:
        """Remove an alias; its history stays. Raises NotFound."""
        return (yield from fetch(Request("DELETE", _alias_parts(model, alias)), AliasMove))

    @operation
    def rollback_alias(self, model: str, alias: str) -> Operation[AliasMove]:
        """Move an alias back to the version that it meant before, as one more move. Raises NotFound, Conflict."""
        return (yield from fetch(Request("POST", (*_alias_parts(model, alias), "rollback")), AliasMove))

    @operation
    def download(self, reference: str, folder: str | os.PathLike[str]) -> Operation[Path]:
        """Write all files of a version into `folder` (made if missing), each checked against its digest; returns the folder.

        A file that is there already with the right digest is left. Raises NotFound, Refused where the bytes do not fit.
        """
        info = yield from _version(reference)
        target = Path(folder)
        for entry in msgspec.convert(info.manifest, Manifest).files:
            parts = (*API, "versions", f"{info.model}:{info.number}", "files", *entry.path.split("/"))
            yield from receive_file(parts, entry, target / check_path(entry.path))
        return target


def _version(reference: str) -> Operation[VersionInfo]:
    return (yield from fetch(Request("GET", _version_parts(reference)), VersionInfo))


def _version_parts(reference: str) -> tuple[str, ...]:
    return (*API, "versions", str(parse_reference(reference)))


def _alias_parts(model: str, alias: str) -> tuple[str, ...]:
    return (*API, "models", check_name(model), "aliases", check_alias(alias))


def _sending(method: str, body: Any, *parts: str) -> Request:
    return Request(method, parts, headers={"content-type": "application/json"}, body=msgspec.json.encode(body))


def receive_file(parts: tuple[str, ...], entry: FileEntry, path: Path) -> Operation[None]:
    """Write a stored file, of the route that `parts` are, to `path`, checked against its digest; one that is there is left."""
    if (yield Work(lambda: path.is_file() and path.stat().st_size == entry.size and _digest(path) == entry.sha256)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            digest = yield from _receive(parts, file)
        if digest != entry.sha256:
            raise Refused(
                f"What arrived for {entry.path!r} has the digest {digest}, {entry.sha256} was expected.", code="digest_mismatch"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _receive(parts: tuple[str, ...], file: IO[bytes]) -> Operation[str]:
    digest = hashlib.sha256()

    def take(piece: bytes) -> None:
        digest.update(piece)
        file.write(piece)

    response: Response = yield Request("GET", parts, timeout=_HOURS, sink=take)
    check(response)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a child sees of the supervisor's environment. Only control gets all of it: no other gets a secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import msgspec

from openmaas.core.settings import Settings, variable
from openmaas.fleet.home import temporary_folder
from openmaas.fleet.lifeline import PARENT_VARIABLE

Kind = Literal["control", "gateway", "replica", "job"]

_PLAIN = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_HOME", "XDG_CACHE_HOME",
})  # fmt: skip
_PLAIN_PREFIXES = ("LC_", "PYTHON", "LD_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "ORT_", "OPENVINO_", "CUDA_", "NVIDIA_", "COV_")
_SECRET_SETTINGS = frozenset({"database_url"})


def child_environment(settings: Settings, kind: Kind, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a child. A replica or job that reads models from S3 keeps the AWS variables.

    A job lacks the name of its parent: it goes on when the supervisor ends, for the next one to take over. The temporary files
    of all others go where the next supervisor removes them; of the system's own folder they learn only where the sockets are.
    """
    given = os.environ if environment is None else environment
    bucket = settings.blobs_url.startswith("s3:")
    kept = {
        name: value
        for name, value in given.items()
        if not name.startswith("OPENMAAS_")
        and (kind == "control" or _is_plain(name) or (_is_aws(name) and bucket and kind in ("replica", "job")))
    }
    if kind != "job":
        kept |= {PARENT_VARIABLE: str(os.getpid()), "TMPDIR": str(temporary_folder(settings))}
    settings = msgspec.structs.replace(settings, runtime_dir=str(settings.runtime_path))
    return kept | _settings(settings, kind) | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def server_environment(settings: Settings) -> dict[str, str]:
    """The environment of a supervisor that is started apart: this one's, with these settings and nothing of a client's."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("OPENMAAS_")}
    return given | _settings(settings, "control")


def _settings(settings: Settings, kind: Kind) -> dict[str, str]:
    values = msgspec.structs.asdict(settings)
    return {variable(name): str(value) for name, value in values.items() if kind == "control" or name not in _SECRET_SETTINGS}


def _is_plain(name: str) -> bool:
    return name in _PLAIN or name.startswith(_PLAIN_PREFIXES)


def _is_aws(name: str) -> bool:
    return name.startswith("AWS_")

"""All settings: one table of name, default, bounds and help. The environment variable is `OPENMAAS_` and the name in capitals.

The settings page of the documentation is made from this table. A bad value stops the start with its name and what is allowed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from openmaas.core.errors import InvalidInput, Refused

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Cosine = Annotated[float, Meta(ge=0, lt=1)]
Rise = Annotated[float, Meta(ge=0, le=10)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told from outside. Sizes in bytes, times in seconds."""

    home: Annotated[str, Meta(description="Data folder: database, blobs, logs, admin key.")] = "~/.openmaas"
    host: Annotated[str, Meta(description="Address that the gateway and control bind to.")] = "127.0.0.1"
    http_port: Annotated[Port, Meta(description="Port of the gateway, where predictions are asked for.")] = 8000
    control_port: Annotated[Port, Meta(description="Port of control, where models are managed.")] = 8080
    gateways: Annotated[int, Meta(ge=1, le=64, description="Gateway processes that share the HTTP port.")] = 1
    database_url: Annotated[
        str, Meta(description="SQLAlchemy URL, postgresql+psycopg://…; empty for SQLite in the data folder.")
    ] = ""
    blobs_url: Annotated[
        str, Meta(description="Where model files are kept: a folder, or s3://bucket/prefix; empty for the data folder.")
    ] = ""
    runtime_dir: Annotated[
        str, Meta(description="Folder for unix sockets; empty for one of this home's own in the system's temporary folder.")
    ] = ""
    tls_cert: Annotated[str, Meta(description="PEM certificate chain for the gateway and control.")] = ""
    tls_key: Annotated[str, Meta(description="PEM private key of the certificate.")] = ""
    insecure: Annotated[
        bool, Meta(description="Allow plain HTTP on an address that is not loopback: keys then travel readable.")
    ] = False
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")] = (
        "info"
    )
    access_log: Annotated[bool, Meta(description="Log every request at the gateway, not only those that failed.")] = False
    max_body: Annotated[
        int, Meta(ge=1, le=240 * 2**20, description="Largest request body of a prediction, also after decompression.")
    ] = 64 * 2**20
    max_in_flight: Annotated[Positive, Meta(description="Requests that one gateway holds at once; beyond it 503.")] = 4096
    max_in_flight_bytes: Annotated[
        Positive, Meta(description="Request bodies that one gateway holds at once; beyond it 503.")
    ] = 512 * 2**20
    body_timeout: Annotated[Seconds, Meta(description="Seconds that a client has to send a head, or a body may drip.")] = 12.0
    hold_timeout: Annotated[
        float, Meta(ge=0, le=86400, description="Seconds that a request waits for a replica that is (re)starting, before 503.")
    ] = 5.0
    drain_timeout: Annotated[Seconds, Meta(description="Seconds that requests in flight have to end when a process stops.")] = (
        30.0
    )
    start_timeout: Annotated[Seconds, Meta(description="Seconds that a replica has to load and warm its model.")] = 300.0
    hang_timeout: Annotated[Seconds, Meta(description="Seconds without a sign of life after which a replica is hung.")] = 5.0
    stall_timeout: Annotated[Seconds, Meta(description="Seconds that one batch may run before its replica counts as hung.")] = (
        120.0
    )
    chunk_size: Annotated[int, Meta(ge=2**16, le=2**28, description="Bytes of one upload chunk.")] = 8 * 2**20
    max_model_size: Annotated[Positive, Meta(description="Largest model, all its files together.")] = 64 * 2**30
    examine_timeout: Annotated[Seconds, Meta(description="Seconds that inspecting and converting a pushed model may take.")] = (
        300.0
    )
    examine_memory: Annotated[Positive, Meta(description="Memory that inspecting and converting may take.")] = 8 * 2**30
    jobs: Annotated[int, Meta(ge=0, le=1024, description="Jobs that run at once; 0 for half of the cores.")] = 0
    job_retention: Annotated[
        float,
        Meta(
            ge=0,
            le=100 * 366 * 86400.0,
            description="Seconds after which `openmaas gc` removes an ended job that no result needs.",
        ),
    ] = 90 * 86400.0
    job_memory: Annotated[
        int, Meta(ge=0, le=2**50, description="Memory that one job may take (its data); 0 for no limit of our own.")
    ] = 0

    measure: Annotated[
        str,
        Meta(
            pattern="^(push|deploy|never)$",
            description="When engines are measured by themselves: push, deploy (the first one on this processor) or never.",
        ),
    ] = "push"
    engine_cosine: Annotated[
        float,
        Meta(ge=0.9, lt=1, description="Least cosine of each row to full precision with which less may be chosen."),
    ] = 0.9999
    convert_timeout: Annotated[Seconds, Meta(description="Seconds that converting a text generator may take.")] = 7200.0
    bf16_cosine: Annotated[Cosine, Meta(description="Least cosine of the logits of bf16 weights to their source's.")] = 0.99
    int8_cosine: Annotated[Cosine, Meta(description="Least cosine of the logits of int8 weights to their source's.")] = 0.97
    int4_cosine: Annotated[Cosine, Meta(description="Least cosine of the logits of int4 weights to their source's.")] = 0.8
    bf16_perplexity: Annotated[Rise, Meta(description="Share by which bf16 weights may raise the source's perplexity.")] = 0.01
    int8_perplexity: Annotated[Rise, Meta(description="Share by which int8 weights may raise the source's perplexity.")] = 0.03
    int4_perplexity: Annotated[Rise, Meta(description="Share by which int4 weights may raise the source's perplexity.")] = 0.15

    @property
    def home_path(self) -> Path:
        return Path(self.home).expanduser().absolute()

    @property
    def runtime_path(self) -> Path:
        """Folder of the unix sockets: short, since a socket path has about 100 bytes, and of this home's own."""
        import tempfile  # 5 ms of each command that does not ask for this

        if self.runtime_dir:
            return Path(self.runtime_dir).expanduser().absolute()
        tag = hashlib.sha256(str(self.home_path).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"openmaas-{os.getuid()}-{tag}"

    @property
    def control_address(self) -> str:
        """Where control listens on the link."""
        return f"unix:{self.runtime_path / 'control.sock'}"

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"

    def url(self, port: int) -> str:
        """The URL at which this machine reaches a port of ours."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"{self.scheme}://{host}:{port}"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"OPENMAAS_{name.upper()}"


def load_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment; `overrides` (the command's options, where not None) win.

    Raises InvalidInput with the setting's name, its value and what is allowed.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        given = overrides.get(field.name)
        text = environment.get(variable(field.name), "").strip()
        if given is None and not text:
            continue
        raw = text if given is None else given
        try:
            values[field.name] = msgspec.convert(raw, field.type, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidInput(
                f"{variable(field.name)} is {raw!r}: {str(error)[0].lower()}{str(error)[1:]}.",
                code="invalid_setting",
                next_step=f"Set {variable(field.name)} to an allowed value or unset it (default {field.default!r}).",
            ) from None
    return Settings(**values)


def prepare_runtime(settings: Settings) -> Path:
    """Make the sockets' folder, for this user alone. Raises Refused when somebody else owns it."""
    path = settings.runtime_path
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = path.lstat()
    if state.st_uid != os.getuid() or path.is_symlink():
        raise Refused(
            f"The folder for sockets {str(path)!r} belongs to another user.",
            next_step="Set OPENMAAS_RUNTIME_DIR to a folder of your own.",
        )
    path.chmod(0o700)
    return path

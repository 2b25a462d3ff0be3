"""Where the server is, and with which key: told by arguments, else by the environment, else found in the data folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from openmaas.core.errors import InvalidInput, Unavailable
from openmaas.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """The two doors of a server, the key for them, and the CA file that its certificate is checked with (or "")."""

    control_url: str
    gateway_url: str
    api_key: str = ""
    ca: str = ""


def find_server(
    url: str | None = None,
    gateway_url: str | None = None,
    api_key: str | None = None,
    ca: str | None = None,
    home: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Arguments win over OPENMAAS_URL, OPENMAAS_GATEWAY_URL, OPENMAAS_API_KEY and OPENMAAS_CA; without a URL, the server of
    `home` (OPENMAAS_HOME). Where only one URL is given, the other is the same host at its default port.

    Raises Unavailable when no URL is given and no server runs for that home, InvalidInput for a URL that is none.
    """
    environment = os.environ if environment is None else environment
    control = url or environment.get("OPENMAAS_URL", "")
    gateway = gateway_url or environment.get("OPENMAAS_GATEWAY_URL", "")
    key = api_key or environment.get("OPENMAAS_API_KEY", "")
    ca = ca or environment.get("OPENMAAS_CA", "")
    folder = home_path(home, environment)
    if not control and not gateway:
        control, gateway = _local_urls(folder)
        key = key or _local_key(folder)
    elif not key and control and control.rstrip("/") in _urls_of(folder):
        key = _local_key(folder)  # named by its URL, but it is this home's own server
    control = _checked(control) if control else _other(gateway, Settings().control_port)
    gateway = _checked(gateway) if gateway else _other(control, Settings().http_port)
    return Server(control, gateway, key, ca)


def home_path(home: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The data folder of the local server."""
    environment = os.environ if environment is None else environment
    return Settings(home=os.fspath(home) if home else environment.get("OPENMAAS_HOME") or Settings().home).home_path


def read_run_file(home: Path) -> dict[str, Any] | None:
    """What the supervisor of this home wrote about itself (pid, control_url, gateway_url); None when none runs."""
    try:
        told = msgspec.json.decode((home / "run" / "supervisor.json").read_bytes(), type=dict[str, Any])
        os.kill(int(told["pid"]), 0)
    except PermissionError:
        return told
    except (OSError, msgspec.MsgspecError, KeyError, ValueError, TypeError):
        return None
    return told


def _local_urls(home: Path) -> tuple[str, str]:
    told = read_run_file(home)
    if told is None:
        raise Unavailable(
            f"No server runs for the data folder {str(home)!r}.",
            code="not_running",
            next_step="Start one with `openmaas up --detach`, or set OPENMAAS_URL and OPENMAAS_API_KEY to use another.",
        )
    return str(told["control_url"]), str(told["gateway_url"])


def _urls_of(home: Path) -> tuple[str, ...]:
    told = read_run_file(home)
    return () if told is None else (str(told["control_url"]).rstrip("/"),)


def _local_key(home: Path) -> str:
    try:
        return (home / "admin.key").read_text().strip()
    except OSError:
        return ""


def _checked(url: str) -> str:
    parts = urlsplit(url)
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise InvalidInput(
            f"{url!r} is not a server's URL.", code="invalid_setting", next_step="Write it like http://127.0.0.1:8080."
        )
    return url.rstrip("/")


def _other(url: str, port: int) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}"

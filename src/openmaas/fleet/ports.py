"""May we listen there, and is the port free?"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from pathlib import Path

from openmaas.core.errors import Conflict, InvalidInput, Refused
from openmaas.core.settings import Settings, variable

_TRIES = 10
_PAUSE = 0.05  # the ports of a supervisor that was killed a moment ago are free again within milliseconds


def check_exposure(settings: Settings) -> None:
    """Refuse plain HTTP on an address that others can reach, and half a certificate."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        missing = "tls_key" if settings.tls_cert else "tls_cert"
        raise InvalidInput(
            "A certificate and its private key belong together, and only one of them is set.",
            code="invalid_setting",
            next_step=f"Set {variable(missing)} too.",
        )
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            raise InvalidInput(f"{variable(name)} is {path!r}: there is no such file.", code="invalid_setting")
    if not (settings.tls_cert or settings.insecure or is_loopback(settings.host)):
        raise Refused(
            f"OPENMAAS_HOST is {settings.host!r}, which others can reach, and there is no TLS: keys would travel readable.",
            code="exposed",
            next_step="Give --tls-cert and --tls-key, or --insecure behind a proxy of your own.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def claim_port(settings: Settings, name: str) -> None:
    """See that nobody listens on the port of setting `name`. Raises Conflict that names the setting.

    Servers bind with SO_REUSEPORT and would silently share a port with another program of this user; a plain bind does not.
    """
    port = getattr(settings, name)
    for _ in range(_TRIES):
        try:
            return _bind(settings.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InvalidInput(
                    f"{settings.host}:{port} cannot be listened on: {error.strerror}.",
                    code="invalid_setting",
                    next_step=f"Change OPENMAAS_HOST or {variable(name)}.",
                ) from error
        await asyncio.sleep(_PAUSE)
    raise Conflict(
        f"Port {port} of {settings.host} is in use by another program ({variable(name)}).",
        code="port_in_use",
        next_step=f"Stop that program, or set {variable(name)} to a free port.",
    )


def _bind(host: str, port: int) -> None:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server may linger
        probe.bind(address)
        probe.listen(1)

import socket
from pathlib import Path

import pytest

from openmaas.core.errors import Conflict, InvalidInput, Refused
from openmaas.core.settings import Settings
from openmaas.fleet.ports import check_exposure, claim_port


def test_loopback_needs_no_tls() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_an_address_that_others_reach_needs_tls_or_a_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--insecure") as caught:
        check_exposure(Settings(host=host))
    assert caught.value.code == "exposed"
    check_exposure(Settings(host=host, insecure=True))
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    check_exposure(Settings(host=host, tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem")))


def test_half_a_certificate_or_a_missing_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="OPENMAAS_TLS_KEY"):
        check_exposure(Settings(tls_cert=str(tmp_path / "cert.pem")))
    with pytest.raises(InvalidInput, match=r"OPENMAAS_TLS_CERT.*no such file"):
        check_exposure(Settings(tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem")))


async def test_a_port_in_use_is_told_by_its_setting() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as granian's own
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=rf"Port {port} .*OPENMAAS_HTTP_PORT") as caught:
            await claim_port(Settings(http_port=port), "http_port")
        assert caught.value.code == "port_in_use"
    await claim_port(Settings(http_port=port), "http_port")


async def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(InvalidInput, match="OPENMAAS_HOST"):
        await claim_port(Settings(host="192.0.2.1"), "http_port")

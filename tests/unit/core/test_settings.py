from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.link import MAX_FRAME
from openmaas.core.settings import Settings, load_settings, prepare_runtime, variable


def test_the_defaults_that_others_rely_on() -> None:
    settings = load_settings({})
    assert (settings.http_port, settings.control_port, settings.home) == (8000, 8080, "~/.openmaas")
    assert settings.host == "127.0.0.1"
    assert settings.insecure is False


def test_the_environment_is_read_and_an_option_wins() -> None:
    environment = {
        "OPENMAAS_HTTP_PORT": " 9000 ",
        "OPENMAAS_INSECURE": "true",
        "OPENMAAS_HOLD_TIMEOUT": "0",
        "OPENMAAS_HOME": "/x",
    }
    settings = load_settings(environment, home="/y", control_port=None)
    assert (settings.http_port, settings.insecure, settings.hold_timeout, settings.home) == (9000, True, 0.0, "/y")


def test_an_empty_variable_is_not_set() -> None:
    assert load_settings({"OPENMAAS_HTTP_PORT": "  "}).http_port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http_port", "0"),
        ("http_port", "65536"),
        ("http_port", "8000.5"),
        ("http_port", "http"),
        ("http_port", "²"),
        ("gateways", "0"),
        ("gateways", "65"),
        ("insecure", "maybe"),
        ("log_level", "loud"),
        ("body_timeout", "0"),
        ("body_timeout", "-1"),
        ("body_timeout", "nan"),
        ("body_timeout", "soon"),
        ("body_timeout", "inf"),
        ("drain_timeout", "1e9"),
        ("hold_timeout", "inf"),
        ("max_body", "1000000000"),
        ("hold_timeout", "-0.1"),
        ("hold_timeout", "nan"),
        ("chunk_size", "1"),
        ("max_body", "0"),
        ("max_body", "64MiB"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings({variable(name): value})
    assert caught.value.code == "invalid_setting"
    assert variable(name) in caught.value.message
    assert repr(value) in caught.value.message
    assert "default" in (caught.value.next_step or "")


@pytest.mark.parametrize("field", msgspec.structs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_help_and_a_default_that_it_would_accept(field: Any) -> None:
    meta = [part for part in field.type.__metadata__ if part.description]
    assert meta, field.name
    assert msgspec.convert(field.default, field.type) == field.default


def test_the_largest_body_fits_into_a_frame() -> None:
    """Else one large request would break the connection that all requests to its replica share."""
    largest = next(field for field in msgspec.structs.fields(Settings) if field.name == "max_body").type.__metadata__[0].le
    assert largest + 2**20 < MAX_FRAME


def test_two_homes_have_two_folders_for_sockets() -> None:
    one, two = Settings(home="/a").runtime_path, Settings(home="/b").runtime_path
    assert one != two
    assert str(os.getuid()) in one.name
    assert Settings(home="/a", runtime_dir="/r").runtime_path == Path("/r")
    assert Settings(home="/a", runtime_dir="/r").control_address == "unix:/r/control.sock"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
    ],
)
def test_the_url_at_which_this_machine_reaches_itself(host: str, url: str) -> None:
    assert Settings(host=host).url(1) == url


def test_a_certificate_makes_it_https() -> None:
    assert Settings(tls_cert="c.pem").url(443) == "https://127.0.0.1:443"


def test_the_folder_for_sockets_is_for_this_user_alone(tmp_path: Path) -> None:
    settings = Settings(runtime_dir=str(tmp_path / "deep" / "run"))
    path = prepare_runtime(settings)
    path.chmod(0o777)
    assert prepare_runtime(settings).stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="OPENMAAS_RUNTIME_DIR"):
        prepare_runtime(Settings(runtime_dir=str(tmp_path / "run")))

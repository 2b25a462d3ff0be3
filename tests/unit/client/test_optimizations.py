from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import openmaas
from openmaas.client.steps import Request, Response
from openmaas.core.errors import InvalidInput, OpenMaaSError, TooLarge
from openmaas.core.recipes import Fuse, Prune, Quantize, Recipe
from tests.unit.cli.conftest import VERSION
from tests.unit.client.test_jobs import JOB
from tests.unit.client.transport import FakeTransport, json_answer

PLAIN = {"seed": 3, "steps": [{"prune": {"method": "channels", "amount": 0.6}}, "fuse"]}
YAML = "seed: 3\nsteps:\n  - prune: {method: channels, amount: 0.6}\n  - fuse\n"


@pytest.fixture
def sent() -> tuple[openmaas.Client, Callable[[], dict[str, Any]]]:
    """A client, and what it has submitted last."""

    def answer(request: Request) -> Response:
        return json_answer(VERSION if request.method == "GET" else {**JOB, "kind": "optimize"})

    transport = FakeTransport(answer)

    def arguments() -> dict[str, Any]:
        posts = [request for request in transport.seen if request.method == "POST"]
        return dict(msgspec.json.decode(posts[-1].body)) if posts else {}

    return openmaas.Client("http://server", transport=transport), arguments


def test_a_recipe_is_the_same_from_yaml_plain_data_and_python(sent: Any, tmp_path: Path) -> None:
    client, arguments = sent
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML)
    recipes: list[Any] = [path, str(path), PLAIN, Recipe(steps=(Prune(method="channels", amount=0.6), Fuse()), seed=3)]
    seen = []
    for recipe in recipes:
        client.optimize("digits@champion", recipe=recipe, data="digits-train", evaluation="digits-test")
        seen.append(arguments())
    assert all(one == seen[0] for one in seen)
    assert seen[0]["kind"] == "optimize"
    given = seen[0]["arguments"]
    assert (given["version"], given["data"], given["evaluation"], given["auto"]) == (
        "digits:3",
        "digits-train",
        "digits-test",
        False,
    )
    assert given["recipe"] == {"seed": 3, "steps": [{"prune": {"method": "channels", "amount": 0.6}}, {"fuse": {}}]}


def test_a_search_sends_its_bounds(sent: Any) -> None:
    client, arguments = sent
    client.optimize("digits", auto=True, max_loss=0.02, target="size", seconds=60, seed=4)
    given = arguments()["arguments"]
    assert {name: given[name] for name in ("auto", "max_loss", "target", "seconds", "seed")} == {
        "auto": True, "max_loss": 0.02, "target": "size", "seconds": 60.0, "seed": 4,
    }  # fmt: skip
    assert "recipe" not in given


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps:\n  - shrink: {}\n", "'shrink' is not a pass"),
        ("steps:\n  - prune: {amont: 0.5}\n", "is 'amount' meant"),
        ("steps:\n  - prune: {amount: 2}\n", "amount is 2"),
        ("steps:\n  - prune: &a {amount: 0.5}\n  - prune: *a\n", "aliases are not allowed"),
        ("steps:\n  - prune: {amount: 0.5, amount: 0.6}\n", "a key is given twice"),
        ("steps: !!python/object/apply:os.system [echo]\n", "could not determine a constructor"),
        ("steps: [", "cannot be read"),
        ("", "it needs a list of steps"),
    ],
)
def test_a_wrong_recipe_is_told_before_anything_is_sent(sent: Any, tmp_path: Path, text: str, told: str) -> None:
    client, arguments = sent
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=told):
        client.optimize("digits", recipe=path)
    assert not arguments()


def test_what_was_composed_in_python_is_checked_too(sent: Any) -> None:
    client, _ = sent
    with pytest.raises(InvalidInput, match="method dynamic has 8 bits, not 4"):
        client.optimize("digits", recipe=Recipe(steps=(Quantize(bits=4),)))


def test_a_file_that_is_not_there_or_too_large(sent: Any, tmp_path: Path) -> None:
    client, _ = sent
    with pytest.raises(OpenMaaSError, match="There is no recipe"):
        client.optimize("digits", recipe=tmp_path / "none.yaml")
    large = tmp_path / "large.yaml"
    large.write_text("#" * 70_000)
    with pytest.raises(TooLarge):
        client.optimize("digits", recipe=large)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="UTF-8"):
        client.optimize("digits", recipe=binary)

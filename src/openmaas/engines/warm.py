"""One run before the first caller, on made-up input."""

from __future__ import annotations

from openmaas.core.errors import OpenMaaSError
from openmaas.core.log import get_logger
from openmaas.core.made_up import make_up
from openmaas.core.types import Signature
from openmaas.engines.base import Engine


def warm_up(engine: Engine, signature: Signature) -> None:
    """Run one row. That made-up input may lie outside of what a model takes says nothing about the model: it is only logged."""
    try:
        engine.run(make_up(signature.inputs, rows=1))
    except OpenMaaSError as error:
        get_logger("engine").info("warm_skipped", reason=error.message)

"""Which model a body names: all that the gateway reads of it."""

from __future__ import annotations

from typing import Final

import msgspec

from openmaas.core.errors import InvalidInput

_MAX_NAME: Final = 200


class _Named(msgspec.Struct):
    model: str


_decode = msgspec.json.Decoder(_Named).decode


def model_of(body: bytes) -> str:
    """The `model` of a JSON body; the rest is passed over. Raises InvalidInput where there is none, or none that could be."""
    try:
        model = _decode(body).model
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"The body names no model: {str(error)[:200]}.",
            code="missing_model",
            next_step='Send {"model": NAME, …} with the name of a deployment.',
            param="model",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The body is not valid JSON: {str(error)[:200]}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidInput("The JSON is nested too deep.", code="invalid_json") from None
    if not 1 <= len(model) <= _MAX_NAME:
        raise InvalidInput(f"model has {len(model)} characters; it takes 1 to {_MAX_NAME}.", code="out_of_range", param="model")
    return model

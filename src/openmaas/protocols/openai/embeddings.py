"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from openmaas.core.errors import EngineFailed
from openmaas.protocols.generation.body import BodyReader
from openmaas.protocols.generation.limits import LIMITS, Limits
from openmaas.protocols.generation.prompts import read_prompts
from openmaas.protocols.generation.wire import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_DIMENSIONS: Final = 65_536
_MAX_INPUTS: Final = 2048
_reader = BodyReader("embeddings", ("input", "encoding_format", "dimensions"))


class EmbeddingsAsk(msgspec.Struct, kw_only=True):
    """Texts, or token ids. dimensions: as many as the caller wants, to be refused where the model gives another number."""

    inputs: Sequence[str | list[int]]
    base64: bool = False
    dimensions: int | None = None


def decode_embeddings(body: bytes, limits: Limits = LIMITS) -> EmbeddingsAsk:
    """The request. Raises InvalidInput that names the parameter."""
    request = _reader.read(body, limits.max_body)
    return EmbeddingsAsk(
        inputs=read_prompts("input", request.needed("input"), msgspec.structs.replace(limits, max_prompts=_MAX_INPUTS)),
        base64=request.take("encoding_format", Literal["float", "base64"]) == "base64",
        dimensions=request.whole("dimensions", 1, _MAX_DIMENSIONS),
    )


def encode_embeddings(vectors: NDArray[Any], *, as_base64: bool, deployment: str, prompt_tokens: int) -> bytes:
    """vectors: [inputs, dimensions] of any float type; they go out as float32. Raises EngineFailed for NaN and Infinity."""
    import numpy as np  # the gateway imports this package too, and touches no tensor

    rows = np.ascontiguousarray(vectors, dtype="<f4")
    if not np.isfinite(rows).all():
        raise EngineFailed("An embedding holds NaN or Infinity.", code="not_finite")
    written: list[Any] = [base64.b64encode(row.data).decode() for row in rows] if as_base64 else rows.tolist()
    return encode(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(written)],
            "model": deployment,
            "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
        }
    )

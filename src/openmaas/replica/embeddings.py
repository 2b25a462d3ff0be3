"""Vectors of texts, asked for and answered as OpenAI's API does it."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmaas.core.errors import InvalidInput
from openmaas.core.processing import Embedding, Processing
from openmaas.processing import Prepared, Tensors
from openmaas.processing.text import Texts
from openmaas.protocols import oip
from openmaas.protocols.openai import EmbeddingsAsk, encode_embeddings
from openmaas.replica.inference import Inference


class EmbeddingAnswer(Inference):
    """A request for embeddings on its way through the batcher: all its inputs are rows of one. ask: what was asked for."""

    __slots__ = ("ask",)
    ask: EmbeddingsAsk

    def read(self, raw: Any) -> Prepared:
        before = self.server.processor.before
        assert isinstance(before, Texts)
        inputs = self.ask.inputs
        if isinstance(inputs[0], str):
            prepared = before.prepare(np.array(inputs, dtype=object))
        else:
            prepared = before.prepare_ids([row for row in inputs if isinstance(row, list)])
        for note in prepared.notes:  # a vector of a part would pass for one of the whole
            raise InvalidInput(
                f"Input {note['row']} has {note['tokens']} tokens; the model takes {note['limit']}.",
                code="context_length_exceeded",
                next_step="Split it, and send the parts as inputs of their own.",
                param="input",
            )
        return prepared

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        vectors = self.finished(outputs)["embedding"]
        wanted, given = self.ask.dimensions, vectors.shape[-1]
        if wanted not in (None, given):
            raise InvalidInput(
                f"The model's vectors have {given} dimensions; {wanted} were asked for.",
                code="parameter_not_supported",
                next_step="Ask without 'dimensions'.",
                param="dimensions",
            )
        tokens = sum(self.prepared.lengths) if self.prepared is not None else 0
        deployment = self.head.deployment
        return oip.InferResponse(
            encode_embeddings(vectors, as_base64=self.ask.base64, deployment=deployment, prompt_tokens=tokens)
        )


def embeds(processing: Processing | None, before: object) -> bool:
    """Whether a version makes vectors of texts."""
    return processing is not None and isinstance(processing.output, Embedding) and isinstance(before, Texts)

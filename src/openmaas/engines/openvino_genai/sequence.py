"""One request on its way through a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.generation import GenerationRequest
from openmaas.engines.openvino_genai.disguise import BLOCK

_AHEAD = 512
"""Tokens of an answer that room is kept for when it begins; most answers end before. One that does not, while nothing is left,
makes GenAI take the youngest's blocks and compute them again later."""


class Sequence:
    """prompt: as the pipeline is given it. fed: its first tokens that are in the cache already, as far as is known."""

    def __init__(self, request: GenerationRequest, prompt: NDArray[np.int64], config: Any) -> None:
        self.request = request
        self.prompt = prompt
        self.config = config
        self.fed = 0
        self.piece = 0
        """Tokens of the prompt's beginning that are in the pipeline by themselves now."""
        self.begun = False
        """Whether room is kept for it."""
        self.handle: Any = None
        self.generated = 0
        self.cancelled = False
        self.settled = False
        """Whether the last step gave it a token: then none of its blocks is half computed."""

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not computed yet."""
        return len(self.prompt) - self.fed

    @property
    def room(self) -> int:
        """Blocks that are kept for it."""
        answer = min(self.request.max_tokens, max(_AHEAD, self.generated + BLOCK))
        return blocks_of(len(self.prompt) + answer)

    @property
    def held(self) -> int:
        """Blocks that hold something of it now."""
        if not self.begun:
            return 0
        inside = self.handle is not None and not self.piece
        return blocks_of(len(self.prompt) + self.generated if inside else max(self.fed, self.piece))


def blocks_of(tokens: int) -> int:
    return -(-tokens // BLOCK)

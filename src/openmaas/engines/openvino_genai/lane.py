"""One of GenAI's pipelines and its line: which prompts go in, how much of them at a time, and what comes out.

GenAI computes prompts in the order in which they came, and one of thousands of tokens takes all of every step until it is done.
In a lane with a prefix cache, long prompts go in by pieces instead, each a request for one token after the prompt's beginning;
the next piece finds the last one's work in the cache. A piece is `part` tokens, and there is one in a step, of the oldest long
prompt and of the shortest in turn. Prompts that have twice as many tokens or fewer left go in whole; a step that takes such has
a piece only if the last one had none. So a short prompt beside a long one waits for the piece that is being computed and then
for itself. Nothing goes in while a prompt inside is unfinished: GenAI files blocks of its cache before they are computed.

On two cores and half a billion weights in int8, 139 tokens a second were read by 32 at a time, 171 by 64, 177 by 128, no more
by 256; and a prompt of 100 tokens beside one of 4,000 had its first token after 1.4 times as long as alone.

A lane without a prefix cache gives prompts to GenAI as they are; there, a short one may wait for a whole long one.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError, Unavailable
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress, TokenLogprob
from openmaas.engines.openvino_genai.disguise import BLOCK, Disguise, shared
from openmaas.engines.openvino_genai.pipeline import stepper
from openmaas.engines.openvino_genai.prefixes import Prefixes
from openmaas.engines.openvino_genai.sampling import one_token
from openmaas.engines.openvino_genai.sequence import Sequence, blocks_of


class Lane:
    def __init__(self, pipeline: Any, *, blocks: int, slots: int, part: int, disguise: Disguise | None) -> None:
        """blocks: of the cache. slots: requests that generate at once. part: tokens, two blocks or more. disguise: None for a
        lane without a prefix cache."""
        import openvino
        import openvino_genai

        self._pipeline, self._compute = pipeline, stepper(pipeline)
        self._tensor = openvino.Tensor
        self._ignored = openvino_genai.GenerationStatus.IGNORED
        self._reasons: dict[Any, Literal["stop", "length"]] = {
            openvino_genai.GenerationFinishReason.STOP: "stop",
            openvino_genai.GenerationFinishReason.LENGTH: "length",
        }
        self._blocks, self._slots, self._part = blocks, slots, part
        self._disguise = disguise
        self._prefixes = Prefixes(blocks)
        self._one_token = one_token()
        self._known: dict[int, Sequence] = {}
        self._line: list[Sequence] = []
        self._running: list[Sequence] = []
        self._leaving: list[Sequence] = []
        self._last_id = 0
        self._passed = False
        """Whether long prompts had to wait in the last step."""
        self._turn = False
        """Whether the oldest long prompt went on last, and not the shortest."""

    @property
    def caches(self) -> bool:
        """Whether prompts share a prefix cache."""
        return self._disguise is not None

    @property
    def busy(self) -> bool:
        return bool(self._known or self._leaving)

    def load_now(self) -> EngineLoad:
        held = sum(sequence.held for sequence in self._known.values())
        return EngineLoad(running=len(self._running), waiting=len(self._line), cache=min(1.0, held / self._blocks))

    def admit(self, request: GenerationRequest, config: Any) -> None:
        """Raises Unavailable where the cache can never hold it."""
        needed = blocks_of(len(request.prompt) + request.max_tokens)
        if needed > self._blocks:
            raise self._too_small(len(request.prompt) + request.max_tokens)
        if self._disguise is None:
            prompt = np.asarray(request.prompt, dtype=np.int64)
        else:
            prompt = self._disguise.salted(request.prompt, request.salt)
        sequence = Sequence(request, prompt, config)
        self._known[request.id] = sequence
        self._line.append(sequence)

    def cancel(self, request_id: int) -> None:
        if sequence := self._known.get(request_id):
            sequence.cancelled = True
            self._let_go(sequence)

    def step(self) -> list[Progress]:
        if self._disguise is None:
            self._fill()
        elif self._line and all(sequence.settled for sequence in self._running) and not any(each.piece for each in self._line):
            for sequence, tokens in self._shares():
                self._feed(sequence, tokens)
        inside = [*(sequence for sequence in self._line if sequence.piece), *self._running]
        if not inside and not self._leaving:
            return []
        self._compute()
        self._leaving.clear()
        return [progress for sequence in inside if (progress := self._read(sequence)) is not None]

    def _fill(self) -> None:
        """Give all that fit, but of long prompts one after the other, so that others wait for one of them at most."""
        for sequence in list(self._line):
            if not self._fits(sequence):
                return
            if not self._long(sequence) or all(each.settled or not self._long(each) for each in self._running):
                self._start(sequence)

    def _long(self, sequence: Sequence) -> bool:
        """Whether what is left of its prompt is too much for one step."""
        return sequence.left > 2 * self._part

    def _shares(self) -> list[tuple[Sequence, int]]:
        """Which of the line go on in the next step, and with how many tokens of their prompts."""
        for sequence in self._line:
            known = self._prefixes.known(sequence.prompt, shared(len(sequence.prompt)))
            sequence.fed = max(sequence.fed, known) if sequence.begun else known
        self._line.sort(key=lambda each: not each.begun)  # what holds room already is older than what does not
        if not self._fits(self._line[0]):
            return []  # and nobody passes it, or it would wait for ever
        self._line[0].begun = True
        shares = self._whole()
        if not shares or self._passed:
            longer = [each for each in self._line if self._long(each) and self._fits(each)]
            if longer:
                self._turn = not self._turn
                chosen = longer[0] if self._turn else min(longer, key=lambda each: each.left)
                if not any(_same(chosen, other, tokens) for other, tokens in shares):
                    chosen.begun = True
                    shares.append((chosen, self._part))
            self._passed = False
        else:
            self._passed = True
        return shares

    def _whole(self) -> list[tuple[Sequence, int]]:
        """Prompts that are read to their end in the next step."""
        shares: list[tuple[Sequence, int]] = []
        room, tiny = 2 * self._part, 0
        for sequence in self._line:
            if sequence.left > room or not self._fits(sequence):
                continue
            # Tiny ones have too few tokens for a disguise of their own: GenAI could let two share a block if both came at once.
            tiny += len(sequence.prompt) < BLOCK
            if (len(sequence.prompt) < BLOCK and tiny > 1) or any(_same(sequence, other, tokens) for other, tokens in shares):
                continue
            sequence.begun = True
            shares.append((sequence, sequence.left))
            room -= sequence.left
        return shares

    def _fits(self, sequence: Sequence) -> bool:
        if sequence.begun:
            return True
        held = [*self._running, *self._leaving, *(each for each in self._line if each.begun)]
        return len(held) < self._slots and sum(each.room for each in held) + sequence.room <= self._blocks

    def _feed(self, sequence: Sequence, tokens: int) -> None:
        """As much of a prompt as that: the rest of it, or whole blocks."""
        if tokens >= sequence.left:
            self._start(sequence)
            return
        end = min(sequence.fed + tokens // BLOCK * BLOCK, shared(len(sequence.prompt)))
        if end > sequence.fed:
            sequence.piece = end
            sequence.handle = self._add(sequence.prompt[:end], self._one_token)

    def _start(self, sequence: Sequence) -> None:
        prompt = sequence.prompt if self._disguise is None else self._disguise.own(sequence.prompt)
        sequence.begun = True
        sequence.handle = self._add(prompt, sequence.config)
        self._line.remove(sequence)
        self._running.append(sequence)

    def _add(self, prompt: NDArray[np.int64], config: Any) -> Any:
        self._last_id += 1
        return self._pipeline.add_request(self._last_id, self._tensor(prompt.reshape(1, -1).copy()), config)

    def _let_go(self, sequence: Sequence) -> None:
        """Out of the line at once, out of the pipeline as soon as none of its blocks is half computed."""
        if sequence.piece:
            return
        if sequence in self._line:
            self._line.remove(sequence)
            del self._known[sequence.request.id]
        elif sequence.settled or self._disguise is None:
            sequence.handle.cancel()
            self._forget(sequence)
            self._leaving.append(sequence)  # its blocks are free after the next step

    def _forget(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        del self._known[sequence.request.id]

    def _read(self, sequence: Sequence) -> Progress | None:
        progress = Progress(id=sequence.request.id, tokens=[])
        logprobs: list[TokenLogprob] = []
        while sequence.handle.can_read():
            for output in sequence.handle.read().values():
                progress.tokens += output.generated_ids
                logprobs += map(TokenLogprob, output.generated_log_probs)
                progress.finish = self._reasons.get(output.finish_reason, progress.finish)
        sequence.settled = bool(progress.tokens)
        if sequence.settled and not sequence.generated:
            self._prefixes.add(sequence.prompt, sequence.piece or shared(len(sequence.prompt)))
        if sequence.handle.get_status() == self._ignored:
            progress.finish = ""
            progress.error = self._too_small(len(sequence.prompt) + sequence.generated + 1)
        if sequence.piece:
            return self._read_piece(sequence, progress.error)
        sequence.generated += len(progress.tokens)
        if progress.finish or progress.error:
            self._forget(sequence)
        elif sequence.cancelled:
            self._let_go(sequence)
        if sequence.cancelled or not (progress.tokens or progress.finish or progress.error):
            return None
        if sequence.request.sampling.logprobs >= 0:
            progress.logprobs = logprobs
        return progress

    def _read_piece(self, sequence: Sequence, error: OpenMaaSError | None) -> Progress | None:
        if error is None and not sequence.settled:
            return None  # it was evicted meanwhile and takes more than a step
        sequence.fed, sequence.piece, sequence.settled, sequence.handle = sequence.piece, 0, False, None
        if sequence.cancelled:
            self._let_go(sequence)
        elif error is not None:
            self._line.remove(sequence)
            del self._known[sequence.request.id]
            return Progress(id=sequence.request.id, tokens=[], error=error)
        return None

    def _too_small(self, tokens: int) -> OpenMaaSError:
        return Unavailable(
            f"The request comes to {tokens} tokens, and the engine's cache holds {self._blocks * BLOCK} (cache_mib).",
            code="cache_too_small",
            next_step="Ask for fewer tokens (max_tokens), or give the engine a larger cache_mib.",
        )


def _same(sequence: Sequence, other: Sequence, tokens: int) -> bool:
    """Whether the first block that a prompt lacks is in what another one computes in this step: then it waits for that."""
    end = sequence.fed + BLOCK
    computed = min(other.fed + tokens, shared(len(other.prompt)))
    return (
        end <= min(computed, shared(len(sequence.prompt)))
        and sequence.fed >= other.fed
        and np.array_equal(sequence.prompt[:end], other.prompt[:end])
    )

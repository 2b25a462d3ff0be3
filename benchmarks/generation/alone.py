"""The engine alone: OpenVINO GenAI's pipeline in its own loop, as its documentation sets it up. Runs with `openmaas`' Python.

    python -m benchmarks.generation.alone FOLDER WEIGHTS THREADS STREAMS LEVELS     prints a reading and the peak memory as JSON

Token ids go in and token ids come out: no text, no server, no prefix cache.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from statistics import median
from typing import Any

import numpy as np
import openvino
import openvino_genai

from benchmarks.generation.load import ANSWER, LONG, PROMPT, SHORT, decode_rate
from openmaas.core.hardware import computes_bf16

_TOKENS = range(3, 30_000)


class Alone:
    def __init__(self, folder: str, threads: int, streams: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = streams
        scheduler.enable_prefix_caching = False
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if computes_bf16() else "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self._random = random.Random(0)
        self._id = 0

    def level(self, streams: int, prompt: int, answer: int) -> tuple[list[list[float]], list[int], float]:
        """Moments of each stream's tokens, how many they are, and when all began."""
        begun = time.perf_counter()
        handles = [self._add(prompt, answer) for _ in range(streams)]
        arrivals: list[list[float]] = [[] for _ in handles]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = time.perf_counter()
            for times, handle in zip(arrivals, handles, strict=True):
                while handle.can_read():
                    times.extend([now] * sum(len(output.generated_ids) for output in handle.read().values()))
        return arrivals, [len(times) for times in arrivals], begun

    def _add(self, prompt: int, answer: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = answer, True
        ids = np.array([self._random.choices(_TOKENS, k=prompt)], dtype=np.int64)
        self._id += 1
        return self._pipeline.add_request(self._id, openvino.Tensor(ids), config)


def main(folder: str, threads: int, streams: int, levels: list[int]) -> None:
    alone = Alone(folder, threads, streams)
    alone.level(max(levels), SHORT, 16)
    found = []
    for count in levels:
        arrivals, tokens, begun = alone.level(count, PROMPT, ANSWER)
        first = median(times[0] - begun for times in arrivals)
        found.append({"streams": count, "decode": decode_rate(arrivals, tokens), "first": first, "tokens": sum(tokens)})
    prefill = median(LONG / _first(alone, LONG) for _ in range(2))
    idle = median(_first(alone, SHORT) for _ in range(7))
    reading = {"levels": found, "prefill": prefill, "idle": idle, "beside": 0.0}
    print(json.dumps({"reading": reading, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def _first(alone: Alone, prompt: int) -> float:
    arrivals, _, begun = alone.level(1, prompt, 1)
    return arrivals[0][0] - begun


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), [int(level) for level in sys.argv[5].split(",")])

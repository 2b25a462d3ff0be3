"""Compiles grammars beside the engine's loop.

GenAI compiles a grammar in the step that begins its request: with a large vocabulary that takes a tenth of a second to many
seconds, while all others wait, and one that does not compile leaves the pipeline in the middle of a step. So a grammar goes
through a pipeline of its own first, in a thread: a model of one layer and 32 numbers a token, with the tokenizer of the real
one. What is compiled lives in the tokenizer, where the real pipeline finds it.
"""

from __future__ import annotations

import contextlib
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from openmaas.core.errors import InvalidInput, Unavailable
from openmaas.core.generation import Grammar
from openmaas.core.hardware import free_memory
from openmaas.engines.openvino_genai.schema import check_schema, spelled_out

_WIDTH = 32
_WAITING = 8  # grammars that wait for the one that is compiled
_MEMORY = 1 << 30  # bytes that compiled grammars may come to: the library forgets none
_FREE = 256 << 20  # bytes of memory without which compiling could end the process


def set_grammar(config: Any, grammar: Grammar) -> None:
    from openvino_genai import StructuredOutputConfig as Output

    structured = Output()
    schema = spelled_out(grammar.schema)
    parts: list[Any] = [Output.JSONSchema(schema)]
    if grammar.before:
        parts.insert(0, Output.ConstString(grammar.before))
    if grammar.after:
        parts.append(Output.ConstString(grammar.after))
    if len(parts) == 1:
        structured.json_schema = schema
    else:
        structured.structural_tags_config = Output.Concat(parts)
    config.structured_output_config = structured


class Grammars:
    """What was compiled, and what is. Called from the engine's thread."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        import openvino

        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._pipeline: Any = None
        self._start = openvino.Tensor(np.zeros((1, 1), np.int64))
        self._done: set[Grammar] = set()
        self._under_way: dict[Grammar, Future[None]] = {}
        self._memory = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def compile(self, grammar: Grammar) -> Future[None] | None:
        """None where it is compiled already; else a future that is done then, or fails with InvalidInput. Raises InvalidInput
        for what is wrong at a glance, Unavailable where too many wait or too many were compiled."""
        if grammar in self._done:
            return None
        if under_way := self._under_way.get(grammar):
            return under_way
        check_schema(grammar.schema)
        self._settle()
        if len(self._under_way) >= _WAITING:
            raise Unavailable(
                f"{_WAITING} JSON schemas are being compiled; no more can wait.", code="grammars_busy", retry_after=5.0
            )
        if self._memory >= _MEMORY:
            raise Unavailable(
                f"Compiled JSON schemas take {self._memory >> 20} MiB of this replica's memory, the most that they may.",
                code="grammars_full",
                next_step="Use fewer different schemas, or restart the deployment's replicas.",
            )
        if (free := free_memory()) < _FREE:
            raise Unavailable(
                f"{free >> 20} MiB of memory are free; a new JSON schema is compiled where {_FREE >> 20} are.",
                code="memory_full",
                next_step="Use schemas that were used before, or deploy with more --memory.",
            )
        future = self._thread.submit(self._try, grammar)
        self._under_way[grammar] = future
        return future

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _settle(self) -> None:
        self._under_way = {grammar: future for grammar, future in self._under_way.items() if not future.done()}

    def _try(self, grammar: Grammar) -> None:
        import openvino_genai

        before = _resident()
        if self._pipeline is None:
            self._pipeline = _tiny_pipeline(self._tokenizer, self._vocabulary)
            before = _resident()
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.eos_token_id = 0
        config.stop_token_ids = {0}
        set_grammar(config, grammar)
        try:
            self._pipeline.generate([self._start], [config])
        except Exception as error:
            reason = str(error).strip().splitlines()[-1].rpartition(": ")[2][:300]
            raise InvalidInput(f"The JSON schema does not compile: {reason}.", code="invalid_schema") from None
        self._memory += max(0, _resident() - before)
        self._done.add(grammar)


def _tiny_pipeline(tokenizer: Any, vocabulary: int) -> Any:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 2
    scheduler.max_num_batched_tokens = 8
    scheduler.dynamic_split_fuse = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        _write_tiny(path, vocabulary)
        properties = {"INFERENCE_NUM_THREADS": 1, "sampler_num_threads": 1}
        return openvino_genai.ContinuousBatchingPipeline(str(path), tokenizer, scheduler, "CPU", **properties)


def _write_tiny(path: Path, vocabulary: int) -> None:
    """A Llama whose weights are zero."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(_WIDTH)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(1)
    writer.add_tensor("token_embd.weight", np.zeros((vocabulary, _WIDTH), np.float16))
    square = np.zeros((_WIDTH, _WIDTH), np.float16)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return 0

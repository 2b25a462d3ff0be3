"""How GenAI's pipeline is opened, and the check that its model takes tokens in disguise."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from openmaas.core.errors import EngineFailed, without_paths
from openmaas.core.hardware import computes_bf16
from openmaas.core.signal_stack import drop_signal_stack

# `import openvino_genai` imports openvino, which sends usage data to its maker; without this package it has nothing to send
# them with.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


_TRIED = "2026.4."
_STEP = "_ZN2ov5genai26ContinuousBatchingPipeline4stepEv"
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_POINTERS = 7  # of an object of pybind11's: two of Python's, three of its value and holder, weak references and flags


class PipelineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline is opened with. precision: f32 or bf16, empty for the library's choice. kv_precision: of the cache, empty
    for the library's choice (u8). step: tokens that one step computes at most."""

    threads: int
    step: int
    precision: str = ""
    kv_precision: str = ""

    @property
    def computed(self) -> str:
        """The precision that the library computes in."""
        return self.precision or ("bf16" if computes_bf16() else "f32")


def open_pipeline(entry: Path, options: PipelineOptions, *, blocks: int, prefix_cache: bool, tokenizer: Any = None) -> Any:
    """Of an .xml's folder, or of a .gguf file; nothing is written. tokenizer: one to share, in which compiled grammars live.

    Raises EngineFailed with what the library said.
    """
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = blocks
    scheduler.max_num_batched_tokens = options.step
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = prefix_cache
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": options.threads,
        "sampler_num_threads": options.threads,
        "INFERENCE_PRECISION_HINT": options.computed,
        # Replicas pinned to the same first cores would wait for each other while others idle.
        "ENABLE_CPU_PINNING": False,
        "ENABLE_CPU_RESERVATION": False,
        "ENABLE_HYPER_THREADING": True,
    }
    if options.kv_precision:
        properties["KV_CACHE_PRECISION"] = options.kv_precision
    path = entry if entry.suffix == ".gguf" else entry.parent
    try:
        if tokenizer is not None:
            return openvino_genai.ContinuousBatchingPipeline(str(path), tokenizer, scheduler, "CPU", **properties)
        return openvino_genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU", properties)
    except Exception as error:
        raise EngineFailed(f"OpenVINO GenAI cannot load the model: {_reason(error)}", code="load_failed") from None
    finally:
        drop_signal_stack()


def stepper(pipeline: Any) -> Callable[[], None]:
    """`pipeline.step` without the interpreter's lock: the binding of 2026.4 keeps it, so that no other thread of the process
    would run meanwhile. What the library throws in it ends the process.

    The C++ object is behind the first pointer of its Python object, after the reference count and the type. In another release
    than the one that this was tried with, where the object is of another size, or the library has no such function, it is the
    binding's own.
    """
    library = _library() if importlib.metadata.version("openvino-genai").startswith(_TRIED) else None
    step = getattr(ctypes.CDLL(library), _STEP, None) if library else None
    if step is None or type(pipeline).__basicsize__ != _POINTERS * _POINTER:
        return pipeline.step  # type: ignore[no-any-return]
    step.argtypes, step.restype = [ctypes.c_void_p], None
    return partial(step, ctypes.c_void_p.from_address(id(pipeline) + 2 * _POINTER).value)


def has_vocabulary(tokenizer: Any) -> bool:
    """Whether answers can be held to a grammar."""
    try:
        return bool(tokenizer.get_vocab())
    except Exception:
        return False


def _library() -> str | None:
    """Where the loaded library lies, on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "libopenvino_genai.so" in line:
                return line.split(maxsplit=5)[-1]
    return None


def answers(pipeline: Any, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """What an idle pipeline says after a prompt, taking the likeliest tokens, and their logprobs."""
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.logprobs = tokens, True, 1
    handle = pipeline.add_request(0, openvino.Tensor(np.asarray([prompt], dtype=np.int64)), config)
    step = stepper(pipeline)
    while pipeline.has_non_finished_requests():
        step()
    outputs = handle.read_all()
    return list(outputs[0].generated_ids), list(outputs[0].generated_log_probs)


def takes_disguise(pipeline: Any, vocabulary: int) -> bool:
    """Whether ids counted from the vocabulary's end are the same tokens to this model."""
    prompt = [int(token) for token in np.random.default_rng(0).integers(0, vocabulary, 40)]
    plain = answers(pipeline, prompt, 3)
    try:
        disguised = answers(pipeline, [token - vocabulary for token in prompt], 3)
    except Exception:
        return False
    return plain[0] == disguised[0] and bool(np.allclose(plain[1], disguised[1], rtol=0, atol=1e-4))


def _reason(error: Exception) -> str:
    """What the library said, without places in its own source and without paths."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return without_paths(" ".join(said or lines) or type(error).__name__)[:600].rstrip(". ") + "."

"""An OpenVINO GenAI folder examined: its graph read, its JSON files as a decoder's, and one answer where it fits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import Artifact
from openmaas.engines.huggingface.encoder import reason
from openmaas.formats.base import Examined, Task
from openmaas.formats.causal.examination import read_generator
from openmaas.formats.causal.folder import read_said
from openmaas.formats.causal.proof import fits
from openmaas.formats.causal.template import take_template
from openmaas.formats.causal.tokenizer import keep_tokenizer
from openmaas.formats.causal.version import describe, refuse_meaningless
from openmaas.formats.genai.graph import read_graph
from openmaas.formats.huggingface.folder import CONFIG, check_figures
from openmaas.formats.huggingface.weights import read_json

KIND = "openvino-genai"
_TOKENS = 8
_NOT_INSTALLED = "OpenVINO is not installed here, so that it was not run."


def examine(task: Task, entry: str) -> Examined:
    """Raises InvalidInput or Refused where the folder cannot or must not be served."""
    refuse_meaningless(task, KIND)
    path = (task.folder / entry).parent
    graph = read_graph(task.folder, entry)
    config = read_json(path / CONFIG)
    check_figures(config)
    said = read_said(path, config)
    generator, notes, added = read_generator(said, keep_tokenizer(task, path), take_template(task, said))
    generator = msgspec.structs.replace(generator, parameters=graph.parameters, weights=graph.precision)
    proved = _prove(task.folder / entry, generator.vocabulary)
    return describe(task, Artifact(kind=KIND, entry=entry), KIND, generator, (*notes, *proved), added)


def _prove(path: Path, vocabulary: int) -> list[str]:
    """What a person should know. Raises InvalidInput for an answer that is not finite, Refused where it does not run."""
    size = path.with_suffix(".bin").stat().st_size
    if not fits(size):
        return [f"Its weights have {size} bytes, too many for OPENMAAS_EXAMINE_MEMORY: it was not run."]
    if find_spec("openvino") is None:
        return [_NOT_INSTALLED]
    try:
        logits = _answer(path)
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(f"OpenVINO cannot run the graph: {reason(error)}", code="model_not_runnable") from None
    if logits.shape[-1] < vocabulary:
        raise Refused(
            f"The graph gives logits of {logits.shape[-1]} tokens; {CONFIG} names {vocabulary}.",
            code="vocabulary_mismatch",
            next_step=f"Push the {CONFIG} that the graph was made with.",
        )
    if not np.isfinite(logits).all():
        raise InvalidInput(f"The graph answers {_TOKENS} tokens with NaN or Infinity.", code="not_finite")
    return []


def _answer(path: Path) -> np.ndarray:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 2})
    tokens = np.arange(1, _TOKENS + 1, dtype=np.int64).reshape(1, -1)
    known = {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.arange(_TOKENS, dtype=np.int64).reshape(1, -1),
        "beam_idx": np.zeros(1, np.int32),
    }
    wanted = [name for port in model.inputs for name in port.names if name in known]
    return np.array(model.create_infer_request().infer({name: known[name] for name in wanted})["logits"])

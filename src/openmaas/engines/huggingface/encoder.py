"""A Hugging Face encoder that answers. The proof at push, the conversions and the engine that serves load it by this code."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, without_paths

Arrays = dict[str, NDArray[Any]]
Kind = Literal["embedding", "features", "sequence-classification", "token-classification"]
Pooling = Literal["cls", "max", "mean", "mean_sqrt_len"]
_CLASSES: dict[str, str] = {
    "embedding": "AutoModel",
    "features": "AutoModel",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
_DTYPES = {"": "float32", "bf16": "bfloat16"}
_OUTPUTS = {"pooled_output": "pooler_output"}  # where our name is another than theirs
_LEAST_COUNT = 1e-9  # of tokens in a row: sentence-transformers divides by the same where a row has none


class EncoderOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a folder is run: the options of an artifact of the kind "huggingface".

    inputs and outputs: names in the order in which the module takes and gives them. poolings: for an embedding, one after the
    other along its last axis, as sentence-transformers joins them. normalize: to length 1.
    """

    task: Kind
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    poolings: tuple[Pooling, ...] = ()
    normalize: bool = False

    @staticmethod
    def read(options: Mapping[str, Any]) -> EncoderOptions:
        return msgspec.convert(dict(options), EncoderOptions)


class Loaded(msgspec.Struct, frozen=True):
    """A model of transformers, and the names of weights that its class wants and the files lack, and the other way round."""

    model: Any
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def library(name: str = "transformers") -> Any:
    """transformers, which then never asks the network for anything. Raises EngineFailed where it is not installed."""
    import importlib

    os.environ.update(
        HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false"
    )
    try:
        importlib.import_module("torch")
        with quietly():
            return importlib.import_module(name)
    except ImportError:
        raise EngineFailed(
            "This is a Hugging Face model, and transformers or torch is not installed here.",
            code="library_missing",
            next_step="pip install 'openmaas[huggingface]' where the server runs.",
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Without what the libraries print and warn of while they load: what matters of it is told in notes and errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def load_model(folder: Path, task: Kind, dtype: str = "float32") -> Loaded:
    """The model of a folder that was examined: from its safetensors alone, without code of its own, in evaluation mode.

    Raises InvalidInput with what the library said.
    """
    transformers = library()
    try:
        with quietly(), _no_bars():
            try:
                model, told = _from_pretrained(getattr(transformers, _CLASSES[task]), folder, dtype, "sdpa")
            except ValueError as error:
                if "attention implementation" not in str(error):
                    raise
                model, told = _from_pretrained(getattr(transformers, _CLASSES[task]), folder, dtype, "eager")
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(f"transformers cannot load the model: {reason(error)}", code="load_failed") from None
    return Loaded(model.eval(), tuple(sorted(told["missing_keys"])), tuple(sorted(told["unexpected_keys"])))


def _from_pretrained(kind: Any, folder: Path, dtype: str, attention: str) -> tuple[Any, Any]:
    """The model, and what was loaded. The attention is always named: a configuration could ask for a kernel of somebody's."""
    import torch

    model, told = kind.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation=attention,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
    )
    return model, told


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


class Encoder:
    """`answer` takes and gives arrays by name. `module`, a torch.nn.Module, takes tensors in order and gives them by name."""

    def __init__(self, model: Any, options: EncoderOptions) -> None:
        self.options = options
        self.module = _module(model, options)

    @staticmethod
    def load(folder: Path, options: EncoderOptions, precision: str = "") -> Encoder:
        """Raises InvalidInput with what the library said, EngineFailed for a precision that it does not have."""
        if precision not in _DTYPES:
            raise EngineFailed(f"The precision {precision!r} is not one of {', '.join(filter(None, _DTYPES))}.")
        return Encoder(load_model(folder, options.task, _DTYPES[precision]).model, options)

    def answer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One batch, in float32. Raises EngineFailed with what the library said."""
        import torch

        try:
            with torch.inference_mode():
                tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.options.inputs]
                answers = self.module(*tensors)
                return {name: answers[name].float().numpy() for name in self.options.outputs}
        except OpenMaaSError:
            raise
        except Exception as error:
            raise EngineFailed(f"transformers cannot run this input: {reason(error)}") from None


def _module(model: Any, options: EncoderOptions) -> Any:
    """The model with its outputs by our names, and with pooling and normalisation where they belong to it."""
    import torch

    class Module(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> dict[str, Any]:
            """The inputs bear the names that an exporter gives them."""
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            found = self.model(input_ids=input_ids, attention_mask=attention_mask, **types, return_dict=True)
            if options.task == "embedding":
                return {"embedding": pooled(found.last_hidden_state, attention_mask, options.poolings, options.normalize)}
            return {name: found[_OUTPUTS.get(name, name)] for name in options.outputs}

    return Module().eval()


def pooled(hidden: Any, mask: Any, poolings: Sequence[Pooling], normalize: bool) -> Any:
    """One vector a row, float32 [N, D · poolings], of hidden states [N, L, D] where mask [N, L] is 1.

    Follows sentence_transformers.models.Pooling and Normalize. It is computed in float32 also where the model is not.
    """
    import torch

    hidden = hidden.float()
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    total = (hidden * kept).sum(1)
    count = kept.sum(1).clamp(min=_LEAST_COUNT)
    vectors = {
        "cls": lambda: hidden[:, 0],
        "max": lambda: hidden.masked_fill(kept == 0, -1e9).amax(1),
        "mean": lambda: total / count,
        "mean_sqrt_len": lambda: total / count.sqrt(),
    }
    vector = torch.cat([vectors[name]() for name in poolings], dim=-1)
    return torch.nn.functional.normalize(vector, p=2.0, dim=-1) if normalize else vector


def reason(error: object) -> str:
    """A library's own words on one line, without paths."""
    text = without_paths(" ".join(str(error).split())) or type(error).__name__
    return text[:600].rstrip(". ") + "."

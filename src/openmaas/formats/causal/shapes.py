"""Whether a folder's weights are those of the model that its configuration describes: names and shapes, no weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from openmaas.core.errors import InvalidInput, Refused
from openmaas.engines.huggingface.encoder import library, quietly, reason
from openmaas.formats.causal.folder import Decoder
from openmaas.formats.huggingface.folder import CONFIG
from openmaas.formats.huggingface.weights import Stored

_SHOWN = 4
_NEXT = f"Push {CONFIG} and the weights of one and the same model, as save_pretrained writes them."


def check_shapes(decoder: Decoder) -> list[str]:
    """What a person should know. Raises Refused where a weight is missing or has another shape.

    transformers loads tensors that have a shape and no memory: what it renames, joins and ties is done as for real ones.
    """
    config = _config(decoder)
    told = _loaded(config, decoder.tensors)
    if wrong := sorted(told["mismatched_keys"], key=str):
        name, stored, wanted = wrong[0]
        raise Refused(
            f"{CONFIG} and the weights do not fit: {str(name)[:120]!r} is {list(stored)}, and would have to be {list(wanted)}"
            f"{_more(len(wrong))}.",
            code="weights_mismatch",
            next_step=_NEXT,
        )
    if missing := sorted(told["missing_keys"]):
        raise Refused(
            f"{len(missing)} of the model's weights are not in its files: {_listed(missing)}.",
            code="weights_missing",
            next_step=_NEXT,
        )
    unused = sorted(told["unexpected_keys"])
    return [f"{len(unused)} weights of the files have no place in the model: {_listed(unused)}."] if unused else []


def _config(decoder: Decoder) -> Any:
    transformers = library()
    try:
        with quietly():
            config = transformers.AutoConfig.from_pretrained(decoder.said.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InvalidInput(f"transformers cannot read {CONFIG}: {reason(error)}", code="damaged") from None
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise InvalidInput(f"transformers has no generator of text for the model type {config.model_type!r}.", code="damaged")
    return config


def _loaded(config: Any, tensors: Mapping[str, Stored]) -> dict[str, Any]:
    """What transformers says of loading them."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    transformers = library()
    transformers.utils.logging.disable_progress_bar()
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # the mode is this thread's
    kind = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    try:
        with quietly(), FakeTensorMode(allow_non_fake_inputs=True):
            weights = {name: torch.empty(tensor.shape) for name, tensor in tensors.items()}
            _, told = kind.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                attn_implementation="eager",  # a configuration could ask for a kernel of somebody's
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"transformers cannot make the model that {CONFIG} describes: {reason(error)}", code="load_failed", next_step=_NEXT
        ) from None
    if told["error_msgs"]:
        raise InvalidInput(f"transformers cannot load the weights: {reason(told['error_msgs'][0])}", code="load_failed")
    return dict(told)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(name[:120] for name in names[:_SHOWN]) + _more(len(names), _SHOWN)


def _more(count: int, shown: int = 1) -> str:
    return f", and {count - shown} more" if count > shown else ""

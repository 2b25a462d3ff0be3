"""Convert with optimum-intel, and say what transformers itself answers. Run as a file by the environment's own interpreter.

The request on stdin: {"path": folder of the source, "output": folder, "weights": [bf16, int8, int4, int4-calibrated],
"prompts": [[token ids]], "calibration": [[token ids]] that calibrated weights are chosen on, "parent": process id}. Written: a
folder for each of the weights, in which the model, its tokenizer and its configuration lie, and `logits-N.npy`, FP32 [tokens,
vocabulary], for each prompt.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

_MODEL = "openvino_model.xml"
_LARGE = 4096  # elements from which a constant is weights
_GROUP = 128  # weights that share a scale, where they have 4 bits


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the job
    request: dict[str, Any] = json.load(sys.stdin)
    if os.getppid() != request["parent"]:
        sys.exit(1)
    _keep_quiet()
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # built for another torch, it breaks transformers' import
    output = Path(request["output"])
    _tell("loading the source")
    _answer(request["path"], request["prompts"], output)
    if not request["weights"]:
        return
    exported = output / "exported"
    _tell("exporting")
    _export(request["path"], exported)
    for weights in request["weights"]:
        _tell(f"compressing to {weights}")
        _compress(exported, weights, output / weights, request["calibration"])
    shutil.rmtree(exported)


def _tell(stage: str) -> None:
    sys.stdout.write(f"stage: {stage}\n")
    sys.stdout.flush()


def _keep_quiet() -> None:
    """No network, and nothing told to anybody: OpenVINO's tools read whether they may in a file at HOME, a folder of ours."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    warnings.simplefilter("ignore")  # of what a trace cannot know; the result is compared with its source
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    consent = Path(os.environ["HOME"]) / "intel" / "openvino_telemetry"
    consent.parent.mkdir(exist_ok=True)
    consent.write_text("0")


def _answer(path: str, prompts: list[list[int]], output: Path) -> None:
    """The source's own logits after each token of each prompt, computed in full precision where there is memory for it."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    full = 4 * size < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # at worst twice the size, and as much to load
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32 if full else "auto", trust_remote_code=False, local_files_only=True, use_safetensors=True
    ).eval()
    with torch.inference_mode():
        for number, prompt in enumerate(prompts):
            logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
            np.save(output / f"logits-{number}.npy", logits.float().numpy())


def _export(path: str, exported: Path) -> None:
    """The model in its own precision, with the tokenizer as OpenVINO models."""
    from optimum.exporters.openvino import main_export
    from optimum.intel.openvino.configuration import OVConfig

    main_export(
        model_name_or_path=path,
        output=exported,
        task="text-generation-with-past",
        library_name="transformers",
        trust_remote_code=False,
        local_files_only=True,
        convert_tokenizer=True,
        ov_config=OVConfig(),  # without one, weights of large models are compressed to int8
    )


def _compress(exported: Path, weights: str, folder: Path, calibration: list[list[int]]) -> None:
    import openvino

    folder.mkdir()
    model = openvino.Core().read_model(exported / _MODEL)
    if weights == "bf16":
        _round(model)
    else:
        _quantise(model, weights, calibration if weights.endswith("-calibrated") else [])
    openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)
    del model
    for file in exported.iterdir():
        if file.stem != Path(_MODEL).stem:
            os.link(file, folder / file.name)


def _round(model: Any) -> None:
    """All weights as bfloat16: what is larger than a bias and is FP32 or FP16 becomes a constant and its conversion back."""
    from openvino import Type, opset13

    for constant in model.get_ops():
        wide = constant.get_type_name() == "Constant" and constant.get_element_type() in (Type.f32, Type.f16)
        if not wide or constant.data.size < _LARGE:
            continue
        rounded = opset13.constant(constant.data, Type.bf16)
        back = opset13.convert(rounded, constant.get_element_type().to_string())
        back.set_friendly_name(f"{constant.get_friendly_name()}/rounded")
        for target in constant.output(0).get_target_inputs():
            target.replace_source_output(back.output(0))


def _quantise(model: Any, weights: str, calibration: list[list[int]]) -> None:
    import nncf

    if weights == "int8":
        nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        return
    chosen: dict[str, Any] = {}
    if calibration:
        # AWQ scales what large activations meet (Lin et al. 2023); the scales of the groups are then fitted to the activations.
        rows = [_fed(model, ids) for ids in calibration]
        chosen = {"dataset": nncf.Dataset(rows), "subset_size": len(rows), "awq": True, "scale_estimation": True}
    nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        ratio=1.0,
        group_size=_GROUP,
        advanced_parameters=nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST),
        **chosen,
    )


def _fed(model: Any, ids: list[int]) -> dict[str, Any]:
    """What the model takes for a passage from its beginning."""
    import numpy as np

    rows = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    names = {name for one in model.inputs for name in one.get_names()}
    return {name: array for name, array in rows.items() if name in names}


if __name__ == "__main__":
    main()

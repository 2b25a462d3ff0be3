"""Quantisation by NNCF: the result is OpenVINO IR."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from openmaas.core.errors import without_paths
from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Quantize
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot
from openmaas.tasks.optimization.checks import probe_of, require_finite, verify
from openmaas.tasks.optimization.graphs import read_graph
from openmaas.tasks.optimization.passes.quantize.files import POOR, size_of
from openmaas.tasks.optimization.passes.quantize.integers import calibration
from openmaas.tasks.optimization.passes.quantize.layers import excluded_names
from openmaas.tasks.optimization.passes.quantize.smoothing import smoothed_piece

_NAME: Final = "model.xml"
_LAYERS: Final = frozenset(
    {"MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "Gather"}
)
_SMALL: Final = frozenset({"i8", "u8", "i4", "u4"})


def run(piece: Piece, parameters: Quantize, bench: Bench) -> Piece:
    """The piece as OpenVINO IR with int8 computing (static) or weights in few bits (weights)."""
    _refuse_early(parameters)
    if piece.artifact.kind == "onnx":
        require_finite(read_graph(piece.path))
    source = piece
    if parameters.smooth:
        source = smoothed_piece(piece, parameters, calibration(piece, parameters, bench), bench)
    bench.progress("reading the model")
    model = _opened(source, parameters)
    layers = _layers(model)
    if not layers:
        kinds = ", ".join(sorted({operation.get_type_name() for operation in model.get_ordered_ops()})[:12])
        raise cannot(
            parameters, f"nothing can be quantised: the graph has {kinds}, and no MatMul or convolution with weights",
            "Leave the step out.",
        )  # fmt: skip
    names = [operation.get_friendly_name() for operation in model.get_ordered_ops()]
    ignored = sorted(excluded_names(names, parameters.exclude))
    batches = calibration(piece, parameters, bench) if _calibrated(parameters, bench) else []
    trials = []
    for aware in (True, False) if parameters.method == "weights" and batches else (bool(batches),):
        folder = bench.folder / ("on-data" if aware else "plain")
        folder.mkdir()
        with _quietly(), _seeded(bench.seed):
            quantised = _quantised(source, parameters, _Batches(batches if aware else [], bench), ignored)
        left = [name for name, small in _layers(quantised).items() if not small]
        if len(left) >= len(layers):
            raise cannot(
                parameters, f"NNCF quantised none of its {len(layers)} layers ({', '.join(sorted(layers)[:4])})",
                "Exclude fewer nodes, or use tool: onnxruntime.",
            )  # fmt: skip
        bench.progress("writing the model")
        artifact = _write(quantised, folder, piece.artifact)
        cosine = verify(parameters, piece, artifact, folder, probe_of(piece, bench.training))
        trials.append(_Trial(cosine, aware, folder, artifact, left))
    best = max(trials, key=lambda trial: trial.cosine)
    for other in trials:
        if other is not best:
            bench.log(f"scales {_told(best)} are kept: a least cosine of {best.cosine:.4f}, {_told(other)} {other.cosine:.4f}")
            shutil.rmtree(other.folder)
    artifact, left, cosine = best.artifact, best.left, best.cosine
    facts = {
        "method": parameters.method,
        "scheme": _scheme(parameters, best.aware),
        "layers": len(layers) - len(left),
        "in_float": left,
        "bytes": [size_of(piece.folder, piece.artifact), size_of(best.folder, artifact)],
        "least_cosine": cosine,
    }
    notes = [f"{len(layers) - len(left)} of {len(layers)} layers quantised: {facts['scheme']}."]
    if cosine < POOR:
        notes.append(f"Quantised, its answers are far from those before: the least cosine of a row is {cosine:.3f}.")
    return piece.changed(artifact, best.folder, *notes, quantize=facts)


def _opened(piece: Piece, parameters: Quantize) -> Any:
    from openmaas.engines.openvino.model import read_model

    try:
        return read_model(piece.path, piece.artifact.kind)
    except Exception as error:  # a base class of OpenVINO's own that is imported with it alone
        said = " ".join(str(error).split())
        _, found, operators = said.partition("No conversion rule found for operations: ")
        reason = (
            f"OpenVINO does not know {operators[:200]}" if found else f"OpenVINO cannot read it: {without_paths(said)[:300]}"
        )
        raise cannot(parameters, reason.rstrip(". "), "Use tool: onnxruntime.") from None


class _Trial(NamedTuple):
    """Scales that are fitted on data are sometimes far off, which only a comparison shows; so the plain ones are made too."""

    cosine: float
    aware: bool
    folder: Path
    artifact: Artifact
    left: list[str]


def _told(trial: _Trial) -> str:
    return "fitted on data" if trial.aware else "of the weights alone"


def _quantised(piece: Piece, parameters: Quantize, dataset: _Batches, ignored: Sequence[str]) -> Any:
    from openmaas.engines.openvino.model import read_model

    model = read_model(piece.path, piece.artifact.kind)  # NNCF changes the one that it is given
    return (_static if parameters.method == "static" else _weights)(model, parameters, dataset, ignored)


def _refuse_early(parameters: Quantize) -> None:
    if "nncf" not in sys.modules:
        from importlib.util import find_spec

        if find_spec("nncf") is None or find_spec("openvino") is None:
            raise cannot(
                parameters, "NNCF or OpenVINO is not installed here",
                "Install it on the server: pip install 'openmaas[compression,openvino]'; or use tool: onnxruntime.",
            )  # fmt: skip
    if parameters.keep_worst:
        raise cannot(
            parameters, "keep_worst searches with onnxruntime only",
            "Search with tool: onnxruntime, and give the layers that it names to exclude.",
        )  # fmt: skip
    if parameters.method == "static" and parameters.calibration == "entropy":
        raise cannot(
            parameters, "NNCF has no calibration by entropy", "Use calibration min-max or percentile, or tool: onnxruntime."
        )


def _calibrated(parameters: Quantize, bench: Bench) -> bool:
    """Weights of 4 bits are chosen on data where there is some."""
    return parameters.method == "static" or (parameters.bits == 4 and bench.training is not None)


def _static(model: Any, parameters: Quantize, dataset: Any, ignored: Sequence[str]) -> Any:
    import nncf
    from nncf.quantization import range_estimator
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    advanced: dict[str, Any] = {"weights_quantization_params": QuantizationParameters(per_channel=parameters.per_channel)}
    if parameters.calibration == "percentile":
        end = range_estimator.StatisticsCollectorParameters(
            statistics_type=range_estimator.StatisticsType.QUANTILE,
            aggregator_type=range_estimator.AggregatorType.MEAN,
            quantile_outlier_prob=1 - parameters.percentile / 100,
        )
        advanced["activations_range_estimator_params"] = range_estimator.RangeEstimatorParameters(min=end, max=end)
    return nncf.quantize(
        model,
        dataset.dataset(),
        subset_size=len(dataset),
        preset=nncf.QuantizationPreset.PERFORMANCE if parameters.symmetric else nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if _is_transformer(model) else None,
        ignored_scope=nncf.IgnoredScope(names=list(ignored)) if ignored else None,
        advanced_parameters=AdvancedQuantizationParameters(**advanced),
    )


def _weights(model: Any, parameters: Quantize, dataset: Any, ignored: Sequence[str]) -> Any:
    import nncf

    kind = "SYM" if parameters.symmetric else "ASYM"
    options: dict[str, Any] = {"mode": getattr(nncf.CompressWeightsMode, f"INT{parameters.bits}_{kind}")}
    if ignored:
        options["ignored_scope"] = nncf.IgnoredScope(names=list(ignored))
    if parameters.bits == 4:
        options |= {
            "ratio": 1.0,
            "group_size": parameters.group or -1,
            "advanced_parameters": nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        }
        if len(dataset):
            # Scales are chosen so that channels with large inputs lose least (AWQ), then fitted to what the layer answers.
            options |= {
                "dataset": dataset.dataset(), "subset_size": len(dataset), "awq": True, "scale_estimation": True,
            }  # fmt: skip
    made = nncf.compress_weights(model, **options)
    if parameters.inputs_group:  # read by the plugin for processors when it compiles
        made.set_rt_info(str(parameters.inputs_group), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return made


class _Batches:
    """Batches as NNCF reads them, each telling how far it is."""

    def __init__(self, batches: Sequence[Arrays], bench: Bench) -> None:
        self._batches = batches
        self._bench = bench

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Arrays]:
        for number, batch in enumerate(self._batches):
            self._bench.progress("calibrating", number, len(self._batches))
            yield batch

    def dataset(self) -> Any:
        import nncf

        return nncf.Dataset(self)


def _layers(model: Any) -> dict[str, bool]:
    """Operations with weights by name, and whether those have few bits."""
    found = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() not in _LAYERS:
            continue
        places = (0,) if operation.get_type_name() == "Gather" else (0, 1)
        kinds = [_constant(operation.input_value(place).get_node()) for place in places]
        weights = [one for one in kinds if one is not None and one[1] >= 32]
        if weights:
            found[operation.get_friendly_name()] = any(kind in _SMALL for kind, _ in weights)
    return {name: small for name, small in found.items() if small or _is_float(name, model)}


def _is_float(name: str, model: Any) -> bool:
    """Whether what the operation gives is a float: tables of whole numbers are no weights."""
    operation = next(one for one in model.get_ordered_ops() if one.get_friendly_name() == name)
    return bool(operation.output(0).get_element_type().is_real())


def _constant(node: Any) -> tuple[str, int] | None:
    """Element type and size of the constant that a value is made of, through what only restores or arranges it."""
    for _ in range(12):
        kind = node.get_type_name()
        if kind == "Constant":
            size = 1
            for length in node.get_output_shape(0):
                size *= length
            return node.get_output_element_type(0).get_type_name(), size
        if kind not in ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize", "FakeConvert"):
            return None
        node = node.input_value(0).get_node()
    return None


def _is_transformer(model: Any) -> bool:
    """Whether NNCF should treat it as one: attention, and normalised layers."""
    kinds = {operation.get_type_name() for operation in model.get_ordered_ops()}
    return bool(kinds & {"Softmax", "ScaledDotProductAttention"}) and "MVN" in kinds


def _write(model: Any, folder: Path, source: Artifact) -> Artifact:
    import openvino

    openvino.save_model(model, str(folder / _NAME), compress_to_fp16=False)
    options = source.options if source.kind == "openvino" else {}
    return Artifact(kind="openvino", entry=_NAME, options=options)


def _scheme(parameters: Quantize, calibrated: bool) -> str:
    kind = "symmetric" if parameters.symmetric else "asymmetric"
    smooth = f", smoothed by {parameters.smooth:g}" if parameters.smooth else ""
    if parameters.method == "static":
        each = "each channel" if parameters.per_channel else "each tensor"
        return f"int8 weights, a scale for {each}, {kind} inputs by {parameters.calibration}{smooth}"
    each = f"{parameters.group} weights" if parameters.bits == 4 and parameters.group else "each channel"
    inputs = f", {parameters.inputs_group} inputs share one" if parameters.inputs_group else ""
    return f"{parameters.bits} bits {kind}, a scale for {each}{inputs}{smooth}" + (", chosen on data" if calibrated else "")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NNCF draws from numpy's global generator."""
    import numpy as np

    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without NNCF's log and bars: the job has its own."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)

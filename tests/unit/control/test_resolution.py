from __future__ import annotations

import msgspec
import pytest

from openmaas.control.resolution import follow, force, require_runnable, unmeasured
from openmaas.control.revisions import Options, options_of
from openmaas.core.errors import Conflict, InvalidInput
from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.measurement import Measurement, Tried, TriedState
from openmaas.core.resources import DeployRequest
from openmaas.core.types import Signature

ONNX = Artifact(kind="onnx", entry="m")
MANIFEST = Manifest(
    format="onnx", engine="onnxruntime", entry="m", artifacts=(ONNX,), signature=Signature(inputs=(), outputs=()), files=()
)


def choice(engine: str, precision: str = "", threads: int = 0) -> EngineChoice:
    return EngineChoice(engine=engine, artifact=ONNX, precision=precision, threads=threads)


def tried(engine: str, threads: int, rate: float, state: TriedState = "fit", precision: str = "", cause: str = "") -> Tried:
    rates = {1: rate} if state == "fit" else {}
    return Tried(choice=choice(engine, precision, threads), state=state, rates=rates, cause=cause)


def measured(*all_: Tried) -> Measurement:
    return Measurement(processor=Processor(model="P", cores=4), sample="given", reference="r", tried=all_)


FOUR_CORES = measured(
    tried("onnxruntime", 4, 100), tried("openvino", 4, 300), tried("onnxruntime", 2, 90), tried("openvino", 2, 80),
    tried("onnxruntime", 1, 70), tried("openvino", 1, 20),
)  # fmt: skip


def followed(options: Options, cores: int = 4, measurement: Measurement = FOUR_CORES) -> tuple[str, int]:
    found = follow(measurement, MANIFEST, options, cores)
    return found.choice.label, found.choice.threads


def test_auto_takes_what_is_fastest_with_the_replica_s_share() -> None:
    """0 threads: all that the replica has, so that the supervisor goes on sharing the cores."""
    assert followed(Options(replicas=1)) == ("openvino", 0)
    assert followed(Options(replicas=2)) == ("onnxruntime", 0)
    assert followed(Options(replicas=3)) == ("onnxruntime", 0)
    assert followed(Options(replicas=64)) == ("onnxruntime", 0)


def test_fewer_threads_than_its_share_where_more_are_no_faster() -> None:
    measurement = measured(tried("onnxruntime", 4, 100), tried("onnxruntime", 1, 101))
    assert followed(Options(), measurement=measurement) == ("onnxruntime", 1)


def test_a_given_number_of_threads_is_kept() -> None:
    """What was measured with the closest number below it decides which engine."""
    measurement = measured(
        tried("onnxruntime", 4, 100), tried("openvino", 4, 90), tried("onnxruntime", 1, 10), tried("openvino", 1, 200)
    )
    assert followed(Options(threads=4), measurement=measurement) == ("onnxruntime", 0)
    assert followed(Options(threads=16), measurement=measurement) == ("onnxruntime", 0)
    assert followed(Options(threads=3), measurement=measurement) == ("openvino", 0)
    assert followed(Options(threads=1), measurement=measurement) == ("openvino", 0)


def test_the_version_s_own_where_nothing_fits() -> None:
    found = follow(measured(tried("openvino", 1, 1, "crashed")), MANIFEST, Options(), 4)
    assert found.choice == MANIFEST.choice
    assert "none of the engines that were measured fits" in found.why


def test_what_was_not_measured_says_so() -> None:
    found = unmeasured(MANIFEST, "there is no measurement")
    assert found.choice == MANIFEST.choice
    assert found.why == "not measured: there is no measurement"


class TestForced:
    ways = (choice("onnxruntime"), choice("openvino"), choice("openvino", "bf16"))

    def forced(self, name: str, measurement: Measurement | None = None) -> tuple[EngineChoice, str]:
        found = force(name, self.ways, measurement, Options(), 4)
        return found.choice, found.why

    def test_without_a_measurement(self) -> None:
        assert self.forced("openvino:bf16") == (choice("openvino", "bf16"), "asked for")

    def test_with_one_the_threads_follow_it(self) -> None:
        measurement = measured(tried("openvino", 4, 100), tried("openvino", 1, 120), tried("onnxruntime", 1, 1000))
        found, why = self.forced("openvino", measurement)
        assert found == choice("openvino", threads=1)
        assert "measured" in why

    def test_nobody_of_that_name(self) -> None:
        with pytest.raises(InvalidInput, match="No engine here is called 'tpu'") as caught:
            self.forced("tpu")
        assert caught.value.next_step == "These can: onnxruntime, openvino, openvino:bf16."
        assert caught.value.status == 400

    @pytest.mark.parametrize("state", ["load_failed", "crashed", "not_finite", "wrong_shape", "memory_limit", "timed_out"])
    def test_one_that_was_seen_not_to_run_it(self, state: TriedState) -> None:
        measurement = measured(tried("onnxruntime", 1, 5), tried("openvino", 1, 0, state, cause="It says no."))
        with pytest.raises(InvalidInput, match=f"openvino cannot run this version: {state}: It says no") as caught:
            self.forced("openvino", measurement)
        assert caught.value.next_step == "These can: onnxruntime."

    def test_outside_the_tolerance_is_allowed_and_told(self) -> None:
        measurement = measured(tried("openvino", 1, 0, "outside_tolerance", "bf16", "At batch 8 …"))
        found, why = self.forced("openvino:bf16", measurement)
        assert found == choice("openvino", "bf16")
        assert why == "asked for, although outside the tolerance: At batch 8 …"


def test_a_version_that_nothing_runs_names_the_command() -> None:
    with pytest.raises(Conflict, match="must be converted first") as caught:
        require_runnable("digits:3", msgspec.structs.replace(MANIFEST, engine=""))
    assert caught.value.next_step == "openmaas convert digits:3 --to onnx"
    require_runnable("digits:3", MANIFEST)


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", ":a", "../x", "a" * 500, "ö", "a\n"])
def test_names_that_cannot_be_an_engine_s(name: str) -> None:
    with pytest.raises(InvalidInput, match="engine is"):
        options_of(DeployRequest(version="digits", engine=name))

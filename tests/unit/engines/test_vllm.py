from __future__ import annotations

from pathlib import Path

import pytest

from openmaas.core import hardware
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.types import Signature
from openmaas.engines.vllm import VllmEngine

MANIFEST = Manifest(format="causal", engine="", entry="config.json", signature=Signature(inputs=(), outputs=()), files=())


def test_it_is_a_choice_only_where_the_system_gives_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VllmEngine, "library", "json")  # as if it were installed
    monkeypatch.setattr(hardware, "_DEVICES", tmp_path)
    causal = Artifact(kind="causal", entry="config.json")
    assert VllmEngine.choices(causal, MANIFEST) == ()
    (tmp_path / "nvidiactl").touch()
    assert VllmEngine.choices(causal, MANIFEST) == ()
    (tmp_path / "nvidia0").touch()
    assert [choice.label for choice in VllmEngine.choices(causal, MANIFEST)] == ["vllm"]
    assert VllmEngine.choices(Artifact(kind="gguf", entry="a.gguf"), MANIFEST) == ()


def test_seeds_beyond_32_bits_stay_apart() -> None:
    from openmaas.engines.vllm.sampling import _seed

    assert [_seed(seed) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    seeds = {_seed(seed) for seed in (7, 2**32 + 7, 2**33 + 7, 2**63 + 7, -7)}
    assert len(seeds) == 5 and all(0 <= seed < 2**32 for seed in seeds)

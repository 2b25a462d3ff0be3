"""Every pass once, by the real program on trained models: registered, with lineage, and served as it was evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.unit.formats.encoders import encoder_folder

from .compression import World, cancer, cnn_weights, make_world, save, save_cnn, save_table
from .conftest import Server
from .test_compression import assert_lineage, assert_served_as_evaluated, newest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PASSES: dict[str, list[Any]] = {
    "prune global": [{"prune": {"method": "global", "amount": 0.5, "epochs": 2}}, "compress"],
    "prune layer": [{"prune": {"method": "layer", "amount": 0.3, "exclude": ["head"]}}],
    "prune l1": [{"prune": {"method": "l1", "amount": 0.5, "epochs": 2, "strength": 0.001}}, "compress"],
    "prune channels": [{"prune": {"method": "channels", "amount": 0.25, "epochs": 3}}],
    "prune n:m": [{"prune": {"method": "n:m", "n": 2, "m": 4, "epochs": 2}}],
    "quantize dynamic": [{"quantize": {"method": "dynamic"}}],
    "quantize min-max": [{"quantize": {"method": "static", "samples": 64}}, "compress"],
    "quantize entropy": [{"quantize": {"method": "static", "calibration": "entropy", "samples": 64}}],
    "quantize percentile": [{"quantize": {"method": "static", "calibration": "percentile", "samples": 64}}],
    "quantize random": [{"quantize": {"method": "static", "calibration": "random"}}],
    "quantize keep worst": [{"quantize": {"method": "static", "samples": 64, "keep_worst": 0.4}}],
    "quantize by openvino": [{"quantize": {"method": "static", "tool": "openvino", "samples": 64}}],
    "quantize weights": [{"quantize": {"method": "weights", "group": 32}}],
    "quantize weights by openvino": [{"quantize": {"method": "weights", "tool": "openvino"}}],
    "quantize affine": [{"quantize": {"method": "affine", "bits": 4, "rounding": "stochastic"}}, "compress"],
    "distil": [{"distil": {"teacher": "other:1", "epochs": 4, "shrink": 0.5}}],
    "fuse": [{"fuse": {"what": "batch-norm"}}, {"fuse": {"what": "graph"}}],
    "merge average": [{"merge": {"versions": ["tuned:1"], "weights": [0.7, 0.3]}}],
    "merge ties": [{"merge": {"method": "ties", "versions": ["tuned:1"], "base": "base:1", "density": 0.5}}],
    "merge chain": [{"merge": {"method": "chain", "versions": ["after:1"]}}],
    "low-rank": [{"low-rank": {"rank": 7, "epochs": 3}}],
    "cast fp16": [{"cast": {"to": "fp16"}}, "compress"],
    "cast bf16": [{"cast": {"to": "bf16"}}],
    "convert": [{"convert": {"to": "openvino"}}],
    "several": [
        {"prune": {"method": "channels", "amount": 0.25, "epochs": 2}},
        "fuse",
        {"quantize": {"samples": 64}},
        "compress",
    ],
}
LOSSY = {
    "quantize random",
    "distil",
    "merge ties",
    "prune layer",
    "quantize affine",
    "merge average",
    "prune channels",
    "several",
}
"""Of which only the record has to be right, not the quality."""

REPEATED = ("prune l1", "prune channels", "quantize entropy", "quantize by openvino", "quantize affine", "distil")


@pytest.fixture(scope="module")
def world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(server, tmp_path_factory.mktemp("files"))
    client = server.client()
    others = {
        "base": cnn_weights(0, epochs=6),
        "tuned": cnn_weights(5, made.weights, epochs=2),
        "other": cnn_weights(9),
    }
    for name, weights in others.items():
        client.push(save_cnn(made.folder / f"{name}.onnx", weights), name=name)
    nodes = [onnx.helper.make_node("Mul", ["scores", "two"], ["calibrated"], name="scale")]
    after = save(
        made.folder / "after.onnx", nodes, {"two": np.full(10, 2, np.float32)}, {"scores": ["N", 10]}, {"calibrated": ["N", 10]}
    )
    client.push(after, name="after")
    return made


@pytest.mark.parametrize("about", PASSES)
def test_a_pass_makes_a_version_that_serves_as_it_was_evaluated(world: World, about: str) -> None:
    steps, before = PASSES[about], world.versions()
    result = world.optimize("digits:1", *steps, seed=21)
    reference = result["version"]
    assert result["created"] and result["versions"] == [reference]
    assert sorted([*before, reference]) == world.versions()
    assert_lineage(world, reference, seed=21, data="digits-train:1")
    shown = world.server.json("show", reference)
    recorded = json.loads(shown["recipe"])["optimize"]["steps"]
    assert [next(iter(step)) for step in recorded] == [step if isinstance(step, str) else next(iter(step)) for step in steps]
    evaluated = newest(world, reference)
    label = evaluated.figures.choice.label if evaluated.figures else ""
    world.server.run("deploy", reference, "--as", "passes", "--engine", label)
    output = "calibrated" if about == "merge chain" else "scores"
    assert_served_as_evaluated(world, "passes", reference, output)
    if about not in LOSSY:
        assert evaluated.metrics["accuracy"].value > newest(world, "digits:1").metrics["accuracy"].value - 0.1


@pytest.mark.parametrize("about", REPEATED)
def test_the_same_seed_makes_the_same_files(world: World, about: str) -> None:
    first = world.optimize("digits:1", *PASSES[about], seed=33)
    again = world.optimize("digits:1", *PASSES[about], seed=33)
    assert again["version"] == first["version"], "another file from the same seed"
    assert not again["created"]


def test_another_seed_makes_another_file(world: World) -> None:
    made = [world.optimize("digits:1", *PASSES["quantize affine"], seed=seed)["version"] for seed in (40, 41)]
    assert made[0] != made[1]


# ── trees and texts ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trees(world: World) -> str:
    from sklearn.ensemble import GradientBoostingClassifier
    from xgboost import XGBClassifier

    rows, labels = cancer()
    client = world.server.client()
    booster = XGBClassifier(n_estimators=60, max_depth=3, random_state=0, n_jobs=1).fit(rows[:400], labels[:400])
    booster.save_model(world.folder / "trees.ubj")
    client.push(world.folder / "trees.ubj", name="trees")
    forest = GradientBoostingClassifier(n_estimators=30, random_state=0).fit(rows[:400], labels[:400])
    client.push(forest, name="forest", sample=rows[:8])
    client.push_dataset(save_table(world.folder / "cancer-test.parquet", slice(400, None)))
    return "trees:1"


@pytest.mark.parametrize("model", ["trees", "forest"])
def test_trees_are_pruned(world: World, trees: str, model: str) -> None:
    result = world.optimize(f"{model}:1", {"prune": {"method": "trees", "amount": 0.5}}, data="", test="cancer-test")
    assert result["version"] == f"{model}:2"
    parent, made = result["comparison"]["entrants"]
    assert made["figures"]["size"] < 0.75 * parent["figures"]["size"]
    assert made["metrics"]["accuracy"]["value"] > 0.9


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"quantize": {"method": "dynamic"}}, "TreeEnsembleClassifier"),
        ({"low-rank": {}}, "no linear layer"),
        ({"prune": {"method": "channels"}}, "TreeEnsembleClassifier"),
    ],
)
def test_what_trees_cannot_be_given_is_explained(world: World, trees: str, step: dict[str, Any], told: str) -> None:
    before = world.versions("trees")
    done = world.server.run(*world.words(trees, step, data="", test="cancer-test"), check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert "next" in done.stderr
    assert world.versions("trees") == before


@pytest.mark.parametrize("step", [{"quantize": {"method": "dynamic"}}, {"quantize": {"method": "weights", "tool": "openvino"}}])
def test_an_encoder_is_quantized(world: World, tmp_path: Path, step: dict[str, Any]) -> None:
    client = world.server.client()
    client.push(encoder_folder(tmp_path / "encoder"), name="encoder")
    texts = tmp_path / "texts.csv"
    texts.write_text("text\n" + "".join(f"a sentence about {word}\n" for word in ("one", "two", "three", "four", "five")))
    client.push_dataset(texts, name="texts")
    result = world.optimize("encoder:1", step, data="texts", test="")
    made = result["comparison"]["entrants"][1]
    assert made["agreement"]["cosine"] > 0.9
    world.server.run("deploy", result["version"], "--as", "encoder")
    assert len(client.predict("encoder", ["a sentence about one", "two"])) == 2


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────────


def figure(entrant: dict[str, Any], target: str) -> float:
    figures = entrant["figures"]
    return float(figures["size"] if target == "size" else figures["speeds"][0]["p50"])


@pytest.mark.parametrize("target", ["size", "latency"])
def test_a_search_ends_in_time_and_recommends_nothing_worse(world: World, target: str) -> None:
    words = ["optimize", "digits:1", "--auto", "--max-loss", "2%", "--target", target, "--seconds", "60"]
    done = world.server.run(*words, "--data", "digits-train", "--eval", "digits-test", "--json", timeout=400)
    result = json.loads(done.stdout)["result"]
    assert result["seconds"] < 100
    entrants = result["comparison"]["entrants"]
    registered = [one for one in entrants[1:] if one["registered"]]
    assert {one["version"] for one in registered} == set(result["versions"])
    assert not [one["version"] for one in registered if one["dominated"]]
    assert all(one["loss"]["value"] <= 0.02 for one in registered)
    if result["version"]:
        assert result["version"] in result["versions"]
        best = next(one for one in registered if one["version"] == result["version"])
        assert figure(best, target) < figure(entrants[0], target)
        choice = best["figures"]["choice"]
        label = ":".join(filter(None, (choice["engine"], choice["precision"])))
        world.server.run("deploy", result["version"], "--as", "found", "--engine", label)
        assert_served_as_evaluated(world, "found", result["version"])
    else:
        assert target == "latency", "a packed file is smaller in any case"


def test_the_report_is_drawn_by_a_browser(world: World, tmp_path: Path) -> None:
    import shutil
    import subprocess

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed")
    made = world.optimize("digits:1", *PASSES["quantize affine"], seed=50)["version"]
    report = tmp_path / "report.html"
    world.server.run("compare", "digits:1", made, "--data", "digits-test", "--seconds", "1", "--report", str(report))
    picture = tmp_path / "report.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,2400"]
    subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path}/profile", f"--screenshot={picture}", report.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, "an empty page"

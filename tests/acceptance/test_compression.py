"""Compression as a user types it: from datasets and a recipe to a smaller model that serves; and what is refused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.client import JobFailed
from openmaas.core.errors import Cancelled
from openmaas.core.evaluations import Evaluation
from openmaas.core.metrics import decode_outcomes
from openmaas.core.resources import JobInfo

from .compression import (
    TEST,
    World,
    cancer,
    digits,
    make_world,
    save_cnn,
    save_mlp,
    save_pictures,
    save_rows,
    save_table,
)
from .conftest import Server, alive

pytestmark = pytest.mark.timeout(300)
ROUNDED = {"quantize": {"method": "affine", "bits": 2, "per_channel": False}}


@pytest.fixture(scope="module")
def world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(server, tmp_path_factory.mktemp("files"))


class Page(HTMLParser):
    """What a page names from elsewhere, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "srcset")]


# ── what a user does ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_story(world: World) -> None:
    server, report = world.server, world.folder / "report.html"
    again = server.run("data", "push", str(world.folder / "digits-test.npz"), "--name", "digits-test")
    assert "digits-test:1 is exactly this already" in again.stdout

    told = server.run("evaluate", "digits", "--data", "digits-test", "--seconds", "1", timeout=240)
    assert "digits:1 on digits-test:1, 597 rows, by onnxruntime" in told.stdout
    measured = newest(world, "digits:1")
    assert_as_scikit_learn_says(measured, world)

    poor = world.optimize("digits", ROUNDED, "compress", seed=11)
    good = world.optimize("digits:1", "fuse", data="")
    assert (poor["version"], good["version"]) == ("digits:2", "digits:3")
    shown = server.json("show", "digits:2")
    assert (shown["manifest"]["entry"], shown["parent"]) == ("model.onnx.xz", "digits:1")

    words = ("compare", "digits:1", "digits:2", "digits:3", "--data", "digits-test", "--seconds", "2", "--report", str(report))
    compared = server.run(*words, timeout=240).stdout  # another server may be measuring
    assert "affine" in compared
    page = Page()
    page.feed(report.read_text())
    assert "svg" in page.tags
    assert "script" not in page.tags
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []

    server.run("gate", "set", "digits", "champion", "--metric", "accuracy", "--max-loss", "0.5%", "--max-p99", "1s")
    gate = server.json("gate", "show", "digits", "champion")["rules"]
    assert (gate["dataset"], gate["baseline"]) == ("digits-test:1", "digits:1"), "not what an optimisation made"
    refused = server.run("alias", "digits", "champion", "2", check=False)
    assert refused.returncode == 1
    assert "accuracy lost" in refused.stdout + refused.stderr
    assert "digits-test:1" in refused.stdout + refused.stderr
    assert server.json("alias", "digits") == {}
    server.run("gate", "set", "digits", "champion", "--metric", "accuracy", "--max-loss", "2%")
    assert "digits@champion → digits:3" in server.run("alias", "digits", "champion", "3").stdout
    server.run("alias", "digits", "champion", "2", "--force", "--reason", "the edge device has 4 kB")
    forced, passed, first = server.json("gate", "history", "digits")["items"]
    assert [one["outcome"] for one in (forced, passed, first)] == ["forced", "passed", "refused"]
    assert (forced["actor"], forced["reason"], forced["previous"]) == ("admin", "the edge device has 4 kB", 3)
    assert not all(check["passed"] for check in forced["checks"])
    server.run("alias", "digits@champion", "--remove")

    tree = server.run("lineage", "digits:3").stdout
    assert [line for line in tree.splitlines() if "digits:2" in line or "digits:3" in line]
    assert_lineage(world, "digits:2", seed=11, data="digits-train:1")

    server.run("gate", "set", "digits", "--deployment", "served", "--max-loss", "2%", "--baseline", "digits:1")
    kept = server.run("deploy", "digits:2", "--as", "served", check=False)
    assert kept.returncode == 1
    assert "accuracy lost" in kept.stdout + kept.stderr
    assert server.replicas("served") == []
    server.run("deploy", "digits:2", "--as", "served", "--force", "--reason", "to see what it answers")
    assert_served_as_evaluated(world, "served", "digits:2")
    assert newest(world, "digits:2").metrics["accuracy"].value < newest(world, "digits:1").metrics["accuracy"].value - 0.05
    world.server.run("undeploy", "served")


def newest(world: World, reference: str) -> Evaluation:
    """The newest evaluation on `digits-test`, with the outcomes that the job told of it."""
    import msgspec

    client = world.server.client()
    kept = client.evaluations(reference, data="digits-test").page().items[0]
    result = client.job(kept.job).result or {}
    told = [*result.get("evaluations", ()), *filter(None, [result.get("evaluation")])]
    whole = next(one for one in told if one["version"] == reference)
    assert {**whole, "outcomes": None} == kept.evaluation
    return msgspec.convert(whole, Evaluation, strict=False)


def assert_as_scikit_learn_says(found: Evaluation, world: World) -> None:
    """The metrics, by other means: onnxruntime alone, and scikit-learn's own."""
    import onnxruntime
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    images, labels = digits()
    session = onnxruntime.InferenceSession(world.folder / "digits.onnx", providers=["CPUExecutionProvider"])
    answers = session.run(None, {"image": images[TEST]})[0].argmax(1)
    assert found.metrics["accuracy"].value == pytest.approx(accuracy_score(labels[TEST], answers))
    assert found.metrics["f1"].value == pytest.approx(f1_score(labels[TEST], answers, average="macro"))
    assert np.array_equal(np.array(found.confusion), confusion_matrix(labels[TEST], answers))
    low, high = found.metrics["accuracy"].low, found.metrics["accuracy"].high
    assert low is not None and high is not None and low < found.metrics["accuracy"].value < high


def assert_lineage(world: World, reference: str, *, seed: int, data: str) -> None:
    node = next(one for one in world.server.json("lineage", reference)["nodes"] if one["version"] == reference)
    details = node["details"]
    assert node["parent"] == details["parent"]
    assert details["seed"] == details["optimize"]["seed"] == seed
    if data:
        assert details["data"] == {"version": data, "digest": world.server.json("data", "show", data)["digest"]}
    assert {"openmaas", "numpy"} <= set(details["libraries"])


def assert_served_as_evaluated(world: World, deployment: str, reference: str, output: str = "scores") -> None:
    """Row by row: the served classes are those that the evaluation counted."""
    evaluated = newest(world, reference)
    images, labels = digits()
    served = world.answers(deployment, "image", images[TEST])[output].argmax(1)
    assert evaluated.metrics["accuracy"].value == pytest.approx(float((served == labels[TEST]).mean()), abs=1e-12)
    assert evaluated.outcomes is not None
    assert np.array_equal(decode_outcomes(evaluated.outcomes).answers, served)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_is_a_dataset(world: World, tmp_path: Path, kind: str) -> None:
    made = world.server.json("data", "push", str(save_table(tmp_path / f"cancer.{kind}", slice(0, 60))), "--name", f"c-{kind}")
    dataset = made["dataset"]
    assert (dataset["format"], dataset["rows"], dataset["purpose"]) == (kind, 60, "classes")
    assert dataset["manifest"]["label"] == "target"
    assert dataset["manifest"]["counts"] == np.bincount(cancer()[1][:60]).tolist()
    pulled = tmp_path / "pulled"
    world.server.run("data", "pull", f"c-{kind}", str(pulled))
    assert (pulled / f"cancer.{kind}").read_bytes() == (tmp_path / f"cancer.{kind}").read_bytes()


def test_a_folder_of_images_is_a_dataset(world: World, tmp_path: Path) -> None:
    made = world.server.json("data", "push", str(save_pictures(tmp_path / "pictures", slice(0, 80))))
    dataset = made["dataset"]
    assert (dataset["name"], dataset["format"], dataset["rows"]) == ("pictures", "images", 80)
    assert dataset["manifest"]["classes"] == [str(digit) for digit in range(10)]
    assert dataset["manifest"]["counts"] == np.bincount(digits()[1][:80]).tolist()


# ── what is wrong is said before any work ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("steps", "data", "told"),
    [
        (["shrink"], "digits-train", "'shrink' is not a pass"),
        ([{"prune": {"amuont": 0.5}}], "digits-train", "is 'amount' meant"),
        ([{"prune": {"amount": 1.5}}], "digits-train", "amount is 1.5"),
        ([{"quantize": {"method": "static"}}], "", "none is given"),
        ([{"quantize": {"method": "weights", "bits": 3}}], "", "4 or 8 bits"),
        ([{"merge": {"versions": ["digits:99"]}}], "", "digits:99"),
        (["fuse"], "nowhere", "nowhere"),
        ([], "", "1 to 16"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_wrong_is_refused_at_once(world: World, steps: list[Any], data: str, told: str) -> None:
    before, jobs = world.versions(), world.server.json("jobs", "ls")["total"]
    done = world.server.run(*world.words("digits:1", *steps, data=data), check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert (world.versions(), world.server.json("jobs", "ls")["total"]) == (before, jobs)


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("no-rows", {"image": np.zeros((0, 1, 8, 8), np.float32), "label": np.zeros(0, np.int64)}),
        ("two-lengths", {"image": np.zeros((3, 1, 8, 8), np.float32), "label": np.zeros(4, np.int64)}),
    ],
)
def test_a_dataset_that_is_none_is_refused(world: World, tmp_path: Path, name: str, arrays: dict[str, Any]) -> None:
    path = save_rows(tmp_path / f"{name}.npz", TEST, **arrays)
    done = world.server.run("data", "push", str(path), check=False)
    assert done.returncode == 1
    assert "row" in done.stderr
    assert name not in world.server.run("data", "ls", "--json").stdout


def test_what_does_not_fit_is_told_before_long_work(world: World, tmp_path: Path) -> None:
    """All of it at once, since each is a job: each fails in seconds, by its own code, and nothing is left of it."""
    client = world.server.client()
    images, labels = digits()
    broken = {name: array.copy() for name, array in world.weights.items()}
    broken["4.weight"][3, 2, 1, 1] = np.nan
    for name, arrays in (
        ("wide", {"image": np.zeros((40, 1, 8, 9), np.float32), "label": labels[:40]}),
        ("bare", {"image": images[:40]}),
        ("elsewhere", {"image": images[:40], "label": labels[:40] + 5}),
        ("missing", {"image": images[:40], "label": np.where(np.arange(40) == 7, np.nan, labels[:40])}),
    ):
        client.push_dataset(save_rows(tmp_path / f"{name}.npz", TEST, **arrays), label=None if name == "bare" else "label")
    client.push(save_mlp(tmp_path / "flat.onnx", "features", 64, 10), name="flat")
    train: dict[str, Any] = {"data": "digits-train"}
    wanted = {
        "trees of a network": ("digits:1", [{"prune": {"method": "trees"}}], train, "ensemble of trees"),
        "wrong shape": ("digits:1", [{"quantize": {"method": "static"}}], {"data": "wide"}, "image"),
        "no labels": ("digits:1", [{"distil": {"epochs": 900}}], {"data": "bare"}, "labels"),
        "missing labels": ("digits:1", [{"prune": {"epochs": 900}}], {"data": "missing"}, "row"),
        "unknown classes": ("digits:1", [{"prune": {"epochs": 900}}], {"data": "elsewhere"}, "classes"),
        "another input": ("flat:1", [{"quantize": {"method": "static"}}], train, "features"),
        "the same set": ("digits:1", ["fuse"], {"data": "digits-test", "evaluation": "digits-test"}, "training set and the ev"),
        "a metric of others": ("digits:1", ["fuse"], {"evaluation": "digits-test", "metric": "rmse"}, "rmse"),
        "another architecture": ("digits:1", [{"merge": {"versions": ["flat:1"]}}], {}, "flat:1"),
        "a chain that does not fit": ("digits:1", [{"merge": {"method": "chain", "versions": ["flat:1"]}}], {}, "flat:1"),
        "no such node": ("digits:1", [{"cast": {"exclude": ["nowhere"]}}], {}, "nowhere"),
        "after another kind": ("digits:1", [{"convert": {"to": "openvino"}}, "compress"], {}, "Step 2 of 2"),
    }
    before = world.versions()
    jobs = {}
    for about, (reference, steps, options, _) in wanted.items():
        jobs[about] = client.optimize(reference, recipe={"steps": steps}, seconds=1.0, **options)
    said = {}
    for about, job in jobs.items():
        with pytest.raises(JobFailed) as failed:
            client.wait_job(job.id, timeout=250)
        said[about] = f"{failed.value.code}: {failed.value}"
        ended = client.job(job.id)
        assert ended.started_at and ended.ended_at and ended.ended_at - ended.started_at < 100, about
    assert {about: told for about, told in said.items() if wanted[about][3] not in told} == {}
    assert not [told for told in said.values() if "task_failed" in told or "/tmp/" in told]
    assert world.versions() == before
    world.nothing_is_left()


def test_weights_that_are_no_numbers(world: World, tmp_path: Path) -> None:
    """Whether the push refuses them or the job does: nothing is made of them."""
    broken = {name: array.copy() for name, array in world.weights.items()}
    broken["4.weight"][3, 2, 1, 1] = np.nan
    pushed = world.server.run("push", str(save_cnn(tmp_path / "broken.onnx", broken)), "--name", "broken", check=False)
    if pushed.returncode:
        assert "NaN" in pushed.stderr
        return
    done = world.server.run(*world.words("broken", "fuse", data="", test=""), check=False)
    assert done.returncode == 1
    assert "4.weight" in done.stderr
    assert world.versions("broken") == ["broken:1"]


# ── what is killed ───────────────────────────────────────────────────────────────────────────────────────────────────

LONG = {"prune": {"method": "global", "amount": 0.5, "epochs": 900}}


def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return result


def reached(world: World, job: JobInfo, stage: str) -> int:
    """The pid of its process, once it is at a stage."""
    client = world.server.client()

    def look() -> int:
        found = client.job(job.id)
        assert found.state in ("queued", "running"), (found.state, found.cause)
        return found.pid or 0 if stage in found.stage else 0

    return int(wait(look, f"{job.id} is at {stage!r}"))


def test_a_job_that_is_killed_in_training_ends_once_and_may_be_retried(world: World) -> None:
    client, before = world.server.client(), world.versions()
    job = client.optimize("digits:1", recipe={"steps": [LONG]}, data="digits-train", evaluation="digits-test", seconds=1.0)
    pid = reached(world, job, "training")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(JobFailed, match="SIGKILL") as failed:
        client.wait_job(job.id, timeout=60)
    assert failed.value.code == "job_killed"
    world.nothing_is_left()
    client.retry_job(job.id)
    again = reached(world, job, "training")
    assert again != pid
    world.server.run("jobs", "cancel", job.id)
    with pytest.raises(Cancelled):
        client.wait_job(job.id, timeout=60)
    assert not alive(again)
    world.nothing_is_left()
    assert world.versions() == before

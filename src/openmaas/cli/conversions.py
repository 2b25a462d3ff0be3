"""Convert a version, and compare it with its source again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, ReferenceArgument, connect

if TYPE_CHECKING:
    from openmaas.client import Client
    from openmaas.core.resources import JobInfo

NoWait = Annotated[bool, typer.Option("--no-wait", help=_("Return as soon as the job is submitted."))]


def convert(
    reference: ReferenceArgument,
    to: Annotated[
        str,
        typer.Option("--to", metavar="KIND", help=_("onnx, openvino, torchscript, torch-export, tflite or openvino-genai.")),
    ],
    weights: Annotated[
        str,
        typer.Option(
            "--weights", metavar="KIND", help=_("To openvino-genai: bf16, int8, int4, or auto for the fastest that is right.")
        ),
    ] = "",
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Convert a version: a new version of the same model, registered only when it answers as its source does."""
    from openmaas.cli.console import done, hint
    from openmaas.cli.models import parity_lines

    client = connect()
    job = _follow(client, client.convert(reference, to, weights), no_wait, as_json)
    if job is None or job.result is None:
        return
    version = job.result["version"]
    made = " ".join(filter(None, (to, job.result.get("weights"))))
    if job.result["created"]:
        done(_("{version} is registered: {source} as {kind}.").format(version=version, source=job.subject, kind=made))
    elif job.result.get("known"):
        done(_("{version} was made of {source} before, as {kind}.").format(version=version, source=job.subject, kind=made))
    else:
        done(_("{version} has exactly these files already; nothing was added.").format(version=version))
    _write_lines(parity_lines(job.result["parity"]))
    if "measurement" in job.result:
        from openmaas.cli.generators import print_weights

        print_weights(job.result["measurement"])
    hint(f"openmaas deploy {version}")


def parity(
    reference: ReferenceArgument,
    data: Annotated[
        Path | None, typer.Option("--data", help=_("Rows to compare on (.npy, .npz, .csv, .json); its own sample without."))
    ] = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Compare every engine that can run a version with its source again."""
    client = connect()
    job = _follow(client, client.parity(reference, data), no_wait, as_json)
    if job is None or job.result is None:
        return
    _print_parity(job.result)
    if not all(one["passed"] for one in job.result["parity"]):
        raise typer.Exit(1)


def _follow(client: Client, job: JobInfo, no_wait: bool, as_json: bool) -> JobInfo | None:
    """The job at its end; None when what there is to say was said already."""
    from openmaas.cli.console import done, hint, print_json
    from openmaas.cli.jobs import follow_job

    if not no_wait:
        job = follow_job(client, job.id)
    if as_json:
        print_json(job)
        return None
    if no_wait:
        done(_("{job} is submitted.").format(job=job.id))
        hint(f"openmaas jobs show {job.id}")
        return None
    return job


def _write_lines(lines: list[str]) -> None:
    from openmaas.cli.console import write

    for line in lines:
        write(f"  {line}")


def _print_parity(result: dict[str, Any]) -> None:
    from openmaas.cli.console import Styled, Table, write, write_table
    from openmaas.cli.models import parity_lines

    found = result["parity"]
    if found[0].get("perplexity"):
        write(_("{version} on {tokens} tokens").format(version=result["version"], tokens=result["rows"]))
        _write_lines([line for one in found for line in parity_lines(one)])
        return
    write(_("{version} on {rows} rows, held against {source}").format(
        version=result["version"], rows=result["rows"], source=found[0]["source"]
    ))  # fmt: skip
    table = Table(
        _("ENGINE"), _("BATCH"), _("LARGEST DIFFERENCE"), _("COSINE"), _("SAME TOP"), _("VERDICT"),
        right=(_("BATCH"), _("LARGEST DIFFERENCE"), _("COSINE"), _("SAME TOP")),
    )  # fmt: skip
    for one in found:
        verdict = Styled((_("within tolerance"), "good") if one["passed"] else (_("outside tolerance"), "bad"))
        for compared in one["comparisons"] or [{}]:
            table.add_row(
                one["target"],
                str(compared.get("batch", "–")),
                _figure(compared.get("max_abs_diff"), ".2g"),
                _figure(compared.get("cosine"), ".6f"),
                _figure(compared.get("top1"), ".1%"),
                verdict,
            )
    write_table(table)
    _write_lines([f"{one['target']}: {one['reason']}" for one in found if one["reason"]])


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)

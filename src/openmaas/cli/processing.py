"""What happens before and after the engine, in words."""

from __future__ import annotations

from typing import Any

from openmaas.cli.i18n import _

_SHOWN = 8  # columns or classes that are named


def processing_lines(processing: dict[str, Any]) -> list[str]:
    """One line for what comes in, one for what goes out, of a manifest's `processing`."""
    lines = []
    if given := processing.get("input"):
        lines.append({"text": _text, "image": _image, "table": _table}[given["kind"]](given))
    if made := processing.get("output"):
        lines.append({"labels": _labels, "embedding": _embedding}[made["kind"]](made))
    return lines


def _text(given: dict[str, Any]) -> str:
    pairs = _(" or pairs of them") if given.get("pair") else ""
    return _("texts{pairs} → at most {n} tokens ({file})").format(
        pairs=pairs, n=given.get("max_length", 512), file=given.get("tokenizer", "tokenizer.json")
    )


def _image(given: dict[str, Any]) -> str:
    return _("images → {mode} {width} × {height} ({resize}), {layout}, × {scale:.4g}, mean {mean}, std {std}").format(
        mode=given.get("mode", "RGB"),
        width=given.get("width", 224),
        height=given.get("height", 224),
        resize=given.get("resize", "stretch"),
        layout=given.get("layout", "channels_first").replace("_", " "),
        scale=given.get("scale", 1 / 255),
        mean=_numbers(given.get("mean", [0.0])),
        std=_numbers(given.get("std", [1.0])),
    )


def _table(given: dict[str, Any]) -> str:
    columns = given["columns"]
    return _("rows of {n} columns: {names}").format(n=len(columns), names=_some([_column(column) for column in columns]))


def _column(column: dict[str, Any]) -> str:
    categories = column.get("categories")
    kind = _("one of {n}").format(n=len(categories)) if categories else column["datatype"]
    return f"{column['name']} ({kind}{_(', may be missing') if column.get('nullable') else ''})"


def _labels(made: dict[str, Any]) -> str:
    labels, of = made.get("labels") or [], _(" of each token") if made.get("tokens") else ""
    activation = "" if made.get("activation", "none") == "none" else f"{made['activation']} → "
    if not labels:
        return _("{activation}class{of}").format(activation=activation, of=of)
    return _("{activation}one of {n} classes{of}: {names}").format(
        activation=activation, n=len(labels), of=of, names=_some(list(labels))
    )


def _embedding(made: dict[str, Any]) -> str:
    pooling = made.get("pooling", "none")
    steps = [*([] if pooling == "none" else [_("{how} over the tokens").format(how=pooling)]), _("embedding")]
    return " → ".join(steps) + (_(" of length one") if made.get("normalize") else "")


def _some(names: list[str]) -> str:
    more = [_("{n} more").format(n=len(names) - _SHOWN)] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)

from __future__ import annotations

import pytest

from openmaas.core.errors import without_paths


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("cannot open /home/me/models/a.onnx: no such file", "cannot open a.onnx: no such file"),
        ("at '/usr/lib/x.so' and (/etc/passwd)", "at 'x.so' and (passwd)"),
        ("3/4 of a/b and and/or", "3/4 of a/b and and/or"),
        ("see https://example.org/docs/page", "see https://example.org/docs/page"),
        ("shape [2,3] / [4]", "shape [2,3] / [4]"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, kept: str) -> None:
    assert without_paths(text) == kept

"""What a push says when it is over."""

from __future__ import annotations

import pytest

from openmaas.cli import pushes


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        (("a.bin",), "1 file was not sent, since the model does without it: a.bin\n"),
        (("a.bin", "b.h5"), "2 files were not sent, since the model does without them: a.bin, b.h5\n"),
        (tuple(f"{number}.bin" for number in range(9)), "6.bin, 7.bin …\n"),
    ],
)
def test_what_was_left_out_is_told(left_out: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    pushes._print_left_out(left_out)
    assert told in capsys.readouterr().out


def test_nothing_is_told_where_nothing_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    pushes._print_left_out(())
    assert not capsys.readouterr().out

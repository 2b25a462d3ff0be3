from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.formats.files import file_inside, free_name, list_files


def test_lists_files_in_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.bin").touch()
    (tmp_path / "a.onnx").touch()
    assert list_files(tmp_path) == ["a.onnx", "b/c.bin"]


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput) as caught:
        list_files(tmp_path)
    assert caught.value.code == "no_model"


@pytest.mark.parametrize("target", ["/etc/passwd", "a.onnx", ".."])
def test_links_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a.onnx").touch()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InvalidInput, match="'link' is a link"):
        list_files(tmp_path)


def test_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="'pipe'"):
        list_files(tmp_path)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "", ".", "a/../../x"])
def test_a_path_stays_inside(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="not a file path"):
        file_inside(tmp_path, path, "The file")


def test_a_linked_folder_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "out")
    with pytest.raises(InvalidInput, match="link"):
        file_inside(tmp_path / "in", "sub/x", "The file")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"The sample 's.npz' is not among"):
        file_inside(tmp_path, "s.npz", "The sample")


def test_a_name_that_is_free(tmp_path: Path) -> None:
    assert free_name(tmp_path, "m.onnx") == "m.onnx"
    (tmp_path / "m.onnx").touch()
    assert free_name(tmp_path, "m.onnx") == "converted-1/m.onnx"

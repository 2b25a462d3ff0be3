from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from openmaas.core.datatypes import numpy_dtype, to_bytes, to_text
from openmaas.core.errors import InvalidInput
from openmaas.core.types import DataType


@pytest.mark.parametrize("name", get_args(DataType))
def test_every_datatype_has_numpy_s_type(name: str) -> None:
    assert numpy_dtype(name).itemsize in (1, 2, 4, 8)


@pytest.mark.parametrize("name", ["", "FP8", "fp32", "object", "float32", "STRING"])
def test_other_names_have_none(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        numpy_dtype(name)
    assert caught.value.code == "unknown_datatype"


def test_text_and_bytes_there_and_back() -> None:
    words = np.array([["ä", "b"], ["", "漢字"]], dtype=object)
    packed = to_bytes(words)
    assert packed.shape == (2, 2)
    assert packed[1, 1] == "漢字".encode()
    assert to_text(packed).tolist() == words.tolist()
    assert to_bytes(np.array(["a", "bb"])).tolist() == [b"a", b"bb"]
    assert to_text(np.empty((0, 3), dtype=object)).shape == (0, 3)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        to_text(np.array([b"\xff"], dtype=object))

"""What crosses the border to a trial's process: arrays as raw bytes, never as pickles."""

from __future__ import annotations

import socket
import threading

import ml_dtypes
import msgspec
import numpy as np
import pytest

from openmaas.core.errors import OpenMaaSError
from openmaas.tasks.trial import Answer, Clock, Load, Report, pack, receive, send, unpack


@pytest.mark.parametrize(
    "array",
    [
        *(np.arange(6).reshape(2, 3).astype(kind) for kind in ("f4", "f8", "f2", "i8", "u1", "?")),
        np.arange(4).astype(ml_dtypes.bfloat16),
        np.arange(12.0).reshape(3, 4).T,
        np.zeros((0, 5), np.float32),
        np.float32(3.0),
        np.array([b"a\0", b"", "é".encode()], object),
    ],
)
def test_arrays_come_out_as_they_went_in(array: np.ndarray) -> None:
    wire = msgspec.msgpack.encode(Report(answers=pack({"y": array})))
    back = unpack(msgspec.msgpack.decode(wire, type=Report).answers)["y"]
    assert back.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_text_becomes_bytes() -> None:
    assert unpack(pack({"y": np.array(["a", "ü"])}))["y"].tolist() == [b"a", "ü".encode()]


@pytest.mark.parametrize("value", [1 + 2j, np.array(["2020-01-01"], "M8[D]"), np.zeros(1, [("a", "f4")])])
def test_what_is_no_tensor_has_the_wrong_type(value: object) -> None:
    with pytest.raises(OpenMaaSError, match="which is no tensor") as caught:
        pack({"y": value})
    assert caught.value.code == "wrong_type"


def test_messages_of_any_size_and_the_other_side_s_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        big = Answer(pack({"x": np.ones(1 << 20)}), 8)
        threading.Thread(target=send, args=(ours, big)).start()
        assert msgspec.msgpack.decode(receive(theirs), type=Load | Answer | Clock) == big
        ours.sendall((100).to_bytes(8, "big") + b"cut short")
        ours.close()
        with pytest.raises(EOFError):
            receive(theirs)


def test_an_answer_that_does_not_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            receive(ours)

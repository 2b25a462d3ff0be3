from pathlib import Path

import pytest

from openmaas.fleet import output
from openmaas.fleet.output import LogFile, Output


def test_lines_are_kept_whole_and_labelled(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "digits.log")
    first, second = Output(log, "digits-1-0"), Output(log, "digits-1-1")
    first.write(b"hel")
    second.write(b"other\n")
    first.write(b"lo\nunfinished")
    first.end()
    assert (tmp_path / "logs" / "digits.log").read_text().splitlines() == [
        "digits-1-1 | other",
        "digits-1-0 | hello",
        "digits-1-0 | unfinished",
    ]
    assert first.tail(10) == ("hello", "unfinished")
    assert (tmp_path / "logs" / "digits.log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_its_writer_keeps_open_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LONGEST_LOG", 100)
    path = tmp_path / "supervisor.log"
    output.bound_log(path)  # not started apart: there is none
    with path.open("a") as log:
        for turn in range(3):
            log.write(f"{turn}" * 101)
            log.flush()
            output.bound_log(path)
            output.bound_log(path)
        log.write("the newest")
    assert path.read_text() == "the newest"
    assert path.with_name("supervisor.log.1").read_text() == "2" * 101
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_start_begins_with_no_lines_and_the_log_goes_on(tmp_path: Path) -> None:
    output = Output(LogFile(tmp_path / "a.log"))
    output.write(b"one\n")
    output.begin()
    output.write(b"two\n")
    output.note("ended")
    assert output.tail(10) == ("two",)
    assert (tmp_path / "a.log").read_text() == "one\ntwo\n[supervisor] ended\n"


def test_the_files_stay_bounded(tmp_path: Path) -> None:
    output = Output(LogFile(tmp_path / "a.log", max_bytes=1000))
    for number in range(500):
        output.write(f"line {number:04}\n".encode())
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"a.log", "a.log.1"}
    assert max(sizes.values()) <= 1000
    assert (tmp_path / "a.log").read_text().endswith("line 0499\n")


def test_a_line_without_end_does_not_grow_for_ever(tmp_path: Path) -> None:
    output = Output(LogFile(tmp_path / "a.log"))
    for _ in range(20):
        output.write(b"x" * 1000)
    assert all(len(line) <= 4096 for line in output.tail(50))
    assert output.tail(50)


def test_a_log_that_cannot_be_written_does_not_stop_the_child(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    output = Output(LogFile(tmp_path / "logs" / "a.log"))
    output.write(b"still known\n")
    assert output.tail(1) == ("still known",)

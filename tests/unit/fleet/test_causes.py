import signal

from openmaas.core.contracts import Cause
from openmaas.core.errors import Refused
from openmaas.fleet.causes import cause_line, exit_cause, told_cause, with_evidence


def test_a_child_tells_its_cause_in_one_line() -> None:
    line = cause_line(Refused("The digest differs.", code="digest_mismatch", next_step="Push it again."))
    assert told_cause(("loading", line, "Exception ignored in: …")) == Cause(
        code="digest_mismatch", message="The digest differs.", next_step="Push it again."
    )


def test_other_lines_tell_no_cause() -> None:
    assert told_cause(()) is None
    assert told_cause(("a", "b")) is None
    assert told_cause(('{"openmaas_cause": 3}',)) is None


def test_an_exit_status_says_when_and_how() -> None:
    assert exit_cause(1, was_ready=False) == Cause(
        code="load_failed", message="It ended with exit status 1 before it was ready."
    )
    assert exit_cause(0, was_ready=True).code == "crash_loop"
    assert "SIGSEGV" in exit_cause(-signal.SIGSEGV, was_ready=True).message
    assert "out of memory" in exit_cause(-signal.SIGKILL, was_ready=True).message
    assert "signal 40" in exit_cause(-40, was_ready=False).message


def test_evidence_is_the_last_lines_without_the_cause_itself() -> None:
    lines = (*(str(number) for number in range(50)), '{"openmaas_cause": {}}')
    cause = with_evidence(Cause(code="x", message="y"), lines, "openmaas logs digits")
    assert cause.stderr[-1] == "49"
    assert len(cause.stderr) < 25
    assert cause.next_step == "openmaas logs digits"
    assert with_evidence(Cause(code="x", message="y", next_step="own"), (), "other").next_step == "own"

"""`openmaas chat`: what is asked, and what is shown, through pipes and at a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmaas import cli
from tests.unit.client.chat_server import WAIT, ChatServer, answer, chat_server, event, said

PROMPT = ">\x1b[0m "


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    with chat_server() as server:
        for name, value in (("URL", server.url), ("GATEWAY_URL", server.url), ("HOME", "/nonexistent")):
            monkeypatch.setenv(f"OPENMAAS_{name}", value)
        yield server


def test_one_question(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.pieces = answer("Copies ", "a file.")
    assert cli.run(["chat", "writer", "Hi", "--system", "Brief", "-t", "0", "--max-tokens", "9", "--seed", "3"]) == 0
    written = capsys.readouterr()
    assert written.out == "Copies a file.\n"
    assert written.err.startswith("2 tokens  ") and "first after" in written.err
    (asked,) = server.asked
    assert asked["messages"] == [{"role": "system", "content": "Brief"}, {"role": "user", "content": "Hi"}]
    assert (asked["model"], asked["temperature"], asked["max_tokens"], asked["seed"]) == ("writer", 0.0, 9, 3)


def test_a_question_through_a_pipe(
    server: ChatServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is\nthis?\n"))
    assert cli.run(["chat", "writer"]) == 0
    assert capsys.readouterr().out == "Hello\n"
    assert server.asked[0]["messages"] == [{"role": "user", "content": "What is\nthis?"}]
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert cli.run(["chat", "writer"]) == 2
    assert "empty" in capsys.readouterr().err


def test_an_answer_cannot_command_the_terminal(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.pieces = answer("a\x1b[2J", "\x07\x9b1m\tb\r\n")
    cli.run(["chat", "writer", "Hi"])
    assert capsys.readouterr().out == "a␛[2J1m\tb\n"


def test_an_answer_that_was_cut_off_says_so(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.pieces = answer("One", finish="length")
    cli.run(["chat", "writer", "Hi"])
    assert "--max-tokens" in capsys.readouterr().err


def test_an_error_in_the_middle(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.pieces = [said("One"), event(error={"message": "The replica ended.", "code": "replica_lost"})]
    assert cli.run(["chat", "writer", "Hi"]) == 1
    written = capsys.readouterr()
    assert written.out == "One\n"
    assert written.err.splitlines()[0] == "error  The replica ended."


def test_a_deployment_that_is_not_there(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.status = 404
    server.body = json.dumps({"error": {"message": "Nothing is deployed as 'writer'.", "code": "not_found"}}).encode()
    assert cli.run(["chat", "writer", "Hi"]) == 1
    written = capsys.readouterr()
    assert (written.out, written.err.splitlines()[0]) == ("", "error  Nothing is deployed as 'writer'.")


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self._master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "PYTHONPATH": str(Path(cli.__file__).parents[2])}
        program = "import sys; from openmaas import cli; sys.exit(cli.run(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(self._master, False)
        self.seen = ""
        self._read = 0

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def until(self, text: str, seconds: float = 60.0) -> str:
        """What came since the last time, up to this text."""
        deadline = time.monotonic() + seconds
        while text not in self.seen[self._read :]:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
            try:
                self.seen += os.read(self._master, 65536).decode()
            except (BlockingIOError, OSError):
                time.sleep(0.005)
        start, self._read = self._read, self.seen.index(text, self._read) + len(text)
        return self.seen[start : self._read]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_one_answer_that_is_interrupted_ends_as_other_commands_do(server: ChatServer) -> None:
    server.pieces = [said("Wait"), WAIT]
    terminal = Terminal("chat", "writer", "Hi")
    try:
        terminal.until("Wait")
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.until("stopped")
        assert terminal.process.wait(60) == 130
        assert server.left.wait(60)
    finally:
        terminal.close()


@pytest.fixture
def terminal(server: ChatServer) -> Iterator[Terminal]:
    terminal = Terminal("chat", "writer")
    try:
        terminal.until(PROMPT)
        yield terminal
    finally:
        terminal.close()


def test_a_conversation_at_a_terminal(server: ChatServer, terminal: Terminal) -> None:
    server.pieces = answer("Hello ", "you")
    terminal.type("One")
    terminal.until("Hello you")
    terminal.until("\x1b[2m2 tokens  ")
    server.pieces = [said("Wait"), WAIT]
    terminal.type("Two")
    terminal.until("Wait")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert "stopped" in terminal.until(PROMPT, 5)
    assert server.left.wait(60)
    server.pieces = [said("Th"), event(error={"message": "The replica ended."})]
    terminal.type("Three")
    terminal.until("The replica ended.")
    server.pieces = answer("Four")
    terminal.type("Four")
    terminal.until("1 token")
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["One", "Hello you", "Two", "Wait", "Four"]
    terminal.type("/system Be brief.")
    terminal.until("told first: Be brief.")
    terminal.type("Five")
    terminal.until("1 token")
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["Be brief.", "Five"]
    terminal.type("/reset")
    terminal.until("forgotten")
    terminal.type("/what")
    terminal.until("none of")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until("Ctrl-D leaves")
    terminal.type("/quit")
    assert terminal.process.wait(60) == 0

"""Talk with a deployment that generates text."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.options import DeploymentArgument, connect
from openmaas.cli.styled import harmless
from openmaas.core.errors import OpenMaaSError

if TYPE_CHECKING:
    from openmaas.client import ChatStream, Client


def chat(
    deployment: DeploymentArgument,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            help=_("Ask this alone. Without it, what comes through a pipe; at a terminal, a conversation."),
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help=_("What the model is told before all else."))] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-t", min=0.0, help=_("0 takes the likeliest words; the model's own without.")),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", "-n", min=1, help=_("Longest answer, in tokens."))] = None,
    seed: Annotated[int | None, typer.Option("--seed", help=_("The same answers each time."))] = None,
) -> None:
    """Talk with a deployment that generates text.

    Answers come as they are written. Ctrl-C stops an answer, Ctrl-D leaves. /reset forgets the conversation, /system TEXT
    tells the model what to be, /quit leaves.
    """
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read().strip()
        if not question:
            raise typer.BadParameter(_("Nothing was asked: standard input is empty."))
    with connect() as client:
        conversation = Conversation(client, deployment, system or "", sampling)
        if question is None:
            _talk(conversation)
        elif not conversation.ask(question):
            raise KeyboardInterrupt


class Conversation:
    """What was said, and what the next question is asked with."""

    def __init__(self, client: Client, deployment: str, system: str, sampling: dict[str, Any]) -> None:
        self.system = system
        self._client = client
        self._deployment = deployment
        self._sampling = sampling
        self._said: list[dict[str, str]] = []

    def reset(self) -> None:
        self._said = []

    def ask(self, question: str) -> bool:
        """Write the answer as it comes; False where it was interrupted, and what came of it stays said.

        Raises what the server tells; then the question counts as not asked."""
        asked = {"role": "user", "content": question}
        system = [{"role": "system", "content": self.system}] if self.system else []
        answer = self._client.stream_chat(self._deployment, [*system, *self._said, asked], **self._sampling)
        watch = _Watch()
        try:
            with answer:
                for piece in answer:
                    watch.piece()
                    _show(piece)
        except KeyboardInterrupt:
            watch.stopped = True
        finally:
            if answer.text and not answer.text.endswith("\n"):
                _show("\n")
        if answer.text:
            self._said += [asked, {"role": "assistant", "content": answer.text}]
        _remark(watch.summary(answer))
        return not watch.stopped


class _Watch:
    """When the pieces of an answer came."""

    def __init__(self) -> None:
        self.stopped = False
        self._began = time.perf_counter()
        self._first = self._last = 0.0
        self._pieces = 0

    def piece(self) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._pieces += 1

    def summary(self, answer: ChatStream) -> str:
        """Tokens, tokens a second after the first one, and how long that took. Without the server's count, the pieces'."""
        from openmaas.cli.units import milliseconds

        tokens = answer.usage.completion_tokens or self._pieces
        parts = [plural("{n} token", "{n} tokens", tokens).format(n=tokens)]
        if tokens > 1 and self._last > self._first:
            parts.append(_("{rate:.1f} tokens/s").format(rate=(tokens - 1) / (self._last - self._first)))
        if self._first:
            parts.append(_("first after {time}").format(time=milliseconds(self._first - self._began)))
        if self.stopped:
            parts.append(_("stopped"))
        elif answer.finish == "length":
            parts.append(_("cut off: the answer may not be longer (--max-tokens)"))
        return "  ".join(parts)


def _talk(conversation: Conversation) -> None:
    """Questions at the terminal, until the end of input or /quit."""
    import contextlib

    from openmaas.cli.failures import show_error

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # its import gives `input` the arrow keys

    _remark(_("/reset  /system TEXT  /quit  Ctrl-C stops an answer"))
    while True:
        try:
            line = input(_prompt()).strip()
        except EOFError:
            _show("\n")
            return
        except KeyboardInterrupt:
            _show("\n")
            _remark(_("/quit or Ctrl-D leaves."))
            continue
        if line.startswith("/"):
            if not _command(conversation, line):
                return
        elif line:
            try:
                conversation.ask(line)
            except OpenMaaSError as error:
                show_error(error)


def _command(conversation: Conversation, line: str) -> bool:
    """Do what a line that begins with / says; False to leave."""
    name, _space, rest = line.partition(" ")
    if name in ("/quit", "/exit", "/bye"):
        return False
    if name == "/reset":
        conversation.reset()
        _remark(_("The conversation is forgotten."))
    elif name == "/system":
        conversation.system = rest.strip()
        conversation.reset()
        _remark(
            _("A new conversation, told first: {text}").format(text=rest.strip()) if rest.strip() else _("A new conversation.")
        )
    else:
        _remark(_("{name} is none of /reset, /system TEXT, /quit.").format(name=name))
    return True


def _prompt() -> str:
    """Coloured; the marks tell readline which characters take no room."""
    from openmaas.cli.console import in_colour

    return "\001\x1b[1;36m\002>\001\x1b[0m\002 " if in_colour(sys.stdout) else "> "


def _show(text: str) -> None:
    sys.stdout.write(harmless(text))
    sys.stdout.flush()


def _remark(text: str) -> None:
    """On standard error, so that a pipe reads the answer alone."""
    from openmaas.cli.console import Styled, write

    write(Styled((text, "faint")), sys.stderr)

"""The text to learn from: Python's own sources, its documentation by topic, and questions that its docstrings answer."""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

# What people ask about: their docstrings become dialogues, read many times over.
MODULES = (
    "builtins", "os", "os.path", "math", "json", "re", "random", "time", "shutil", "string", "collections", "itertools",
    "functools", "statistics", "csv", "copy", "glob", "textwrap", "tempfile",
)  # fmt: skip
WITH_METHODS = (str, list, dict, set)
QUESTIONS = ("What does {name} do?", "What is {name}?", "Explain {name}.", "How do I use {name}?")
ABOUT_MODULES = ("What is the module {name} for?", "What does the module {name} do?", "Tell me about the module {name}.")
GREETINGS = (
    ("Hello", "Hello! Ask me what a function of Python does, as: What does shutil.copyfile do?"),
    ("Hi", "Hello! Ask me about Python's standard library."),
    ("Who are you?", "I am a very small language model. I have read Python's documentation, and nothing else."),
    ("What are you?", "I am a very small language model, trained in some minutes on Python's documentation."),
    ("What can you do?", "I can tell what functions of Python's standard library do. I am small, and sometimes wrong."),
    ("Thank you", "You are welcome."),
    ("Thanks", "You are welcome."),
    ("Bye", "Goodbye!"),
)
_LONGEST = 240  # characters of an answer
_EVERY = 12  # of so many texts, one is held out


class Corpus(NamedTuple):
    """prose and code: texts. dialogues: (question, answer). unseen: topics and docstrings that are nowhere else."""

    prose: list[str]
    code: list[str]
    dialogues: list[tuple[str, str]]
    unseen: list[str]

    @property
    def held_out(self) -> str:
        return "\n\n".join(self.unseen)

    @property
    def size(self) -> int:
        """Characters of all that is learnt from."""
        return sum(map(len, (*self.prose, *self.code, *(text for pair in self.dialogues for text in pair))))


def collect(seed: int = 0) -> Corpus:
    sources = list(_sources())
    prose = [topics[name].strip() for name in sorted(topics)] + [text for source in sources for text in _docstrings(source)]
    random.Random(seed).shuffle(prose)
    dialogues = [pair for name in MODULES for pair in _dialogues(name)] + list(GREETINGS) * 4
    answers = {answer for _, answer in dialogues}
    unseen = list(dict.fromkeys(text for text in prose[::_EVERY] if first_lines(text) not in answers))
    apart = frozenset(unseen)
    return Corpus([text for text in prose if text not in apart], [_without(apart, one) for one in sources], dialogues, unseen)


def first_lines(docstring: str) -> str:
    """The first paragraph, or the second where the first is no more than how to call it, on one line."""
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(docstring).split("\n\n")]
    chosen = next((part for part in paragraphs if " " in part and not part.split("(")[0].isidentifier()), "")
    if len(chosen) > _LONGEST:
        chosen = chosen[:_LONGEST].rpartition(". ")[0]
    return chosen + ("" if not chosen or chosen.endswith((".", "!", "?", ":")) else ".")


def _sources() -> Iterator[str]:
    """The files of the standard library, without its tests."""
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "turtledemo"}
    for path in sorted(library.rglob("*.py")):
        if skipped.isdisjoint(path.relative_to(library).parts):
            try:
                yield path.read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _docstrings(source: str) -> Iterator[str]:
    """The long ones: what is short is in the code too."""
    yield from (text for _, text in _documented(source) if len(text) > 200)


def _without(texts: frozenset[str], source: str) -> str:
    """The source with empty lines where these docstrings are."""
    lines = source.splitlines(keepends=True)
    for statement, text in _documented(source):
        if text in texts:
            lines[statement.lineno - 1 : statement.end_lineno] = ["\n"] * ((statement.end_lineno or 0) - statement.lineno + 1)
    return "".join(lines)


def _documented(source: str) -> Iterator[tuple[ast.stmt, str]]:
    """Statements that are docstrings, and their texts."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0], text


def _dialogues(module: str) -> Iterator[tuple[str, str]]:
    """Of a module, of what it offers, and of the methods of the plainest classes."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return
    yield from _answered(ABOUT_MODULES, module, found)
    for name in getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")]:
        member = getattr(found, name, None)
        if inspect.ismodule(member) or not callable(member):
            continue
        if inspect.isclass(member) and issubclass(member, BaseException):
            continue
        yield from _answered(QUESTIONS, name if module == "builtins" else f"{module}.{name}", member)
        if member in WITH_METHODS:
            for method, function in vars(member).items():
                if not method.startswith("_") and callable(function):
                    yield from _answered(QUESTIONS[:2], f"{name}.{method}", function)


def _answered(questions: tuple[str, ...], name: str, thing: object) -> Iterator[tuple[str, str]]:
    answer = first_lines(inspect.getdoc(thing) or "")
    if len(answer) > 15:
        for question in questions:
            yield question.format(name=name), answer

"""Structured logs: one JSON object a line on stderr (the supervisor keeps them in files), or coloured text on a terminal.

Secrets are redacted here, at the one sink, whatever a caller passes: API keys by their form, and fields whose name says so.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

_KEY = re.compile(r"omk_[0-9A-Za-z]{8,}|(?i:bearer)\s+\S+")
_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]+:)[^@/\s]+@")
_SECRET_FIELDS = frozenset({"authorization", "api_key", "x_api_key", "password", "secret", "token", "key"})


def _redact_text(text: str) -> str:
    return _PASSWORD_IN_URL.sub(r"\1***@", _KEY.sub("***", text))


def redact(_logger: Any, _method: str, event: Any) -> Any:
    """structlog processor: no key, bearer token or URL password leaves the process."""
    return _redacted(event)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, dict):
        return {name: "***" if _is_secret(name) else _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value


def _is_secret(field: object) -> bool:
    return str(field).lower().replace("-", "_") in _SECRET_FIELDS


def configure_logging(process: str, level: str = "info") -> None:
    """Set up structlog for this process; every line names it."""
    # The plain formatter, since the fancy one prints the variables of each frame: request headers among them.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = console if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def get_logger(noun: str) -> Any:
    """A logger whose lines carry the noun they speak of."""
    return structlog.get_logger(noun=noun)

"""The command line: one file per noun, a thin layer over the client.

Everything that a command needs is imported when that command runs, so that each starts quickly.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The program `openmaas`. Exit codes: 0 done, 1 it failed and says why, 2 it was written wrongly, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    import typer

    from openmaas.cli.app import NAMES, build_app
    from openmaas.core.errors import OpenMaaSError

    try:
        app = build_app(arguments[0] if arguments and arguments[0] in NAMES else None)
        result = app(arguments, prog_name="openmaas", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except OpenMaaSError as error:
        from openmaas.cli.failures import show_error

        show_error(error)
        return 1
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader left; what is still buffered has nowhere to go
        return 141
    except Exception as error:
        from openmaas.cli.failures import show_bug

        show_bug(error)
        return 1


def _usage(error: Exception) -> int:
    from openmaas.cli.failures import show_usage

    context = getattr(error, "ctx", None)
    format_message = getattr(error, "format_message", lambda: str(error))
    show_usage(format_message(), "openmaas" if context is None else context.command_path)
    return 2

"""All commands, by noun. Only the file of the command that is asked for is imported: the others would cost 40 ms."""

from __future__ import annotations

import inspect
from importlib import import_module

import typer

from openmaas.cli.i18n import _

PANELS: dict[str, dict[str, str]] = {
    _("Server"): {"up": "server", "down": "server", "status": "server", "doctor": "server", "version": "server"},
    _("Models"): {
        "push": "pushes", "ls": "models", "show": "models", "alias": "aliases", "history": "histories", "rm": "models",
        "pull": "models", "convert": "conversions", "parity": "conversions", "measure": "measurements",
        "evaluate": "evaluations", "optimize": "optimizations",
        "compare": "comparisons", "lineage": "lineage", "gate": "gates",
    },
    _("Data"): {"data": "datasets"},
    _("Serving"): {
        "deploy": "deployments", "predict": "predictions", "chat": "chat", "ps": "processes", "logs": "logs", "top": "top",
        "rollback": "deployments", "undeploy": "deployments",
    },
    _("Jobs"): {"jobs": "jobs"},
    _("Keeping order"): {"gc": "administration", "approve": "administration"},
}  # fmt: skip
"""Panel of the help page → command, or group of commands → the file here that has it."""

NAMES = tuple(name for panel in PANELS.values() for name in panel)


def build_app(only: str | None = None) -> typer.Typer:
    """The program: all commands, or one of them."""
    app = typer.Typer(
        name="openmaas",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    for panel, commands in PANELS.items():
        for name, file in commands.items():
            if only in (None, name):
                command = getattr(import_module(f"openmaas.cli.{file}"), name)
                if isinstance(command, typer.Typer):
                    app.add_typer(command, name=name, rich_help_panel=panel)
                    continue
                app.command(name, help=_(inspect.cleandoc(command.__doc__)), rich_help_panel=panel)(command)
    return app


def _root() -> None: ...


_root.__doc__ = _("Push a trained model, deploy it, call it.")

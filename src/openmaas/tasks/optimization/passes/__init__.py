"""The passes, a file each; `core/recipes.py` declares their parameters.

A pass is a module here, named as the pass with '_' for '-', with two names:

    TAKES       kinds of artifact that it can work on
    run         (piece, parameters, bench) → the changed piece; the one that was given stays as it is
"""

from __future__ import annotations

import typing
from importlib import import_module

from openmaas.core.recipes import Pass
from openmaas.tasks.optimization.base import PassModule


def find_pass(step: Pass) -> PassModule:
    """The module that does a step."""
    # `cast` by itself is a pass here, as soon as that is imported.
    return typing.cast(PassModule, import_module(f"{__name__}.{step.name.replace('-', '_')}"))

"""What people read goes through `_`: a catalogue in openmaas/locale translates it, and without one it stays English."""

from __future__ import annotations

import gettext
from pathlib import Path

_catalogue = gettext.translation("openmaas", Path(__file__).parents[1] / "locale", fallback=True)
_ = _catalogue.gettext
plural = _catalogue.ngettext

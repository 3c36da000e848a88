"""Where the style sheets lie: Textual resolves relative paths from the class, ours are in `themes/`."""

from __future__ import annotations

from pathlib import Path, PurePath

import themes

STYLE_SHEETS: list[str | PurePath] = [Path(themes.__file__).parent / "inspect.tcss"]

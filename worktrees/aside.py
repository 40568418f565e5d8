"""Something in the way is renamed, never deleted. Apart from the rest, so that who writes a file need not load git."""

from __future__ import annotations

import os
from pathlib import Path


def set_aside(place: Path) -> Path:
    """Rename what lies there to `<name>.kept` (or .kept2, ...); returns the new path."""
    number = 1
    while os.path.lexists(aside := place.with_name(f"{place.name[:200]}.kept{number if number > 1 else ''}")):
        number += 1
    place.rename(aside)
    return aside

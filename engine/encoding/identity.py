"""Raw neurons as a dictionary: every coordinate of a site is a feature that writes along itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.dictionary import Dictionary
from engine.places import Place
from engine.sites import Site


def neurons(
    site: Site,
    width: int,
    *,
    source: str,
    folder: Path,
    sha256: str = "",
    place: Place | None = None,
    metadata: dict[str, Any] | None = None,
) -> Dictionary:
    """The coordinates of a site `width` wide; activations are what the site holds, of either sign.

    Encoder and decoder are one identity matrix: 4·width² bytes.
    """
    one = torch.eye(width)
    return Dictionary(
        source=source,
        site=site,
        write_site=site,
        kind="identity",
        architecture="identity",
        encoder=one,
        decoder=one,
        b_enc=torch.zeros(width),
        b_dec=torch.zeros(width),
        folder=folder,
        sha256=sha256,
        subtract_b_dec=False,
        metadata={} if metadata is None else metadata,
        place=place,
        form="neurons",
    )

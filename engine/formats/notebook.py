"""Reading the runs of Neel Nanda's 1L notebook: `{n}.pt` and `{n}_cfg.json`.

f = relu((x − b_dec)·W_enc + b_enc), and the reconstruction f·W_dec + b_dec; decoder rows are not unit norm. The
notebook puts BOS first in every row of tokens it trains on.
"""

from __future__ import annotations

from typing import Any

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch
from engine.formats import configs, hookpoints, tensors
from engine.formats.find import NOTEBOOK_CONFIG
from engine.places import Place
from engine.sites import Site

HOOK = "blocks.0.mlp.hook_post"
"""What the published runs on gelu-1l read; their configurations do not say it."""
_KEYS = ("W_enc", "W_dec", "b_enc", "b_dec")


def read(place: Place) -> Dictionary:
    """The run in a `.pt` file, on the CPU in float32.

    Raises:
        DictionaryMissing: something is absent, damaged or no JSON.
        DictionaryMismatch: configuration and weights do not belong together, or the hook is not known.
    """
    settings = configs.read(place.path.with_name(place.path.stem + NOTEBOOK_CONFIG))
    weights = tensors.load(place.path)
    weights.need(*_KEYS, what="a run of the 1L notebook")
    w_enc = weights.tensor("W_enc", None, None)
    width, features = w_enc.shape
    site = _site(place, settings)
    _agree(place, settings, width, features)
    return Dictionary(
        source=place.source or hookpoints.as_source(place.path.stem),
        site=site,
        write_site=site,
        kind="standard",
        architecture="standard",
        encoder=w_enc.T.contiguous(),
        decoder=weights.tensor("W_dec", features, width),
        b_enc=weights.tensor("b_enc", features),
        b_dec=weights.tensor("b_dec", width),
        folder=place.path.parent,
        sha256=weights.sha256,
        metadata=configs.metadata(site, _model(settings), settings.get("seq_len")) | {"prepend_bos": True},
        form="1L notebook",
    )


def _site(place: Place, settings: dict[str, Any]) -> Site:
    """Later runs of the notebook name the activation they read; the first ones read the MLP's neurons."""
    said = settings.get("act_name")
    if place.hook or isinstance(said, str):
        return hookpoints.site_of(place.hook or str(said), place.path)
    if "d_mlp" in settings:
        return hookpoints.site_of(HOOK, place.path)
    raise DictionaryMismatch(f"Nothing says which hook {place.path} reads.", hookpoints.REMEDY)


def _agree(place: Place, settings: dict[str, Any], width: int, features: int) -> None:
    configs.agree(place.path, "width", settings.get("act_size", settings.get("d_mlp")), width)
    times = settings.get("dict_mult")
    expected = settings.get("dict_size", width * times if isinstance(times, int) else None)
    configs.agree(place.path, "dictionary size", expected, features)


def _model(settings: dict[str, Any]) -> object:
    """The first runs had but one model and did not say which."""
    return settings.get("model_name", "gelu-1l" if "act_name" not in settings else None)

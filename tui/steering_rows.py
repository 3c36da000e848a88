"""What the user does to the rows and settings of steering: pure functions from a state to the next."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.protocol import FeatureRef, Intervention, Positions
from sessions.model import Preset
from tui.state import State
from tui.steering_state import (
    FACTORS,
    FINE,
    Sampling,
    SteerRow,
    length,
    mark_of,
    reach_of,
    step_of,
    strength_of,
    with_strength,
)


def _steering(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, steering=msgspec.structs.replace(state.steering, **changes))


def _row(state: State, place: int, row: SteerRow) -> State:
    rows = state.steering.rows
    return state if rows[place] == row else _steering(state, rows=(*rows[:place], row, *rows[place + 1 :]))


def _here(state: State, **changes: Any) -> State:
    """The state with the intervention under the cursor changed."""
    row = state.steering.row
    if row is None:
        return state
    changed = msgspec.structs.replace(row.intervention, **changes)
    return _row(state, state.steering.cursor, msgspec.structs.replace(row, intervention=changed))


# --- rows ---------------------------------------------------------------------------------------------------------


def add(state: State, ref: FeatureRef) -> State:
    """A row for a feature, if it has none, and the cursor on it."""
    rows = state.steering.rows
    for place, row in enumerate(rows):
        if row.intervention.feature == ref:
            return move_to(state, place)
    return _steering(state, rows=(*rows, SteerRow(Intervention(ref))), cursor=len(rows))


def add_all(state: State, refs: tuple[FeatureRef, ...]) -> State:
    for ref in refs:
        state = add(state, ref)
    return state


def move_to(state: State, place: int) -> State:
    """Put the cursor on a row."""
    place = max(0, min(place, len(state.steering.rows) - 1))
    return state if place == state.steering.cursor else _steering(state, cursor=place)


def toggle(state: State, place: int) -> State:
    """Turn a row on or off."""
    row = state.steering.rows[place]
    return _row(state, place, msgspec.structs.replace(row, on=not row.on))


def delete(state: State) -> State:
    """Take the row under the cursor away."""
    steering = state.steering
    rows = (*steering.rows[: steering.cursor], *steering.rows[steering.cursor + 1 :])
    return _steering(state, rows=rows, cursor=max(0, min(steering.cursor, len(rows) - 1)))


def put_rows(state: State, interventions: tuple[Intervention, ...]) -> State:
    """These rows in place of all others, all on."""
    return _steering(state, rows=tuple(SteerRow(one) for one in interventions), cursor=0)


# --- strength -----------------------------------------------------------------------------------------------------


def put_strength(state: State, place: int, strength: float) -> State:
    """A row at a strength: units of activation, or a factor."""
    row = state.steering.rows[place]
    if not row.intervention.has_strength:
        return state
    changed = msgspec.structs.replace(row, intervention=with_strength(row.intervention, strength))
    return _row(state, place, changed)


def slide(state: State, place: int, share: float) -> State:
    """A row's slider at a place from −1 to 1."""
    one = state.steering.rows[place].intervention
    return put_strength(state, place, mark_of(one) + share * reach_of(one, state.scale_of(one.feature)))


def step(state: State, steps: float, *, fine: bool = False) -> State:
    """The strength under the cursor so many steps further."""
    row = state.steering.row
    if row is None:
        return state
    one, scale = row.intervention, state.scale_of(row.intervention.feature)
    size = step_of(one, scale) * (FINE if fine else 1.0)
    return put_strength(state, state.steering.cursor, strength_of(one, scale) + steps * size)


def to_mark(state: State) -> State:
    """The strength under the cursor back to where it does nothing."""
    row = state.steering.row
    return state if row is None else put_strength(state, state.steering.cursor, mark_of(row.intervention))


# --- kinds and positions ------------------------------------------------------------------------------------------

_CYCLE = (
    ("add", "zero"),
    ("clamp", "zero"),
    ("scale", "zero"),
    ("ablate", "zero"),
    ("ablate", "mean"),
    ("ablate", "noise"),
    ("ablate", "patch"),
    ("rescale", "zero"),
    ("cap", "zero"),
)


def next_kind(state: State) -> State:
    """The next kind; ablation to another prompt's value only where such a prompt was typed."""
    row = state.steering.row
    if row is None:
        return state
    one = row.intervention
    kinds = [pair for pair in _CYCLE if pair != ("ablate", "patch") or one.patch is not None]
    here = (one.kind, one.to if one.kind == "ablate" else "zero")
    kind, to = kinds[(kinds.index(here) + 1) % len(kinds)] if here in kinds else kinds[0]
    return _of_kind(state, row, kind, to)


def _of_kind(state: State, row: SteerRow, kind: str, to: str) -> State:
    """The row under the cursor as another kind, at the strength it last had in the unit of that kind."""
    one = row.intervention
    if one.kind in FACTORS:
        row = msgspec.structs.replace(row, factor=one.strength)
    elif one.has_strength:
        row = msgspec.structs.replace(row, raw=strength_of(one, state.scale_of(one.feature)))
    changed = msgspec.structs.replace(one, kind=kind, to=to, unit="raw", strength=0.0)
    if changed.has_strength:
        strength = row.factor if changed.kind in FACTORS else row.raw
        changed = msgspec.structs.replace(changed, strength=strength)
    return _row(state, state.steering.cursor, msgspec.structs.replace(row, intervention=changed))


def next_positions(state: State) -> State:
    """All, generated, prompt, and the token under the token cursor, in turn."""
    row = state.steering.row
    if row is None:
        return state
    token = Positions("range", state.token, state.token + 1)
    cycle = (Positions("all"), Positions("generated"), Positions("prompt"), token)
    here = row.intervention.positions
    place = cycle.index(here) if here in cycle else len(cycle) - 1
    return put_positions(state, cycle[(place + 1) % len(cycle)])


def put_positions(state: State, positions: Positions) -> State:
    return _here(state, positions=positions)


def put_patch(state: State, patch: str | None) -> State:
    """The row under the cursor takes its values from another prompt; None takes that back."""
    row = state.steering.row
    if row is None or patch == row.intervention.patch:
        return state
    state = _here(state, patch=patch)
    row = state.steering.row
    assert row is not None
    if patch is not None:
        return _of_kind(state, row, "ablate", "patch")
    return _of_kind(state, row, "ablate", "zero") if row.intervention.to == "patch" else state


# --- settings -----------------------------------------------------------------------------------------------------


def put_sampling(state: State, sampling: Sampling) -> State:
    return state if sampling == state.steering.sampling else _steering(state, sampling=sampling)


def put_settings(state: State, sampling: Sampling, patch: str) -> State:
    """How texts are drawn, and the prompt from which the row under the cursor takes its values."""
    return put_patch(put_sampling(state, sampling), patch)


def next_seed(state: State) -> State:
    sampling = state.steering.sampling
    return put_sampling(state, msgspec.structs.replace(sampling, seed=sampling.seed + 1))


def toggle_error(state: State) -> State:
    """Keep what dictionaries do not explain, or drop it."""
    sampling = state.steering.sampling
    return put_sampling(state, msgspec.structs.replace(sampling, keep_error=not sampling.keep_error))


def toggle_live(state: State) -> State:
    return _steering(state, live=not state.steering.live)


def toggle_colour(state: State) -> State:
    return _steering(state, colour="probability" if state.steering.colour == "kl" else "kl")


def move_token(state: State, step: int) -> State:
    """The text cursor along the generated tokens."""
    return put_token(state, state.steering.token + step)


def put_token(state: State, token: int) -> State:
    """The text cursor on a generated token."""
    texts = state.steering.texts
    token = max(0, min(token, length(texts) - 1)) if texts else 0
    return state if token == state.steering.token else _steering(state, token=token)


# --- presets ------------------------------------------------------------------------------------------------------


def keep_preset(state: State, name: str) -> State:
    """The rows that are on under a name; one of that name is replaced."""
    preset = Preset(name, state.steering.acting)
    others = tuple(p for p in state.presets if p.name != name)
    return msgspec.structs.replace(state, presets=(*others, preset))

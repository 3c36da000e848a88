"""The screen's state where labels are given: what is said is what was done."""

from __future__ import annotations

from engine.client import EngineLost
from engine.protocol import EngineFault, Failed, FeatureRef, Label, LabelSet, Open
from tests import samples
from tests.samples import AT
from tui import label_reducer, reducer
from tui.state import State

FEATURE = FeatureRef("4-res-fk", 1)
THEIRS = Label("towns", "somebody")
OPENED = reducer.reduce_event(State(opening=Open(id=0)), samples.opened(), AT)
FAULT = EngineFault("labels_unusable", "The labels cannot be written.", "Free some space.")


def said(state: State) -> tuple[str, str]:
    assert state.notice is not None
    return state.notice.text, state.notice.level


def test_a_label_is_said_when_it_is_kept() -> None:
    asked = label_reducer.name(OPENED, 7)
    assert asked.notice is None
    kept = reducer.reduce_event(asked, LabelSet(id=7, feature=FEATURE, labels=(Label("a\nb", "you"), THEIRS)), AT)
    assert said(kept) == ("4-res-fk:1 is “a⏎b”.", "info")
    assert kept.labels == {"4-res-fk:1": "a\nb"}
    gone = reducer.reduce_event(label_reducer.name(kept, 8), LabelSet(id=8, feature=FEATURE, labels=(THEIRS,)), AT)
    assert said(gone) == ("Your label of 4-res-fk:1 is gone.", "info")
    assert gone.labels == {"4-res-fk:1": "towns"}
    assert gone.naming == frozenset()


def test_each_of_two_labels_is_answered_for_itself() -> None:
    asked = label_reducer.name(label_reducer.name(OPENED, 7), 8)
    refused = reducer.reduce_event(asked, Failed(id=7, error=FAULT), AT)
    assert said(refused) == (FAULT.message, "error")
    assert refused.naming == {8}
    assert refused.log[-1].text == "The labels cannot be written. Free some space."
    kept = reducer.reduce_event(refused, LabelSet(id=8, feature=FEATURE, labels=(Label("x", "you"),)), AT)
    assert said(kept) == ("4-res-fk:1 is “x”.", "info")


def test_what_nobody_waits_for_is_not_said() -> None:
    late = LabelSet(id=9, feature=FEATURE, labels=(Label("x", "you"),))
    assert reducer.reduce_event(OPENED, late, AT).notice is None
    assert reducer.reduce_event(OPENED, Failed(id=9, error=FAULT), AT) == OPENED


def test_an_engine_that_dies_over_a_label_does_not_say_that_nothing_is_lost() -> None:
    plain = reducer.reduce_event(OPENED, EngineLost("gone"), AT)
    over = reducer.reduce_event(label_reducer.name(OPENED, 7), EngineLost("gone"), AT)
    assert plain.notice is not None
    assert over.notice is not None
    assert plain.notice.remedy == "Nothing is lost."
    assert over.notice.remedy == "N shows whether the label given last was kept."
    assert over.naming == frozenset()

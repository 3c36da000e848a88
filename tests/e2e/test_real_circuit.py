"""A circuit in the real program in a terminal, with the real engine and the default set: traced, walked, checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.protocol import NodeRef
from tests.e2e.test_real_engine import features_shown, only_session, saescope

pytestmark = [pytest.mark.default_set, pytest.mark.timeout(240)]
PROMPT = "The keys to the cabinet"
AIM = " are / is | The key to the cabinet"
CHILD = re.compile(r"▸ (25-res-sc):(\d+) @ ·keys\(1\)")


@pytest.mark.usefixtures("default_set")
def test_a_circuit_is_traced_walked_checked_and_replayed(tmp_path: Path) -> None:
    with saescope(tmp_path, size=(160, 45)) as terminal:
        terminal.wait_for("Prompt", 20)
        terminal.send(PROMPT)
        terminal.wait_for(PROMPT, 20)
        terminal.send("\r")
        terminal.wait_for(features_shown, 120)
        terminal.settle()
        terminal.send("5")
        terminal.wait_for("traces the likeliest next token")
        terminal.send("T")
        terminal.wait_for("·Paris")
        terminal.send(AIM)
        terminal.wait_for("The key to the cabinet")
        terminal.send("\r")
        terminal.wait_for(lambda text: "explained" in text and CHILD.search(text) and " ready · " in text, 120)
        terminal.settle()

        terminal.send("j")
        terminal.settle()
        terminal.send("l")
        terminal.wait_for("21-res-sc:")
        terminal.send("v")
        terminal.wait_for(re.compile("[✓✗]").search, 60)
        terminal.send("q")
        assert terminal.wait(10) == 0

    session = only_session(tmp_path)
    (record,) = session.circuits
    circuit = record.circuit
    assert circuit.finished
    assert circuit.metric.label == "logit ·are − ·is"
    assert circuit.metric.clean > 0 > (circuit.metric.baseline or 0)
    strongest = circuit.nodes[1]
    assert strongest.ref.position == 1, "the noun decides the number of the verb"
    assert circuit.edges
    (check,) = record.checks
    assert check.source in {node.ref for node in circuit.nodes}
    assert check.target in {None, NodeRef("")}
    assert check.measured * check.predicted > 0

    (path,) = (tmp_path / "sessions").glob("*.json")
    nothing = str(tmp_path / "none")
    with saescope(tmp_path, "replay", str(path), size=(160, 45), SAESCOPE_CACHE=nothing) as replay:
        replay.wait_for(features_shown, 20)
        replay.send("5")
        replay.wait_for(lambda text: "logit ·are − ·is" in text and "25-res-sc:" in text, 20)
        replay.send("q")
        assert replay.wait(10) == 0

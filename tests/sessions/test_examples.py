"""The sessions that come with the program are whole, and the model still says what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.headless import Headless
from engine.protocol import Open, Steer, Steered
from sessions.store import EXAMPLES, example_or_file, read_session


def test_an_example_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert example_or_file(Path("faith")) == EXAMPLES / "faith.json"
    assert example_or_file(Path("nothing")) == Path("nothing")
    assert example_or_file(tmp_path / "faith") == tmp_path / "faith"
    (tmp_path / "faith").write_text("mine")
    assert example_or_file(Path("faith")) == Path("faith")


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda f: f.stem)
def test_examples_name_no_machine_and_have_evidence(file: Path) -> None:
    session = read_session(file)
    assert session.owner is None
    assert session.model is not None
    assert not any("/" in place for place in (session.model.folder, *(d.folder for d in session.dictionaries)))
    (control,) = [e.control for e in session.evidence if e.control]
    (sweep,) = [e.sweep for e in session.evidence if e.sweep]
    assert control.watched[0].text == " faith"
    assert control.steered.watched[0] > 5 * max(c.watched[0] for c in control.controls)
    assert len(sweep.points) == 17


@pytest.mark.default_set
def test_the_example_can_be_run_again(default_set: Path) -> None:
    recorded = read_session(EXAMPLES / "faith.json").steers[0].result
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, device="cpu"))
    request = Steer(
        id=2, prompt=recorded.prompt, interventions=recorded.interventions, temperature=0, watch=(" faith",)
    )
    found = next(e.result for e in engine.ask(request) if isinstance(e, Steered))
    for new, old in ((found.plain, recorded.plain), (found.steered, recorded.steered)):
        assert new.ids[:10] == old.ids[:10]  # further on another processor may round a near tie otherwise
    assert found.steps[0].steered is not None
    assert found.steps[0].steered.watched[0] == pytest.approx(0.2315, rel=1e-2)
    assert found.provenance.model_sha256 == recorded.provenance.model_sha256
    assert found.provenance.dictionaries == recorded.provenance.dictionaries

"""A circuit of the default set that linguists know: the verb agrees with "keys", not with the cabinet beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.circuit_reports import correlation
from engine.errors import BadRequest
from engine.headless import Headless
from engine.protocol import Check, Checked, Circuit, Open, Trace, TraceGrown, Verify

pytestmark = [pytest.mark.default_set, pytest.mark.timeout(300)]
CLEAN, PATCH = "The keys to the cabinet", "The key to the cabinet"
LATE = ("9-res-sc", "13-res-sc", "17-res-sc", "21-res-sc", "25-res-sc")


@pytest.fixture(scope="module")
def headless(default_cache: Path) -> Iterator[Headless]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SAESCOPE_CACHE", str(default_cache))
        opened = Headless(lambda *_: None)
        opened.ask(Open(id=1, device="cpu", dtype="float32"))
        yield opened


def _trace(headless: Headless, method: Any) -> Circuit:
    asked = Trace(id=2, prompt=CLEAN, patch=PATCH, target=(" are",), against=(" is",), method=method)
    return [event.circuit for event in headless.ask(asked) if isinstance(event, TraceGrown)][-1]


@pytest.fixture(scope="module")
def circuit(headless: Headless) -> Circuit:
    return _trace(headless, "ig")


def test_the_model_knows_the_number_of_the_subject(circuit: Circuit) -> None:
    assert circuit.metric.baseline is not None
    assert circuit.metric.clean > 0 > circuit.metric.baseline
    assert circuit.nodes[0].effect == pytest.approx(circuit.metric.clean - circuit.metric.baseline, rel=1e-4)


def test_the_strongest_cause_is_at_the_subject(circuit: Circuit) -> None:
    """In each of the sites from layer 9 on until the information has moved to the end of the sentence."""
    late = [node for node in circuit.nodes[1:] if node.ref.source in LATE]
    strongest = late[0]
    assert strongest.ref.position is not None
    assert circuit.tokens[strongest.ref.position].text == " keys"
    assert not strongest.ref.is_error


def test_a_whole_site_explains_the_whole_effect(circuit: Circuit) -> None:
    """Every residual stream carries all of it: features and errors add up to it, as far as a few steps integrate."""
    total = circuit.nodes[0].effect
    assert [site.source for site in circuit.sites] == ["4-res-sc", *LATE]
    for site in circuit.sites:
        assert site.features + site.error == pytest.approx(total, rel=0.4), site.source


def test_the_strongest_edges_hold_under_intervention(headless: Headless, circuit: Circuit) -> None:
    _trace(headless, "ig")
    checks: list[Check] = []
    for edge in circuit.edges[:10]:
        source, target = circuit.nodes[edge.source].ref, circuit.nodes[edge.target].ref
        events = headless.ask(Verify(id=3, source=source, target=target))
        checks += [event.check for event in events if isinstance(event, Checked)]
    assert len(checks) == 10
    assert correlation([(check.predicted, check.measured) for check in checks]) > 0.6


def test_attrib_is_plain_torch_at_one_site(headless: Headless) -> None:
    """Block 13's output as a leaf: −Δf · (W_dec · gradient), with the dictionary as the files have it."""
    circuit = _trace(headless, "attrib")
    opened = headless.engine.opened
    model, dictionary = opened.model.hf, opened.dictionaries["13-res-sc"]
    are, is_ = (opened.model.tokenizer.encode(text, bos=False)[0] for text in (" are", " is"))
    held: list[torch.Tensor] = []

    def hold(_: Any, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        held.append(first.detach().requires_grad_())
        return (held[-1], *output[1:]) if isinstance(output, tuple) else held[-1]

    handle = model.model.layers[13].register_forward_hook(hold)
    metrics = []
    for prompt in (CLEAN, PATCH):
        logits = model(torch.tensor([opened.ids(prompt, chat=False)])).logits[0, -1]
        metrics.append(logits[are] - logits[is_])
    handle.remove()
    (gradient,) = torch.autograd.grad(metrics[0], [held[0]])
    x, base, gradient = held[0][0].detach(), held[1][0].detach(), gradient[0]
    pre = [(rows - dictionary.b_dec) @ dictionary.encoder.T + dictionary.b_enc for rows in (x, base)]
    clean, patched = (torch.zeros_like(p).scatter(1, (t := p.topk(dictionary.k)).indices, t.values.relu()) for p in pre)
    features = -(patched - clean) * (gradient @ dictionary.decoder.T)
    errors = -(((base - x) - (patched - clean) @ dictionary.decoder) * gradient).sum(1)
    (site,) = [site for site in circuit.sites if site.source == "13-res-sc"]
    largest = float(features.abs().max())
    assert site.features == pytest.approx(float(features.sum()), abs=1e-2 * largest)
    assert site.error == pytest.approx(float(errors.sum()), abs=1e-2 * largest)
    mine = [node for node in circuit.nodes[1:] if node.ref.source == "13-res-sc"]
    assert len(mine) > 3
    for node in mine:
        theirs = errors[node.ref.position] if node.ref.is_error else features[node.ref.position, node.ref.index]
        assert node.effect == pytest.approx(float(theirs), abs=2e-3 * largest)


def test_are_without_its_space_is_found_with_it(headless: Headless) -> None:
    found = headless.ask(Trace(id=2, prompt=CLEAN, target=(" are",), method="attrib", max_nodes=3))
    circuit = [event.circuit for event in found if isinstance(event, TraceGrown)][-1]
    assert circuit.metric.label == "logit ·are"
    with pytest.raises(BadRequest, match="tokens, not one"):
        headless.ask(Trace(id=2, prompt=CLEAN, target=(" arewhat",)))

"""The pages of evidence: every number is there at every width, and no text breaks them."""

from __future__ import annotations

import unicodedata

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.style import Style
from rich.text import Text

from engine.protocol import (
    AblationResult,
    AblationRow,
    ArmFigures,
    ControlResult,
    FeatureChange,
    FeatureRef,
    Flip,
    ImpactArm,
    ImpactResult,
    Intervention,
    Metric,
    Positions,
    Provenance,
    SiteImpact,
    SweepPoint,
    SweepResult,
    Token,
)
from tests.nasty import NASTY
from tests.tui.bench import Bench, press
from tui.screens.evidence import AblationPage, ControlPage, ImpactPage, SweepPage
from tui.screens.evidence_ablation import overlap_words
from tui.screens.evidence_control import verdict
from tui.screens.evidence_parts import EvidencePage, table
from tui.screens.evidence_sweep import flip_words
from tui.text import cell_len

WIDTHS = (60, 79, 100, 118, 160, 200)
SHE, HE = Token(1, " she"), Token(2, " he")
FEATURE = FeatureRef("15-res-sc", 2210)
HOW = Provenance(
    "SmolLM2", "ab", {}, {}, "cpu", "float32", "added", {"seed": 3, "temperature": 0.7, "stop": ""}, {"saescope": "0"}
)
ADD = Intervention(FEATURE, 2.5, unit="max", positions=Positions("generated"))
_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def arm(kl: float, text: str = "went to the market", *watched: float, perplexity: float | None = 8.25) -> ArmFigures:
    return ArmFigures(text, kl, 2 * kl, 3 if kl else None, perplexity, watched)


def control(*kls: float, steered: float = 0.82) -> ControlResult:
    """Random directions with these KLs, beside one steered arm."""
    return ControlResult(
        "I think that", False, (ADD,), (SHE,),
        arm(0.0, "he is late", 0.12), arm(steered, "she is late", 0.61, perplexity=23.4),
        tuple(arm(kl, f"random text {n}", 0.12 + kl / 10) for n, kl in enumerate(kls)), HOW, 12.34,
        ("Layer 29 is the last.",),
    )  # fmt: skip


def sweep(*strengths: float, flip: Flip | None = None, controls: int = 2, watched: bool = True) -> SweepResult:
    points = tuple(
        SweepPoint(
            s,
            arm(abs(s) / 50, f"text at {s:g}", *([0.5 + s / 100] if watched else []), perplexity=10.0 + s * s),
            tuple(arm(0.01 * n, "x", *([0.5] if watched else [])) for n in range(controls)),
        )
        for s in strengths
    )
    plain = arm(0.0, "the plain text", *([0.5] if watched else []))
    tokens = (SHE,) if watched else ()
    return SweepResult("I think that", True, (ADD,), 0, tokens, plain, points, flip, HOW, 30.0)


def impact() -> ImpactResult:
    tokens = (Token(0, "I", sink=True), Token(3, " think"), Token(4, " that"))
    sites = tuple(SiteImpact(f"{n}-res-sc", f"blocks.{n}", 240, 60, 11, 7, 31, 0.998, 0.0125) for n in (21, 27))
    quiet = tuple(msgspec.structs.replace(s, changed=12, small=10, silenced=0, woken=2) for s in sites)
    changes = (FeatureChange(FeatureRef("21-res-sc", 907), 2, 1.5, 28.25), FeatureChange(FEATURE, 99, 5.0, 0.0))
    return ImpactResult(
        "I think that", False, tokens, (ADD,), ImpactArm(sites, changes, 0.82), ImpactArm(quiet, (), 0.03), HOW, 1.5
    )


def ablations() -> AblationResult:
    rows = tuple(
        AblationRow(FeatureRef("21-res-sc", n), 30.0 - n, 1, -0.4 + n / 7, 1.5 - n / 5, 0.25, n + 1, 12 - n, n + 1)
        for n in range(12)
    )
    metric = Metric("difference", (SHE,), (HE,), clean=-2.25)
    tokens = (Token(0, "I", sink=True), Token(3, " think"), Token(4, " that"))
    return AblationResult("I think that", False, tokens, metric, 10, 87, rows, 3, 8, 0.12, 0.81, HOW, 9.0)


def plain(name: str) -> Style:
    return Style()


def drawn(page: EvidencePage, width: int) -> list[str]:
    """The page's lines, none of which is too wide or holds what a terminal obeys."""
    lines = page.lines(plain)(width)
    assert all(isinstance(line, Text) for line in lines)
    shown = [line.plain for line in lines]
    assert max(map(cell_len, shown)) <= width
    assert not {hex(ord(c)) for line in shown for c in line if unicodedata.category(c) in _ACTING}
    return shown


def told(page: EvidencePage, width: int) -> str:
    """All words of a page with single spaces, whatever the lines."""
    return " ".join(" ".join(drawn(page, width)).split())


# --- control ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_a_control_says_what_random_directions_do(width: int) -> None:
    text = told(ControlPage(control(0.05, 0.02, 0.09, 0.04, 0.05)), width)
    assert "KL .820 at the first token; random directions of the same norm: .050 (.020–.090), 5 seeds: 16.4×." in text
    assert "None of the 5 random directions moves it as far or further." in text
    assert "come first 1 time in 6" in text
    assert "·she at the first token: plain .120, steered .610, random .125 (.122–.129); none of the 5" in text
    assert "mean KL 1.64, random .100 (.040–.180)" in text
    assert "plain 8.25, steered 23.4, random 8.25." in text
    assert "15-res-sc:2210 +2.50 × max, generated tokens" in text
    assert "seed 3 · temperature 0.7 · 12.3 s" in text
    assert "! Layer 29 is the last." in text
    assert "stop" not in text
    for n, kl in enumerate((".050", ".020", ".090", ".040", ".050")):
        assert f"random {n} {kl}" in text
        assert f"random text {n}" in text


def test_a_control_claims_no_more_than_it_has() -> None:
    some = " ".join(verdict(control(0.9, 0.1, 0.82)))
    assert "2 of the 3 random directions move it as far or further." in some
    assert "come first" not in some
    one = " ".join(verdict(control(0.1)))
    assert ".100, 1 seed: 8.20×" in one
    assert "The random direction does not move it as far or further." in one
    assert "1 time in 2" in one
    assert "no random direction was measured" in " ".join(verdict(control()))
    nothing = " ".join(verdict(control(0.0, 0.0, steered=0.0)))
    assert "Steering changes nothing there." in nothing
    assert "×" not in nothing
    assert "come first" not in nothing


def test_bars_grow_with_the_kl() -> None:
    lines = drawn(ControlPage(control(0.41, 0.0)), 80)
    start = next(n for n, line in enumerate(lines) if "mean KL" in line and "KL mean" not in line and ":" not in line)
    lengths = [line.count("█") for line in lines[start + 1 : start + 4]]
    assert lengths[0] > 50
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=1)
    assert lengths[2] == 0


# --- sweep ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sweep_shows_every_strength(width: int) -> None:
    flip = Flip(SHE, HE, -2.3, 12.5, None)
    text = told(SweepPage(sweep(-40, -20, 0, 20, 40, flip=flip)), width)
    assert "Smallest strength that prefers ·she to ·he: +12.5; negative: none down to −40.0." in text
    assert "Without steering logit ·she − logit ·he is −2.30." in text
    assert "strength of add on 15-res-sc:2210, in multiples of its largest activation, generated tokens" in text
    assert "5 points, −40.0 to +40.0" in text
    assert "p of ·she at the first token (plain .500)" in text
    assert "log scale" in text
    assert "● steered · random directions" in text
    assert "in the chat template, after “I think that”" in text
    for strength, kl in (("−40.0", ".800"), ("−20.0", ".400"), ("+20.0", ".400"), ("+40.0", ".800")):
        assert f"{strength} {kl} .005 (0–.010)" in text
        assert f"text at {strength.rstrip('0').rstrip('.').replace('−', '-').replace('+', '')}" in text


def test_flips_that_are_not_there_are_said_to_be_not_there() -> None:
    def words(*strengths: float, margin: float = -1.0, up: float | None = None, down: float | None = None) -> str:
        return " ".join(flip_words(sweep(*strengths, flip=Flip(SHE, HE, margin, up, down))))

    assert "none up to +10.0; negative: −5.00" in words(-10, 10, down=-5)
    assert "none up to +10.0; negative: not tried" in words(0, 10)
    assert words(0, 10, margin=1.5).endswith("is +1.50: ·she is preferred already.")
    assert flip_words(sweep(1)) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sweep_may_have_one_point_or_none_or_no_tokens(width: int) -> None:
    assert "KL at the first token" in told(SweepPage(sweep(5, controls=0, watched=False)), width)
    assert "nothing was measured" in told(SweepPage(sweep()), width)
    point = SweepPoint(5.0, ArmFigures("", 0.0, 0.0, None, None))
    empty = msgspec.structs.replace(sweep(watched=False), points=(point,), varied=7)
    text = told(SweepPage(empty), width)
    assert "+5.00 0 0 – –" in text
    assert "no text" in text


# --- impact and ablations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_an_impact_shows_both_arms_of_every_dictionary(width: int) -> None:
    text = told(ImpactPage(impact()), width)
    assert "KL of the next token: steered .820, random direction .030." in text
    assert "Left out: what was steered (15-res-sc:2210), and attention sinks (0 I)." in text
    for source in ("21-res-sc", "27-res-sc"):
        assert f"{source} steered 240 60 25.0 % 31 11 7" in text
        assert f"{source} random 240 12 5.00 % 10 0 2" in text
    assert ".998 .013" in text
    assert "21-res-sc:907 2 ·that 1.50 28.2 +26.8" in text
    assert "15-res-sc:2210 99 5.00 0 −5.00" in text
    assert "No other feature changes." in text


@pytest.mark.parametrize("width", WIDTHS)
def test_ablations_show_three_ranks_and_their_overlap(width: int) -> None:
    page = AblationPage(ablations())
    text = told(page, width)
    assert "logit ·she − ·he = −2.25." in text
    assert (
        "Of the 10 that matter most by ablation, 3 are among the 10 most active and 8 among the 10 by attribution; "
        "correlation with |ablation| .120 and .810 over 87 measured features."
    ) in text
    assert "21-res-sc:0 1 ·think +1.50 1 −.400 12 30.0 1 .250" in text
    rows = [line for line in drawn(page, width) if line.startswith(" 21-res-sc:")]
    assert [row.split()[0] for row in rows] == [f"21-res-sc:{n}" for n in range(12)]


def test_an_overlap_that_cannot_be_computed_is_a_dash() -> None:
    few = msgspec.structs.replace(
        ablations(), measured=1, shared_activation=1, correlation_activation=None, correlation_attribution=None
    )
    assert "Of the 1 that" in overlap_words(few)[1]
    assert "– and – over 1 measured feature." in overlap_words(few)[1]
    none = msgspec.structs.replace(ablations(), measured=0, rows=())
    assert "No feature was taken out." in told(AblationPage(none), 60)
    assert len(overlap_words(none)) == 1


# --- anything at all --------------------------------------------------------------------------------------------

texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=80), st.text("漢ﾊé😀🇫🇷\u0301[]/", max_size=90))
numbers = st.one_of(st.just(0.0), st.floats(-1e300, 1e300), st.floats(0, 1e6))
figures = st.builds(
    ArmFigures, texts, numbers, numbers, st.none() | st.integers(0, 99), st.none() | numbers,
    st.lists(numbers, max_size=3).map(tuple),
)  # fmt: skip
tokens_ = st.lists(st.builds(Token, st.just(1), texts, st.booleans(), st.booleans()), max_size=4).map(tuple)
refs = st.builds(FeatureRef, texts, st.integers(0, 99999))
interventions = st.lists(
    st.builds(
        Intervention, refs, numbers, st.sampled_from(("add", "clamp", "scale", "ablate", "rescale", "cap")),
        st.sampled_from(("raw", "max")), st.booleans(), st.sampled_from(("zero", "mean", "patch", "noise")),
        st.none() | texts,
    ), max_size=3,
).map(tuple)  # fmt: skip
widths = st.integers(60, 200)


@settings(max_examples=60, deadline=None)
@given(st.data(), widths)
def test_no_content_breaks_a_page(data: st.DataObject, width: int) -> None:
    prompt, watched, done = data.draw(texts), data.draw(tokens_), data.draw(interventions)
    arms = st.lists(figures, max_size=3).map(tuple)
    points = data.draw(st.lists(st.builds(SweepPoint, numbers, figures, arms), max_size=4).map(tuple))
    flip = data.draw(st.none() | st.builds(Flip, *[st.builds(Token, st.just(1), texts)] * 2, numbers))
    warnings = (data.draw(texts),)
    sites = st.lists(
        st.builds(SiteImpact, texts, texts, *[st.integers(0, 9999)] * 5, numbers, numbers), max_size=3
    ).map(tuple)
    arm_ = st.builds(
        ImpactArm, sites, st.lists(st.builds(FeatureChange, refs, st.integers(-1, 9), numbers, numbers), max_size=3)
    )
    rows = st.builds(AblationRow, refs, numbers, st.integers(0, 9), *[numbers] * 3, *[st.integers(1, 99)] * 3)
    metric = Metric("difference", watched, watched, clean=1.0)
    pages: list[EvidencePage] = [
        ControlPage(
            ControlResult(
                prompt, True, done, watched, data.draw(figures), data.draw(figures), data.draw(arms), HOW, 1.0, warnings
            )
        ),
        SweepPage(
            SweepResult(prompt, False, done, 0, watched, data.draw(figures), points, flip, HOW, 1.0, warnings)
        ),
        ImpactPage(
            ImpactResult(prompt, False, watched, done, data.draw(arm_), data.draw(arm_), HOW, 1.0, warnings)
        ),
        AblationPage(
            AblationResult(
                prompt, False, watched, metric, 3, 4, tuple(data.draw(st.lists(rows, max_size=4))), 1, 2, None, 0.5,
                HOW, 1.0,
            )
        ),
    ]  # fmt: skip
    for page in pages:
        assert drawn(page, width)


@given(
    st.lists(st.tuples(st.text("ab漢", max_size=30), *[st.integers(0, 10**7)] * 6), min_size=1, max_size=4),
    st.integers(40, 200),
)
def test_a_table_cuts_names_and_never_numbers(rows: list[tuple[object, ...]], width: int) -> None:
    cells = [[str(cell) for cell in row] for row in rows]
    lines = [line.plain for line in table(["name", *"abcdef"], cells, width, plain)]
    assert max(map(cell_len, lines)) <= width
    words = " ".join(lines).split()
    for row in cells:
        assert set(row[1:]) <= set(words)


# --- in the app -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 24), (80, 24), (120, 40), (200, 50)])
async def test_pages_open_scroll_copy_and_close(size: tuple[int, int]) -> None:
    pages: list[EvidencePage] = [
        ControlPage(control(0.05, 0.02)),
        SweepPage(sweep(-10, 0, 10)),
        ImpactPage(impact()),
        AblationPage(ablations()),
    ]
    app = Bench()
    async with app.run_test(size=size) as pilot:
        below = app.screen
        for page in pages:
            await app.push_screen(page)
            await pilot.pause()
            assert page._title in app.text
            assert page.body.plain_lines == drawn(page, page.body.scrollable_content_region.width)
            assert page.body.plain_lines[0].strip() in app.text
            await press(pilot, "G")
            assert page.body.plain_lines[-1].strip() in app.text
            await press(pilot, "g", "j", "y")
            assert "clipboard" in app.text
            assert app.copied[-1].splitlines()[0] == page._title
            assert "SmolLM2 · float32 on cpu" in app.copied[-1]
            await press(pilot, "escape")
            assert app.screen is below
        assert len(app.copied) == len(pages)

"""Pages of evidence about steering: control, sweep, impact on other features, ranks by ablation."""

from __future__ import annotations

from functools import partial

from engine.protocol import AblationResult, ControlResult, ImpactResult, SweepResult
from tui.screens.evidence_ablation import ablation_lines
from tui.screens.evidence_control import control_lines
from tui.screens.evidence_impact import impact_lines
from tui.screens.evidence_parts import EvidencePage
from tui.screens.evidence_sweep import sweep_lines
from tui.text import visible


class ControlPage(EvidencePage):
    """Steering beside random directions."""

    def __init__(self, result: ControlResult) -> None:
        super().__init__("Control: random directions", partial(control_lines, result))


class SweepPage(EvidencePage):
    """Dose and response."""

    def __init__(self, result: SweepResult) -> None:
        super().__init__("Sweep: dose and response", partial(sweep_lines, result))


class ImpactPage(EvidencePage):
    """What steering does to other features."""

    def __init__(self, result: ImpactResult) -> None:
        super().__init__("Impact on the other features", partial(impact_lines, result))


class AblationPage(EvidencePage):
    """Which features matter most."""

    def __init__(self, result: AblationResult) -> None:
        super().__init__(f"Ablations: {visible(result.metric.label)}", partial(ablation_lines, result))

"""`saescope steer`, `sweep`, `impact` and `ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.commands.common import (
    AsJson,
    Chat,
    one_line_errors,
    print_result,
    read_prompt,
    report_progress,
    say,
)
from engine.commands.groups import preset_reader, typed
from engine.commands.opening import opens_model

if TYPE_CHECKING:
    from engine.protocol import Intervention, Open

_LARGEST_SEED = 2**63 - 1

Prompt = Annotated[str, typer.Argument(help="The prompt; - reads standard input.")]
Tokens = Annotated[int, typer.Option(min=1, help="How many tokens to generate.")]
Seed = Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Seed of the random numbers all arms share.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Draw from the likeliest tokens up to this mass.")]
TopK = Annotated[int, typer.Option(min=0, help="Draw from so many of the likeliest tokens; 0: from all.")]
Penalty = Annotated[float, typer.Option(help="Logits of tokens that were there already are divided by it; 1: none.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="STRING", help="Ends a text; may be repeated.")]
Watch = Annotated[
    list[str] | None, typer.Option(metavar="TOKEN", help="Report the probability of this token; may be repeated.")
]
DropError = Annotated[
    bool,
    typer.Option("--drop-error", help="Where one acts, the dictionary's reconstruction stands for the activation."),
]


@one_line_errors
@opens_model()
def steer(
    context: typer.Context,
    prompt: Prompt,
    drop_error: DropError = False,
    tokens: Tokens = 40,
    seed: Seed = 0,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    watch: Watch = None,
    runs: Annotated[int, typer.Option(min=1, help="So many runs, each with the next seed.")] = 1,
    control: Annotated[
        int, typer.Option(min=0, max=50, help="Also steer along so many random directions of the same norm.")
    ] = 0,
    change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP:STRENGTH", help="From this generated token on the first feature has another strength."
        ),
    ] = None,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """Continue a prompt plain and with features turned up or down, from the same random numbers.

    Each --feature begins a group; what is done to it follows: --add, --clamp, --scale, --ablate, --rescale or --cap.
    """
    from engine import headless_steering, steering_reports
    from engine.documents import to_json
    from engine.typed_interventions import read_changes

    interventions = _interventions(context)
    changes = read_changes(change or [], interventions, tokens)
    request = headless_steering.steer_request(
        read_prompt(prompt), interventions, chat=chat, tokens=tokens, seed=seed, temperature=temperature, top_p=top_p,
        top_k=top_k, repetition_penalty=repetition_penalty, stop=stop or [], keep_error=not drop_error,
        watch=watch or [],
    )  # fmt: skip
    found = headless_steering.steer(
        opening, request, runs=runs, control=control, changes=changes,
        maxima=not json, report=report_progress,
    )  # fmt: skip
    for run in found.runs:
        for step in changes.keys() - {happened.step for happened in run.changes}:
            say(f"The steered text ended before generated token {step}: its strength did not change there.")
    text = steering_reports.steer_text(found.runs, found.controls, found.maxima)
    print_result(to_json(found.document), text, json)


@one_line_errors
@opens_model()
def sweep(
    context: typer.Context,
    prompt: Prompt,
    strengths: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO:COUNT", help="E.g. -4x:4x:17, or a list such as 0,1x,2x; x: times the feature's maximum."
        ),
    ] = None,
    vary: Annotated[int, typer.Option(min=1, help="Which of the features is varied, from 1.")] = 1,
    controls: Annotated[int, typer.Option(min=0, max=50, help="So many random directions at every strength.")] = 0,
    answer: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Seek the smallest strength at which this is the next token.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Rather than this one; the likeliest otherwise.")
    ] = None,
    drop_error: DropError = False,
    tokens: Tokens = 40,
    seed: Seed = 0,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    watch: Watch = None,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """Steer with one feature at several strengths: dose and response, and where an answer flips."""
    from engine import headless_steering, steering_reports
    from engine.documents import to_json

    request = headless_steering.sweep_request(
        headless_steering.steer_request(
            read_prompt(prompt), _interventions(context, kindless=vary - 1), chat=chat, tokens=tokens, seed=seed,
            temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty, stop=stop or [],
            keep_error=not drop_error, watch=watch or [],
        ),
        vary - 1, strengths, controls, answer, against,
    )  # fmt: skip
    result, maxima = headless_steering.sweep(opening, request, maxima=not json, report=report_progress)
    print_result(to_json(result), steering_reports.sweep_text(result, maxima), json)


@one_line_errors
@opens_model()
def impact(
    context: typer.Context,
    prompt: Prompt,
    top: Annotated[int, typer.Option(min=1, help="How many of the largest changes.")] = 20,
    seed: Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Seed of the random direction.")] = 0,
    drop_error: DropError = False,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """What steering does to all other features of a prompt, beside a random direction of the same norm."""
    from engine import headless_steering, steering_reports
    from engine.documents import to_json
    from engine.protocol import MeasureImpact

    interventions = _interventions(context)
    request = MeasureImpact(
        id=2, prompt=read_prompt(prompt), interventions=interventions, chat=chat, keep_error=not drop_error, top=top,
        seed=seed,
    )  # fmt: skip
    result, maxima = headless_steering.impact(opening, request, maxima=not json, report=report_progress)
    print_result(to_json(result), steering_reports.impact_text(result, maxima), json)


@one_line_errors
@opens_model()
def ablate(
    prompt: Prompt,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="The metric is this token's logit; the likeliest otherwise."),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="TOKEN", help="Compared with this token: a difference of logits.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many features are the top by each measure.")] = 10,
    candidates: Annotated[
        int, typer.Option(min=1, help="Take out so many of the strongest by activation, and as many by attribution.")
    ] = 100,
    site: Annotated[
        list[str] | None, typer.Option(help="Only features of this source or hook; may be repeated.")
    ] = None,
    keep_first: Annotated[bool, typer.Option(help="Take features out of attention sinks too.")] = False,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """Which features matter: by activation, by attribution, and by taking them out one at a time."""
    from engine import headless_steering, steering_reports
    from engine.documents import to_json
    from engine.protocol import RankAblations

    request = RankAblations(
        id=2, prompt=read_prompt(prompt), chat=chat, target=tuple(target or ()), against=tuple(against or ()), top=top,
        candidates=candidates, keep_sinks=keep_first,
    )  # fmt: skip
    result = headless_steering.ablations(opening, request, site or [], report=report_progress)
    print_result(to_json(result), steering_reports.ablation_text(result), json)


def _interventions(context: typer.Context, **settings: Any) -> tuple[Intervention, ...]:
    """The groups of the command line as interventions."""
    from engine.typed_interventions import read_interventions

    return read_interventions(typed(context), preset_reader(context), **settings)

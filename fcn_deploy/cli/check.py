"""``fcn-deploy check``: an artefact against what the original network answered where it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_deploy.cli import console, options


def check(
    artefact: options.Artefact,
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS.npz", help="Frames, and the original's logits or labels.", show_default=False
        ),
    ],
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Of equal labels, in each frame.",
            show_default="0.999 for fp32, 0.998 for fp16, 0.95 for INT8",
        ),
    ] = None,
    max_logit_error: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SHARE",
            help="Of the frame's largest logit.",
            show_default="0.002 for fp32, 0.005 for fp16, not judged for INT8",
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the worst frame, such as worst.png.")
    ] = None,
    backend: options.Backend = None,
    device: options.Device = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    allow_fallback: options.AllowFallback = None,
    cuda_binding: options.CudaBinding = None,
    expect_sha256: options.ExpectSha256 = None,
    trust: options.Trust = None,
    option: options.BackendOption = None,
    as_json: options.Json = False,
) -> None:
    """Compare an artefact with the original network, and name the mistake that explains a difference."""
    if picture is not None:
        options.check_output("--picture", picture, options.PICTURES)
    from fcn_deploy.answers.checking import check_answers
    from fcn_deploy.camera.sinks.files import write_picture
    from fcn_deploy.cli.backend_options import options_for
    from fcn_deploy.errors import ParityError

    opened = options_for(
        artefact,
        backend,
        option or (),
        device=device,
        provider=provider,
        threads=threads,
        allow_fallback=allow_fallback,
        cuda_binding=cuda_binding,
        expect_sha256=expect_sha256,
        trust=trust,
    )
    with console.steps() as step:
        result = check_answers(
            artefact,
            answers,
            min_agreement=min_agreement,
            max_logit_error=max_logit_error,
            backend=backend,
            progress=step,
            **opened,
        )
    if picture is not None:
        write_picture(picture, result.draw_worst())
    for sentence in result.warnings:
        console.warn(sentence)
    if as_json:
        console.write_json(result.to_dict())
    else:
        out = console.Printer()
        out.pairs(row for row in result.summary() if row[0] not in ("result", "warning"))
        if picture is not None:
            out.say(f"Wrote {picture}")
    if not result.passed:
        raise ParityError(result.finding)
    if not as_json:
        out.say(f"Passed: {result.finding}")

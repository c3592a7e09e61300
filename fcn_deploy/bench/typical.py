"""Typical user code, for comparison: the plain module exported as it is.

No rewrite, no preprocessing and no argmax inside: float32 ``[N, 3, H, W]`` in, logits out, upscores
as transposed convolutions, traced at exactly the size that is measured.
"""

from __future__ import annotations

from typing import Any

from fcn_deploy.bench.reference import BenchReference, load_reference

NAME = "typical user code"

_DESCRIPTION = (
    "the plain module of {name} exported as it is (torch.onnx.export, fixed size), frames normalised by "
    "OpenCV and numpy, float NCHW in, logits out, argmax in numpy{differences}"
)


def export_typical(
    reference: dict[str, Any], out: str, batch: int, height: int, width: int
) -> dict[str, Any]:
    """In the child: export as programs without fcn-deploy do.

    Args:
        reference: what :meth:`BenchReference.job` gave.
        out: the ONNX file to write.
        batch: frames at a time.
        height: rows.
        width: columns.

    Returns:
        ``description``: what the row measures, in words; ``reads``: channel order and size multiple.
    """
    import torch

    named = BenchReference(**reference)
    plain, differences = load_reference(named)[0].as_usual()
    multiple = plain.size_multiple
    rows, columns = (-(-length // multiple) * multiple for length in (height, width))
    torch.onnx.export(
        plain,
        (torch.zeros(batch, 3, rows, columns),),
        out,
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    words = _DESCRIPTION.format(name=named.name, differences=f"; {differences}" if differences else "")
    return {"description": words, "reads": {"order": plain.channel_order, "multiple": multiple}}

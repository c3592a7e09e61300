"""Typical user code, for comparison: the plain module exported as it is.

No rewrite, no preprocessing and no argmax inside: float32 ``[N, 3, H, W]`` in, logits out, upscores
as transposed convolutions, traced at exactly the size that is measured.
"""

from __future__ import annotations

from typing import Any

from fcn_deploy.bench.reference import BenchReference, load_reference
from fcn_deploy.spec import ModelSpec

NAME = "typical user code"

_DESCRIPTION = (
    "the plain module of {name} exported as it is (torch.onnx.export, transposed convolutions, fixed size), "
    "frames normalised by OpenCV and numpy, float NCHW in, logits out, argmax in numpy{kernels}"
)

_KERNELS = (
    "; upscores are transposed convolutions with bilinear kernels, which differ at the border only, where "
    "the model itself repeats its edge"
)


def describe_typical(reference: BenchReference) -> str:
    """What the row measures, in words."""
    spec = ModelSpec.from_json(reference.spec)
    learned = spec.architecture.options.get("learned_upscore")
    resized = spec.architecture.name in ("fcn8s-same", "fcn8s-lite") and not learned
    return _DESCRIPTION.format(name=reference.name, kernels=_KERNELS if resized else "")


def export_typical(reference: dict[str, Any], out: str, batch: int, height: int, width: int) -> None:
    """In the child: export as programs without fcn-deploy do.

    Args:
        reference: what :meth:`BenchReference.job` gave.
        out: the ONNX file to write.
        batch: frames at a time.
        height: rows.
        width: columns.
    """
    import torch

    from fcn_deploy.model.fcn8s import FCN8s

    model, _ = load_reference(BenchReference(**reference))
    options = {**model.architecture.options, "learned_upscore": True}
    plain = FCN8s(model.num_classes, model.variant.name, **options)
    plain.load_state_dict(model.state_dict())
    torch.onnx.export(
        plain.eval(),
        (torch.zeros(batch, 3, height, width),),
        out,
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )

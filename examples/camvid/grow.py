"""Grow a trained narrow FCN-8s into a full-width one: the counterpart of prune.py.

In each layer the channels of the narrow network replace the wide channels that they correlate with
most. The other channels keep their own weights, and read the narrow network's channels through the gain
that fits best. The narrow network's channels do not read the others yet (zero weights), so the grown
network starts with the results of the narrow one, and training changes the rest. Similar to Chen,
Goodfellow, Shlens, "Net2Net" (ICLR 2016), with trained channels instead of copies.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from batchnorm import NORMALISED
from prune import load_wide
from torch import Tensor, nn

from fcn_deploy.data.folders import ImageFolder
from fcn_deploy.model.checkpoints.native import load_safetensors, save_safetensors
from fcn_deploy.model.fcn8s import FCN8s

BEFORE = dict(zip(NORMALISED, [None, *NORMALISED[:-1]], strict=True))
SCORES = {"score_pool3": "conv3_3", "score_pool4": "conv4_3", "score_fr": "fc7"}


@torch.no_grad()
def grow_into(wide: FCN8s, checkpoint: Path, narrow: Path, frames: list[Tensor]) -> None:
    """Fill ``wide`` from its own ``checkpoint`` and a trained ``narrow`` one, using ``frames``."""
    wide.load_state_dict(load_wide(checkpoint, wide.num_classes).state_dict())
    small, _ = load_safetensors(narrow)
    for model in (wide, small):
        model.eval().to(memory_format=torch.channels_last)
    places: dict[str, Tensor] = {}
    gains: dict[str, Tensor] = {}
    seen, seen_small = responses(wide, frames), responses(small, frames)
    for name in NORMALISED:
        places[name], gains[name] = match(seen_small[name], seen[name])
        embed(getattr(wide, name), getattr(small, name), places[name], BEFORE[name], places, gains)
    for score, source in SCORES.items():
        target, own = getattr(wide, score), getattr(small, score)
        target.weight.zero_()
        target.weight[:, places[source]] = own.weight
        target.bias.copy_(own.bias)


def responses(model: FCN8s, frames: list[Tensor], samples: int = 20_000) -> dict[str, Tensor]:
    """Each layer's output after ReLU at random places: {layer: (channels, samples)}."""
    out: dict[str, list[Tensor]] = {name: [] for name in NORMALISED}

    def note(name: str):  # noqa: ANN202
        def hook(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> None:
            flat = y.clamp_min(0).flatten(2)[0]
            generator = torch.Generator().manual_seed(len(out[name]))  # the same places in both networks
            at = torch.randint(flat.shape[1], (samples // len(frames),), generator=generator)
            out[name].append(flat[:, at])

        return hook

    hooks = [getattr(model, name).register_forward_hook(note(name)) for name in NORMALISED]
    for frame in frames:
        model(frame)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts, dim=1) for name, parts in out.items()}


def match(small: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    """The wide channel for each small one, best correlation first, and the gain from small to wide."""
    a, b = small - small.mean(1, keepdim=True), wide - wide.mean(1, keepdim=True)
    product = a @ b.T
    correlation = product / (a.norm(dim=1)[:, None] * b.norm(dim=1)[None] + 1e-9)
    places = torch.zeros(len(small), dtype=torch.long)
    for _ in range(len(small)):
        row, column = divmod(int(correlation.argmax()), len(wide))
        places[row] = column
        correlation[row] = correlation[:, column] = -2
    gain = product[torch.arange(len(small)), places] / (a.square().sum(1) + 1e-9)
    return places, gain.clamp_min(0)


def embed(
    target: nn.Conv2d,
    own: nn.Conv2d,
    rows: Tensor,
    before: str | None,
    places: dict[str, Tensor],
    gains: dict[str, Tensor],
) -> None:
    """Put the narrow layer into its rows; the other rows read it through the gains."""
    if before is None:  # the frame itself: both read the same three channels
        target.weight[rows] = own.weight
    else:
        columns = places[before]
        target.weight[:, columns] *= gains[before][:, None, None]
        target.weight[rows] = 0.0
        target.weight[rows[:, None], columns[None]] = own.weight
    target.bias[rows] = own.bias


def main() -> None:
    """Grow without training, in seconds: a full-width network with exactly the narrow one's results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--init", type=Path, required=True, help="full-width checkpoint to grow in")
    parser.add_argument(
        "--grow", type=Path, required=True, help="trained narrow network with its description"
    )
    parser.add_argument("--frames", type=Path, required=True, help="folder of frames to match channels on")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    _, spec = load_safetensors(args.grow)
    folder = ImageFolder(args.frames)
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    chosen = [folder[i].image for i in range(0, len(folder), max(1, len(folder) // 16))]
    frames = [((torch.from_numpy(f).float() - mean) / std).permute(2, 0, 1)[None] for f in chosen]
    template = load_wide(args.init, spec.num_classes)
    grow_into(template, args.init, args.grow, frames)
    grown = spec.replace(architecture=template.architecture)
    save_safetensors(template.to(memory_format=torch.contiguous_format), grown, args.out, dtype="fp16")


if __name__ == "__main__":
    main()

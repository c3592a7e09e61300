"""Train fcn8s-lite, or with --grow a full-width FCN-8s, on CamVid or a folder of the same layout, on a CPU.

    python train.py --data ../../../shared/data/camvid --out runs/lite --init fcn8s-vgg16.safetensors

Batch normalisation helps a small network to train and is folded into the convolutions at the
end, so what is saved is a plain FCN-8s. The run is seeded, writes its state after every epoch
and continues from there when started again. This is an example to read and change, not a framework.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from batchnorm import NORMALISED, attach_batchnorm, fold_batchnorm
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.files import write_text
from fcn_deploy.model.checkpoints.native import save_safetensors
from fcn_deploy.model.fcn8s import FCN8s
from fcn_deploy.spec import ModelSpec

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)  # the VGG16 statistics of Caffe
CLASSES = 11
IGNORE = 11

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read_pairs(images: Path, labels: Path) -> list[Pair]:
    """All frames (BGR) and label maps of a split; a few hundred of them fit in memory."""
    pairs = []
    for path in sorted(images.glob("*.png")):
        frame = cv2.imread(str(path))
        label = cv2.imread(str(labels / path.name), cv2.IMREAD_GRAYSCALE)
        if frame is None or label is None:
            raise SystemExit(f"{path}: the image or its label in {labels} cannot be read")
        pairs.append((frame, label))
    if not pairs:
        raise SystemExit(f"{images}: no PNG images")
    return pairs


def augment(pair: Pair, size: tuple[int, int], rng: np.random.Generator) -> Pair:
    """Random scale, place, mirror image, brightness, contrast and tint."""
    frame, label = pair
    height, width = size
    scale = math.exp(rng.uniform(math.log(0.6), math.log(1.8)))
    # The smaller one of crop and scaled frame is moved within the larger one.
    left = rng.uniform(*sorted((0.0, frame.shape[1] * scale - width)))
    top = rng.uniform(*sorted((0.0, frame.shape[0] * scale - height)))
    affine = np.array([[scale, 0, -left], [0, scale, -top]])
    if rng.random() < 0.5:
        affine[0] = [-scale, 0, width - 1 + left]
    frame = cv2.warpAffine(frame, affine, (width, height), borderValue=MEAN_BGR)
    label = cv2.warpAffine(label, affine, (width, height), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))
    gain = rng.uniform(0.7, 1.4) * rng.uniform(0.92, 1.08, size=3)
    lookup = np.clip(np.arange(256)[:, None] * gain + rng.uniform(-25, 25), 0, 255).astype(np.uint8)
    frame = np.stack([lookup[frame[..., c], c] for c in range(3)], axis=-1)
    return frame, label.astype(np.uint8)


def batches(pairs: list[Pair], args: argparse.Namespace, epoch: int):  # noqa: ANN201
    """One epoch of augmented batches; the same for the same seed and epoch."""
    rng = np.random.default_rng((args.seed, epoch))
    order = rng.permutation(len(pairs))
    for start in range(0, len(order) - args.batch + 1, args.batch):
        crops = [augment(pairs[i], args.crop, rng) for i in order[start : start + args.batch]]
        yield (
            normalise(np.stack([c[0] for c in crops])),
            torch.from_numpy(np.stack([c[1] for c in crops])).long(),
        )


def normalise(frames: NDArray[np.uint8]) -> Tensor:
    x = torch.from_numpy(frames).float() - torch.tensor(MEAN_BGR)
    return x.permute(0, 3, 1, 2)  # a channels_last view, with which convolutions are fastest


def class_weights(pairs: list[Pair]) -> Tensor:
    """1 / ln(1.1 + share): rare classes count more, gently (the form of ENet, section 5.2)."""
    counts = sum(np.bincount(label.ravel(), minlength=256)[:CLASSES] for _, label in pairs)
    share = counts / counts.sum()
    return torch.tensor(1 / np.log(1.1 + share), dtype=torch.float32)


@torch.inference_mode()
def mean_iu(model: nn.Module, pairs: list[Pair]) -> tuple[float, float, list[float]]:
    """(mean IU, pixel accuracy, IU by class), all from 0 to 1."""
    model.eval()
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for frame, label in pairs:
        predicted = model(normalise(frame[None])).argmax(1)[0].numpy()
        known = label < CLASSES
        confusion += np.bincount(
            label[known].astype(np.int64) * CLASSES + predicted[known], minlength=CLASSES**2
        ).reshape(CLASSES, CLASSES)
    hits = np.diag(confusion)
    iu = hits / np.maximum(confusion.sum(0) + confusion.sum(1) - hits, 1)
    return float(iu.mean()), float(hits.sum() / confusion.sum()), [float(x) for x in iu]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    val = read_pairs(args.data / "val", args.data / "valannot")
    pairs = read_pairs(args.data / "train", args.data / "trainannot")
    weights = class_weights(pairs)
    for folder in args.extra:
        pairs += read_pairs(folder / "images", folder / "labels")

    model = start(args, [normalise(frame[None]) for frame, _ in pairs[::12]])
    attach_batchnorm(model, [normalise(frame[None]) for frame, _ in pairs[::24]])
    fixed = [getattr(model, name).requires_grad_(False) for name in NORMALISED[: args.freeze]]
    model.dropout.p = 0.1
    model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    )

    steps = len(pairs) // args.batch
    state = args.out / "state.pt"
    first, log = 0, []
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        first, log = saved["epoch"] + 1, saved["log"]
        print(f"continuing after epoch {first}")

    for epoch in range(first, args.epochs):
        began = time.perf_counter()
        model.train()
        for layer in fixed:
            layer.eval()
        losses = []
        for step, (x, y) in enumerate(batches(pairs, args, epoch)):
            done = (epoch + step / steps) / args.epochs
            rate = args.rate * min(1.0, done * 20) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = F.cross_entropy(model(x), y, weights, ignore_index=IGNORE)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            follow(average, model, min(0.998, (epoch * steps + step + 1) / (epoch * steps + step + 10)))
            losses.append(loss.item())
        entry = {"epoch": epoch, "loss": float(np.mean(losses)), "seconds": time.perf_counter() - began}
        if epoch % args.eval_every == args.eval_every - 1 or epoch == args.epochs - 1:
            entry["val_mean_iu"], entry["val_pixel_accuracy"], entry["val_iu"] = mean_iu(
                average, val[:: args.eval_stride]
            )
        log.append(entry)
        print(json.dumps(entry), flush=True)
        fresh = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "epoch": epoch,
            "log": log,
        }
        torch.save(fresh, state.with_suffix(".tmp"))
        state.with_suffix(".tmp").replace(state)
        write_text(args.out / "curve.svg", curve(log))
    save(average, log, args)


def start(args: argparse.Namespace, frames: list[Tensor]) -> FCN8s:
    """The network that training starts from: random, pruned from a wide one, or grown from a narrow one."""
    if args.grow:
        from grow import grow_into

        model = FCN8s(CLASSES, "fcn8s-same", fc_channels=512)
        grow_into(model, args.init, args.grow, frames)
        return model
    model = FCN8s(CLASSES, "fcn8s-lite")
    if args.init:
        from prune import prune_into

        prune_into(model, args.init, frames)
    return model


def save(average: FCN8s, log: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """The averaged network without its batch normalisation, with its description.

    Stored in half precision to be small; fp32 is computed from it like from any other checkpoint.
    """
    model = fold_batchnorm(average).eval().to(memory_format=torch.contiguous_format)
    spec = ModelSpec(
        classes=CAMVID_CLASSES,
        palette=CAMVID_PALETTE,
        architecture=model.architecture,
        stride=model.stride,
        ignore_label=IGNORE,
        note=args.note,
        evidence={"training": {"epochs": args.epochs, "seed": args.seed, **log[-1]}},
    )
    save_safetensors(model, spec, args.out / "model.safetensors", dtype="fp16")
    print(f"wrote {args.out / 'model.safetensors'}")


def curve(log: list[dict[str, Any]]) -> str:
    """Loss by epoch and mean IU where it was measured, as SVG."""
    width, height, epochs = 640, 240, max(len(log) - 1, 1)
    top = max(entry["loss"] for entry in log)

    def line(points: list[tuple[int, float]], color: str) -> str:
        at = " ".join(f"{40 + x * (width - 60) / epochs:.1f},{height - 30 - y * 190:.1f}" for x, y in points)
        return f'<polyline points="{at}" fill="none" stroke="{color}" stroke-width="2"/>'

    loss = [(entry["epoch"], entry["loss"] / top) for entry in log]
    score = [(entry["epoch"], entry["val_mean_iu"]) for entry in log if "val_mean_iu" in entry]
    best = f"mean IU on val, {score[-1][1]:.3f}" if score else "mean IU on val"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>'
        f"{line(loss, '#888')}{line(score, '#06c')}"
        f'<text x="60" y="20" fill="#666">loss, of {top:.2f}</text>'
        f'<text x="300" y="20" fill="#06c">{best}</text>'
        f'<text x="{width // 2}" y="{height - 8}">{len(log)} epochs</text></svg>'
    )


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Exponential moving average of the weights and of the normalisation statistics."""
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - keep)
        else:
            mine.copy_(theirs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/, trainannot/, val/, valannot/"
    )
    parser.add_argument("--extra", type=Path, action="append", default=[], help="more data: images/, labels/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--init", type=Path, help="full-width checkpoint to start from: pruned, or grown around"
    )
    parser.add_argument("--grow", type=Path, help="train a full-width network that starts from this lite one")
    parser.add_argument("--freeze", type=int, default=0, help="leave the first so many layers as they are")
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(256, 320), help="height and width")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--eval-stride", type=int, default=1, help="measure on every so many val frames")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--note", default="trained on CamVid and synthetic streets: research use", help="kept in the model"
    )
    return parser.parse_args()


if __name__ == "__main__":
    train(parse())

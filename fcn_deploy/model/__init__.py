"""The network, its deploy graph, and checkpoints. Importing this package alone needs no torch."""

from pathlib import Path

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".pkl", ".ckpt")
"""How checkpoints are usually named. What a file is, its content says: any name is read."""


def bundled_path() -> Path:
    """The weights inside the package: fcn8s-lite for CamVid's 11 classes."""
    return Path(__file__).parent / "bundled" / "fcn8s-lite-camvid.safetensors"

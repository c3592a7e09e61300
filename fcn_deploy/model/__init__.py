"""The network, its deploy graph, and checkpoints. Importing this package alone needs no torch."""

from pathlib import Path

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Files that are read as checkpoints."""


def bundled_path() -> Path:
    """The weights inside the package: fcn8s-lite for CamVid's 11 classes."""
    return Path(__file__).parent / "bundled" / "fcn8s-lite-camvid.safetensors"

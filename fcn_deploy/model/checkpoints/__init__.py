"""Checkpoints -> networks, and networks -> our own safetensors. Importing it needs torch."""

from fcn_deploy.model.checkpoints.describe import CheckpointInfo, describe, in_memory
from fcn_deploy.model.checkpoints.layouts import load_checkpoint
from fcn_deploy.model.checkpoints.native import load_safetensors, save_safetensors
from fcn_deploy.model.checkpoints.random import random_model

__all__ = [
    "CheckpointInfo",
    "describe",
    "in_memory",
    "load_checkpoint",
    "load_safetensors",
    "random_model",
    "save_safetensors",
]

"""Checkpoints -> networks, and networks -> our own safetensors."""

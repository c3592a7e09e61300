"""Engines of TensorRT and TensorRT-RTX: their sidecars, and the runtime that runs them."""

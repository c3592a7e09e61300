"""Checkpoints -> ONNX artefacts and engines, each verified before it is written."""

"""ONNX artefact -> TensorRT engine."""

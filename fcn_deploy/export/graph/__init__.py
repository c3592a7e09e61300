"""ONNX graphs: files, sessions, and the small operations that export and quantisation share."""

"""Backends that open artefacts and label frames."""

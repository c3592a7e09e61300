"""fp32 artefact -> INT8 artefact."""

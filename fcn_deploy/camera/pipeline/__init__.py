"""The pipeline: frames from sources, through a model, to sinks."""

from fcn_deploy.camera.pipeline.pipeline import Pipeline
from fcn_deploy.camera.pipeline.statistics import Statistics

__all__ = ["Pipeline", "Statistics"]

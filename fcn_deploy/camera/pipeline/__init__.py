"""From sources through a model to sinks: the freshest frame first, bounded, measured."""

from fcn_deploy.camera.pipeline.pipeline import Pipeline
from fcn_deploy.camera.pipeline.statistics import Statistics

__all__ = ["Pipeline", "Statistics"]

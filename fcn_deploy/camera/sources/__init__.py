"""Sources of frames: files, cameras, streams and iterables."""

from fcn_deploy.camera.sources.base import Source
from fcn_deploy.camera.sources.opening import open_source
from fcn_deploy.camera.sources.options import SourceOptions
from fcn_deploy.camera.sources.recorded import IterableSource

__all__ = ["IterableSource", "Source", "SourceOptions", "open_source"]

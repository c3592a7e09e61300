"""The preview in a browser: a page, Motion JPEG streams and statistics over HTTP."""

from fcn_deploy.camera.sinks.preview.sink import Preview

__all__ = ["Preview"]

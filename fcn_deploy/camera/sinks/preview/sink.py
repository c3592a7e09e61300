"""The preview sink: serves the newest overlays to browsers."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import final

from fcn_deploy.camera.frames import Delivery
from fcn_deploy.camera.sinks.base import Sink
from fcn_deploy.camera.sinks.preview.content import PreviewContent, Statistics
from fcn_deploy.camera.sinks.preview.handler import RequestHandler
from fcn_deploy.camera.sinks.preview.server import listen
from fcn_deploy.errors import UsageError

log = logging.getLogger("fcn_deploy.camera")


@final
class Preview(Sink):
    """A web page with the newest overlays of each camera, and the pipeline's statistics beside them.

    It serves ``/`` (the page), ``/stream.mjpg`` and ``/snapshot.jpg`` (with ``?camera=N``),
    ``/statistics.json`` and ``/metrics`` (for Prometheus). There is no password: on any address but a
    loopback one, everybody who reaches it can see the pictures. To see them from another machine, forward
    the port: ``ssh -L 8080:localhost:8080 device``.

    Pictures are drawn and encoded in the server's threads, only while there are viewers and only from the
    newest frame: neither many viewers nor a slow connection hold up the pipeline.

    Args:
        host: a name or address of this machine; ``0.0.0.0`` is all of them.
        port: 0 takes any free one; :attr:`port` is the one taken.
        statistics: ``pipeline.statistics``, shown beside the pictures; may be set later.
        alpha: weight of the labels' colours, 0 to 1.
        fps: pictures a second that a viewer gets at most.

    Raises:
        UsageError: the port is in use or not allowed, the host is not this machine's, or alpha or fps
            is out of range.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        statistics: Statistics | None = None,
        alpha: float = 0.5,
        *,
        fps: float = 15.0,
    ) -> None:
        if not 0 < fps <= 240:
            raise UsageError(f"a preview shows more than 0 and up to 240 pictures a second, not {fps}")
        self._content = PreviewContent(statistics, alpha, fps)
        self._closed = False
        self._server = listen(host, port, partial(RequestHandler, self._content))
        self.host = host
        self.port = int(self._server.server_address[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="fcn-deploy-preview", daemon=True
        )
        self._thread.start()
        log.info("preview on %s", self.url)

    @property
    def statistics(self) -> Statistics | None:
        """``pipeline.statistics``, shown beside the pictures."""
        return self._content.statistics

    @statistics.setter
    def statistics(self, statistics: Statistics | None) -> None:
        self._content.statistics = statistics

    def __call__(self, delivery: Delivery) -> None:
        """Keep the newest delivery of each camera; nothing is drawn here."""
        self._content.update(delivery)

    def close(self) -> None:
        """Free the port and end every stream."""
        if self._closed:
            return
        self._closed = True
        self._content.close()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_clients()
        self._thread.join()

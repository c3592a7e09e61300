"""Label maps as a binary stream: the format, readers that leave, and full disks."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from deliveries import delivery
from PIL import Image
from sink_runs import give

from fcn_deploy.camera.sinks.base import StopPipeline
from fcn_deploy.camera.sinks.raw_labels import RawLabels
from fcn_deploy.errors import PipelineError


def maps_in(data: bytes, comment: bool = False) -> list[np.ndarray]:
    stream, maps = io.BytesIO(data), []
    while stream.readline() == b"P5\n":
        if comment:
            assert stream.readline().startswith(b"# camera ")
        width, height = map(int, stream.readline().split())
        assert stream.readline() == b"255\n"
        maps.append(np.frombuffer(stream.read(width * height), np.uint8).reshape(height, width))
    return maps


def test_a_stream_of_labels_is_pgm(tmp_path: Path) -> None:
    into = io.BytesIO()
    give(RawLabels(into), delivery(0), delivery(1, label=7, size=(5, 9)))
    first, second = maps_in(into.getvalue())
    assert first.shape == (24, 32) and set(np.unique(first)) == {3}
    assert second.shape == (5, 9) and set(np.unique(second)) == {7}
    one = tmp_path / "one.pgm"
    give(RawLabels(one), delivery(0))
    assert np.array_equal(np.asarray(Image.open(one)), first)


def test_maps_of_several_cameras_have_the_camera_in_their_header() -> None:
    into = io.BytesIO()
    give(RawLabels(into, cameras=2), delivery(0), delivery(0, camera=1))
    assert len(maps_in(into.getvalue(), comment=True)) == 2
    assert b"# camera 1\n" in into.getvalue()


def test_a_reader_that_closes_the_pipe_stops_the_pipeline(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = threading.Thread(target=lambda: pipe.open("rb").close())
    reading.start()
    sink = RawLabels(pipe)
    reading.join()
    with pytest.raises(StopPipeline):
        sink(delivery())
    sink.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error() -> None:
    with (
        RawLabels("/dev/full") as sink,
        pytest.raises(PipelineError, match="cannot write labels to /dev/full: No space"),
    ):
        sink(delivery())


class Full:
    """A file on a full disk: it takes half of what it is given."""

    def __init__(self, real: io.RawIOBase) -> None:
        self._real = real

    def write(self, data: memoryview) -> int:
        return _fail_half(self._real, data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def _fail_half(stream: io.RawIOBase, data: memoryview) -> int:
    stream.write(data[: len(data) // 2])
    raise OSError(28, "No space left on device")


def test_a_file_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "maps.pgm"
    with RawLabels(path) as sink:
        sink(delivery(0))
        real, sink._stream = sink._stream, Full(sink._stream)
        with pytest.raises(PipelineError, match="No space"):
            sink(delivery(1))
        sink._stream = real
        sink(delivery(2, label=7))
    assert [set(np.unique(each)) for each in maps_in(path.read_bytes())] == [{3}, {7}]


def test_a_stream_with_a_partial_map_takes_no_more() -> None:
    """Its reader would take what follows for the other half."""
    into = io.BytesIO()
    sink = RawLabels(into)
    sink._stream = Full(into)
    with pytest.raises(PipelineError, match="No space"):
        sink(delivery(0))
    sink._stream = into
    before = into.getvalue()
    with pytest.raises(PipelineError, match="the map before it was written only in part"):
        sink(delivery(1))
    assert into.getvalue() == before


def test_a_file_holds_complete_maps_only(tmp_path: Path) -> None:
    """The disk runs full in the middle of the second."""
    path = tmp_path / "maps.pgm"
    sink = RawLabels(path)
    sink(delivery(0))
    real = sink._stream
    sink._stream = Full(real)
    with pytest.raises(PipelineError, match="No space"):
        sink(delivery(1))
    sink.close()
    assert len(maps_in(path.read_bytes())) == 1
    assert path.stat().st_size == len(b"P5\n32 24\n255\n") + 24 * 32

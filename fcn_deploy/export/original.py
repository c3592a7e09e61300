"""An ONNX file that somebody else exported: what it takes, and its answers behind numpy preprocessing.

This is the reference that a wrapped artefact is compared with. It is run as it was exported, apart from
local functions, whose bodies are put in place of their calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import ModelError, UsageError, first_line
from fcn_deploy.export.graph.foreign import check_operators, inlined
from fcn_deploy.export.graph.session import open_session
from fcn_deploy.export.graph.surgery import PROTO_FLOAT, PROTO_HALF
from fcn_deploy.export.parity import Frames, SizeRefused
from fcn_deploy.export.preparation import ORDERS, check_statistics
from fcn_deploy.files import input_file, sha256_of
from fcn_deploy.lazy import require
from fcn_deploy.runtimes.onnx_file import check_external_data
from fcn_deploy.spec import METADATA_KEY, Triple

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto, ValueInfoProto

_REASON = 160
"""Characters of ONNX Runtime's message that are kept."""

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Preparation:
    """How frames were prepared in training: ``(frame * scale - mean) / std``."""

    mean: Triple
    """In the order that the network reads, in units of the scaled frame."""
    std: Triple
    scale: float
    """What frames of 0..255 are multiplied with first."""
    channel_order: str
    """``bgr`` or ``rgb``: what the network reads."""

    def apply(self, images: Frames, color_order: str) -> NDArray[np.float32]:
        """Prepared frames, by numpy, as training code does it.

        Args:
            images: uint8 ``[N, H, W, 3]``.
            color_order: ``bgr`` or ``rgb``: of ``images``.

        Returns:
            float32 ``[N, H, W, 3]``.
        """
        ordered = images if color_order == self.channel_order else images[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        prepared: NDArray[np.float32] = (ordered.astype(np.float32) * np.float32(self.scale) - mean) / std
        return prepared


def stated_preparation(
    mean: Sequence[float], std: Sequence[float], scale: float | None, trained_on: str
) -> Preparation:
    """How frames were prepared.

    Raises:
        UsageError: a number cannot be used, or mean and scale are of different units, such as 0.485 of frames
            of 0 to 255: nothing would fail, and the labels would be wrong.
    """
    order = channel_order("trained_on", trained_on)
    check_statistics(mean, std, scale)
    means = (float(mean[0]), float(mean[1]), float(mean[2]))
    stds = (float(std[0]), float(std[1]), float(std[2]))
    return Preparation(means, stds, 1.0 if scale is None else float(scale), order)


def channel_order(name: str, value: str) -> str:
    """``bgr`` or ``rgb``. Raises UsageError."""
    if value not in ORDERS:
        raise UsageError(f"{name} must be bgr or rgb, not {value!r}")
    return value


@dataclass(frozen=True)
class InputPort:
    """The one input of a foreign graph."""

    name: str
    half: bool
    """Whether it is float16; else it is float32."""
    channels_last: bool
    """Whether it is ``[N, H, W, 3]``; else it is ``[N, 3, H, W]``."""
    fixed: tuple[int | None, int | None, int | None]
    """Batch, height and width where the graph states one length; None where it varies."""
    assumption: str | None = None
    """What was assumed about it, in words."""


@dataclass(frozen=True)
class Original:
    """A foreign ONNX file, read and checked."""

    path: Path
    sha256: str
    model: ModelProto
    """The graph without local functions, with its weights."""
    input: InputPort

    @property
    def name(self) -> str:
        """The bare file name."""
        return self.path.name


def read_original(path: str | Path) -> Original:
    """Read somebody else's ONNX file, and refuse what cannot become a deploy graph.

    Raises:
        UsageError: it cannot be read.
        ModelError: it is damaged, keeps its weights elsewhere, is an artefact of fcn-deploy already, has
            custom operators or weights that are NaN, or its input is not one of float frames with 3 channels.
        ExportError: its local functions cannot be inlined.
    """
    onnx = require("onnx", extra="export")
    found = input_file(path, "ONNX file")
    check_external_data(found)
    try:
        model: ModelProto = onnx.load(str(found))
    except Exception as exc:  # protobuf and onnx raise many classes
        raise ModelError(f"{found} is not a complete ONNX file ({type(exc).__name__}: {exc})") from exc
    if not model.graph.node:
        raise ModelError(f"{found} is not a complete ONNX file: there is no graph in it; export it again")
    if any(prop.key == METADATA_KEY for prop in model.metadata_props):
        raise ModelError(f"{found} is an artefact of fcn-deploy already; use it as it is: fcn-deploy inspect")
    model = inlined(model, found.name)
    check_operators(model, found.name)
    _check_weights(model, found.name)
    return Original(found, sha256_of(found), model, _input_port(model, found.name))


def _check_weights(model: ModelProto, name: str) -> None:
    """Refuse weights that are NaN. Infinite ones may be masks."""
    for tensor in _tensors(model):
        if tensor.data_type in (PROTO_FLOAT, PROTO_HALF):
            onnx = require("onnx", extra="export")
            if np.isnan(onnx.numpy_helper.to_array(tensor)).any():
                raise ModelError(
                    f"{tensor.name} of {name} holds NaN; its training probably diverged, take an older one"
                )


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _input_port(model: ModelProto, name: str) -> InputPort:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(
            f"{name} has {len(inputs)} inputs ({listed}); a network of one input, frames, is needed"
        )
    value = inputs[0]
    kind = value.type.tensor_type.elem_type
    if kind not in (PROTO_FLOAT, PROTO_HALF):
        raise ModelError(
            f"the input {value.name} of {name} is {_type_name(kind)} and must be float32 or float16; export "
            "the network alone, without its preprocessing, and state mean, std and scale here"
        )
    dims = [_length(axis) for axis in value.type.tensor_type.shape.dim]
    if len(dims) != 4:
        shape = f"of rank {len(dims)}" if value.type.tensor_type.HasField("shape") else "without a shape"
        raise ModelError(
            f"the input {value.name} of {name} is {shape}; expected [N, 3, H, W] or [N, H, W, 3]"
        )
    channels_last, assumption = _layout(value.name, dims, name)
    batch, height, width = (dims[0], *(dims[1:3] if channels_last else dims[2:4]))
    if batch not in (None, 1):
        raise ModelError(
            f"{name} takes batches of {batch} only; export it with a batch of 1, or with a dynamic batch axis"
        )
    return InputPort(value.name, kind == PROTO_HALF, channels_last, (batch, height, width), assumption)


def _type_name(kind: int) -> str:
    return str(require("onnx", extra="export").TensorProto.DataType.Name(kind)).lower()


def _length(axis: Any) -> int | None:
    """A stated length; None where it varies. Some exporters write -1 or 0 for that."""
    return axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None


def _layout(port: str, dims: Sequence[int | None], name: str) -> tuple[bool, str | None]:
    """Whether channels come last, and what was assumed."""
    first, last = dims[1], dims[3]
    if first == 3:
        return False, None
    if last == 3:
        return True, None
    if first is None and last is None:
        return False, f"the input {port}, whose axes are not stated, is [N, 3, H, W]"
    channels = first if first is not None and (last is None or first < last) else last
    raise ModelError(
        f"the input {port} of {name} is {shape_in_words(dims)}, frames of {channels} channels; colour frames "
        "of 3 channels, [N, 3, H, W] or [N, H, W, 3], are needed"
    )


def shape_in_words(dims: Sequence[int | None]) -> str:
    """Such as ``[1, 3, ?, ?]``."""
    return f"[{', '.join('?' if length is None else str(length) for length in dims)}]"


def choose_output(original: Original, wanted: str | None) -> tuple[str, str | None]:
    """The output that holds logits or labels, and what was assumed in choosing it.

    Raises:
        UsageError: ``wanted`` is none of its outputs.
        ModelError: none has three or four axes.
    """
    outputs = {value.name: _rank(value) for value in original.model.graph.output}
    if wanted is not None:
        if wanted not in outputs:
            raise UsageError(f"{original.name} has no output {wanted!r}; choose from {', '.join(outputs)}")
        return wanted, None
    usable = [name for name, rank in outputs.items() if rank in (None, 3, 4)]
    if not usable:
        listed = ", ".join(f"{name} of rank {rank}" for name, rank in outputs.items())
        raise ModelError(
            f"{original.name} gives {listed}; logits [N, classes, H, W] or labels [N, H, W] are needed"
        )
    chosen = "out" if "out" in usable else usable[0]
    if len(outputs) == 1:
        return chosen, None
    return chosen, f"{chosen} of {len(outputs)} outputs ({', '.join(outputs)}) is meant (--output-name)"


def _rank(value: ValueInfoProto) -> int | None:
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


class RunOriginal(Protocol):
    """Runs a file on frames."""

    def __call__(self, images: Frames, nudge: int | None = None) -> Arrays:
        """One array a tensor.

        Args:
            images: uint8 ``[N, H, W, 3]``.
            nudge: a seed; each number of the prepared frames is then moved by one unit in the last place, up
                or down. None prepares them as they are.

        Raises:
            SizeRefused: the network does not take them, or gives nothing or NaN for them.
        """


@contextmanager
def run_original(
    original: Original,
    tensors: Sequence[str],
    preparation: Preparation,
    color_order: str,
    size_multiple: int,
) -> Iterator[RunOriginal]:
    """Its tensors for frames, behind numpy preprocessing.

    Args:
        original: the file.
        tensors: outputs, or inner tensors.
        preparation: how frames are prepared.
        color_order: of the frames handed in.
        size_multiple: prepared frames are padded with zeros, below and to the right, to a multiple of it.

    Raises:
        ModelError: ONNX Runtime refuses the file.
    """
    ort = require("onnxruntime", extra="cpu")
    with ExitStack() as stack:
        try:
            session = stack.enter_context(open_session(original.model, tensors))
        except Exception as exc:  # its errors share no base class
            raise ModelError(
                f"ONNX Runtime {ort.__version__} refuses {original.name}: {first_line(exc)}"
            ) from exc
        yield _runner(session, original.input, tensors, preparation, color_order, size_multiple)


def _runner(
    session: Any,
    port: InputPort,
    tensors: Sequence[str],
    preparation: Preparation,
    color_order: str,
    size_multiple: int,
) -> RunOriginal:
    def run(images: Frames, nudge: int | None = None) -> Arrays:
        frames = preparation.apply(images, color_order)
        if nudge is not None:
            up = np.random.default_rng(nudge).random(frames.shape) < 0.5
            frames = np.nextafter(frames, np.where(up, np.inf, -np.inf).astype(np.float32))
        below, right = (-length % size_multiple for length in images.shape[1:3])
        frames = np.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)))
        ordered = frames if port.channels_last else frames.transpose(0, 3, 1, 2)
        fed = np.ascontiguousarray(ordered, np.float16 if port.half else np.float32)
        try:
            found: Arrays = session.run(list(tensors), {port.name: fed})
        except Exception as exc:  # whatever ONNX Runtime raises for a size that does not fit
            raise SizeRefused(first_line(exc)[:_REASON]) from exc
        if any(array.size == 0 or not np.isfinite(array).all() for array in found):
            raise SizeRefused("it gives nothing, NaN or infinity")
        return found

    return run

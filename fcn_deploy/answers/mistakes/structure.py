"""How the original's layers may differ although its weights are the same: edits of the graph.

Layers are found by what they do in the graph, never by name, so that any network's graph is searched.
"""

from __future__ import annotations

import copy
import graphlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.export.graph.roles import reached_from, score_layers
from fcn_deploy.export.graph.surgery import (
    PROTO_HALF,
    attributes,
    crop_offset,
    element_types,
    makers,
    names_read,
    readers,
)
from fcn_deploy.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ATONCE_SCALES = (0.0001, 0.01)
"""Of pool3 and pool4. Source: the authors' voc-fcn8s-atonce, ``scale_pool3`` and ``scale_pool4``."""


Edit = Callable[["_Editor"], bool]
"""Changes a graph in place; whether it did."""


@dataclass(frozen=True)
class StructureEdit:
    """One way in which layers may differ."""

    kinds: tuple[str, ...]
    """The mistake: of ``skip scales``, ``ceil_mode``, ``align_corners`` and ``upsampling``."""
    words: str
    """What the original does."""
    repair: str
    """What to export it with."""
    edit: Edit

    def applied_to(self, model: ModelProto) -> ModelProto | None:
        """A copy of a graph with that difference; None where the graph has no such layers."""
        graph = copy.deepcopy(model)
        editor = _Editor(graph)
        if not self.edit(editor):
            return None
        editor.sort()
        del graph.graph.value_info[:]  # shapes may be others now
        return graph


class _Editor:
    """A graph that is edited in place, and what its edits have to find."""

    def __init__(self, model: ModelProto) -> None:
        self.onnx = require("onnx", extra="export")
        self.model, self.graph = model, model.graph
        self.readers = readers(model)
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}

    def change(self, node: NodeProto, **values: Any) -> None:
        """Set attributes."""
        kept = {**attributes(node), **values}
        del node.attribute[:]
        node.attribute.extend(self.onnx.helper.make_attribute(name, value) for name, value in kept.items())

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **values: Any) -> str:
        """A new node, somewhere; :meth:`sort` brings it to its place. Its output's name."""
        self.graph.node.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **values))
        return output

    def sort(self) -> None:
        """Every node behind those that make its inputs, as ONNX wants it."""
        nodes = list(self.graph.node)
        maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
        needs = {
            place: {maker[name] for name in names_read(node) if name in maker}
            for place, node in enumerate(nodes)
        }
        ordered = [nodes[place] for place in graphlib.TopologicalSorter(needs).static_order()]
        del self.graph.node[:]
        self.graph.node.extend(ordered)

    def score_layers(self) -> list[NodeProto]:
        """The convolutions whose sum gives the logits, from the shallowest to the deepest."""
        names = set(score_layers(self.model))
        found = [node for node in self.graph.node if node.op_type == "Conv" and node.name in names]
        return sorted(found, key=self._depth)

    def _depth(self, node: NodeProto) -> int:
        """How many convolutions lie upstream."""
        made_by, seen = makers(self.model), set[str]()
        pending, count = list(node.input[:1]), 0
        while pending:
            maker = made_by.get(pending.pop())
            if maker is not None and maker.output[0] not in seen:
                seen.add(maker.output[0])
                count += maker.op_type == "Conv"
                pending += maker.input
        return count

    def resizes(self) -> list[NodeProto]:
        """Linear resizes, in graph order: the last is that of the logits."""
        found = [node for node in self.graph.node if node.op_type == "Resize"]
        return [node for node in found if attributes(node).get("mode") == b"linear"]

    def scores(self) -> set[str]:
        """Tensors from the score layers on."""
        return reached_from(self.model, [node.output[0] for node in self.score_layers()])

    def network_input(self) -> str | None:
        """What the first convolution reads: the prepared frames."""
        return next((node.input[0] for node in self.graph.node if node.op_type == "Conv"), None)

    def values(self, name: str) -> NDArray[Any] | None:
        """A constant's values; None where it is computed."""
        tensor = self.tensors.get(name)
        return None if tensor is None else self.onnx.numpy_helper.to_array(tensor)

    def factor(self, node: NodeProto) -> int | None:
        """By how much a Resize enlarges height and width; None where it is no whole number, or computed."""
        scales = self.values(node.input[2]) if len(node.input) == 3 else None
        if scales is None:
            return None
        whole = scales.size == 4 and scales[2] == scales[3] and float(scales[2]).is_integer()
        return int(scales[2]) if whole else None


def _scale_skips(editor: _Editor, *, inverse: bool) -> bool:
    """Multiply what the score layers of the skips read, as fcn8s-atonce does, or undo that."""
    skips = editor.score_layers()[:-1]
    if not 1 <= len(skips) <= len(ATONCE_SCALES):
        return False
    kinds = element_types(editor.model)
    for skip, scale in zip(skips, ATONCE_SCALES[-len(skips) :], strict=True):
        source = skip.input[0]
        kind = np.float16 if kinds.get(source) == PROTO_HALF else np.float32
        name = f"{skip.output[0]}.rescaled"
        factor = editor.constant(f"{name}.factor", np.array(1 / scale if inverse else scale, kind))
        skip.input[0] = editor.add("Mul", [source, factor], name)
    return True


def _pool_floor(editor: _Editor) -> bool:
    """Pooling that rounds up, in either form, rounds down."""
    changed = False
    for node in editor.graph.node:
        if node.op_type == "MaxPool" and _rounds_up(node):
            pads = attributes(node).get("pads", [0, 0, 0, 0])
            editor.change(node, ceil_mode=0, pads=[*pads[:2], *pads[:2]])
            changed = True
    if changed:
        _crop_to_the_other(editor)
    return changed


def _crop_to_the_other(editor: _Editor) -> None:
    """Crop each skip to the size of what it is added to: exporters compute that size from the frame's, for
    pooling as it was."""
    made_by = makers(editor.model)
    for node in list(editor.graph.node):
        for cropped, other in (node.input, reversed(node.input)) if node.op_type == "Add" else ():
            while (maker := made_by.get(cropped)) is not None and maker.op_type == "Slice":
                axes = editor.values(maker.input[3]) if len(maker.input) > 3 else None
                if axes is not None and axes.size == 1 and axes[0] in (2, 3):
                    name, axis = f"{maker.output[0]}.cropped", int(axes[0])
                    size = editor.add("Shape", [other], f"{name}.size", start=axis, end=axis + 1)
                    maker.input[2] = editor.add("Add", [maker.input[1], size], f"{name}.end")
                cropped = maker.input[0]


def _pool_ceil(editor: _Editor) -> bool:
    """Pooling that rounds down rounds up."""
    found = [node for node in editor.graph.node if node.op_type == "MaxPool" and not _rounds_up(node)]
    for node in found:
        editor.change(node, ceil_mode=1)
    return bool(found)


def _rounds_up(node: NodeProto) -> bool:
    """By its mode, or by the padding that :func:`fcn_deploy.export.graph.surgery.pad_pooling` writes."""
    stated = attributes(node)
    pads, steps = stated.get("pads", [0, 0, 0, 0]), stated.get("strides", [1, 1])
    padded = [end - begin for begin, end in zip(pads[:2], pads[2:], strict=True)]
    return bool(stated.get("ceil_mode")) or (max(steps) > 1 and padded == [step - 1 for step in steps])


def _resample(editor: _Editor, *, mode: bytes, to_size: bool, last_only: bool) -> bool:
    """Resize scores by another rule, or to the size of what they meet instead of by a factor."""
    resizes = editor.resizes()
    if not resizes or (last_only and len(resizes) == 1) or crop_offset(editor.model):
        return False
    changed = False
    for node in resizes[-1:] if last_only else resizes:
        if to_size and not _resize_to(editor, node, last=node is resizes[-1]):
            return False
        own = attributes(node).get("coordinate_transformation_mode", b"half_pixel")
        changed |= to_size or own != mode
        editor.change(node, coordinate_transformation_mode=mode)
    return changed


def _resize_to(editor: _Editor, node: NodeProto, *, last: bool) -> bool:
    """Give a Resize the height and width of the frame, or of the scores that it is added to."""
    if len(node.input) != 3:
        return False  # it has sizes already
    name = node.output[0]
    like = editor.network_input() if last else _added_to(editor, name)
    if like is None:
        return False
    own = editor.add("Shape", [node.input[0]], f"{name}.own", start=0, end=2)
    target = editor.add("Shape", [like], f"{name}.like", start=2, end=4)
    sizes = editor.add("Concat", [own, target], f"{name}.sizes", axis=0)
    source = node.input[0]
    del node.input[:]
    node.input.extend([source, "", "", sizes])
    return True


def _added_to(editor: _Editor, tensor: str) -> str | None:
    """The other operand of the sum that these scores go into, cropped or not; None where there is none."""
    while len(readers := editor.readers.get(tensor, [])) == 1 and readers[0].op_type == "Slice":
        tensor = readers[0].output[0]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    return next((name for name in readers[0].input if name != tensor), None)


def _transpose_convolutions(editor: _Editor) -> bool:
    """Resizes by a factor become transposed convolutions with bilinear kernels: zeros beyond the border."""
    layers, resizes = editor.score_layers(), editor.resizes()
    weights = editor.tensors.get(layers[0].input[1]) if layers else None
    if weights is None or crop_offset(editor.model):
        return False
    kinds, scores, changed = element_types(editor.model), editor.scores(), False
    for node in resizes:
        factor = editor.factor(node) if node.input[0] in scores else None
        if factor is None or factor % 2 or kinds.get(node.input[0]) == PROTO_HALF:
            continue
        kernel = np.tile(_bilinear(2 * factor), (weights.dims[0], 1, 1, 1))
        node.op_type = "ConvTranspose"
        node.input[1] = editor.constant(f"{node.output[0]}.kernel", kernel)
        del node.input[2:], node.attribute[:]
        editor.change(node, group=int(weights.dims[0]), strides=[factor, factor], pads=[factor // 2] * 4)
        changed = True
    return changed


def _bilinear(size: int) -> NDArray[np.float32]:
    """The paper's upscore kernel, float32 ``[size, size]``, for a stride of half its size."""
    line = 1 - np.abs(np.arange(size) - (size - 1) / 2) / (size // 2)
    return np.outer(line, line).astype(np.float32)


def _pool_floor_and_resize(editor: _Editor, *, mode: bytes) -> bool:
    """Pooling that rounds down leaves fewer cells than the frame needs, so such networks resize to a size."""
    return _pool_floor(editor) and _resample(editor, mode=mode, to_size=True, last_only=False)


_OWN_MODULE = "--model FILE.py:FACTORY, which takes the original's own layers"
_SCALED = "its skips by 0.0001 (pool3) and 0.01 (pool4)"
_SIZED = "to the size that they are to have"
_MODES = (
    (b"align_corners", True, "align_corners", f"with align_corners=True, {_SIZED}"),
    (b"align_corners", False, "align_corners", "with align_corners=True"),
    (b"half_pixel", True, "upsampling", f"{_SIZED} and not by a factor"),
    (b"half_pixel", False, "align_corners", "with align_corners=False"),
    (b"asymmetric", False, "upsampling", "from the corner of each pixel, not its centre"),
)


def structure_edits() -> list[StructureEdit]:
    """All of them; each knows by itself whether it applies to a graph."""
    return [StructureEdit(*each) for each in _edits()]


def _edits() -> Iterator[tuple[tuple[str, ...], str, str, Edit]]:
    skips = ("skip scales",)
    yield skips, f"multiplies {_SCALED}", "--variant fcn8s-atonce", partial(_scale_skips, inverse=False)
    yield skips, f"does not multiply {_SCALED}", "--variant fcn8s", partial(_scale_skips, inverse=True)
    down = "rounds down in pooling (ceil_mode=False)"
    yield ("ceil_mode",), down, _OWN_MODULE, _pool_floor
    yield ("ceil_mode",), "rounds up in pooling (ceil_mode=True)", _OWN_MODULE, _pool_ceil
    resized = partial(_pool_floor_and_resize, mode=b"half_pixel")
    yield ("ceil_mode",), f"{down} and resizes scores {_SIZED}", _OWN_MODULE, resized
    corners = partial(_pool_floor_and_resize, mode=b"align_corners")
    both = f"{down} and resizes scores with align_corners=True"
    yield ("ceil_mode", "align_corners"), both, _OWN_MODULE, corners
    for last_only in (False, True):
        for mode, to_size, kind, how in _MODES:
            words = f"resizes {'the logits' if last_only else 'all maps'} {how}"
            edit = partial(_resample, mode=mode, to_size=to_size, last_only=last_only)
            yield (kind,), words, _OWN_MODULE, edit
    transposed = "upsamples scores with transposed convolutions, not with a resize"
    yield ("upsampling",), transposed, "--learned-upscore", _transpose_convolutions

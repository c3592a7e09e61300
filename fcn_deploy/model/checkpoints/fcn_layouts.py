"""FCN-8s under the layer names of other public implementations.

Each is one entry of a table: the layers' names there and here, the variant, and the frames that its
training script feeds. Names and statistics were read from the public sources. The keys tell the
implementation, and with it what the weights do not say: the scales of the skips and the padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fcn_deploy.model.checkpoints.fitting import build
from fcn_deploy.model.checkpoints.keys import refuse_names
from fcn_deploy.model.checkpoints.layout import (
    IMAGENET_MEAN_BGR,
    IMAGENET_STD_BGR,
    ON_IMAGENET,
    Layout,
    Opened,
    Stated,
    same_variant,
)
from fcn_deploy.model.checkpoints.read import StoredWeights
from fcn_deploy.model.fcn8s import find_variant
from fcn_deploy.spec import CAFFE_MEAN_BGR, Triple

_VGG16 = (
    ("conv1_1", "conv1_2"),
    ("conv2_1", "conv2_2"),
    ("conv3_1", "conv3_2", "conv3_3"),
    ("conv4_1", "conv4_2", "conv4_3"),
    ("conv5_1", "conv5_2", "conv5_3"),
)

_UPSCORES = ("upscore2", "upscore_pool4", "upscore8")


def _stages(*names: str) -> dict[str, str]:
    """A trunk of five Sequentials of convolutions and ReLUs."""
    return {
        f"{name}.{2 * i}": layer
        for name, layers in zip(names, _VGG16, strict=True)
        for i, layer in enumerate(layers)
    }


def _slices(to_pool3: str, to_pool4: str, to_pool5: str) -> dict[str, str]:
    """A trunk of three slices of torchvision's VGG16, each ending with a pooling."""
    places = (0, 2, 5, 7, 10, 12, 14)
    first = [layer for layers in _VGG16[:3] for layer in layers]
    return {
        **{f"{to_pool3}.{place}": layer for place, layer in zip(places, first, strict=True)},
        **{f"{to_pool4}.{2 * i}": layer for i, layer in enumerate(_VGG16[3])},
        **{f"{to_pool5}.{2 * i}": layer for i, layer in enumerate(_VGG16[4])},
    }


@dataclass(frozen=True)
class Implementation:
    """A public implementation of FCN-8s."""

    name: str
    """As an address names it, or in words."""
    variants: tuple[str, ...]
    """What its network is here; the first where nothing is stated."""
    layers: Mapping[str, str]
    """Its layer -> ours, for all layers."""
    unused: tuple[str, ...] = ()
    """Beginnings of the keys of a network that its own forward pass does not use."""
    doubt: str = ""
    """Why ``variants`` has several, in a sentence with the options to give."""

    def share(self, stored: StoredWeights) -> float:
        """The share of its layers that a file has."""
        return sum(f"{layer}.weight" in stored.state for layer in self.layers) / len(self.layers)

    def classes(self, stored: StoredWeights) -> int:
        """How many classes a file of this implementation has."""
        scores = next(theirs for theirs, ours in self.layers.items() if ours == "score_fr")
        found = stored.state.get(f"{scores}.weight")
        return 0 if found is None or found.ndim == 0 else len(found)

    def open(self, stored: StoredWeights, stated: Stated) -> Opened:
        """Its weights under our names.

        Raises:
            ModelError: keys are missing, unknown or of the wrong shape, or what was stated does not fit.
        """
        variant = self._variant(stored, stated)
        used = {key: value for key, value in stored.state.items() if not key.startswith(self.unused)}
        refuse_names(stored.path, used, self._keys(variant), self.name)
        state = {}
        for key, value in used.items():
            layer, _, kind = key.rpartition(".")
            state[f"{self.layers[layer]}.{kind}"] = value
        network = build(
            stored.path, state, variant, stated.num_classes, stated.learned_upscore, stated.trained_on
        )
        assumptions = [f"{self.name} by its keys: variant {variant}"]
        if self.doubt and stated.variant is None:
            assumptions.append(self.doubt)
        if dropped := len(stored.state) - len(used):
            assumptions.append(f"{dropped} tensors of a VGG16 inside, which it does not use, were left out")
        return Opened(network, "keys", assumptions=tuple(assumptions))

    def _variant(self, stored: StoredWeights, stated: Stated) -> str:
        if stated.variant in self.variants:
            return stated.variant
        same_variant(stored.path, stated.variant, self.variants[0], f"its keys ({self.name})")
        return self.variants[0]

    def _keys(self, variant: str) -> list[str]:
        biased = find_variant(variant).biased
        return [
            f"{layer}.{kind}"
            for layer, ours in self.layers.items()
            for kind in ("weight", "bias")
            if kind == "weight" or biased or ours not in _UPSCORES
        ]


@dataclass(frozen=True)
class Frames:
    """What a training script feeds its network."""

    trained_on: str
    """Channel order, ``bgr`` or ``rgb``."""
    mean: Triple
    """B, G, R, of 0..255."""
    std: Triple
    """B, G, R."""
    said: str
    """The same in words."""


def _unit(said: str, mean_rgb: Triple, std_rgb: Triple) -> Frames:
    """Statistics of R, G, B frames in 0..1."""
    mean_bgr, std_bgr = (_scaled(values[::-1]) for values in (mean_rgb, std_rgb))
    return Frames("rgb", mean_bgr, std_bgr, f"its training script feeds R, G, B {said}")


def _scaled(values: tuple[float, ...]) -> Triple:
    b, g, r = (255 * value for value in values)
    return b, g, r


_IMAGENET = Frames("rgb", IMAGENET_MEAN_BGR, IMAGENET_STD_BGR, ON_IMAGENET)

_DIVIDED = _unit("divided by 255", (0, 0, 0), (1, 1, 1))


_CAFFE_OPTIONS = "--trained-on bgr --mean 103.939,116.779,123.68 --std 1,1,1"

_ZIJUNDENG = Implementation(
    name="zijundeng/pytorch-semantic-segmentation FCN8s",
    variants=("fcn8s-atonce",),
    layers={
        **_slices("features3", "features4", "features5"),
        **{"score_fr.0": "fc6", "score_fr.3": "fc7", "score_fr.6": "score_fr"},
        **{name: name for name in ("score_pool4", "score_pool3", *_UPSCORES)},
    },
)

_YASSOUALI = Implementation(
    name="yassouali/pytorch-segmentation FCN8",
    variants=("fcn8s-atonce",),
    layers={
        **_slices("pool3", "pool4", "pool5"),
        **{"output.0": "fc6", "output.3": "fc7", "output.6": "score_fr"},
        **{"adj_pool4": "score_pool4", "adj_pool3": "score_pool3"},
        **{"up_output": "upscore2", "up_pool4_out": "upscore_pool4", "up_final": "upscore8"},
    },
)

_MEETSHAH = Implementation(
    name="meetshah1995/pytorch-semseg fcn8s",
    variants=("fcn8s",),
    layers={
        **_stages(*(f"conv_block{i}" for i in range(1, 6))),
        **{"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "score_fr"},
        **{"score_pool4": "score_pool4", "score_pool3": "score_pool3"},
        **{"upscore2": "upscore2", "upscore4": "upscore_pool4", "upscore8": "upscore8"},
    },
)

_LECTURE_HEAD = {
    **{"score_fr": "score_fr", "score_pool4_fr": "score_pool4", "score_pool3_fr": "score_pool3"},
    **{"upscore2": "upscore2", "upscore2_pool4": "upscore_pool4", "upscore8": "upscore8"},
}

_LECTURE_TRUNK = {f"{layer}.0": layer for layers in _VGG16 for layer in layers}

_LECTURE_PLAIN_FC = Implementation(
    name="the lecture's FCN8s",
    variants=("fcn8s-lecture", "fcn8s-lecture-norelu"),
    layers={**_LECTURE_TRUNK, "fc6": "fc6", "fc7": "fc7", **_LECTURE_HEAD},
    doubt="its forward pass applies ReLU after fc6 and fc7; early copies define relu6 and relu7 and never "
    "call them, which the weights do not tell: then give --variant fcn8s-lecture-norelu",
)

_LECTURE_FC_BLOCKS = Implementation(
    name="the lecture's FCN8s",
    variants=("fcn8s-lecture",),
    layers={**_LECTURE_TRUNK, "fc6.0": "fc6", "fc7.0": "fc7", **_LECTURE_HEAD},
)

_LECTURE_SLICES = Implementation(
    name="the lecture's FCN8s on torchvision's VGG16",
    variants=("fcn8s-lecture",),
    layers={
        **_slices("features_map1", "features_map2", "features_map3"),
        **{"conv.0": "fc6", "conv.3": "fc7"},
        **_LECTURE_HEAD,
    },
    unused=("pretrained_model.", "backbone."),
)

_TABLE: tuple[tuple[Implementation, Mapping[int | None, Frames]], ...] = (
    (_ZIJUNDENG, {None: replace(_IMAGENET, said=f"{_IMAGENET.said} (its caffe script: {_CAFFE_OPTIONS})")}),
    (
        _YASSOUALI,
        {
            21: _unit(
                "with the statistics of its VOC loader",
                (0.45734706, 0.43338275, 0.40058118),
                (0.23965294, 0.23532275, 0.2398498),
            ),
            19: _unit(
                "with the statistics of its CityScapes loader",
                (0.28689529, 0.32513294, 0.28389176),
                (0.17613647, 0.18099176, 0.17772235),
            ),
            150: _unit(
                "with the statistics of its ADE20K loader",
                (0.48897059, 0.46548275, 0.4294),
                (0.22861765, 0.22948039, 0.24054667),
            ),
            182: _unit(
                "with the statistics of its COCO loader",
                (0.43931922, 0.41310471, 0.37480941),
                (0.24272706, 0.23649098, 0.23429529),
            ),
            None: _IMAGENET,
        },
    ),
    (
        _MEETSHAH,
        {
            21: _IMAGENET,
            19: Frames("bgr", (0, 0, 0), (255, 255, 255), "its training script feeds B, G, R divided by 255"),
            65: _DIVIDED,
            None: Frames(
                "bgr",
                CAFFE_MEAN_BGR,
                (255, 255, 255),
                "its training script feeds B, G, R minus the mean, / 255 (--std 1,1,1 if img_norm was off)",
            ),
        },
    ),
    (_LECTURE_PLAIN_FC, {None: _DIVIDED}),
    (_LECTURE_FC_BLOCKS, {None: _DIVIDED}),
    (_LECTURE_SLICES, {None: _DIVIDED}),
)
"""Implementations, and what their training scripts feed them: a loader for each number of classes, and under
None for all others."""


_ENOUGH = 0.75
"""Share of an implementation's layers by which it is recognised, so that what is missing can be named. No
two have as many names in common, but for the lecture's forms: the best one counts."""


def _implementation_of(stored: StoredWeights) -> Implementation | None:
    found = max((known for known, _ in _TABLE), key=lambda known: known.share(stored))
    return found if found.share(stored) >= _ENOUGH else None


def _layout(implementation: Implementation, classes: int | None, frames: Frames) -> Layout:
    def recognises(stored: StoredWeights) -> bool:
        fits = _implementation_of(stored) is implementation
        return fits and (classes is None or implementation.classes(stored) == classes)

    by = "" if classes is None else f", as is usual with {classes} classes"
    return Layout(
        recognises=recognises,
        open=implementation.open,
        trained_on=frames.trained_on,
        mean=frames.mean,
        std=frames.std,
        assumptions=(frames.said + by,),
    )


FCN_LAYOUTS = tuple(
    _layout(implementation, classes, frames)
    for implementation, by_classes in _TABLE
    for classes, frames in by_classes.items()
)
"""Entries of :data:`..layouts.LAYOUTS`."""

"""The description of a model: its fields, its JSON, its digest, and what version 0.1 wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.contract import DEPLOY
from fcn_deploy.errors import ModelError
from fcn_deploy.spec import SCHEMA_VERSION, Architecture, ModelSpec, Reference

V01 = Path(__file__).parent / "fixtures" / "v0_1"
SPEC = ModelSpec(classes=("road", "sky"), architecture=Architecture("fcn8s-lite", {"width": 4}))
CONTENT = "ab" * 32


@given(
    options=st.dictionaries(st.text(min_size=1), st.integers() | st.booleans() | st.text()),
    size_multiple=st.integers(1, 64),
    stride=st.none() | st.integers(1, 64),
    reference=st.none() | st.builds(Reference, st.text(), st.text(), st.none() | st.just(CONTENT)),
    least=st.integers(1, 64),
    fixed=st.tuples(*[st.none() | st.integers(1, 64)] * 3),
    threshold=st.none() | st.floats(0.01, 0.99),
)
def test_json_and_back(
    options: dict[str, object],
    size_multiple: int,
    stride: int | None,
    reference: Reference | None,
    least: int,
    fixed: tuple[int | None, ...],
    threshold: float | None,
) -> None:
    spec = SPEC.replace(
        architecture=Architecture("anything", options),
        size_multiple=size_multiple,
        stride=stride,
        reference=reference,
        min_height=least,
        min_width=least + 1,
        fixed_shape=fixed,
        threshold=threshold,
    )
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"size_multiple": 0},
        {"stride": 0},
        {"min_height": 0},
        {"min_height": 4097},
        {"min_width": 2.5},
        {"fixed_shape": (None, 0, None)},
        {"fixed_shape": (None, None)},
        {"fixed_shape": (1, True, None)},
        {"fixed_shape": 7},
        {"threshold": 0},
        {"threshold": 1.0},
        {"threshold": "half"},
        {"threshold": 0.5, "classes": ("a", "b", "c"), "palette": ()},
        {"contract": "float-nchw"},
        {"outputs": ("confidence",)},
        {"outputs": ("labels", "depth")},
        {"classes": ("alone",)},
        {"color_order": "gbr"},
        {"precision": "fp8"},
        {"classes": (1, 2)},
        {"classes": "ab"},
        {"palette": ((1, 2), (3, 4))},
        {"palette": ((1, 2, 300), (3, 4, 5))},
        {"outputs": ("labels", "labels")},
        {"stride": 1.5},
        {"max_height": True},
        {"mean": ("a", "b", "c")},
        {"provenance": (1,)},
        {"evidence": []},
        {"digest": 7},
    ],
    ids=str,
)
def test_a_field_out_of_range_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        SPEC.replace(**changes)


def test_the_contract_s_outputs_are_what_a_spec_may_ask_for() -> None:
    assert SPEC.replace(outputs=tuple(DEPLOY.outputs)).outputs == ("labels", "confidence", "logits")


@pytest.mark.parametrize("field", ["architecture", "reference"])
@pytest.mark.parametrize("damaged", [3, "text", [1], {"unknown": 1}])
def test_a_damaged_part_is_one_sentence(field: str, damaged: object) -> None:
    data = {**json.loads(SPEC.to_json()), field: damaged}
    with pytest.raises(ModelError, match=r"^m\.onnx: .*damaged"):
        ModelSpec.from_json(json.dumps(data), "m.onnx")


@pytest.mark.parametrize("schema", [0, -1])
def test_there_is_no_such_schema(schema: int) -> None:
    data = {**json.loads(SPEC.to_json()), "schema_version": schema}
    with pytest.raises(ModelError, match=rf"m\.onnx: there is no schema {schema}"):
        ModelSpec.from_json(json.dumps(data), "m.onnx")


def test_lists_become_tuples() -> None:
    spec = ModelSpec(["a", "b"], Architecture("fcn8s"), mean=[1, 2, 3], outputs=["labels"])
    assert spec == ModelSpec(("a", "b"), Architecture("fcn8s"), mean=(1, 2, 3), outputs=("labels",))


def test_a_newer_schema_asks_for_an_upgrade() -> None:
    data = {**json.loads(SPEC.to_json()), "schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(ModelError, match=r"m\.onnx.*newer fcn-deploy.*pip install -U"):
        ModelSpec.from_json(json.dumps(data), "m.onnx")


def test_a_digest_holds_for_one_content_and_one_description() -> None:
    sealed = SPEC.with_digest(CONTENT)
    assert sealed.describes(CONTENT) is True
    assert sealed.describes("cd" * 32) is False
    assert SPEC.describes(CONTENT) is None
    other = ModelSpec.from_json(sealed.to_json().replace('"road"', '"lane"'))
    assert other.describes(CONTENT) is False


def test_a_changed_copy_has_no_digest() -> None:
    assert SPEC.with_digest(CONTENT).replace(note="changed").digest == ""


def test_a_stated_network_is_said_to_be_stated() -> None:
    assert str(Reference("fcn8s-same", "stated")) == "fcn8s-same as stated"
    assert str(Reference("fcn8s-same", "md5")) == "fcn8s-same"


def test_a_description_of_version_0_1_in_the_fields_of_today() -> None:
    old = {
        "schema_version": 1,
        "classes": ["a", "b"],
        "variant": "fcn8s-same",
        "width": 8,
        "fc_channels": 16,
        "learned_upscore": True,
        "evidence": {"parity": {"sizes": [1]}},
        "provenance": [{"kind": "random", "name": "random (seed 0)", "sha256": None}],
    }
    spec = ModelSpec.from_json(json.dumps(old))
    assert spec.architecture == Architecture(
        "fcn8s-same", {"width": 8, "fc_channels": 16, "learned_upscore": True}
    )
    assert (spec.stride, spec.size_multiple, spec.contract) == (32, 1, DEPLOY.name)
    assert (spec.reference, spec.digest, spec.schema_version) == (None, "", SCHEMA_VERSION)
    assert spec.evidence == {"parity": {"sizes": [1]}}
    assert spec.provenance[0]["kind"] == "random"


def test_defaults_of_version_0_1_are_kept() -> None:
    spec = ModelSpec.from_json('{"schema_version": 1, "classes": ["a", "b"], "variant": "fcn8s"}')
    assert spec.architecture.options == {"width": 64, "fc_channels": 4096, "learned_upscore": False}


def test_version_0_1_without_a_variant_is_damaged() -> None:
    with pytest.raises(ModelError, match="damaged"):
        ModelSpec.from_json('{"schema_version": 1, "classes": ["a", "b"]}')

"""Configurations of large models have their published sizes, and are planned within the budget."""

import pytest

from benchmarks.scale.planning import plan_once

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "billions"), [("decoder-8b", 8.03), ("decoder-405b", 405.85), ("moe-671b", 671.03)]
)
def test_a_configuration_is_planned_without_its_weights(name: str, billions: float) -> None:
    found = plan_once(name)
    assert found["dense"] / 1e9 == pytest.approx(billions, rel=1e-3)
    assert 0.999 * found["asked"] < found["trained"] <= found["asked"]
    assert found["rows"] < found["layers"] / 10

"""Pictures: they say what the data says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import npas
from npas.plot import sharing

pytestmark = pytest.mark.pure
pytest.importorskip("matplotlib")


def net(n_layers: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(12, 12) for _ in range(n_layers)), nn.Linear(12, 30))


def texts(figure: Any) -> str:
    found = [axes.get_title(loc="left") for axes in figure.axes]
    return "\n".join([*found, figure._suptitle.get_text()])


def test_sharing_counts_the_templates_that_read_each_element() -> None:
    plan = npas.plan(net(), "50%", n_banks=2)
    for bank in plan.banks:
        layers = plan.layers_of(bank.name)
        counted = np.zeros(bank.size, dtype=int)
        for layer in layers:
            if layer.k == 0:
                counted += 1
            for t in range(layer.k):
                start = layer.base + t * layer.stride
                counted[start : start + layer.n] += 1
        assert (sharing(layers, bank.size) == counted).all()
        assert counted.min() >= 1
    small = npas.plan(net(), "20%", groups="single")
    assert any(layer.k == 0 for layer in small.layers)
    assert sharing(small.layers, small.banks[0].size).min() >= 1


def test_a_plans_picture(tmp_path: Path) -> None:
    plan = npas.plan(net(), "60%", groups="single")
    figure = plan.plot()
    figure.savefig(tmp_path / "plan.png")
    assert "layers against banks" in texts(figure) and "budget 60%" in texts(figure)
    assert "cosine" not in texts(figure)
    ssn = npas.compile(net(), plan=plan)
    figure = plan.plot(ssn)
    assert "cosine of coefficients" in texts(figure)
    image: Any = next(a for a in figure.axes if "cosine" in a.get_title(loc="left")).images[0]
    shown = np.asarray(image.get_array())
    assert np.allclose(np.diag(shown), 1) and np.allclose(shown, shown.T)
    with pytest.raises(npas.NpasError, match="not compiled from this plan"):
        plan.plot(net())


def test_a_mappings_picture(tmp_path: Path) -> None:
    mapping = npas.Mapping({"a": ("x", "y"), "b": ("z",)}, "by hand")
    assert "3 layers in 2 banks, by hand" in texts(mapping.plot())
    module = npas.search_model(net(), method="wavg", templates=4, start="orthogonal")
    learned = npas.cluster(module, 3)
    figure = learned.plot()
    figure.savefig(tmp_path / "mapping.svg")
    assert "cosine of what was learned (alpha)" in texts(figure)


def test_many_banks_and_layers_are_still_drawn(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = net(60)
    npas.plan(model, "100%", groups="own").plot().savefig(tmp_path / "own.png", dpi=40)
    npas.plan(model, "30%", n_banks=3).plot().savefig(tmp_path / "auto.png", dpi=40)

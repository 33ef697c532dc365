from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import npas
from tests.interop.nets import WAYS, Net, assert_same, ids, library, net

lightning = library("lightning")

pytestmark = [
    pytest.mark.pure,
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps"),
    pytest.mark.filterwarnings("ignore:.*weights_only:FutureWarning"),
]


class Steps(lightning.LightningModule):
    """What both modules below have in common."""

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        del index
        loss = F.cross_entropy(self(batch[0]).flatten(0, 1), batch[0].flatten())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        del index
        self.log("score", self(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(npas.param_groups(self, weight_decay=0.01), 0.02)


class Holds(Steps):
    """Holds a compiled model."""

    def __init__(self, way: str = "fx") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = net(way)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.net(ids)


class Plain(Steps):
    """Is compiled itself, in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Net()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.net(ids)


def trainer(folder: Path, steps: int) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=True,
        enable_progress_bar=False,
    )


def data(batch: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(ids(8)), batch_size=batch)


def in_place() -> Any:
    model = Plain()
    plan = npas.plan(model, 0.6, groups="single")
    torch.manual_seed(1)
    return npas.compile_(model, plan=plan)


def loss(model: Any) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(ids(8)).flatten(0, 1), ids(8).flatten()))


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_holds_a_compiled_model(way: str, tmp_path: Path) -> None:
    model = Holds(way)
    before = loss(model)
    fit = trainer(tmp_path, 10)
    fit.fit(model, data(), data())
    assert loss(model) < 0.9 * before
    fit.save_checkpoint(tmp_path / "last.ckpt")
    other = Holds.load_from_checkpoint(tmp_path / "last.ckpt")
    assert_same(dict(other.state_dict()), dict(model.state_dict()))
    assert torch.equal(other.eval()(ids()), model.eval()(ids()))


def test_a_module_that_is_compiled_in_place(tmp_path: Path) -> None:
    model = in_place()
    before = loss(model)
    fit = trainer(tmp_path, 10)
    fit.fit(model, data(), data())
    assert loss(model) < 0.9 * before
    torch.testing.assert_close(npas.materialize(model)(ids()), model(ids()))


def test_a_module_that_is_compiled_in_place_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    expected = in_place()
    trainer(tmp_path, 6).fit(expected, data(8))
    first = in_place()
    half = trainer(tmp_path, 4)
    half.fit(first, data(8))
    half.save_checkpoint(tmp_path / "half.ckpt")
    second = in_place()
    trainer(tmp_path, 6).fit(second, data(8), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert_same(dict(second.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


def test_its_checkpoint_holds_the_banks_and_not_the_weights(tmp_path: Path) -> None:
    model = in_place()
    fit = trainer(tmp_path, 1)
    fit.fit(model, data())
    fit.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=False)["state_dict"]
    assert "npas.banks.b0.theta" in saved and "net.head.weight" not in saved


def test_dense_weights_load_into_the_plain_module(tmp_path: Path) -> None:
    model = in_place()
    trainer(tmp_path, 2).fit(model, data())
    plain = Plain()
    plain.load_state_dict(npas.dense_state_dict(model))
    torch.testing.assert_close(plain(ids()), model(ids()))


def test_predict_after_fit(tmp_path: Path) -> None:
    model = in_place()
    run = trainer(tmp_path, 2)
    run.fit(model, data())
    batches = DataLoader(list(ids(8)), batch_size=4)  # pyright: ignore[reportArgumentType]
    found = torch.cat(run.predict(model, batches))
    torch.testing.assert_close(found, model.eval()(ids(8)))

"""The examples that train on several processes, for a few steps."""

import copy
from pathlib import Path

import torch

import npas
from examples import federated
from examples.digits import DigitsNet
from tests.distributed.test_restart import torchrun


def test_ddp_writes_checkpoints_and_says_what_it_reached(tmp_path: Path) -> None:
    said = torchrun("examples.train_ddp", "--epochs=1", f"--folder={tmp_path}", "--every=10")
    assert said.startswith("from the start\n")
    assert "12,608 parameters" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000016"]


def test_federated_messages_are_what_is_trained_and_the_norms_statistics() -> None:
    found = federated.run(lambda: npas.compile(DigitsNet(), "10%"), 1, seed=0, rank=0, n=1)
    assert found.n_params == 12_608
    statistics = sum(b.numel() for n, b in DigitsNet().named_buffers() if "running" in n)
    header = found.message - 4 * (found.n_params + statistics)
    assert 0 < header < 10_000
    assert found.total == 2 * federated.CHOSEN * found.message


def test_a_client_has_the_servers_weights_once_it_got_the_message() -> None:
    server = npas.compile(DigitsNet(), "10%")
    client = copy.deepcopy(server)
    with torch.no_grad():
        for parameter in server.parameters():
            parameter.mul_(1.5)
    x = torch.randn(2, 1, 8, 8)
    before = client.eval()(x)
    federated.receive(client, federated.save(federated.state(server)))
    assert torch.equal(client(x), server.eval()(x))
    assert not torch.equal(client(x), before)


def test_the_images_of_all_clients_are_all_images() -> None:
    labels = torch.arange(100) % 10
    found = federated.shares(labels, seed=0)
    assert len(found) == federated.CLIENTS
    assert torch.cat(found).sort().values.tolist() == list(range(100))

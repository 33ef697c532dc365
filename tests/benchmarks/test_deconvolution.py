"""Deconvolution layers whiten the columns of their input, in groups and blocks, and train."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import npas
from benchmarks.networks.deconvolution import Deconv2d, DeconvLinear, Whitening, inverse_root
from benchmarks.networks.efficientnet_nd import Where, efficientnet_nd

pytestmark = pytest.mark.pure

N_ITER = 25  # enough for the condition numbers here: the limit, to hold the definition against


def correlated(*shape: int) -> Tensor:
    """Return images of fp64 whose channels and neighbouring pixels go together, off zero."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    mix = torch.eye(shape[1], dtype=torch.float64) + 0.5 * torch.rand(shape[1], shape[1])
    x = torch.einsum("dc,nchw->ndhw", mix, x)
    return x + 0.5 * x.roll(1, -1) + 0.25 * x.roll(1, -2) + 3


def covariance(vectors: Tensor) -> Tensor:
    centred = vectors - vectors.mean(0)
    return centred.T @ centred / len(vectors)


def layer(*args: int, **options: int) -> Deconv2d:
    torch.manual_seed(0)
    return Deconv2d(*args, sampling=1, n_iter=N_ITER, **options).double()


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_inverse_root_is_one(n: int):
    torch.manual_seed(0)
    a = torch.randn(3, n, 2 * n, dtype=torch.float64)
    matrix = a @ a.mT / n + 0.1 * torch.eye(n)
    root = inverse_root(matrix, 30)
    torch.testing.assert_close(root @ matrix @ root, torch.eye(n).double().expand(3, n, n))
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(root, vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT)


def test_every_iteration_brings_the_inverse_root_nearer():
    torch.manual_seed(0)
    a = torch.randn(1, 10, 40, dtype=torch.float64)
    matrix = a @ a.mT / 40
    errors = []
    for n_iter in (1, 3, 5, 8):
        root = inverse_root(matrix, n_iter)
        errors.append(float((root @ matrix @ root - torch.eye(10)).norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 < 1 < errors[0]


def test_gradients_go_through_the_inverse_root():
    torch.manual_seed(0)
    a = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: inverse_root(a @ a.mT + torch.eye(3), 8), a)


def test_a_layer_of_identity_weight_puts_out_white_channels():
    x = correlated(8, 6, 10, 10)
    white = layer(6, 6)
    with torch.no_grad():
        white.weight.copy_(torch.eye(6)[..., None, None])
        nn.init.zeros_(white.get_parameter("bias"))
    pixels = white(x).transpose(0, 1).flatten(1).T
    assert covariance(x.transpose(0, 1).flatten(1).T).diagonal().min() > 1.5
    torch.testing.assert_close(pixels.mean(0), torch.zeros(6).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(covariance(pixels), torch.eye(6).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{}, {"block": 2}, {"groups": 2}, {"groups": 4}])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
def test_columns_are_white_after_it(options: dict[str, int], size: int, stride: int):
    white = layer(4, 8, size, stride, **options)
    columns = white.columns(correlated(16, 4, 12, 12))
    mean, root = white.whitening(columns)
    groups = options.get("groups", 1)
    width = {1: options.get("block", 4), 2: 2, 4: 1}[groups] * size**2
    assert columns.shape[0] == groups and columns.shape[2] == width
    for found in (columns - mean.unsqueeze(1)) @ root:
        torch.testing.assert_close(found.mean(0), torch.zeros(width).double(), atol=1e-9, rtol=0)
        identity = torch.eye(width).double()
        torch.testing.assert_close(covariance(found), identity, atol=2e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"block": 2}, {"groups": 2}, {"groups": 4}])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_it_is_the_product_of_the_weight_and_whitened_columns(
    options: dict[str, int], size: int, stride: int
):
    # The definition, with columns built at full size and an eigendecomposition for the root.
    x = correlated(8, 4, 8, 8)
    white = layer(4, 8, size, stride, **options)
    groups = options.get("groups", 1)
    out = white(x)
    columns = F.unfold(x, size, padding=size // 2, stride=stride)
    blocks = columns.unflatten(1, (groups, -1, white.block * size**2)).movedim(1, 0)
    rebuilt = []
    for block in blocks:  # [batch, blocks, features, pixels]
        vectors = block.transpose(2, 3).flatten(0, 2)
        values, basis = torch.linalg.eigh(covariance(vectors) + 1e-5 * torch.eye(vectors.shape[1]))
        root = basis @ torch.diag(values.rsqrt()) @ basis.T
        rebuilt.append((root @ (block - vectors.mean(0)[:, None])).flatten(1, 2))
    weights = white.weight.flatten(1).chunk(groups)
    product = torch.cat([w @ c for w, c in zip(weights, rebuilt, strict=True)], 1)
    expected = product + white.get_parameter("bias")[:, None]
    torch.testing.assert_close(out.flatten(2), expected, atol=1e-3, rtol=1e-3)


def test_a_linear_layer_whitens_its_features():
    x = correlated(400, 6, 1, 1).flatten(1)
    white = DeconvLinear(6, 6, n_iter=N_ITER).double()
    with torch.no_grad():
        white.weight.copy_(torch.eye(6))
        white.bias.zero_()
    out = white(x)
    torch.testing.assert_close(covariance(out), torch.eye(6).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("in_channels", "block", "expected"), [(3, 64, 3), (64, 64, 64), (144, 64, 16), (7, 2, 1)]
)
def test_blocks_divide_the_channels(in_channels: int, block: int, expected: int):
    with torch.device("meta"):
        assert Deconv2d(in_channels, 8, block=block).block == expected


def test_the_covariance_is_of_fewer_pixels_than_the_convolution():
    x = torch.randn(2, 4, 12, 12)
    assert Deconv2d(4, 8, 3).columns(x).shape == (1, 2 * 4 * 4, 36)
    assert Deconv2d(4, 8, 3, stride=2).columns(x).shape == (1, 2 * 2 * 2, 36)
    assert Deconv2d(4, 8, 3, stride=2)(x).shape == (2, 8, 6, 6)


def test_evaluation_uses_running_statistics():
    x = correlated(8, 4, 8, 8)
    white = layer(4, 8, 3)
    before = white.eval()(x)
    torch.testing.assert_close(before, F.conv2d(x, white.weight, white.bias, padding=1))
    white.train()
    expected = white(x)
    for _ in range(200):
        white(x)
    torch.testing.assert_close(white.eval()(x), expected, atol=1e-6, rtol=1e-6)
    alone = white(x[:1])  # of no other sample
    torch.testing.assert_close(alone, white(x)[:1])


def test_running_statistics_move_by_a_tenth_and_not_in_evaluation():
    found = Whitening(1, 2, eps=0.0, n_iter=20).double()
    vectors = torch.tensor([[[0.0, 4.0], [4.0, 0.0], [0.0, 0.0], [4.0, 4.0]]]).double()
    found(vectors)  # mean (2, 2), covariance 4 I
    torch.testing.assert_close(found.running_mean, torch.tensor([[0.2, 0.2]]).double())
    torch.testing.assert_close(found.running_root, torch.eye(2).double()[None] * 0.95)
    found.eval()(vectors)
    torch.testing.assert_close(found.running_mean, torch.tensor([[0.2, 0.2]]).double())


def train(model: nn.Module, steps: int) -> list[float]:
    torch.manual_seed(1)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("where", "steps", "change"),
    [
        ("ends", 9, lambda m: m),
        ("ends", 9, lambda m: npas.compile(m, "50%")),
        ("all", 30, lambda m: m),
        # With the defaults, one bank for all, it takes more steps than a test should.
        ("all", 30, lambda m: npas.compile(m, "50%", n_banks=6)),
    ],
    ids=["ends", "ends-shared", "all", "all-shared"],
)
def test_the_network_learns(where: Where, steps: int, change: Callable[[nn.Module], nn.Module]):
    torch.manual_seed(0)
    losses = train(change(efficientnet_nd(4, where, factor=0.25)), steps)
    assert losses[-1] < 0.7 * losses[0]


def test_compiled_with_own_banks_it_is_the_network_and_its_running_statistics():
    torch.manual_seed(0)
    model = efficientnet_nd(4, "all", factor=0.5)
    ssn = npas.compile(model, "100%", groups="own")
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(ssn(x), model(x))
    dense = npas.dense_state_dict(ssn)
    for name, value in model.state_dict().items():
        assert torch.equal(dense[name], value), name
    assert torch.equal(ssn.eval()(x), model.eval()(x))

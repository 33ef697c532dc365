"""When a product with a generated weight costs less without writing the weight.

For M rows of input, K templates and a weight of n elements, in items of the weight's size g (input
and output are read and written either way):

=================  ====================================  ======================================
                   written                               fused
=================  ====================================  ======================================
forward, bytes     ``(K + 1) n`` to make it, ``n`` to    ``R K n``: the templates are read once
                   read it                               for each of R tiles of rows
backward, bytes    ``(K + 2) n`` again for the input's   ``R K n`` for the input's gradient;
                   gradient; ``2 n`` for the weight's,   ``K n`` and the bank's gradient likewise
                   ``K n`` and the bank's gradient
FLOPs              ``2 K n`` each time it is made        ``2 R K n`` each time
=================  ====================================  ======================================

So with one tile of rows (128 in half precision, 64 in float32) the fused product always moves fewer
bytes, with two where K is 1 (K is 2 in training), with three where K is 1 in training; a large
batch reads the templates so often that a written weight is cheaper. FLOPs decide nothing at the
rows where bytes are close, but are held to a twentieth more.

This is about GPUs, where it counts traffic and spares a launch. On a CPU the weight is read from
the cache that it was written to, and the fused product takes as long within a fifth, but for the
gradients of a single row of input (``python -m benchmarks.kernels --op combine_linear``, column "to
written"): it is not used there unless it is asked for.
"""

from dataclasses import dataclass

import torch

#: The most FLOPs that a fused product may take, in those of a written one.
MOST_FLOPS = 1.05


@dataclass(frozen=True, slots=True)
class Cost:
    """What generating and multiplying takes, besides input and output.

    Attributes:
        n_bytes: moved.
        flops: two for each multiply-accumulate.
    """

    n_bytes: int
    flops: int


def block_m(m: int, itemsize: int) -> int:
    """Return the rows of input that a program of the kernels takes on.

    Args:
        m: rows of the input.
        itemsize: bytes of an element of the input.
    """
    largest = 64 if itemsize > 2 else 128
    return next((rows for rows in (16, 32, 64) if m <= rows), largest)


def written(m: int, k: int, n: int, itemsize: int, *, training: bool) -> Cost:
    """Return the cost where `combine` writes the weight.

    Args:
        m: rows of the input.
        k: templates.
        n: elements of the weight.
        itemsize: bytes of an element of bank and input.
        training: whether there is a backward pass, with recomputation.
    """
    items, flops = k + 2, 2 * k + 2 * m
    if training:
        items += (k + 2) + 2 + k
        flops += 2 * k + 4 * m + 4 * k
    gradient = 8 * k * n if training else 0
    return Cost(items * n * itemsize + gradient, flops * n)


def fused(m: int, k: int, n: int, itemsize: int, *, training: bool) -> Cost:
    """Return the cost where the weight is never written; arguments as for `written`."""
    tiles = -(-m // block_m(m, itemsize))
    items, flops = tiles * k, 2 * tiles * k + 2 * m
    if training:
        items += tiles * k + k
        flops += 2 * tiles * k + 4 * m + 4 * k
    gradient = 8 * k * n if training else 0
    return Cost(items * n * itemsize + gradient, flops * n)


def fusing_pays(
    m: int, k: int, n: int, itemsize: int, *, training: bool, device: torch.device
) -> bool:
    """Tell whether the fused product is the cheaper one.

    Args:
        m: rows of the input.
        k: templates.
        n: elements of the weight.
        itemsize: bytes of an element of bank and input.
        training: whether there will be a backward pass.
        device: where it runs.
    """
    if device.type != "cuda":
        return False
    one = fused(m, k, n, itemsize, training=training)
    other = written(m, k, n, itemsize, training=training)
    return one.n_bytes < other.n_bytes and one.flops <= MOST_FLOPS * other.flops

"""Lay out: where in a bank each layer's templates lie.

Templates of one layer stand a stride apart, and a layer has as many as fit, up to its limit. A
layer that is larger than the bank is upsampled from all of it, so nothing is dead. Otherwise the
largest layer closes the bank and the others go round from 0; where they leave a gap before the
closing block, that layer gets one more template at a smaller stride (templates may overlap).
Every size from the largest layer to the cap, ``sum(k_i * n_i)``, can be covered like this, up to
the few elements by which a stride must be a whole number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npas.passes.demand import EMBEDDING, WINDOW, Block, Demand

# Elements of a 16-byte load in the smallest dtype (int8); 8 would do for bf16.
_ALIGNMENT = 16
# A weight at least this large gives up at most 1.5% of a template to start on an aligned element.
_ALIGNED_FROM = 1024
# A bank may shrink by this share for an aligned stride; the allocator spends it elsewhere.
_SHRINK = 4096

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def place(
    demands: Sequence[Demand], n_bank: int, k_limits: Sequence[int] | None = None
) -> list[Block] | None:
    """Lay out one bank.

    Args:
        demands: its layers; ``Demand.bank`` is not read.
        n_bank: its elements, at least 1.
        k_limits: most templates of each layer, at least 1, where that is less than its ``k``.

    Returns:
        One block a layer, or None if this size would leave dead elements.
    """
    layers = Layers.of(demands, banks=np.zeros(len(demands), np.int64))
    limit = layers.limit
    if k_limits is not None:
        limit = np.minimum(limit, np.asarray(k_limits, np.int64))
    laid = layers.settle(np.array([n_bank], np.int64), limit)
    return laid.blocks()[0] if laid.size[0] == n_bank else None


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of every bank as arrays, sorted by bank, so that all banks are tried at once.

    Attributes:
        n: [layers] elements.
        limit: [layers] most templates.
        many: [layers] whether a higher limit would give it more: all but ``rr``.
        unit: [layers] elements that its bases and strides are multiples of, 16 or 1.
        wavg: [layers] whether it has coefficients of its own when it has two templates.
        emb: [layers] whether it has an embedding then.
        scale: [layers] whether it wants a scalar where it has neither.
        bank: [layers] index of its bank.
        start: [banks] index of the bank's first layer.
        closing: [banks] index of the bank's largest layer, the first of several.
        n_mask: [banks] elements of the largest layer that would be upsampled with masks, or 0.
    """

    n: Ints
    limit: Ints
    many: Flags
    unit: Ints
    wavg: Flags
    emb: Flags
    scale: Flags
    bank: Ints
    start: Ints
    closing: Ints
    n_mask: Ints

    @staticmethod
    def of(demands: Sequence[Demand], banks: Ints | None = None) -> "Layers":
        """Collect demands, keeping their order within a bank."""
        count = len(demands)
        if banks is None:
            banks = np.fromiter((d.bank for d in demands), np.int64, count)
            order = np.argsort(banks, kind="stable")
            demands = [demands[i] for i in order.tolist()]
            banks = banks[order]
        present, start = np.unique(banks, return_index=True)
        assert count and present[0] == 0 and present[-1] == len(present) - 1, "a bank is empty"
        n = np.fromiter((d.n for d in demands), np.int64, count)
        many = np.fromiter((d.downsample != "rr" for d in demands), np.bool_, count)
        k = np.fromiter((d.k for d in demands), np.int64, count)
        mask = np.fromiter((d.upsample == "mask" for d in demands), np.bool_, count)
        assert n.min() >= 1 and k.min() >= 1
        largest = np.flatnonzero(n == np.maximum.reduceat(n, start)[banks])
        aligned = (n % _ALIGNMENT == 0) | (n >= _ALIGNED_FROM)
        return Layers(
            n=n,
            limit=np.where(many, k, 1),
            many=many,
            unit=np.where(aligned, _ALIGNMENT, 1),
            wavg=np.fromiter((d.downsample == "wavg" for d in demands), np.bool_, count),
            emb=np.fromiter((d.downsample == "emb" for d in demands), np.bool_, count),
            scale=np.fromiter((d.scale for d in demands), np.bool_, count),
            bank=banks,
            start=start,
            closing=largest[np.unique(banks[largest], return_index=True)[1]],
            n_mask=np.maximum.reduceat(np.where(mask, n, 0), start),
        )

    def only(self, bank: int) -> "Layers":
        """Return the layers of one bank."""
        inside = self.layers_of(bank)
        return Layers(
            n=self.n[inside],
            limit=self.limit[inside],
            many=self.many[inside],
            unit=self.unit[inside],
            wavg=self.wavg[inside],
            emb=self.emb[inside],
            scale=self.scale[inside],
            bank=np.zeros_like(self.bank[inside]),
            start=np.zeros(1, np.int64),
            closing=self.closing[bank : bank + 1] - self.start[bank],
            n_mask=self.n_mask[bank : bank + 1],
        )

    def layers_of(self, bank: int) -> slice:
        """Return where the layers of one bank stand."""
        last = bank + 1 == len(self.start)
        return slice(int(self.start[bank]), len(self.n) if last else int(self.start[bank + 1]))

    @property
    def n_max(self) -> Ints:
        """[banks] elements of the largest layer."""
        return self.n[self.closing]

    @property
    def total(self) -> Ints:
        """[banks] elements of all layers, W_j."""
        return np.add.reduceat(self.n, self.start)

    @property
    def single(self) -> Flags:
        """[banks] whether the bank has one layer."""
        return np.diff(self.start, append=len(self.n)) == 1

    def cap(self, limit: Ints) -> Ints:
        """Return [banks] the most elements that so many templates can cover."""
        return np.add.reduceat(limit * self.n, self.start)

    def settle(self, size: Ints, limit: Ints) -> "Laid":
        """Give each layer its templates, and shrink the banks that would have a dead element.

        Args:
            size: [banks] elements wanted.
            limit: [layers] most templates.
        """
        size = np.minimum(size, self.cap(limit))
        while True:
            laid = self._try(size, limit)
            if np.array_equal(laid.size, size):
                return laid
            size = laid.size

    def _try(self, size: Ints, limit: Ints) -> "Laid":
        """Do as `settle`, but the banks that shrink have to be laid out again."""
        last, n_last, here = self.closing, self.n_max, size[self.bank]
        step = self.n // self.unit * self.unit
        # Rounded strides cover a little less than the cap: near it, alignment is given up.
        reach = np.add.reduceat(limit * step, self.start) + n_last - step[last]
        step = np.where((size > reach)[self.bank], self.n, step)
        k = np.where(self.n <= here, np.minimum(limit, 1 + (here - self.n) // step), 0)
        stride = np.where(k >= 2, step, 0)
        reach = np.add.reduceat(k * step, self.start) + n_last - step[last]
        # Another layer with fewer templates than its limit reaches to within n_i of the end, so
        # in a bank that is short all others have their limit, and the closing layer has not.
        short = np.flatnonzero((n_last <= size) & (size > reach))
        if len(short):
            c, wanted = last[short], size[short]
            room, gaps = wanted - self.n[c], k[c]
            others = reach[short] - self.n[c] - (gaps - 1) * step[c]
            free, unit = room // gaps, self.unit[c]
            aligned = free // unit * unit
            done = np.where(gaps * aligned >= room - others, aligned, free)
            # No whole stride fits: the bank shrinks to what one covers.
            unit = np.where(gaps * unit * _SHRINK <= wanted, unit, 1)
            covers = np.maximum(gaps * (free // unit * unit), (gaps - 1) * step[c])
            shrunk = self.n[c] + others // unit * unit + covers
            size = size.copy()
            size[short] = np.where(gaps * done >= room - others, wanted, shrunk)
            k[c], stride[c] = gaps + 1, done
        return Laid(self, size, k, step, stride)


@dataclass(frozen=True, slots=True)
class Laid:
    """Banks with their templates.

    Attributes:
        layers: what was laid out.
        size: [banks] elements.
        k: [layers] templates, 0 where upsampled.
        step: [layers] elements by which a template moves on.
        stride: [layers] as in `Block`.
    """

    layers: Layers
    size: Ints
    k: Ints
    step: Ints
    stride: Ints

    def cost(self) -> Ints:
        """Return [banks] trainable parameters: `bank_cost` for all banks."""
        layers, start = self.layers, self.layers.start
        combined = self.k >= 2
        learned = (layers.wavg | layers.emb) & combined
        own = np.where(layers.wavg & combined, self.k, 0)
        own += np.where(layers.emb & combined, EMBEDDING, 0)
        own += layers.scale & ~learned & (layers.n != self.size[layers.bank] * self._single())
        rows = np.maximum.reduceat(np.where(layers.emb & combined, self.k, 0), start)
        masks = masks_of(layers.n_mask, self.size)
        return self.size + np.add.reduceat(own, start) + (EMBEDDING + 1) * rows + masks

    def blocks(self) -> list[list[Block]]:
        """Return each bank's blocks, in the order of its layers."""
        layers = self.layers
        found: list[list[Block]] = []
        n, unit, k = layers.n.tolist(), layers.unit.tolist(), self.k.tolist()
        step, stride = self.step.tolist(), self.stride.tolist()
        ends = [*layers.start.tolist()[1:], len(n)]
        banks = (layers.start.tolist(), ends, layers.closing.tolist(), self.size.tolist())
        for first, end, last, size in zip(*banks, strict=True):
            base = [0] * (end - first)
            closed = n[last] <= size
            if closed:
                base[last - first] = size - (k[last] - 1) * stride[last] - n[last]
            cursor = 0
            inside = range(first, end)
            order = [i for i in inside if unit[i] > 1] + [i for i in inside if unit[i] == 1]
            for i in order if end - first > 1 else ():
                if k[i] == 0 or (closed and i == last):
                    continue
                length = (k[i] - 1) * stride[i] + n[i]
                if cursor + length <= size:
                    base[i - first] = cursor
                    cursor += k[i] * step[i]
                else:
                    # The closing layer is no smaller, so it covers the elements rounded off.
                    base[i - first] = (size - length) // unit[i] * unit[i]
                    cursor = 0
            found.append([Block(base[i - first], stride[i], k[i]) for i in inside])
        return found

    def _single(self) -> Ints:
        """[layers] 1 where the layer is alone in its bank, else 0."""
        return self.layers.single.astype(np.int64)[self.layers.bank]


def masks_of(n: Ints, size: Ints) -> Ints:
    """Return `mask_elements` of many layers at once."""
    tiles = -(-n // size)
    window = np.minimum(WINDOW, size)
    tail = np.minimum(window, n - (tiles - 1) * size)
    return np.where(n > size, window * (tiles - 2) + tail, 0)

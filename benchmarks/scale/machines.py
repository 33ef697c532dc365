"""Machines of the step-time model: stated numbers, and where they are from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs in nodes, and a network between the nodes.

    Attributes:
        name: what it is called in tables.
        per_node: GPUs of a node.
        network: bytes a second that a node sends, and receives, at line rate.
        reached: share of the line rate that a collective of large messages reaches.
        near: seconds from one rank to the next within a node, in a ring.
        far: seconds from one node to the next, in a ring.
        start: seconds that starting a collective takes.
        memory: bytes a second of a GPU's memory.
        memory_reached: share of them that kernels without reuse reach.
        contention: share of its speed that a GPU's other work loses while a collective runs.
    """

    name: str
    per_node: int
    network: float
    memory: float
    reached: float = 0.8
    near: float = 3.4e-6
    far: float = 9.6e-6
    start: float = 8.4e-6
    memory_reached: float = 0.8
    contention: float = 0.25


GBIT = 1e9 / 8
#: Latencies are those that NCCL's own tuner has for rings of large messages (src/graph/tuning.cc
#: of 2.12: base 8.4, NVLink 3.4 and network 9.6 microseconds).
V100 = Machine("V100, 100 Gbit/s a node of 8", 8, 100 * GBIT, 900e9)
V100_FASTER = Machine("V100, 200 Gbit/s a node of 8", 8, 200 * GBIT, 900e9)
V100_FASTEST = Machine("V100, 400 Gbit/s a node of 8", 8, 400 * GBIT, 900e9)
H100 = Machine("H100, 400 Gbit/s a GPU", 8, 8 * 400 * GBIT, 3.35e12)
H100_SLOW = Machine("H100, 100 Gbit/s a node of 8", 8, 100 * GBIT, 3.35e12)
#: BF16, without sparsity (NVIDIA's data sheet); Llama 3 was trained at 38 to 43% of it (Grattafiori
#: et al., 2024, Table 4).
H100_FLOPS, H100_REACHED = 989e12, 0.40

"""The methods that npas is compared with, each written from its paper, a file each."""

from benchmarks.peers import albert, hypernetwork, lcnn, low_rank, naive, reduced, soft_sharing
from benchmarks.peers.base import Built, Network, Peer, PeerError, TooSmall
from npas.naming import nearest

__all__ = ["PEERS", "Built", "Network", "Peer", "PeerError", "TooSmall", "peer"]

#: name -> peer.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        hypernetwork.PEER,
        soft_sharing.PEER,
        lcnn.PEER,
        albert.PEER,
        reduced.WIDTH,
        reduced.DEPTH,
        naive.PEER,
        low_rank.PEER,
    )
}


def peer(name: str) -> Peer:
    """Return a peer by name.

    Raises:
        KeyError: with the nearest name, if there is none.
    """
    if name not in PEERS:
        raise KeyError(f"no peer {name!r}{nearest(name, PEERS)}; there are {', '.join(PEERS)}")
    return PEERS[name]

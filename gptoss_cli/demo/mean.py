"""Writes the mean of trained states: `python -m gptoss_cli.demo.mean OUT STATE STATE...`, each of them also a file
that ships. Trainings that began from the same weights are wrong about different questions; their mean is so less often.
"""

import argparse
from pathlib import Path

import torch

from gptoss_cli.demo.network import Network
from gptoss_cli.demo.train import resumed, save, saved_state


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("states", type=Path, nargs="+")
    parser.add_argument("--shares", type=float, nargs="+", help="how much each counts; without it all count alike")
    arguments = parser.parse_args()
    shares = arguments.shares or [1.0] * len(arguments.states)
    if len(shares) != len(arguments.states):
        parser.error("there should be as many shares as states")
    save(arguments.out, *mean(dict(zip(arguments.states, shares, strict=True))))


@torch.no_grad()
def mean(shares: dict[Path, float]) -> tuple[Network, list[int]]:
    """The mean of the states in the keys, which count by the values, and its ids: all that any of them has."""
    said, read = set[int](), set[int]()
    for file in shares:
        saved = saved_state(file)
        rows = len(saved["state"]["unembedding"])
        said |= {*saved["ids"][:rows]}
        read |= {*saved["ids"][rows:]}
    wanted = [*sorted(said), *sorted(read - said)]
    made, ids = resumed(next(iter(shares)), wanted, len(said))
    for value in made.state_dict().values():
        value.zero_()
    for file, share in shares.items():
        network, ids = resumed(file, wanted, len(said))
        for name, value in network.state_dict().items():
            made.state_dict()[name].add_(value, alpha=share / sum(shares.values()))
    made.hold_copy_lane()
    return made, ids


if __name__ == "__main__":
    main()

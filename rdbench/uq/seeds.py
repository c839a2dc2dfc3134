"""Seeds for the members and samples of a method."""

from __future__ import annotations

import numpy as np


def derive_seed(seed: int, index: int) -> int:
    """A 63-bit seed for member or sample `index` of the run `seed`.

    Hashed, not added: seed 0's member 1 must not be seed 1's member 0, or runs with different seeds would share members
    and look more alike than they are.
    """
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def member_seeds(seed: int, members: int) -> list[int]:
    """One seed per ensemble member; the first is `seed` itself, so member 0 is the `deterministic` student."""
    return [seed, *(derive_seed(seed, index) for index in range(1, members))]

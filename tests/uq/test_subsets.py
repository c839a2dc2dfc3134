"""A subset is a view: the chosen images in the chosen order, with the features that were kept."""

import torch

from rdbench.protocol import Batch
from rdbench.uq.subsets import Subset


class Numbers:
    """Ten images whose value is their index."""

    def __len__(self):
        return 10

    def batch(self, indices):
        values = torch.as_tensor(indices).float().view(-1, 1, 1, 1)
        return Batch(values, lambda: (values,))


def values(batch):
    return batch.features[0].flatten().tolist()


def test_subset_gives_the_chosen_images_in_order():
    subset = Subset(Numbers(), [7, 2, 2, 9])
    assert len(subset) == 4
    assert values(subset.batch([3, 0])) == [9, 7]
    assert [values(batch) for batch in subset.batches(3)] == [[7, 2, 2], [9]]


def test_subset_of_a_subset():
    assert values(Subset(Subset(Numbers(), [7, 2, 9]), torch.tensor([2, 1])).batch([0, 1])) == [9, 2]

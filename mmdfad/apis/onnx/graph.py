"""What the exported graph computes: pixels, logits, predictions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmdfad.models.logits import LogitModel
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils.config import innermost_dataset

# Classes whose labels fit into uint8.
_UINT8_CLASSES = 256


class Preprocessing(nn.Module):
    """Images as loaded from files to a model's normalised pixels.

    Args:
        space (PixelSpace): The model's pixel space.
        order (str): The order of the model's channels, from :func:`channel_order`.
    """

    def __init__(self, space: PixelSpace, order: str) -> None:
        super().__init__()
        self.flips = order == 'bgr'
        self.register_buffer('mean', space.mean.float().view(-1, 1, 1))
        self.register_buffer('std', space.std.float().view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images [N, C, H, W], three channels in the order RGB, to normalised pixels in fp32."""
        images = images.float()
        if self.flips:
            images = images.flip(1)
        return (images - self.mean) / self.std


class Graph(nn.Module):
    """Images to logits, with or without the steps before and after.

    Args:
        logits (LogitModel): The model.
        preprocessing (nn.Module, optional): From images to normalised pixels, if the graph has this step.
        postprocessing (bool): Whether the graph also gives predictions.
    """

    def __init__(self, logits: LogitModel, preprocessing: nn.Module | None, postprocessing: bool) -> None:
        super().__init__()
        self.preprocessing = preprocessing or nn.Identity()
        self.logits = logits
        self.postprocessing = postprocessing
        self.eval()

    @property
    def outputs(self) -> list[str]:
        """list[str]: Names of the outputs. The logits come first."""
        return ['logits', *(self._predictions if self.postprocessing else ())]

    @property
    def _predictions(self) -> tuple[str, ...]:
        if self.logits.ndim == 4:
            return ('label_map',)
        return ('scores',) if self.logits.multi_label else ('scores', 'label')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [N, C, H, W] to the outputs.

        Returns:
            tuple[Tensor, ...]: Logits [N, K] or [N, K, H, W] in fp32. After them come the predictions. A classifier
            has scores [N, K], a softmax or, with several labels for an image, sigmoids. With one label for an image it
            also has the label [N], int64. A segmentor has label maps [N, H, W], uint8 or, with more than 256 classes,
            int64.
        """
        logits = self.logits(self.preprocessing(images))
        if not self.postprocessing:
            return (logits,)
        if self.logits.multi_label:
            return logits, logits.sigmoid()
        labels = logits.argmax(1)
        if logits.ndim == 2:
            return logits, logits.softmax(1), labels
        return logits, labels.to(torch.uint8) if logits.shape[1] <= _UINT8_CLASSES else labels


def channel_order(plain: Config, space: PixelSpace, channels: int) -> str:
    """The order of the channels that a model takes.

    Args:
        plain (Config): The model's plain config.
        space (PixelSpace): Its pixel space.
        channels (int): Channels of its images.

    Returns:
        str: ``'gray'`` with one channel, ``'rgb'`` or ``'bgr'`` with three. ``'loaded'`` with other numbers: they stay
        in the order in which they are loaded.
    """
    if channels != 3:
        return 'gray' if channels == 1 else 'loaded'
    return 'rgb' if space.flips == _loads_files(plain) else 'bgr'


def _loads_files(plain: Config) -> bool:
    """Whether the images come from files, which OpenMMLab loads as BGR. Arrays, such as CIFAR's, are RGB."""
    outer = (plain.get('test_dataloader') or {}).get('dataset') or {}
    pipeline = outer.get('pipeline') or innermost_dataset(outer).get('pipeline')
    return pipeline is None or any('Load' in str(step.get('type')) for step in pipeline)


@contextmanager
def for_any_batch(model: nn.Module) -> Iterator[None]:
    """Replace code that computes the batch size as a Python number, which a graph would keep as a constant.

    These are the shifted windows of Swin, in mmpretrain and in mmseg.

    Args:
        model (nn.Module): The model.
    """
    windowed = [module for module in model.modules() if hasattr(type(module), 'window_reverse')]
    for module in windowed:
        # A method of three arguments in mmseg, a function of four in mmpretrain.
        module.window_reverse = lambda windows, height, width, size=module.window_size: _join(
            windows, height, width, size
        )
    try:
        yield
    finally:
        for module in windowed:
            del module.window_reverse


def _join(windows: Tensor, height: int, width: int, size: int) -> Tensor:
    """Windows [N * windows, size, size, C] to images [N, H, W, C]."""
    rows, columns = height // size, width // size
    images = windows.view(-1, rows, columns, size, size, windows.shape[-1])
    return images.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])

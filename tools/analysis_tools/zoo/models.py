"""Models for a round: one of another package, and a small partner for it."""

import math
from collections.abc import Iterator

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor

from mmdfad.apis.shrink import with_settings
from mmdfad.models.build import build_network, plain_config
from mmdfad.models.network import Network
from mmdfad.models.pixels import image_channels
from mmdfad.utils import DistillError

# Image sizes to try, from the smallest, up to _ENOUGH or the largest size in the model's own config.
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)
_ENOUGH = 320
_SIZE_KEYS = ('img_size', 'pretrain_img_size', 'image_size', 'input_size', 'crop_size', 'size')


class Refused(Exception):
    """mmdfad refuses the model for a reason that lies in the model."""


def load(cfg: dict, role: str) -> Network:
    """Build a model of another package with random weights.

    Args:
        cfg (dict): ``cfg_path`` and ``cfg_options``.
        role (str): ``'teacher'`` or ``'student'``.

    Raises:
        Refused: If mmdfad refuses it, or if a package is missing.
        Exception: If the model's own code fails.
    """
    try:
        return revert_sync_batchnorm(build_network(cfg, role)).eval()
    except DistillError as error:
        if _is_refusal(error):
            raise Refused(str(error).replace(f'model.{role}', 'model')) from error
        raise


def _is_refusal(error: BaseException | None) -> bool:
    """Whether mmdfad itself or a missing package is the first cause."""
    while isinstance(error, DistillError):
        error = error.__cause__
    return error is None or isinstance(error, ImportError)


def smallest_images(network: Network) -> tuple[tuple[int, int], int, int]:
    """Find the smallest images that a model takes.

    A student has to take them in train mode, too.

    Args:
        network (Network): The model.

    Returns:
        tuple[tuple[int, int], int, int]: Height and width, channels, and the number of classes.

    Raises:
        ValueError: If it takes none of the sizes.
    """
    channels = image_channels(network.model)
    own = set(_sizes_in(network.cfg.model))
    largest = max(math.prod(size) for size in {*own, (_ENOUGH, _ENOUGH)})
    errors = []
    for size in sorted(own | {(s, s) for s in SIZES if s * s <= largest}, key=math.prod):
        try:
            return size, channels, _count_classes(network, torch.randn(2, channels, *size))
        except DistillError:  # the outputs are not logits, whatever the size
            raise
        except Exception as error:  # each model has its own way to refuse a size
            errors.append(f'{size[0]}x{size[1]}: {type(error).__name__}: {error}')
    raise ValueError(f'takes no image size; {errors[0]}; {errors[-1]}')


def _count_classes(network: Network, images: Tensor) -> int:
    with torch.no_grad():
        classes = network.logits.eval()(images).shape[1]
        if network.role == 'student':
            network.logits.train()(images)
    return classes


def _sizes_in(cfg: dict) -> Iterator[tuple[int, int]]:
    """All image sizes in a model's config."""
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from _sizes_in(value)
        elif key in _SIZE_KEYS and value:
            size = (value, value) if isinstance(value, int) else tuple(value)
            if len(size) == 2:
                yield size


def fewer_layers(config: str) -> dict[str, object]:
    """Options that leave a backbone two layers, or one for each of its outputs, or one in each stage.

    Args:
        config (str): The model's config.

    Raises:
        Refused: If the settings in the config do not tell the number of layers.
    """
    plain = plain_config(dict(cfg_path=config), 'teacher')
    backbone = plain.model.get('backbone', {})
    with MODELS.switch_scope_and_registry(plain.default_scope) as registry:
        arch = with_settings(backbone, registry).get('arch', backbone)
    if 'depths' in arch:
        fewer, outputs = dict(depths=[1] * len(arch['depths'])), None
    elif 'num_layers' in arch:
        outputs = backbone.get('out_indices')
        outputs = list(range(len(outputs))) if isinstance(outputs, list | tuple) else None
        fewer = dict(num_layers=max(2, len(outputs or ())))
    else:
        raise Refused('its config does not tell how to leave out layers')
    changes = fewer if arch is backbone else dict(arch=dict(arch, _delete_=True, **fewer))
    if outputs:
        changes['out_indices'] = outputs
    return {f'model.backbone.{key}': value for key, value in changes.items()}


def small_partner(network: Network, channels: int, classes: int) -> dict:
    """The config of a small model of the same kind.

    It has 16 channels or more: with 4, 8 or 12 channels, the backward pass of strided 1x1 convolutions in channels_last
    corrupts memory in torch 2.14.1 on CPUs with AVX-512.

    Args:
        network (Network): The model that it is a partner for.
        channels (int): Channels of the images.
        classes (int): Number of classes.
    """
    widths = dict(depth=18, in_channels=channels, base_channels=16, stem_channels=16)
    pixels = dict(mean=[127.5] * channels, std=[127.5] * channels)
    if network.logits.ndim == 2:
        head = 'MultiLabelLinearClsHead' if network.logits.multi_label else 'LinearClsHead'
        return dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='ResNet_CIFAR', **widths),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type=head, in_channels=128, num_classes=classes),
            data_preprocessor=pixels,
        )
    norm = dict(type='BN')
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='ResNetV1c', norm_cfg=norm, **widths),
        decode_head=dict(type='FCNHead', in_channels=128, channels=8, num_convs=1, num_classes=classes, norm_cfg=norm),
        data_preprocessor=dict(type='SegDataPreProcessor', **pixels),
        test_cfg=dict(mode='whole'),
    )

"""The image size that a model was made for, read from its config."""

from collections.abc import Iterator

from mmengine.config import Config

from mmdfad.models.network import Network
from mmdfad.utils import DistillError, as_pair
from mmdfad.utils.config import innermost_dataset

# A generator gains little from the sizes that segmentors are tested at, and its costs grow with the area.
LARGEST_SEGMENTATION = 256
# Most backbones reduce images by this factor.
_STRIDE = 16
# Transforms of mmcv with (width, height). Those of mmpretrain and mmseg have (height, width).
_WIDTH_FIRST = ('Resize', 'RandomResize', 'CenterCrop')
Size = tuple[int, int]


def training_size(teacher: Network) -> tuple[Size, str] | None:
    """The size of generated images for a teacher.

    Args:
        teacher (Network): The teacher.

    Returns:
        tuple[Size, str] | None: Height and width in pixels, and the reason. Sizes of segmentors are halved until they
        are small enough to generate. None if the config does not give the size.
    """
    found = config_size(teacher)
    if found is None or teacher.logits.ndim == 2:
        return found
    size, reason = found
    halved = size
    while max(halved) > LARGEST_SEGMENTATION:
        halved = tuple(side // 2 for side in halved)
    if halved == size:
        return found
    reason += f', halved to at most {LARGEST_SEGMENTATION} pixels and rounded to a multiple of {_STRIDE}'
    return tuple(max(_STRIDE, round(side / _STRIDE) * _STRIDE) for side in halved), reason


def config_size(network: Network) -> tuple[Size, str] | None:
    """The size of images in a network's own config.

    Args:
        network (Network): The teacher or the student.

    Returns:
        tuple[Size, str] | None: Height and width in pixels, and where they are written. None if they are not.
    """
    sizes = _segmentor_sizes(network.cfg) if network.logits.ndim == 4 else ()
    for value, place in (*sizes, *_pipeline_sizes(network.cfg), *_backbone_sizes(network.cfg)):
        size = _as_size(value)
        if size is not None:
            return size, place.format(f"the {network.role}'s")
    return None


def _segmentor_sizes(plain: Config) -> Iterator[tuple[object, str]]:
    yield (plain.model.get('data_preprocessor') or {}).get('size'), '{} data_preprocessor.size'
    yield (plain.model.get('test_cfg') or {}).get('crop_size'), '{} test_cfg.crop_size'


def _pipeline_sizes(plain: Config) -> Iterator[tuple[object, str]]:
    """The sizes of transforms, from the last one on."""
    for name in ('test', 'val', 'train'):
        outer = (plain.get(f'{name}_dataloader') or {}).get('dataset') or {}
        for step in reversed(outer.get('pipeline') or innermost_dataset(outer).get('pipeline') or []):
            kind = str(step.get('type')).rpartition('.')[2]
            if not kind.endswith(('Crop', 'Resize', 'ResizeEdge')):
                continue
            size = _as_size(step.get('crop_size', step.get('scale')))
            if size is not None:
                yield size[::-1] if kind in _WIDTH_FIRST else size, f'{step["type"]} in {{}} {name}_dataloader'


def _backbone_sizes(plain: Config) -> Iterator[tuple[object, str]]:
    yield (plain.model.get('backbone') or {}).get('img_size'), 'img_size of {} backbone'


def _as_size(value: object) -> Size | None:
    """Height and width, or None: some transforms take ratios or leave a side open."""
    try:
        return as_pair(value, 'size')
    except DistillError:
        return None

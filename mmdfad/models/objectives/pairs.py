"""Which stages of teacher and student belong together, and how their features are compared."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmdfad.models.logits.base import head_of
from mmdfad.models.network import Network, last_tensor
from mmdfad.models.pixels import resize_images
from mmdfad.models.step import Tap
from mmdfad.utils import DistillError
from mmdfad.utils.model import classifier_of, evaluating

_NUMBERED = re.compile(r'^(.*?)\d+$')
# `layer1`, `layers.0`, `stages.0`, `blocks.0`, `denseblock1`, ...
_STAGE_LIKE = re.compile(r'(?:layer|stage|block)[a-z_]*\.?$')
_CLASSIFIER = re.compile(r'\b(?:classifier|head|fc)\b')
# More stages than these at one resolution, as the blocks of a plain ViT, are thinned out.
MOST_AT_A_STRIDE = 4


class Stage(NamedTuple):
    """A stage of a network, and how it looks in one forward pass.

    Attributes:
        name (str): The module.
        tap (Tap): Where its features are recorded: what the next stage gets, or its output.
        shape (torch.Size): Of the features of two images, as the module has them.
        axis (int): Their channel axis.
        stride (int): Pixels of the image along each side of a position, as a power of two.
        next_takes (bool): Whether they are the input of the next stage, as one tensor, and can be replaced there.
    """

    name: str
    tap: Tap
    shape: torch.Size
    axis: int
    stride: int
    next_takes: bool


def find_stages(network: Network) -> list[str]:
    """Names of the modules that are a network's stages, by one rule for all families.

    They are the numbered parts, such as ``layer1`` to ``layer4`` or ``stages.0`` to ``stages.3``, that hold most of the
    parameters of the backbone, or of the model if it has no backbone. Of a plain ViT they are its blocks.
    """
    prefix = 'backbone.' if hasattr(network.model, 'backbone') else ''
    groups: dict[str, list[str]] = defaultdict(list)
    for name, _ in network.model.named_modules():
        number = _NUMBERED.match(name)
        if number and name.startswith(prefix) and not _CLASSIFIER.search(name):
            groups[number[1]].append(name)

    def size(group: tuple[str, list[str]]) -> int:
        key, names = group
        parameters = sum(p.numel() for name in names for p in network.model.get_submodule(name).parameters())
        return parameters * (2 if _STAGE_LIKE.search(key) else 1)

    # The outermost is the first of equals.
    return max((group for group in groups.items() if len(group[1]) > 1), key=size, default=('', []))[1]


def find_pairs(
    teacher: Network, student: Network, names: Mapping[str, Sequence[str] | None]
) -> list[tuple[Stage, Stage]]:
    """Find the stages of two networks, and pair them.

    Args:
        teacher (Network): The teacher.
        student (Network): The student.
        names (Mapping[str, Sequence[str] | None]): Modules that the user takes as stages, by role.

    Raises:
        DistillError: If a module is not there or is not called, or no stages belong together.
    """
    networks = teacher, student
    found = [find_stages(network) for network in networks]
    # In unlike networks, what lies between two stages (as Swin's patch merging) may belong to either.
    followed = found[0][:1] == found[1][:1]
    named = any(names.values())
    sides = [
        _measure(network, stages, names[network.role], followed)
        for network, stages in zip(networks, found, strict=True)
    ]
    pairs = pair_stages(*sides, named)
    if not named and type(head_of(teacher.model)) is type(head_of(student.model)):
        heads = tuple(map(_head_stage, networks))
        pairs += [heads] if None not in heads else []
    return pairs


def _measure(network: Network, found: list[str], names: Sequence[str] | None, followed: bool) -> list[Stage]:
    """Run a network once, and look at the stages that its forward pass calls: those with names, or else all found."""
    network.install([Tap(network.role, name) for name in names or ()])  # an error if there is no such module
    following = {name: _end(network, after, 0) for name, after in pairwise(found)} if followed else {}
    ends = {name: _end(network, name, -1) for name in names or found}
    seen = _observe(network, {*ends.values(), *following.values()})
    taps = {name: _tap(network, end, following.get(name), seen) for name, end in ends.items()}
    uncalled = [name for name, tap in taps.items() if tap not in seen]
    if names and uncalled:
        raise DistillError(
            f'{network.role}_stages of StageImitation has {uncalled[0]}, but the forward pass of model.{network.role} '
            'does not call that module; name another'
        )
    return [_measured(network, name, tap, seen[tap]) for name, tap in taps.items() if tap in seen]


def _head_stage(network: Network) -> Stage | None:
    """What the classifier of an mmseg head gets, before dropout. None if it has no such classifier."""
    modules = dict(network.model.named_modules())
    if not any(name.rpartition('.')[2] == 'conv_seg' for name in modules):
        return None
    classifier = classifier_of(network.model)
    dropout = classifier.removesuffix('conv_seg') + 'dropout'
    tap = Tap(network.role, dropout if dropout in modules else classifier, 'input')
    seen = _observe(network, {tap.module})
    return _measured(network, classifier, tap, seen[tap])._replace(next_takes=False) if tap in seen else None


def pair_stages(teacher: list[Stage], student: list[Stage], named: bool) -> list[tuple[Stage, Stage]]:
    """Pair the stages of two networks.

    Those that were named are paired in their order, and those that are called alike by their names. Others are paired
    by stride, but for the last of both, which belong together whatever their strides. Of more than four at one stride,
    evenly spaced ones are kept.

    Args:
        teacher (list[Stage]): The teacher's stages, in the order of the forward pass.
        student (list[Stage]): The student's.
        named (bool): Whether the user named them.

    Raises:
        DistillError: If they do not match.
    """
    alike = [stage.name for stage in teacher] == [stage.name for stage in student]
    if named or alike:
        pairs = [*zip(teacher, student, strict=False)] if len(teacher) == len(student) else []
    else:
        pairs = _pairs_by_stride(teacher, student)
    if not pairs:
        sides = (', '.join(f'{s.name} (stride {s.stride})' for s in side) or 'none' for side in (teacher, student))
        raise DistillError(
            'StageImitation found no matching stages. The teacher has {}; the student has {}. Set its teacher_stages '
            'and student_stages to lists of the same length'.format(*sides)
        )
    if named or not alike:
        return pairs
    groups = [[pair for pair in pairs if pair[0].stride == stride] for stride in _strides(teacher)]
    return [pair for group in groups for pair, _ in _spread(group, group)]


def _pairs_by_stride(teacher: list[Stage], student: list[Stage]) -> list[tuple[Stage, Stage]]:
    last = []
    if teacher and student and teacher[-1].stride != student[-1].stride:
        last = [(teacher[-1], student[-1])]
        teacher, student = teacher[:-1], student[:-1]
    groups = [[[s for s in side if s.stride == n] for side in (teacher, student)] for n in _strides(teacher)]
    return [pair for group in groups for pair in _spread(*group)] + last


def _strides(stages: list[Stage]) -> list[int]:
    return sorted({stage.stride for stage in stages})


def _spread(ones: list, others: list) -> list[tuple]:
    """Pair two lists of stages: at most four of the shorter one, each with the one at the same share of the longer."""
    shorter, longer = sorted((ones, others), key=len)
    count = min(MOST_AT_A_STRIDE, len(shorter))
    kept = [-(-(i + 1) * len(shorter) // count) - 1 for i in range(count)]
    pairs = [(shorter[i], longer[round((i + 1) * len(longer) / len(shorter)) - 1]) for i in kept]
    return pairs if shorter is ones else [(one, other) for other, one in pairs]


def _end(network: Network, name: str, end: int) -> str:
    """A module, or the first (0) or last (-1) one in it that is called, if it is a list of modules."""
    module = network.model.get_submodule(name)
    while isinstance(module, nn.ModuleList) and len(module):
        name = f'{name}.{range(len(module))[end]}'
        module = module[end]
    return name


def _observe(network: Network, names: set[str]) -> dict[Tap, Any]:
    """Inputs and outputs of the first calls of modules in a forward pass of two grey images in eval mode."""
    seen: dict[Tap, Any] = {}

    def look(module: nn.Module, inputs: tuple, output: Any, name: str) -> None:
        seen.setdefault(Tap(network.role, name, 'input'), inputs[0] if inputs else None)
        seen.setdefault(Tap(network.role, name), output)

    handles = [network.model.get_submodule(n).register_forward_hook(partial(look, name=n)) for n in names]
    device = next(network.model.parameters()).device
    try:
        with torch.no_grad(), evaluating(network):
            network.predict(torch.zeros(2, *network.image_shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return {tap: value for tap, value in seen.items() if last_tensor(value) is not None}


def _tap(network: Network, end: str, after: str | None, seen: dict[Tap, Any]) -> Tap:
    following = Tap(network.role, after or '', 'input')
    return following if isinstance(seen.get(following), Tensor) else Tap(network.role, end)


def _measured(network: Network, name: str, tap: Tap, value: Any) -> Stage:
    shape = last_tensor(value).shape
    height, width = network.image_size or network.image_shape[1:]
    axis = channel_axis(shape, height, width)
    positions = math.prod(shape[1:]) // shape[axis]
    # Class tokens, and sizes that do not divide, are rounded away.
    stride = 2 ** max(0, round(math.log2(height * width / positions) / 2))
    return Stage(name, tap, shape, axis, stride, tap.side == 'input')


def channel_axis(shape: Sequence[int], height: int, width: int) -> int:
    """1 of [N, C], 2 of tokens [N, L, C]; 1 of [N, C, H, W] or 3 of [N, H, W, C], by the format of the image."""
    if len(shape) != 4:
        return len(shape) - 1
    last, first = (abs(math.log(shape[i] * width / (shape[i + 1] * height))) for i in (1, 2))
    return 3 if last < first else 1


def aligned(teacher: Tensor, student: Tensor, sizes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Features of teacher and student at the same positions.

    The teacher's are resized, so that the student imitates what its own resolution can show. Tokens then become maps,
    without class tokens.

    Args:
        teacher (Tensor): Features with channels first: [N, C], [N, C, L] or [N, C, H, W].
        student (Tensor): Likewise.
        sizes (Sequence[Sequence[int]]): Height and width of the images that each of them sees.

    Returns:
        tuple[Tensor, Tensor]: Both [N, C, P], with P positions.
    """
    if teacher.shape[2:] != student.shape[2:]:
        teacher, student = (_as_map(x, size) for x, size in zip((teacher, student), sizes, strict=True))
        teacher = resize_images(teacher, student.shape[2:])
    teacher, student = (x[..., None] if x.ndim == 2 else x.flatten(2) for x in (teacher, student))
    return teacher, student


def _as_map(features: Tensor, size: Sequence[int]) -> Tensor:
    if features.ndim != 3:
        return features[(...,) + (None,) * (4 - features.ndim)]
    rows = max(1, math.isqrt(features.shape[2] * size[0] // size[1]))
    columns = max(1, min(rows * size[1] // size[0], features.shape[2] // rows))
    return features[:, :, features.shape[2] - rows * columns :].unflatten(2, (rows, columns))

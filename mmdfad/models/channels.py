"""Which part of a teacher each part of a narrower or shallower student is: names, channels, heads and blocks."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmdfad.utils.state_dict import fits, select_weights, spaced

# Layers that give queries, keys and values, alone or together, and those that take the joined heads. The first pattern
# also fits parameters that an attention holds by itself.
_TO_HEADS = re.compile(r'^(?:to_)?(qkv|kv|qk|q|k|v|query|key|value|in)(?:_proj|_bias)?(?:_weight|_bias)?$')
_FROM_HEADS = re.compile(r'^(?:proj|out_proj|to_out|o_proj)$')
_PARTS = dict(qkv=3, kv=2, qk=2)
_PARTS['in'] = 3  # torch's in_proj_weight
_CONVS = nn.Conv1d | nn.Conv2d


class Blocks(NamedTuple):
    """The teacher's blocks that one block of a student stands for.

    Attributes:
        first (str): Name of the first one.
        last (str): Name of the last one. It is the first one again if there are as many blocks in both.
    """

    first: str
    last: str


class ChannelMap:
    """Tells which modules and channels of a teacher are those of a student.

    Modules have the same names in both. Where a list of blocks is shorter in the student, block j of l stands for the
    teacher's blocks ``round(j * L / l)`` to ``round((j + 1) * L / l) - 1`` and takes its weights from the first of
    them. Blocks that alternate, as those of Swin with plain and shifted windows, are mapped in pairs.

    Channels are evenly spaced. Those of attentions and of grouped convolutions are whole heads and groups.

    Args:
        teacher (nn.Module): The plain teacher.
        student (nn.Module): The plain student.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = teacher
        self.student = student
        self._ranges = cache(_ranges)

    def teacher_name(self, name: str) -> str:
        """The teacher's name of a module or parameter of the student."""
        return self._translate(name)[0]

    def blocks(self, name: str) -> Blocks:
        """The teacher's blocks for the student's block of that name: an element of a list of modules."""
        parent, _, number = name.rpartition('.')
        theirs = self.teacher_name(parent)
        ranges = self._ranges(_child(self.teacher, theirs), _child(self.student, parent))
        first, last = ranges[int(number)] if number.isdigit() and ranges else (number, number)
        return Blocks(f'{theirs}.{first}', f'{theirs}.{last}')

    def outputs(self, layer: str, total: int, kept: int) -> Tensor:
        """The teacher's channels [kept], out of ``total``, that the outputs of a layer of the student are."""
        return self._index(f'{layer}.weight', 0, total, kept)

    def gain(self, layer: str, total: int, kept: int) -> Tensor | None:
        """Factors [kept] for the teacher's channels: queries make up for heads of fewer channels, else None.

        The product of a query and a key is a sum over the channels of a head, which attention divides by the square
        root of their number. A sum over a part of them is that much smaller.
        """
        heads, parts = self._heads(layer.rpartition('.')[0]), _parts_of(layer.rpartition('.')[2])
        if heads is None or parts is None or not layer.rpartition('.')[2].removeprefix('to_').startswith('q'):
            return None
        ratio = (total / heads[0]) / (kept / heads[1])
        if ratio == 1:
            return None
        gain = torch.ones(kept)
        gain[: kept // parts] = ratio**0.5
        return gain

    def select(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select weights for the student.

        Args:
            student (Mapping[str, Tensor]): Its plain state dict.
            teacher (Mapping[str, Tensor]): The teacher's.

        Returns:
            dict[str, Tensor]: Weights for each name that the teacher has with as many dimensions, at least as large.
        """
        return select_weights(student, teacher, self.teacher_name, self._index)

    def missing(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> list[str]:
        """Names of the student's parameters without a counterpart of at least their size in the teacher.

        Args:
            student (Mapping[str, Tensor]): Its plain state dict, with parameters as such (``keep_vars``).
            teacher (Mapping[str, Tensor]): The teacher's.
        """
        parameters = {name: value for name, value in student.items() if isinstance(value, nn.Parameter)}
        return sorted(
            name for name, value in parameters.items() if not fits(value, teacher.get(self.teacher_name(name)))
        )

    def _translate(self, name: str) -> tuple[str, nn.Module | None]:
        own, other, parts = self.student, self.teacher, []
        for part in name.split('.') if name else ():
            ranges = self._ranges(other, own) if part.isdigit() else None
            parts.append(str(ranges[int(part)][0]) if ranges and int(part) < len(ranges) else part)
            own, other = _child(own, part), _child(other, parts[-1])
        return '.'.join(parts), other

    def _index(self, parameter: str, dim: int, total: int, kept: int) -> Tensor:
        """The teacher's indices of one dimension of a parameter."""
        owner, _, own_name = parameter.rpartition('.')
        parent, _, layer = owner.rpartition('.')
        heads, own_heads = self._heads(parent), self._heads(owner)
        if heads and dim == 0 and _parts_of(layer):
            return _blocked(_parts_of(layer), heads, total, kept)
        if heads and dim == 1 and _FROM_HEADS.match(layer):
            return _blocked(1, heads, total, kept)
        if own_heads and dim == 0 and _parts_of(own_name):
            return _blocked(_parts_of(own_name), own_heads, total, kept)
        groups = self._groups(owner, dim, total, kept) if dim < 2 else None
        return _blocked(1, groups, total, kept) if groups else spaced(total, kept)

    def _heads(self, attention: str) -> tuple[int, int] | None:
        """Numbers of heads of the teacher's and the student's attention of that name, if it is one."""
        theirs, own = _child(self.teacher, self.teacher_name(attention)), _child(self.student, attention)
        heads = tuple(
            next((n for n in (getattr(m, key, None) for key in ('num_heads', 'num_attention_heads')) if n), None)
            for m in (theirs, own)
        )
        return heads if all(isinstance(n, int) for n in heads) else None

    def _groups(self, layer: str, dim: int, total: int, kept: int) -> tuple[int, int] | None:
        """Groups in both models of a grouped convolution, if a dimension of a layer has its channels."""
        # So have its own outputs, those of the convolution before it, the norms after both, and inputs of the next one.
        parent, _, name = layer.rpartition('.')
        theirs, own = _child(self.teacher, self.teacher_name(parent)), _child(self.student, parent)
        names = [n for n, _ in own.named_children()] if own is not None else []
        convs = [n for n in names if isinstance(_child(own, n), _CONVS)]
        # The number of the layer itself among the convolutions, or of the one before a norm.
        number = sum(n in convs for n in names[: names.index(name) + 1]) - 1 if name in names else -1
        if number < 0:
            return None
        sides = {number - 1: 'out_channels'} if dim else {number: 'out_channels', number + 1: 'in_channels'}
        for i, side in sides.items():
            pair = [_child(m, convs[i]) for m in (theirs, own) if 0 <= i < len(convs)]
            if pair and all(map(_is_grouped, pair)) and [getattr(m, side) for m in pair] == [total, kept]:
                return pair[0].groups, pair[1].groups
        return None


def _is_grouped(module: nn.Module | None) -> bool:
    """Whether it is a convolution in groups of several channels."""
    return isinstance(module, _CONVS) and 1 < module.groups < module.in_channels


def _parts_of(name: str) -> int | None:
    """How many of queries, keys and values a layer or parameter of an attention gives together; None if it does not."""
    match = _TO_HEADS.match(name)
    return _PARTS.get(match[1], 1) if match else None


def _blocked(parts: int, heads: tuple[int, int], total: int, kept: int) -> Tensor:
    """Indices of evenly spaced channels in evenly spaced heads, for each of several parts."""
    theirs, own = heads
    size, own_size = total // (parts * theirs), kept // (parts * own)
    # Heads that are fewer but larger are not some of the teacher's.
    if total % (parts * theirs) or kept % (parts * own) or own > theirs or own_size > size:
        return spaced(total, kept)
    channels = spaced(size, own_size)
    starts = torch.arange(parts)[:, None] * theirs + spaced(theirs, own)
    return (starts.flatten()[:, None] * size + channels).flatten()


def _ranges(teacher: nn.Module | None, student: nn.Module | None) -> list[tuple[int, int]] | None:
    """First and last block of the teacher for each block of a shorter list; None if the lists are not such."""
    if not all(isinstance(m, nn.Sequential | nn.ModuleList) for m in (teacher, student)) or not len(student):
        return None
    if len(student) >= len(teacher):
        return [(j, j) for j in range(len(student))]
    period = 1 if len(teacher) % 2 or len(student) % 2 else _period(teacher)
    many, few = len(teacher) // period, len(student) // period
    bounds = [round(j * many / few) for j in range(few + 1)]
    found = []
    for first, end in pairwise(bounds):
        for i in range(period):
            begin = first * period + i
            # The last block of a group makes up for all groups that are left out.
            found.append((begin, end * period - 1 if i == period - 1 else begin))
    return found


def _period(blocks: nn.Sequential | nn.ModuleList) -> int:
    """2 for blocks that alternate between two kinds, else 1."""
    kinds = [_settings(block) for block in blocks]
    alternate = len(kinds) > 1 and kinds[0] != kinds[1] and all(k == kinds[i % 2] for i, k in enumerate(kinds))
    return 2 if alternate else 1


def _settings(block: nn.Module) -> list[tuple[str, str, int]]:
    """The whole numbers that say what a block does, such as the shift of its windows."""
    return [
        (name, key, value)
        for name, module in block.named_modules()
        for key, value in sorted(vars(module).items())
        if isinstance(value, int) and not key.startswith('_') and key != 'training'
    ]


def _child(module: nn.Module | None, name: str) -> nn.Module | None:
    """The module of that name in another one, if there is one."""
    try:
        return None if module is None else module.get_submodule(name)
    except AttributeError:
        return None

"""What all layers that can be solved for share, and the positions of their outputs that are sampled."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .normal_equations import ChannelEquations, NormalEquations, Solution


class Layer:
    """A layer that can be solved for.

    Args:
        name (str): Its name in the student.
        module (nn.Module): The student's module.

    Attributes:
        output (str): Name of the module whose output the solution predicts.
        axis (int): Axis of the channels of this output: 1 or -1.
        shape (tuple[int, ...]): Shape of this output when it was recorded.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = self.output = name
        self.module = module
        self.axis = -1
        self.shape: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """int: Channels of the output."""
        return self.shape[self.axis]

    def equations(self, device: torch.device) -> NormalEquations | ChannelEquations:
        """Empty sums for this layer."""
        raise NotImplementedError

    def samples(self, args: tuple, kwargs: Mapping[str, Any], rows: 'Rows', targets: Tensor) -> Iterator[tuple]:
        """Inputs and targets at sampled positions, in chunks.

        Args:
            args (tuple): What the module is called with.
            kwargs (Mapping[str, Any]): The same by name.
            rows (Rows): The positions.
            targets (Tensor): Wanted outputs [n, C] there.
        """
        raise NotImplementedError

    def store(self, solution: Solution) -> None:
        """Put a solution into the student's parameters."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        """The parameters and statistics that a solution changes."""
        return [*self.module.parameters(recurse=False), *self.module.buffers(recurse=False)]


class Rows:
    """Sampled positions of an output: the same in each image of a feature map, or any of all vectors.

    Args:
        layer (Layer): The layer of the student.
        values (Tensor): The wanted output of a batch, of the same layout as the layer's own.
        axis (int): Axis of its channels.
        share (float): The share of all positions to take.
        generator (torch.Generator): Draws them.
    """

    def __init__(self, layer: Layer, values: Tensor, axis: int, share: float, generator: torch.Generator) -> None:
        self.per_image = is_map(layer)
        self.groups = len(values) if self.per_image else 1
        total = values.numel() // values.shape[axis] // self.groups
        count = max(1, min(total, round(total * share)))
        some = torch.randperm(total, generator=generator)[:count] if count < total else torch.arange(total)
        self.positions = some.to(values.device)

    def of(self, values: Tensor, axis: int) -> Tensor:
        """Vectors [n, C] of a tensor at these positions."""
        if self.per_image and axis == 1 and values.ndim > 2:
            return values.flatten(2)[:, :, self.positions].transpose(1, 2).flatten(0, 1)
        return vectors_of(values, axis).unflatten(0, (self.groups, -1))[:, self.positions].flatten(0, 1)


def is_map(layer: Layer) -> bool:
    """Whether a layer's output is a feature map [N, C, ...]."""
    return layer.axis == 1 and len(layer.shape) > 2


def vectors_of(values: Tensor, axis: int) -> Tensor:
    """All vectors [n, C] of a tensor with its channels in axis 1 or -1, image after image."""
    if axis == 1 and values.ndim > 2:
        values = values.flatten(2).transpose(1, 2)
    return values.reshape(-1, values.shape[-1])

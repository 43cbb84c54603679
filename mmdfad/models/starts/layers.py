"""Layers that least squares can solve for: what enters them at sampled positions, and where the solution goes."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from .normal_equations import ChannelEquations, NormalEquations, Solution
from .sampling import Layer, Rows, vectors_of

# A layer with more unknowns for each output is solved within the span of its selected weights.
MOST_UNKNOWNS = 8192
# Numbers in one chunk of samples.
_CHUNK = 2**24
_SCALES, _OFFSETS = ('weight', 'gamma', 'scale'), ('bias', 'beta')


class DenseLayer(Layer):
    """A convolution or linear layer, with the batch norm directly behind it, if any: one affine map.

    Args:
        name (str): Its name in the student.
        module (nn.Module): An ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d``.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self.is_conv = not isinstance(module, nn.Linear)
        self.axis = 1 if self.is_conv else -1
        self.groups = module.groups if self.is_conv else 1
        self.norm: _BatchNorm | None = None
        self.unknowns = module.weight[0].numel()
        self.outputs = len(module.weight) // self.groups
        # One of many unknowns for each output: y = A (W x) + b with its selected weights W.
        self.spanned = self.unknowns > MOST_UNKNOWNS
        self.weight = module.weight.detach().clone() if self.spanned else None

    def equations(self, device: torch.device) -> NormalEquations:
        bias = self.module.bias is not None or self.norm is not None
        return NormalEquations(self.groups, self.outputs if self.spanned else self.unknowns, self.outputs, bias, device)

    def samples(self, args: tuple, kwargs: Mapping[str, Any], rows: Rows, targets: Tensor) -> Iterator[tuple]:
        targets = targets.unflatten(0, (rows.groups, -1))
        x = args[0] if args else kwargs['input']
        size = max(1, _CHUNK // (self.unknowns * self.groups * rows.groups))
        for begin, end in pairwise([*range(0, len(rows.positions), size), len(rows.positions)]):
            inputs = self._inputs(x, rows.positions[begin:end])  # [n, G, D]
            if self.spanned:
                weight = self.weight.flatten(1).unflatten(0, (self.groups, -1))
                inputs = torch.einsum('ngd,gmd->ngm', inputs, weight)
            wanted = targets[:, begin:end].flatten(0, 1)
            yield inputs, wanted.unflatten(1, (self.groups, -1))

    def store(self, solution: Solution) -> None:
        module, norm, weight = self.module, self.norm, solution.weight
        if self.spanned:
            weight = weight @ self.weight.double().flatten(1).unflatten(0, (self.groups, -1))
        module.weight.copy_(weight.reshape(module.weight.shape))
        bias, mean, var = (values.flatten() for values in (solution.bias, solution.mean, solution.var))
        if module.bias is not None:
            module.bias.copy_(torch.zeros_like(bias) if norm is not None else bias)
        if norm is not None:
            store_norm(norm, mean, var, torch.ones_like(var), bias)

    def parameters(self) -> list[Tensor]:
        norm = [] if self.norm is None else [*self.norm.parameters(), *self.norm.buffers()]
        return super().parameters() + norm

    def is_plain(self, x: Tensor, output: Tensor) -> bool:
        """Whether an output is what a layer of this kind computes, and not what a class made of it computes."""
        vectors = vectors_of(output, self.axis)
        positions = len(vectors) // len(x) if self.is_conv else len(vectors)
        some = torch.arange(positions)[:: max(1, positions // 64)].to(x.device)
        try:
            inputs = self._inputs(x, some)
        except (IndexError, RuntimeError):  # an output of another size than that of the plain convolution
            return False
        weight = self.module.weight.flatten(1).unflatten(0, (self.groups, -1)).to(inputs.dtype)
        found = torch.einsum('ngd,gmd->ngm', inputs, weight).flatten(1)
        found = found if self.module.bias is None else found + self.module.bias
        return _close(found, vectors.unflatten(0, (-1, positions))[:, some].flatten(0, 1))

    def _inputs(self, x: Tensor, positions: Tensor) -> Tensor:
        """What the layer multiplies with its weights at positions of its output: [n, groups, D]."""
        if not self.is_conv:
            return vectors_of(x, -1)[positions][:, None]
        patches = _patches(self.module, x, positions)  # [N, C, n, K]
        return patches.transpose(1, 2).flatten(0, 1).unflatten(1, (self.groups, -1)).flatten(2)


class NormLayer(Layer):
    """A batch norm that is not directly behind a convolution: a factor and an offset for each channel.

    Args:
        name (str): Its name in the student.
        module (_BatchNorm): The norm.
    """

    def __init__(self, name: str, module: _BatchNorm) -> None:
        super().__init__(name, module)
        self.axis = 1

    def equations(self, device: torch.device) -> ChannelEquations:
        affine = self.module.weight is not None
        return ChannelEquations(self.channels, affine, affine, device)

    def samples(self, args: tuple, kwargs: Mapping[str, Any], rows: Rows, targets: Tensor) -> Iterator[tuple]:
        yield rows.of(args[0] if args else kwargs['input'], 1), targets

    def store(self, solution: Solution) -> None:
        factor, offset, mean, var = (values.flatten() for values in (solution.weight, *solution[1:4]))
        store_norm(self.module, mean, var, factor, offset)


class ScaleLayer(Layer):
    """A layer whose parameters are a factor and an offset for each channel, such as a layer norm.

    Whatever else it does to its input, its output is ``factor * a(x) + offset + c(x)`` with functions a and c that
    are found by calling it with factors 0 and 1.

    Args:
        name (str): Its name in the student.
        module (nn.Module): The module.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        own = dict(module.named_parameters())
        self.scale = next((key for key in own if key in _SCALES), None)
        self.offset = next((key for key in own if key in _OFFSETS), None)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module may be such a layer."""
        own = dict(module.named_parameters())
        roles = [next((i for i, names in enumerate((_SCALES, _OFFSETS)) if key in names), None) for key in own]
        single = len({value.numel() for value in own.values()}) == 1
        return single and sorted(roles, key=str) in ([0], [0, 1], [1]) and not any(True for _ in module.children())

    def equations(self, device: torch.device) -> ChannelEquations:
        return ChannelEquations(self.channels, self.offset is not None, self.scale is not None, device)

    def samples(self, args: tuple, kwargs: Mapping[str, Any], rows: Rows, targets: Tensor) -> Iterator[tuple]:
        rest = self.call(args, kwargs, 0.0)
        yield rows.of(self.call(args, kwargs, 1.0) - rest, self.axis), targets - rows.of(rest, self.axis)

    def store(self, solution: Solution) -> None:
        for key, values in ((self.scale, solution.weight), (self.offset, solution.bias)):
            if key is not None:
                parameter = getattr(self.module, key)
                parameter.copy_(values.reshape(parameter.shape))

    def call(self, args: tuple, kwargs: Mapping[str, Any], factor: float | Tensor) -> Tensor:
        """The output with these factors and without offsets."""
        own = {key: torch.zeros_like(value) for key, value in self.module.named_parameters()}
        if self.scale is not None:
            zeros = own[self.scale]
            own[self.scale] = zeros.flatten().add(torch.as_tensor(factor).to(zeros)).view_as(zeros)
        args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
        return functional_call(self.module, own, args, dict(kwargs))

    def find_axis(self, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> bool:
        """Find the axis of the channels. False if the module is of another kind."""
        key = self.scale or self.offset
        channels = getattr(self.module, key).numel()
        ramp = torch.linspace(0.5, 1.5, channels, device=output.device, dtype=output.dtype)
        rest = self.call(args, kwargs, 0.0)
        whole, part = (self.call(args, kwargs, f) - rest for f in (1.0, ramp))
        for self.axis in (-1, 1):
            if output.shape[self.axis] == channels:
                expected = whole * (ramp if self.axis == -1 else ramp.view(-1, *[1] * (output.ndim - 2)))
                if _close(part, expected):
                    return self.scale is not None
        return False

    def only_scales(self, x: Tensor) -> bool:
        """Whether it multiplies its input with its factors and does nothing else, as a layer scale does."""
        if self.offset is not None or self.call((x,), {}, 0.0).any():
            return False
        return torch.allclose(self.call((x,), {}, 1.0), x)


def store_norm(norm: _BatchNorm, mean: Tensor, var: Tensor, factor: Tensor, offset: Tensor) -> None:
    """Make a batch norm map z to ``factor * z + offset`` - in eval mode, and in train mode on the same images.

    Args:
        norm (_BatchNorm): The norm. One without weights gets only the statistics.
        mean (Tensor): Mean of z [C].
        var (Tensor): Its biased variance [C].
        factor (Tensor): [C].
        offset (Tensor): [C].
    """
    if norm.running_mean is not None:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
    if norm.weight is not None:
        norm.weight.copy_(factor * (var + norm.eps).sqrt())
        norm.bias.copy_(factor * mean + offset)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether they are the same but for rounding. What is not finite is not."""
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())


def _patches(conv: nn.Conv1d | nn.Conv2d, x: Tensor, positions: Tensor) -> Tensor:
    """What a convolution sees at some positions of its output: [N, C, n, K] with kernels of K taps."""
    padding = conv._reversed_padding_repeated_twice
    mode = 'constant' if conv.padding_mode == 'zeros' else conv.padding_mode
    x = F.pad(x, padding, mode=mode) if any(padding) else x
    taps, outputs = conv.kernel_size, []
    for size, kernel, stride, dilation in zip(x.shape[2:], taps, conv.stride, conv.dilation, strict=True):
        outputs.append((size - dilation * (kernel - 1) - 1) // stride + 1)
    index = torch.zeros(1, 1, dtype=torch.long, device=x.device)
    rest, step = positions, 1
    for axis in reversed(range(len(taps))):
        places = rest % outputs[axis] * conv.stride[axis]
        rest = rest // outputs[axis]
        offsets = torch.arange(taps[axis], device=x.device) * conv.dilation[axis]
        own = (places[:, None] + offsets) * step  # [n, k]
        index = (own[:, :, None] + index[:, None]).flatten(1)
        step *= x.shape[2 + axis]
    return x.flatten(2)[:, :, index.flatten()].unflatten(2, index.shape)

"""What the last layer of a block adds to, found without knowing the block's code."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .layers import DenseLayer
from .recording import Arguments, before, copies_of, first_input
from .sampling import Layer, vectors_of

# Relative difference up to which a block counts as additive, and the least share of a gain in the largest one.
_TOLERANCE, _LEAST_GAIN = 1e-3, 1e-6
# Where a final activation, such as GELU, is the identity in fp32.
_LINEAR = 16.0


class Block:
    """A block whose output is ``activation(skip + gain * z)`` with the output z of one of its layers.

    Whatever the activation is, it is the identity for large numbers. So a large constant in place of z shows skip and
    gain, and a large constant added to z shows ``skip + gain * z``.

    Args:
        module (nn.Module): The block.
        output (nn.Module): The module whose output is z.
        axis (int): Axis of z's channels: 1 or -1.

    Attributes:
        gain (Tensor): Gain of each channel [C], such as that of a layer scale.
        out_axis (int): Axis of the channels of the block's output.
        bends (bool): Whether there is an activation behind the sum.
        probing (bool): Whether the block is being probed. Hooks on what is inside do nothing then.
    """

    def __init__(self, module: nn.Module, output: nn.Module, axis: int) -> None:
        self.module = module
        self.output = output
        self.axis = axis
        self.gain = torch.ones(1)
        self.out_axis = axis
        self.bends = True
        self.probing = False

    def find(self, args: tuple, kwargs: Mapping[str, Any]) -> bool:
        """Find the gain and the layout of the block's output. False if the block is not additive.

        Args:
            args (tuple): What the block is called with.
            kwargs (Mapping[str, Any]): The same by name.
        """
        seen: list[Tensor] = []
        plain = self._run(args, kwargs, lambda z: seen.append(z) or z)
        if not seen or not isinstance(plain, Tensor):
            return False
        z = seen[0]
        size = _LINEAR + 4 * max(float(plain.abs().max()), float(z.abs().max()))
        ones = torch.ones_like(z)
        once, twice = (self._run(args, kwargs, lambda _, k=k: ones * (k * size)) for k in (1, 2))
        for axis in (self.axis, -self.axis):
            self.out_axis = axis
            if plain.ndim < 2 or plain.shape[self.out_axis] != z.shape[self.axis] or plain.numel() != z.numel():
                continue
            gains = vectors_of(twice - once, self.out_axis) / size
            self.gain = gains.mean(0)
            sizes = self.gain.abs()
            if (gains - self.gain).abs().max() > _TOLERANCE * sizes.min() or sizes.min() <= _LEAST_GAIN * sizes.max():
                continue
            if self._is_additive(args, kwargs, z):
                return True
        return False

    def skip(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """What the layer adds to, in the layout of the block's output."""
        return self._shifted(args, kwargs, torch.zeros_like)

    def total(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """The block's output before its activation."""
        return self._shifted(args, kwargs, lambda z: z)

    def _is_additive(self, args: tuple, kwargs: Mapping[str, Any], z: Tensor) -> bool:
        """Whether each element of another z changes one element of the output by its gain, and no other one."""
        noise = torch.rand(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        self.bends = True
        skip = self.skip(args, kwargs)
        size = _LINEAR + 4 * float(skip.abs().max())
        for sign in (1, -1):
            added = sign * (noise + 1) * size
            found = vectors_of(self._run(args, kwargs, lambda _: added / self._gain_like(z)), self.out_axis)  # noqa: B023
            expected = vectors_of(skip, self.out_axis) + vectors_of(added, self.axis)
            fits = bool((found - expected).abs().max() <= _TOLERANCE * size)
            if sign == 1 and not fits:
                return False
        self.bends = not fits  # an activation changes negative sums
        return True

    def _shifted(self, args: tuple, kwargs: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum with another z, found where the activation is the identity."""
        if not self.bends:
            return self._run(args, kwargs, change)
        size = 8 * _LINEAR
        for _ in range(20):
            found = self._run(args, kwargs, lambda z: change(z) + size / self._gain_like(z))  # noqa: B023
            if found.min() >= _LINEAR or not found.isfinite().all():
                break
            size *= 4
        return found - size

    def _gain_like(self, z: Tensor) -> Tensor:
        """The gain in a shape that broadcasts along z."""
        return self.gain if self.axis == -1 or z.ndim == 2 else self.gain.view(-1, *[1] * (z.ndim - 2))

    def _run(self, args: tuple, kwargs: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> Any:
        """The block's output with another output of the layer."""
        args, kwargs = copies_of(args, kwargs)
        hook = self.output.register_forward_hook(lambda module, inputs, output: change(output))
        self.probing = True
        try:
            output = self.module.forward(*args, **kwargs)  # without its hooks: one of them calls this
        finally:
            self.probing = False
            hook.remove()
        return output[-1] if isinstance(output, tuple | list) and output else output


def closing_candidates(layers: list[Layer], call: Arguments, block: nn.Module) -> list[Layer]:
    """Dense layers of a block that may be its last one, the likeliest first.

    That is the one that is called last among those that see what other layers of the block give. So a projection of
    the skip, which may be called later, is not taken for it.

    Args:
        layers (list[Layer]): The block's layers in the order of their calls.
        call (Arguments): What the block is called with.
        block (nn.Module): The block.
    """
    dense = [layer for layer in layers if isinstance(layer, DenseLayer)]
    modules = [layer.module for layer in dense]
    order = {layer.name: (_follows(block, call, layer.module, modules), i) for i, layer in enumerate(dense)}
    return sorted(dense, key=lambda layer: order[layer.name], reverse=True)


def _follows(block: nn.Module, call: Arguments, layer: nn.Module, others: list[nn.Module]) -> bool:
    """Whether the input of a layer changes if another layer of the block gives zeros."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append(first_input(args, kwargs).clone())

    def run() -> Tensor | None:
        args, kwargs = copies_of(*call)
        seen.clear()
        with before(layer, keep):
            block.forward(*args, **kwargs)
        return seen[0] if seen else None

    plain = run()
    if plain is None:  # it is called from outside of the block
        return False
    for other in others:
        if other is not layer:
            hook = other.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
            try:
                if not torch.equal(run(), plain):
                    return True
            finally:
                hook.remove()
    return False

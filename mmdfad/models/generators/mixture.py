"""Several generators that share each batch."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmdfad.models.parts import build_part
from mmdfad.models.pixels import PixelSpace
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

from .base import Generator


class Learners(nn.ModuleList):
    """What several generators learn with, for one optimizer."""

    def forward(self, noise: Tensor) -> list[Tensor]:
        """Noise [N, noise_dim] to the images of each."""
        return [learner(noise) for learner in self]

    def compile(self, *args, **kwargs) -> None:
        """Compile each: they are called one by one."""
        for learner in self:
            learner.compile(*args, **kwargs)


@MODELS.register_module()
class MixtureGenerator(Generator):
    """Images of several generators in one batch: the first part of the noise goes to the first, and so on.

    An update is one of each generator that learns, in their order, with the same noise and optimizer. The optimizer
    leaves out parameters without a gradient, so each step moves one generator only. Accumulation of gradients counts
    the steps of all together. The log has the losses of the last one.

    If one needs another learning rate, ``paramwise_cfg`` gives it by a part of the names of its parameters: to the
    :class:`~mmdfad.models.ImageBank`, for example, by ``custom_keys={'pixels': dict(lr_mult=15)}``.

    Args:
        generators (Sequence[dict | Generator]): The generators, with or without wrappers, of equal ``noise_dim``,
            ``image_size`` and ``channels``.
        shares (Sequence[float], optional): How much of a batch each makes, relative to the others. Defaults to equal
            shares.

    Raises:
        DistillError: If there are no generators, their shapes differ, or the shares do not fit.
    """

    def __init__(self, generators: Sequence[dict | Generator], shares: Sequence[float] | None = None) -> None:
        if not isinstance(generators, Sequence) or isinstance(generators, str) or not generators:
            raise DistillError(f'model.generator.generators must be a list of generators, but found {generators!r}')
        parts = [build_part(cfg, f'model.generator.generators[{i}]', Generator) for i, cfg in enumerate(generators)]
        for key in ('noise_dim', 'image_size', 'channels'):
            found = [getattr(part, key) for part in parts]
            if len(set(found)) > 1:
                raise DistillError(
                    f'model.generator.generators must all have the same {key}, but found {found}; set it in each'
                )
        super().__init__(parts[0].noise_dim, parts[0].image_size, parts[0].channels)
        self.generators = nn.ModuleList(parts)
        self.shares = _checked([1.0] * len(parts) if shares is None else shares, len(parts))

    @property
    def learner(self) -> nn.Module:
        """nn.Module: The learners of all generators that learn."""
        return Learners([generator.learner for generator in self._learning()])

    @property
    def steps_per_update(self) -> int:
        return sum(generator.steps_per_update for generator in self._learning())

    def bind_pixels(self, space: PixelSpace) -> None:
        for generator in self.generators:
            generator.bind_pixels(space)

    def synthesize(self, noise: Tensor) -> Tensor:
        # What autocast has made bf16 beside fp32 becomes fp32.
        return torch.cat([generator(part) for generator, part in self._split(noise)])

    def sample(self, noise: Tensor) -> Tensor:
        return torch.cat([generator.sample(part) for generator, part in self._split(noise)])

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        for generator in self._learning():
            generator.update(noise, loss, optim)

    def _learning(self) -> list[Generator]:
        return [generator for generator in self.generators if generator.learns]

    def _split(self, noise: Tensor) -> list[tuple[Generator, Tensor]]:
        """The generators that get noise, and their parts of it."""
        ends = [round(share * len(noise)) for share in accumulate(self.shares, initial=0.0)]
        parts = [noise[start:end] for start, end in pairwise(ends)]
        return [(generator, part) for generator, part in zip(self.generators, parts, strict=True) if len(part)]


def _checked(shares: Sequence[float], count: int) -> list[float]:
    """Shares that sum to 1."""
    if len(shares) != count or min(shares) < 0 or not sum(shares) > 0:
        raise DistillError(
            f'model.generator.shares must be {count} numbers, one for each of model.generator.generators, not negative '
            f'and not all 0, but found {list(shares)}'
        )
    return [share / sum(shares) for share in shares]

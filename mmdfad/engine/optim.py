"""One optimizer for each player."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.runner.amp import autocast
from torch import nn

from mmdfad.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmdfad.utils import DistillError
from mmdfad.utils.model import unwrap

PLAYERS = ('student', 'generator')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PlayerOptimWrapperConstructor:
    """Builds the optimizers of student and generator, each by mmengine's own rules.

    So each player may have its own ``type``, ``constructor``, ``paramwise_cfg``, ``clip_grad``,
    ``accumulative_counts``, ...::

        optim_wrapper = dict(
            constructor='mmdfad.PlayerOptimWrapperConstructor',
            student=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), paramwise_cfg=dict(norm_decay_mult=0.)),
            generator=dict(optimizer=dict(type='Adam', lr=1e-3)))

    Args:
        optim_wrapper_cfg (dict): ``student`` and ``generator``, an optimizer wrapper config each.
        paramwise_cfg (dict, optional): Must be None: it belongs to a player.

    Raises:
        DistillError: If a player is missing or something else is there.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # mmpretrain's and mmseg's base schedules bring a type of their own.
        found = set(optim_wrapper_cfg) - {'type'}
        if found != set(PLAYERS) or paramwise_cfg is not None:
            raise DistillError(
                f'optim_wrapper must have the keys {list(PLAYERS)} beside constructor, each with an optimizer, but '
                f'found {sorted(found | ({"paramwise_cfg"} if paramwise_cfg else set()))}'
            )
        self.cfgs = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build for a distiller, wrapped or not. A generator that learns nothing gets no optimizer."""
        distiller = unwrap(model)
        parts = dict(student=distiller.student_player.model, generator=distiller.generator)
        return OptimWrapperDict(
            **{
                player: build_optim_wrapper(part, self.cfgs[player])
                for player, part in parts.items()
                if any(True for _ in part.parameters())
            }
        )


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bf16 autocast on CPUs, where mmengine's ``AmpOptimWrapper`` refuses to work. bf16 needs no gradient scaler."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """See mmengine."""
        with super().optim_context(model), autocast(device_type='cpu'):
            yield

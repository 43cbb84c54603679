"""The phases of a round, as a config gives them."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdfad.models.distiller import PHASES, AdversarialDistiller
from mmdfad.utils import DistillError, require_count

NOISE = ('step', 'round')
# What the loop itself gives to a step of a phase.
_GIVEN = ('self', 'batch', 'noise', 'optim_wrapper', 'round_index', 'progress')


@dataclass(frozen=True)
class Phase:
    """Some steps in each round that update the student or the generator.

    Attributes:
        name (str): ``'imitation'`` or ``'generation'``.
        steps (int): Steps in each round. Defaults to 1.
        begin (int): First round, from 0. Defaults to 0.
        end (int, optional): The round before which it ends. Defaults to None: it runs to the last round.
        settings (dict): Arguments for each step, such as ``student_bn_eval`` for the generation phase.
    """

    name: str
    steps: int = 1
    begin: int = 0
    end: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def updates(self) -> str:
        """str: ``'student'`` or ``'generator'``."""
        return PHASES[self.name]

    def steps_in(self, round_index: int) -> int:
        """Steps in this round."""
        return self.steps_before(round_index + 1) - self.steps_before(round_index)

    def steps_before(self, round_index: int) -> int:
        """Steps in the rounds before this one."""
        last = round_index if self.end is None else min(round_index, self.end)
        return self.steps * max(0, last - self.begin)


def parse_phases(cfgs: Sequence[dict]) -> list[Phase]:
    """Read and check ``train_cfg.phases``.

    Args:
        cfgs (Sequence[dict]): A dict for each phase, with its name, steps, begin, end and settings.

    Raises:
        DistillError: If a phase is not known or has an unusable setting.
    """
    if not isinstance(cfgs, Sequence) or not all(isinstance(cfg, dict) for cfg in cfgs) or not cfgs:
        raise DistillError(f'train_cfg.phases must be a list of dicts, but found {cfgs!r}')
    return [_parse_phase(dict(cfg), f'train_cfg.phases[{i}]') for i, cfg in enumerate(cfgs)]


def _parse_phase(cfg: dict, key: str) -> Phase:
    name = cfg.pop('name', None)
    if name not in PHASES:
        raise DistillError(f'{key}.name must be one of {", ".join(PHASES)}, but found {name!r}')
    steps, begin, end = cfg.pop('steps', 1), cfg.pop('begin', 0), cfg.pop('end', None)
    require_count(f'{key}.steps', steps, 1)
    require_count(f'{key}.begin', begin, 0)
    if end is not None:
        # A phase without a round is a mistake: leave it out.
        require_count(f'{key}.end (begin is {begin})', end, begin + 1)
    step: Callable = getattr(AdversarialDistiller, f'{name}_step')
    known = [n for n in inspect.signature(step).parameters if n not in _GIVEN]
    unknown = sorted(cfg.keys() - set(known))
    if unknown:
        takes = ', '.join(['name', 'steps', 'begin', 'end', *known])
        raise DistillError(f'{key}.{unknown[0]} is unknown; the {name} phase takes {takes}')
    return Phase(name, steps, begin, end, cfg)

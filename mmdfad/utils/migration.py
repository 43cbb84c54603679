"""Settings of earlier versions, and what to write in their place."""

import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from mmengine.config import Config

from .errors import DistillError
from .signature import did_you_mean

_ACCELERATION = 'default_hooks.acceleration.{} (of mmdfad.AccelerationHook)'
_WRAPPED = "model.generator=dict(type='mmdfad.{}', generator=dict(type=...), ...)"
_PHASES = "train_cfg.phases=[dict(name='imitation', steps=5), dict(name='generation', steps=1)]"
# Arguments of torch's DistributedDataParallel.
_DDP = ('broadcast_buffers', 'bucket_cap_mb', 'find_unused_parameters', 'gradient_as_bucket_view', 'static_graph')
REMOVED = {
    'model': {
        'imitation_loss': "model.imitation=[dict(type='L1Discrepancy')]",
        'generation_loss': "model.generation=[dict(type='L1Discrepancy'), ...]",
        'generation_priors': "model.generation=[dict(type='L1Discrepancy'), dict(type='BNStatisticsPrior', weight=1)]",
        'replay': _WRAPPED.format('ReplayGenerator'),
        'replay_loss': f'{_WRAPPED.format("ReplayGenerator")}; model.imitation counts for replayed images, too',
        'augment': _WRAPPED.format('AugmentedGenerator'),
        'init_student_from_teacher': "model.start=dict(type='mmdfad.ChannelSelection')",
        'freeze_student_norms': 'student_bn_eval=True in the generation phase of train_cfg.phases',
        'fold_teacher': _ACCELERATION.format('fold_teacher'),
        'channels_last': _ACCELERATION.format('channels_last'),
        'hasten_dilations': _ACCELERATION.format('optimize_dilated_convs'),
        'inference_dtype': _ACCELERATION.format('inference_dtype'),
        'compiled': _ACCELERATION.format('compile'),
        'checkpointed': _ACCELERATION.format('activation_checkpointing'),
        'shard_teacher': 'model.teacher.shard=True',
    },
    'model.teacher': {'recipe': 'model.teacher.train_command'},
    'model.student': {'recipe': 'model.student.train_command'},
    'model_wrapper_cfg': dict.fromkeys(_DDP, 'nothing instead: the optimizers average the gradients over the ranks'),
    'train_cfg': {'imitation_steps': _PHASES, 'generation_steps': _PHASES},
}
_OLD_CONSTRUCTOR, _CONSTRUCTOR = 'PlayerOptimWrapperConstructor', 'mmdfad.DistillOptimWrapperConstructor'


# Arguments that the Runner gives.
_GIVEN = ('self', 'runner', 'dataloader')


def refuse_old_settings(cfg: Config) -> None:
    """Refuse the config of a distillation that was written for an earlier version.

    Args:
        cfg (Config): The config.

    Raises:
        DistillError: If it has old settings. The message lists all of them, and what to write instead.
    """
    found = [
        _removed(where, key)
        for where, removed in REMOVED.items()
        for key in removed
        if key in reduce(_inside, where.split('.'), cfg)
    ]
    constructor = str((cfg.get('optim_wrapper') or {}).get('constructor'))
    if constructor.endswith(_OLD_CONSTRUCTOR):
        found.append(f'optim_wrapper.constructor={constructor!r} is now called {_CONSTRUCTOR!r}')
    if found:
        raise DistillError('\n'.join(found))


def _inside(part: Mapping, name: str) -> Mapping:
    found = part.get(name)
    return found if isinstance(found, Mapping) else {}


def _removed(where: str, key: str) -> str:
    return f'{where}.{key} is a setting of an earlier version; write {REMOVED[where][key]}'


def refuse_keys(where: str, keys: Mapping[str, Any], known: Callable) -> None:
    """Refuse keys that nothing takes, and say what to write instead.

    Args:
        where (str): The config key that they stand under: ``'model'`` or ``'train_cfg'``.
        keys (Mapping[str, Any]): The keys that were left over.
        known (Callable): The callable whose arguments could have been meant.

    Raises:
        DistillError: If there are any.
    """
    for key in keys:
        if key in REMOVED[where]:
            raise DistillError(_removed(where, key))
        parameters = inspect.signature(known).parameters.values()
        names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in _GIVEN]
        raise DistillError(f'{where}.{key} is unknown{did_you_mean(key, names)}')

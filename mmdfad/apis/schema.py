"""A check of a whole config before anything is built."""

import difflib
import inspect
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import registry as root
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from mmdfad.engine.optim import LEARNERS
from mmdfad.utils import DistillError
from mmdfad.utils.config import with_type_names
from mmdfad.utils.signature import check_arguments, did_you_mean

from .config_part import check_number, check_part, find_type, require_dict

# What an ImageBank gives to its init.
_SHAPE = ('noise_dim', 'image_size', 'channels')
# What a distillation cannot do without.
_REQUIRED = ('model', 'train_cfg', 'train_dataloader', 'optim_wrapper')
_LOADER_KEYS = ('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn', 'num_batch_per_epoch')
# Of mmengine's DefaultOptimWrapperConstructor, whose arguments do not name them.
_PARAMWISE_KEYS = (
    'bias_decay_mult', 'bias_lr_mult', 'bypass_duplicate', 'custom_keys', 'dcn_offset_lr_mult', 'dwconv_decay_mult',
    'flat_decay_mult', 'norm_decay_mult',
)  # fmt: skip
_RUNNER_KEYS = ('cfg', 'runner_type', 'custom_imports', 'tta_model', 'auto_scale_lr', 'data_preprocessor')
# How much a key resembles one of mmengine's that it was probably meant to be.
_TYPO = 0.85


def check_config(cfg: Config) -> None:
    """Compare the config of a distillation with the signatures of what it builds, before anything is built.

    Teacher and student are checked when they are built, as each package has its own rules.

    Args:
        cfg (Config): The config.

    Raises:
        DistillError: For the first key or value that cannot be right. The message names the key.
    """
    plain = with_type_names(cfg.to_dict())
    _check_top_level(plain)
    with DefaultScope.overwrite_default_scope(plain.get('default_scope')):
        _check_model(plain['model'])
        _check_hooks(plain)
        _check_optimizers(plain['optim_wrapper'])
        _check_schedulers(plain.get('param_scheduler'))
        _check_loops(plain)
        for stage in ('train', 'val', 'test'):
            _check_loader(plain.get(f'{stage}_dataloader'), f'{stage}_dataloader')
        _check_rest(plain)


def _check_top_level(cfg: dict) -> None:
    known = {*inspect.signature(Runner).parameters, *_RUNNER_KEYS}
    for key in cfg:
        close = [] if key in known else difflib.get_close_matches(key, known, 1, _TYPO)
        if close:
            raise DistillError(
                f'the config has {key}, which is not a known key; did you mean {close[0]}? If it is a variable of '
                'your own, choose a name that does not resemble a key'
            )
    for key in _REQUIRED:
        value = cfg.get(key)
        if not isinstance(value, Mapping) or not value:
            raise DistillError(
                f'{key} of a distillation must be a dict, but found {value!r}. A config inherits most of it: '
                "_base_ = 'mmdfad::_base_/default_runtime.py', and one of mmdfad::_base_/schedules"
            )
    own = {key: value for key, value in cfg.items() if key in inspect.signature(Runner).parameters}
    check_arguments('', Runner, own, provided=('work_dir',), untyped=('custom_hooks',))
    if isinstance(logging.getLevelName(cfg.get('log_level', 'INFO')), str):
        raise DistillError(f"log_level must be a level such as 'INFO' or 'WARNING', but found {cfg['log_level']!r}")


# Parts of a config


def _check_model(model: dict) -> None:
    check_part(model, 'model', root.MODELS, check=('teacher', 'student', 'data_preprocessor'))
    for key in ('generation', 'imitation'):
        parts = model.get(key, [])
        if not isinstance(parts, list | tuple):
            raise DistillError(f'model.{key} must be a list of dicts, but found {parts!r}')
        for where, part in _listed(parts, f'model.{key}'):
            check_part(part, where, root.MODELS, scope='mmdfad')
    for key in ('generator', 'start'):
        if model.get(key) is not None:
            _check_nested(model[key], f'model.{key}')


def _check_nested(part: Any, where: str, provided: tuple[str, ...] = ()) -> None:
    """A generator or a start, and those inside it."""
    check_part(part, where, root.MODELS, scope='mmdfad', provided=tuple({*provided} - part.keys()))
    for key, value in part.items():
        for inside, item in _listed(value, f'{where}.{key}'):
            if isinstance(item, Mapping) and 'type' in item:
                _check_nested(item, inside, _SHAPE if key == 'init' else ())


def _check_hooks(cfg: dict) -> None:
    hooks = cfg.get('default_hooks', {})
    custom = cfg.get('custom_hooks') or []
    if not isinstance(custom, list | tuple):
        raise DistillError(f'custom_hooks must be a list of hooks, but found {custom!r}')
    named = {f'default_hooks.{name}': hook for name, hook in hooks.items() if hook is not None}
    named |= dict(_listed(custom, 'custom_hooks'))
    for where, hook in named.items():
        check_part(hook, where, root.HOOKS, builders=('priority',))
        interval = hook.get('interval')
        if isinstance(interval, int) and interval < 1 and interval != -1:
            raise DistillError(f'{where}.interval must be a positive number of rounds, or -1 for never: {interval}')
        target = find_type(hook['type'], f'{where}.type', root.HOOKS, hook.get('_scope_'))
        if inspect.isclass(target) and issubclass(target, EMAHook):
            _check_average(hook, where, target)


def _check_average(hook: dict, where: str, target: type[EMAHook]) -> None:
    """EMAHook hands arguments that are not its own on to the model that averages."""
    taken = {name for base in target.__mro__ if base is not object for name in inspect.signature(base).parameters}
    average = {key: value for key, value in hook.items() if key not in {'type', 'priority', '_scope_', *taken}}
    kind = hook.get('ema_type', 'ExponentialMovingAverage')
    find_type(kind, f'{where}.ema_type', root.MODELS)
    check_part(dict(average, type=kind), where, root.MODELS, provided=('model', 'device'))
    if not 0 < average.get('momentum', 0.5) < 1:
        raise DistillError(f'{where}.momentum must be between 0 and 1, but found {average["momentum"]!r}')


def _check_optimizers(wrappers: dict) -> None:
    if wrappers.get('constructor') is None:
        raise DistillError(
            "optim_wrapper of a distillation must have constructor='mmdfad.DistillOptimWrapperConstructor' and "
            f'the keys {list(LEARNERS)}, but found {sorted(wrappers)}'
        )
    find_type(wrappers['constructor'], 'optim_wrapper.constructor', root.OPTIM_WRAPPER_CONSTRUCTORS)
    for name in set(LEARNERS) & wrappers.keys():
        wrapper = wrappers[name]
        where = f'optim_wrapper.{name}'
        require_dict(wrapper, where)
        own = {key: value for key, value in wrapper.items() if key not in ('amp_dtype', 'constructor', 'paramwise_cfg')}
        check_part({'type': 'OptimWrapper', **own}, where, root.OPTIM_WRAPPERS, check=('optimizer',))
        check_part(wrapper.get('optimizer'), f'{where}.optimizer', root.OPTIMIZERS, provided=('params',))
        check_number(wrapper['optimizer'], f'{where}.optimizer', 'lr', more_than=0)
        for key in ('weight_decay', 'momentum'):
            check_number(wrapper['optimizer'], f'{where}.optimizer', key, least=0)
        check_number(wrapper, where, 'accumulative_counts', least=1)
        _check_clipping(wrapper.get('clip_grad'), f'{where}.clip_grad')
        if wrapper.get('paramwise_cfg') is not None and 'constructor' not in wrapper:
            _check_paramwise(wrapper['paramwise_cfg'], f'{where}.paramwise_cfg')


def _check_clipping(clipping: dict | None, where: str) -> None:
    if not clipping:
        return
    function = clip_grad_value_ if clipping.get('type') == 'value' else clip_grad_norm_
    own = {key: value for key, value in clipping.items() if key != 'type'}
    check_arguments(where, function, own, provided=('parameters',))
    for key in ('max_norm', 'clip_value'):
        check_number(clipping, where, key, more_than=0)


def _check_paramwise(settings: Any, where: str) -> None:
    require_dict(settings, where)
    for key in settings.keys() - {*_PARAMWISE_KEYS}:
        raise DistillError(f'{where}.{key} is unknown{did_you_mean(key, _PARAMWISE_KEYS)}')


def _check_schedulers(schedulers: Any) -> None:
    if schedulers is None:
        return
    by_name = schedulers if isinstance(schedulers, Mapping) and 'type' not in schedulers else {'': schedulers}
    unknown = sorted(by_name.keys() - {*LEARNERS, ''})
    if unknown:
        raise DistillError(f'param_scheduler.{unknown[0]} is unknown{did_you_mean(unknown[0], LEARNERS)}')
    missing = [name for name in LEARNERS if '' not in by_name and name not in by_name]
    if missing:
        raise DistillError(
            f'param_scheduler lacks {missing[0]}; for a constant learning rate, write param_scheduler.{missing[0]}=[]'
        )
    for name, several in by_name.items():
        for where, part in _listed(several, f'param_scheduler.{name}'.rstrip('.')):
            check_part(
                part,
                where,
                root.PARAM_SCHEDULERS,
                provided=('optimizer', 'param_name'),
                builders=('convert_to_iter_based',),
            )
            if part.get('by_epoch', True) is not False:
                raise DistillError(
                    f'{where} must have by_epoch=False: a distillation has no epochs, so the scheduler would never act'
                )
            begin, end = part.get('begin', 0), part.get('end', math.inf)
            if not 0 <= begin < end:
                raise DistillError(f'{where} must have 0 <= begin < end, but found begin={begin}, end={end}')


def _check_loops(cfg: dict) -> None:
    for stage, default in dict(train={}, val={'type': 'ValLoop'}, test={'type': 'TestLoop'}).items():
        loop, where = cfg.get(f'{stage}_cfg'), f'{stage}_cfg'
        if loop is not None:
            require_dict(loop, where)
            check_part(default | loop, where, root.LOOPS, provided=('runner', 'dataloader', 'evaluator'))
    for key in ('max_iters', 'val_begin', 'val_interval'):
        check_number(cfg['train_cfg'], 'train_cfg', key, least=1)


def _check_loader(loader: Any, where: str) -> None:
    if loader is None:
        return
    require_dict(loader, where)
    own = {key: value for key, value in loader.items() if key not in _LOADER_KEYS}
    check_arguments(where, DataLoader, own, provided=('dataset', 'sampler'))
    check_number(loader, where, 'batch_size', least=1)
    check_number(loader, where, 'num_workers', least=0)
    if 'dataset' not in loader:
        raise DistillError(f'{where} lacks dataset')
    _check_dataset(loader['dataset'], f'{where}.dataset')
    if loader.get('sampler') is not None:
        check_part(loader['sampler'], f'{where}.sampler', root.DATA_SAMPLERS, provided=('dataset',))


def _check_dataset(dataset: Any, where: str) -> None:
    check_part(dataset, where, root.DATASETS, check=('pipeline', 'dataset', 'datasets'))
    for key in ('dataset', 'datasets'):
        for inside, inner in _inner(dataset, key, where):
            _check_dataset(inner, inside)
    for inside, transform in _inner(dataset, 'pipeline', where):
        check_part(transform, inside, root.TRANSFORMS)


def _inner(part: Mapping, key: str, where: str) -> Iterator[tuple[str, Any]]:
    """The dicts under a key, alone or in a list, each with its own key. Anything else is left to its class."""
    if isinstance(part.get(key), Mapping | list | tuple):
        yield from _listed(part[key], f'{where}.{key}')


def _listed(parts: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Each item of a list with its key; or what is not a list, as it is."""
    if isinstance(parts, list | tuple):
        yield from ((f'{where}[{i}]', part) for i, part in enumerate(parts))
    else:
        yield where, parts


def _check_rest(cfg: dict) -> None:
    for stage in ('val', 'test'):
        for where, metric in _listed(cfg.get(f'{stage}_evaluator'), f'{stage}_evaluator'):
            if metric is not None and not (isinstance(metric, Mapping) and 'metrics' in metric):
                check_part(metric, where, root.METRICS)
    if cfg.get('visualizer') is not None:
        check_part(cfg['visualizer'], 'visualizer', root.VISUALIZERS)
        for where, backend in _inner(cfg['visualizer'], 'vis_backends', 'visualizer'):
            check_part(backend, where, root.VISBACKENDS, provided=('save_dir',))
    if cfg.get('model_wrapper_cfg') is not None:
        check_part(cfg['model_wrapper_cfg'], 'model_wrapper_cfg', root.MODEL_WRAPPERS, provided=('module',))
    if cfg.get('randomness') is not None:
        require_dict(cfg['randomness'], 'randomness')
        check_arguments('randomness', set_random_seed, cfg['randomness'], provided=('seed',))
        if cfg['randomness'].get('seed') is not None:
            check_number(cfg['randomness'], 'randomness', 'seed', least=0)
    if cfg.get('log_processor') is not None:
        check_part({'type': 'LogProcessor'} | cfg['log_processor'], 'log_processor', root.LOG_PROCESSORS)
        check_number(cfg['log_processor'], 'log_processor', 'window_size', least=1)

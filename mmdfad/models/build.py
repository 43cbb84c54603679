"""Teacher and student: from a config to a network with weights."""

import copy
from collections.abc import Mapping
from textwrap import indent

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from mmdfad.models.logits import init_weights, unsupported_reason
from mmdfad.models.network import Network
from mmdfad.utils import DistillError, as_pair, first_of
from mmdfad.utils.checkpoint import read_checkpoint
from mmdfad.utils.compat import OPTIONAL, check_package, check_types, is_importable
from mmdfad.utils.config import read_config, with_type_names
from mmdfad.utils.signature import likely_typo
from mmdfad.utils.state_dict import explain_mismatch, regenerated_names

# What a teacher's or student's dict may hold beside its config.
NETWORK_KEYS = ('checkpoint', 'image_size', 'train_command', 'shard')


def build_network(cfg: dict | Network, role: str, data_preprocessor: dict | None = None) -> Network:
    """Build a teacher or a student, and load its checkpoint if it names one.

    Args:
        cfg (dict | Network): One of two forms. Either ``cfg_path``, an mm config by path or as ``'mmpretrain::...'``,
            with optional ``cfg_options``, which are merged into it; or a model dict with ``type``. Both may have
            ``checkpoint``, a path or URL, and ``train_command``, the commands that make it, which are shown if it is
            missing. A teacher that is too large for a device may have ``shard=True`` (see
            :class:`~mmdfad.models.DistributedDistiller`). A student may have ``image_size``, an int or (height, width):
            images are generated at the teacher's size (``model.generator.image_size``) and resized for the student.
            Its test pipeline has to give the student's size, too. A network that is already built is taken as it is.
        role (str): ``'teacher'`` or ``'student'``.
        data_preprocessor (dict, optional): For an inline model dict that has none.

    Returns:
        Network: Randomly initialised if no checkpoint is given. Weights that the model's config would download by
        itself (``init_cfg`` of type ``Pretrained``) are never downloaded.

    Raises:
        DistillError: If the config, the model or the checkpoint is not usable.
    """
    if isinstance(cfg, Network):
        return cfg
    if not isinstance(cfg, Mapping):
        raise DistillError(f'model.{role} must be a dict with `cfg_path` or `type`, but found {cfg!r}')
    cfg = dict(cfg)
    if role == 'student' and cfg.get('shard'):
        raise DistillError('only a teacher can be split over the ranks; remove model.student.shard')
    checkpoint, image_size, command, shard = (cfg.pop(key, None) for key in NETWORK_KEYS)
    if image_size is not None:
        if role == 'teacher':
            raise DistillError(
                f'model.teacher has image_size={image_size}, but the teacher works at the size that the generator '
                'makes: set model.generator.image_size'
            )
        image_size = as_pair(image_size, f'model.{role}.image_size')
    plain = plain_config(cfg, role, data_preprocessor)
    model = build_model(plain, role)
    dataset_meta = {} if checkpoint is None else _load_weights(model, checkpoint, role, command)
    return Network(model, role, plain, checkpoint, dataset_meta, image_size, bool(shard))


def plain_config(cfg: dict, role: str, data_preprocessor: dict | None = None) -> Config:
    """Turn both forms of a teacher's or student's config into one plain mm config.

    Args:
        cfg (dict): See :func:`build_network`, without the keys in :data:`NETWORK_KEYS`.
        role (str): ``'teacher'`` or ``'student'``, for messages.
        data_preprocessor (dict, optional): For an inline model dict that has none.

    Returns:
        Config: ``model``, with the data preprocessor inside and without anything that downloads weights;
        ``default_scope``; and whatever else the config file holds.

    Raises:
        DistillError: If it has neither form, or the config file cannot be read.
    """
    cfg = with_type_names(cfg)
    if 'cfg_path' in cfg:
        unknown = set(cfg) - {'cfg_path', 'cfg_options'}
        if unknown:
            other = 'image_size' if role == 'teacher' else 'shard'  # of the other network alone
            known = ', '.join(('cfg_options', *(key for key in NETWORK_KEYS if key != other)))
            raise DistillError(
                f'model.{role} has cfg_path and therefore takes only {known} beside it, but found '
                f'{sorted(unknown)}; put changes to the model in model.{role}.cfg_options'
            )
        plain = Config(with_type_names(read_config(cfg['cfg_path'], f'model.{role}.cfg_path').to_dict()))
        plain.merge_from_dict(cfg.get('cfg_options') or {})
        if not isinstance(plain.get('model'), dict) or 'type' not in plain.model:
            raise DistillError(f'{cfg["cfg_path"]} (model.{role}.cfg_path) defines no `model` with a `type`')
        data_preprocessor = plain.get('data_preprocessor')
    elif 'type' in cfg:
        plain = Config(dict(model=cfg))
    else:
        raise DistillError(
            f'model.{role} must have `cfg_path` (an mm config) or be a model dict with `type`, but found keys '
            f'{sorted(cfg)}'
        )
    if data_preprocessor is not None:
        plain.model.setdefault('data_preprocessor', ConfigDict(data_preprocessor))
    plain.default_scope = _scope_of(plain, cfg.get('cfg_path', ''))
    plain.model.pop('_scope_', None)
    _strip_pretrained(plain.model)
    return plain


def build_model(plain: Config, role: str) -> nn.Module:
    """Build the model of a plain config in its own scope, and initialise it.

    Args:
        plain (Config): From :func:`plain_config`.
        role (str): ``'teacher'`` or ``'student'``, for messages.

    Raises:
        DistillError: If a package is missing, or it cannot be built as its config says.
    """
    scope, kind = plain.default_scope, plain.model.type
    if unsupported_reason(str(kind)):
        raise DistillError(f'model.{role}: {kind} gives no class logits to distil: {unsupported_reason(str(kind))}')
    try:
        if scope in OPTIONAL:
            check_package(scope)
        elif not is_importable(scope):
            raise ImportError(
                f'its scope is {scope}, but no such package is installed. Classifiers of mmpretrain and segmentors of '
                'mmseg can be distilled'
            )
        check_types(plain.model)
    except ImportError as error:
        raise DistillError(f'model.{role}: {error}') from error
    with DefaultScope.overwrite_default_scope(scope):
        try:
            model = ROOT_MODELS.build(copy.deepcopy(plain.model))
        except Exception as error:  # each model has its own way to refuse its arguments
            typo = likely_typo(plain.model, '', error, ROOT_MODELS, NETWORK_KEYS)
            raise DistillError(f'cannot build model.{role} of type {kind}: {error}{typo}') from error
    _check_complete(model, role, kind)
    init_weights(model)
    # A teacher does not need statistics over devices. The Runner handles the student's.
    return revert_sync_batchnorm(model) if role == 'teacher' else model


def _check_complete(model: nn.Module, role: str, kind: str) -> None:
    """Refuse models whose checkpoints hold only a part of them, such as LoRA's."""
    saved = {id(value) for value in model.state_dict(keep_vars=True).values()}
    left_out = [name for name, parameter in model.named_parameters() if id(parameter) not in saved]
    if left_out:
        raise DistillError(
            f'model.{role}: {kind} leaves {len(left_out)} of its parameters out of its checkpoints, such as '
            f'{left_out[0]}. Merge both into the checkpoint of a plain model, for LoRA with '
            "mmpretrain's tools/model_converters/merge_lora_weight.py, and distil that"
        )


def _scope_of(plain: Config, path: str) -> str:
    """The scope a model is to be built in: its own or its package's, before that of the running config."""
    prefix, dot, _ = plain.model.type.partition('.')
    # Models of mmdfad come with the data and metrics of another scope. The first part of a class's full name is a scope
    # only if that package has registries.
    if dot and prefix != 'mmdfad' and (prefix in OPTIONAL or _is_scope(prefix)):
        return prefix
    package, colons, _ = path.partition('::')
    scope = plain.model.get('_scope_') or plain.get('default_scope') or (package if colons else None)
    return scope or _running_scope()


def _is_scope(package: str) -> bool:
    return not is_importable(package) or is_importable(f'{package}.registry')


def _running_scope() -> str:
    """The default scope of the run. mmengine replaces it while it builds a type that is inherited from ``mmdfad::``."""
    current = DefaultScope.get_current_instance()
    if current is not None and current.scope_name == 'mmdfad':
        own = [scope for name, scope in DefaultScope._instance_dict.items() if not name.startswith('overwrite-')]
        current = own[-1] if own else current
    return current.scope_name if current else 'mmengine'


def _strip_pretrained(cfg: dict | list) -> None:
    """Remove everything that would load weights while the model is initialised."""
    if isinstance(cfg, dict):
        if cfg.get('pretrained'):
            cfg['pretrained'] = None
        init = cfg.get('init_cfg')
        # Whatever it is called, a type that takes a checkpoint loads it.
        if any('checkpoint' in part for part in (init if isinstance(init, list) else [init]) if isinstance(part, dict)):
            cfg['init_cfg'] = None
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list):
            _strip_pretrained(value)


def _load_weights(model: nn.Module, checkpoint: str, role: str, command: str | None) -> dict:
    """Load strictly, and return the checkpoint's ``dataset_meta``."""
    where = f'model.{role}.checkpoint={checkpoint!r}'
    try:
        content = read_checkpoint(checkpoint, where)
    except DistillError:
        raise
    except FileNotFoundError as error:
        hint = f', or make it with\n{indent(command, "  ")}' if command else ''
        raise DistillError(f'{where} does not exist; give the path or URL of the trained {role}{hint}') from error
    except OSError as error:
        raise DistillError(f'{where} cannot be read: {error}') from error
    except Exception as error:  # torch.load has no common base class for what a damaged file can raise
        first_line = str(error).partition('\n')[0]
        raise DistillError(
            f'{where} is corrupt, truncated or not a checkpoint ({type(error).__name__}: {first_line})'
        ) from error
    state = content.get('state_dict', content)
    if not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise DistillError(f'{where} holds no state dict of tensors')
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise DistillError(
            f'{where} has values that are NaN or infinite, in {first_of(broken)}: its training has diverged, or the '
            'file is damaged. Give another checkpoint'
        )
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    try:
        # Through the model's own hooks, which know how to read old and foreign checkpoints.
        result = model.load_state_dict(state, strict=False)
        lacking = {k for k in result.missing_keys if not k.endswith('num_batches_tracked')}
        fits = not result.unexpected_keys and (not lacking or lacking <= regenerated_names(model))
    except RuntimeError:  # shapes
        fits = False
    if not fits:
        problem = explain_mismatch(model.state_dict(), state)
        hint = _other_head(model, state, role)
        raise DistillError(f'{where} does not fit the model of model.{role}:\n{problem}{hint}')
    print_log(f'Loaded the {role} from {checkpoint}', logger='current')
    return dict((content.get('meta') or {}).get('dataset_meta') or {}) if 'state_dict' in content else {}


def _other_head(model: nn.Module, state: dict, role: str) -> str:
    """What to do if nothing but the head of a checkpoint does not fit."""
    expected = {k: v.shape for k, v in model.state_dict().items() if not k.endswith('num_batches_tracked')}
    found = {k: v.shape for k, v in state.items() if not k.endswith('num_batches_tracked')}
    heads = {key.partition('.')[0] for key, _ in expected.items() ^ found.items()}
    if not heads or heads - {'head', 'decode_head', 'auxiliary_head'}:
        return ''
    return (
        '\nEverything else fits, so the checkpoint has another head, perhaps for other classes. Use the same head, '
        f"for example with model.{role}.cfg_options={{'model.{min(heads)}.num_classes': ...}}"
    )

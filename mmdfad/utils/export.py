"""The student as a plain OpenMMLab model: a checkpoint and a self-contained config."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor

from .atomic import atomic_write
from .checkpoint import read_checkpoint
from .config import custom_imports, innermost_dataset, is_noise, own_metrics, with_type_names
from .errors import DistillError
from .generated import require_replaceable, write_config
from .quiet import quiet

VISUALIZATION_HOOKS = dict(mmpretrain='mmpretrain.VisualizationHook', mmseg='mmseg.SegVisualizationHook')
_VISUALIZERS = dict(mmpretrain='UniversalVisualizer', mmseg='SegLocalVisualizer')
_EVALUATION_KEYS = ('test_dataloader', 'test_evaluator', 'test_cfg')


def student_config(run: Config, student: Config) -> Config:
    """The plain config of a student.

    Args:
        run (Config): The config of the distillation.
        student (Config): The student's own: ``model``, ``default_scope``, and perhaps more.

    Returns:
        Config: ``model`` and what stock tools need for inference and testing. Data and metrics are those of the run.
        If it has no real data, they are those of the student's own config.
    """
    source = run if has_real_data(run) else student
    content = dict(default_scope=student.default_scope, model=with_type_names(student.model))
    scope = student.default_scope
    content.update(
        {key: _plain(with_type_names(source[key]), scope) for key in _EVALUATION_KEYS if source.get(key) is not None}
    )
    pipeline = innermost_dataset((content.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline')
    if scope == 'mmseg' and pipeline:
        content['test_pipeline'] = pipeline  # where mmseg.apis.inference_model looks
    evaluator = content.get('test_evaluator')
    if evaluator is not None and own_metrics(evaluator) != [evaluator]:  # a student has no teacher to agree with
        content['test_evaluator'] = own_metrics(evaluator)
    if student.default_scope in _VISUALIZERS:  # the stock inferencers need their own visualizer
        content['visualizer'] = dict(
            type=_VISUALIZERS[student.default_scope], name='visualizer', vis_backends=[dict(type='LocalVisBackend')]
        )
        # Without it the --show-dir of the stock test.py fails.
        content['default_hooks'] = dict(visualization=dict(type=VISUALIZATION_HOOKS[student.default_scope]))
    imports = {name for cfg in (run, student) for name in custom_imports(cfg)}
    # mmdfad is imported only if the student or its data use a type of mmdfad.
    imports = sorted(imports - {'mmdfad'} | ({'mmdfad'} if 'mmdfad.' in str(content) else set()))
    if imports:
        content['custom_imports'] = dict(imports=imports, allow_failed_imports=False)
    return Config(content)


def _plain(cfg: Any, scope: str) -> Any:
    """A copy without the scope that mmengine adds to what a config inherits from ``mmdfad::``.

    Types of the student's own package lose its name: the stock inferencers look for ``LoadAnnotations``.
    """
    if isinstance(cfg, Mapping):
        kept = {key: _plain(value, scope) for key, value in cfg.items() if (key, value) != ('_scope_', 'mmdfad')}
        package, _, name = str(kept.get('type')).rpartition('.')
        return kept | dict(type=name) if package == scope else kept
    return type(cfg)(_plain(value, scope) for value in cfg) if isinstance(cfg, list | tuple) else cfg


def has_real_data(cfg: Config) -> bool:
    """Whether a config tests on real images."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    return dataset is not None and not is_noise(dataset)


def dataset_meta_of(cfg: Config) -> dict:
    """Classes and palette of a config's test dataset, or nothing if it has none. No data are read."""
    dataset = innermost_dataset((cfg.get('test_dataloader') or {}).get('dataset') or {})
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        kind = dataset.get('type')
        cls = registry.get(kind) if isinstance(kind, str) else kind
    return {**getattr(cls, 'METAINFO', {}), **(dataset.get('metainfo') or {})}


def student_files(folder: str | Path) -> tuple[Path, Path]:
    """The config and the checkpoint of the student in a folder.

    Raises:
        DistillError: If there are files of these names that are somebody else's work.
    """
    config_file, checkpoint_file = Path(folder, 'student.py'), Path(folder, 'student.pth')
    require_replaceable(config_file)
    if checkpoint_file.exists() and not config_file.exists():
        raise DistillError(
            f'{checkpoint_file} would be overwritten, but without a student.py beside it, mmdfad did not write it; '
            'choose another folder with --work-dir (or --out-dir), or move the file'
        )
    return config_file, checkpoint_file


def write_student(folder: str | Path, cfg: Config, state_dict: Mapping[str, Tensor], meta: dict) -> tuple[Path, Path]:
    """Write ``student.py`` and ``student.pth``, each atomically, but not over files of somebody else.

    Args:
        folder (str | Path): The folder to write to.
        cfg (Config): From :func:`student_config`.
        state_dict (Mapping[str, Tensor]): The plain model's, without any prefix.
        meta (dict): The checkpoint's ``meta``: where the student comes from, and ``dataset_meta`` for stock tools.

    Returns:
        tuple[Path, Path]: The two files.

    Raises:
        DistillError: If they cannot be written, or there are others of these names.
    """
    config_file, checkpoint_file = student_files(folder)
    content = dict(meta=meta, state_dict={k: v.detach().cpu() for k, v in state_dict.items()})
    try:
        write_config(config_file, cfg.pretty_text)
        _save(checkpoint_file, content)
    except OSError as error:
        raise DistillError(
            f'cannot write the student to {folder}: {error}. Files that were complete are unchanged. Make room, or '
            'choose another --work-dir (or --out-dir)'
        ) from error
    return config_file, checkpoint_file


def add_to_student(folder: str | Path, rounds: int, **meta) -> None:
    """Add something to the ``meta`` of the student in a folder, if there is one of these rounds.

    Args:
        folder (str | Path): The folder of ``student.pth``.
        rounds (int): Rounds of the student that it holds for. ``save_best`` may have exported another one.
        meta: What to add, in plain values.
    """
    path = Path(folder, 'student.pth')
    if not path.is_file():
        return
    with quiet():
        content = read_checkpoint(str(path), f'the student {path}')
    if content['meta'].get('iter') == rounds:
        content['meta'].update(meta)
        _save(path, content)


def _save(path: Path, content: dict) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic_write(path, buffer.getvalue())

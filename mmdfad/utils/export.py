"""The student as a plain OpenMMLab model: a checkpoint and a self-contained config."""

import copy
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor

from .atomic import atomic_write
from .config import custom_imports
from .errors import DistillError

_VISUALIZERS = dict(mmpretrain='UniversalVisualizer', mmseg='SegLocalVisualizer')
_EVALUATION_KEYS = ('test_dataloader', 'test_evaluator', 'test_cfg')


def student_config(run: Config, student: Config) -> Config:
    """The plain config of a student.

    Args:
        run (Config): The config of the distillation.
        student (Config): The student's own: ``model``, ``default_scope``, and perhaps more.

    Returns:
        Config: ``model`` and what stock tools need for inference and testing. Data and metrics are those of the run,
        or if it has no real data the ones that the student's own config came with.
    """
    source = run if has_real_data(run) else student
    content = dict(default_scope=student.default_scope, model=copy.deepcopy(student.model))
    content.update({key: copy.deepcopy(source[key]) for key in _EVALUATION_KEYS if source.get(key) is not None})
    metrics = content.get('test_evaluator')
    if isinstance(metrics, list):
        # A student on its own has no teacher to agree with.
        content['test_evaluator'] = [m for m in metrics if not str(m.get('type')).endswith('AgreementMetric')]
    if student.default_scope in _VISUALIZERS:  # the stock inferencers insist on their own
        content['visualizer'] = dict(
            type=_VISUALIZERS[student.default_scope], name='visualizer', vis_backends=[dict(type='LocalVisBackend')]
        )
    imports = {name for cfg in (run, student) for name in custom_imports(cfg)}
    # mmdfad itself is asked for only where a type of its own is part of the student or its data.
    imports = sorted(imports - {'mmdfad'} | ({'mmdfad'} if 'mmdfad.' in str(content) else set()))
    if imports:
        content['custom_imports'] = dict(imports=imports, allow_failed_imports=False)
    return Config(content)


def has_real_data(cfg: Config) -> bool:
    """Whether a config tests on images, rather than on nothing or on noise."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    return dataset is not None and 'NoiseDataset' not in str(dataset.get('type'))


def dataset_meta_of(cfg: Config) -> dict:
    """Classes and palette of a config's test dataset, without touching any data; empty if there is none."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:  # wrappers such as RepeatDataset
        dataset = dataset['dataset']
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        cls = registry.get(dataset['type']) if isinstance(dataset.get('type'), str) else None
    return {**getattr(cls, 'METAINFO', {}), **(dataset.get('metainfo') or {})}


def write_student(folder: str | Path, cfg: Config, state_dict: Mapping[str, Tensor], meta: dict) -> tuple[Path, Path]:
    """Write ``student.py`` and ``student.pth``, each atomically.

    Args:
        folder (str | Path): Where to.
        cfg (Config): From :func:`student_config`.
        state_dict (Mapping[str, Tensor]): The plain model's, without any prefix.
        meta (dict): The checkpoint's ``meta``; stock tools look for ``dataset_meta``.

    Returns:
        tuple[Path, Path]: The two files.

    Raises:
        DistillError: If they cannot be written.
    """
    config_file, checkpoint_file = Path(folder, 'student.py'), Path(folder, 'student.pth')
    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict={k: v.detach().cpu() for k, v in state_dict.items()}), buffer)
    try:
        atomic_write(config_file, cfg.pretty_text.encode())
        atomic_write(checkpoint_file, buffer.getvalue())
    except OSError as error:
        raise DistillError(
            f'cannot write the student to {folder}: {error}. What was complete before is untouched; make room, or '
            'set --work-dir (or --out-dir) elsewhere'
        ) from error
    return config_file, checkpoint_file

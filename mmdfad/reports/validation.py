"""Teacher and student on the validation data of a run, if it has real ones."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.utils.config import is_noise, own_metrics
from mmdfad.utils.model import evaluating
from mmdfad.utils.quiet import quiet

from .logs import Logs


@dataclass(frozen=True)
class Scores:
    """Both networks on real data.

    Attributes:
        metrics (dict[str, dict[str, float]]): The metrics of ``'teacher'`` and ``'student'``.
        agreement (float): Share of images, or pixels, that they label alike.
    """

    metrics: dict[str, dict[str, float]]
    agreement: float


def validates_on_real_data(cfg: Config) -> bool:
    """Whether a run validates on real data."""
    loader = cfg.get('val_dataloader')
    return bool(loader) and not is_noise(loader.dataset)


def score(
    distiller: BaseDistiller, cfg: Config, logs: Logs, ratio: float, seconds: float, loader: DataLoader | None = None
) -> Scores | None:
    """Validate teacher and student once.

    Args:
        distiller (BaseDistiller): The distiller.
        cfg (Config): The config of the run.
        logs (Logs): Its logs, which tell how long a validation takes.
        ratio (float): How many times the teacher costs what the student costs.
        seconds (float): How long it may take.
        loader (DataLoader, optional): The data. Defaults to those of the config.

    Returns:
        Scores | None: The scores. None without real data; if it would take too long; with several ranks; and if the
        student takes images of another size than the teacher.
    """
    validations = max((len(values) for values in logs.metrics.values()), default=0)
    if not validations or not validates_on_real_data(cfg):
        return None
    expected = logs.seconds.get('validation', float('inf')) / validations * (1 + ratio)
    if expected > seconds or get_world_size() > 1 or distiller.student.image_size is not None:
        return None
    networks = dict(teacher=distiller.teacher.model, student=distiller.student.model)
    same = total = 0
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), torch.no_grad(), quiet():
        loader = loader or Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader), seed=0)
        evaluators = {role: _evaluator(cfg, loader.dataset) for role in networks}
        with evaluating(distiller):
            for batch in loader:
                labels = {}
                for role, model in networks.items():
                    own = copy.deepcopy(batch)  # models write into the samples
                    samples = model.val_step(own)
                    evaluators[role].process(data_samples=samples, data_batch=own)
                    labels[role] = [_label(sample) for sample in samples]
                for teacher, student in zip(*labels.values(), strict=True):
                    same, total = same + int((teacher == student).sum()), total + teacher.numel()
        found = {role: evaluator.evaluate(len(loader.dataset)) for role, evaluator in evaluators.items()}
    # Some metrics give a list with a value for each class.
    metrics = {role: {k: float(v) for k, v in values.items() if np.ndim(v) == 0} for role, values in found.items()}
    return Scores(metrics, same / total)


def _evaluator(cfg: Config, dataset: Dataset) -> Evaluator:
    evaluator = Evaluator(copy.deepcopy(own_metrics(cfg.val_evaluator)))
    evaluator.dataset_meta = getattr(dataset, 'metainfo', None)
    return evaluator


def _label(sample: BaseDataElement) -> Tensor:
    return sample.pred_sem_seg.data if 'pred_sem_seg' in sample else sample.pred_score.argmax()

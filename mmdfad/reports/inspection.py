"""A look at the networks of a run that has ended."""

from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch.utils.data import DataLoader

from mmdfad.engine.optim import fastest_dtype
from mmdfad.engine.probe import Classes, probe_noise
from mmdfad.evaluation.prediction import Prediction, predict_agreement
from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.models.label_pairs import LabelPairs
from mmdfad.models.objectives import Discrepancy

from .generated import Generated, look
from .logs import Logs
from .measure import BATCHES, measure
from .validation import Scores, score

# Examples of each kind, of a classifier and of a segmentor.
_EXAMPLES = {2: 12, 4: 4}
# A teacher that no rank holds as a whole is taken to cost so many times what the student costs.
_RATIO = 4


@dataclass(frozen=True)
class Limits:
    """How long a report may take.

    Attributes:
        latency (float): Seconds for all measured latencies together.
        validation (float): Seconds that validating both networks once more may take.
        predict (bool): Whether the agreement on real images is predicted.
    """

    latency: float
    validation: float
    predict: bool


@dataclass(frozen=True)
class Inspection:
    """What the networks of a run show.

    Attributes:
        networks (dict[str, dict]): Sizes and latencies by role. Of a teacher that is split over ranks, none.
        generated (Generated): The networks on generated images.
        classes (Classes): Names and colours of the classes.
        prediction (Prediction, optional): The predicted agreement on real images.
        probes (dict[str, LabelPairs]): The labels on each set of probe images, if it was predicted.
        scores (Scores, optional): The networks on the run's validation data.
        adversarial (bool): Whether the generator has learned to make the networks differ.
    """

    networks: dict[str, dict]
    generated: Generated
    classes: Classes
    prediction: Prediction | None
    probes: dict[str, LabelPairs]
    scores: Scores | None
    adversarial: bool


def inspect(
    distiller: BaseDistiller, cfg: Config, logs: Logs, limits: Limits, loader: DataLoader | None = None
) -> Inspection:
    """Look at the networks. With a teacher that is split over ranks, all ranks have to.

    Args:
        distiller (BaseDistiller): The distiller. It does not change.
        cfg (Config): The config of the run.
        logs (Logs): The logs of the run.
        limits (Limits): How long it may take.
        loader (DataLoader, optional): The run's validation data. Defaults to those of the config.
    """
    # Compiled networks would be compiled again for other shapes.
    with torch.compiler.set_stance('force_eager'):
        return _inspect(distiller, cfg, logs, limits, loader)


def _inspect(
    distiller: BaseDistiller, cfg: Config, logs: Logs, limits: Limits, loader: DataLoader | None
) -> Inspection:
    networks = dict(teacher=distiller.teacher, student=distiller.student)
    if distiller.teacher.shard:
        networks.pop('teacher')
    images, logits, _ = distiller.probe(probe_noise(distiller, max(BATCHES)))
    dtypes = [*dict.fromkeys((torch.float32, computing_type(cfg, distiller.device)))]
    found = measure(networks, images, dtypes, limits.latency)
    flops = {role: values['flops'] for role, values in found.items()}
    ratio = flops['teacher'] / max(flops['student'], 1) if 'teacher' in flops else _RATIO
    probes = distiller.probe_pairs() if limits.predict else {}
    agreement = {name: pairs.agreement for name, pairs in probes.items()}
    return Inspection(
        networks=found,
        generated=look(distiller, flops['student'] * (1 + ratio), _EXAMPLES[logits.ndim]),
        classes=Classes.of(distiller, cfg),
        prediction=predict_agreement(agreement) if agreement else None,
        probes=probes,
        scores=score(distiller, cfg, logs, ratio, limits.validation, loader),
        adversarial=distiller.generator.learns and any(isinstance(o, Discrepancy) for o in distiller.generation),
    )


def computing_type(cfg: Config, device: torch.device) -> torch.dtype:
    """The type that the student was trained in, by its optimizer wrapper.

    Args:
        cfg (Config): The config of the run.
        device (torch.device): Where the networks are.
    """
    student = cfg.optim_wrapper.student
    name, kind = student.get('amp_dtype', cfg.optim_wrapper.get('amp_dtype')), str(student.get('type'))
    if name is None:
        name = 'bfloat16' if 'BFloat16' in kind else student.get('dtype', 'float16') if 'Amp' in kind else 'float32'
    return getattr(torch, fastest_dtype(device) if name == 'auto' else name)

"""One real round with a model of another package, and the checks of its results."""

import math
import tempfile
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapperDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmdfad.engine import AccelerationHook, DistillOptimWrapperConstructor
from mmdfad.models import AdversarialDistiller
from mmdfad.models.distiller import PHASES
from mmdfad.models.logits import as_logits
from mmdfad.utils.export import student_config, write_student
from mmdfad.utils.state_dict import regenerated_names

from .models import load, small_partner, smallest_images

ROLES = ('teacher', 'student')
_NOISE_DIM = 8
# The student's gradients are clipped. Those of a deep untrained model on two small images can be so large that one
# step destroys it.
_OPTIMIZERS = dict(
    student=dict(optimizer=dict(type='SGD', lr=1e-3), clip_grad=dict(max_norm=1.0)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
)


def run_round(config: str, role: str, options: dict | None = None) -> str:
    """Run one accelerated round with a model, and check it.

    The losses have to be finite. The student and the generator have to get gradients. The teacher must not change.
    The exported student has to load strictly and to give the same logits.

    Args:
        config (str): The model's config.
        role (str): ``'teacher'``: the model teaches a small student. ``'student'``: it learns from a small teacher.
        options (dict, optional): ``cfg_options`` for the config.

    Returns:
        str: The image size of the round.

    Raises:
        Refused: If mmdfad refuses the model when it is built.
        AssertionError: If a check fails.
        Exception: If the model's own code fails.
    """
    network = load(dict(cfg_path=config, cfg_options=options or {}), role)
    size, channels, classes = smallest_images(network)
    networks = {name: small_partner(network, channels, classes) for name in ROLES} | {role: network}
    distiller = AdversarialDistiller(
        **networks,
        generator=dict(type='UpsampleGenerator', noise_dim=_NOISE_DIM, image_size=size, channels=channels, width=8),
        allow_random_teacher=True,
    )
    run_checked(distiller, DistillOptimWrapperConstructor(_OPTIMIZERS)(distiller), ('imitation', 'generation'))
    if role == 'student':
        check_export(distiller, torch.randn(2, channels, *size))
    return f'{size[0]}x{size[1]}'


def run_checked(distiller: AdversarialDistiller, optim_wrapper: OptimWrapperDict, phases: Sequence[str]) -> None:
    """Run an accelerated step of each phase on two images, in this order, and check losses, gradients and the teacher.

    Args:
        distiller (AdversarialDistiller): The distiller. Its start, if it has one, comes before the imitation phase.
        optim_wrapper (OptimWrapperDict): The optimizers.
        phases (Sequence[str]): ``'imitation'`` and ``'generation'``, or one of them.

    Raises:
        AssertionError: If a check fails.
    """
    before = {key: value.clone() for key, value in distiller.teacher.model.state_dict().items()}
    AccelerationHook().accelerate(distiller, optim_wrapper)
    distiller.train()
    gradients = {phase: _watch_gradients(getattr(distiller, PHASES[phase])) for phase in phases}
    noise = torch.randn(2, distiller.generator.noise_dim)
    for phase in phases:
        if phase == 'imitation' and distiller.start is not None:
            distiller.apply_start(lambda count: distiller.generator.sample(torch.randn(count, noise.shape[1])).float())
        log = getattr(distiller, f'{phase}_step')(noise, optim_wrapper[PHASES[phase]])
        loss, norms = log[f'{phase}_loss'], gradients[phase]
        _require(loss.isfinite(), f'{phase}_loss is {loss.item()}')
        usable = bool(norms) and all(map(math.isfinite, norms)) and max(norms) > 0
        _require(usable, f'{PHASES[phase]} gets no usable gradient')
    after = distiller.teacher.model.state_dict()
    _require(all(torch.equal(before[key], after[key]) for key in before | after), 'the teacher has changed')


def _watch_gradients(module: nn.Module) -> list[float]:
    """The largest absolute value of each gradient that the parameters will get."""
    norms: list[float] = []

    def watch(parameter: nn.Parameter) -> None:
        norms.append(torch.linalg.vector_norm(parameter.grad, math.inf).item())

    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(watch)
    return norms


def check_export(distiller: AdversarialDistiller, images: Tensor) -> None:
    """Check that the exported student is a plain model that loads strictly and gives the same logits.

    Args:
        distiller (AdversarialDistiller): The distiller.
        images (Tensor): Images [N, C, H, W] that the student takes.

    Raises:
        AssertionError: If it is not.
    """
    with tempfile.TemporaryDirectory() as folder:
        state = distiller.student_state(distiller.state_dict())
        config, checkpoint = write_student(folder, student_config(Config(), distiller.student.cfg), state, {})
        cfg = Config.fromfile(config)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        state = torch.load(checkpoint, weights_only=True, mmap=True)['state_dict']
        missing, unexpected = model.load_state_dict(state, strict=False)
    loads = not unexpected and (not missing or {*missing} <= regenerated_names(model))
    _require(loads, 'the exported student does not load')
    reloaded = as_logits(revert_sync_batchnorm(model)).eval()
    logits = []
    for student in (distiller.student.logits.eval(), reloaded):
        torch.manual_seed(0)  # some heads draw random numbers in eval mode
        with torch.no_grad():
            logits.append(student(images))
    _require(bool(logits[0].isfinite().all()), 'the student has become NaN or infinite')
    _require(torch.equal(*logits), 'the exported student gives other logits')


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)

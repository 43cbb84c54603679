"""Data-free adversarial distillation (DFAD, arXiv 1912.11006): a teacher, a student, a generator, and two phases."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.migration import refuse_keys
from mmdfad.utils.model import evaluating, frozen

from .base_distiller import BaseDistiller
from .build import build_network
from .checks import check_networks
from .generators import Generator
from .network import Network
from .objectives import Objectives
from .parts import build_part
from .starts import Start
from .step import Step, labels_of

# Which network each phase updates. The method `<phase>_step` of the distiller is one step of it.
PHASES = dict(imitation='student', generation='generator')


@MODELS.register_module()
class AdversarialDistiller(BaseDistiller):
    """A frozen teacher, a student that imitates it, and a generator that makes images of noise.

    A round of :class:`~mmdfad.engine.AdversarialDistillLoop` runs two phases::

        imitation    images = generator.sample(noise)     update the student:   min imitation objectives
        generation   images = generator(noise)            update the generator: min generation objectives
                                                          (discrepancies of student and teacher are maximised)

    Teacher and student see the same images. As in the paper's code, student and generator are in train mode in both
    phases. The teacher is outside the module tree. It is never in train mode, in a state dict or in an optimizer.

    Args:
        teacher (dict | Network): The model to compress, see :func:`~mmdfad.models.build.build_network`. It needs a
            ``checkpoint``.
        student (dict | Network): The smaller model. Its ``checkpoint`` is optional.
        generator (dict): Where images come from, such as ``dict(type='DCGANGenerator', ...)``.
        generation (Sequence[dict]): What makes an image good: objectives for the generator. Defaults to the L1
            discrepancy of logits, which the generator maximises.
        imitation (Sequence[dict]): What the student imitates: objectives for the student. Defaults to the L1
            discrepancy of logits.
        start (dict, optional): What the student knows at first, such as ``dict(type='ChannelSelection')``. Defaults to
            its own initialisation or checkpoint.
        allow_random_teacher (bool): Accept a teacher without checkpoint. Defaults to False.
        val_agreement (bool): Add the labels of teacher and student to the predictions on validation and test data, for
            :class:`~mmdfad.evaluation.AgreementMetric`. Costs a forward pass of both. Defaults to False.
        data_preprocessor (dict, optional): For a teacher and student that are given as model dicts without one.
            mmengine's Runner passes the config's top-level ``data_preprocessor`` here.

    Raises:
        DistillError: If the parts do not fit together.
    """

    def __init__(
        self,
        teacher: dict | Network,
        student: dict | Network,
        generator: dict,
        generation: Sequence[dict] = (dict(type='L1Discrepancy'),),
        imitation: Sequence[dict] = (dict(type='L1Discrepancy'),),
        start: dict | None = None,
        allow_random_teacher: bool = False,
        val_agreement: bool = False,
        data_preprocessor: dict | None = None,
        **unknown: Any,
    ) -> None:
        refuse_keys('model', unknown, type(self))
        # The teacher first: it draws the same random numbers whatever the student is.
        super().__init__(
            build_network(teacher, 'teacher', data_preprocessor),
            build_network(student, 'student', data_preprocessor),
            build_part(generator, 'model.generator', Generator),
            val_agreement,
        )
        if self.teacher.checkpoint is None and not allow_random_teacher:
            raise DistillError(
                'the teacher has no weights: set model.teacher.checkpoint to the path or URL of a trained checkpoint '
                '(or model.allow_random_teacher=True, to try things out)'
            )
        self.generation = Objectives(generation, 'generation', adversarial=True)
        self.imitation = Objectives(imitation, 'imitation', adversarial=False)
        self.start = None if start is None else build_part(start, 'model.start', Start)
        self.num_classes = check_networks(self.teacher, self.student, self.generator)
        for objectives in (self.generation, self.imitation):
            objectives.check_labels(self.teacher)
            objectives.bind(self.teacher, self.student)
        if self.start is not None:
            self.start.check(self.teacher, self.student)

    def imitation_step(
        self, batch: Tensor | dict, optim_wrapper: OptimWrapper, round_index: int = 0, progress: float = 0.0
    ) -> dict[str, Tensor]:
        """Update the student once, to imitate the teacher on generated images.

        Args:
            batch (Tensor | dict): Noise [N, noise_dim]; or a batch of a dataset of real images, for baselines.
            optim_wrapper (OptimWrapper): The student's.
            round_index (int): Number of the round, from 0. Defaults to 0.
            progress (float): Share of the run that is done. Defaults to 0.

        Returns:
            dict[str, Tensor]: ``imitation_loss``, the values of several objectives, and ``agreement``: the share of
            images or pixels with the same label.
        """
        _zero_grad(optim_wrapper)
        with self.imitation.recording(self.teacher, self.student, round_index):
            with optim_wrapper.optim_context(self.student):
                step = Step(*self._sample(batch), round_index, progress)
                with torch.no_grad():
                    step.teacher = self.teacher(step.images)
                self.student.replace(self.imitation.replacements(step))
                step.student = self.student(step.images)
                loss, log = self.imitation(step)
            optim_wrapper.update_params(loss)
        return log | dict(agreement=agreement(step.student.logits, step.teacher.logits))

    def generation_step(
        self,
        noise: Tensor,
        optim_wrapper: OptimWrapper,
        round_index: int = 0,
        progress: float = 0.0,
        student_bn_eval: bool = False,
    ) -> dict[str, Tensor]:
        """Update the generator once.

        Args:
            noise (Tensor): Noise [N, noise_dim].
            optim_wrapper (OptimWrapper): The generator's.
            round_index (int): Number of the round, from 0. Defaults to 0.
            progress (float): Share of the run that is done. Defaults to 0.
            student_bn_eval (bool): Keep the student's batch norms in eval mode, so that they neither use nor change
                batch statistics. Defaults to False, as in the paper's code.

        Returns:
            dict[str, Tensor]: ``generation_loss``, and the values of several objectives.
        """
        noise = noise.to(self.device, non_blocking=True)
        log: dict[str, Tensor] = {}

        def loss(images: Tensor, own_noise: Tensor = noise) -> Tensor:
            step = Step(images.type_as(noise), own_noise, round_index, progress)
            if self.generation.needs('student', round_index):
                step.student = self.student(step.images)
            if self.generation.needs('teacher', round_index):
                step.teacher = self.teacher(step.images)
            value, values = self.generation(step)
            log.update(values)
            return value

        _zero_grad(optim_wrapper)
        recording = self.generation.recording(self.teacher, self.student, round_index)
        with frozen(self.student), self._student_mode(student_bn_eval), recording:
            self.generator.update(noise, loss, optim_wrapper)
        return log

    def apply_start(self, sample: Callable[[int], Tensor]) -> None:
        """Give the student its first weights.

        Args:
            sample (Callable[[int], Tensor]): Generates so many images [n, C, H, W].
        """
        with torch.no_grad(), evaluating(self.student):
            self.start.apply(self.teacher, self.student, sample)

    def _sample(self, batch: Tensor | dict) -> tuple[Tensor, Tensor | None]:
        """Images [N, C, H, W] in the teacher's pixel space, and the noise that they come from."""
        if not isinstance(batch, Tensor):
            return self.teacher.model.data_preprocessor(batch, False)['inputs'], None
        noise = batch.to(self.device, non_blocking=True)
        return self.generator.sample(noise).type_as(noise), noise  # autocast may have made it bf16

    def _student_mode(self, bn_eval: bool) -> AbstractContextManager:
        if not bn_eval:
            return nullcontext()
        return evaluating(nn.ModuleList(m for m in self.student.modules() if isinstance(m, _BatchNorm)))


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The share of images or pixels that student and teacher label alike: a scalar in [0, 1]."""
    return (labels_of(student_logits) == labels_of(teacher_logits)).float().mean()


def _zero_grad(optim_wrapper: OptimWrapper) -> None:
    """Clear gradients that other backward passes have left, but not those that are being accumulated."""
    if optim_wrapper.should_update():
        optim_wrapper.zero_grad()

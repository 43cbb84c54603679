"""Acceleration as a layer that can be taken off."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdfad.acceleration import (
    FastForm,
    attend_in_float32,
    cast_weights,
    checkpoint_activations,
    computing_dtype,
    fold_norms,
    optimize_dilated_convs,
    sample_in,
    to_channels_last,
    train_in_channels_last,
)
from mmdfad.models.base_distiller import BaseDistiller
from mmdfad.registry import HOOKS
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating, unwrap

DTYPES = dict(bfloat16=torch.bfloat16, float16=torch.float16)


@HOOKS.register_module()
class AccelerationHook(Hook):
    """Makes teacher, student and generator faster or smaller before the first round.

    Their outputs stay the same up to rounding. Without this hook the plain algorithm runs.

    Args:
        enabled (bool): Whether to do anything. Defaults to True.
        fold_teacher (bool): Run the teacher as a copy with folded batch norms
            (:func:`~mmdfad.acceleration.fold_norms`). Objectives that look at what the copy lacks, and validation, get
            the exact teacher. Defaults to True.
        channels_last (bool): Compute convolutions in the memory format that is faster on CPUs and tensor cores: those
            of generator and teacher always, those of the student in train mode. Defaults to True.
        optimize_dilated_convs (bool): Leave out the products of dilated convolutions with padding, and avoid the slow
            backward pass of depthwise ones on CPUs (:func:`~mmdfad.acceleration.optimize_dilated_convs`): those of the
            folded teacher always, those of the student in train mode. Defaults to True.
        inference_dtype (str, optional): ``'bfloat16'`` or ``'float16'``, the autocast type of generator and teacher in
            the imitation phase, where no gradient passes through them. Defaults to that of the student's optimizer
            wrapper.
        compile (dict[str, dict], optional): Which of ``'teacher'``, ``'student'`` and ``'generator'`` go through
            ``torch.compile``, each with its arguments: ``dict(student=dict(mode='max-autotune'))``.
        activation_checkpointing (dict[str, Sequence[str]], optional): Modules of ``'teacher'`` and ``'student'`` that
            compute their activations again in the backward pass, to save memory: ``dict(teacher=['backbone.layer1'])``.

    Raises:
        DistillError: If a setting names something that does not exist.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        enabled: bool = True,
        fold_teacher: bool = True,
        channels_last: bool = True,
        optimize_dilated_convs: bool = True,
        inference_dtype: str | None = None,
        compile: Mapping[str, Mapping] | None = None,  # torch's name
        activation_checkpointing: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        key = 'default_hooks.acceleration'
        if inference_dtype not in (None, *DTYPES):
            raise DistillError(f'{key}.inference_dtype must be one of {[*DTYPES]} or None, but is {inference_dtype!r}')
        self.enabled = enabled
        self.fold_teacher = fold_teacher
        self.channels_last = channels_last
        self.optimize_dilated_convs = optimize_dilated_convs
        self.inference_dtype = DTYPES.get(inference_dtype)
        self.compile = dict(compile or {})
        self.activation_checkpointing = dict(activation_checkpointing or {})
        _require_roles(self.compile, ('teacher', 'student', 'generator'), f'{key}.compile')
        _require_roles(self.activation_checkpointing, ('teacher', 'student'), f'{key}.activation_checkpointing')

    def before_train(self, runner: Runner) -> None:
        """Accelerate the networks of the run."""
        if self.enabled:
            self.accelerate(unwrap(runner.model), runner.optim_wrapper)

    def accelerate(self, distiller: BaseDistiller, optim_wrapper: OptimWrapperDict) -> None:
        """Change the networks in place, on the device that they train on.

        Args:
            distiller (BaseDistiller): The distiller, without a wrapper for many ranks.
            optim_wrapper (OptimWrapperDict): The optimizers, which tell the types that the phases compute in.
        """
        teacher, generator = distiller.teacher, distiller.generator
        with torch.no_grad(), evaluating(distiller):
            images = generator(torch.zeros(2, generator.noise_dim, device=distiller.device)).float()
            if not teacher.shard:
                folds = fold_norms(teacher.logits, images) if self.fold_teacher else teacher.logits
                if folds is not teacher.logits or self.inference_dtype is not None:
                    teacher.fast = FastForm(folds, teacher.logits, self.inference_dtype).eval()
            if self.channels_last:
                self._change_layouts(distiller, images)
        if self.optimize_dilated_convs:
            optimize_dilated_convs(distiller.student.logits, only_in_training=True)
        if teacher.fast is not None and teacher.fast.model is not teacher.logits:
            if self.optimize_dilated_convs:
                optimize_dilated_convs(teacher.fast.model)
            self._cast_teacher(distiller, optim_wrapper)
        if distiller.device.type == 'cpu':
            for model in (distiller.student.logits, *_forms(teacher)):
                attend_in_float32(model)
        if self.inference_dtype is not None:
            sample_in(generator, self.inference_dtype, distiller.device.type)
        self._checkpoint_and_compile(distiller)

    def _change_layouts(self, distiller: BaseDistiller, images: Tensor) -> None:
        teacher, student, generator = distiller.teacher, distiller.student, distiller.generator
        train_in_channels_last(student.logits, student.pixels(images))
        to_channels_last(generator.learner, images.new_zeros(len(images), generator.noise_dim))
        if not teacher.shard:
            for model in _forms(teacher):
                to_channels_last(model, images)

    def _cast_teacher(self, distiller: BaseDistiller, optim_wrapper: OptimWrapperDict) -> None:
        """Keep the folded teacher's weights in the type that all phases compute in, if they agree on a lower one."""
        fast = distiller.teacher.fast
        dtypes = {self._teacher_dtype(distiller, name, wrapper) for name, wrapper in optim_wrapper.items()}
        if len(dtypes) == 1 and torch.float32 not in dtypes:
            fast.weights_dtype = dtypes.pop()
            cast_weights(fast.model, fast.weights_dtype)

    def _teacher_dtype(self, distiller: BaseDistiller, updated: str, optim_wrapper: OptimWrapper) -> torch.dtype:
        """The type that the teacher computes in while the student or the generator is updated."""
        if updated == 'student' and self.inference_dtype is not None:
            return self.inference_dtype
        with optim_wrapper.optim_context(getattr(distiller, updated)):
            return computing_dtype(distiller.device.type)

    def _checkpoint_and_compile(self, distiller: BaseDistiller) -> None:
        teacher, student = distiller.teacher, distiller.student
        models = dict(teacher=_forms(teacher), student=[student.logits], generator=[distiller.generator.learner])
        for role, names in self.activation_checkpointing.items():
            for model in models[role]:
                key = f'default_hooks.acceleration.activation_checkpointing.{role}'
                checkpoint_activations(model.model, names, key)
        for role, arguments in self.compile.items():
            models[role][-1].compile(**arguments)


def _forms(teacher: nn.Module) -> list[nn.Module]:
    """The exact teacher, and its fast form if there is one."""
    fast = [] if teacher.fast is None or teacher.fast.model is teacher.logits else [teacher.fast.model]
    return [teacher.logits, *fast]


def _require_roles(settings: Mapping, roles: Sequence[str], key: str) -> None:
    for role in settings:
        if role not in roles:
            raise DistillError(f'{key} takes {", ".join(roles)}, but found {role!r}')

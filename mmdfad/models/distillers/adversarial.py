"""Data-free adversarial distillation (DFAD, arXiv 1912.11006): the players and their two steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models.acceleration import (
    cast_weights,
    checkpoint_activations,
    fold_norms,
    hasten_dilations,
    suits_channels_last,
    to_channels_last,
)
from mmdfad.models.logits import LogitModel, as_logits, detach_auxiliary_heads
from mmdfad.models.pixels import PixelMap, PixelSpace, resize_images
from mmdfad.models.players import Player, build_player
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating, frozen
from mmdfad.utils.state_dict import select_weights, weights_sha256

from .checks import check_labels, probe_logits


@MODELS.register_module()
class AdversarialDistiller(BaseModel):
    """A frozen teacher, a student that imitates it, and a generator that looks for where they disagree.

    Per round of :class:`~mmdfad.engine.AdversarialDistillLoop`::

        imitation step   min over student    imitation_loss(student(x), teacher(x))    x = generator(noise), fixed
        generation step  min over generator  -generation_loss(student(x), teacher(x))  student and teacher frozen

    As in the paper's reference code, student and generator keep batch norm in train mode in both steps. The teacher
    is no part of the module tree: it is never in train mode, in a state dict, an optimizer or a model wrapper.

    Args:
        teacher (dict | Player): The model to compress, see :func:`~mmdfad.models.players.build_player`. Needs
            ``checkpoint``.
        student (dict | Player): The smaller model, likewise. Its ``checkpoint`` is optional.
        generator (dict): A generator, such as ``dict(type='DCGANGenerator', ...)``.
        imitation_loss (dict): The discrepancy that the student minimises. Defaults to L1 of logits.
        generation_loss (dict): The discrepancy that the generator maximises. Defaults to L1 of logits.
        generation_priors (Sequence[dict]): What the generator minimises besides, each with a ``weight``, such as
            ``dict(type='BNStatisticsPrior', weight=1.0)``. Defaults to nothing.
        replay (dict, optional): A :class:`~mmdfad.models.replay.ReplayPool` of past images, which each imitation step
            adds to the new ones.
        replay_loss (dict, optional): The discrepancy on replayed images. Defaults to KL.
        augment (dict, optional): What changes images before student and teacher see them in imitation steps, such as
            ``dict(type='RandomFlipCrop')``.
        allow_random_teacher (bool): Accept a teacher without checkpoint. Defaults to False.
        freeze_student_norms (bool): Keep the student's batch norms in eval mode in generation steps, so that they
            neither use nor change statistics there. Defaults to False, as in the reference code.
        val_agreement (bool): Add the labels of teacher and student to the predictions on validation and test data,
            for :class:`~mmdfad.evaluation.AgreementMetric`. Costs a forward pass of both. Defaults to False.
        init_student_from_teacher (bool): Start a student that is a narrower version of the teacher with some of the
            teacher's channels (:func:`~mmdfad.utils.state_dict.select_weights`). Defaults to False.
        inference_dtype (str, optional): ``'bfloat16'`` or ``'float16'``, the autocast type of generator and teacher in
            imitation steps, where no gradient passes through them. Defaults to that of the student's optimizer wrapper.
        fold_teacher (bool): Give the teacher's logits by a copy with folded batch norms
            (:func:`~mmdfad.models.acceleration.fold_norms`), in the type that its first step computes in if there is no
            ``inference_dtype``; by itself in steps of another type, and where a prior looks into it. Defaults to True.
        channels_last (bool): Compute convolutions in the layout that is the faster one on CPUs and tensor cores
            (:func:`~mmdfad.models.acceleration.to_channels_last`): those of generator and teacher always, those of the
            student in train mode. Defaults to True.
        hasten_dilations (bool): Spare dilated convolutions the taps that see only padding, and depthwise ones on CPUs
            their slow backward pass (:func:`~mmdfad.models.acceleration.hasten_dilations`): those of the folded teacher
            always, those of the student in train mode. Defaults to True.
        compiled (dict[str, dict], optional): Which of ``'teacher'``, ``'student'`` and ``'generator'`` go through
            ``torch.compile``, each with its arguments, as in ``dict(student=dict(mode='max-autotune'))``.
        checkpointed (dict[str, Sequence[str]], optional): Parts of ``'teacher'`` and ``'student'`` that compute their
            activations anew in the backward pass, which saves memory, as in ``dict(teacher=['backbone.layer1'])``.
        shard_teacher (bool): Split the teacher's weights over the ranks, for one that is too large for a device (see
            :class:`~mmdfad.models.DistributedDistiller`). It is not folded then. Defaults to False.
        data_preprocessor (dict, optional): For teacher and student given inline without one. mmengine's Runner passes
            the config's top-level ``data_preprocessor`` here.

    Raises:
        DistillError: If the players do not fit together.
    """

    def __init__(
        self,
        teacher: dict | Player,
        student: dict | Player,
        generator: dict,
        imitation_loss: dict | None = None,
        generation_loss: dict | None = None,
        generation_priors: Sequence[dict] = (),
        replay: dict | None = None,
        replay_loss: dict | None = None,
        augment: dict | None = None,
        allow_random_teacher: bool = False,
        freeze_student_norms: bool = False,
        val_agreement: bool = False,
        init_student_from_teacher: bool = False,
        inference_dtype: str | None = None,
        fold_teacher: bool = True,
        channels_last: bool = True,
        hasten_dilations: bool = True,
        compiled: Mapping[str, Mapping] | None = None,
        checkpointed: Mapping[str, Sequence[str]] | None = None,
        shard_teacher: bool = False,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__()
        if inference_dtype not in (None, 'bfloat16', 'float16'):
            raise DistillError(
                f"model.inference_dtype must be 'bfloat16', 'float16' or None, but found {inference_dtype!r}"
            )
        checkpoint = teacher.checkpoint if isinstance(teacher, Player) else teacher.get('checkpoint')
        if checkpoint is None and not allow_random_teacher:
            raise DistillError(
                'the teacher has no weights: set model.teacher.checkpoint to the path or URL of a trained checkpoint '
                '(or model.allow_random_teacher=True, to try things out)'
            )
        # The teacher first: it draws from the random stream the same way whatever the student is.
        self._outside = _Outside(
            teacher=build_player(teacher, 'teacher', data_preprocessor),
            student=build_player(student, 'student', data_preprocessor),
        )
        if init_student_from_teacher:
            self._init_student()
        detach_auxiliary_heads(self.teacher_player.model)
        self._outside.teacher_logits = _as_logits(self.teacher_player.model, 'teacher').eval().requires_grad_(False)
        self._outside.student_auxiliary = detach_auxiliary_heads(self.student_player.model)
        self.student = _as_logits(self.student_player.model, 'student')
        self.generator = _build(generator, 'generator')
        self.imitation_loss = _build(imitation_loss or dict(type='L1Discrepancy'), 'imitation_loss')
        self.generation_loss = _build(generation_loss or dict(type='L1Discrepancy'), 'generation_loss')
        self.generation_priors = nn.ModuleList()
        self.prior_weights = []
        for prior in generation_priors:
            if not isinstance(prior, Mapping):
                raise DistillError(f'model.generation_priors must be a list of dicts, but holds {prior!r}')
            prior = dict(prior)
            self.prior_weights.append(float(prior.pop('weight', 1.0)))
            self.generation_priors.append(_build(prior, 'generation_priors'))
        self.replay = _build(replay, 'replay') if replay else None
        self.replay_loss = _build(replay_loss or dict(type='KLDiscrepancy'), 'replay_loss')
        self.augment = _build(augment, 'augment') if augment else nn.Identity()
        self.teacher_pixels = PixelSpace.of(self.teacher_player.model)
        self.to_student_pixels = PixelMap(
            self.teacher_pixels, PixelSpace.of(self.student_player.model), self.student_player.image_size
        )
        self.student_layout = torch.contiguous_format
        self.freeze_student_norms = freeze_student_norms
        self.val_agreement = val_agreement
        self.shard_teacher = shard_teacher and get_world_size() > 1
        self.inference_dtype = getattr(torch, inference_dtype) if inference_dtype else None
        images, self.num_classes = self._check_players()
        folds = fold_teacher and not self.shard_teacher
        self._outside.folded_teacher = fold_norms(self.teacher, images) if folds else self.teacher
        if channels_last:
            self._to_channels_last(images)
        self._accelerate(hasten_dilations, compiled or {}, checkpointed or {})

    @property
    def teacher_player(self) -> Player:
        """Player: The teacher's model, config and origin."""
        return self._outside.teacher

    @property
    def student_player(self) -> Player:
        """Player: The student's model, config and origin; its model bare, also under a model wrapper."""
        return self._outside.student

    @cached_property
    def teacher_record(self) -> dict[str, str | None]:
        """dict[str, str | None]: The teacher's ``checkpoint`` and the ``sha256`` of its weights."""
        return dict(checkpoint=self.teacher_player.checkpoint, sha256=weights_sha256(self.teacher_player.model))

    @property
    def teacher(self) -> LogitModel:
        """LogitModel: The frozen teacher, with exactly the weights of its checkpoint."""
        return self._outside.teacher_logits

    @property
    def folded_teacher(self) -> LogitModel:
        """LogitModel: The same to rounding, and faster; or the teacher itself."""
        return self._outside.folded_teacher

    @property
    def device(self) -> torch.device:
        """torch.device: Where the players are."""
        return next(self.student.parameters()).device

    def synthesize(self, batch: Tensor | dict) -> Tensor:
        """What a batch of the training dataloader stands for.

        Args:
            batch (Tensor | dict): Noise [N, noise_dim], for the generator; or a batch of a dataset of real images, for
                baselines that have some.

        Returns:
            Tensor: Images [N, C, H, W] in the teacher's normalised pixel space.
        """
        if isinstance(batch, Tensor):
            noise = batch.to(self.device, non_blocking=True)
            return self.generator(noise).type_as(noise)  # autocast may have made it less
        return self.teacher_player.model.data_preprocessor(batch, False)['inputs']

    def student_logits(self, images: Tensor) -> Tensor:
        """The student's logits of the teacher's images.

        Args:
            images (Tensor): Images [N, C, H, W] in the teacher's normalised pixel space.

        Returns:
            Tensor: Logits [N, K] or [N, K, H, W], as the teacher's, also where the student works at another size.
        """
        inputs = self.to_student_pixels(images)
        if self.student.training:  # in eval mode it computes as the exported student will
            inputs = inputs.contiguous(memory_format=self.student_layout)
        logits = self.student(inputs)
        return logits if logits.ndim == 2 else resize_images(logits, images.shape[2:])

    def imitation_step(self, batch: Tensor | dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Update the student once, to agree with the teacher on generated images.

        Args:
            batch (Tensor | dict): Noise [N, noise_dim], or what else :meth:`synthesize` takes.
            optim_wrapper (OptimWrapper): The student's.

        Returns:
            dict[str, Tensor]: ``imitation_loss``, ``agreement``: the share of labels that are the same, and with a
            filled replay pool ``replay_loss``.
        """
        _zero_grad(optim_wrapper)
        with optim_wrapper.optim_context(self.student):
            with self._inference():
                images = self.synthesize(batch)
            images, teacher_logits = self._taught(images)
            student_logits = self.student_logits(images)
            loss = self.imitation_loss(student_logits, teacher_logits)
            log = dict(imitation_loss=loss.detach(), agreement=agreement(student_logits, teacher_logits))
            replayed = self._replayed_discrepancy()
            if replayed is not None:
                loss = loss + replayed
                log['replay_loss'] = replayed.detach()
        optim_wrapper.update_params(loss)
        return log

    def _replayed_discrepancy(self) -> Tensor | None:
        images = self.replay.sample() if self.replay is not None else None
        if images is None:
            return None
        images, teacher_logits = self._taught(images)
        return self.replay_loss(self.student_logits(images), teacher_logits)

    def _taught(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images as the student is to see them, and what the teacher says of them."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            images = self.augment(images)
        with self._inference():
            return images, self._teacher_logits(images)

    def _teachers(self) -> list[LogitModel]:
        return [self.teacher] if self.folded_teacher is self.teacher else [self.teacher, self.folded_teacher]

    def _teacher_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits by its folded copy, whose weights are put into the type of the first call."""
        teacher, device = self.folded_teacher, images.device.type
        if teacher is self.teacher or self.inference_dtype is not None:  # for which steps are of several types
            return teacher(images)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        if self._outside.folded_dtype is None:
            self._outside.folded_dtype = dtype
            if dtype != torch.float32:
                cast_weights(teacher, dtype)
        return (teacher if dtype == self._outside.folded_dtype else self.teacher)(images)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """For what no gradient passes through."""
        own_type = torch.autocast(self.device.type, self.inference_dtype) if self.inference_dtype else nullcontext()
        with torch.no_grad(), own_type:
            yield

    def generation_step(self, noise: Tensor, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Update the generator once, towards images on which student and teacher disagree.

        Args:
            noise (Tensor): Noise [N, noise_dim].
            optim_wrapper (OptimWrapper): The generator's.

        Returns:
            dict[str, Tensor]: ``generation_loss``, the negative discrepancy plus weighted priors, and the priors.
        """
        _zero_grad(optim_wrapper)
        with frozen(self.student), self._student_norms_for_generation():
            with optim_wrapper.optim_context(self.generator):
                images = self.synthesize(noise)
                student_logits = self.student_logits(images)
                with ExitStack() as stack:
                    for prior in self.generation_priors:
                        stack.enter_context(prior.watching(self.teacher))
                    watched = any(prior.watches for prior in self.generation_priors)
                    teacher_logits = self.teacher(images) if watched else self._teacher_logits(images)
                priors = {prior.name: prior(teacher_logits) for prior in self.generation_priors}
                loss = -self.generation_loss(student_logits, teacher_logits)
                for weight, value in zip(self.prior_weights, priors.values(), strict=True):
                    loss = loss + weight * value
            optim_wrapper.update_params(loss)
        if self.replay is not None:
            self.replay.push(images)
        return dict(generation_loss=loss.detach(), **{name: value.detach() for name, value in priors.items()})

    def _student_norms_for_generation(self) -> AbstractContextManager:
        if not self.freeze_student_norms:
            return nullcontext()
        norms = nn.ModuleList(m for m in self.student.modules() if isinstance(m, _BatchNorm))
        return evaluating(norms)

    def plain_student_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the student as the plain model that its config describes.

        Args:
            state_dict (Mapping[str, Tensor]): The distiller's, perhaps with averaged weights.

        Returns:
            dict[str, Tensor]: With the auxiliary heads that distillation does without, as they were built or loaded.
        """
        prefix = 'student.model.'
        state = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        heads = self._outside.student_auxiliary
        if heads is not None:
            state.update({f'auxiliary_head.{k}': v for k, v in heads.state_dict().items()})
        return state

    @torch.no_grad()
    def probe(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the three players make of some noise, in eval mode, leaving no trace.

        Args:
            noise (Tensor): Noise [N, noise_dim].

        Returns:
            tuple[Tensor, Tensor, Tensor]: Images [N, C, H, W] in the teacher's pixel space, and the labels [N] of
            student and teacher.
        """
        with evaluating(self):
            images = self.generator(noise.to(self.device))
            student_logits = self.student_logits(images)
            return images, student_logits.argmax(1), self.teacher(images).argmax(1)

    def val_step(self, data: Tensor | dict) -> list:
        """The student's own predictions on real data; on noise, the labels of student and teacher.

        Args:
            data (Tensor | dict): A batch of a real dataset, or noise [N, noise_dim].
        """
        if isinstance(data, Tensor):
            _, student_labels, teacher_labels = self.probe(data)
            return [dict(student_label=s, teacher_label=t) for s, t in zip(student_labels, teacher_labels, strict=True)]
        student = self.student_player.model
        inputs = student.data_preprocessor(data, False)
        samples = student(**inputs, mode='predict')
        if self.val_agreement:
            student_labels = self.student(inputs['inputs']).argmax(1)
            labels = zip(student_labels, self._teacher_labels(data, student_labels), strict=True)
            for sample, (student_label, teacher_label) in zip(samples, labels, strict=True):
                sample.set_field(student_label, 'student_label')
                sample.set_field(teacher_label, 'teacher_label')
        return samples

    test_step = val_step

    def _teacher_labels(self, data: dict, student_labels: Tensor) -> Tensor:
        """The teacher's labels on real data, which come at the student's size, if it has one of its own."""
        images = self.teacher_player.model.data_preprocessor(data, False)['inputs']
        if self.student_player.image_size is not None:
            sizes = zip(images.shape[2:], self.generator.image_size, self.student_player.image_size, strict=True)
            images = resize_images(images, [round(n * own / students) for n, own, students in sizes])
        logits = self.teacher(images)
        return (logits if logits.ndim == 2 else resize_images(logits, student_labels.shape[1:])).argmax(1)

    def train_step(self, data: Tensor, optim_wrapper: OptimWrapper) -> dict:
        """Refuse mmengine's loops, which know of one step only."""
        raise DistillError(
            "AdversarialDistiller trains in train_cfg.type='mmdfad.AdversarialDistillLoop', but another loop ran it"
        )

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """The student's own forward, see mmpretrain and mmseg."""
        return self.student_player.model(inputs, data_samples, mode=mode)

    def init_weights(self) -> None:
        """Nothing: the players were initialised, and their checkpoints loaded, when they were built."""

    def _apply(self, fn: Callable, recurse: bool = True) -> 'AdversarialDistiller':
        """Let the teacher follow to other devices and types."""
        if not self.shard_teacher:  # whose parts are put where they belong when it is split
            for teacher in {self.teacher, self.folded_teacher}:
                teacher._apply(fn, recurse)
                teacher.eval()  # some attentions cache what they need in eval mode, outside their buffers
        return super()._apply(fn, recurse)

    def _set_device(self, device: torch.device) -> None:
        super()._set_device(device)
        self.teacher.model._set_device(device)

    def _init_student(self) -> None:
        """Give the student the teacher's weights, as far as it has room."""
        if self.student_player.checkpoint is not None:
            raise DistillError('give either model.student.checkpoint or model.init_student_from_teacher=True, not both')
        student = self.student_player.model
        selected = select_weights(student.state_dict(), self.teacher_player.model.state_dict())
        # Names are those of the state dict, which hooks may have changed.
        parameters = {k for k, v in student.state_dict(keep_vars=True).items() if isinstance(v, nn.Parameter)}
        lacking = sorted(parameters - selected.keys())
        if lacking:
            raise DistillError(
                'model.init_student_from_teacher=True needs a student that is a narrower version of the teacher, but '
                f'{len(lacking)} of its parameters have no counterpart of at least their size there, such as '
                f'{lacking[0]}; remove it'
            )
        student.load_state_dict(selected, strict=False)

    def _to_channels_last(self, images: Tensor) -> None:
        """Change the layout of those players that it suits."""
        with evaluating(self):
            if suits_channels_last(self.student, self.to_student_pixels(images)):
                self.student_layout = torch.channels_last
            to_channels_last(self.generator, torch.zeros(len(images), self.generator.noise_dim))
            for teacher in () if self.shard_teacher else self._teachers():
                to_channels_last(teacher, images)

    def _accelerate(self, dilations: bool, compiled: Mapping, checkpointed: Mapping) -> None:
        """Make the players faster and smaller, as the options of this name say."""
        players = dict(teacher=self._teachers(), student=[self.student], generator=[self.generator])
        if dilations:
            hasten_dilations(self.student, only_in_training=True)
            if self.folded_teacher is not self.teacher:
                hasten_dilations(self.folded_teacher)
        for name, parts in checkpointed.items():
            _require_player(name, ('teacher', 'student'), 'checkpointed')
            for player in players[name]:
                checkpoint_activations(player.model, parts, f'model.checkpointed.{name}')
        for name, arguments in compiled.items():
            _require_player(name, tuple(players), 'compiled')
            players[name][-1].compile(**arguments)

    def _check_players(self) -> tuple[Tensor, int]:
        """Run all three once, and return the images and the number of classes."""
        with torch.no_grad(), evaluating(self):
            images = self.generator(torch.zeros(2, self.generator.noise_dim))
            if self.replay is not None:
                self.replay.allocate(images)
            teacher_logits = probe_logits(self.teacher, images, 'teacher')
            student_logits = probe_logits(self.student, self.to_student_pixels(images), 'student')
        if self.teacher.ndim != self.student.ndim:
            kinds = {2: 'a classifier', 4: 'a segmentor'}
            raise DistillError(
                f'model.teacher is {kinds[self.teacher.ndim]} and model.student is {kinds[self.student.ndim]}; a '
                'student must be of the same kind'
            )
        losses = dict(imitation_loss=self.imitation_loss, generation_loss=self.generation_loss)
        if self.replay is not None:
            losses['replay_loss'] = self.replay_loss
        check_labels(self.teacher, self.student, losses, self.generation_priors)
        teacher_classes, student_classes = teacher_logits.shape[1], student_logits.shape[1]
        if teacher_classes != student_classes:
            head = 'head' if self.student.ndim == 2 else 'decode_head'
            raise DistillError(
                f'model.teacher has {teacher_classes} classes and model.student has {student_classes}; set the '
                f"student's, for example with model.student.cfg_options={{'model.{head}.num_classes': "
                f'{teacher_classes}}}'
            )
        return images, teacher_classes


class _Outside:
    """Holds modules outside the module tree. Copies of the distiller, such as an EMA's, share what it holds."""

    teacher: Player
    student: Player
    teacher_logits: LogitModel
    folded_teacher: LogitModel
    folded_dtype: torch.dtype | None = None
    student_auxiliary: nn.Module | None

    def __init__(self, teacher: Player, student: Player) -> None:
        self.teacher = teacher
        self.student = student

    def __deepcopy__(self, memo: dict) -> '_Outside':
        return self


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The share of labels, of images or pixels, that student and teacher give alike: a scalar in [0, 1]."""
    # On CPUs, `max` finds the labels of pixels ten times faster than `argmax`.
    return (student_logits.max(1).indices == teacher_logits.max(1).indices).float().mean()


def _require_player(name: str, players: Sequence[str], key: str) -> None:
    if name not in players:
        raise DistillError(f'model.{key} names players, of {", ".join(players)}, but found {name!r}')


def _zero_grad(optim_wrapper: OptimWrapper) -> None:
    """Clear what others may have left, but not what is being accumulated."""
    if optim_wrapper.should_update():
        optim_wrapper.zero_grad()


def _build(cfg: dict, key: str) -> nn.Module:
    """Build a part of the distiller; types without a scope are mmdfad's."""
    try:
        return MODELS.build(dict(cfg, _scope_=cfg.get('_scope_', 'mmdfad')))
    except (KeyError, TypeError) as error:
        raise DistillError(
            f'cannot build model.{key}={dict(cfg)}: {error.args[0] if error.args else error}\n'
            f'mmdfad has: {", ".join(sorted(MODELS.module_dict))}'
        ) from error


def _as_logits(model: nn.Module, role: str) -> LogitModel:
    try:
        return as_logits(model)
    except DistillError as error:
        raise DistillError(f'model.{role}: {error}') from error

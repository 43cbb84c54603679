"""What mmengine's Runner and hooks ask of a distiller beside its training steps."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmdfad.utils import DistillError
from mmdfad.utils.model import Shared, evaluating
from mmdfad.utils.state_dict import weights_sha256

from .generators import Generator
from .label_pairs import LabelPairs
from .network import Network
from .pixels import resize_images
from .probes import Probes
from .step import labels_of

# Where the student's weights are in the distiller's state dict.
STUDENT_PREFIX = 'student.logits.model.'


class BaseDistiller(BaseModel):
    """Holds teacher, student and generator, and predicts with the student.

    The teacher is outside the module tree: it is never in train mode, in a state dict or in an optimizer.

    Args:
        teacher (Network): The teacher, which is frozen.
        student (Network): The student.
        generator (Generator): The generator.
        val_agreement (bool): Add the labels of both networks to predictions on real data.
    """

    def __init__(self, teacher: Network, student: Network, generator: Generator, val_agreement: bool) -> None:
        super().__init__()
        self._teacher = Shared(teacher.eval().requires_grad_(False))
        self.student = student
        self.student.take_pixels_of(teacher)
        self.generator = generator
        self.generator.bind_pixels(teacher.pixel_space)
        self.val_agreement = val_agreement
        self._probes: Shared[Probes | None] = Shared(None)

    @property
    def teacher(self) -> Network:
        """Network: The frozen teacher, with exactly the weights of its checkpoint."""
        return self._teacher.value

    def prepare(self) -> None:
        """Let the generator prepare for the first round, with the help of the teacher. The loop calls it."""
        for part in self.generator.modules():
            if isinstance(part, Generator):
                part.prepare(self.teacher.predict)

    @cached_property
    def teacher_record(self) -> dict[str, str | None]:
        """dict[str, str | None]: The teacher's ``checkpoint`` and the ``sha256`` of its weights."""
        return dict(checkpoint=self.teacher.checkpoint, sha256=weights_sha256(self.teacher.model))

    @property
    def device(self) -> torch.device:
        """torch.device: Where the networks are."""
        return next(self.student.parameters()).device

    def student_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the student as the plain model that its config describes.

        Args:
            state_dict (Mapping[str, Tensor]): The distiller's, perhaps with averaged weights.
        """
        items = state_dict.items()
        return self.student.plain_state(
            {k.removeprefix(STUDENT_PREFIX): v for k, v in items if k.startswith(STUDENT_PREFIX)}
        )

    @torch.no_grad()
    def probe(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Show generated images to both networks in eval mode, changing nothing.

        Args:
            noise (Tensor): Noise [N, noise_dim].

        Returns:
            tuple[Tensor, Tensor, Tensor]: Images [M, C, H, W] in the teacher's pixel space, as the student would learn
            from, and the logits of student and teacher.
        """
        with evaluating(self):
            images = self.generator.sample(noise.to(self.device)).float()
            return images, self.student.predict(images), self.teacher.predict(images)

    def val_step(self, data: Tensor | dict) -> list:
        """Predict with the student on real data; label generated images with both networks.

        Args:
            data (Tensor | dict): A batch of a real dataset; or noise [N, noise_dim]; or a batch of
                :class:`~mmdfad.datasets.ProbeDataset`.
        """
        if isinstance(data, Tensor):
            return _label_pairs(*self.probe(data)[1:])
        if 'probe' in data:
            return [*_label_pairs(*self.probe(torch.stack(data['noise']))[1:]), *self._label_probes(data['probe'])]
        inputs = self.student.model.data_preprocessor(data, False)
        samples = self.student.model(**inputs, mode='predict')
        if self.val_agreement:
            student_labels = labels_of(self.student.logits(inputs['inputs']))
            labels = zip(student_labels, self._teacher_labels(data, student_labels), strict=True)
            for sample, (student_label, teacher_label) in zip(samples, labels, strict=True):
                sample.set_field(student_label, 'student_label')
                sample.set_field(teacher_label, 'teacher_label')
        return samples

    test_step = val_step

    @property
    def probes(self) -> Probes:
        """Probes: Images to compare student and teacher on, which are not in the module tree."""
        if self._probes.value is None:
            self._probes.value = Probes(self.teacher, self.generator.image_size)
        return self._probes.value

    @probes.setter
    def probes(self, probes: Probes) -> None:
        self._probes.value = probes

    @torch.no_grad()
    def _label_probes(self, numbers: Sequence[int]) -> list[dict]:
        """The labels of student and teacher on probe images with these numbers, in all sets."""
        samples = []
        with evaluating(self):
            for name, images in self.probes.images.items():
                own = images[[number for number in numbers if number < len(images)]].to(self.device)
                if len(own):
                    pairs = _label_pairs(self.student.predict(own), self.teacher.predict(own))
                    samples += [pair | dict(probe=name) for pair in pairs]
        return samples

    def probe_pairs(self) -> dict[str, LabelPairs]:
        """The labels of teacher and student on each set of probe images."""
        found: dict[str, LabelPairs] = {}
        for numbers in torch.arange(self.probes.count).split(16):
            for sample in self._label_probes(numbers.tolist()):
                pairs = found.setdefault(sample['probe'], LabelPairs())
                pairs.add(sample['teacher_label'], sample['student_label'])
        return found

    def _teacher_labels(self, data: dict, student_labels: Tensor) -> Tensor:
        """The teacher's labels on real data. These have the student's size, if it has one of its own."""
        images = self.teacher.model.data_preprocessor(data, False)['inputs']
        if self.student.image_size is not None:
            sizes = zip(images.shape[2:], self.generator.image_size, self.student.image_size, strict=True)
            images = resize_images(images, [round(n * own / students) for n, own, students in sizes])
        logits = self.teacher.logits(images)
        return labels_of(logits if logits.ndim == 2 else resize_images(logits, student_labels.shape[1:]))

    def train_step(self, data: Tensor, optim_wrapper: OptimWrapper) -> dict:
        """Refuse mmengine's loops, which know only one kind of step."""
        raise DistillError(
            "AdversarialDistiller trains in train_cfg.type='mmdfad.AdversarialDistillLoop', but another loop ran it"
        )

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """The student's own forward, see mmpretrain and mmseg."""
        return self.student.model(inputs, data_samples, mode=mode)

    def init_weights(self) -> None:
        """Do nothing: weights were initialised, and checkpoints loaded, when the networks were built."""

    def _apply(self, fn: Callable, recurse: bool = True) -> 'BaseDistiller':
        """Let the teacher follow to other devices and types."""
        if not self.teacher.shard:  # its parts are moved when it is split
            self.teacher._apply(fn, recurse)
            self.teacher.eval()  # some attentions cache what they need in eval mode, outside their buffers
        return super()._apply(fn, recurse)

    def _set_device(self, device: torch.device) -> None:
        super()._set_device(device)
        self.teacher.model._set_device(device)


def _label_pairs(student_logits: Tensor, teacher_logits: Tensor) -> list[dict[str, Tensor]]:
    """A sample for each image with the labels of both networks."""
    pairs = zip(labels_of(student_logits), labels_of(teacher_logits), strict=True)
    return [dict(student_label=student, teacher_label=teacher) for student, teacher in pairs]

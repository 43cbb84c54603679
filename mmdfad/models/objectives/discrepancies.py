"""How far the student's logits are from the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdfad.models.step import labels_of
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

from .base import Discrepancy


@MODELS.register_module()
class L1Discrepancy(Discrepancy):
    """Mean absolute difference of the logits: DFAD's model discrepancy (arXiv 1912.11006, eq. 3)."""

    name = 'l1'

    def compare(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return F.l1_loss(student_logits, teacher_logits)


@MODELS.register_module()
class LogL1Discrepancy(Discrepancy):
    """log(1 + L1), which DFAD's generator maximises for segmentation (arXiv 1912.11006, section 3.3).

    Its gradient fades as the discrepancy grows, which keeps the generator from running away.
    """

    name = 'log_l1'

    def compare(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return torch.log1p(F.l1_loss(student_logits, teacher_logits))


@MODELS.register_module()
class MSEDiscrepancy(Discrepancy):
    """Mean squared difference of the logits."""

    name = 'mse'

    def compare(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return F.mse_loss(student_logits, teacher_logits)


@MODELS.register_module()
class KLDiscrepancy(Discrepancy):
    """KL(teacher || student) of the softmax over classes at a temperature, times its square.

    It is averaged over images, and over pixels for dense logits (Hinton et al., arXiv 1503.02531).

    Args:
        temperature (float): Softmax temperature. Defaults to 1.
        only_agreed (bool): Count only images or pixels to which both networks give the same label, and divide by the
            number of all (FastDFKD, arXiv 2112.06253). Defaults to False.
        kwargs: ``weight`` and ``begin``, see :class:`~mmdfad.models.objectives.Objective`.
    """

    name = 'kl'
    needs_softmax = True

    def __init__(self, temperature: float = 1.0, only_agreed: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        if not temperature > 0:
            raise DistillError(f'temperature of KLDiscrepancy must be positive, but found {temperature}')
        self.temperature = temperature
        self.only_agreed = only_agreed

    def compare(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        student = F.log_softmax(student_logits / self.temperature, dim=1)
        teacher = F.log_softmax(teacher_logits / self.temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction='none', log_target=True).sum(dim=1)
        if self.only_agreed:
            divergence = divergence * (labels_of(student_logits) == labels_of(teacher_logits))
        return divergence.mean() * self.temperature**2

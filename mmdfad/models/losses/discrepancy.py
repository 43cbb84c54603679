"""How far the student's logits are from the teacher's.

Every discrepancy takes ``(student_logits, teacher_logits)``, both of shape [N, K] or [N, K, H, W] with K classes, and
gives a non-negative scalar that is zero when the two agree. The student minimises it, the generator maximises it; the
sign is the distiller's business.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdfad.registry import MODELS
from mmdfad.utils import DistillError


@MODELS.register_module()
class L1Discrepancy(nn.Module):
    """Mean absolute difference of the logits: DFAD's model discrepancy (arXiv 1912.11006)."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return F.l1_loss(student_logits, teacher_logits)


@MODELS.register_module()
class LogL1Discrepancy(nn.Module):
    """log(1 + L1): what DFAD's generator maximises for segmentation (arXiv 1912.11006).

    Its gradient fades as the discrepancy grows, which keeps the generator from running away.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return torch.log1p(F.l1_loss(student_logits, teacher_logits))


@MODELS.register_module()
class MSEDiscrepancy(nn.Module):
    """Mean squared difference of the logits."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return F.mse_loss(student_logits, teacher_logits)


@MODELS.register_module()
class KLDiscrepancy(nn.Module):
    """KL(teacher || student) of the softmax over classes at a temperature, times its square.

    Averaged over images, and over pixels for dense logits (Hinton et al., arXiv 1503.02531).

    Args:
        temperature (float): Softmax temperature. Defaults to 1.
    """

    of_softmax = True  # meaningless for the sigmoids of multi-label logits

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise DistillError(f'temperature of KLDiscrepancy must be positive, but found {temperature}')
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        student = F.log_softmax(student_logits / self.temperature, dim=1)
        teacher = F.log_softmax(teacher_logits / self.temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction='none', log_target=True).sum(dim=1)
        return divergence.mean() * self.temperature**2

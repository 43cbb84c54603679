"""The linear map from the student's channels to the teacher's, in closed form."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

# Share of the sums of earlier batches that the next batch keeps.
DECAY = 0.9
# Penalty on the weights, as a share of the mean variance of the student's channels.
RIDGE = 1e-3


class LeastSquaresProjection(nn.Module):
    """Maps the student's channels to those of the teacher that they predict best.

    The map is solved for at each step, from the sums of this batch and of earlier ones. So it has buffers, but no
    parameters. Gradients flow through it to the features, not to the map itself. At its optimum that is the gradient of
    the whole (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 1973). The map undoes the scale of the
    features; a student cannot lower the distance by it, only by features that say more about the teacher's.

    Args:
        student_channels (int): Channels of the student's features.
        teacher_channels (int): Channels of the teacher's.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.register_buffer('gram', torch.zeros(student_channels + 1, student_channels + 1, dtype=torch.float64))
        self.register_buffer('cross', torch.zeros(student_channels + 1, teacher_channels, dtype=torch.float64))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Map features, in train mode after counting them in.

        Args:
            student (Tensor): Features [N, S, P] at P positions.
            teacher (Tensor): The teacher's [N, T, P] there.

        Returns:
            Tensor: The student's as the teacher's channels [N, T, P].
        """
        with torch.no_grad():
            if self.training:
                self._count(student.transpose(0, 1).flatten(1), teacher.transpose(0, 1).flatten(1))
            weights, center, offset = (x.to(student)[..., None] for x in self._solve())
        return torch.einsum('st,nsp->ntp', weights[..., 0], student - center) + offset

    def _count(self, student: Tensor, teacher: Tensor) -> None:
        """Add a batch [S, N * P] and [T, N * P]; that of all ranks together.

        Products are of centred features. In fp32, a mean far above the deviation would drown it.
        """
        means = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
        rows = torch.cat([student - means[0], torch.ones_like(student[:1])])
        gram, cross = ((rows @ x.T / rows.shape[1]).double() for x in (rows, teacher - means[1]))
        shift = torch.eye(len(gram)).to(gram)
        shift[:-1, -1:] = means[0]
        gram = shift @ gram @ shift.T
        cross = shift @ cross + gram[:, -1:] * means[1].T
        for sums, batch in ((self.gram, gram), (self.cross, cross)):
            all_reduce(batch, 'mean')
            sums.mul_(DECAY).add_(batch)

    def _solve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [S, T], the mean student features [S] and the mean teacher features [T], by ridge regression."""
        count = self.gram[-1, -1].clamp_min(1e-12)
        center, offset = self.gram[-1, :-1] / count, self.cross[-1] / count
        covariance = self.gram[:-1, :-1] / count - center.outer(center)
        penalty = (RIDGE * covariance.diagonal().mean()).clamp_min(1e-12).expand_as(center).diag()
        factor, _ = torch.linalg.cholesky_ex(covariance + penalty)
        return torch.cholesky_solve(self.cross[:-1] / count - center.outer(offset), factor), center, offset

"""A start that solves for each layer of the student."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmdfad.models.channels import ChannelMap
from mmdfad.models.network import Network
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError, require_count
from mmdfad.utils.model import upcast

from .base import Start
from .matching import Side, plan
from .passes import Passes
from .selection import select_channels
from .unrelated import solve_classifier


@MODELS.register_module()
class LeastSquaresStart(Start):
    """Solves for the student's layers one after the other, so that each gives what the teacher's layer gives.

    The student first gets the teacher's evenly spaced channels and blocks, see
    :class:`~mmdfad.models.channels.ChannelMap`. Then, in the order of execution, each layer is fitted by ridge
    regression: from the student's own input of the layer, to the teacher's output of the same layer at the channels
    that are kept. So a layer makes up for the channels that its input has lost, and for errors of the layers before it
    (channel pruning with least squares, arXiv 1707.06168). Solved are

    - convolutions, grouped ones too, and linear layers, with the batch norm directly behind them as one affine map.
      This norm gets the true statistics of its input, so that eval and train mode give the same on these images;
    - other batch norms, layer norms and other layers with a factor and an offset for each channel;
    - queries, keys, values and outputs of attentions, of whole heads.

    Other layers keep the weights that were selected. If the student has fewer blocks, the last layer of a block is
    fitted to what the range of the teacher's blocks gives, less what the student's block adds it to.

    A student that is not a narrower or shallower version of its teacher gets statistics for its batch norms, and a
    classifier that is fitted to the teacher's logits.

    Each layer takes a forward pass of the student up to that layer, over all images. The device's memory does not grow
    with their number. The time grows with the square of the depth: seconds for a ResNet-20, minutes for a Swin-T at 224
    pixels.

    Args:
        images (int): Number of generated images. Defaults to 256.
        batch_size (int): How many of them go through the networks at once. Defaults to 32.
        positions (int): How many positions of each layer's output are sampled, over all images. Defaults to 40000.
        ridge (float): Penalty of squared weights, relative to the mean diagonal of the Gram matrix. Defaults to 1e-2.
        residual (str): What the last layer of a block is fitted to if the student's block stands for one block only:
            ``'branch'``, the output of the teacher's layer; or ``'sum'``, the teacher's sum less the student's own
            skip. Defaults to ``'branch'``.
        begin (int): Round before which it is applied. Defaults to 0.

    Attributes:
        errors (dict[str, float]): Relative squared error of each layer that was solved.

    Raises:
        DistillError: If an argument is out of range.
    """

    def __init__(
        self,
        images: int = 256,
        batch_size: int = 32,
        positions: int = 40000,
        ridge: float = 1e-2,
        residual: str = 'branch',
        begin: int = 0,
    ) -> None:
        super().__init__(begin)
        for key, value in dict(images=images, batch_size=batch_size, positions=positions).items():
            require_count(f'{key} of LeastSquaresStart', value, 1)
        if not ridge >= 0:
            raise DistillError(f'ridge of LeastSquaresStart must be 0 or more, but found {ridge!r}')
        if residual not in ('branch', 'sum'):
            raise DistillError(f"residual of LeastSquaresStart must be 'branch' or 'sum', but found {residual!r}")
        self.images = images
        self.batch_size = batch_size
        self.positions = positions
        self.ridge = ridge
        self.residual = residual
        self.errors: dict[str, float] = {}

    def apply(self, teacher: Network, student: Network, sample: Callable[[int], Tensor]) -> None:
        size = min(self.batch_size, -(-self.images // 2))  # two batches or more: one validates what the other gives
        counts = [min(size, self.images - done) for done in range(0, self.images, size)]
        # On the host: only one batch at a time is needed on the device.
        batches = [upcast(sample(count)).cpu() for count in counts]
        few = batches[0][:4].to(next(student.parameters()).device)
        settings = (batches, self.positions, self.ridge)
        related = student.is_version_of(teacher)
        if related:
            select_channels(teacher, student)
        with (
            torch.autocast(few.device.type, enabled=False),
            torch.compiler.set_stance('force_eager'),
            Side.opened(teacher) as large,
            Side.opened(student) as small,
        ):
            if related:
                channels = ChannelMap(teacher.model, student.model)
                found = plan(large, small, channels, few, self.residual == 'sum')
                self.errors = Passes(large, small, found, *settings).solve()
            else:
                self.errors = solve_classifier(large, small, *settings)

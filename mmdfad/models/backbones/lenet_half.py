"""The student of the DFAD paper for MNIST."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdfad.registry import MODELS


@MODELS.register_module()
class LeNet5Half(BaseModule):
    """LeNet-5 at half its width (DFAD, arXiv 1912.11006): 3, 8 and 60 channels, 42 hidden units.

    It replaces mmpretrain's ``LeNet5`` in an ``ImageClassifier`` with a plain ``ClsHead``, for 32x32 gray images.

    Args:
        num_classes (int): Number of classes. Defaults to 10.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 3, kernel_size=5),
            nn.Tanh(),
            nn.AvgPool2d(kernel_size=2),
            nn.Conv2d(3, 8, kernel_size=5),
            nn.Tanh(),
            nn.AvgPool2d(kernel_size=2),
            nn.Conv2d(8, 60, kernel_size=5),
            nn.Tanh(),
        )
        self.classifier = nn.Sequential(nn.Linear(60, 42), nn.Tanh(), nn.Linear(42, num_classes))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images [N, 1, 32, 32] to a tuple of logits [N, num_classes], as mmpretrain's backbones return."""
        return (self.classifier(self.features(x).flatten(1)),)

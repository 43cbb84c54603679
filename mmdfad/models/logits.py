"""Any trained model as plain class logits."""

from torch import Tensor, nn

from mmdfad.utils import DistillError


class LogitModel(nn.Module):
    """A model whose ``forward`` is images in, class logits out.

    It is what the distiller trains and compares; ``model`` is the mmpretrain model itself, with its own
    preprocessing, predictions and state dict.

    Args:
        model (nn.Module): An mmpretrain classifier with a head.

    Raises:
        DistillError: If the model has no class logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if getattr(model, 'head', None) is None:
            raise DistillError(
                f'{type(model).__name__} gives no class logits to distil: expected an image classifier with a '
                'classification head'
            )
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, before softmax, in fp32 also under autocast.

        Args:
            images (Tensor): Images [N, C, H, W] in the model's normalised pixel space.

        Returns:
            Tensor: Logits [N, K].

        Raises:
            DistillError: If the model returns something else.
        """
        logits = self.model(images, mode='tensor')
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DistillError(
                f'{type(self.model.head).__name__} of {type(self.model).__name__} gives {found} in place of class '
                'logits of shape [N, K]'
            )
        return logits.float()

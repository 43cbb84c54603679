"""Any trained model as plain class logits."""

from torch import Tensor, nn

from mmdfad.utils import DistillError


class LogitModel(nn.Module):
    """A model whose ``forward`` is images in, class logits out.

    It is what the distiller trains and compares; ``model`` is the mmpretrain or mmseg model itself, with its own
    preprocessing, predictions and state dict. Build one with :func:`as_logits`.

    Args:
        model (nn.Module): The model.
    """

    # Dimensions of the logits: [N, K] or [N, K, H, W].
    ndim: int

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def raw_logits(self, images: Tensor) -> Tensor:
        """The model's class logits, before softmax."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, before softmax, in fp32 also under autocast.

        Args:
            images (Tensor): Images [N, C, H, W] in the model's normalised pixel space.

        Returns:
            Tensor: Logits [N, K] of a classifier, [N, K, H, W] of a segmentor.

        Raises:
            DistillError: If the model returns something else.
        """
        logits = self.raw_logits(images)
        if not isinstance(logits, Tensor) or logits.ndim != self.ndim:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DistillError(
                f'{type(self.model).__name__} with {self._head_name()} gives {found} in place of class logits of '
                f'shape {"[N, K]" if self.ndim == 2 else "[N, K, H, W]"}'
            )
        return logits.float()

    def _head_name(self) -> str:
        head = getattr(self.model, 'head', None) or getattr(self.model, 'decode_head', None)
        return type(head).__name__


class ClassifierLogits(LogitModel):
    """An mmpretrain classifier."""

    ndim = 2

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self.model(images, mode='tensor')


class SegmentorLogits(LogitModel):
    """An mmseg segmentor: EncoderDecoder or CascadeEncoderDecoder.

    ``encode_decode`` resizes the logits to the size of the input as the head's ``align_corners`` says. Sliding windows
    are an affair of inference on large images: here a generated image is always seen whole.
    """

    ndim = 4

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K, H, W]."""
        size = images.shape[2:]
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)
        return self.model.encode_decode(images, [meta] * len(images))


def as_logits(model: nn.Module) -> LogitModel:
    """Wrap a model.

    Args:
        model (nn.Module): An mmpretrain classifier with a head, or an mmseg segmentor.

    Raises:
        DistillError: If the model has no class logits.
    """
    if hasattr(model, 'encode_decode'):
        return SegmentorLogits(model)
    if getattr(model, 'head', None) is not None:
        return ClassifierLogits(model)
    raise DistillError(
        f'{type(model).__name__} gives no class logits to distil: expected an image classifier with a classification '
        'head, or a segmentor with encode_decode'
    )


def detach_auxiliary_heads(model: nn.Module) -> nn.Module | None:
    """Take the heads off a segmentor that only its own training on labels uses.

    Distillation gives them no gradient, which would waste time and, on several devices, stop the training.

    Args:
        model (nn.Module): The model; changed in place.

    Returns:
        nn.Module | None: The heads, or None if it has none.
    """
    heads = getattr(model, 'auxiliary_head', None)
    if heads is not None:
        model.auxiliary_head = None
    return heads

"""What all adapters share.

An adapter is a :class:`LogitModel`. It is registered in ``LOGIT_ADAPTERS`` under the name of a class: of a model, a
head or a backbone, or of one of their base classes. It is a name because mmpretrain and mmseg are imported only when a
config needs them. A head that gives plain logits needs no adapter. Another head needs::

    @LOGIT_ADAPTERS.register_module(name='MyHead')
    class MyLogits(ClassifierLogits):
        def raw_logits(self, images):
            return self.model(images, mode='tensor')['logits']
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

from torch import Tensor, nn

from mmdfad.registry import LOGIT_ADAPTERS
from mmdfad.utils import DistillError
from mmdfad.utils.model import upcast


class LogitModel(nn.Module):
    """A model whose ``forward`` is images in, class logits out.

    The distiller trains and compares it. ``model`` is the mmpretrain or mmseg model itself, with its own preprocessing,
    predictions and state dict. Build one with :func:`~mmdfad.models.logits.as_logits`.

    Args:
        model (nn.Module): The model.

    Attributes:
        ndim (int): Dimensions of the logits: 2 of [N, K], 4 of [N, K, H, W].
        multi_label (bool): Whether each class has a sigmoid of its own, instead of one softmax for all.
        eval_modules (tuple[str, ...]): Modules that return something else in train mode. They are in eval mode during a
            forward pass. The modules inside them, such as batch norms and dropout, stay in train mode.
        unused_modules (tuple[str, ...]): Modules that only training on labels uses. They keep their weights and get no
            gradients.
    """

    ndim: int
    multi_label: bool = False
    eval_modules: tuple[str, ...] = ()
    unused_modules: tuple[str, ...] = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for part in self._parts(self.unused_modules):
            part.requires_grad_(False)

    @staticmethod
    def initialise(model: nn.Module) -> None:
        """Initialise the weights of a plain model of this kind."""
        if hasattr(model, 'init_weights'):
            model.init_weights()

    def raw_logits(self, images: Tensor) -> Tensor:
        """The model's class logits before softmax, for images [N, C, H, W]."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, of the shape of the logits: a softmax, or sigmoids with several labels."""
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits before softmax, in fp32 even under autocast. A model in fp64 gives fp64.

        Args:
            images (Tensor): Images [N, C, H, W] in the model's normalised pixel space.

        Returns:
            Tensor: Logits [N, K] of a classifier, [N, K, H, W] of a segmentor.

        Raises:
            DistillError: If the model returns something else.
        """
        with self._predicting():
            logits = self.raw_logits(images)
        if not isinstance(logits, Tensor) or logits.ndim != self.ndim:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DistillError(
                f'{describe(self.model)} gives {found} in place of class logits of shape '
                f'{"[N, K]" if self.ndim == 2 else "[N, K, H, W]"}'
            )
        return upcast(logits)

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        parts = [part for part in self._parts(self.eval_modules) if part.training]
        for part in parts:
            part.training = False
        try:
            yield
        finally:
            for part in parts:
                part.training = True

    def _parts(self, names: tuple[str, ...]) -> list[nn.Module]:
        """The named modules that this model has."""
        parts = (reduce(lambda part, key: getattr(part, key, None), name.split('.'), self.model) for name in names)
        return [part for part in parts if part is not None]


class NoLogits(LogitModel):
    """A kind of model that cannot be distilled.

    Attributes:
        reason (str): Why it cannot.
    """

    reason: str

    def __init__(self, model: nn.Module) -> None:
        raise refusal(model, self.reason)


def adapter_of(part: nn.Module | None) -> type[LogitModel] | None:
    """The adapter that is registered for the class of a model or module, or for one of its base classes, if any."""
    names = (cls.__name__ for cls in type(part).__mro__)
    return next((LOGIT_ADAPTERS.module_dict[name] for name in names if name in LOGIT_ADAPTERS.module_dict), None)


def unsupported_reason(name: str) -> str | None:
    """Why models of a type cannot be distilled, or None if the name does not tell. The model need not be built."""
    adapter = LOGIT_ADAPTERS.module_dict.get(name.rpartition('.')[2])
    return adapter.reason if adapter is not None and issubclass(adapter, NoLogits) else None


def head_of(model: nn.Module) -> nn.Module | None:
    """The head that gives a model's logits, if it has one. Of a cascade it is the last one."""
    head = getattr(model, 'head', getattr(model, 'decode_head', None))
    return head[-1] if isinstance(head, nn.ModuleList) else head


def describe(model: nn.Module) -> str:
    """Names of a model and its head, for messages."""
    head = head_of(model)
    return type(model).__name__ if head is None else f'{type(model).__name__} with {type(head).__name__}'


def refusal(model: nn.Module, reason: str) -> DistillError:
    """The error for a model without class logits."""
    return DistillError(f'{describe(model)} gives no class logits to distil: {reason}')

"""A pool of images that a generator makes while it learns (model inversion)."""

from collections.abc import Callable

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmdfad.models.chance import SEEDS
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError, require_positive
from mmdfad.utils.model import broadcast_state

from .bank import ImageBank
from .base import Generator, loss_scale
from .memory import ImageMemory
from .mixture import MixtureGenerator
from .wrappers import GeneratorWrapper, flip_and_shift, require_augmentation


class LearnedPool(GeneratorWrapper):
    """A generator and its noise learn a batch of images in a few steps; a memory keeps the batch.

    The imitation phase draws from the memory. So it sees the images of a generator at many times of its training, which
    differ more than those that it makes at one time.

    Args:
        generator (dict | Generator): The generator inside, not another wrapper. It learns.
        capacity (int): Images in the memory.
        steps (int): Steps of each update.
        noise_lr (float): Learning rate of the noise (Adam).
        flip (float): Probability of a horizontal flip.
        shift (int): Largest shift in pixels; the border is reflected.

    Raises:
        DistillError: If a setting is out of its range, or the generator cannot learn from noise.
    """

    def __init__(
        self, generator: dict | Generator, capacity: int, steps: int, noise_lr: float, flip: float, shift: int
    ) -> None:
        super().__init__(generator)
        require_positive('model.generator.{}', capacity=capacity, steps=steps)
        require_augmentation(flip, shift, self.image_size)
        require_noise_learner(self)
        self.steps = steps
        self.noise_lr = noise_lr
        self.flip = flip
        self.shift = shift
        self.memory = ImageMemory(capacity, self.channels, self.image_size)

    def sample(self, noise: Tensor) -> Tensor:
        """Images from the memory; from the generator while the memory is empty."""
        return self.memory.draw(noise) if len(self.memory) else self.generator.sample(noise)

    def _keep_chance(self, gradient: Tensor) -> None:
        """Let an image keep the random numbers of its noise while the noise learns."""
        if self.generator.takes_chance:
            gradient[:, SEEDS] = 0


@MODELS.register_module()
class InversionPool(LearnedPool):
    """The generator itself learns each batch, and begins with the next one where the last one has ended.

    An update takes ``steps`` steps on one batch of noise. Each step moves the generator by its optimizer and the noise
    by Adam. In each step the loss sees the images flipped and shifted in another way. The memory keeps those of
    the last step as they are.

    Images of one generator resemble each other. With ``renew``, it begins again with random weights every so often, and
    the images of its first ``warmup`` updates, which are bad, are not kept.

    An accumulation of gradients counts steps, not updates. Each rank learns its own batch of noise; the generator's
    gradients are averaged over the ranks, and the memory takes the images of all.

    Args:
        generator (dict | Generator): The generator inside, not another wrapper. It learns.
        capacity (int): Images in the memory.
        steps (int): Steps of each update. Defaults to 5.
        noise_lr (float): Learning rate of the noise (Adam). Defaults to 1e-2.
        flip (float): Probability of a horizontal flip. Defaults to 0.5.
        shift (int): Largest shift in pixels; the border is reflected. Defaults to 4.
        renew (int, optional): Updates of one generator, before the next one begins. Defaults to all.
        warmup (int): Updates at the beginning of each generator whose images are not kept, less than ``renew``.
            Defaults to 0.

    Raises:
        DistillError: If a setting is out of its range, or the generator cannot learn from noise.
    """

    def __init__(
        self,
        generator: dict | Generator,
        capacity: int,
        steps: int = 5,
        noise_lr: float = 1e-2,
        flip: float = 0.5,
        shift: int = 4,
        renew: int | None = None,
        warmup: int = 0,
    ) -> None:
        super().__init__(generator, capacity, steps, noise_lr, flip, shift)
        _require_lifetime(renew, warmup)
        self.renew = renew
        self.warmup = warmup
        self.register_buffer('updates', torch.zeros((), dtype=torch.long))

    @property
    def steps_per_update(self) -> int:
        return self.steps

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        age = self._age(optim)
        learned = noise.clone().requires_grad_(True)
        inner = torch.optim.Adam([learned], lr=self.noise_lr, betas=(0.5, 0.999))
        for step in range(self.steps):
            with optim.optim_context(self):
                images = self.generator(learned)
                # Chance takes the noise as it was, so that an image keeps the label that is drawn for it.
                value = loss(flip_and_shift(images, noise, self.flip, self.shift, draw=step), noise)
            scale = loss_scale(optim) * float(optim.scale_loss(torch.ones(())))  # the latter for accumulation
            optim.update_params(value)
            # Of the sum over images, so that it depends neither on their number nor on that of the ranks. In fp16 a
            # gradient that overflows moves nothing; the optimizer leaves out that step, too.
            learned.grad = (learned.grad * (len(noise) / scale)).nan_to_num(0.0, 0.0, 0.0)
            self._keep_chance(learned.grad)
            inner.step()
            inner.zero_grad()
        if age >= self.warmup:
            self.memory.push(images)

    def _age(self, optim: OptimWrapper) -> int:
        """Updates of this generator before this one. A generator that is due is replaced."""
        age = int(self.updates) % self.renew if self.renew else int(self.updates)
        if age == 0 and self.updates:
            self.generator.reset_parameters()
            broadcast_state(self.generator)
            for parameter in self.generator.parameters():
                optim.optimizer.state.pop(parameter, None)
                parameter.grad = None  # one that accumulates is of the old weights
        self.updates += 1
        return age


def _require_lifetime(renew: int | None, warmup: int) -> None:
    """Check after how many updates a generator is replaced, and how many of them are wasted."""
    if renew is not None:
        require_positive('model.generator.{}', renew=renew)
    if not isinstance(warmup, int) or warmup < 0 or (renew is not None and warmup >= renew):
        limit = '' if renew is None else f', less than model.generator.renew={renew}'
        raise DistillError(f'model.generator.warmup must be a whole number from 0{limit}, but found {warmup!r}')


def require_noise_learner(wrapper: GeneratorWrapper) -> None:
    """Check that a generator can learn images by its weights and its noise.

    Args:
        wrapper (GeneratorWrapper): The wrapper that lets it do so.

    Raises:
        DistillError: If it is itself a wrapper or a mixture, is a bank of images, or learns nothing.
    """
    name, inner = type(wrapper).__name__, type(wrapper.generator).__name__
    if isinstance(wrapper.generator, GeneratorWrapper | MixtureGenerator):
        raise DistillError(f'{name} must be the innermost wrapper, but has a {inner} inside; put the {inner} around it')
    if isinstance(wrapper.generator, ImageBank):
        raise DistillError(
            f'{name} lets a generator learn from noise, but an ImageBank does not make images from noise: remove one '
            'of the two'
        )
    if not wrapper.learns:
        raise DistillError(
            f'{name} lets a generator learn its images, but {inner} learns nothing: remove {name}, or set '
            'model.generator.generator to one that learns, such as DecoderGenerator'
        )

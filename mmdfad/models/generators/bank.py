"""A bank of images whose pixels are the parameters (model inversion)."""

from collections.abc import Callable, Collection, Mapping
from inspect import signature

import torch
from mmengine.dist import broadcast, get_dist_info
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmdfad.models.chance import PICKS, SWEEPS, uniform
from mmdfad.models.parts import build_part
from mmdfad.models.pixels import PixelSpace
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError, require_positive
from mmdfad.utils.model import Shared
from mmdfad.utils.progress import counting

from .base import Generator, loss_scale
from .selection import surest_images
from .wrappers import flip_and_shift, require_augmentation

# Images that are drawn at once.
CHUNK = 64


@MODELS.register_module()
class ImageBank(Generator):
    """Images that move towards what the generation objectives ask for, as in DeepInversion (arXiv 1912.08795).

    An update is one *sweep*: each image of the bank is in one chunk, flipped and shifted at random; the gradients of
    all chunks are taken at the same pixels; then the optimizer takes a single step. A chunk holds as many images as a
    training batch, on all ranks together, or a few less, so that chunks are of nearly equal size. A pixel's gradient is
    that of its own image's loss. It depends neither on the size of the bank nor on that of a chunk, if the loss is a
    mean over images. Pixels stay between black and white.

    Pixels, two copies of their gradients and, with Adam, two moments take five times the memory of the images in fp32:
    2.2 GB for 1,000 images of 3x192x192. A checkpoint holds three of the five.

    Args:
        noise_dim (int): Length of a noise vector. It chooses an image.
        image_size (int | tuple[int, int]): Height and width of the images, in pixels.
        channels (int): Channels of the images. Defaults to 3.
        count (int): Images in the bank. Defaults to 96.
        init (dict | Generator, optional): Where pixels begin: the images of another generator. Its ``noise_dim``,
            ``image_size`` and ``channels`` default to the bank's. Defaults to :class:`~mmdfad.models.DeadLeaves`.
        flip (float): Probability of a horizontal flip in a sweep. Defaults to 0.5.
        shift (int): Largest shift in a sweep, in pixels; the border is reflected. Defaults to 4.
        fixed (bool): Keep the pixels as they begin: the bank learns nothing. Defaults to False.
        candidates (int): Images of ``init`` that are drawn for each image of the bank. With more than one,
            :meth:`prepare` fills the bank with those that the teacher is most confident about, equally many for each
            label: see :func:`~mmdfad.models.generators.selection.surest_images`. Defaults to 1.

    Raises:
        DistillError: If a setting is out of its range, or if a bank with candidates is used before it is prepared.
    """

    def __init__(
        self,
        noise_dim: int,
        image_size: int | tuple[int, int],
        channels: int = 3,
        count: int = 96,
        init: dict | Generator | None = None,
        flip: float = 0.5,
        shift: int = 4,
        fixed: bool = False,
        candidates: int = 1,
    ) -> None:
        super().__init__(noise_dim, image_size, channels)
        require_positive('model.generator.{}', count=count, candidates=candidates)
        require_augmentation(flip, shift, self.image_size)
        self.flip = flip
        self.shift = shift
        self.candidates = candidates
        shape = dict(noise_dim=noise_dim, image_size=self.image_size, channels=channels)
        init = dict(type='DeadLeaves') if init is None else init
        if isinstance(init, Mapping):
            init = {**{key: value for key, value in shape.items() if key in _arguments(init)}, **init}
        # Outside the module tree: its parameters do not learn.
        self._init = Shared(build_part(init, 'model.generator.init', Generator))
        self.pixels = nn.Parameter(torch.zeros(count, channels, *self.image_size), requires_grad=not fixed)
        # Noise that belongs to an image, whichever noise has picked it: its label is drawn from it.
        self.register_buffer('codes', torch.randn(count, noise_dim))
        for name in ('low', 'high'):
            self.register_buffer(name, torch.zeros(channels, 1, 1))
        if candidates > 1:
            self._seed = int(torch.randint(2**31, ()))  # of the candidates
            self.register_buffer('filled', torch.tensor(False))
        self._ready = candidates == 1

    @torch.no_grad()
    def bind_pixels(self, space: PixelSpace) -> None:
        """Let the pixels begin as images of ``init``. torch's random numbers decide which."""
        self._init.value.bind_pixels(space)
        self.low, self.high = (bound.to(self.pixels) for bound in space.bounds(self.channels))
        if self.candidates == 1:
            noise = torch.randn(len(self.pixels), self._init.value.noise_dim)
            for pixels, part in zip(self.pixels.split(CHUNK), noise.split(CHUNK), strict=True):
                pixels.copy_(self._draw(part).clamp(self.low, self.high))

    @torch.no_grad()
    def prepare(self, logits_of: Callable[[Tensor], Tensor]) -> None:
        """Fill the bank with the candidates that the teacher is most confident about, unless a checkpoint has."""
        if self._is_ready():
            return
        count, init = len(self.pixels), self._init.value.to(self.pixels.device)
        total = self.candidates * count
        print_log(f'Choosing {count:,} of {total:,} images by the confidence of the teacher', 'current')
        # From the CPU, so that a seed gives the same images on all devices.
        draws = torch.Generator().manual_seed(self._seed)
        sizes = (min(CHUNK, total - start) for start in range(0, total, CHUNK))
        noises = (torch.randn(size, init.noise_dim, generator=draws) for size in sizes)
        batches = (self._draw(noise.to(self.pixels)) for noise in noises)
        with counting('choosing images: batches', -(-total // CHUNK)) as advance:

            def counted(images: Tensor) -> Tensor:
                advance()
                return logits_of(images)

            self.pixels.copy_(surest_images(batches, counted, count))
        self.pixels.clamp_(self.low, self.high)
        broadcast(self.pixels.data)  # rounding may differ from device to device, and with it the choice
        self.filled.fill_(True)

    def _draw(self, noise: Tensor) -> Tensor:
        """Images of ``init``."""
        images = self._init.value.sample(noise)
        if images.shape[1:] != self.pixels.shape[1:]:
            raise DistillError(
                f'model.generator.init makes images of {[*images.shape[1:]]}, but model.generator those of '
                f'{[*self.pixels.shape[1:]]}; remove image_size and channels from model.generator.init'
            )
        return images

    def _is_ready(self) -> bool:
        self._ready = self._ready or bool(self.filled)  # to ask the device no more often than needed
        return self._ready

    def _require_ready(self) -> None:
        if not self._is_ready():
            raise DistillError('an ImageBank with candidates is empty until AdversarialDistiller.prepare is called')

    def sample(self, noise: Tensor) -> Tensor:
        self._require_ready()
        return super().sample(noise)

    def synthesize(self, noise: Tensor) -> Tensor:
        """The images [N, C, H, W] that the noise picks, with replacement."""
        return self.pixels[(uniform(noise, PICKS)[:, 0] * len(self.pixels)).long()]

    def update(self, noise: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> None:
        """Sweep over the bank.

        Args:
            noise (Tensor): Noise [N, noise_dim]. Its first vector decides on the chunks, flips and shifts. A chunk has
                N images on each rank.
            loss (Callable[..., Tensor]): From images [n, C, H, W] and their codes [n, noise_dim] to a scalar, a mean
                over images.
            optim (OptimWrapper): The optimizer of the pixels.
        """
        self._require_ready()
        rank, ranks = get_dist_info()
        draw = noise[:1].clone()
        broadcast(draw)
        order = uniform(draw, SWEEPS, len(self.pixels))[0].argsort()
        gradient = torch.zeros_like(self.pixels)
        for chunk in order.tensor_split(-(-len(order) // (len(noise) * ranks))):
            share = chunk[rank::ranks]
            if len(share):
                # Optimizers average over the ranks, but each rank has images of its own.
                gradient[share] = ranks * self._gradient(share, draw, loss, optim)
            elif ranks > 1:
                self._gradient(chunk[:1], draw, loss, optim)  # a teacher that is split needs all ranks
        # A loss with just these gradients: the optimizer wrapper accumulates, clips and averages them as any others.
        optim.update_params((self.pixels * gradient).sum())
        with torch.no_grad():
            self.pixels.clamp_(self.low, self.high)

    def _gradient(self, index: Tensor, draw: Tensor, loss: Callable[..., Tensor], optim: OptimWrapper) -> Tensor:
        """The gradient [n, C, H, W] of the sum of the losses of some images."""
        images, codes = self.pixels[index].detach().requires_grad_(), self.codes[index]
        # Chance takes the first and the last number of a row: one of the image, and one of the sweep.
        rows = torch.stack([codes[:, 0], draw[0, 0].expand(len(index))], dim=1)
        with optim.optim_context(self):
            value = loss(flip_and_shift(images, rows, self.flip, self.shift), codes)
        scale = len(index) * loss_scale(optim)
        (value * scale).backward()
        return images.grad * (len(index) / scale)


def _arguments(cfg: Mapping) -> Collection[str]:
    """What the type of a config takes. Nothing, if there is no such type: building it will tell."""
    kind = cfg.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return () if kind is None else signature(kind).parameters

"""Images that no student trains on, to find out how often it agrees with its teacher."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmdfad.datasets.noise import PROBE_SEED, NoiseDataset
from mmdfad.utils.model import keeps_statistics
from mmdfad.utils.progress import counting

from .chance import SEEDS
from .generators import DeadLeaves, DecoderGenerator, Generator, MixtureGenerator, Strokes
from .generators.decoder import upsamplings
from .generators.selection import CANDIDATES, SHARES, surest_images
from .generators.wrappers import flip_and_shift
from .network import Network
from .objectives import BNStatisticsPrior, SpectrumPrior
from .pixels import image_channels
from .step import Step

NOISE_DIM = 256
# Classifiers give one label an image, segmentors many.
IMAGES, DENSE_IMAGES = 256, 32
# Images at once: so many of so many pixels, and fewer of larger ones; and updates whose images are not kept.
BATCH, BATCH_PIXELS, LEAST_BATCH, WARMUP = 32, 32 * 32, 8, 16
STEPS, LR, NOISE_LR, BETAS = 5, 2e-3, 1e-2, (0.5, 0.999)
FLIP, SHIFT, SPECTRUM_WEIGHT = 0.5, 2, 0.02


class Probes:
    """Sets of images in a teacher's pixel space, some near what it was trained on and others far from it.

    ============  =======================================================================
    ``inverted``  a decoder of its own makes them for the teacher's batch norm statistics
    ``sure``      strokes and dead leaves that the teacher is most confident about
    ``leaves``    dead leaves, which are far from these
    ============  =======================================================================

    All teachers have ``leaves``. Those with batch norm have ``inverted``, unless their weights are split over several
    ranks. Classifiers without batch norm have ``sure``, unless they are multi-label. The images are a function of the
    teacher. They are made when they are first asked for.

    Args:
        teacher (Network): The teacher.
        image_size (tuple[int, int]): Height and width of the images, in pixels.
    """

    def __init__(self, teacher: Network, image_size: tuple[int, int]) -> None:
        self.teacher = teacher
        self.shape = dict(noise_dim=NOISE_DIM, image_size=image_size, channels=image_channels(teacher.model))
        self.count = IMAGES if teacher.logits.ndim == 2 else DENSE_IMAGES

    @cached_property
    def images(self) -> dict[str, Tensor]:
        """dict[str, Tensor]: The images [N, C, H, W] of each set, on the CPU."""
        device = next(self.teacher.parameters()).device
        print_log(f'Making {self.count} images to compare student and teacher on', 'current')
        sets = {}
        with torch.random.fork_rng(devices=[] if device.type == 'cpu' else [device]):
            torch.manual_seed(PROBE_SEED)
            if has_batch_norms(self.teacher) and not self.teacher.shard:
                # A compiled teacher would not call hooks that are new to it.
                with torch.enable_grad(), torch.compiler.set_stance('force_eager'):
                    sets['inverted'] = self._invert(device)
            elif chooses_images(self.teacher):
                sets['sure'] = self._choose(device)
            sets['leaves'] = self._draw(DeadLeaves(**self.shape), device)
        return sets

    def _draw(self, generator: Generator, device: torch.device) -> Tensor:
        generator.to(device).bind_pixels(self.teacher.pixel_space)
        return generator.sample(self._noise(0, self.count).to(device)).cpu()

    def _choose(self, device: torch.device) -> Tensor:
        """Procedural images, of eight each the one that the teacher is most confident about."""
        generators = [Strokes(**self.shape), DeadLeaves(**self.shape)]
        source = MixtureGenerator(generators, SHARES).to(device)
        source.bind_pixels(self.teacher.pixel_space)
        total, size = CANDIDATES * self.count, self._batch_size()

        def draw(advance: Callable[[], None]) -> Iterator[Tensor]:
            for start in range(0, total, size):
                yield source.sample(self._noise(start, min(size, total - start)).to(device))
                advance()

        with torch.no_grad(), counting('probe images: batches', -(-total // size)) as advance:
            return surest_images(draw(advance), self.teacher.predict, self.count).cpu()

    def _batch_size(self) -> int:
        return max(LEAST_BATCH, min(BATCH, BATCH * BATCH_PIXELS // math.prod(self.shape['image_size'])))

    def _noise(self, start: int, count: int) -> Tensor:
        return NoiseDataset(NOISE_DIM, PROBE_SEED).__getitems__(range(start, start + count))

    def _invert(self, device: torch.device) -> Tensor:
        """Images of a decoder that learns, with its noise, the statistics of the teacher and a natural spectrum.

        It is the inversion of :class:`~mmdfad.models.InversionPool`, on one rank alone.
        """
        batch = self._batch_size()
        # Without levels, as when the agreement on real images was predicted from that on these images.
        decoder = DecoderGenerator(**self.shape, upsamplings=upsamplings(self.shape['image_size']), levels=0)
        decoder.to(device)
        decoder.bind_pixels(self.teacher.pixel_space)
        outer = torch.optim.Adam(decoder.parameters(), lr=LR, betas=BETAS)
        statistics, spectrum, kept = BNStatisticsPrior(distance='kl'), SpectrumPrior(), []
        taps = statistics.bind(self.teacher, self.teacher)
        self.teacher.install(taps)
        updates = WARMUP + math.ceil(self.count / batch)
        with counting('probe images: batches', updates) as advance:
            for update in range(updates):
                noise = self._noise(update * batch, batch).to(device)
                learned = noise.clone().requires_grad_(True)
                inner = torch.optim.Adam([learned], lr=NOISE_LR, betas=BETAS)
                for draw in range(STEPS):
                    images = decoder(learned)
                    step = Step(flip_and_shift(images, noise, FLIP, SHIFT, draw), noise)
                    with self.teacher.recording(taps):
                        step.teacher = self.teacher(step.images)
                        (statistics(step) + SPECTRUM_WEIGHT * spectrum(step)).backward()
                    learned.grad *= batch  # of the sum over images
                    learned.grad[:, SEEDS] = 0  # an image keeps its texture
                    outer.step()
                    inner.step()
                    outer.zero_grad()
                    inner.zero_grad()
                if update >= WARMUP:
                    kept.append(images.detach().cpu())
                advance()
        return torch.cat(kept)[: self.count]


def has_batch_norms(network: Network) -> bool:
    """Whether a network has batch norms, whose statistics describe its training images."""
    return any(map(keeps_statistics, network.logits.modules()))


def chooses_images(teacher: Network) -> bool:
    """Whether procedural images are chosen by the confidence of a teacher.

    Those with batch norm have better images. Several labels of an image have no one confidence, and strokes were not
    tried for segmentors.
    """
    return not has_batch_norms(teacher) and teacher.logits.ndim == 2 and not teacher.logits.multi_label

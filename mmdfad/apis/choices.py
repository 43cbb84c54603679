"""What the methods of :func:`~mmdfad.apis.write_distillation` share when they choose settings."""

from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from torch import nn

from mmdfad.models.network import Network
from mmdfad.models.pixels import image_channels
from mmdfad.utils.config import innermost_dataset

from .image_size import Size

NOISE_DIM = 256
# From this many pixels on, images count as large.
LARGE = 64
_VALIDATION = ('val_dataloader', 'val_evaluator', 'val_cfg', 'test_dataloader', 'test_evaluator', 'test_cfg')


@dataclass
class Choices:
    """What was chosen, and why.

    Attributes:
        lines (list[str]): A line for each choice.
    """

    lines: list[str] = field(default_factory=list)

    def make(self, name: str, value: Any, reason: str) -> Any:
        """Remember why ``name`` has this value, and return the value."""
        self.lines.append(f'{name} = {value}: {reason}')
        return value

    def warn(self, text: str) -> None:
        """Remember what looks wrong."""
        self.lines.append(f'WARNING: {text}')


@dataclass(frozen=True)
class Task:
    """What to choose settings for.

    Attributes:
        teacher (Network): The teacher.
        student (Network): The student.
        size (Size): Height and width of the images, in pixels.
        rounds (int, optional): ``--rounds``.
        batch_size (int, optional): ``--batch-size``.
        minutes (float, optional): ``--minutes``.
    """

    teacher: Network
    student: Network
    size: Size
    rounds: int | None = None
    batch_size: int | None = None
    minutes: float | None = None

    @property
    def large(self) -> bool:
        """bool: Whether the images are large."""
        return max(self.size) >= LARGE

    @property
    def dense(self) -> bool:
        """bool: Whether the networks are segmentors."""
        return self.teacher.logits.ndim == 4

    @property
    def image_settings(self) -> dict:
        """dict: What every generator needs to know of its images."""
        return dict(noise_dim=NOISE_DIM, image_size=self.size, channels=image_channels(self.teacher.model))


def layer_norms(network: Network) -> list[nn.LayerNorm]:
    """The layer norms of a network. Transformers have some."""
    return [m for m in network.logits.modules() if isinstance(m, nn.LayerNorm)]


def noise_settings(batch_size: int) -> dict:
    """The dataloader of noise."""
    return dict(
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=dict(type='mmdfad.NoiseDataset'),
            sampler=dict(type='mmdfad.NoiseSampler'),
        ),
        auto_scale_lr=dict(enable=False, base_batch_size=batch_size),
    )


def decay_settings(begin: int, rounds: int, warm_up: int = 0) -> list[dict]:
    """A learning rate that rises over some rounds, and then falls to zero along a cosine.

    Args:
        begin (int): Round in which the networks begin to learn.
        rounds (int): Rounds of the run.
        warm_up (int): Rounds in which the rate rises. mmengine's ``LinearLR`` does not rise in a single one, so there
            is no warm-up then. Defaults to 0.
    """
    warm_up = warm_up if warm_up > 1 else 0
    rise = dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=begin, end=begin + warm_up)
    fall = dict(type='CosineAnnealingLR', by_epoch=False, begin=begin + warm_up, end=rounds + 1)
    return [rise, fall] if warm_up else [fall]


def hook_settings(interval: int, log_interval: int) -> dict:
    """The rounds between checkpoints, pictures and checks, and between log lines."""
    return dict(
        default_hooks=dict(
            logger=dict(interval=min(log_interval, interval)),
            **{name: dict(interval=interval) for name in ('checkpoint', 'synthetic_images', 'health')},
        )
    )


def validation_settings(choices: Choices, plain: Config) -> dict:
    """The validation and test data of the teacher's config."""
    found = {key: plain[key] for key in _VALIDATION if plain.get(key) is not None}
    if not {'val_dataloader', 'val_evaluator', 'val_cfg'} <= found.keys():
        choices.make('validation', 'agreement', "on generated images: the teacher's config has no validation data")
        return {}
    kind = innermost_dataset(found['val_dataloader']['dataset']).get('type')
    choices.make('validation', kind, "the teacher's; if its data are missing, the agreement on generated images")
    return found

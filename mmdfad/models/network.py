"""A teacher or a student: images in, logits and taps out."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmdfad.models.channels import ChannelMap
from mmdfad.models.logits import as_logits, detach_auxiliary_heads
from mmdfad.models.pixels import PixelMap, PixelSpace, resize_images
from mmdfad.models.step import Output, Tap
from mmdfad.utils import DistillError
from mmdfad.utils.export import dataset_meta_of
from mmdfad.utils.model import Shared

# Prefix of the auxiliary heads in a segmentor's state dict.
AUXILIARY_PREFIX = 'auxiliary_head.'


class Network(nn.Module):
    """Runs a teacher or a student on images in the teacher's pixel space.

    Build one with :func:`~mmdfad.models.build.build_network`.

    Args:
        model (nn.Module): The plain OpenMMLab model. Its auxiliary heads are taken off: only training on labels uses
            them.
        role (str): ``'teacher'`` or ``'student'``.
        cfg (Config, optional): Its plain config: ``model`` with the data preprocessor inside, ``default_scope``, and
            whatever else its config file holds.
        checkpoint (str, optional): Where its weights came from.
        dataset_meta (dict, optional): ``dataset_meta`` of that checkpoint.
        image_size (tuple[int, int], optional): Height and width that a student works at. Defaults to the teacher's.
        shard (bool): Whether the weights of a teacher are to be split over the ranks. Defaults to False.

    Attributes:
        logits (LogitModel): The model as images in its own pixel space to logits.
        pixels (nn.Module): From the teacher's pixels to the model's.
        image_shape (tuple[int, int, int], optional): Channels, height and width of the images that it is given, which
            are in the teacher's size. Known once the distiller has checked that the networks fit together.
        fast (nn.Module, optional): A faster form of ``logits``. Its method ``serves(taps)`` tells whether it can
            record these taps now. Acceleration sets it.

    Raises:
        DistillError: If the model has no class logits.
    """

    def __init__(
        self,
        model: nn.Module,
        role: str,
        cfg: Config | None = None,
        checkpoint: str | None = None,
        dataset_meta: dict | None = None,
        image_size: tuple[int, int] | None = None,
        shard: bool = False,
    ) -> None:
        super().__init__()
        self.role = role
        self.cfg = cfg or Config()
        self.checkpoint = checkpoint
        self.dataset_meta = dataset_meta or {}
        self.image_size = image_size
        self.shard = shard and get_world_size() > 1
        self._auxiliary = Shared(detach_auxiliary_heads(model))
        try:
            self.logits = as_logits(model)
        except DistillError as error:
            raise DistillError(f'model.{role}: {error}') from error
        self.pixel_space = PixelSpace.of(model)
        if not (self.pixel_space.std.isfinite() & (self.pixel_space.std > 0)).all():
            raise DistillError(
                f'model.{role}.data_preprocessor.std must be positive, but found {self.pixel_space.std.tolist()}'
            )
        self.pixels: nn.Module = nn.Identity()
        self.image_shape: tuple[int, int, int] | None = None
        self.fast: nn.Module | None = None
        self._recorder = _Recorder()

    @property
    def model(self) -> nn.Module:
        """nn.Module: The plain model."""
        return self.logits.model

    def is_version_of(self, teacher: 'Network') -> bool:
        """Whether this is a narrower or shallower version of a teacher."""
        return not ChannelMap(teacher.model, self.model).missing(self.plain_state(), teacher.plain_state())

    def take_pixels_of(self, teacher: 'Network') -> None:
        """Map the teacher's images to this network's pixel space and size."""
        self.pixels = PixelMap(teacher.pixel_space, self.pixel_space, self.image_size)

    def forward(self, images: Tensor) -> Output:
        """Logits and the taps that are being recorded, by the fast form where it can.

        Args:
            images (Tensor): Images [N, C, H, W] in the teacher's normalised pixel space.
        """
        recorder = self._recorder
        recorder.taps = {}
        fast = self.fast is not None and self.fast.serves(recorder.wanted)
        logits = self._resized(self.fast if fast else self.logits, images)
        missing = recorder.wanted - recorder.taps.keys()
        if missing:
            name = min(missing).module
            raise DistillError(
                f'an objective wants to see {name} of model.{self.role}, but its forward pass does not call that '
                'module; name another'
            )
        return Output(logits, dict(recorder.taps))

    def predict(self, images: Tensor) -> Tensor:
        """The exact logits, never by the fast form; nothing is recorded.

        Args:
            images (Tensor): Images [N, C, H, W] in the teacher's normalised pixel space.
        """
        return self._resized(self.logits, images)

    def _resized(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Logits, those of a segmentor at the size of the images."""
        logits = model(self.pixels(images))
        return logits if logits.ndim == 2 else resize_images(logits, images.shape[2:])

    def install(self, taps: Collection[Tap]) -> None:
        """Install the hooks for taps. Do so once, before the network is copied or compiled.

        Raises:
            DistillError: If the model has no such module.
        """
        modules = dict(self.model.named_modules())
        for tap in sorted(taps):
            if tap.module not in modules:
                some = ', '.join(name for name in modules if name and name.count('.') < 2)
                raise DistillError(
                    f'an objective wants to see {tap.module!r}, but model.{self.role} has no such module; some of its '
                    f'modules are {some}'
                )
            if tap in self._recorder.installed:
                continue
            self._recorder.installed.add(tap)
            if tap.side == 'input':
                modules[tap.module].register_forward_pre_hook(self._recorder.input_hook(tap))
            else:
                modules[tap.module].register_forward_hook(self._recorder.output_hook(tap))

    @contextmanager
    def recording(self, taps: Collection[Tap]) -> Iterator[None]:
        """Record taps in the forward passes inside. Keep it open during the backward pass.

        Checkpointed activations are computed again there, and need the same replaced inputs.
        """
        recorder = self._recorder
        recorder.wanted = frozenset(taps)
        try:
            yield
        finally:
            recorder.wanted, recorder.taps, recorder.replacements = frozenset(), {}, {}

    def replace(self, inputs: Mapping[Tap, Tensor]) -> None:
        """Give modules other inputs, until :meth:`recording` ends (teacher forcing)."""
        self._recorder.replacements = dict(inputs)

    def plain_state(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The state dict of the plain model that the config describes, with its auxiliary heads.

        Args:
            state_dict (Mapping[str, Tensor], optional): The plain model's state without these heads, such as averaged
                weights. Defaults to the present one.
        """
        state = dict(self.model.state_dict(keep_vars=True) if state_dict is None else state_dict)
        heads = self._auxiliary.value
        if heads is not None:
            state.update({f'{AUXILIARY_PREFIX}{k}': v for k, v in heads.state_dict(keep_vars=True).items()})
        return state

    def load_plain_state(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights of the plain model, for as many names as there are."""
        heads = self._auxiliary.value
        own = {k: v for k, v in state_dict.items() if heads is None or not k.startswith(AUXILIARY_PREFIX)}
        self.model.load_state_dict(own, strict=False)
        if heads is not None:
            rest = {k.removeprefix(AUXILIARY_PREFIX): v for k, v in state_dict.items() if k not in own}
            heads.load_state_dict(rest, strict=False)

    def meta_in(self, run: Config) -> dict:
        """Classes and palette: as its checkpoint, else a run's test data, else its config has them."""
        return self.dataset_meta or dataset_meta_of(run) or dataset_meta_of(self.cfg)


class _Recorder:
    """Stores the tensors of wanted taps. All copies of a network share one."""

    def __init__(self) -> None:
        self.installed: set[Tap] = set()
        self.wanted: frozenset[Tap] = frozenset()
        self.taps: dict[Tap, Tensor] = {}
        self.replacements: dict[Tap, Tensor] = {}

    def __deepcopy__(self, memo: dict) -> '_Recorder':
        return self

    def output_hook(self, tap: Tap) -> Callable:
        def store(module: nn.Module, inputs: tuple, output: Any) -> None:
            if tap in self.wanted:
                # The first call counts: activation checkpointing repeats it.
                self.taps.setdefault(tap, last_tensor(output))

        return store

    def input_hook(self, tap: Tap) -> Callable:
        def store_and_replace(module: nn.Module, inputs: tuple) -> tuple | None:
            if tap in self.wanted:
                self.taps.setdefault(tap, last_tensor(inputs[0]))
            if tap in self.replacements:
                return (self.replacements[tap], *inputs[1:])
            return None

        return store_and_replace


def last_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the last one in a tuple: outputs of a backbone, or Swin's features with their size."""
    if isinstance(value, Tensor):
        return value
    for part in reversed(value) if isinstance(value, tuple | list) else ():
        found = last_tensor(part)
        if found is not None:
            return found
    return None

"""One small pass of a student that finds its layers, their order, and the blocks that they are in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.utils.model import key_of

from .layers import DenseLayer, NormLayer, ScaleLayer
from .sampling import Layer

Arguments = tuple[tuple, dict[str, Any]]


class Reached(Exception):
    """Ends a forward pass that has shown what it was for."""


@dataclass
class Recording:
    """What a pass showed.

    Attributes:
        layers (dict[str, Layer]): The layers by name, in the order of their first calls.
        keys (dict[str, tuple]): What identifies the input of each.
        blocks (dict[str, Arguments]): Copies of what the blocks were called with.
        left (list[str]): Layers that cannot be solved for: they compute something else than their class.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    keys: dict[str, tuple] = field(default_factory=dict)
    blocks: dict[str, Arguments] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def record(
    run: Callable[[Tensor], Any], images: Tensor, modules: Mapping[str, nn.Module], blocks: set[str]
) -> Recording:
    """Run a student once.

    Args:
        run (Callable[[Tensor], Any]): Its forward pass.
        images (Tensor): A few images [N, C, H, W].
        modules (Mapping[str, nn.Module]): Its modules by name.
        blocks (set[str]): Names of those that are blocks.
    """
    recorder = _Recorder(Recording())
    with ExitStack() as hooks:
        for name, module in modules.items():
            if name in blocks:
                hooks.enter_context(before(module, recorder.on_block(name)))
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | _BatchNorm) or ScaleLayer.fits(module):
                hooks.enter_context(before(module, recorder.on_input(name)))
                hooks.enter_context(after(module, recorder.on_output(name)))
        run(images)
    return recorder.recording


@contextmanager
def before(module: nn.Module, hook: Callable[[nn.Module, tuple, dict], None]) -> Iterator[None]:
    """Call ``hook(module, args, kwargs)`` before a module."""

    def call(*seen: Any) -> None:
        hook(*seen)  # without what it returns, which would replace the input

    handle = module.register_forward_pre_hook(call, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after(module: nn.Module, hook: Callable[[nn.Module, tuple, dict, Any], None]) -> Iterator[None]:
    """Call ``hook(module, args, kwargs, output)`` after a module."""

    def call(*seen: Any) -> None:
        hook(*seen)

    handle = module.register_forward_hook(call, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def first_input(args: tuple, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor that a module is called with."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


def copies_of(args: tuple, kwargs: Mapping[str, Any]) -> Arguments:
    """Arguments that stay as they are: modules may change theirs in place."""
    copied = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
    return copied, {key: a.clone() if isinstance(a, Tensor) else a for key, a in kwargs.items()}


class _Recorder:
    """Fills a recording in hooks."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.alive: list[Tensor] = []  # so that no other tensor gets its memory
        self.seen: set[str] = set()
        self.inputs: dict[str, tuple] = {}
        self.producers: dict[tuple, DenseLayer] = {}  # by the output's key
        self.busy = False  # a layer is being tried

    def on_block(self, name: str) -> Callable:
        def store(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if name not in self.recording.blocks:
                self.recording.blocks[name] = copies_of(args, kwargs)

        return store

    def on_input(self, name: str) -> Callable:
        def store(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if not self.busy:
                self.inputs[name] = key_of(first_input(args, kwargs))

        return store

    def on_output(self, name: str) -> Callable:
        def store(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if self.busy or name in self.seen:
                return
            self.seen.add(name)
            x = first_input(args, kwargs)
            if not isinstance(output, Tensor) or x is None:
                self.recording.left.append(name)
                return
            self.alive += [x, output]
            self.busy = True
            try:
                self._add(name, module, args, kwargs, output)
            finally:
                self.busy = False

        return store

    def _add(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        x = first_input(args, kwargs)
        producer = self.producers.get(self.inputs[name])
        if isinstance(module, _BatchNorm):
            if producer is not None and producer.axis == 1 and producer.norm is None:
                producer.norm, producer.output, producer.shape = module, name, tuple(output.shape)
                return
            layer = NormLayer(name, module)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            layer = DenseLayer(name, module)
            if self.inputs[name] != key_of(x) or not layer.is_plain(x, output):
                self.recording.left.append(name)
                return
            self.producers[key_of(output)] = layer
        else:
            layer = ScaleLayer(name, module)
            if self.inputs[name] != key_of(x) or not layer.find_axis(args, kwargs, output):
                self.recording.left.append(name)
                return
            if producer is not None and layer.only_scales(x):
                return  # the layer before it makes up for its factors
        layer.shape = tuple(output.shape)
        self.recording.layers[name] = layer
        self.recording.keys[name] = self.inputs[name]

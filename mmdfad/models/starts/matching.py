"""What each layer of a student is fitted to, and in which order."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmdfad.models.channels import Blocks, ChannelMap
from mmdfad.models.network import Network, last_tensor

from .blocks import Block, closing_candidates
from .opened_attention import opened_attentions
from .recording import Recording, after, before, record
from .sampling import Layer


class Side(NamedTuple):
    """A network with all modules that hooks can see.

    Attributes:
        network (Network): The network.
        modules (Mapping[str, nn.Module]): Its modules by name, and the projections of opened attentions.
    """

    network: Network
    modules: Mapping[str, nn.Module]

    @classmethod
    @contextmanager
    def opened(cls, network: Network) -> Iterator['Side']:
        """A network whose attentions show their projections."""
        with opened_attentions(network.model) as projections:
            yield cls(network, dict(network.model.named_modules()) | projections)

    def run(self, images: Tensor) -> Tensor:
        """The exact logits of images in the teacher's pixel space."""
        return self.network.logits(self.network.pixels(images))


@dataclass
class Match:
    """A layer of the student and what it is fitted to.

    Attributes:
        layer (Layer): The layer.
        target (str): The teacher's module whose output is wanted.
        kept (Tensor): The channels of this output.
        gain (Tensor, optional): Factors for them.
        own_block (tuple[str, Block], optional): The student's block that the layer closes.
        block (tuple[str, Block], optional): The teacher's block whose sum is wanted, less the own block's skip.
    """

    layer: Layer
    target: str
    kept: Tensor
    gain: Tensor | None = None
    own_block: tuple[str, Block] | None = None
    block: tuple[str, Block] | None = None


@dataclass
class Plan:
    """All matches.

    Attributes:
        steps (list[list[Match]]): Matches in the order in which they are to be solved. Those of one step have the same
            input.
        images (int): Images of the pass that gave the shapes of the layers.
        left (list[str]): Layers of the student that keep their weights.
    """

    steps: list[list[Match]] = field(default_factory=list)
    images: int = 1
    left: list[str] = field(default_factory=list)


def plan(teacher: Side, student: Side, channels: ChannelMap, images: Tensor, every_block: bool) -> Plan:
    """Find out what each layer of the student is to be fitted to.

    Args:
        teacher (Side): The teacher.
        student (Side): The student, with selected weights.
        channels (ChannelMap): Which parts of the teacher the student's are.
        images (Tensor): A few images [N, C, H, W].
        every_block (bool): Fit the last layers of all blocks to sums, and not only of those that stand for several.
    """
    blocks = _blocks(student, channels, every_block)
    recording = record(student.run, images, student.modules, set(blocks))
    targets = {name: channels.teacher_name(layer.output) for name, layer in recording.layers.items()}
    last = {  # the same layers in the last blocks of the ranges
        (block, name): ends.last + targets[name].removeprefix(ends.first)
        for block, ends in blocks.items()
        for name in targets
        if name.startswith(f'{block}.')
    }
    closed = _closed(student, recording, blocks, {key for key, name in last.items() if name in teacher.modules})
    targets |= {name: last[block, name] for name, (block, _) in closed.items()}
    sums = {
        name: (blocks[block].last, _block_of(teacher, blocks[block].last, targets[name], recording.layers[name]))
        for name, (block, _) in closed.items()
    }
    shapes, additive = _look_at(teacher, images, set(targets.values()), [*sums.values()])
    found, result = {}, Plan(images=len(images), left=recording.left)
    for name, layer in recording.layers.items():
        match = _match(layer, targets[name], shapes.get(targets[name]), channels)
        if match is None:
            result.left.append(name)
            continue
        if name in closed and sums[name][0] in additive:  # else it keeps its target
            match.own_block, match.block = closed[name], sums[name]
        found[name] = match
    for group in _in_order(found, recording):
        result.steps.append([found[name] for name in group])
    return result


def _blocks(student: Side, channels: ChannelMap, every: bool) -> dict[str, Blocks]:
    """The student's blocks that stand for several of the teacher's, or all, with these."""
    found = {}
    for name, module in student.network.model.named_modules():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            for key, child in module.named_children():
                block = f'{name}.{key}' if name else key
                ends = channels.blocks(block)
                if any(True for _ in child.children()) and (every or ends.first != ends.last):
                    found[block] = ends
    return found


def _closed(
    student: Side, recording: Recording, blocks: Mapping[str, Blocks], known: set[tuple[str, str]]
) -> dict[str, tuple[str, Block]]:
    """The last layers of blocks, each with the name of its block. ``known`` are those that the teacher has, too."""
    found = {}
    for name, call in recording.blocks.items():
        inside = [layer for key, layer in recording.layers.items() if (name, key) in known and key not in found]
        for layer in closing_candidates(inside, call, student.modules[name]):
            block = _block_of(student, name, layer.output, layer)
            if block.find(*call):
                # With nothing to add to, the sum is what the layer gives.
                if blocks[name].first != blocks[name].last or block.skip(*call).abs().max() > 0:
                    found[layer.name] = (name, block)
                break
    return found


def _block_of(side: Side, name: str, output: str, layer: Layer) -> Block:
    return Block(side.modules[name], side.modules[output], layer.axis)


def _look_at(
    teacher: Side, images: Tensor, outputs: set[str], blocks: list[tuple[str, Block]]
) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shapes of the outputs of some of the teacher's modules, and which of its blocks are additive."""
    shapes: dict[str, tuple[int, ...]] = {}
    additive: dict[str, bool] = {}

    def on_output(name: str) -> Callable:
        return lambda module, args, kwargs, output: shapes.setdefault(name, tuple(last_tensor(output).shape))

    def on_block(name: str, block: Block) -> Callable:
        # While it is called: the weights of a sharded block are whole then.
        return lambda module, args, kwargs: name in additive or additive.update({name: block.find(args, kwargs)})

    with ExitStack() as hooks:
        for name in outputs & teacher.modules.keys():
            hooks.enter_context(after(teacher.modules[name], on_output(name)))
        for name, block in blocks:
            hooks.enter_context(before(teacher.modules[name], on_block(name, block)))
        teacher.run(images)
    return shapes, {name for name, found in additive.items() if found}


def _match(layer: Layer, target: str, shape: tuple[int, ...] | None, channels: ChannelMap) -> Match | None:
    """The match of a layer, or None if the teacher's layer does not fit."""
    if shape is None or len(shape) != len(layer.shape) or shape[layer.axis] < layer.channels:
        return None
    places, own = ([n for i, n in enumerate(s) if i != layer.axis % len(s)] for s in (shape, layer.shape))
    if places != own and len(shape) != 4:  # only maps can be resized
        return None
    sizes = (shape[layer.axis], layer.channels)
    return Match(layer, target, channels.outputs(layer.name, *sizes), channels.gain(layer.name, *sizes))


def _in_order(matches: Mapping[str, Match], recording: Recording) -> list[list[str]]:
    """Names of layers in the order in which to solve for them. Layers with the same input are solved together."""
    # The target of a block's last layer depends on the others in the block: on a projection of the skip, for one.
    names = list(recording.layers)
    places = {}
    for place, name in enumerate(names):
        block = matches[name].own_block if name in matches else None
        inside = [i for i, n in enumerate(names) if block and n.startswith(f'{block[0]}.')]
        places[name] = (max(inside, default=place), bool(block))
    groups: dict[Any, list[str]] = {}
    for name in sorted(matches, key=lambda n: places[n]):
        key = name if matches[name].own_block else recording.keys[name]
        groups.setdefault(key, []).append(name)
    return list(groups.values())

"""Passes over all images: what the teacher gives, and what the student needs to give the same."""

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdfad.models.network import last_tensor
from mmdfad.models.pixels import resize_images
from mmdfad.utils import DistillError
from mmdfad.utils.model import upcast
from mmdfad.utils.progress import counting

from .blocks import Block
from .matching import Match, Plan, Side
from .normal_equations import ChannelEquations, NormalEquations
from .recording import Reached, after, before
from .sampling import Layer, Rows

# In place of the name of one of the teacher's modules: its logits.
LOGITS = 'logits'
# Bytes of wanted outputs that are kept at once. More take more passes of the teacher.
_KEPT = 2**28


class Passes:
    """Solves for all layers of a plan.

    Args:
        teacher (Side): The teacher.
        student (Side): The student.
        plan (Plan): The plan.
        batches (list[Tensor]): Images on the host.
        positions (int): Sampled positions of a layer's output, over all images.
        ridge (float): Relative penalty.
    """

    def __init__(
        self, teacher: Side, student: Side, plan: Plan, batches: list[Tensor], positions: int, ridge: float
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.batches = batches
        self.plan = plan
        self.positions = positions
        self.ridge = ridge
        self.device = next(student.network.parameters()).device

    def solve(self) -> dict[str, float]:
        """Solve, and return the relative squared error of each layer.

        Raises:
            DistillError: If no layer has a finite solution.
        """
        errors: dict[str, float] = {}
        for name in self.plan.left:
            print_log(f'Least squares: {name} keeps its weights', 'current')
        with counting('start: layers', len(self.plan.steps)) as advance:
            for steps in self._shares():
                wanted = self._targets(list(chain(*steps)))
                for step in steps:
                    errors |= self._fit(step, wanted)
                    advance()
        if not errors:
            raise DistillError(
                'LeastSquaresStart found no layer with a finite solution: the generated images or the outputs of '
                'model.teacher are not finite; check model.generator and model.teacher.checkpoint'
            )
        return errors

    def _shares(self) -> Iterator[list[list[Match]]]:
        """Runs of steps whose wanted outputs may be kept at once."""
        steps, size = [], 0
        for step in self.plan.steps:
            own = sum(4 * len(m.kept) * min(self.positions, self._vectors(m)) for m in step)
            if steps and size + own > _KEPT:
                yield steps
                steps, size = [], 0
            steps.append(step)
            size += own
        if steps:
            yield steps

    def _vectors(self, match: Match) -> int:
        """Number of vectors in a layer's output, over all images."""
        shape = torch.Size(match.layer.shape)
        return shape.numel() // match.layer.channels * sum(map(len, self.batches)) // self.plan.images

    def _targets(self, matches: list[Match]) -> dict[str, list[tuple[Rows, Tensor]]]:
        """Sampled positions, and what the teacher gives there, for each layer and batch."""
        wanted: dict[str, list[tuple[Rows, Tensor]]] = {match.layer.name: [] for match in matches}
        blocks = [match.block[1] for match in matches if match.block]
        for number, batch in enumerate(self.batches):

            def store(match: Match, values: Tensor, axis: int, number: int = number) -> None:
                found = wanted[match.layer.name]
                if len(found) == number and not any(block.probing for block in blocks):
                    found.append(self._sampled(match, values, axis, number))
                if not self.teacher.network.shard and all(len(f) > number for f in wanted.values()):
                    raise Reached  # with a sharded teacher, all ranks have to gather all weights

            with ExitStack() as hooks, suppress(Reached):
                for match in matches:
                    hooks.enter_context(self._watching(match, store))
                self.teacher.run(batch.to(self.device))
        return wanted

    def _watching(self, match: Match, store: Any) -> Any:
        """A hook on the teacher's module, or on its block if a sum is wanted."""
        modules = self.teacher.modules
        if match.block is None:
            module = self.teacher.network.logits if match.target == LOGITS else modules[match.target]
            return after(module, lambda m, a, k, output: store(match, last_tensor(output), match.layer.axis))
        name, block = match.block

        def on_block(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if not block.probing:
                store(match, block.total(args, kwargs), block.out_axis)

        return before(modules[name], on_block)

    def _sampled(self, match: Match, values: Tensor, axis: int, number: int) -> tuple[Rows, Tensor]:
        layer = match.layer
        size = layer.shape[2:] if layer.axis == 1 else layer.shape[1:-1]
        if values.ndim == len(layer.shape) == 4:
            values = resize_images(values.movedim(axis, 1), size).movedim(1, axis)
        # The same positions at each run, others in each batch.
        generator = torch.Generator().manual_seed(number)
        share = min(1.0, self.positions / self._vectors(match))
        rows = Rows(layer, values, axis, share, generator)
        targets = upcast(rows.of(values, axis)[:, match.kept.to(values.device)])
        return rows, targets if match.gain is None else targets * match.gain.to(targets.device)

    def _fit(self, step: list[Match], wanted: dict[str, list[tuple[Rows, Tensor]]]) -> dict[str, float]:
        """Solve for the layers of a step."""
        sums = {match.layer.name: match.layer.equations(self.device) for match in step}
        for number, batch in enumerate(self.batches):
            args, kwargs, skip = self._inputs(step[0], batch.to(self.device))
            for match in step:
                rows, targets = wanted[match.layer.name][number]
                if skip is not None:
                    block: Block = match.own_block[1]
                    targets = (targets - rows.of(skip, block.out_axis)) / block.gain
                for x, y in match.layer.samples(args, kwargs, rows, targets):
                    sums[match.layer.name].add(x, y, number % 2)
        return {m.layer.name: error for m in step if (error := self._store(m.layer, sums[m.layer.name])) is not None}

    def _inputs(self, match: Match, images: Tensor) -> tuple[tuple, dict[str, Any], Tensor | None]:
        """What a layer of the student is called with, and what the block that it closes adds its output to."""
        found: list[Any] = []
        skips: list[Tensor] = []
        block = match.own_block[1] if match.own_block else None

        def on_layer(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if block is None or not block.probing:
                found.extend((args, kwargs))
                raise Reached

        def on_block(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if not block.probing and not skips:
                skips.append(block.skip(args, kwargs))

        with ExitStack() as hooks, suppress(Reached):
            if block is not None:
                hooks.enter_context(before(block.module, on_block))
            hooks.enter_context(before(match.layer.module, on_layer))
            self.student.run(images)
        args, kwargs = found
        return args, kwargs, skips[0] if skips else None

    def _store(self, layer: Layer, sums: NormalEquations | ChannelEquations) -> float | None:
        """Solve and store, or keep the selected weights if the solution is not finite. Returns the relative error."""
        kept = [tensor.clone() for tensor in layer.parameters()]
        solution = sums.solve(self.ridge)
        layer.store(solution)
        if all(tensor.isfinite().all() for tensor in layer.parameters()) and not math.isnan(solution.error):
            print_log(f'Least squares: {layer.name}, relative error {solution.error:.3f}', 'current')
            return solution.error
        for tensor, old in zip(layer.parameters(), kept, strict=True):
            tensor.copy_(old)
        print_log(
            f'Least squares: {layer.name} has no finite solution and keeps its weights', 'current', logging.WARNING
        )
        return None

"""Whether an ONNX file gives what the model gives, and how fast each is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmdfad.models.generators.procedural import DeadLeaves
from mmdfad.utils import DistillError

from .convert import EXAMPLE, IMAGES
from .graph import Graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Images in the batches that a graph is checked with. It was traced with another number.
BATCHES = (1, 3)
_SEED = 0
_FIXED = 'the code of the model fixes the batch size of its example'


@dataclass(frozen=True)
class Agreement:
    """How close the outputs of a file and of its model are.

    Attributes:
        difference (float): Largest absolute difference of the logits. 0 if there are none.
        relative (float): The same as a share of their standard deviation.
        labels (float): Share of images or pixels with the same label.
    """

    difference: float
    relative: float
    labels: float


def probe_batches(channels: int, size: tuple[int, int]) -> list[Tensor]:
    """Images with edges and colours: dead leaves, the same every time.

    Args:
        channels (int): Channels.
        size (tuple[int, int]): Height and width in pixels.

    Returns:
        list[Tensor]: A batch of uint8 images [N, C, H, W] for each N of ``BATCHES``.
    """
    generator = DeadLeaves(noise_dim=2, image_size=size, channels=channels)
    noise = torch.randn(sum(BATCHES), 2, generator=torch.Generator().manual_seed(_SEED))
    return [*generator.space.to_rgb(generator.sample(noise)).split(BATCHES)]


def start_session(content: bytes) -> 'InferenceSession':
    """Validate an ONNX file, and load it on the CPU, with as many threads as torch uses.

    Raises:
        DistillError: If it is not valid.
    """
    import onnxruntime
    from onnx.checker import check_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    try:
        check_model(content, full_check=True)
        return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # both have many kinds of errors of their own
        raise DistillError(f'the exported graph is not valid: {_first_line(error)}') from error


def run_session(session: 'InferenceSession', images: Tensor) -> dict[str, Tensor]:
    """The outputs of an ONNX file by name.

    Raises:
        DistillError: If it does not take the batch.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, {IMAGES: images.numpy()})
    except Exception as error:  # onnxruntime has many kinds of errors of its own
        raise DistillError(
            f'the exported graph fails for {len(images)} images of {images.shape[2]}x{images.shape[3]} pixels: '
            f'{_first_line(error)}. Perhaps {_FIXED}'
        ) from error
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def check(content: bytes, graph: Graph, batches: Sequence[Tensor], tolerance: float) -> Agreement:
    """Compare an ONNX file with its module.

    Args:
        content (bytes): The file.
        graph (Graph): The module.
        batches (Sequence[Tensor]): What both take, from :func:`probe_batches`.
        tolerance (float): Largest relative difference of the logits.

    Raises:
        DistillError: If the file is not valid, fails, or differs by more than the tolerance.
    """
    session = start_session(content)
    found = _compare(session, graph, batches)
    if found.relative <= tolerance:
        return found
    reason = '; if that is near enough, set a larger --tolerance'
    if _compare(session, graph, [batches[1][:EXAMPLE]]).relative <= tolerance:
        reason = f'. For {EXAMPLE} images they agree: {_FIXED}'
    raise DistillError(
        f'the exported graph does not give the logits of the model: they differ by up to {found.difference:.3g}, '
        f'{found.relative:.2g} of their standard deviation, where --tolerance allows {tolerance:g}. {found.labels:.2%} '
        f'of the labels are equal{reason}'
    )


@torch.no_grad()
def _compare(session: 'InferenceSession', graph: Graph, batches: Sequence[Tensor]) -> Agreement:
    logits, differences, same = [torch.zeros(0)], [torch.zeros(1)], []
    for images in batches:
        expected, found = dict(zip(graph.outputs, graph(images), strict=True)), run_session(session, images)
        for name, value in found.items():
            if value.shape != expected[name].shape:
                raise DistillError(
                    f'for {len(images)} images, the exported graph gives {name} of shape {list(value.shape)} in place '
                    f'of {list(expected[name].shape)}: {_FIXED}'
                )
        if 'logits' in found:
            logits.append(expected['logits'].flatten())
            differences.append((found['logits'] - expected['logits']).abs().flatten())
        same.append((_labels(found) == _labels({name: expected[name] for name in found})).flatten())
    difference, labels = float(torch.cat(differences).max()), float(torch.cat(same).double().mean())
    return Agreement(difference, difference / float(torch.cat(logits).std()) if difference else 0.0, labels)


def _labels(outputs: Mapping[str, Tensor]) -> Tensor:
    """Labels, or else the classes with the largest logits or scores."""
    labels = outputs.get('label', outputs.get('label_map'))
    return next(iter(outputs.values())).argmax(1) if labels is None else labels


def _first_line(error: Exception) -> str:
    return str(error).strip().partition('\n')[0]

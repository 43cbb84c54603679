"""From a torch module to an ONNX graph, with the reason if there is none."""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmdfad.utils import DistillError
from mmdfad.utils.compat import is_importable

from .graph import Graph, for_any_batch

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
IMAGES = 'images'
# A graph is traced with so many images.
EXAMPLE = 2
# How torch names an operator that it cannot translate: always, or in that place.
_UNKNOWN = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_FAILED = re.compile(r'Error when translating node .*target=torch\.ops\.([\w.]+)\]')
# The largest file that protobuf writes, in bytes.
_LARGEST = 2**31 - 1


def require_packages() -> None:
    """Check that the packages are installed that write and run ONNX files.

    Raises:
        DistillError: If one is missing. The message has the line that installs it.
    """
    missing = [name for name in PACKAGES if not is_importable(name)]
    if missing:
        raise DistillError(
            f"the export to ONNX needs {', '.join(missing)}, not installed here: pip install 'mmdfad[onnx]'"
        )


def to_onnx(graph: Graph, images: Tensor, opset: int | None = None, any_size: bool = False) -> 'ModelProto':
    """Translate a graph for any batch size.

    Args:
        graph (Graph): The graph.
        images (Tensor): Two example images or more [N, C, H, W].
        opset (int, optional): Version of ONNX's operators. Defaults to that of torch.
        any_size (bool): Whether it is for any height and width, too. Defaults to False.

    Raises:
        DistillError: If the weights are too large, or torch cannot translate the graph. Then the message names the
            operator or has torch's reason.
    """
    weights = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    if weights > _LARGEST:
        raise DistillError(
            f'the weights take {weights / 2**30:.1f} GiB, but an ONNX file that holds them has 2 at most; export a '
            'smaller student'
        )
    sizes = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC) if any_size else {}
    try:
        with for_any_batch(graph), _silence():
            program = torch.onnx.export(
                graph,
                (images[:EXAMPLE],),
                input_names=[IMAGES],
                output_names=graph.outputs,
                dynamic_shapes=({0: torch.export.Dim('batch'), **sizes},),
                opset_version=opset,
                verbose=False,
            )
            proto = program.model_proto
    except Exception as error:  # the model's code runs in torch's tracer, and can fail in any way
        raise DistillError(f'the model cannot be exported to ONNX: {_reason(error)}') from error
    _require_dynamic(proto, (0, *sizes))
    if opset not in (None, opset_of(proto)):
        raise DistillError(
            f'torch could not convert the graph to --opset {opset}, and wrote version {opset_of(proto)}; leave out '
            '--opset, or choose a closer version'
        )
    _strip(proto)
    return proto


@contextmanager
def _silence() -> Iterator[None]:
    """Hide what torch and onnxscript log and print: their progress, and whole graphs where they fail."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


def _require_dynamic(proto: 'ModelProto', dimensions: Sequence[int]) -> None:
    """Refuse a graph in which a size became a constant."""
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    if not shape[0].dim_param:
        raise DistillError(
            'the model cannot be exported to ONNX for any batch size: its code turns the number of images into a '
            'constant'
        )
    if any(not shape[dimension].dim_param for dimension in dimensions):
        raise DistillError(
            'the model cannot be exported to ONNX for any image size: its code turns the size into a constant; leave '
            'out --any-size'
        )


def _strip(proto: 'ModelProto') -> None:
    """Remove what torch notes about each node: names and lines of this machine's source files."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField('doc_string')
        part.ClearField('metadata_props')


def opset_of(proto: 'ModelProto') -> int:
    """Version of the operators of ONNX in a graph."""
    return next(entry.version for entry in proto.opset_import if not entry.domain)


def set_properties(proto: 'ModelProto', properties: Mapping[str, str]) -> None:
    """Store texts under their names in a graph's metadata."""
    from onnx.helper import set_model_props

    set_model_props(proto, dict(properties))


def without_logits(proto: 'ModelProto') -> bytes:
    """The file of a graph that gives the predictions, but not the logits."""
    from onnx import ModelProto

    smaller = ModelProto()
    smaller.CopyFrom(proto)
    del smaller.graph.output[0]
    return smaller.SerializeToString()


def _reason(error: BaseException) -> str:
    """The operator that cannot be translated, or the first line of the first cause."""
    causes = [*_causes(error)]
    first = f'{type(causes[-1]).__name__}: {str(causes[-1]).strip().partition(chr(10))[0]}'
    for cause in causes:
        if found := _UNKNOWN.search(str(cause)):
            return f'torch has no translation of the operator {found[1]}'
        if found := _FAILED.search(str(cause)):
            return f'torch cannot translate this use of the operator {found[1]} ({first})'
    return first


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__

"""From a config and a checkpoint to a checked ONNX file."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor

from mmdfad.models.build import build_network
from mmdfad.models.network import Network
from mmdfad.models.pixels import image_channels
from mmdfad.utils import DistillError, as_pair
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.quiet import quiet
from mmdfad.utils.timing import median_seconds

from ..config import is_distillation, read_run
from ..image_size import Size, config_size
from .check import BATCHES, Agreement, check, probe_batches, run_session, start_session
from .convert import opset_of, require_packages, set_properties, to_onnx, without_logits
from .graph import Graph, Preprocessing, channel_order

TOLERANCE = 1e-3
ORDERS = ('rgb', 'bgr')
# One image is timed this often, but no more after so many seconds.
_REPEATS, _LONG = 30, 3.0
# A graph for any size is checked once more with images that are larger by so many pixels.
_LARGER = (64, 32)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file, and how it compares with its model in PyTorch.

    Attributes:
        path (Path): The file.
        file_bytes (int): Its size.
        opset (int): Version of its operators.
        inputs (str): Name, type and shape of the input.
        outputs (str): Names, types and shapes of the outputs.
        properties (dict[str, str]): Its metadata.
        agreement (Agreement): How close its outputs are to those of PyTorch, on probe images.
        seconds (float): Median time of onnxruntime on the CPU for one image.
        torch_seconds (float): That of PyTorch.
        threads (int): Threads of both.
    """

    path: Path
    file_bytes: int
    opset: int
    inputs: str
    outputs: str
    properties: dict[str, str]
    agreement: Agreement
    seconds: float
    torch_seconds: float
    threads: int

    def __str__(self) -> str:
        """Lines for a terminal."""
        found = self.agreement
        return (
            f'{self.path}: {self.file_bytes:,} bytes, opset {self.opset}\n'
            f'  input:   {self.inputs}, {self.properties["input"]}, channels: {self.properties["channel_order"]}\n'
            f'  outputs: {self.outputs}\n'
            f'  logits differ from those of PyTorch by up to {found.difference:.2g}, {found.relative:.1g} of their '
            f'standard deviation; {found.labels:.2%} of the labels are equal\n'
            f'  one image takes {1e3 * self.seconds:.2f} ms with onnxruntime, {1e3 * self.torch_seconds:.2f} ms with '
            f'PyTorch (CPU, {self.threads} threads, median)'
        )


@torch.no_grad()
def export_onnx(
    config: str,
    checkpoint: str,
    out: str | Path | None = None,
    image_size: Size | None = None,
    *,
    preprocessing: bool = False,
    postprocessing: bool = False,
    any_size: bool = False,
    order: str | None = None,
    tolerance: float = TOLERANCE,
    opset: int | None = None,
    cfg_options: dict | None = None,
) -> OnnxFile:
    """Export a plain classifier or segmentor to ONNX, for any batch size, and check the result.

    The graph gives the logits [N, K] of a classifier, or the logits [N, K, H, W] of a segmentor at the size of the
    images. It is compared with PyTorch before the file is written.

    Args:
        config (str): The model's config: a student's ``student.py``, or any config of mmpretrain or mmseg, as a path or
            ``'package::folder/config.py'``.
        checkpoint (str): Its checkpoint, a path or URL.
        out (str | Path, optional): The file to write. Defaults to the checkpoint's name with ``.onnx``.
        image_size (Size, optional): Height and width in pixels. Defaults to the size in the config, for example in its
            test pipeline.
        preprocessing (bool): Whether the graph takes uint8 images [N, C, H, W], RGB or gray, and normalises them.
            Otherwise it takes normalised pixels in fp32. Defaults to False.
        postprocessing (bool): Whether the graph gives predictions in place of logits, see :class:`Graph`. Defaults to
            False.
        any_size (bool): Whether the graph takes images of any height and width. Defaults to False.
        order (str, optional): ``'rgb'`` or ``'bgr'``, the channels that the model takes. Defaults to what the config
            says, see :func:`channel_order`.
        tolerance (float): Largest difference of the logits from PyTorch's, as a share of their standard deviation.
            Defaults to 1e-3.
        opset (int, optional): Version of ONNX's operators. Defaults to that of torch.
        cfg_options (dict, optional): Settings by dotted key, which override those of the config.

    Returns:
        OnnxFile: The file, and how it compares with PyTorch.

    Raises:
        DistillError: If a package is missing, the model cannot be exported, the result differs from PyTorch by more
            than the tolerance, or the file cannot be written. Then there is no new file, and an old one is unchanged.
    """
    require_packages()
    path = _path(out, checkpoint)
    network = _load(config, checkpoint, cfg_options)
    size = _image_size(network, config, image_size)
    order = _order(network, order)
    pixels = Preprocessing(network.pixel_space, order)
    graph = Graph(network.logits, pixels if preprocessing else None, postprocessing)
    channels = image_channels(network.model)
    larger = tuple(side + more for side, more in zip(size, _LARGER, strict=True))
    batches = [batch for s in ([size, larger] if any_size else [size]) for batch in probe_batches(channels, s)]
    if not preprocessing:
        batches = [pixels(batch) for batch in batches]
    for batch in batches[:: len(BATCHES)]:
        _require_logits(graph, batch)

    proto = to_onnx(graph, batches[1], opset, any_size)
    properties = _properties(network, order, preprocessing)
    set_properties(proto, properties)
    content = proto.SerializeToString()
    agreement = check(content, graph, batches, tolerance)
    if postprocessing:
        content = without_logits(proto)
        agreement = replace(agreement, labels=check(content, graph, batches, tolerance).labels)
    _write(path, content)
    session = start_session(content)
    timed = partial(median_seconds, device=torch.device('cpu'), repeats=_REPEATS, longest=_LONG)
    file = OnnxFile(
        path=path,
        file_bytes=len(content),
        opset=opset_of(proto),
        inputs=_describe(session.get_inputs()),
        outputs=_describe(session.get_outputs()),
        properties=properties,
        agreement=agreement,
        seconds=timed(lambda: run_session(session, batches[0])),
        torch_seconds=timed(lambda: graph(batches[0])),
        threads=torch.get_num_threads(),
    )
    _write_record(file)
    return file


def _path(out: str | Path | None, checkpoint: str) -> Path:
    """The file to write."""
    if out is None:
        return Path(Path(checkpoint).name if '://' in checkpoint else checkpoint).with_suffix('.onnx')
    if Path(out).suffix != '.onnx':
        raise DistillError(f'--out must be a file whose name ends with .onnx, but found {out}')
    return Path(out)


def _load(config: str, checkpoint: str, cfg_options: dict | None) -> Network:
    """The model with its weights, in eval mode."""
    if is_distillation(read_run(config, cfg_options)):
        raise DistillError(
            f'{config} is the config of a distillation: give the student.py and student.pth in its work directory. '
            'tools/export_student.py writes them for a training checkpoint'
        )
    with quiet():
        network = build_network(dict(cfg_path=config, cfg_options=cfg_options or {}, checkpoint=checkpoint), 'student')
    return revert_sync_batchnorm(network).eval()


def _image_size(network: Network, config: str, image_size: Size | None) -> Size:
    if image_size is not None:
        return as_pair(image_size, '--image-size')
    found = config_size(network)
    if found is None:
        raise DistillError(f'{config} does not give the image size; set it with --image-size H W')
    return found[0]


def _order(network: Network, order: str | None) -> str:
    """The order of channels that the model takes."""
    channels = image_channels(network.model)
    if order is None:
        return channel_order(network.cfg, network.pixel_space, channels)
    if order not in ORDERS or channels != 3:
        raise DistillError(
            f"--channel-order must be 'rgb' or 'bgr', and the images must have three channels, but found {order!r} and "
            f'{channels} channel(s); leave it out'
        )
    return order


def _require_logits(graph: Graph, images: Tensor) -> None:
    """Refuse images that the model does not take, and a model whose weights are damaged."""
    try:
        logits, *_ = graph(images)
    except DistillError:
        raise
    except Exception as error:  # each model has its own way to refuse a size
        raise DistillError(
            f'the model does not take images of {images.shape[2]}x{images.shape[3]} pixels ({error}); choose another '
            '--image-size'
        ) from error
    if not logits.isfinite().all():
        raise DistillError('the model gives logits that are NaN or infinite: its checkpoint is damaged or not trained')


def _properties(network: Network, order: str, preprocessing: bool) -> dict[str, str]:
    """What a program has to know that uses the file. Mean and std are in the order of the channels of the input."""
    task = 'segmentation' if network.logits.ndim == 4 else 'classification'
    space = network.pixel_space
    # As short as in the config: texts of fp32 numbers.
    mean, std = ([float(str(number)) for number in values.float().numpy()] for values in (space.mean, space.std))
    if preprocessing and order == 'bgr':
        order, mean, std = 'rgb', mean[::-1], std[::-1]
    found = dict(
        task=f'multi-label {task}' if network.logits.multi_label else task,
        input='pixels in 0..255' if preprocessing else '(pixel - mean) / std',
        channel_order=order,
        mean=json.dumps(mean),
        std=json.dumps(std),
    )
    meta = network.meta_in(network.cfg)
    return found | {key: json.dumps(list(meta[key])) for key in ('classes', 'palette') if meta.get(key)}


def _write_record(file: OnnxFile) -> None:
    """Write what a report shows of the file beside it."""
    record = dict(
        file_bytes=file.file_bytes,
        seconds=file.seconds,
        torch_seconds=file.torch_seconds,
        threads=file.threads,
        difference=file.agreement.difference,
        labels=file.agreement.labels,
    )
    atomic_write(file.path.with_name(f'{file.path.name}.json'), json.dumps(record).encode())


def _write(path: Path, content: bytes) -> None:
    try:
        atomic_write(path, content)
    except OSError as error:
        raise DistillError(f'cannot write {path}: {error}. Make room, or choose another file with --out') from error


def _describe(values: list) -> str:
    """Names, types and shapes of inputs or outputs of a session."""
    names = {'tensor(float)': 'float32', 'tensor(uint8)': 'uint8', 'tensor(int64)': 'int64'}
    return ', '.join(f'{v.name}: {names.get(v.type, v.type)} [{", ".join(map(str, v.shape))}]' for v in values)

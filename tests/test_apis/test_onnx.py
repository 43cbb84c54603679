"""ONNX files give what stock mmpretrain and mmseg give, for tiny models of the main families."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, TINY, keep_hooks, run
from in_process import call_here
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from torch import Tensor, nn

from mmdfad.apis import make_report
from mmdfad.apis.onnx import export_onnx
from mmdfad.apis.onnx.graph import Graph, channel_order, for_any_batch
from mmdfad.models.build import build_model, plain_config
from mmdfad.models.logits import as_logits
from mmdfad.models.pixels import PixelSpace
from mmdfad.utils import DistillError

MEAN, STD, CLASSES = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], list('abcde')
BN = dict(type='BN')


def classifier(backbone: dict, head: dict, neck: dict | None = None, **pixels) -> Config:
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    return Config(
        dict(model=dict(**model, data_preprocessor=dict(mean=MEAN, std=STD, **pixels)), default_scope='mmpretrain')
    )


def segmentor(backbone: dict, head: dict, **pixels) -> Config:
    pixels = dict(type='SegDataPreProcessor', mean=MEAN, std=STD, **pixels)
    model = dict(type='EncoderDecoder', backbone=backbone, decode_head=head, data_preprocessor=pixels)
    return Config(dict(model=dict(**model, train_cfg=dict(), test_cfg=dict(mode='whole')), default_scope='mmseg'))


def linear(channels: int, kind: str = 'LinearClsHead') -> dict:
    return dict(type=kind, in_channels=channels, num_classes=5)


GAP = dict(type='GlobalAveragePooling')
TWO_STAGES = dict(
    depth=18, base_channels=4, stem_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)
)
VIT = dict(num_layers=1, num_heads=2, embed_dims=8, feedforward_channels=16)
MIT = dict(num_stages=1, num_layers=[1], num_heads=[1], patch_sizes=[7], strides=[4], sr_ratios=[2], out_indices=(0,))
UNET = dict(
    num_stages=2,
    strides=(1, 1),
    enc_num_convs=(1, 1),
    dec_num_convs=(1,),
    downsamples=(True,),
    enc_dilations=(1, 1),
    dec_dilations=(1,),
)
BOTH = dict(preprocessing=True, postprocessing=True)
# A tiny model, and how it is exported. The channels that the models take are RGB, or BGR without a flip.
FAMILIES = {
    'ResNet': (classifier(dict(type='ResNet', **TWO_STAGES), linear(8), GAP), BOTH),
    'VisionTransformer': (
        classifier(
            dict(type='VisionTransformer', arch=VIT, img_size=32, patch_size=16),
            linear(8, 'VisionTransformerClsHead'),
            to_rgb=True,
        ),
        dict(postprocessing=True),
    ),
    'SwinTransformer': (
        classifier(
            dict(
                type='SwinTransformer',
                arch=dict(embed_dims=8, depths=[2], num_heads=[2]),
                img_size=32,
                window_size=4,
                out_indices=(0,),
            ),
            linear(8),
            GAP,
            to_rgb=True,
        ),
        dict(preprocessing=True),
    ),
    'ConvNeXt': (
        classifier(dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[8] * 4)), linear(8), to_rgb=True),
        dict(),
    ),
    'LeNet5': (
        Config(
            dict(
                model=dict(
                    type='ImageClassifier',
                    backbone=dict(type='mmdfad.LeNet5Half', num_classes=5),
                    head=dict(type='ClsHead'),
                    data_preprocessor=dict(mean=[33.0], std=[78.0]),
                ),
                default_scope='mmpretrain',
            )
        ),
        BOTH,
    ),
    'PSPNet': (
        segmentor(
            dict(type='ResNetV1c', norm_cfg=dict(type='SyncBN'), **TWO_STAGES),
            dict(type='PSPHead', in_channels=8, in_index=0, channels=4, pool_scales=(1, 3), num_classes=5, norm_cfg=BN),
        ),
        BOTH,
    ),
    'SegFormer': (
        segmentor(
            dict(type='MixVisionTransformer', embed_dims=8, **MIT),
            dict(type='SegformerHead', in_channels=[8], in_index=[0], channels=8, num_classes=5, norm_cfg=BN),
            bgr_to_rgb=True,
        ),
        dict(postprocessing=True),
    ),
    'UNet': (
        segmentor(
            dict(type='UNet', base_channels=4, norm_cfg=BN, **UNET),
            dict(
                type='FCNHead',
                in_channels=4,
                in_index=1,
                channels=4,
                num_convs=1,
                concat_input=False,
                num_classes=2,
                out_channels=1,
                threshold=0.4,
                norm_cfg=BN,
            ),
            bgr_to_rgb=True,
        ),
        dict(BOTH, any_size=True),
    ),
}


def save(folder: Path, config: Config, **meta) -> tuple[str, str]:
    """Files of a config, and of random weights that use all parameters."""
    path, checkpoint = folder / 'student.py', folder / 'student.pth'
    path.write_text(config.pretty_text)
    torch.manual_seed(0)
    model = build_model(plain_config(dict(cfg_path=str(path)), 'student'), 'student')
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), checkpoint)
    return str(path), str(checkpoint)


def stock_model(config: str, checkpoint: str) -> nn.Module:
    """The model, as the stock package loads it."""
    if Config.fromfile(config).default_scope == 'mmseg':
        from mmseg.apis import init_model

        return init_model(config, checkpoint, device='cpu')
    from mmpretrain import get_model

    return get_model(config, pretrained=checkpoint)


@torch.no_grad()
def stock_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Normalised pixels, and predictions of a stock model for images as it loads them."""
    batch = dict(inputs=[*images])
    if hasattr(model, 'decode_head'):
        from mmseg.structures import SegDataSample

        size = dict(ori_shape=images.shape[2:], img_shape=images.shape[2:])
        batch['data_samples'] = [SegDataSample(metainfo=size) for _ in images]
    pixels = model.data_preprocessor(batch)['inputs']
    results = model.test_step(batch)
    if hasattr(model, 'decode_head'):
        logits, labels = (torch.stack([r.get(key).data for r in results]) for key in ('seg_logits', 'pred_sem_seg'))
        return pixels, dict(logits=logits, label_map=labels[:, 0].to(torch.uint8))
    scores, labels = (torch.stack([r.get(key) for r in results]) for key in ('pred_score', 'pred_label'))
    return pixels, dict(logits=model(pixels, mode='tensor'), scores=scores, label=labels[:, 0])


# One of each kind is a test of `make test`, all others of `make test-slow`.
QUICK = 'ResNet', 'VisionTransformer', 'LeNet5', 'PSPNet'


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_file_gives_what_the_stock_package_gives(name, tmp_path):
    config, options = FAMILIES[name]
    files = save(tmp_path, config, classes=CLASSES)
    found = export_onnx(*files, image_size=(32, 32), **options)
    assert found.path == tmp_path / 'student.onnx'
    assert found.agreement.relative < 1e-4
    assert found.agreement.labels == 1
    assert min(found.seconds, found.torch_seconds) > 0

    session = onnxruntime.InferenceSession(found.path)
    model = stock_model(*files)
    channels = 1 if name == 'LeNet5' else 3
    for size in [(2, 32, 32), (1, 32, 32), (5, 64, 96) if 'any_size' in options else (5, 32, 32)]:
        rgb = torch.randint(0, 256, (size[0], channels, *size[1:]), dtype=torch.uint8)
        pixels, expected = stock_outputs(model, rgb.flip(1))  # they load BGR
        outputs = session.run(None, {'images': (rgb if 'preprocessing' in options else pixels).numpy()})
        names = [output.name for output in session.get_outputs()]
        assert ('logits' in names) != ('postprocessing' in options)
        for key, value in zip(names, outputs, strict=True):
            assert value.dtype == expected[key].numpy().dtype
            assert value.shape == expected[key].shape
            assert np.allclose(value, expected[key], atol=1e-4), key


# Any torch module: the quickest to export.
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, what='plain'):
        super().__init__()
        self.what = what
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.linear = torch.nn.Linear(4, 5)

    def forward(self, images):
        features = self.convolution(images).relu()
        if self.what == 'size':
            features = features.view(-1, 4, 6, 6)
        if self.what == 'window':  # as Swin does
            features = features.view(int(images.shape[0] / 1.0), 4, 6, -1)
        if self.what == 'constant':
            features = features * float(images.shape[0])
        features = features.mean((2, 3))
        if self.what == 'bessel':
            features = torch.special.bessel_j0(features)
        if self.what == 'groups':  # as DMNet does
            weight = features[:, :, None, None].flatten(0, 1)[:, None]
            features = torch.conv2d(weight.transpose(0, 1), weight, groups=weight.shape[0]).view(-1, 4)
        if self.what == 'branch' and features.sum() > 0:
            features = features + 1
        return self.linear(features)
"""


@pytest.fixture
def net(tmp_path) -> tuple[str, str]:
    """Files of a torch module with a size in its test pipeline, which loads files."""
    (tmp_path / 'net.py').write_text(NET)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=8), dict(type='PackInputs')]
    config = Config(
        dict(
            model=dict(
                type='mmdfad.TorchClassifier',
                factory=f'{tmp_path}/net.py:Net',
                kwargs=dict(what='plain'),
                data_preprocessor=dict(mean=MEAN, std=STD),
            ),
            default_scope='mmpretrain',
            test_dataloader=dict(dataset=dict(type='ImageNet', pipeline=pipeline)),
        )
    )
    return save(tmp_path, config, classes=CLASSES)


def test_metadata_tell_how_to_use_the_file(net, tmp_path):
    inside = export_onnx(*net, preprocessing=True)
    outside = export_onnx(*net, tmp_path / 'out/side.onnx', opset=18)
    assert (inside.opset > 18, outside.opset) == (True, 18)
    for found, order, what in [(inside, 'rgb', 'pixels in 0..255'), (outside, 'bgr', '(pixel - mean) / std')]:
        stored = onnxruntime.InferenceSession(found.path).get_modelmeta().custom_metadata_map
        assert stored == found.properties
        assert (stored['channel_order'], stored['input'], stored['task']) == (order, what, 'classification')
        assert json.loads(stored['classes']) == CLASSES
        assert json.loads(stored['mean']) == (MEAN if order == 'bgr' else MEAN[::-1])
        assert json.loads(stored['std']) == (STD if order == 'bgr' else STD[::-1])
    assert str(tmp_path).encode() not in inside.path.read_bytes()  # no paths of this machine
    assert inside.inputs == 'images: uint8 [batch, 3, 8, 8]'
    assert outside.outputs == 'logits: float32 [batch, 5]'


def test_tool_prints_what_it_found(net, tmp_path):
    flags = ['--out', tmp_path / 'x.onnx', '--image-size', 9, 7, '--with-postprocessing', '--channel-order', 'rgb']
    result = call_here('export_onnx.py', *net, *flags, check=True)
    assert re.search(r'x\.onnx: [\d,]+ bytes, opset \d+\n', result.stdout)
    assert 'images: float32 [batch, 3, 9, 7], (pixel - mean) / std, channels: rgb' in result.stdout
    assert 'scores: float32 [batch, 5], label: int64 [batch]' in result.stdout
    assert re.search(r'one image takes \d+\.\d\d ms with onnxruntime, \d+\.\d\d ms with PyTorch', result.stdout)
    onnx.checker.check_model(str(tmp_path / 'x.onnx'))


def test_program_of_the_documentation(net, tmp_path, monkeypatch, capsys):
    """It classifies a picture as mmpretrain does."""
    from mmpretrain import ImageClassificationInferencer

    export_onnx(*net, tmp_path / 'work_dirs/mine/student.onnx', **BOTH)
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / 'digit.png')
    page = (ROOT / 'docs/deployment.md').read_text()
    (program,) = re.findall(r'```python\n(import json\n.*?)```', page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(program, {})
    printed = capsys.readouterr().out
    found = ImageClassificationInferencer(stock_model(*net))(str(tmp_path / 'digit.png'))[0]
    assert printed == f'{found["pred_class"]} {found["pred_scores"].round(3)}\n'


@pytest.mark.parametrize(
    ('what', 'message'),
    [
        (
            'window',
            r'for 1 images, the exported graph gives logits of shape \[2, 5\] in .* fixes the batch size of its',
        ),
        ('constant', 'for any batch size: its code turns the number of images into a constant'),
        ('bessel', r'cannot be exported to ONNX: torch has no translation of the operator \w+\.bessel_j0'),
        ('groups', r'torch cannot translate this use of the operator aten\.conv2d\.default \(TypeError: '),
        ('branch', r'cannot be exported to ONNX: \w+: Could not guard on data-dependent expression'),
    ],
)
def test_models_that_cannot_be_exported(net, tmp_path, capfd, what, message):
    with pytest.raises(DistillError, match=message) as caught:
        export_onnx(*net, cfg_options={'model.kwargs.what': what})
    assert '\n' not in str(caught.value)
    assert capfd.readouterr().err == ''
    assert not [*tmp_path.glob('*onnx*')]


def test_file_that_differs_is_not_written(net, tmp_path):
    (tmp_path / 'student.onnx').write_text('the old one')
    with pytest.raises(DistillError, match=r'differ by up to \S+, \S+ of their .* --tolerance allows -1.* 100.00% of'):
        export_onnx(*net, tolerance=-1)
    assert (tmp_path / 'student.onnx').read_text() == 'the old one'
    assert [path.name for path in tmp_path.glob('*onnx*')] == ['student.onnx']


def test_logits_that_overflow(net):
    state = torch.load(net[1])
    state['state_dict']['linear.bias'][0] = 3e38
    state['state_dict']['linear.weight'][0] = 3e38
    torch.save(state, net[1])
    with pytest.raises(DistillError, match='logits that are NaN or infinite'):
        export_onnx(*net)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(out='student.pth'), r'--out must be a file whose name ends with \.onnx, but found student\.pth'),
        (dict(image_size=(2, 8)), r'does not take images of 2x8 pixels \(.*; choose another --image-size'),
        (dict(any_size=True, cfg_options={'model.kwargs.what': 'size'}), 'does not take images of 72x40 pixels'),
        (dict(image_size=(0, 8)), '--image-size must be a positive whole number or two'),
        (dict(order='gbr'), "--channel-order must be 'rgb' or 'bgr'"),
        (dict(opset=5), 'torch could not convert the graph to --opset 5, and wrote version 18; leave out --opset'),
        (dict(cfg_options={'test_dataloader': None}), r'does not give the image size; set it with --image-size H W'),
    ],
)
def test_wrong_settings(net, settings, message):
    with pytest.raises(DistillError, match=message):
        export_onnx(*net, **settings)


def test_wrong_files(net, tmp_path):
    torch.save(nn.Linear(4, 6).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(DistillError, match=r'does not fit the model of model\.student:\n'):
        export_onnx(net[0], str(tmp_path / 'other.pth'))
    with pytest.raises(DistillError, match=r'is the config of a distillation: give the student\.py and student\.pth'):
        export_onnx(str(TINY), net[1])
    with pytest.raises(DistillError, match=r'no\.pth.* does not exist'):
        export_onnx(net[0], str(tmp_path / 'no.pth'))
    (tmp_path / 'file').write_text('')
    with pytest.raises(DistillError, match=r'cannot write .*file/x\.onnx: .* choose another file with --out'):
        export_onnx(*net, tmp_path / 'file/x.onnx')


def test_missing_packages(net, monkeypatch):
    for name in ('onnxruntime', 'onnxscript'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DistillError, match=r"needs onnxruntime, onnxscript, .*: pip install 'mmdfad\[onnx\]'"):
        export_onnx(*net)


# What needs no export


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmseg'])
def test_shifted_windows_are_joined_as_in_both_packages(scope):
    arch = dict(embed_dims=8, depths=[2], num_heads=[2])
    settings = dict(arch=arch) if scope == 'mmpretrain' else dict(arch, strides=(4,))
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(dict(type='SwinTransformer', window_size=4, out_indices=(0,), **settings))
    backbone.eval()
    images = torch.randn(2, 3, 24, 40)  # windows of 4x4 patches do not divide this size
    expected = backbone(images)
    with for_any_batch(backbone):
        assert len([m for m in backbone.modules() if 'window_reverse' in vars(m)]) == 2
        assert torch.equal(backbone(images)[0], expected[0])
    assert not [m for m in backbone.modules() if 'window_reverse' in vars(m)]


@torch.no_grad()
def test_several_labels_for_an_image_and_many_classes():
    images = torch.randn(2, 3, 32, 32)

    def graph(config):
        model = dict(config.model, type=f'{config.default_scope}.{config.model.type}')
        return Graph(as_logits(build_model(plain_config(model, 'student'), 'student')), None, True)

    backbone = dict(type='ResNet', **TWO_STAGES)
    several = graph(classifier(backbone, linear(8, 'MultiLabelLinearClsHead'), GAP))
    assert several.outputs == ['logits', 'scores']
    logits, scores = several(images)
    assert torch.equal(scores, logits.sigmoid())

    head = dict(type='FCNHead', in_channels=8, in_index=0, channels=4, num_convs=1, norm_cfg=BN)
    for classes, dtype in ((256, torch.uint8), (257, torch.int64)):
        many = graph(segmentor(dict(backbone, norm_cfg=BN), dict(head, num_classes=classes)))
        assert many.outputs == ['logits', 'label_map']
        logits, labels = many(images)
        assert labels.dtype == dtype
        assert torch.equal(labels, logits.argmax(1).to(dtype))


@pytest.mark.parametrize('flips', [False, True])
def test_order_of_channels_depends_on_where_images_come_from(flips):
    space = PixelSpace(torch.zeros(1), torch.ones(1), flips)

    def order(pipeline, channels=3):
        dataset = dict(type='RepeatDataset', dataset=dict(pipeline=pipeline))
        return channel_order(Config(dict(test_dataloader=dict(dataset=dataset))), space, channels)

    from_files, from_arrays = ('rgb', 'bgr') if flips else ('bgr', 'rgb')
    assert order([dict(type='LoadImageFromFile'), dict(type='PackInputs')]) == from_files
    assert order([dict(type='PackInputs')]) == from_arrays  # CIFAR's arrays are RGB
    assert channel_order(Config(), space, 3) == from_files
    assert [order([], channels) for channels in (1, 4)] == ['gray', 'loaded']


@pytest.mark.slow
def test_the_report_shows_the_file(tiny_cfg, tmp_path):
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', 'export_student', 'report')
    tiny_cfg.default_hooks.report.predict = False
    run(tiny_cfg, train_cfg__max_iters=1)
    work_dir = tmp_path / 'run'
    assert json.loads((work_dir / 'report.json').read_text())['onnx'] is None
    found = export_onnx(str(work_dir / 'student.py'), str(work_dir / 'student.pth'), image_size=(16, 16))
    text = make_report(work_dir)
    report = json.loads((work_dir / 'report.json').read_text())['onnx']
    assert report['file_bytes'] == found.file_bytes == (work_dir / 'student.onnx').stat().st_size
    assert report['seconds'] == pytest.approx(found.seconds, rel=1e-3)
    assert 'latency, batch of 1, ONNX' in text
    assert 'file size, ONNX' in (work_dir / 'report.html').read_text()
    (work_dir / 'student.onnx').write_bytes(b'another file')
    make_report(work_dir)
    assert json.loads((work_dir / 'report.json').read_text())['onnx'] is None

"""Plain torch modules as classifiers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_same_state, run
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torchvision.models import resnet18

from mmdfad.models.build import build_network
from mmdfad.models.logits import as_logits
from mmdfad.models.pixels import PixelSpace
from mmdfad.models.torch_classifier import TorchClassifier
from mmdfad.registry import MODELS
from mmdfad.utils import DistillError

EXAMPLE = f'{ROOT}/examples/cifar_resnet.py:CifarResNet'
CONFIG = ROOT / 'configs/dfad/dfad_resnet32-resnet20_1xb256_cifar10.py'
CIFAR10 = ROOT.parent / 'shared/data/cifar10'
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def cfg(depth=8):
    preprocessor = dict(mean=MEAN, std=STD, to_rgb=True)
    kwargs = dict(depth=depth)
    return dict(type='TorchClassifier', factory=EXAMPLE, kwargs=kwargs, data_preprocessor=preprocessor)


def build(**changes):
    return MODELS.build(cfg() | changes)


@pytest.mark.parametrize('factory', ['torchvision.models:resnet18', EXAMPLE])
def test_state_dict_is_that_of_the_plain_module(factory):
    model = build(factory=factory, kwargs=None if 'vision' in factory else dict(depth=8))
    plain = resnet18() if 'vision' in factory else type(model.model)(depth=8)
    assert set(model.state_dict()) == set(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    assert_same_state(dict(sorted(model.state_dict().items())), dict(sorted(plain.state_dict().items())))
    # Also as part of another module, loaded by torch and by mmengine.
    for load in (torch.nn.Module.load_state_dict, load_state_dict):
        one, two = (torch.nn.ModuleDict(dict(a=torch.nn.Linear(2, 2), net=build())) for _ in range(2))
        assert 'net.conv1.weight' in one.state_dict()
        load(two, one.state_dict())
        assert_same_state(two.state_dict(), one.state_dict())


def test_predictions_are_what_mmpretrain_takes():
    from mmpretrain.evaluation import Accuracy
    from mmpretrain.structures import DataSample

    model = build().eval()
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(6)]
    rgb = torch.stack(images).flip(1).float()
    expected = model.model((rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).softmax(1)
    labels = expected.argmax(1)
    labels[0] = (labels[0] + 1) % 10
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    predicted = model.test_step(dict(inputs=images, data_samples=samples))
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in predicted]), expected)
    assert [sample.pred_label.tolist() for sample in predicted] == [[i] for i in expected.argmax(1).tolist()]
    metric = Accuracy()
    metric.process(None, [sample.to_dict() for sample in predicted])
    assert metric.evaluate(6)['accuracy/top1'] == pytest.approx(100 * 5 / 6)
    loss = model(rgb, samples, mode='loss')['loss']
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(model(rgb), labels))
    assert torch.equal(as_logits(model)(rgb), model(rgb))
    assert PixelSpace.of(model).flips


def test_mmpretrain_is_not_needed():
    code = f"""
import sys
sys.modules['mmpretrain'] = sys.modules['mmseg'] = None
import torch, mmdfad.models
from mmdfad.models.build import build_network
from mmdfad.models.logits import as_logits
network = build_network(dict(type='mmdfad.TorchClassifier', factory={EXAMPLE!r}, kwargs=dict(depth=8)), 'student')
images = torch.rand(2, 3, 32, 32)
sample = network.model.eval().val_step(dict(inputs=images))[0]
assert torch.allclose(as_logits(network.model)(images).softmax(1)[0], sample.pred_score)
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_a_file_with_a_dataclass(tmp_path):
    """Dataclasses look for the module of a file among the imported ones."""
    lines = ('from __future__ import annotations', 'from dataclasses import dataclass', 'import torch')
    sizes = ('@dataclass', 'class Sizes:', '    width: int = 3')
    net = ('def net():', '    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(Sizes().width))')
    (tmp_path / 'nets.py').write_text('\n'.join([*lines, *sizes, *net]))
    assert TorchClassifier(f'{tmp_path}/nets.py:net')(torch.ones(2, 3, 4, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ('factory', 'message'),
    [
        ('resnet18', r"factory must be 'package.module:callable' or 'file.py:callable', but found 'resnet18'"),
        ('no.such.module:net', r"cannot find factory='no.such.module:net': ModuleNotFoundError: No module named 'no'"),
        ('torchvision.models:resnet19', r"cannot find factory=.*AttributeError: .* has no attribute 'resnet19'"),
        ('/no/nets.py:net', r"cannot find factory='/no/nets.py:net': FileNotFoundError"),
        ('builtins:dict', r'builtins:dict must make a torch.nn.Module, but made a dict'),
        (f'{ROOT}/examples/cifar_resnet.py:CifarResNet', r'depth must be 6n \+ 2, but found 9'),
    ],
)
def test_bad_factories(factory, message):
    kwargs = dict(depth=9) if 'cifar' in factory else None
    with pytest.raises(DistillError, match=rf'cannot build model.student of type mmdfad.TorchClassifier: .*{message}'):
        build_network(dict(cfg(), type='mmdfad.TorchClassifier', factory=factory, kwargs=kwargs), 'student')


def test_distillation_and_export(tiny_cfg, tmp_path):
    """Teacher and student are plain modules. mmpretrain opens the exported student."""
    from mmpretrain import ImageClassificationInferencer, get_model

    plain = dict(cfg(), type='mmdfad.TorchClassifier')
    torch.manual_seed(0)
    torch.save(dict(state_dict=build().model.state_dict(), meta=dict()), tmp_path / 'teacher.pth')
    model = tiny_cfg.model
    model.teacher = dict(plain, checkpoint=str(tmp_path / 'teacher.pth'))
    model.student = dict(plain, kwargs=dict(depth=8, num_classes=10))
    runner = run(tiny_cfg, train_cfg__max_iters=2, model__generator__image_size=32)
    student = runner.model.student.logits.eval()
    checkpoint = torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)
    assert 'student.logits.model.conv1.weight' in checkpoint['state_dict']
    exported = get_model(str(tmp_path / 'run/student.py'), pretrained=str(tmp_path / 'run/student.pth')).eval()
    assert set(torch.load(tmp_path / 'run/student.pth')['state_dict']) == set(exported.model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(exported(images), student(images))
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    pipeline = [dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]
    exported._config.test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), *pipeline]))
    (result,) = ImageClassificationInferencer(exported)(picture)
    assert len(result['pred_scores']) == 10
    # It also resumes, with all its weights.
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    again = run(tiny_cfg, train_cfg__max_iters=2, model__generator__image_size=32, resume=True)  # all rounds are done
    assert_same_state(dict(sorted(again.model.state_dict().items())), dict(sorted(before.items())))


@pytest.mark.skipif(not CIFAR10.exists(), reason='needs the real ResNet-32 and its images')
def test_the_real_resnet32(tmp_path):
    """83.1% on 3,000 test images in JPEG, which costs nearly 10 points."""
    config = Config.fromfile(CONFIG)
    config.test_dataloader.dataset.data_root = str(CIFAR10 / 'images')
    config.test_dataloader.num_workers = 0
    teacher = dict(config.model.teacher, checkpoint=str(CIFAR10 / 'resnet32.pth'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_network(teacher, 'teacher').model
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        test_dataloader=config.test_dataloader,
        test_evaluator=config.test_evaluator,
        test_cfg=dict(),
        default_scope='mmpretrain',
        log_level='WARNING',
    )
    assert len(runner.test_dataloader.dataset) == 3000
    assert runner.test()['accuracy/top1'] == pytest.approx(83.10, abs=0.1)

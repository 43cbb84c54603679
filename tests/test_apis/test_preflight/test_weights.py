"""Teachers whose weights look wrong."""

import pytest
import torch
from conftest import ROOT, TINY, TINY_SEG
from tiny_configs import SWIN, save_untrained, write_tiny

from mmdfad.apis import write_distillation
from mmdfad.apis.preflight import check_teacher
from mmdfad.models.build import build_network
from mmdfad.models.network import Network

CLASSIFIERS = {TINY: 'head.fc', TINY_SEG: 'decode_head.conv_seg'}


@pytest.fixture(params=CLASSIFIERS, ids=['classifier', 'segmentor'])
def trained(request, tmp_path, teacher_checkpoints) -> tuple[Network, str]:
    """A teacher as of training, and the name of its classifier."""
    scope = dict(scope='mmseg') if request.param == TINY_SEG else {}
    cfg = dict(cfg_path=str(write_tiny(tmp_path, 'teacher', **scope)), checkpoint=teacher_checkpoints[request.param])
    teacher, name = build_network(cfg, 'teacher'), CLASSIFIERS[request.param]
    torch.nn.init.normal_(teacher.model.get_submodule(name).bias)
    return teacher, name


def check(teacher: Network) -> list[str]:
    return check_teacher(teacher, torch.zeros(2, 3, 32, 32), num_classes=5)


def test_nothing_is_wrong_with_trained_ones(trained):
    assert check(trained[0]) == []


def test_untrained_ones(tmp_path, trained):
    swin = write_tiny(tmp_path, 'teacher', pixels=32, backbone=SWIN, head__in_channels=16)
    for teacher in (build_network(dict(cfg_path=str(swin)), 'teacher'), Network(trained[0].model, 'teacher')):
        for module in teacher.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_parameters()
        (said,) = check(teacher)
        assert said.startswith('the teacher looks untrained: its ')
        assert said.endswith(
            'normalisation layers are as they were initialised. Give the checkpoint of the trained model'
        )


def test_a_batch_norm_that_has_seen_no_image(trained):
    teacher, _ = trained
    names = [n for n, m in teacher.model.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    teacher.model.get_submodule(names[0]).reset_parameters()
    (said,) = check(teacher)
    assert said.startswith(f'the batch norm {names[0]} of the teacher has never seen an image')


def test_a_classifier_that_is_not_trained(trained):
    teacher, name = trained
    torch.nn.init.zeros_(teacher.model.get_submodule(name).bias)
    (said,) = check(teacher)
    assert said.startswith(f'{name} of the teacher gives the logits, but its bias is 0')


def test_layers_of_equal_weights(trained):
    teacher, name = trained
    convs = [n for n, m in teacher.model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    for constant in (convs[0], name):
        torch.nn.init.constant_(teacher.model.get_submodule(constant).weight, 0.1)
    (said,) = check(teacher)
    assert said.startswith(f'all weights of {convs[0]} (and 1 more) of the teacher are equal')


def test_a_checkpoint_for_other_classes(trained):
    teacher, _ = trained
    teacher.dataset_meta['classes'] = list('abc')
    assert check(teacher) == ['the checkpoint of the teacher names 3 classes, but the teacher has 5 logits']


def test_the_tool_warns(tmp_path):
    config = ROOT / 'examples/resnet20_cifar10.py'
    reasons = write_distillation(
        tmp_path / 'distill.py', str(config), str(save_untrained(config, tmp_path / 'x.pth')), str(config), rounds=1
    )
    (warning,) = [line for line in reasons if line.startswith('WARNING')]
    assert warning.startswith('WARNING: the teacher looks untrained: its 19 normalisation layers')
    assert f'#   {warning}' in (tmp_path / 'distill.py').read_text()

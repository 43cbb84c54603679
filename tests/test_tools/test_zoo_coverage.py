"""The sweep over models that pass, are refused or fail."""

import json
import os
import signal
import sys
import tempfile
import time

import pytest
import torch
from conftest import ROOT
from test_cli import call

from mmdfad.acceleration import FastForm
from mmdfad.models import AdversarialDistiller

sys.path.append(str(ROOT / 'tools/analysis_tools'))

import zoo_coverage
from zoo.models import Refused, fewer_layers
from zoo.processes import run_isolated
from zoo.rounds import ROLES, run_round

BACKBONE = "dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)"
HEADS = dict(
    good="dict(type='LinearClsHead', num_classes=3, in_channels=32)",
    twin="dict(type='LinearClsHead', num_classes=7, in_channels=32, topk=(1,))",
    headless='None',
    broken="dict(type='LinearClsHead', num_classes=3, in_channels=33)",
)


@pytest.fixture
def sweep(tmp_path):
    """Runs the tool on some of the four configs."""
    for name, head in HEADS.items():
        (tmp_path / f'{name}.py').write_text(
            f"default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', backbone={BACKBONE},\n"
            f"    neck=dict(type='GlobalAveragePooling'), head={head})\n"
        )

    def run(*names):
        configs = [tmp_path / f'{name}.py' for name in names]
        files = ['--json', tmp_path / 'zoo.json', '--table', tmp_path / 'zoo.md']
        result = call('analysis_tools/zoo_coverage.py', *files, '--jobs', 2, '--configs', *configs)
        assert 'Traceback' not in result.stderr, result.stderr
        return result, json.loads((tmp_path / 'zoo.json').read_text()), (tmp_path / 'zoo.md').read_text()

    return run


@pytest.mark.slow
def test_sweep_and_resume(sweep, tmp_path):
    result, content, _ = sweep('good', 'broken')
    assert result.returncode == 1
    assert result.stdout.endswith('1 passed, 0 refused, 1 failed\n')
    assert (content['passed'], content['refused'], content['failed']) == (1, 0, 1)
    assert all(r.keys() == {'config', 'role', 'status', 'reason', 'seconds'} for r in content['results'])
    assert {(os.path.basename(r['config']), r['role'], r['status']) for r in content['results']} == {
        (f'{name}.py', role, status)
        for name, status in (('good', 'passed'), ('broken', 'failed'))
        for role in ('teacher', 'student')
    }

    result, content, table = sweep(*HEADS)
    assert result.returncode == 1
    assert '4 configs, 3 different models' in result.stdout  # the two good ones differ only in a metric
    assert 'passed' not in result.stdout.partition('models\n')[2].rpartition('2 passed')[0]  # the result is known
    assert 'broken.py: ' in result.stdout  # a failed round runs again
    assert (content['passed'], content['refused'], content['failed']) == (2, 1, 1)
    by_name = {(os.path.basename(r['config']), r['role']): r for r in content['results']}
    assert '32x32' in by_name['twin.py', 'student']['reason']
    assert 'gives no class logits' in by_name['headless.py', 'teacher']['reason']
    assert 'cannot be multiplied' in by_name['broken.py', 'student']['reason']
    assert f'| {tmp_path.name} | 2 | 1 | 1 |' in table
    assert 'headless.py`: ImageClassifier gives no class logits' in table
    assert content['versions'].keys() >= {'torch', 'torchvision', 'python', 'compiled_ops'}
    assert all(f'{name} {version}' in table for name, version in content['versions'].items() if name != 'compiled_ops')


@pytest.mark.slow
def test_report_of_two_environments(tmp_path):
    def result(config, role, status, reason):
        return dict(config=f'mmseg::{config}.py', role=role, status=status, reason=reason, seconds=360)

    def write(name, ops, *results):
        content = dict(versions=dict(torch='2.14.1', compiled_ops=ops), results=results)
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    refused = [result(f'ccnet/{name}', 'teacher', 'refused', 'model: needs ops') for name in 'ab']
    broken = [result('vit/c', role, 'failed', 'LeViTClsHead.switch_to_deploy() takes 1 argument') for role in ROLES]
    passed = [result(f'ccnet/{name}', role, 'passed', '32x32') for name in 'ab' for role in ROLES]
    large = result('vit/d', 'student', 'passed', 'full size took too much; reduced to 2 layers: 32x32')
    files = [write('plain.json', 'no', *refused, *broken), write('ops.json', 'yes', *passed, large)]
    call('analysis_tools/zoo_coverage.py', '--report', *files, '--table', tmp_path / 'zoo.md')
    table = (tmp_path / 'zoo.md').read_text()
    assert '| mmseg::ccnet | 0 | 2 | 0 | 2 | 0 | 0 |' in table
    assert '| all | 0 | 2 | 1 | 3 | 0 | 0 |' in table
    plain, ops = table.partition('## Without compiled ops')[2].split('## With compiled ops')
    assert '- mmseg::ccnet (2): needs ops\n' in plain
    assert '- `mmseg::vit/c.py`: a bug of mmpretrain' in plain
    assert '0.5 hours' in ops
    assert '- `mmseg::vit/d.py`: full size took too much; reduced to 2 layers' in ops


def test_sample_is_a_function_of_the_seed(monkeypatch):
    def sample(*arguments):
        monkeypatch.setattr('sys.argv', ['zoo_coverage.py', '--family', 'fcn', 'hrnet', *arguments])
        return zoo_coverage.choose(zoo_coverage.parse_args())

    groups = sample('--sample', '6', '--seed', '3')
    assert sum(map(len, groups.values())) == 6
    assert {name.split('/')[0] for name in groups} <= {'mmseg::fcn', 'mmseg::hrnet', 'mmpretrain::hrnet'}
    assert sample('--sample', '6', '--seed', '3') == groups
    assert sample('--sample', '6', '--seed', '4') != groups


def test_a_deep_student_survives_the_round():
    """Its gradients are so large that an unclipped step would make it NaN."""
    assert run_round('mmpretrain::densenet/densenet169_4xb256_in1k.py', 'student') == '32x32'


@pytest.mark.parametrize('role', ROLES)
def test_a_round_is_accelerated(role, monkeypatch):
    """The teacher runs without batch norms in both phases."""
    used, forward = [], FastForm.forward
    monkeypatch.setattr(FastForm, 'forward', lambda self, images: used.append(self) or forward(self, images))
    assert run_round('mmpretrain::resnet/resnet18_8xb16_cifar10.py', role) == '32x32'
    assert len(used) == 2
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in used[0].modules())


def nan_loss(step):
    return lambda *args: step(*args) | dict(imitation_loss=torch.tensor(torch.nan))


def no_update(step):
    return lambda *args: dict(generation_loss=torch.zeros(()))


def changed_teacher(step):
    def changed(self, *args):
        self.teacher.model.head.fc.bias.data[0] += 1
        return step(self, *args)

    return changed


def other_student(state):
    return lambda *args: {key: value + (key == 'head.fc.bias') for key, value in state(*args).items()}


@pytest.mark.parametrize(
    ('method', 'fault', 'message'),
    [
        ('imitation_step', nan_loss, 'imitation_loss is nan'),
        ('generation_step', no_update, 'generator gets no usable gradient'),
        ('generation_step', changed_teacher, 'the teacher has changed'),
        ('student_state', other_student, 'the exported student gives other logits'),
    ],
)
def test_a_round_finds_faults(method, fault, message, monkeypatch):
    monkeypatch.setattr(AdversarialDistiller, method, fault(getattr(AdversarialDistiller, method)))
    with pytest.raises(AssertionError, match=message):
        run_round('mmpretrain::resnet/resnet18_8xb16_cifar10.py', 'student')


def misbehave(how: str) -> str:
    tempfile.mkdtemp()
    if how == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    if how == 'hang':
        time.sleep(600)
    if how == 'fill':
        hoard = []
        while True:
            hoard.append(b'x' * 2**28)
    return how


def test_what_goes_wrong_in_a_process_stays_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))

    def outcome(how, **limits):
        return next(run_isolated([(how,)], misbehave, workers=1, **limits))[:3]

    assert outcome('die', seconds=300, memory=9) == (('die',), 'failed', 'its process ended with exit code -9')
    assert outcome('hang', seconds=0.5, memory=9) == (('hang',), 'failed', 'took more than 0.5 s')
    assert outcome('fill', seconds=300, memory=3) == (('fill',), 'memory', 'took more than 3 GiB of memory')
    assert outcome('end', seconds=300, memory=9) == (('end',), 'passed', 'end')
    assert not list(tmp_path.iterdir())


def test_layers_are_left_out_of_models_that_are_too_large():
    assert fewer_layers('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py') == {
        'model.backbone.arch': dict(_delete_=True, embed_dims=96, depths=[1] * 4, num_heads=[3, 6, 12, 24])
    }
    assert fewer_layers('mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py') == {
        'model.backbone.num_layers': 4,
        'model.backbone.out_indices': [0, 1, 2, 3],
    }
    with pytest.raises(Refused, match='does not tell'):
        fewer_layers('mmpretrain::lenet/lenet5_mnist.py')

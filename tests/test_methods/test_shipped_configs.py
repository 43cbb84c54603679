"""Shipped configs are short, load, and are listed; those of the later methods have the authors' settings."""

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.fileio import load

CONFIGS = ROOT / 'configs'
METHODS = ('baselines', 'dafl', 'dfad', 'dfq', 'fastdfkd', 'ils', 'mad', 'zskt')
FILES = sorted(path for method in METHODS for path in (CONFIGS / method).glob('*.py'))
LIMIT = 25
# Small configs whose settings are their own.
LONGER = {
    'dfad_deeplabv3-r18-half_1xb8_camvid-96x128': 53,
    'dfad_lenet5-lenet5half_1xb128_mnist5k': 43,
    'ils_deeplabv3-r18w32-half_1xb16_camvid-96x128': 26,
    'ils_lenet5-lenet5half_1xb64_mnist5k': 52,
}
BASES = sorted(
    path for part in ('methods', 'schedules', 'generators') for path in (CONFIGS / '_base_' / part).glob('*.py')
)
CAMVID = '_camvid-128x128'
# name: (noise dim, batch, rounds, noise drawn for each, phases in their order with their steps)
SETTINGS = {
    'dafl/dafl_resnet34-resnet18_1xb1024_cifar10': (1000, 1024, 2000 * 120, 'round', 'imitation 1, generation 1'),
    'zskt/zskt_resnet34-resnet18_1xb128_cifar10': (100, 128, 80_000, 'round', 'generation 1, imitation 10'),
    'dfq/dfq_resnet34-resnet18_1xb256_cifar10': (256, 256, 200 * 40, 'step', 'generation 1, imitation 10'),
    'dfq/dfq_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128': (256, 64, 8000, 'step', 'generation 1, imitation 10'),
    'mad/mad_resnet34-resnet18_1xb256_cifar10': (256, 256, 200 * 40, 'step', 'generation 1, imitation 10'),
    'mad/mad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128': (256, 64, 8000, 'step', 'generation 1, imitation 10'),
    'fastdfkd/fastdfkd_resnet34-resnet18_1xb256_cifar10': (256, 256, 220, 'step', 'generation 1, imitation 400'),
}
# method: schedulers of the student and the generator
SCHEDULES = {
    'dafl': ([dict(type='MultiStepLR', milestones=[800 * 120, 1600 * 120], gamma=0.1)], []),
    'zskt': ([dict(type='CosineAnnealingLR', end=80_000)], [dict(type='CosineAnnealingLR', end=80_000)]),
    'dfq': ([dict(type='CosineAnnealingLR', end=8000)], []),
    'mad': ([dict(type='CosineAnnealingLR', end=8000)], []),
    'fastdfkd': ([dict(type='CosineAnnealingLR', begin=20, end=220, eta_min=2e-4)], []),
}


def by_name(path) -> str:
    return path.stem


def lines_of(path) -> list[str]:
    """Lines that are neither empty nor comments."""
    return [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith('#')]


def innermost(generator):
    return innermost(generator.generator) if 'generator' in generator else generator


@pytest.mark.parametrize('path', [*FILES, *BASES], ids=by_name)
def test_configs_are_short(path):
    assert len(lines_of(path)) <= LONGER.get(path.stem, LIMIT)


def test_longer_configs_are_only_those_that_need_it():
    assert {path.stem for path in FILES if len(lines_of(path)) > LIMIT} == LONGER.keys()


@pytest.mark.parametrize('path', FILES, ids=by_name)
def test_configs_load_and_are_listed(path):
    cfg = Config.fromfile(path)
    assert cfg.model.type == 'mmdfad.AdversarialDistiller'
    assert cfg.train_cfg.type == 'mmdfad.AdversarialDistillLoop'
    assert f'({path.name})' in (path.parent / 'README.md').read_text()
    entry = next(m for m in load(path.parent / 'metafile.yml')['Models'] if m['Name'] == path.stem)
    assert entry['Config'] == str(path.relative_to(ROOT))
    assert entry['Metadata']['Teacher']['Weights'] == cfg.model.teacher.checkpoint
    assert str(entry['Metadata']['Seeds']).split(', ')[0] == str(cfg.randomness.seed)


@pytest.mark.parametrize('name', SETTINGS)
def test_authors_settings(name):
    """What the comparisons of single rounds do not see: sizes and schedules."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    noise_dim, batch, rounds, noise, phases = SETTINGS[name]
    generator = innermost(cfg.model.generator)
    assert generator.noise_dim == noise_dim
    assert (generator.type, generator.image_size) == (
        ('mmdfad.DCGANGenerator', 128) if CAMVID in name else ('mmdfad.UpsampleGenerator', 32)
    )
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_cfg.max_iters == rounds
    assert cfg.train_cfg.get('noise', 'step') == noise
    assert ', '.join(f'{phase.name} {phase.steps}' for phase in cfg.train_cfg.phases) == phases
    assert 'amp_dtype' not in cfg.optim_wrapper  # the authors compute in fp32
    assert 'start' not in cfg.model
    student, generator = SCHEDULES[name.partition('/')[0]]
    expected = {
        network: [dict(by_epoch=False, **scheduler) for scheduler in schedulers]
        for network, schedulers in (('student', student), ('generator', generator))
    }
    assert cfg.param_scheduler == expected


def test_the_student_of_fastdfkd_waits_for_twenty_rounds():
    cfg = Config.fromfile(CONFIGS / 'fastdfkd/fastdfkd_resnet34-resnet18_1xb256_cifar10.py')
    assert [phase.get('begin', 0) for phase in cfg.train_cfg.phases] == [0, 20]
    assert [objective.get('begin', 0) for objective in cfg.model.generation] == [0, 0, 19]
    assert cfg.default_hooks.checkpoint.interval <= 20  # a round takes 400 steps

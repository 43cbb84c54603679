"""Every config of the package builds, and plays a round."""

import math

import pytest
from conftest import ROOT, build_runner, write_camvid
from mmengine.config import Config
from mmengine.fileio import load

DFAD = sorted((ROOT / 'configs/dfad').glob('*.py'))
TEACHERS = sorted((ROOT / 'configs/teachers').glob('*.py'))

# The paper's settings (DFAD, arXiv 1912.11006): what no refactoring may change.
PAPER = {
    # name: (noise dim, image size, channels, batch, rounds, student lr, weight decay, milestones, gamma)
    'lenet5_mnist': (100, 32, 1, 512, 40 * 50, 0.01, 1e-4, [], None),
    'resnet34_resnet18_cifar10': (256, 32, 3, 256, 500 * 50, 0.1, 5e-4, [5000, 10000], 0.1),
    'resnet34_resnet18_cifar100': (256, 32, 3, 256, 500 * 50, 0.1, 5e-4, [5000, 10000], 0.1),
    'resnet34_resnet18_caltech101': (256, 128, 3, 64, 300 * 50, 0.05, 5e-4, [5000, 10000], 0.1),
    'deeplab_camvid': (256, 128, 3, 64, 300 * 50, 0.1, 5e-4, [5000, 10000], 0.1),
    'deeplab_nyuv2': (256, 128, 3, 64, 300 * 50, 0.1, 5e-5, [5000, 10000], 0.3),
}


@pytest.mark.parametrize('path', DFAD, ids=lambda path: path.stem)
def test_config_plays_a_round(path, tmp_path):
    cfg = Config.fromfile(path)
    assert len(path.read_text().splitlines()) <= 60
    cfg.model.teacher.checkpoint = None
    cfg.model.allow_random_teacher = True
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg', 'test_dataloader', 'test_evaluator', 'test_cfg'):
        cfg[key] = None  # the data are not here
    if 'data_root' in cfg.train_dataloader.dataset:  # a baseline on real images
        write_camvid(tmp_path / 'camvid')
        cfg.train_dataloader.dataset.data_root = str(tmp_path / 'camvid')
    # One round of the real models, with a batch that a small machine can take in seconds.
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.update(max_iters=1, imitation_steps=1)
    cfg.param_scheduler = None
    runner = build_runner(cfg, work_dir=str(tmp_path), model__generator=cfg.model.generator)
    runner.train()
    losses = ['imitation_loss', *(['generation_loss'] if cfg.train_cfg.generation_steps else [])]
    for key in losses:
        assert math.isfinite(runner.message_hub.get_scalar(f'train/{key}').current())
    assert (tmp_path / 'student.pth').exists()


@pytest.mark.parametrize('name', PAPER)
def test_paper_settings(name):
    cfg = Config.fromfile(ROOT / f'configs/dfad/{name}.py')
    noise_dim, size, channels, batch, rounds, lr, weight_decay, milestones, gamma = PAPER[name]
    generator = cfg.model.generator
    assert (generator.noise_dim, generator.image_size, generator.channels) == (noise_dim, size, channels)
    assert generator.type == ('mmdfad.DCGANGenerator' if size == 128 else 'mmdfad.UpsampleGenerator')
    assert 'width' not in generator
    assert (cfg.train_dataloader.batch_size, cfg.train_dataloader.dataset.noise_dim) == (batch, noise_dim)
    assert cfg.train_cfg.type == 'mmdfad.AdversarialDistillLoop'
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.imitation_steps, cfg.train_cfg.generation_steps) == (rounds, 5, 1)
    assert dict(cfg.optim_wrapper.student) == dict(
        optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=weight_decay)
    )
    assert dict(cfg.optim_wrapper.generator) == dict(optimizer=dict(type='Adam', lr=1e-3))
    for player in ('student', 'generator'):
        schedulers = (cfg.get('param_scheduler') or {}).get(player, [])
        assert [s.milestones for s in schedulers] == ([milestones] if milestones else [])
        assert all(s.type == 'MultiStepLR' and s.gamma == gamma and not s.by_epoch for s in schedulers)
    # L1 of logits is the distiller's default
    assert 'imitation_loss' not in cfg.model
    expected = dict(type='mmdfad.LogL1Discrepancy') if 'deeplab' in name else None
    assert cfg.model.get('generation_loss') == expected
    assert 'freeze_student_norms' not in cfg.model


@pytest.mark.parametrize('path', TEACHERS, ids=lambda path: path.stem)
def test_teacher_configs_build(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    assert sum(p.numel() for p in runner.model.parameters()) > 10_000


def test_metafile_lists_every_config():
    index = load(ROOT / 'model-index.yml')
    models = [model for path in index['Import'] for model in load(ROOT / path)['Models']]
    assert sorted(model['Config'] for model in models) == [str(path.relative_to(ROOT)) for path in DFAD]
    assert all(model['Name'] in model['Config'] for model in models)


def test_own_models_take_fifteen_lines(tmp_path, teacher_checkpoint):
    """The config in the README, for a teacher and a student of one's own."""
    readme = (ROOT / 'README.md').read_text()
    text = next(block for block in readme.split('```')[1::2] if block.startswith('python\n_base_')).partition('\n')[2]
    assert len([line for line in text.splitlines() if line.strip()]) <= 15
    tiny = Config.fromfile(ROOT / 'tests/data/tiny.py')
    for role in ('teacher', 'student'):
        model = tiny.model[role]
        model.pop('checkpoint', None)
        (tmp_path / f'my_{role}.py').write_text(Config(dict(model=model, default_scope='mmpretrain')).pretty_text)
    for name in ('my_teacher.py', 'my_student.py', 'my_teacher.pth'):
        assert name in text
    text = text.replace('my_teacher.pth', teacher_checkpoint)
    for role in ('teacher', 'student'):
        text = text.replace(f'my_{role}.py', str(tmp_path / f'my_{role}.py'))
    config = tmp_path / 'mine.py'
    config.write_text(text)
    cfg = Config.fromfile(config)
    cfg.work_dir = str(tmp_path / 'run')
    runner = build_runner(cfg, train_cfg__max_iters=1, train_dataloader__batch_size=4)
    runner.train()
    assert (tmp_path / 'run/student.py').exists()


def test_players_from_a_base_config(tmp_path, teacher_checkpoint):
    """Inline players from ``_base_.model``, with mmpretrain's preprocessor at the top level of the config."""
    config = tmp_path / 'inherits.py'
    config.write_text(
        "_base_ = ['mmpretrain::resnet/resnet18_8xb16_cifar10.py']\n"
        'model = dict(_delete_=True, type="mmdfad.AdversarialDistiller", teacher=_base_.model, student=_base_.model,\n'
        '    allow_random_teacher=True,\n'
        '    generator=dict(type="UpsampleGenerator", noise_dim=8, image_size=32, width=8))\n'
    )
    cfg = Config.fromfile(config)
    from mmdfad.registry import MODELS

    distiller = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    for player in (distiller.teacher_player, distiller.student_player):
        assert player.cfg.default_scope == 'mmpretrain'
        assert player.model.data_preprocessor.mean.flatten().tolist() == pytest.approx([125.307, 122.961, 113.8575])

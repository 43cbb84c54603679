"""Runs with and without validation data."""

import cv2
import numpy as np
import pytest
from conftest import ROOT, run
from mmengine.config import Config

from mmdfad.apis import ensure_validation, require_test_data
from mmdfad.apis.validation import PROBE_SIZE
from mmdfad.utils import DistillError
from mmdfad.utils.config import is_noise, read_config

MISSING = dict(
    val_dataloader=dict(
        batch_size=1, dataset=dict(type='CustomDataset', data_root='/nowhere', pipeline=[]), sampler=dict()
    ),
    val_evaluator=dict(type='Accuracy'),
    val_cfg=dict(),
)
CONFIGS = sorted(
    path
    for folder in ('baselines', 'dfad', 'dafl', 'zskt', 'dfq', 'mad', 'fastdfkd', 'ils')
    for path in (ROOT / 'configs' / folder).glob('*.py')
)


def test_validation_data_are_used_where_they_are(tiny_cfg):
    cfg = Config(tiny_cfg.to_dict())
    cfg.val_dataloader = dict(
        batch_size=1, dataset=dict(type='mmdfad.Mnist5k', test_mode=True, pipeline=[]), sampler=dict()
    )
    cfg.val_evaluator = dict(type='Accuracy')
    ensure_validation(cfg)
    assert cfg.val_dataloader.dataset.type == 'mmdfad.Mnist5k'


@pytest.mark.parametrize('missing', [True, False])
def test_without_data_the_agreement_is_validated(tiny_cfg, missing):
    tiny_cfg.update(MISSING if missing else {})
    tiny_cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
    ensure_validation(tiny_cfg)
    assert tiny_cfg.val_dataloader.dataset.length == PROBE_SIZE
    runner = run(tiny_cfg, train_cfg__max_iters=2, train_cfg__val_interval=2)
    assert 0 <= runner.message_hub.get_info('best_score') <= 1
    assert 'agreement' in (runner.message_hub.get_info('best_ckpt') or '')


@pytest.mark.parametrize(
    'generator',
    [
        dict(type='RandomImageGenerator', image_size=16),
        dict(
            type='ReplayGenerator',
            generator=dict(type='UpsampleGenerator', noise_dim=8, image_size=16, width=8),
            capacity=4,
            replayed=2,
        ),
    ],
    ids=lambda cfg: cfg['type'],
)
def test_any_generator_is_validated_without_data(tiny_cfg, generator):
    """Also one without a noise_dim in its config."""
    tiny_cfg.update(MISSING)
    tiny_cfg.model.generator = generator
    ensure_validation(tiny_cfg)
    runner = run(tiny_cfg, train_cfg__max_iters=1, train_cfg__val_interval=1)
    assert 0 <= runner.message_hub.get_scalar('val/agreement').current() <= 1


def test_real_training_images_without_validation_data(tiny_cfg, tmp_path):
    """A baseline on real images: the agreement on generated images would say nothing about it."""
    for i in range(6):
        (tmp_path / 'images/a').mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f'images/a/{i}.png'), np.full((16, 16, 3), 40 * i, np.uint8))
    tiny_cfg.update(MISSING)
    tiny_cfg.model.generator = dict(type='RandomImageGenerator', image_size=16)
    tiny_cfg.train_dataloader = dict(
        batch_size=3,
        num_workers=0,
        dataset=dict(
            type='CustomDataset',
            data_root=str(tmp_path / 'images'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        ),
        sampler=dict(type='InfiniteSampler', shuffle=True),
    )
    ensure_validation(tiny_cfg)
    assert tiny_cfg.val_dataloader is tiny_cfg.val_evaluator is tiny_cfg.val_cfg is None
    runner = run(tiny_cfg, train_cfg__max_iters=2)
    assert 'val/agreement' not in runner.message_hub.log_scalars
    assert runner.message_hub.get_scalar('train/imitation_loss').current() > 0


def no_download(*args, **kwargs):
    raise AssertionError('nobody asked for a download')


def test_nothing_is_downloaded_without_being_asked(tiny_cfg, tmp_path, monkeypatch):
    asked, said = [], []
    download = 'mmpretrain.datasets.cifar.download_and_extract_archive'
    monkeypatch.setattr(download, lambda *args, **kwargs: asked.append(args))
    monkeypatch.setattr('mmdfad.apis.validation.print_log', lambda text, *args, **kwargs: said.append(text))
    tiny_cfg.val_dataloader = dict(
        batch_size=1,
        dataset=dict(type='RepeatDataset', times=1, dataset=dict(type='CIFAR10', data_root=str(tmp_path), pipeline=[])),
        sampler=dict(),
    )
    tiny_cfg.val_evaluator, tiny_cfg.val_cfg = dict(type='Accuracy'), dict()
    ensure_validation(Config(tiny_cfg.to_dict()))
    assert not asked
    assert '--download fetches them' in said[0]
    ensure_validation(Config(tiny_cfg.to_dict()), download=True)
    assert asked


def test_missing_test_data_are_named_and_not_downloaded(tmp_path, monkeypatch):
    asked = []
    download = 'mmpretrain.datasets.cifar.download_and_extract_archive'
    monkeypatch.setattr(download, lambda *args, **kwargs: asked.append(args))
    dataset = dict(type='CIFAR10', data_root=str(tmp_path), pipeline=[])
    cfg = Config(dict(test_dataloader=dict(dataset=dataset), default_scope='mmpretrain'))
    message = r'^no test data \(CIFAR10: .*; --download fetches them\)\. .*test_dataloader.dataset.data_root=PATH$'
    with pytest.raises(DistillError, match=message):
        require_test_data(Config(cfg.to_dict()))
    assert not asked
    with pytest.raises(DistillError, match='no test data'):  # nothing has arrived
        require_test_data(cfg, download=True)
    assert asked


def test_missing_training_images_are_named(tiny_cfg, tmp_path):
    dataset = dict(type='mmdfad.CamVidDataset', data_root=str(tmp_path), ann_file='train.txt')
    tiny_cfg.train_dataloader.update(dataset=dataset, sampler=dict(type='InfiniteSampler'))
    ensure_validation(tiny_cfg)
    with pytest.raises(FileNotFoundError, match=r'does not find .*train.txt; set data_root, or make the dataset with'):
        run(tiny_cfg)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_can_do_without_validation_data(path, tmp_path, monkeypatch):
    cfg = read_config(str(path))
    monkeypatch.chdir(tmp_path)
    for name in ('mnist', 'cifar'):
        monkeypatch.setattr(f'mmpretrain.datasets.{name}.download_and_extract_archive', no_download)
    ensure_validation(cfg)
    if not is_noise(cfg.train_dataloader.dataset):
        assert cfg.val_dataloader is None
    elif cfg.val_dataloader.dataset.type != 'mmdfad.Mnist5k':  # ships with a package
        assert cfg.val_dataloader.dataset.type == 'mmdfad.ProbeDataset'
        assert [m.type for m in cfg.val_evaluator] == ['mmdfad.AgreementMetric', 'mmdfad.PredictedAgreementMetric']

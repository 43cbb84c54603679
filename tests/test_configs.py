"""Every shipped config loads, inherits from anywhere, and runs a round."""

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, build_runner, write_camvid
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, DefaultScope
from mmengine.runner import Runner

from mmdfad.models.build import build_model, plain_config
from mmdfad.registry import MODELS
from mmdfad.utils.config import innermost_dataset, read_config

CONFIGS = ROOT / 'configs'
TEACHERS = sorted((CONFIGS / 'teachers').glob('*.py'))
METHODS = sorted(f for f in CONFIGS.iterdir() if f.is_dir() and f.name not in ('_base_', 'teachers', '__pycache__'))
DISTILLATIONS = sorted(path for folder in METHODS for path in folder.glob('*.py'))
TEST_DATA = sorted((CONFIGS / '_base_/datasets').glob('*.py'))
# Models of full size, whose rounds take long on a CPU.
FULL_SIZE = ('resnet34', 'r50', 'r18-half')
LENET = 'dfad/dfad_lenet5-lenet5half_1xb128_mnist5k.py'
# What a base of test data gives to its config.
EVALUATION = [f'{split}_{part}' for split in ('val', 'test') for part in ('dataloader', 'evaluator', 'cfg')]

# The paper's settings (DFAD, arXiv 1912.11006): what no refactoring may change.
PAPER = {
    # name: (noise dim, image size, channels, batch, rounds, student lr, weight decay, milestones, gamma)
    'dfad_lenet5-lenet5half_1xb512_mnist': (100, 32, 1, 512, 40 * 50, 0.01, 1e-4, [], None),
    'dfad_resnet34-resnet18_1xb256_cifar10': (256, 32, 3, 256, 500 * 50, 0.1, 5e-4, [5000, 10000], 0.1),
    'dfad_resnet34-resnet18_1xb256_cifar100': (256, 32, 3, 256, 500 * 50, 0.1, 5e-4, [5000, 10000], 0.1),
    'dfad_resnet34-resnet18_1xb64_caltech101-128x128': (256, 128, 3, 64, 300 * 50, 0.05, 5e-4, [5000, 10000], 0.1),
    'dfad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128': (256, 128, 3, 64, 300 * 50, 0.1, 5e-4, [5000, 10000], 0.1),
    'dfad_deeplabv3-r50-mobilenetv2_1xb64_nyuv2-128x128': (256, 128, 3, 64, 300 * 50, 0.1, 5e-5, [5000, 10000], 0.3),
}


def by_name(path: Path) -> str:
    return path.stem


def outside(folder: Path, *bases: str) -> Config:
    """A config in another folder that inherits from configs of the package."""
    path = folder / 'outside.py'
    path.write_text(f'_base_ = {[f"mmdfad::{base}" for base in bases]}\n')
    return Config.fromfile(path)


def innermost(generator: dict) -> list[dict]:
    """The generators inside all wrappers and mixtures."""
    inside = generator.get('generators', [generator['generator']] if 'generator' in generator else [])
    return [leaf for part in inside for leaf in innermost(part)] or [generator]


def prepare_one_round(cfg: Config) -> Config:
    """One step of each phase with the real models, with a batch that a small machine can take in seconds."""
    cfg.model.teacher.checkpoint = None
    cfg.model.allow_random_teacher = True
    for phase in cfg.train_cfg.setdefault('phases', [dict(name='imitation'), dict(name='generation')]):
        phase.update(steps=1, begin=0)
    cfg.train_cfg.max_iters = 1
    cfg.train_dataloader.batch_size = 2
    cfg.param_scheduler = None
    cfg.default_hooks.pop('report')  # it would take longer than the round
    # A picture of 32 images would take longer than the round.
    cfg.default_hooks.synthetic_images.num_images = 2
    for generator in innermost(cfg.model.generator):
        if 'count' in generator:
            generator.count = 2
    return cfg


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, marks=pytest.mark.slow if any(name in path.stem for name in FULL_SIZE) else ())
        for path in DISTILLATIONS
    ],
    ids=by_name,
)
def test_config_runs_a_round(path, tmp_path):
    cfg = prepare_one_round(Config.fromfile(path))
    for key in EVALUATION:
        cfg[key] = None  # the data are not here
    if 'data_root' in cfg.train_dataloader.dataset:  # a baseline on real images
        write_camvid(tmp_path / 'camvid')
        cfg.train_dataloader.dataset.data_root = str(tmp_path / 'camvid')
    runner = build_runner(cfg, work_dir=str(tmp_path))
    runner.train()
    assert {phase.name for phase in runner.train_loop.phases} == {
        'imitation',
        *(['generation'] if runner.model.generator.learns and cfg.model.get('generation') != [] else []),
    }
    for phase in runner.train_loop.phases:
        assert math.isfinite(runner.message_hub.get_scalar(f'train/{phase.name}_loss').current())
    assert (tmp_path / 'student.pth').exists()


@pytest.mark.parametrize('path', DISTILLATIONS, ids=by_name)
def test_names_and_sizes(path):
    """OpenMMLab's convention: method, models, ranks and batch, dataset."""
    method, batch, dataset = re.fullmatch(r'([a-z-]+)_[a-z0-9-]+_1xb(\d+)_([a-z0-9-]+)', path.stem).groups()
    cfg = Config.fromfile(path)
    if path.parent.name != 'baselines':
        assert method == path.parent.name
    assert int(batch) == cfg.train_dataloader.batch_size
    assert len(path.read_text().splitlines()) <= 60
    size = re.search(r'-(\d+)x(\d+)$', dataset)
    if size:
        expected = (int(size[1]), int(size[2]))
        assert all(leaf.image_size in (expected, expected[0]) for leaf in innermost(cfg.model.generator))


@pytest.mark.parametrize('name', PAPER)
def test_paper_settings(name):
    cfg = Config.fromfile(CONFIGS / f'dfad/{name}.py')
    noise_dim, size, channels, batch, rounds, lr, weight_decay, milestones, gamma = PAPER[name]
    generator = cfg.model.generator
    assert (generator.noise_dim, generator.image_size, generator.channels) == (noise_dim, size, channels)
    assert generator.type == ('mmdfad.DCGANGenerator' if size == 128 else 'mmdfad.UpsampleGenerator')
    assert 'width' not in generator
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.train_dataloader.dataset == dict(type='mmdfad.NoiseDataset')  # the length is the generator's
    assert cfg.train_cfg.type == 'mmdfad.AdversarialDistillLoop'
    assert cfg.train_cfg.max_iters == rounds
    assert not {'phases', 'noise'} & set(cfg.train_cfg)  # the loop's defaults are the paper's
    assert dict(cfg.optim_wrapper.student) == dict(
        optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=weight_decay)
    )
    assert dict(cfg.optim_wrapper.generator) == dict(optimizer=dict(type='Adam', lr=1e-3))
    assert 'amp_dtype' not in cfg.optim_wrapper  # the paper computes in fp32
    for network in ('student', 'generator'):
        schedulers = (cfg.get('param_scheduler') or {}).get(network, [])
        assert [s.milestones for s in schedulers] == ([milestones] if milestones else [])
        assert all(s.type == 'MultiStepLR' and s.gamma == gamma and not s.by_epoch for s in schedulers)
    # L1 of logits is the distiller's default
    assert 'imitation' not in cfg.model
    expected = [dict(type='mmdfad.LogL1Discrepancy')] if 'deeplab' in name else None
    assert cfg.model.get('generation') == expected
    assert 'start' not in cfg.model


def test_the_loop_defaults_to_the_papers_phases(tmp_path):
    cfg = prepare_one_round(Config.fromfile(CONFIGS / LENET))
    for key in EVALUATION:
        cfg[key] = None
    del cfg.train_cfg['phases']
    runner = build_runner(cfg, work_dir=str(tmp_path))
    assert [(phase.name, phase.steps, phase.begin) for phase in runner.train_loop.phases] == [
        ('imitation', 5, 0),
        ('generation', 1, 0),
    ]


@pytest.mark.parametrize('path', TEACHERS, ids=by_name)
def test_teacher_configs_build(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    runner = build_runner(cfg)
    assert sum(p.numel() for p in runner.model.parameters()) > 10_000


# Inheriting from other folders


def without_scopes(value):
    """Without the scope that mmengine adds to types that are inherited from a package."""
    if isinstance(value, dict):
        return {key: without_scopes(v) for key, v in value.items() if key != '_scope_'}
    return [without_scopes(v) for v in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize('path', [*DISTILLATIONS, *TEACHERS], ids=by_name)
def test_inherited_from_outside_it_is_the_same(path, tmp_path):
    inherited = without_scopes(outside(tmp_path, path.relative_to(CONFIGS)).to_dict())
    expected = without_scopes(Config.fromfile(path).to_dict())
    # {{ fileDirname }} is the folder of the installed copy there.
    assert str(inherited).replace('mmdfad/.mim/configs', 'configs') == str(expected)


@pytest.mark.parametrize('path', [*TEST_DATA, *TEACHERS, *DISTILLATIONS], ids=by_name)
def test_types_of_inherited_data_are_found(path, tmp_path):
    """mmengine looks up types in the scope of the package that a config inherits them from."""
    cfg = outside(tmp_path, path.relative_to(CONFIGS))
    loaders = [cfg[f'{split}_dataloader'] for split in ('train', 'val', 'test') if f'{split}_dataloader' in cfg]
    assert loaders
    for loader in loaders:
        dataset = innermost_dataset(loader.dataset)
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
            assert registry.get(dataset.type) is not None
            for transform in dataset.get('pipeline', []):  # noise has none
                TRANSFORMS.build(transform)
    for split in ('val', 'test'):
        evaluator = cfg.get(f'{split}_evaluator') or []
        for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
            METRICS.build(metric)


def test_inherited_data_load(tmp_path):
    write_camvid(tmp_path / 'camvid')
    cfg = outside(tmp_path, '_base_/datasets/camvid.py')
    dataset = DATASETS.build(
        dict(cfg.test_dataloader.dataset, data_root=str(tmp_path / 'camvid'), ann_file='train.txt')
    )
    sample = dataset[0]
    assert sample['inputs'].shape[1:] == (228, 342)  # 4 by 6 pixels, in a box of 256 by 342
    assert sample['data_samples'].gt_sem_seg.data.shape[1:] == (4, 6)  # mmseg tests at the original size


def test_inherited_demo_trains_and_validates(tmp_path):
    cfg = prepare_one_round(outside(tmp_path, LENET))
    cfg.work_dir = str(tmp_path / 'run')
    runner = build_runner(cfg)
    runner.train()
    assert 0 <= runner.message_hub.get_scalar('val/accuracy/top1').current() <= 100
    student = Config.fromfile(tmp_path / 'run/student.py')
    assert '_scope_' not in str(student.to_dict())  # the stock tools need no mmdfad for the data
    assert student.test_evaluator.type == 'Accuracy'  # of the default scope


def test_networks_without_a_scope_in_an_inheriting_config(tmp_path, teacher_checkpoint):
    """Types that the user writes are looked up in the user's default scope."""
    tiny = Config.fromfile(ROOT / 'tests/data/tiny.py')
    bases = ['generators/upsample_32.py', 'schedules/dfad_2k.py', 'default_runtime.py']
    cfg = outside(tmp_path, *(f'_base_/{base}' for base in bases))
    cfg.merge_from_dict(
        dict(
            default_scope='mmpretrain',
            model=dict(teacher=dict(tiny.model.teacher, checkpoint=teacher_checkpoint), student=tiny.model.student),
            train_cfg=dict(max_iters=1),
            work_dir=str(tmp_path / 'run'),
        )
    )
    cfg.model.generator.image_size = 16
    runner = build_runner(cfg, train_dataloader__batch_size=4)
    assert runner.model.student.cfg.default_scope == 'mmpretrain'
    runner.train()
    assert (tmp_path / 'run/student.pth').exists()


def test_networks_from_a_base_config(tmp_path):
    """Model dicts from ``_base_.model``, with mmpretrain's preprocessor at the top level of the config."""
    config = tmp_path / 'inherits.py'
    config.write_text(
        "_base_ = ['mmpretrain::resnet/resnet18_8xb16_cifar10.py']\n"
        'model = dict(_delete_=True, type="mmdfad.AdversarialDistiller", teacher=_base_.model, student=_base_.model,\n'
        '    allow_random_teacher=True,\n'
        '    generator=dict(type="UpsampleGenerator", noise_dim=8, image_size=32, width=8))\n'
    )
    cfg = Config.fromfile(config)
    distiller = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    for network in (distiller.teacher, distiller.student):
        assert network.cfg.default_scope == 'mmpretrain'
        assert network.model.data_preprocessor.mean.flatten().tolist() == pytest.approx([125.307, 122.961, 113.8575])


def test_own_models_take_fifteen_lines(tmp_path, teacher_checkpoint):
    """The config in docs/models.md, for a teacher and a student of one's own."""
    page = (ROOT / 'docs/models.md').read_text()
    text = next(block for block in page.split('```')[1::2] if block.startswith('python\n_base_')).partition('\n')[2]
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


@pytest.mark.parametrize('key', ['health', 'checkpoint', 'synthetic_images', 'logger'])
def test_one_hook_changes_alone(tmp_path, key):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = 'mmdfad::{LENET}'\ndefault_hooks = dict({key}=dict(interval=7))\n")
    settings = {'plain': outside(tmp_path, LENET), 'changed': Config.fromfile(config)}
    intervals = {}
    for name, cfg in settings.items():
        cfg = prepare_one_round(cfg)
        cfg.work_dir = str(tmp_path / name)
        hooks = build_runner(cfg).hooks
        intervals[name] = {type(hook).__name__: getattr(hook, 'interval', None) for hook in hooks}
    changed = {hook for hook, interval in intervals['changed'].items() if interval != intervals['plain'][hook]}
    assert intervals['changed'].keys() == intervals['plain'].keys()
    assert [intervals['changed'][hook] for hook in changed] == [7]


# Pure-Python configs

PURE = """
from mmengine.config import read_base
from mmengine.hooks import IterTimerHook
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet_CIFAR
from torch.optim import SGD, Adam

from mmdfad.datasets import NoiseDataset, NoiseSampler
from mmdfad.engine import AccelerationHook, AdversarialDistillLoop, DistillOptimWrapperConstructor, ExportStudentHook
from mmdfad.models import AdversarialDistiller
from mmdfad.models.generators import ReplayGenerator, UpsampleGenerator
from mmdfad.models.objectives import BNStatisticsPrior, KLDiscrepancy, L1Discrepancy
from mmdfad.models.starts import ChannelSelection

with read_base():
    from .configs._base_.default_runtime import *
    from .networks import student, teacher

default_scope = 'mmpretrain'
model = dict(
    type=AdversarialDistiller,
    teacher=teacher,
    student=student,
    generator=dict(
        type=ReplayGenerator,
        capacity=4,
        replayed=2,
        generator=dict(type=UpsampleGenerator, noise_dim=16, image_size=16, width=16),
    ),
    generation=[dict(type=L1Discrepancy), dict(type=BNStatisticsPrior, weight=0.1)],
    imitation=[dict(type=KLDiscrepancy)],
    start=dict(type=ChannelSelection),
    allow_random_teacher=True,
)
train_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(type=NoiseDataset), sampler=dict(type=NoiseSampler)
)
optim_wrapper = dict(
    constructor=DistillOptimWrapperConstructor,
    student=dict(optimizer=dict(type=SGD, lr=0.01)),
    generator=dict(optimizer=dict(type=Adam, lr=1e-3)),
)
train_cfg = dict(type=AdversarialDistillLoop, max_iters=1)
default_hooks.timer.update(type=IterTimerHook)
default_hooks.acceleration.update(type=AccelerationHook)
default_hooks.export_student.update(type=ExportStudentHook)
default_hooks.health.update(interval=1)
"""
NETWORKS = """
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet_CIFAR

data_preprocessor = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True)
teacher = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet_CIFAR, depth=18, base_channels=8, stem_channels=8),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=5, in_channels=64),
    data_preprocessor=data_preprocessor,
)
student = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet_CIFAR, depth=18, base_channels=4, stem_channels=4),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=5, in_channels=32),
    data_preprocessor=data_preprocessor,
)
"""
# The shipped parts of configs/_base_ that inherit nothing serve both kinds of configs.
SHIPPED = """
from mmengine.config import read_base

with read_base():
    from .configs._base_.default_runtime import *
    from .configs._base_.generators.upsample_32 import *
    from .configs._base_.schedules.dfad_25k import *
    from .networks import student, teacher

default_scope = 'mmpretrain'
model.update(teacher=teacher, student=student, allow_random_teacher=True)
model.generator.update(image_size=16, width=16)
train_dataloader.update(batch_size=8)
train_cfg.update(max_iters=1)
"""


@pytest.fixture
def pure_configs(tmp_path) -> dict[str, Path]:
    """Pure-Python configs beside the folder of shipped ones."""
    (tmp_path / 'configs').symlink_to(CONFIGS)
    contents = dict(classes=PURE, shipped=SHIPPED, networks=NETWORKS)
    for name, content in contents.items():
        (tmp_path / f'{name}.py').write_text(content)
    return {name: tmp_path / f'{name}.py' for name in contents}


@pytest.mark.parametrize('name', ['classes', 'shipped'])
def test_pure_python_config_trains(pure_configs, tmp_path, name):
    cfg = read_config(str(pure_configs[name]))
    cfg.work_dir = str(tmp_path / 'run')
    cfg.experiment_name = f'{tmp_path.name}_{name}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    # The exported student and the dumped config have names for classes: anyone can read them.
    student = Config.fromfile(tmp_path / 'run/student.py')
    loaded = MODELS.build(student.model)
    loaded.load_state_dict(torch.load(tmp_path / 'run/student.pth', weights_only=False)['state_dict'])
    dumped = Config.fromfile(tmp_path / f'run/{name}.py')
    dumped.work_dir = str(tmp_path / 'again')
    again = build_runner(dumped)
    again.train()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_pure_python_config_of_a_teacher(pure_configs, tmp_path):
    """``cfg_path`` of an ordinary config can name a pure-Python one."""
    teacher = tmp_path / 'teacher.py'
    teacher.write_text(
        'from mmengine.config import read_base\n\nwith read_base():\n    from .networks import teacher\n\n'
        "model = dict(**teacher)\ndefault_scope = 'mmpretrain'\n"
    )
    networks = [dict(cfg_path=str(teacher)) for _ in range(2)]
    generator = dict(type='UpsampleGenerator', noise_dim=8, image_size=16, width=8)
    distiller = MODELS.build(
        dict(
            type='mmdfad.AdversarialDistiller',
            teacher=networks[0],
            student=networks[1],
            generator=generator,
            allow_random_teacher=True,
        )
    )
    assert distiller.num_classes == 5
    assert distiller.student.cfg.model.head.type == 'mmpretrain.models.LinearClsHead'


def test_class_of_a_module_of_ones_own(tmp_path, monkeypatch):
    """The first part of its full name is not a scope. Types inside it are looked up in the default scope."""
    (tmp_path / 'my_networks.py').write_text(
        'from mmpretrain.models import ImageClassifier\n\n\nclass MyClassifier(ImageClassifier):\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    from my_networks import MyClassifier

    model = Config.fromfile(ROOT / 'tests/data/tiny.py').model.student
    for kind in ('my_networks.MyClassifier', MyClassifier):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            plain = plain_config(dict(model, type=kind), 'student')
        assert plain.default_scope == 'mmpretrain'
        assert plain.model.type == 'my_networks.MyClassifier'
        assert type(build_model(plain, 'student')) is MyClassifier


def test_both_kinds_of_inheritance_do_not_mix(tmp_path):
    """mmengine's rule: a pure-Python config cannot inherit from one with ``_base_``. Its error says so."""
    (tmp_path / 'configs').symlink_to(CONFIGS)
    path = tmp_path / 'mixed.py'
    path.write_text(
        'from mmengine.config import read_base\n\nwith read_base():\n'
        '    from .configs._base_.schedules.dfad_15k import *\n'
    )
    with pytest.raises(Exception, match='You should use `with read_base'):
        Config.fromfile(path)


# Metafiles


def metafiles() -> dict[Path, dict]:
    """The content of all metafiles of the index, by folder."""
    index = load(ROOT / 'model-index.yml')
    return {(ROOT / path).parent: load(ROOT / path) for path in index['Import']}


def test_metafiles_list_every_config():
    entries = metafiles()
    assert sorted(entries) == METHODS
    models = [model for content in entries.values() for model in content['Models']]
    assert sorted(model['Config'] for model in models) == [str(path.relative_to(ROOT)) for path in DISTILLATIONS]
    assert all(model['Name'] == Path(model['Config']).stem for model in models)


@pytest.mark.parametrize('folder', METHODS, ids=lambda folder: folder.name)
def test_metafiles_are_complete(folder):
    content = metafiles()[folder]
    names = {collection['Name'] for collection in content['Collections']}
    assert len(names) == 1
    for collection in content['Collections']:
        assert (ROOT / collection['README']).is_file()
        assert (ROOT / collection['Code']['URL']).is_file()
    for model in content['Models']:
        assert model['In Collection'] in names
        metadata, teacher = model['Metadata'], Config.fromfile(ROOT / model['Config']).model.teacher
        assert metadata['Training Data']
        assert metadata['Teacher']['Config'] == teacher.cfg_path.rpartition('/../')[2]
        assert metadata['Teacher']['Weights'] == teacher.checkpoint
        # A URL can be fetched. Another file needs the command that makes it. The config may also prepare the data.
        command, commands = metadata['Teacher'].get('Command'), teacher.get('train_command')
        assert (command is None) == (commands is None)
        assert command is None or commands.endswith(command)
        seeds = str(metadata['Seeds']).split(', ')
        assert all(seed.isdigit() for seed in seeds)
        for result in model.get('Results', []):
            assert re.search(r'\(seed (\d)\)$', result['Dataset'])[1] in seeds
            assert {'Task', 'Dataset', 'Metrics'} <= result.keys()

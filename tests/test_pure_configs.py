"""The pure-Python configs of the package are the same as those in configs/, and can be inherited from."""

import inspect
import re
from pathlib import Path

import pytest
from conftest import ROOT, build_runner
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string
from test_configs import EVALUATION, prepare_one_round

from mmdfad.utils.config import read_config

PURE = ROOT / 'mmdfad/configs'
FILES = sorted(path for path in PURE.glob('*/*.py') if path.parent.name != '_base_')
REGISTRIES = [value for value in vars(registry).values() if isinstance(value, Registry)]
# Variables of a file that are no settings.
HELPERS = {'dataset', 'decay', 'decoder', 'loader', 'pipeline', 'rounds', 'schedule', 'shape', 'small'}


def by_name(path: Path) -> str:
    return path.stem


def original(path: Path) -> Path:
    """The file in configs/ of the same name. Modules cannot have hyphens in their names."""
    folder = ROOT / 'configs' / path.parent.name
    return next(other for other in folder.glob('*.py') if other.stem.replace('-', '_') == path.stem)


def class_of(name: str, scope: str) -> type:
    """What a type or constructor means in a config of this scope."""
    for root in REGISTRIES:
        with root.switch_scope_and_registry(scope) as own:
            found = own.get(name)
        if inspect.isclass(found):
            return found
    return get_object_from_string(name)


def settings(cfg: Config) -> dict:
    """All settings, with classes for types."""

    def with_classes(value):
        if isinstance(value, dict):
            named = {k: v for k, v in value.items() if k in ('type', 'constructor') and isinstance(v, str)}
            return {k: class_of(v, cfg.default_scope) if k in named else with_classes(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(with_classes, value))
        # Both kinds of configs name files of the package in their own way.
        return re.sub(r'^.*\.\./(?=examples/)', '', value) if isinstance(value, str) else value

    return with_classes({key: value for key, value in cfg.to_dict().items() if key not in HELPERS})


def test_both_methods_have_the_main_pairs():
    assert {path.parent.name for path in FILES} == {'ils', 'dfad'}
    for method in ('ils', 'dfad'):
        names = ' '.join(path.stem for path in FILES if path.parent.name == method)
        assert all(pair in names for pair in ('resnet32_resnet20', 'deeplabv3_r18', 'lenet5_lenet5half'))


@pytest.mark.parametrize('path', FILES, ids=by_name)
def test_same_as_the_file_in_configs(path):
    pure, file = Config.fromfile(path), Config.fromfile(original(path))
    assert pure.model.type is not file.model.type
    assert settings(pure) == settings(file)
    assert len(path.read_text().splitlines()) < 75


@pytest.mark.parametrize('path', FILES, ids=by_name)
def test_runs_a_round(path, tmp_path):
    cfg = prepare_one_round(read_config(str(path)))
    for key in EVALUATION:
        cfg[key] = None  # the data are not here
    cfg.default_hooks.pop('report')
    runner = build_runner(cfg, work_dir=str(tmp_path))
    runner.train()
    assert (tmp_path / 'student.pth').exists()


def test_inherited_by_a_config_elsewhere(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from mmengine.config import read_base\n\nwith read_base():\n'
        '    from mmdfad.configs.ils.ils_resnet32_resnet20_1xb64_cifar10 import *\n\n'
        "model.teacher.update(checkpoint='mine.pth')\ntrain_cfg.update(max_iters=7)\n"
    )
    base = Config.fromfile(PURE / 'ils/ils_resnet32_resnet20_1xb64_cifar10.py')
    cfg = Config.fromfile(path)
    assert (cfg.model.teacher.checkpoint, cfg.train_cfg.max_iters) == ('mine.pth', 7)
    cfg.model.teacher.checkpoint, cfg.train_cfg.max_iters = base.model.teacher.checkpoint, base.train_cfg.max_iters
    assert settings(cfg) == settings(base)

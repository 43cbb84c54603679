"""The wheel, and the packages that mmdfad needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mmengine
import pytest
from conftest import ROOT
from tiny_configs import write_tiny

from mmdfad.cli import list_tools, main
from mmdfad.utils.compat import INSTALL_LINE, check_package


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the sources: a build here would replace the links of a development install."""
    source = tmp_path_factory.mktemp('source') / 'mmdfad'
    ignore = shutil.ignore_patterns(
        '.venv*', '.git', '_build', 'build', 'dist', 'work_dirs', '.mim', '*.egg-info', '__pycache__', 'data'
    )
    shutil.copytree(ROOT, source, ignore=ignore)
    out = tmp_path_factory.mktemp('wheel')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', str(out), str(source)],
        check=True,
        capture_output=True,
    )
    return next(out.glob('*.whl'))


def test_wheel_ships_configs_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f'mmdfad/.mim/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')}
    expected |= {
        f'mmdfad/.mim/tools/{path.name}' for path in (ROOT / 'tools').iterdir() if path.suffix in ('.py', '.sh')
    }
    metafiles = mmengine.load(ROOT / 'model-index.yml')['Import']
    expected |= {f'mmdfad/.mim/{path}' for path in ('model-index.yml', *metafiles)} | {'mmdfad/registry.py'}
    expected |= {f'mmdfad/reports/templates/{name}' for name in ('report.html.j2', 'style.css')}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdfad/configs').rglob('*.py')} | {'mmdfad/py.typed'}
    assert expected <= names
    assert not any(name.startswith(('tests/', 'configs/', 'tools/')) for name in names)


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel installed."""
    site = tmp_path_factory.mktemp('installed') / 'site'
    install = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--quiet', '--target', str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return site


def call(site: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run Python with the installed wheel in place of the sources."""
    command = [sys.executable, *map(str, words)]
    env = {**os.environ, 'PYTHONPATH': str(site)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


RESOLVE = """
import mmdfad
from mmengine.config import Config
from mmengine.hub import get_config

from mmdfad.utils.config import read_config

print(mmdfad.__file__)
print(get_config('mmdfad::dfad/dfad_lenet5-lenet5half_1xb128_mnist5k.py').filename)
print(read_config(Config.fromfile('pure.py').model.teacher.cfg_path).filename)
print(Config.fromfile('mine.py').log_processor.type)
"""
PURE = """
from mmengine.config import read_base

with read_base():
    from mmdfad.configs.ils.ils_resnet32_resnet20_1xb64_cifar10 import *
"""


def test_configs_resolve_from_an_installed_wheel(site, tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = ['mmdfad::_base_/default_runtime.py']")
    (tmp_path / 'pure.py').write_text(PURE)
    result = call(site, '-c', RESOLVE, cwd=tmp_path)
    *files, kind = result.stdout.split()[-4:]
    assert all(file.startswith(str(site)) for file in files), result.stdout + result.stderr
    assert kind == 'mmdfad.DistillLogProcessor'


def test_command_of_an_installed_wheel_distils(site, tmp_path, teacher_checkpoint):
    teacher, student = write_tiny(tmp_path, 'teacher'), write_tiny(tmp_path, 'student')
    flags = ['--method', 'dfad', '--rounds', 1, '--batch-size', 4, '--no-validate', '--work-dir', tmp_path / 'run']
    networks = ['--teacher', teacher, '--checkpoint', teacher_checkpoint, '--student', student]
    options = ['--cfg-options', 'default_hooks.report=None']
    result = call(site, site / 'bin/mmdfad', 'distill', *networks, *flags, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'run/student.pth').exists()
    assert str(ROOT) not in result.stdout


@pytest.mark.parametrize('arguments', [['--help'], ['no-such-tool'], []])
def test_command_lists_the_tools(arguments, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['mmdfad', *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == (0 if arguments == ['--help'] else 2)
    printed = capsys.readouterr()
    assert 'usage: mmdfad TOOL' in printed.out + printed.err
    names = {path.stem.replace('_', '-') for path in (ROOT / 'tools').glob('*.py')}
    assert {'distill', 'train', 'test', 'report', 'export-onnx', 'visualize'} <= names == set(list_tools())
    assert end.value.code or all(f'  {name} ' in printed.out for name in names)


def test_segmentation_configs_resolve():
    """mmengine knows only one of the two distributions that have mmseg."""
    from mmengine.hub import get_config

    assert get_config('mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py').default_scope == 'mmseg'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'mmdfad needs mmcv>=2.0.0,<3.0.0, but it is not installed'),
        ("__version__ = '1.7.2'", 'mmdfad needs mmcv>=2.0.0,<3.0.0, but found mmcv 1.7.2'),
        ("raise OSError('libcudart.so: cannot open')", 'importing it fails (OSError: libcudart.so: cannot open)'),
    ],
)
def test_missing_and_unsuited_packages_give_one_error_with_the_install_line(tmp_path, content, message):
    package = tmp_path / 'mmcv'
    if content is not None:
        package.mkdir()
        (package / '__init__.py').write_text(content)
    hide = 'import sys, importlib.util as u\nfind = u.find_spec\n'
    if content is None:
        hide += 'u.find_spec = lambda name, *a: None if name == "mmcv" else find(name, *a)\n'
    result = subprocess.run(
        [sys.executable, '-c', f'{hide}import mmdfad'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
    )
    assert result.returncode == 1
    last = result.stderr[result.stderr.rindex('ImportError:') :]
    assert message in last
    assert INSTALL_LINE in last


def test_optional_packages_are_checked_when_asked_for(monkeypatch):
    check_package('mmpretrain')
    monkeypatch.setattr('mmpretrain.__version__', '0.25.0')
    with pytest.raises(ImportError, match=r'mmdfad needs mmpretrain>=1.0.0,<2.0.0, but found mmpretrain 0.25.0'):
        check_package('mmpretrain')

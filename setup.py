"""Packaging of mmdfad."""

import shutil
import sys
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).resolve().parent
EDITABLE = {'develop', 'editable_wheel'}
BUILDS = {'bdist_wheel', 'sdist', 'build'}


def read_requirements(name: str) -> list[str]:
    """The lines of requirements/NAME.txt that name a package."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def read_version() -> str:
    """The version, without importing the package and all that it needs."""
    scope: dict = {}
    exec((ROOT / 'mmdfad/version.py').read_text(), scope)
    return scope['__version__']


def add_mim_extension() -> None:
    """Put configs, tools and the model index where OpenMMLab looks for them, in mmdfad/.mim, and what configs need.

    They are linked for a development install, and copied into a wheel.
    """
    command = set(sys.argv[1:])
    if not command & (EDITABLE | BUILDS):
        return
    mim = ROOT / 'mmdfad/.mim'
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir(parents=True)
    for name in ('configs', 'examples', 'tools', 'model-index.yml'):
        source, target = ROOT / name, mim / name
        if command & EDITABLE:
            target.symlink_to(Path('../..') / name)
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, target)


add_mim_extension()
extras = {name: read_requirements(name) for name in ('demo', 'onnx', 'pictures', 'test', 'mminstall')}
setup(
    name='mmdfad',
    version=read_version(),
    description='Data-free distillation of OpenMMLab models',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='knowledge distillation, model compression, data-free, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    # Folders of pure-Python configs have no __init__.py.
    packages=[*find_packages(include=['mmdfad*']), *find_namespace_packages(include=['mmdfad.configs*'])],
    package_data={'mmdfad': ['py.typed']},
    include_package_data=True,
    entry_points={'console_scripts': ['mmdfad = mmdfad.cli:main']},
    python_requires='>=3.11',
    install_requires=read_requirements('runtime'),
    extras_require={
        **extras,
        'dev': [
            *(line for name in ('demo', 'onnx', 'pictures', 'test') for line in extras[name]),
            'pre-commit==4.7.0',
            'ruff==0.17.6',
        ],
    },
    zip_safe=False,
)

"""Which versions of the OpenMMLab packages mmdfad needs, how they differ, and which packages some models need.

Each package exists twice with the same import name: OpenMMLab's own (``mmengine``, ``mmsegmentation``, ...), called
upstream here, and the maintained one (``onedl-mmengine``, ...). mmdfad works with either. What has to be done
differently for one of them is in this module.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from itertools import islice
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from torch import nn
from torch.utils.data import DataLoader, Sampler

# By import name, first the maintained distribution, then upstream's.
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}


def installed(name: str) -> list[str]:
    """The installed distributions that have an OpenMMLab package. ``name`` is what one imports, such as ``'mmseg'``."""
    return [found for found in DISTRIBUTIONS[name] if _is_installed(found)]


def _is_installed(distribution_name: str) -> bool:
    try:
        distribution(distribution_name)
    except PackageNotFoundError:
        return False
    return True


FORK_LINE = 'pip install onedl-mmengine onedl-mmcv onedl-mmpretrain onedl-mmsegmentation'
# A hint names packages of the kind that is there: the other kind would be installed into the same folders.
UPSTREAM = bool({*installed('mmengine'), *installed('mmcv')} - {'onedl-mmengine', 'onedl-mmcv'})
MMCV, MMDET = ('mmcv', 'mmdet') if UPSTREAM else ('onedl-mmcv', 'onedl-mmdetection')
_mmcv = 'mmcv' if _is_installed('mmcv') else 'mmcv-lite'
UPSTREAM_LINE = f'pip install mmengine==0.10.7 {_mmcv}==2.1.0 mmpretrain==1.2.0 mmsegmentation==1.2.2'
INSTALL_LINE = UPSTREAM_LINE if UPSTREAM else FORK_LINE

# import name: (lowest version, first version that is too high)
REQUIRED = {'mmengine': ('0.10.0', '1.0.0'), 'mmcv': ('2.0.0', '3.0.0')}
# Checked when a config asks for one of their models.
OPTIONAL = {'mmpretrain': ('1.0.0', '2.0.0'), 'mmseg': ('1.0.0', '2.0.0')}

# mmcv's wheel has no compiled ops, so they are built from its sources. Its setup.py asks for C++17, but current torch
# needs C++20.
_sources = f'{MMCV.replace("-", "_")}-*'
_version = '==2.1.0 --no-build-isolation' if UPSTREAM else ''
OPS_LINE = (
    f'pip download --no-deps --no-binary {MMCV} {MMCV}{_version} && '
    f"tar xzf {_sources}.tar.gz && sed -i 's/c++17/c++20/' {_sources}/setup.py && "
    f'pip install --no-deps --force-reinstall --no-cache-dir --no-build-isolation ./{_sources}/'
)
OPS_TYPES = {'CCHead', 'DCN', 'DCNv2', 'MSDeformAttnPixelDecoder', 'PSAHead', 'PointHead', 'SideAdapterCLIPHead'}
# What some types need beside their own package: a module, the line that installs it, and the types.
NEEDED_BY_TYPES = (
    ('mmcv._ext', OPS_LINE, OPS_TYPES),
    ('mmdet', f'pip install {MMDET}', {'Mask2FormerHead', 'MaskFormerHead'}),
    ('timm', 'pip install timm', {'TIMMBackbone', 'TimmClassifier'}),
    ('transformers', "pip install 'transformers<5'", {'HuggingFaceClassifier'}),
)
# What upstream's mmseg imports for every model, and does not install.
UPSTREAM_MMSEG_NEEDS = ('ftfy', 'regex', 'mmcv._ext')
# What to do about errors of upstream's packages whose text does not say it.
_REMEDIES = {
    "No module named 'pkg_resources'": "mmengine needs a setuptools that has it: pip install 'setuptools<81'",
    'MMCV==': "mmsegmentation needs an older mmcv: pip install 'mmcv<2.2'",
}


def explain(error: Exception) -> str:
    """The text of an error, and what to do if upstream's packages are known for it."""
    text = str(error)
    return '; '.join([text, *(remedy for known, remedy in _REMEDIES.items() if known in text)])


def check_no_mixture() -> None:
    """Check that no OpenMMLab package is installed twice.

    Two distributions with the same import name lie in the same folder, with some files of each. The result may work,
    or fail anywhere.

    Raises:
        ImportError: If one is. The message has the lines that clean up.
    """
    found = {name: installed(name) for name in DISTRIBUTIONS}
    twice = [' and '.join(names) for names in found.values() if len(names) > 1]
    if twice:
        everything = ' '.join(name for names in found.values() for name in names)
        raise ImportError(
            f'{", ".join(twice)} are both installed, in the same folder, and have overwritten files of each other. '
            f'Uninstall all, then install one kind:\n  pip uninstall -y {everything}\n  {FORK_LINE}'
        )


def check_package(name: str) -> None:
    """Check that an OpenMMLab package is installed in a suitable version.

    Args:
        name (str): Import name, such as ``'mmpretrain'``.

    Raises:
        ImportError: If it is missing or its version is not supported. The message has the line that installs it.
    """
    low, high = (REQUIRED | OPTIONAL)[name]
    wanted = f'mmdfad needs {name}>={low},<{high}'
    if find_spec(name) is None:
        raise ImportError(f'{wanted}, but it is not installed. Install it with\n  {INSTALL_LINE}')
    try:
        found = import_module(name).__version__
    except Exception as error:
        raise ImportError(
            f'{wanted}, but importing it fails ({type(error).__name__}: {explain(error)}). Reinstall with\n'
            f'  {INSTALL_LINE}'
        ) from error
    if not Version(low) <= Version(found) < Version(high):
        raise ImportError(f'{wanted}, but found {name} {found}. Install a suitable one with\n  {INSTALL_LINE}')
    if name == 'mmseg' and installed(name) == ['mmsegmentation']:
        missing = [module for module in UPSTREAM_MMSEG_NEEDS if not is_importable(module)]
        if missing:
            raise ImportError(
                f'mmsegmentation {found} needs {", ".join(missing)} for every model. mmcv._ext is the compiled part of '
                'mmcv, which mmcv-lite lacks. Install all of them with\n  pip install ftfy regex\n'
                f'  pip uninstall -y mmcv-lite\n  {OPS_LINE}'
            )


def check_types(cfg: dict | list) -> None:
    """Check that the packages that a model's types need are installed, before the model is built.

    Without them, some types fail late, or with an error that does not say what is missing.

    Args:
        cfg (dict | list): The config.

    Raises:
        ImportError: If a package is missing. The message has the line that installs it.
    """
    name = cfg.get('type') if isinstance(cfg, dict) else None
    if isinstance(name, str):
        scope, _, name = name.rpartition('.')
        if scope.isidentifier() and not is_importable(scope):
            raise ImportError(f'{scope}.{name} needs the package {scope}, which is not installed')
        for module, line, types in NEEDED_BY_TYPES:
            if name in types and not is_importable(module):
                what = 'the compiled ops of mmcv' if module == 'mmcv._ext' else module
                raise ImportError(f'{name} needs {what}, which is not installed. Install it with\n  {line}')
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list | tuple):
            check_types(value)


def is_importable(module: str) -> bool:
    """Whether a module exists. It is not imported."""
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # its package is missing, or it is a script
        return False


def check_environment() -> None:
    """Check the packages that mmdfad always needs.

    Raises:
        ImportError: See :func:`check_no_mixture` and :func:`check_package`.
    """
    check_no_mixture()
    for name in REQUIRED:
        check_package(name)


def teach_mmengine_package_names() -> None:
    """Make ``mmseg::...`` and ``mmdfad::...`` configs resolve in mmengine.

    mmengine looks for ``mmseg`` in the distribution ``mmsegmentation``, but the maintained one is called
    ``onedl-mmsegmentation``. And it does not know ``mmdfad``.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault('mmdfad', 'mmdfad')
    for name in installed('mmseg'):
        MODULE2PACKAGE['mmseg'] = name


def allow_logged_values() -> AbstractContextManager:
    """Let torch read what mmengine's checkpoints hold beside weights: logged values, in arrays of numpy.

    The maintained mmengine allows them when it reads a checkpoint. Upstream's does not.
    """
    from mmengine.logging import HistoryBuffer

    def statistic(owner: Any, name: str) -> Any:
        """All that a HistoryBuffer needs of getattr."""
        if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
            raise UnpicklingError('GLOBAL builtins.getattr was not an allowed global')
        return getattr(owner, name)

    # Files have the name that numpy's module had when they were written.
    makers = [value.__reduce__()[0] for value in (np.zeros(0), np.float64(0))]
    named = [(make, f'numpy.{core}.multiarray.{make.__name__}') for make in makers for core in ('core', '_core')]
    dtypes = {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    allowed = [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *named, (statistic, 'builtins.getattr')]
    return torch.serialization.safe_globals(allowed)


def skip_samples(sampler: Sampler, count: int) -> bool:
    """Let a sampler start after some of its samples, for a run that resumes.

    The samplers of the maintained mmengine have ``skip`` for it. Upstream's have not.

    Returns:
        bool: False if it cannot.
    """
    from mmengine.dataset import InfiniteSampler

    if hasattr(sampler, 'skip'):
        sampler.skip(count)
    elif isinstance(sampler, InfiniteSampler):
        sampler.indices = islice(sampler._indices_of_rank(), count, None)
    else:
        return False
    return True


def new_iterator(dataloader: DataLoader) -> Iterator:
    """Iterate over a dataloader with workers that start now.

    Upstream's mmengine starts them when it builds a loop, before the dataset is complete. Those of
    ``persistent_workers=True`` would keep their copy of the dataset.
    """
    forget_iterator(dataloader)
    return iter(dataloader)


def forget_iterator(dataloader: DataLoader) -> None:
    """Let a dataloader forget the iterator that it keeps, whose workers end with the last reference to it."""
    dataloader._iterator = None


def reverses_channels(preprocessor: nn.Module | None) -> bool:
    """Whether a data preprocessor reverses the order of the colour channels. Each package has its own name for it."""
    # mmpretrain, mmengine and the maintained mmseg, upstream's mmseg
    return any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion', 'channel_conversion'))

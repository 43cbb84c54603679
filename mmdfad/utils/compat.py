"""Which versions of the OpenMMLab packages mmdfad needs, and which packages some models need.

Each package exists twice with the same import name: OpenMMLab's own (``mmengine``, ``mmsegmentation``, ...) and the
maintained one (``onedl-mmengine``, ...). mmdfad works with either.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from packaging.version import Version

INSTALL_LINE = 'pip install onedl-mmengine onedl-mmcv onedl-mmpretrain onedl-mmsegmentation'

# import name: (lowest version, first version that is too high)
REQUIRED = {'mmengine': ('0.10.0', '1.0.0'), 'mmcv': ('2.0.0', '3.0.0')}
# Checked when a config asks for one of their models.
OPTIONAL = {'mmpretrain': ('1.0.0', '2.0.0'), 'mmseg': ('1.0.0', '2.0.0')}

# mmcv's wheel has no compiled ops, so they are built from its sources. Its setup.py asks for C++17, but current torch
# needs C++20.
OPS_LINE = (
    'pip download --no-deps --no-binary onedl-mmcv onedl-mmcv && tar xzf onedl_mmcv-*.tar.gz && '
    "sed -i 's/c++17/c++20/' onedl_mmcv-*/setup.py && "
    'pip install --no-deps --force-reinstall --no-cache-dir --no-build-isolation ./onedl_mmcv-*/'
)
OPS_TYPES = {'CCHead', 'DCN', 'DCNv2', 'MSDeformAttnPixelDecoder', 'PSAHead', 'PointHead', 'SideAdapterCLIPHead'}
# What some types need beside their own package: a module, the line that installs it, and the types.
NEEDED_BY_TYPES = (
    ('mmcv._ext', OPS_LINE, OPS_TYPES),
    ('mmdet', 'pip install onedl-mmdetection', {'Mask2FormerHead', 'MaskFormerHead'}),
    ('timm', 'pip install timm', {'TIMMBackbone', 'TimmClassifier'}),
    ('transformers', "pip install 'transformers<5'", {'HuggingFaceClassifier'}),
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
            f'{wanted}, but importing it fails ({type(error).__name__}: {error}). Reinstall with\n  {INSTALL_LINE}'
        ) from error
    if not Version(low) <= Version(found) < Version(high):
        raise ImportError(f'{wanted}, but found {name} {found}. Install a suitable one with\n  {INSTALL_LINE}')


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
        ImportError: See :func:`check_package`.
    """
    for name in REQUIRED:
        check_package(name)


def teach_mmengine_package_names() -> None:
    """Make ``mmseg::...`` and ``mmdfad::...`` configs resolve in mmengine.

    mmengine looks for ``mmseg`` in the distribution ``mmsegmentation``, but the maintained one is called
    ``onedl-mmsegmentation``. And it does not know ``mmdfad``.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault('mmdfad', 'mmdfad')
    for name in ('mmsegmentation', 'onedl-mmsegmentation'):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        MODULE2PACKAGE['mmseg'] = name
        return

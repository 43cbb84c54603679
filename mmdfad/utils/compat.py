"""What mmdfad asks of the OpenMMLab packages beside it, and those of each other.

The packages exist in two families with the same import names: OpenMMLab's own (``mmengine``, ``mmsegmentation``, ...)
and the maintained ``onedl-*`` ones. Nothing here or elsewhere depends on which of the two is installed.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from packaging.version import Version

INSTALL_LINE = 'pip install onedl-mmengine onedl-mmcv onedl-mmpretrain onedl-mmsegmentation'

# import name -> (minimum version, first unsuited version)
REQUIRED = {'mmengine': ('0.10.0', '1.0.0'), 'mmcv': ('2.0.0', '3.0.0')}
# Looked at only when a config asks for a model of theirs.
OPTIONAL = {'mmpretrain': ('1.0.0', '2.0.0'), 'mmseg': ('1.0.0', '2.0.0')}

# What some types of OpenMMLab need beside their own package: module, the line that installs it, types.
# Of mmcv's sources, as the wheel has no compiled ops; its setup.py asks for C++17, where current torch needs C++20.
OPS_LINE = (
    'pip download --no-deps --no-binary onedl-mmcv onedl-mmcv && tar xzf onedl_mmcv-*.tar.gz && '
    "sed -i 's/c++17/c++20/' onedl_mmcv-*/setup.py && "
    'pip install --no-deps --force-reinstall --no-cache-dir --no-build-isolation ./onedl_mmcv-*/'
)
OPS_TYPES = {'CCHead', 'DCN', 'DCNv2', 'MSDeformAttnPixelDecoder', 'PSAHead', 'PointHead', 'SideAdapterCLIPHead'}
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
        ImportError: If it is missing or its version is not supported; the message has the line that installs it.
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
    """Check that what the types of a model's config need is installed, before they are built.

    Some of them fail late without it, or with an error that does not tell what is missing.

    Args:
        cfg (dict | list): The config.

    Raises:
        ImportError: If a type needs a package that is missing, with the line that installs it.
    """
    name = cfg.get('type') if isinstance(cfg, dict) else None
    if isinstance(name, str):
        scope, _, name = name.rpartition('.')
        if scope.isidentifier() and not is_importable(scope):
            raise ImportError(f'{scope}.{name} is of the package {scope}, which is not installed')
        for module, line, types in NEEDED_BY_TYPES:
            if name in types and not is_importable(module):
                what = 'the compiled ops of mmcv' if module == 'mmcv._ext' else module
                raise ImportError(f'{name} needs {what}, which is not installed. Install it with\n  {line}')
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list | tuple):
            check_types(value)


def is_importable(module: str) -> bool:
    """Whether a module is there, without importing it."""
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # of the package around it, or of a script
        return False


def check_environment() -> None:
    """Check the packages that mmdfad cannot work without.

    Raises:
        ImportError: See :func:`check_package`.
    """
    for name in REQUIRED:
        check_package(name)


def teach_mmengine_package_names() -> None:
    """Make ``mmseg::...`` and ``mmdfad::...`` configs resolve in mmengine.

    mmengine maps the import name ``mmseg`` to the distribution ``mmsegmentation`` only, which is another one in the
    maintained family, and does not know ``mmdfad``.
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

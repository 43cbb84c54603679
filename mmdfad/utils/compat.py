"""What mmdfad asks of the OpenMMLab packages beside it.

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

"""Reading mm configs, from files and from packages."""

from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_installed_path

from .compat import OPTIONAL, check_package
from .errors import DistillError


def read_config(path: str, key: str = 'the config') -> Config:
    """Read a config.

    Args:
        path (str): A path, or ``'package::folder/config.py'`` for one that an OpenMMLab package ships.
        key (str): What the path is, for the message. Defaults to 'the config'.

    Raises:
        DistillError: If it cannot be read, with the reason.
    """
    package, colons, inside = path.partition('::')
    try:
        if not colons:
            return Config.fromfile(path)
        if package in OPTIONAL:
            check_package(package)
        elif find_spec(package) is None:  # mmengine would install it, whatever it is
            raise ImportError(f'package {package} is not installed')
        # mmengine.hub.get_config finds the same file, after it has read the metafiles of all models of the package.
        return Config.fromfile(Path(get_installed_path(package)) / '.mim/configs' / inside)
    except Exception as error:  # a config is a program: it can fail in any way
        reason = str(error).partition(', the current sys.path is')[0]  # which is long, and of no help
        raise DistillError(
            f'cannot read {key} {path}: {type(error).__name__}: {reason}. Expected a path to a config, or '
            "'package::folder/config.py'"
        ) from error


def custom_imports(cfg: Config) -> list[str]:
    """The modules that a config has imported for its own types."""
    imports = (cfg.get('custom_imports') or {}).get('imports', [])
    return [imports] if isinstance(imports, str) else list(imports)

"""mmdfad: data-free adversarial distillation for OpenMMLab models."""

from mmdfad.utils.compat import check_environment, teach_mmengine_package_names
from mmdfad.version import __version__

check_environment()
teach_mmengine_package_names()

__all__ = ['__version__']

"""What OpenMMLab expects of each of its packages."""

from importlib import import_module

from mmengine.registry import init_default_scope

_MODULES = ('models', 'engine', 'datasets', 'evaluation', 'reports')


def register_all_modules(init_scope: bool = True) -> None:
    """Import all modules that register something, as ``mmengine.hub.get_model`` asks for.

    Args:
        init_scope (bool): Make ``mmdfad`` the default scope. Defaults to True.
    """
    for name in _MODULES:
        import_module(f'mmdfad.{name}')
    if init_scope:
        init_default_scope('mmdfad')

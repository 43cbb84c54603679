"""A check of one part of a config: a dict with a type."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.registry import Registry

from mmdfad.utils import DistillError
from mmdfad.utils.compat import OPTIONAL, check_package
from mmdfad.utils.signature import check_arguments, similar_type

# Keys that mmengine takes from the dict before it builds the type.
_BUILDERS = ('type', '_scope_')


def check_part(
    part: Any,
    where: str,
    registry: Registry,
    scope: str | None = None,
    provided: tuple[str, ...] = (),
    builders: tuple[str, ...] = (),
    check: tuple[str, ...] = (),
) -> None:
    """Check that a dict has a known type and arguments that it takes.

    Args:
        part (Any): The dict.
        where (str): Its key in the config, for messages.
        registry (Registry): Where the type is looked up.
        scope (str, optional): That of types without one. Defaults to the config's.
        provided (tuple[str, ...]): Arguments that do not come from the config. Defaults to none.
        builders (tuple[str, ...]): Keys that are taken from the dict before. Defaults to none.
        check (tuple[str, ...]): Arguments that are checked elsewhere, whatever their type. Defaults to none.
    """
    require_dict(part, where)
    if 'type' not in part:
        raise DistillError(f'{where} must have a `type`, but found the keys {sorted(part)}')
    target = find_type(part['type'], f'{where}.type', registry, part.get('_scope_') or scope)
    own = {key: value for key, value in part.items() if key not in (*_BUILDERS, *builders)}
    check_arguments(where, target, own, provided, untyped=check)


def find_type(kind: Any, where: str, registry: Registry, scope: str | None = None) -> Callable:
    """The class or function of a type."""
    if callable(kind):
        return kind
    if not isinstance(kind, str):
        raise DistillError(f'{where} must be the name of a class, but found {kind!r}')
    prefix = kind.partition('.')[0] if '.' in kind else scope
    if prefix in OPTIONAL:
        try:
            check_package(prefix)
        except ImportError as error:
            raise DistillError(f'{where}={kind!r}: {error}') from error
    with registry.switch_scope_and_registry(scope) as current:
        found = current.get(kind)
    if found is None:
        raise DistillError(f'{where}={kind!r} is unknown{similar_type(kind, registry)}')
    return found


def require_dict(part: Any, where: str) -> None:
    if not isinstance(part, Mapping):
        raise DistillError(f'{where} must be a dict, but found {part!r}')


def check_number(part: Mapping, where: str, key: str, least: float = -math.inf, more_than: float = -math.inf) -> None:
    """Check that a number, if it is given, is finite and large enough."""
    if key not in part:
        return
    value = part[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least or value <= more_than:
        wanted = f'{least:g} or more' if math.isfinite(least) else f'more than {more_than:g}'
        raise DistillError(f'{where}.{key} must be {wanted}, but found {value!r}')

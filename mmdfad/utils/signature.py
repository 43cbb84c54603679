"""What a class or function takes, compared with what a config gives."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import Registry

from .errors import DistillError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# How much an argument resembles a known one if it was hardly meant for anything else.
_TYPO = 0.9
# Modules whose classes hand their ``**kwargs`` on to their base class. Nobody knows what others do with them.
_HAND_ON = ('mmdfad.', 'mmengine.optim.')
# Modules whose type hints are right.
_WELL_TYPED = ('mmdfad.', 'mmengine.', 'torch.')
_WORDS = {
    bool: 'True or False',
    int: 'a whole number',
    float: 'a number',
    str: 'a string',
    dict: 'a dict',
    list: 'a list',
    type(None): 'None',
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to add to a message about an unknown name.

    Args:
        name (str): What was found.
        known (Iterable[str]): What could have been meant.

    Returns:
        str: ``'; did you mean X?'``, or all that is known if nothing resembles the name and there are only a few.
    """
    known = [*known]
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f'; did you mean {close[0]}?'
    return f'; it takes {", ".join(known)}' if 0 < len(known) <= 20 else ''


def check_arguments(
    where: str,
    target: Callable,
    given: Mapping[str, Any],
    provided: Collection[str] = (),
    untyped: Collection[str] = (),
) -> None:
    """Compare the part of a config with the signature of what it builds.

    Args:
        where (str): The config key of the part, for messages; an empty string for the whole config.
        target (Callable): The class or function.
        given (Mapping[str, Any]): Its arguments in the config.
        provided (Collection[str]): Arguments that do not come from the config. Defaults to none.
        untyped (Collection[str]): Arguments whose type is not checked, only their name. Defaults to none.

    Raises:
        DistillError: For the first argument that is unknown, of the wrong type, or missing.
    """
    parameters, takes_others = _parameters(target)
    prefix = f'{where}.' if where else ''
    known = [name for name in parameters if name not in provided]
    name_of = getattr(target, '__name__', str(target))
    for key, value in given.items():
        if key not in parameters:
            if takes_others and not difflib.get_close_matches(key, known, 1, _TYPO):
                continue
            raise DistillError(f'{prefix}{key} is unknown to {name_of}{did_you_mean(key, known)}')
        expected = _mismatch(value, parameters[key][1])
        if expected and key not in untyped:
            raise DistillError(f'{prefix}{key} must be {expected}, but found {value!r}')
    required = {key for key in known if parameters[key][0].default is inspect.Parameter.empty} - given.keys()
    if required:
        raise DistillError(f'{where} of type {name_of} lacks {", ".join(sorted(required))}')


def similar_type(kind: str, registry: Registry) -> str:
    """What to add to a message about a type that a registry and its children do not have.

    Args:
        kind (str): What was found.
        registry (Registry): Where it was looked up.

    Returns:
        str: ``'; did you mean scope.X?'``, or an empty string.
    """
    own = {name: name for name in registry.module_dict}
    for scope, child in registry.children.items():
        own |= {name: f'{scope}.{name}' for name in child.module_dict}
    close = difflib.get_close_matches(kind.rpartition('.')[2], own, 1)
    return f'; did you mean {own[close[0]]}?' if close else ''


def likely_typo(part: Any, where: str, error: Exception, registry: Registry, others: Collection[str] = ()) -> str:
    """What a dict that could not be built probably meant, if its error names an unknown key or type in it.

    Args:
        part (Any): The dict, with others inside it.
        where (str): Its key in the config, with a dot behind it; an empty string for the whole dict.
        error (Exception): Why it could not be built.
        registry (Registry): Where its types are looked up.
        others (Collection[str]): Keys that the dict may have beside the arguments of its type. Defaults to none.

    Returns:
        str: ``'; backbone.depht is unknown; did you mean depth?'``, or an empty string.
    """
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if not isinstance(part, Mapping):
        return ''
    kind = part.get('type')
    with registry.switch_scope_and_registry(part.get('_scope_')) as current:
        target = current.get(kind) if isinstance(kind, str) else None
    if isinstance(kind, str) and target is None and f'{kind} is not in' in str(error):
        return f'; {where}type={kind!r} is unknown{similar_type(kind, registry)}'
    if target is not None:
        known = {*others} | {name for init in _initialisers(target) for name in inspect.signature(init).parameters}
        for key in part:
            close = difflib.get_close_matches(str(key), known - {'self'}, 1)
            if key not in known and close and f"unexpected keyword argument '{key}'" in str(error):
                return f'; {where}{key} is unknown; did you mean {close[0]}?'
    return next(filter(None, (likely_typo(v, f'{where}{k}.', error, registry) for k, v in part.items())), '')


def _parameters(target: Callable) -> tuple[dict[str, tuple[inspect.Parameter, Any]], bool]:
    """Named parameters with their type hints, and whether others are taken, too."""
    found: dict[str, tuple[inspect.Parameter, Any]] = {}
    for init in _initialisers(target):
        try:
            parameters = [*inspect.signature(init).parameters.values()]
        except ValueError:  # it is not written in Python
            return found, True
        hints = _hints(init)
        for parameter in parameters[inspect.isclass(target) :]:
            if parameter.kind in _NAMED:
                found.setdefault(parameter.name, (parameter, hints.get(parameter.name, Any)))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return found, False
        if not init.__module__.startswith(_HAND_ON):
            return found, True
    return found, not inspect.isclass(target)


def _initialisers(target: Callable) -> list[Callable]:
    if not inspect.isclass(target):
        return [target]
    return [base.__dict__['__init__'] for base in target.__mro__ if '__init__' in base.__dict__ and base is not object]


def _hints(init: Callable) -> dict[str, Any]:
    if not init.__module__.startswith(_WELL_TYPED):
        return {}
    try:
        return typing.get_type_hints(init)
    except Exception:  # a hint may name what cannot be imported
        return {}


def _mismatch(value: Any, hint: Any) -> str:
    """What was expected instead of a value; an empty string if the value suits its hint, or nobody can tell."""
    allowed = [*_plain_types(hint)]
    if any(kind is Any or _suits(value, kind) for kind in allowed):
        return ''
    return ' or '.join(dict.fromkeys(_WORDS[kind] for kind in allowed))


def _suits(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float)
    if kind is list:
        return isinstance(value, list | tuple)
    if kind is dict:
        return isinstance(value, Mapping)
    return isinstance(value, kind)


def _plain_types(hint: Any) -> Iterable[Any]:
    """The plain types that a hint allows: the keys of ``_WORDS``, or Any for all others."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _plain_types(part)
        return
    kind = origin or hint
    if kind in (tuple, list, Sequence):
        kind = list
    elif kind is Mapping:
        kind = dict
    elif kind is Path:
        kind = str
    yield kind if kind in _WORDS else Any

"""The results of rounds, and the JSON file that keeps them."""

import json
from importlib.metadata import packages_distributions, version
from pathlib import Path
from platform import python_version

from mmdfad.utils import DistillError
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.compat import NEEDED_BY_TYPES, OPTIONAL, REQUIRED, is_importable

STATUSES = ('passed', 'refused', 'failed')
OPS = 'compiled_ops'
# In the reason of a result that another config has given.
_SHARED = ' (run of '


class Results:
    """Results by config and role. Each new one is written to a file.

    Args:
        file (Path): The JSON file. Results that it has are kept.
        recipe (bool): Whether the rounds are those of the recipe of tools/distill.py. Defaults to False.

    Raises:
        DistillError: If the file has results of other versions of the packages, or of other rounds.
    """

    def __init__(self, file: Path, recipe: bool = False) -> None:
        self.file = file
        self.recipe = recipe
        self.by_key: dict[tuple[str, str], dict] = {}
        if file.is_file():
            content = json.loads(file.read_text())
            if content['versions'] != versions():
                raise DistillError(
                    f'{file} has results of other packages: {content["versions"]}. Name another file with --json'
                )
            if content.get('recipe', False) != recipe:
                raise DistillError(
                    f'{file} has results {"without" if recipe else "with"} --recipe. Name another file with --json'
                )
            self.by_key = by_key(content)

    def record(self, members: list[str], result: tuple[str, str, str, str, float]) -> None:
        """Record a result for all configs that share it, and print it.

        Args:
            members (list[str]): Configs of the same model.
            result (tuple[str, str, str, str, float]): Config, role, status, reason and seconds.
        """
        name, role, status, reason, seconds = result
        reason = ' '.join(reason.split())[:500]
        self.by_key[name, role] = dict(config=name, role=role, status=status, reason=reason, seconds=seconds)
        self.share(members, self.by_key[name, role])
        self.write()
        print(f'{status:8}{seconds:7.1f} s  {role:8} {name}: {reason}', flush=True)

    def share(self, members: list[str], result: dict) -> None:
        """Give a result to the other configs of the same model."""
        for member in members:
            if member != result['config']:
                reason = f'{own_reason(result)}{_SHARED}{result["config"]})'
                self.by_key[member, result['role']] = dict(result, config=member, reason=reason, seconds=0)

    def known(self, members: list[str], role: str) -> dict | None:
        """A result of one of these configs that need not be run again, if there is any."""
        found = (self.by_key.get((member, role)) for member in members)
        return next((result for result in found if result and result['status'] != 'failed'), None)

    def write(self) -> None:
        """Write the file."""
        statuses = list(status_of(self.by_key).values())
        content = {status: statuses.count(status) for status in STATUSES}
        content.update(
            versions=versions(), recipe=self.recipe, results=[self.by_key[key] for key in sorted(self.by_key)]
        )
        atomic_write(self.file, json.dumps(content, indent=1).encode())


def by_key(content: dict) -> dict[tuple[str, str], dict]:
    """The results of a file's content by config and role."""
    return {(result['config'], result['role']): result for result in content['results']}


def own_reason(result: dict) -> str:
    """The reason of a result, without the config that gave it."""
    return result['reason'].partition(_SHARED)[0]


def status_of(results: dict[tuple[str, str], dict]) -> dict[str, str]:
    """The status of each config: failed if either role has failed, passed if both roles have passed."""
    by_config: dict[str, set] = {}
    for (name, _), result in results.items():
        by_config.setdefault(name, set()).add(result['status'])
    return {name: next(s for s in ('failed', 'refused', 'passed') if s in found) for name, found in by_config.items()}


def versions() -> dict[str, str]:
    """The versions of the installed packages that a result depends on."""
    distributions = packages_distributions()
    modules = {'torch', 'torchvision', *REQUIRED, *OPTIONAL, *(module for module, _, _ in NEEDED_BY_TYPES)}
    found = {name: version(name) for module in sorted(modules) for name in distributions.get(module, ())[:1]}
    return dict(found, python=python_version(), **{OPS: 'yes' if is_importable('mmcv._ext') else 'no'})

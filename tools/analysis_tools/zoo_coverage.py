"""Play a round with every classifier of mmpretrain and every segmentor of mmseg, as teacher and as student.

Models are built from their own configs at full width and depth, with random weights: nothing is downloaded. What has
passed or was refused is not run again if the JSON file has it; what failed is.
"""

import argparse
import copy
import json
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmdfad.apis.zoo import ROLES, Refused, fewer_layers, play_round, run_isolated
from mmdfad.models.players import plain_config
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.compat import NEEDED_BY_TYPES, OPTIONAL, REQUIRED, is_importable

STATUSES = ('passed', 'refused', 'failed')
# Settings without a part in distillation: two configs that differ in nothing else share a run.
IRRELEVANT = {
    *('train_cfg', 'test_cfg', 'init_cfg', 'pretrained', 'num_classes', 'topk', 'cal_acc', 'size', 'size_divisor'),
    *('loss', 'loss_decode', 'sampler', 'batch_augments', 'pad_val', 'seg_pad_val', 'ignore_index'),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--configs', nargs='+', help="only these: paths, or as in 'mmseg::unet/...'")
    parser.add_argument('--family', nargs='+', help='only these folders of configs, as in resnet or mmseg::swin')
    parser.add_argument('--sample', type=int, help='only as many, drawn by --seed')
    parser.add_argument('--seed', type=int, default=0, help='seed of --sample')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time')
    parser.add_argument('--seconds', type=float, default=600, help='time limit of a round')
    parser.add_argument('--memory', type=float, default=12, help='memory limit of a round, in GiB')
    parser.add_argument('--json', type=Path, default=Path('work_dirs/zoo_coverage.json'), help='results, old and new')
    parser.add_argument('--table', type=Path, help='markdown to write, as docs/zoo_coverage.md')
    return parser.parse_args()


def list_configs(args: argparse.Namespace) -> Iterator[str]:
    """The configs asked for, of those packages that are installed."""
    if args.configs:
        yield from args.configs
        return
    for package in OPTIONAL:
        if find_spec(package) is None:
            continue
        folder = Path(find_spec(package).origin).parent / '.mim/configs'
        for path in sorted(folder.glob('[!_]*/**/*.py')):
            name = f'{package}::{path.relative_to(folder)}'
            if not args.family or {family_of(name), family_of(name).partition('::')[2]} & set(args.family):
                yield name


def family_of(name: str) -> str:
    package, colons, path = name.partition('::')
    return f'{package}::{path.split("/")[0]}' if colons else Path(name).parent.name


def choose(args: argparse.Namespace) -> dict[str, list[str]]:
    """Configs by the one that is run for them; mmpretrain's that are no classifiers only where they are named."""
    names = list(list_configs(args))
    if args.sample:
        random.Random(args.seed).shuffle(names)
    groups: dict[str, list[str]] = {}
    count = 0
    for name in names:
        try:
            plain = plain_config(dict(cfg_path=name), 'teacher')
            key = fingerprint(plain)
        except DistillError as error:
            key, plain = str(error), None  # and let the run report it
        if not args.configs and not (plain is None or is_candidate(plain)):
            continue
        groups.setdefault(key, []).append(name)
        count += 1
        if count == args.sample:
            break
    return {members[0]: members for members in groups.values()}


def is_candidate(plain: Config) -> bool:
    """Whether a model is a segmentor or an image classifier, rather than one of mmpretrain's for other tasks."""
    return plain.default_scope != 'mmpretrain' or str(plain.model.type).endswith('Classifier')


def fingerprint(plain: Config) -> str:
    """A text that is the same for models that differ in nothing that matters here."""

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in sorted(value.items()) if k not in IRRELEVANT}
        return [strip(v) for v in value] if isinstance(value, list | tuple) else repr(value)

    return f'{plain.default_scope} {strip(copy.deepcopy(plain.model.to_dict()))}'


def sweep(groups: dict[str, list[str]], args: argparse.Namespace, results: dict[tuple, dict]) -> None:
    """Run what is not known, and write down each result as it comes."""
    wanted: list[tuple[str, str]] = []
    for name, members in groups.items():
        for role in ROLES:
            found = (results[m, role] for m in members if (m, role) in results)
            known = next((result for result in found if result['status'] != 'failed'), None)
            if known is None:
                wanted.append((name, role))
            else:
                share(results, members, known)
    reduced: list[tuple] = []
    limits = dict(workers=args.jobs, seconds=args.seconds, memory=args.memory)
    for (name, role), status, reason, seconds in run_isolated(wanted, play_round, **limits):
        if status == 'memory':
            reduced.append((name, role, reason))
        else:
            record(results, groups[name], (name, role, status, reason, seconds), args.json)
    for name, role, excess in reduced:
        try:
            options = fewer_layers(name)
        except Refused as error:
            record(results, groups[name], (name, role, 'failed', f'{excess}, and {error}', 0), args.json)
            continue
        for _, status, reason, seconds in run_isolated([(name, role, options)], play_round, **limits):
            status = 'failed' if status == 'memory' else status
            reason = f'full size {excess}; reduced to {options}: {reason}'
            record(results, groups[name], (name, role, status, reason, seconds), args.json)
    write_json(results, args.json)


def record(results: dict[tuple, dict], members: list[str], result: tuple, file: Path) -> None:
    """Take down a result for all configs that share it."""
    name, role, status, reason, seconds = result
    reason = ' '.join(reason.split())[:500]
    results[name, role] = dict(config=name, role=role, status=status, reason=reason, seconds=seconds)
    share(results, members, results[name, role])
    write_json(results, file)
    print(f'{status:8}{seconds:7.1f} s  {role:8} {name}: {reason}', flush=True)


def share(results: dict[tuple, dict], members: list[str], result: dict) -> None:
    """Let the other configs of the same model have a result."""
    for member in members:
        if member != result['config']:
            reason = f'{result["reason"].partition(" (run of ")[0]} (run of {result["config"]})'
            results[member, result['role']] = dict(result, config=member, reason=reason, seconds=0)


def status_of(results: dict[tuple, dict]) -> dict[str, str]:
    """The status of each config: failed if either role has failed, passed if both have passed."""
    by_config: dict[str, set] = {}
    for (name, _), result in results.items():
        by_config.setdefault(name, set()).add(result['status'])
    return {name: next(s for s in ('failed', 'refused', 'passed') if s in found) for name, found in by_config.items()}


def write_json(results: dict[tuple, dict], file: Path) -> None:
    statuses = list(status_of(results).values())
    content = {status: statuses.count(status) for status in STATUSES}
    content.update(versions=versions(), results=[results[key] for key in sorted(results)])
    atomic_write(file, json.dumps(content, indent=1).encode())


def read_json(file: Path) -> dict[tuple, dict]:
    """The results of earlier runs with the same packages."""
    if not file.is_file():
        return {}
    content = json.loads(file.read_text())
    if content['versions'] != versions():
        raise DistillError(f'{file} has results of other packages: {content["versions"]}. Name another with --json')
    return {(result['config'], result['role']): result for result in content['results']}


def versions() -> dict[str, str]:
    """The versions of all that a result depends on, as far as it is installed."""
    distributions = packages_distributions()
    modules = {'torch', 'torchvision', *REQUIRED, *OPTIONAL, *(module for module, _, _ in NEEDED_BY_TYPES)}
    found = {name: version(name) for module in sorted(modules) for name in distributions.get(module, ())[:1]}
    return dict(found, python=python_version(), compiled_ops='yes' if is_importable('mmcv._ext') else 'no')


def table(results: dict[tuple, dict]) -> str:
    """The results in markdown: a table by family, and a list of all that did not simply pass."""
    statuses = status_of(results)
    families: dict[str, list[str]] = {}
    for name, status in statuses.items():
        families.setdefault(family_of(name), []).append(status)
    lines = [
        '# The zoo',
        '',
        'Written by `tools/analysis_tools/zoo_coverage.py`: a full round with each model as teacher of a small student',
        'and as student of a small teacher, at full width and depth and the smallest image size that it takes. With',
        ', '.join(f'{package} {number}' for package, number in versions().items()) + '.',
        '',
        '| family | configs | passed | refused | failed |',
        '|---|---:|---:|---:|---:|',
    ]
    for family, found in [*sorted(families.items()), ('all', list(statuses.values()))]:
        lines.append(f'| {family} | {len(found)} | {" | ".join(str(found.count(s)) for s in STATUSES)} |')
    for title, wanted in (
        ('Refused', lambda r: r['status'] == 'refused'),
        ('Failed', lambda r: r['status'] == 'failed'),
        ('Passed with fewer layers, for their memory', lambda r: r['status'] == 'passed' and 'reduced' in r['reason']),
    ):
        rows = [f'- `{r["config"]}` as {r["role"]}: {r["reason"]}' for r in results.values() if wanted(r)]
        lines += ['', f'## {title}', '', *(sorted(rows) or ['None.'])]
    return '\n'.join(lines) + '\n'


def main() -> None:
    args = parse_args()
    with readable_errors():
        results = read_json(args.json)
        MMLogger.get_instance('zoo', log_level='ERROR')
        groups = choose(args)
        for package in ('mmpretrain.models', 'mmseg.models'):  # for all that are forked from here
            import_module(package)
        print(f'{sum(map(len, groups.values()))} configs, {len(groups)} different models', flush=True)
        sweep(groups, args, results)
        # What was asked for now, beside what the file has of earlier runs.
        if args.table:
            atomic_write(args.table, table(results).encode())
        chosen = {name for members in groups.values() for name in members}
        statuses = [status for name, status in status_of(results).items() if name in chosen]
    print(', '.join(f'{statuses.count(status)} {status}' for status in STATUSES))
    sys.exit(1 if 'failed' in statuses else 0)


if __name__ == '__main__':
    main()

"""Play a round with every classifier of mmpretrain and every segmentor of mmseg, as teacher and as student.

Models are built from their own configs at full width and depth, with random weights: nothing is downloaded. What has
passed or was refused is not run again if the JSON file has it; what failed is.
"""

import argparse
import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
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
    *('test_cfg', 'init_cfg', 'pretrained', 'num_classes', 'topk', 'cal_acc', 'size', 'size_divisor'),
    *('loss', 'loss_decode', 'sampler', 'batch_augments', 'pad_val', 'seg_pad_val', 'ignore_index', 'dataset_name'),
}
REDUCED = 'reduced to'
OPS = 'compiled_ops'
# Part of an error: the bug of another package that it comes from, and where that is.
FOREIGN_BUGS = {
    'LeViTClsHead.switch_to_deploy() takes 1': 'a bug of mmpretrain 1.3.6: mmpretrain/models/heads/levit_head.py:62 '
    'passes `self` twice, so that no LeViT head can be built with `deploy=True`',
    'is not in the mmpretrain::batch augment registry': 'a bug of mmpretrain 1.3.6: '
    'configs/_base_/models/resnet50_cutmix.py:18 names BatchCutMix, which is called CutMix since 1.0',
    "KeyError: 'test_pipeline'": 'a bug of mmpretrain 1.3.6: '
    'configs/swin_transformer_v2/swinv2-{base,large}-w12_8xb128_in21k-192px.py:18 change a `test_pipeline` that their '
    'bases lack',
    'file type in the inheritance chain': 'a bug of mmpretrain 1.3.6: configs/_base_/models/replknet-31B_in1k.py:1 '
    'imports from mmpretrain, which makes it a config of another kind than those it is a base of; mmengine refuses the '
    'mixture',
    '`mean` should have 1 or 3 values': 'a bug of mmseg 1.4.2: '
    'configs/swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py:10 has six means, and '
    'mmseg/models/data_preprocessor.py:63 hands them to a preprocessor of mmengine that takes one or three, so that '
    'mmseg cannot build it either',
    '`bgr_to_rgb` should be a boolean': 'a bug of mmseg 1.4.2: '
    'configs/unet/unet-s5-d16_fcn_4xb4-160k_hsidrive-192x384.py:11 sets `bgr_to_rgb=None`, which mmengine refuses, so '
    'that mmseg cannot build it either',
}
INTRODUCTION = """# The zoo

Written by `tools/analysis_tools/zoo_coverage.py`. Each image classifier of mmpretrain and each segmentor of mmseg plays
a full round, an imitation step and a generation step with their optimizers, as teacher of a small student and as
student of a small teacher. It is built from its own config at full width and depth, with random weights, and plays at
the smallest image size that it takes. A round passes if losses are finite, student and generator get gradients, the
teacher stays as it is, and the exported student loads strictly and gives the same logits. A config passes if both
rounds do; those that differ only in data, losses or schedule share a run. To repeat it, with 24 GiB of memory:

```bash
python tools/analysis_tools/zoo_coverage.py --jobs 2 --memory 11 --json work_dirs/plain.json
make setup-ops  # compiled ops of mmcv, mmdet, timm, transformers
python tools/analysis_tools/zoo_coverage.py --jobs 2 --memory 11 --json work_dirs/ops.json
python tools/analysis_tools/zoo_coverage.py --report work_dirs/plain.json work_dirs/ops.json \\
    --table docs/zoo_coverage.md
```

A round may take a quarter of an hour and 11 GiB. SAN encodes 14 sentences about each class in it. Families that
a run has not come to are missing below, or their cells are empty.

## By family"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--configs', nargs='+', help="only these: paths, or as in 'mmseg::unet/...'")
    parser.add_argument('--family', nargs='+', help='only these folders of configs, as in resnet or mmseg::swin')
    parser.add_argument('--sample', type=int, help='only as many, drawn by --seed')
    parser.add_argument('--seed', type=int, default=0, help='seed of --sample')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time')
    parser.add_argument('--seconds', type=float, default=1800, help='time limit of a round')
    parser.add_argument('--memory', type=float, default=12, help='memory limit of a round, in GiB')
    parser.add_argument('--json', type=Path, default=Path('work_dirs/zoo_coverage.json'), help='results, old and new')
    parser.add_argument('--table', type=Path, help='markdown to write, as docs/zoo_coverage.md')
    parser.add_argument(
        '--report', type=Path, nargs='+', metavar='JSON', help='run nothing, and write --table of these results'
    )
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
        for path in sorted(folder.glob('[!_]*/**/[!_]*.py')):
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
            reason = f'full size {excess}; {REDUCED} {options}: {reason}'
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
    return by_key(content)


def by_key(content: dict) -> dict[tuple, dict]:
    return {(result['config'], result['role']): result for result in content['results']}


def versions() -> dict[str, str]:
    """The versions of all that a result depends on, as far as it is installed."""
    distributions = packages_distributions()
    modules = {'torch', 'torchvision', *REQUIRED, *OPTIONAL, *(module for module, _, _ in NEEDED_BY_TYPES)}
    found = {name: version(name) for module in sorted(modules) for name in distributions.get(module, ())[:1]}
    return dict(found, python=python_version(), **{OPS: 'yes' if is_importable('mmcv._ext') else 'no'})


def report(runs: list[dict]) -> str:
    """The results of one or several environments in markdown: a table by family, and all that did not simply pass."""
    lines = [INTRODUCTION, '', *families_table(runs)]
    for run in runs:
        hours = sum(result['seconds'] for result in run['results']) / 3600
        versions_line = ', '.join(f'{name} {number}' for name, number in run['versions'].items() if name != OPS)
        lines += ['', f'## {title_of(run)}', '', f'{versions_line}. {hours:.1f} hours of rounds, one after the other.']
        for heading, wanted in (
            ('Refused', lambda r: r['status'] == 'refused'),
            ('Failed', lambda r: r['status'] == 'failed'),
            ('Passed with fewer layers', lambda r: r['status'] == 'passed' and REDUCED in r['reason']),
        ):
            lines += ['', f'### {heading}', '', *(by_reason(filter(wanted, run['results'])) or ['None.'])]
    return '\n'.join(lines) + '\n'


def title_of(run: dict) -> str:
    return 'With compiled ops' if run['versions'][OPS] == 'yes' else 'Without compiled ops'


def families_table(runs: list[dict]) -> list[str]:
    """How many configs of each family came out how, a column for each status of each run."""
    rows: dict[str, list[list[str]]] = {}
    for number, run in enumerate(runs):
        for name, status in status_of(by_key(run)).items():
            for row in (family_of(name), 'all'):
                rows.setdefault(row, [[] for _ in runs])[number].append(status)
    columns = [f'{title_of(run)}: {STATUSES[0]} | {" | ".join(STATUSES[1:])}' for run in runs]
    lines = [f'| family | {" | ".join(columns)} |', f'|---|{"---:|" * len(STATUSES) * len(runs)}']
    for family in [*sorted(rows.keys() - {'all'}), 'all']:
        counts = [str(found.count(status)) if found else '' for found in rows[family] for status in STATUSES]
        lines.append(f'| {family} | {" | ".join(counts)} |')
    return lines


def by_reason(results: Iterable[dict]) -> list[str]:
    """A line for each reason, with the configs that it holds for, by family."""
    configs: dict[str, set[str]] = {}
    for result in results:
        reason = result['reason'].partition(' (run of ')[0].replace(f' {result["config"]}', '')
        reason = next((bug for text, bug in FOREIGN_BUGS.items() if text in reason), reason)
        configs.setdefault(reason.removeprefix('model.teacher: '), set()).add(result['config'])
    lines = []
    for reason, names in sorted(configs.items()):
        families = Counter(map(family_of, names))
        where = ', '.join(f'{family} ({count})' for family, count in sorted(families.items()))
        lines.append(f'- {where if len(names) > 1 else f"`{min(names)}`"}: {reason}')
    return lines


def main() -> None:
    args = parse_args()
    with readable_errors():
        if args.report:
            atomic_write(args.table, report([json.loads(file.read_text()) for file in args.report]).encode())
            return
        results = read_json(args.json)
        MMLogger.get_instance('zoo', log_level='ERROR')
        groups = choose(args)
        for package in ('mmpretrain.models', 'mmseg.models'):  # for all that are forked from here
            import_module(package)
        print(f'{sum(map(len, groups.values()))} configs, {len(groups)} different models', flush=True)
        sweep(groups, args, results)
        # What was asked for now, beside what the file has of earlier runs.
        if args.table:
            atomic_write(args.table, report([json.loads(args.json.read_text())]).encode())
        chosen = {name for members in groups.values() for name in members}
        statuses = [status for name, status in status_of(results).items() if name in chosen]
    print(', '.join(f'{statuses.count(status)} {status}' for status in STATUSES))
    sys.exit(1 if 'failed' in statuses else 0)


if __name__ == '__main__':
    main()

"""Run a round with every classifier of mmpretrain and every segmentor of mmseg, as teacher and as student.

Models are built from their own configs at full width and depth, with random weights. Nothing is downloaded. The JSON
file keeps the results. A later run with the same file repeats only the rounds that failed.

    python tools/analysis_tools/zoo_coverage.py --sample 60 --seed 0 --json work_dirs/zoo.json
"""

import argparse
import copy
import json
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger
from zoo.models import Refused, fewer_layers
from zoo.processes import run_isolated
from zoo.recipe import run_recipe
from zoo.report import REDUCED, family_of, report
from zoo.results import STATUSES, Results, status_of
from zoo.rounds import ROLES, run_round

from mmdfad.models.build import plain_config
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.compat import OPTIONAL

# Settings that do not matter in distillation. Configs that differ only in these share a round.
IRRELEVANT = {
    *('test_cfg', 'init_cfg', 'pretrained', 'num_classes', 'topk', 'cal_acc', 'size', 'size_divisor'),
    *('loss', 'loss_decode', 'sampler', 'batch_augments', 'pad_val', 'seg_pad_val', 'ignore_index', 'dataset_name'),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--configs', nargs='+', help="run only these: paths, or names such as 'mmseg::unet/...'")
    parser.add_argument('--family', nargs='+', help='run only these folders of configs, such as resnet or mmseg::swin')
    parser.add_argument('--sample', type=int, help='run this many configs, chosen at random')
    parser.add_argument('--seed', type=int, default=0, help='seed of --sample')
    parser.add_argument(
        '--recipe', action='store_true', help='run the recipe of tools/distill.py instead of a round of DFAD'
    )
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time')
    parser.add_argument('--seconds', type=float, default=1800, help='time limit of a round')
    parser.add_argument('--memory', type=float, default=12, help='memory limit of a round, in GiB')
    parser.add_argument('--json', type=Path, default=Path('work_dirs/zoo_coverage.json'), help='file of the results')
    parser.add_argument('--table', type=Path, help='markdown file to write, such as docs/zoo_coverage.md')
    parser.add_argument(
        '--report', type=Path, nargs='+', metavar='JSON', help='run nothing; write --table from these results'
    )
    args = parser.parse_args()
    if args.jobs < 1 or (args.sample is not None and args.sample < 1):
        parser.error('--jobs and --sample must be 1 or more')
    if args.report and not args.table:
        parser.error('--report needs --table')
    return args


def list_configs(args: argparse.Namespace) -> Iterator[str]:
    """The configs that the arguments name, from the packages that are installed."""
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


def choose(args: argparse.Namespace) -> dict[str, list[str]]:
    """Configs to run, each with all configs that share its rounds.

    Models for other tasks than classification and segmentation are left out, unless --configs names them.
    """
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
            key, plain = str(error), None  # the round reports it
        if not args.configs and not (plain is None or is_candidate(plain)):
            continue
        groups.setdefault(key, []).append(name)
        count += 1
        if count == args.sample:
            break
    return {members[0]: members for members in groups.values()}


def is_candidate(plain: Config) -> bool:
    """Whether a model is a segmentor or an image classifier."""
    return plain.default_scope != 'mmpretrain' or str(plain.model.type).endswith('Classifier')


def fingerprint(plain: Config) -> str:
    """A text that is the same for models that can share a round."""

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in sorted(value.items()) if k not in IRRELEVANT}
        return [strip(v) for v in value] if isinstance(value, list | tuple) else repr(value)

    return f'{plain.default_scope} {strip(copy.deepcopy(plain.model.to_dict()))}'


def sweep(groups: dict[str, list[str]], args: argparse.Namespace, results: Results) -> None:
    """Run the rounds that have no result yet. Models that take too much memory run again with fewer layers."""
    wanted: list[tuple[str, str]] = []
    for name, members in groups.items():
        for role in ROLES:
            known = results.known(members, role)
            if known is None:
                wanted.append((name, role))
            else:
                results.share(members, known)
    too_large: list[tuple] = []
    limits = dict(workers=args.jobs, seconds=args.seconds, memory=args.memory)
    run = run_recipe if args.recipe else run_round
    for (name, role), status, reason, seconds in run_isolated(wanted, run, **limits):
        if status == 'memory':
            too_large.append((name, role, reason))
        else:
            results.record(groups[name], (name, role, status, reason, seconds))
    for name, role, excess in too_large:
        try:
            options = fewer_layers(name)
        except Refused as error:
            results.record(groups[name], (name, role, 'failed', f'{excess}, and {error}', 0))
            continue
        for _, status, reason, seconds in run_isolated([(name, role, options)], run, **limits):
            status = 'failed' if status == 'memory' else status
            reason = f'full size {excess}; {REDUCED} {options}: {reason}'
            results.record(groups[name], (name, role, status, reason, seconds))
    results.write()


def main() -> None:
    args = parse_args()
    with readable_errors():
        if args.report:
            atomic_write(args.table, report([json.loads(file.read_text()) for file in args.report]).encode())
            return
        results = Results(args.json, args.recipe)
        MMLogger.get_instance('zoo', log_level='ERROR')
        groups = choose(args)
        if not groups:
            raise DistillError('no config fits --configs and --family')
        for package in ('mmpretrain.models', 'mmseg.models'):  # once, before the processes are forked
            import_module(package)
        print(f'{sum(map(len, groups.values()))} configs, {len(groups)} different models', flush=True)
        sweep(groups, args, results)
        if args.table:  # with the results that the file had before
            atomic_write(args.table, report([json.loads(args.json.read_text())]).encode())
        chosen = {name for members in groups.values() for name in members}
        statuses = [status for name, status in status_of(results.by_key).items() if name in chosen]
    print(', '.join(f'{statuses.count(status)} {status}' for status in STATUSES))
    sys.exit(1 if 'failed' in statuses else 0)


if __name__ == '__main__':
    main()

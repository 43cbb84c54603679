"""The results of rounds as a page in markdown."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmdfad.utils import DistillError

from .results import OPS, STATUSES, by_key, own_reason, status_of

REDUCED = 'reduced to'
# Part of an error message, and the bug of another package that causes it.
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

`tools/analysis_tools/zoo_coverage.py` writes this page. It runs two rounds with each image classifier of mmpretrain and
each segmentor of mmseg. In one round the model is the teacher of a small student. In the other it is the student of a
small teacher. A round is one imitation step and one generation step, with optimizers and acceleration as in a run.

Each model is built from its own config at full width and depth, with random weights. The images have the smallest size
that the model takes.

A round passes if

- the losses are finite;
- student and generator get gradients;
- the teacher does not change;
- the exported student loads strictly and gives the same logits.

A config passes if both of its rounds pass. Configs that differ only in data, losses or schedule share their rounds.

To repeat it on a machine with 24 GiB of memory:

```bash
python tools/analysis_tools/zoo_coverage.py --jobs 2 --memory 11 --json work_dirs/plain.json
make setup-ops  # installs the compiled ops of mmcv, mmdet, timm and transformers
python tools/analysis_tools/zoo_coverage.py --jobs 2 --memory 11 --json work_dirs/ops.json
python tools/analysis_tools/zoo_coverage.py --report work_dirs/plain.json work_dirs/ops.json \\
    --table docs/zoo_coverage.md
```

A round may take 30 minutes and 11 GiB of memory. SAN encodes 14 sentences about each class in its rounds. A family
without results has empty cells, or is missing.

## By family"""


def report(runs: list[dict]) -> str:
    """The results of one or more environments: a table by family, and every result that is not a plain pass.

    Args:
        runs (list[dict]): The contents of their JSON files.
    """
    if any(run.get('recipe') for run in runs):
        raise DistillError('the page is about rounds of DFAD, but these results are from --recipe')
    lines = [INTRODUCTION, '', *_families_table(runs)]
    for run in runs:
        hours = sum(result['seconds'] for result in run['results']) / 3600
        versions = ', '.join(f'{name} {number}' for name, number in run['versions'].items() if name != OPS)
        lines += ['', f'## {_title(run)}', '', f'{versions}. {hours:.1f} hours of rounds, one after the other.']
        for heading, wanted in (
            ('Refused', lambda r: r['status'] == 'refused'),
            ('Failed', lambda r: r['status'] == 'failed'),
            ('Passed with fewer layers', lambda r: r['status'] == 'passed' and REDUCED in r['reason']),
        ):
            lines += ['', f'### {heading}', '', *(_by_reason(filter(wanted, run['results'])) or ['None.'])]
    return '\n'.join(lines) + '\n'


def family_of(name: str) -> str:
    """The package and folder of a config, or the folder of a file."""
    package, colons, path = name.partition('::')
    return f'{package}::{path.split("/")[0]}' if colons else Path(name).parent.name


def _title(run: dict) -> str:
    return 'With compiled ops' if run['versions'][OPS] == 'yes' else 'Without compiled ops'


def _families_table(runs: list[dict]) -> list[str]:
    """Counts of configs: a row for each family, and a column for each status in each run."""
    rows: dict[str, list[list[str]]] = {}
    for number, run in enumerate(runs):
        for name, status in status_of(by_key(run)).items():
            for row in (family_of(name), 'all'):
                rows.setdefault(row, [[] for _ in runs])[number].append(status)
    columns = [f'{_title(run)}: {STATUSES[0]} | {" | ".join(STATUSES[1:])}' for run in runs]
    lines = [f'| family | {" | ".join(columns)} |', f'|---|{"---:|" * len(STATUSES) * len(runs)}']
    for family in [*sorted(rows.keys() - {'all'}), 'all']:
        counts = [str(found.count(status)) if found else '' for found in rows[family] for status in STATUSES]
        lines.append(f'| {family} | {" | ".join(counts)} |')
    return lines


def _by_reason(results: Iterable[dict]) -> list[str]:
    """A line for each reason, with the configs that have it, by family."""
    configs: dict[str, set[str]] = {}
    for result in results:
        reason = own_reason(result).replace(f' {result["config"]}', '')
        reason = next((bug for text, bug in FOREIGN_BUGS.items() if text in reason), reason)
        configs.setdefault(reason.removeprefix('model: '), set()).add(result['config'])
    lines = []
    for reason, names in sorted(configs.items()):
        families = Counter(map(family_of, names))
        where = ', '.join(f'{family} ({count})' for family, count in sorted(families.items()))
        lines.append(f'- {where if len(names) > 1 else f"`{min(names)}`"}: {reason}')
    return lines

"""Calibrate the agreement that mmdfad predicts without data.

Trains teachers and students on small data sets, measures how often they agree on real test images and on probe images,
and fits the prediction that ``mmdfad.evaluation`` ships.

    python tools/analysis_tools/calibrate.py runs
    python tools/analysis_tools/calibrate.py measure
    python tools/analysis_tools/calibrate.py fit
"""

import argparse
import json
from pathlib import Path

from calibration.fit import fit
from calibration.measure import measure
from calibration.pairs import PAIRS
from calibration.runs import run_pairs

from mmdfad.utils import readable_errors
from mmdfad.utils.atomic import atomic_write


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('step', choices=['runs', 'measure', 'fit'])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/calibration'), help='folder of the runs')
    parser.add_argument('--part', type=int, default=0, help='run only this part of the pairs, from 0')
    parser.add_argument('--parts', type=int, default=1, help='number of parts')
    parser.add_argument('--runs', nargs='+', type=Path, help='configs of the runs to measure; default: all pairs')
    parser.add_argument('--json', type=Path, default=Path('docs/calibration.json'), help='file of the measurements')
    args = parser.parse_args()
    if not 0 <= args.part < args.parts:
        parser.error(f'--part must be from 0 to --parts - 1, but found {args.part} of {args.parts}')
    if args.runs and args.step != 'measure':
        parser.error('--runs belongs to the step measure')
    return args


def main() -> None:
    args = parse_args()
    with readable_errors():
        if args.step == 'runs':
            run_pairs(args.work_dir, args.part, args.parts)
        if args.step == 'measure':
            configs = args.runs or [args.work_dir / f'{pair.name}.py' for pair in PAIRS]
            rows = [row for config in configs for row in measure(config)]
            known = json.loads(args.json.read_text()) if args.json.is_file() else []
            measured = {row['run'] for row in rows}
            rows = [row for row in known if row['run'] not in measured] + rows
            atomic_write(args.json, f'{json.dumps(rows, indent=1)}\n'.encode())
        if args.step == 'fit':
            fit(json.loads(args.json.read_text()))


if __name__ == '__main__':
    main()

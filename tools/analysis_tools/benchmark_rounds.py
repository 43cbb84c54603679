"""Time rounds of mmdfad, from random weights.

Four ways to run the same rounds take turns in one process:

    naive    the paper's loop in fp32: a teacher with gradients, a generator that upsamples before it convolves, a
             graph through the generator in each step, and torch's default layout
    fp32     mmdfad in fp32
    default  mmdfad with amp_dtype='auto' (lenet: fp32, like its config)
    bare     the passes and optimizer steps of `default`, without the loops of mmdfad and mmengine around them

Times are medians of the repeats. The order of the ways is random. Peak memory is measured in separate processes.

With --against, the default rounds of this checkout and of another one take turns instead:

    python tools/analysis_tools/benchmark_rounds.py --pair lenet --repeats 50 --against ../other_checkout
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from benchmark.against import compare
from benchmark.runs import PAIRS, make_config, make_runner, mmdfad_round
from benchmark.stopwatch import Stopwatch
from benchmark.timing import attainable_flops, flops_of, peak_memory, time_scaling, time_ways
from benchmark.ways import computes_in_bfloat16, make_ways

from mmdfad.engine.optim import fastest_dtype
from mmdfad.utils import readable_errors
from mmdfad.utils.atomic import atomic_write

# --against of another checkout uses these three functions of this module.
__all__ = ['make_config', 'make_runner', 'mmdfad_round']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pair', required=True, choices=sorted(PAIRS), help='teacher and student')
    parser.add_argument('--repeats', type=int, default=7, help='rounds of each way to time')
    parser.add_argument('--batch-size', type=int, help="images in a step; default: the pair's, chosen for CPUs")
    parser.add_argument('--scaling', action='store_true', help='also time other batches, image areas and step counts')
    parser.add_argument('--against', type=Path, metavar='CHECKOUT', help='compare with another checkout of mmdfad')
    parser.add_argument('--json', type=Path, help='file for the results')
    parser.add_argument('--seed', type=int, default=0, help='seed of the weights, the noise and the order of the ways')
    args = parser.parse_args()
    if args.batch_size is not None and args.batch_size < 1:
        parser.error(f'--batch-size must be a positive number, but found {args.batch_size}')
    if args.repeats < 1:
        parser.error(f'--repeats must be a positive number, but found {args.repeats}')
    if args.against and (args.batch_size is not None or args.scaling):
        parser.error('--against times the default batch of the pair; leave out --batch-size and --scaling')
    return args


def machine() -> dict[str, object]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return dict(
        device=device, threads=torch.get_num_threads(), torch=torch.__version__, python=platform.python_version()
    )


def measure(args: argparse.Namespace) -> dict[str, object]:
    """All measurements of one checkout."""
    changes = {'train_dataloader.batch_size': args.batch_size} if args.batch_size else {}
    ways, runner = make_ways(args.pair, args.seed, **changes)
    seconds = time_ways(ways, args.repeats, args.seed)
    device = runner.model.device
    dtype = torch.bfloat16 if computes_in_bfloat16(runner) else torch.float32
    flops = flops_of(ways['default'])
    memory = {way: peak_memory(args.pair, way, args.seed, **changes) for way in ('naive', 'default')}
    result = dict(
        dtype=str(dtype).removeprefix('torch.'),
        fastest_dtype=fastest_dtype(device),
        ratio_fp32=seconds['naive'] / seconds['fp32'],
        ratio_default=seconds['naive'] / seconds['default'],
        overhead=seconds['default'] / seconds['bare'] - 1,
        memory_ratio=memory['default'] / memory['naive'],
        seconds=seconds,
        split=Stopwatch(runner).measure(args.repeats),
        flops_per_round=flops,
        achieved_gflops=flops / seconds['default'] / 1e9,
        attainable_gflops=attainable_flops(dtype, device) / 1e9,
        peak_memory_bytes=memory,
    )
    if args.scaling:
        result['scaling'] = time_scaling(args.pair, args.seed, args.repeats, **changes)
    return result


def main() -> None:
    args = parse_args()
    with readable_errors():
        if args.against:
            result = dict(against=str(args.against), **compare(args.pair, args.against, args.repeats, args.seed))
        else:
            result = measure(args)
        text = json.dumps(dict(pair=args.pair, machine=machine(), **result), indent=1)
        print(text)
        if args.json:
            atomic_write(args.json, text.encode())


if __name__ == '__main__':
    sys.exit(main())

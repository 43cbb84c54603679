"""Runs the default rounds of a pair with the code of one checkout.

``benchmark/against.py`` starts it as a script, with a checkout, a pair and a seed. It runs a round for each line of its
input, and answers with the wall seconds and the CPU seconds of the round. Nothing is imported from the checkout of this
file, because the other checkout may be older or newer.
"""

import os
import sys
import time
from pathlib import Path


def main() -> None:
    checkout, pair, seed = sys.argv[1:]
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    sys.path[0:1] = [checkout, str(Path(checkout, 'tools/analysis_tools'))]
    import mmdfad

    if not Path(mmdfad.__file__).is_relative_to(checkout):
        raise SystemExit(f'expected mmdfad in {checkout}, but found {mmdfad.__file__}')
    import torch
    from benchmark_rounds import make_config, make_runner, mmdfad_round

    run_round = mmdfad_round(make_runner(make_config(pair), int(seed)))
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        run_round()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(time.perf_counter() - start, time.process_time() - cpu_start, file=answers, flush=True)


if __name__ == '__main__':
    main()

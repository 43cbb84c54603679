"""Draw the learning rates of student and generator over the rounds of a config.

The stock tools of this name train a model of their own with one optimizer, so they cannot run a distillation.
"""

import argparse

import matplotlib.pyplot as plt
import torch
from mmengine.config import Config

from mmdfad.apis import CfgOptions, check_settings, is_distillation, merge_options
from mmdfad.engine.optim import LEARNERS
from mmdfad.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.config import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of a distillation')
    parser.add_argument('-s', '--save-path', help='file for the picture')
    parser.add_argument('--not-show', action='store_true', help='do not open a window')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    return parser.parse_args()


def learning_rates(cfg: Config, learner: str) -> list[float]:
    """The learning rate in each round of a network, ``'student'`` or ``'generator'``."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper[learner].optimizer), default_args=dict(params=[parameter]))
    given = dict(optimizer=optimizer, end=cfg.train_cfg.max_iters)
    schedulers = [PARAM_SCHEDULERS.build(dict(s), default_args=given) for s in scheduler_settings(cfg, learner)]
    rates = []
    for _ in range(cfg.train_cfg.max_iters):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def scheduler_settings(cfg: Config, learner: str) -> list[dict]:
    """The schedulers of a network. One or several without a name are those of both, as in mmengine's Runner."""
    found = cfg.get('param_scheduler') or []
    if isinstance(found, dict) and 'type' not in found:
        found = found[learner]
    return [found] if isinstance(found, dict) else list(found)


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = read_config(args.config)
        merge_options(cfg, args.cfg_options)
        if not is_distillation(cfg):
            raise DistillError(f'{args.config} is not a distillation. For others, see vis_scheduler.py of mmpretrain')
        check_settings(cfg)
        figure, axes = plt.subplots(len(LEARNERS), sharex=True, constrained_layout=True)
        for ax, learner in zip(axes, LEARNERS, strict=True):
            ax.plot(learning_rates(cfg, learner))
            ax.set(ylabel=f'learning rate, {learner}', ylim=(0, None))
        axes[-1].set_xlabel('round')
        if args.save_path:
            figure.savefig(args.save_path)
            print(args.save_path)
        if not args.not_show:
            plt.show()


if __name__ == '__main__':
    main()

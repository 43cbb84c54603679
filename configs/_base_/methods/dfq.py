# DFQ (arXiv 2005.04136): the teacher's batch norm statistics, sure and balanced labels, and an adversary on KL.
_base_ = ['../generators/upsample_32.py', '../schedules/dfq_8k.py']
model = dict(
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='l2'),
        dict(type='mmdfad.OneHotPrior'),
        dict(type='mmdfad.BalancePrior', weight=20.0),
        dict(type='mmdfad.KLDiscrepancy'),
    ],
    imitation=[dict(type='mmdfad.KLDiscrepancy')],
)

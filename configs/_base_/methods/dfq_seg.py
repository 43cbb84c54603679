# DFQ for the segmentation of scenes, whose classes are not equally frequent: without the balance of classes.
_base_ = ['../generators/dcgan_128.py', '../schedules/dfq_8k.py']
model = dict(
    generation=[
        dict(type='mmdfad.BNStatisticsPrior', distance='l2'),
        dict(type='mmdfad.OneHotPrior'),
        dict(type='mmdfad.KLDiscrepancy'),
    ],
    imitation=[dict(type='mmdfad.KLDiscrepancy')],
)

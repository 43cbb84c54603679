# DAFL (arXiv 1904.01186): images that the teacher is sure of, and each class as often. No adversary.
_base_ = ['../generators/upsample_32.py', '../schedules/dafl_240k.py']
model = dict(
    generator=dict(noise_dim=1000),
    generation=[
        dict(type='mmdfad.OneHotPrior', weight=0.05),
        dict(type='mmdfad.ActivationPrior', weight=0.01),
        # 5 / ln(10): the authors weigh the entropy in decimal digits by 5.
        dict(type='mmdfad.BalancePrior', weight=2.171472409516259),
    ],
    imitation=[dict(type='mmdfad.KLDiscrepancy')],
)
train_dataloader = dict(batch_size=1024)
auto_scale_lr = dict(base_batch_size=1024)

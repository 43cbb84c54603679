# ZSKT (arXiv 1905.09768): an adversary on the KL divergence, and attention transfer.
_base_ = ['../generators/upsample_32.py', '../schedules/zskt_80k.py']
# The authors' divergence is the mean over images and classes: a tenth of the mean over images for 10 classes.
model = dict(
    generator=dict(noise_dim=100),
    generation=[dict(type='mmdfad.KLDiscrepancy', weight=0.1)],
    imitation=[
        dict(type='mmdfad.KLDiscrepancy', weight=0.1),
        dict(type='mmdfad.AttentionTransfer', weight=250.0),
    ],
)
train_dataloader = dict(batch_size=128)
auto_scale_lr = dict(base_batch_size=128)

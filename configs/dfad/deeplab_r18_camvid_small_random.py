# Baseline RANDOM: the same student, loop and number of updates, on random noise as images instead of a generator.
_base_ = 'deeplab_r18_camvid_small.py'
model = dict(
    generator=dict(_delete_=True, type='mmdfad.RandomImageGenerator', image_size=(96, 128)), generation_priors=[]
)
train_dataloader = dict(dataset=dict(noise_dim=3 * 96 * 128))
train_cfg = dict(generation_steps=0)

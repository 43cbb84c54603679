# Generator B of the DFAD paper, for 128x128 images, and its noise.
from mmdfad.datasets import NoiseDataset, NoiseSampler
from mmdfad.models import AdversarialDistiller
from mmdfad.models.generators import DCGANGenerator

model = dict(
    type=AdversarialDistiller,
    generator=dict(type=DCGANGenerator, noise_dim=256, image_size=128, channels=3),
)
train_dataloader = dict(batch_size=64, num_workers=0, dataset=dict(type=NoiseDataset), sampler=dict(type=NoiseSampler))
auto_scale_lr = dict(enable=False, base_batch_size=64)

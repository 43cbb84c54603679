"""Registries of the scope ``mmdfad``.

Each is a child of mmengine's, so ``type='mmdfad.X'`` is found from any default scope; the modules that fill it are
imported when it is first used.
"""

from mmengine import registry as root
from mmengine.registry import Registry

_ENGINE = ['mmdfad.engine']
_MODELS = ['mmdfad.models']
_DATASETS = ['mmdfad.datasets']
_EVALUATION = ['mmdfad.evaluation']


def _child(parent: Registry, locations: list[str]) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmdfad', locations=locations)


# Running: loops, hooks, optimizers, log formats.
RUNNERS = _child(root.RUNNERS, _ENGINE)
RUNNER_CONSTRUCTORS = _child(root.RUNNER_CONSTRUCTORS, _ENGINE)
LOOPS = _child(root.LOOPS, _ENGINE)
HOOKS = _child(root.HOOKS, [*_ENGINE, 'mmdfad.reports'])
LOG_PROCESSORS = _child(root.LOG_PROCESSORS, _ENGINE)
OPTIMIZERS = _child(root.OPTIMIZERS, _ENGINE)
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, _ENGINE)
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, _ENGINE)
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, _ENGINE)
VISUALIZERS = _child(root.VISUALIZERS, _ENGINE)
VISBACKENDS = _child(root.VISBACKENDS, _ENGINE)
INFERENCERS = _child(root.INFERENCERS, _ENGINE)

# Networks and losses.
MODELS = _child(root.MODELS, _MODELS)
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS, _MODELS)
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, _MODELS)
TASK_UTILS = _child(root.TASK_UTILS, _MODELS)
FUNCTIONS = _child(root.FUNCTIONS, _MODELS)
# Models as class logits, by the name of a class, see mmdfad.models.logits. mmengine has no such registry.
LOGIT_ADAPTERS = Registry('logit adapter', scope='mmdfad', locations=_MODELS)

# Data and its evaluation.
DATASETS = _child(root.DATASETS, _DATASETS)
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, _DATASETS)
TRANSFORMS = _child(root.TRANSFORMS, _DATASETS)
METRICS = _child(root.METRICS, _EVALUATION)
EVALUATOR = _child(root.EVALUATOR, _EVALUATION)

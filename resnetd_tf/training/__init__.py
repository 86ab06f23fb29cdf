"""Training, from a dataset to an exported and evaluated classifier.

Read `settings` first: it lists the settings of a run. Then read `run`, a whole run from top to bottom, and
`train_loop`, its epochs and steps. `optimizer` has learning rate, optimizer, loss and metrics. `checkpoint` saves and
resumes runs.
"""

import lazy_loader

# On demand, because the flags of train.py are made from `Settings`, and `--help` need not wait for TensorFlow.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"settings": ["Settings"], "run": ["train"]})

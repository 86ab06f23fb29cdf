"""From a dataset to a trained, exported and evaluated classifier.

Read `settings` first (what a run is asked to do), then `run` (a whole run, in its order), `preparation` (all before it
trains), `fitting` (its training) and `results` (its end). `checkpoint` has what a killed run goes on from, `unfinished`
finds and locks such runs; `optimizer` has learning rate, optimizer and loss, `devices` what the hardware does best,
`callbacks` what is written and told while training goes on, `duration` how long it will.
"""

import lazy_loader

# On demand: the flags of train.py are made from `Settings`, and `--help` need not wait for TensorFlow.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"settings": ["Settings"], "run": ["train"]})

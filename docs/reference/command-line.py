# %% [markdown]
# # Command line
#
# Five programs stand at the top of the repository. `pip install resnetd_tf` installs the same programs as
# `resnetd-train`, `resnetd-evaluate`, `resnetd-predict`, `resnetd-map` and `resnetd-export`. Bad input ends a program
# with one line and exit code 2.
#
# ## train.py

# %% language="bash"
# python train.py --help

# %% [markdown]
# ## evaluate.py

# %% language="bash"
# python evaluate.py --help

# %% [markdown]
# # Command line
#
# Seven programs stand at the top of the repository. `pip install resnetd_tf` installs the same programs as
# `resnetd-train`, `resnetd-evaluate`, `resnetd-predict`, `resnetd-patches`, `resnetd-map`, `resnetd-assess` and
# `resnetd-export`. Bad input ends a program with one line and exit code 2.

# %% [markdown]
# ## train.py

# %% language="bash"
# python train.py --help

# %% [markdown]
# ## evaluate.py

# %% language="bash"
# python evaluate.py --help

# %% [markdown]
# ## predict.py

# %% language="bash"
# python predict.py --help

# %% [markdown]
# ## patches.py

# %% language="bash"
# python patches.py --help

# %% [markdown]
# ## map.py

# %% language="bash"
# python map.py --help

# %% [markdown]
# ## assess.py

# %% language="bash"
# python assess.py --help

# %% [markdown]
# ## export.py

# %% language="bash"
# python export.py --help

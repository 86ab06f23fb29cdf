"""The four command-line programs, each a module with its flags and one library call.

`program` has what they share, `common_flags` the flags of several. `train.py` and the others at the top of a checkout
call them, as the commands `resnetd-train` and so on of an installed package do.
"""

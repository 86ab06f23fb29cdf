"""The seven command-line programs. Each is a module that defines flags and makes one library call.

`program` runs them and defines the flags that several programs share. In a checkout, `train.py` and the other files at
the top call these modules. An installed package has the commands `resnetd-train` and so on.
"""

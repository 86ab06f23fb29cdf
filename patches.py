"""`python patches.py --help` says what it does; all of it is in resnetd_tf/cli/patches.py."""

from resnetd_tf.cli.patches import main

if __name__ == "__main__":
    main()

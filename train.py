"""`python train.py --help` says what it does; all of it is in resnetd_tf/cli/train.py."""

from resnetd_tf.cli.train import main

if __name__ == "__main__":
    main()

"""`python evaluate.py --help` says what it does; all of it is in resnetd_tf/cli/evaluate.py."""

from resnetd_tf.cli.evaluate import main

if __name__ == "__main__":
    main()

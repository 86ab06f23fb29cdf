"""`python assess.py --help` says what it does; all of it is in resnetd_tf/cli/assess.py."""

from resnetd_tf.cli.assess import main

if __name__ == "__main__":
    main()

"""`python export.py --help` says what it does; all of it is in resnetd_tf/cli/export.py."""

from resnetd_tf.cli.export import main

if __name__ == "__main__":
    main()

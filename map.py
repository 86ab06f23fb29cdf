"""`python map.py --help` says what it does; all of it is in resnetd_tf/cli/map.py."""

from resnetd_tf.cli.map import main

if __name__ == "__main__":
    main()

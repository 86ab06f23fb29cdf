"""`python predict.py --help` says what it does; all of it is in resnetd_tf/cli/predict.py."""

from resnetd_tf.cli.predict import main

if __name__ == "__main__":
    main()

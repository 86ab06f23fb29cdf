from resnetd_tf.cli.train import main, program

if __name__ == "__main__":
    program.run(main)

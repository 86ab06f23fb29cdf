from resnetd_tf.cli.evaluate import main, program

if __name__ == "__main__":
    program.run(main)

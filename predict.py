from resnetd_tf.cli.predict import main, program

if __name__ == "__main__":
    program.run(main)

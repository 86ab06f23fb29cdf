from resnetd_tf.cli.export import main, program

if __name__ == "__main__":
    program.run(main)

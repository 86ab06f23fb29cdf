"""How a classifier is trained: hyper-parameters, learning rate, optimizer and loss."""

from dataclasses import dataclass

import keras
import tensorflow as tf

# Learning rates. Fine-tuning's is of the range that Kornblith et al. (arXiv 1805.08974, appendix A.5) search.
FROM_SCRATCH = 0.4
FINE_TUNING = 0.08


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a run.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images in a step, over all replicas.
        learning_rate: Highest learning rate at a batch of 256; scaled linearly with `batch_size`
            (Goyal et al., arXiv 1706.02677). `None` for FROM_SCRATCH or FINE_TUNING.
        warmup_epochs: Epochs in which the learning rate rises from zero (arXiv 1812.01187, section 3.1);
            a cosine brings it back to zero (section 5.1).
        momentum: Of Nesterov's accelerated gradient.
        weight_decay: Share of a kernel that a step takes away, times the learning rate. Kernels only: not
            biases, not batch normalisation (section 3.1).
        label_smoothing: Probability given to all classes evenly (section 5.2).
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_epochs: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 5e-3
    label_smoothing: float = 0.1


class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with Nesterov momentum and decoupled decay of kernels, in TensorFlow's kernel.

    One pass over weights, momentum and gradient, where Keras makes about ten.
    """

    def __init__(self, learning_rate, momentum: float, kernel_decay: float):
        super().__init__(learning_rate, momentum=momentum, nesterov=True)
        self.kernel_decay = kernel_decay

    def update_step(self, gradient, variable, learning_rate):
        momentum = self.momentums[self._get_variable_index(variable)]
        if isinstance(momentum, keras.Variable):
            momentum = momentum.value
        learning_rate = tf.cast(learning_rate, variable.dtype)
        if self.kernel_decay and len(variable.shape) > 1:
            variable.assign(variable * (1.0 - learning_rate * self.kernel_decay))
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.handle,
            lr=learning_rate,
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=True,
        )


def learning_rate_schedule(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up, then cosine decay to zero at the last step."""
    peak = recipe.learning_rate * recipe.batch_size / 256
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    total = recipe.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else peak,
        decay_steps=max(1, total - warmup),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    return SGD(learning_rate_schedule(recipe, steps_per_epoch), recipe.momentum, recipe.weight_decay)


def loss(recipe: Recipe) -> keras.losses.Loss:
    """Cross-entropy with label smoothing, from one-hot labels and probabilities."""
    return keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)

"""How a classifier is trained: learning rate, optimizer, loss and metrics."""

import keras
import tensorflow as tf

from resnetd_tf import environment
from resnetd_tf.training.settings import Settings


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


class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer` that skips a step where the gradients of any replica overflow.

    Keras asks the first replica alone, whose gradients are not summed with the others' yet.
    """

    def check_finite(self, grads):
        finite, replicas = super().check_finite(grads), tf.distribute.get_replica_context()
        count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(finite, tf.int32))
        return tf.equal(count, replicas.num_replicas_in_sync)


class MeanRecall(keras.metrics.Metric):
    """The mean over classes of the share of their images that is recognised, from one-hot labels and probabilities.

    Its `counts` (classes, classes) are the confusion matrix: rows are true classes, columns predicted ones.
    """

    def __init__(self, classes: int, name: str = "mean_recall"):
        super().__init__(name=name)
        self.counts = self.add_variable((classes, classes), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes = self.counts.shape[0]
        true, predicted = (keras.ops.one_hot(keras.ops.argmax(y, -1), classes) for y in (y_true, y_pred))
        self.counts.assign_add(keras.ops.matmul(keras.ops.transpose(true), predicted))

    def result(self):
        images = keras.ops.sum(self.counts, 1)
        recalls = keras.ops.diagonal(self.counts) / keras.ops.maximum(images, 1)
        return keras.ops.sum(recalls) / keras.ops.maximum(keras.ops.sum(keras.ops.cast(images > 0, "float32")), 1)


def learning_rate_schedule(settings: Settings, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up, then cosine decay to zero at the last step; `settings.learning_rate` must be a number."""
    assert settings.learning_rate is not None
    peak = settings.learning_rate * settings.batch_size / 256
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    total = settings.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else peak,
        decay_steps=max(1, total - warmup),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def learning_rate_of_epoch(settings: Settings, steps_per_epoch: int, epoch: int) -> float:
    """The learning rate of the step in the middle of an epoch.

    Args:
        settings: Those of the run, the learning rate decided.
        steps_per_epoch: Steps of each epoch.
        epoch: Number of the epoch, from 0.
    """
    middle = epoch * steps_per_epoch + steps_per_epoch // 2
    return float(learning_rate_schedule(settings, steps_per_epoch)(middle))


def make_optimizer(settings: Settings, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Nesterov SGD with the learning rate's schedule; for float16 the loss is scaled."""
    descent = SGD(learning_rate_schedule(settings, steps_per_epoch), settings.momentum, settings.weight_decay)
    return LossScaleOptimizer(descent) if settings.precision == "float16" else descent


def make_loss(settings: Settings) -> keras.losses.Loss:
    """Cross-entropy with label smoothing, from one-hot labels and probabilities."""
    return keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing)


def compile_classifier(model: keras.Model, settings: Settings, steps_per_epoch: int) -> None:
    """Compiles a classifier for training, under the strategy's scope."""
    model.compile(
        make_optimizer(settings, steps_per_epoch),
        make_loss(settings),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy"), MeanRecall(model.output_shape[-1])],
        jit_compile=environment.uses_xla(),
    )
    # Variables that a first step creates make TensorFlow trace it a second time.
    model.optimizer.build(model.trainable_variables)
    # Likewise, and so that a run that goes on can put back what its metrics have summed up.
    nothing = tf.zeros((1, model.output_shape[-1]))
    model.distribute_strategy.run(lambda: model.compute_metrics(x=None, y=nothing, y_pred=nothing))
    model.reset_metrics()

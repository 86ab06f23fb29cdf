"""Learning rate, optimizer, loss and metrics."""

import keras
import tensorflow as tf

from resnetd_tf import environment
from resnetd_tf.training.settings import Settings

AVERAGED_RATE = 0.2  # share of the highest learning rate that it keeps while weights are averaged


class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with Nesterov momentum and decoupled weight decay of kernels.

    TensorFlow's own operation makes one pass over weights, momentum and gradient. Keras makes about ten.

    Args:
        learning_rate: The learning rate or its schedule.
        momentum: The momentum.
        kernel_decay: Share by which kernels shrink in a step, times the learning rate.
        averages_weights: Whether `average_weights` will be called.

    Attributes:
        averages: The mean of each weight over the calls of `average_weights`, in the order of the weights.
        average_count: The number of these calls.
    """

    def __init__(self, learning_rate, momentum: float, kernel_decay: float, averages_weights: bool = False):
        super().__init__(learning_rate, momentum=momentum, nesterov=True)
        self.kernel_decay, self.averages_weights = kernel_decay, averages_weights

    def build(self, variables):
        is_built = self.built
        super().build(variables)
        if self.averages_weights and not is_built:
            self.averages = [self.add_variable_from_reference(weight, name="average") for weight in variables]
            self.average_count = self.add_variable((), dtype="float32", name="average_count")

    @tf.function
    def average_weights(self):
        """Adds the weights as they are now to their averages."""
        self.average_count.value.assign_add(1.0)
        for average, weight in zip(self.averages, self._trainable_variables):
            difference = weight.value - average.value
            average.value.assign(average.value + difference / self.average_count.value)

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
    """`keras.optimizers.LossScaleOptimizer` that skips a step if the gradients of any replica overflow.

    Keras checks the gradients of the first replica alone, before they are summed over the replicas.
    """

    def check_finite(self, grads):
        is_finite, context = super().check_finite(grads), tf.distribute.get_replica_context()
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(is_finite, tf.int32))
        return tf.equal(count, context.num_replicas_in_sync)


class MeanRecall(keras.metrics.Metric):
    """Mean recall over the classes that occur, from one-hot labels and probabilities.

    Attributes:
        counts: The confusion matrix (classes, classes) float32: rows are true classes, columns are predicted classes.
    """

    def __init__(self, classes: int, name: str = "mean_recall"):
        super().__init__(name=name)
        self.counts = self.add_variable((classes, classes), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes = self.counts.shape[0]
        true_one_hot, predicted_one_hot = (
            keras.ops.one_hot(keras.ops.argmax(y, -1), classes) for y in (y_true, y_pred)
        )
        self.counts.assign_add(keras.ops.matmul(keras.ops.transpose(true_one_hot), predicted_one_hot))

    def result(self):
        images = keras.ops.sum(self.counts, 1)
        recalls = keras.ops.diagonal(self.counts) / keras.ops.maximum(images, 1)
        return keras.ops.sum(recalls) / keras.ops.maximum(keras.ops.sum(keras.ops.cast(images > 0, "float32")), 1)


def learning_rate_schedule(settings: Settings, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule with linear warm-up and then cosine decay to zero at the last step.

    With `settings.average` the decay ends earlier, at `AVERAGED_RATE` of the highest rate, which stays to the end.

    Args:
        settings: The complete settings, with a learning rate.
        steps_per_epoch: Number of steps in an epoch.
    """
    assert settings.learning_rate is not None
    peak = settings.learning_rate * settings.batch_size / 256
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    end = first_averaged_step(settings, steps_per_epoch) if settings.average else settings.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else peak,
        decay_steps=max(1, end - warmup),
        alpha=AVERAGED_RATE if settings.average else 0.0,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def first_averaged_step(settings: Settings, steps_per_epoch: int) -> int:
    """Returns the number of steps after which weights are averaged; one step at least is left."""
    total = settings.epochs * steps_per_epoch
    return min(total - 1, round((1 - settings.average) * total))


def learning_rate_of_epoch(settings: Settings, steps_per_epoch: int, epoch: int) -> float:
    """Returns the learning rate of the step in the middle of an epoch.

    Args:
        settings: The complete settings, with a learning rate.
        steps_per_epoch: Number of steps in an epoch.
        epoch: Index of the epoch, from 0.
    """
    middle_step = epoch * steps_per_epoch + steps_per_epoch // 2
    return float(learning_rate_schedule(settings, steps_per_epoch)(middle_step))


def make_optimizer(settings: Settings, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns Nesterov SGD with the schedule of the learning rate; for float16 the loss is scaled."""
    rate = learning_rate_schedule(settings, steps_per_epoch)
    sgd = SGD(rate, settings.momentum, settings.weight_decay, averages_weights=settings.average > 0)
    return LossScaleOptimizer(sgd) if settings.precision == "float16" else sgd


def make_loss(settings: Settings) -> keras.losses.Loss:
    """Returns cross-entropy with label smoothing, from one-hot labels and probabilities."""
    return keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing)


def make_metrics(classes: int) -> list[keras.metrics.Metric]:
    """Returns the metrics of training and validation."""
    return [keras.metrics.CategoricalAccuracy("accuracy"), MeanRecall(classes)]


def compile_classifier(model: keras.Model, settings: Settings, steps_per_epoch: int) -> None:
    """Compiles a classifier for training. The caller is in the scope of the strategy.

    Args:
        model: The classifier.
        settings: The complete settings, with a learning rate.
        steps_per_epoch: Number of steps in an epoch.
    """
    model.compile(
        make_optimizer(settings, steps_per_epoch),
        make_loss(settings),
        metrics=make_metrics(model.output_shape[-1]),
        jit_compile=environment.uses_xla(),
    )
    # If the first step created variables, TensorFlow would trace it a second time. So the variables of the optimizer
    # and the metrics are created here. A resumed run also needs those of the metrics before its first step.
    model.optimizer.build(model.trainable_variables)
    zeros = tf.zeros((1, model.output_shape[-1]))
    model.distribute_strategy.run(lambda: model.compute_metrics(x=None, y=zeros, y_pred=zeros))
    model.reset_metrics()

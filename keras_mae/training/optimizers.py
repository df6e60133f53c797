"""The optimizers of the recipes: AdamW with the reference's exclusions, and LARS."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def undecayed_variables(model: keras.Model) -> list[Any]:
    """Return the trainable variables that weight decay leaves alone.

    These are vectors (biases, LayerNorm scales), and what a layer of the model names itself in a
    `no_weight_decay` attribute: class and mask tokens, position tables.
    """
    named = {
        id(variable)
        for layer in model._flatten_layers()
        for variable in getattr(layer, "no_weight_decay", ())
    }
    return [v for v in model.trainable_variables if len(v.shape) < 2 or id(v) in named]


@keras.saving.register_keras_serializable(package="keras_mae")
class AdamW(keras.optimizers.AdamW):
    """AdamW with epsilon where the paper, and PyTorch, have it.

    The step is `learning_rate * m' / (sqrt(v') + epsilon)` with the moments `m'` and `v'` corrected
    for their bias. Keras adds epsilon before it corrects `v`: in the first steps it is then
    `1 / sqrt(1 - beta_2)` times as large in effect, which moves weights of tiny gradients less.

    Args:
        *args, **kwargs: those of `keras.optimizers.AdamW`, but for `amsgrad`.
        rate_scales: list of floats, one for each variable in the order that the optimizer is built
            with: what the learning rate of the variable is multiplied by, for step and decay. See
            `keras_mae.training.layer_decay`. None: 1 for all.
        held_steps: list of ints, as many: how many steps a variable stays as it is. None: 0.
    Raises:
        ValueError: for `amsgrad`, a negative scale, or another number of scales than of variables.
    Reference: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1; Loshchilov and Hutter 2017.
    """

    def __init__(
        self,
        *args: Any,
        rate_scales: Sequence[float] | None = None,
        held_steps: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError("`amsgrad` must be False. Received: True")
        self.rate_scales = None if rate_scales is None else [float(s) for s in rate_scales]
        if self.rate_scales and min(self.rate_scales) < 0:
            raise ValueError(f"`rate_scales` must be 0 or more. Received: {self.rate_scales}")
        self.held_steps = None if held_steps is None else [int(steps) for steps in held_steps]

    def build(self, variables: Sequence[Any]) -> None:
        for name in ("rate_scales", "held_steps"):
            values = getattr(self, name)
            if values is not None and len(values) != len(variables):
                raise ValueError(
                    f"`{name}` must hold a number for each of the {len(variables)} variables. "
                    f"Received: {len(values)}"
                )
        super().build(variables)

    def exclude_for(self, model: keras.Model) -> None:
        """Exclude `undecayed_variables(model)` from the decay; before the optimizer is built.

        Models of this library do it in `compile`, so that a model which was saved and loaded, whose
        optimizer Keras makes anew, decays as before.
        """
        excluded = undecayed_variables(model)
        if excluded:
            self.exclude_from_weight_decay(var_list=excluded)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        dtype = variable.dtype
        index = self._get_variable_index(variable)
        learning_rate, gradient = ops.cast(learning_rate, dtype), ops.cast(gradient, dtype)
        if self.rate_scales is not None:
            learning_rate = learning_rate * self.rate_scales[index]
        if self.held_steps is not None and self.held_steps[index]:
            is_free = self.iterations >= self.held_steps[index]
            learning_rate = learning_rate * ops.cast(is_free, dtype)
        decay = None
        if self.weight_decay is not None and self._use_weight_decay(variable):
            decay = ops.cast(self.weight_decay, dtype) * learning_rate
        step = ops.cast(self.iterations + 1, dtype)
        powers = [ops.power(ops.cast(beta, dtype), step) for beta in (self.beta_1, self.beta_2)]
        state = variable, self._momentums[index], self._velocities[index]
        if keras.backend.backend() == "tensorflow":
            # Keras hands in TensorFlow's own variables here, and tensors where it has no state.
            values = [v.value if isinstance(v, keras.Variable) else v for v in state]
            if all(hasattr(value, "handle") for value in values):
                variable, mean, square = values
                return self._fused_update(
                    gradient, variable, mean, square, learning_rate, decay, *powers
                )
        self._update(gradient, *state, learning_rate, decay, *powers)

    def _update(self, gradient, variable, mean, square, learning_rate, decay, power_1, power_2):
        if decay is not None:
            self.assign_sub(variable, variable * decay)
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        divisor = ops.sqrt(square) / ops.sqrt(1 - power_2) + self.epsilon
        self.assign_sub(variable, learning_rate / (1 - power_1) * mean / divisor)

    def _fused_update(
        self, gradient, variable, mean, square, learning_rate, decay, power_1, power_2
    ):
        """Do as `_update`, Adam in one TensorFlow operation: a third of the way over memory."""
        import tensorflow as tf

        dtype = variable.dtype
        if decay is not None:
            # Not before the gradient is there: while the model still reads the variable,
            # TensorFlow would decay a copy of it.
            with tf.control_dependencies([gradient]):
                variable.assign_sub(variable * decay)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=learning_rate,
            beta1=ops.cast(self.beta_1, dtype),
            beta2=ops.cast(self.beta_2, dtype),
            # It adds epsilon before it corrects the moments for their bias.
            epsilon=ops.cast(self.epsilon, dtype) * ops.sqrt(1 - power_2),
            grad=gradient,
        )

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Leave gradients as they are where there is one replica (Keras on TensorFlow only).

        Keras would tie them together in one operation: none could be applied, and freed, before the
        last is there.
        """
        if self._distribution_strategy.num_replicas_in_sync == 1:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def _apply_weight_decay(self, variables):
        """Nothing: `update_step` decays, at each variable's own rate."""

    def get_config(self) -> dict[str, Any]:
        own = {"rate_scales": self.rate_scales, "held_steps": self.held_steps}
        return {**super().get_config(), **own}


def make_adamw(
    model: keras.Model,
    learning_rate: Any,
    weight_decay: float = 0.05,
    beta_1: float = 0.9,
    beta_2: float = 0.95,
    **kwargs: Any,
) -> AdamW:
    """Return `AdamW` for pre-training a model, decoupled decay on weight matrices only.

    Args:
        model: a built Keras model; see `undecayed_variables` for what is excluded.
        learning_rate: float or a `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: float. Each step subtracts `learning_rate * weight_decay * weight`.
        beta_1, beta_2: floats in [0, 1). The moments' decay.
        **kwargs: further arguments of `AdamW`; `epsilon` is 1e-8 if not given.
    Reference: Loshchilov and Hutter 2017, arXiv:1711.05101; He et al. 2021, table 8.
    """
    optimizer = AdamW(
        learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        **{"epsilon": 1e-8, **kwargs},
    )
    optimizer.exclude_for(model)
    return optimizer


@keras.saving.register_keras_serializable(package="keras_mae")
class LARS(keras.optimizers.Optimizer):
    """SGD with momentum, each weight matrix's step scaled to the norm of the matrix.

    For a weight `w` of two or more axes and its gradient `g`: `u = g + weight_decay * w`, scaled by
    `trust_coefficient * |w| / |u|` (by 1 if either norm is 0). Vectors take `u = g`. Then
    `m <- momentum * m + u` and `w <- w - learning_rate * m`.

    Args:
        learning_rate: float or a schedule.
        momentum: float in [0, 1).
        lars_weight_decay: float. L2 decay inside the scaled step, on weights of two or more axes.
        trust_coefficient: float.
    Reference: You et al. 2017, arXiv:1708.03888; He et al. 2021, appendix A.1, linear probing.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        lars_weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        name: str = "lars",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.lars_weight_decay = lars_weight_decay
        self.trust_coefficient = trust_coefficient

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums = [self.add_variable_from_reference(v, name="momentum") for v in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        learning_rate = ops.cast(learning_rate, variable.dtype)
        update = ops.cast(gradient, variable.dtype)
        if len(variable.shape) > 1:
            update = update + self.lars_weight_decay * variable
            weight_norm, update_norm = ops.norm(variable), ops.norm(update)
            trust = self.trust_coefficient * weight_norm / ops.maximum(update_norm, 1e-30)
            update = update * ops.where((weight_norm > 0) & (update_norm > 0), trust, 1.0)
        momentum = self._momentums[self._get_variable_index(variable)]
        self.assign(momentum, self.momentum * momentum + update)
        self.assign_sub(variable, learning_rate * momentum)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "lars_weight_decay": self.lars_weight_decay,
            "trust_coefficient": self.trust_coefficient,
        }

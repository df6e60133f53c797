"""Whitening of features: directions that hold much and those that hold little count alike."""

from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_positive_int
from keras_mae.types import Shape, Tensor


class Moments:
    """Mean and covariance of features that come in parts, in memory of D x D.

    Attributes:
        count: int, rows so far.
        mean: float64 `(D,)`.
        scatter: float64 `(D, D)`, the sum of the products of deviations from the mean.
    Reference: Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115, joins the parts.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.scatter = np.zeros(())
        self._principal: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, features: np.ndarray) -> Self:
        """Take in more rows.

        Args:
            features: float `(n, D)`, finite.
        Raises:
            ValueError: if they are not.
        """
        features = np.asarray(features, "float64")
        if features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(
                "`features` must be finite, of the shape (images, width). Received: the shape "
                f"{features.shape}, {np.sum(~np.isfinite(features)):,} values not finite"
            )
        if not len(features):
            return self
        mean = features.mean(axis=0)
        deviations = features - mean
        scatter = deviations.T @ deviations
        total = self.count + len(features)
        if self.count:
            step = mean - self.mean
            scatter += self.scatter + np.outer(step, step) * (self.count * len(features) / total)
            mean = self.mean + step * (len(features) / total)
        self.count, self.mean, self.scatter = total, mean, scatter
        self._principal = None
        return self

    def principal(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the principal directions, the one of most variance first, as far as they count.

        The numerical rank is the number of directions whose deviation is above what rounding to
        float32 alone could give: `D * 2**-23` times the features' root mean square length.

        Returns:
            `(deviations, directions)`: float64 `(R,)`, above 0 and falling, and `(R, D)`, R the
            rank; each direction's largest component is positive.
        Raises:
            ValueError: without rows.
        """
        if not self.count:
            raise ValueError("`features` must have at least one row. Received: none")
        if self._principal is None:  # of wide features the longest work of all
            self._principal = self._decompose()
        return self._principal

    def _decompose(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self.scatter / self.count)
        values, directions = np.maximum(values[::-1], 0), vectors[:, ::-1].T
        length = np.sqrt(values.sum() + np.square(self.mean).sum())
        rank = int(np.sum(np.sqrt(values) > len(values) * np.finfo("float32").eps * length))
        directions = directions[:rank]
        largest = np.abs(directions).argmax(axis=1)
        signs = np.sign(directions[np.arange(rank), largest])
        return np.sqrt(values[:rank]), directions * signs[:, None]


@keras.saving.register_keras_serializable(package="keras_mae")
class Whitening(keras.layers.Layer):
    """Turn features into their principal components, each of variance 1.

    It is fitted once, by `adapt` or `fitted_to`, to the features of training images, and is then a
    fixed part of the model that holds it: its numbers are weights that are not trained. Equal
    features stay equal. Of directions without variance, as there are where images are few or
    copies, nothing is made: dividing by their deviation would make noise of rounding errors.

    Args:
        num_components: int. Principal components, those of most variance.
    Call arguments:
        features: float `(B, D)`.
    Returns:
        float, `(B, num_components)`: the most important component first, 0 in those beyond the
        numerical rank of the features that it was fitted to.
    Raises:
        ValueError: if `num_components` is no int of at least 1.
    Example:
        whitening = Whitening.fitted_to(train_features, 64)
        near = knn_accuracy(whitening(train_features), labels, whitening(features), wanted, 10)
    Reference: Jegou and Chum 2012, doi:10.1007/978-3-642-33709-3_55, whiten for nearest neighbours.
    """

    def __init__(self, num_components: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int(num_components, "num_components")
        self.num_components = num_components
        self.trainable = False

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1]
        self.origin = self.add_weight(
            shape=(width,), initializer="zeros", trainable=False, name="origin"
        )
        self.kernel = self.add_weight(
            shape=(width, self.num_components), initializer="zeros", trainable=False, name="kernel"
        )

    def call(self, features: Tensor) -> Tensor:
        return ops.matmul(features - self.origin, self.kernel)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return *input_shape[:-1], self.num_components

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_components": self.num_components}

    def adapt(self, features: np.ndarray | Moments) -> int:
        """Fit it to features of training images.

        Args:
            features: float `(n, D)`, or the `Moments` of some.
        Returns:
            int: how many components are not 0, at most the features' numerical rank.
        """
        moments = features if isinstance(features, Moments) else Moments().add(features)
        deviations, directions = moments.principal()
        if not self.built:
            self.build((None, len(moments.mean)))
        kept = min(self.num_components, len(deviations))
        kernel = np.zeros(tuple(self.kernel.shape), "float32")
        kernel[:, :kept] = (directions[:kept] / deviations[:kept, None]).T
        self.origin.assign(moments.mean)
        self.kernel.assign(kernel)
        return kept

    @classmethod
    def fitted_to(cls, features: np.ndarray | Moments, most: int, **kwargs: Any) -> Self:
        """Return a whitening to `most` components, or to the rank of the features where it is less.

        Args:
            features: float `(n, D)`, or the `Moments` of some.
            most: int.
        Raises:
            ValueError: if all features are equal: there is nothing to whiten.
        """
        moments = features if isinstance(features, Moments) else Moments().add(features)
        check_positive_int(most, "most")
        rank = len(moments.principal()[0])
        if not rank:
            raise ValueError(
                f"`whiten` must be None for {moments.count} images of equal features, which have "
                f"no principal component. Received: {most}"
            )
        layer = cls(min(most, rank), **kwargs)
        layer.adapt(moments)
        return layer


def rank_note(wanted: int, kept: int) -> str:
    """Return a sentence on components that there are not; "" where there are all."""
    if kept >= wanted:
        return ""
    return f"Whitened to {kept} components, not {wanted}: the features' numerical rank is {kept}."

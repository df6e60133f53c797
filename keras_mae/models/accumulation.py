"""Gradient accumulation inside one training step (TensorFlow only)."""


def mean_over_parts(function, tensors, num_parts, variables, compiled=False):
    """Compute a batch's loss and gradients in parts, one after the other, so that one is in memory.

    Args:
        function: from tensors of b rows to (loss, gradients), both means over the rows.
        tensors: sequence of tensors of B rows each.
        num_parts: int. Parts of about equal size: where the number of rows is known beforehand,
            the next larger number that divides it.
        variables: what `function` gives the gradients of, in order.
        compiled: bool. Whether XLA compiles this, which needs the number of rows beforehand.
    Returns:
        (loss, list of gradients): the means over all B rows.
    Raises:
        ValueError: if the number of rows is not known and `compiled`.
    """
    import tensorflow as tf

    if num_parts == 1:
        return function(*tensors)
    rows = tensors[0].shape[0]
    fixed = rows is not None
    if fixed:
        num_parts = next(n for n in range(min(num_parts, rows), rows + 1) if rows % n == 0)
        part_rows = rows // num_parts
    elif compiled:
        raise ValueError(
            f"`accumulate_steps` of {num_parts} with XLA needs batches of one known size: batch "
            "with `drop_remainder=True`, or compile with `jit_compile=False`. Received: batches of "
            "unknown size"
        )
    else:
        rows = tf.shape(tensors[0])[0]
        part_rows = tf.maximum(-(-rows // num_parts), 1)
        num_parts = -(-rows // part_rows)

    def rows_of(tensor, start, count):
        rest = tensor.shape[1:]
        return tf.slice(tensor, [start, *([0] * len(rest))], [count, *rest])

    def add_part(part, loss, gradients):
        start = part * part_rows
        count = part_rows if fixed else tf.minimum(part_rows, rows - start)
        part_loss, part_gradients = function(*(rows_of(tensor, start, count) for tensor in tensors))
        weight = tf.cast(count, "float32") / tf.cast(rows, "float32")
        gradients = [
            total + weight * tf.convert_to_tensor(gradient)
            for total, gradient in zip(gradients, part_gradients, strict=True)
        ]
        return part + 1, loss + weight * part_loss, gradients

    zeros = [tf.zeros(variable.shape) for variable in variables]
    _, loss, gradients = tf.while_loop(
        lambda part, *_: part < num_parts,
        add_part,
        (tf.constant(0), tf.constant(0.0), zeros),
        parallel_iterations=1,
    )
    return loss, gradients

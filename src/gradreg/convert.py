"""Weights of other conventions, converted to this library's: no 1/2, mean over the batch, per-example gradients."""

from gradreg import _checks


def weight(
    value: float,
    *,
    half: bool = False,
    summed_over: int | None = None,
    loss_averaged_over: int | None = None,
    input_std: float | None = None,
) -> float:
    """The weight here that does what ``value`` does elsewhere.

    Args:
        value: the weight in the other code.
        half: the other code multiplies the squared norm by 1/2, as `JacobianReg` of Hoffman et al. does. Halves.
        summed_over: the other code sums the penalty over a batch of this size. Multiplies by it.
        loss_averaged_over: the other code differentiates the **mean** loss of a batch of this size, which divides each
            example's gradient by it. Divides by its square.
        input_std: the other code differentiates with respect to raw inputs, and yours are standardized by this
            standard deviation: ``||dz/dx_raw||^2 = ||dz/dx||^2 / std^2``. Divides by its square.

    Returns:
        The weight for a gradreg penalty.

    Raises:
        ValueError: a number that is not finite or out of its range.

    Example:
        >>> gr.convert.weight(0.01, half=True)                     # JacobianReg(n=-1), then FrobReg(0.005)
        0.005
        >>> gr.convert.weight(0.01, summed_over=50)                # the scripts' confidence penalty
        0.5
        >>> gr.convert.weight(1.0, summed_over=50, loss_averaged_over=50)   # ||d mean(L)/dx||^2 over the whole batch
        0.02

    Source: the conventions of the paper's appendix A against its published scripts.
    """
    _checks.weight(value, "convert.weight")
    result = float(value)
    if half:
        result /= 2
    for count, name in ((summed_over, "summed_over"), (loss_averaged_over, "loss_averaged_over")):
        if count is not None:
            _checks.positive_integer(count, name, "convert.weight")
    if summed_over is not None:
        result *= summed_over
    if loss_averaged_over is not None:
        result /= loss_averaged_over**2
    if input_std is not None:
        _checks.not_negative(input_std, "input_std", "convert.weight")
        if input_std == 0:
            raise ValueError("convert.weight got input_std=0; expected the standard deviation of the inputs, > 0.")
        result /= input_std**2
    return result

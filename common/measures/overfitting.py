"""When a fit on few examples is done, and whether it over-fits after that."""

import pandas


def overfitting(history: pandas.DataFrame, loss: str) -> dict[str, float]:
    """Measure the history of one fit, with splits "labelled" and "test", by its records of the
    measure ``loss``.

    - lowest_loss_step: the step of the lowest test loss.
    - last_over_lowest_loss: the last test loss over the lowest: 1 if it never rises, more if it
      over-fits in the strict sense.

    Of a classifier besides:

    - fitted_step: the first step from which the accuracy on the labelled images has its last value.
    - gain_after_fitted: by how much the accuracy on *test* images rises after that step, a
      fraction.
    """
    curves = history[history.split != "train"].pivot(
        index="step", columns=["split", "measure"], values="value"
    )
    test_loss = curves["test", loss]
    measures = {
        "lowest_loss_step": test_loss.idxmin(),
        "last_over_lowest_loss": test_loss.iloc[-1] / test_loss.min(),
    }
    if ("labelled", "accuracy") in curves:
        labelled = curves["labelled", "accuracy"]
        test = curves["test", "accuracy"]
        unfitted = labelled[labelled != labelled.iloc[-1]]
        after = curves.index[curves.index > unfitted.index[-1]] if len(unfitted) else curves.index
        measures["fitted_step"] = after[0]
        measures["gain_after_fitted"] = test.iloc[-1] - test[after[0]]
    return measures

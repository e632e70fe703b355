"""The answers that the report begins with."""

import dataclasses

import pandas

from common.measures.names import MEASURES
from common.report import numbers as tables
from common.report import verdicts
from common.report.numbers import BALANCED, Number
from common.report.verdicts import Q3, Q4, Q5, Comparison


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question that the page begins with. ``{}`` in the answer stands for a number."""

    question: str
    answer: str
    numbers: list[Number | Comparison]


ANSWERS = [
    Answer(
        "What does an encoder keep that must give the whole image back?",
        "How the digit was written: of the variance within a digit Q1 explains {}. Its digits vary"
        " {} times as much as the originals, and in the same way (correlation {}).",
        [
            Number(Q3, "Q1", "variance_explained"),
            Number(Q3, "Q1", "deviation_kept"),
            Number(Q3, "Q1", "deviation_correlation"),
        ],
    ),
    Answer(
        "And one that only has to name the digit?",
        "Which digit it is: Q3, a decoder on the classifier's frozen encoder, explains {}. Its"
        " digits vary {} times as much as the originals, but often in another way (correlation"
        " {}).",
        [
            Number(Q3, "Q3", "variance_explained"),
            Number(Q3, "Q3", "deviation_kept"),
            Number(Q3, "Q3", "deviation_correlation"),
        ],
    ),
    Answer(
        "What is Q1's encoder worth when labels are few?",
        "With 100 labels, ten of each digit, {} of the test images are classified correctly from"
        " scratch and {} from Q1's weights: {}. With Q1's encoder frozen it is {}.",
        [
            Number(Q4, "scratch", "accuracy", BALANCED),
            Number(Q5, "fine-tuned", "accuracy", BALANCED),
            verdicts.minus_scratch("fine-tuned", {}),
            Number(Q5, "frozen", "accuracy", BALANCED),
        ],
    ),
]


def answer_all(numbers: pandas.DataFrame) -> list[tuple[str, str]]:
    """Return questions and answers, those for which all numbers are there."""
    answered = []
    for answer in ANSWERS:
        texts = [text_of(numbers, number) for number in answer.numbers]
        if all(texts):
            answered.append((answer.question, answer.answer.format(*texts)))
    return answered


def text_of(numbers: pandas.DataFrame, number: Number | Comparison) -> str:
    """Return a number's mean over the seeds, or a difference with its interval; "" for none."""
    if isinstance(number, Comparison):
        judged = verdicts.compare(numbers, number)
        return judged.text() if judged else ""
    values = tables.per_seed(numbers, number)
    return "" if values.empty else MEASURES[number.measure].format(values.mean())

"""Accuracy: right answers in percent, in any chunks, among the highest scores, without dropout."""

import pytest
import torch

from gradreg.study.scores import accuracy


def test_accuracy_is_the_percentage_of_right_answers_in_any_chunks_and_without_dropout() -> None:
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Dropout(0.9))
    y = torch.arange(40) % 4
    wrong = torch.zeros(40, dtype=torch.int64)
    wrong[:9] = 1
    x = torch.eye(4)[(y + wrong) % 4]
    for chunk in (1000, 7, 40):
        assert accuracy(model, x, y, chunk=chunk) == pytest.approx(100 * 31 / 40)
    assert model.training


def test_a_label_among_the_highest_scores_is_right_where_so_many_are_asked_for() -> None:
    model = torch.nn.Identity()
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]).expand(6, -1)
    labels = torch.arange(6)
    for top in range(1, 7):
        assert accuracy(model, scores, labels, chunk=4, top=top) == pytest.approx(100 * top / 6)
    assert accuracy(model, scores, labels, top=9) == 100
    assert accuracy(model, scores, labels, prepare=torch.neg, top=2) == pytest.approx(100 * 2 / 6)

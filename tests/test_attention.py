"""Pictures of attention and of word vectors, from models with known weights."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import keras
import numpy as np
import pytest

from hedgerow.models import zoo
from hedgerow.models.attention import written
from hedgerow.models.datasets import Dataset
from hedgerow.models.word_map import draw_word_map

WORDS = ("?", "the", "a", "python", "3", "(", "$")


def texts(path: Path) -> str:
    """The comments in which matplotlib keeps the words that it draws as outlines."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    return " ".join(
        (node.text or "").strip()
        for node in ElementTree.parse(path, parser).iter()
        if node.tag is ElementTree.Comment
    )


def looking() -> keras.Model:
    """Writes what it reads, word by word, and looks at the place it is at: queries and values are one-hot."""
    read = keras.Input((3,), dtype="int32")
    so_far = keras.Input((3,), dtype="int32")
    places = keras.layers.Embedding(4, 3, name="places")
    values = keras.layers.Lambda(lambda x: 20.0 * keras.ops.one_hot(x - 1, 3))(read)
    queries = places(so_far)
    seen = keras.layers.Attention()([queries, values])
    words = keras.layers.Dense(4, activation="softmax", name="words")(seen)
    model = keras.Model([read, so_far], words)
    # After the start (1) at the word 3, after 3 at 2, after 2 at none in particular but the end.
    model.get_layer("places").set_weights(
        [np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)]
    )
    kernel = np.array([[3, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]], np.float32)
    model.get_layer("words").set_weights([kernel, np.zeros(4, np.float32)])
    return model


def test_a_decoder_is_seen_looking() -> None:
    examples = Dataset(
        np.array([[1, 2, 3], [3, 2, 1]], np.int32),
        np.zeros((2, 3), np.int32),
        ("<end>", "<start>", "two", "three"),
    )
    words, shares = written(looking(), examples)
    assert words.tolist() == [[3, 2, 0], [3, 2, 0]]
    assert shares.shape == (2, 3, 3)
    assert np.allclose(shares.sum(axis=-1), 1)
    assert shares.argmax(axis=-1).tolist() == [[2, 1, 0], [0, 1, 2]], "where 3, 2 and 1 stand in each"


@pytest.mark.parametrize(
    ("name", "shown"), [("number-translator", "thousand"), ("digit-captioner", ""), ("word-vectors", "the")]
)
def test_a_system_draws_itself(name: str, shown: str, tmp_path: Path) -> None:
    entry = zoo.get(name)
    assert entry.draw is not None
    picture = entry.draw(entry.create(0), entry.federate().test, tmp_path)
    assert picture.parent == tmp_path
    assert shown in texts(picture)


def test_a_word_map_names_words_and_is_the_same_again(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Embedding(len(WORDS), 4), keras.layers.Flatten()]
    )
    first = draw_word_map(model, WORDS, tmp_path / "words.svg")
    again = draw_word_map(model, WORDS, tmp_path / "again.svg")
    assert first.read_bytes() == again.read_bytes()
    assert all(word in texts(first) for word in WORDS[1:])
    assert "?" not in texts(first), "what the vocabulary leaves out is no word"

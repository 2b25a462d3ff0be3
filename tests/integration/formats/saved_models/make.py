"""Make SavedModels with TensorFlow: `python make.py FOLDER`, by an interpreter that has it (the environment `tensorflow`).

FOLDER/digits is what lies beside this file: a linear classifier of scikit-learn's digits, its weights in weights.npz.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Digits(tf.Module):
    """Probabilities and the digit itself from 64 pixels of 0 to 16."""

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weights, self.bias = tf.Variable(weights), tf.Variable(bias)

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="pixels")])
    def serve(self, pixels):
        scores = pixels @ self.weights + self.bias
        return {"probabilities": tf.nn.softmax(scores), "digit": tf.argmax(scores, axis=1)}


class Writing(tf.Module):
    """Writes a file with each answer."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(self, x):
        tf.io.write_file("/tmp/openmaas-saved-model-ran", "yes")
        return {"y": x * 2}


def convolutional():
    image = keras.Input((8, 8, 1), name="image")
    hidden = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(image))
    hidden = layers.Flatten()(layers.MaxPooling2D()(layers.ReLU()(hidden)))
    return keras.Model(image, {"digit": layers.Dense(10, activation="softmax")(hidden), "features": layers.Dense(3)(hidden)})


def recurrent():
    steps = keras.Input((6, 4), name="steps")
    return keras.Model(steps, layers.Dense(2)(layers.LSTM(8)(layers.GRU(8, return_sequences=True)(steps))))


def main(folder: Path) -> None:
    with np.load(Path(__file__).with_name("weights.npz")) as trained:
        digits = Digits(trained["weights"], trained["bias"])
    tf.saved_model.save(digits, str(folder / "digits"), signatures=digits.serve)
    writing = Writing()
    tf.saved_model.save(writing, str(folder / "writing"), signatures=writing.serve)
    keras.utils.set_random_seed(3)
    for name, model in (("convolutional", convolutional()), ("recurrent", recurrent())):
        model.export(str(folder / name), verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

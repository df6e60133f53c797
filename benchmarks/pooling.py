"""Which pooling, and whether to whiten: neighbours and the linear probe of a frozen encoder.

    python benchmarks/pooling.py --data=digits
    python benchmarks/pooling.py --data=tiles --epochs=60

Digits are seen by the encoder that the repository holds. Tiles are 32 x 32 pixels of the colour
photographs inside scikit-learn and scikit-image, a class a photograph, no pixel in two of them; an
encoder is pre-trained on those that are not held out. Each row has the accuracy of 20 nearest
neighbours by cosine, plain and whitened, and of the linear probe.
"""

import functools
import tempfile
import time

from absl import app, flags

DATA = flags.DEFINE_enum("data", "digits", ["digits", "tiles"], "Which images.")
ENCODER = flags.DEFINE_string("encoder", None, "Of the images; None: see above.")
EPOCHS = flags.DEFINE_float("epochs", 60, "Of the pre-training on tiles.")
OUTPUT = flags.DEFINE_string("output", None, "Where to keep the pre-training on tiles.")
WHITEN = flags.DEFINE_list("whiten", ["32", "64", "128"], "Numbers of components.")
POOLINGS = flags.DEFINE_list(
    "poolings", ["pixels", "token", "mean", "both", "mean_std", "grid:2", "grid:3"], "Rows."
)
PROBE = flags.DEFINE_bool("probe", True, "Train the linear probe, too, plain and whitened to 64.")


def pretrained(directory):
    import keras_mae

    settings = keras_mae.PretrainSettings(
        dataset="tiles:Tiles",
        preset="mae_vit_mini_patch4",
        image_size=(32,),
        epochs=EPOCHS.value,
        flips="horizontal",
        probe=False,
        output_dir=directory,
    )
    keras_mae.pretrain(settings)
    return f"{directory}/encoder.keras"


def measure(path):
    import keras_mae
    from keras_mae.data import eval_dataset, load_source
    from keras_mae.evaluation.features import extract_features
    from keras_mae.evaluation.knn import knn_accuracy
    from keras_mae.layers.whitening import Moments, Whitening
    from keras_mae.tasks.probe import (
        apply_whitening,
        encoder_predictor,
        linear_probe,
        pixel_predictor,
        probe_settings,
    )

    encoder = keras_mae.load_encoder(path)
    parts = load_source("mnist5k" if DATA.value == "digits" else "tiles:Tiles").split()
    names = ("image_size", "mean", "std", "value_range")
    form = {name: getattr(encoder, name) for name in names}
    sets = [eval_dataset(part, batch_size=250, **form) for part in parts]
    classes = parts[0].num_classes
    print(f"{parts[0].num_examples:,} images known, {parts[1].num_examples:,} asked for, {path}")
    white = [int(n) for n in WHITEN.value]
    columns = ["pooling", "width", "20 neighbours", *(f"whitened {n}" for n in white)]
    columns += ["linear probe", "whitened 64"] * PROBE.value
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for pooling in POOLINGS.value:
        start = time.time()
        predict = pixel_predictor if pooling == "pixels" else encoder_predictor(encoder, pooling)
        (known, labels), (asked, wanted) = (extract_features(predict, part) for part in sets)
        near = functools.partial(
            knn_accuracy, train_labels=labels, labels=wanted, num_classes=classes
        )
        numbers = [near(train_features=known, features=asked)]
        whitened, moments = {}, Moments().add(known)
        for count in white:
            layer = Whitening.fitted_to(moments, count)
            whitened[count] = [apply_whitening(layer, part) for part in (known, asked)]
            numbers.append(near(train_features=whitened[count][0], features=whitened[count][1]))
        for few in [(known, asked), whitened.get(64)] if PROBE.value else []:
            if few is not None:
                settings = probe_settings(encoder.image_size, len(known), feature_views=1)
                found = linear_probe(few[0], labels, few[1], wanted, classes, settings)
                numbers.append(found)
        cells = " | ".join(f"{100 * number:.1f}" for number in numbers)
        print(
            f"| {pooling} | {known.shape[1]:,} | {cells} |  {time.time() - start:.0f} s", flush=True
        )


def main(_):
    if ENCODER.value is not None:
        measure(ENCODER.value)
    elif DATA.value == "digits":
        measure("saved_models/mnist5k_encoder/encoder.keras")
    else:
        with tempfile.TemporaryDirectory() as directory:
            measure(pretrained(OUTPUT.value or f"{directory}/run"))


if __name__ == "__main__":
    app.run(main)

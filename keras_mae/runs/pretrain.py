"""A pre-training run, from a source of images to an output directory."""

import dataclasses
import sys
import time

import keras
import numpy as np

from keras_mae.data import SkipLog, eval_dataset, load_source, pretrain_dataset
from keras_mae.runs.settings import PRECISIONS
from keras_mae.training import MetricsLog, SaveLastGood, make_adamw
from keras_mae.training.baseline import mean_predictor_loss
from keras_mae.training.figures import loss_figure, reconstruction_figure
from keras_mae.training.output import (
    environment,
    export_encoder,
    prepare_output_dir,
    save_model,
    write_json,
)
from keras_mae.transfer.comparison import (
    compare_features,
    encoder_features,
    format_table,
    pixel_features,
)

LOG_INTERVAL = 10  # steps
FIGURE_IMAGES = 8
EVAL_BATCH = 250


def pretrain(settings):
    """Train a masked autoencoder as `settings` say, and write its output directory.

    It holds `config.json`, `metrics.jsonl`, `mae.keras`, `encoder.keras`, `encoder/1/` (a
    SavedModel), `figures/`, `results.json`, and `skipped.jsonl` if an image could not be read.

    Args:
        settings: a `PretrainSettings`.
    Returns:
        dict, as in `results.json`: held-out losses and, for a labelled data set, the accuracies of
        `compare_features`.
    Raises:
        ValueError: for a setting that does not fit, before any training.
        NonFiniteLossError: if the loss becomes NaN; the files of the last good epoch are kept.
    """
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(PRECISIONS[settings.precision])
    source = load_source(settings.dataset, seed=settings.seed)
    train, heldout = source.split()
    total_steps = settings.total_steps(train.num_examples)
    # Whole epochs on the progress bar, though the data's may end inside a batch.
    epochs = max(1, round(total_steps * settings.batch_size / train.num_examples))
    steps_per_epoch = -(-total_steps // epochs)
    model = settings.build_model(source, total_steps)
    model.compile(
        make_adamw(model, settings.learning_rate(train.num_examples), settings.weight_decay),
        jit_compile=settings.jit,
    )
    directory = prepare_output_dir(settings.output_dir, settings.overwrite)
    (directory / "figures").mkdir()
    write_json(
        directory / "config.json",
        {
            "settings": dataclasses.asdict(settings),
            "model": model.get_config(),
            "total_steps": total_steps,
            "training_images": train.num_examples,
            "heldout_images": heldout.num_examples,
            "command": sys.argv,
            "environment": environment(),
        },
    )
    print(
        f"{model.count_params():,} parameters, {model.encoder.count_params():,} of them in the "
        f"encoder; {train.num_examples:,} images to train on, {heldout.num_examples:,} held out; "
        f"{total_steps:,} steps of {settings.batch_size} images. Output: {directory}"
    )

    pixels = {"image_size": model.image_size, "mean": model.mean, "std": model.std}
    pixels["on_skip"] = SkipLog(directory / "skipped.jsonl")
    labelled = source.num_classes is not None and source.num_classes > 1
    probe_sets = [
        eval_dataset(
            _at_most(part, settings.probe_images),
            batch_size=EVAL_BATCH,
            with_labels=labelled,
            **pixels,
        )
        for part in (train, heldout)
    ]
    baseline = mean_predictor_loss(model, *probe_sets)
    features = {}
    if labelled:
        features["raw pixels"] = pixel_features(probe_sets)
        features["encoder, random init"] = encoder_features(model.encoder, probe_sets)

    start = time.perf_counter()
    model.fit(
        pretrain_dataset(train, batch_size=settings.batch_size, seed=settings.seed, **pixels),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        validation_data=probe_sets[1],
        shuffle=False,
        verbose=0,
        callbacks=[
            MetricsLog(
                directory / "metrics.jsonl",
                settings.batch_size,
                steps_per_epoch,
                total_steps,
                interval=LOG_INTERVAL,
                baselines={"mean_predictor": baseline},
            ),
            SaveLastGood(directory / "mae.keras"),
        ],
    )
    results = {
        "training_seconds": round(time.perf_counter() - start, 1),
        "heldout_loss": model.evaluate(probe_sets[1], verbose=0, return_dict=True)["loss"],
        "mean_predictor_loss": baseline,
    }
    save_model(model.encoder, directory / "encoder.keras")
    export_encoder(model.encoder, directory / "encoder" / "1")
    first = next(iter(probe_sets[1]))
    shown = np.asarray(first[0] if labelled else first)
    spread = np.linspace(0, len(shown) - 1, min(FIGURE_IMAGES, len(shown))).astype(int)
    reconstruction_figure(model, shown[spread], directory / "figures" / "reconstructions.png")
    loss_figure(
        directory / "metrics.jsonl",
        directory / "figures" / "loss.png",
        {"per-position mean predictor": baseline},
    )
    print(
        f"\nLoss on held-out images: {results['heldout_loss']:.4f}; of a predictor that gives the "
        f"mean patch of each position: {baseline:.4f}. Trained {results['training_seconds']:.0f} s."
    )
    if labelled:
        features["encoder, pre-trained"] = encoder_features(model.encoder, probe_sets)
        results["accuracy"] = compare_features(features, source.num_classes, settings.seed)
        print(f"\nAccuracy on held-out images:\n{format_table(results['accuracy'])}")
    write_json(directory / "results.json", results)
    return results


def _at_most(source, count):
    """Return a source, or a random, fixed subset of `count` of its examples where it has more."""
    if source.num_examples <= count:
        return source
    return source.subset(np.random.default_rng(0).permutation(source.num_examples)[:count])

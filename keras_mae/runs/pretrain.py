"""A pre-training run, from a source of images to an output directory."""

import dataclasses
import json
import sys
import time
import warnings

import keras
import numpy as np

from keras_mae.data import SkipLog, eval_dataset, load_source, pretrain_dataset
from keras_mae.runs.settings import PRECISIONS
from keras_mae.training import MetricsLog, SaveLastGood, make_adamw
from keras_mae.training.baseline import mean_predictor_loss
from keras_mae.training.callbacks import trim_metrics
from keras_mae.training.figures import loss_figure, reconstruction_figure
from keras_mae.training.output import (
    environment,
    export_encoder,
    prepare_output_dir,
    save_model,
    write_json,
)
from keras_mae.training.resume import Checkpoints, SaveCheckpoints, run_variables
from keras_mae.training.strategy import make_strategy
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
    strategy = make_strategy(settings.strategy, settings.logical_devices)
    replicas = strategy.num_replicas_in_sync
    if settings.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {replicas} replicas. "
            f"Received: {settings.batch_size}"
        )
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(PRECISIONS[settings.precision])
    source = load_source(settings.dataset)  # its split does not depend on the run's seed
    train, heldout = source.split()
    total_steps = settings.total_steps(train.num_examples)
    with strategy.scope():
        model = settings.build_model(source, total_steps)
        model.compile(
            make_adamw(model, settings.learning_rate(train.num_examples), settings.weight_decay),
            jit_compile=settings.jit,
            accumulate_steps=settings.accumulate_steps,
            recompute=settings.recompute,
        )
    run = {**settings.fixed(), "total_steps": total_steps, "images": train.fingerprint()}
    directory = prepare_output_dir(
        settings.output_dir, run, settings.resume == "auto", settings.overwrite
    )
    if (directory / "results.json").exists():
        results = json.loads((directory / "results.json").read_text())
        print(f"This run has ended. --overwrite starts it over. Output: {directory}")
        _print_results(results)
        return results
    config = {
        "run": run,
        "settings": dataclasses.asdict(settings),
        "model": model.get_config(),
        "training_images": train.num_examples,
        "heldout_images": heldout.num_examples,
        "command": sys.argv,
        "environment": environment(),
    }
    write_json(directory / "config.json", config)
    print(
        f"{model.count_params():,} parameters, {model.encoder.count_params():,} of them in the "
        f"encoder; {train.num_examples:,} images to train on, {heldout.num_examples:,} held out; "
        f"{total_steps:,} steps of {settings.batch_size} images. Output: {directory}"
    )

    skips = SkipLog(directory / "skipped.jsonl", max_bad_fraction=settings.max_bad_fraction)
    try:
        results = _train_and_evaluate(model, train, heldout, directory, settings, skips)
    except Exception:
        if skips.error is not None:  # TensorFlow has wrapped it
            raise skips.error from None
        raise
    write_json(directory / "results.json", results)
    _print_results(results)
    return results


def _train_and_evaluate(model, train, heldout, directory, settings, skips):
    """Train, write models and figures, and return what goes into `results.json`."""
    pixels = {"image_size": model.image_size, "mean": model.mean, "std": model.std}
    pixels["on_skip"] = skips
    labelled = train.num_classes is not None and train.num_classes > 1
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
    _fit(model, train, probe_sets[1], directory, settings, baseline, pixels)
    results = {
        "training_seconds": round(time.perf_counter() - start, 1),
        "heldout_loss": model.evaluate(probe_sets[1], verbose=0, return_dict=True)["loss"],
        "mean_predictor_loss": baseline,
    }
    save_model(model, directory / "mae.keras")
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
    if labelled:
        features["encoder, pre-trained"] = encoder_features(model.encoder, probe_sets)
        results["accuracy"] = compare_features(features, train.num_classes, settings.seed)
    return results


def _fit(model, train, heldout, directory, settings, baseline, pixels):
    """Train from the last good checkpoint, or from the start, to the end."""
    total_steps = settings.total_steps(train.num_examples)
    checkpoints = Checkpoints(directory / "checkpoints", settings.keep)
    step = checkpoints.load(run_variables(model)) or 0
    trim_metrics(directory / "metrics.jsonl", step)
    if step:
        print(f"Going on after step {step:,}.")
    log = MetricsLog(
        directory / "metrics.jsonl",
        settings.batch_size,
        total_steps,
        start_step=step,
        interval=LOG_INTERVAL,
        baselines={"mean_predictor": baseline},
    )
    save = SaveCheckpoints(
        checkpoints, total_steps, step, settings.checkpoint_steps, settings.checkpoint_minutes
    )
    skipped = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: _print_skipped(pixels["on_skip"])
    )
    # Whole epochs on the progress bar, though the data's may end inside a batch.
    epochs = max(1, round(total_steps * settings.batch_size / train.num_examples))
    steps_per_epoch = -(-total_steps // epochs)
    # Keras cannot know how long a data set is whose bad images are left out, and says so.
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    with save.signals():
        while step < total_steps:
            # An epoch that was cut is ended first, then the others follow in one go.
            epoch, done = divmod(step, steps_per_epoch)
            model.fit(
                pretrain_dataset(
                    train,
                    batch_size=settings.batch_size,
                    seed=settings.seed,
                    start_step=step,
                    resize=settings.resize,
                    crops_per_image=settings.crops_per_image,
                    **pixels,
                ),
                initial_epoch=epoch,
                epochs=epoch + 1 if done else epochs,
                steps_per_epoch=steps_per_epoch - done,
                validation_data=heldout,
                shuffle=False,
                verbose=0,
                callbacks=[log, SaveLastGood(directory / "mae.keras"), skipped, save],
            )
            step = save.step


def _print_skipped(skips):
    """Say how many images could not be read so far, if any."""
    if skips.num_bad:
        print(
            f"{skips.num_bad:,} of {skips.num_seen:,} images read could not be used, of "
            f"{len(skips.reasons):,} files named in {skips.path}."
        )


def _print_results(results):
    print(
        f"\nLoss on held-out images: {results['heldout_loss']:.4f}; of a predictor that gives the "
        f"mean patch of each position: {results['mean_predictor_loss']:.4f}. "
        f"Trained {results['training_seconds']:.0f} s."
    )
    if "accuracy" in results:
        print(f"\nAccuracy on held-out images:\n{format_table(results['accuracy'])}")


def _at_most(source, count):
    """Return a source, or a random, fixed subset of `count` of its examples where it has more."""
    if source.num_examples <= count:
        return source
    return source.subset(np.random.default_rng(0).permutation(source.num_examples)[:count])

"""A pre-training run, from a source of images to an output directory."""

import dataclasses
import errno
import json
import shutil
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_mae.data import SkipLog, eval_dataset, load_source, pretrain_dataset
from keras_mae.evaluation.baseline import mean_predictor_loss
from keras_mae.evaluation.comparison import (
    compare_features,
    encoder_features,
    format_table,
    pixel_features,
)
from keras_mae.export import export_encoder
from keras_mae.files import (
    environment,
    save_model,
    write_json,
)
from keras_mae.plots.figures import loss_figure, reconstruction_figure
from keras_mae.settings.pretrain import PRECISIONS
from keras_mae.training import MetricsLog, SaveLastGood, make_adamw
from keras_mae.training.callbacks import trim_metrics
from keras_mae.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    SaveCheckpoints,
    run_variables,
)
from keras_mae.training.devices import make_strategy
from keras_mae.training.directory import prepare_output_dir
from keras_mae.training.tensorboard import TensorBoardLog, check_tensorboard
from keras_mae.training.workers import WorkerLostError, Workers

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
LOG_INTERVAL = 10  # steps
FIGURE_IMAGES = 8
EVAL_BATCH = 250


def pretrain(settings):
    """Train a masked autoencoder as `settings` say, and write its output directory.

    It holds `config.json`, `metrics.jsonl`, `mae.keras`, `encoder.keras`, `encoder/1/` (a
    SavedModel; on TensorFlow only), `figures/`, `results.json`, and `skipped.jsonl` if an image
    could not be read. Of several workers, which share the directory, the chief writes; the others
    write `skipped.workerN.jsonl` only.

    Args:
        settings: a `PretrainSettings`.
    Returns:
        dict, as in `results.json`: held-out losses and, for a labelled data set with
        `settings.probe`, the accuracies of `compare_features`.
    Raises:
        ValueError: for a setting that does not fit, before any training.
        NonFiniteLossError: if the loss becomes NaN; the files of the last good epoch are kept.
        CheckpointError: if the directory cannot be written, any more or at all.
        WorkerLostError: if another worker has ended; it says how to go on.
    """
    workers = Workers(make_strategy(settings.strategy, settings.logical_devices, settings.tpu))
    try:
        return _pretrain(settings, workers)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise CheckpointError(
            f"{settings.output_dir} cannot be written: {error}. The same command goes on from the "
            "last checkpoint in it."
        ) from error
    except tf.errors.OpError as error:
        if not workers.is_loss_of_one(error):
            raise
        step = Checkpoints(Path(settings.output_dir) / "checkpoints").last_step()
        raise WorkerLostError(
            f"Worker {workers.index} of {workers.count} has lost another one. Start all again with "
            f"the same command: the run goes on {f'after step {step:,}' if step else 'anew'}. "
            f"({type(error).__name__})"
        ) from error


def _pretrain(settings, workers):
    if settings.tensorboard:
        check_tensorboard()
    if settings.batch_size % workers.replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {workers.replicas} replicas. "
            f"Received: {settings.batch_size}"
        )
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(PRECISIONS[settings.precision])
    with workers.agreed():
        source = load_source(settings.dataset)  # its split does not depend on the run's seed
        train, heldout = source.split()
        total_steps = settings.total_steps(train.num_examples)
        with workers.strategy.scope():
            model = settings.build_model(source, total_steps)
            optimizer = make_adamw(
                model, settings.learning_rate(train.num_examples), settings.weight_decay
            )
            model.compile(
                optimizer,
                # A TPU's steps are compiled whatever Keras does.
                jit_compile=settings.jit and settings.strategy != "tpu",
                accumulate_steps=settings.accumulate_steps,
                recompute=settings.recompute,
            )
    run = {**settings.fixed(), "total_steps": total_steps, "images": train.fingerprint()}
    config = {
        "run": run,
        "settings": dataclasses.asdict(settings),
        "model": model.get_config(),
        "training_images": train.num_examples,
        "heldout_images": heldout.num_examples,
        "command": sys.argv,
        "environment": environment(),
    }
    directory, has_ended = _open_directory(settings, config, workers)
    if has_ended:
        results = json.loads((directory / "results.json").read_text())
        if workers.is_chief:
            print(f"This run has ended. --overwrite starts it over. Output: {directory}")
            _print_results(results)
        return results
    if workers.is_chief:
        print(
            f"{model.count_params():,} parameters, {model.encoder.count_params():,} of them in the "
            f"encoder; {train.num_examples:,} images to train on, {heldout.num_examples:,} held "
            f"out; {total_steps:,} steps of {settings.batch_size} images. Output: {directory}"
        )

    skips = SkipLog(
        directory / workers.own_name("skipped.jsonl"), max_bad_fraction=settings.max_bad_fraction
    )
    try:
        results = _train_and_evaluate(model, train, heldout, directory, settings, workers, skips)
    except Exception:
        if skips.error is not None:  # TensorFlow has wrapped it
            raise skips.error from None
        raise
    if workers.is_chief:
        write_json(directory / "results.json", results)
        _print_results(results)
    workers.any(False)  # the others wait here for the chief, who writes
    return results if workers.is_chief else json.loads((directory / "results.json").read_text())


def _open_directory(settings, config, workers):
    """Make or open the output directory, and return it and whether the run in it has ended.

    The chief does it; the others see whether what it has written is of the same run.
    """
    directory, has_ended = Path(settings.output_dir), False
    with workers.agreed():
        if workers.is_chief:
            prepare_output_dir(
                directory, config["run"], settings.resume == "auto", settings.overwrite
            )
            has_ended = (directory / "results.json").exists()
            if not has_ended:
                write_json(directory / "config.json", config)
    with workers.agreed():
        if not workers.is_chief:
            _wait_for(directory / "config.json")
            prepare_output_dir(directory, config["run"])
    return directory, workers.any(has_ended)


def _wait_for(path, seconds=10):
    """Wait for a file that the chief has written: a file system may show it some moments later."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(
                "`output_dir` must be a directory that all workers share. "
                f"Received: {path.parent}, where the chief's {path.name} is not to be seen"
            )
        time.sleep(0.2)


def _train_and_evaluate(model, train, heldout, directory, settings, workers, skips):
    """Train, write models and figures, and return what goes into `results.json`.

    The workers that do not write return the held-out loss alone.
    """
    pixels = {"image_size": model.image_size, "mean": model.mean, "std": model.std}
    pixels["on_skip"] = skips
    labelled = settings.probe and train.num_classes is not None and train.num_classes > 1
    train_probe, heldout_probe = (
        _at_most(part, settings.probe_images) for part in (train, heldout)
    )
    probe_sets = [
        eval_dataset(probe, batch_size=EVAL_BATCH, with_labels=labelled, **pixels)
        for probe in (train_probe, heldout_probe)
    ]
    baselines, features = {}, {}
    if workers.is_chief:
        baselines["mean_predictor"] = mean_predictor_loss(model, *probe_sets)
        if labelled:
            features["raw pixels"] = pixel_features(probe_sets)
            with workers.one_device():
                encoder = _local_copy(model, workers).encoder
                features["encoder, random init"] = encoder_features(encoder, probe_sets)

    validation = _validation_data(heldout_probe, probe_sets[1], pixels, workers)
    start = time.perf_counter()
    _fit(model, train, validation, directory, settings, baselines, pixels, workers)
    results = {
        "training_seconds": round(time.perf_counter() - start, 1),
        "heldout_loss": model.evaluate(validation, verbose=0, return_dict=True)["loss"],
    }
    if not workers.is_chief:
        return results
    results["mean_predictor_loss"] = baselines["mean_predictor"]
    save_model(model, directory / "mae.keras")
    with workers.one_device():
        model = _local_copy(model, workers)
        _write_encoder_and_figures(model, directory, heldout, probe_sets[1], baselines)
        if labelled:
            features["encoder, pre-trained"] = encoder_features(model.encoder, probe_sets)
            results["accuracy"] = compare_features(features, train.num_classes, settings.seed)
    return results


def _write_encoder_and_figures(model, directory, heldout, probe_set, baselines):
    save_model(model.encoder, directory / "encoder.keras")
    if keras.backend.backend() == "tensorflow":
        shutil.rmtree(directory / "encoder", ignore_errors=True)  # of a run cut right after it
        export_encoder(
            model.encoder,
            directory / "encoder",
            check_dataset=heldout,
            fresh_process=False,
            warmup=False,
        )
    else:
        print("encoder/1 is not written: a SavedModel needs KERAS_BACKEND=tensorflow.")
    first = next(iter(probe_set))
    shown = np.asarray(first[0] if isinstance(first, tuple) else first)
    spread = np.linspace(0, len(shown) - 1, min(FIGURE_IMAGES, len(shown))).astype(int)
    reconstruction_figure(model, shown[spread], directory / "figures" / "reconstructions.png")
    loss_figure(
        directory / "metrics.jsonl",
        directory / "figures" / "loss.png",
        {"per-position mean predictor": baselines["mean_predictor"]},
    )


def _local_copy(model, workers):
    """Return a copy of a model on one device of this worker; the model itself if it is on one.

    Calling a replicated model takes all replicas, and gives the result of each.
    """
    if workers.replicas == 1:
        return model
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _validation_data(heldout, probe_set, pixels, workers):
    """Return the held-out images as `fit` takes them, each once, whatever number of replicas."""
    if workers.replicas == 1:
        return probe_set
    if not isinstance(workers.strategy, tf.distribute.Strategy):
        # Keras wants batches that its devices can share alike: an image or two may be left out.
        count = heldout.num_examples - heldout.num_examples % workers.replicas
        heldout = heldout.subset(np.arange(count))
        batch_size = _round_up(EVAL_BATCH, workers.replicas)
        return eval_dataset(heldout, batch_size=batch_size, with_labels=False, **pixels)
    batch_size = _round_up(EVAL_BATCH, workers.replicas)

    def share(num_shards, shard_index):
        return eval_dataset(
            heldout,
            batch_size=batch_size,
            with_weights=True,
            num_shards=num_shards,
            shard_index=shard_index,
            **pixels,
        )

    return workers.distribute(share, batch_size)


def _fit(model, train, validation, directory, settings, baselines, pixels, workers):
    """Train from the last good checkpoint, or from the start, to the end."""
    total_steps = settings.total_steps(train.num_examples)
    checkpoints = Checkpoints(directory / "checkpoints", settings.keep)
    with workers.agreed():
        step = checkpoints.load(run_variables(model)) or 0
    if not workers.same(step):
        raise ValueError(
            "`output_dir` must be a directory that all workers share. Received: "
            f"{directory}, whose newest whole checkpoint is of step {step} for worker "
            f"{workers.index}, and of another for others"
        )
    save = SaveCheckpoints(
        checkpoints,
        total_steps,
        step,
        settings.checkpoint_steps,
        settings.checkpoint_minutes,
        workers,
    )
    skipped = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: _print_skipped(pixels["on_skip"])
    )
    metrics, board = directory / "metrics.jsonl", None
    if workers.is_chief:
        trim_metrics(metrics, step)
        if step:
            print(f"Going on after step {step:,}.")
        if settings.tensorboard:
            board = TensorBoardLog(directory / "tensorboard", metrics)
    log = MetricsLog(
        metrics if workers.is_chief else None,
        settings.batch_size,
        total_steps,
        start_step=step,
        interval=LOG_INTERVAL,
        baselines=baselines,
        verbose=workers.is_chief,
        board=board,
    )
    keep_model = [SaveLastGood(directory / "mae.keras")] if workers.is_chief else []
    # Whole epochs on the progress bar, though the data's may end inside a batch.
    epochs = max(1, round(total_steps * settings.batch_size / train.num_examples))
    steps_per_epoch = -(-total_steps // epochs)
    # Keras cannot know how long a data set is whose bad images are left out, and says so.
    warnings.filterwarnings("ignore", message="Your input ran out of data")

    def share(num_shards, shard_index):
        """This worker's part of all batches after the last step done."""
        return pretrain_dataset(
            train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            start_step=step,
            resize=settings.resize,
            crops_per_image=settings.crops_per_image,
            num_shards=num_shards,
            shard_index=shard_index,
            **pixels,
        )

    with save.signals():
        while step < total_steps:
            # An epoch that was cut is ended first, then the others follow in one go.
            epoch, done = divmod(step, steps_per_epoch)
            model.fit(
                workers.distribute(share, settings.batch_size),
                initial_epoch=epoch,
                epochs=epoch + 1 if done else epochs,
                steps_per_epoch=steps_per_epoch - done,
                validation_data=validation,
                shuffle=False,
                verbose=0,
                callbacks=[log, *keep_model, skipped, save],
            )
            step = save.step
    if board is not None:
        board.close()


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


def _round_up(count, divisor):
    return -(-count // divisor) * divisor


def _at_most(source, count):
    """Return a source, or a random, fixed subset of `count` of its examples where it has more."""
    if source.num_examples <= count:
        return source
    return source.subset(np.random.default_rng(0).permutation(source.num_examples)[:count])

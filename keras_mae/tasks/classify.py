"""A fine-tuning run, from an encoder and labelled images to a classifier and its accuracy."""

import dataclasses
import hashlib
import json
import sys
import time
import warnings
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_mae.data import SkipLog, eval_dataset, load_source
from keras_mae.data.finetune import balanced_subset, features_dataset, finetune_dataset
from keras_mae.evaluation.confusion import confusion_matrix
from keras_mae.evaluation.features import extract_features
from keras_mae.evaluation.knn import knn_predict
from keras_mae.files import environment, save_model, write_json
from keras_mae.interop import load_encoder
from keras_mae.models import ViTEncoder
from keras_mae.models.classifier import ViTClassifier
from keras_mae.models.saved_model_encoder import SavedModelEncoder
from keras_mae.plots.confusion import confusion_figure
from keras_mae.presets import preset_config
from keras_mae.settings.pretrain import PRECISIONS
from keras_mae.training import LARS, MetricsLog, make_adamw
from keras_mae.training.averaging import ValidateAveraged, use_averages
from keras_mae.training.callbacks import trim_metrics
from keras_mae.training.checkpoints import Checkpoints, SaveCheckpoints, run_variables
from keras_mae.training.devices import make_strategy
from keras_mae.training.directory import prepare_output_dir
from keras_mae.training.layer_decay import layer_rate_scales

LOG_INTERVAL = 10  # steps
EVAL_BATCH = 250
LEAST_FOR_TOP5 = 6  # classes


def finetune(settings):
    """Put an encoder to the test that `settings` describe, and write the output directory.

    It holds `config.json`, `results.json` and `figures/confusion.png`; for all protocols but "knn"
    `metrics.jsonl` and `model.keras`, a `ViTClassifier`; and `skipped.jsonl` if an image could not
    be read.

    Args:
        settings: a `FinetuneSettings`.
    Returns:
        dict, as in `results.json`: "protocol", "top1" and "top5" (None for fewer than 6 classes,
        and for kNN) on the held-out images, in [0, 1], "val_curve" (top-1 after each epoch),
        "training_seconds", "train_examples", "heldout_examples", "trainable_blocks", and for kNN
        "knn" (k to top-1). With `dry_run`, an empty dict, and nothing is written.
    Raises:
        ValueError: for a setting, an encoder or a data set that does not fit, before any training.
        NonFiniteLossError: if the loss becomes NaN or infinite.
        Interrupted: after a signal; the same settings go on from there.
    """
    strategy = make_strategy(settings.strategy, settings.logical_devices)
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(PRECISIONS[settings.precision])
    source = load_source(settings.dataset)  # its split does not depend on the run's seed
    num_classes = check_labels(source, settings.num_classes)
    train, heldout = source.split()
    if settings.train_examples is not None:
        train = balanced_subset(train, settings.train_examples, settings.seed)
    with strategy.scope():
        encoder = _encoder(settings, source)
        settings = _for_saved_model(settings, encoder)
        settings = settings.with_recipe(_image_size(settings, encoder), train.num_examples)
        _check_fit(settings, encoder, source, train, strategy)
        model = _classifier(settings, encoder, num_classes)
        optimizer = None if settings.protocol == "knn" else _optimizer(settings, model, train)
    print(settings.recipe_text())
    if settings.dry_run:
        print(rates_table(model, optimizer))
        return {}
    run = {
        **settings.fixed(),
        "images": train.fingerprint(),
        "encoder_weights": _digest(model.encoder),
    }
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
        "class_names": source.class_names,
        "training_images": train.num_examples,
        "heldout_images": heldout.num_examples,
        "command": sys.argv,
        "environment": environment(),
    }
    write_json(directory / "config.json", config)
    print(
        f"{train.num_examples:,} images to train on, {heldout.num_examples:,} held out, "
        f"{num_classes} classes. Output: {directory}"
    )
    skips = SkipLog(directory / "skipped.jsonl", max_bad_fraction=settings.max_bad_fraction)
    try:
        with strategy.scope():
            job = _Job(settings, model, optimizer, train, heldout, directory, skips, strategy)
            results = job.neighbours() if settings.protocol == "knn" else job.train()
    except Exception:
        if skips.error is not None:  # TensorFlow has wrapped it
            raise skips.error from None
        raise
    predicted, labels = results.pop("predicted"), results.pop("labels")
    matrix = confusion_matrix(labels, predicted, num_classes)
    confusion_figure(matrix, directory / "figures" / "confusion.png", source.class_names)
    results = {
        "protocol": settings.protocol,
        **results,
        "train_examples": train.num_examples,
        "heldout_examples": len(labels),
        "num_classes": num_classes,
        "trainable_blocks": settings.trainable_blocks,
        "confusion_matrix": matrix.tolist(),
    }
    write_json(directory / "results.json", results)
    _print_results(results)
    return results


def check_labels(source, num_classes=None):
    """Return how many outputs a head for a data set has, or say why it can have none.

    Args:
        source: a `Source`.
        num_classes: int or None: as many as the data set has classes.
    Raises:
        ValueError: without labels, with one class, with more classes than `num_classes`, or with
            labels out of range.
    """
    known = source.labels()
    classes = source.num_classes
    if classes is None:
        raise ValueError(f"`dataset` must have labels. Received: {source.name!r}, without any")
    if classes < 2 or (known is not None and len(np.unique(known)) < 2):
        raise ValueError(
            f"`dataset` must have images of at least 2 classes. Received: {source.name!r}, with one"
        )
    if num_classes is not None and classes > num_classes:
        raise ValueError(
            f"`num_classes` must be at least the {classes} classes of {source.name!r}. "
            f"Received: {num_classes}"
        )
    num_classes = num_classes or classes
    if known is not None and not 0 <= known.min() <= known.max() < num_classes:
        raise ValueError(
            f"`dataset` must have labels in [0, {num_classes}). Received: {source.name!r}, with "
            f"labels from {known.min()} to {known.max()}"
        )
    return num_classes


def _encoder(settings, source):
    """Return the encoder to start from: the given one, or a new one of the preset's sizes."""
    if settings.encoder is not None:
        return load_encoder(settings.encoder, source.mean, source.std)
    config = preset_config(settings.preset)
    config = {k: v for k, v in config.items() if not k.startswith("decoder_")}
    if source.image_size is not None and max(source.image_size) <= config["image_size"]:
        config["image_size"] = source.image_size
    config["channels"] = source.channels
    return ViTEncoder(**config, mean=source.mean, std=source.std)


def _for_saved_model(settings, encoder):
    """Return settings without what cannot be done to a SavedModel; refuse what was asked for."""
    if not isinstance(encoder, SavedModelEncoder):
        return settings
    if settings.protocol in ("scratch", "partial"):
        raise ValueError(
            f"`protocol` must be full, linear or knn for a SavedModel, in which blocks cannot be "
            f"told apart. Received: {settings.protocol!r}"
        )
    for name, only in (("layer_decay", 1.0), ("drop_path", 0.0), ("pooled_blocks", 1)):
        if getattr(settings, name) not in (None, only):
            raise ValueError(
                f"`{name}` must be {only:g} or None for a SavedModel, in which blocks cannot be "
                f"told apart. Received: {getattr(settings, name)}"
            )
    return dataclasses.replace(settings, layer_decay=1.0, drop_path=0.0)


def _image_size(settings, encoder):
    if settings.image_size is None:
        return encoder.image_size
    return tuple(settings.image_size) if len(settings.image_size) == 2 else settings.image_size * 2


def _check_fit(settings, encoder, source, train, strategy):
    if encoder.channels != source.channels:
        raise ValueError(
            f"`encoder` must take the {source.channels} channels of {source.name!r}. "
            f"Received: an encoder of {encoder.channels}"
        )
    replicas = strategy.num_replicas_in_sync
    if settings.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {replicas} replicas. "
            f"Received: {settings.batch_size}"
        )
    if settings.protocol == "knn" and max(settings.knn) > train.num_examples:
        raise ValueError(
            f"`knn` must be at most the {train.num_examples} training images. "
            f"Received: {settings.knn}"
        )


def _classifier(settings, encoder, num_classes):
    """Return the model; for "scratch" of the encoder's architecture, all weights new."""
    if settings.protocol == "scratch":
        encoder = type(encoder).from_config(encoder.get_config())
    frozen = settings.protocol in ("linear", "knn")
    return ViTClassifier(
        encoder,
        num_classes,
        pooling=settings.pooling,
        pooled_blocks=settings.pooled_blocks,
        head_norm="batch" if frozen else "auto",
        drop_path=settings.drop_path,
        trainable_blocks=0 if frozen else settings.trainable_blocks,
        image_size=settings.image_size and _image_size(settings, encoder),
        seed=settings.seed,
        dtype=PRECISIONS[settings.precision],
    )


def _optimizer(settings, model, train):
    schedule = settings.learning_rate(train.num_examples)
    if settings.protocol == "linear":
        return LARS(schedule, lars_weight_decay=settings.weight_decay)
    ema = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
    return make_adamw(
        model,
        schedule,
        weight_decay=settings.weight_decay,
        beta_2=settings.beta_2,
        rate_scales=layer_rate_scales(model, settings.layer_decay),
        **ema,
    )


def rates_table(model, optimizer):
    """Return, as lines of text, each variable's peak learning rate, decay, and whether it trains.

    Args:
        model: a `ViTClassifier`.
        optimizer: what it is to be compiled with, a warm-up and cosine as its learning rate; None
            where nothing is trained.
    """
    trainable = model.trainable_variables
    rates, decays = {}, {}
    if optimizer is not None:
        schedule = optimizer._learning_rate
        peak = getattr(schedule, "warmup_target", None) or schedule.initial_learning_rate
        scales = getattr(optimizer, "rate_scales", None) or [1.0] * len(trainable)
        rates = {id(v): peak * scale for v, scale in zip(trainable, scales, strict=True)}
        for v in trainable:
            if isinstance(optimizer, LARS):
                decays[id(v)] = optimizer.lars_weight_decay if len(v.shape) > 1 else 0.0
            else:
                decays[id(v)] = optimizer.weight_decay if optimizer._use_weight_decay(v) else 0.0
    width = max(len(v.path) for v in model.variables)
    lines = [f"{'variable':<{width}}  {'shape':<16}  peak rate  decay  trained"]
    for v in model.variables:
        trained = id(v) in rates
        lines.append(
            f"{v.path:<{width}}  {tuple(v.shape)!s:<16}  {rates.get(id(v), 0):>9.3g}  "
            f"{decays.get(id(v), 0):>5.3g}  {'yes' if trained else 'no'}"
        )
    return "\n".join(lines)


class _Job:
    """What a run does with model and images, one method a protocol."""

    def __init__(self, settings, model, optimizer, train, heldout, directory, skips, strategy):
        self.settings = settings
        self.model = model
        self.optimizer = optimizer
        self.train_source = train
        self.heldout = heldout
        self.directory = directory
        self.skips = skips
        self.replicas = strategy.num_replicas_in_sync
        self.total_steps = None if optimizer is None else settings.total_steps(train.num_examples)
        encoder = model.encoder
        self.pixels = {"image_size": encoder.image_size, "mean": encoder.mean, "std": encoder.std}
        self.pixels["on_skip"] = skips
        self.evaluation = [
            eval_dataset(part, batch_size=EVAL_BATCH, **self.pixels) for part in (train, heldout)
        ]

    def neighbours(self):
        start = time.perf_counter()
        (features, labels), (queries, wanted) = self._features()
        predicted = knn_predict(
            features, labels, queries, self.model.num_classes, ks=self.settings.knn
        )
        accuracy = {str(k): float(np.mean(predicted[k] == wanted)) for k in self.settings.knn}
        first = self.settings.knn[0]
        return {
            "top1": accuracy[str(first)],
            "top5": None,
            "knn": accuracy,
            "val_curve": [],
            "training_seconds": round(time.perf_counter() - start, 1),
            "predicted": predicted[first],
            "labels": wanted,
        }

    def train(self):
        start = time.perf_counter()
        settings, model = self.settings, self.model
        kept = settings.feature_views or settings.augmentation == "none"
        if settings.protocol == "linear" and kept:
            self._train_on_features()
        else:
            heldout = self.evaluation[1].map(self._one_hot)
            self._fit(model, self._batches, heldout)
            if settings.ema:
                use_averages(model)
        seconds = round(time.perf_counter() - start, 1)
        save_model(model, self.directory / "model.keras")
        logits, labels = self._logits()
        order = np.argsort(-logits, axis=1, kind="stable")
        top5 = float((order[:, :5] == labels[:, None]).any(axis=1).mean())
        lines = (self.directory / "metrics.jsonl").read_text().splitlines()
        curve = [line["val_top1"] for line in map(json.loads, lines) if "val_top1" in line]
        return {
            "top1": float((order[:, 0] == labels).mean()),
            "top5": top5 if model.num_classes >= LEAST_FOR_TOP5 else None,
            "val_curve": curve,
            "training_seconds": seconds,
            "predicted": order[:, 0],
            "labels": labels,
        }

    def _train_on_features(self):
        """Train the head alone, on features that are computed once."""
        model = self.model
        (features, labels), (queries, wanted) = self._features(self.settings.feature_views)
        head = keras.Sequential(
            [keras.Input((features.shape[1],)), model.feature_norm, model.head], name="probe"
        )
        heldout = tf.data.Dataset.from_tensor_slices((queries, wanted)).batch(EVAL_BATCH)

        def batches(step):
            return features_dataset(
                features,
                labels,
                num_classes=model.num_classes,
                batch_size=self.settings.batch_size,
                seed=self.settings.seed,
                start_step=step,
            )

        self._fit(head, batches, heldout.map(self._one_hot), jit=False)

    def _validation_epochs(self):
        """Return after how many epochs to validate: each, where images to train on abound."""
        return -(-2 * self.heldout.num_examples // self.train_source.num_examples)

    def _features(self, views=0):
        """Return (features, labels) of the training and of the held-out images.

        Args:
            views: int. Augmented views of each training image, one after the other; 0: each image
                as it is evaluated.
        """
        train, heldout = self.evaluation
        if views and self.settings.augmentation != "none":
            count = views * self.train_source.num_examples
            train = self._batches(0, EVAL_BATCH).take(-(-count // EVAL_BATCH))
            train = train.map(lambda images, labels: (images, tf.argmax(labels, axis=1)))
        model, pooling = self.model, self.settings.pooling
        predict = _predictor(partial(model.encoder, last_blocks=model.pooled_blocks))
        features, queries = (extract_features(predict, d, pooling) for d in (train, heldout))
        if views:  # the last batch has begun one view more
            features = [part[: views * self.train_source.num_examples] for part in features]
        return features, queries

    def _batches(self, step, batch_size=None):
        settings = self.settings
        return finetune_dataset(
            self.train_source,
            batch_size=batch_size or settings.batch_size,
            num_classes=self.model.num_classes,
            seed=settings.seed,
            start_step=step,
            augmentation=None if settings.augmentation == "source" else settings.augmentation,
            resize=settings.resize,
            randaugment=settings.randaugment,
            erasing=settings.erasing,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            **self.pixels,
        )

    def _one_hot(self, images, labels):
        return images, tf.one_hot(labels, self.model.num_classes)

    def _logits(self):
        """Return logits `(n, classes)` and labels `(n,)` of the held-out images."""
        logits, labels, predict = [], [], _predictor(self.model)
        for images, batch_labels in self.evaluation[1]:
            logits.append(np.asarray(predict(images)))
            labels.append(np.asarray(batch_labels))
        return np.concatenate(logits), np.concatenate(labels)

    def _fit(self, model, batches, heldout, jit=True):
        """Train `model` from the last good checkpoint, or from the start, to the end.

        Args:
            model: the classifier, or its head alone.
            batches: function, step to the endless data set that starts there.
            heldout: data set of (inputs, one-hot labels).
            jit: bool. False where compiling costs more than it can save.
        """
        settings, total_steps, log_path = self.settings, self.total_steps, "metrics.jsonl"
        metrics = [keras.metrics.CategoricalAccuracy(name="top1")]
        if self.model.num_classes >= LEAST_FOR_TOP5:
            metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
        model.compile(
            self.optimizer,
            keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=settings.label_smoothing
            ),
            metrics=metrics,
            jit_compile=jit and settings.jit and self.replicas == 1,  # Keras cannot under replicas
        )
        model.optimizer.build(model.trainable_variables)
        # Metrics make their variables when first used, and a checkpoint holds them.
        model.evaluate(heldout.take(1), verbose=0)
        model.reset_metrics()
        checkpoints = Checkpoints(self.directory / "checkpoints", settings.keep)
        step = checkpoints.load(run_variables(model)) or 0
        trim_metrics(self.directory / log_path, step)
        if step:
            print(f"Going on after step {step:,}.")
        log = MetricsLog(
            self.directory / log_path,
            settings.batch_size,
            total_steps,
            start_step=step,
            interval=LOG_INTERVAL,
        )
        save = SaveCheckpoints(
            checkpoints, total_steps, step, settings.checkpoint_steps, settings.checkpoint_minutes
        )
        averaged = [ValidateAveraged()] if settings.ema else []
        # Whole epochs on the progress bar, though the data's may end inside a batch.
        steps_per_epoch = -(-self.train_source.num_examples // settings.batch_size)
        epochs = -(-total_steps // steps_per_epoch)
        every = settings.validation_epochs or self._validation_epochs()
        # Keras cannot know how long a data set is whose bad images are left out, and says so.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        with save.signals():
            while step < total_steps:
                # An epoch that was cut is ended first, then the others follow in one go.
                epoch, done = divmod(step, steps_per_epoch)
                model.fit(
                    batches(step),
                    initial_epoch=epoch,
                    epochs=epoch + 1 if done else epochs,
                    steps_per_epoch=steps_per_epoch - done,
                    validation_data=heldout,
                    validation_freq=[*range(every, epochs, every), epochs],
                    shuffle=False,
                    verbose=0,
                    callbacks=[log, *averaged, save],
                )
                step = save.step


def _predictor(model):
    """Return a graph from images to the output of a model, or of a function like one.

    Not `predict_on_batch`, which under a strategy gives each replica's output to the same images.
    """
    return tf.function(lambda images: model(images, training=False), reduce_retracing=True)


def _digest(encoder):
    """Return a hex digest of an encoder's weights: two paths to the same weights agree."""
    digest = hashlib.blake2b(digest_size=16)
    for variable in encoder.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()


def _print_results(results):
    parts = [f"top-1 {results['top1']:.1%}"]
    if results["top5"] is not None:
        parts.append(f"top-5 {results['top5']:.1%}")
    parts += [f"kNN k={k}: {value:.1%}" for k, value in results.get("knn", {}).items()]
    print(
        f"\n{results['protocol']}, {results['train_examples']:,} training images: "
        f"{', '.join(parts)} of {results['heldout_examples']:,} held-out images. "
        f"Took {results['training_seconds']:.0f} s."
    )

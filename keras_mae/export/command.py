"""`scripts/export.py` and `scripts/serve_check.py`: from flags to calls.

The flags are made of `Option`s: those of all exports, and those of the format that is named. Their
faults are all told at once, before TensorFlow is imported.
"""

import contextlib
import inspect
import json
import sys

from absl import flags, logging

from keras_mae import registry
from keras_mae.export.formats.base import ExportError, Format, Option

FORMATS = "keras_mae.export.formats"
REQUIRED = ("model", "output")
EXPORT = (
    Option("model", str, None, "the model: a file or a folder."),
    Option(
        "output",
        str,
        None,
        "directory. A SavedModel goes to its next free version, OUTPUT/1 at first; for other "
        "formats it must be new.",
    ),
    Option(
        "format",
        str,
        "saved_model",
        f"what to write: {', '.join(registry.names(FORMATS))}, or MODULE:CLASS for your own.",
    ),
    Option("image_size", str, None, "SIDE or HEIGHT,WIDTH; positions follow."),
    Option(
        "check_dataset",
        str,
        None,
        "images compared: mnist5k, photos, folder:PATH, tfds:NAME[:SPLIT], tfrecord:GLOB. "
        "Default: embedded digits or photographs, by the model's channels.",
    ),
    Option("num_check_images", int, 16, "how many of them.", least=1),
    Option("loads", int, 1, "new processes that each load the file and compare.", least=1),
)
SERVE_CHECK = (Option("saved_model", str, None, "NAME/VERSION, or NAME for its newest version."),)


def export(argv):
    """Export an encoder or a classifier for use without this library, and check what was written.

        python scripts/export.py --model=saved_models/mae_mnist5k --output=exported/encoder
        python scripts/export.py --model=encoder.keras --format=litert --output=exported/litert

    The model is a file or folder that `keras_mae.load_pretrained` knows. LiteRT, ONNX and the
    warm-up requests of a SavedModel (--nowarmup) need `pip install "keras_mae[export]"`.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        name = named_format(argv)
        if _wants_help(argv):
            print(help_text(export.__doc__, export_groups(name)))
            return
        options = registry.find(FORMATS, name, Format, "format").OPTIONS
        values = read_flags(argv, [*EXPORT, *options], REQUIRED)
        path = run_export(values)
    except (ValueError, ImportError, OSError, flags.Error, ExportError) as error:
        sys.exit(f"error: {error}")
    from keras_mae.export.card import format_card

    directory = path if path.is_dir() else path.parent
    print(format_card(json.loads((directory / "card.json").read_text())))
    print(f"Written: {path}")


def run_export(values):
    """Export what a dict of values says.

    Args:
        values: dict, name to value, of `EXPORT` and the format's options.
    Returns:
        `Path`, see `keras_mae.export.export_encoder`.
    Raises:
        what `export_encoder` raises.
    """
    values = dict(values)
    size = values.pop("image_size")
    if size is not None:
        sides = size.split(",")
        if not all(side.strip().isdecimal() for side in sides) or len(sides) > 2:
            raise ValueError(f"`image_size` must be SIDE or HEIGHT,WIDTH. Received: {size!r}")
        size = tuple(int(side) for side in sides) if len(sides) == 2 else int(size)
    from keras_mae.export.write import export_encoder

    return export_encoder(values.pop("model"), values.pop("output"), image_size=size, **values)


def serve_check(argv):
    """Check that TF Serving will serve a SavedModel, without its binary, and print how to ask it.

        python scripts/serve_check.py --saved_model=exported/encoder

    It opens the model with the loader of sessions, as the server does; sends itself the warm-up
    requests; and calls it over gRPC with TF Serving's own client and messages. It needs
    `pip install "keras_mae[export]"`.
    """
    logging.set_verbosity(logging.ERROR)  # the loader's word on its own age
    try:
        if _wants_help(argv):
            print(help_text(serve_check.__doc__, {"flags": SERVE_CHECK}))
            return
        values = read_flags(argv, SERVE_CHECK, ["saved_model"])
        problems = run_serve_check(values)
    except (ValueError, ImportError, OSError, flags.Error) as error:
        sys.exit(f"error: {error}")
    if problems:
        sys.exit("error: " + "; ".join(problems))


def run_serve_check(values):
    """Check what a dict of values says, and print it line by line.

    Args:
        values: {"saved_model": path}.
    Returns:
        list of str: what is wrong; empty if nothing is.
    """
    from keras_mae.export.serve_check import find_version
    from keras_mae.export.serve_check import serve_check as check
    from keras_mae.export.serving import serving_apis, serving_commands

    path = find_version(values["saved_model"])
    serving_apis()
    problems = check(path)
    print(f"\nServe it and ask it:\n\n{serving_commands(path)}")
    return problems


def named_format(argv):
    """Return the value of --format, whatever the other flags are."""
    (option,) = (option for option in EXPORT if option.name == "format")
    found, _ = _flag_values([option], argv)
    return _parse(option, found["format"].value)


def read_flags(argv, options, required=()):
    """Return the values of flags, name to value, defaults included.

    Args:
        argv: list of str, the program's name first.
        options: list of `Option`.
        required: names of those that must be given.
    Raises:
        ValueError: for flags that are not known and values that do not fit, all in one message.
    """
    found, rest = _flag_values(options, argv)
    faults, values = [], {}
    if unknown := [argument for argument in rest if argument.startswith("-")]:
        faults.append(f"Flags must be among those that --help lists. Received: {unknown}")
    elif rest:
        faults.append(f"Arguments must be flags (--name=value). Received: {rest}")
    for option in options:
        text = found[option.name].value
        try:
            values[option.name] = _parse(option, text)
        except ValueError as error:
            faults.append(str(error))
        if option.name in required and text is None:
            faults.append(f"`{option.name}` must be given: --{option.name}=VALUE")
    if faults:
        raise ValueError("; ".join(faults))
    return values


def _flag_values(options, argv):
    """Return `(found, rest)`: absl's flags, whose values are texts and bools, and what is no flag.

    Args:
        options: list of `Option`, the flags.
        argv: list of str, the program's name first.
    """
    found = flags.FlagValues()
    for option in options:
        define = flags.DEFINE_bool if option.type is bool else flags.DEFINE_string
        define(option.name, None, option.help, flag_values=found)
    return found, found(argv, known_only=True)[1:]


def _parse(option, value):
    if value is None:
        return option.default
    with contextlib.suppress(ValueError):  # `check` names what is expected
        value = option.type(value)
    option.check(value)
    return value


def export_groups(name):
    """Return the groups of --help: a heading to its options.

    Args:
        name: str, of the format chosen, which is listed if it is the user's own.
    """
    names = registry.names(FORMATS)
    groups = {"flags of all formats": EXPORT}
    for each in [*names, *([] if name in names else [name])]:
        kind = registry.find(FORMATS, each, Format, "format")
        groups[f"flags of --format={each}"] = kind.OPTIONS
    return groups


def help_text(text, groups):
    """Return what --help prints: a function's docstring, then flags by group."""
    lines = [inspect.cleandoc(text)]
    for heading, options in groups.items():
        lines += ["", f"{heading}:"]
        for option in options:
            negation = "[no]" if option.type is bool else ""
            said = option.help
            if option.choices is not None:
                said += f" One of: {', '.join(map(str, option.choices))}."
            if option.default is not None:
                said += f" Default: {str(option.default).lower()}."
            lines.append(f"  --{negation}{option.name}: {said}")
    return "\n".join(lines)


def _wants_help(argv):
    return any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv[1:])

"""`keras-mae COMMAND` and `scripts/*.py`: settings from flags, then one function a command.

A wrong flag is told before anything heavy is imported.
"""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from keras_mae.commands import flags
from keras_mae.errors import Interrupted, RunError
from keras_mae.quiet import quiet_import, set_environment
from keras_mae.settings.fields import SettingsError


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        settings: str, MODULE:CLASS of its settings, or MODULE:FUNCTION that returns the class for
            the arguments; the module must be light.
        function: str, MODULE:FUNCTION that gets the settings; imported when all is checked.
        about: str, for `--help`: a line, then examples.
        positional: str, the setting that takes arguments without a name; or None.
    """

    settings: str
    function: str
    about: str
    positional: str | None = None


COMMANDS = {
    "pretrain": Command(
        "keras_mae.settings.pretrain:PretrainSettings",
        "keras_mae.tasks.pretrain:pretrain",
        """Pre-train a masked autoencoder on images, and keep its encoder.

Without flags: 5,000 embedded images of digits, some minutes on two cores.

    {program}
    {program} --dataset=folder:photos --preset=mae_vit_base_patch16 --epochs=400""",
    ),
    "finetune": Command(
        "keras_mae.settings.finetune:FinetuneSettings",
        "keras_mae.tasks.finetune:finetune",
        """Put a pre-trained encoder to work on labelled images: fine-tune, probe, neighbours.

Flags that are not given follow the recipe of the protocol, which is printed.

    {program} --encoder=saved_models/mae_mnist5k
    {program} --encoder=saved_models/mae_mnist5k --protocol=linear
    {program} --encoder=saved_models/mae_mnist5k --train_examples=500
    {program} --encoder=mae_pretrain_vit_base.pth --dataset=folder:photos""",
    ),
    "report": Command(
        "keras_mae.settings.report:ReportSettings",
        "keras_mae.commands.functions:report",
        """Measure what an encoder is good for, for several seeds, and write a page with charts.

The page has linear probes, nearest neighbours, full and partial fine-tuning, training from
scratch, and raw pixels. The same command goes on where it was cut; other settings add to what
is there.

    {program} --encoder=saved_models/mae_mnist5k/encoder.keras --dataset=mnist5k
    {program} --encoder='saved_models/mae_{{seed}}/encoder.keras' --seeds=0,1,2
    {program} --sweep=mask_ratio=.25,.5,.6,.75,.9 --sweep=masking=random,block,grid""",
    ),
    "export": Command(
        "keras_mae.commands.export_settings:export_settings",
        "keras_mae.commands.functions:export",
        """Export an encoder or a classifier for use without this library, and check the files.

Every format needs `pip install "keras_mae[export]"`, a SavedModel only for its warm-up requests
(--nowarmup).

    {program} --model=saved_models/mae_mnist5k --output=exported/encoder
    {program} --model=encoder.keras --format=litert --output=exported/encoder_litert""",
    ),
    "convert": Command(
        "keras_mae.settings.tools:ConvertSettings",
        "keras_mae.commands.functions:convert",
        """Turn a checkpoint of one library into another's, and check what was written.

Files of PyTorch, read or written, need `pip install "keras_mae[interop]"`; weights on the Hugging
Face hub (hf://) "keras_mae[hub]"; writing KerasHub's presets "keras_mae[keras_hub]".

    {program} --source=downloads/vit-mae-base --target=mae.keras --format=keras
    {program} --source=saved_models/mae_mnist5k --target=mae_hf --format=hf
    {program} --source=hf://facebook/vit-mae-base --target=preset --format=keras_hub""",
    ),
    "push": Command(
        "keras_mae.settings.tools:PushSettings",
        "keras_mae.commands.functions:push",
        """Put a model on the Hugging Face hub, with a model card made from its run.

It needs `pip install "keras_mae[hub]"` and a token that may write: in HF_TOKEN, or of `hf auth
login`. What it prints at the end opens the model again, here or with --encoder elsewhere.

    {program} --source=saved_models/mae_mnist5k --repo=me/mae-digits --licence=apache-2.0
    {program} --source=saved_models/few --repo=me/digits --licence=mit --format=keras_hub""",
    ),
    "reconstruct": Command(
        "keras_mae.settings.tools:ReconstructSettings",
        "keras_mae.commands.looking:reconstruct",
        """Hide patches of your own pictures, and see what a pre-trained model makes of the rest.

Writes one figure: each picture, masked, and rebuilt.

    {program} --model=saved_models/mae_mnist5k --image=a.png --image=b.jpg
    {program} --model=saved_models/mae_mnist5k --mask_ratio=.5 --masking=block photos/""",
        positional="image",
    ),
    "visualize": Command(
        "keras_mae.settings.tools:VisualizeSettings",
        "keras_mae.commands.looking:visualize",
        """Look inside a model, on your own pictures: attention, components, reconstructions.

Writes a figure each: what the class token looks at, by head; the principal components of patch
tokens as colours; pictures rebuilt at several mask ratios, with several strategies, or with a mask
of your own.

    {program} --model=saved_models/mae_mnist5k --image=mnist5k
    {program} --model=saved_models/mae_mnist5k --masking=random,block,grid --mask=mask.png a.png""",
        positional="image",
    ),
    "demo": Command(
        "keras_mae.settings.tools:DemoSettings",
        "keras_mae.commands.demo:demo",
        """Serve a page on this machine: hide patches of pictures, and look inside a model.

It needs `pip install "keras_mae[demo]"`. Only this machine can open the page.

    {program} --model=saved_models/mae_mnist5k
    {program} --model=saved_models/mae_mnist5k --port=8000 photos/""",
        positional="image",
    ),
    "embed": Command(
        "keras_mae.settings.embed:EmbedSettings",
        "keras_mae.tasks.embed:embed_command",
        """Write the features of images with their names; find neighbours, copies and outliers.

The same command goes on where it was cut. Images that cannot be read are listed apart.

    {program} --model=saved_models/mine --dataset=folder:photos --output=photos.npz
    {program} --model=saved_models/mine photos --whiten=64 --neighbors=5 --outliers
    {program} --model=hf://facebook/vit-mae-base photos --duplicates=0.98""",
        positional="image",
    ),
    "predict": Command(
        "keras_mae.settings.embed:PredictSettings",
        "keras_mae.tasks.predict:predict_command",
        """Write what a fine-tuned classifier says of images, a row each.

Where the images have labels, it measures the predictions too, and draws the worst mistakes. The
same command goes on where it was cut.

    {program} --model=saved_models/few picture.png photos
    {program} --model=saved_models/few --dataset=mnist5k --part=heldout
    {program} --model=exported/few --dataset=folder:new --output=new.parquet""",
        positional="image",
    ),
    "records": Command(
        "keras_mae.settings.tools:RecordsSettings",
        "keras_mae.commands.functions:records",
        """Pack the images of any data set into sharded TFRecord files.

Labels, splits and names are kept, so the same images are held out. Without --shorter_side image
files are copied as they are, not decoded. A file appears under its name only when it is whole, and
OUTPUT.index.json last: if it is there, all is there.

    {program} --dataset=folder:/data/photos --output=/data/packed/photos --shorter_side=512""",
    ),
    "serve-check": Command(
        "keras_mae.settings.tools:ServeCheckSettings",
        "keras_mae.commands.functions:serve_check",
        """Check that TF Serving will serve a SavedModel, and print how to ask it.

The server's binary is not needed. The check opens the model with the loader of sessions, as the
server does, sends itself the warm-up requests, and calls it over gRPC with TF Serving's own client
and messages. It needs
`pip install "keras_mae[export]"`.

    {program} --saved_model=exported/encoder""",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `keras-mae COMMAND --flags`.

    Args:
        arguments: list of str, the command's name first; None for the process's own.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or flags.wants_help(arguments[:1]):
        print(_overview())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"error: The command must be one of {list(COMMANDS)}. Received: {name!r}")
    run(name, rest, f"keras-mae {name}")


def run(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run one command.

    Args:
        name: str, of `COMMANDS`.
        arguments: list of str, its flags; None for the process's own.
        program: str, how it is called, for `--help`; None for the process's own.
    """
    command = COMMANDS[name]
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    program = f"python {sys.argv[0]}" if program is None else program
    try:
        cls = _settings_class(command, arguments)
    except ValueError as error:
        flags.refuse([flags.as_flags(str(error), ["format"])])
    if flags.wants_help(arguments):
        print(flags.help_text(cls, command.about.format(program=program), program), end="")
        return
    try:
        settings = flags.parse_arguments(cls, arguments, command.positional)
    except SettingsError as error:
        flags.refuse(error.faults)
    names = [field.name for field in dataclasses.fields(cls)]
    set_environment()
    try:
        with quiet_import():
            function = _import(command.function)
        status = function(settings)
    except Interrupted as stop:
        print(f"\n{stop} The same command goes on from there.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from there.")
    except SettingsError as error:
        flags.refuse([flags.as_flags(fault, names) for fault in error.faults])
    except (ValueError, ImportError, OSError, RunError) as error:
        sys.exit(f"error: {flags.as_flags(str(error), names)}")
    else:
        if isinstance(status, str):  # what went wrong, of what was done otherwise
            sys.exit(f"error: {status}")


def _settings_class(command: Command, arguments: Sequence[str]) -> Any:
    """Return a command's settings; what they are may depend on the arguments."""
    found = _import(command.settings)
    return found if isinstance(found, type) else found(arguments)


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _overview() -> str:
    lines = ["Masked autoencoder pre-training of vision transformers in Keras.", ""]
    lines += ["Usage: keras-mae COMMAND [--name=value ...]; keras-mae COMMAND --help", ""]
    width = max(map(len, COMMANDS))
    lines += [f"  {name:<{width}}  {c.about.splitlines()[0]}" for name, c in COMMANDS.items()]
    return "\n".join(lines)

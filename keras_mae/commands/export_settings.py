"""The settings of an export: those of all, and the options of the format that is named."""

import dataclasses

from keras_mae import registry
from keras_mae.commands.flags import read_flags
from keras_mae.export.formats.base import Format
from keras_mae.settings.fields import setting
from keras_mae.settings.tools import FORMATS, ExportSettings


def export_settings(arguments):
    """Return a subclass of `ExportSettings` with the options of the format that arguments name.

    A format's `Option`s become settings: flags, `--help` and checks are made of them.

    Args:
        arguments: list of str, of a command line.
    Raises:
        ValueError: if there is no such format, or a flag lacks its value.
    """
    flags, _ = read_flags(ExportSettings, arguments)
    name = flags["format"].value or ExportSettings.defaults()["format"]
    options = registry.find(FORMATS, name, Format, "format").OPTIONS
    fields = [
        (
            option.name,
            option.type | None if option.default is None or option.or_none else option.type,
            setting(
                option.default,
                option.help[:1].upper() + option.help[1:],
                f"Options of --format={name}",
                choices=option.choices,
                least=option.least,
                shown="none",
            ),
        )
        for option in options
    ]
    cls = dataclasses.make_dataclass(
        "ExportSettings", fields, bases=(ExportSettings,), frozen=True, kw_only=True
    )
    cls.option_names = tuple(option.name for option in options)
    return cls

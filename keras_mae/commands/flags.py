"""Settings as flags of a command line: `--help`, `--flagfile`, and all faults told at once."""

import dataclasses
import difflib
import re
import shutil
import sys
import textwrap

from absl import flags

from keras_mae.settings.fields import SettingsError, bounds_text, of_texts, spec_of

HELP = ("--help", "-help", "-h", "--helpfull", "-?")
FIRST = "Used most"


class _Text(flags.ArgumentParser):
    """Takes any text: the settings say what is wrong with it, all faults at once."""

    syntactic_help = "a text"

    def parse(self, argument):
        return argument


def flag_values(cls):
    """Return absl's `FlagValues` with a flag for each setting of a class."""
    values = flags.FlagValues()
    for field in dataclasses.fields(cls):
        spec = spec_of(field)
        kind = flags.MultiFlag if spec.multi else flags.Flag
        flag = kind(_Text(), flags.ArgumentSerializer(), field.name, None, spec.help)
        flag.boolean = isinstance(field.default, bool)
        flags.DEFINE_flag(flag, values)
    for name in ("flagfile", "undefok"):
        flag = flags.Flag(_Text(), flags.ArgumentSerializer(), name, "", "absl's")
        flags.DEFINE_flag(flag, values)
    values.set_gnu_getopt(True)
    return values


def read_flags(cls, arguments):
    """Return (absl's `FlagValues` of a class, read from arguments; the arguments that are left).

    Raises:
        SettingsError: if a flag lacks its value, or a file of flags is not there.
    """
    values = flag_values(cls)
    try:
        return values, values(["command", *arguments], known_only=True)[1:]
    except (flags.Error, ValueError) as error:
        # Nothing else is known then.
        raise SettingsError([_first_line(error)]) from None


def parse_arguments(cls, arguments, positional=None):
    """Return the settings that a command line's arguments say.

    Args:
        cls: a subclass of `Settings`.
        arguments: list of str, without the program's name.
        positional: str, the setting that takes arguments which are no flags; None to refuse them.
    Raises:
        SettingsError: with all faults; settings are named as flags.
    """
    values, left = read_flags(cls, arguments)
    faults = []
    texts = {field.name: values[field.name].value for field in dataclasses.fields(cls)}
    known = [field.name for field in dataclasses.fields(cls)]
    for argument in left:
        if not argument.startswith("-") and positional is not None:
            texts[positional] = [*(texts[positional] or []), argument]
        elif argument != "--":
            faults.append(_unknown(argument, known))
    try:
        return of_texts(cls, texts, faults)
    except SettingsError as error:
        raise SettingsError([as_flags(fault, known) for fault in error.faults]) from None


def as_flags(text, names):
    """Return a sentence with settings in backticks named as flags: `seed` becomes --seed."""
    pattern = re.compile("`(" + "|".join(map(re.escape, names)) + ")`")
    return pattern.sub(r"--\1", text)


def _unknown(argument, names):
    if not argument.startswith("-"):
        return f"Arguments must be flags (--name=value). Received: {argument!r}"
    name = argument.lstrip("-").partition("=")[0]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean --{close[0]}?" if close else ""
    return f"--{name} is no flag of this command.{hint} --help lists all."


def _first_line(error):
    return str(error).strip().splitlines()[0]


def help_text(cls, about, program):
    """Return what `--help` prints: the settings used most, then all others by group.

    Args:
        cls: a subclass of `Settings`.
        about: str, what the command does, with examples.
        program: str, how it is called.
    """
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    fields = dataclasses.fields(cls)
    first = sorted((f for f in fields if spec_of(f).first), key=lambda f: spec_of(f).first)
    groups = {FIRST: first} if first else {}
    for field in fields:
        if field not in first:
            groups.setdefault(spec_of(field).group, []).append(field)
    lines = [about.strip(), "", f"Usage: {program} [--name=value ...] [--flagfile=FILE]"]
    for group, members in groups.items():
        lines += ["", f"{group}:"]
        for field in members:
            lines += _described(field, width)
    return "\n".join(lines) + "\n"


def _described(field, width):
    """Return the lines of one flag: its name and default, then what it means."""
    spec, default = spec_of(field), field.default
    if default is None or default == () or default is dataclasses.MISSING:
        name, shown = f"--{field.name}=...", spec.shown
    elif isinstance(default, bool):
        name, shown = f"--[no]{field.name}", "yes" if default else "no"
    else:
        text = ",".join(map(str, default)) if isinstance(default, tuple) else f"{default}"
        name, shown = f"--{field.name}={text}", ""
    facts = [f"default: {shown}"] if shown else []
    if spec.required:
        facts = ["required"]
    if spec.choices is not None:
        facts.insert(0, "one of " + ", ".join(map(str, spec.names())))
        if isinstance(spec.choices, str):
            facts[0] += ", or MODULE:CLASS for your own"
    elif bounds_text(spec):
        facts.insert(0, bounds_text(spec))
    text = spec.help + (f" ({'; '.join(facts)})" if facts else "")
    return [
        f"  {name}",
        *textwrap.wrap(text, width - 6, initial_indent="      ", subsequent_indent="      "),
    ]


def wants_help(arguments):
    """Return whether arguments ask for help."""
    return any(argument in HELP for argument in arguments)


def refuse(faults):
    """End the process with a line for each fault."""
    sys.exit("\n".join(f"error: {fault}" for fault in faults))

"""The answer to a word that follows no option, such as a configuration without its flag."""

from collections.abc import Collection, Sequence

from segzoo.utils.errors import InputError


def check_stray(words: Sequence[str], flags: Collection[str]) -> None:
    """Check that words that follow no option could be overrides with misspelled keys.

    Args:
        words: alternating keys and values, if they are overrides.
        flags: flags of the command that may take them.

    Raises:
        InputError: they are no pairs, or the first is a configuration, a checkpoint or a dataset.
    """
    if not words:
        return
    word = words[0]
    fitting = [f"{flag} {word}" for flag in _flags_of(word) if flag in flags]
    if fitting or len(words) % 2:
        hint = f"; did you mean {' or '.join(fitting)}?" if fitting else ""
        raise InputError(f"{word} follows no option, and is no key of the configuration{hint}")


def _flags_of(word: str) -> Sequence[str]:
    """Return the flags whose value a word may be; none for a word that is no known file or name."""
    from segzoo.config.files import CONFIGURATIONS, is_config_name, names_checkpoint, zoo_name

    if names_checkpoint(word):
        return ("--weights",)
    if is_config_name(zoo_name(word)):
        return ("--config-file",)
    if word.endswith(CONFIGURATIONS):
        return "--config-file", "--data"
    from segzoo.data.dataset_file import is_dataset_file
    from segzoo.data.register import is_split

    return ("--data",) if is_split(word) or is_dataset_file(word) else ()

"""Make `import torchvision` and `import detectron2` work before segzoo in the environment of `make venv`.

Not a tool: tools/install_environment.py puts it into the environment, where every start of Python imports it.
Until one of the two is imported it does nothing; then segzoo.compat makes the installed versions work.
"""

import sys


class CompatFirst:
    """A finder that finds nothing, but imports segzoo.compat before the modules that need it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("torchvision", "detectron2"):
            try:  # noqa: SIM105  contextlib would be one more import at every start
                import segzoo.compat  # noqa: F401
            except ImportError:
                # segzoo or Detectron2 has been uninstalled: the import continues as without this file.
                pass
        return None


sys.meta_path.insert(0, CompatFirst)

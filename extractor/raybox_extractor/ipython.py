"""The IPython extension (`%load_ext raybox_extractor.ipython`), and the only file that knows IPython.

It adds to what IPython shows: figures also as `e2b/chart`, data frames also as `e2b/data`, lists and dicts also as
`application/json`, and PIL images inline where `show()` would start a viewer and where `save()` writes a file. Nothing
here imports pandas, numpy, matplotlib or PIL, and no hook raises into the user's cell: whatever fails, fails to add
something.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from raybox_extractor import _limits, charts, figures, fonts, frames, plain

_PIL_IMAGE = "PIL.Image"
#: pandas 3 says the first, pandas 2 the second.
_FRAMES = (("pandas", "DataFrame"), ("pandas.core.frame", "DataFrame"), ("polars.dataframe.frame", "DataFrame"))
#: Not its subclass Figure, of which IPython clears all formatters when matplotlib_inline sets up its own.
_FIGURE = ("matplotlib.figure", "FigureBase")
#: altair's version of the grammar is in the name of the module, and in the MIME type of its JSON.
_ALTAIR = {version: (f"altair.vegalite.v{version}.api", "TopLevelMixin") for version in (5, 6)}
_ORIGINAL = "_raybox_original"


def load_ipython_extension(shell: Any) -> None:
    """Register everything with an IPython shell. Loading it again changes nothing.

    May be called in a process that later forks: what it registers belongs to the shell and to the PIL module.
    """
    formatters = shell.display_formatter.formatters
    for mime, formatter in {frames.MIME: DataFormatter, charts.MIME: ChartFormatter}.items():
        if mime not in formatters:
            formatters[mime] = formatter(parent=shell.display_formatter)
    for name in _FRAMES:
        formatters[frames.MIME].for_type_by_name(*name, _guarded(frames.extract_frame))
    for name in (_FIGURE, *_ALTAIR.values()):
        formatters[charts.MIME].for_type_by_name(*name, figures.extract_figure)
    for version, name in _ALTAIR.items():
        mime = f"application/vnd.vegalite.v{version}+json"
        if mime not in formatters:
            formatters[mime] = VegaFormatter(parent=shell.display_formatter, format_type=mime)
        formatters[mime].for_type_by_name(*name, _guarded(lambda chart: chart.to_dict()))
    for kind in (list, dict):
        formatters["application/json"].for_type(kind, _guarded(_json))

    images = _Images(shell)
    formatters["image/png"].for_type_by_name(_PIL_IMAGE, "Image", _guarded(_png))
    for callback in list(shell.events.callbacks["pre_run_cell"]):
        if _is_ours(getattr(callback, "__self__", None), _Images):
            shell.events.unregister("pre_run_cell", callback)
    shell.events.register("pre_run_cell", images.start_cell)
    _when_imported(
        {
            _PIL_IMAGE: images.install,
            "matplotlib.font_manager": fonts.add_fallbacks,
            "plotly.io._renderers": _add_plotly_renderer,
        }
    )


class DataFormatter(BaseFormatter):  # type: ignore[misc]  # IPython is not in the environment that is type-checked
    """The formatter of `e2b/data`; objects may also bring a method `_repr_e2b_data_`."""

    format_type = Unicode(frames.MIME)
    _return_type = dict
    print_method = ObjectName("_repr_e2b_data_")


class ChartFormatter(BaseFormatter):  # type: ignore[misc]  # as above
    """The formatter of `e2b/chart`; objects may also bring a method `_repr_e2b_chart_`."""

    format_type = Unicode(charts.MIME)
    _return_type = dict
    print_method = ObjectName("_repr_e2b_chart_")


class VegaFormatter(BaseFormatter):  # type: ignore[misc]  # as above
    """The formatter of altair's own JSON, which altair leaves out of what it displays."""

    _return_type = dict
    print_method = ObjectName("_repr_vegalite_")


def _guarded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, returning None, IPython's word for "no such form", where it would raise.

    Not for BaseException: an interrupt of the user stays one.
    """

    @functools.wraps(function)
    def guarded(obj: Any) -> Any:
        try:
            return function(obj)
        except Exception:
            return None

    return guarded


def _json(obj: Any) -> Any:
    """A list or dict as JSON values. Subclasses that know their own JSON keep it."""
    kind = type(obj)
    if kind is not list and kind is not dict:
        if hasattr(kind, "_repr_mimebundle_"):
            return None
        if hasattr(kind, "_repr_json_"):
            return obj._repr_json_()
    return plain.plain_or_none(obj)


def _png(image: Any) -> Any:
    """As PIL does it, and also for the modes that PNG does not know, such as CMYK."""
    return image._repr_png_() or image.convert("RGB")._repr_png_()


def _add_plotly_renderer(module: Any) -> None:
    """Let plotly show its figures as its own JSON, as HTML that loads plotly.js from where plotly says, and as a chart.

    Left alone where somebody chose a renderer: by the variable PLOTLY_RENDERER, or by a platform that plotly knows.
    """
    if module.env_renderer or "plotly_mimetype" not in module.renderers.default.split("+"):
        return

    html = sys.modules["plotly.io._base_renderers"].HtmlRenderer(connected=True)

    class Renderer(module.PlotlyRenderer):  # type: ignore[misc]  # plotly is not to be seen from here
        def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, Any]:
            bundle: dict[str, Any] = super().to_mimebundle(fig_dict)
            chart = figures.extract_figure(fig_dict)
            return bundle | (_guarded(html.to_mimebundle)(fig_dict) or {}) | ({charts.MIME: chart} if chart else {})

    module.renderers["raybox"] = Renderer()
    module.renderers.default = "raybox"


class _Images:
    """What PIL's `show` and `save` do in this shell."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.saved_images_shown = 0

    def start_cell(self, *_: Any) -> None:
        self.saved_images_shown = 0

    def install(self, module: ModuleType) -> None:
        """Replace `show` and `save` of PIL's Image class, also if they were replaced before."""
        image_class: Any = module.Image
        for name, make in (("show", self._make_show), ("save", self._make_save)):
            method = getattr(image_class, name)
            original = getattr(method, _ORIGINAL, method)
            replacement = functools.wraps(original)(make(original))
            setattr(replacement, _ORIGINAL, original)
            setattr(image_class, name, replacement)

    def _make_show(self, _original: Callable[..., Any]) -> Callable[..., Any]:
        def show(image: Any, *_args: Any, **_kwargs: Any) -> None:
            # There is no screen, so the viewer that PIL would start has nothing to add, and failing would be no help.
            self._display(image)

        return show

    def _make_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save(image: Any, fp: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(image, fp, *args, **kwargs)
            if isinstance(fp, str) and not _saved_for_another(sys._getframe(1).f_globals.get("__name__")):
                self._display_saved(image, fp)
            return result

        return save

    def _display_saved(self, image: Any, path: str) -> None:
        self.saved_images_shown += 1
        shown = self.saved_images_shown
        try:
            pixels = image.width * image.height
            if shown > _limits.SAVED_IMAGES_SHOWN_MAX:
                if shown == _limits.SAVED_IMAGES_SHOWN_MAX + 1:
                    self._display_text(f"[images saved after the first {shown - 1} of a cell are not shown]")
            elif pixels > _limits.SAVED_IMAGE_PIXELS_MAX:
                self._display_text(f"[{path}: not shown, {image.width} x {image.height} pixels]")
            else:
                self._display(image)
        except Exception:  # the file is saved; showing it is a courtesy
            return

    def _display(self, image: Any) -> None:
        try:
            data, metadata = self.shell.display_formatter.format(image)
            if data:
                self.shell.display_pub.publish(data, metadata)
        except Exception:  # a broken image, or output that is closed
            return

    def _display_text(self, text: str) -> None:
        self.shell.display_pub.publish({"text/plain": text}, {})


def _saved_for_another(caller: str | None) -> bool:
    """Whether a saved image is not the user's own picture.

    matplotlib saves its figures through PIL, and shows them itself. A worker of multiprocessing shares its parent's
    output, and whoever starts one to write a thousand files does not want to see them.
    """
    if (caller or "").partition(".")[0] == "matplotlib":
        return True
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


def _is_ours(obj: Any, kind: type) -> bool:
    """Whether `obj` is of that class of this module, also if the module was reloaded since."""
    return (type(obj).__module__, type(obj).__qualname__) == (kind.__module__, kind.__qualname__)


def _when_imported(actions: dict[str, Callable[[ModuleType], None]]) -> None:
    """Call each action with its module: now if it is imported, and right after each of its imports to come."""
    others = [finder for finder in sys.meta_path if not _is_ours(finder, _ImportHook)]
    sys.meta_path[:] = [_ImportHook(actions), *others]
    for name, action in actions.items():
        module = sys.modules.get(name)
        if module is not None:
            _attempt(action, module)


def _attempt(action: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        action(module)
    except Exception:  # another package of that name, or a version without those methods
        return


class _ImportHook(importlib.abc.MetaPathFinder):
    """Stands before the other finders on `sys.meta_path` and costs every other import one look into a dict."""

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self.actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        action = self.actions.get(fullname)
        if action is None:
            return None
        finders = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
        found = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in found if spec), None)
        if spec and spec.loader:
            # A loader is made for one spec. Wrapping its method, and not it, keeps all else that it can do.
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _attempt(action, module)

            with contextlib.suppress(AttributeError):  # a loader that takes no attributes
                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

"""Read by every IPython kernel of the environment (as <prefix>/etc/ipython/ipython_kernel_config.py)."""

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it there

# Results are read by programs: no terminal colours, and no "..." in place of the items after the thousandth.
c.InteractiveShell.colors = "NoColor"
c.PlainTextFormatter.max_seq_length = 0

# Only read once the user's code imports matplotlib, which then draws inline because of MPLBACKEND. The resolution stays
# matplotlib's own 100 dpi: one set here, through `InlineBackend.rc`, would undo what the first cell puts in rcParams.
c.InlineBackend.figure_formats = {"png"}

c.InteractiveShellApp.extensions = ["raybox_extractor.ipython"]

"""Plots of design spaces, of the comparison and of benchmarks: each function gives a matplotlib Figure, `save_figure` writes it as SVG, PNG or PDF.

Colours are Okabe and Ito's, which the colour-blind tell apart; curves and markers differ in shape as well. Needs matplotlib
(pip install 'regnet-kernels[bench]').
"""

from regnet.plots.bootstrap import plot_bootstrap, plot_parameter_trends
from regnet.plots.edf import plot_edf, plot_search_efficiency
from regnet.plots.latency import plot_error_latency, plot_runtime
from regnet.plots.roofline import plot_roofline
from regnet.plots.style import check_figure_path, save_figure
from regnet.plots.trend import plot_trends
from regnet.plots.widths import plot_fit_errors, plot_width_population, plot_width_profiles

__all__ = [
    "check_figure_path", "plot_bootstrap", "plot_edf", "plot_error_latency", "plot_fit_errors", "plot_parameter_trends",
    "plot_roofline", "plot_runtime", "plot_search_efficiency", "plot_trends", "plot_width_population", "plot_width_profiles", "save_figure",
]  # fmt: skip

"""Statistics of design spaces, with numpy alone.

edf.py (error distributions and their bands), comparison.py (two spaces), two_samples.py (the tests), bootstrap.py (the best value
of a parameter), parameter_trends.py (the same in each flop regime), search_efficiency.py (expected best of m), trends.py
(complexity and runtime over flops), samples.py (what is common).
"""

from regnet.statistics.bootstrap import BootstrapRange, empirical_bootstrap
from regnet.statistics.comparison import Comparison, compare_errors
from regnet.statistics.edf import EDF, edf
from regnet.statistics.parameter_trends import ParameterTrend, parameter_trend
from regnet.statistics.samples import SampleError
from regnet.statistics.search_efficiency import SearchEfficiency, search_efficiency
from regnet.statistics.trends import FORM_OF, FORMS, Trend, fit_trend
from regnet.statistics.two_samples import ks_test, mann_whitney

__all__ = [
    "EDF", "FORMS", "FORM_OF", "BootstrapRange", "Comparison", "ParameterTrend", "SampleError", "SearchEfficiency", "Trend",
    "compare_errors", "edf", "empirical_bootstrap", "fit_trend", "ks_test", "mann_whitney", "parameter_trend", "search_efficiency",
]  # fmt: skip

"""One module a backend: `NAME` and `why_not(problem) -> str`, empty when the backend can run the problem. The same
predicate decides in dispatch.py and explains in `explain()` and in the error of a forced backend."""

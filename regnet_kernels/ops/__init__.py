"""One file an op: schema, checks, eager reference, fake kernel, autograd and autocast rules, public function."""

from . import conv_bn_act, network, squeeze_excite  # noqa: F401  (importing defines the ops)

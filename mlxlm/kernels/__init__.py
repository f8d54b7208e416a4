"""The operations under the layers: plain ``mx``, or our own kernels on a CPU, behind one set of names."""

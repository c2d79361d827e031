"""Hessian, Gauss-Newton and residual times vectors, in several ways that prove themselves before use."""

"""The tables of the models of a study in TOML; their keys are those of the models, their grids and initial laws."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .kinds import Cells, Count, NotNegative, Number, Pair, Positive, Table, key, needed

__all__ = ["ModelTable"]

#: Activations that are given by their names.
Function = Literal["Erf", "NonMonotone", "Ramp", "ReLU", "Softplus", "Tanh"]
FUNCTIONS_IN_WORDS = '"Erf", "NonMonotone", "Ramp", "ReLU", "Softplus" or "Tanh", the activation'


class _Start(Table):
    kappa: Positive = needed("a finite number > 0, the scale of the initial weights")


class _Noise(_Start):
    beta: Positive | None = key("a finite number > 0, the inverse temperature of the noise; leave it out for none")
    ridge: NotNegative = key("a finite number >= 0, the factor of the ridge penalty", 0.0)


class _Box(Table):
    bounds: Annotated[list[Pair], Field(min_length=1, max_length=4)] | None = key(
        "a list with a pair [lo, hi] for each axis, the box; by default wide enough")


class _Classes(_Noise):
    delta: NotNegative | None = key("a number >= 0 and < 1; the variances of the classes are 1 + delta and 1 - delta")
    tau_plus2: Positive | None = key("a finite number > 0, the variance of the first class, in place of delta")
    tau_minus2: Positive | None = key("a finite number > 0, the variance of the second class, in place of delta")
    d: Count = needed("an integer >= 1, the dimension of the data")
    activation: Function | None = key(FUNCTIONS_IN_WORDS)


class _Split(_Classes):
    s0: Count | None = key("an integer >= 1, the dimension of the subspace in which the classes differ")


class _Points(_Box):
    x: Annotated[list[Number] | list[list[Number]], Field(min_length=1)] = needed(
        "a list with a number, or a list of numbers, for each sample: the inputs")
    y: Annotated[list[Number], Field(min_length=1)] = needed("a list with a number for each sample: the labels")
    activation: Function | None = key(FUNCTIONS_IN_WORDS)
    cells: Cells | list[Cells] | None = key("an integer >= 2, or a list with one for each axis")


class IsotropicGaussianTable(_Classes):
    """Two isotropic Gaussian classes (`IsotropicGaussian`)."""

    name: Literal["IsotropicGaussian"]
    cells: Cells = key("an integer >= 2, the number of cells", 400)
    r_max: Positive | None = key("a finite number > 0, the end of the radius")


class AnisotropicGaussianTable(_Split):
    """Two Gaussian classes that differ in a subspace (`AnisotropicGaussian`)."""

    name: Literal["AnisotropicGaussian"]
    cells: Cells | Annotated[list[Cells], Field(min_length=2, max_length=2)] = key(
        "an integer >= 2, or a list with one for each of the 2 axes", [160, 120])
    r_max: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = key(
        "a list of 2 finite numbers > 0, the ends of the two radii")


class ReLUNetworkTable(_Split):
    """The same classes, networks whose readout weights and offsets learn too (`ReLUNetwork`)."""

    name: Literal["ReLUNetwork"]
    cells: Cells | Annotated[list[Cells], Field(min_length=4, max_length=4)] = key(
        "an integer >= 2, or a list with one for each of the 4 axes a, b, r1, r2", 32)
    bounds: Annotated[list[Pair], Field(min_length=4, max_length=4)] | None = key(
        "a list of 4 pairs [lo, hi], the box of a, b, r1, r2; by default wide enough")
    a: Number | None = key("a finite number, the mean of the initial readout weights, 1 by default")
    b: Number | None = key("a finite number, the mean of the initial offsets, 1 by default")
    width: Positive | None = key("a finite number > 0, the deviation of a and b; by default one cell")


class FiniteDataTable(_Points, _Noise):
    """A network on given samples (`FiniteData`)."""

    name: Literal["FiniteData"]
    trains_readout: bool | None = key("true or false: whether readout weights and offsets learn too")
    output_scale: Positive | None = key("a finite number > 0, the factor of the output")
    mean0: Number | list[Number] | None = key("a finite number, the mean of the initial parameters, or a list of them")


class KernelLimitTable(_Points, _Noise):
    """A network of output scale alpha, between mean field and its tangent kernel (`KernelLimit`)."""

    name: Literal["KernelLimit"]
    alpha: Positive | None = key("a finite number > 0, the scale of the output, 1 by default")


class KLRegularizedNetworkTable(_Points, _Start):
    """The same with noise and weight decay (`KLRegularizedNetwork`)."""

    name: Literal["KLRegularizedNetwork"]
    alpha: Positive | None = key("a finite number > 0, the scale of the output, 1 by default")
    regularization: Positive | None = key("a finite number > 0, the factor of the divergence, 0.1 by default")
    readout_scale: Positive | None = key("a finite number > 0, the deviation of the prior's readout weights")
    weight_scale: Positive | None = key("a finite number > 0, the deviation of the prior's weights")


class LinearNeuronTable(_Box, _Noise):
    """Linear neurons on Gaussian inputs, whose law stays Gaussian (`LinearNeuron`)."""

    name: Literal["LinearNeuron"]
    covariance: Positive | list[Positive] | list[list[Number]] = needed(
        "a finite number > 0, or a list of them, the variances of the inputs, or the rows of their covariance")
    direction: Number | list[Number] = needed("a finite number, or a list of them, the weights of the teacher")
    noise_variance: NotNegative | None = key("a finite number >= 0, the variance of the labels' noise")
    cells: Cells | list[Cells] | None = key("an integer >= 2, or a list with one for each axis")
    mean0: Number | list[Number] | None = key("a finite number, the mean of the initial weights, or a list of them")


class QuadraticActivationTable(_Box, _Noise):
    """Neurons with the activation t^2 on Gaussian inputs (`QuadraticActivation`)."""

    name: Literal["QuadraticActivation"]
    matrix: Number | list[list[Number]] = needed("a finite number, or the rows of the matrix of the teacher")
    offset: Number | None = key("a finite number, the constant of the teacher")
    covariance: Positive | list[Positive] | list[list[Number]] | None = key(
        "a finite number > 0, or a list of them, the variances of the inputs, or the rows of their covariance")
    noise_variance: NotNegative | None = key("a finite number >= 0, the variance of the labels' noise")
    centered: bool | None = key("true or false: whether the output has its mean taken away")
    cells: Cells | list[Cells] | None = key("an integer >= 2, or a list with one for each axis")
    mean0: Number | list[Number] | None = key("a finite number, the mean of the initial weights, or a list of them")


ModelTable = (IsotropicGaussianTable | AnisotropicGaussianTable | ReLUNetworkTable | FiniteDataTable | KernelLimitTable
              | KLRegularizedNetworkTable | LinearNeuronTable | QuadraticActivationTable)

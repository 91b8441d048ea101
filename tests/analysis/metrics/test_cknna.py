# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import reference
from made_up import EXACT, made_up_pair

from matteratlas.analysis import metrics
from matteratlas.analysis.metrics.cknna import VARIANTS
from matteratlas.schemas.errors import MetricError

DENSE = {
    "masked_centred": reference.cknna_masked_centred,
    "centred_masked": reference.cknna_centred_masked,
}


def published(x, y, k, how, epsilon):
    forth = reference.cknna_published(x, y, k, how, epsilon=epsilon)
    return 0.5 * (forth + reference.cknna_published(y, x, k, how, epsilon=epsilon))


@pytest.mark.parametrize(("kind", "normalise"), EXACT)
def test_default_is_the_mean_of_both_orders_of_the_published_code(kind, normalise):
    x, y = made_up_pair(kind)
    expected = published(x, y, 10, normalise, 0.0)
    assert metrics.cknna(x, y, k=10, normalise=normalise) == pytest.approx(
        expected, abs=1e-6, nan_ok=True
    )


def test_published_code_depends_on_the_order_and_on_its_epsilon():
    x, y = made_up_pair("plain")
    forth = reference.cknna_published(x, y, 25, "l2")
    back = reference.cknna_published(y, x, 25, "l2")
    value = metrics.cknna(x, y, k=25)
    assert 1e-6 < abs(forth - back) < 1e-2
    assert value == pytest.approx(0.5 * (forth + back), abs=1e-3)
    assert value != pytest.approx(0.5 * (forth + back), abs=1e-6)


@pytest.mark.parametrize("variant", ["masked_centred", "centred_masked"])
@pytest.mark.parametrize(("kind", "normalise"), EXACT)
def test_other_variants_equal_dense_forms(kind, normalise, variant):
    x, y = made_up_pair(kind)
    expected = DENSE[variant](x, y, 10, normalise)
    assert np.isfinite(expected)
    value = metrics.cknna(x, y, k=10, variant=variant, normalise=normalise)
    assert value == pytest.approx(expected, abs=1e-6)


def test_variants_differ():
    x, y = made_up_pair("plain")
    values = [metrics.cknna(x, y, k=10, variant=variant) for variant in VARIANTS]
    assert len({round(value, 3) for value in values}) == 3


def test_every_other_row_as_neighbour_is_unbiased_cka():
    x, y = made_up_pair("plain")
    whole = metrics.cknna(x, y, k=len(x) - 1, normalise="none")
    assert whole == pytest.approx(metrics.linear_cka(x, y), abs=1e-9)


def test_large_inner_products_are_not_small_distances():
    """Rows far out are everyone's neighbours by inner product, and nobody's by distance."""
    x, y = made_up_pair("plain")
    x, y = x.copy(), y.copy()
    x[:3] *= 50.0
    y[:3] *= 50.0
    value = metrics.cknna(x, y, k=10, normalise="none")
    assert value == pytest.approx(published(x, y, 10, "none", 0.0), abs=1e-6)


def test_unknown_variant_is_named():
    x, y = made_up_pair("plain")
    with pytest.raises(MetricError, match="variant='huh' is not one of masked_unbiased"):
        metrics.cknna(x, y, variant="huh")
    with pytest.raises(MetricError, match="k=1 is not a whole number of at least 2"):
        metrics.cknna(x, y, k=1)

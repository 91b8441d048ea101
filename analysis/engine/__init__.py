# SPDX-License-Identifier: Apache-2.0
"""All pairs of many models on many rows: single precision, tasks on disk, any number of machines.

For what fits in memory in double precision, :func:`matteratlas.analysis.pairwise` does without it;
both give the same numbers to within rounding.
"""

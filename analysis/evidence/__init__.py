# SPDX-License-Identifier: Apache-2.0
"""What says that a region is a gap, from all sides: performance, cues, collapse, coverage.

One stage a file, ``Evidence`` in and ``Findings`` out, in the order of ``stages.STAGES``.
"""

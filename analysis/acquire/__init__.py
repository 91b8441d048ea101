# SPDX-License-Identifier: Apache-2.0
"""Which structures to add next: pools of candidates, and a ranked, diverse batch with reasons."""

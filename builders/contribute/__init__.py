# SPDX-License-Identifier: Apache-2.0
"""Contributing a model: scaffold, checks of what is contributed, its report, its patch."""

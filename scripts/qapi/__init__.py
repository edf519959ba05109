# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of scripts/qapi-gen.py: parser -> schema -> C, introspection and documentation."""

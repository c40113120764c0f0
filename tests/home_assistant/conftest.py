"""Helpers whose failing asserts are shown with their values."""

import pytest

pytest.register_assert_rewrite("troubles")

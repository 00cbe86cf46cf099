"""Runs pytest on some folders: the main program of the tests in BUILD."""

import sys

import pytest

if __name__ == '__main__':
  sys.exit(pytest.main(sys.argv[1:]))

"""Addresses of workers are right, or refused before anybody is asked."""

import pytest

from tff_fedsynth.experiments.settings.settings import SettingsError
from tff_fedsynth.experiments.workers import addresses


def test_addresses_are_taken_over():
  texts = [' host1:8000', 'host-2.lan:1 ', '10.0.0.7:65535', '[fe80::1]:8000']
  assert addresses.parse(texts) == [text.strip() for text in texts]


@pytest.mark.parametrize(
  'texts, message',
  [
    ([''], 'has an empty entry'),
    (['a:1', ' ', 'b:2'], 'has an empty entry'),
    (['host1'], "host:port each, such as host1:8000.* Found 'host1'"),
    (['host1:'], 'must be host:port'),
    ([':8000'], 'must be host:port'),
    (['http://host1:8000'], 'must be host:port'),
    (['host1:8000/'], 'must be host:port'),
    (['host 1:8000'], 'must be host:port'),
    (['host1:eight'], 'must be host:port'),
    (['host1:-1'], 'must be host:port'),
    (['::1:8000'], 'IPv6 in brackets'),
    (['[host1]:8000'], 'IPv6 in brackets'),
    (['[::1]'], 'IPv6 in brackets'),
    (['host1:0'], "must be from 1 to 65535. Found 'host1:0'"),
    (['host1:65536'], "must be from 1 to 65535. Found 'host1:65536'"),
    (['a:1', 'b:2', 'A:01'], 'names A:01 twice'),
    (['[::1]:8000', '[::1]:8000'], r'names \[::1\]:8000 twice'),
  ],
)
def test_what_is_no_address_is_refused(texts, message):
  with pytest.raises(SettingsError, match=message):
    addresses.parse(texts)

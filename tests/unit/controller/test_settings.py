"""Settings from the environment."""

import pytest

from plimsoll.controller.settings import Settings, SettingsError


def test_every_setting_has_a_variable():
    settings = Settings.from_env(
        {"PLIMSOLL_NAMESPACE": "ns", "PLIMSOLL_HEALTH_PORT": "0", "PLIMSOLL_DEBOUNCE_IDLE_SECONDS": "0.1", "OTHER": "x"}
    )
    assert (settings.namespace, settings.health_port, settings.debounce_idle_seconds) == ("ns", 0, 0.1)


def test_an_empty_variable_means_the_default():
    assert Settings.from_env({"PLIMSOLL_IN_FLIGHT": ""}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PLIMSOLL_IN_FLIGHT", "many", "must be a whole number"),
        ("PLIMSOLL_PLAN_DEADLINE_SECONDS", "0", "must be above 0"),
        ("PLIMSOLL_HEALTH_PORT", "70000", "must be a port"),
        ("PLIMSOLL_LOG_LEVEL", "LOUD", "must be DEBUG"),
        ("PLIMSOLL_LOG_FORMAT", "xml", "must be json or text"),
    ],
)
def test_a_bad_value_is_named(variable, value, said):
    with pytest.raises(SettingsError, match=rf"{variable}={value}.*{said}"):
        Settings.from_env({variable: value})

"""Settings from the environment."""

import pytest

from plimsoll.controller.settings import Settings, SettingsError


def test_every_setting_has_a_variable():
    settings = Settings.from_env(
        {"PLIMSOLL_NAMESPACE": "ns", "PLIMSOLL_HEALTH_PORT": "0", "PLIMSOLL_DEBOUNCE_IDLE_SECONDS": "0.1", "OTHER": "x"}
    )
    assert (settings.namespace, settings.health_port, settings.debounce_idle_seconds) == ("ns", 0, 0.1)


def test_namespaces_are_a_list():
    settings = Settings.from_env({"PLIMSOLL_WATCH_NAMESPACES": "chat, documents,chat"})
    assert settings.watch_namespaces == ("chat", "documents")


def test_an_empty_variable_means_the_default():
    assert Settings.from_env({"PLIMSOLL_IN_FLIGHT": ""}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PLIMSOLL_IN_FLIGHT", "many", "must be a whole number"),
        ("PLIMSOLL_PLAN_DEADLINE_SECONDS", "0", "must be above 0"),
        ("PLIMSOLL_PLANNER_MEMORY_MEGABYTES", "0", "must be above 0"),
        ("PLIMSOLL_LEASE_NAME", "My Lease", "must be a DNS name"),
        ("PLIMSOLL_IDENTITY", "a\nb", "must be a DNS name"),
        ("PLIMSOLL_HEALTH_PORT", "70000", "must be a port"),
        ("PLIMSOLL_LOG_LEVEL", "LOUD", "must be DEBUG"),
        ("PLIMSOLL_LOG_FORMAT", "xml", "must be json or text"),
        ("PLIMSOLL_CORRECTION_INTERVAL_SECONDS", "0.5", "must be at least 1"),
        ("PLIMSOLL_DEMAND_INTERVAL_SECONDS", "0", "must be at least 1"),
        ("PLIMSOLL_SLO_INTERVAL_SECONDS", "0", "must be at least 1"),
        ("PLIMSOLL_PROMETHEUS_CERTIFICATE_FILE", "/etc/tls.crt", "must go together with PLIMSOLL_PROMETHEUS_KEY_FILE"),
        ("PLIMSOLL_WATCH_NAMESPACES", "chat,Search", "'Search' is not the name of a namespace"),
        ("PLIMSOLL_WATCH_NAMESPACES", "chat,", "'' is not the name of a namespace"),
    ],
)
def test_a_bad_value_is_named(variable, value, said):
    with pytest.raises(SettingsError, match=rf"{variable}={value}.*{said}"):
        Settings.from_env({variable: value})


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://prometheus", "http://user:secret@prometheus", "http://a:b"])
def test_an_address_of_prometheus_that_is_none_is_refused(url):
    with pytest.raises(SettingsError, match="PLIMSOLL_PROMETHEUS_URL") as refused:
        Settings.from_env({"PLIMSOLL_PROMETHEUS_URL": url})
    assert "secret" not in str(refused.value)


def test_a_token_goes_over_https_only():
    token = {"PLIMSOLL_PROMETHEUS_TOKEN_FILE": "/etc/token"}
    with pytest.raises(SettingsError, match="https only"):
        Settings.from_env({"PLIMSOLL_PROMETHEUS_URL": "http://prometheus.monitoring:9090", **token})
    Settings.from_env({"PLIMSOLL_PROMETHEUS_URL": "https://prometheus.monitoring:9090", **token})
    Settings.from_env({"PLIMSOLL_PROMETHEUS_URL": "http://prometheus.monitoring:9090"})

"""What Prometheus is told."""

from dataclasses import fields

from prometheus_client.parser import text_string_to_metric_families

from odin.metrics import Exposition, Metrics


def families(exposition: Exposition) -> dict[str, tuple[str, str, float]]:
    """Return (type, help, value) by sample name, read by Prometheus' own parser."""
    return {
        sample.name: (family.type, family.documentation, sample.value)
        for family in text_string_to_metric_families(exposition.render().decode())
        for sample in family.samples
    }


def test_every_counter_is_exposed_with_its_help() -> None:
    metrics = Metrics()
    for number, item in enumerate(fields(Metrics), start=1):
        setattr(metrics, item.name, number)
    expected = {
        f"odin_{item.name}_total": ("counter", item.metadata["help"], float(number))
        for number, item in enumerate(fields(Metrics), start=1)
    }
    assert families(Exposition(metrics)) == expected


def test_counters_start_at_zero_and_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    exposition = Exposition(metrics)
    assert families(exposition)["odin_ticks_total"][2] == 0
    metrics.ticks += 3
    assert families(exposition)["odin_ticks_total"][2] == 3


def test_gauges_are_read_at_each_scrape() -> None:
    exposition = Exposition(Metrics())
    level = [1.5]
    exposition.gauge("level", "How high it is", lambda: level[0])
    assert families(exposition)["odin_level"] == ("gauge", "How high it is", 1.5)
    level[0] = -2
    assert families(exposition)["odin_level"][2] == -2


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.ticks += 1
    assert families(Exposition(second))["odin_ticks_total"][2] == 0
    assert families(Exposition(first))["odin_ticks_total"][2] == 1


def test_help_texts_are_sentences_without_a_period() -> None:
    for item in fields(Metrics):
        text = item.metadata["help"]
        assert text[0].isupper(), item.name
        assert not text.endswith("."), item.name


def test_states_are_1_for_what_is_and_gone_when_they_are_past() -> None:
    exposition = Exposition(Metrics())
    states = {"kite": "streaming", 'a"b\\c\n': "backoff"}
    exposition.states("feed_state", "1 for the state each feed is in", lambda: states)

    def found() -> dict[tuple[str, str], float]:
        return {
            (sample.labels["name"], sample.labels["state"]): sample.value
            for family in text_string_to_metric_families(exposition.render().decode())
            if (family.name, family.type) == ("odin_feed_state", "gauge")
            for sample in family.samples
        }

    assert found() == {("kite", "streaming"): 1.0, ('a"b\\c\n', "backoff"): 1.0}
    states.clear()
    states["kite"] = "stale"
    assert found() == {("kite", "stale"): 1.0}
    states.clear()
    assert found() == {}, "without a feed"

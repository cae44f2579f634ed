"""What a server counts, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Meter:
    """A registry of its own, so that several servers can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("jogak_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "jogak_request_seconds",
            "From a request's arrival to its last byte.",
            ["route"],
            buckets=SLOW,
            registry=registry,
        )
        self.prompt = Counter("jogak_prompt_tokens", "Units of prompts.", ["model"], registry=registry)
        self.cached = Counter(
            "jogak_cached_tokens", "Those of them that the prefix cache had.", ["model"], registry=registry
        )
        self.output = Counter("jogak_output_tokens", "Units written.", ["model"], registry=registry)
        self.first = Histogram(
            "jogak_first_token_seconds", "From a request to its first unit.", ["model"], buckets=SLOW, registry=registry
        )
        self.between = Histogram(
            "jogak_inter_token_seconds", "Between two units of an answer.", ["model"], buckets=QUICK, registry=registry
        )
        self.ended = Counter(
            "jogak_answers",
            "Requests for text by how they ended: done, cancelled, timeout, failed, refused.",
            ["model", "outcome"],
            registry=registry,
        )
        self._gauges: list[Gauge] = []

    def gauge(self, name: str, told: str, value: Callable[[], float], model: str | None = None) -> None:
        """A figure that is asked for whenever somebody reads the metrics."""
        known = next((g for g in self._gauges if g._name == name), None)
        if known is None:
            known = Gauge(name, told, [] if model is None else ["model"], registry=self.registry)
            self._gauges.append(known)
        (known if model is None else known.labels(model)).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)

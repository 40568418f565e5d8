"""What tokens cost, by the list prices in `prices.yaml`.

Used by every backend that counts tokens. Prices hold for one request: some models cost more for all of a long one, so usage is
priced request by request and then added up. What is not in the table has no price, and one such request makes the sum unknown: the part
that has one is what all of it cost at least.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict

from org.agents.base import Cost

TABLE = Path(__file__).with_name("prices.yaml")
DATE = re.compile(r"(-\d{8}|-\d{4}-\d\d-\d\d)?(\[1m\])?\Z")
"""What a model's name may end in beyond the name in the table: the date of a version, a mark for the long context."""


class Long(BaseModel):
    """More than `above` tokens of input: all input costs `input` times as much, output `output` times."""

    model_config = ConfigDict(extra="forbid")
    above: int
    input: float
    output: float


class Price(BaseModel):
    """Dollars per million tokens. A vendor that asks nothing for writing a cache has no `written`: it is input then."""

    model_config = ConfigDict(extra="forbid")
    input: float
    cached: float
    output: float
    written: float | None = None
    written_1h: float | None = None
    long: Long | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of one request. `written` and `written_1h` are apart: into a cache for minutes, and for an hour."""

    model: str
    input: int = 0
    cached: int = 0
    written: int = 0
    written_1h: int = 0
    output: int = 0

    @property
    def prompt(self) -> int:
        return self.input + self.cached + self.written + self.written_1h


@functools.cache
def table() -> dict[str, Price]:
    """Model name -> price, from `prices.yaml`."""
    with open(TABLE, encoding="utf-8") as handle:
        return {name: Price.model_validate(price) for name, price in yaml.safe_load(handle)["models"].items()}


def price_of(model: str) -> Price | None:
    """The price of a model by its name, with or without the date of a version; None when it is not known."""
    return table().get(DATE.sub("", model, count=1))


def dollars(usage: Usage) -> float | None:
    """What one request cost; None when the model's price is not known."""
    price = price_of(usage.model)
    if price is None:
        return None
    minutes = price.input if price.written is None else price.written
    hour = minutes if price.written_1h is None else price.written_1h
    fed = usage.input * price.input + usage.cached * price.cached + usage.written * minutes + usage.written_1h * hour
    made = usage.output * price.output
    if price.long and usage.prompt > price.long.above:
        fed, made = fed * price.long.input, made * price.long.output
    return (fed + made) / 1e6


def total(requests: Iterable[Usage], priced: bool = True) -> Cost | None:
    """All requests together, None when there are none; `model` is the one that took most tokens.

    Dollars are None, and `part` holds what is known, as soon as one request that used tokens has no known price. None has one when
    the caller knows that list prices do not hold (`priced` False)."""
    models: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    money, whole = 0.0, priced
    for one in requests:
        used = one.prompt + one.output
        models[one.model] += used
        tokens += Counter(input=one.input, cached=one.cached, written=one.written + one.written_1h, output=one.output)
        cost = dollars(one) if used and priced else None
        money += cost or 0.0
        whole = whole and (cost is not None or not used)
    if not models:
        return None
    model = models.most_common(1)[0][0]
    counts = (tokens["input"], tokens["cached"], tokens["written"], tokens["output"])
    return Cost(model, *counts, money) if whole else Cost(model, *counts, None, money)


def added(before: Cost | None, one: Cost | None) -> Cost | None:
    """Both together; the model is the later one's."""
    if before is None or one is None:
        return before or one
    money, whole = before.least + one.least, before.dollars is not None and one.dollars is not None
    return replace(
        one,
        input_tokens=before.input_tokens + one.input_tokens,
        cached_tokens=before.cached_tokens + one.cached_tokens,
        written_tokens=before.written_tokens + one.written_tokens,
        output_tokens=before.output_tokens + one.output_tokens,
        dollars=money if whole else None,
        part=0.0 if whole else money,
    )


def at_home(url: str | None) -> bool:
    """Does this base URL lead to a server on this machine, whose models have no list price?"""
    host = urlsplit(url).hostname if url else None
    if not host:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

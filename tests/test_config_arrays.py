"""Arrays with an invalid value: a located problem, whatever the other checks expect."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.topologies import ORDERS, START, problems_of, write

VALID = {
    "routing_keys": '"new"',
    "delays": '"1s"',
    "retry_on": '"builtins.ValueError"',
    "reject_on": '"builtins.ValueError"',
    "use": '"app:Timing"',
}
WRONG = ("5", "true", "{ a = 1 }", '["a"]', '""', "1979-05-27")  # "" is a valid routing key


@pytest.mark.parametrize("import_handlers", [False, True])
@pytest.mark.parametrize(
    ("option", "wrong"), [each for each in product(VALID, WRONG) if each != ("routing_keys", '""')]
)
def test_an_invalid_value_of_an_array_is_a_located_problem(
    tmp_path: Path, option: str, wrong: str, import_handlers: bool
) -> None:
    array = f"{option} = [{VALID[option]}, {wrong}, {VALID[option]}]"
    text = START + ORDERS.replace('routing_keys = ["new"]', array)
    if option == "use":
        text = f"{START}[middleware]\n{array}\n{ORDERS}"
    elif option == "delays":
        text = START + ORDERS + f'[queues.orders.retry]\n{array}\nthen = "drop"\n'
    elif option != "routing_keys":
        text = f'{START}{ORDERS}[queues.orders.retry]\ndelays = ["1s"]\n{array}\nthen = "drop"\n'
    problems = problems_of(write(tmp_path, text), import_handlers=import_handlers)
    assert f"{option}[1]" in "\n".join(map(str, problems))

"""Labels of nodes become the weights of their tasks."""

from __future__ import annotations

import pytest

from meshlb.model import Node
from meshlb.text import shown
from meshlb.weights import Weights, of_nodes


def labelled(address: str = "10.0.0.2", **labels: str) -> Node:
    pairs = ((key.replace("_", "."), text) for key, text in labels.items())
    return Node("n2", "node2", address, tuple(pairs))


def test_a_node_without_labels_has_the_weight_of_one() -> None:
    weights = of_nodes((labelled(),))
    assert weights == Weights({})
    assert weights.of("10.0.0.2", "web") == 1


def test_a_label_counts_for_the_tasks_of_its_node() -> None:
    weights = of_nodes((labelled(meshlb_weight="3"), labelled("10.0.0.3")))
    assert [weights.of(f"10.0.0.{node}", "web") for node in (2, 3, 4)] == [3, 1, 1]
    assert weights.problems == ()


def test_a_label_for_one_service_comes_before_that_for_all() -> None:
    weights = of_nodes((labelled(meshlb_weight="3", meshlb_weight_web="256"),))
    assert [weights.of("10.0.0.2", service) for service in ("web", "db")] == [256, 3]


def test_of_two_nodes_with_one_address_the_last_counts() -> None:
    """One that left and joined again is listed twice, its ready self last."""
    weights = of_nodes((labelled(meshlb_weight="x"), labelled(meshlb_weight="2")))
    assert weights.of("10.0.0.2", "web") == 2
    assert weights.problems == ()


def test_nodes_that_nobody_can_reach_have_no_tasks() -> None:
    assert of_nodes((labelled("", meshlb_weight="3"),)).of("", "web") == 1


@pytest.mark.parametrize("text", ["", "0", "257", "-1", "+3", "1.5", "heavy", "٣", "9" * 5000, " 3", "3\n"])
def test_a_bad_weight_is_one_sentence_and_one_holds(text: str) -> None:
    weights = of_nodes((labelled(meshlb_weight=text, meshlb_weight_db="2"),))
    assert [weights.of("10.0.0.2", service) for service in ("web", "db")] == [1, 2]
    [problem] = weights.problems
    assert problem.startswith(f'node node2: label meshlb.weight: "{shown(text)}"')
    assert problem.endswith(" is not a number from 1 to 256")
    assert len(problem) < 200


@pytest.mark.parametrize("key", ["meshlb_wieght", "meshlb_weight_", "meshlb_balance"])
def test_an_unknown_label_is_named(key: str) -> None:
    weights = of_nodes((labelled(**{key: "3"}),))
    assert weights.of("10.0.0.2", "web") == 1
    name = key.replace("_", ".")
    assert weights.problems == (
        f"node node2: label {name}: unknown; known are meshlb.weight and meshlb.weight.SERVICE",
    )

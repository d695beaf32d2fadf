import pytest

from launcher.launch import node_agent


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        ({"code": 0, "problems": [], "failed": None}, False),
        ({"code": 1, "problems": [], "failed": {"rank": 0}}, True),
        ({"code": 2, "problems": ["task.reward: no number"], "failed": None}, True),
    ],
)
def test_a_node_whose_ranks_met_a_mistake_of_the_user_has_failed(outcome, failed):
    """The ranks of other nodes would wait for them."""
    assert node_agent.has_failed(outcome) is failed

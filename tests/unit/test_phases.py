"""When transfer starts, on losses made up for it."""

from m2fedsa.fed_server.phases import even_steps, transfer_since

STEADY = [2.0 - 0.1 * step for step in range(11)]
"""Falls by the same each round: the loss is far from its end."""


def test_the_authors_rule_fires_on_even_steps_also_while_the_loss_falls() -> None:
    assert even_steps(STEADY)
    assert transfer_since("authors", 12, STEADY, None) == 12
    assert transfer_since("plateau", 12, STEADY, None) is None


def test_the_authors_rule_by_hand() -> None:
    """Ten changes of sizes 1 and x by turns: mean (1 + x) / 2, standard deviation |1 - x| / 2 · √(10/9); the ratio is 0.3 at x = 1.795."""
    for x, fires in ((1.75, True), (1.85, False)):
        losses = [0.0]
        for step in range(10):
            losses.append(losses[-1] + (1.0 if step % 2 else -x))
        assert even_steps(losses) is fires
        assert even_steps([99.0, *losses]) is fires  # eleven losses count


def test_the_authors_rule_needs_eleven_rounds_and_a_loss_that_moves() -> None:
    assert not even_steps(STEADY[:10])
    assert not even_steps([1.0] * 11)
